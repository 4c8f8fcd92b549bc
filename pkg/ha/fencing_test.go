package ha_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/understudy-ha/understudy/persistence/faulty"
	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// fencer is a Fencer that does as the test says.
type fencer struct {
	act func(ctx context.Context, old ha.FenceTarget, proof bool) ha.FenceTry

	mu    sync.Mutex
	calls []ha.FenceTarget
}

func (f *fencer) Fence(ctx context.Context, old ha.FenceTarget, proof bool) []ha.FenceTry {
	f.mu.Lock()
	f.calls = append(f.calls, old)
	f.mu.Unlock()
	return []ha.FenceTry{f.act(ctx, old, proof)}
}

// of lists whom it was asked to fence.
func (f *fencer) of() []lease.NodeID {
	f.mu.Lock()
	defer f.mu.Unlock()
	var ids []lease.NodeID
	for _, t := range f.calls {
		ids = append(ids, t.Node)
	}
	return ids
}

func inVain(context.Context, ha.FenceTarget, bool) ha.FenceTry {
	return ha.FenceTry{Method: "command", Detail: "the switch does not answer"}
}

func with(f *ha.Fencing) func(*ha.Options) { return func(o *ha.Options) { o.Fencing = f } }

// first starts a node and waits until it is master.
func (p *plane) first() *member {
	p.t.Helper()
	a := p.start(nil)
	p.within(time.Second, "master", func() bool { return a.State() == lease.StateMaster })
	return a
}

// standby starts a further node and waits until it could take over.
func (p *plane) standby(f *ha.Fencing) *member {
	p.t.Helper()
	n := p.start(with(f))
	p.within(3*time.Second, "standby", func() bool { return n.State() == lease.StateHotStandby && n.Status().Electable })
	return n
}

// recorded returns the history's record of a node's latest reign.
func (p *plane) recorded(n *member) ha.ReignRecord {
	p.t.Helper()
	var rec ha.ReignRecord
	p.within(5*time.Second, "the reign is in the history", func() bool {
		for _, r := range n.Status().Reigns {
			if r.Node == n.id && !slices.ContainsFunc(r.Fencing, func(f ha.FenceRecord) bool { return f.Outcome == ha.FencePending }) {
				rec = r
				return true
			}
		}
		return false
	})
	return rec
}

func TestEarlyFencingEndsTheWaitForTheLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t).born()
		a := p.first()
		f := &fencer{}
		b := p.standby(&ha.Fencing{Fencer: f, Early: []lease.NodeID{a.id}, EarlyLimit: 10 * time.Second})
		f.act = func(_ context.Context, old ha.FenceTarget, proof bool) ha.FenceTry {
			if !proof || old.Node != a.id || old.By != b.id || old.Term != a.Status().Term {
				t.Errorf("asked for %+v, proof %v", old, proof)
			}
			time.Sleep(300 * time.Millisecond)
			p.powerOff(a)
			return ha.FenceTry{Method: "command", OK: true, Off: true, Detail: "it is off"}
		}
		cut := a.store.Inject(faulty.Fault{Drop: true, Err: errDown})
		took := p.within(p.timing.ClaimAfter(0)+time.Second, "the other serves", func() bool { return p.serving() == b.id })
		// Seen after half a poll, suspected, fenced, claimed by a round or two of
		// the store; in T it would be 5.3 s.
		if most := p.timing.SuspectAfter() + 300*time.Millisecond + 3*p.timing.Heartbeat; took > most || took < p.timing.SuspectAfter() {
			t.Errorf("it took %v, want between %v and %v", took, p.timing.SuspectAfter(), most)
		}
		rec := p.recorded(b)
		if len(rec.Fencing) != 1 || rec.Fencing[0].Node != a.id || !rec.Fencing[0].Off || !rec.Fencing[0].Early || rec.Fencing[0].Outcome != ha.FenceDone {
			t.Errorf("recorded %+v", rec.Fencing)
		}
		if l := b.Status().Fenced; l == nil || !strings.Contains(l.Words(), "was fenced (command): it is off") {
			t.Errorf("the latest is said to be %+v", l)
		}
		if got := f.of(); len(got) != 1 {
			t.Errorf("fenced %v", got)
		}
		if cut.Fired() == 0 {
			t.Error("the fault never fired")
		}
		p.check()
	})
}

