package v1

import "time"

// State is what a node is.
type State string

// The states.
const (
	StateInitializing State = "INITIALIZING"
	StateStandby      State = "STANDBY"
	StateHotStandby   State = "HOT_STANDBY"
	StateHotBackup    State = "HOT_BACKUP"
	StateMaster       State = "MASTER"
	StateFailed       State = "FAILED"
	StateTerminated   State = "TERMINATED"
)

// Mode is what an operator asks of a node.
type Mode string

// The modes.
const (
	ModeAuto       Mode = "AUTO"
	ModeMaster     Mode = "MASTER"
	ModeStandby    Mode = "STANDBY"
	ModeHotStandby Mode = "HOT_STANDBY"
	ModeHotBackup  Mode = "HOT_BACKUP"
	ModeDisabled   Mode = "DISABLED"
)

// Headers of requests and replies.
const (
	HeaderState          = "X-HA-State"              // the node's State
	HeaderTerm           = "X-HA-Term"               // highest term the node has seen
	HeaderNode           = "X-HA-Node"               // the node's id
	HeaderMaster         = "X-HA-Master"             // URI of the MASTER; empty when none is known
	HeaderLeaseRemaining = "X-HA-Lease-Remaining-Ms" // left of this node's right to serve; 0 without one
	HeaderWarning        = "X-HA-Warning"            // reason codes, comma-separated; left out when there are none

	// HeaderStateSeq is how far the persisted state has come that an answer was
	// taken from, as the number of a transaction.
	HeaderStateSeq = "X-HA-State-Seq"

	// HeaderRestartNeeded of a reload lists the keys that changed and take
	// effect with the next start only, comma-separated.
	HeaderRestartNeeded = "X-HA-Restart-Needed"

	// HeaderForwarded is set by a node on what it forwards to the MASTER, and says
	// for whom. It means nothing from anybody else, but that the request is not
	// forwarded once more.
	HeaderForwarded = "Understudy-Forwarded"

	// HeaderAllowNonMaster with the value "true" lets a write through on a
	// node that is not MASTER. HeaderAllowNonMasterBrooklyn is the same under
	// the name Brooklyn's clients send.
	HeaderAllowNonMaster         = "Understudy-Allow-Non-Master-Access"
	HeaderAllowNonMasterBrooklyn = "Brooklyn-Allow-Non-Master-Access"
)

// PlaneStates is the answer of GET /v1/server/ha/states: the plane as one node
// sees it.
type PlaneStates struct {
	PlaneID  *string           `json:"planeId"`           // null until the register was read
	OwnID    string            `json:"ownId"`             // the answering node
	MasterID *string           `json:"masterId"`          // the node that is MASTER; null when none is known to be
	LeaderID *string           `json:"leaderId"`          // who holds the term, also while its service is still starting
	Term     uint64            `json:"term"`              // highest term seen
	Paused   bool              `json:"paused"`            // automatic moves are off, plane-wide
	Nodes    map[string]Node   `json:"nodes"`             // by node id
	Fencing  []Fencing         `json:"fencing,omitempty"` // what the answering node is doing, or its service waits for; left out when that is nothing
	Links    map[string]string `json:"links"`             // always {}: Brooklyn's clients expect it

	// Left out when there is nothing to say.
	Operations []Operation `json:"operations,omitempty"` // planned, under way or in force
	Flapping   bool        `json:"flapping,omitempty"`   // the mastership moved too often: automatic moves are held until an ack
	FailbackTo string      `json:"failbackTo,omitempty"` // of the master: a node of higher priority could take over
}

