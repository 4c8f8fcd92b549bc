package ha

import (
	"fmt"
	"slices"
	"time"

	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// Status is an immutable picture of a node, replaced whole whenever something
// changes. What depends on the present moment (MASTER by the truth rule, ages)
// is a method that takes the moment; callers must not keep its answer.
type Status struct {
	Plane       lease.PlaneID // empty until the register was read
	Node        lease.NodeID
	Incarnation lease.Incarnation
	URI         string
	Host        string
	Version     string
	Mode        lease.Mode
	Priority    int
	Started     time.Time // wall clock, for people
	Heartbeat   time.Duration
	Timeout     time.Duration
	Poll        time.Duration

	// State is the node's state except that MASTER must be asked for by
	// StateAt; while this node holds a reign, Standing is what it shows
	// whenever the truth rule fails.
	Standing lease.State
	Reign    *ReignStatus // nil unless this node holds a term
	Why      string       // reason code when FAILED or not electable, e.g. STORE_UNREACHABLE; empty otherwise
	Detail   string       // the same in a sentence, with the remedy
	Warnings []string

	Compat    bool // StateAt says MASTER as soon as the term is held
	Electable bool // could be promoted now
	Stopping  bool // shutting down
	Paused    bool // automatic moves are off, plane-wide
	// Moves is how long ago role changes were that nobody asked for and that
	// count against moving by itself again, oldest first.
	Moves    []time.Duration
	Flapping bool // the mastership moved too often: automatic moves are held until an operator's ack
	// Failback is a node of higher priority than this master's that could take
	// over, where the policy cares; empty: none.
	Failback lease.NodeID
	// Operations are those that stand: planned, under way or in force.
	Operations []Operation

	Term     lease.Term   // highest term seen
	Holder   lease.NodeID // who holds the term as last read; empty: nobody
	HolderOK bool         // the register says held and it was seen to change within its lease
	// HolderSeen is when the register was first seen as it stands, on this
	// node's clock; zero if it never was.
	HolderSeen lease.Instant

	Nodes   map[lease.NodeID]NodeStatus // self included
	History []Transition                // this node's states, newest first, at most 200
	Reigns  []ReignRecord               // the plane's reigns as far as known, newest first, at most 200
	Fencing *FencingStatus              // fencing that is under way; nil: none is
	Fenced  *FenceRecord                // the latest by this node that has ended; nil: none has
	Store   StoreStatus
	// Persisted is how the persisted state stands here.
	Persisted StateStatus
	Service   ServiceInfo
	LoopAt    lease.Instant // when the loop last ran
	LateAt    lease.Instant // when a heartbeat was last found to be late; zero if none was
	Counts    Counts
}

// Counts are sums since the process began: they only grow.
type Counts struct {
	// Beats are the attempts to write the register that are confirmed, those
	// that found out late included; Undecided those whose outcome had to be
	// looked for in the register; Unsent those whose time was over first.
	Beats, Undecided, Unsent uint64
	Late                     uint64 // renewals that were not confirmed within half the time to the stop
	Records, RecordsFailed   uint64 // records of this node that reached the store, or did not
	Restarts                 uint64 // of the service, on this node
	Commits                  uint64 // of the persisted state, by this node
	Backups, BackupsFailed   uint64 // of the persisted state, that this node made or could not make
	// Changes of this node's state. A published map is never changed.
	Changes map[Change]uint64
}

// Change is a kind of transition: where to, and why by reason code.
type Change struct {
	To   lease.State
	Code string // one of the Changed constants, or the code of a FAILED node
}

// Why a node's state changed, where it did not fail.
const (
	ChangedStarted   = "STARTED"           // the process began, or begins anew
	ChangedFollows   = "FOLLOWS"           // it sees the plane and could take over, or stands back
	ChangedSilent    = "HOLDER_SILENT"     // it is MASTER: the one before fell silent
	ChangedReleased  = "RELEASED"          // it is MASTER: the one before let go
	ChangedAlone     = "DISABLED"          // it is MASTER without a plane
	ChangedRestart   = "SERVICE_RESTART"   // it is MASTER no more until its service is back
	ChangedRecovered = "SERVICE_RECOVERED" // it is MASTER again in the same term
	ChangedLeft      = "STEPPED_DOWN"      // it gave the term up
	ChangedStopped   = "STOPPED"           // it left the plane
)

// ReignStatus is this node's hold on the mastership.
type ReignStatus struct {
	Term    lease.Term
	T0      lease.Instant // start of the last renewal that is confirmed and acknowledged by the guard
	End     time.Duration // end of the right to serve, since T0
	Late    time.Duration // since T0: from then on the heartbeat is late; 0: never
	Ready   bool          // the service runs and is ready, and nothing has begun to end the reign
	Leading bool          // the term is held and renewed (the service may be starting, or draining)
	Ending  bool          // its end has begun, planned or not
	Since   time.Time
}

// Serving is the truth rule: the term is held, this node's own clock is before
// the end of its right to serve, the service is ready and not draining.
func (s *Status) Serving(now lease.Instant) bool {
	return s.Leading(now) && s.Reign.Ready
}

// Leading reports whether the node holds the term with its lease ahead; the
// service may still be starting or restarting.
func (s *Status) Leading(now lease.Instant) bool {
	return s.Reign != nil && s.Reign.Leading && now.Longest(s.Reign.T0) < s.Reign.End
}

// LeaseRemaining is the time left of the right to serve, 0 when there is none.
func (s *Status) LeaseRemaining(now lease.Instant) time.Duration {
	if !s.Leading(now) {
		return 0
	}
	return s.Reign.End - now.Longest(s.Reign.T0)
}

// CodeLate is the reason code of a heartbeat that is or was late: no renewal
// was confirmed within half the time to the stop of the service.
const CodeLate = "HEARTBEAT_LATE"

// CodeBackup is the code of the warning that a backup could not be made.
const CodeBackup = "BACKUP_FAILED"

// WarningsAt are the Warnings and what is to be said of the given moment. A
// heartbeat that was late is told of for one heartbeatTimeout, so that whoever
// asks now and then hears of it, too.
func (s *Status) WarningsAt(now lease.Instant) []string {
	r, warnings := s.Reign, slices.Clip(s.Warnings)
	if why := s.Persisted.Backup; why != "" {
		warnings = append(warnings, CodeBackup+": the last backup of the persisted state could not be made: "+why+". Nothing else is affected; look at the store")
	}
	switch {
	case s.Leading(now) && r.Late > 0 && now.Longest(r.T0) >= r.Late:
		return append(warnings, fmt.Sprintf(
			"%s: no renewal confirmed for %v; %v are left to serve. Look at the store and at the load of this machine",
			CodeLate, now.Longest(r.T0).Truncate(time.Millisecond), s.LeaseRemaining(now).Truncate(time.Millisecond)))
	case !s.LateAt.IsZero() && now.Longest(s.LateAt) < s.Timeout:
		return append(warnings, fmt.Sprintf(
			"%s: a renewal was not confirmed in time %v ago. Look at the store and at the load of this machine",
			CodeLate, now.Longest(s.LateAt).Truncate(time.Second)))
	}
	return warnings
}

// StateAt is the node's state at the given moment, by the truth rule.
func (s *Status) StateAt(now lease.Instant) lease.State {
	switch {
	case s.Serving(now), s.Compat && s.Leading(now):
		return lease.StateMaster
	case s.Reign != nil && s.Reign.Leading && !s.Leading(now):
		// The lease ran down and nobody told us yet: the loop is stuck.
		return lease.StateFailed
	}
	return s.Standing
}

// NodeStatus is what this node knows of a node of its plane (itself included).
type NodeStatus struct {
	lease.NodeRecord
	SeenAt   lease.Instant // own clock: when its record was last seen to change
	AgeAtRef time.Duration // how old the record was at SeenAt, as the master measured it
	Lag      time.Duration // how much older than it is the record of a living node may look here
}

// Age is how long ago the node's record last changed, by this node's clock.
func (n NodeStatus) Age(now lease.Instant) time.Duration {
	return n.AgeAtRef + now.Longest(n.SeenAt)
}

// WasSeen reports whether the record was ever seen to change. Otherwise its
// writer counts as silent and Age means nothing.
func (n NodeStatus) WasSeen() bool { return !n.SeenAt.IsZero() && n.AgeAtRef < neverSeen }

// Fresh reports whether the node was heard of within three of its announced
// intervals and Lag, or within the given timeout if that is longer.
func (n NodeStatus) Fresh(now lease.Instant, timeout time.Duration) bool {
	// A wrong interval must not keep a dead node alive.
	interval := min(time.Duration(n.IntervalMs)*time.Millisecond, election.MaxStandbyHeartbeat)
	return n.Age(now) < max(3*interval+n.Lag, timeout)
}

// Transition is one change of a node's state.
type Transition struct {
	State  lease.State
	Term   lease.Term
	Code   string // why: see Change
	Reason string
	At     time.Time // wall clock
}

// StoreStatus is how the shared store has answered lately.
type StoreStatus struct {
	URL       string
	Kind      string
	LastRead  lease.Instant // completion of the last read that succeeded; zero if none
	LastWrite lease.Instant // completion of the last write that succeeded; zero if none
	Latency   time.Duration // of the last operation that succeeded
	Error     string        // of the last operation, empty if it succeeded
	Verified  bool          // store verify passed for this location at this node
}
