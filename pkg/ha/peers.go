package ha

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/pkg/lease"
)

const (
	viewKey       = "view"
	requestPrefix = "requests/"
)

// viewObject is the master's picture of the plane, which the others read, so
// that only one node lists and reading grows with the number of nodes rather
// than its square.
type viewObject struct {
	Writer lease.Incarnation `json:"writer"`
	Beat   uint64            `json:"beat"`
	Nodes  []viewNode        `json:"nodes"`
	// Operations are those that stand, as the writer knows them.
	Operations []Operation `json:"operations,omitempty"`
	// MovesMs is how long ago the role changes were that nobody asked for, as
	// far as they count against moving again.
	MovesMs []int64 `json:"movesMs,omitempty"`
}

type viewNode struct {
	Record lease.NodeRecord `json:"record"`
	AgeMs  int64            `json:"ageMs"` // since the record last changed, by the writer's clock
}

// peers knows the other nodes of the plane, from advisory objects.
type peers struct {
	n     *Node
	lane  *lane
	table atomic.Pointer[map[lease.NodeID]NodeStatus]
	stale atomic.Bool // what operators asked for is not in the view yet

	// Owned by the loop.
	at      lease.Instant
	began   bool
	leading bool
	state   lease.State
	ruler   lease.NodeID // the last node that was seen to hold the term
	rounds  int          // since the term last changed hands

	// Owned by the lane, except that forget takes it too.
	mu       sync.Mutex
	ids      []lease.NodeID // of the last listing
	before   []lease.NodeID // of the one before it
	gathered bool           // a first round through all records is done
	listedAt lease.Instant
	seen     map[lease.NodeID]NodeStatus
	viewSeen viewObject
	viewOut  viewObject
	viewSent string
	viewAt   lease.Instant
}

func newPeers(n *Node) *peers {
	return &peers{n: n, lane: newLane(), seen: map[lease.NodeID]NodeStatus{}}
}

func (p *peers) start(ctx context.Context) { p.n.lanes.Go(func() { p.lane.run(ctx) }) }

func (p *peers) known() map[lease.NodeID]NodeStatus {
	if t := p.table.Load(); t != nil {
		return *t
	}
	return nil
}

// every is how often the other nodes are looked at.
func (p *peers) every(orphan bool) time.Duration {
	t := p.n.opts.Timing
	switch {
	case !p.n.thrifty() && orphan:
		return 3 * t.Heartbeat
	case !p.n.thrifty():
		return p.n.look()
	case p.rounds < quickRounds:
		return 2 * t.Heartbeat
	}
	return max(t.StandbyHeartbeat, glanceEvery)
}

// shown looks at the other nodes when it is time to.
func (p *peers) shown(s *Status, now lease.Instant) {
	if !p.n.running.Load() {
		return
	}
	leading, state := s.Leading(now), s.StateAt(now)
	orphan := !leading && !s.HolderOK
	moved := !p.began || leading != p.leading
	if s.Holder != "" && s.Holder != p.ruler {
		p.ruler, moved = s.Holder, true
	}
	if moved {
		p.rounds = 0
	}
	// The view tells the others that its writer serves now, or no more.
	turned := leading && state != p.state
	news := leading && p.stale.Load() && now.Longest(p.at) >= p.n.opts.Timing.Heartbeat/5
	if !moved && !turned && !news && now.Longest(p.at) < p.every(orphan) {
		return
	}
	p.began, p.leading, p.state, p.at = true, leading, state, now
	p.rounds++
	p.lane.put(func(ctx context.Context) { p.look(ctx, leading, orphan) })
}

// look is one round.
func (p *peers) look(ctx context.Context, leading, orphan bool) {
	ctx, cancel := context.WithTimeout(ctx, 4*p.n.opts.Timing.Operation)
	defer cancel()
	var err error
	switch {
	case leading:
		if err = p.gather(ctx); err == nil {
			err = p.publishView(ctx)
		}
	case orphan && (!p.n.thrifty() || !p.pictured()):
		err = p.gather(ctx)
	default:
		err = p.readView(ctx)
	}
	if err != nil {
		p.n.log.Debug("peers", zap.Error(err))
	}
	p.announce(leading)
}

// pictured reports whether a master's view was ever read.
func (p *peers) pictured() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.viewSeen.Writer != ""
}

// gather reads every node's record.
func (p *peers) gather(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.n.Now()
	if p.listedAt.IsZero() || now.Longest(p.listedAt) >= p.listing() {
		ids, err := p.listNodes(ctx)
		if err != nil {
			return err
		}
		p.before, p.ids, p.listedAt = p.ids, ids, now
	}
	for _, id := range p.ids {
		if id == p.n.opts.Node {
			continue
		}
		b, err := readObject(ctx, p.n.store, recordPrefix+string(id))
		if errors.Is(err, persistence.Absent) {
			delete(p.seen, id)
			continue
		}
		if err != nil {
			return err
		}
		rec, err := lease.ParseNodeRecord(b)
		if err != nil || rec.Node != id {
			continue // a hostile or torn record elects nobody
		}
		p.take(id, rec, p.n.Now())
	}
	maps.DeleteFunc(p.seen, func(id lease.NodeID, _ NodeStatus) bool { return !slices.Contains(p.ids, id) })
	p.gathered = true
	return nil
}

