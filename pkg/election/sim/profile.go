package sim

import (
	"fmt"
	"time"

	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// Profile says which faults a run has.
type Profile struct {
	Name    string
	Every   time.Duration  // mean time between faults
	Weights [KindCount]int // how often each kind is picked
	Library int            // percent of nodes whose service lives in the daemon
	Presets []string       // timing presets to draw from; "" means any
	Born    bool           // the nodes make the register themselves
	Same    bool           // all nodes have the same timing
	Fencers int            // percent of nodes that fence silent holders (R6b)
	Unsure  int            // percent of their attempts that confirm nothing; 0 means 15
	NoHeal  bool           // faults are not healed at the end: the script arranges that
	Script  func(w *World) // extra plans, made at the start
	OnClaim func(w *World, n *node)
}

// Mixed has every kind of fault that the protocol's assumptions allow.
func Mixed() Profile {
	p := Profile{Name: "mixed", Every: 25 * time.Second, Library: 35, Fencers: 25}
	for k, weight := range map[Kind]int{
		PartitionBoth: 8, PartitionReads: 6, PartitionWrites: 6, StoreDown: 3, SlowStore: 5, Lossy: 10, StaleReads: 6,
		DaemonPause: 8, DaemonCrash: 6, GuardPause: 5, GuardCrash: 4, HostCrash: 5, Suspend: 4, NoProof: 3,
		ServiceFails: 3, ServiceDies: 4, SlowStop: 5, GuardDelays: 4, Sluggish: 5, DiskFails: 3,
		StepDown: 4, Switchover: 5, SetMode: 4, SetPriority: 2, PausePlane: 1, Maintenance: 2, SetTimeout: 2, Restart: 4, Nudge: 1,
	} {
		p.Weights[k] = weight
	}
	return p
}

// pulse has fn called again and again, about every d, until the faults end.
func (w *World) pulse(d int64, fn func()) {
	w.after(w.between(d/2, 3*d/2), func() {
		if w.t < w.healAt {
			fn()
			w.pulse(d, fn)
		}
	})
}

// onHolder is pulse for what happens to the node that serves.
func onHolder(d int64, fn func(w *World, n *node)) func(*World) {
	return func(w *World) {
		w.pulse(d, func() {
			if n := w.holder(); n != nil && n.serving {
				fn(w, n)
			}
		})
	}
}

// plain is a quiet plane with short leases, for scripts to disturb.
func plain(name string) Profile {
	return Profile{Name: name, Presets: []string{"fast"}, Same: true}
}

// Basic has few kinds of faults, each of them serious.
func Basic() Profile {
	p := plain("basic")
	p.Every, p.Library = 12*time.Second, 40
	for _, k := range []Kind{PartitionBoth, PartitionWrites, DaemonPause, DaemonCrash, HostCrash, StepDown, SlowStop, GuardPause} {
		p.Weights[k] = 1
	}
	return p
}

// LostReplies loses answers and little else.
func LostReplies() Profile {
	p := plain("lost-replies")
	p.Every = 8 * time.Second
	p.Weights[LostReply], p.Weights[FalseError] = 2, 1
	return p
}

// unnoticed draws an instant by which a master that hears nothing from now on
// has not stopped yet.
func (w *World) unnoticed(n *node) instant {
	d := int64(n.timing.StopAfter())
	return w.t + w.between(d*60/100, d*90/100)
}

// cutOff lets a node make no more than a read from an instant on, and gives it
// a service that only KILL ends.
func (w *World) cutOff(n *node, at instant) {
	long := 2 * int64(n.timing.Timeout)
	w.after(at-w.t, func() {
		w.hit(SlowStop, n, w.t+long)
		w.hit(PartitionWrites, n, w.t+long)
		w.after(w.between(200*ms, 400*ms), func() { w.hit(PartitionBoth, n, w.t+long) })
	})
}

// StaleTwin lets an attempt land unnoticed, has the master look at stale reads
// while it tries again, and cuts it off once it has found out.
func StaleTwin() Profile {
	p := plain("stale-twin")
	p.Presets = []string{"default"}
	p.Script = onHolder(120*sec, func(w *World, n *node) {
		tr := &n.trouble
		quiet := w.unnoticed(n)
		tr.stale, tr.staleAt = quiet, w.t
		tr.lossy, tr.lossyAs = quiet, LostReply
		w.logf(n, "FAULT replies are lost and reads stale")
		w.cutOff(n, quiet)
	})
	return p
}

// SlowNews has the master learn late that it was successful, and nothing more.
func SlowNews() Profile {
	p := plain("slow-news")
	p.Presets = []string{"default"}
	p.Script = onHolder(120*sec, func(w *World, n *node) {
		tr := &n.trouble
		quiet := w.unnoticed(n)
		tr.noRead = quiet
		tr.lossy, tr.lossyAs = quiet, LostReply
		w.logf(n, "FAULT replies are lost and reads fail")
		w.cutOff(n, quiet)
	})
	return p
}

// TwinDisk starts a copy of the master's disk on another machine while the
// master is cut off from the store.
func TwinDisk() Profile {
	p := plain("twin-disk")
	p.Library = 50
	p.Script = onHolder(60*sec, func(w *World, n *node) {
		if w.res.Faults[Clone] >= 3 {
			return
		}
		w.hit(PartitionBoth, n, w.t+8*sec)
		w.after(w.upTo(500*ms), func() { w.hit(Clone, n, w.t) })
	})
	return p
}

// NewTimeout gives the master a longer timeout and cuts it off.
func NewTimeout() Profile {
	p := plain("new-timeout")
	p.Library = 50
	p.Script = onHolder(40*sec, func(w *World, n *node) {
		old := n.timing
		t, err := election.Derive(election.TimingRequest{Timeout: 15 * time.Second})
		if err != nil {
			panic(err)
		}
		w.fired(SetTimeout)
		w.logf(n, "FAULT heartbeatTimeout becomes 15s in mid-term")
		w.setTimeout(n, t)
		w.after(w.upTo(2*sec), func() { w.hit(PartitionBoth, n, w.t+20*sec) })
		w.after(25*sec, func() { w.setTimeout(n, old) })
	})
	return p
}

// Restored brings an old state of the store back under a living plane whose
// nodes have all seen what came after it.
func Restored() Profile {
	p := plain("restored")
	p.Script = func(w *World) {
		w.pulse(20*sec, func() {
			if n := w.holder(); n != nil {
				w.hit(StepDown, n, w.t)
			}
		})
		w.pulse(30*sec, func() {
			if n := w.holder(); n != nil && n.serving && w.t-w.oracle.claimed > 5*sec {
				w.hit(Rollback, n, w.t)
			}
		})
	}
	return p
}

// Mute has a best candidate that can write but not read, and that is nearer to
// the store than the others: whatever it releases it can claim before them.
func Mute() Profile {
	p := plain("mute")
	p.NoHeal = true
	p.Script = func(w *World) {
		mute := w.nodes[0]
		mute.trouble.priority = 100
		for _, n := range w.nodes[1:] {
			n.trouble.far = true
		}
		w.after(w.between(20*sec, 30*sec), func() {
			n := w.holder()
			if n == nil || n == mute {
				n = w.nodes[1]
				w.post(mute, 0, election.StepDown{To: n.id, HoldOff: time.Second, Why: "switchover"})
			}
			w.after(20*sec, func() {
				w.hit(HostCrash, n, w.t+40*sec)
				w.after(w.between(sec, 4*sec), func() { w.hit(PartitionReads, mute, w.end) })
			})
		})
	}
	return p
}

// Stuck has a best candidate that everybody sees and that never claims.
func Stuck() Profile {
	p := plain("stuck")
	p.NoHeal = true
	p.Script = func(w *World) {
		w.nodes[0].trouble.stuckBest = true
		w.after(w.between(30*sec, 90*sec), func() {
			if n := w.holder(); n != nil {
				w.hit(HostCrash, n, w.t+10*sec)
			}
		})
	}
	return p
}

// OffAndOn has masters that fall silent, peers that power their machines off,
// and somebody who puts them on again before that is confirmed.
func OffAndOn() Profile {
	p := plain("off-and-on")
	p.Fencers, p.Library = 100, 30
	p.Script = onHolder(25*sec, func(w *World, n *node) {
		k := PartitionBoth
		if w.percent(50) {
			k = DaemonCrash
		}
		w.hit(k, n, w.t+w.between(4*sec, 10*sec))
	})
	return p
}

// Unsure is OffAndOn with fencing that mostly confirms nothing.
func Unsure() Profile {
	p := OffAndOn()
	p.Name, p.Unsure = "unsure", 80
	return p
}

// LateStart lets claims be read back at the last moment, over a slow pipe to
// the guard.
func LateStart() Profile {
	p := plain("late-start")
	p.Script = func(w *World) {
		w.pulse(12*sec, func() {
			if n := w.holder(); n != nil {
				w.hit(StepDown, n, w.t)
			}
		})
	}
	p.OnClaim = func(w *World, n *node) {
		d := int64(n.timing.StopAfter())
		n.trouble.noRead = min(w.t+d-w.upTo(800*ms), w.healAt)
		w.fired(PartitionReads)
		w.hit(GuardDelays, n, min(w.t+d+sec, w.healAt))
	}
	return p
}

// Cut has library nodes that lose the store for a little longer than the lease
// allows.
func Cut() Profile {
	p := plain("cut")
	p.Library = 100
	p.Script = onHolder(20*sec, func(w *World, n *node) {
		w.hit(PartitionBoth, n, w.t+w.between(2*sec, 6*sec))
	})
	return p
}

// Day has the store hang for an hour, three times in a day. The service must
// be dead long before the hour is over, and the plane must have a master again
// within its bound of the end, with nobody's help.
func Day() Profile {
	const hour = 3600 * sec
	p := plain("day")
	p.Presets, p.Library = []string{"fast", "10s", "default"}, 30
	p.Script = func(w *World) {
		for _, at := range []int64{3 * hour, 9 * hour, 15 * hour} {
			w.after(at+w.upTo(60*sec), func() {
				began := w.t
				w.hit(StoreHangs, w.victim(), w.t+hour)
				w.after(2*int64(w.nodes[0].timing.Timeout), func() { w.nobodyActs(began) })
				w.after(hour-sec, func() { w.nobodyActs(began) })
				w.after(hour+int64(w.bound(began)), func() {
					if w.oracle.serving == 0 {
						w.violate(true, "no master although the store has been back for %v", w.bound(began))
					}
				})
			})
		}
	}
	return p
}

// nobodyActs holds that no service is left while the store hangs.
func (w *World) nobodyActs(since instant) {
	for _, n := range w.nodes {
		if t, ok := w.acts(n); ok {
			w.violate(false, "%s %s in term %d although the store has hung for %.3fs", n.name, n.role(), t, float64(w.t-since)/float64(sec))
		}
	}
}

// Harsh is Mixed with something new going wrong every few seconds.
func Harsh() Profile {
	p := Mixed()
	p.Name, p.Every = "harsh", 6*time.Second
	p.Presets = []string{"fast", "3s", "3s", "10s", "default"}
	return p
}

// ForSeed is the profile that a seed stands for where none is named: every
// third is harsh.
func ForSeed(seed uint64) Profile {
	if seed%3 == 2 {
		return Harsh()
	}
	return Mixed()
}

func (p *Profile) pick(w *World) Kind {
	sum := 0
	for _, x := range p.Weights {
		sum += x
	}
	if sum == 0 {
		return noFault
	}
	r := w.rng.IntN(sum)
	for k, x := range p.Weights {
		if r -= x; r < 0 {
			return Kind(k)
		}
	}
	return noFault
}

// drawTiming draws a legal set of durations.
func drawTiming(w *World) election.Timing {
	presets := w.cfg.Profile.Presets
	if len(presets) == 0 {
		presets = []string{"fast", "fast", "10s", "10s", "15s", "default", "wan", "6s"}
	}
	r := election.TimingRequest{PollDivisor: [...]int{5, 2, 1}[w.rng.IntN(3)]}
	switch name := presets[w.rng.IntN(len(presets))]; name {
	case "fast", "default", "wan":
		r.Preset = name
	default:
		d, err := time.ParseDuration(name)
		if err != nil {
			panic(fmt.Sprintf("sim: preset %q: %v", name, err))
		}
		r.Timeout = d
	}
	t, err := election.Derive(r)
	if err != nil {
		panic(fmt.Sprintf("sim: %v", err))
	}
	return t
}

func (w *World) addNode(id lease.NodeID, name string) *node {
	n := &node{idx: int8(len(w.nodes)), id: id, name: name, mode: lease.ModeAuto}
	rate := func() int64 {
		switch w.rng.IntN(3) {
		case 0:
			return -9999
		case 1:
			return 9999
		default:
			return w.between(-9999, 9999)
		}
	}
	n.clk = clocks{bootOff: w.upTo(1 << 50), rawOff: w.upTo(1 << 50), bootErr: rate(), rawErr: rate()}
	w.nodes = append(w.nodes, n)
	return n
}

// begin sets the stage.
func (w *World) begin() {
	p := &w.cfg.Profile
	w.oracle = oracle{last: -1}
	t := drawTiming(w)
	mixed := !p.Same && w.percent(15)
	for i := range w.cfg.Nodes {
		n := w.addNode(lease.NodeID(fmt.Sprintf("node000%d", i+1)), fmt.Sprintf("node%d", i+1))
		n.timing = t
		if mixed {
			n.timing = drawTiming(w)
		}
		n.library = w.percent(p.Library)
		n.fences = p.Fencers > 0 && w.percent(p.Fencers)
		if w.percent(30) {
			n.trouble.drain = time.Duration(w.upTo(2 * sec))
		}
	}
	if !p.Same {
		w.drawMoves()
	}
	if !p.Born && w.percent(80) {
		w.store.put(0, lease.Value{Plane: w.PlaneID(), Lease: t.Timeout, WriteID: w.WriteID()})
	}
	// Faults end early enough for the longest gap to show.
	w.healAt = w.end - min(int64(4*w.bound(0)), w.end/3)
	for _, n := range w.nodes {
		w.after(w.upTo(2*sec), func() { w.boot(n) })
	}
	w.push(sec, evPeers, nil, 0, 0)
	if !p.NoHeal {
		w.after(w.healAt, w.heal)
	}
	if p.Script != nil {
		p.Script(w)
	}
	if p.Every > 0 {
		w.nextFault()
		w.after(w.healAt/10*9, w.makeUp)
	}
}

// drawMoves draws what the nodes do by themselves beyond taking over.
func (w *World) drawMoves() {
	for _, n := range w.nodes {
		n.failback = election.Failback{
			Policy: election.FailbackPolicy(w.rng.IntN(3)), After: time.Duration(w.between(sec, 60*sec)),
		}
		if w.percent(50) {
			n.antiFlap = election.AntiFlap{Changes: 1 + w.rng.IntN(5), Window: time.Duration(w.between(10*sec, 600*sec))}
		}
	}
}
