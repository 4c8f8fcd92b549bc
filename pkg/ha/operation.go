package ha

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/understudy-ha/understudy/pkg/lease"
)

// OperationKind is what an operator may ask of a plane.
type OperationKind string

// The operations.
const (
	// OpSwitchover hands the mastership over, to the node named or to the best.
	OpSwitchover OperationKind = "switchover"
	// OpFailover is for when the master is bad: it is asked to step down, and
	// where there is none the named node claims first. Never before the lease
	// has ended.
	OpFailover OperationKind = "failover"
	// OpStepDown ends the master's reign and holds it off for a while.
	OpStepDown OperationKind = "step-down"
	// OpPause switches automatic moves off, plane-wide. It stands until its
	// time is over or OpResume ends it.
	OpPause  OperationKind = "pause"
	OpResume OperationKind = "resume"
	// OpMaintenance keeps one node from being master. It stands likewise.
	OpMaintenance OperationKind = "maintenance"
	// OpAck says that the plane may move by itself again after it moved too often.
	OpAck OperationKind = "ack"
)

// moves reports whether the operation moves the mastership. Of these a plane
// has one at a time.
func (k OperationKind) moves() bool {
	return k == OpSwitchover || k == OpFailover || k == OpStepDown
}

// OperationState is how far an operation has come.
type OperationState string

// The states; from OpDone on it has ended.
const (
	OpAccepted   OperationState = "accepted"    // on the store; no master has taken it up
	OpScheduled  OperationState = "scheduled"   // for a time to come
	OpRunning    OperationState = "running"     // taken up; a pause or a maintenance is in force
	OpDone       OperationState = "done"        // as it was asked for
	OpFailed     OperationState = "failed"      // nothing has moved; the reasons say why
	OpRolledBack OperationState = "rolled-back" // the target did not come in time and another node took the term
	OpCancelled  OperationState = "cancelled"   // by an operator, before it began
	OpDryRun     OperationState = "dry-run"     // never asked for: it would be taken
)

// Ended reports whether nothing more will come of the operation.
func (s OperationState) Ended() bool {
	return s == OpDone || s == OpFailed || s == OpRolledBack || s == OpCancelled
}

// Operation is what an operator asked for, and what has become of it. It is
// kept in the store, so that any node may take it and any master carry it out.
//
// Times are wall clock: operators plan by it and read it. They decide when an
// operation begins or ends to stand, and nothing that safety rests on.
type Operation struct {
	ID       string        `json:"id"`
	Kind     OperationKind `json:"op"`
	To       lease.NodeID  `json:"to,omitempty"`   // the intended master; empty: the best candidate
	Node     lease.NodeID  `json:"node,omitempty"` // whom a maintenance is for
	At       *time.Time    `json:"at,omitempty"`   // not before; nil: at once
	Until    *time.Time    `json:"until,omitempty"`
	HoldOff  time.Duration `json:"holdOffNs,omitempty"` // of a step-down: the old master is not electable for so long
	Force    bool          `json:"force,omitempty"`
	Reason   string        `json:"reason,omitempty"`
	Actor    string        `json:"actor,omitempty"`
	Accepted time.Time     `json:"accepted"`
	By       lease.NodeID  `json:"acceptedBy,omitempty"` // the node that took it
	Term     lease.Term    `json:"term"`                 // highest seen when it was accepted
	Lapses   bool          `json:"lapses,omitempty"`     // it is for that term only

	State   OperationState  `json:"state"`
	From    lease.NodeID    `json:"from,omitempty"`     // the master that was asked to leave
	OldTerm lease.Term      `json:"fromTerm,omitempty"` // the term it led
	Master  lease.NodeID    `json:"master,omitempty"`   // who was master when it ended
	NewTerm lease.Term      `json:"newTerm,omitempty"`
	Reasons []string        `json:"reasons,omitempty"` // why it failed, was rolled back, or waits
	Phases  OperationPhases `json:"phasesMs"`
	Ended   *time.Time      `json:"ended,omitempty"`
}

