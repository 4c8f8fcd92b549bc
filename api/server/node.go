package server

import (
	"context"

	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// Node is the running node as the REST interface sees it. Methods may be
// called from any goroutine.
type Node interface {
	// Status returns the newest snapshot, never nil, without waiting.
	Status() *ha.Status
	// Now reads the clock that Status's instants were taken from.
	Now() lease.Instant

	// SetMode asks for a mode and returns the state before, when the change is
	// complete. Errors: *ha.PreconditionError when it would leave the plane
	// without a master and force is false; ha.ErrClosed; ctx's.
	SetMode(ctx context.Context, m lease.Mode, force bool) (lease.State, error)
	// SetPriority sets the election priority and returns the one before.
	SetPriority(ctx context.Context, priority int) (int, error)
	// Forget removes the records of nodes that are TERMINATED or silent: of
	// the one named, or of all when id is empty. The live master is never
	// forgotten, and an id nobody has is not an error.
	Forget(ctx context.Context, id lease.NodeID) error

	// ConfirmOff takes an operator's word that the machine of a node is powered
	// off. Errors: *ha.PreconditionError where that means nothing to this node;
	// ha.ErrClosed; ctx's.
	ConfirmOff(ctx context.Context, id lease.NodeID, actor string) error
	// Operate takes what an operator asks of the plane; Await waits for what
	// comes of it. Operation, Planned, CancelPlanned and EndMaintenance look
	// after what was taken. See package ha for their errors.
	Operate(ctx context.Context, r ha.OperationRequest) (ha.Operation, error)
	Await(ctx context.Context, id string) (ha.Operation, error)
	Operation(ctx context.Context, id string) (ha.Operation, error)
	Planned(ctx context.Context) (ha.Operation, error)
	CancelPlanned(ctx context.Context, actor string) (ha.Operation, error)
	EndMaintenance(ctx context.Context, id lease.NodeID, actor string) error
	// Happened returns the events after a number that are still kept, and a
	// channel that is closed when there are more.
	Happened(after uint64) ([]ha.PlaneEvent, <-chan struct{})

	// Shutdown begins an orderly stop with hand-over and returns at once.
	Shutdown(reason string)
	// Nudge asks for the register to be read soon and returns at once.
	Nudge()
}
