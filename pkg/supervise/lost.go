package supervise

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/understudy-ha/understudy/pkg/clock"
	"github.com/understudy-ha/understudy/pkg/guard"
	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// guardLost begins the search for what the guard left.
func (s *Supervisor) guardLost(why string) {
	pid := s.guard.Pid()
	s.guard = nil
	s.hooksLost(why)
	s.endRun()
	s.term.stopAt = time.Time{} // how long this takes says nothing about the service
	term := s.term.order.Term
	if p := s.proving; p != nil {
		term = max(term, p.term)
	}
	s.proving = &proving{term: term, since: time.Now()}
	if !s.killed {
		s.o.Log.Error("the guard died", zap.Int("pid", pid), zap.String("why", why))
		if s.proving.term > s.dead {
			s.say(ha.ServiceEvent{Kind: ha.ServiceGuardLost, Term: s.proving.term, Why: why})
		}
	}
	s.killed = false
	s.proofTick.Reset(proofEvery)
	s.prove()
}

// prove looks whether the tree of the lost guard is gone, and if so starts a
// new guard, which refuses the old terms.
func (s *Supervisor) prove() {
	p := s.proving
	if p == nil {
		s.proofTick.Reset(time.Hour)
		return
	}
	if p.outside {
		if !p.stuck && s.overdue(p) {
			s.stuck(p, p.words())
		}
		return
	}
	gone, why := true, ""
	tree, found, err := guard.LoadTree(s.o.DataDir)
	switch {
	case err != nil:
		gone, why = false, err.Error()
	case found && s.o.Subreaper:
		s.sole.Store(true)
		gone, why = tree.Sweep(s.o.DataDir)
	case found:
		gone, why = tree.Gone()
	}
	if !gone {
		if !p.stuck && s.overdue(p) {
			s.stuck(p, why)
		}
		return
	}
	s.sole.Store(false)
	if found && tree.Outside && !tree.Empty {
		p.outside = true
		s.spawn(0)
		return
	}
	s.proving = nil
	s.proofTick.Reset(time.Hour)
	s.lower()
	if p.term > s.dead {
		s.over(p.term)
	}
	s.spawn(0)
}

// provenByGuard: the guard says that a term is over. If that is what a lost
// guard has left, it is over for all that was asked since.
func (s *Supervisor) provenByGuard(t lease.Term) lease.Term {
	if p := s.proving; p != nil && p.outside {
		t = max(t, p.term)
		s.proving = nil
	}
	return t
}

func (p *proving) words() string {
	if p.answer == "" {
		return "service.probe has not said yet that the service has stopped"
	}
	return "the service is not proven to have stopped: " + p.answer
}

func (s *Supervisor) stuck(p *proving, why string) {
	p.stuck = true
	s.show(phaseStuck, s.Info().Pid, why)
	s.say(ha.ServiceEvent{Kind: ha.ServiceStuck, Term: p.term, Why: why})
}

// overdue reports whether what a lost guard left has lived for too long: past
// the end of the right to serve, as its guard would have said (R11), or, with
// the lease ahead, for longer than the kernel can need.
func (s *Supervisor) overdue(p *proving) bool {
	since, d := time.Since(p.since), s.deadline
	if d.Term == p.term && since > killTakes && clock.Now().Longest(d.T0) >= d.End {
		return true
	}
	return since > stuckAfter
}

func (s *Supervisor) spawn(wait time.Duration) {
	o := s.gopt
	o.MinTerm = s.dead
	if p := s.proving; p != nil {
		o.Unproven = p.term
	}
	s.wg.Go(func() {
		if pause(s.ctx, wait) != nil {
			return
		}
		for s.o.sole != nil && s.o.sole.Load() {
			if pause(s.ctx, respawnPause) != nil {
				return
			}
		}
		ctx, cancel := context.WithTimeout(s.ctx, guardAnswers)
		defer cancel()
		c, err := guard.Start(ctx, o)
		s.spawned <- spawned{c, err} // one at a time: never blocks
	})
}

func (s *Supervisor) guardStarted(r spawned) {
	if r.err != nil {
		s.o.Log.Error("no new guard", zap.Error(r.err))
		s.spawn(respawnPause)
		return
	}
	s.guard = r.client
	s.show(s.Info().Phase, 0, "")
	s.o.Log.Info("new guard", zap.Int("pid", s.guard.Pid()))
	if d := s.pending; d != nil && d.Term > s.dead {
		s.guard.Arm(guard.Deadline(*d))
	}
	s.pending = nil
}
