package sim

import (
	"fmt"
	"time"

	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// Kind is a kind of fault, or of interference by an operator.
type Kind int

// The kinds. A window is a stretch of time in which something goes wrong; the
// others happen at an instant.
const (
	noFault         Kind = iota
	PartitionBoth        // window: one node reaches the store neither to read nor to write
	PartitionReads       // window: its reads fail
	PartitionWrites      // window: its writes are lost
	StoreDown            // window: nobody reaches the store
	SlowStore            // window: operations take up to 2.5 operation timeouts
	Lossy                // window: any of the following four at random
	LostRequest          // not applied, and no answer
	LostReply            // applied, and no answer
	FalseError           // an error at once, applied or not
	LateLanding          // no answer in time, and it lands afterwards
	StaleReads           // window: reads return what was true a while ago
	DaemonPause          // window: SIGSTOP, SIGCONT
	DaemonCrash          // the guard lives
	GuardPause           // window: SIGSTOP of the guard, SIGCONT
	GuardCrash           // the service dies with it
	HostCrash            // daemon, guard and service
	Suspend              // window: the machine sleeps
	NoProof              // a restart that can prove nothing about its former run
	ServiceFails         // window: the service can not be started
	ServiceDies          // the service crashes once
	SlowStop             // window: the service ignores TERM
	GuardDelays          // window: messages between daemon and guard take long
	Sluggish             // window: the daemon takes long between deciding and doing
	DiskFails            // window: the local disk takes no writes
	StepDown             // operator: step down
	Switchover           // operator: step down in favour of another node
	SetMode              // operator: a mode, and AUTO again later
	SetPriority          // operator: a priority
	PausePlane           // operator: automatic moves off, and on again later
	Maintenance          // operator: a node is not to be master, and may again later
	SetTimeout           // operator: another heartbeatTimeout, one node after the other
	Restart              // operator: clean shutdown, and start again
	Nudge                // somebody says that the register changed
	Rollback             // the store goes back in time
	Clone                // a copy of a node's disk is started on another machine
	StoreHangs           // window: nothing comes back for anybody; writes that got stuck land when it ends
	PowerOff             // a peer that suspects the holder has its machine powered off, and on again some time
	FencingFails         // it is tried, and nothing comes of it
	FencingSlow          // it is confirmed late, perhaps when that machine is on again
	KindCount
)

var kindNames = [KindCount]string{
	"none", "partition", "partition of reads", "partition of writes", "store down", "slow store", "lossy store",
	"lost request", "lost reply", "false error", "late landing", "stale reads", "daemon pause", "daemon crash",
	"guard pause", "guard crash", "host crash", "suspend", "restart without proof", "service fails to start",
	"service dies", "slow stop", "guard delays", "sluggish daemon", "disk fails", "step down", "switchover",
	"set mode", "set priority", "pause of the plane", "maintenance", "timeout change", "clean restart", "nudge", "rollback", "clone",
	"hanging store", "power-off by a peer", "fencing fails", "slow fencing",
}

func (k Kind) String() string {
	if k < 0 || k >= KindCount {
		return fmt.Sprintf("kind %d", int(k))
	}
	return kindNames[k]
}

func (w *World) fired(k Kind) { w.res.Faults[k]++ }

// trouble is what is wrong with a node at present: each window by its end.
type trouble struct {
	noRead, noWrite, slow, lossy instant
	hung                         instant
	stuck                        int  // writes that hang
	lossyAs                      Kind // the only way of a lossy store; noFault for any
	stale                        instant
	staleBy                      int64   // reads are this old,
	staleAt                      instant // or all of this instant
	failStart, slowStop          instant
	slowPipe, sluggish, diskBad  instant
	sluggishBy                   int64
	far                          bool // every operation takes it a good part of a second

	noProof   bool
	stuckBest bool // looks like the best candidate and never claims
	priority  int
	drain     time.Duration
}

// stuckMost is how many writes of a node can hang in the store; see
// persistence.
const stuckMost = 2

// fate decides how one compare-and-swap goes.
func (w *World) fate(n *node) fate {
	o, lat := int64(n.timing.Operation), w.latency(n)
	tr := &n.trouble
	if w.t < tr.hung {
		f := fate{answer: w.t + o, counted: StoreHangs}
		if tr.stuck++; tr.stuck > stuckMost {
			f.answer = w.t + ms // fails at once
			return f
		}
		f.lands, f.landAt, f.late = true, tr.hung+w.upTo(100*ms), true
		return f
	}
	if w.t < tr.noWrite {
		f := fate{answer: w.t + o, counted: PartitionWrites}
		if w.percent(30) {
			f.answer = w.t + w.between(ms, 20*ms)
		}
		return f
	}
	if w.t < tr.lossy {
		k := tr.lossyAs
		if k == noFault {
			k = [...]Kind{LostRequest, LostRequest, LostReply, LostReply, FalseError, FalseError, LateLanding, noFault, noFault}[w.rng.IntN(9)]
		}
		switch k { //nolint:exhaustive // the ways of losing a write; the rest are not
		case LostRequest:
			return fate{answer: w.t + o, counted: k}
		case LostReply:
			return fate{lands: true, landAt: w.t + lat, answer: w.t + o, counted: k}
		case FalseError:
			return fate{lands: w.percent(50), landAt: w.t + lat, answer: w.t + lat + ms, counted: k}
		case LateLanding:
			land := min(w.t+o+w.upTo(int64(n.timing.Timeout)), max(w.healAt, w.t+o))
			return fate{lands: true, landAt: land, answer: w.t + o, late: w.percent(60), counted: k}
		}
	}
	if lat > o {
		return fate{lands: true, landAt: w.t + lat, answer: w.t + o, late: true, counted: SlowStore}
	}
	return fate{lands: true, landAt: w.t + w.upTo(lat), answer: w.t + lat, honest: true}
}

// nextFault lets something go wrong and plans the next time.
func (w *World) nextFault() {
	p := &w.cfg.Profile
	d := int64(w.rng.ExpFloat64() * float64(p.Every))
	w.after(min(d, 5*int64(p.Every)), func() {
		if w.t >= w.healAt {
			return
		}
		w.strike(p.pick(w))
		if w.percent(15) { // misfortunes never come singly
			w.strike(p.pick(w))
		}
		w.nextFault()
	})
}

// makeUp strikes until a world that chance has spared had its faults: what
// strikes a node that is down anyway is none. It comes once, late enough for
// chance to do it alone and before everything heals.
func (w *World) makeUp() {
	for i := 0; w.faultsSoFar() < leastFaults && i < 10*leastFaults; i++ {
		w.strike(w.cfg.Profile.pick(w))
	}
}

// leastFaults is how many faults every world sees.
const leastFaults = 5

func (w *World) faultsSoFar() int {
	n := 0
	for _, k := range w.res.Faults {
		n += k
	}
	return n
}

// victim is mostly the node that holds the register.
func (w *World) victim() *node {
	if w.percent(60) {
		if n := w.holder(); n != nil {
			return n
		}
	}
	return w.nodes[w.rng.IntN(len(w.nodes))]
}

// holder is the node whose running daemon holds the register; nil if none.
func (w *World) holder() *node {
	if len(w.store.hist) == 0 {
		return nil
	}
	v := w.store.now().value
	for _, n := range w.nodes {
		if v.Held && n.up && n.inc == v.Incarnation {
			return n
		}
	}
	return nil
}

// window draws how long a fault lasts: shorter than an operation, about a
// lease, or much longer.
func (w *World) window(n *node) instant {
	l, o := int64(n.timing.Timeout), int64(n.timing.Operation)
	lengths := [...]int64{w.upTo(3 * o), w.upTo(3 * l / 2), w.between(l, 3*l)}
	return min(w.t+lengths[w.rng.IntN(len(lengths))], w.healAt)
}

func (w *World) strike(k Kind) {
	n := w.victim()
	w.hit(k, n, w.window(n))
}

// hit makes one fault happen to a node, until an instant where it is a window.
func (w *World) hit(k Kind, n *node, until instant) {
	tr := &n.trouble
	w.logf(n, "FAULT %s for %.2fs", k, float64(until-w.t)/float64(sec))
	switch k {
	case PartitionBoth:
		w.fired(k)
		tr.noRead, tr.noWrite = until, until
	case PartitionReads:
		tr.noRead = until
	case PartitionWrites:
		tr.noWrite = until
	case StoreDown:
		w.fired(k)
		for _, o := range w.nodes {
			o.trouble.noRead, o.trouble.noWrite = until, until
		}
	case StoreHangs:
		for _, o := range w.nodes {
			o.trouble.noRead, o.trouble.hung, o.trouble.stuck = until, until, 0
		}
	case SlowStore:
		for _, o := range w.nodes {
			if o == n || w.percent(40) {
				o.trouble.slow = until
			}
		}
	case Lossy:
		w.fired(k)
		tr.lossy, tr.lossyAs = until, noFault
	case LostRequest, LostReply, FalseError, LateLanding:
		tr.lossy, tr.lossyAs = until, k
	case StaleReads:
		tr.stale, tr.staleAt, tr.staleBy = until, 0, w.upTo(3*int64(n.timing.Timeout))
		if w.percent(30) {
			tr.staleAt = max(w.t-w.upTo(2*int64(n.timing.Timeout)), 1)
		}
	case DaemonPause:
		w.freeze(n, until)
	case DaemonCrash:
		w.crashDaemon(n, until)
	case GuardPause:
		if g := n.guard; g != nil && !g.frozen && n.up && !n.frozen && !n.clk.asleep && w.t >= tr.sluggish {
			w.fired(k)
			g.frozen = true
			w.after(until-w.t, func() { w.thawGuard(g) })
		}
	case GuardCrash:
		if g := n.guard; g != nil && g.armed {
			w.fired(k)
			t := g.deadline.Term
			w.guardDies(g)
			if n.up {
				w.post(n, w.upTo(10*ms), election.GuardLost{Term: t})
				w.post(n, w.between(10*ms, 30*ms), election.TreeEmpty{Term: t})
			}
		} else if len(n.guards) > 0 { // one whose daemon is dead
			w.fired(k)
			w.guardDies(n.guards[0])
		}
	case HostCrash:
		w.crashHost(n, until)
	case Suspend:
		if !n.clk.asleep && !n.guardFrozen() {
			w.fired(k)
			n.clk.sleep(w.t)
			w.after(until-w.t, func() { w.wake(n) })
		}
	case NoProof:
		if n.up {
			w.fired(k)
			tr.noProof = true
			w.crashHost(n, min(until, w.t+2*sec))
		}
	case ServiceFails:
		tr.failStart = until
	case ServiceDies:
		if n.guard != nil && w.crash(n.guard) {
			w.fired(k)
		}
	case SlowStop:
		tr.slowStop = until
	case GuardDelays:
		tr.slowPipe = until
	case Sluggish:
		if !n.guardFrozen() {
			tr.sluggish, tr.sluggishBy = until, w.between(ms, 2*sec)
		}
	case DiskFails:
		tr.diskBad = until
	case Clone:
		w.clone(n)
	case Rollback:
		w.rollback()
	case StepDown, Switchover, SetMode, SetPriority, PausePlane, Maintenance, SetTimeout, Restart, Nudge:
		w.operate(k, n, until)
	case noFault, PowerOff, FencingFails, FencingSlow, KindCount: // what peers do: see fence.go
	}
}

func (w *World) freeze(n *node, until instant) {
	if !n.up || n.frozen || n.guardFrozen() {
		return
	}
	w.fired(DaemonPause)
	n.frozen = true
	gen := n.gen
	w.after(until-w.t, func() {
		if n.up && n.gen == gen && n.frozen {
			w.thaw(n)
		}
	})
}

// guardFrozen: with the daemon frozen or dead as well there is nobody left who
// could stop the service. Only a watchdog helps then, so no run does it.
func (n *node) guardFrozen() bool {
	for _, g := range n.guards {
		if g.frozen {
			return true
		}
	}
	return false
}

// thaw continues a daemon. What it says before it has looked at anything counts.
func (w *World) thaw(n *node) {
	w.logf(n, "daemon thaws")
	n.frozen = false
	es := n.daemonDeferred
	n.daemonDeferred = nil
	if !n.clk.asleep {
		w.resumed(n)
	}
	w.replay(es)
}

func (w *World) thawGuard(g *guard) {
	if !g.frozen || g.n.guardOf(g.gen) == nil {
		return
	}
	if g.n.clk.asleep { // first the machine
		w.after(10*ms, func() { w.thawGuard(g) })
		return
	}
	w.logf(g.n, "guard thaws")
	g.frozen, g.timerAt = false, 0
	es := g.deferred
	g.deferred = nil
	w.guardCheck(g)
	if t := g.owes; t != 0 {
		g.owes = 0
		w.emptied(g, t)
	}
	w.replay(es)
}

func (w *World) wake(n *node) {
	if !n.clk.asleep {
		return // it was powered off
	}
	w.logf(n, "machine wakes")
	n.clk.wake(w.t)
	for _, g := range n.guards {
		g.timerAt = 0
		if !g.frozen { // its alarm has gone off: the clock before anything else
			w.guardCheck(g)
			if g.killed && g.tree.alive {
				g.tree.dieAt = w.t
				w.serviceDead(g)
			}
		}
	}
	w.resumed(n)
	es := n.deferred
	n.deferred = nil
	w.replay(es)
}

func (w *World) crashDaemon(n *node, until instant) {
	if !n.up || n.clk.asleep || n.guardFrozen() {
		return
	}
	w.fired(DaemonCrash)
	w.daemonDies(n)
	w.after(until-w.t, func() { w.boot(n) })
}

func (w *World) crashHost(n *node, until instant) {
	if !n.up || n.clk.asleep {
		return
	}
	w.fired(HostCrash)
	for len(n.guards) > 0 {
		w.guardDies(n.guards[0])
	}
	w.daemonDies(n)
	w.after(max(until-w.t, sec), func() { w.boot(n) })
}

// clone starts a copy of a node's disk on another machine. Nothing there proves
// anything about the former run, which may well be alive.
func (w *World) clone(n *node) {
	w.fired(Clone)
	c := w.addNode(n.id, fmt.Sprintf("%s'", n.name))
	c.disk, c.timing, c.library = n.disk, n.timing, n.library
	c.trouble.noProof = true
	w.boot(c)
}

// rollback brings back the newest released value of the past.
func (w *World) rollback() {
	h := w.store.hist
	for i := len(h) - 2; i >= 0; i-- {
		if !h[i].value.Held && h[i].value.At().After(lease.Position{}) {
			w.fired(Rollback)
			w.store.back(w.t, h[i])
			w.logf(nil, "the store goes back: %s", describe(h[i].value))
			return
		}
	}
}

// operate is what people do to a plane.
func (w *World) operate(k Kind, n *node, until instant) {
	if !n.up {
		return
	}
	w.fired(k)
	soon := w.upTo(20 * ms)
	switch k { //nolint:exhaustive // what operators do; the rest happens by itself
	case StepDown:
		w.post(n, soon, election.StepDown{Why: "an operator asked", HoldOff: time.Duration(w.upTo(60 * sec))})
	case Switchover:
		to := w.nodes[w.rng.IntN(len(w.nodes))]
		if to != n {
			w.post(n, soon, election.StepDown{To: to.id, Why: "switchover", HoldOff: 10 * time.Second})
		}
	case SetMode:
		modes := []lease.Mode{lease.ModeStandby, lease.ModeHotStandby, lease.ModeHotBackup, lease.ModeDisabled, lease.ModeMaster}
		w.post(n, soon, election.SetMode{Mode: modes[w.rng.IntN(len(modes))]})
		w.after(until-w.t+sec, func() {
			if n.up {
				w.post(n, 0, election.SetMode{Mode: lease.ModeAuto})
			}
		})
	case SetPriority:
		n.trouble.priority = w.rng.IntN(5) - 2
		w.post(n, soon, election.SetPriority{Priority: n.trouble.priority})
	case PausePlane:
		w.post(n, soon, election.SetPaused{Paused: true})
		if w.pausedUntil == 0 {
			w.after(sec, w.unpause)
		}
		w.pausedUntil = max(w.pausedUntil, until)
	case Maintenance:
		w.post(n, soon, election.SetMaintenance{Why: "an operator asked"})
		w.after(until-w.t+sec, func() {
			if n.up {
				w.post(n, 0, election.SetMaintenance{})
			}
		})
	case SetTimeout:
		t := drawTiming(w)
		for _, o := range w.nodes {
			w.after(w.upTo(30*sec), func() { w.setTimeout(o, t) })
		}
	case Restart:
		w.post(n, soon, election.Shutdown{Why: "an operator asked"})
	case Nudge:
		w.post(n, soon, election.Nudged{})
	}
}

func (w *World) setTimeout(n *node, t election.Timing) {
	n.timing = t // what the configuration file says from now on
	if n.up {
		w.post(n, 0, election.SetTimeout{Timing: t})
	}
}

// unpause looks at the flag once a second: a master may write what it was asked
// for long after, even with its release. When the time is over it asks every
// master to take the flag away, and where there is none every node: the next
// claim takes it away.
func (w *World) unpause() {
	w.after(sec, w.unpause)
	if w.t < w.pausedUntil || len(w.store.hist) == 0 || !w.store.now().value.Paused {
		return
	}
	w.oracle.excused = true
	for _, n := range w.nodes {
		if n.up {
			w.post(n, w.upTo(20*ms), election.SetPaused{})
		}
	}
}

// heal ends every fault. Whoever is down comes back, whoever was held off by
// an operator or a failed service is made electable again.
func (w *World) heal() {
	w.logf(nil, "every fault has healed")
	for _, n := range w.nodes {
		tr := &n.trouble
		n.mode = lease.ModeAuto
		*tr = trouble{priority: tr.priority, drain: tr.drain, noProof: tr.noProof, stuckBest: tr.stuckBest, far: tr.far}
		if n.clk.asleep {
			w.wake(n)
		}
		for _, g := range n.guards {
			w.thawGuard(g)
		}
		if n.up && n.frozen {
			w.thaw(n)
		}
		if n.up {
			w.post(n, 0, election.SetMode{Mode: lease.ModeAuto})
			w.post(n, 0, election.SetMaintenance{})
			w.post(n, 0, election.Ack{})
		} else {
			w.boot(n)
		}
	}
}
