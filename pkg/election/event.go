package election

import (
	"time"

	"github.com/understudy-ha/understudy/pkg/lease"
)

// Event is something that happened to the node.
type Event interface{ isEvent() }

// Fault says how a read of the register failed.
type Fault int

// The ways a read can fail. Only FaultAbsent and FaultUnreadable say anything
// about the register; FaultFailed says nothing.
const (
	FaultNone       Fault = iota
	FaultFailed           // no answer, or one that decides nothing
	FaultAbsent           // the location answered and there is no register in it
	FaultUnreadable       // what is there can not be one value
)

type (
	// Tick means: time passed.
	Tick struct{}

	// ReadDone means: a Read action completed.
	ReadDone struct {
		Version string
		Value   []byte
		Fault   Fault
		Detail  string // of a fault, in words
	}

	// WriteDone means: a Write action completed, or a late answer to one arrived.
	// Applied false means undecided, whatever the store said. An action that
	// was dropped because its time was over is reported with Unsent.
	WriteDone struct {
		WriteID lease.WriteID
		Applied bool
		Version string // the new version, when Applied
		Unsent  bool
		Detail  string
	}

	// BirthDone means: a Create action completed.
	BirthDone struct{ Detail string }

	// Listed means: a ListWhole action completed. OK false: the location could not
	// be listed.
	Listed struct {
		OK, Empty bool
		Detail    string
	}

	// Remembered means: a Remember action is durable, or failed.
	Remembered struct {
		Plane  lease.PlaneID
		Term   lease.Term
		Failed string // why it is not durable; empty if it is
	}

	// Armed means: the guard holds the deadline counted from T0.
	Armed struct {
		Term lease.Term
		T0   lease.Instant
	}
	// Ready means: the service runs and its readiness check passed.
	Ready struct{ Term lease.Term }
	// Unready means: the service died or failed its check; it is being restarted here.
	Unready struct{ Term lease.Term }
	// ServiceFailed means: the service can not be kept up here.
	ServiceFailed struct {
		Term lease.Term
		Why  string
	}
	// GuardStopping means: the guard has sent its first stop signal by itself.
	GuardStopping struct {
		Term lease.Term
		Why  string
	}
	// TreeStuck means: the service tree is alive at the end of the right to serve.
	TreeStuck struct {
		Term lease.Term
		Why  string
	}
	// TreeEmpty means: nothing of the term's service tree lives or ever will.
	TreeEmpty struct{ Term lease.Term }
	// GuardLost means: the guard died. TreeEmpty follows when the tree's end is proven.
	GuardLost struct{ Term lease.Term }

	// Fenced means: a Fence action has ended. Off says that the machine of the
	// holder of the value at Version is confirmed to be powered off, by a method
	// that proves it or on an operator's word; it may come unasked (R6b).
	Fenced struct {
		Version string
		Off     bool
		Why     string // how that is known, or why it is not
	}

	// Peers means: the candidates as they are known now, self excluded. Advisory.
	Peers struct {
		Candidates []Candidate
		Prefer     lease.NodeID // an operator wants this one to claim first; empty: no wish
	}
	// Nudged means: somebody says the register has changed; read it now.
	Nudged struct{}
	// Trust means: the store passed verification at this node, or failed it (R18).
	Trust struct {
		OK  bool
		Why string
	}

	// SetMode means: an operator asks for a mode.
	SetMode struct {
		Mode  lease.Mode
		Force bool // also when no other candidate is known
	}
	// SetPriority means: an operator sets this node's priority.
	SetPriority struct{ Priority int }
	// StepDown means: an operator ends this node's reign.
	StepDown struct {
		To      lease.NodeID // the only node meant to claim; empty: any
		HoldOff time.Duration
		Why     string
	}
	// SetMaintenance means: this node is not to be master, for the reason given;
	// it hands over first. An empty reason ends it.
	SetMaintenance struct{ Why string }
	// Moves means: so long ago were the role changes that the master of the plane
	// has counted, oldest first. Advisory.
	Moves struct{ Ages []time.Duration }
	// Ack means: an operator has seen that the mastership moved too often.
	Ack struct{}
	// SetPaused means: automatic moves off or on. The master writes it; on a
	// paused plane without one, whoever claims next takes the pause away.
	SetPaused struct{ Paused bool }
	// SetTimeout means: a new heartbeatTimeout, in force from this node's next term
	// on (R13).
	SetTimeout struct{ Timing Timing }
	// Shutdown means: leave cleanly and end.
	Shutdown struct{ Why string }
)

func (Tick) isEvent()           {}
func (ReadDone) isEvent()       {}
func (WriteDone) isEvent()      {}
func (BirthDone) isEvent()      {}
func (Listed) isEvent()         {}
func (Remembered) isEvent()     {}
func (Armed) isEvent()          {}
func (Ready) isEvent()          {}
func (Unready) isEvent()        {}
func (ServiceFailed) isEvent()  {}
func (GuardStopping) isEvent()  {}
func (TreeStuck) isEvent()      {}
func (TreeEmpty) isEvent()      {}
func (GuardLost) isEvent()      {}
func (Fenced) isEvent()         {}
func (Peers) isEvent()          {}
func (Nudged) isEvent()         {}
func (Trust) isEvent()          {}
func (SetMode) isEvent()        {}
func (SetPriority) isEvent()    {}
func (StepDown) isEvent()       {}
func (SetMaintenance) isEvent() {}
func (Moves) isEvent()          {}
func (Ack) isEvent()            {}
func (SetPaused) isEvent()      {}
func (SetTimeout) isEvent()     {}
func (Shutdown) isEvent()       {}

