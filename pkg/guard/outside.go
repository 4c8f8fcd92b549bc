package guard

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/understudy-ha/understudy/pkg/lease"
)

// Outside is for a service whose command hands its work to processes that are
// not beneath it: those of a container engine, a service manager, another
// machine. The end of its own tree proves nothing about them. So a run of it is
// over only when, after the end of that tree, Probe has said so: there is no
// Empty before, and no release.
type Outside struct {
	// Stop asks for the end of what the service has others run. It is begun with
	// the first signal of a stop, and again as long as Probe says that something
	// runs. It must do no harm where nothing does.
	Stop []string
	// Probe tells: exit code 7 nothing of it runs, 0 it does, anything else
	// (a death by a signal, a timeout) it is not known.
	Probe []string
	// Env and Dir are for both where the run's own are not known: after the
	// death of the guard that knew them.
	Env []string
	Dir string
}

const (
	outsideID = math.MaxUint64 - 1 // of the runs of Stop and Probe

	probeStopped = 7 // exit code, as of OCF agents

	probeFirst = time.Second      // the limit of the first probe; of each further one twice as much
	probeMost  = 10 * time.Second // up to this
	stopLeast  = time.Second      // the same for Stop, from what a stop is given until KILL
	stopMost   = time.Minute
	askFirst   = 100 * time.Millisecond // from an answer to the next question, doubling, too
	askMost    = 2 * time.Second
)

// outside is what the guard knows of the run that is not proven to be over.
type outside struct {
	Outside
	run      *run // nil: everything is proven to be over
	treeGone bool // the run's own tree has ended
	helper   *run // Stop or Probe of it, alive
	probing  bool // the helper is Probe
	again    bool // Stop comes next
	stops    int  // begun
	probes   int  // begun
	next     lease.Instant
	answer   string // the latest one, in words
	said     string // the same without what the probe wrote
	stuck    bool   // reported
}

// unproven reports whether others may still run what a run of the service has
// handed to them.
func (g *guardian) unproven() bool { return g.outside != nil && g.outside.run != nil }

// beginOutside: from here on a run may hand work to others.
func (g *guardian) beginOutside(r *run) {
	if o := g.outside; o != nil {
		*o = outside{Outside: o.Outside, run: r}
	}
}

// oweOutside takes over the proof that a former guard of this daemon has died
// over. Nothing of the run's own tree is alive.
func (g *guardian) oweOutside(t lease.Term) {
	if g.outside == nil || t == 0 {
		return
	}
	g.stopped, g.owed = max(g.stopped, t), t
	r := &run{Run: Run{Term: t, Env: g.outside.Env, Dir: g.outside.Dir}, pidfd: -1, ctl: &lineConn{fd: -1, eof: true}}
	g.beginOutside(r)
	g.outside.treeGone = true
}

// neverBegan: a run could not be executed, and has handed nothing to anybody.
func (g *guardian) neverBegan(r *run) {
	if g.unproven() && g.outside.run == r {
		g.outside.run = nil
	}
}

// nextOutside is how long the guard may leave the proof to itself.
func (g *guardian) nextOutside(now lease.Instant) time.Duration {
	o := g.outside
	if o.helper == nil && o.treeGone && !o.next.IsZero() {
		return min(tick, -now.Longest(o.next))
	}
	return tick
}

// pressOutside goes on with the proof: Stop with the first signal, then, once
// the run's own tree is gone, Probe until it says 7. One thing at a time.
func (g *guardian) pressOutside(now lease.Instant) {
	if !g.unproven() {
		return
	}
	o := g.outside
	stopping := o.run.Term <= g.stopped
	if stopping {
		g.reportUnproven(now)
	}
	switch {
	case o.helper != nil:
	case stopping && o.stops == 0:
		g.askOutside(now)
	case !o.treeGone:
	case !o.next.IsZero() && now.Longest(o.next) < 0:
	case o.again:
		g.askOutside(now)
	default:
		o.probes++
		o.probing = true
		g.helpOutside(now, o.Probe, growing(probeFirst, probeMost, o.probes))
	}
}

