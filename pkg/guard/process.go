package guard

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/pkg/clock"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// Descriptors the daemon gives to its guard.
const (
	guardSock   = 3 + iota
	guardDaemon // pidfd of the daemon, opened by the daemon itself
	guardStdout // of the service
	guardStderr // of the service
	guardLock   // of the data directory, or /dev/null; only held
	guardFds
)

const (
	tick     = 100 * time.Millisecond // longest time between two looks at the clock
	idleTick = time.Second            // the same while nothing is at stake
	killTick = 5 * time.Millisecond   // between the first rounds of KILL
	lateTick = 100 * time.Millisecond // the same once those did not help
	killFast = 500 * time.Millisecond // how long the first rounds last
)

// Main is the guard process. It returns the exit code of the process.
func Main() int {
	runtime.LockOSThread() // this thread forks the shims: PR_SET_PDEATHSIG follows it
	small()
	catchSignals()
	_ = os.Chdir("/")    // hold no mount
	_, _ = unix.Setsid() // no terminal reaches the guard or the service; fails when the daemon did it already
	g := &guardian{daemonFd: guardDaemon, log: newLogger(os.Stderr), disk: newBacklog(), bootID: bootID()}
	defer g.log.close()
	defer g.disk.close()
	defer g.closeAddress()
	defer g.closeDog()
	for fd := guardSock; fd < guardFds; fd++ {
		unix.CloseOnExec(fd)
	}
	var err error
	if g.sock, err = newLineConn(guardSock); err != nil {
		g.log.printf("socket: %v", err)
		return 1
	}
	if err = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		g.log.printf("subreaper: %v", err)
		return 1
	}
	if g.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		g.log.printf("eventfd: %v", err)
		return 1
	}
	return g.loop()
}

// guardian is the state of the guard process. One goroutine owns it.
type guardian struct {
	cfg        config
	configured bool
	iso        isolation
	log        *logger
	sock       *lineConn

	daemonFd   int
	daemonDead bool
	closing    bool

	armed   Deadline   // the latest; Term 0: none yet
	stopped lease.Term // the stop of this and every lower term has begun (G2)
	stop    stopping
	owed    lease.Term // Empty with Final is still to be said of it; 0: of none
	final   lease.Term // the latest of which it was said

	runs    []*run // those alive: the service, at most one, and auxiliary ones
	waiting []*run // auxiliary ones whose record is being written
	auxIso  isolation
	wake    int // eventfd: a goroutine has something for the loop

	disk      *backlog
	addr      *floating // nil: there is none
	dog       *dog      // nil: there is none
	outside   *outside  // nil: the service's tree is all there is of it
	bootID    string
	leaseLost bool // the lease file could not be written; owned by the backlog

	diedServing bool // the term was not over when the daemon died
	finals      bool // they were begun

	release  int // pid of the release child, 0 if none
	released bool
	until    lease.Instant // when the release child is given up
}

// stopping is a stop that has begun.
type stopping struct {
	at    lease.Instant
	grace time.Duration // from at to KILL
	stuck bool          // reported
}

func (g *guardian) loop() int {
	for {
		now := clock.Now()
		if g.act(now) {
			g.closeLease()
			return 0
		}
		g.wait(now)
	}
}

// wait sleeps until something is to be read or the next moment of the
// deadline, at most one tick.
func (g *guardian) wait(now lease.Instant) {
	fds := []unix.PollFd{g.sock.pollFd(), {Fd: int32(g.daemonFd), Events: unix.POLLIN}, {Fd: int32(g.wake), Events: unix.POLLIN}}
	if g.daemonDead {
		fds[1].Fd = -1
	}
	runs := g.runs // may change below
	for _, r := range runs {
		shim := unix.PollFd{Fd: int32(r.pidfd), Events: unix.POLLIN}
		if r.reaped {
			shim.Fd = -1
		}
		fds = append(fds, r.ctl.pollFd(), shim)
	}
	ms := max(1, (g.nextLook(now)+time.Millisecond-1)/time.Millisecond)
	if _, err := unix.Poll(fds, int(ms)); err != nil {
		return // EINTR
	}
	if fds[1].Revents != 0 && !g.daemonDead {
		g.daemonDead, g.diedServing = true, g.armed.Term > g.final
		g.log.printf("the daemon is dead")
	}
	g.woken()
	for i, r := range runs {
		if fds[3+2*i].Revents&unix.POLLOUT != 0 {
			r.ctl.flush()
		}
		g.readShim(r)
	}
	if fds[0].Revents&unix.POLLOUT != 0 {
		g.sock.flush()
	}
	if fds[0].Revents&^unix.POLLOUT != 0 {
		g.sock.receive(g.request)
	}
}

