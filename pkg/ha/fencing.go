package ha

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// Fencing says how a former master that fell silent is made harmless from
// outside, before the service of the next one starts.
type Fencing struct {
	// Fencer does it; nil: only an operator's word counts (ConfirmOff).
	Fencer Fencer
	// Wait: the service waits until it is done, for ever. Otherwise it starts
	// when nothing has helped: the lease has ended either way.
	Wait bool
	// Early names the nodes that Fencer can power off with proof, by this
	// node's own configuration, and EarlyLimit how long that may take: their
	// lease need not be waited out then (R6b). 0: nobody's.
	Early      []lease.NodeID
	EarlyLimit time.Duration
}

// Fencer makes former masters harmless.
type Fencer interface {
	// Fence tries its methods in order until one succeeds, and returns what came
	// of each that it tried, the last one last. With proof it tries only those
	// whose success proves that the machine is off. It returns soon after ctx
	// ends.
	Fence(ctx context.Context, old FenceTarget, proof bool) []FenceTry
}

// FenceTarget is a former master.
type FenceTarget struct {
	Plane       lease.PlaneID
	Node        lease.NodeID
	Term        lease.Term
	Incarnation lease.Incarnation
	URI         string       // by its own, advisory record; empty if not known
	By          lease.NodeID // the node that fences it
}

// FenceTry is what came of one method.
type FenceTry struct {
	Method string
	OK     bool
	Off    bool // it is proven that the machine is off
	Took   time.Duration
	Detail string // one line for people
}

// MethodOperator is the method of an operator's word.
const MethodOperator = "operator"

// FenceOutcome is how fencing stands.
type FenceOutcome string

// The outcomes.
const (
	FencePending FenceOutcome = "pending" // it is under way, or was when this was written
	FenceDone    FenceOutcome = "fenced"
	FenceFailed  FenceOutcome = "failed" // nothing helped
)

// FenceRecord is what was done to one former master, as history tells it.
type FenceRecord struct {
	Node    lease.NodeID `json:"node"`
	Term    lease.Term   `json:"term"` // that it held
	Outcome FenceOutcome `json:"outcome"`
	Method  string       `json:"method,omitempty"` // that succeeded
	Off     bool         `json:"off"`              // its machine is proven to be off
	Early   bool         `json:"early"`            // before its lease had ended
	At      time.Time    `json:"at"`               // it began, wall clock
	TookMs  int64        `json:"tookMs"`
	Actor   string       `json:"actor,omitempty"` // of MethodOperator
	Detail  string       `json:"detail,omitempty"`
}

// Words says what came of it.
func (r FenceRecord) Words() string {
	switch r.Outcome {
	case FenceDone:
		return fmt.Sprintf("%s of term %d was fenced (%s): %s", r.Node, r.Term, r.Method, r.Detail)
	case FenceFailed:
		return fmt.Sprintf("%s of term %d could not be fenced: %s", r.Node, r.Term, r.Detail)
	case FencePending:
	}
	return fmt.Sprintf("%s of term %d is being fenced", r.Node, r.Term)
}

// ReasonFencing is the reason code of a node whose service waits for a former
// master to be fenced.
const ReasonFencing = "FENCING"

// fenceAgain is the pause before methods that did not help are tried again.
const fenceAgain = 10 * time.Second

// fences is the fencing of a node. Fields are owned by the loop, except below mu.
type fences struct {
	n *Node

	early   *FenceRecord // of the watched value, under way or done; nil: none
	version string       // that value
	cancel  context.CancelFunc

	held  *election.Start // waits for fencing
	drop  context.CancelFunc
	since lease.Instant
	done  []FenceRecord // of the present term
	last  *FenceRecord  // the latest that has ended; never changed once it is here

	mu     sync.Mutex
	now    []FenceRecord // of held, pending or not; never changed, only replaced
	words  map[lease.NodeID]string
	hurry  map[lease.NodeID]context.CancelFunc // ends the present try at a node
	stalls string                              // why held waits, beyond fencing
}

func newFences(n *Node) *fences { return &fences{n: n} }

