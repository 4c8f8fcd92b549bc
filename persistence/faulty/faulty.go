// Package faulty wraps a store and makes it fail on command. Faults are
// (applied?, error?): what happened to the store beneath, and what the caller
// is told. The four of them, with delay and hanging, are all that a network
// can do to a request:
//
//	applied, no error   Fault{Delay: …}            slow
//	applied, error      Fault{Err: …}              the reply was lost
//	not, error          Fault{Drop: true, Err: …}  the request was lost
//	not, no error       Fault{Drop: true}          a store that lies
//
// A fault that never fired proves nothing: tests ask Injected.Fired.
//
// It starts no goroutines, so it works inside a testing/synctest bubble.
package faulty

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/understudy-ha/understudy/persistence"
)

// Op is an operation of persistence.Store.
type Op string

// The operations that can fail. Empty, in a Fault, means all of them.
const (
	Read   Op = "read"
	CAS    Op = "cas"
	Init   Op = "init"
	Put    Op = "put"
	Get    Op = "get"
	List   Op = "list"
	Delete Op = "delete"
	Empty  Op = "empty"
)

// Fault says what goes wrong, with which operations.
type Fault struct {
	Op    Op     // empty: every operation
	Match string // only if the object's key, List's prefix, or the value meant to be written contains it
	Skip  int    // let this many matching operations pass first
	Count int    // fire this often; 0: until removed

	Drop  bool          // the store beneath is not asked
	Err   error         // what the caller is told; nil: what the store said, or nothing if Drop
	Delay time.Duration // before anything happens; ends early with the context, which then counts as Hang
	// Hang holds the operation until Release, then goes on as above. If the
	// caller's context ends first, it gets Unknown, and nothing has been
	// applied yet.
	Hang bool
	// Late applies a CAS or Put that hung past its caller's context after
	// all, within Release; a CAS's outcome goes to OnLate.
	Late bool
}

// Injected is a fault at work.
type Injected struct {
	f       Fault
	set     *faults
	fired   int
	opened  bool
	release chan struct{}
	late    []func()
}

type faults struct {
	mu     sync.Mutex
	active []*Injected
	counts map[Op]int
	onLate func([]byte, persistence.Version, error)
}

// Store is a store that fails on command. Wrap makes one.
type Store struct {
	inner persistence.Store
	set   *faults
}

var (
	_ persistence.Store       = (*Store)(nil)
	_ persistence.LateResults = (*Store)(nil)
	_ persistence.Anchored    = (*Store)(nil)
	_ persistence.Checker     = (*Store)(nil)
	_ persistence.Ranger      = (*Store)(nil)
	_ persistence.Sweeper     = (*Store)(nil)
)

// Wrap returns inner with faults to be injected; none at first. Locations
// opened with its Sub share its faults.
func Wrap(inner persistence.Store) *Store {
	return &Store{inner: inner, set: &faults{counts: map[Op]int{}}}
}

// Inject adds a fault. Of several that match an operation the oldest fires.
func (s *Store) Inject(f Fault) *Injected {
	i := &Injected{f: f, set: s.set, release: make(chan struct{})}
	s.set.mu.Lock()
	defer s.set.mu.Unlock()
	s.set.active = append(s.set.active, i)
	return i
}

// Clear removes and releases all faults.
func (s *Store) Clear() {
	s.set.mu.Lock()
	all := slices.Clone(s.set.active)
	s.set.mu.Unlock()
	for _, i := range all {
		i.Remove()
	}
}

// Count says how often op has been called, faults or not.
func (s *Store) Count(op Op) int {
	s.set.mu.Lock()
	defer s.set.mu.Unlock()
	return s.set.counts[op]
}

// Fired says how often the fault has struck.
func (i *Injected) Fired() int {
	i.set.mu.Lock()
	defer i.set.mu.Unlock()
	return i.fired
}

// Release lets go what hangs, now and in the future, and applies what was to
// land late, in the order of the calls, before it returns.
func (i *Injected) Release() {
	i.set.mu.Lock()
	if !i.opened {
		i.opened = true
		close(i.release)
	}
	late := i.late
	i.late = nil
	i.set.mu.Unlock()
	for _, apply := range late {
		apply()
	}
}