// nextLook is how long the guard may sleep.
func (g *guardian) nextLook(now lease.Instant) time.Duration {
	next := idleTick
	if g.release != 0 {
		next = 20 * time.Millisecond
	}
	if g.armed.Term > g.stopped {
		next = min(next, tick, g.armed.Stop-now.Longest(g.armed.T0))
	}
	for _, r := range g.runs {
		next = min(next, g.nextLookAt(r, now))
	}
	if g.unproven() {
		next = min(next, g.nextOutside(now))
	}
	if len(g.waiting) > 0 || g.withdrawing() || g.dog != nil && g.dog.running {
		next = min(next, tick)
	}
	return next
}

// act does whatever the present moment asks for. done ends the process.
func (g *guardian) act(now lease.Instant) (done bool) {
	if g.armed.Term > g.stopped && now.Longest(g.armed.T0) >= g.armed.Stop {
		g.beginStop(g.armed.Term, now, g.armed.Kill-g.armed.Stop, "the lease was not renewed in time", true)
	}
	if g.daemonDead && g.armed.Term > g.stopped {
		g.beginStop(g.armed.Term, now, g.cfg.GuardStop, "the daemon died", true)
	}
	if g.daemonDead {
		g.stop.grace = min(g.stop.grace, g.cfg.GuardStop)
	}
	g.startWaiting(now)
	for _, r := range g.runs {
		g.pressRun(r, now)
	}
	g.pressAddress(now)
	g.pressOutside(now)
	g.reap(now)
	g.settle(now)
	g.feedDog(now)
	if g.busy() || g.withdrawing() {
		return false
	}
	if g.daemonDead {
		return g.afterDaemon(now)
	}
	return g.closing
}

// busy reports whether anything of any term is alive, or about to be, or not
// proven to be over.
func (g *guardian) busy() bool { return len(g.runs)+len(g.waiting) > 0 || g.unproven() }

// beginStop begins the stop of a term: from here on it is refused for ever.
func (g *guardian) beginStop(t lease.Term, now lease.Instant, grace time.Duration, why string, own bool) {
	g.stopped = max(g.stopped, t)
	g.stop = stopping{at: now, grace: max(grace, 0)}
	g.log.printf("term %d: stop begins: %s", t, why)
	if own {
		g.say(Event{Kind: Stopping, Term: t, Why: why})
	}
	g.owed = max(g.owed, t)
	for _, r := range g.runs {
		switch {
		case r.aux == nil:
			r.ctl.send(shimOrder{Signal: g.cfg.StopSignal})
		case !r.aux.OfStop:
			r.ctl.send(shimOrder{Signal: int(unix.SIGTERM)})
		}
	}
	g.turnRole()
	g.startWaiting(now)
	g.pressOutside(now)
	g.settle(now)
}

// settle says that a term is over for good, once it is.
func (g *guardian) settle(now lease.Instant) {
	if g.busy() || !g.withdrawn(now) {
		return
	}
	if g.owed != 0 {
		g.say(Event{Kind: Empty, Term: g.owed, Final: true})
		g.owed = 0
	}
	if g.final < g.stopped {
		g.final = g.stopped
		g.dropLease()
		g.stopDog()
	}
}

