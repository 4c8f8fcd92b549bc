package ha_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/understudy-ha/understudy/persistence/faulty"
	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// settled starts three nodes, which reach one another through the store alone,
// and waits until all know all. The first one is master.
func (p *plane) settled(change func(*ha.Options)) (a, b, c *member) {
	p.t.Helper()
	a = p.start(change)
	p.within(2*time.Second, "a master", func() bool { return a.State() == lease.StateMaster })
	b, c = p.start(change), p.start(change)
	p.within(6*p.timing.Heartbeat, "everybody knows everybody", func() bool {
		for _, n := range []*member{a, b, c} {
			s := n.Status()
			for _, id := range []lease.NodeID{b.id, c.id} {
				if ns := s.Nodes[id]; len(s.Nodes) != 3 || !ns.Electable || !ns.Fresh(p.clock(), 0) {
					return false
				}
			}
		}
		return true
	})
	return a, b, c
}

// await waits for an operation's end.
func (p *plane) await(m *member, id string, within time.Duration) ha.Operation {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), within)
	defer cancel()
	op, err := m.Await(ctx, id)
	if err != nil {
		p.t.Fatalf("operation %s: %v; it is %+v", id, err, op)
	}
	return op
}

func (p *plane) operate(m *member, r ha.OperationRequest) ha.Operation {
	p.t.Helper()
	op, err := m.Operate(p.t.Context(), r)
	if err != nil {
		p.t.Fatalf("%s: %v", r.Kind, err)
	}
	return op
}

// refused checks that a request is refused for a reason that contains the word.
func (p *plane) refused(m *member, r ha.OperationRequest, word string) {
	p.t.Helper()
	_, err := m.Operate(p.t.Context(), r)
	var pre *ha.PreconditionError
	if !errors.As(err, &pre) || !strings.Contains(pre.Error(), word) {
		p.t.Errorf("%s: %v, want a refusal because of %q", r.Kind, err, word)
	}
}

func TestSwitchoverThroughTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t).born()
		a, b, c := p.settled(nil)
		from := time.Now()
		op := p.operate(b, ha.OperationRequest{Kind: ha.OpSwitchover, To: c.id, Reason: "patching", Actor: "ann"})
		taken := p.within(2*p.timing.Heartbeat+50*time.Millisecond, "the master takes it up", func() bool { return a.State() != lease.StateMaster })
		op = p.await(b, op.ID, 5*time.Second)
		if op.State != ha.OpDone || op.Master != c.id || op.From != a.id || op.To != c.id || op.Ended == nil {
			t.Errorf("operation: %+v", op)
		}
		t.Logf("taken up after %v, done after %v", taken, time.Since(from))
		if c.State() != lease.StateMaster {
			t.Errorf("the target is %s", c.State())
		}
		p.within(4*p.timing.Heartbeat, "history says who asked", func() bool {
			l := b.Status().Reigns
			return len(l) == 2 && l[0].Actor == "ann" && l[0].Code == "switchover" && l[1].EndCode == "switchover" && strings.Contains(l[1].EndReason, "patching")
		})
		p.within(4*p.timing.Heartbeat, "nothing stands any more", func() bool {
			return len(a.Status().Operations)+len(b.Status().Operations)+len(c.Status().Operations) == 0
		})
		if l, err := b.Planned(t.Context()); !errors.Is(err, ha.ErrNoOperation) {
			t.Errorf("still planned: %+v, %v", l, err)
		}
		p.check()
	})
}

func TestSwitchoverToTheBest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t).born()
		a, b, c := p.settled(nil)
		if _, err := c.SetPriority(t.Context(), 3); err != nil {
			t.Fatal(err)
		}
		p.within(4*p.timing.Heartbeat, "the priority is known", func() bool { return a.Status().Nodes[c.id].Priority == 3 && b.Status().Nodes[c.id].Priority == 3 })
		plan, err := b.Operate(t.Context(), ha.OperationRequest{Kind: ha.OpSwitchover, DryRun: true})
		if err != nil || plan.ID != "" || plan.To != c.id {
			t.Errorf("dry run: %+v, %v", plan, err)
		}
		op := p.operate(a, ha.OperationRequest{Kind: ha.OpStepDown, HoldOff: time.Minute})
		if op = p.await(a, op.ID, 5*time.Second); op.State != ha.OpDone || op.Master != c.id {
			t.Errorf("operation: %+v", op)
		}
		p.within(time.Second, "the old master is held off", func() bool { s := a.Status(); return !s.Electable && s.Why == election.ReasonHeldOff })
		p.check()
	})
}

func TestWhatIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t).born()
		a, b, c := p.settled(nil)
		p.refused(b, ha.OperationRequest{Kind: ha.OpSwitchover, To: a.id}, "is master already")
		p.refused(b, ha.OperationRequest{Kind: ha.OpSwitchover, To: "nobody22"}, "not known")
		p.operate(b, ha.OperationRequest{Kind: ha.OpMaintenance, Node: c.id, Reason: "new disk"})
		p.within(6*p.timing.Heartbeat, "its maintenance is known", func() bool { return b.Status().Nodes[c.id].Why == election.ReasonMaintenance })
		p.refused(b, ha.OperationRequest{Kind: ha.OpSwitchover, To: c.id, DryRun: true}, "MAINTENANCE")
		b.stop()
		<-b.ended
		p.within(6*p.timing.Heartbeat, "it is known to be gone", func() bool { return a.Status().Nodes[b.id].State == lease.StateTerminated })
		for _, r := range []ha.OperationRequest{{Kind: ha.OpSwitchover}, {Kind: ha.OpStepDown}, {Kind: ha.OpFailover}} {
			p.refused(a, r, "was stopped")
			p.refused(a, r, "MAINTENANCE") // every reason
		}
		p.refused(a, ha.OperationRequest{Kind: ha.OpMaintenance, Node: a.id}, "nobody could take over")
		for word, r := range map[string]ha.OperationRequest{
			"in the past":    {Kind: ha.OpSwitchover, At: time.Now().Add(-time.Hour)},
			"a year":         {Kind: ha.OpSwitchover, At: time.Now().Add(20000 * time.Hour)},
			"has no target":  {Kind: ha.OpPause, To: c.id},
			"for one node":   {Kind: ha.OpMaintenance},
			"on one line":    {Kind: ha.OpAck, Reason: "a\nb"},
			"lists the node": {Kind: ha.OpSwitchover, To: "../../etc"},
		} {
			var usage *ha.UsageError
			if _, err := a.Operate(t.Context(), r); !errors.As(err, &usage) || !strings.Contains(err.Error(), word) {
				t.Errorf("%+v: %v, want %q", r, err, word)
			}
		}
		if _, err := a.Operation(t.Context(), "../lease"); !errors.Is(err, ha.ErrNoOperation) {
			t.Errorf("an id that is a path: %v", err)
		}
		if got := a.State(); got != lease.StateMaster {
			t.Errorf("the master is %s", got)
		}
		p.check()
	})
}

func TestPlannedSwitchover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t).born()
		a, b, c := p.settled(nil)
		plan := ha.OperationRequest{Kind: ha.OpSwitchover, To: c.id, At: time.Now().Add(30 * time.Second), Actor: "ann"}
		op := p.operate(b, plan)
		p.within(4*p.timing.Heartbeat, "it is planned", func() bool {
			l := c.Status().Operations
			return len(l) == 1 && l[0].State == ha.OpScheduled
		})
		var busy *ha.BusyError
		if _, err := c.Operate(t.Context(), ha.OperationRequest{Kind: ha.OpSwitchover}); !errors.As(err, &busy) || busy.Other.ID != op.ID {
			t.Errorf("a second one: %v", err)
		}
		if _, err := c.CancelPlanned(t.Context(), "bob"); err != nil {
			t.Errorf("cancel: %v", err)
		}
		if op = p.await(a, op.ID, time.Second); op.State != ha.OpCancelled || !slices.Contains(op.Reasons, "cancelled by bob") {
			t.Errorf("cancelled: %+v", op)
		}
		// The node that takes the next one dies before its time, and so does
		// the master: the master of the moment carries it out.
		plan.At = time.Now().Add(30 * time.Second)
		op = p.operate(b, plan)
		b.stop()
		<-b.ended
		time.Sleep(20 * time.Second)
		if a.State() != lease.StateMaster {
			t.Error("it came before its time")
		}
		d := p.start(nil)
		p.within(6*p.timing.Heartbeat, "a fourth node", func() bool { return a.Status().Nodes[d.id].Electable })
		if early := p.within(30*time.Second, "the target is master", func() bool { return c.State() == lease.StateMaster }); time.Now().Before(plan.At) {
			t.Errorf("it came %v early", early)
		}
		if late := time.Since(plan.At); late > 2*p.timing.Heartbeat {
			t.Errorf("it came %v late", late)
		}
		if op = p.await(d, op.ID, 2*time.Second); op.State != ha.OpDone {
			t.Errorf("done: %+v", op)
		}
		p.check()
	})
}

