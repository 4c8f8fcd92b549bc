package posix

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/understudy-ha/understudy/persistence"
)

// foreignFor is how long Read looks again when it sees foreign names only: a
// rename under way can hide the value from one listing, not from many.
const foreignFor = 250 * time.Millisecond

// Read implements persistence.Register.
func (s *Store) Read(ctx context.Context) (persistence.Snapshot, error) {
	var none persistence.Snapshot
	if err := s.open(); err != nil {
		return none, err
	}
	var torn error // what the last complete listing showed
	start := time.Now()
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		names, err := call(ctx, s.reads, s.names, nil)
		if err != nil {
			if torn != nil && ctx.Err() != nil {
				return none, torn
			}
			return none, err
		}
		snap, foreign, err := s.judge(names)
		if err == nil {
			s.known.Store(true)
			return snap, nil
		}
		torn = err
		patience := s.opts.TornFor
		if foreign {
			patience = min(patience, foreignFor)
		}
		if time.Since(start)+wait > patience {
			return none, torn
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return none, torn
		}
	}
}

// names lists the register. It runs in a worker.
func (s *Store) names() ([]string, error) {
	s.watchMount()
	dir := filepath.Join(s.dir, leaseDir)
	entries, err := listDir(dir)
	switch {
	case isMissing(err):
		return nil, s.absent(leaseDir)
	case errors.Is(err, syscall.ENOTDIR):
		if _, rerr := listDir(s.dir); rerr != nil {
			return nil, rootError(s.dir, rerr)
		}
		return nil, fmt.Errorf("%w: %s is not a directory, so it is no register; with all nodes stopped, 'understudy store repair' moves it aside", persistence.Torn, dir)
	case err != nil:
		return nil, wrap("list", dir, err)
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		if !hidden(e.Name()) {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}

// judge finds the one value among the names in lease/. Without one the error
// is Torn, and foreign says that there are names, none of which is a value.
func (s *Store) judge(names []string) (snap persistence.Snapshot, foreign bool, err error) {
	var values, others []string
	for _, n := range names {
		if s.opts.Valid([]byte(n)) {
			values = append(values, n)
		} else {
			others = append(others, n)
		}
	}
	dir := filepath.Join(s.dir, leaseDir)
	if len(values) == 1 {
		if len(others) > 0 {
			s.warn(fmt.Sprintf("%s holds foreign files beside the register: %s; remove them", dir, persistence.QuoteNames(others)))
		}
		return persistence.Snapshot{Version: persistence.Version(values[0]), Value: []byte(values[0])}, false, nil
	}
	const remedy = "with all nodes stopped, 'understudy store fsck' says what is there and 'understudy store repair' puts a value in its place"
	switch {
	case len(values) > 1:
		err = fmt.Errorf("%w: %s holds %d values, %s; %s", persistence.Torn, dir, len(values), persistence.QuoteNames(values), remedy)
	case len(others) > 0:
		err = fmt.Errorf("%w: %s holds no value this version can read, only %s; %s", persistence.Torn, dir, persistence.QuoteNames(others), remedy)
	default:
		err = fmt.Errorf("%w: %s is empty; %s", persistence.Torn, dir, remedy)
	}
	return persistence.Snapshot{}, len(values) == 0 && len(others) > 0, err
}

// CAS implements persistence.Register by one rename(2). Conflict stands for
// ENOENT, which a server also answers to the winner of a rename that it was
// sent twice: as with every error, the caller reads.
func (s *Store) CAS(ctx context.Context, old persistence.Version, val []byte) (persistence.Version, error) {
	if err := s.open(); err != nil {
		return "", err
	}
	if err := s.token(val); err != nil {
		return "", err
	}
	from, to := string(old), string(val)
	if from == "" || hidden(from) || strings.ContainsAny(from, "/\x00") {
		return "", fmt.Errorf("%w: %q is not a version of %s", persistence.Conflict, from, s.dir)
	}
	if from == to {
		// rename(2) of a name to itself succeeds, for any number of callers.
		return "", fmt.Errorf("%w: the new value equals the old; every attempt must differ", persistence.Unsupported)
	}
	s.mu.Lock()
	deliver := s.late
	s.mu.Unlock()
	var late func(persistence.Version, error)
	if deliver != nil {
		late = func(v persistence.Version, err error) { deliver([]byte(to), v, err) }
	}
	return call(ctx, s.writes, func() (persistence.Version, error) { return s.rename(from, to) }, late)
}

func (s *Store) rename(from, to string) (persistence.Version, error) {
	dir := filepath.Join(s.dir, leaseDir)
	// Not os.Rename: that looks the new name up first, which costs a round
	// trip and leaves a negative dentry behind.
	err := syscall.Rename(filepath.Join(dir, from), filepath.Join(dir, to))
	switch {
	case isMissing(err):
		return "", fmt.Errorf("%w: rename in %s: the register is gone or holds another value; read it", persistence.Conflict, dir)
	case err != nil:
		return "", wrap("rename in", dir, err)
	}
	if err := s.syncDir(dir); err != nil {
		return "", wrap("fsync", dir, err)
	}
	return persistence.Version(to), nil
}

// token refuses values that Read would not find again.
func (s *Store) token(val []byte) error {
	if len(val) == 0 || len(val) > persistence.MaxValueLen || hidden(string(val)) ||
		strings.ContainsAny(string(val), "/\x00") || !s.opts.Valid(val) {
		return fmt.Errorf("%w: %.200q can not be a value of a register", persistence.Unsupported, val)
	}
	return nil
}

// Init implements persistence.Register: the register is built aside and
// renamed into its place, which fails if there is one already.
func (s *Store) Init(ctx context.Context, val []byte) error {
	if err := s.open(); err != nil {
		return err
	}
	if err := s.token(val); err != nil {
		return err
	}
	name := string(val)
	_, err := call(ctx, s.writes, func() (struct{}, error) { return struct{}{}, s.create(name) }, nil)
	return err
}

func (s *Store) create(name string) error {
	if err := s.ensureRoot(); err != nil {
		return err
	}
	tmp, dir := filepath.Join(s.dir, ".init-"+random()), filepath.Join(s.dir, leaseDir)
	if err := os.Mkdir(tmp, dirMode); err != nil {
		if isMissing(err) || errors.Is(err, syscall.ENOTDIR) {
			return rootError(s.dir, err)
		}
		return wrap("create a directory in", s.dir, err)
	}
	err := touch(filepath.Join(tmp, name))
	if err != nil {
		err = wrap("create a file in", tmp, err)
	} else if err = syscall.Rename(tmp, dir); err != nil {
		switch {
		case errors.Is(err, syscall.ENOTEMPTY), errors.Is(err, syscall.EEXIST):
			err = fmt.Errorf("%w: %s exists already", persistence.Conflict, dir)
		case errors.Is(err, syscall.ENOTDIR):
			err = fmt.Errorf("%w: %s exists and is not a directory; move it away", persistence.Conflict, dir)
		default:
			err = wrap("rename a directory to", dir, err)
		}
	}
	if err != nil {
		_ = os.RemoveAll(tmp) // nothing sees it, and it may be gone
		return err
	}
	// Until here nobody was told of the register, so that a crash may undo it
	// or leave lease/ empty, which the next Init replaces.
	for _, d := range []string{dir, s.dir} {
		if err := s.syncDir(d); err != nil {
			return wrap("fsync", d, err)
		}
	}
	return nil
}

func touch(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return err
	}
	return f.Close()
}
