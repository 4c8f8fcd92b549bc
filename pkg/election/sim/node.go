package sim

import (
	"fmt"
	"time"

	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// node is one machine with a daemon on it, the guards it started, and a disk.
type node struct {
	idx     int8
	id      lease.NodeID
	name    string // of this machine in transcripts; two clones share an id
	library bool   // the service lives inside the daemon and asks Serving at each use
	clk     clocks
	disk    disk
	timing  election.Timing
	mode    lease.Mode
	fences  bool   // it can power off the machines of its peers
	fencing string // the version for which it is at it

	failback election.Failback
	antiFlap election.AntiFlap

	// The daemon.
	up, frozen     bool
	gen            uint32 // of the daemon; guards draw from the same counter
	lastGen        uint32
	inc            lease.Incarnation
	m              *election.Machine
	deferred       []event // for when the machine wakes
	daemonDeferred []event // for when the daemon thaws
	tickAt, dueAt  instant
	queue          []todo
	reading        reading
	serving        bool // what Serving said after the last step
	peersSent      uint64
	app            app

	guard  *guard   // of the present daemon; nil if none was needed yet
	guards []*guard // every one that is alive

	trouble trouble
}

// disk survives everything but the machine.
type disk struct {
	plane   lease.PlaneID
	maxTerm lease.Term
	claim   lease.Term // R10's record
	inc     lease.Incarnation
}

// app is the service inside a library node.
type app struct {
	starting lease.Term
	stopped  lease.Term // highest term whose stop has begun
}

type reading struct {
	serve  instant // when the store looks
	failed bool
}

// todo is an action that a slow daemon has yet to perform.
type todo struct {
	from lease.Instant
	a    election.Action
}

func (n *node) guardOf(gen uint32) *guard {
	for _, g := range n.guards {
		if g.gen == gen {
			return g
		}
	}
	return nil
}

func (n *node) nextGen() uint32 { n.lastGen++; return n.lastGen }

// boot starts the daemon, once no former guard holds the data directory.
func (w *World) boot(n *node) {
	if n.up {
		return
	}
	if len(n.guards) > 0 || n.clk.asleep {
		w.after(100*ms, func() { w.boot(n) })
		return
	}
	cfg := election.Config{
		Node: n.id, Incarnation: lease.Incarnation(w.id128()), Timing: n.timing, Mode: n.mode, HotStandby: true,
		Version: "1.0.0", AutoInit: true, Priority: n.trouble.priority, DrainDelay: n.trouble.drain,
		Failback: n.failback, AntiFlap: n.antiFlap,
		Plane: n.disk.plane, MaxTerm: n.disk.maxTerm,
		Random: w, Without: w.cfg.Without,
	}
	// The lock on the data directory was free, so the former guard and its tree
	// are gone. On the same machine with a record of the claim that is R10's
	// proof.
	if n.fences {
		cfg.Fencible, cfg.FenceLimit = w.others(n), fenceLimit
	}
	if n.disk.claim != 0 && !n.trouble.noProof {
		cfg.Former = &election.Former{Term: n.disk.claim, Incarnation: n.disk.inc}
	}
	n.up, n.frozen, n.gen, n.inc = true, false, n.nextGen(), cfg.Incarnation
	n.m = election.New(cfg)
	n.tickAt, n.dueAt, n.queue, n.guard, n.serving, n.peersSent, n.app = 0, 0, n.queue[:0], nil, false, 0, app{}
	w.logf(n, "starts as %s, remembers term %d, proof %v", cfg.Mode, n.disk.maxTerm, cfg.Former != nil)
	w.step(n, election.Trust{OK: !n.trouble.stuckBest})
}

// step is one turn of the loop in election's doc.go.
func (w *World) step(n *node, ev election.Event) {
	now := n.clk.at(w.t)
	acts := n.m.Step(now, ev)
	w.res.Steps++
	if err := n.m.Check(); err != nil {
		w.violate(false, "%s: %v", n.name, err)
		return
	}
	for _, a := range acts {
		if len(n.queue) > 0 || (w.t < n.trouble.sluggish && performed(a)) {
			if len(n.queue) == 0 {
				w.fired(Sluggish)
				w.push(w.t+w.upTo(n.trouble.sluggishBy), evPerform, n, n.gen, 0)
			}
			n.queue = append(n.queue, todo{now, a})
			continue
		}
		if w.perform(n, now, a); !n.up {
			return
		}
	}
	w.judge(n, now)
	due := w.t + n.clk.world(time.Duration(n.m.Deadline().Boot-now.Boot))
	n.dueAt = due
	if n.tickAt == 0 || due < n.tickAt {
		n.tickAt = due
		w.push(due, evTick, n, n.gen, 0)
	}
}

// performed reports whether performing an action takes time worth telling.
func performed(a election.Action) bool {
	_, note := a.(election.Note)
	return !note
}

func (w *World) tick(n *node, at instant) {
	if at != n.tickAt {
		return // overtaken by an earlier one
	}
	n.tickAt = 0
	if w.t < n.dueAt {
		n.tickAt = n.dueAt
		w.push(n.dueAt, evTick, n, n.gen, 0)
		return
	}
	w.step(n, election.Tick{})
}

func (w *World) performQueued(n *node) {
	if len(n.queue) == 0 {
		return
	}
	t := n.queue[0]
	n.queue = append(n.queue[:0], n.queue[1:]...)
	if w.perform(n, t.from, t.a); !n.up {
		return
	}
	if len(n.queue) > 0 {
		d := int64(0)
		if w.t < n.trouble.sluggish {
			d = w.upTo(n.trouble.sluggishBy)
		}
		w.push(w.t+d, evPerform, n, n.gen, 0)
	}
}

// post delivers an event to the daemon's machine d from now.
func (w *World) post(n *node, d int64, ev election.Event) {
	p := w.mail.get()
	*w.mail.at(p) = ev
	w.push(w.t+d, evMail, n, n.gen, p)
}

func (w *World) perform(n *node, from lease.Instant, a election.Action) {
	switch a := a.(type) {
	case election.Read:
		w.sendRead(n)
	case election.Write:
		if a.Until > 0 && n.clk.at(w.t).Longest(from) > a.Until {
			w.post(n, 0, election.WriteDone{WriteID: a.Value.WriteID, Unsent: true})
			return
		}
		w.sendWrite(n, false, n.gen, a.Old, a.Value)
	case election.ListWhole:
		empty := len(w.store.hist) == 0
		if w.t < n.trouble.noRead {
			w.post(n, w.upTo(int64(n.timing.Operation)), election.Listed{Detail: "no answer"})
			return
		}
		w.post(n, w.latency(n), election.Listed{OK: true, Empty: empty})
	case election.Create:
		if len(w.store.hist) == 0 && w.t >= n.trouble.noWrite {
			w.store.put(w.t, a.Value)
			w.logf(n, "made the register")
		}
		w.post(n, w.latency(n), election.BirthDone{})
	case election.Remember:
		if w.t < n.trouble.diskBad {
			w.fired(DiskFails)
			w.post(n, w.upTo(20*ms), election.Remembered{Plane: a.Plane, Term: a.Term, Failed: "no space left"})
			return
		}
		n.disk.plane, n.disk.maxTerm = a.Plane, max(n.disk.maxTerm, a.Term)
		if a.Claim {
			n.disk.claim, n.disk.inc = a.Term, n.inc
		}
		w.post(n, w.upTo(10*ms), election.Remembered{Plane: a.Plane, Term: a.Term})
	case election.Arm:
		if n.library {
			w.post(n, w.upTo(ms), election.Armed{Term: a.Term, T0: a.T0})
			return
		}
		w.tellGuard(n, guardMsg{arm: &a})
	case election.Start:
		if n.clk.at(w.t).Longest(from) > a.Until {
			w.logf(n, "start of term %d dropped: too late", a.Term)
			return
		}
		if n.library {
			w.appStart(n, a.Term)
			return
		}
		w.tellGuard(n, guardMsg{start: a.Term})
	case election.Stop:
		if n.library {
			w.appStop(n, a.Term)
			return
		}
		w.tellGuard(n, guardMsg{stop: a.Term})
	case election.KillGuard:
		if n.library {
			w.appStop(n, a.Term)
			return
		}
		w.logf(n, "kills its guard: %s", a.Why)
		if n.guard != nil {
			w.guardDies(n.guard)
		}
		w.post(n, w.upTo(30*ms), election.TreeEmpty{Term: a.Term})
	case election.Fence:
		w.fence(n, a)
	case election.CancelFence: // what comes of it may be known already, and be on its way
		n.fencing = ""
	case election.NudgePeers:
		for _, o := range w.nodes {
			if o != n && o.up {
				w.post(o, w.between(ms, 20*ms), election.Nudged{})
			}
		}
	case election.Note:
		w.noted(n, a)
	case election.Quit:
		w.logf(n, "ends with code %d: %s", a.Code, a.Reason)
		w.daemonDies(n)
		n.mode = lease.ModeAuto
		w.after(w.between(sec/2, 5*sec), func() { w.boot(n) })
	default:
		panic(fmt.Sprintf("sim: action %T", a))
	}
}

func (w *World) noted(n *node, a election.Note) {
	if w.res.Notes == nil {
		w.res.Notes = map[election.NoteKind]int{}
	}
	w.res.Notes[a.Kind]++
	w.logf(n, "%s, term %d %s", a.Kind, a.Term, a.Detail)
	if a.Kind == election.NoteAlarm && w.cfg.Without == 0 {
		w.violate(false, "%s: false alarm: %s", n.name, a.Detail)
	}
}

func (w *World) daemonDies(n *node) {
	if !n.up {
		return
	}
	n.up, n.frozen, n.m, n.queue, n.daemonDeferred = false, false, nil, n.queue[:0], nil
	n.serving = false
	w.counted()
	for _, g := range n.guards {
		w.push(w.t+w.upTo(5*ms), evOrphaned, n, g.gen, 0)
	}
}

func (w *World) sendRead(n *node) {
	lat := w.latency(n)
	o := int64(n.timing.Operation)
	failed := false
	switch {
	case w.t < n.trouble.noRead:
		w.fired(PartitionReads)
		failed = true
	case w.t < n.trouble.lossy && w.percent(30):
		failed = true
	case lat > o:
		w.fired(SlowStore)
		failed = true
	}
	if failed {
		lat = o
		if w.percent(40) {
			lat = w.between(ms, 10*ms)
		}
	}
	n.reading = reading{failed: failed, serve: w.t + w.upTo(lat)}
	w.push(w.t+lat, evRead, n, n.gen, 0)
}

func (w *World) readDone(n *node) {
	e, ok := w.look(n, n.reading)
	switch {
	case !ok:
		w.step(n, election.ReadDone{Fault: election.FaultFailed, Detail: "no answer"})
	case e == nil:
		w.step(n, election.ReadDone{Fault: election.FaultAbsent})
	default:
		w.step(n, election.ReadDone{Version: e.version, Value: e.bytes})
	}
}

// look is what a read returns: a value of some time at or before it, nil if
// there is no register; false if it failed.
func (w *World) look(n *node, r reading) (*entry, bool) {
	if r.failed {
		return nil, false
	}
	at := r.serve
	if w.t < n.trouble.stale {
		w.fired(StaleReads)
		if at -= n.trouble.staleBy; n.trouble.staleAt > 0 {
			at = min(r.serve, n.trouble.staleAt)
		}
	}
	if len(w.store.hist) == 0 {
		return nil, true
	}
	if e := w.store.before(at); e != nil {
		return e, true
	}
	return &w.store.hist[0], true
}

func (w *World) latency(n *node) int64 {
	if w.t < n.trouble.slow {
		return w.upTo(int64(n.timing.Operation) * 5 / 2)
	}
	if n.trouble.far {
		return w.between(150*ms, 250*ms)
	}
	if w.percent(2) {
		return w.between(20*ms, 150*ms)
	}
	return w.between(ms, 12*ms)
}

// The service inside a library node.

func (w *World) appStart(n *node, t lease.Term) {
	if w.t < n.trouble.failStart {
		w.fired(ServiceFails)
		w.post(n, w.between(50*ms, sec), election.ServiceFailed{Term: t, Why: "exit 1"})
		return
	}
	n.app.starting = t
	w.push(w.t+w.startTime(), evAppReady, n, n.gen, 0)
}

func (w *World) appReady(n *node) {
	if n.app.starting != 0 {
		w.step(n, election.Ready{Term: n.app.starting})
	}
}

func (w *World) appStop(n *node, t lease.Term) {
	n.app.starting, n.app.stopped = 0, max(n.app.stopped, t)
	w.post(n, w.upTo(300*ms), election.TreeEmpty{Term: t})
}

// startMax is the longest a service takes to start.
const startMax = sec

func (w *World) startTime() int64 { return w.between(30*ms, startMax) }

// tellPeers gives each machine the candidates it would know from the records.
func (w *World) tellPeers() {
	w.push(w.t+2*sec, evPeers, nil, 0, 0)
	sum := uint64(1)
	w.peers = w.peers[:0]
	for _, n := range w.nodes {
		sum *= 1000003
		if n.trouble.stuckBest && n.up {
			w.peers = append(w.peers, election.Candidate{Node: n.id, Priority: 100, Version: "1.0.0", State: lease.StateHotStandby})
			sum += 7
			continue
		}
		if !n.up || n.frozen || n.clk.asleep || w.t < n.trouble.noWrite {
			continue
		}
		v := n.m.View(n.clk.at(w.t))
		if !v.Electable && v.Reign == nil {
			continue
		}
		w.peers = append(w.peers, election.Candidate{Node: n.id, Priority: v.Priority, Version: "1.0.0", State: lease.StateHotStandby})
		sum += uint64(v.Priority) + 3
	}
	for _, n := range w.nodes {
		if !n.up || n.peersSent == sum || w.t < n.trouble.noRead {
			continue
		}
		n.peersSent = sum
		others := make([]election.Candidate, 0, len(w.peers))
		for _, c := range w.peers {
			if c.Node != n.id {
				others = append(others, c)
			}
		}
		w.post(n, w.upTo(20*ms), election.Peers{Candidates: others})
	}
}
