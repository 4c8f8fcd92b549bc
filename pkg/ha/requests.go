package ha

import (
	"errors"
	"strings"
	"time"

	"github.com/understudy-ha/understudy/pkg/lease"
)

// ReignRecord is one reign as history tells it. Times are wall clock, for
// people; durations were measured on the holder's own clock.
type ReignRecord struct {
	Term        lease.Term        `json:"term"`
	Node        lease.NodeID      `json:"node"`
	Incarnation lease.Incarnation `json:"incarnation"`
	From        time.Time         `json:"from"`
	To          *time.Time        `json:"to"`                // nil while the reign lasts, or when its end was not observed
	Code        string            `json:"code,omitempty"`    // why it began: one of the Code constants
	Reason      string            `json:"reason"`            // the same in words
	EndCode     string            `json:"endCode,omitempty"` // why it ended: an operation's kind, one of election's End constants, or of those below
	EndReason   string            `json:"endReason,omitempty"`
	Actor       string            `json:"actor,omitempty"` // who asked, when somebody did
	Phases      Phases            `json:"phasesMs"`
	Fencing     []FenceRecord     `json:"fencing,omitempty"` // what was done to former masters before its service started
}

// Why a reign began.
const (
	CodeBirth    = "birth"     // the first of the plane
	CodeReleased = "released"  // the one before let go
	CodeSilent   = "silent"    // the one before fell silent
	CodeSameNode = "same-node" // the one before was a former run of this node
	CodeNamed    = "named"     // the one before made way for this node by itself: failback, maintenance
	CodeRollback = "rollback"  // another node was to take over and did not come
	CodeForce    = "force"     // an operator forced it; otherwise the operation's kind stands here
)

// Why a reign ended that its holder did not end itself.
const (
	EndSilent  = "silent"  // it was heard of no more
	EndCrashed = "crashed" // its process died, and its guard proved the service gone and let go
)

// Phases are the milliseconds each part of a take-over took, from the moment
// the old reign's end could first be suspected.
type Phases struct {
	Detected int64 `json:"detected"`         // from the last sight of life to the decision to claim
	Claimed  int64 `json:"claimed"`          // from there to the register being held and read back
	Fenced   int64 `json:"fenced,omitempty"` // from there to former masters being fenced; 0: the service did not wait for it
	Started  int64 `json:"started"`          // from there to the service's start order
	Ready    int64 `json:"ready"`            // from there to the service being ready
}

// PreconditionError refuses a request and lists every reason.
type PreconditionError struct{ Reasons []string }

func (e *PreconditionError) Error() string { return strings.Join(e.Reasons, "; ") }

// ErrClosed is returned by requests to a node that has ended.
var ErrClosed = errors.New("the node is shutting down")