func (f *fences) target(o election.Silent) FenceTarget {
	return FenceTarget{
		Plane: f.n.Status().Plane, Node: o.Node, Term: o.Term, Incarnation: o.Incarnation,
		URI: f.n.peers.known()[o.Node].URI, By: f.n.opts.Node,
	}
}

// begin powers off the machine of a holder whose lease has not ended (R6b).
func (f *fences) begin(ctx context.Context, a election.Fence) {
	ctx, cancel := context.WithTimeout(ctx, f.n.opts.Fencing.EarlyLimit)
	rec := &FenceRecord{Node: a.Old.Node, Term: a.Old.Term, Outcome: FencePending, Early: true, At: time.Now()}
	f.early, f.version, f.cancel = rec, a.Version, cancel
	t := f.target(a.Old)
	f.n.log.Warn("fencing the silent master before its lease has ended", zap.String("old", string(t.Node)), zap.Uint64("term", uint64(t.Term)))
	f.n.wait.Go(func() {
		defer cancel()
		tries := f.n.opts.Fencing.Fencer.Fence(ctx, t, true)
		over := ctx.Err() != nil
		f.n.onLoop(func(work context.Context) {
			if f.version != a.Version || f.early == nil || f.early.Outcome == FenceDone {
				return // an operator was faster, or the value is no more
			}
			r := *rec
			r.settle(tries)
			if over && !r.Off {
				r.Detail = "no method has confirmed it in time: " + r.Detail
			}
			f.early = &r
			f.ended(r)
			f.n.step(work, election.Fenced{Version: a.Version, Off: r.Off, Why: r.Detail})
		})
	})
}

// end forgets what was done for a value that is no more.
func (f *fences) end(version string) {
	if f.version == version && f.cancel != nil {
		f.cancel()
	}
}

// settle takes over what came of some tries.
func (r *FenceRecord) settle(tries []FenceTry) {
	r.TookMs = time.Since(r.At).Milliseconds()
	r.Outcome = FenceFailed
	var failed []string
	for _, t := range tries {
		if t.OK {
			r.Outcome, r.Method, r.Off, r.Detail = FenceDone, t.Method, t.Off, t.Detail
			return
		}
		failed = append(failed, t.Method+": "+t.Detail)
	}
	r.Detail = strings.Join(failed, "; ")
	if len(failed) == 0 {
		r.Detail = "there is no method to try"
	}
}

// ended keeps and tells of an attempt that has ended.
func (f *fences) ended(r FenceRecord) {
	f.last = &r
	if r.Outcome == FenceDone {
		f.n.log.Info("fenced", zap.String("result", r.Words()))
	} else {
		f.n.log.Warn("not fenced", zap.String("result", r.Words()))
	}
}

// hold keeps the start of a term's service back until whom the term was taken
// from is fenced, and reports whether it does.
func (f *fences) hold(ctx context.Context, a election.Start) bool {
	o := f.n.opts.Fencing
	f.done = nil
	if a.After.Off && f.early != nil && f.early.Node == a.After.Node {
		f.done = append(f.done, *f.early)
	}
	if o == nil || !o.Wait && (a.After.Node == "" || a.After.Off || o.Fencer == nil) {
		return false
	}
	ctx, f.drop = context.WithCancel(ctx)
	f.held, f.since = &a, f.n.opts.Clock()
	f.mu.Lock()
	f.now, f.words, f.hurry, f.stalls = nil, map[lease.NodeID]string{}, map[lease.NodeID]context.CancelFunc{}, ""
	f.mu.Unlock()
	rec := ReignRecord{
		Term: a.Term, Node: f.n.opts.Node, Incarnation: f.n.inc, From: f.n.phases.since,
		Code: f.n.phases.why, Reason: f.n.phases.reason, Phases: f.n.phases.ms,
	}
	f.n.wait.Go(func() { f.run(ctx, a, rec) })
	return true
}

// run fences everybody that has to be, one after the other, and lets the start
// go on.
func (f *fences) run(ctx context.Context, a election.Start, rec ReignRecord) {
	targets, ok := f.whom(ctx, a, rec)
	if !ok {
		return
	}
	for i, t := range targets {
		if !f.one(ctx, i, t) {
			return
		}
	}
	f.n.onLoop(func(context.Context) { f.letGo(a.Term) })
}

