package ha_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

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

	mu     sync.Mutex
	active map[lease.NodeID]lease.Term
	both   bool
	terms  []lease.Term
}

func newPlane(t *testing.T, timeout time.Duration) *plane {
	t.Helper()
	timing, err := election.Derive(election.TimingRequest{Timeout: timeout})
	if err != nil {
		t.Fatal(err)
	}
	return &plane{t: t, at: memory.New(), timing: timing, zero: time.Now(), active: map[lease.NodeID]lease.Term{}}
}

func (p *plane) clock() lease.Instant { return lease.At(time.Since(p.zero) + time.Hour) }

func (p *plane) node(mode lease.Mode) *ha.Node {
	p.t.Helper()
	id := ha.NewNodeID()
	n, err := ha.New(p.at.Open(), ha.Options{
		Node: id, Mode: mode, Timing: p.timing, HotStandby: true, AutoInit: true, Clock: p.clock,
		OnReign: func(ctx context.Context, r ha.Reign) error {
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
		},
	})
	if err != nil {
		p.t.Fatal(err)
	}
	return n
}

func (p *plane) master(nodes ...*ha.Node) *ha.Node {
	for _, n := range nodes {
		if n.State() == lease.StateMaster {
			return n
		}
	}
	return nil
}

func TestPlaneElectsOneAndHandsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t, 5*time.Second)
		type run struct {
			n      *ha.Node
			cancel context.CancelFunc
			err    chan error
		}
		var runs []run
		for range 3 {
			ctx, cancel := context.WithCancel(t.Context())
			r := run{p.node(lease.ModeAuto), cancel, make(chan error, 1)}
			go func() { r.err <- r.n.Run(ctx) }()
			runs = append(runs, r)
		}
		nodes := []*ha.Node{runs[0].n, runs[1].n, runs[2].n}
		// Two empty listings 5 s apart, a birth that nobody holds, one lease.
		time.Sleep(5*time.Second + p.timing.ClaimAfter(0) + 3*p.timing.Heartbeat)
		m := p.master(nodes...)
		if m == nil {
			t.Fatalf("no master: %+v", nodes[0].Status())
		}
		for i := range runs {
			if runs[i].n != m && runs[i].n.State() != lease.StateHotStandby {
				t.Errorf("state %s", runs[i].n.State())
			}
		}
		s := m.Status()
		for _, n := range nodes {
			if got := n.Status(); got.Plane != s.Plane || len(got.Nodes) != 3 || got.Holder != s.Node || !got.HolderOK {
				t.Errorf("picture of %s: %+v", got.Node, got)
			}
		}
		// A clean stop hands over within a few polls.
		for i := range runs {
			if runs[i].n == m {
				at := time.Now()
				runs[i].cancel()
				if err := <-runs[i].err; err != nil {
					t.Errorf("clean stop: %v", err)
				}
				for p.master(nodes...) == nil || p.master(nodes...) == m {
					time.Sleep(time.Millisecond)
					if time.Since(at) > p.timing.Heartbeat {
						t.Fatalf("no successor %v after a clean stop", time.Since(at))
					}
				}
				runs[i].err <- nil
			}
		}
		for i := range runs {
			runs[i].cancel()
			if err := <-runs[i].err; err != nil {
				t.Errorf("stop: %v", err)
			}
		}
		if p.both {
			t.Error("two reigns at once")
		}
		for i := 1; i < len(p.terms); i++ {
			if p.terms[i] <= p.terms[i-1] {
				t.Errorf("terms %v", p.terms)
			}
		}
	})
}

func TestStandbyRefusesWithoutMaster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t, 5*time.Second)
		err := p.node(lease.ModeStandby).Run(t.Context())
		var exit *ha.ExitError
		if !errors.As(err, &exit) || exit.Code != 3 {
			t.Fatalf("got %v, want exit code 3", err)
		}
	})
}
