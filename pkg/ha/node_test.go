package ha_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/understudy-ha/understudy/persistence/faulty"
	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/lease"
)

func TestBirthElectionAndHandOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t)
		a, b, c := p.start(nil), p.start(nil), p.start(nil)
		// Two empty listings 5 s apart, a birth that nobody holds, one lease.
		p.within(5*time.Second+p.timing.ClaimAfter(0)+3*p.timing.Heartbeat, "first master", func() bool { return masterOf(a, b, c) != nil })
		m := masterOf(a, b, c)
		p.within(3*p.timing.Heartbeat, "everybody sees the same", func() bool {
			for _, n := range []*member{a, b, c} {
				s := n.Status()
				if len(s.Nodes) != 3 || s.Holder != m.id || !s.HolderOK || s.Plane == "" {
					return false
				}
				if n != m && n.State() != lease.StateHotStandby {
					return false
				}
			}
			return true
		})
		m.stop()
		<-m.ended
		if m.err != nil {
			t.Errorf("a clean stop returned %v", m.err)
		}
		p.within(p.timing.Heartbeat, "a successor after a clean stop", func() bool { n := masterOf(a, b, c); return n != nil && n != m })
		p.within(3*p.timing.Heartbeat, "the reign is in the history", func() bool {
			l := masterOf(a, b, c).Status().Reigns
			return len(l) == 2 && l[1].To != nil && l[1].Node == m.id && l[0].Node == masterOf(a, b, c).id
		})
		if got := m.State(); got != lease.StateTerminated {
			t.Errorf("stopped node shows %s", got)
		}
		p.check()
	})
}

func TestMasterThatLosesTheStoreStopsByItsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t).born()
		a := p.start(nil)
		p.within(time.Second, "master", func() bool { return a.State() == lease.StateMaster })
		b := p.start(nil)
		p.within(2*time.Second, "standby", func() bool { return b.State() == lease.StateHotStandby })
		cut := a.store.Inject(faulty.Fault{Drop: true, Err: errDown})
		stopped := p.within(p.timing.Timeout, "the service ends", func() bool { return p.serving() != a.id })
		if limit := p.timing.StopAfter() + p.timing.Heartbeat; stopped > limit {
			t.Errorf("stopped after %v, D + h is %v", stopped, limit)
		}
		if s := a.Status(); s.StateAt(p.clock()) != lease.StateFailed || s.Why != "LEASE_LOST" {
			t.Errorf("shows %s %s", s.StateAt(p.clock()), s.Why)
		}
		p.within(p.timing.ClaimAfter(0), "the other takes over", func() bool { return p.serving() == b.id })
		if cut.Fired() == 0 {
			t.Error("the fault never fired")
		}
		a.store.Clear()
		p.within(3*time.Second, "it comes back as a standby", func() bool { return a.State() == lease.StateHotStandby })
		p.check()
	})
}

func TestStoreThatHangsForEverybodyDelaysNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t).born()
		a, b := p.start(nil), p.start(nil)
		p.within(time.Second, "master", func() bool { return masterOf(a, b) != nil })
		m := masterOf(a, b)
		ha1 := a.store.Inject(faulty.Fault{Hang: true})
		ha2 := b.store.Inject(faulty.Fault{Hang: true})
		p.within(p.timing.StopAfter()+p.timing.Heartbeat, "the service ends", func() bool { return p.serving() == "" })
		loop := m.Status().LoopAt
		time.Sleep(2 * p.timing.Timeout)
		if p.serving() != "" {
			t.Error("somebody serves although nobody can reach the store")
		}
		if m.Status().LoopAt == loop {
			t.Error("the loop stands still")
		}
		for _, n := range []*member{a, b} {
			if s := n.Status(); s.StateAt(p.clock()) != lease.StateFailed || s.Detail == "" {
				t.Errorf("shows %s %q", s.StateAt(p.clock()), s.Detail)
			}
		}
		if ha1.Fired() == 0 || ha2.Fired() == 0 {
			t.Error("a fault never fired")
		}
		a.store.Clear()
		b.store.Clear()
		p.within(p.timing.ClaimAfter(0)+3*p.timing.Heartbeat, "it recovers by itself", func() bool { return p.serving() != "" })
		p.check()
	})
}

