package election

import (
	"slices"
	"time"

	"github.com/understudy-ha/understudy/pkg/lease"
)

// FailbackPolicy says what happens when a node of higher priority than the
// master's could take over.
type FailbackPolicy int

// The policies. Whatever the policy, an operator may always switch over.
const (
	FailbackNever  FailbackPolicy = iota // the master stays
	FailbackManual                       // the master stays and says that a failback is due
	FailbackAfter                        // the master switches over once the other was healthy for long enough
)

// Failback is what a master does about a better candidate.
type Failback struct {
	Policy FailbackPolicy
	After  time.Duration // of FailbackAfter: so long the other must have been a candidate without a break
}

// AntiFlap bounds how often the mastership may move by itself: once a node has
// seen Changes role changes within Window that no operator asked for, it
// neither fails back nor gives a term up for a failing service. The take-over
// of a dead master is never held. Changes 0 switches it off.
type AntiFlap struct {
	Changes int
	Window  time.Duration
}

// better is the candidate of higher priority that a master sees, and since
// when it has been the same one without a break.
type better struct {
	node  lease.NodeID
	since lease.Instant
}

// weigh looks for a better candidate whenever candidates or priorities change.
func (m *Machine) weigh() {
	best, ok := m.successor()
	if !ok || best.Priority <= m.cfg.Priority {
		m.better = better{}
		return
	}
	if m.better.node != best.Node {
		m.better = better{node: best.Node, since: m.now}
	}
}

// successor is the best of the other candidates.
func (m *Machine) successor() (Candidate, bool) {
	if len(m.peers) == 0 {
		return Candidate{}, false
	}
	return slices.MinFunc(m.peers, compare), true
}

// rank is the number of candidates that claim before this node. One that an
// operator asked for comes first. As any order this only delays.
func (m *Machine) rank() int {
	self, others := m.self(), m.claimants()
	n := Rank(self, others)
	if m.prefer == "" {
		return n
	}
	if m.prefer == m.cfg.Node {
		return 0
	}
	for _, p := range others {
		if p.Node == m.prefer && compare(self, p) < 0 {
			return n + 1
		}
	}
	return n
}

// claimants are the candidates without the node that holds the watched value
// or released it: whatever its record said when that was last read, nobody
// waits for a node that is silent or has just left.
func (m *Machine) claimants() []Candidate {
	last := func(p Candidate) bool { return p.Node == m.watch.value.Holder }
	if !slices.ContainsFunc(m.peers, last) {
		return m.peers
	}
	return slices.DeleteFunc(slices.Clone(m.peers), last)
}

// unasked reports whether a claim of the value is a role change that nobody
// asked for: not by the node that the release names, nor by the same node
// again, nor the first of all.
func (m *Machine) unasked(v lease.Value) bool {
	named := !v.Held && v.To == m.cfg.Node
	return v.Holder != "" && v.Holder != m.cfg.Node && !named
}

// moved counts such a claim of this node's own. Those of others it is told of.
func (m *Machine) moved(t lease.Term) {
	if m.cfg.AntiFlap.Changes == 0 {
		return
	}
	m.changes = append(slices.Clone(m.changes[max(0, len(m.changes)-m.cfg.AntiFlap.Changes+1):]), m.now)
	if m.flapping() {
		m.note(NoteFlapping, t, flapWords)
	}
}

// told takes over what the master of the plane has counted.
func (m *Machine) told(ages []time.Duration) {
	if m.reign != nil || m.cfg.AntiFlap.Changes == 0 {
		return
	}
	m.changes = nil
	for _, age := range ages[max(0, len(ages)-m.cfg.AntiFlap.Changes):] {
		m.changes = append(m.changes, m.now.Add(-max(age, 0)))
	}
}

// ages says how long ago the role changes were that still count, oldest first.
func (m *Machine) ages(now lease.Instant) []time.Duration {
	var out []time.Duration
	for _, at := range m.changes {
		if age := now.Shortest(at); age < m.cfg.AntiFlap.Window {
			out = append(out, age)
		}
	}
	return out
}

const flapWords = "the mastership has moved too often: failbacks and failovers for a failing service are held; look for the cause, then run understudy ack"

// flapping reports whether automatic moves are held, and otherwise makes sure
// that a Tick comes when the hold ends.
func (m *Machine) flapping() bool {
	a := m.cfg.AntiFlap
	return a.Changes > 0 && len(m.changes) >= a.Changes && !m.waited(m.changes[len(m.changes)-a.Changes], a.Window)
}

// mayMove reports whether this master may give the term up by itself. After an
// ack it waits until the others have heard of it, so that the next master does
// not hold what this one was told to let go.
func (m *Machine) mayMove() bool {
	return !m.flapping() && (m.acked.IsZero() || m.waited(m.acked, 3*m.cfg.Timing.StandbyHeartbeat))
}

// progressMoves begins the moves that a master makes by itself: out of
// maintenance's way, back to a better node, away from a failed service.
func (m *Machine) progressMoves(r *reign) {
	if r.leaving != nil || r.over {
		return
	}
	if next, ok := m.successor(); ok && m.maintenance != "" {
		m.leave(r, leaving{why: "maintenance: " + m.maintenance, end: EndMaintain, to: next.Node})
		return
	}
	if r.failed != "" && m.mayMove() {
		m.leaveFailed(r, r.failed)
		return
	}
	f := m.cfg.Failback
	if f.Policy != FailbackAfter || !r.ready || r.value.Paused || m.better.node == "" {
		return
	}
	if m.waited(m.better.since, f.After) && m.mayMove() {
		m.note(NoteFailback, r.term, string(m.better.node))
		m.leave(r, leaving{why: "failback to " + string(m.better.node), end: EndFailback, to: m.better.node})
	}
}

// setPaused asks for automatic moves to be off or on. A master writes it with
// its next renewal. A paused plane without a master is freed by the claim that
// follows; until then the wish holds for the very version that was seen, since
// whoever moves the register on from it takes the wish itself.
func (m *Machine) setPaused(paused bool) {
	switch {
	case m.reign != nil && paused:
		m.pausedWish = "on"
	case m.reign != nil:
		m.pausedWish = "off"
	case !paused && m.watch.known && m.watch.value.Paused:
		m.resumed = m.watch.version
	}
}

// barred reports whether the pause of the plane keeps this node from claiming
// the watched value. It does not where an operator named this node, nor where
// the node that was named did not come and this is the one that made way.
func (m *Machine) barred() bool {
	v := &m.watch.value
	rollback := !v.Held && v.To != "" && v.Holder == m.cfg.Node
	return v.Paused && m.resumed != m.watch.version && v.To != m.cfg.Node && !rollback && !m.isFormer(*v)
}

// heir is whom the release names where a master is told to be one no more: the
// best of the others, as in a step-down. What they know of each other may be
// older than what this master was just told, and on a paused plane nobody may
// claim unasked.
func (m *Machine) heir() lease.NodeID {
	if next, ok := m.successor(); ok {
		return next.Node
	}
	return ""
}
