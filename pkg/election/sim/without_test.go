package sim

import (
	"testing"
	"time"

	"github.com/understudy-ha/understudy/pkg/election"
)

// switches lists, for each rule that can be switched off, where to look for
// what then goes wrong.
var switches = []struct {
	name     string
	rule     election.Rules
	liveness bool
	profile  Profile
}{
	{"R2", election.WithoutR2, false, StaleTwin()},
	{"R3", election.WithoutR3, false, SlowNews()},
	{"R4", election.WithoutR4, false, Cut()},
	{"R5", election.WithoutR5, false, Basic()},
	{"R5-reading", election.WithoutR5Reading, true, LostReplies()},
	{"R6", election.WithoutR6, false, Basic()},
	{"R6-gap", election.WithoutR6Gap, true, Mute()},
	{"R9", election.WithoutR9, false, Basic()},
	{"R10-proof", election.WithoutR10Proof, false, TwinDisk()},
	{"R10-sticky", election.WithoutStickiness, false, Cut()},
	{"R13", election.WithoutR13, false, NewTimeout()},
	{"R15", election.WithoutR15, false, Restored()},
	{"R17", election.WithoutR17, true, Stuck()},
	{"G1", election.WithoutG1, false, Basic()},
	{"G2", election.WithoutG2, false, LateStart()},
	{"G3", election.WithoutG3, false, Basic()},
}

func TestProbe(t *testing.T) {
	for _, x := range switches {
		saf, liv, on := 0, 0, 0
		var first, ons string
		for s := range 40 {
			c := Config{Seed: uint64(s), Nodes: 3, Duration: 10 * time.Minute, Profile: x.profile, Without: x.rule}
			if v := Run(c).Violation; v != nil {
				if v.Liveness {
					liv++
				} else {
					saf++
				}
				if first == "" {
					first = v.String()
				}
			}
			c.Without = 0
			if v := Run(c).Violation; v != nil {
				on++
				if ons == "" { ons = v.String() }
			}
		}
		t.Logf("%-10s safety %d liveness %d, on %d %s || %s", x.name, saf, liv, on, first, ons)
	}
}