// A master that renews again before it is confirmed to be off is not taken from,
// and the method is told to stop.
func TestEarlyFencingIsCancelledByARenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t).born()
		a := p.first()
		cancelled := make(chan struct{}, 9)
		f := &fencer{act: func(ctx context.Context, _ ha.FenceTarget, _ bool) ha.FenceTry {
			<-ctx.Done()
			cancelled <- struct{}{}
			return ha.FenceTry{Method: "command", OK: true, Off: true, Detail: "too late"}
		}}
		b := p.standby(&ha.Fencing{Fencer: f, Early: []lease.NodeID{a.id}, EarlyLimit: time.Minute})
		// For as long as makes it suspect, and not yet stop.
		cut := a.store.Inject(faulty.Fault{Op: faulty.CAS, Drop: true, Err: errDown})
		p.within(p.timing.StopAfter(), "fencing begins", func() bool { return len(f.of()) == 1 })
		if s := b.Status().Fencing; s == nil || s.Nodes[0].Node != a.id || s.Term != 0 {
			t.Errorf("it shows %+v", s)
		}
		a.store.Clear()
		p.within(p.timing.Timeout, "the method is told to stop", func() bool { return len(cancelled) > 0 })
		time.Sleep(p.timing.Timeout)
		if a.State() != lease.StateMaster || p.serving() != a.id || b.Status().Fencing != nil {
			t.Errorf("%s, %s; %+v", a.State(), b.State(), b.Status().Fencing)
		}
		if cut.Fired() == 0 {
			t.Error("the fault never fired")
		}
		p.check()
	})
}

func TestServiceWaitsForFencing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t).born()
		a := p.first()
		f := &fencer{act: inVain}
		b := p.standby(&ha.Fencing{Fencer: f, Wait: true})
		p.powerOff(a)
		p.within(p.timing.ClaimAfter(0)+2*time.Second, "the other leads", func() bool { return b.Status().Leading(p.clock()) })
		term := b.Status().Term
		time.Sleep(4 * p.timing.Timeout)
		s := b.Status()
		if p.serving() != "" || !s.Leading(p.clock()) || s.Term != term {
			t.Fatalf("%s serves; leads term %d: %v, want term %d led and nobody serving", p.serving(), s.Term, s.Leading(p.clock()), term)
		}
		if s.Why != ha.ReasonFencing || !strings.Contains(s.Detail, "so far in vain: command: the switch does not answer; once its machine is surely powered off: understudy fence confirm "+string(a.id)) {
			t.Errorf("it says %s: %s", s.Why, s.Detail)
		}
		if n := len(f.of()); n < 2 || n > 4 {
			t.Errorf("tried %d times in %v, want once every 10s", n, 4*p.timing.Timeout)
		}
		var refused *ha.PreconditionError
		if err := b.ConfirmOff(t.Context(), "n0000000", "root"); !errors.As(err, &refused) {
			t.Errorf("for a node that nobody waits for: %v", err)
		}
		if err := b.ConfirmOff(t.Context(), a.id, "root"); err != nil {
			t.Fatal(err)
		}
		p.within(time.Second, "it serves", func() bool { return p.serving() == b.id })
		rec := p.recorded(b)
		if len(rec.Fencing) != 1 || rec.Fencing[0].Method != ha.MethodOperator || rec.Fencing[0].Actor != "root" || rec.Fencing[0].Off || rec.Phases.Fenced < p.timing.Timeout.Milliseconds() {
			t.Errorf("recorded %+v, phases %+v", rec.Fencing, rec.Phases)
		}
		p.check()
	})
}

func TestServiceStartsThoughFencingFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t).born()
		a := p.first()
		f := &fencer{act: inVain}
		b := p.standby(&ha.Fencing{Fencer: f})
		p.powerOff(a)
		p.within(p.timing.ClaimAfter(0)+2*time.Second, "the other serves", func() bool { return p.serving() == b.id })
		rec := p.recorded(b)
		if len(rec.Fencing) != 1 || rec.Fencing[0].Outcome != ha.FenceFailed || rec.Fencing[0].Detail != "command: the switch does not answer" {
			t.Errorf("recorded %+v", rec.Fencing)
		}
		p.check()
	})
}

