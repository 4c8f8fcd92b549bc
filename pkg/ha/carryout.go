package ha

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// carryOut is the master's part: it takes up what is asked for, oldest first.
// Of the operations that move the mastership one is under way at a time.
func (o *operations) carryOut(ctx context.Context, ops []Operation) error {
	s := o.n.Status()
	if s.Reign == nil {
		return nil
	}
	errs := []error{o.sweep(ctx, s.Term)}
	moving := false
	for _, op := range ops {
		var err error
		switch op.Kind {
		case OpAck:
			o.n.send(election.Ack{})
			err = o.finish(ctx, s, op, OpDone)
		case OpResume:
			err = o.resume(ctx, s, op)
		case OpPause:
			err = o.pause(ctx, s, op)
		case OpMaintenance:
			err = o.maintain(ctx, s, op)
		case OpSwitchover, OpFailover, OpStepDown:
			if moving && op.due(time.Now()) {
				continue
			}
			var waits bool
			waits, err = o.move(ctx, s, op)
			moving = moving || !waits
		default:
			err = o.finish(ctx, s, op, OpFailed, fmt.Sprintf("this version of understudy knows no operation %q", op.Kind))
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// finish ends an operation: what became of it is written first.
func (o *operations) finish(ctx context.Context, s *Status, op Operation, state OperationState, reasons ...string) error {
	now := time.Now()
	op.State, op.Reasons, op.Ended = state, reasons, &now
	op.Master, op.NewTerm = s.Node, s.Term
	if err := o.advance(ctx, s.Term, op); err != nil {
		return err
	}
	return o.remove(ctx, requestKey(op.ID))
}

// inForce notes that what is to stand for a while does so.
func (o *operations) inForce(ctx context.Context, s *Status, op Operation) error {
	o.mu.Lock()
	p, ok := o.parts[op.ID]
	o.mu.Unlock()
	if ok && p.State == OpRunning {
		return nil
	}
	op.State = OpRunning
	return o.advance(ctx, s.Term, op)
}

func (o *operations) resume(ctx context.Context, s *Status, op Operation) error {
	if s.Paused {
		o.n.send(election.SetPaused{})
		o.hurry.Store(true) // to see that it is so
		return nil
	}
	return o.finish(ctx, s, op, OpDone)
}

func (o *operations) pause(ctx context.Context, s *Status, op Operation) error {
	switch {
	case op.expired(time.Now()) && s.Paused:
		o.n.send(election.SetPaused{})
		o.hurry.Store(true)
		return nil
	case op.expired(time.Now()):
		return o.finish(ctx, s, op, OpDone, "its time is over")
	case !s.Paused:
		o.n.send(election.SetPaused{Paused: true})
		o.hurry.Store(true)
		return nil
	}
	return o.inForce(ctx, s, op)
}

// maintain lets a maintenance end, and notes when it is in force: each node
// keeps itself from claiming and says so.
func (o *operations) maintain(ctx context.Context, s *Status, op Operation) error {
	if op.expired(time.Now()) {
		return o.finish(ctx, s, op, OpDone, "its time is over")
	}
	ns, ok := o.n.peers.known()[op.Node]
	heeded := ok && (ns.Why == election.ReasonMaintenance || !ns.Fresh(o.n.Now(), 0))
	if !heeded && op.Node != s.Node {
		return nil
	}
	if op.Node == s.Node { // in force once this node is master no more
		return nil
	}
	return o.inForce(ctx, s, op)
}

// move brings an operation on that moves the mastership. It waits if it is for
// a time to come.
func (o *operations) move(ctx context.Context, s *Status, op Operation) (waits bool, err error) {
	p, err := o.progress(ctx, op.ID)
	if errors.Is(err, ErrNoOperation) {
		p, err = op, nil
	}
	if err != nil {
		return false, err
	}
	switch {
	case p.State.Ended(): // and the request's removal failed
		return false, o.remove(ctx, requestKey(op.ID))
	case p.State == OpRunning && p.OldTerm < s.Term:
		return false, o.settle(ctx, s, p)
	case p.State == OpRunning:
		o.stepDown(p)
		return false, nil
	case !op.due(time.Now()):
		if p.State != OpScheduled {
			op.State = OpScheduled
			err = o.advance(ctx, s.Term, op)
		}
		return true, err
	case op.Lapses && op.Term != s.Term:
		return false, o.finish(ctx, s, op, OpFailed, fmt.Sprintf("it was for term %d, which is over", op.Term))
	case op.To == s.Node, op.To == "" && op.At == nil && op.Term < s.Term:
		// Without a master the next claimant finds what it was to bring about.
		return false, o.settle(ctx, s, op)
	}
	return false, o.begin(ctx, s, op)
}

// begin ends this node's reign in favour of another. That it has begun is
// written first, so that the successor can settle it.
func (o *operations) begin(ctx context.Context, s *Status, op Operation) error {
	to, reasons := o.target(s, op)
	if len(reasons) > 0 && !op.Force && time.Since(s.Reign.Since) < 4*o.n.opts.Timing.Heartbeat {
		return nil // a master that has just begun may not have heard of the others yet
	}
	if len(reasons) > 0 && !op.Force {
		return o.finish(ctx, s, op, OpFailed, reasons...)
	}
	op.To = to
	if veto := o.n.opts.PreSwitchover; veto != nil && !op.Force {
		from := o.n.Now()
		if err := veto(ctx, s.Term, op.To, op.why()); err != nil {
			return o.finish(ctx, s, op, OpFailed, err.Error())
		}
		op.Phases.Veto = o.n.Now().Longest(from).Milliseconds()
	}
	if o.cancelled(ctx, op.ID) {
		return nil
	}
	op.State, op.From, op.OldTerm = OpRunning, s.Node, s.Term
	if err := o.advance(ctx, s.Term, op); err != nil {
		return err
	}
	o.stepDown(op)
	return nil
}

// cancelled reports whether the request was taken back since it was listed.
func (o *operations) cancelled(ctx context.Context, id string) bool {
	o.mu.Lock()
	delete(o.cache, id)
	o.mu.Unlock()
	_, ok, err := o.request(ctx, requestKey(id))
	return err == nil && !ok
}

func (o *operations) stepDown(p Operation) {
	o.mu.Lock()
	o.sending = p.ID
	o.mu.Unlock()
	o.n.send(election.StepDown{To: p.To, HoldOff: p.HoldOff, Why: p.why()})
}

// settle ends an operation that another master began, or nobody, once this one
// serves.
func (o *operations) settle(ctx context.Context, s *Status, p Operation) error {
	if !s.Serving(o.n.Now()) {
		return nil // the next round comes when it does, or with the next master
	}
	state, reasons := OpDone, []string(nil)
	if p.To != "" && p.To != s.Node {
		state = OpRolledBack
		who := "node " + string(s.Node) + " did"
		if p.From == s.Node {
			who = "the old master is master again"
		}
		reasons = []string{fmt.Sprintf("%s did not take the mastership within %v; %s. Look at its log, then try again", p.To, o.n.opts.Timing.Takeover, who)}
	}
	if r, ok := o.n.reigns.own(s.Term); ok && (p.OldTerm == 0 || p.OldTerm < s.Term) {
		p.Phases = OperationPhases{Claimed: r.Phases.Claimed, Started: r.Phases.Started, Ready: r.Phases.Ready}
	}
	if err := o.finish(ctx, s, p, state, reasons...); err != nil {
		return err
	}
	code := string(p.Kind)
	switch {
	case state == OpRolledBack:
		code = CodeRollback
	case p.Force:
		code = CodeForce
	}
	o.n.reigns.attribute(s.Term, code, p.Actor)
	return nil
}

// target is the node that an operation is to make master, and what speaks
// against it.
func (o *operations) target(s *Status, op Operation) (lease.NodeID, []string) {
	now := o.n.Now()
	if op.To != "" {
		return op.To, o.unfit(s, op.To, now)
	}
	cs := o.candidates(s, now)
	if len(cs) == 0 {
		return "", o.nobody(s, now)
	}
	election.Order(cs)
	return cs[0].Node, nil
}

// plane is what is known of all nodes, this one included.
func (o *operations) plane(s *Status, now lease.Instant) map[lease.NodeID]NodeStatus {
	all := map[lease.NodeID]NodeStatus{s.Node: {NodeRecord: o.n.recorder.record(s, now), SeenAt: now}}
	for id, ns := range o.n.peers.known() {
		if id != s.Node {
			all[id] = ns
		}
	}
	return all
}

// candidates are the nodes that could be master next.
func (o *operations) candidates(s *Status, now lease.Instant) []election.Candidate {
	var cs []election.Candidate
	for id, ns := range o.plane(s, now) {
		if id != holderOf(s) && candidate(ns, now) {
			cs = append(cs, election.Candidate{Node: id, Priority: ns.Priority, Version: ns.Version, State: ns.State})
		}
	}
	return cs
}

// holderOf is who leads the term, this node included; empty: nobody. One whose
// reign is over leads nothing, although the register may still name it.
func holderOf(s *Status) lease.NodeID {
	switch {
	case s.Reign != nil && !s.Reign.Leading:
		return ""
	case s.Reign != nil:
		return s.Node
	case s.HolderOK:
		return s.Holder
	}
	return ""
}

// unfit says why a node can not be the next master; nil if it can.
func (o *operations) unfit(s *Status, id lease.NodeID, now lease.Instant) []string {
	all := o.plane(s, now)
	ns, ok := all[id]
	switch {
	case !ok:
		return []string{fmt.Sprintf("node %s is not known to the plane; understudy states lists those that are", id)}
	case id == holderOf(s):
		return []string{fmt.Sprintf("node %s is master already", id)}
	case candidate(ns, now):
		return nil
	}
	return []string{unfitWords(id, ns, now)}
}

func unfitWords(id lease.NodeID, ns NodeStatus, now lease.Instant) string {
	switch {
	case ns.State == lease.StateTerminated:
		return fmt.Sprintf("%s was stopped", id)
	case !ns.Fresh(now, 0):
		return fmt.Sprintf("%s is silent", id)
	case ns.Electable:
		return fmt.Sprintf("%s is %s", id, ns.State)
	}
	return fmt.Sprintf("%s is %s and not electable: %s", id, ns.State, cmp.Or(ns.Why, "it does not say why"))
}

// nobody says of each node why it can not be the next master.
func (o *operations) nobody(s *Status, now lease.Instant) []string {
	all := o.plane(s, now)
	var reasons []string
	for _, id := range slices.Sorted(maps.Keys(all)) {
		if id != holderOf(s) {
			reasons = append(reasons, unfitWords(id, all[id], now))
		}
	}
	if len(reasons) == 0 {
		return []string{"no other node is known"}
	}
	return reasons
}

// log says that an operation was taken.
func (o *operations) accepted(op Operation) {
	o.n.log.Info("operation accepted", zap.String("id", op.ID), zap.String("kind", string(op.Kind)),
		zap.String("to", string(op.To)), zap.String("actor", op.Actor), zap.String("reason", op.Reason))
}
