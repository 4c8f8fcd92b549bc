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
)

// TestSeeds runs whole planes for an hour each under every kind of fault. It
// is told what to run by the environment:
//
//	SIM_SEEDS=n  that many seeds instead of 300
//	SIM_SEED=s   only this one, with its trace on standard output
func TestSeeds(t *testing.T) {
	if s := os.Getenv("SIM_SEED"); s != "" {
		seed, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatalf("SIM_SEED: %v", err)
		}
		r := Run(Config{Seed: seed, Trace: os.Stdout})
		if r.Violation != nil {
			t.Errorf("seed %d: %v", seed, r.Violation)
		}
		return
	}
	seeds := 300
	if testing.Short() {
		seeds = 40
	}
	if s := os.Getenv("SIM_SEEDS"); s != "" {
		var err error
		if seeds, err = strconv.Atoi(s); err != nil || seeds < 1 {
			t.Fatalf("SIM_SEEDS=%q: must be a positive number", s)
		}
	}
	start := time.Now()
	results := runAll(seeds, func(i int) Config { return Config{Seed: uint64(i)} })
	var sum Result
	for _, r := range results {
		if r.Violation != nil {
			t.Errorf("seed %d: %v\nreproduce: SIM_SEED=%d go test -run TestSeeds ./pkg/election/sim", r.Seed, r.Violation, r.Seed)
		}
		for k, n := range r.Faults {
			sum.Faults[k] += n
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
		expected := mixed.Weights[k] > 0 || k == LostRequest || k == LostReply || k == FalseError || k == LateLanding
		if expected && sum.Faults[k] == 0 {
			t.Errorf("the fault %q never happened", k)
		}
	}
	if sum.Failovers < 10*seeds || sum.Children == 0 || sum.Releases == 0 {
		t.Errorf("too little happened: %d failovers, %d releases, %d of them by a guard", sum.Failovers, sum.Releases, sum.Children)
	}
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