// A clean end leaves nothing to fence.
func TestCleanEndIsNotFenced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t).born()
		a := p.first()
		f := &fencer{act: inVain}
		b := p.standby(&ha.Fencing{Fencer: f, Wait: true})
		a.stop()
		p.within(2*time.Second, "the other serves", func() bool { return p.serving() == b.id })
		if got := f.of(); len(got) != 0 {
			t.Errorf("fenced %v", got)
		}
		p.check()
	})
}

// A new master that leaves while it waits has not settled anything: the next one
// waits for the same machine, although the register it claims was released.
func TestUnfencedIsInherited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t).born()
		a := p.first()
		fb, fc := &fencer{act: inVain}, &fencer{act: inVain}
		b := p.standby(&ha.Fencing{Fencer: fb, Wait: true})
		p.powerOff(a)
		p.within(p.timing.ClaimAfter(0)+2*time.Second, "it is tried", func() bool { return len(fb.of()) > 0 })
		c := p.standby(&ha.Fencing{Fencer: fc, Wait: true})
		b.stop()
		<-b.ended
		p.within(5*time.Second, "the third is asked for the first", func() bool { return len(fc.of()) > 0 })
		if got := fc.of(); got[0] != a.id {
			t.Errorf("fenced %v, want %s", got, a.id)
		}
		time.Sleep(2 * p.timing.Timeout)
		if p.serving() != "" {
			t.Errorf("%s serves", p.serving())
		}
		if err := c.ConfirmOff(t.Context(), a.id, "root"); err != nil {
			t.Fatal(err)
		}
		p.within(time.Second, "it serves", func() bool { return p.serving() == c.id })
		c.stop()
		<-c.ended
		fd := &fencer{act: inVain}
		d := p.standby(&ha.Fencing{Fencer: fd, Wait: true})
		p.within(2*time.Second, "a fourth serves", func() bool { return p.serving() == d.id })
		if got := fd.of(); len(got) != 0 {
			t.Errorf("fenced %v, which is settled", got)
		}
		p.check()
	})
}

// An operator's word on a holder whose lease has not ended.
func TestConfirmOffBeforeTheLeaseEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t).born()
		a := p.first()
		b := p.start(func(o *ha.Options) { o.Timing.Timeout = time.Minute }) // its own counts as well
		p.within(3*time.Second, "standby", func() bool { return b.Status().Electable })
		for id, words := range map[lease.NodeID]string{
			a.id: "renewed its lease less than", b.id: "this is node", "n0000000": "not by n0000000",
		} {
			var refused *ha.PreconditionError
			if err := b.ConfirmOff(t.Context(), id, "root"); !errors.As(err, &refused) || !strings.Contains(err.Error(), words) {
				t.Errorf("%s: %v, want %q", id, err, words)
			}
		}
		if err := a.ConfirmOff(t.Context(), b.id, "root"); err == nil || !strings.Contains(err.Error(), "waits for nobody") {
			t.Errorf("to the master: %v", err)
		}
		p.powerOff(a)
		time.Sleep(2 * p.timing.SuspectAfter())
		if err := b.ConfirmOff(t.Context(), a.id, "root"); err != nil {
			t.Fatal(err)
		}
		p.within(2*time.Second, "it serves", func() bool { return p.serving() == b.id })
		rec := p.recorded(b)
		if len(rec.Fencing) != 1 || rec.Fencing[0].Actor != "root" || !rec.Fencing[0].Early || !rec.Fencing[0].Off {
			t.Errorf("recorded %+v", rec.Fencing)
		}
		p.check()
	})
}

// powerOff ends a node as a power cut would: nothing of it reaches the store, and
// its service is gone when this returns.
func (p *plane) powerOff(m *member) {
	m.store.Inject(faulty.Fault{Drop: true, Err: errDown})
	m.stop()
	for p.serving() == m.id {
		time.Sleep(time.Millisecond)
	}
}
