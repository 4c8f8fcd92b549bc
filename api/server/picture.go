package server

import (
	"time"

	"github.com/understudy-ha/understudy/api/v1"
	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// picture is what one request may look at: a snapshot and one reading of the
// clock. The clock is read after the snapshot was taken, so that the time in
// between counts against the lease and never in its favour.
type picture struct {
	*ha.Status
	now lease.Instant
}

func look(n Node) picture {
	st := n.Status()
	return picture{Status: st, now: n.Now()}
}

// serving is the truth rule (R4).
func (p picture) serving() bool { return p.Serving(p.now) }

// leading reports whether this node holds the term with its lease ahead.
func (p picture) leading() bool { return p.Leading(p.now) }

// promoting reports whether the term is won and the service is not ready.
func (p picture) promoting() bool { return p.leading() && !p.serving() }

func (p picture) state() lease.State { return p.StateAt(p.now) }

// alive reports whether the runtime's loop ran lately. What a loop that is
// stuck once wrote into the snapshot is no longer evidence of anything but the
// lease, which ends by itself.
func (p picture) alive() bool {
	return !p.LoopAt.IsZero() && p.now.Longest(p.LoopAt) < max(5*p.Heartbeat, 5*time.Second)
}

// ownFresh reports whether this node's own heartbeat is getting through.
func (p picture) ownFresh() bool {
	own, ok := p.Nodes[p.Node]
	return ok && own.Fresh(p.now, p.Timeout)
}

// standing reports whether the node could be promoted: what /standby asks.
func (p picture) standing() bool {
	st := p.state()
	return (st == lease.StateStandby || st == lease.StateHotStandby) &&
		!p.leading() && p.Electable && !p.Stopping && p.alive() && p.ownFresh()
}

// holderSeen reports whether another node holds the term and was seen alive.
func (p picture) holderSeen() bool {
	return p.Holder != "" && p.Holder != p.Node && p.HolderOK && p.alive()
}

// stateOf is the state of another node: by its own record, corrected by what
// this node knows better. A node that fell silent is FAILED, and only the
// holder of a register that is seen to be renewed is MASTER. The second result
// says why the record was not believed.
func (p picture) stateOf(id lease.NodeID, n ha.NodeStatus) (lease.State, string) {
	holder := id == p.Holder && p.holderSeen()
	switch n.State {
	case lease.StateTerminated:
		return lease.StateTerminated, n.Why
	case lease.StateMaster:
		switch {
		case holder:
			return lease.StateMaster, n.Why
		case id == p.Holder || !n.Fresh(p.now, p.Timeout):
			return lease.StateFailed, whySilent
		}
		// It claims the reign before this node has read the register, or it
		// has lost it and not said so yet. Either way nobody here knows it to
		// be master.
		return lease.StateStandby, whyUnconfirmed
	case lease.StateInitializing, lease.StateStandby, lease.StateHotStandby, lease.StateHotBackup, lease.StateFailed:
		// A holder that is being promoted is heard of through the register.
		if !holder && !n.Fresh(p.now, p.Timeout) {
			return lease.StateFailed, whySilent
		}
		return n.State, n.Why
	}
	return lease.StateFailed, whyUnknownState
}

// Reason codes this package adds to those of the runtime.
const (
	whySilent       = "SILENT"
	whyUnconfirmed  = "MASTER_UNCONFIRMED"
	whyUnknownState = "UNKNOWN_STATE"
	whyStuck        = "LOOP_STUCK"
)

// electable reports whether another node could take over now.
func (p picture) electable(id lease.NodeID, n ha.NodeStatus) bool {
	if id == p.Node || n.Removed || !n.Electable || !p.alive() || !n.Fresh(p.now, p.Timeout) {
		return false
	}
	st, _ := p.stateOf(id, n)
	return st == lease.StateStandby || st == lease.StateHotStandby
}

// master is the node that is MASTER as far as this node knows, or empty.
func (p picture) master() lease.NodeID {
	if p.serving() {
		return p.Node
	}
	if !p.holderSeen() {
		return ""
	}
	n, ok := p.Nodes[p.Holder]
	if !ok || n.Removed {
		return ""
	}
	if st, _ := p.stateOf(p.Holder, n); st != lease.StateMaster {
		return ""
	}
	return p.Holder
}

// leader is the holder of the term, its service ready or not, or empty.
func (p picture) leader() lease.NodeID {
	switch {
	case p.leading():
		return p.Node
	case p.holderSeen():
		return p.Holder
	}
	return ""
}

// masterURI is where the MASTER is reached, or empty.
func (p picture) masterURI() string {
	switch id := p.master(); id {
	case "":
		return ""
	case p.Node:
		return p.URI
	default:
		return p.Nodes[id].URI
	}
}

// up reports whether the node has started and goes on: not during a promotion.
func (p picture) up() bool {
	st := p.state()
	return p.alive() && !p.Stopping && !p.promoting() &&
		st != lease.StateInitializing && st != lease.StateTerminated
}

// healthy reports whether the node is up and nothing needs a look.
func (p picture) healthy() bool {
	return p.up() && p.state() != lease.StateFailed && (p.alone() || p.storeOK())
}

// alone reports whether the node serves outside the plane, which asks nothing
// of the store.
func (p picture) alone() bool { return p.Mode == lease.ModeDisabled && p.Reign != nil }

// storeOK reports whether the last read and the last write of the store
// succeeded and are recent.
func (p picture) storeOK() bool {
	wrote := p.lastWrite()
	if p.Store.Error != "" || p.Store.LastRead.IsZero() || wrote.IsZero() {
		return false
	}
	read := p.Store.LastRead
	if p.leading() {
		read = wrote // the master needs no read to renew: each swap is an answer
	}
	// A standby writes nothing but its record; the master writes the register
	// at every heartbeat.
	recent := max(3*p.Heartbeat, 3*time.Second)
	write := recent
	if own, ok := p.Nodes[p.Node]; ok && !p.leading() {
		write = max(write, 3*time.Duration(own.IntervalMs)*time.Millisecond)
	}
	return p.now.Longest(read) < recent && p.now.Longest(wrote) < write
}

// lastWrite is when the write that keeps this node in its role was last known
// to have succeeded: a master's of the register, anybody else's of its own
// record. Zero if none.
func (p picture) lastWrite() lease.Instant {
	wrote := p.Store.LastWrite
	if own, ok := p.Nodes[p.Node]; ok && !p.leading() && (wrote.IsZero() || own.SeenAt.Longest(wrote) > 0) {
		wrote = own.SeenAt
	}
	return wrote
}

// states builds the wire's picture of the plane. wall is the wall clock that
// belongs to p.now.
func (p picture) states(wall time.Time) v1.PlaneStates {
	out := v1.PlaneStates{
		PlaneID:  orNull(string(p.Plane)),
		OwnID:    string(p.Node),
		MasterID: orNull(string(p.master())),
		LeaderID: orNull(string(p.leader())),
		Term:     uint64(p.Term),
		Paused:   p.Paused,
		Nodes:    make(map[string]v1.Node, len(p.Nodes)+1),
		Links:    map[string]string{},
		Flapping: p.Flapping, FailbackTo: string(p.Failback),
	}
	for _, op := range p.Operations {
		out.Operations = append(out.Operations, wireOperation(op))
	}
	if p.Fencing != nil {
		out.Fencing = wireFencing(p.Fencing.Nodes)
	}
	for id, n := range p.Nodes {
		if id == p.Node || n.Removed {
			continue
		}
		st, why := p.stateOf(id, n)
		w := wireNode(id, n, p.now, wall)
		w.Status, w.Why = v1.State(st), orNull(why)
		w.Electable = p.electable(id, n)
		w.StateSeq, w.StateLag = p.held(st, n.StateSeq)
		out.Nodes[string(id)] = w
	}
	out.Nodes[string(p.Node)] = p.self(wall)
	return out
}

// self is this node's own entry: what the snapshot says, not its last record.
func (p picture) self(wall time.Time) v1.Node {
	w := wireNode(p.Node, p.Nodes[p.Node], p.now, wall)
	w.Status = v1.State(p.state())
	w.NodeURI, w.Version = orNull(p.URI), orNull(p.Version)
	w.Priority = &p.Priority
	w.Electable = p.Electable && p.alive()
	why := p.Why
	if !p.alive() {
		why = whyStuck
	}
	w.Why = orNull(why)
	ms := p.Store.Latency.Milliseconds()
	w.StoreLatencyMs = &ms
	w.ServiceFailures = p.Service.Failures
	if p.Persisted.Held {
		w.StateSeq, w.StateLag = p.held(p.state(), p.Persisted.Seq)
	}
	if p.leading() {
		age := p.now.Longest(p.Reign.T0).Milliseconds() // its renewal of the register is its heartbeat
		w.AgeMs = &age
	}
	return w
}

// held is how far a node in the given state holds the persisted state, and by
// how much that is behind the register; nil for one that holds none.
func (p picture) held(st lease.State, seq uint64) (at, lag *uint64) {
	hot := st == lease.StateMaster || st == lease.StateHotStandby || st == lease.StateHotBackup
	if !p.Persisted.Enabled || !hot {
		return nil, nil
	}
	head := p.Persisted.Seq + p.Persisted.Lag
	behind := max(head, seq) - seq
	return &seq, &behind
}

func wireNode(id lease.NodeID, n ha.NodeStatus, now lease.Instant, wall time.Time) v1.Node {
	w := v1.Node{NodeID: string(id)}
	if n.Node == "" {
		return w // no record was ever read
	}
	w.NodeURI, w.Version = orNull(n.URI), orNull(n.Version)
	w.Priority, w.StoreLatencyMs, w.LocalTimestamp = &n.Priority, &n.StoreMs, &n.WallMs
	if n.WasSeen() {
		age := n.Age(now)
		ms, seen := age.Milliseconds(), wall.Add(-age).UnixMilli()
		w.AgeMs, w.RemoteTimestamp = &ms, &seen
	}
	return w
}

func (p picture) metrics(wall time.Time) v1.Metrics {
	m := v1.Metrics{
		State:          v1.State(p.state()),
		Uptime:         wall.Sub(p.Started).Round(time.Second).String(),
		CurrentTimeUTC: wall.UnixMilli(),
		StartTimeUTC:   p.Started.UnixMilli(),
		HighAvailability: v1.HAMetrics{
			Priority:         p.Priority,
			PollPeriod:       p.Poll.Milliseconds(),
			HeartbeatTimeout: p.Timeout.Milliseconds(),
			History:          make([]v1.StateChanged, 0, len(p.History)),
		},
		Rebind: map[string]int64{},
		Persist: v1.PersistMetrics{
			URL: p.Store.URL, Kind: p.Store.Kind,
			ReadAgeMs:   p.since(p.Store.LastRead),
			WriteAgeMs:  p.since(p.lastWrite()),
			LatencyMs:   p.Store.Latency.Milliseconds(),
			Error:       orNull(p.Store.Error),
			VerifiedCAS: p.Store.Verified,
		},
	}
	for _, t := range p.History {
		m.HighAvailability.History = append(m.HighAvailability.History, v1.StateChanged{
			State: v1.State(t.State), Timestamp: t.At.UnixMilli(), Term: uint64(t.Term), Reason: t.Reason,
		})
	}
	return m
}

// since is the milliseconds from then to now, nil if then never was.
func (p picture) since(then lease.Instant) *int64 {
	if then.IsZero() {
		return nil
	}
	ms := p.now.Longest(then).Milliseconds()
	return &ms
}

// reigns lists at most limit reigns of at least the given term, newest first.
func (p picture) reigns(since lease.Term, limit int) v1.History {
	h := v1.History{PlaneID: orNull(string(p.Plane)), Reigns: []v1.Reign{}}
	for _, r := range p.Reigns {
		if len(h.Reigns) == limit {
			break
		}
		if r.Term < since {
			continue
		}
		h.Reigns = append(h.Reigns, v1.Reign{
			Term: uint64(r.Term), Node: string(r.Node), Incarnation: string(r.Incarnation),
			From: r.From, To: r.To,
			Code: r.Code, Reason: r.Reason, EndCode: r.EndCode, EndReason: orNull(r.EndReason), Actor: orNull(r.Actor),
			PhasesMs: v1.Phases(r.Phases), Fencing: wireFencing(r.Fencing),
		})
	}
	return h
}

func wireFencing(records []ha.FenceRecord) []v1.Fencing {
	var out []v1.Fencing
	for _, r := range records {
		out = append(out, v1.Fencing{
			Node: string(r.Node), Term: uint64(r.Term), Outcome: string(r.Outcome), Method: orNull(r.Method),
			Off: r.Off, Early: r.Early, StartedAt: r.At, TookMs: r.TookMs, Actor: orNull(r.Actor), Detail: orNull(r.Detail),
		})
	}
	return out
}

func orNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
