package ha_test

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/understudy-ha/understudy/persistence/faulty"
	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/lease"
)

func TestBeatsAndRecordsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t).born()
		a := p.start(nil)
		p.within(time.Second, "master", func() bool { return a.State() == lease.StateMaster })
		b := p.start(nil)
		p.within(3*time.Second, "standby", func() bool { return b.State() == lease.StateHotStandby })

		before := a.Status().Counts
		if before.Undecided != 0 || before.RecordsFailed != 0 {
			t.Errorf("without a fault: %+v", before)
		}
		const beats = 20
		time.Sleep(beats * p.timing.Heartbeat)
		after := a.Status().Counts
		if n := after.Beats - before.Beats; n < beats-1 || n > beats+1 {
			t.Errorf("%d beats counted in the time of %d", n, beats)
		}
		if s := b.Status().Counts; s.Beats != 0 || s.Records < beats-2 {
			t.Errorf("a standby: %+v", s)
		}

		lost := a.store.Inject(faulty.Fault{Op: faulty.CAS, Err: errDown, Count: 3})
		records := b.store.Inject(faulty.Fault{Op: faulty.Put, Match: "nodes/", Drop: true, Err: errDown, Count: 2})
		p.within(5*time.Second, "the faults are over", func() bool { return lost.Fired() == 3 && records.Fired() == 2 })
		time.Sleep(2 * p.timing.Heartbeat)
		if n := a.Status().Counts.Undecided - before.Undecided; n != 3 {
			t.Errorf("%d undecided, 3 replies were lost", n)
		}
		if n := b.Status().Counts.RecordsFailed; n != 2 {
			t.Errorf("%d records failed, 2 were dropped", n)
		}
		p.check()
	})
}

// changes is how often the node came to the state for the reason.
func changes(m *member, to lease.State, code string) uint64 {
	return m.Status().Counts.Changes[ha.Change{To: to, Code: code}]
}

func TestStateChangesAreCountedByReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t).born()
		a := p.start(nil)
		p.within(time.Second, "master", func() bool { return a.State() == lease.StateMaster })
		b, c := p.start(nil), p.start(nil)
		p.within(3*time.Second, "standbys", func() bool {
			return b.State() == lease.StateHotStandby && c.State() == lease.StateHotStandby && a.Status().Nodes[b.id].Electable
		})
		if n := changes(a, lease.StateMaster, ha.ChangedReleased); n != 1 {
			t.Errorf("claimed a released register: %v", a.Status().Counts.Changes)
		}
		cut := a.store.Inject(faulty.Fault{Drop: true, Err: errDown})
		p.within(p.timing.Timeout, "it fails", func() bool { return a.State() == lease.StateFailed })
		p.within(p.timing.Timeout, "another is master", func() bool { return masterOf(b, c) != nil })
		m := masterOf(b, c)
		if cut.Fired() == 0 {
			t.Error("the fault never fired")
		}
		a.store.Clear()
		p.within(3*time.Second, "it follows", func() bool { return a.State() == lease.StateHotStandby })
		if changes(a, lease.StateFailed, "LEASE_LOST") != 1 || changes(a, lease.StateHotStandby, ha.ChangedFollows) == 0 {
			t.Errorf("lost its lease: %v", a.Status().Counts.Changes)
		}
		if changes(m, lease.StateMaster, ha.ChangedSilent) != 1 {
			t.Errorf("took over: %v", m.Status().Counts.Changes)
		}
		m.stop()
		<-m.ended
		if changes(m, lease.StateTerminated, ha.ChangedStopped) != 1 || changes(m, lease.StateHotStandby, ha.ChangedLeft) != 1 {
			t.Errorf("was stopped: %v", m.Status().Counts.Changes)
		}
		if n := m.Status().History[0]; n.State != lease.StateTerminated || n.Code != ha.ChangedStopped {
			t.Errorf("history: %+v", n)
		}
		p.check()
	})
}

// warned reports whether the node warns of a late heartbeat at this moment.
func warned(m *member) bool {
	return slices.ContainsFunc(m.Status().WarningsAt(m.Now()), func(w string) bool { return strings.HasPrefix(w, "HEARTBEAT_LATE: ") })
}

func TestLateHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t).born()
		a := p.start(nil)
		p.within(time.Second, "master", func() bool { return a.State() == lease.StateMaster })
		time.Sleep(10 * time.Second)
		if warned(a) || a.Status().Counts.Late != 0 {
			t.Error("late without a fault")
		}
		down := a.store.Inject(faulty.Fault{Op: faulty.CAS, Drop: true, Err: errDown})
		took := p.within(p.timing.StopAfter(), "the warning", func() bool { return warned(a) })
		if took < p.timing.LateAfter()-p.timing.Heartbeat || took > p.timing.LateAfter() {
			t.Errorf("warned %v after the store was lost; D/2 is %v and the heartbeat %v", took, p.timing.LateAfter(), p.timing.Heartbeat)
		}
		p.within(time.Second, "the event", func() bool { return a.Status().Counts.Late == 1 })
		a.store.Clear()
		if down.Fired() == 0 {
			t.Error("the fault never fired")
		}
		time.Sleep(2 * p.timing.Heartbeat)
		if !warned(a) || a.Status().Counts.Late != 1 || a.State() != lease.StateMaster {
			t.Errorf("just afterwards: warned %v, counted %d, %s", warned(a), a.Status().Counts.Late, a.State())
		}
		time.Sleep(p.timing.Timeout)
		if warned(a) {
			t.Error("still warns of what is long over")
		}
		p.check()
	})
}

// What is shown as the latency of the store is that of its last operation, at
// the node itself and, by way of its record, at the others.
func TestStoreLatencyIsTrue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t).born()
		a := p.start(nil)
		p.within(time.Second, "master", func() bool { return a.State() == lease.StateMaster })
		b := p.start(nil)
		p.within(3*time.Second, "standby", func() bool { return b.State() == lease.StateHotStandby })
		const slow = 40 * time.Millisecond
		f := a.store.Inject(faulty.Fault{Op: faulty.CAS, Delay: slow})
		g := b.store.Inject(faulty.Fault{Delay: 2 * slow})
		time.Sleep(2 * time.Second)
		if d := a.Status().Store.Latency; d != slow {
			t.Errorf("the master shows %v", d)
		}
		if d := b.Status().Store.Latency; d != 2*slow {
			t.Errorf("the standby shows %v", d)
		}
		p.within(15*time.Second, "the others know", func() bool {
			return b.Status().Nodes[a.id].StoreMs == slow.Milliseconds() && a.Status().Nodes[b.id].StoreMs == 2*slow.Milliseconds()
		})
		if f.Fired() == 0 || g.Fired() == 0 {
			t.Error("a fault never fired")
		}
	})
}

// A service that ends and comes back counts as a restart, and its node as
// MASTER again in the same term.
func TestRestartsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t).born()
		svc := newScripted()
		a := p.start(func(o *ha.Options) { o.Service, o.OnReign = svc, nil })
		p.within(time.Second, "master", func() bool { return a.State() == lease.StateMaster })
		term := a.Status().Term
		svc.say(ha.ServiceEvent{Kind: ha.ServiceUnready, Term: term})
		p.within(time.Second, "it restarts", func() bool { return a.State() == lease.StateInitializing })
		svc.say(ha.ServiceEvent{Kind: ha.ServiceReady, Term: term})
		p.within(time.Second, "it is back", func() bool { return a.State() == lease.StateMaster })
		if n := a.Status().Counts.Restarts; n != 1 {
			t.Errorf("%d restarts", n)
		}
		if changes(a, lease.StateInitializing, ha.ChangedRestart) != 1 || changes(a, lease.StateMaster, ha.ChangedRecovered) != 1 {
			t.Errorf("%v", a.Status().Counts.Changes)
		}
	})
}

// scripted is a service that does as it is asked at once, and says what a test
// has it say.
type scripted struct{ events chan ha.ServiceEvent }

func newScripted() *scripted { return &scripted{events: make(chan ha.ServiceEvent, 64)} }

func (s *scripted) say(e ha.ServiceEvent) { s.events <- e }

func (s *scripted) Arm(d ha.Deadline) {
	s.say(ha.ServiceEvent{Kind: ha.ServiceArmed, Term: d.Term, T0: d.T0})
}

func (s *scripted) Start(o ha.StartOrder) {
	s.say(ha.ServiceEvent{Kind: ha.ServiceReady, Term: o.Term})
}

func (s *scripted) Stop(t lease.Term, _ ha.StopReason) {
	s.say(ha.ServiceEvent{Kind: ha.ServiceEmpty, Term: t})
}
func (s *scripted) Kill(t lease.Term, why ha.StopReason) { s.Stop(t, why) }
func (s *scripted) Events() <-chan ha.ServiceEvent       { return s.events }
func (s *scripted) Info() ha.ServiceInfo                 { return ha.ServiceInfo{Phase: "ready"} }
func (s *scripted) Close() error                         { return nil }
