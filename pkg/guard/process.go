package guard

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
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
	g := &guardian{daemonFd: guardDaemon, log: newLogger(os.Stderr)}
	defer g.log.close()
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
	run     *run

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

// run is one run of the service: a shim and its tree.
type run struct {
	Run
	shim     int
	pidfd    int
	ctl      *lineConn
	tree     *os.File
	cgroup   cgroup // empty but in cgroup isolation
	reaped   bool
	reported bool          // Exited or NotExecutable was sent
	killing  bool          // KILL to everything, round after round
	killFrom lease.Instant // when that began
	killed   lease.Instant // latest round
}

func (g *guardian) loop() int {
	for {
		now := clock.Now()
		if g.act(now) {
			return 0
		}
		g.wait(now)
	}
}

// wait sleeps until something is to be read or the next moment of the
// deadline, at most one tick.
func (g *guardian) wait(now lease.Instant) {
	fds := []unix.PollFd{g.sock.pollFd(), {Fd: int32(g.daemonFd), Events: unix.POLLIN}}
	if g.daemonDead {
		fds[1].Fd = -1
	}
	r := g.run
	if r != nil {
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
		g.daemonDead = true
		g.log.printf("the daemon is dead")
	}
	if r != nil {
		if fds[2].Revents&unix.POLLOUT != 0 {
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
	if r := g.run; r != nil {
		next = min(next, tick)
		switch {
		case r.killing:
			next = min(next, r.killEvery(now))
		case r.Term <= g.stopped:
			next = min(next, g.killIn(now))
		}
	}
	return next
}

// killIn is the time left to KILL for the present run, whose stop has begun.
func (g *guardian) killIn(now lease.Instant) time.Duration {
	return min(g.stop.grace-now.Longest(g.stop.at), g.armed.Kill-now.Longest(g.armed.T0))
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
	if g.run != nil {
		g.pressRun(now)
	}
	g.reap(now)
	if g.run != nil {
		return false
	}
	if g.daemonDead {
		return g.afterDaemon(now)
	}
	return g.closing
}

// beginStop begins the stop of a term: from here on it is refused for ever.
func (g *guardian) beginStop(t lease.Term, now lease.Instant, grace time.Duration, why string, own bool) {
	g.stopped = max(g.stopped, t)
	g.stop = stopping{at: now, grace: max(grace, 0)}
	g.log.printf("term %d: stop begins: %s", t, why)
	if own {
		g.say(Event{Kind: Stopping, Term: t, Why: why})
	}
	if g.run == nil {
		g.say(Event{Kind: Empty, Term: t, Final: true})
		return
	}
	g.run.ctl.send(shimOrder{Signal: g.cfg.StopSignal})
}

// pressRun moves a run along its stop ladder.
func (g *guardian) pressRun(now lease.Instant) {
	r := g.run
	if r.Term <= g.stopped {
		if !r.killing && g.killIn(now) <= 0 {
			g.log.printf("term %d: KILL", r.Term)
			r.killNow(now)
		}
		// A guard that woke long after End has only just sent KILL.
		tried := r.killing && now.Longest(r.killFrom) >= tick
		if !g.stop.stuck && tried && now.Longest(g.armed.T0) >= g.armed.End {
			g.stop.stuck = true
			why := fmt.Sprintf("the service survives SIGKILL (pid %d, uninterruptible?)", r.shim)
			g.log.printf("term %d: stuck: %s", r.Term, why)
			g.say(Event{Kind: Stuck, Term: r.Term, Run: r.ID, Why: why})
		}
	}
	if r.killing && (r.killed.IsZero() || now.Longest(r.killed) >= r.killEvery(now)) {
		r.killed = now
		g.kill(r)
	}
}

// killNow begins the rounds of KILL.
func (r *run) killNow(now lease.Instant) {
	if !r.killing {
		r.killing, r.killFrom = true, now
	}
}

// killEvery is the time between two rounds of KILL.
func (r *run) killEvery(now lease.Instant) time.Duration {
	if now.Longest(r.killFrom) < killFast {
		return killTick
	}
	return lateTick
}

// kill sends KILL to the whole tree. In a PID namespace the kernel does it.
func (g *guardian) kill(r *run) {
	if !r.reaped {
		_ = unix.PidfdSendSignal(r.pidfd, unix.SIGKILL, nil, 0) // gone: reap tells
	}
	if r.cgroup != "" {
		r.cgroup.kill()
	}
	if g.iso.kind != IsolationPidNamespace {
		killDescendants(os.Getpid())
	}
}

// reap collects dead children. No child left proves the tree empty; where there
// is a cgroup, the kernel must say the same of it.
func (g *guardian) reap(now lease.Instant) {
	for {
		pid, ws, none := reapAny()
		switch {
		case none:
			if r := g.run; r != nil && r.reaped {
				if r.cgroup == "" || r.cgroup.empty() {
					g.emptied(r)
				} else {
					g.killOrphans(r, now)
				}
			}
			return
		case pid == 0:
			if r := g.run; r != nil && r.reaped {
				g.killOrphans(r, now)
			}
			return
		case pid == g.release:
			g.release, g.released = 0, true
			g.log.printf("the release child ended with %d", exitCode(ws))
		case g.run != nil && pid == g.run.shim:
			g.readShim(g.run) // its last words
			g.run.reaped = true
			if !g.run.reported {
				g.run.reported = true
				g.say(Event{Kind: Exited, Term: g.run.Term, Run: g.run.ID, Exit: exitCode(ws), Why: "the service's shim ended"})
			}
		}
	}
}

// killOrphans begins to kill what a shim left when it died: it fell to us, or is
// in its cgroup.
func (g *guardian) killOrphans(r *run, now lease.Instant) {
	if !r.killing {
		r.killNow(now)
		g.kill(r)
	}
}

// emptied ends a run whose tree is proven empty.
func (g *guardian) emptied(r *run) {
	g.run = nil
	g.log.printf("term %d: run %d is gone", r.Term, r.ID)
	g.say(Event{Kind: Empty, Term: r.Term, Run: r.ID, Final: r.Term <= g.stopped})
	if g.stopped > r.Term { // a stop was asked for a later term meanwhile
		g.say(Event{Kind: Empty, Term: g.stopped, Final: true})
	}
	markEmpty(r.tree) // before the proof goes with the cgroup
	r.tree.Close()
	g.removeCgroup(r)
	unix.Close(r.pidfd)
	unix.Close(r.ctl.fd)
}

func (g *guardian) removeCgroup(r *run) {
	if r.cgroup == "" {
		return
	}
	if err := r.cgroup.remove(); err != nil {
		g.log.printf("%v; it is tried again at the next start", err)
	}
}

// afterDaemon runs the release child once the daemon is dead and the tree is
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
	case g.released || g.armed.Term == 0 || len(g.cfg.ReleaseArgv) == 0:
		return true
	}
	if err := g.startRelease(now); err != nil {
		g.log.printf("release: %v", err)
		return true
	}
	return false
}

