package sim

import (
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// Config says what to run. The same Config gives the same run.
type Config struct {
	Seed     uint64
	Nodes    int           // 3 to 5; 0 draws one from the seed
	Duration time.Duration // of the world; 0 means an hour
	Without  election.Rules
	Profile  Profile   // the zero Profile means ForSeed
	Trace    io.Writer // gets the run in words; nil for none
}

// Result is what came of a run.
type Result struct {
	Seed      uint64
	Nodes     int
	NodeTime  time.Duration // simulated, summed over nodes
	Steps     int           // of election machines
	Faults    [KindCount]int
	Reigns    int // terms in which somebody served
	Failovers int // changes of the serving node
	Releases  int // of them by a release rather than by silence
	Children  int // releases written by a guard
	Notes     map[election.NoteKind]int
	Longest   time.Duration // time without a master after every fault had healed
	OfBound   float64       // the same as a part of what is allowed
	Violation *Violation    // nil if everything held
}

// Violation is what the oracle saw.
type Violation struct {
	Liveness bool // otherwise safety
	At       time.Duration
	What     string
}

func (v *Violation) String() string {
	kind := "safety"
	if v.Liveness {
		kind = "liveness"
	}
	return fmt.Sprintf("%s violation at %.3fs: %s", kind, v.At.Seconds(), v.What)
}

// evKind is a kind of event of the world.
type evKind uint8

const (
	evFunc       evKind = iota // p: something scheduled by faults.go
	evTick                     // a daemon's timer
	evRead                     // a daemon's read completes
	evLand                     // p: a compare-and-swap reaches the register
	evAnswer                   // p: its caller hears the outcome
	evNoAnswer                 // p: its caller hears an error
	evLateAnswer               // p: its caller hears the outcome after all
	evMail                     // p: an event for a machine
	evPerform                  // a slow daemon performs its next action
	evAppReady                 // the service inside a library node is ready
	evGuardMail                // a guard takes its next message
	evGuardTimer
	evOrphaned // a guard learns of its daemon's death
	evReady    // the service is ready
	evDead     // the service is dead
	evChild    // a release child's read completes
	evPeers    // everybody looks at everybody's records
)

// local says which process of the node an event needs in order to happen.
func (k evKind) local() (daemon, guard bool) {
	switch k {
	case evTick, evRead, evMail, evPerform, evAppReady:
		return true, false
	case evGuardMail, evGuardTimer, evOrphaned, evReady, evChild:
		return false, true
	case evAnswer, evNoAnswer, evLateAnswer: // decided in dispatch: daemon or child
		return false, false
	case evFunc, evLand, evDead, evPeers:
	}
	return false, false
}

type event struct {
	at   instant
	seq  uint64
	gen  uint32 // of the process it belongs to; 0: none
	p    int32  // index into the slab of its kind
	node int8   // -1: none
	kind evKind
}

func (e *event) before(f *event) bool {
	return e.at < f.at || (e.at == f.at && e.seq < f.seq)
}

// World is one run.
type World struct {
	cfg         Config
	rng         *rand.Rand
	t           instant
	end         instant
	healAt      instant // no fault from here on
	pausedUntil instant // by an operator; 0: never was
	heap        []event
	seq         uint64

	store  store
	nodes  []*node
	writes slab[write]
	mail   slab[election.Event]
	funcs  slab[func()]

	oracle oracle
	res    Result
	peers  []election.Candidate
}

// Run runs one world to its end, or to the first violation.
func Run(cfg Config) Result {
	if cfg.Duration == 0 {
		cfg.Duration = time.Hour
	}
	if cfg.Profile.Name == "" {
		cfg.Profile = ForSeed(cfg.Seed)
	}
	w := &World{cfg: cfg, rng: rand.New(rand.NewPCG(cfg.Seed, 0x756e6465727374)), end: int64(cfg.Duration)}
	if cfg.Nodes == 0 {
		w.cfg.Nodes = 3 + w.rng.IntN(3)
	}
	w.res.Seed, w.res.Nodes = cfg.Seed, w.cfg.Nodes
	w.begin()
	for w.res.Violation == nil && len(w.heap) > 0 {
		e := w.pop()
		if e.at >= w.end {
			break
		}
		w.t = e.at
		w.dispatch(e)
	}
	if w.res.Violation == nil {
		w.t = w.end
		w.gapEnds()
	}
	w.res.NodeTime = time.Duration(w.t) * time.Duration(len(w.nodes))
	if v := w.res.Violation; v != nil {
		w.logf(nil, "%s", v)
	}
	return w.res
}

func (w *World) push(at instant, k evKind, n *node, gen uint32, p int32) {
	e := event{at: max(at, w.t), seq: w.seq, kind: k, gen: gen, p: p, node: -1}
	if n != nil {
		e.node = n.idx
	}
	w.seq++
	w.heap = append(w.heap, e)
	h := w.heap
	i := len(h) - 1
	for i > 0 {
		up := (i - 1) / 4
		if !e.before(&h[up]) {
			break
		}
		h[i] = h[up]
		i = up
	}
	h[i] = e
}

func (w *World) pop() event {
	h := w.heap
	top, last := h[0], h[len(h)-1]
	h = h[:len(h)-1]
	w.heap = h
	i := 0
	for len(h) > 0 {
		first := 4*i + 1
		if first >= len(h) {
			break
		}
		least := first
		for c := first + 1; c < min(first+4, len(h)); c++ {
			if h[c].before(&h[least]) {
				least = c
			}
		}
		if !h[least].before(&last) {
			break
		}
		h[i] = h[least]
		i = least
	}
	if len(h) > 0 {
		h[i] = last
	}
	return top
}

// after has fn called d from now.
func (w *World) after(d int64, fn func()) {
	p := w.funcs.get()
	*w.funcs.at(p) = fn
	w.push(w.t+d, evFunc, nil, 0, p)
}

func (w *World) dispatch(e event) {
	if e.kind == evFunc {
		fn := *w.funcs.at(e.p)
		w.funcs.put(e.p)
		fn()
		return
	}
	if e.kind == evPeers {
		w.tellPeers()
		return
	}
	n := w.nodes[e.node]
	if e.kind == evLand {
		w.land(w.writes.at(e.p))
		w.settled(e.p)
		return
	}
	if n.clk.asleep {
		n.deferred = append(n.deferred, e)
		return
	}
	daemon, needsGuard := e.kind.local()
	g := n.guardOf(e.gen)
	if e.kind == evAnswer || e.kind == evNoAnswer || e.kind == evLateAnswer {
		daemon = g == nil
	}
	switch {
	case daemon && (!n.up || e.gen != n.gen):
		w.drop(e)
		return
	case daemon && n.frozen:
		n.daemonDeferred = append(n.daemonDeferred, e)
		return
	case !daemon && g == nil:
		w.drop(e)
		return
	case needsGuard && g.frozen:
		g.deferred = append(g.deferred, e)
		return
	}
	switch e.kind {
	case evTick:
		w.tick(n, e.at)
	case evRead:
		w.readDone(n)
	case evAnswer, evNoAnswer, evLateAnswer:
		o := w.writes.at(e.p)
		applied := o.applied && e.kind != evNoAnswer
		ev := election.WriteDone{WriteID: o.value.WriteID, Applied: applied, Detail: "no answer"}
		if applied {
			ev.Version, ev.Detail = string(o.value.Encode()), ""
		}
		w.settled(e.p)
		if g != nil {
			w.childAnswer(g, applied)
			return
		}
		w.step(n, ev)
	case evMail:
		ev := *w.mail.at(e.p)
		w.mail.put(e.p)
		w.step(n, ev)
	case evPerform:
		w.performQueued(n)
	case evAppReady:
		w.appReady(n)
	case evGuardMail:
		w.guardMail(g)
	case evGuardTimer:
		if e.at == g.timerAt {
			g.timerAt = 0
		}
		w.guardCheck(g)
	case evOrphaned:
		w.orphaned(g)
	case evReady:
		w.serviceReady(g, lease.Term(e.p))
	case evDead:
		w.serviceDead(g)
	case evChild:
		w.childRead(g)
	case evFunc, evLand, evPeers:
	}
}

// drop forgets an event whose process is gone.
func (w *World) drop(e event) {
	switch e.kind { //nolint:exhaustive // the rest hold nothing
	case evAnswer, evNoAnswer, evLateAnswer:
		w.settled(e.p)
	case evMail:
		w.mail.put(e.p)
	}
}

// replay lets happen what waited for a process or a machine to run again.
func (w *World) replay(es []event) {
	for _, e := range es {
		if e.kind == evTick { // what was due meanwhile is due now
			n := w.nodes[e.node]
			n.tickAt, n.dueAt = w.t, w.t
		}
		w.push(w.t, e.kind, w.nodes[e.node], e.gen, e.p)
	}
}

func (w *World) upTo(limit int64) int64 {
	if limit <= 0 {
		return 0
	}
	return w.rng.Int64N(limit)
}

func (w *World) between(lo, hi int64) int64 { return lo + w.upTo(hi-lo+1) }

func (w *World) percent(p int) bool { return w.rng.IntN(100) < p }

func (w *World) logf(n *node, format string, args ...any) {
	if w.cfg.Trace == nil {
		return
	}
	who := "     --"
	if n != nil {
		who = fmt.Sprintf("%7s", n.name)
	}
	fmt.Fprintf(w.cfg.Trace, "%10.3f %s  %s\n", float64(w.t)/float64(sec), who, fmt.Sprintf(format, args...))
}

func (w *World) id128() string {
	var b [16]byte
	x, y := w.rng.Uint64(), w.rng.Uint64()
	for i := range 8 {
		b[i], b[8+i] = byte(x>>(8*i)), byte(y>>(8*i))
	}
	return lease.Encode128(b)
}

// WriteID draws an attempt's name. With PlaneID and Jitter it makes a World its
// machines' election.Random.
func (w *World) WriteID() lease.WriteID { return lease.WriteID(w.id128()) }

// PlaneID draws a plane's name.
func (w *World) PlaneID() lease.PlaneID { return lease.PlaneID("p" + w.id128()[:7]) }

// Jitter draws from [0, limit).
func (w *World) Jitter(limit time.Duration) time.Duration { return time.Duration(w.upTo(int64(limit))) }
