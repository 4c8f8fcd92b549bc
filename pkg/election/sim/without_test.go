package sim

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/pkg/election"
)

var update = flag.Bool("update", false, "rewrite the counter-examples in testdata")

// switches lists, for each rule that can be switched off, what goes wrong then
// and in which profile that shows.
var switches = []struct {
	name     string
	rule     election.Rules
	what     string
	liveness bool
	profile  Profile
}{
	{"R2", election.WithoutR2, "several attempts share one writeId, so a late discovery is credited to the latest of them", false, StaleTwin()},
	{"R3", election.WithoutR3, "the lease is counted from the moment the success became known", false, SlowNews()},
	{"R4", election.WithoutR4, "the right to serve is a flag that nothing takes back", false, Cut()},
	{"R5", election.WithoutR5, "a write without an answer counts as applied", false, Basic()},
	{"R5-reading", election.WithoutR5Reading, "an answer that was lost is waited for, for ever", true, LostReplies()},
	{"R6", election.WithoutR6, "a rival's silence is counted from when its term was first seen", false, Basic()},
	{"R6-gap", election.WithoutR6Gap, "a node that can write but not read claims again and again", true, Mute()},
	{"R6b", election.WithoutR6b, "a power-off that was confirmed counts for what that node writes when it is on again", false, OffAndOn()},
	{"R6b-proof", election.WithoutR6bProof, "fencing that confirmed nothing counts as if it had", false, Unsure()},
	{"R9", election.WithoutR9, "the release does not wait for the end of the service", false, Basic()},
	{"R10-proof", election.WithoutR10Proof, "a restarted node takes it that its former run is gone", false, TwinDisk()},
	{"R10-sticky", election.WithoutStickiness, "a term that had lapsed is renewed and served again", false, Cut()},
	{"R13", election.WithoutR13, "a longer timeout takes effect within the term", false, NewTimeout()},
	{"R15", election.WithoutR15, "a value from before a rollback is taken at its word", false, Restored()},
	{"R17", election.WithoutR17, "the order of candidates forbids instead of delaying", true, Stuck()},
	{"G1", election.WithoutG1, "the service goes on although its guard holds no deadline", false, Basic()},
	{"G2", election.WithoutG2, "the guard starts a service in a term that it has begun to stop", false, LateStart()},
	{"G3", election.WithoutG3, "the guard takes a daemon that is silent for dead, and releases", false, Basic()},
}

const (
	withoutSeeds    = 40
	withoutNodes    = 3
	withoutDuration = 20 * time.Minute
)

// TestWithout switches one rule off at a time: the simulator must find the
// violation that the rule is there to prevent, and none in the same worlds with
// the rule on. One counter-example of each is kept in testdata.
func TestWithout(t *testing.T) {
	for _, x := range switches {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			config := func(seed int, off election.Rules) Config {
				return Config{Seed: uint64(seed), Nodes: withoutNodes, Duration: withoutDuration, Profile: x.profile, Without: off}
			}
			seeds := withoutSeeds
			if testing.Short() {
				seeds = 10
			}
			found, shortest := 0, -1
			var soonest time.Duration
			for seed := range seeds {
				if v := Run(config(seed, 0)).Violation; v != nil {
					t.Errorf("seed %d with every rule on: %v", seed, v)
				}
				if v := Run(config(seed, x.rule)).Violation; v != nil && v.Liveness == x.liveness {
					found++
					if shortest < 0 || v.At < soonest {
						shortest, soonest = seed, v.At
					}
				}
			}
			t.Logf("%d of %d seeds show it", found, seeds)
			if found == 0 {
				t.Fatal("no seed shows what this rule is for")
			}
			file := filepath.Join("testdata", x.name+".txt")
			if *update {
				keep(t, file, x.what, config(shortest, x.rule))
				return
			}
			kept(t, file, x.liveness, func(seed int) Config { return config(seed, x.rule) })
		})
	}
}

// keep writes down the transcript of a run.
func keep(t *testing.T, file, what string, c Config) {
	t.Helper()
	var trace bytes.Buffer
	c.Trace = &trace
	v := Run(c).Violation
	lines := strings.SplitAfter(trace.String(), "\n")
	const most = 120
	var out bytes.Buffer
	fmt.Fprintf(&out, "# Without rule %s: %s.\n", strings.TrimSuffix(filepath.Base(file), ".txt"), what)
	fmt.Fprintf(&out, "# Profile %q, %d nodes. Times are seconds of the world; no node knows them.\n", c.Profile.Name, c.Nodes)
	fmt.Fprintf(&out, "seed %d\nends with a %s\n\n", c.Seed, v)
	if len(lines) > most {
		fmt.Fprintf(&out, "(%d lines left out)\n", len(lines)-most)
		lines = lines[len(lines)-most:]
	}
	out.WriteString(strings.Join(lines, ""))
	if err := os.WriteFile(file, out.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

// kept checks that the kept counter-example still is one.
func kept(t *testing.T, file string, liveness bool, config func(seed int) Config) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v; run go test ./pkg/election/sim -run TestWithout -update", err)
	}
	seed := -1
	for line := range strings.Lines(string(b)) {
		if _, err := fmt.Sscanf(line, "seed %d", &seed); err == nil {
			break
		}
	}
	if seed < 0 {
		t.Fatalf("%s names no seed", file)
	}
	v := Run(config(seed)).Violation
	if v == nil || v.Liveness != liveness {
		t.Fatalf("%s: seed %d gives %v now; run with -update to keep another one", file, seed, v)
	}
	if want := fmt.Sprintf("ends with a %s\n", v); !strings.Contains(string(b), want) {
		t.Errorf("%s: seed %d ends differently now (%v); run with -update", file, seed, v)
	}
}