// listing is how often nodes are listed: new ones show sooner where a listing
// costs nothing.
func (p *peers) listing() time.Duration {
	switch {
	case p.n.thrifty():
		return thriftyListing
	case p.n.sparing():
		return max(2*p.n.opts.Timing.StandbyHeartbeat, sparingListing*p.n.opts.Timing.Heartbeat)
	}
	return 2 * p.n.opts.Timing.StandbyHeartbeat
}

// neverSeen is the age given to a record whose writer was not seen alive yet.
const neverSeen = 1000 * time.Hour

func (p *peers) take(id lease.NodeID, rec lease.NodeRecord, now lease.Instant) {
	old, ok := p.seen[id]
	switch {
	case !ok && p.gathered && !slices.Contains(p.before, id):
		// It was not there when we listed last: somebody wrote it since.
		p.seen[id] = NodeStatus{NodeRecord: rec, SeenAt: now, Lag: p.n.lag()}
	case !ok:
		// How old it is can not be told from a foreign clock: it counts as
		// silent until it is seen to change.
		p.seen[id] = NodeStatus{NodeRecord: rec, SeenAt: now, AgeAtRef: neverSeen, Lag: p.n.lag()}
	case old.Beat != rec.Beat || old.Incarnation != rec.Incarnation:
		p.seen[id] = NodeStatus{NodeRecord: rec, SeenAt: now, Lag: p.n.lag()}
	default:
		old.NodeRecord = rec
		p.seen[id] = old
	}
}

func (p *peers) listNodes(ctx context.Context) ([]lease.NodeID, error) {
	var ids []lease.NodeID
	after := ""
	for {
		page, err := p.n.store.List(ctx, recordPrefix, after)
		if err != nil {
			return nil, err
		}
		for _, it := range page.Items {
			after = it.Key
			if id, err := lease.ParseNodeID(strings.TrimPrefix(it.Key, recordPrefix)); err == nil {
				ids = append(ids, id)
			}
		}
		if !page.More || len(page.Items) == 0 {
			return ids, nil
		}
	}
}

// publishView writes the picture for the others when it has changed, and often
// enough for them to see that it is alive.
func (p *peers) publishView(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.n.Now()
	p.stale.Store(false)
	v := viewObject{Writer: p.n.inc, Beat: p.viewOut.Beat + 1, Operations: p.n.ops.list()}
	for _, age := range p.n.Status().Moves {
		v.MovesMs = append(v.MovesMs, age.Milliseconds())
	}
	own := p.n.recorder.record(p.n.Status(), now)
	v.Nodes = append(v.Nodes, viewNode{Record: own})
	var sum strings.Builder
	fmt.Fprintf(&sum, "%s;%d;", own.State, len(v.MovesMs))
	for _, op := range v.Operations {
		fmt.Fprintf(&sum, "%s %s;", op.ID, op.State)
	}
	for _, id := range slices.Sorted(maps.Keys(p.seen)) {
		ns := p.seen[id]
		if d := p.n.opts.InactiveNodeRemoval; d > 0 && ns.AgeAtRef == 0 && ns.Age(now) > d {
			if err := p.n.store.Delete(ctx, recordPrefix+string(id)); err == nil {
				delete(p.seen, id)
				p.ids = slices.DeleteFunc(p.ids, func(x lease.NodeID) bool { return x == id })
			}
			continue
		}
		v.Nodes = append(v.Nodes, viewNode{Record: ns.NodeRecord, AgeMs: ns.Age(now).Milliseconds()})
		fmt.Fprintf(&sum, "%s %s %d %t %t;", id, ns.State, ns.Priority, ns.Electable, ns.Fresh(now, 0))
	}
	every := p.n.look() / 2 // with each look, be it a little early
	if p.n.thrifty() {
		every = glanceEvery / 2 // and not with the quick rounds before
	}
	if sum.String() == p.viewSent && now.Longest(p.viewAt) < every {
		return nil
	}
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := p.n.store.Put(ctx, viewKey, bytes.NewReader(b), int64(len(b))); err != nil {
		return err
	}
	p.viewOut, p.viewSent, p.viewAt = v, sum.String(), now
	return nil
}

