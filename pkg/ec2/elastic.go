package ec2

import (
	"context"
	"errors"
	"sync"
	"time"
)

// Elastic keeps an Elastic IP address with the master.
type Elastic struct {
	Client     *Client
	Allocation string // eipalloc-…
	Target     Target
	// Release ends the association when this node is no longer master, unless
	// another has taken it over by then. Otherwise it stays until then.
	Release bool
	// Serving tells whether this node is master at this very moment. The service
	// knows nothing of terms, so it is asked before each call that changes
	// anything.
	Serving func() bool
	// Said is told each time that an attempt fails for another reason than the
	// one before (err), and when the address leads here (nil).
	Said func(a Association, err error)

	// Zero values mean the defaults.
	Check    time.Duration // how often it is looked where the address leads to; 30s
	Retry    time.Duration // after the first failure, then doubling; 1s
	MaxRetry time.Duration // 30s
	Limit    time.Duration // of one attempt, its repetitions included; 10s
}

// errOver: this node is no longer master.
var errOver = errors.New("this node is not master")

// Keep associates the address whenever this node becomes master, tries again
// while that fails, and looks from time to time whether it still leads here. It
// returns when ctx ends.
func (e *Elastic) Keep(ctx context.Context) {
	e.defaults()
	const look = 50 * time.Millisecond // at Serving
	var (
		held  *Association // what this node made
		next  time.Time    // when there is something to do
		wait  time.Duration
		said  string
		first = true // since this node is master
	)
	for pause(ctx, look) {
		switch {
		case !e.Serving():
			if !first && held != nil && e.Release {
				e.release(ctx, *held)
			}
			held, next, wait, said, first = nil, time.Time{}, 0, "", true
			continue
		case time.Now().Before(next):
			continue
		}
		a, err := e.attempt(ctx)
		switch {
		case errors.Is(err, errOver):
			if a.leads(e.Target) { // made at the last moment: it is to be released as well
				held, first = &a, false
			}
			continue
		case err != nil:
			wait = min(max(2*wait, e.Retry), e.MaxRetry)
			next = time.Now().Add(wait)
			if said != err.Error() {
				e.Said(a, err)
			}
			said = err.Error()
		default:
			if first || said != "" || held == nil || held.ID != a.ID {
				e.Said(a, nil)
			}
			held, next, wait, said = &a, time.Now().Add(e.Check), 0, ""
		}
		first = false
	}
	if held != nil && e.Release {
		e.release(context.WithoutCancel(ctx), *held)
	}
}

func (e *Elastic) defaults() {
	for _, d := range []struct {
		v   *time.Duration
		def time.Duration
	}{{&e.Check, 30 * time.Second}, {&e.Retry, time.Second}, {&e.MaxRetry, 30 * time.Second}, {&e.Limit, 10 * time.Second}} {
		if *d.v == 0 {
			*d.v = d.def
		}
	}
}

// attempt makes the address lead here, if it does not.
func (e *Elastic) attempt(ctx context.Context) (Association, error) {
	ctx, cancel := context.WithTimeout(ctx, e.Limit)
	var watch sync.WaitGroup
	defer watch.Wait()
	defer cancel()
	watch.Go(func() { // nothing is sent for a node that is master no more
		for pause(ctx, 20*time.Millisecond) {
			if !e.Serving() {
				cancel()
			}
		}
	})
	a, err := e.Client.Lookup(ctx, e.Allocation)
	if err == nil && !a.leads(e.Target) {
		if !e.Serving() {
			return a, errOver
		}
		a, err = e.Client.Associate(ctx, e.Allocation, e.Target)
	}
	if err != nil && !e.Serving() {
		return a, errOver
	}
	return a, err
}

// release ends the association. If that fails, the next master takes it over.
func (e *Elastic) release(ctx context.Context, a Association) {
	ctx, cancel := context.WithTimeout(ctx, e.Limit)
	defer cancel()
	if err := e.Client.Disassociate(ctx, a); err != nil {
		e.Said(a, err)
	}
}

// pause reports whether d has passed before ctx's end.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
