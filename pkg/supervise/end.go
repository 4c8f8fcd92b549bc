package supervise

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/pkg/ha"
)

// ending is the end of one run in a term that goes on: the mastership stays,
// the guard may start another run. The guard knows nothing of it: this process
// signals the main process, whose end takes its tree along, as when it ends by
// itself. The deadline goes on in the guard meanwhile, so nothing rests on it.
type ending struct {
	why    string
	failed bool // the service failed, its restart is decided
	hold   bool // stays down until an operator starts it
}

// endProcess ends the present run: drain, stop signal, KILL. What follows its
// Empty is up to the ending.
func (s *Supervisor) endProcess(e ending, drain time.Duration) {
	t := &s.term
	s.cancelChecks()
	s.stopTimer()
	serving := s.Info().Phase == phaseReady
	t.ending, t.again = &e, false
	s.show(phaseStopping, s.Info().Pid, e.why)
	if serving {
		s.say(ha.ServiceEvent{Kind: ha.ServiceUnready, Term: t.order.Term, Why: e.why, Exit: -1, Held: e.hold})
	}
	if !serving || drain == 0 {
		s.askRun()
		return
	}
	s.after(drain, s.askRun)
}

// askRun begins the ladder: the stop command, if there is one, comes before the
// signal.
func (s *Supervisor) askRun() {
	if len(s.o.StopCommand) == 0 {
		s.signalRun()
		return
	}
	e := s.term.ending
	s.runStopCommand(func() {
		if s.term.ending == e && s.term.alive {
			s.signalRun()
		}
	})
}

func (s *Supervisor) signalRun() {
	main, err := openMain(s.guard.Pid(), s.Info().Pid)
	if err != nil {
		s.notEnding(err)
		return
	}
	defer main.close()
	main.signalGroup(s.o.StopSignal)
	s.after(killAfter(s.o.StopTimeout), s.killRun)
}

// killAfter is when KILL follows the stop signal, S being the time for both.
func killAfter(stop time.Duration) time.Duration {
	if stop < 4*time.Second {
		return stop / 2
	}
	return stop - max(2*time.Second, stop/5)
}

func (s *Supervisor) killRun() {
	main, err := openMain(s.guard.Pid(), s.Info().Pid)
	if err != nil {
		s.notEnding(err)
		return
	}
	defer main.close()
	main.kill()
	s.after(stuckAfter, func() { s.fail("the service survives SIGKILL", -1) })
}

// notEnding: the main process could not be signalled. If it has ended, the
// guard says so; otherwise the guard, whose child it is, has to end the term.
func (s *Supervisor) notEnding(err error) {
	s.o.Log.Debug("the service's main process", zap.Error(err))
	s.after(stuckAfter, func() { s.fail("the service can not be stopped: "+err.Error(), -1) })
}

// ended: the run that was to end is proven gone.
func (s *Supervisor) ended() {
	t := &s.term
	e := *t.ending
	t.ending = nil
	s.stopTimer()
	switch {
	case e.hold:
		s.held(e.why)
	case e.failed:
		s.restart()
	default:
		s.relaunch()
	}
}

// process is a process that can not be mistaken for another.
type process struct{ pid, fd int }

// openMain takes hold of the main process of a run: the child of a child (the
// shim) of the guard.
func openMain(guard, pid int) (process, error) {
	if pid == 0 {
		return process{}, errors.New("its process id is not known")
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return process{}, fmt.Errorf("process %d: %w", pid, err)
	}
	// Read after the descriptor was opened: they concern the same process.
	shim, err := parentOf(pid)
	if err == nil {
		var owner int
		if owner, err = parentOf(shim); err == nil && owner != guard {
			err = fmt.Errorf("process %d is not the service's any more", pid)
		}
	}
	if err != nil {
		unix.Close(fd)
		return process{}, err
	}
	return process{pid, fd}, nil
}

func (p process) close() { unix.Close(p.fd) }

func (p process) kill() { _ = unix.PidfdSendSignal(p.fd, unix.SIGKILL, nil, 0) } // gone already: the guard says so

// signalGroup signals the process group it leads. CONT follows, so that a
// stopped process gets to see it. While the leader is not reaped nobody else
// can have its number.
func (p process) signalGroup(sig syscall.Signal) {
	if unix.PidfdSendSignal(p.fd, 0, nil, 0) == nil {
		_ = syscall.Kill(-p.pid, sig)
		_ = syscall.Kill(-p.pid, syscall.SIGCONT)
	}
}

// parentOf reads a process' parent.
func parentOf(pid int) (int, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, err
	}
	// The command's name is in parentheses and may contain anything.
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(f) < 2 {
		return 0, fmt.Errorf("/proc/%d/stat: unknown format", pid)
	}
	return strconv.Atoi(f[1])
}