// Remove ends the fault and releases what it holds.
func (i *Injected) Remove() {
	i.set.mu.Lock()
	i.set.active = slices.DeleteFunc(i.set.active, func(x *Injected) bool { return x == i })
	i.set.mu.Unlock()
	i.Release()
}

// pick finds the fault that strikes this operation, if any.
func (fs *faults) pick(op Op, what string) *Injected {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.counts[op]++
	for _, i := range fs.active {
		f := &i.f
		if (f.Op != "" && f.Op != op) || !strings.Contains(what, f.Match) {
			continue
		}
		if f.Skip > 0 {
			f.Skip--
			continue
		}
		if f.Count > 0 && i.fired == f.Count {
			continue
		}
		i.fired++
		return i
	}
	return nil
}

// do performs one operation under the faults. late, if not nil, applies it
// after its caller has gone.
func (s *Store) do(ctx context.Context, op Op, what string, apply func() error, late func()) error {
	i := s.set.pick(op, what)
	if i == nil {
		return apply()
	}
	if err := i.hold(ctx, late); err != nil {
		return err
	}
	if !i.f.Drop {
		if err := apply(); err != nil {
			return err
		}
	}
	if i.f.Err != nil {
		return fmt.Errorf("injected into %s: %w", op, i.f.Err)
	}
	return nil
}

// hold delays and hangs, as the fault says.
func (i *Injected) hold(ctx context.Context, late func()) error {
	if i.f.Delay > 0 {
		t := time.NewTimer(i.f.Delay)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return i.abandon(ctx, late)
		}
	}
	if i.f.Hang {
		select {
		case <-i.release:
		case <-ctx.Done():
			return i.abandon(ctx, late)
		}
	}
	return nil
}

func (i *Injected) abandon(ctx context.Context, late func()) error {
	if i.f.Late && late != nil {
		i.set.mu.Lock()
		opened := i.opened
		if !opened {
			i.late = append(i.late, late)
		}
		i.set.mu.Unlock()
		if opened { // released in the same instant
			late()
		}
	}
	return fmt.Errorf("%w: injected: %w", persistence.Unknown, ctx.Err())
}

// OnLate implements persistence.LateResults.
func (s *Store) OnLate(fn func(val []byte, v persistence.Version, err error)) {
	s.set.mu.Lock()
	s.set.onLate = fn
	s.set.mu.Unlock()
	if l, ok := s.inner.(persistence.LateResults); ok {
		l.OnLate(fn)
	}
}

// Anchor implements persistence.Anchored.
func (s *Store) Anchor(mine func(val []byte) bool) {
	if a, ok := s.inner.(persistence.Anchored); ok {
		a.Anchor(mine)
	}
}

// Check implements persistence.Checker; a store without it passes.
func (s *Store) Check(ctx context.Context) error {
	if c, ok := s.inner.(persistence.Checker); ok {
		return c.Check(ctx)
	}
	return nil
}

// Read implements persistence.Register.
func (s *Store) Read(ctx context.Context) (persistence.Snapshot, error) {
	var snap persistence.Snapshot
	err := s.do(ctx, Read, "", func() (err error) {
		snap, err = s.inner.Read(ctx)
		return err
	}, nil)
	if err != nil {
		return persistence.Snapshot{}, err
	}
	return snap, nil
}

// CAS implements persistence.Register.
func (s *Store) CAS(ctx context.Context, old persistence.Version, val []byte) (persistence.Version, error) {
	var v persistence.Version
	val = slices.Clone(val) // it may be applied after the call
	err := s.do(ctx, CAS, string(val), func() (err error) {
		v, err = s.inner.CAS(ctx, old, val)
		return err
	}, func() {
		v, err := s.inner.CAS(context.WithoutCancel(ctx), old, val)
		s.set.mu.Lock()
		tell := s.set.onLate
		s.set.mu.Unlock()
		if tell != nil {
			tell(val, v, err)
		}
	})
	if err != nil {
		return "", err
	}
	return v, nil
}

