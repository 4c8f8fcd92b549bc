package main

import (
	"strings"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/persistence/verify"
	"github.com/understudy-ha/understudy/pkg/election"
)

func TestRecommend(t *testing.T) {
	const ms = time.Millisecond
	for name, tt := range map[string]struct {
		p50, p99, minBeat time.Duration
		preset            string
		words             string
	}{
		"local disk": {ms, 5 * ms, 0, "fast", "set ha.preset: fast"},
		"the edge":   {100 * ms, 125 * ms, 0, "fast", "set ha.preset: fast"},
		"beyond it":  {100 * ms, 126 * ms, 0, "default", "set ha.preset: default"},
		"far away":   {600 * ms, 700 * ms, 0, "wan", "set ha.preset: wan"},
		"rate limit": {10 * ms, 20 * ms, 2 * time.Second, "default", "set ha.preset: default"},
		"very slow":  {2 * time.Second, 3 * time.Second, 0, "", "set ha.heartbeatTimeout: "},
		"hopeless":   {10 * time.Minute, 20 * time.Minute, 0, "", "use another store"},
	} {
		t.Run(name, func(t *testing.T) {
			l := verify.Latency{Count: 100, P50: tt.p50, P99: tt.p99, Max: 2 * tt.p99}
			for _, r := range []recommendation{
				recommend(l, verify.Latency{}, persistence.Limits{MinBeat: tt.minBeat}),
				recommend(verify.Latency{}, l, persistence.Limits{MinBeat: tt.minBeat}),
			} {
				if r.Preset != tt.preset || !strings.HasPrefix(r.remedy(), tt.words) || r.advice() == "" {
					t.Errorf("%+v: %s; %s", r, r.remedy(), r.advice())
				}
				if r.HeartbeatTimeout == 0 {
					continue
				}
				if r.OperationTimeout < operationRoom*tt.p99 || r.Heartbeat < max(2*tt.p50, tt.minBeat) {
					t.Errorf("%+v is not enough", r)
				}
				request := election.TimingRequest{Timeout: r.HeartbeatTimeout, Heartbeat: r.Heartbeat, Operation: r.OperationTimeout, MinBeat: tt.minBeat}
				if _, err := election.Derive(request); err != nil && r.Preset != "fast" { // which sets the stop time as well
					t.Errorf("%s: %v", r.remedy(), err)
				}
			}
		})
	}
}
