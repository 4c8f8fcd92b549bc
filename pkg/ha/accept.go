package ha

import (
	"context"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// OperationRequest is what an operator asks for. What a kind has no use for is
// an error, not ignored.
type OperationRequest struct {
	Kind    OperationKind
	To      lease.NodeID  // of the moves; empty: the best candidate
	Node    lease.NodeID  // of OpMaintenance
	At      time.Time     // of OpSwitchover, wall clock; zero: at once
	TTL     time.Duration // of OpPause and OpMaintenance; 0: until it is ended
	HoldOff time.Duration // of OpStepDown
	Reason  string        // for history and logs: one line
	Actor   string
	Force   bool // skips what speaks against a candidate, never the lease
	DryRun  bool // only says whether it would be taken
}

const (
	maxReason  = 200                  // bytes
	maxAhead   = 366 * 24 * time.Hour // how far ahead a switchover is planned, and how long something may stand
	atLeeway   = time.Minute          // how far in the past a planned time may lie: clocks differ
	maxHoldOff = 24 * time.Hour
)

// validate says what is wrong with the request itself.
func (r OperationRequest) validate(now time.Time) error {
	usage := func(format string, a ...any) error { return &UsageError{fmt.Sprintf(format, a...)} }
	control := func(s string) bool { return strings.IndexFunc(s, unicode.IsControl) >= 0 || !utf8.ValidString(s) }
	switch {
	case r.To != "" && !r.Kind.moves():
		return usage("to: a %s has no target", r.Kind)
	case r.Kind == OpStepDown && r.To != "":
		return usage("to: a step-down goes to the best candidate; use switchover to name one")
	case !r.At.IsZero() && r.Kind != OpSwitchover:
		return usage("at: only a switchover can be planned")
	case !r.At.IsZero() && now.Sub(r.At) > atLeeway:
		return usage("at: %s is in the past; it is %s", r.At.Format(time.RFC3339), now.Format(time.RFC3339))
	case r.At.Sub(now) > maxAhead:
		return usage("at: %s is more than a year ahead", r.At.Format(time.RFC3339))
	case r.TTL < 0 || r.TTL > maxAhead:
		return usage("ttl: %v is not between 0 and a year", r.TTL)
	case r.TTL != 0 && r.Kind != OpPause && r.Kind != OpMaintenance:
		return usage("ttl: a %s does not stand for a while", r.Kind)
	case r.HoldOff != 0 && r.Kind != OpStepDown:
		return usage("holdOff: only a step-down holds the old master off")
	case r.HoldOff < 0 || r.HoldOff > maxHoldOff:
		return usage("holdOff: %v is not between 0 and %v", r.HoldOff, maxHoldOff)
	case len(r.Reason) > maxReason || control(r.Reason):
		return usage("reason: at most %d bytes on one line", maxReason)
	case len(r.Actor) > maxReason || control(r.Actor):
		return usage("the user's name is too long, or not on one line")
	}
	for what, id := range map[string]lease.NodeID{"to": r.To, "node": r.Node} {
		if _, err := lease.ParseNodeID(string(id)); id != "" && err != nil {
			return usage("%s: %v; understudy states lists the nodes", what, err)
		}
	}
	if r.Kind == OpMaintenance && r.Node == "" {
		return usage("node: a maintenance is for one node")
	}
	return nil
}

// Operate takes what an operator asks for and puts it where the master finds
// it; any node may take it. It returns once the request is on the store, not
// when it is carried out: see Await. Errors: *UsageError; *PreconditionError
// with every reason why it would come to nothing; *BusyError when another
// operation moves the mastership; *StoreError; the store's when it may have taken
// the request; ErrClosed; ctx's. With DryRun nothing is written, and the
// operation returned has no id.
func (n *Node) Operate(ctx context.Context, r OperationRequest) (Operation, error) {
	if n.opts.Mode == lease.ModeDisabled {
		return Operation{}, disabledError()
	}
	now := time.Now()
	if err := r.validate(now); err != nil {
		return Operation{}, err
	}
	s := n.Status()
	if err := n.ops.clear(ctx, r); err != nil {
		return Operation{}, err
	}
	if reasons := n.ops.reasons(s, r); len(reasons) > 0 {
		return Operation{}, &PreconditionError{reasons}
	}
	op := Operation{
		Kind: r.Kind, To: r.To, Node: r.Node, HoldOff: r.HoldOff, Force: r.Force, Reason: r.Reason, Actor: r.Actor,
		Accepted: now, By: s.Node, Term: s.Term, State: OpAccepted,
	}
	if !r.At.IsZero() {
		op.At = &r.At
	}
	if r.TTL > 0 {
		until := now.Add(r.TTL)
		op.Until = &until
	}
	if r.DryRun {
		op.State = OpDryRun
		if r.Kind.moves() {
			op.To, _ = n.ops.target(s, op)
		}
		return op, nil
	}
	err := n.ops.submit(ctx, &op)
	return op, err
}

func disabledError() error {
	return &PreconditionError{[]string{"this node was started with mode DISABLED and takes no part in the plane; start it with another mode"}}
}

// submit stores a request and tells the master.
func (o *operations) submit(ctx context.Context, op *Operation) error {
	op.ID = newOperationID(op.Accepted)
	if err := o.put(ctx, requestKey(op.ID), *op); err != nil {
		return fmt.Errorf("the store did not take the request: %w", err)
	}
	o.accepted(*op)
	o.n.chronicle.operation(*op)
	o.tell(ctx)
	return nil
}

// tell has the request found at once, where nodes reach one another: otherwise
// the master finds it with its next look.
func (o *operations) tell(ctx context.Context) {
	o.hurry.Store(true)
	s := o.n.Status()
	if o.n.opts.Nudge == nil || s.Reign != nil {
		return
	}
	uris := o.n.peers.uris()
	if h, ok := o.n.peers.known()[s.Holder]; ok && s.HolderOK && h.URI != "" {
		uris = []string{h.URI}
	}
	if len(uris) > 0 {
		o.n.opts.Nudge(ctx, uris)
	}
}

// clear looks for what is in the way of a request. A resume takes back the
// pauses that stand.
func (o *operations) clear(ctx context.Context, r OperationRequest) error {
	if !r.Kind.moves() && (r.Kind != OpResume || r.DryRun) {
		return nil
	}
	ops, err := o.requests(ctx)
	if err != nil {
		return err
	}
	for _, op := range o.known(ops) {
		switch {
		case r.Kind == OpResume && op.Kind == OpPause:
			if err := o.end(ctx, op, OpDone, "ended by a resume"); err != nil {
				return err
			}
		case r.Kind.moves() && op.Kind.moves() && !op.Lapses:
			if p, err := o.progress(ctx, op.ID); err == nil {
				op = p
			}
			if !op.State.Ended() {
				return &BusyError{op}
			}
		}
	}
	return nil
}

// end takes a request back.
func (o *operations) end(ctx context.Context, op Operation, state OperationState, reason string) error {
	if err := o.remove(ctx, requestKey(op.ID)); err != nil {
		return err
	}
	now := time.Now()
	op.State, op.Reasons, op.Ended = state, []string{reason}, &now
	if err := o.put(ctx, cancelledKey(op.ID), op); err != nil {
		return err
	}
	o.n.chronicle.operation(op)
	return nil
}

// reasons are all that speaks against a request.
func (o *operations) reasons(s *Status, r OperationRequest) []string {
	now := o.n.Now()
	switch r.Kind {
	case OpSwitchover, OpStepDown:
		if holderOf(s) == "" {
			return []string{"there is no master to hand over; understudy failover names who is to be the next one"}
		}
	case OpPause:
		if holderOf(s) == "" {
			return []string{"there is no master to write it down; wait for one"}
		}
		return nil
	case OpMaintenance:
		return o.maintainable(s, r, now)
	case OpResume, OpAck:
		return nil
	case OpFailover:
	}
	if r.Force {
		return nil
	}
	_, reasons := o.target(s, Operation{To: r.To})
	return reasons
}

func (o *operations) maintainable(s *Status, r OperationRequest, now lease.Instant) []string {
	if _, ok := o.plane(s, now)[r.Node]; !ok {
		return []string{fmt.Sprintf("node %s is not known to the plane; understudy states lists those that are", r.Node)}
	}
	if r.Node == holderOf(s) && !r.Force && len(o.candidates(s, now)) == 0 {
		return append([]string{"it is master, and nobody could take over"}, o.nobody(s, now)...)
	}
	return nil
}

// Settled reports whether there is nothing to wait for any more.
func (o *Operation) Settled() bool {
	return o.State.Ended() || o.State == OpRunning && !o.Kind.moves()
}

// Await waits until an operation has ended, or stands, and returns what became
// of it. A context that ends first is its error, with the operation as it was
// last seen.
func (n *Node) Await(ctx context.Context, id string) (Operation, error) {
	pace := 50 * time.Millisecond
	if n.thrifty() {
		pace = n.opts.Timing.Heartbeat
	}
	tick := time.NewTicker(pace)
	defer tick.Stop()
	var last Operation
	for {
		op, err := n.Operation(ctx, id)
		if err == nil {
			last = op
		}
		if err == nil && op.Settled() {
			return op, nil
		}
		select {
		case <-ctx.Done():
			return last, ctx.Err()
		case <-n.done:
			return last, ErrClosed
		case <-tick.C:
		}
	}
}

// Operation returns an operation by its id, read from the store. Errors:
// ErrNoOperation; the store's.
func (n *Node) Operation(ctx context.Context, id string) (Operation, error) {
	if !validOperationID(id) {
		return Operation{}, ErrNoOperation
	}
	p, err := n.ops.progress(ctx, id)
	if err == nil || !isNoOperation(err) {
		return p, err
	}
	op, ok, err := n.ops.request(ctx, requestKey(id))
	if err == nil && !ok {
		err = ErrNoOperation
	}
	return op, err
}

func isNoOperation(err error) bool { return err == ErrNoOperation } //nolint:errorlint // never wrapped

// Planned returns the operation that moves the mastership, or is to: the next
// one where there are several. ErrNoOperation when there is none.
func (n *Node) Planned(ctx context.Context) (Operation, error) {
	ops, err := n.ops.requests(ctx)
	if err != nil {
		return Operation{}, err
	}
	for _, op := range n.ops.known(ops) {
		if !op.Kind.moves() {
			continue
		}
		if p, err := n.ops.progress(ctx, op.ID); err == nil {
			op = p
		}
		if !op.State.Ended() {
			return op, nil
		}
	}
	return Operation{}, ErrNoOperation
}

// CancelPlanned takes back the operation that Planned returns, if nothing has
// moved yet. Errors: ErrNoOperation; *BusyError when it is too late.
func (n *Node) CancelPlanned(ctx context.Context, actor string) (Operation, error) {
	op, err := n.Planned(ctx)
	if err != nil {
		return op, err
	}
	if op.State == OpRunning {
		return op, &BusyError{op}
	}
	if err := n.ops.remove(ctx, requestKey(op.ID)); err != nil {
		return op, err
	}
	if p, err := n.ops.progress(ctx, op.ID); err == nil && p.State == OpRunning {
		return p, &BusyError{p}
	}
	err = n.ops.end(ctx, op, OpCancelled, "cancelled by "+orOperator(actor))
	n.ops.tell(ctx)
	return op, err
}

func orOperator(actor string) string {
	if actor == "" {
		return "an operator"
	}
	return actor
}

// EndMaintenance lets a node be master again, and waits for a few heartbeats
// until it is known to be a candidate. ErrNoOperation when it is not in
// maintenance.
func (n *Node) EndMaintenance(ctx context.Context, id lease.NodeID, actor string) error {
	ops, err := n.ops.requests(ctx)
	if err != nil {
		return err
	}
	found := false
	for _, op := range ops {
		if op.Kind != OpMaintenance || op.Node != id {
			continue
		}
		found = true
		if err := n.ops.end(ctx, op, OpDone, "ended by "+orOperator(actor)); err != nil {
			return err
		}
	}
	if !found {
		return ErrNoOperation
	}
	n.ops.tell(ctx)
	// Whoever moves the mastership there next should not be refused.
	ctx, cancel := context.WithTimeout(ctx, 6*n.opts.Timing.Heartbeat)
	defer cancel()
	_ = n.until(ctx, func(s *Status) bool { return s.Nodes[id].Why != election.ReasonMaintenance }) // it is over either way
	return nil
}
