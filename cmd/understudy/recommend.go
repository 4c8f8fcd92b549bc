package main

import (
	"fmt"
	"time"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/persistence/verify"
	"github.com/understudy-ha/understudy/pkg/election"
)

// operationRoom is how many times the 99th percentile of the slower primitive
// the operation timeout should be: a beat that is given up is a renewal lost,
// and a lease holds few of them.
const operationRoom = 4

// recommendation is the shortest timing that a store of given latency carries.
type recommendation struct {
	Preset           string        `json:"preset,omitempty"` // empty: none fits
	HeartbeatTimeout time.Duration `json:"heartbeatTimeoutNs"`
	OperationTimeout time.Duration `json:"operationTimeoutNs"`
	Heartbeat        time.Duration `json:"heartbeatIntervalNs"`
	Needed           time.Duration `json:"neededOperationTimeoutNs"` // operationRoom times the p99
	NeededBeat       time.Duration `json:"neededHeartbeatNs"`        // twice the p50
}

// recommend finds it by the inequalities of election.Derive, among the presets
// and then among whole seconds.
func recommend(w, r verify.Latency, limits persistence.Limits) recommendation {
	need := max(operationRoom*max(w.P99, r.P99), election.MinOperation)
	beat := max(2*max(w.P50, r.P50), limits.MinBeat)
	request := election.TimingRequest{MinBeat: limits.MinBeat, PollDivisor: limits.PollDivisor}
	made := func(t election.Timing, preset string) recommendation {
		return recommendation{preset, t.Timeout, t.Operation, t.Heartbeat, need, beat}
	}
	for _, preset := range []string{"fast", "default", "wan"} {
		request.Preset = preset
		if t, err := election.Derive(request); err == nil && t.Operation >= need && t.Heartbeat >= beat {
			return made(t, preset)
		}
	}
	// Nothing that is ready-made: the operation timeout and the heartbeat that
	// the store needs, and the shortest lease that holds them.
	request.Preset, request.Operation = "", need.Truncate(time.Second)+time.Second
	request.Heartbeat = max(2*time.Second, limits.MinBeat, request.Operation/2)
	for request.Timeout = time.Minute; request.Timeout < time.Hour; request.Timeout += 15 * time.Second {
		if t, err := election.Derive(request); err == nil {
			return made(t, "")
		}
	}
	return recommendation{Needed: need, NeededBeat: beat}
}

// remedy words the recommendation as settings.
func (r recommendation) remedy() string {
	switch {
	case r.Preset != "":
		return "set ha.preset: " + r.Preset
	case r.HeartbeatTimeout != 0:
		return fmt.Sprintf("set ha.heartbeatTimeout: %s, ha.heartbeatInterval: %s and store.operationTimeout: %s",
			r.HeartbeatTimeout, r.Heartbeat, r.OperationTimeout)
	default:
		return "use another store: no setting makes up for this"
	}
}

// advice words the recommendation as an answer to "which timings?".
func (r recommendation) advice() string {
	need := fmt.Sprintf("an operation should be given %s, four times the p99 of the slower of read and renew", short(r.Needed))
	if r.Needed == election.MinOperation {
		need = fmt.Sprintf("an operation needs no more than the least it is given, %s", r.Needed)
	}
	switch {
	case r.Preset == "fast":
		return fmt.Sprintf("it carries every preset, from ha.preset: fast (heartbeatTimeout %s, operations %s) on; %s. The default (30s) rides out more of a busy store or network",
			r.HeartbeatTimeout, r.OperationTimeout, need)
	case r.Preset != "":
		return fmt.Sprintf("set ha.preset: %s (heartbeatTimeout %s, operations %s) or longer; %s", r.Preset, r.HeartbeatTimeout, r.OperationTimeout, need)
	default:
		return fmt.Sprintf("no preset fits, %s; %s", r.remedy(), need)
	}
}
