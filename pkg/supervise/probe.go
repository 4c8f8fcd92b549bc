package supervise

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"time"

	"go.uber.org/zap"
)

// OnUnexpected says what to do with a service that runs where it should not.
type OnUnexpected string

// What to do with it.
const (
	UnexpectedBlock OnUnexpected = "block" // start nothing beside it; the default
	UnexpectedStop  OnUnexpected = "stop"  // stop it with the stop command first
)

const (
	probeStopped = 7 // exit code, as of OCF agents
	probeTakes   = 10 * time.Second
	probeEvery   = 200 * time.Millisecond
)

// ErrUnexpected says that the service runs where it should not, or that this
// can not be told.
var ErrUnexpected = errors.New("the service may be running outside of understudy")

// Vacant makes sure that the service does not run on this machine: by its
// probe, and with OnUnexpected "stop" by its stop command. ctx bounds it. An
// error is ErrUnexpected. Without a probe there is nothing to ask, and no error.
func (o Options) Vacant(ctx context.Context) error {
	if len(o.Probe) == 0 {
		return nil
	}
	o.Env = o.inherited()
	code, err := o.probeOnce(ctx)
	if code == probeStopped {
		return nil
	}
	if code != 0 {
		return fmt.Errorf("%w: service.probe must exit with 0 (runs) or 7 (does not): %w", ErrUnexpected, err)
	}
	if o.OnUnexpected != UnexpectedStop {
		return fmt.Errorf("%w: service.probe says that it runs; stop it by hand, or set service.onUnexpected: stop", ErrUnexpected)
	}
	if err := tryExec(ctx, o.StopCommand, o.Env); err != nil {
		return fmt.Errorf("%w, and service.stop failed: %w", ErrUnexpected, err)
	}
	for {
		if code, err = o.probeOnce(ctx); code == probeStopped {
			return nil
		}
		if pause(ctx, probeEvery) != nil {
			return fmt.Errorf("%w: service.probe does not say that it stopped (exit code %d): %w", ErrUnexpected, code, errors.Join(err, ctx.Err()))
		}
	}
}

// probeOnce returns the probe's exit code, -1 if it has none.
func (o Options) probeOnce(ctx context.Context) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTakes)
	defer cancel()
	err := tryExec(ctx, o.Probe, o.Env)
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0, nil
	case errors.As(err, &exit):
		return exit.ExitCode(), err
	}
	return -1, err
}

// probe looks for a service that is not ours, and starts ours if there is none.
func (s *Supervisor) probe() {
	t := s.term.order.Term
	ctx, cancel := context.WithDeadline(s.ctx, s.term.startedBy)
	s.term.stopCheck = cancel
	o := s.o
	o.Env = s.term.env
	s.show(phaseStarting, 0, "looking for a service that is running already")
	s.wg.Go(func() {
		err := o.Vacant(ctx)
		s.ask(func() { //nolint:contextcheck // what it begins ends with the term, not with this probe
			switch {
			case !s.term.active || s.term.order.Term != t:
			case err != nil:
				s.failures++
				s.fail(err.Error(), -1)
			default:
				s.cancelChecks()
				s.launch(phaseStarting)
			}
		})
	})
}

// runStopCommand asks the service to stop, and goes on when that has worked or
// its time is over: what KILL leaves of S, so that both together stay within S.
// The command itself may go on until KILL is due or the run is gone.
func (s *Supervisor) runStopCommand(then func()) {
	env := s.term.env
	ctx, cancel := context.WithTimeout(s.ctx, killAfter(s.o.StopTimeout))
	s.asking = cancel
	ended := make(chan struct{})
	s.wg.Go(func() {
		if err := tryExec(ctx, s.o.StopCommand, env); err != nil && !errors.Is(err, context.Canceled) {
			s.o.Log.Warn("service.stop", zap.Error(err))
		}
		cancel()
		close(ended)
	})
	s.wg.Go(func() {
		limit := time.NewTimer(s.o.StopTimeout - killAfter(s.o.StopTimeout))
		defer limit.Stop()
		select {
		case <-ended:
		case <-limit.C:
		}
		s.ask(then)
		<-ended
		s.ask(s.askingEnded)
	})
}

// stopAsking ends a stop command whose service is gone: it must not meet the
// next run. It reports whether there is one to wait for.
func (s *Supervisor) stopAsking() bool {
	if s.asking != nil {
		s.asking()
	}
	return s.asking != nil
}

func (s *Supervisor) askingEnded() {
	s.asking = nil
	if t := &s.term; t.ending != nil && t.run == 0 {
		s.ended()
	}
}
