package guard

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/pkg/address"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// Options configure a guard.
type Options struct {
	// DataDir is the node's local data directory; the guard keeps the tree
	// record there. Required.
	DataDir string
	// Lock is the file LockDir returned. The guard and its shims inherit it,
	// so the directory stays locked until they are gone. nil: no lock.
	Lock *os.File
	// Incarnation is this run of the daemon; the release child is given it.
	Incarnation lease.Incarnation
	// ReleaseArgv is the command that writes the release once the daemon is
	// dead and the tree is empty (G3): an absolute path ("/proc/self/exe" is
	// this binary) and arguments. The term (decimal) and the incarnation are
	// appended. Empty: nothing is released.
	ReleaseArgv []string
	// ReleaseStdin is what that command reads. It is kept in memory only and
	// may hold secrets.
	ReleaseStdin []byte
	// ReleaseTimeout ends the release child; 0 means 30s. T, as a rule.
	ReleaseTimeout time.Duration
	// GuardStop is the time from TERM to KILL when the daemon died; 0 means 1s.
	GuardStop time.Duration
	// StopSignal is the first signal of a stop; 0 means TERM.
	StopSignal syscall.Signal
	// Isolation is one of the Isolation constants; empty means auto.
	Isolation string
	// MinTerm and every term below it are refused for ever.
	MinTerm lease.Term
	// LeaseFile is rewritten at each deadline that is acknowledged, for the
	// service to see, and removed when the term is over; see the function of
	// that name. Empty: none.
	LeaseFile string
	// Finals is what is done at the end when the daemon has died.
	Finals Finals
	// Floating is the address that is removed when the term is over, when this
	// guard starts, and by the kernel at the end of the right to serve. It is
	// added by a run: address.Main, see Client.RunHook. nil: none.
	Floating *address.Floating
	// Outside is for a service that hands its work to others; nil: its tree is
	// all there is of it.
	Outside *Outside
	// Unproven is a term in which a former guard of this daemon died: nothing of
	// the service's tree is alive, what others run for it may be. It is stopped,
	// and Empty with Final follows the proof. 0: there is none.
	Unproven lease.Term
	// Watchdog resets the machine if the guard and everybody who could end the
	// service are frozen or gone. nil: none.
	Watchdog *Watchdog
	// Stdout and Stderr are the service's; nil means this process'. They must
	// be files, not pipes into this process: the service outlives it.
	Stdout, Stderr *os.File
	// Log is the guard's own log, a local file; nil means this process' stderr.
	Log *os.File
	// Exe is the binary to run; empty means this one.
	Exe string
}

// Client is the daemon's end of a guard. Its methods may be called from any
// goroutine and return at once, except Close. Requests to a guard that does
// not read are dropped; that no acknowledgement comes is what the daemon acts on.
type Client struct {
	pid       int
	isolation string
	lost      []string
	proc      *os.Process
	sock      *os.File
	events    chan Event
	requests  chan request
	dead      chan struct{} // closed once the guard was reaped
	quit      chan struct{} // closed by Close: nobody reads events any more
	quitOnce  sync.Once
	wg        sync.WaitGroup
}

// Start starts a guard and waits until it answers, by ctx's deadline at the
// latest. It fails when the isolation asked for is not possible.
func Start(ctx context.Context, o Options) (*Client, error) {
	if o.DataDir == "" {
		return nil, errors.New("guard: it needs a data directory")
	}
	dir, err := filepath.Abs(o.DataDir) // the guard works in /
	if err != nil {
		return nil, fmt.Errorf("guard: %w", err)
	}
	c, err := spawn(o)
	if err != nil {
		return nil, fmt.Errorf("guard: %w", err)
	}
	c.post(request{Op: opConfig, Config: &config{
		DataDir: dir, Isolation: o.Isolation, StopSignal: int(or(o.StopSignal, syscall.SIGTERM)),
		GuardStop: or(o.GuardStop, time.Second), ReleaseArgv: o.ReleaseArgv, ReleaseStdin: o.ReleaseStdin,
		ReleaseTimeout: or(o.ReleaseTimeout, 30*time.Second), Incarnation: o.Incarnation, MinTerm: o.MinTerm,
		LeaseFile: o.LeaseFile, Finals: o.Finals, Floating: o.Floating, Watchdog: o.Watchdog, Outside: o.Outside, Unproven: o.Unproven,
	}})
	select {
	case e := <-c.events:
		if e.Kind == hello && e.Why == "" {
			c.isolation, c.lost = e.Isolation, e.LostWords
			if o.Lock != nil {
				err = noteHolders(o.Lock, c.pid)
			}
			if err == nil {
				return c, nil
			}
		} else if err = errors.New(e.Why); e.Kind == Lost {
			err = errors.New("it ended at once: this program must call guard.Main for the argument \"guard\"; see the guard's log")
		}
	case <-ctx.Done():
		err = fmt.Errorf("it does not answer: %w", ctx.Err())
	}
	c.Kill()
	c.quitOnce.Do(func() { close(c.quit) })
	c.wg.Wait()
	return nil, fmt.Errorf("guard: %w", err)
}

