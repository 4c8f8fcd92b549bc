package v1

import "time"

// Operation is what an operator asked of the plane, and what has become of it.
type Operation struct {
	ID         string          `json:"id"`    // empty of a dry run
	Kind       string          `json:"kind"`  // switchover, failover, step-down, pause, resume, maintenance, ack
	State      string          `json:"state"` // accepted, scheduled, running, done, failed, rolled-back, cancelled; dry-run
	To         *string         `json:"to"`    // who is to be master; null: not decided yet, or nobody
	Node       *string         `json:"node"`  // whom a maintenance is for
	At         *time.Time      `json:"at"`    // not before
	Until      *time.Time      `json:"until"` // a pause or a maintenance ends by itself
	HoldOffMs  int64           `json:"holdOffMs"`
	Force      bool            `json:"force"`
	Reason     *string         `json:"reason"`
	Actor      *string         `json:"actor"`
	Accepted   time.Time       `json:"accepted"`
	AcceptedBy *string         `json:"acceptedBy"` // the node that took it
	From       *string         `json:"from"`       // the master that was asked to leave
	FromTerm   uint64          `json:"fromTerm"`
	Master     *string         `json:"master"` // who was master when it ended
	Term       uint64          `json:"term"`   // its term; 0 before
	Reasons    []string        `json:"reasons"`
	PhasesMs   OperationPhases `json:"phasesMs"`
	Ended      *time.Time      `json:"ended"` // null while it goes on
}

// OperationPhases are the milliseconds each part of a hand-over took: up to
// released on the old master's clock, the rest on the new one's.
type OperationPhases struct {
	Veto     int64 `json:"veto"`     // the preSwitchover hook
	Drained  int64 `json:"drained"`  // clients had time to notice
	Stopped  int64 `json:"stopped"`  // the service was stopped and proven gone
	Released int64 `json:"released"` // the release was written
	Claimed  int64 `json:"claimed"`  // decision to claim to the register held and read back
	Started  int64 `json:"started"`  // to the service's start order
	Ready    int64 `json:"ready"`    // to the service ready
}

// OperationRequest is the body of the POSTs and PUTs that ask for operations.
// Fields that an operation has no use for must be left out. Durations are
// written as 500ms, 30s or 10m.
type OperationRequest struct {
	To      string     `json:"to,omitempty"`
	At      *time.Time `json:"at,omitempty"`
	Reason  string     `json:"reason,omitempty"`
	DryRun  bool       `json:"dryRun,omitempty"`
	Wait    *bool      `json:"wait,omitempty"`    // false: 202 at once; left out: wait, unless it is planned
	Timeout string     `json:"timeout,omitempty"` // of waiting; then 504, and it goes on. Left out: 2m
	HoldOff string     `json:"holdOff,omitempty"`
	TTL     string     `json:"ttl,omitempty"`
	Force   bool       `json:"force,omitempty"`
}

// Event is something that happened on the plane, as the answering node saw it:
// one event of GET /v1/server/ha/events.
type Event struct {
	Seq       uint64     `json:"seq"` // of the answering node's present run
	At        time.Time  `json:"at"`
	Type      string     `json:"type"` // state, node, holder, paused, operation, notice
	Node      *string    `json:"node"` // whom it is about
	Term      uint64     `json:"term"`
	From      *string    `json:"from"` // a state
	To        *string    `json:"to"`   // a state; of a holder held or released, of paused paused or resumed
	Code      *string    `json:"code"`
	Detail    *string    `json:"detail"`
	Operation *Operation `json:"operation"` // of an event of that type
}
