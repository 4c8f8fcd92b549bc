package ha_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/persistence/faulty"
	"github.com/understudy-ha/understudy/persistence/memory"
	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// plane is a group of library nodes on one memory store, inside a bubble.
type plane struct {
	t      *testing.T
	at     *memory.Location
	timing election.Timing
	zero   time.Time
	charge bool // the store charges for requests

	mu     sync.Mutex
	active map[lease.NodeID]lease.Term
	both   bool
	terms  []lease.Term
}

// member is one running node of a plane.
type member struct {
	*ha.Node
	id    lease.NodeID
	store *faulty.Store
	stop  context.CancelFunc
	ended chan struct{}
	err   error // of Run, once ended is closed
}

// newPlane makes a plane whose register is released: the first node claims it
// at once.
func newPlane(t *testing.T) *plane {
	t.Helper()
	timing, err := election.Derive(election.TimingRequest{Preset: "fast"})
	if err != nil {
		t.Fatal(err)
	}
	return &plane{t: t, at: memory.New(), timing: timing, zero: time.Now(), active: map[lease.NodeID]lease.Term{}}
}

func (p *plane) born() *plane {
	p.t.Helper()
	v := lease.Value{Plane: ha.NewPlaneID(), Lease: p.timing.Timeout, WriteID: ha.NewWriteID()}
	if err := p.at.Open().Init(p.t.Context(), v.Encode()); err != nil {
		p.t.Fatal(err)
	}
	return p
}

func (p *plane) clock() lease.Instant { return lease.At(time.Since(p.zero) + time.Hour) }

// start runs a node until the test ends; change may alter its options.
func (p *plane) start(change func(*ha.Options)) *member {
	p.t.Helper()
	var inner persistence.Store = p.at.Open()
	if p.charge {
		inner = charging{inner}
	}
	m := &member{id: ha.NewNodeID(), store: faulty.Wrap(inner), ended: make(chan struct{})}
	o := ha.Options{
		Node: m.id, Timing: p.timing, HotStandby: true, AutoInit: true, Clock: p.clock,
		OnReign: func(ctx context.Context, r ha.Reign) error { return p.reign(ctx, m.id, r) },
	}
	if change != nil {
		change(&o)
	}
	m.id = o.Node
	n, err := ha.New(m.store, o)
	if err != nil {
		p.t.Fatal(err)
	}
	m.Node = n
	ctx, cancel := context.WithCancel(p.t.Context())
	m.stop = cancel
	go func() {
		m.err = n.Run(ctx)
		close(m.ended)
	}()
	p.t.Cleanup(func() {
		cancel()
		m.store.Clear()
		<-m.ended
	})
	return m
}

// reign is the service: it notes who else is serving, as the service sees it.
func (p *plane) reign(ctx context.Context, id lease.NodeID, r ha.Reign) error {
	p.mu.Lock()
	p.both = p.both || len(p.active) > 0
	p.active[id] = r.Term()
	p.terms = append(p.terms, r.Term())
	p.mu.Unlock()
	<-ctx.Done()
	p.mu.Lock()
	delete(p.active, id)
	p.mu.Unlock()
	return ctx.Err()
}

// serving is who serves by the service's own account.
func (p *plane) serving() lease.NodeID {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id := range p.active {
		return id
	}
	return ""
}

// within waits, in virtual time, until ok holds.
func (p *plane) within(limit time.Duration, what string, ok func() bool) time.Duration {
	p.t.Helper()
	from := time.Now()
	for !ok() {
		if time.Since(from) > limit {
			p.t.Fatalf("%s: not within %v", what, limit)
		}
		time.Sleep(time.Millisecond)
	}
	return time.Since(from)
}

// check asserts what must hold over the whole test.
func (p *plane) check() {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.both {
		p.t.Error("two reigns at once")
	}
	for i := 1; i < len(p.terms); i++ {
		if p.terms[i] <= p.terms[i-1] {
			p.t.Errorf("terms do not grow: %v", p.terms)
		}
	}
}

func masterOf(members ...*member) *member {
	for _, m := range members {
		if m.State() == lease.StateMaster {
			return m
		}
	}
	return nil
}

var errDown = persistence.Unknown