// Action is something the node is to do. Actions are performed in order, each
// without waiting for the one before to complete.
type Action interface{ isAction() }

type (
	// Read reads the register, within the operation timeout. At most one is
	// under way.
	Read struct{}

	// Write sends one attempt: CAS from the version Old to Value, within the
	// operation timeout. Until limits when its first byte may be sent; after
	// that it is dropped and reported as Unsent. At most one is under way.
	Write struct {
		Old   string
		Value lease.Value
		Until time.Duration // since the Step that returned it; 0: no limit
	}

	// ListWhole asks whether the whole location lists empty (R0).
	ListWhole struct{}
	// Create makes the register (R0).
	Create struct{ Value lease.Value }

	// Remember makes {plane, highest term} durable on the local disk, and with
	// Claim the local record on which a restart may later prove that this run
	// is gone (R10), all before Remembered is reported.
	Remember struct {
		Plane lease.PlaneID
		Term  lease.Term
		Claim bool // this run is about to claim Term
	}

	// Arm hands the guard a deadline (G1): all durations since T0.
	Arm struct {
		Term            lease.Term
		T0              lease.Instant
		Stop, Kill, End time.Duration
	}
	// Start starts the service. It must not happen later than Until after the
	// Step that returned it.
	Start struct {
		Term   lease.Term
		Reason string
		Until  time.Duration
		After  Silent // whom the register was taken from; of no Node: its term was free
	}
	// Stop stops the service of the term for good and has its end proven.
	Stop struct {
		Term lease.Term
		Why  string
	}
	// KillGuard kills guard and service: the guard does not answer (G1).
	KillGuard struct {
		Term lease.Term
		Why  string
	}
	// Fence powers off the machine of Old.Node, which holds the value at Version,
	// by methods that prove it (R6b). Fenced follows, which names Version.
	Fence struct {
		Version string
		Old     Silent
	}
	// CancelFence ends a Fence that is under way: its value is no more.
	CancelFence struct{ Version string }
	// NudgePeers tells the other nodes that the register has changed.
	NudgePeers struct{}
	// Note tells logs, metrics and history of something. It changes nothing.
	Note struct {
		Kind   NoteKind
		Term   lease.Term
		Detail string
		Code   string // of NoteReleased: one of the End constants
	}
	// Quit ends the process with an exit code of config-and-cli.md.
	Quit struct {
		Code   int
		Reason string
	}
)

func (Read) isAction()        {}
func (Write) isAction()       {}
func (ListWhole) isAction()   {}
func (Create) isAction()      {}
func (Remember) isAction()    {}
func (Arm) isAction()         {}
func (Start) isAction()       {}
func (Stop) isAction()        {}
func (KillGuard) isAction()   {}
func (Fence) isAction()       {}
func (CancelFence) isAction() {}
func (NudgePeers) isAction()  {}
func (Note) isAction()        {}
func (Quit) isAction()        {}

// Silent is a holder that fell silent without a release: a run of a node, and
// the term it held.
type Silent struct {
	Node        lease.NodeID
	Term        lease.Term
	Incarnation lease.Incarnation
	Off         bool // its machine was confirmed to be powered off (R6b)
}

// NoteKind names what a Note is about.
type NoteKind string

// The kinds of notes.
const (
	NoteClaiming    NoteKind = "claiming"    // an attempt to take the register was sent
	NoteClaimed     NoteKind = "claimed"     // the register is ours at Term
	NoteClaimLost   NoteKind = "claim-lost"  // somebody else was first
	NoteServing     NoteKind = "serving"     // MASTER by the truth rule
	NoteUnready     NoteKind = "unready"     // the service is being restarted
	NoteDraining    NoteKind = "draining"    // planned end has begun
	NoteStopping    NoteKind = "stopping"    // the service is being stopped
	NoteReleased    NoteKind = "released"    // the release is in the register
	NoteDemoted     NoteKind = "demoted"     // a foreign value follows ours
	NoteLapsed      NoteKind = "lapsed"      // the lease ran down
	NoteLate        NoteKind = "late"        // no renewal confirmed for D/2
	NoteStuck       NoteKind = "stuck"       // FENCING_FAILED
	NoteAlarm       NoteKind = "alarm"       // something that should be impossible
	NoteRollback    NoteKind = "rollback"    // the store went back in time (R15)
	NoteUnreadable  NoteKind = "unreadable"  // REGISTER_UNREADABLE
	NotePlane       NoteKind = "plane"       // another plane's register, or none where one was
	NoteBorn        NoteKind = "born"        // this node made the register
	NoteHolder      NoteKind = "holder"      // the register has a new holder or lost one
	NoteForgetful   NoteKind = "forgetful"   // the local disk does not take what must be remembered
	NoteHeldOff     NoteKind = "held-off"    // not electable for a while
	NoteGuardSilent NoteKind = "guard-quiet" // the guard did not acknowledge a deadline
	NoteFencing     NoteKind = "fencing"     // the silent holder's machine is to be powered off (R6b)
	NoteFenced      NoteKind = "fenced"      // it is confirmed to be off
	NoteUnfenced    NoteKind = "unfenced"    // it is not
	NoteTakeover    NoteKind = "takeover"    // the named successor did not claim in time
	NoteFailback    NoteKind = "failback"    // a better node has been healthy for long enough
	NoteFlapping    NoteKind = "flapping"    // the mastership has moved too often
)