func TestTargetThatDoesNotCome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t).born()
		a, b, c := p.settled(nil)
		cut := c.store.Inject(faulty.Fault{Drop: true, Err: errDown}) // it looks fresh for a while yet
		op := p.operate(b, ha.OperationRequest{Kind: ha.OpSwitchover, To: c.id})
		gap := p.within(p.timing.Takeover+4*p.timing.Heartbeat, "somebody else takes over", func() bool {
			return op.ID != "" && a.Status().Term > 1 && (a.State() == lease.StateMaster || b.State() == lease.StateMaster)
		})
		op = p.await(b, op.ID, 5*time.Second)
		if op.State != ha.OpRolledBack || len(op.Reasons) == 0 || op.To != c.id || op.From != a.id {
			t.Errorf("operation: %+v", op)
		}
		t.Logf("rolled back after %v: %v", gap, op.Reasons)
		if cut.Fired() == 0 {
			t.Error("the fault never fired")
		}
		c.store.Clear()
		p.check()
	})
}

func TestVeto(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t).born()
		asked := make(chan lease.NodeID, 10)
		a, b, c := p.settled(func(o *ha.Options) {
			o.PreSwitchover = func(_ context.Context, _ lease.Term, to lease.NodeID, _ string) error {
				asked <- to
				return errors.New("the preSwitchover hook vetoed: a backup is running")
			}
		})
		op := p.operate(b, ha.OperationRequest{Kind: ha.OpSwitchover, To: c.id})
		if op = p.await(b, op.ID, 5*time.Second); op.State != ha.OpFailed || !strings.Contains(strings.Join(op.Reasons, ""), "backup") {
			t.Errorf("vetoed: %+v", op)
		}
		if to := <-asked; to != c.id || a.State() != lease.StateMaster {
			t.Errorf("asked of %s, the master is %s", to, a.State())
		}
		op = p.operate(b, ha.OperationRequest{Kind: ha.OpFailover, To: c.id, Force: true})
		if op = p.await(b, op.ID, 5*time.Second); op.State != ha.OpDone || c.State() != lease.StateMaster || len(asked) > 0 {
			t.Errorf("forced: %+v", op)
		}
		p.check()
	})
}

func TestPauseAndTheDeathOfTheMaster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t).born()
		a, b, c := p.settled(nil)
		op := p.operate(b, ha.OperationRequest{Kind: ha.OpPause, Reason: "storage work"})
		if op = p.await(b, op.ID, 5*time.Second); op.State != ha.OpRunning {
			t.Errorf("pause: %+v", op)
		}
		p.within(2*p.timing.Heartbeat, "everybody sees it", func() bool { return b.Status().Paused && c.Status().Paused })
		a.store.Inject(faulty.Fault{Drop: true, Err: errDown}) // as good as dead
		p.within(p.timing.Timeout, "a paused master that loses the store stops", func() bool { return p.serving() == "" })
		time.Sleep(3 * p.timing.Timeout)
		if p.serving() != "" {
			t.Fatalf("%s took over a paused plane", p.serving())
		}
		resume := p.operate(b, ha.OperationRequest{Kind: ha.OpResume})
		took := p.within(6*p.timing.Heartbeat, "somebody takes over once it is resumed", func() bool { return p.serving() == b.id || p.serving() == c.id })
		t.Logf("resume to service: %v", took)
		if resume = p.await(b, resume.ID, 5*time.Second); resume.State != ha.OpDone || b.Status().Paused {
			t.Errorf("resume: %+v", resume)
		}
		if op = p.await(c, op.ID, time.Second); op.State != ha.OpDone {
			t.Errorf("the pause after all: %+v", op)
		}
		a.store.Clear()
		p.check()
	})
}

func TestPauseEndsByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t).born()
		a, b, _ := p.settled(nil)
		op := p.operate(b, ha.OperationRequest{Kind: ha.OpPause, TTL: 20 * time.Second})
		p.await(b, op.ID, 5*time.Second)
		// An operator may still move the mastership, and the pause goes along.
		over := p.operate(a, ha.OperationRequest{Kind: ha.OpSwitchover, To: b.id})
		if over = p.await(a, over.ID, 5*time.Second); over.State != ha.OpDone || !b.Status().Paused {
			t.Errorf("switchover while paused: %+v", over)
		}
		p.within(20*time.Second, "it ends", func() bool { return !a.Status().Paused && !b.Status().Paused })
		if early := time.Until(*op.Until); early > 0 {
			t.Errorf("it ended %v early", early)
		}
		p.check()
	})
}

func TestMaintenance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t).born()
		a, b, c := p.settled(nil)
		op := p.operate(c, ha.OperationRequest{Kind: ha.OpMaintenance, Node: a.id, Reason: "new disk", Actor: "ann"})
		if op = p.await(c, op.ID, 10*time.Second); op.State != ha.OpRunning {
			t.Errorf("maintenance: %+v", op)
		}
		next := masterOf(b, c)
		if next == nil || a.State() != lease.StateHotStandby || a.Status().Why != election.ReasonMaintenance {
			t.Fatalf("after it: %s, %s, %s", a.State(), b.State(), c.State())
		}
		// It outlives the node, and whoever is in it never claims.
		id := a.id
		a.stop()
		<-a.ended
		a = p.start(func(o *ha.Options) { o.Node = id })
		for _, m := range []*member{b, c} {
			m.stop()
			<-m.ended
		}
		time.Sleep(3 * p.timing.Timeout)
		if a.State() == lease.StateMaster || a.Status().Why != election.ReasonMaintenance {
			t.Errorf("in maintenance, and alone: %s %s", a.State(), a.Status().Why)
		}
		if err := a.EndMaintenance(t.Context(), id, "ann"); err != nil {
			t.Error(err)
		}
		p.within(6*p.timing.Heartbeat, "it may again", func() bool { return a.State() == lease.StateMaster })
		if err := a.EndMaintenance(t.Context(), id, "ann"); !errors.Is(err, ha.ErrNoOperation) {
			t.Errorf("ended twice: %v", err)
		}
		p.check()
	})
}

func TestMaintenanceEndsByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t).born()
		_, b, c := p.settled(nil)
		op := p.operate(b, ha.OperationRequest{Kind: ha.OpMaintenance, Node: c.id, TTL: 15 * time.Second})
		p.await(b, op.ID, 5*time.Second)
		if c.Status().Electable {
			t.Error("electable in maintenance")
		}
		p.within(15*time.Second+4*p.timing.Heartbeat, "it ends", func() bool { return c.Status().Electable && len(b.Status().Operations) == 0 })
		p.check()
	})
}

func TestFailoverWithoutAMaster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t).born()
		a, b, c := p.settled(nil)
		if _, err := b.SetPriority(t.Context(), 9); err != nil { // it would be the next one
			t.Fatal(err)
		}
		p.within(4*p.timing.Heartbeat, "the priority is known", func() bool { return c.Status().Nodes[b.id].Priority == 9 })
		cut := a.store.Inject(faulty.Fault{Drop: true, Err: errDown})
		p.within(2*p.timing.Timeout, "no master", func() bool { return !b.Status().HolderOK && !c.Status().HolderOK })
		p.refused(c, ha.OperationRequest{Kind: ha.OpSwitchover, To: c.id}, "failover")
		op := p.operate(c, ha.OperationRequest{Kind: ha.OpFailover, To: c.id, Actor: "ann"})
		if op = p.await(c, op.ID, 3*p.timing.Timeout); op.State != ha.OpDone || op.Master != c.id || c.State() != lease.StateMaster {
			t.Errorf("failover: %+v", op)
		}
		if cut.Fired() == 0 {
			t.Error("the fault never fired")
		}
		a.store.Clear()
		p.check()
	})
}