// Init implements persistence.Register.
func (s *Store) Init(ctx context.Context, val []byte) error {
	return s.do(ctx, Init, string(val), func() error { return s.inner.Init(ctx, val) }, nil)
}

// Put implements persistence.Objects.
func (s *Store) Put(ctx context.Context, key string, r io.Reader, size int64) error {
	data, err := io.ReadAll(r) // the caller's reader must not be read late
	if err != nil {
		return fmt.Errorf("put %s: read its content: %w", key, err)
	}
	return s.do(ctx, Put, key,
		func() error { return s.inner.Put(ctx, key, bytes.NewReader(data), size) },
		func() {
			// Nobody is left to hear of an error.
			_ = s.inner.Put(context.WithoutCancel(ctx), key, bytes.NewReader(data), size)
		})
}

// Get implements persistence.Objects.
func (s *Store) Get(ctx context.Context, key string) (io.ReadCloser, error) {
	return s.get(ctx, key, func() (io.ReadCloser, error) { return s.inner.Get(ctx, key) })
}

func (s *Store) get(ctx context.Context, key string, open func() (io.ReadCloser, error)) (io.ReadCloser, error) {
	var rc io.ReadCloser
	err := s.do(ctx, Get, key, func() (err error) {
		rc, err = open()
		return err
	}, nil)
	switch {
	case err != nil && rc != nil:
		return nil, errors.Join(err, rc.Close())
	case err != nil:
		return nil, err
	case rc == nil: // dropped without an error: an empty object
		return io.NopCloser(strings.NewReader("")), nil
	}
	return rc, nil
}

// GetFrom implements persistence.Ranger, under the faults of Get.
func (s *Store) GetFrom(ctx context.Context, key string, offset int64) (io.ReadCloser, error) {
	r, ok := s.inner.(persistence.Ranger)
	if !ok {
		return nil, fmt.Errorf("%w: this store reads objects from their beginning only", persistence.Unsupported)
	}
	return s.get(ctx, key, func() (io.ReadCloser, error) { return r.GetFrom(ctx, key, offset) })
}

// Sweep implements persistence.Sweeper; faults leave it alone.
func (s *Store) Sweep(ctx context.Context, prefix string, age time.Duration, remove bool) ([]persistence.Entry, error) {
	if w, ok := s.inner.(persistence.Sweeper); ok {
		return w.Sweep(ctx, prefix, age, remove)
	}
	return nil, fmt.Errorf("%w: this store can not tell what was left behind in it", persistence.Unsupported)
}

// List implements persistence.Objects.
func (s *Store) List(ctx context.Context, prefix, after string) (persistence.Page, error) {
	var p persistence.Page
	err := s.do(ctx, List, prefix, func() (err error) {
		p, err = s.inner.List(ctx, prefix, after)
		return err
	}, nil)
	if err != nil {
		return persistence.Page{}, err
	}
	return p, nil
}

// Delete implements persistence.Objects.
func (s *Store) Delete(ctx context.Context, key string) error {
	return s.do(ctx, Delete, key, func() error { return s.inner.Delete(ctx, key) }, nil)
}

// Empty implements persistence.Store.
func (s *Store) Empty(ctx context.Context) (bool, error) {
	var empty bool
	err := s.do(ctx, Empty, "", func() (err error) {
		empty, err = s.inner.Empty(ctx)
		return err
	}, nil)
	return empty && err == nil, err
}

// Sub implements persistence.Store.
func (s *Store) Sub(name string) (persistence.Store, error) {
	inner, err := s.inner.Sub(name)
	if err != nil {
		return nil, err
	}
	return &Store{inner: inner, set: s.set}, nil
}

// RemoveAll implements persistence.Store; faults leave it alone.
func (s *Store) RemoveAll(ctx context.Context) error { return s.inner.RemoveAll(ctx) }

// Limits implements persistence.Store.
func (s *Store) Limits() persistence.Limits { return s.inner.Limits() }

// Close implements persistence.Store.
func (s *Store) Close() error { return s.inner.Close() }
