package artifact

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// Reign is in whose name something is stored and collected.
type Reign struct {
	Plane lease.PlaneID
	Term  lease.Term
}

// Options adjust a Library; the zero value is what a node uses.
type Options struct {
	// Stall is how long a store may go without taking or giving a byte before
	// a transfer is given up. Zero: 2 minutes, in which a disk writes what was
	// only buffered.
	Stall time.Duration
	// Retries is how often in a row a read goes on after the store failed, and
	// Pause how long it waits before. Zero: 5, a second.
	Retries int
	Pause   time.Duration
	// Now is the wall clock; nil: time.Now. It names and delays, and decides
	// nothing.
	Now func() time.Time
}

// Library is the artifacts of a plane: objects of a store with an index.
type Library struct {
	store persistence.Objects
	index Index
	opts  Options

	mu   sync.Mutex
	dead map[string]bool // objects of this process that the index will never name, or never again
}

// New returns the library whose bytes lie in store. It does no I/O.
func New(store persistence.Objects, index Index, opts Options) *Library {
	opts.Stall = cmp.Or(opts.Stall, 2*time.Minute)
	opts.Retries = cmp.Or(opts.Retries, 5)
	opts.Pause = cmp.Or(opts.Pause, time.Second)
	if opts.Now == nil {
		opts.Now = time.Now
	}
	return &Library{store: store, index: index, opts: opts, dead: map[string]bool{}}
}

// Index is the index of the library.
func (l *Library) Index() Index { return l.index }

// Content is what is pushed.
type Content struct {
	R      io.Reader
	Digest Digest // that it must have
	Size   int64  // in bytes; -1: unknown
}

// Push stores content and gives it a name, in the reign in which this node is
// master. It takes memory for one part of what the store sends at a time. On
// an error nothing is to be seen of it, but for ErrUndecided. ErrCorrupt: the
// content was not what it was said to be.
func (l *Library) Push(ctx context.Context, name string, in Reign, c Content) (Entry, error) {
	if err := CheckName(name); err != nil {
		return Entry{}, err
	}
	o := object{c.Digest, in.Plane, in.Term, l.opts.Now()}
	e := Entry{Name: name, Digest: c.Digest, Size: c.Size, Pushed: o.pushed.UTC(), Object: o.newName()}
	if _, err := parseObject(e.Object); err != nil {
		return Entry{}, fmt.Errorf("push %s: %w", name, err)
	}
	var err error
	if e.Size, err = l.put(ctx, e, c); err != nil {
		l.bury(ctx, e.Object)
		return Entry{}, fmt.Errorf("push %s: %w", name, err)
	}
	old, oerr := l.index.Get(ctx, name)
	if err := l.index.Set(ctx, e); err != nil {
		if !errors.Is(err, ErrUndecided) {
			l.bury(ctx, e.Object)
		}
		return Entry{}, fmt.Errorf("push %s: %w", name, err)
	}
	if oerr == nil {
		l.forget(old.Object)
	}
	return e, nil
}

// put stores the bytes and returns how many there were.
func (l *Library) put(ctx context.Context, e Entry, c Content) (int64, error) {
	ctx, w := watch(ctx, l.opts.Stall)
	defer w.stop()
	v := &verified{r: w.reader(c.R), h: newHash(), digest: c.Digest, size: c.Size}
	// What Put says about a reader that failed wraps what the reader said.
	if err := l.store.Put(ctx, Prefix+e.Object, v, c.Size); err != nil {
		return 0, w.explain(err)
	}
	if !errors.Is(v.err, io.EOF) { // the store did not want the end, which judges
		return 0, fmt.Errorf("%w: the store took %d bytes and no more", ErrCorrupt, v.got)
	}
	return v.got, nil
}

// bury removes an object that the index does not name and never will. What it
// misses is left to Collect.
func (l *Library) bury(ctx context.Context, name string) {
	l.forget(name)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	_ = l.store.Delete(ctx, Prefix+name) // Collect tries again
}

func (l *Library) forget(object string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dead[object] = true
}

// Remove takes a name away; its object is garbage from then on. ErrNone,
// ErrUndecided, or why the index could not be written.
func (l *Library) Remove(ctx context.Context, name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	old, err := l.index.Get(ctx, name)
	if err != nil {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	if err := l.index.Delete(ctx, name); err != nil {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	l.forget(old.Object)
	return nil
}

// Get returns the entry of a name, or ErrNone.
func (l *Library) Get(ctx context.Context, name string) (Entry, error) {
	if err := CheckName(name); err != nil {
		return Entry{}, err
	}
	e, err := l.index.Get(ctx, name)
	if err == nil {
		err = e.Check()
	}
	if err != nil {
		return Entry{}, fmt.Errorf("artifact %s: %w", name, err)
	}
	return e, nil
}

// List returns all entries in the order of their names.
func (l *Library) List(ctx context.Context) ([]Entry, error) { return l.index.List(ctx) }