// History tells of each reign why it ended, by a code.
func TestWhyReignsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t).born()
		a, b, c := p.settled(nil)
		ended := func(want string) {
			t.Helper()
			p.within(3*p.timing.Timeout, "the reign ends by "+want, func() bool {
				m := masterOf(a, b, c)
				if m == nil {
					return false
				}
				l := m.Status().Reigns
				return len(l) > 1 && l[0].To == nil && l[1].To != nil && l[1].EndCode == want
			})
		}
		if _, err := a.SetMode(t.Context(), lease.ModeHotStandby, false); err != nil {
			t.Fatal(err)
		}
		ended(election.EndMode)
		m := masterOf(a, b, c)
		cut := m.store.Inject(faulty.Fault{Drop: true, Err: errDown})
		p.within(2*p.timing.Timeout, "it is silent", func() bool { return masterOf(a, b, c) == nil })
		ended(ha.EndSilent)
		if cut.Fired() == 0 {
			t.Error("the fault never fired")
		}
		m.store.Clear()
		p.within(6*p.timing.Heartbeat, "it is back", func() bool { return masterOf(a, b, c).Status().Nodes[m.id].Electable })
		masterOf(a, b, c).Shutdown("asked to")
		ended(election.EndShutdown)
		p.check()
	})
}

func TestFailbackAndAck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t).born()
		a, b, c := p.settled(func(o *ha.Options) {
			o.Failback = election.Failback{Policy: election.FailbackAfter, After: 20 * time.Second}
			o.AntiFlap = election.AntiFlap{Changes: 1, Window: 10 * time.Minute}
		})
		if _, err := b.SetPriority(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		p.within(20*time.Second+6*p.timing.Heartbeat, "the better node gets it", func() bool { return b.State() == lease.StateMaster })
		p.within(4*p.timing.Heartbeat, "history tells", func() bool {
			l := a.Status().Reigns
			return len(l) == 2 && l[0].Code == ha.CodeNamed && l[1].EndCode == election.EndFailback
		})
		// One role change that nobody asked for, and the plane stays where it is.
		cut := b.store.Inject(faulty.Fault{Drop: true, Err: errDown})
		p.within(2*p.timing.Timeout, "another takes over", func() bool { n := masterOf(a, c); return n != nil })
		b.store.Clear()
		p.within(6*p.timing.Heartbeat, "the better one is back", func() bool { return masterOf(a, c).Status().Nodes[b.id].Electable })
		time.Sleep(time.Minute)
		m := masterOf(a, c)
		if m == nil || !m.Status().Flapping {
			t.Fatalf("it failed back although it flaps: %s", b.State())
		}
		op := p.operate(b, ha.OperationRequest{Kind: ha.OpAck, Actor: "ann"})
		if op = p.await(b, op.ID, 5*time.Second); op.State != ha.OpDone {
			t.Errorf("ack: %+v", op)
		}
		p.within(6*p.timing.Heartbeat, "it fails back", func() bool { return b.State() == lease.StateMaster })
		p.within(6*p.timing.Heartbeat, "nobody holds anything", func() bool { return !a.Status().Flapping && !b.Status().Flapping && !c.Status().Flapping })
		if cut.Fired() == 0 {
			t.Error("the fault never fired")
		}
		p.check()
	})
}

func TestEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t).born()
		a, b, c := p.settled(nil)
		_, more := c.Happened(0)
		op := p.operate(a, ha.OperationRequest{Kind: ha.OpSwitchover, To: b.id, Actor: "ann"})
		<-more
		p.await(a, op.ID, 5*time.Second)
		p.within(4*p.timing.Heartbeat, "the third node saw both masters", func() bool {
			es, _ := c.Happened(0)
			var saw []lease.NodeID
			for i, e := range es {
				if i > 0 && e.Seq != es[i-1].Seq+1 {
					t.Fatalf("event %d follows %d", e.Seq, es[i-1].Seq)
				}
				if e.Type == ha.EventNode && e.To == "MASTER" {
					saw = append(saw, e.Node)
				}
			}
			return slices.Contains(saw, b.id)
		})
		es, _ := b.Happened(0)
		if !slices.ContainsFunc(es, func(e ha.PlaneEvent) bool {
			return e.Type == ha.EventOperation && e.To == "done" && e.Operation.ID == op.ID && e.Operation.Actor == "ann"
		}) {
			t.Errorf("the new master says nothing of the operation: %+v", es)
		}
		last := es[len(es)-1].Seq
		if rest, _ := b.Happened(last); len(rest) > 0 {
			t.Errorf("after the last: %+v", rest)
		}
		p.check()
	})
}