// askOutside runs Stop. Its limit is its own: it is not killed with the service.
func (g *guardian) askOutside(now lease.Instant) {
	o := g.outside
	o.stops++
	o.probing, o.again = false, false
	first := max(g.armed.Kill-g.armed.Stop, stopLeast)
	g.helpOutside(now, o.Stop, growing(first, max(first, stopMost), o.stops))
}

func (g *guardian) helpOutside(now lease.Instant, argv []string, limit time.Duration) {
	o := g.outside
	what := "service.stop"
	if o.probing {
		what = "service.probe"
	}
	r := &run{
		Run: Run{Term: o.run.Term, ID: outsideID, Argv: argv, Env: o.run.Env, Dir: o.run.Dir},
		aux: &auxState{Aux: Aux{Timeout: limit, OfStop: true}, what: what, end: Event{Exit: -1}}, iso: g.auxIsolation(),
	}
	if r.iso.kind == IsolationCgroup {
		r.cgroup = r.iso.cgroups.nameCgroup(cgroupPrefix(g.cfg.DataDir), r.Term, r.ID)
	}
	if why := g.startAux(r); why != "" {
		g.heardOutside(now, Event{Exit: -1, Why: why})
		return
	}
	o.helper = r
}

// heardOutside takes the end of Stop or Probe.
func (g *guardian) heardOutside(now lease.Instant, e Event) {
	o := g.outside
	o.helper = nil
	words, said := exitInWords(e)
	if !o.probing {
		o.next = lease.Instant{} // whatever it says: ask
		if e.Exit != 0 {
			g.log.printf("term %d: service.stop %s%s", o.run.Term, words, said)
		}
		return
	}
	if e.Exit == probeStopped && !e.TimedOut {
		g.log.printf("term %d: service.probe says that the service has stopped", o.run.Term)
		r := o.run
		o.run = nil
		g.over(r, now)
		return
	}
	// What was never asked to stop may be anything; what runs has not listened.
	o.again = e.Exit == 0 || o.stops == 0
	o.next = now.Add(growing(askFirst, askMost, o.probes))
	o.answer = words + said
	if words != o.said {
		o.said = words
		g.log.printf("term %d: not proven to have stopped: service.probe %s", o.run.Term, o.answer)
		g.say(Event{Kind: Unproven, Term: o.run.Term, Run: o.run.ID, Why: "service.probe " + o.answer})
	}
}

// reportUnproven says once that the right to serve has ended without a proof.
func (g *guardian) reportUnproven(now lease.Instant) {
	o := g.outside
	late := g.armed.Term == o.run.Term && now.Longest(g.armed.T0) >= g.armed.End
	// A guard that woke long after End has only just begun.
	if o.stuck || g.stop.stuck || !o.treeGone || !late || now.Longest(g.stop.at) < stopLeast {
		return
	}
	o.stuck = true
	why := "service.stop does not end"
	switch {
	case o.answer != "":
		why = "service.probe " + o.answer
	case o.probes > 0:
		why = "service.probe does not end"
	}
	why += ": the service is not proven to have stopped; stop it by hand, the probe is asked again until it says 7"
	g.log.printf("term %d: stuck: %s", o.run.Term, why)
	g.say(Event{Kind: Stuck, Term: o.run.Term, Run: o.run.ID, Why: why})
}

// exitInWords says how Stop or Probe ended, and what it said.
func exitInWords(e Event) (words, said string) {
	switch {
	case e.TimedOut:
		words = "was killed, it took too long"
	case e.Exit < 0 || (e.Why != "" && e.Exit >= 126):
		words = "could not be run: " + e.Why
	case e.Exit > 128:
		words = fmt.Sprintf("was killed by signal %d", e.Exit-128)
	case e.Exit == 0:
		words = "says that it runs"
	default:
		words = fmt.Sprintf("exited with %d", e.Exit)
	}
	const most = 200 // bytes
	if said = strings.Join(strings.Fields(e.Output), " "); said != "" {
		said = ": " + strings.ToValidUTF8(said[max(0, len(said)-most):], "")
	}
	return words, said
}

// growing is the n-th of limits that double, from 1.
func growing(first, most time.Duration, n int) time.Duration {
	for ; n > 1 && first < most; n-- {
		first *= 2
	}
	return min(first, most)
}