func or[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

func spawn(o Options) (*Client, error) {
	if err := CheckIsolation(o.Isolation); err != nil {
		return nil, err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	// Opened here and inherited: the guard can neither miss our death nor
	// mistake another process for us.
	selfFd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return nil, fmt.Errorf("pidfd_open (Linux 5.3 or later is needed): %w", err)
	}
	self := os.NewFile(uintptr(selfFd), "daemon")
	defer self.Close()
	sp, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("socketpair: %w", err)
	}
	theirs := os.NewFile(uintptr(sp[1]), "guard")
	defer theirs.Close()
	sock := os.NewFile(uintptr(sp[0]), "guard")
	lock := o.Lock
	if lock == nil {
		lock = null
	}
	log := or(o.Log, os.Stderr)
	proc, err := os.StartProcess(or(o.Exe, selfExe), []string{os.Args[0], GuardCommand}, &os.ProcAttr{
		Files: []*os.File{null, log, log, theirs, self, or(o.Stdout, os.Stdout), or(o.Stderr, os.Stderr), lock},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		sock.Close()
		return nil, err
	}
	c := &Client{
		pid: proc.Pid, proc: proc, sock: sock,
		events: make(chan Event, 64), requests: make(chan request, 256),
		dead: make(chan struct{}), quit: make(chan struct{}),
	}
	c.wg.Add(2)
	go c.write()
	go c.read()
	return c, nil
}

// Pid is the guard's process id.
func (c *Client) Pid() int { return c.pid }

// Isolation is what the guard settled on.
func (c *Client) Isolation() string { return c.isolation }

// Lost lists in words what protection this guard does without, for want of
// rights; empty when it has all.
func (c *Client) Lost() []string { return c.lost }

// Events delivers what the guard says, in order. It must be read. After Lost
// it is closed.
func (c *Client) Events() <-chan Event { return c.events }

// Arm hands a deadline over; Armed acknowledges it (G1). One of a term at or
// below one whose stop has begun is not answered.
func (c *Client) Arm(d Deadline) bool { return c.post(request{Op: opArm, Arm: &d}) }

// Start starts the service in an armed term (G2). Started, NotExecutable or
// Refused follows; then, except after Refused, Exited and Empty some time.
func (c *Client) Start(r Run) bool { return c.post(request{Op: opStart, Run: &r}) }

// RunHook starts an auxiliary run in an armed term (G2). AuxRefused follows, or
// AuxStarted unless it can not be executed, and AuxEnded once nothing of it is
// alive.
func (c *Client) RunHook(a Aux) bool { return c.post(request{Op: opAux, Aux: &a}) }

// Stop stops a term for good: Empty with Final follows, also when nothing of
// the term ever ran.
func (c *Client) Stop(t lease.Term, why string) bool {
	return c.post(request{Op: opStop, Term: t, Why: why})
}

// Kill kills the guard, and thereby the service. Lost follows.
func (c *Client) Kill() { _ = c.proc.Kill() } // gone already: Lost says so

// Close ends the guard, after stopping whatever runs, and waits for it. No
// event is delivered any more. A guard that does not end by ctx's deadline is
// killed.
func (c *Client) Close(ctx context.Context) error {
	c.quitOnce.Do(func() { close(c.quit) })
	c.post(request{Op: opClose})
	var err error
	select {
	case <-c.dead:
	case <-ctx.Done():
		c.Kill()
		err = fmt.Errorf("guard %d had to be killed: %w", c.pid, ctx.Err())
	}
	c.wg.Wait()
	return err
}

func (c *Client) post(q request) bool {
	select {
	case c.requests <- q:
		return true
	default:
		return false
	}
}

// write passes requests on until the guard is gone. A guard that is stopped
// blocks it, not the callers.
func (c *Client) write() {
	defer c.wg.Done()
	for {
		select {
		case q := <-c.requests:
			b, err := json.Marshal(q)
			if err != nil {
				continue // plain values only: can not happen
			}
			if _, err := c.sock.Write(append(b, '\n')); err != nil {
				continue // the guard is gone; read says so
			}
		case <-c.dead:
			return
		}
	}
}

// read delivers events until the guard has ended, reaps it, and says Lost.
func (c *Client) read() {
	defer c.wg.Done()
	defer close(c.events)
	var reaper sync.WaitGroup
	var ended string
	reaper.Go(func() {
		st, err := c.proc.Wait()
		ended = "the guard ended"
		if err == nil {
			ended = fmt.Sprintf("the guard ended: %s", st)
		}
		close(c.dead)
		// What it said before is still there to be read. The deadline only
		// bounds that: a shim never holds this socket.
		_ = c.sock.SetReadDeadline(time.Now().Add(time.Second))
	})
	in := bufio.NewReader(c.sock)
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			break
		}
		var e Event
		if json.Unmarshal(line, &e) == nil {
			c.deliver(e)
		}
	}
	reaper.Wait()
	c.sock.Close() // ends write, should it be blocked
	c.deliver(Event{Kind: Lost, Why: ended})
}

func (c *Client) deliver(e Event) {
	select {
	case c.events <- e:
	case <-c.quit:
	}
}
