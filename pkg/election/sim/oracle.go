package sim

import (
	"fmt"
	"time"

	"github.com/understudy-ha/understudy/pkg/lease"
)

// oracle remembers what it takes to judge a run.
type oracle struct {
	top      lease.Term // highest term ever claimed
	served   lease.Term // highest term in which somebody served
	claimed  instant    // when
	last     int8       // the node that served last; -1: none yet
	serving  int        // nodes that say they serve
	gapFrom  instant    // since when nobody serves; meaningful when serving is 0
	excused  bool       // the plane was paused during the present gap
	renewals int
}

func (w *World) violate(liveness bool, format string, args ...any) {
	if w.res.Violation == nil {
		w.res.Violation = &Violation{Liveness: liveness, At: time.Duration(w.t), What: fmt.Sprintf(format, args...)}
	}
}

// acts reports whether a node's service can do anything at this instant, and in
// which term.
func (w *World) acts(n *node) (lease.Term, bool) {
	if n.clk.asleep {
		return 0, false
	}
	for _, g := range n.guards {
		if g.tree.alive {
			return g.tree.term, true
		}
	}
	return w.says(n)
}

// says reports whether a node, asked at this instant, says that it is MASTER.
// For a library node that is the service itself.
func (w *World) says(n *node) (lease.Term, bool) {
	if !n.up || n.frozen || n.clk.asleep {
		return 0, false
	}
	now := n.clk.at(w.t)
	if !n.m.Serving(now) {
		return 0, false
	}
	return n.m.View(now).Reign.Term, true
}

// alone checks that nobody acts, or says it may, beside a node that does.
func (w *World) alone(n *node, t lease.Term) {
	for _, o := range w.nodes {
		if o == n {
			continue
		}
		if u, ok := w.acts(o); ok {
			w.violate(false, "two masters: %s %s in term %d and %s %s in term %d", n.name, n.role(), t, o.name, o.role(), u)
		} else if u, ok := w.says(o); ok {
			w.violate(false, "two masters: %s %s in term %d and %s says it is MASTER in term %d", n.name, n.role(), t, o.name, u)
		}
	}
}

// role says by what a node shows itself as the master.
func (n *node) role() string {
	for _, g := range n.guards {
		if g.tree.alive {
			return "runs the service"
		}
	}
	if n.library {
		return "serves"
	}
	return "says it is MASTER"
}

// treeStarts: a guard has started a service.
func (w *World) treeStarts(g *guard) {
	t := g.tree.term
	if t <= g.stopped {
		w.violate(false, "%s: the service was started in term %d after its first stop signal", g.n.name, t)
	}
	for _, o := range g.n.guards {
		if o != g && o.tree.alive {
			w.violate(false, "%s: a second service was started beside that of term %d", g.n.name, o.tree.term)
		}
	}
	w.reignOf(g.n, t)
	w.alone(g.n, t)
}

func (w *World) reignOf(n *node, t lease.Term) {
	o := &w.oracle
	if t <= o.served {
		return
	}
	o.served = t
	w.res.Reigns++
	if o.last >= 0 && o.last != n.idx {
		w.res.Failovers++
	}
	o.last = n.idx
}

// judge looks at a node after each step of its machine.
func (w *World) judge(n *node, now lease.Instant) {
	s := n.m.Serving(now)
	if s == n.serving {
		return
	}
	n.serving = s
	if s {
		t := n.m.View(now).Reign.Term
		w.logf(n, "is MASTER, term %d", t)
		if n.library {
			if t <= n.app.stopped {
				w.violate(false, "%s: serves again in term %d after its first stop signal", n.name, t)
			}
			w.reignOf(n, t)
		}
		w.alone(n, t)
	}
	w.counted()
}

// resumed looks at a node that runs again after standing still.
func (w *World) resumed(n *node) {
	if t, ok := w.acts(n); ok {
		w.alone(n, t)
	}
	if t, ok := w.says(n); ok {
		w.alone(n, t)
	}
}

// counted keeps count of who serves, for the bound on gaps.
func (w *World) counted() {
	o, k := &w.oracle, 0
	for _, n := range w.nodes {
		if n.serving {
			k++
		}
	}
	switch {
	case o.serving > 0 && k == 0:
		o.gapFrom, o.excused = w.t, false
	case o.serving == 0 && k > 0:
		w.gapEnds()
	}
	o.serving = k
}

// gapEnds judges the time without a master that ends now.
func (w *World) gapEnds() {
	o := &w.oracle
	if o.serving > 0 || w.t <= w.healAt {
		return
	}
	from := max(o.gapFrom, w.healAt)
	gap, limit := w.t-from, w.bound(from)
	if o.excused {
		return
	}
	w.res.Longest = max(w.res.Longest, time.Duration(gap))
	w.res.OfBound = max(w.res.OfBound, float64(gap)/float64(limit))
	if time.Duration(gap) > limit {
		w.violate(true, "no master for %.3fs although nothing was wrong any more; the bound is %.3fs", float64(gap)/float64(sec), limit.Seconds())
	}
}

// bound is the longest a plane may be without a master once nothing is wrong:
// 1.01 T + g + 5h + rank h + max(3h, h+2o), the time a reserved release stays
// reserved if that is longer than the lease, and the start of the service.
func (w *World) bound(from instant) time.Duration {
	var b, longest time.Duration // the longest lease in the register since the gap began
	for i := len(w.store.hist) - 1; i >= 0; i-- {
		longest = max(longest, w.store.hist[i].value.Lease)
		if w.store.hist[i].at <= from {
			break
		}
	}
	for _, n := range w.nodes {
		t := n.timing
		l := max(t.Timeout, longest)
		wait := max(l+l/100+t.ObserverGuard(), t.Takeover)
		rank := time.Duration(len(w.nodes)-1) * t.Heartbeat
		b = max(b, wait+5*t.Heartbeat+rank+max(3*t.Heartbeat, t.Heartbeat+2*t.Operation))
	}
	return b + time.Duration(startMax)
}

// committed: the register moved from prev to v.
func (w *World) committed(prev, v lease.Value, child bool) {
	o := &w.oracle
	if child {
		w.res.Children++
	}
	claim := v.Held && (v.Incarnation != prev.Incarnation || v.Term != prev.Term)
	switch {
	case v.Plane != prev.Plane:
		w.violate(false, "the plane's name changed")
	case v.Seq != prev.Seq+1:
		w.violate(false, "sequence %d follows %d", v.Seq, prev.Seq)
	case v.Term < prev.Term:
		w.violate(false, "term %d follows term %d", v.Term, prev.Term)
	case v.Incarnation != prev.Incarnation && v.Term == prev.Term:
		w.violate(false, "term %d has two holders", v.Term)
	case claim && v.Term <= o.top:
		w.violate(false, "term %d was claimed a second time", v.Term)
	case claim && !v.Held:
		w.violate(false, "a claim that is released")
	}
	if claim {
		o.top, o.claimed = v.Term, w.t
		if hook := w.cfg.Profile.OnClaim; hook != nil {
			if n := w.holder(); n != nil {
				hook(w, n)
			}
		}
		if !prev.Held {
			w.res.Releases++
		}
	}
	if w.cfg.Trace != nil {
		if v.Held && !claim {
			o.renewals++
			return
		}
		if o.renewals > 0 {
			w.logf(nil, "(%d renewals)", o.renewals)
			o.renewals = 0
		}
		w.logf(nil, "register: %s", describe(v))
	}
}