// afterDaemon does the final things and runs the release child once the daemon is dead and the tree is
// empty (G3), and reports when the guard may end.
func (g *guardian) afterDaemon(now lease.Instant) (done bool) {
	switch {
	case g.release != 0:
		if over := now.Longest(g.until); over >= 0 {
			_ = syscall.Kill(g.release, syscall.SIGKILL)
			if over >= 2*time.Second {
				g.log.printf("the release child does not end")
				return true // stuck in the store's I/O; whatever it still writes is a compare-and-swap
			}
		}
		return false
	case g.released || g.armed.Term == 0:
		return true
	}
	if !g.finals {
		if g.runFinals(); g.busy() {
			return false
		}
	}
	if len(g.cfg.ReleaseArgv) == 0 {
		return true
	}
	if err := g.startRelease(); err != nil {
		g.log.printf("release: %v", err)
		return true
	}
	return false
}

func (g *guardian) startRelease() error {
	// A memfd, not a pipe: nothing to feed, nothing to wait for.
	in, err := unix.MemfdCreate("release", unix.MFD_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(in)
	if _, err = unix.Write(in, g.cfg.ReleaseStdin); err == nil {
		_, err = unix.Seek(in, 0, 0)
	}
	if err != nil {
		return err
	}
	argv := append(append([]string{}, g.cfg.ReleaseArgv...),
		strconv.FormatUint(uint64(g.armed.Term), 10), string(g.cfg.Incarnation))
	pid, err := syscall.ForkExec(argv[0], argv, &syscall.ProcAttr{
		Env:   os.Environ(),
		Files: []uintptr{uintptr(in), 2, 2},
		Sys:   &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL},
	})
	if err != nil {
		return err
	}
	g.release, g.until = pid, clock.Now().Add(g.cfg.ReleaseTimeout)
	g.log.printf("term %d: release child %d", g.armed.Term, pid)
	return nil
}

// request obeys one line of the daemon.
func (g *guardian) request(line []byte) {
	var q request
	if err := json.Unmarshal(line, &q); err != nil {
		g.log.printf("bad request: %v", err)
		return
	}
	now := clock.Now()
	switch {
	case q.Op == opConfig && q.Config != nil && !g.configured:
		g.configure(*q.Config)
	case !g.configured:
		g.log.printf("request %q before the configuration", q.Op)
	case q.Op == opArm && q.Arm != nil:
		g.arm(*q.Arm, now)
	case q.Op == opStart && q.Run != nil:
		if why := g.start(*q.Run); why != "" {
			g.log.printf("term %d: start refused: %s", q.Run.Term, why)
			g.say(Event{Kind: Refused, Term: q.Run.Term, Run: q.Run.ID, Why: why})
		}
	case q.Op == opAux && q.Aux != nil:
		g.requestAux(*q.Aux)
	case q.Op == opStop:
		g.stopTerm(q.Term, now, q.Why)
	case q.Op == opClose:
		g.closing = true
		if g.armed.Term > g.stopped {
			g.stopTerm(g.armed.Term, now, "closing")
		}
	default:
		g.log.printf("unknown request %q", q.Op)
	}
}

func (g *guardian) configure(c config) {
	iso, err := chooseIsolation(c.Isolation)
	if err != nil {
		g.say(Event{Kind: hello, Why: err.Error()})
		g.closing = true
		return
	}
	g.cfg, g.configured, g.iso = c, true, iso
	g.stopped = c.MinTerm
	for _, dir := range ClearCgroups(c.DataDir) {
		g.log.printf("cgroup %s of a former run can not be removed", dir)
	}
	lost, err := g.openDog(c.Watchdog)
	if err != nil {
		g.say(Event{Kind: hello, Why: err.Error()})
		g.closing = true
		return
	}
	if lost != "" {
		g.iso.lost = append(slices.Clone(g.iso.lost), lost)
	}
	g.openLease()
	g.openAddress(c.Floating)
	if c.Outside != nil {
		g.outside = &outside{Outside: *c.Outside}
		g.iso.lost = append(slices.Clone(g.iso.lost), outsideLost)
		g.auxIsolation() // found out by trying, for which a stop has no time
		g.oweOutside(c.Unproven)
	}
	debug.FreeOSMemory()
	DropBinary()
	_, _ = g.strays(), descendants(os.Getpid()) // so that what KILL needs is in memory, and locked
	if lost := lockMemory(); lost != "" {
		g.iso.lost = append(g.iso.lost, lost)
	}
	g.say(Event{Kind: hello, Pid: os.Getpid(), Isolation: g.iso.kind, LostWords: g.iso.lost})
}

