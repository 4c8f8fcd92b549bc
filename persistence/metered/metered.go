// Package metered wraps a store and counts what is asked of it: how often each
// operation was called, how long it took, and with which error it ended. The
// figures only grow, and reading them asks nothing of the store.
//
// What a store is asked and what it sends are two things: one operation may be
// no request at all or several. A store that is paid for by the request reports
// each one it sends to a Requests of its own.
package metered

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/understudy-ha/understudy/persistence"
)

// Op is an operation of persistence.Store.
type Op string

// The operations that are counted.
const (
	Read   Op = "read"
	CAS    Op = "cas"
	Init   Op = "init"
	Put    Op = "put"
	Get    Op = "get" // until the object is open; reading it is up to the caller
	List   Op = "list"
	Delete Op = "delete"
	Empty  Op = "empty"
)

// Ops lists the operations.
func Ops() []Op { return []Op{Read, CAS, Init, Put, Get, List, Delete, Empty} }

// Bounds are the upper bounds of the latency classes, inclusive. What takes
// longer than the last is counted, but in no class.
func Bounds() []time.Duration {
	const ms = time.Millisecond
	return []time.Duration{
		ms, 2 * ms, 5 * ms, 10 * ms, 25 * ms, 50 * ms, 100 * ms, 250 * ms, 500 * ms,
		time.Second, 2500 * ms, 5 * time.Second,
	}
}

// kinds are the errors that are told apart. The order matters where an error
// wraps several: what says most comes first.
var kinds = []struct {
	name string
	err  error
}{
	{"absent", persistence.Absent},
	{"conflict", persistence.Conflict},
	{"torn", persistence.Torn},
	{"denied", persistence.Denied},
	{"unsupported", persistence.Unsupported},
	{"full", persistence.Full},
	{"readonly", persistence.ReadOnly},
	{"throttled", persistence.Throttled},
	{"unknown", persistence.Unknown},
}

// other is any error that wraps none of the contract's.
const other = "other"

// ErrorKinds lists the names under which errors are counted: those of the
// sentinels of package persistence in lower case, and "other".
func ErrorKinds() []string {
	names := make([]string, 0, len(kinds)+1)
	for _, k := range kinds {
		names = append(names, k.name)
	}
	return append(names, other)
}

func kindOf(err error) int {
	for i, k := range kinds {
		if errors.Is(err, k.err) {
			return i
		}
	}
	return len(kinds)
}

// Figures are what became of one operation since the store was opened.
type Figures struct {
	Count  uint64            // calls that have returned
	Sum    time.Duration     // of all of them together
	Within []uint64          // calls that took at most Bounds()[i]: each class holds the ones before it
	Errors map[string]uint64 // calls that failed, by kind; no entry for 0
}

// figures are the counters behind Figures.
type figures struct {
	count   atomic.Uint64
	nanos   atomic.Int64
	classes []atomic.Uint64 // one per bound, not cumulative
	errs    []atomic.Uint64 // one per kind, and other
}

// Store is a store whose operations are counted. Wrap makes one.
type Store struct {
	inner  persistence.Store
	bounds []time.Duration
	ops    map[Op]*figures // never changed once made
	past   past
}

var (
	_ persistence.Store       = (*Store)(nil)
	_ persistence.LateResults = (*Store)(nil)
	_ persistence.Anchored    = (*Store)(nil)
	_ persistence.Checker     = (*Store)(nil)
	_ persistence.Ranger      = (*Store)(nil)
	_ persistence.Sweeper     = (*Store)(nil)
	_ persistence.Inspector   = (*Store)(nil)
)

// Wrap returns inner with its operations counted. What inner can do besides
// (LateResults, Anchored, Checker, Inspector, Ranger, Sweeper) the result can do,
// too; for a store that can not, it does nothing and finds nothing wrong, or says
// Unsupported.
func Wrap(inner persistence.Store) *Store {
	s := &Store{inner: inner, bounds: Bounds(), ops: map[Op]*figures{}}
	for _, op := range Ops() {
		s.ops[op] = &figures{classes: make([]atomic.Uint64, len(s.bounds)), errs: make([]atomic.Uint64, len(kinds)+1)}
	}
	return s
}

// Figures returns the figures of an operation. They are read one by one while
// calls go on, so that sums may be ahead of one another by the calls that end
// at this moment.
func (s *Store) Figures(op Op) Figures {
	f := s.ops[op]
	if f == nil {
		return Figures{}
	}
	out := Figures{Sum: time.Duration(f.nanos.Load()), Errors: map[string]uint64{}}
	for i := range f.classes {
		n := f.classes[i].Load()
		if i > 0 {
			n += out.Within[i-1]
		}
		out.Within = append(out.Within, n)
	}
	for i, name := range ErrorKinds() {
		if n := f.errs[i].Load(); n > 0 {
			out.Errors[name] = n
		}
	}
	out.Count = f.count.Load() // last: never less than the classes hold
	return out
}

// Counts returns how often each operation was called, by its name.
func (s *Store) Counts() map[string]uint64 {
	out := map[string]uint64{}
	for op, f := range s.ops {
		out[string(op)] = f.count.Load()
	}
	return out
}

