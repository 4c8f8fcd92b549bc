package supervise

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// LogCommand is the hidden subcommand by which a process of this binary writes
// the service's log. The program's main must call LogMain when its first
// argument is this, before it does anything else.
const LogCommand = "logger"

const (
	pipeSize    = 1 << 20         // bytes that wait for the log's disk before the service has to
	writerEnds  = 5 * time.Second // what the writer may take for the last lines
	writerPause = 500 * time.Millisecond
)

// output is the way of the service's output into its log: a pipe and a process
// that writes what comes out of it. The process is not this one, so that the
// last words of a service whose daemon was killed, or is frozen, are written
// too; it ends when nobody is left who could write into the pipe. This process
// holds both ends, so a writer that dies is replaced and the service never
// learns of it; what that one had read and not written yet is lost.
type output struct {
	in   *os.File // the service's stdout and stderr
	out  *os.File
	argv []string
	log  *zap.Logger

	sole   *atomic.Bool // a search for orphans is under way: no children now
	quit   chan struct{}
	closed sync.Once
	done   chan struct{}
	mu     sync.Mutex
	writer *exec.Cmd
}

// openOutput starts the writer of the log at path.
func openOutput(o Options, sole *atomic.Bool) (*output, error) {
	f, err := os.OpenFile(o.OutputPath, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640) //nolint:gosec // the group may read the log
	if err != nil {
		return nil, err
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	// Not os.Pipe: its ends do not block, and what the service inherits must.
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return nil, fmt.Errorf("pipe: %w", err)
	}
	_, _ = unix.FcntlInt(uintptr(p[1]), unix.F_SETPIPE_SZ, pipeSize) // a limit of this user's: the default will do
	exe := o.Exe
	if exe == "" {
		exe = "/proc/self/exe"
	}
	out := &output{
		in: os.NewFile(uintptr(p[1]), "service"), out: os.NewFile(uintptr(p[0]), "service"), log: o.Log,
		argv: []string{exe, LogCommand, o.OutputPath, strconv.FormatInt(o.LogMaxSize, 10), strconv.Itoa(o.LogKeep)},
		sole: sole, quit: make(chan struct{}), done: make(chan struct{}),
	}
	if err := out.start(); err != nil {
		out.in.Close()
		out.out.Close()
		return nil, fmt.Errorf("start its writer: %w", err)
	}
	go out.keep()
	return out, nil
}

func (o *output) start() error {
	cmd := exec.Command(o.argv[0], o.argv[1:]...) //nolint:noctx // it ends by itself, when everybody who could write has
	cmd.Args[0] = os.Args[0]
	cmd.Stdin, cmd.Stderr = o.out, os.Stderr
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // no terminal's signal ends it
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := cmd.Start(); err != nil {
		return err
	}
	o.writer = cmd
	return nil
}

// keep replaces a writer that died while somebody may still write.
func (o *output) keep() {
	defer close(o.done)
	for {
		err := o.writer.Wait()
		select {
		case <-o.quit:
			return
		default:
		}
		o.log.Warn("the writer of the service's log ended; starting another", zap.Error(err))
		for {
			select {
			case <-o.quit:
				return
			case <-time.After(writerPause):
			}
			if o.sole.Load() {
				continue
			}
			err := o.start()
			if err == nil {
				break
			}
			o.log.Warn("no writer for the service's log", zap.Error(err))
		}
	}
}

// close waits for the last lines. Whoever else held the pipe must have ended.
func (o *output) close() error {
	var err error
	o.closed.Do(func() {
		close(o.quit)
		o.in.Close()
		select {
		case <-o.done:
		case <-time.After(writerEnds):
			o.mu.Lock()
			err = errors.Join(errors.New("the writer of the service's log did not end and was killed; is the log's disk in order?"), o.writer.Process.Kill())
			o.mu.Unlock()
			<-o.done
		}
		o.out.Close()
	})
	return err
}

// seeOutput says where the service's own words are.
func (s *Supervisor) seeOutput() string {
	if s.o.OutputPath == "" {
		return ""
	}
	return "; see its output in " + s.o.OutputPath
}
