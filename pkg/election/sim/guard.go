package sim

import (
	"time"

	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// guard is the second process of a node: it holds the deadline, and it alone
// starts and stops the service (G1 to G4).
type guard struct {
	n        *node
	gen      uint32
	inc      lease.Incarnation // of its daemon
	frozen   bool
	orphan   bool // its daemon is proven dead
	deferred []event

	in     []guardMsg
	lastIn instant // messages keep their order, both ways
	outAt  instant
	heard  lease.Instant // when the daemon last said anything

	armed    bool
	deadline election.Arm
	stopped  lease.Term // highest term whose first stop signal was sent
	stopping bool
	stopAt   lease.Instant // when the stop began
	stopFor  time.Duration // KILL comes this long after stopAt at the latest
	killed   bool
	timerAt  instant
	owes     lease.Term // its tree died while it was frozen

	tree  tree
	child child
}

// tree is the service with all its processes.
type tree struct {
	alive bool
	term  lease.Term
	dieAt instant // 0: nothing has told it to die
	crash bool    // dies of itself and is to be restarted
}

// child is the short-lived process that writes a guard's release (G3).
type child struct {
	running bool
	since   lease.Instant
	read    reading
}

type guardMsg struct {
	arm         *election.Arm
	start, stop lease.Term
}

// tellGuard sends a message down the pipe, and starts a guard for a new term
// if there is none.
func (w *World) tellGuard(n *node, m guardMsg) {
	g := n.guard
	if g == nil {
		switch {
		case m.arm != nil:
			g = &guard{n: n, gen: n.nextGen(), inc: n.inc, heard: n.clk.at(w.t)}
			n.guard, n.guards = g, append(n.guards, g)
		case m.stop != 0: // nothing of it lives: its guard died with it
			w.post(n, w.between(ms, 20*ms), election.TreeEmpty{Term: m.stop})
			return
		default:
			return
		}
	}
	g.in = append(g.in, m)
	g.lastIn = max(g.lastIn, w.t+w.pipe(n))
	w.push(g.lastIn, evGuardMail, n, g.gen, 0)
}

// pipe is how long a message between daemon and guard takes.
func (w *World) pipe(n *node) int64 {
	if w.t < n.trouble.slowPipe {
		w.fired(GuardDelays)
		return w.upTo(int64(n.timing.Heartbeat) * 3 / 2)
	}
	return w.upTo(ms)
}

// answer sends a message up the pipe.
func (w *World) answer(g *guard, ev election.Event) {
	n := g.n
	if g.orphan || !n.up || n.guard != g {
		return
	}
	g.outAt = max(g.outAt, w.t+w.pipe(n))
	w.post(n, g.outAt-w.t, ev)
}

func (w *World) guardMail(g *guard) {
	w.guardCheck(g) // the clock before anything else
	if len(g.in) == 0 || g.n.guardOf(g.gen) == nil {
		return
	}
	m := g.in[0]
	g.in = g.in[1:]
	g.heard = g.n.clk.at(w.t)
	switch {
	case m.arm != nil:
		if m.arm.Term <= g.stopped && !w.off(election.WithoutG2) {
			break
		}
		g.armed, g.deadline = true, *m.arm
		w.answer(g, election.Armed{Term: m.arm.Term, T0: m.arm.T0})
	case m.start != 0:
		switch {
		case m.start <= g.stopped && !w.off(election.WithoutG2):
			w.logf(g.n, "guard refuses to start term %d: its stop has begun", m.start)
		case g.orphan:
		case !g.armed || g.deadline.Term != m.start:
		default:
			w.startService(g, m.start)
		}
	case m.stop != 0:
		w.guardStop(g, m.stop, g.n.timing.Stop)
	}
	w.guardCheck(g)
}

// guardCheck looks at the clock: stop, KILL, or set the next alarm.
func (w *World) guardCheck(g *guard) {
	if g.child.running {
		return
	}
	now := g.n.clk.at(w.t)
	next := time.Duration(1 << 62)
	if g.armed && g.deadline.Term > g.stopped {
		d := g.deadline
		if left := d.Stop - now.Longest(d.T0); left > 0 {
			next = left
		} else {
			w.answer(g, election.GuardStopping{Term: d.Term, Why: "the deadline passed"})
			w.guardStop(g, d.Term, d.Kill-d.Stop)
			if g.n.guardOf(g.gen) == nil {
				return
			}
		}
	}
	if g.stopping && g.tree.alive && !g.killed {
		left := g.stopFor - now.Longest(g.stopAt)
		if g.armed && g.deadline.Term == g.tree.term {
			left = min(left, g.deadline.Kill-now.Longest(g.deadline.T0))
		}
		if left <= 0 {
			w.kill(g)
		} else {
			next = min(next, left)
		}
	}
	if w.off(election.WithoutG3) && !g.orphan && g.armed && g.deadline.Term > g.stopped {
		left := g.n.timing.AckLimit()*3/2 - now.Longest(g.heard)
		if left <= 0 {
			w.logf(g.n, "guard takes its silent daemon for dead")
			w.orphaned(g)
			return
		}
		next = min(next, left)
	}
	if next == 1<<62 {
		return
	}
	// It polls its clock at least every 100 ms.
	at := w.t + g.n.clk.world(next) + w.upTo(100*ms)
	if g.timerAt == 0 || at < g.timerAt {
		g.timerAt = at
		w.push(at, evGuardTimer, g.n, g.gen, 0)
	}
}

// guardStop begins the end of a term: TERM now, KILL within d.
func (w *World) guardStop(g *guard, t lease.Term, d time.Duration) {
	if t <= g.stopped && g.stopping {
		return
	}
	g.stopped = max(g.stopped, t)
	g.stopping, g.killed, g.stopAt, g.stopFor = true, false, g.n.clk.at(w.t), d
	if !g.tree.alive {
		w.emptied(g, t)
		return
	}
	w.logf(g.n, "guard sends TERM to the service of term %d", g.tree.term)
	g.tree.crash = false
	die := w.between(5*ms, int64(d)*6/10)
	if w.t < g.n.trouble.slowStop {
		w.fired(SlowStop)
		die = 1 << 50 // ignores TERM
	}
	w.dies(g, w.t+die)
	w.guardCheck(g)
}

func (w *World) kill(g *guard) {
	w.logf(g.n, "guard sends KILL to the service of term %d", g.tree.term)
	g.killed = true
	w.dies(g, w.t+w.upTo(20*ms))
}

// dies has the tree die at an instant, or earlier if that was settled before.
func (w *World) dies(g *guard, at instant) {
	if g.tree.dieAt == 0 || at < g.tree.dieAt {
		g.tree.dieAt = at
		w.push(at, evDead, g.n, g.gen, 0)
	}
}

func (w *World) startService(g *guard, t lease.Term) {
	n := g.n
	if w.t < n.trouble.failStart {
		w.fired(ServiceFails)
		w.answer(g, election.ServiceFailed{Term: t, Why: "exit 1"})
		return
	}
	w.logf(n, "service of term %d starts", t)
	g.tree = tree{alive: true, term: t}
	w.treeStarts(g)
	w.push(w.t+w.startTime(), evReady, n, g.gen, int32(t))
}

func (w *World) serviceReady(g *guard, t lease.Term) {
	if g.tree.alive && g.tree.term == t && !g.stopping {
		w.answer(g, election.Ready{Term: t})
	}
}

// crash ends the main process of a service; the guard starts it again.
func (w *World) crash(g *guard) bool {
	if !g.tree.alive || g.stopping {
		return false
	}
	w.logf(g.n, "service of term %d crashes", g.tree.term)
	if w.percent(30) {
		w.answer(g, election.ServiceFailed{Term: g.tree.term, Why: "too many restarts"})
		return true
	}
	w.answer(g, election.Unready{Term: g.tree.term})
	w.push(w.t+w.between(200*ms, 2*sec), evReady, g.n, g.gen, int32(g.tree.term))
	return true
}

func (w *World) serviceDead(g *guard) {
	if !g.tree.alive || w.t < g.tree.dieAt || g.tree.dieAt == 0 {
		return
	}
	w.logf(g.n, "service of term %d is gone", g.tree.term)
	g.tree.alive = false
	if g.frozen {
		g.owes = g.tree.term // it finds out when it runs again
		return
	}
	w.emptied(g, g.tree.term)
}

// emptied: nothing of the term's tree lives or ever will.
func (w *World) emptied(g *guard, t lease.Term) {
	g.stopping = false
	if !g.orphan {
		w.answer(g, election.TreeEmpty{Term: t})
		return
	}
	if g.child.running {
		return
	}
	g.child = child{running: true, since: g.n.clk.at(w.t)}
	w.childLook(g)
}

// orphaned: the daemon is dead.
func (w *World) orphaned(g *guard) {
	if g.orphan {
		return
	}
	g.orphan = true
	g.in = nil
	if !g.armed {
		w.guardEnds(g)
		return
	}
	w.logf(g.n, "guard: the daemon is dead")
	quick := min(time.Second, g.n.timing.Stop/2)
	if g.stopping {
		g.stopFor = min(g.stopFor, g.n.clk.at(w.t).Longest(g.stopAt)+quick)
		w.guardCheck(g)
		return
	}
	w.guardStop(g, g.deadline.Term, quick)
}

// guardEnds lets the guard exit; the lock on the data directory is free.
func (w *World) guardEnds(g *guard) {
	n := g.n
	for i, o := range n.guards {
		if o == g {
			n.guards = append(n.guards[:i:i], n.guards[i+1:]...)
			break
		}
	}
	if n.guard == g {
		n.guard = nil
		if n.up { // only where a living daemon was taken for dead
			w.post(n, ms, election.GuardLost{Term: g.deadline.Term})
			w.post(n, 2*ms, election.TreeEmpty{Term: g.deadline.Term})
		}
	}
}

// guardDies ends a guard by force. The tree can not outlive it (G4).
func (w *World) guardDies(g *guard) {
	if g.tree.alive {
		w.logf(g.n, "service of term %d dies with its guard", g.tree.term)
		g.tree.alive = false
	}
	n := g.n
	for i, o := range n.guards {
		if o == g {
			n.guards = append(n.guards[:i:i], n.guards[i+1:]...)
			break
		}
	}
	if n.guard == g {
		n.guard = nil
	}
}

// The release child: read; while the register holds the dead daemon's value of
// the term, replace it by its release; undecided: read again, up to T.

func (w *World) childLook(g *guard) {
	n := g.n
	if n.clk.at(w.t).Longest(g.child.since) > n.timing.Timeout {
		w.guardEnds(g)
		return
	}
	lat := w.latency(n)
	failed := w.t < n.trouble.noRead || lat > int64(n.timing.Operation)
	if failed {
		lat = int64(n.timing.Operation)
	}
	g.child.read = reading{failed: failed, serve: w.t + w.upTo(lat)}
	w.push(w.t+lat, evChild, n, g.gen, 0)
}

func (w *World) childRead(g *guard) {
	if !g.child.running {
		return
	}
	e, ok := w.look(g.n, g.child.read)
	switch {
	case !ok:
		w.childLook(g)
	case e == nil || e.value.Incarnation != g.inc || e.value.Term != g.deadline.Term || !e.value.Held:
		w.guardEnds(g)
	default:
		v := e.value
		v.Held, v.To, v.Seq, v.WriteID = false, "", v.Seq+1, w.WriteID()
		w.sendWrite(g.n, true, g.gen, e.version, v)
	}
}

func (w *World) childAnswer(g *guard, applied bool) {
	if applied {
		w.guardEnds(g)
		return
	}
	w.childLook(g)
}

func (w *World) off(r election.Rules) bool { return w.cfg.Without&r != 0 }
