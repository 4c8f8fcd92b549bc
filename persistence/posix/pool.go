package posix

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/understudy-ha/understudy/persistence"
)

// maxWorkers bounds the goroutines, and with them the threads, that one kind
// of operation may have inside the file system at once. A hard mount whose
// server is gone blocks every one of them for ever.
const maxWorkers = 2

// stuckAfter is how long after their callers have left workers count as stuck.
// A caller that is done leaves at once, and its worker, on NFS, comes back some
// milliseconds later: what a node writes last must not be refused for that.
const stuckAfter = 100 * time.Millisecond

// errNotSent marks errors of operations that never reached a worker.
var errNotSent = errors.New("not sent")

// pool runs the operations of one kind in workers, so that callers can leave
// by their context while the I/O stays behind.
type pool struct {
	dir, kind string // for messages

	mu      sync.Mutex
	running int           // workers inside the file system
	stuck   int           // those among them whose caller has left
	since   time.Time     // when the oldest of these was left, roughly
	changed chan struct{} // closed and replaced when running or stuck changes
	chores  []func()      // clean-up nobody waits for
}

func newPool(dir, kind string) *pool {
	return &pool{dir: dir, kind: kind, changed: make(chan struct{})}
}

// wake lets waiting callers look again. The caller holds mu.
func (p *pool) wake() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// acquire waits for a worker's place. When every place is taken by a worker
// that its caller has given up on for some time, waiting is pointless, and it
// fails at once.
func (p *pool) acquire(ctx context.Context) error {
	for {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("%w: %w: %w", persistence.Unknown, errNotSent, err)
		}
		p.mu.Lock()
		if p.running < maxWorkers {
			p.running++
			p.mu.Unlock()
			return nil
		}
		changed, allStuck, age := p.changed, p.stuck >= maxWorkers, time.Since(p.since)
		p.mu.Unlock()
		if allStuck && age >= stuckAfter {
			return fmt.Errorf("%w: %w: %d earlier %s operations have been stuck in the file system of %s for %s; "+
				"is its server or network down?", persistence.Unknown, errNotSent, maxWorkers, p.kind, p.dir, age.Round(100*time.Millisecond))
		}
		look := time.Hour // or when something changes
		if allStuck {
			look = stuckAfter - age
		}
		select {
		case <-changed:
		case <-time.After(look):
		case <-ctx.Done():
		}
	}
}

// release gives a worker's place back, after doing the chores that wait.
func (p *pool) release(wasStuck bool) {
	for {
		p.mu.Lock()
		if len(p.chores) == 0 {
			p.running--
			if wasStuck {
				p.stuck--
			}
			p.wake()
			p.mu.Unlock()
			return
		}
		chore := p.chores[0]
		p.chores = p.chores[1:]
		p.mu.Unlock()
		chore()
	}
}

// detach has f run by a worker as soon as one is free; nobody waits for it.
func (p *pool) detach(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.chores = append(p.chores, f)
	if p.running < maxWorkers {
		p.running++
		go p.release(false)
	}
}

// call runs f in a worker of p and returns its result, or Unknown once ctx has
// ended. What f returns after that goes to late, if late is not nil.
func call[T any](ctx context.Context, p *pool, f func() (T, error), late func(T, error)) (T, error) {
	var (
		val      T
		err      error
		finished bool // under p.mu, as is gone
		gone     bool
		done     = make(chan struct{})
	)
	if err := p.acquire(ctx); err != nil {
		return val, err
	}
	go func() {
		v, e := f()
		p.mu.Lock()
		val, err, finished = v, e, true
		left := gone
		p.mu.Unlock()
		close(done)
		if left && late != nil {
			late(v, e)
		}
		p.release(left)
	}()
	select {
	case <-done:
		return val, err
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if finished { // an answer in hand beats a deadline that has passed
		return val, err
	}
	gone = true
	if p.stuck == 0 {
		p.since = time.Now()
	}
	p.stuck++
	p.wake()
	var none T
	return none, fmt.Errorf("%w: no answer from the file system of %s: %w; is its server or network down?", persistence.Unknown, p.dir, ctx.Err())
}
