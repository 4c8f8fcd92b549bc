package ha

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
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

// operations knows what operators asked of the plane and, on the master,
// carries it out.
//
// A request is an object of its own under requests/, written once by the node
// that took it and removed when the operation has ended. The master lists them
// with each heartbeat, or at once when it is nudged, and tells the others with
// its view. How far an operation has come is written under operations/, by the
// holder of each term for its own part: a switchover is begun by one master and
// settled by the next, whichever that is.
type operations struct {
	n    *Node
	lane *lane

	hurry    atomic.Bool // somebody says that there is a request
	unsaved  atomic.Bool // outbox is not empty
	standing atomic.Pointer[[]Operation]
	first    chan struct{} // closed once the requests were looked at, or could not be: who is in maintenance must know before it may claim
	once     sync.Once

	// Owned by the loop.
	at      lease.Instant
	began   bool
	leading bool
	serving bool
	leave   endClock

	mu      sync.Mutex
	cache   map[string]Operation // requests by id; they never change
	parts   map[string]Operation // progress by id, as far as this node knows it
	outbox  map[string]Operation // progress to be written, by key
	asked   string               // the maintenance this node's machine was told of
	swept   lease.Term           // the term in which old operations were last removed
	sending string               // the operation for which this node's reign is being ended
}

func newOperations(n *Node) *operations {
	return &operations{
		n: n, lane: newLane(), first: make(chan struct{}),
		cache: map[string]Operation{}, parts: map[string]Operation{}, outbox: map[string]Operation{},
	}
}

func (o *operations) start(ctx context.Context) {
	o.n.lanes.Go(func() { o.lane.run(ctx) })
	o.lane.put(func(ctx context.Context) { o.look(ctx, false) })
}

// list is what stands, as far as this node knows.
func (o *operations) list() []Operation {
	if l := o.standing.Load(); l != nil {
		return *l
	}
	return nil
}

// every is how often the requests are looked at without being asked to.
func (o *operations) every(s *Status, leading bool) time.Duration {
	t := o.n.opts.Timing
	switch {
	case !leading && s.HolderOK:
		return time.Duration(1<<63 - 1) // the master's view tells
	case o.n.thrifty():
		return thriftyRequests
	case leading && o.n.sparing():
		return sparingListing * t.Heartbeat
	case leading:
		return t.Heartbeat
	}
	return 3 * t.Heartbeat
}

// shown looks at the requests when it is time to.
func (o *operations) shown(s *Status, now lease.Instant) {
	if !o.n.running.Load() || !o.n.registered {
		return
	}
	leading, serving := s.Leading(now), s.Serving(now)
	turned := leading != o.leading || serving != o.serving
	o.leading, o.serving = leading, serving
	switch {
	case turned && leading, o.hurry.Load() && (leading || !s.HolderOK), o.unsaved.Load() && now.Longest(o.at) >= o.n.opts.Timing.Heartbeat/5:
	case leading && o.timeIsUp() && now.Longest(o.at) >= o.n.opts.Timing.Heartbeat/2:
	case o.began && now.Longest(o.at) < o.every(s, leading):
		return
	}
	o.hurry.Store(false)
	o.began, o.at = true, now
	o.lane.put(func(ctx context.Context) { o.look(ctx, leading) })
}

// timeIsUp reports whether something that stands has come to its time.
func (o *operations) timeIsUp() bool {
	now := time.Now()
	return slices.ContainsFunc(o.list(), func(op Operation) bool {
		return op.expired(now) || op.State == OpScheduled && op.due(now)
	})
}

// look is one round: what others must know is written, what is asked for is
// read, and the master carries it out.
func (o *operations) look(ctx context.Context, leading bool) {
	defer o.once.Do(func() { close(o.first) })
	if err := o.flush(ctx); err != nil {
		o.n.log.Debug("operations", zap.Error(err))
		return
	}
	ops, err := o.requests(ctx)
	if err != nil {
		o.n.log.Debug("operations", zap.Error(err))
		return
	}
	if leading {
		if err := o.carryOut(ctx, ops); err != nil {
			o.n.log.Debug("operations", zap.Error(err))
		}
		ops = o.known(ops)
	}
	o.take(ops)
}

// bounded limits one operation on the store.
func (o *operations) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, o.n.opts.Timing.Operation)
}

// requests reads what is asked for, oldest first.
func (o *operations) requests(ctx context.Context) ([]Operation, error) {
	keys, err := o.keys(ctx, requestPrefix)
	if err != nil {
		return nil, err
	}
	var ops []Operation
	for _, key := range keys {
		op, ok, err := o.request(ctx, key)
		if err != nil {
			return nil, err
		}
		if ok {
			ops = append(ops, op)
		}
	}
	o.mu.Lock()
	maps.DeleteFunc(o.cache, func(id string, _ Operation) bool {
		return !slices.ContainsFunc(ops, func(op Operation) bool { return op.ID == id })
	})
	o.mu.Unlock()
	return ops, nil
}

