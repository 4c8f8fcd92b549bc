package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
)

var (
	// errSuperseded ends a service that finds another one's mark.
	errSuperseded = errors.New("another service has taken over")
	// errNotWritten says that the write was not begun, and never will be.
	errNotWritten = errors.New("not written")
	// errUnknown says that the write may have happened or not.
	errUnknown = errors.New("written or not, this service can not tell")
)

// entry is the content of a key's file.
type entry struct {
	Term    uint64 `json:"term"`    // of the service that wrote it: the fencing token
	Version uint64 `json:"version"` // one more than that of the entry it replaced
	Value   string `json:"value"`
}

// owner is the content of the file that says whose registers these are.
type owner struct {
	Term uint64 `json:"term"`
}

// registers are named values in files of one directory on the shared store.
//
// What the token protects. A service first puts its term into the file
// "owner", then removes the temporary files of older terms, and only then
// reads the registers. A write is: compare the owner, write a temporary file
// whose name holds the term, sync it, rename it, sync the directory, compare
// the owner again, read back. So one system call of a former service that
// lands late, however late, does nothing: its temporary file is gone, and a
// rename of it fails. And whatever a former service acknowledged was renamed
// before the owner changed, hence is seen by the next one.
//
// What it can not exclude. A former service that goes on running may pass the
// first comparison just before the owner changes, and then make a temporary
// file and rename it over what its successor wrote since: the second
// comparison keeps it from acknowledging that, and comes too late to undo it.
// And it answers reads from memory without looking at the owner at all, as most
// services do. Both are for Understudy to exclude, and show at once if it does
// not, which is the point of this service.
type registers struct {
	dir      string
	term     uint64
	unfenced bool // neither compare the owner nor read back: what the judges of a run are tried on

	mu   sync.Mutex
	keys map[string]*register
}

// register is one key. Its lock is held over I/O, so that a key whose store
// hangs does not stop others.
type register struct {
	mu        sync.Mutex
	now       entry
	undecided bool // now may not be what is in the file
}

const (
	ownerName = "owner"
	keyPrefix = "key-"
	tmpPrefix = ".tmp-" // then the term, '-', and the name it is for
)

// openRegisters takes the registers in dir over for a term.
func openRegisters(dir string, term uint64) (*registers, error) {
	r := &registers{dir: dir, term: term, keys: map[string]*register{}}
	var o owner
	if err := r.read(ownerName, &o); err != nil {
		return nil, err
	}
	if o.Term > term {
		return nil, fmt.Errorf("%w: the registers are of term %d, this is term %d", errSuperseded, o.Term, term)
	}
	if err := r.replace(ownerName, owner{Term: term}); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if err := r.dropTemporary(e.Name()); err != nil {
			return nil, err
		}
	}
	for _, e := range entries {
		key, ok := strings.CutPrefix(e.Name(), keyPrefix)
		if !ok {
			continue
		}
		k := &register{}
		if err := r.read(e.Name(), &k.now); err != nil {
			return nil, err
		}
		if k.now.Term > term {
			return nil, fmt.Errorf("%w: %s was written in term %d, this is term %d", errSuperseded, key, k.now.Term, term)
		}
		r.keys[key] = k
	}
	return r, nil
}

// dropTemporary removes the temporary file of an older term.
func (r *registers) dropTemporary(name string) error {
	rest, ok := strings.CutPrefix(name, tmpPrefix)
	digits, _, _ := strings.Cut(rest, "-")
	term, err := strconv.ParseUint(digits, 10, 64)
	if !ok || err != nil || term >= r.term {
		return nil //nolint:nilerr // not a temporary file of ours
	}
	if err := os.Remove(filepath.Join(r.dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (r *registers) register(key string) *register {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := r.keys[key]
	if k == nil {
		k = &register{}
		r.keys[key] = k
	}
	return k
}

// get answers from memory. The error wraps errNotWritten, for want of an
// answer, or errSuperseded.
func (r *registers) get(key string) (entry, error) {
	k := r.register(key)
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := r.settle(key, k); err != nil {
		return entry{}, err
	}
	return k.now, nil
}

// set writes a value. The error wraps errNotWritten, errUnknown or
// errSuperseded; whoever gets the latter does not know either.
func (r *registers) set(key, value string) (entry, error) {
	k := r.register(key)
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := r.settle(key, k); err != nil {
		return entry{}, err
	}
	if err := r.own(); err != nil {
		return entry{}, notWritten(err)
	}
	next := entry{Term: r.term, Version: k.now.Version + 1, Value: value}
	tmp, err := r.prepare(keyPrefix+key, next)
	if err != nil {
		return entry{}, notWritten(err)
	}
	k.undecided = true
	renamed := os.Rename(tmp, filepath.Join(r.dir, keyPrefix+key))
	if err := errors.Join(r.syncDir(), r.own()); err != nil {
		return entry{}, fmt.Errorf("%w: %w", errUnknown, errors.Join(renamed, err))
	}
	if r.unfenced && renamed == nil {
		k.now, k.undecided = next, false
		return next, nil
	}
	// A rename that failed may have happened: only the file tells.
	var there entry
	if err := r.read(keyPrefix+key, &there); err != nil {
		return entry{}, fmt.Errorf("%w: %w", errUnknown, errors.Join(renamed, err))
	}
	switch there {
	case next:
		k.now, k.undecided = next, false
		return next, nil
	case k.now:
		k.undecided = false
		return entry{}, fmt.Errorf("%w: %w", errUnknown, renamed)
	}
	return entry{}, fmt.Errorf("%w: %s holds %+v after a write of %+v over %+v", errSuperseded, key, there, next, k.now)
}

func notWritten(err error) error {
	if errors.Is(err, errSuperseded) {
		return err
	}
	return fmt.Errorf("%w: %w", errNotWritten, err)
}

// settle finds out what an undecided key holds.
func (r *registers) settle(key string, k *register) error {
	if !k.undecided {
		return nil
	}
	var there entry
	if err := errors.Join(r.own(), r.read(keyPrefix+key, &there)); err != nil {
		return notWritten(err)
	}
	k.now, k.undecided = there, false
	return nil
}

// own fails unless the registers are still of this service's term.
func (r *registers) own() error {
	if r.unfenced {
		return nil
	}
	var o owner
	if err := r.read(ownerName, &o); err != nil {
		return err
	}
	if o.Term != r.term {
		return fmt.Errorf("%w: the registers are of term %d, this is term %d", errSuperseded, o.Term, r.term)
	}
	return nil
}

// read leaves v as it is when there is no such file.
func (r *registers) read(name string, v any) error {
	b, err := os.ReadFile(filepath.Join(r.dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

func (r *registers) replace(name string, v any) error {
	tmp, err := r.prepare(name, v)
	if err != nil {
		return err
	}
	if err := os.Rename(tmp, filepath.Join(r.dir, name)); err != nil {
		return err
	}
	return r.syncDir()
}

// prepare writes what is to become the file of the given name.
func (r *registers) prepare(name string, v any) (tmp string, err error) {
	b, err := json.Marshal(v)
	if err != nil {
		return "", err
	}
	tmp = filepath.Join(r.dir, tmpPrefix+strconv.FormatUint(r.term, 10)+"-"+name)
	f, err := os.Create(tmp)
	if err != nil {
		return "", err
	}
	_, err = f.Write(append(b, '\n'))
	return tmp, errors.Join(err, f.Sync(), f.Close())
}

func (r *registers) syncDir() error {
	d, err := os.Open(r.dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
