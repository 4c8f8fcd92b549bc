package guard

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/pkg/clock"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// run is a shim and its tree: the service, or with aux one of the commands
// beside it.
type run struct {
	Run
	aux      *auxState // nil: the service
	iso      isolation
	shim     int
	pidfd    int
	ctl      *lineConn
	tree     *os.File // the service's record
	cgroup   cgroup   // empty but in cgroup isolation
	reaped   bool
	clean    bool          // the shim ended by itself: it saw its tree end
	reported bool          // Exited or NotExecutable was sent
	killing  bool          // KILL to everything, round after round
	killFrom lease.Instant // when that began
	killed   lease.Instant // latest round
}

// killIn is the time left to KILL for the runs of a term whose stop has begun.
func (g *guardian) killIn(now lease.Instant) time.Duration {
	return min(g.stop.grace-now.Longest(g.stop.at), g.armed.Kill-now.Longest(g.armed.T0))
}

// stopping reports whether a run is to end with its term. What the guard runs
// for the end of a term has limits of its own.
func (g *guardian) stopping(r *run) bool {
	return r.Term <= g.stopped && r.ID != finalID && r.ID != outsideID
}

// nextLookAt is how long the guard may leave a run to itself.
func (g *guardian) nextLookAt(r *run, now lease.Instant) time.Duration {
	switch {
	case r.killing:
		return min(tick, r.killEvery(now))
	case g.stopping(r):
		return min(tick, g.killIn(now))
	}
	return tick
}

// pressRun moves a run along its stop ladder.
func (g *guardian) pressRun(r *run, now lease.Instant) {
	if g.stopping(r) {
		if !r.killing && g.killIn(now) <= 0 {
			g.log.printf("term %d: KILL to %s", r.Term, r.name())
			r.killNow(now)
		}
		// A guard that woke long after End has only just sent KILL.
		tried := r.killing && now.Longest(r.killFrom) >= tick
		if !g.stop.stuck && tried && now.Longest(g.armed.T0) >= g.armed.End {
			g.stop.stuck = true
			why := fmt.Sprintf("%s survives SIGKILL (pid %d, uninterruptible?)", r.name(), r.shim)
			g.log.printf("term %d: stuck: %s", r.Term, why)
			g.say(Event{Kind: Stuck, Term: r.Term, Run: r.serviceID(), Why: why})
		}
	}
	if r.aux != nil {
		g.pressAux(r, now)
	}
	if r.killing && (r.killed.IsZero() || now.Longest(r.killed) >= r.killEvery(now)) {
		r.killed = now
		g.kill(r)
	}
}

// name is what a run is called in words.
func (r *run) name() string {
	switch {
	case r.aux == nil:
		return "the service"
	case r.aux.what != "":
		return r.aux.what
	}
	return fmt.Sprintf("auxiliary run %d", r.ID)
}