func (o *operations) keys(ctx context.Context, prefix string) ([]string, error) {
	var keys []string
	after := ""
	for {
		bctx, cancel := o.bounded(ctx)
		page, err := o.n.store.List(bctx, prefix, after)
		cancel()
		if err != nil {
			return nil, &StoreError{err}
		}
		for _, it := range page.Items {
			keys, after = append(keys, it.Key), it.Key
		}
		if !page.More || len(page.Items) == 0 {
			return keys, nil
		}
	}
}

func (o *operations) get(ctx context.Context, key string) ([]byte, error) {
	bctx, cancel := o.bounded(ctx)
	defer cancel()
	b, err := readObject(bctx, o.n.store, key)
	if err != nil {
		err = &StoreError{err}
	}
	return b, err
}

func (o *operations) put(ctx context.Context, key string, op Operation) error {
	b, err := json.Marshal(op)
	if err != nil {
		return err
	}
	bctx, cancel := o.bounded(ctx)
	defer cancel()
	return o.n.store.Put(bctx, key, bytes.NewReader(b), int64(len(b)))
}

func (o *operations) remove(ctx context.Context, key string) error {
	bctx, cancel := o.bounded(ctx)
	defer cancel()
	return o.n.store.Delete(bctx, key)
}

// request reads one request; !ok: it is gone, or says nothing.
func (o *operations) request(ctx context.Context, key string) (op Operation, ok bool, err error) {
	id := strings.TrimPrefix(key, requestPrefix)
	o.mu.Lock()
	op, ok = o.cache[id]
	o.mu.Unlock()
	if ok {
		return op, true, nil
	}
	b, err := o.get(ctx, key)
	if errors.Is(err, persistence.Absent) {
		return op, false, nil
	}
	if err != nil {
		return op, false, err
	}
	if op, err = parseRequest(key, b); err != nil {
		o.n.log.Info("request dropped", zap.String("key", key), zap.Error(err))
		return op, false, o.remove(ctx, key)
	}
	o.mu.Lock()
	o.cache[id] = op
	o.mu.Unlock()
	return op, true, nil
}

// progress is how far an operation has come, from the store.
func (o *operations) progress(ctx context.Context, id string) (Operation, error) {
	keys, err := o.keys(ctx, operationPrefix+id+"/")
	if err != nil {
		return Operation{}, err
	}
	var parts []Operation
	for _, key := range keys {
		b, err := o.get(ctx, key)
		if errors.Is(err, persistence.Absent) {
			continue
		}
		if err != nil {
			return Operation{}, err
		}
		var p Operation
		if err := json.Unmarshal(b, &p); err != nil || p.ID != id {
			continue // advisory: what can not be read says nothing
		}
		parts = append(parts, p)
	}
	if len(parts) == 0 {
		return Operation{}, ErrNoOperation
	}
	return merge(parts), nil
}

// advance notes how far an operation has come in this node's term, and writes
// it; where that fails it is tried again with the next round.
func (o *operations) advance(ctx context.Context, t lease.Term, p Operation) error {
	o.mu.Lock()
	was := o.parts[p.ID].State
	o.parts[p.ID] = p
	o.outbox[progressKey(p.ID, t)] = p
	o.unsaved.Store(true)
	o.mu.Unlock()
	if was != p.State {
		o.n.chronicle.operation(p)
		o.n.log.Info("operation", zap.String("id", p.ID), zap.String("kind", string(p.Kind)), zap.String("state", string(p.State)),
			zap.String("to", string(p.To)), zap.String("actor", p.Actor), zap.Strings("reasons", p.Reasons))
	}
	return o.flush(ctx)
}

// flush writes what waits to be written.
func (o *operations) flush(ctx context.Context) error {
	o.mu.Lock()
	todo := maps.Clone(o.outbox)
	o.mu.Unlock()
	for _, key := range slices.Sorted(maps.Keys(todo)) {
		if err := o.put(ctx, key, todo[key]); err != nil {
			return err
		}
		o.mu.Lock()
		if same(o.outbox[key], todo[key]) {
			delete(o.outbox, key)
		}
		o.unsaved.Store(len(o.outbox) > 0)
		o.mu.Unlock()
	}
	return nil
}

func same(a, b Operation) bool { return a.State == b.State && a.Phases == b.Phases }

