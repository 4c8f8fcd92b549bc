package guard

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/pkg/clock"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// Aux describes an auxiliary run: a command beside the service that belongs to
// a term, such as a hook or a probe. It ends with the term. Several may run at
// once; their order is the caller's.
//
// It is held together by a cgroup or a process group, never by a PID namespace:
// what it mounts, the service must see.
type Aux struct {
	Term    lease.Term
	ID      uint64   // drawn by the caller, not 0, not used for another; events name it
	Argv    []string // exec form; looked up in the PATH of Env when it has no slash
	Env     []string // the whole environment
	Dir     string   // working directory; empty: /
	Stdin   []byte   // what it reads, up to 1 MiB
	Timeout time.Duration
	// OfStop: it belongs to the stop of its term. It may still be started after
	// the stop's first signal, is not asked to end by it, and has until KILL.
	// After Empty with Final it is refused like any other.
	OfStop bool
}

const (
	maxAuxOutput = 4 << 10                // bytes, the last ones
	maxAuxStdin  = 1 << 20                // bytes
	maxAux       = 32                     // at once
	auxGrace     = 500 * time.Millisecond // from KILL to its main process until the same to its shim
	auxStuck     = 2 * time.Second        // from KILL to all until it is said that it is of no use
)

// auxState is what a run has as an auxiliary one.
type auxState struct {
	Aux
	what     string     // in words; empty: its number
	recorded chan error // the record is durable, or can not be made; nil once it was received
	began    lease.Instant
	pressed  lease.Instant // when its main process was sent KILL
	timedOut bool
	stuck    bool // reported
	end      Event
}

// auxIsolation is how auxiliary runs are held together.
func (g *guardian) auxIsolation() isolation {
	if g.auxIso.kind == "" {
		g.auxIso = g.iso
		if g.iso.kind == IsolationPidNamespace {
			var err error
			if g.auxIso, err = cgroupIsolation(""); err != nil {
				g.auxIso = groupIsolation("")
				g.log.printf("auxiliary runs are held by process groups: %v", err)
			}
		}
	}
	return g.auxIso
}

// requestAux takes an auxiliary run over. It is started once its record is
// durable.
func (g *guardian) requestAux(a Aux) {
	why := g.mayStartAux(a, clock.Now())
	switch {
	case why != "":
	case a.ID == 0 || a.ID >= outsideID || a.Timeout <= 0 || len(a.Stdin) > maxAuxStdin:
		why = fmt.Sprintf("an auxiliary run needs an ID, a Timeout, and at most %d bytes of Stdin", maxAuxStdin)
	case len(g.runs)+len(g.waiting) >= maxAux:
		why = fmt.Sprintf("%d are alive; wait for one to end", maxAux)
	case slices.ContainsFunc(g.auxes(), func(r *run) bool { return r.ID == a.ID }):
		why = "its ID is in use"
	}
	if why != "" {
		g.refuseAux(a, why)
		return
	}
	r := &run{
		Run: Run{Term: a.Term, ID: a.ID, Argv: a.Argv, Env: a.Env, Dir: a.Dir},
		aux: &auxState{Aux: a, recorded: make(chan error, 1), end: Event{Exit: -1}}, iso: g.auxIsolation(),
	}
	if r.iso.kind == IsolationCgroup {
		r.cgroup = r.iso.cgroups.nameCgroup(cgroupPrefix(g.cfg.DataDir), a.Term, a.ID)
	}
	g.waiting = append(g.waiting, r)
	t, dir := r.record(), g.cfg.DataDir
	if !g.disk.add(func() {
		r.aux.recorded <- commitAux(dir, t)
		g.wakeUp()
	}) {
		r.aux.recorded <- errors.New("the disk of the data directory does not answer")
	}
}

// auxes are the auxiliary runs that are alive or wait for their record.
func (g *guardian) auxes() []*run {
	out := slices.Clone(g.waiting)
	for _, r := range g.runs {
		if r.aux != nil {
			out = append(out, r)
		}
	}
	return out
}

func (g *guardian) refuseAux(a Aux, why string) {
	g.log.printf("term %d: auxiliary run %d refused: %s", a.Term, a.ID, why)
	g.say(Event{Kind: AuxRefused, Term: a.Term, Run: a.ID, Why: why})
}

// mayStartAux is mayStart for an auxiliary run.
func (g *guardian) mayStartAux(a Aux, now lease.Instant) string {
	if !a.OfStop || a.Term > g.stopped {
		return g.mayStart(a.Term, now)
	}
	switch {
	case g.daemonDead:
		return "the guard is ending"
	case a.Term != g.armed.Term:
		return "no deadline is armed for this term"
	case a.Term <= g.final:
		return fmt.Sprintf("term %d is over", a.Term)
	case g.killIn(now) <= 0:
		return "it is too late for it"
	}
	return ""
}

