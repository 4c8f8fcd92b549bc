package faults_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	v1 "github.com/understudy-ha/understudy/api/v1"
	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/test/e2e/harness"
	"github.com/understudy-ha/understudy/test/e2e/intervals"
	"github.com/understudy-ha/understudy/test/faultfs"
	"github.com/understudy-ha/understudy/test/need"
)

// TestLongHang: the store hangs for everybody, deaf to signals, for a minute in
// the full selection. The service is dead by its deadline, the nodes take no
// more threads or goroutines in the end than in the first quarter, and when it
// is over the plane recovers by itself. An hour of it is simulated, see
// pkg/election/sim TestDay.
func TestLongHang(t *testing.T) {
	need.Root(t, "mount file systems")
	length := 20 * time.Second
	if everything() {
		length = time.Minute
	}
	t.Parallel()
	timing, err := election.Derive(election.TimingRequest{Preset: "fast", PollDivisor: 5})
	must(t, err)
	p := harness.NewPlane(t, harness.Options{FaultFS: true})
	p.StartAndWait(settle)
	before := pids(p)
	at := intervals.Now()
	var faults []*faultfs.Fault
	for _, n := range p.Nodes {
		faults = append(faults, n.Fault.Inject(faultfs.Rule{Hang: true, Deaf: true}))
	}
	wait := func(d time.Duration) { time.Sleep(d - intervals.Now().Sub(at)) }
	wait(length / 4)
	early := map[*harness.Node]usage{}
	for _, n := range p.Nodes {
		early[n] = usageOf(t, n)
	}
	wait(length)
	for _, n := range p.Nodes {
		bounded(t, n, early[n])
		n.WaitState(time.Second, v1.StateFailed)
		harness.Note(t, fmt.Sprintf("%s: %+v after %v, %+v after %v; %s", n.Name, early[n], length/4, usageOf(t, n), length, shown(n)))
	}
	last, ok := p.Record().LastAliveBefore(intervals.Now())
	if limit := timing.StopAfter() + timing.Stop; !ok || last.Sub(at) > limit {
		t.Errorf("the service lived %v into the hang, want at most D + S = %v", last.Sub(at), limit)
	}
	if n := p.Record().StartsAfter(at); n != 0 {
		t.Errorf("%d services started while the store hung for all", n)
	}
	for _, f := range faults {
		if f.Fired() == 0 {
			t.Error("the fault never fired")
		}
		f.Remove()
	}
	healed := intervals.Now()
	next := p.WaitStart(healed, settle)
	p.WaitSettled(settle)
	harness.Note(t, fmt.Sprintf("service dead %v after the store hung; a service again %v after it was back",
		last.Sub(at).Round(time.Millisecond), next.Start.Sub(healed).Round(time.Millisecond)))
	if after := pids(p); !slices.Equal(before, after) {
		t.Errorf("daemons %v became %v: the plane is to recover without restarts", before, after)
	}
}