func TestStartTable(t *testing.T) {
	for _, c := range []struct {
		mode  lease.Mode
		alone int // exit code without a live master, -1: goes on
		with  int // the same with one
		state lease.State
	}{
		{lease.ModeAuto, -1, -1, lease.StateHotStandby},
		{lease.ModeMaster, -1, 3, ""},
		{lease.ModeStandby, 3, -1, lease.StateStandby},
		{lease.ModeHotStandby, 3, -1, lease.StateHotStandby},
		{lease.ModeHotBackup, -1, -1, lease.StateHotBackup},
		{lease.ModeDisabled, -1, 3, ""},
	} {
		as := func(o *ha.Options) { o.Mode = c.mode }
		exits := func(p *plane, n *member, code int, when string) {
			t.Helper()
			var exit *ha.ExitError
			if code < 0 {
				select {
				case <-n.ended:
					t.Errorf("%s %s: ended: %v", c.mode, when, n.err)
				default:
				}
				return
			}
			p.within(3*p.timing.Timeout, string(c.mode)+" refuses "+when, func() bool {
				select {
				case <-n.ended:
					return true
				default:
					return false
				}
			})
			if !errors.As(n.err, &exit) || exit.Code != code || !strings.Contains(exit.Reason, "master") && !strings.Contains(exit.Reason, "alive") {
				t.Errorf("%s %s: %v", c.mode, when, n.err)
			}
		}
		synctest.Test(t, func(t *testing.T) {
			p := newPlane(t).born()
			n := p.start(as)
			time.Sleep(2 * p.timing.Timeout)
			exits(p, n, c.alone, "alone")
			if want := c.mode == lease.ModeAuto || c.mode == lease.ModeMaster || c.mode == lease.ModeDisabled; (p.serving() == n.id) != want {
				t.Errorf("%s alone: serves: %v", c.mode, !want)
			}
		})
		synctest.Test(t, func(t *testing.T) {
			p := newPlane(t).born()
			m := p.start(nil)
			p.within(time.Second, "master", func() bool { return m.State() == lease.StateMaster })
			n := p.start(as)
			time.Sleep(2 * p.timing.Timeout)
			exits(p, n, c.with, "beside a master")
			if c.state != "" && n.State() != c.state {
				t.Errorf("%s beside a master shows %s", c.mode, n.State())
			}
			p.check()
		})
	}
}

func TestModesAndPrioritiesWhileRunning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t).born()
		a := p.start(nil)
		p.within(time.Second, "master", func() bool { return a.State() == lease.StateMaster })
		ctx := t.Context()
		var refused *ha.PreconditionError
		if _, err := a.SetMode(ctx, lease.ModeHotStandby, false); !errors.As(err, &refused) {
			t.Fatalf("left the plane without a master: %v", err)
		}
		b, c := p.start(nil), p.start(nil)
		p.within(5*time.Second, "candidates", func() bool { return len(a.Status().Nodes) == 3 && a.Status().Nodes[c.id].Electable })

		// Brooklyn's recipe: priority of the target up, master to HOT_STANDBY.
		if before, err := c.SetPriority(ctx, 1); err != nil || before != 0 {
			t.Fatalf("priority: %d, %v", before, err)
		}
		p.within(3*time.Second, "the priority shows", func() bool { return b.Status().Nodes[c.id].Priority == 1 })
		if before, err := a.SetMode(ctx, lease.ModeHotStandby, false); err != nil || before != lease.StateMaster {
			t.Fatalf("mode: %s, %v", before, err)
		}
		p.within(time.Second, "the preferred one", func() bool { return p.serving() == c.id })
		if before, err := c.SetPriority(ctx, 0); err != nil || before != 1 {
			t.Fatalf("priority: %d, %v", before, err)
		}

		// MASTER on a standby is a switchover, by way of the store.
		p.within(5*time.Second, "b shows as electable", func() bool { return c.Status().Nodes[b.id].Electable })
		wait, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		if before, err := b.SetMode(wait, lease.ModeMaster, false); err != nil || before != lease.StateHotStandby {
			t.Fatalf("mode: %s, %v", before, err)
		}
		if p.serving() != b.id {
			t.Error("not moved")
		}
		p.check()
	})
}

