package sim

import (
	"time"

	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// fenceLimit is how long a node waits for those before it to fence.
const fenceLimit = 20 * time.Second

// others are the ids of all nodes but one.
func (w *World) others(n *node) []lease.NodeID {
	var ids []lease.NodeID
	for _, o := range w.nodes {
		if o.id != n.id {
			ids = append(ids, o.id)
		}
	}
	return ids
}

// fence is what a fencing method does: the machine that static configuration
// names for the holder is powered off, which is confirmed some time after, or
// nothing comes of it. What is confirmed is always true at that moment: the
// machine was off. It may be on again by the time the node hears of it.
func (w *World) fence(n *node, a election.Fence) {
	unsure := w.cfg.Profile.Unsure
	if unsure == 0 {
		unsure = 15
	}
	if w.percent(unsure) {
		w.fired(FencingFails)
		w.post(n, w.between(100*ms, 5*sec), election.Fenced{Version: a.Version, Why: "the switch does not answer"})
		return
	}
	news := w.between(10*ms, 500*ms)
	if w.percent(30) {
		w.fired(FencingSlow)
		news = w.between(sec, int64(fenceLimit))
	}
	target := w.machineOf(a.Old.Node)
	n.fencing = a.Version
	w.after(w.between(50*ms, 2*sec), func() {
		// That a command which was recalled strikes all the same, perhaps a
		// machine that is on again, is a fault: there is none any more then.
		recalled := n.fencing != a.Version && w.t >= w.healAt
		if n.up && !recalled {
			w.powerOff(target)
			w.post(n, news, election.Fenced{Version: a.Version, Off: true, Why: "the machine is off"})
		}
	})
}

// machineOf is the machine that configuration names for a node.
func (w *World) machineOf(id lease.NodeID) *node {
	for _, n := range w.nodes {
		if n.id == id {
			return n
		}
	}
	panic("sim: no node " + string(id))
}

// powerOff ends everything on a machine, whatever state it is in. Somebody puts
// it on again soon.
func (w *World) powerOff(n *node) {
	w.fired(PowerOff)
	w.logf(n, "machine is powered off")
	for len(n.guards) > 0 {
		w.guardDies(n.guards[0])
	}
	w.daemonDies(n)
	n.deferred = nil
	if n.clk.asleep {
		n.clk.wake(w.t)
	}
	w.after(w.between(500*ms, 8*sec), func() { w.boot(n) })
}
