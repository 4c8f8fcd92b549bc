package hook

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/understudy-ha/understudy/pkg/lease"
)

// Event is a turning point at which a command may run.
type Event string

// The events.
const (
	PreSwitchover   Event = "preSwitchover"   // the mastership is to be moved from here on request, the service runs; may veto
	PrePromote      Event = "prePromote"      // the term is won, the service does not run yet; may veto
	PostPromote     Event = "postPromote"     // the node is MASTER, once per term
	PreDemote       Event = "preDemote"       // a planned end of a term begins, the service still runs
	PostDemote      Event = "postDemote"      // a term in which prePromote or the service was begun is over, nothing of it is alive
	OnRoleChange    Event = "onRoleChange"    // the node's state changed
	OnFence         Event = "onFence"         // this node has fenced a former master, or failed to
	OnFencingFailed Event = "onFencingFailed" // the service can not be stopped
	OnAddressFailed Event = "onAddressFailed" // the Elastic IP address can not be made to lead here
	OnStoreLost     Event = "onStoreLost"     // the store does not answer any more
	OnStoreBack     Event = "onStoreBack"     // it does again
)

// GuardStop is the event of the one hook that does not pass through a Queue: the
// daemon has died, the service is proven gone, the release is not written yet.
// The guard runs it by itself, see guard.Finals.
const GuardStop Event = "guardStop"

// Events lists all other events, of a hand-over and then in the order of a reign.
func Events() []Event {
	return []Event{PreSwitchover, PrePromote, PostPromote, PreDemote, PostDemote, OnRoleChange, OnFence, OnFencingFailed, OnAddressFailed, OnStoreLost, OnStoreBack}
}

// Bound reports whether the event's hook belongs to a term: only the guard
// starts it, and it is over with the term (G2).
func (e Event) Bound() bool {
	return slices.Contains([]Event{PreSwitchover, PrePromote, PostPromote, PreDemote}, e)
}

// Hook is the command of one event. Without a Command there is none.
type Hook struct {
	Command []string // exec form
	Timeout time.Duration
}

// Facts are what a hook is told, as of the moment of its event: as HA_
// variables and, in this form, on its standard input.
type Facts struct {
	Event     Event        `json:"event"`
	Seq       uint64       `json:"seq"`
	Plane     string       `json:"plane"`
	Node      string       `json:"node"`
	State     lease.State  `json:"state"`     // of this node; of prePromote and preDemote the one that is being left
	PrevState lease.State  `json:"prevState"` // the one before
	Term      lease.Term   `json:"term"`      // the one it belongs to, else the highest seen
	Token     lease.Term   `json:"token"`     // the fencing token: the term (R16)
	Master    lease.NodeID `json:"master"`    // holder of the term; empty: nobody
	MasterURI string       `json:"masterUri"`
	Reason    string       `json:"reason"`       // one line for people
	To        lease.NodeID `json:"to,omitempty"` // of preSwitchover: who is to be master next
	LeaseFile string       `json:"leaseFile,omitempty"`
	At        time.Time    `json:"at"`             // wall clock
	Test      bool         `json:"test,omitempty"` // nothing happened: an operator tries the hook
}

// Environ is base with the HA_ variables of the facts; base's own are dropped,
// and so is what only a daemon may have.
func (f Facts) Environ(base []string) []string {
	var env []string
	for _, kv := range base {
		name, _, _ := strings.Cut(kv, "=")
		if name != "NOTIFY_SOCKET" && !strings.HasPrefix(name, "UNDERSTUDY_") && !strings.HasPrefix(name, "HA_") {
			env = append(env, kv)
		}
	}
	return append(env,
		"HA_EVENT="+string(f.Event),
		"HA_SEQ="+strconv.FormatUint(f.Seq, 10),
		"HA_PLANE="+f.Plane,
		"HA_NODE="+f.Node,
		"HA_STATE="+string(f.State),
		"HA_PREV_STATE="+string(f.PrevState),
		"HA_TERM="+strconv.FormatUint(uint64(f.Term), 10),
		"HA_TOKEN="+strconv.FormatUint(uint64(f.Token), 10),
		"HA_MASTER="+string(f.Master),
		"HA_MASTER_URI="+f.MasterURI,
		"HA_REASON="+f.Reason,
		"HA_TO="+string(f.To),
		"HA_LEASE_FILE="+f.LeaseFile,
	)
}

// Stdin is the facts as one line of JSON.
func (f Facts) Stdin() []byte {
	b, err := json.Marshal(f)
	if err != nil {
		return nil // plain values only: can not happen
	}
	return append(b, '\n')
}

// Outcome is how a hook ended.
type Outcome string

// The outcomes.
const (
	OK          Outcome = "ok"          // exit code 0
	Failed      Outcome = "failed"      // another, or it could not be executed
	TimedOut    Outcome = "timeout"     // killed for its timeout
	Refused     Outcome = "refused"     // not started: its term was over
	Stuck       Outcome = "stuck"       // something of it survives SIGKILL
	Dropped     Outcome = "dropped"     // not started: too many waited, or the daemon ended
	Running     Outcome = "running"     // not ended yet
	Interrupted Outcome = "interrupted" // the daemon ended before it
)

// Outcomes lists those of hooks whose turn has come and gone.
func Outcomes() []Outcome { return []Outcome{OK, Failed, TimedOut, Refused, Stuck, Dropped} }

// Result is one run of a hook.
type Result struct {
	Seq     uint64        `json:"seq"` // 0 of those dropped
	Event   Event         `json:"event"`
	Term    lease.Term    `json:"term"`
	At      time.Time     `json:"at"` // it began, wall clock
	Took    time.Duration `json:"tookNs"`
	Outcome Outcome       `json:"outcome"`
	Exit    int           `json:"exit"` // -1 if unknown
	Why     string        `json:"why,omitempty"`
	Output  string        `json:"output,omitempty"` // the end of it
}

// Words says how a hook ended, for messages and tables.
func (r Result) Words() string {
	var w string
	switch r.Outcome {
	case OK, Running, Interrupted:
		return string(r.Outcome)
	case TimedOut:
		w = "timeout after " + r.Took.Round(time.Millisecond).String()
	case Failed:
		w = "exit code " + strconv.Itoa(r.Exit)
		if r.Why != "" {
			w = r.Why
		}
	case Refused, Stuck, Dropped:
		return string(r.Outcome) + ": " + r.Why
	}
	if said := strings.Join(strings.Fields(r.Output), " "); said != "" {
		w += ": " + said[max(0, len(said)-maxWords):]
	}
	return w
}

// maxWords bounds the output that is quoted in messages, in bytes.
const maxWords = 200