// arm takes a deadline over and acknowledges it (G1). What is refused is not
// answered: an acknowledgement that does not come is what the daemon acts on.
func (g *guardian) arm(d Deadline, now lease.Instant) {
	why := d.valid(now)
	switch {
	case why != "":
	case d.Term <= g.stopped:
		why = "its stop has begun"
	case d.Term < g.armed.Term:
		why = fmt.Sprintf("term %d is armed", g.armed.Term)
	case len(g.runs) > 0 && g.runs[0].Term != d.Term: // they are all of one term
		why = fmt.Sprintf("%s of term %d is alive", g.runs[0].name(), g.runs[0].Term)
	case g.unproven() && g.outside.run.Term != d.Term:
		why = fmt.Sprintf("the service of term %d is not proven to have stopped", g.outside.run.Term)
	case g.armed.Term == d.Term && now.Longest(g.armed.T0) >= g.armed.Stop:
		// A guard that woke late: what it held is over, whatever came since.
		why = "its deadline has passed"
	default:
		why = g.startDog(d)
	}
	if why != "" {
		g.log.printf("term %d: deadline refused: %s", d.Term, why)
		return
	}
	g.armed = d
	if now.Longest(d.T0) >= d.Stop {
		return // over on arrival; act begins the stop
	}
	g.say(Event{Kind: Armed, Term: d.Term, T0: &d.T0})
	g.noteLease(d)
	g.extendAddress(d)
}

// stopTerm begins the stop of a term on request, or says that it is over.
func (g *guardian) stopTerm(t lease.Term, now lease.Instant, why string) {
	switch {
	case len(g.runs) > 0 && g.runs[0].Term > t, g.unproven() && g.outside.run.Term > t:
		// An older term: nothing of it is alive, or this run would not be.
		g.say(Event{Kind: Empty, Term: t, Final: true})
	case t > g.stopped:
		g.beginStop(t, now, g.armed.Kill-g.armed.Stop, why, false)
	case !g.busy() && !g.withdrawing():
		g.say(Event{Kind: Empty, Term: t, Final: true})
	}
	// Otherwise its stop is under way; Empty follows.
}

// mayStart says why a run must not start, "" if it may (G2).
func (g *guardian) mayStart(t lease.Term, now lease.Instant) string {
	switch {
	case g.closing || g.daemonDead:
		return "the guard is ending"
	case t <= g.stopped:
		return fmt.Sprintf("the stop of term %d has begun", g.stopped)
	case t != g.armed.Term:
		return "no deadline is armed for this term"
	case now.Longest(g.armed.T0) >= g.armed.Stop:
		return "the lease was not renewed in time"
	}
	return ""
}

func (g *guardian) say(e Event) {
	if !g.sock.send(e) {
		g.log.printf("the daemon does not read: dropped %s of term %d", e.Kind, e.Term)
	}
}

// logger writes lines from a goroutine of its own: a log on a disk that hangs
// must not hold up the guard. What does not fit is dropped.
type logger struct {
	lines chan string
	done  chan struct{}
}

func newLogger(w io.Writer) *logger {
	l := &logger{lines: make(chan string, 100), done: make(chan struct{})}
	go func() {
		defer close(l.done)
		for s := range l.lines {
			_, _ = io.WriteString(w, s) // nowhere to complain
		}
	}()
	return l
}

func (l *logger) printf(format string, args ...any) {
	s := fmt.Sprintf("%s guard %d: %s\n", time.Now().Format(time.RFC3339Nano), os.Getpid(), fmt.Sprintf(format, args...))
	select {
	case l.lines <- s:
	default:
	}
}

// close writes what is left, for at most a second.
func (l *logger) close() {
	close(l.lines)
	select {
	case <-l.done:
	case <-time.After(time.Second):
	}
}