// Two processes with one node id (R14): the newcomer gives way.
func TestClonedNodeIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t).born()
		m := p.start(nil)
		p.within(time.Second, "master", func() bool { return m.State() == lease.StateMaster })
		a := p.start(nil)
		p.within(3*time.Second, "standby", func() bool { return a.State() == lease.StateHotStandby })
		time.Sleep(5 * time.Second)
		b := p.start(func(o *ha.Options) { o.Node = a.id })
		p.within(10*time.Second, "the clone ends", func() bool {
			select {
			case <-b.ended:
				return true
			default:
				return false
			}
		})
		var exit *ha.ExitError
		if !errors.As(b.err, &exit) || exit.Code != 3 || !strings.Contains(exit.Reason, string(a.id)) {
			t.Errorf("clone: %v", b.err)
		}
		if a.State() != lease.StateHotStandby {
			t.Errorf("the elder shows %s", a.State())
		}
		p.check()
	})
}

// A restart of the same node is not a clone, however it ended.
func TestRestartIsNoClone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t).born()
		a := p.start(nil)
		p.within(time.Second, "master", func() bool { return a.State() == lease.StateMaster })
		b := p.start(nil)
		p.within(3*time.Second, "standby", func() bool { return b.State() == lease.StateHotStandby })
		// It vanishes without a word: the store no longer hears it.
		b.store.Inject(faulty.Fault{Drop: true, Err: errDown})
		again := p.start(func(o *ha.Options) { o.Node = b.id })
		time.Sleep(time.Minute)
		select {
		case <-again.ended:
			t.Errorf("the restarted node ended: %v", again.err)
		default:
		}
		p.check()
	})
}

func TestServiceThatEndsGivesTheTermUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t).born()
		a := p.start(func(o *ha.Options) {
			o.Priority = 1
			o.OnReign = func(context.Context, ha.Reign) error { return errors.New("no such table") }
		})
		p.within(time.Second, "it fails", func() bool { return a.State() == lease.StateFailed })
		b := p.start(nil)
		p.within(10*time.Second, "the other serves", func() bool { return p.serving() == b.id })
		s := a.Status()
		if s.StateAt(p.clock()) != lease.StateFailed || s.Why != "SERVICE_FAILED" || !strings.Contains(s.Detail, "no such table") {
			t.Errorf("shows %s %s %q", s.StateAt(p.clock()), s.Why, s.Detail)
		}
		p.check()
	})
}

// A reply that is lost must not cost the mastership: reading back settles it.
func TestLostRepliesAreSettledByReadingBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t).born()
		a := p.start(nil)
		lost := a.store.Inject(faulty.Fault{Op: faulty.CAS, Err: errDown})
		p.within(2*time.Second, "master", func() bool { return a.State() == lease.StateMaster })
		b := p.start(nil)
		for range 60 {
			time.Sleep(time.Second)
			if a.State() != lease.StateMaster {
				t.Fatalf("lost the mastership: %+v", a.Status())
			}
		}
		if lost.Fired() < 50 || b.State() != lease.StateHotStandby {
			t.Errorf("fired %d times, the other shows %s", lost.Fired(), b.State())
		}
		p.check()
	})
}