// Node is one node of PlaneStates. The first six fields are Brooklyn's.
type Node struct {
	NodeID          string  `json:"nodeId"`
	NodeURI         *string `json:"nodeUri"`
	Status          State   `json:"status"` // FAILED for a node that fell silent
	Priority        *int    `json:"priority"`
	LocalTimestamp  *int64  `json:"localTimestamp"`  // the node's own wall clock at its last record, ms
	RemoteTimestamp *int64  `json:"remoteTimestamp"` // when that record was seen, by the answering node's wall clock, ms

	Version        *string `json:"version"`
	AgeMs          *int64  `json:"ageMs"`     // since the node was last heard of; null if never
	Electable      bool    `json:"electable"` // could be promoted now
	Why            *string `json:"why"`       // why it is not electable or not what it says it is
	StoreLatencyMs *int64  `json:"storeLatencyMs"`

	// StateSeq is how far the node holds the persisted state, as the number of
	// a transaction; left out if it holds none. StateLag is by how many it is behind
	// the register, as the answering node last read it.
	StateSeq *uint64 `json:"stateSeq,omitempty"`
	StateLag *uint64 `json:"stateLag,omitempty"`

	// ServiceFailures is the answering node's own fail count; left out when it
	// is 0, and for others.
	ServiceFailures int `json:"serviceFailures,omitempty"`
}

// StateList is the answer of GET /v1/state.
type StateList struct {
	Seq  uint64     `json:"seq"`  // number of the newest transaction in it
	Keys []StateKey `json:"keys"` // in the order of their bytes
	More bool       `json:"more"` // ask again with after=KEY, the last of these
}

// StateKey is one key of the persisted state.
type StateKey struct {
	Key     string `json:"key"`
	Version uint64 `json:"version"` // number of the transaction that wrote it; its ETag
	Size    int    `json:"size"`    // of the value, bytes
}

// StateChanges is one event of GET /v1/state/watch: what one transaction did.
type StateChanges struct {
	Seq     uint64        `json:"seq"`
	Changes []StateChange `json:"changes"`
}

// StateChange is one key that was written or deleted.
type StateChange struct {
	Key     string `json:"key"`
	Deleted bool   `json:"deleted,omitempty"`
	Value   []byte `json:"value"` // base64; null when it was deleted
}

// ArtifactList is the answer of GET /v1/artifacts.
type ArtifactList struct {
	Artifacts []Artifact `json:"artifacts"` // in the order of their names
}

// Artifact is a large file that the service can have on whichever node is
// MASTER.
type Artifact struct {
	Name   string    `json:"name"`
	SHA256 string    `json:"sha256"` // of the content, 64 hexadecimal digits
	Size   int64     `json:"size"`   // bytes
	Pushed time.Time `json:"pushed"` // wall clock of the MASTER of that time
}

// Imported is the answer of POST /v1/server/ha/persist/import.
type Imported struct {
	Keys      int    `json:"keys"`      // written
	Artifacts int    `json:"artifacts"` // pushed
	Same      int    `json:"same"`      // keys and artifacts that were so already
	Kept      int    `json:"kept"`      // that were changed while the import ran, and stay so
	SHA256    string `json:"sha256"`    // of what the archive holds
}

// StoreLatency is the answer of GET /v1/server/ha/latency: how the store has
// answered this node within the last hour.
type StoreLatency struct {
	Minutes []LatencyMinute `json:"minutes"` // newest first; those without a call are left out
}

// LatencyMinute is one minute.
type LatencyMinute struct {
	From       time.Time                   `json:"from"`       // wall clock
	Operations map[string]OperationLatency `json:"operations"` // by name: read, cas, put …
}

// OperationLatency is of the calls of one operation that ended within a minute,
// however they ended.
type OperationLatency struct {
	Count  uint64  `json:"count"`
	Failed uint64  `json:"failed"` // conflict and absent are answers, not failures
	MeanMs float64 `json:"meanMs"`
	MaxMs  float64 `json:"maxMs"`
}