// whom lists whom to fence: the holder that fell silent, and whomever a holder
// before it had to fence and did not. With Wait that is on record before
// anything is begun, so that whoever comes after this node knows, too.
func (f *fences) whom(ctx context.Context, a election.Start, rec ReignRecord) ([]FenceTarget, bool) {
	var targets []FenceTarget
	add := func(o election.Silent) {
		for _, t := range targets {
			if t.Node == o.Node {
				return
			}
		}
		targets = append(targets, f.target(o))
		rec.Fencing = append(rec.Fencing, FenceRecord{Node: o.Node, Term: o.Term, Outcome: FencePending, At: time.Now()})
	}
	if a.After.Node != "" && !a.After.Off {
		add(a.After)
	}
	for f.n.opts.Fencing.Wait {
		owed, err := f.n.reigns.unfenced(ctx, a.After.Term)
		if err == nil {
			for _, o := range owed {
				if o.Node != f.n.opts.Node && (o.Node != a.After.Node || !a.After.Off) {
					add(o)
				}
			}
			if len(targets) == 0 {
				break
			}
			if err = f.n.reigns.pended(ctx, rec); err == nil {
				break
			}
		}
		f.stall("the history can not be read or written: " + err.Error())
		if !pause(ctx, f.n.opts.Timing.Heartbeat) {
			return nil, false
		}
	}
	f.stall("")
	f.mu.Lock()
	f.now = rec.Fencing
	f.mu.Unlock()
	return targets, ctx.Err() == nil
}

// one fences one target, and reports whether the start may go on.
func (f *fences) one(ctx context.Context, i int, t FenceTarget) bool {
	o := f.n.opts.Fencing
	f.mu.Lock()
	r := f.now[i]
	f.mu.Unlock()
	r.At = time.Now()
	for ctx.Err() == nil {
		tctx, cancel := context.WithCancel(ctx)
		f.mu.Lock()
		f.hurry[t.Node] = cancel
		f.mu.Unlock()
		var tries []FenceTry
		if o.Fencer != nil && f.word(t.Node) == "" {
			tries = o.Fencer.Fence(tctx, t, false)
		}
		r.settle(tries)
		f.show(i, r, FencePending)
		if o.Wait && r.Outcome != FenceDone && f.word(t.Node) == "" {
			pause(tctx, fenceAgain)
		}
		cancel()
		if actor := f.word(t.Node); actor != "" && r.Outcome != FenceDone {
			r.Outcome, r.Method, r.Actor, r.Detail = FenceDone, MethodOperator, actor, "the machine is powered off, says "+actor
		}
		if r.Outcome == FenceDone || !o.Wait {
			break
		}
	}
	if ctx.Err() != nil {
		return false
	}
	r.TookMs = time.Since(r.At).Milliseconds()
	f.show(i, r, r.Outcome)
	f.n.onLoop(func(context.Context) { f.ended(r) })
	return true
}

// show replaces what is shown of one target.
func (f *fences) show(i int, r FenceRecord, as FenceOutcome) {
	if r.Outcome != FenceDone {
		r.Outcome = as
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	now := append([]FenceRecord{}, f.now...)
	now[i] = r
	f.now = now
}

func (f *fences) stall(why string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stalls = why
}

// word is who has said that a node's machine is off, "" if nobody has.
func (f *fences) word(id lease.NodeID) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.words[id]
}

// letGo starts the service that waited, if its term goes on.
func (f *fences) letGo(t lease.Term) {
	if f.held == nil || f.held.Term != t {
		return
	}
	a := *f.held
	f.mu.Lock()
	f.done = append(f.done, f.now...)
	f.mu.Unlock()
	f.held = nil
	f.drop()
	now := f.n.opts.Clock()
	f.n.phases.fenced(now)
	if r := f.n.machine.View(now).Reign; r != nil && r.Term == t && r.Leading && !r.Ending {
		f.n.launch(a)
	}
}

// stop ends the wait for fencing: the term is over.
func (f *fences) stop(t lease.Term) {
	if f.held != nil && f.held.Term <= t {
		f.held = nil
		f.drop()
	}
}

