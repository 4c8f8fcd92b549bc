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
	NoHeal  bool           // faults are not healed at the end: the script arranges that
	Script  func(w *World) // extra plans, made at the start
}

// Mixed has every kind of fault that the protocol's assumptions allow.
func Mixed() Profile {
	p := Profile{Name: "mixed", Every: 25 * time.Second, Library: 35}
	for k, weight := range map[Kind]int{
		PartitionBoth: 8, PartitionReads: 6, PartitionWrites: 6, StoreDown: 3, SlowStore: 5, Lossy: 10, StaleReads: 6,
		DaemonPause: 8, DaemonCrash: 6, GuardPause: 5, GuardCrash: 4, HostCrash: 5, Suspend: 4, NoProof: 3,
		ServiceFails: 3, ServiceDies: 4, SlowStop: 5, GuardDelays: 4, Sluggish: 5, DiskFails: 3,
		StepDown: 4, Switchover: 5, SetMode: 4, SetPriority: 2, PausePlane: 1, SetTimeout: 2, Restart: 4, Nudge: 1,
	} {
		p.Weights[k] = weight
	}
	return p
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
		if w.percent(30) {
			n.trouble.drain = time.Duration(w.upTo(2 * sec))
		}
	}
	if !p.Born && w.percent(80) {
		w.store.put(0, lease.Value{Plane: w.PlaneID(), Lease: t.Timeout, WriteID: w.WriteID()})
	}
	// Faults end early enough for the longest gap to show.
	w.healAt = w.end - min(int64(4*w.bound()), w.end/3)
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
	}
}