// Metrics is the answer of GET /v1/server/ha/metrics.
type Metrics struct {
	State            State            `json:"state"`
	Uptime           string           `json:"uptime"` // for people, e.g. "1h2m3s"
	CurrentTimeUTC   int64            `json:"currentTimeUtc"`
	StartTimeUTC     int64            `json:"startTimeUtc"`
	HighAvailability HAMetrics        `json:"highAvailability"`
	Rebind           map[string]int64 `json:"rebind"`
	Persist          PersistMetrics   `json:"persist"`
}

// HAMetrics is part of Metrics. Durations are milliseconds.
type HAMetrics struct {
	Priority         int            `json:"priority"`
	PollPeriod       int64          `json:"pollPeriod"`
	HeartbeatTimeout int64          `json:"heartbeatTimeout"`
	History          []StateChanged `json:"history"` // newest first, at most 200
}

// StateChanged is one change of a node's state.
type StateChanged struct {
	State     State  `json:"state"`
	Timestamp int64  `json:"timestamp"` // Unix milliseconds
	Term      uint64 `json:"term"`
	Reason    string `json:"reason"`
}

// PersistMetrics says how the shared store has answered lately.
type PersistMetrics struct {
	URL         string  `json:"url"`
	Kind        string  `json:"kind"`
	ReadAgeMs   *int64  `json:"readAgeMs"`  // since the last read that succeeded; null if none has
	WriteAgeMs  *int64  `json:"writeAgeMs"` // since the last write that succeeded; null if none has
	LatencyMs   int64   `json:"latencyMs"`  // of the last operation that succeeded
	Error       *string `json:"error"`      // of the last operation; null if it succeeded
	VerifiedCAS bool    `json:"verified"`   // the store's promises were checked from this node
	// StoreRequests is how many requests of each kind this node has sent to the
	// store since it began; where it is not paid for by the request, how often
	// each operation was called.
	StoreRequests map[string]uint64 `json:"storeRequests"`
}

// History is the answer of GET /v1/server/ha/history.
type History struct {
	PlaneID *string `json:"planeId"`
	Reigns  []Reign `json:"reigns"` // newest first, at most 200
}

// Reign is one node's mastership in one term.
type Reign struct {
	Term        uint64     `json:"term"`
	Node        string     `json:"node"`
	Incarnation string     `json:"incarnation"`
	From        time.Time  `json:"from"`
	To          *time.Time `json:"to"`                // null while it lasts or when its end was not observed
	Code        string     `json:"code,omitempty"`    // why it began: birth, released, silent, same-node, named, switchover, failover, step-down, force, rollback
	Reason      string     `json:"reason"`            // the same in words
	EndCode     string     `json:"endCode,omitempty"` // why it ended: an operation's kind, mode, failback, maintenance, shutdown, service-failed, state-failed, promotion, lapsed, fencing-failed, crashed, silent
	EndReason   *string    `json:"endReason"`         // the same in words
	Actor       *string    `json:"actor"`             // who asked for it, when somebody did
	PhasesMs    Phases     `json:"phasesMs"`
	Fencing     []Fencing  `json:"fencing,omitempty"` // what was done to former masters before its service started
}

// Fencing is what was done, or is being done, to make a former master harmless.
type Fencing struct {
	Node      string    `json:"node"`
	Term      uint64    `json:"term"`      // that it held
	Outcome   string    `json:"outcome"`   // pending, fenced, failed
	Method    *string   `json:"method"`    // that succeeded: stepDown, command, ssh, ec2Stop, operator
	Off       bool      `json:"off"`       // its machine is proven to be off
	Early     bool      `json:"early"`     // before its lease had ended
	StartedAt time.Time `json:"startedAt"` // wall clock of the node that fences
	TookMs    int64     `json:"tookMs"`
	Actor     *string   `json:"actor"` // of operator: whose word it was
	Detail    *string   `json:"detail"`
}

