package supervise

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"go.uber.org/zap"

	"github.com/understudy-ha/understudy/pkg/clock"
	"github.com/understudy-ha/understudy/pkg/guard"
	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/lease"
)

const (
	standbyRun   = 100 * 365 * 24 * time.Hour // no lease ends it
	standbyAgain = 30 * time.Second           // between two tries to run what can not be run
)

// standby is the command that runs while this node is a hot standby. It is kept
// by a supervisor of its own with a guard of its own, so its whole tree dies
// with this process too, and is proven gone before the service starts. Terms
// there are its own count and have nothing to do with the plane's.
type standby struct {
	*Supervisor
	wanted   bool
	on       bool // Arm was called, Empty has not followed
	stopping bool
	run      lease.Term
	failed   time.Time // when it could not be run
}

// Standby says whether this node is a hot standby now. The standby command runs
// while it is, unless a term of this node's own is under way.
func (s *Supervisor) Standby(is bool) {
	if len(s.o.StandbyCommand) > 0 {
		s.ask(func() {
			s.standby.wanted = is
			s.stepStandby()
		})
	}
}

func (s *Supervisor) openStandby(ctx context.Context) error {
	if len(s.o.StandbyCommand) == 0 {
		return nil
	}
	dir := filepath.Join(s.o.DataDir, "standby")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("service.standbyCommand: %w", err)
	}
	lock, err := lockStandby(ctx, dir)
	if err != nil {
		return fmt.Errorf("service.standbyCommand: that of a former run has not ended: %w", err)
	}
	s.files = append(s.files, lock)
	o := s.o
	o.Command, o.StandbyCommand, o.StopCommand, o.Probe, o.Checks = s.o.StandbyCommand, nil, nil, nil, nil
	o.DataDir, o.Lock, o.Ready = dir, lock, Check{}
	o.Restart, o.MaxRestarts = RestartAlways, int(standbyRun/time.Second)
	o.ReleaseArgv, o.ReleaseStdin, o.Subreaper, o.Delegates, o.Prepare = nil, nil, false, false, nil
	o.LeaseFile, o.Finals, o.Floating, o.Watchdog = "", guard.Finals{}, nil, nil // of the service
	o.OutputPath, o.Stdout, o.Stderr = "", s.gopt.Stdout, s.gopt.Stderr
	o.state, o.sole = lease.StateHotStandby, &s.sole
	sup, err := New(ctx, o)
	if err != nil {
		return fmt.Errorf("service.standbyCommand: %w", err)
	}
	s.standby = &standby{Supervisor: sup}
	return nil
}

// lockStandby waits for the guard of a former run, which holds the lock until
// its tree is gone.
func lockStandby(ctx context.Context, dir string) (*os.File, error) {
	ctx, cancel := context.WithTimeout(ctx, guardAnswers)
	defer cancel()
	for {
		f, err := guard.LockDir(dir)
		if !errors.Is(err, guard.ErrLocked) || pause(ctx, 50*time.Millisecond) != nil {
			return f, err
		}
	}
}

func (s *Supervisor) closeStandby() {
	if s.standby != nil {
		_ = s.standby.Close() // never fails
	}
}

func (s *Supervisor) fromStandby() <-chan ha.ServiceEvent {
	if s.standby == nil {
		return nil
	}
	return s.standby.Events()
}

func (s *Supervisor) standbyAlive() bool { return s.standby != nil && s.standby.on }

func (s *Supervisor) standbyPhase() string {
	if s.standby == nil {
		return ""
	}
	return s.standby.Info().Phase
}

// stepStandby starts or stops the standby command, as the moment asks for.
func (s *Supervisor) stepStandby() {
	b := s.standby
	if b == nil {
		return
	}
	ownTerm := s.term.order.Term > s.dead || s.deadline.Term > s.dead
	may := b.wanted && !ownTerm && s.proving == nil && time.Since(b.failed) > standbyAgain
	switch {
	case may && !b.on:
		b.run++
		b.on = true
		b.Arm(ha.Deadline{
			Term: b.run, T0: clock.Now(), Stop: standbyRun,
			Kill: standbyRun + killAfter(s.o.StopTimeout), End: standbyRun + s.o.StopTimeout,
		})
	case b.on && !b.stopping && !may:
		b.stopping = true
		b.Stop(b.run, "the standby command ends")
	}
}

func (s *Supervisor) standbyHeard(e ha.ServiceEvent) {
	b := s.standby
	switch e.Kind {
	case ha.ServiceArmed:
		if !b.stopping {
			o := s.term.order
			o.Term, o.PrevState, o.Reason = e.Term, lease.StateHotStandby, "standby"
			b.Start(o)
		}
	case ha.ServiceFailed:
		s.o.Log.Warn("the standby command failed", zap.String("why", e.Why))
		b.failed = time.Now()
		s.stepStandby()
	case ha.ServiceStuck:
		s.o.Log.Error("the standby command does not end; the service can not start beside it", zap.String("why", e.Why))
	case ha.ServiceEmpty:
		b.on, b.stopping = false, false
		if s.term.active && s.term.waits {
			s.stopTimer()
			s.begin()
		}
		s.stepStandby()
	case ha.ServiceReady, ha.ServiceUnready, ha.ServiceStopping, ha.ServiceGuardLost:
	}
	s.show(s.Info().Phase, s.Info().Pid, s.Info().Detail)
}

// waitForStandby lets the start of the service wait until nothing of the
// standby command is alive.
func (s *Supervisor) waitForStandby() {
	t := &s.term
	t.waits = true
	s.show(phaseStarting, 0, "waiting for the standby command to end")
	s.after(time.Until(t.startedBy), func() {
		s.fail(fmt.Sprintf("the standby command did not end within startTimeout (%v)", s.o.StartTimeout), -1)
	})
	s.stepStandby()
}