// serviceID is the run's id in events that also the service has.
func (r *run) serviceID() uint64 {
	if r.aux != nil {
		return 0
	}
	return r.ID
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

// kill sends KILL to the whole tree. In a PID namespace and in a cgroup the
// kernel does it. Elsewhere, and to what left its cgroup, we do: it is beneath
// the shim or fell to us.
func (g *guardian) kill(r *run) {
	if !r.reaped {
		_ = unix.PidfdSendSignal(r.pidfd, unix.SIGKILL, nil, 0) // gone: reap tells
	}
	switch {
	case r.iso.kind == IsolationPidNamespace:
	case r.cgroup != "" && !r.cgroup.empty():
		r.cgroup.kill()
	default:
		killDescendants(os.Getpid(), g.notOf(r)...)
	}
}

// notOf lists our children that have nothing to do with a run.
func (g *guardian) notOf(r *run) []int {
	pids := []int{g.release}
	for _, o := range g.runs {
		if o != r && !o.reaped {
			pids = append(pids, o.shim)
		}
	}
	return pids
}

// strays lists our children that are no shim: what shims left when they were
// killed, zombies included.
//
// That there is none is a proof as long as nothing is reaped meanwhile: whatever
// a dead shim left hangs below such a child from the start of the scan, and the
// child stays listed until it is reaped.
func (g *guardian) strays() []procStat {
	pids, err := allPids()
	if err != nil {
		return []procStat{{}} // nothing is proven
	}
	me, known := os.Getpid(), g.notOf(nil)
	var out []procStat
	for _, pid := range pids {
		if slices.Contains(known, pid) {
			continue
		}
		if s, err := readStat(pid); err == nil && s.ppid == me {
			out = append(out, s)
		}
	}
	return out
}

// reap collects dead children and ends the runs that are proven gone.
func (g *guardian) reap(now lease.Instant) {
	none := g.reapAll()
	for _, r := range slices.Clone(g.runs) {
		switch {
		case !r.reaped:
		case g.vacant(r, none):
			g.emptied(r, now)
		case !r.killing: // the shim is gone: what it left fell to us, or is in its cgroup
			r.killNow(now)
			g.kill(r)
		}
	}
}

// reapAll collects dead children until no other is dead. none: there is no
// child at all.
func (g *guardian) reapAll() (none bool) {
	for {
		pid, ws, none := reapAny()
		if none || pid == 0 {
			return none
		}
		if pid == g.release {
			g.release, g.released = 0, true
			g.log.printf("the release child ended with %d", exitCode(ws))
			continue
		}
		for _, r := range g.runs {
			if r.reaped || r.shim != pid {
				continue
			}
			g.readShim(r) // its last words
			r.reaped, r.clean = true, exitCode(ws) == 0
			if !r.reported && r.aux == nil {
				g.say(Event{Kind: Exited, Term: r.Term, Run: r.ID, Exit: exitCode(ws), Why: "the service's shim ended"})
			}
			r.reported = true
		}
	}
}

// vacant reports whether nothing of a run is alive, the shim of which was
// reaped. Having no child at all proves it, to a subreaper; where there is a
// cgroup, the kernel must say the same of it. Beside other runs the shim's own
// word counts, which ends with 0 only when it has no child left, or that nothing
// fell to us.
func (g *guardian) vacant(r *run, none bool) bool {
	switch {
	case r.cgroup != "" && !r.cgroup.empty():
		return false
	case none:
		return true
	case len(g.runs) == 1:
		return false
	}
	return r.iso.kind == IsolationPidNamespace || r.clean || len(g.strays()) == 0
}

// emptied ends a run that is proven gone.
func (g *guardian) emptied(r *run, now lease.Instant) {
	g.runs = slices.DeleteFunc(g.runs, func(o *run) bool { return o == r })
	switch {
	case r.ID == outsideID:
		r.close()
		g.removeCgroup(r)
		e := r.aux.end
		e.TimedOut = r.aux.timedOut
		g.heardOutside(now, e)
	case r.aux != nil:
		g.log.printf("term %d: run %d is gone", r.Term, r.ID)
		g.auxEmptied(r)
		r.close()
		g.removeCgroup(r)
	case g.unproven() && g.outside.run == r:
		g.log.printf("term %d: the tree of run %d is gone; service.probe decides", r.Term, r.ID)
		g.outside.treeGone = true
	default:
		g.over(r, now)
	}
	g.settle(now)
}

// over ends a run of the service of which nothing is left anywhere.
func (g *guardian) over(r *run, now lease.Instant) {
	g.log.printf("term %d: run %d is gone", r.Term, r.ID)
	final := r.Term <= g.stopped && !g.busy() && g.withdrawn(now)
	if final && g.owed == r.Term {
		g.owed = 0
	}
	g.say(Event{Kind: Empty, Term: r.Term, Run: r.ID, Final: final})
	if r.tree != nil {
		markEmpty(r.tree) // before the proof goes with the cgroup
	} else {
		markRecord(g.cfg.DataDir) // a former guard's
	}
	r.close()
	g.removeCgroup(r)
}

func (r *run) close() {
	if r.tree != nil {
		r.tree.Close()
	}
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

// service is the run of the service; nil if there is none.
func (g *guardian) service() *run {
	for _, r := range g.runs {
		if r.aux == nil {
			return r
		}
	}
	return nil
}

// start forks a shim, records its tree durably, and only then lets it execute
// the service: fork, fsync of the record, look at the clock again, go.
func (g *guardian) start(q Run) (refused string) {
	if g.service() != nil || g.unproven() {
		return "the former run is not proven gone"
	}
	if why := g.mayStart(q.Term, clock.Now()); why != "" {
		return why
	}
	tree, err := newTree(g.cfg.DataDir)
	if err != nil {
		return err.Error()
	}
	r := &run{Run: q, iso: g.iso, tree: tree}
	if g.iso.kind == IsolationCgroup {
		r.cgroup = g.iso.cgroups.nameCgroup(cgroupPrefix(g.cfg.DataDir), q.Term, q.ID)
	}
	if err := g.fork(r); err != nil {
		tree.Close()
		return err.Error()
	}
	t := r.record()
	t.Shim, t.ShimStart, t.PidNS = r.shim, startTime(r.shim), pidNamespace(strconv.Itoa(r.shim))
	t.Outside = g.outside != nil
	err = commitTree(tree, g.cfg.DataDir, t)
	why := g.mayStart(q.Term, clock.Now()) // the disk may have taken its time
	if err != nil {
		why = err.Error()
	}
	if why != "" {
		r.reported = true
		r.killNow(clock.Now()) // the shim dies without having been told to go
		return why
	}
	g.beginOutside(r)
	r.ctl.send(shimOrder{Run: &q})
	return ""
}

// record is what is to be recorded of a run before its shim is forked.
func (r *run) record() Tree {
	return Tree{
		Term: r.Term, Run: r.ID, Isolation: r.iso.kind, BootID: bootID(),
		Cgroup: string(r.cgroup), CgroupMount: r.iso.cgroups.mount, CgroupRoot: r.iso.cgroups.root,
	}
}

// fork starts a shim, which waits for its order, and adds the run to those
// alive.
func (g *guardian) fork(r *run) error {
	err := g.forkShim(r)
	if err != nil {
		g.removeCgroup(r)
		return fmt.Errorf("shim: %w", err)
	}
	g.runs = append(g.runs, r)
	return nil
}

func (g *guardian) forkShim(r *run) error {
	sp, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socketpair: %w", err)
	}
	defer unix.Close(sp[1])
	if r.ctl, err = newLineConn(sp[0]); err == nil {
		err = g.cloneShim(r, sp[1])
	}
	if err != nil {
		unix.Close(sp[0])
	}
	return err
}

func (g *guardian) cloneShim(r *run, ctl int) (err error) {
	attr := r.iso.sysProcAttr()
	attr.PidFD = &r.pidfd
	tree, kill := uintptr(0), 0 // /dev/null
	// With an outside the end of this tree is no proof: the shim must not mark it.
	if r.tree != nil && g.outside == nil {
		tree = r.tree.Fd()
	}
	if r.cgroup != "" {
		if kill, err = r.cgroup.makeFor(attr); err != nil {
			return err
		}
		defer unix.Close(kill)
		defer unix.Close(attr.CgroupFD)
	}
	r.shim, err = syscall.ForkExec(selfExe, []string{os.Args[0], ShimCommand, r.iso.kind}, &syscall.ProcAttr{
		Env:   r.Env, // not the guard's: the service can read that of its own pid 1
		Files: []uintptr{0, 2, 2, uintptr(ctl), guardStdout, guardStderr, tree, guardLock, uintptr(kill)},
		Sys:   attr,
	})
	if err == nil && r.pidfd < 0 {
		err = errors.New("this kernel has no pidfds (Linux 5.3 or later is needed)")
		_ = syscall.Kill(r.shim, syscall.SIGKILL)
		_, _ = syscall.Wait4(r.shim, nil, 0, nil)
	}
	return err
}

// readShim passes the shim's reports on.
func (g *guardian) readShim(r *run) {
	r.ctl.receive(func(line []byte) {
		var rep shimReport
		if err := json.Unmarshal(line, &rep); err != nil {
			g.log.printf("bad report of the shim: %v", err)
			return
		}
		if r.aux != nil {
			g.auxReport(r, rep)
			return
		}
		e := Event{Term: r.Term, Run: r.ID}
		switch {
		case rep.Errno != 0:
			e.Kind, e.Exit, e.Why = NotExecutable, rep.Exit, rep.Why
			r.reported = true
			g.neverBegan(r)
		case rep.Exited:
			e.Kind, e.Exit = Exited, rep.Exit
			r.reported = true
		case rep.Pid != 0:
			e.Kind, e.Pid = Started, r.pidHere(rep)
		default:
			return
		}
		g.say(e)
	})
}

// pidHere is the pid of the run's main process as this /proc numbers it; 0 if
// it can not be told.
func (r *run) pidHere(rep shimReport) int {
	if r.iso.kind == IsolationPidNamespace {
		return childOf(r.shim)
	}
	return rep.Pid
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