// note counts one call that began at from.
func (s *Store) note(op Op, from time.Time, err error) {
	now := time.Now()
	took := now.Sub(from)
	s.past.note(op, now, took, err)
	f := s.ops[op]
	f.count.Add(1)
	f.nanos.Add(int64(took))
	for i, b := range s.bounds {
		if took <= b {
			f.classes[i].Add(1)
			break
		}
	}
	if err != nil {
		f.errs[kindOf(err)].Add(1)
	}
}

// Read implements persistence.Register.
func (s *Store) Read(ctx context.Context) (persistence.Snapshot, error) {
	from := time.Now()
	snap, err := s.inner.Read(ctx)
	s.note(Read, from, err)
	return snap, err
}

// CAS implements persistence.Register.
func (s *Store) CAS(ctx context.Context, old persistence.Version, val []byte) (persistence.Version, error) {
	from := time.Now()
	v, err := s.inner.CAS(ctx, old, val)
	s.note(CAS, from, err)
	return v, err
}

// Init implements persistence.Register.
func (s *Store) Init(ctx context.Context, val []byte) error {
	from := time.Now()
	err := s.inner.Init(ctx, val)
	s.note(Init, from, err)
	return err
}

// Put implements persistence.Objects.
func (s *Store) Put(ctx context.Context, key string, r io.Reader, size int64) error {
	from := time.Now()
	err := s.inner.Put(ctx, key, r, size)
	s.note(Put, from, err)
	return err
}

// Get implements persistence.Objects.
func (s *Store) Get(ctx context.Context, key string) (io.ReadCloser, error) {
	from := time.Now()
	rc, err := s.inner.Get(ctx, key)
	s.note(Get, from, err)
	return rc, err
}

// List implements persistence.Objects.
func (s *Store) List(ctx context.Context, prefix, after string) (persistence.Page, error) {
	from := time.Now()
	p, err := s.inner.List(ctx, prefix, after)
	s.note(List, from, err)
	return p, err
}

// Delete implements persistence.Objects.
func (s *Store) Delete(ctx context.Context, key string) error {
	from := time.Now()
	err := s.inner.Delete(ctx, key)
	s.note(Delete, from, err)
	return err
}

// Empty implements persistence.Store.
func (s *Store) Empty(ctx context.Context) (bool, error) {
	from := time.Now()
	empty, err := s.inner.Empty(ctx)
	s.note(Empty, from, err)
	return empty, err
}

// Sub implements persistence.Store. What happens in a scratch location is not
// counted: its checks provoke conflicts by the dozen, and none means trouble.
func (s *Store) Sub(name string) (persistence.Store, error) { return s.inner.Sub(name) }

// RemoveAll implements persistence.Store.
func (s *Store) RemoveAll(ctx context.Context) error { return s.inner.RemoveAll(ctx) }

// Limits implements persistence.Store.
func (s *Store) Limits() persistence.Limits { return s.inner.Limits() }

// Close implements persistence.Store.
func (s *Store) Close() error { return s.inner.Close() }

// OnLate implements persistence.LateResults.
func (s *Store) OnLate(fn func(val []byte, v persistence.Version, err error)) {
	if l, ok := s.inner.(persistence.LateResults); ok {
		l.OnLate(fn)
	}
}

// Anchor implements persistence.Anchored; a store without it can not turn into
// another one.
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

// Inspect implements persistence.Inspector; a store without it has nothing to
// tell.
func (s *Store) Inspect(ctx context.Context) []persistence.Finding {
	if i, ok := s.inner.(persistence.Inspector); ok {
		return i.Inspect(ctx)
	}
	return nil
}

// GetFrom implements persistence.Ranger, counted as a Get.
func (s *Store) GetFrom(ctx context.Context, key string, offset int64) (io.ReadCloser, error) {
	r, ok := s.inner.(persistence.Ranger)
	if !ok {
		return nil, fmt.Errorf("%w: this store reads objects from their beginning only", persistence.Unsupported)
	}
	from := time.Now()
	rc, err := r.GetFrom(ctx, key, offset)
	s.note(Get, from, err)
	return rc, err
}

// Sweep implements persistence.Sweeper.
func (s *Store) Sweep(ctx context.Context, prefix string, age time.Duration, remove bool) ([]persistence.Entry, error) {
	if w, ok := s.inner.(persistence.Sweeper); ok {
		return w.Sweep(ctx, prefix, age, remove)
	}
	return nil, fmt.Errorf("%w: this store can not tell what was left behind in it", persistence.Unsupported)
}

// Requests counts what a store sends, by kind ("PUT", "GET", "GET 304", ...).
// The zero value is ready, and its methods may be called from any goroutine.
type Requests struct {
	mu sync.Mutex
	n  map[string]uint64
}

// Add counts one request that is about to be answered for: sent, whatever
// comes of it.
func (r *Requests) Add(kind string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.n == nil {
		r.n = map[string]uint64{}
	}
	r.n[kind]++
}

// Counts returns how many requests of each kind were sent.
func (r *Requests) Counts() map[string]uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.n)
}
