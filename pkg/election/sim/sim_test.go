package sim

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/pkg/election"
)

// TestSeeds runs whole planes for an hour each under every kind of fault. It
// is told what to run by the environment:
//
//	SIM_SEEDS=n    that many seeds instead of 300
//	SIM_MINUTES=m  of so many simulated minutes each instead of 60, at least 10
//	SIM_SEED=s     only this one, with its trace on standard output
func TestSeeds(t *testing.T) {
	number := func(name string, otherwise, least int) int {
		v := os.Getenv(name)
		if v == "" {
			return otherwise
		}
		n, err := strconv.Atoi(v)
		if err != nil || n < least {
			t.Fatalf("%s=%q: must be a number, at least %d", name, v, least)
		}
		return n
	}
	length := time.Duration(number("SIM_MINUTES", 60, 10)) * time.Minute
	if os.Getenv("SIM_SEED") != "" {
		r := Run(Config{Seed: uint64(number("SIM_SEED", 0, 0)), Duration: length, Trace: os.Stdout})
		if r.Violation != nil {
			t.Errorf("seed %d: %v", r.Seed, r.Violation)
		}
		return
	}
	seeds := 300
	if testing.Short() {
		seeds = 40
	}
	seeds = number("SIM_SEEDS", seeds, 1)
	start := time.Now()
	results := runAll(seeds, func(i int) Config { return Config{Seed: uint64(i), Duration: length} })
	sum := Result{Notes: map[election.NoteKind]int{}}
	idle, quiet := 0, 0
	for _, r := range results {
		if r.Violation != nil {
			t.Errorf("seed %d: %v\nreproduce: SIM_MINUTES=%.0f SIM_SEED=%d go test -v -run TestSeeds ./pkg/election/sim", r.Seed, r.Violation, length.Minutes(), r.Seed)
		}
		faults := 0
		for k, n := range r.Faults {
			sum.Faults[k] += n
			faults += n
		}
		if faults < 5 {
			quiet++
		}
		if r.Failovers == 0 {
			idle++
		}
		for k, n := range r.Notes {
			sum.Notes[k] += n
		}
		sum.NodeTime += r.NodeTime
		sum.Steps += r.Steps
		sum.Reigns += r.Reigns
		sum.Failovers += r.Failovers
		sum.Releases += r.Releases
		sum.Children += r.Children
		sum.Longest, sum.OfBound = max(sum.Longest, r.Longest), max(sum.OfBound, r.OfBound)
	}
	took := time.Since(start)
	t.Logf("%d seeds, %.0f node-hours, %d steps, %d reigns, %d failovers, %d claims after a release, %d releases by a guard, longest gap after healing %v, at most %.0f %% of the bound; %.1f s, %.0f node-hours/s",
		seeds, sum.NodeTime.Hours(), sum.Steps, sum.Reigns, sum.Failovers, sum.Releases, sum.Children, sum.Longest.Round(time.Millisecond), 100*sum.OfBound, took.Seconds(), sum.NodeTime.Hours()/took.Seconds())
	mixed := Mixed()
	for k := noFault + 1; k < KindCount; k++ {
		t.Logf("%8d %s", sum.Faults[k], k)
		expected := mixed.Weights[k] > 0 || k == LostRequest || k == LostReply || k == FalseError || k == LateLanding ||
			k == PowerOff || k == FencingFails || k == FencingSlow
		if expected && sum.Faults[k] == 0 {
			t.Errorf("the fault %q never happened", k)
		}
	}
	for _, k := range expectedNotes {
		t.Logf("%8d note: %s", sum.Notes[k], k)
		if sum.Notes[k] == 0 {
			t.Errorf("no machine ever said %q: that part of it was not reached", k)
		}
	}
	if quiet > 0 || idle > seeds/10 {
		t.Errorf("%d seeds with fewer than 5 faults, %d of %d without a failover", quiet, idle, seeds)
	}
	if sum.Failovers < seeds || sum.Children == 0 || sum.Releases == 0 {
		t.Errorf("too little happened: %d failovers, %d releases, %d of them by a guard", sum.Failovers, sum.Releases, sum.Children)
	}
}

// TestDay: the store hangs for an hour three times a day. See Day.
func TestDay(t *testing.T) {
	const day, hangs = 24 * time.Hour, 3
	seeds := 4
	if testing.Short() {
		seeds = 1
	}
	start := time.Now()
	steps := 0
	for _, r := range runAll(seeds, func(i int) Config { return Config{Seed: uint64(i), Duration: day, Profile: Day()} }) {
		if r.Violation != nil {
			t.Errorf("seed %d: %v", r.Seed, r.Violation)
		}
		// In each of them every node that may claim or release is struck.
		if r.Faults[StoreHangs] < hangs || r.Reigns != hangs+1 {
			t.Errorf("seed %d: %d writes met a hang, and there were %d reigns; want some in each of %d, and one more reign after each",
				r.Seed, r.Faults[StoreHangs], r.Reigns, hangs)
		}
		steps += r.Steps
	}
	t.Logf("%d days, %d hours of them without a store, %d steps; %.1f s", seeds, seeds*hangs, steps, time.Since(start).Seconds())
}

// expectedNotes are the transitions of the machine that a run must reach.
// Left out are those that would be bugs (alarm), that need a tree which
// survives KILL (stuck), or a register that the simulated store does not lose
// (unreadable, plane) or make (born).
var expectedNotes = []election.NoteKind{
	election.NoteClaiming, election.NoteClaimed, election.NoteClaimLost, election.NoteServing, election.NoteUnready,
	election.NoteDraining, election.NoteStopping, election.NoteReleased, election.NoteDemoted, election.NoteLapsed,
	election.NoteLate, election.NoteHolder, election.NoteHeldOff, election.NoteGuardSilent,
	election.NoteFencing, election.NoteFenced, election.NoteUnfenced,
}

// runAll runs one world per index, on every core.
func runAll(n int, config func(i int) Config) []Result {
	results := make([]Result, n)
	next := make(chan int)
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for i := range next {
				results[i] = Run(config(i))
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
	return results
}

// TestSameSeed: a run is a function of its configuration, trace included.
func TestSameSeed(t *testing.T) {
	for seed := range uint64(5) {
		var traces [2]bytes.Buffer
		var results [2]string
		for i := range traces {
			results[i] = fmt.Sprintf("%+v", Run(Config{Seed: seed, Duration: 20 * time.Minute, Trace: &traces[i]}))
		}
		if results[0] != results[1] || !bytes.Equal(traces[0].Bytes(), traces[1].Bytes()) {
			t.Errorf("seed %d gave two different runs", seed)
		}
	}
}

func BenchmarkHour(b *testing.B) {
	var hours float64
	for i := range b.N {
		hours += Run(Config{Seed: uint64(i)}).NodeTime.Hours()
	}
	b.ReportMetric(hours/b.Elapsed().Seconds(), "node-hours/s")
}