// known are the requests with what this node knows of their progress.
func (o *operations) known(ops []Operation) []Operation {
	o.mu.Lock()
	defer o.mu.Unlock()
	out := make([]Operation, 0, len(ops))
	for _, op := range ops {
		if p, ok := o.parts[op.ID]; ok {
			op = p
		}
		if !op.State.Ended() {
			out = append(out, op)
		}
	}
	return out
}

// take makes what stands known to this node: from a listing of its own, or from
// the master's view.
func (o *operations) take(ops []Operation) {
	ops = slices.Clone(ops)
	if was := o.list(); !slices.EqualFunc(was, ops, func(a, b Operation) bool { return a.ID == b.ID && a.State == b.State }) {
		o.n.peers.stale.Store(true)
	}
	slices.SortStableFunc(ops, func(a, b Operation) int { return cmp.Compare(a.ID, b.ID) })
	o.standing.Store(&ops)
	o.apply()
}

// apply tells this node's machine what stands for it.
func (o *operations) apply() {
	now, s := time.Now(), o.n.Status()
	why, resume := "", false
	for _, op := range o.list() {
		switch {
		case op.Kind == OpMaintenance && op.Node == s.Node && !op.expired(now):
			why = cmp.Or(op.Reason, "asked for by "+cmp.Or(op.Actor, "an operator"))
		case op.Kind == OpResume, op.Kind == OpPause && op.expired(now):
			resume = true
		}
	}
	o.mu.Lock()
	told := o.asked
	o.asked = why
	o.mu.Unlock()
	if told != why {
		o.n.send(election.SetMaintenance{Why: why})
	}
	if resume && s.Paused && s.Reign == nil && !s.HolderOK {
		o.n.send(election.SetPaused{}) // there is no master to do it
	}
}

// preferred is the node that an operator wants to be master next; it only
// comes first in the order.
func (o *operations) preferred() lease.NodeID {
	now := time.Now()
	for _, op := range o.list() {
		if op.Kind.moves() && op.To != "" && op.due(now) {
			return op.To
		}
	}
	return ""
}

// operationsKept is how many operations that have ended are kept for readers.
const operationsKept = 200

// sweep removes the oldest operations, once per reign.
func (o *operations) sweep(ctx context.Context, t lease.Term) error {
	if o.swept == t {
		return nil
	}
	keys, err := o.keys(ctx, operationPrefix)
	if err != nil {
		return err
	}
	byID := map[string][]string{}
	for _, key := range keys {
		id, _, _ := strings.Cut(strings.TrimPrefix(key, operationPrefix), "/")
		byID[id] = append(byID[id], key)
	}
	ids := slices.Sorted(maps.Keys(byID))
	for _, id := range ids[:max(0, len(ids)-operationsKept)] {
		o.mu.Lock()
		_, standing := o.cache[id]
		o.mu.Unlock()
		if standing {
			continue
		}
		for _, key := range byID[id] {
			if err := o.remove(ctx, key); err != nil {
				return err
			}
		}
	}
	o.swept = t
	return nil
}

// endClock measures the parts of a planned end on the own clock.
type endClock struct {
	term lease.Term
	at   lease.Instant
	ms   OperationPhases
}

func (e *endClock) lap(now lease.Instant) int64 {
	d := now.Longest(e.at).Milliseconds()
	e.at = now
	return d
}

func (e *endClock) draining(now lease.Instant, t lease.Term) { *e = endClock{term: t, at: now} }

func (e *endClock) stopping(now lease.Instant, t lease.Term) {
	if e.term == t && e.ms.Drained == 0 {
		e.ms.Drained = e.lap(now)
	}
}

// releasing is told of each attempt to release; the first one counts.
func (e *endClock) releasing(now lease.Instant, t lease.Term) {
	if e.term == t && e.ms.Stopped == 0 {
		e.ms.Stopped = max(e.lap(now), 1)
	}
}

// endCode is the kind of the operation for which the reign of a term was ended,
// if it was.
func (o *operations) endCode(t lease.Term, code string) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if p, ok := o.parts[o.sending]; ok && p.OldTerm == t && code == election.EndAsked {
		return string(p.Kind)
	}
	return code
}

// released notes what the end of a reign took in the operation that asked for
// it.
func (o *operations) released(now lease.Instant, t lease.Term) {
	if o.leave.term != t {
		return
	}
	o.leave.ms.Released = o.leave.lap(now)
	o.mu.Lock()
	defer o.mu.Unlock()
	p, ok := o.parts[o.sending]
	if !ok || p.OldTerm != t {
		return
	}
	veto := p.Phases.Veto
	p.Phases = o.leave.ms
	p.Phases.Veto = veto
	o.parts[p.ID] = p
	o.outbox[progressKey(p.ID, t)] = p
	o.unsaved.Store(true)
}
