package supervise

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/understudy-ha/understudy/pkg/ha"
)

// Control does what an operator asks for and waits until it is done or ctx
// ends. Start, stop and restart are for the node that holds the term, and
// change nothing about it: renewals go on. A service that an operator stopped
// stays down, whatever the restart policy, until it is started, or the term
// ends. The error is a *ha.PreconditionError where it can not be done now.
func (s *Supervisor) Control(ctx context.Context, a ha.ServiceAction) error {
	done := make(chan error, 1)
	s.ask(func() { s.control(a, done) }) //nolint:contextcheck // what it begins ends with the loop, not with who asked
	select {
	case err := <-done:
		return err
	case <-s.done:
		return ha.ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

func unmet(format string, args ...any) error {
	return &ha.PreconditionError{Reasons: []string{fmt.Sprintf(format, args...)}}
}

// control begins an action; done hears once of its end.
func (s *Supervisor) control(a ha.ServiceAction, done chan<- error) {
	t := &s.term
	switch {
	case a == ha.ServiceResetFailures:
		s.resetFailures()
		done <- nil
		return
	case !t.active && t.order.Term > s.dead:
		done <- unmet("the service of this node is being given up: %s; wait for the next master", s.Info().Detail)
		return
	case !t.active:
		done <- unmet("this node runs no service, because it is not master; ask the master")
		return
	case s.guard == nil:
		done <- unmet("there is no guard process at the moment; try again")
		return
	case t.ending != nil:
		done <- unmet("the service is being stopped already; wait for that")
		return
	}
	switch a {
	case ha.ServiceStart:
		if !t.down && s.Info().Phase == phaseReady {
			done <- nil
			return
		}
		s.waiting = append(s.waiting, done)
		if t.down {
			s.startAgain()
		}
	case ha.ServiceStop:
		if t.down {
			done <- nil
			return
		}
		s.interrupt()
		s.waiting = append(s.waiting, done)
		s.finishRun(ending{why: "stopped by an operator", hold: true})
	case ha.ServiceRestart:
		s.interrupt()
		s.waiting = append(s.waiting, done)
		if t.down {
			s.startAgain()
			return
		}
		s.finishRun(ending{why: "restarted by an operator"})
	case ha.ServiceResetFailures: // above
	default:
		done <- fmt.Errorf("unknown action %q", a)
	}
}

// interrupt tells whoever waits for the service to come up that somebody else
// wants something else.
func (s *Supervisor) interrupt() {
	s.answer(unmet("another request came in between"))
}

// finishRun ends the present run, if there is one, and goes on as e says.
func (s *Supervisor) finishRun(e ending) {
	t := &s.term
	switch {
	case t.run == 0: // between two runs
		s.stopTimer()
		s.cancelChecks()
		t.ending = &e
		s.ended()
	case !t.alive: // its tree is being ended
		t.ending, t.again = &e, false
		s.show(phaseStopping, 0, e.why)
	default:
		s.endProcess(e, s.o.DrainDelay)
	}
}

// held: the service is down because an operator wants it down.
func (s *Supervisor) held(why string) {
	s.term.down = true
	s.show(phaseStopped, 0, why)
	s.answer(nil)
}

// startAgain starts the service that an operator had stopped.
func (s *Supervisor) startAgain() {
	s.term.down = false
	s.relaunch()
}

// relaunch starts another run at once: nobody failed.
func (s *Supervisor) relaunch() {
	t := &s.term
	t.startedBy = time.Now().Add(s.o.StartTimeout)
	t.count++
	s.launch(phaseRestarting)
}

func (s *Supervisor) resetFailures() {
	s.failures, s.lastExit = 0, nil
	s.term.restarts = nil
	for i := range s.term.health {
		s.term.health[i].fails = 0
	}
	s.show(s.Info().Phase, s.Info().Pid, s.Info().Detail)
}

// answer tells everybody who waits how it went.
func (s *Supervisor) answer(err error) {
	for _, done := range s.waiting {
		done <- err
	}
	s.waiting = nil
}

// Output writes the last lines of the service's output and with follow
// whatever comes after them, until ctx ends; see Logs.
func (s *Supervisor) Output(ctx context.Context, w io.Writer, lines int, follow bool) error {
	if s.o.OutputPath == "" {
		return ErrNoLog
	}
	return Logs(ctx, s.o.OutputPath, w, lines, follow)
}

// ErrNoLog says that the service's output goes elsewhere.
var ErrNoLog = errors.New("the service writes to the output of understudy itself: look there")