// Phases are the milliseconds each part of a take-over took, one after the
// other, measured on the holder's own clock.
type Phases struct {
	Detected int64 `json:"detected"`         // last sight of life to the decision to claim
	Claimed  int64 `json:"claimed"`          // to the register held and read back
	Fenced   int64 `json:"fenced,omitempty"` // to former masters fenced; left out where the service did not wait for that
	Started  int64 `json:"started"`          // to the service's start order
	Ready    int64 `json:"ready"`            // to the service ready
}

// Term is the answer of GET /v1/server/ha/term and /term/check.
type Term struct {
	Term     uint64  `json:"term"`     // highest seen
	HolderID *string `json:"holderId"` // who holds it; null when nobody is known to
}

// UpExtended is the answer of GET /v1/server/up/extended.
type UpExtended struct {
	Up           bool            `json:"up"`
	ShuttingDown bool            `json:"shuttingDown"`
	Healthy      bool            `json:"healthy"`
	HA           PlaneStates     `json:"ha"`
	OSGiUp       bool            `json:"osgiUp"` // always true: Brooklyn's clients wait for it
	Sensitive    SensitiveFields `json:"brooklyn.security.sensitive.fields"`
}

// SensitiveFields tells clients which names mark secrets.
type SensitiveFields struct {
	Tokens           []string `json:"tokens"`
	PlaintextBlocked bool     `json:"plaintext.blocked"`
}

// Version is the answer of GET /v1/server/version.
type Version struct {
	Version     string   `json:"version"`
	BuildSHA1   *string  `json:"buildSha1"`
	BuildBranch *string  `json:"buildBranch"`
	Features    []string `json:"features"`
}

// Access is the answer of GET /v1/access. Understudy provisions nothing.
type Access struct {
	LocationProvisioningAllowed bool              `json:"locationProvisioningAllowed"`
	Links                       map[string]string `json:"links"`
}

// Service is the answer of GET /v1/server/service, and of the POSTs beneath it:
// the managed service of the answering node.
type Service struct {
	// Phase is idle, starting, ready, restarting, stopping, stopped (by an
	// operator), stuck or none.
	Phase    string         `json:"phase"`
	Pid      int            `json:"pid"`      // 0 if it does not run
	GuardPid int            `json:"guardPid"` // 0 if there is no guard
	Since    time.Time      `json:"since"`    // when the phase began
	Restarts int            `json:"restarts"` // in the present term
	Failures int            `json:"failures"` // exits and failed checks since the daemon began or they were reset
	LastExit *ServiceExit   `json:"lastExit"`
	Detail   *string        `json:"detail"`
	Checks   []ServiceCheck `json:"checks"`  // liveness checks
	Standby  *string        `json:"standby"` // phase of the standby command; null: there is none
}

// ServiceExit is the last end of the service's main process.
type ServiceExit struct {
	Code   int       `json:"code"` // 128+n for death by signal n
	Reason string    `json:"reason"`
	At     time.Time `json:"at"`
}

// ServiceCheck is how one liveness check stands.
type ServiceCheck struct {
	Name  string     `json:"name"`
	Kind  string     `json:"kind"`  // http, tcp, file, exec
	Fails int        `json:"fails"` // in a row
	Fall  int        `json:"fall"`  // so many make the service a failed one
	Error *string    `json:"error"` // of the last try; null if it passed
	At    *time.Time `json:"at"`    // of the last try; null if there was none in this run
}

// HealthReport is the body of GET /v1/server/ha/health.
type HealthReport struct {
	State            State   `json:"state"`
	Condition        string  `json:"condition"` // one word: see Conditions in the API document
	NodeID           string  `json:"nodeId"`
	MasterID         *string `json:"masterId"`
	Term             uint64  `json:"term"`
	LeaseRemainingMs int64   `json:"leaseRemainingMs"`
	Why              *string `json:"why"`
	Detail           *string `json:"detail"`
}

// Error is the body of every refusal but 401, which is plain text.
type Error struct {
	Message string `json:"message"`
	Details string `json:"details,omitempty"`
	Code    int    `json:"error"`
}