// FencingStatus is fencing that is under way.
type FencingStatus struct {
	Term   lease.Term // in which the service waits for it; 0: it is early, before a claim
	Since  lease.Instant
	Nodes  []FenceRecord
	Detail string // why it does not go on; empty if it does
}

// status is nil when nothing is under way. version is that of the register.
func (f *fences) status(version string) *FencingStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.held != nil:
		return &FencingStatus{Term: f.held.Term, Since: f.since, Nodes: f.now, Detail: f.stalls}
	case f.early != nil && f.early.Outcome == FencePending && f.version == version:
		return &FencingStatus{Nodes: []FenceRecord{*f.early}}
	}
	return nil
}

// sentence says what the service waits for.
func (s *FencingStatus) sentence() string {
	if s.Detail != "" {
		return "the service waits: " + s.Detail
	}
	var out []string
	for _, r := range s.Nodes {
		if r.Outcome == FencePending {
			w := r.Words()
			if r.Detail != "" {
				w += ", so far in vain: " + r.Detail + "; once its machine is surely powered off: understudy fence confirm " + string(r.Node)
			}
			out = append(out, w)
		}
	}
	return strings.Join(out, "; ")
}

// ConfirmOff takes an operator's word that the machine of a node is powered off
// and stays so. If this node's service waits for that node to be fenced, it
// waits no more; if the register is held by that node and stands still, this
// node need not wait for the end of its lease (R6b). Otherwise it is refused
// (PreconditionError). It is recorded in the history.
func (n *Node) ConfirmOff(ctx context.Context, id lease.NodeID, actor string) error {
	var refused error
	err := n.call(ctx, func(work context.Context) {
		if refused = n.confirmOff(work, id, actor); refused == nil {
			n.log.Warn("an operator says that a machine is powered off", zap.String("old", string(id)), zap.String("actor", actor))
		}
	})
	if err != nil {
		return err
	}
	return refused
}

func (n *Node) confirmOff(work context.Context, id lease.NodeID, actor string) error {
	f, v, now := n.fences, n.machine.View(n.opts.Clock()), n.opts.Clock()
	switch {
	case id == n.opts.Node:
		return refuse("this is node %s itself, so its machine is not powered off; nothing was changed", id)
	case f.held != nil:
		return f.confirm(id, actor)
	case v.Reign != nil:
		return refuse("this node holds term %d and waits for nobody to be fenced; nothing was changed", v.Reign.Term)
	case !v.Held || v.Holder == "":
		return refuse("nobody holds the register: nothing waits for %s; nothing was changed", id)
	case v.Holder != id:
		return refuse("the register is held by %s, not by %s; nothing was changed", v.Holder, id)
	case v.Paused:
		return refuse("the plane is paused: nobody takes over by itself; understudy resume first")
	case !v.Electable:
		return refuse("this node may not take over (%s); ask another with --endpoint, nothing was changed", v.Detail)
	case now.Longest(v.Since) < v.Timing.SuspectAfter():
		return refuse("%s renewed its lease less than %s ago, so it is not powered off; nothing was changed", id, v.Timing.SuspectAfter())
	}
	if f.cancel != nil {
		f.cancel()
	}
	r := FenceRecord{
		Node: id, Term: v.Term, Outcome: FenceDone, Method: MethodOperator, Off: true, Early: true, At: time.Now(), Actor: actor,
		Detail: "the machine is powered off, says " + actor,
	}
	f.early, f.version = &r, v.Version
	f.ended(r)
	n.step(work, election.Fenced{Version: v.Version, Off: true, Why: r.Detail})
	return nil
}

// confirm takes the word for a node that the service waits for.
func (f *fences) confirm(id lease.NodeID, actor string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.now {
		if r.Node == id && r.Outcome == FencePending {
			f.words[id] = actor
			if hurry := f.hurry[id]; hurry != nil {
				hurry()
			}
			return nil
		}
	}
	return refuse("this node does not wait for %s to be fenced; nothing was changed", id)
}

// onLoop hands fn to the loop and does not wait for it.
func (n *Node) onLoop(fn func(context.Context)) {
	select {
	case n.calls <- fn:
	case <-n.done:
	}
}

// pause reports whether d has passed before ctx's end.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