func (g *guardian) startRelease(now lease.Instant) error {
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
	g.release, g.until = pid, now.Add(g.cfg.ReleaseTimeout)
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
	case q.Op == opStop:
		g.stopTerm(q.Term, now, q.Why)
	case q.Op == opClose:
		g.closing = true
		if g.run != nil {
			g.stopTerm(g.run.Term, now, "closing")
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
	if h, err := findHierarchy(); err == nil {
		for _, dir := range clearCgroups(h, c.DataDir) {
			g.log.printf("cgroup %s of a former run can not be removed", dir)
		}
	}
	debug.FreeOSMemory()
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
	case g.run != nil && g.run.Term != d.Term:
		why = fmt.Sprintf("the service of term %d is alive", g.run.Term)
	case g.armed.Term == d.Term && now.Longest(g.armed.T0) >= g.armed.Stop:
		// A guard that woke late: what it held is over, whatever came since.
		why = "its deadline has passed"
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
}

// stopTerm begins the stop of a term on request, or says that it is over.
func (g *guardian) stopTerm(t lease.Term, now lease.Instant, why string) {
	switch {
	case g.run != nil && g.run.Term > t:
		// An older term: nothing of it is alive, or this run would not be.
		g.say(Event{Kind: Empty, Term: t, Final: true})
	case t > g.stopped:
		g.beginStop(t, now, g.armed.Kill-g.armed.Stop, why, false)
	case g.run == nil:
		g.say(Event{Kind: Empty, Term: t, Final: true})
	}
	// Otherwise its stop is under way; Empty follows.
}

// mayStart says why a run must not start, "" if it may (G2).
func (g *guardian) mayStart(r Run, now lease.Instant) string {
	switch {
	case g.closing || g.daemonDead:
		return "the guard is ending"
	case r.Term <= g.stopped:
		return fmt.Sprintf("the stop of term %d has begun", g.stopped)
	case r.Term != g.armed.Term:
		return "no deadline is armed for this term"
	case now.Longest(g.armed.T0) >= g.armed.Stop:
		return "the lease was not renewed in time"
	}
	return ""
}

// start forks a shim, records its tree durably, and only then lets it execute
// the service: fork, fsync of the record, look at the clock again, go.
func (g *guardian) start(q Run) (refused string) {
	if g.run != nil {
		return "the former run is not proven gone"
	}
	if why := g.mayStart(q, clock.Now()); why != "" {
		return why
	}
	tree, err := newTree(g.cfg.DataDir)
	if err != nil {
		return err.Error()
	}
	r := &run{Run: q, tree: tree}
	if err := g.fork(r); err != nil {
		tree.Close()
		g.removeCgroup(r)
		return err.Error()
	}
	g.run = r
	err = commitTree(tree, g.cfg.DataDir, Tree{
		Term: q.Term, Run: q.ID, Isolation: g.iso.kind, BootID: bootID(),
		Shim: r.shim, ShimStart: startTime(r.shim), PidNS: pidNamespace(strconv.Itoa(r.shim)),
		Cgroup: string(r.cgroup), CgroupMount: g.iso.cgroups.mount, CgroupRoot: g.iso.cgroups.root,
	})
	why := g.mayStart(q, clock.Now()) // the disk may have taken its time
	if err != nil {
		why = err.Error()
	}
	if why != "" {
		r.reported = true
		r.killNow(clock.Now()) // the shim dies without having been told to go
		return why
	}
	r.ctl.send(shimOrder{Run: &q})
	return ""
}

// fork starts a shim, which waits for its order.
func (g *guardian) fork(r *run) error {
	sp, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("shim: socketpair: %w", err)
	}
	defer unix.Close(sp[1])
	if r.ctl, err = newLineConn(sp[0]); err != nil {
		unix.Close(sp[0])
		return fmt.Errorf("shim: %w", err)
	}
	attr := g.iso.sysProcAttr()
	attr.PidFD = &r.pidfd
	kill := 0 // /dev/null
	if g.iso.kind == IsolationCgroup {
		if kill, err = g.placeInCgroup(r, attr); err != nil {
			unix.Close(sp[0])
			return fmt.Errorf("shim: %w", err)
		}
		defer unix.Close(kill)
		defer unix.Close(attr.CgroupFD)
	}
	r.shim, err = syscall.ForkExec(selfExe, []string{os.Args[0], ShimCommand, g.iso.kind}, &syscall.ProcAttr{
		Env:   r.Env, // not the guard's: the service can read that of its own pid 1
		Files: []uintptr{0, 2, 2, uintptr(sp[1]), guardStdout, guardStderr, r.tree.Fd(), guardLock, uintptr(kill)},
		Sys:   attr,
	})
	if err == nil && r.pidfd < 0 {
		err = errors.New("this kernel has no pidfds (Linux 5.3 or later is needed)")
		_ = syscall.Kill(r.shim, syscall.SIGKILL)
		_, _ = syscall.Wait4(r.shim, nil, 0, nil)
	}
	if err != nil {
		unix.Close(sp[0])
		return fmt.Errorf("shim: %w", err)
	}
	return nil
}