// startWaiting starts the auxiliary runs whose record has become durable, and
// forgets those that may start no more: a disk that hangs holds up no stop.
func (g *guardian) startWaiting(now lease.Instant) {
	for _, r := range slices.Clone(g.waiting) {
		recorded := false
		var err error
		select {
		case err = <-r.aux.recorded:
			recorded = true
		default:
		}
		why := g.mayStartAux(r.aux.Aux, now)
		if !recorded && why == "" {
			continue
		}
		g.waiting = slices.DeleteFunc(g.waiting, func(o *run) bool { return o == r })
		if err != nil {
			why = err.Error()
		}
		if why == "" {
			why = g.startAux(r)
		}
		if why != "" {
			g.dropRecord(r)
			g.refuseAux(r.aux.Aux, why)
		}
	}
}

func (g *guardian) startAux(r *run) (refused string) {
	if err := g.fork(r); err != nil {
		return err.Error()
	}
	r.aux.began = clock.Now()
	r.ctl.send(shimOrder{Run: &r.Run, Aux: true, Stdin: r.aux.Stdin})
	return ""
}

// pressAux holds an auxiliary run to its timeout.
func (g *guardian) pressAux(r *run, now lease.Instant) {
	a := r.aux
	if !a.timedOut && now.Longest(a.began) >= a.Timeout {
		g.log.printf("term %d: %s takes longer than %v: KILL", r.Term, r.name(), a.Timeout)
		a.timedOut, a.pressed = true, now
		r.ctl.send(shimOrder{Signal: int(unix.SIGKILL)}) // so that its output is heard of
	}
	if a.timedOut && now.Longest(a.pressed) >= auxGrace {
		r.killNow(now)
	}
	if r.killing && !a.stuck && r.ID != outsideID && now.Longest(r.killFrom) >= auxStuck {
		a.stuck = true
		g.say(Event{Kind: AuxStuck, Term: r.Term, Run: r.ID, Why: fmt.Sprintf("it survives SIGKILL (pid %d, uninterruptible?)", r.shim)})
	}
}

func (g *guardian) auxReport(r *run, rep shimReport) {
	switch {
	case rep.Errno != 0, rep.Exited:
		r.reported = true
		r.aux.end.Exit, r.aux.end.Why, r.aux.end.Output = rep.Exit, rep.Why, rep.Output
	case rep.Pid != 0 && r.ID != outsideID:
		g.say(Event{Kind: AuxStarted, Term: r.Term, Run: r.ID, Pid: r.pidHere(rep)})
	}
}

// auxEmptied says how an auxiliary run ended, now that nothing of it is alive.
func (g *guardian) auxEmptied(r *run) {
	e := r.aux.end
	e.Kind, e.Term, e.Run, e.TimedOut = AuxEnded, r.Term, r.ID, r.aux.timedOut
	if e.Exit == -1 && e.Why == "" {
		e.Why = "it was killed"
	}
	if r.ID == finalID {
		g.log.printf("the final command ended with %d: %s", e.Exit, e.Output)
	}
	g.say(e)
	g.dropRecord(r)
}

// dropRecord removes the record of a run of which nothing lives. One that stays
// proves nothing, and harms nobody.
func (g *guardian) dropRecord(r *run) {
	path := filepath.Join(g.cfg.DataDir, auxFile(r.Term, r.ID))
	g.disk.add(func() { _ = os.Remove(path) })
}

// wakeUp ends the guard's present sleep, from any goroutine.
func (g *guardian) wakeUp() {
	one := [8]byte{1}
	_, _ = unix.Write(g.wake, one[:]) // full: it is awake
}

// woken takes note of it.
func (g *guardian) woken() {
	var n [8]byte
	_, _ = unix.Read(g.wake, n[:]) // nothing there: woken by something else
}

func auxFile(t lease.Term, id uint64) string { return fmt.Sprintf("aux-%d-%d.json", t, id) }

// commitAux makes the record of an auxiliary run durable, and removes those of
// earlier terms, which are over.
func commitAux(dir string, t Tree) error {
	for _, old := range loadAux(dir) {
		if old.Term < t.Term {
			_ = os.Remove(filepath.Join(dir, auxFile(old.Term, old.Run)))
		}
	}
	path := filepath.Join(dir, auxFile(t.Term, t.Run))
	f, err := newFile(path)
	if err == nil {
		if err = commitTreeFile(f, path, t); err != nil {
			_ = os.Remove(f.Name())
		}
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return recordError("an auxiliary run", err)
	}
	return nil
}