func (p *peers) readView(ctx context.Context) error {
	b, err := readObject(ctx, p.n.store, viewKey)
	if errors.Is(err, persistence.Absent) {
		return nil
	}
	if err != nil {
		return err
	}
	var v viewObject
	if err := json.Unmarshal(b, &v); err != nil {
		return nil // advisory: a torn view says nothing
	}
	moves := election.Moves{}
	for _, ms := range v.MovesMs {
		moves.Ages = append(moves.Ages, time.Duration(ms)*time.Millisecond)
	}
	p.n.send(moves)
	p.n.ops.take(v.Operations)
	p.mu.Lock()
	defer p.mu.Unlock()
	if v.Writer == p.viewSeen.Writer && v.Beat == p.viewSeen.Beat {
		return nil // the same picture: its ages go on growing on our clock
	}
	first := p.viewSeen.Writer == ""
	p.viewSeen = v
	now := p.n.Now()
	p.seen = map[lease.NodeID]NodeStatus{}
	p.ids = nil
	for _, x := range v.Nodes {
		id := x.Record.Node
		if _, err := lease.ParseNodeID(string(id)); err != nil {
			continue
		}
		age := time.Duration(max(x.AgeMs, 0)) * time.Millisecond
		if first {
			age = max(age, neverSeen) // the picture itself may be old: believe it once it changes
		}
		p.ids = append(p.ids, id)
		if id != p.n.opts.Node {
			p.seen[id] = NodeStatus{NodeRecord: x.Record, SeenAt: now, AgeAtRef: age, Lag: p.n.lag()}
		}
	}
	return nil
}

// announce publishes the table and tells the machine who the candidates are.
func (p *peers) announce(leading bool) { p.n.send(p.candidates(leading)) }

// renew reads every node's record now and returns the candidates, for a
// decision that must not rest on what was known a heartbeat ago. Where the store
// does not answer, that has to do. It waits for the store, as the loop never may.
func (p *peers) renew(ctx context.Context) election.Peers {
	ctx, cancel := context.WithTimeout(ctx, p.n.opts.Timing.Operation)
	defer cancel()
	if err := p.gather(ctx); err != nil {
		p.n.log.Debug("peers", zap.Error(err))
	}
	return p.candidates(true)
}

// candidates publishes the table and returns who the candidates are.
func (p *peers) candidates(leading bool) election.Peers {
	p.mu.Lock()
	t := maps.Clone(p.seen)
	p.mu.Unlock()
	p.table.Store(&t)
	now := p.n.Now()
	var cs []election.Candidate
	for _, ns := range t {
		at := now
		if p.n.thrifty() && !leading {
			at = ns.SeenAt // as the master saw it last: without one nobody looks
		}
		if candidate(ns, at) {
			cs = append(cs, election.Candidate{Node: ns.Node, Priority: ns.Priority, Version: ns.Version, State: ns.State})
		}
	}
	return election.Peers{Candidates: cs, Prefer: p.n.ops.preferred()}
}

func candidate(ns NodeStatus, now lease.Instant) bool {
	return ns.Electable && ns.Fresh(now, 0) && (ns.State == lease.StateStandby || ns.State == lease.StateHotStandby)
}

// noSuccessor lists why no other node could take over; nil when one can.
func (p *peers) noSuccessor(now lease.Instant) []string {
	t := p.known()
	if len(t) == 0 {
		return []string{"no other node is known"}
	}
	var reasons []string
	for _, id := range slices.Sorted(maps.Keys(t)) {
		ns := t[id]
		switch {
		case candidate(ns, now):
			return nil
		case ns.State == lease.StateTerminated:
			reasons = append(reasons, fmt.Sprintf("%s was stopped", id))
		case !ns.Fresh(now, 0):
			reasons = append(reasons, fmt.Sprintf("%s is silent", id))
		default:
			reasons = append(reasons, fmt.Sprintf("%s is %s and not electable: %s", id, ns.State, ns.Why))
		}
	}
	return reasons
}

// uris are where the nodes live that were heard of lately.
func (p *peers) uris() []string {
	now := p.n.Now()
	var out []string
	for _, ns := range p.known() {
		if ns.URI != "" && ns.Fresh(now, p.n.opts.Timing.Timeout) {
			out = append(out, ns.URI)
		}
	}
	return out
}

// forget removes records of nodes that are gone.
func (p *peers) forget(ctx context.Context, id lease.NodeID) error {
	ctx, cancel := context.WithTimeout(ctx, 4*p.n.opts.Timing.Operation)
	defer cancel()
	p.mu.Lock()
	now := p.n.Now()
	s := p.n.Status()
	var gone []lease.NodeID
	for x, ns := range p.seen {
		live := ns.Fresh(now, p.n.opts.Timing.Timeout) && ns.State != lease.StateTerminated
		if (id == "" || id == x) && !live && (x != s.Holder || !s.HolderOK) {
			gone = append(gone, x)
		}
	}
	var errs []error
	for _, x := range gone {
		if err := p.n.store.Delete(ctx, recordPrefix+string(x)); err != nil {
			errs = append(errs, err)
			continue
		}
		delete(p.seen, x)
		p.ids = slices.DeleteFunc(p.ids, func(y lease.NodeID) bool { return y == x })
	}
	p.mu.Unlock()
	p.announce(p.n.Status().Leading(now))
	return errors.Join(errs...)
}
