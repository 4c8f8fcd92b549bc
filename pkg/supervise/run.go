package supervise

import (
	"context"
	"fmt"
	"time"

	"github.com/understudy-ha/understudy/pkg/guard"
	"github.com/understudy-ha/understudy/pkg/ha"
)

// begin starts the service for the first time in the present term.
func (s *Supervisor) begin() {
	s.term.waits = false
	if len(s.o.Probe) > 0 {
		s.probe()
		return
	}
	s.launch(phaseStarting)
}

// launch starts a run of the service in the present term, once what it needs
// is there.
func (s *Supervisor) launch(phase string) {
	if s.o.Prepare != nil {
		s.prepare(phase)
		return
	}
	s.runArgv(phase, s.o.Command)
}

// runArgv asks the guard for a run in the present term.
func (s *Supervisor) runArgv(phase string, argv []string) {
	t := &s.term
	if s.guard == nil {
		s.fail("there is no guard process to start the service", -1)
		return
	}
	s.runs++
	t.run, t.again = s.runs, false
	s.show(phase, 0, "")
	s.guard.Start(guard.Run{Term: t.order.Term, ID: t.run, Argv: argv, Env: t.env, Dir: s.o.Dir})
	s.after(time.Until(t.startedBy), func() {
		s.fail(fmt.Sprintf("the service did not start within startTimeout (%v)", s.o.StartTimeout), -1)
	})
}

// runGone: the tree of the present run is proven empty, the term goes on.
func (s *Supervisor) runGone() {
	t := &s.term
	t.run, t.alive = 0, false
	switch {
	case t.ending != nil && s.stopAsking():
		// askingEnded goes on
	case t.ending != nil:
		s.ended()
	case t.again:
		s.restart()
	}
}

// check begins the readiness check of the present run.
func (s *Supervisor) check() {
	t := &s.term
	ctx, cancel := context.WithDeadline(s.ctx, t.startedBy)
	t.stopCheck = cancel
	run, env := t.run, t.env
	s.stopTimer() // the check has the same limit, and better words
	s.wg.Go(func() {
		err := s.o.Ready.wait(ctx, s.o.StartGrace, env)
		select {
		case s.checked <- checked{run, err}:
		case <-s.ctx.Done():
		}
	})
}

func (s *Supervisor) checkEnded(c checked) {
	t := &s.term
	if !t.active || c.run != t.run || t.stopCheck == nil {
		return
	}
	t.stopCheck()
	t.stopCheck = nil
	if c.err != nil {
		s.failures++
		s.fail(fmt.Sprintf("the service was not ready within startTimeout (%v): %v", s.o.StartTimeout, c.err), -1)
		return
	}
	t.wasReady = true
	s.watch()
	s.show(phaseReady, s.Info().Pid, "")
	s.say(ha.ServiceEvent{Kind: ha.ServiceReady, Term: t.order.Term})
	s.answer(nil)
	s.raise()
}

// exited decides what follows the end of the main process.
func (s *Supervisor) exited(e guard.Event) {
	t := &s.term
	s.cancelChecks()
	s.stopTimer()
	if t.ending != nil {
		s.waitGone()
		return // as asked; its Empty follows
	}
	why := exitWords(e)
	if s.failed(why, e.Exit) {
		t.again = true
		s.waitGone()
		s.show(phaseRestarting, 0, why)
		s.say(ha.ServiceEvent{Kind: ha.ServiceUnready, Term: t.order.Term, Why: why, Exit: e.Exit})
	}
}

// waitGone bounds how long a term goes on with a run that has ended and is not
// proven to be gone.
func (s *Supervisor) waitGone() {
	s.after(s.o.StartTimeout, func() {
		s.fail(fmt.Sprintf("what the service has left is not gone within startTimeout (%v)", s.o.StartTimeout), -1)
	})
}

func exitWords(e guard.Event) string {
	why := fmt.Sprintf("service exited with %d", e.Exit)
	if e.Exit > 128 {
		why = fmt.Sprintf("service was killed by signal %d", e.Exit-128)
	}
	if e.Why != "" {
		why += " (" + e.Why + ")"
	}
	return why
}

// failed counts a failure of the service and reports whether it is to be
// started again here; otherwise the term is given up. exit is -1 for a failure
// that is no exit.
func (s *Supervisor) failed(why string, exit int) (again bool) {
	t := &s.term
	s.failures++
	now := time.Now()
	kept := t.restarts[:0]
	for _, at := range t.restarts {
		if now.Sub(at) < s.o.Window {
			kept = append(kept, at)
		}
	}
	t.restarts = kept
	switch {
	case s.o.Restart == RestartNever, s.o.Restart == RestartOnFailure && exit == 0:
		s.fail(why+s.seeOutput(), exit)
		return false
	case len(t.restarts) >= s.o.MaxRestarts:
		s.fail(fmt.Sprintf("%s after %d restarts within %v%s", why, len(t.restarts), s.o.Window, s.seeOutput()), exit)
		return false
	}
	return true
}

// restart starts the service again after the back-off. The former run is
// proven gone.
func (s *Supervisor) restart() {
	t := &s.term
	wait := s.o.BackOff
	for range t.restarts {
		wait = min(2*wait, s.o.MaxBackOff)
	}
	t.restarts = append(t.restarts, time.Now())
	t.count++
	s.show(phaseRestarting, 0, s.Info().Detail)
	s.after(wait, func() {
		if t.wasReady {
			t.startedBy = time.Now().Add(s.o.StartTimeout)
		}
		s.launch(phaseRestarting)
	})
}

// fail gives the service up in this term. The runtime stops the term.
func (s *Supervisor) fail(why string, exit int) {
	s.answer(unmet("%s", why))
	s.endRun()
	s.show(s.Info().Phase, s.Info().Pid, why)
	s.say(ha.ServiceEvent{Kind: ha.ServiceFailed, Term: s.term.order.Term, Why: why, Exit: exit})
}

// endRun forgets everything that could still make the service ready or start
// it again.
func (s *Supervisor) endRun() {
	t := &s.term
	t.active, t.again, t.ending, t.down, t.waits = false, false, nil, false, false
	s.cancelChecks()
	s.stopTimer()
	s.answer(unmet("this node's term is over"))
}

func (s *Supervisor) cancelChecks() {
	if s.term.stopCheck != nil {
		s.term.stopCheck()
		s.term.stopCheck = nil
	}
	s.stopWatching()
}