// placeInCgroup makes the run's cgroup and has the shim born in it. kill is
// what the shim can kill its tree with. The caller closes both descriptors.
func (g *guardian) placeInCgroup(r *run, attr *syscall.SysProcAttr) (kill int, err error) {
	if r.cgroup, err = g.iso.cgroups.newCgroup(cgroupPrefix(g.cfg.DataDir), r.Term, r.ID); err != nil {
		return 0, err
	}
	if kill, err = r.cgroup.openKill(); err != nil {
		return 0, err
	}
	if attr.CgroupFD, err = r.cgroup.open(); err != nil {
		unix.Close(kill)
		return 0, err
	}
	attr.UseCgroupFD = true
	return kill, nil
}

// readShim passes the shim's reports on.
func (g *guardian) readShim(r *run) {
	r.ctl.receive(func(line []byte) {
		var rep shimReport
		if err := json.Unmarshal(line, &rep); err != nil {
			g.log.printf("bad report of the shim: %v", err)
			return
		}
		e := Event{Term: r.Term, Run: r.ID}
		switch {
		case rep.Errno != 0:
			e.Kind, e.Exit, e.Why = NotExecutable, rep.Exit, rep.Why
			r.reported = true
		case rep.Exited:
			e.Kind, e.Exit = Exited, rep.Exit
			r.reported = true
		case rep.Pid != 0:
			e.Kind, e.Pid = Started, rep.Pid
			if g.iso.kind == IsolationPidNamespace {
				e.Pid = childOf(r.shim)
			}
		default:
			return
		}
		g.say(e)
	})
}

// childOf finds a child of the process as this /proc numbers it; 0 if there
// is none.
func childOf(parent int) int {
	pids, err := allPids()
	if err != nil {
		return 0
	}
	for _, pid := range pids {
		if s, err := readStat(pid); err == nil && s.ppid == parent {
			return pid
		}
	}
	return 0
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
