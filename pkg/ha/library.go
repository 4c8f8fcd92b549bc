package ha

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/understudy-ha/understudy/pkg/lease"
)

// Reign is what OnReign is given: one term of this node's mastership.
type Reign struct {
	term  lease.Term
	valid func() bool
}

// Term is the fencing token: it grows with every reign of the plane and is
// never used twice. Hand it to whatever the service writes to.
func (r Reign) Term() lease.Term { return r.term }

// Valid reports whether this node may act as master at this very moment, by
// its own clock. Ask it before each action that must not be done by two nodes;
// the answer is not worth keeping.
func (r Reign) Valid() bool { return r.valid() }

// inProcess runs OnReign as the managed service. There is no guard process:
// code that runs in this process stops when the process does. What it can not
// do is stop code that ignores its context; that shows as FENCING_FAILED and
// the term is not released.
type inProcess struct {
	clock func() lease.Instant
	run   func(context.Context, Reign) error

	events chan ServiceEvent
	stopq  chan struct{}
	wait   sync.WaitGroup

	mu       sync.Mutex
	deadline Deadline
	term     lease.Term // of the running call; 0 if none runs
	ended    lease.Term // highest term whose stop has begun
	cancel   context.CancelFunc
	since    time.Time
	once     sync.Once
}

func newInProcess(clock func() lease.Instant, run func(context.Context, Reign) error) *inProcess {
	return &inProcess{clock: clock, run: run, events: make(chan ServiceEvent, 64), stopq: make(chan struct{})}
}

func (p *inProcess) emit(ev ServiceEvent) {
	select {
	case p.events <- ev:
	case <-p.stopq:
	}
}

// Arm implements Service.
func (p *inProcess) Arm(d Deadline) {
	p.mu.Lock()
	ok := d.Term > p.ended
	if ok {
		p.deadline = d
	}
	p.mu.Unlock()
	if ok {
		p.emit(ServiceEvent{Kind: ServiceArmed, Term: d.Term, T0: d.T0})
	}
}

// Start implements Service.
func (p *inProcess) Start(o StartOrder) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if o.Term <= p.ended || p.term != 0 || p.deadline.Term != o.Term || p.clock().Longest(p.deadline.T0) >= p.deadline.Stop {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.term, p.cancel, p.since = o.Term, cancel, time.Now()
	p.wait.Go(func() { p.serve(ctx, cancel, o.Term) })
	p.wait.Go(func() { p.emit(ServiceEvent{Kind: ServiceReady, Term: o.Term}) })
}

func (p *inProcess) serve(ctx context.Context, cancel context.CancelFunc, t lease.Term) {
	watched := make(chan struct{})
	p.wait.Go(func() { p.watch(ctx, watched, t) })
	err := p.run(ctx, Reign{term: t, valid: func() bool { return p.valid(t) }})
	asked := ctx.Err() != nil
	close(watched)
	cancel()
	p.mu.Lock()
	p.term = 0
	p.mu.Unlock()
	if !asked {
		why := "the program's OnReign returned"
		if err != nil {
			why = fmt.Sprintf("%s: %v", why, err)
		}
		p.emit(ServiceEvent{Kind: ServiceFailed, Term: t, Why: why, Exit: -1})
		return // ServiceEmpty follows the Stop that this brings about
	}
	p.emit(ServiceEvent{Kind: ServiceEmpty, Term: t})
}

// watch ends the reign's context when the deadline comes, whatever the loop is
// doing, and reports code that does not heed it.
func (p *inProcess) watch(ctx context.Context, done <-chan struct{}, t lease.Term) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	stuck := false
	for {
		select {
		case <-done:
			return
		case <-tick.C:
		}
		p.mu.Lock()
		d, el := p.deadline, p.clock().Longest(p.deadline.T0)
		p.mu.Unlock()
		if d.Term != t {
			continue
		}
		if el >= d.Stop && ctx.Err() == nil {
			p.end(t)
			p.emit(ServiceEvent{Kind: ServiceStopping, Term: t, Why: "the lease ends"})
		}
		if el >= d.End && !stuck {
			stuck = true
			p.emit(ServiceEvent{Kind: ServiceStuck, Term: t, Why: "OnReign did not return after its context ended"})
		}
	}
}

// end cancels the term's context, for good.
func (p *inProcess) end(t lease.Term) (running bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = max(p.ended, t)
	if p.term == t {
		p.cancel()
	}
	return p.term == t
}

// valid is asked by the program at each use, so it reads the clock each time.
func (p *inProcess) valid(t lease.Term) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return t > p.ended && p.deadline.Term == t && p.clock().Longest(p.deadline.T0) < p.deadline.End
}

// Stop implements Service.
func (p *inProcess) Stop(t lease.Term, _ StopReason) {
	if !p.end(t) {
		p.emit(ServiceEvent{Kind: ServiceEmpty, Term: t})
	}
}

// Kill implements Service. Nothing in this process can be killed without it.
func (p *inProcess) Kill(t lease.Term, why StopReason) { p.Stop(t, why) }

// Events implements Service.
func (p *inProcess) Events() <-chan ServiceEvent { return p.events }

// Info implements Service.
func (p *inProcess) Info() ServiceInfo {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := ServiceInfo{Phase: "idle", Since: p.since}
	switch {
	case p.term == 0:
	case p.term <= p.ended:
		i.Phase = "stopping"
	default:
		i.Phase = "ready"
	}
	return i
}

// Close implements Service.
func (p *inProcess) Close() error {
	p.once.Do(func() { close(p.stopq) })
	p.wait.Wait()
	return nil
}
