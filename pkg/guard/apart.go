package guard

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// RunApart runs a command that belongs to no term, behind a shim of this
// process' own, and waits for its end: AuxEnded, AuxRefused when it could not
// be started, AuxStuck when something of it survives SIGKILL. Term, ID and
// OfStop mean nothing here. It returns within Timeout, or ctx's end, and a few
// seconds.
//
// The shim is a subreaper that ends what the command left, and that ends
// everything when this process dies.
func RunApart(ctx context.Context, a Aux) Event {
	if a.Timeout <= 0 || len(a.Stdin) > maxAuxStdin {
		return Event{Kind: AuxRefused, Why: fmt.Sprintf("it needs a Timeout, and at most %d bytes of Stdin", maxAuxStdin)}
	}
	sock, proc, err := startApart(a)
	if err != nil {
		return Event{Kind: AuxRefused, Why: fmt.Sprintf("shim: %v", err)}
	}
	p := &apart{sock: sock, reports: make(chan shimReport, 4), ended: make(chan struct{})}
	go p.read(proc)
	p.order(shimOrder{
		Run: &Run{Argv: a.Argv, Env: a.Env, Dir: a.Dir}, Aux: true, Stdin: a.Stdin,
	})
	return p.wait(ctx, a.Timeout)
}

// startApart forks a shim that waits for its order.
func startApart(a Aux) (*os.File, *os.Process, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, nil, err
	}
	defer null.Close()
	sp, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	theirs := os.NewFile(uintptr(sp[1]), "daemon")
	defer theirs.Close()
	sock := os.NewFile(uintptr(sp[0]), "shim")
	files := make([]*os.File, shimFds)
	for i := range files {
		files[i] = null // no record, lock or cgroup: it belongs to no term
	}
	files[2], files[shimCtl] = os.Stderr, theirs
	proc, err := os.StartProcess(selfExe, []string{os.Args[0], ShimCommand, IsolationGroup}, &os.ProcAttr{Env: a.Env, Files: files})
	if err != nil {
		sock.Close()
		return nil, nil, err
	}
	return sock, proc, nil
}

// apart is this process' end of such a shim.
type apart struct {
	sock    *os.File
	reports chan shimReport
	ended   chan struct{} // closed when the shim was reaped: nothing of the run is alive
}

func (p *apart) order(o shimOrder) {
	b, err := json.Marshal(o)
	if err == nil {
		_, _ = p.sock.Write(append(b, '\n')) // a shim that is gone is noticed by read
	}
}

// read passes the shim's reports on until it has ended, and reaps it.
func (p *apart) read(proc *os.Process) {
	defer close(p.ended)
	in := bufio.NewReader(p.sock)
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			break
		}
		var r shimReport
		if json.Unmarshal(line, &r) == nil {
			p.reports <- r // at most two: started, ended
		}
	}
	_, _ = proc.Wait() // reaped by a Sweep: gone as well
	p.sock.Close()
}

// What is done, one after the other, to a run that does not end.
const (
	pressMain   = iota // KILL to its main process, so that its output is heard of
	pressAll           // the end of the connection: the shim kills all it can find
	pressNoMore        // nobody waits any more
)

// wait follows the run to its end.
func (p *apart) wait(ctx context.Context, timeout time.Duration) Event {
	e := Event{Kind: AuxEnded, Exit: -1, Why: "it was killed"}
	step := time.NewTimer(timeout)
	defer step.Stop()
	next, done := pressMain, ctx.Done()
	for {
		select {
		case r := <-p.reports:
			if p.heard(r, &e) && next == pressMain {
				next = pressAll // what it left is being killed
				step.Reset(auxGrace)
			}
			continue
		case <-p.ended:
			for len(p.reports) > 0 {
				p.heard(<-p.reports, &e)
			}
			return e
		case <-done:
			done = nil
			if next != pressMain {
				continue
			}
		case <-step.C:
		}
		switch next {
		case pressMain:
			e.TimedOut = true
			p.order(shimOrder{Signal: int(unix.SIGKILL)})
			step.Reset(auxGrace)
		case pressAll:
			p.hangUp()
			step.Reset(auxStuck)
		case pressNoMore:
			e.Kind, e.Why = AuxStuck, "something of it survives SIGKILL (uninterruptible?)"
			return e
		}
		next++
	}
}

// heard notes how the main process ended, and reports whether it did.
func (p *apart) heard(r shimReport, e *Event) bool {
	if !r.Exited && r.Errno == 0 {
		return false
	}
	e.Exit, e.Why, e.Output = r.Exit, r.Why, r.Output
	return true
}

// hangUp tells the shim that nobody listens. Its last words still arrive.
func (p *apart) hangUp() {
	raw, err := p.sock.SyscallConn()
	if err == nil {
		_ = raw.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_WR) }) // closed: it has ended
	}
}