// OperationPhases are the milliseconds each part of a hand-over took. The first
// four were measured by the old master, the others by the new one, each on its
// own clock.
type OperationPhases struct {
	Veto     int64 `json:"veto"`     // the preSwitchover hook
	Drained  int64 `json:"drained"`  // clients had time to notice
	Stopped  int64 `json:"stopped"`  // the service was stopped and proven gone
	Released int64 `json:"released"` // the release was written
	Claimed  int64 `json:"claimed"`  // the successor's decision to claim to the register being held and read back
	Started  int64 `json:"started"`  // to the service's start order
	Ready    int64 `json:"ready"`    // to the service being ready
}

// ErrNoOperation means that there is no such operation, or none is planned.
var ErrNoOperation = errors.New("there is no such operation")

// BusyError refuses an operation because of another one.
type BusyError struct{ Other Operation }

func (e *BusyError) Error() string {
	return fmt.Sprintf("operation %s (%s) is %s; wait for it, or cancel it with understudy switchover cancel", e.Other.ID, e.Other.Kind, e.Other.State)
}

// StoreError means that the store did not say what is asked for, or under way.
// Nothing was changed.
type StoreError struct{ Err error }

func (e *StoreError) Error() string {
	return "the store does not say what is under way: " + e.Err.Error() + "; try again once it answers: GET /store"
}

// Unwrap returns the store's own error.
func (e *StoreError) Unwrap() error { return e.Err }

// UsageError says what is wrong with a request.
type UsageError struct{ Reason string }

func (e *UsageError) Error() string { return e.Reason }

const operationPrefix = "operations/"

// newOperationID draws an id; ids sort by the time they were drawn, as far as
// the nodes' clocks agree.
func newOperationID(now time.Time) string {
	return fmt.Sprintf("%012x-%s", now.UnixMilli(), strings.ToLower(rand.Text()[:8]))
}

// validOperationID keeps what clients send from reaching other keys.
func validOperationID(id string) bool {
	if id == "" || len(id) > 64 {
		return false
	}
	for _, c := range id {
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') && c != '-' {
			return false
		}
	}
	return id[0] != '-'
}

func requestKey(id string) string { return requestPrefix + id }

// progressKey is where the holder of a term writes how far it brought an
// operation: each key has one writer.
func progressKey(id string, t lease.Term) string {
	return fmt.Sprintf("%s%s/%012x", operationPrefix, id, uint64(t))
}

// cancelledKey is where the node writes that cancelled it; it sorts last.
func cancelledKey(id string) string { return operationPrefix + id + "/x" }

// parseRequest reads a request. One of an earlier version of this program has
// no id; it is a switchover that lapses with its term.
func parseRequest(key string, b []byte) (Operation, error) {
	var op Operation
	if err := json.Unmarshal(b, &op); err != nil {
		return op, err
	}
	id := strings.TrimPrefix(key, requestPrefix)
	if op.ID == "" {
		op.ID, op.Lapses = id, true
	}
	if op.ID != id {
		return op, fmt.Errorf("it is operation %s", op.ID)
	}
	if op.State == "" {
		op.State = OpAccepted
	}
	return op, nil
}

// merge puts together what several masters wrote of one operation, in the order
// of their terms: the last one knows how it stands.
func merge(parts []Operation) Operation {
	var out Operation
	for _, p := range parts {
		old := out.Phases
		out = p
		for _, f := range []struct{ to, from *int64 }{
			{&out.Phases.Veto, &old.Veto}, {&out.Phases.Drained, &old.Drained}, {&out.Phases.Stopped, &old.Stopped}, {&out.Phases.Released, &old.Released},
		} {
			if *f.to == 0 {
				*f.to = *f.from
			}
		}
	}
	return out
}

// expired reports whether what was to stand for a while does so no more.
func (o *Operation) expired(now time.Time) bool { return o.Until != nil && !now.Before(*o.Until) }

// due reports whether it may begin.
func (o *Operation) due(now time.Time) bool { return o.At == nil || !now.Before(*o.At) }

// why is what history and logs say of it.
func (o *Operation) why() string {
	w := string(o.Kind)
	if o.To != "" {
		w += " to " + string(o.To)
	}
	if o.Actor != "" {
		w += " by " + o.Actor
	}
	if o.Reason != "" {
		w += ": " + o.Reason
	}
	return w
}
