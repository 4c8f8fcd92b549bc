package faults_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	v1 "github.com/understudy-ha/understudy/api/v1"
	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/test/e2e/harness"
	"github.com/understudy-ha/understudy/test/e2e/intervals"
	"github.com/understudy-ha/understudy/test/faultfs"
)

const (
	settle    = 40 * time.Second
	operation = 500 * time.Millisecond // o of these planes
	// leeway is what a busy machine may take on top.
	leeway = 2500 * time.Millisecond
)

// stage is a plane of two nodes on which one fault is played, place by place.
type stage struct {
	t      *testing.T
	p      *harness.Plane
	timing election.Timing
	fault  fault
	base   map[*harness.Node]usage
}

// play plays a fault in each place and puts the plane right after each.
func play(t *testing.T, f fault) (row [columns]cell) {
	t.Helper()
	timing, err := election.Derive(election.TimingRequest{Preset: "fast", PollDivisor: 5})
	must(t, err)
	if timing.Operation != operation {
		t.Fatalf("o is %v, the faults are made for %v", timing.Operation, operation)
	}
	s := &stage{t: t, p: harness.NewPlane(t, harness.Options{Nodes: 2, FaultFS: true}), timing: timing, fault: f, base: map[*harness.Node]usage{}}
	s.p.StartAndWait(settle)
	for c, act := range [columns]func(faultfs.Rule) cell{
		segment: s.segment, record: s.record, read: s.read, renew: s.renew, claim: s.claim, release: s.release,
	} {
		rule, ok := f.at(column(c))
		if !ok {
			row[c] = cell{outcome: nothing}
			continue
		}
		row[c] = act(rule)
		t.Logf("%s: %v", columnNames[c], row[c])
		s.p.WaitSettled(settle)
	}
	return row
}

// strike injects the rule into one node's view, and measures the node before.
func (s *stage) strike(n *harness.Node, r faultfs.Rule) *faultfs.Fault {
	s.t.Helper()
	s.base[n] = usageOf(s.t, n)
	return n.Fault.Inject(r)
}

// heal ends a fault, which must have fired, and must not have cost more than
// the bounded workers.
func (s *stage) heal(n *harness.Node, f *faultfs.Fault, what column) {
	s.t.Helper()
	if f.Fired() == 0 {
		s.t.Errorf("%s: the fault never fired", columnNames[what])
	}
	if n.Running() && n.State() != "" {
		bounded(s.t, n, s.base[n])
	}
	f.Remove()
}

// roles returns who is master and who is not.
func (s *stage) roles() (master, standby *harness.Node) {
	s.t.Helper()
	master = s.p.WaitMaster(settle)
	return master, s.p.Standby(master)
}

// claimed is by when a standby serves that has heard nothing since.
func (s *stage) claimed() time.Duration { return s.timing.ClaimAfter(0) + leeway }

// shown is what a node says of itself, with its reason.
func shown(n *harness.Node) string {
	st, err := n.States()
	if err != nil {
		return "no answer"
	}
	own := st.Nodes[n.ID()]
	if why := own.Why; why != nil && *why != "" && own.Status == v1.StateFailed {
		return string(own.Status) + " " + *why
	}
	return string(own.Status)
}

func failed(n *harness.Node) bool { return strings.HasPrefix(shown(n), string(v1.StateFailed)) }

// lasting is what a node shows and goes on showing for a second.
func lasting(n *harness.Node) string {
	last, since := shown(n), intervals.Now()
	harness.Poll(10*time.Second, func() bool {
		if now := shown(n); now != last {
			last, since = now, intervals.Now()
		}
		return intervals.Now().Sub(since) > time.Second
	})
	return last
}

// renew strikes the master's renewals.
func (s *stage) renew(r faultfs.Rule) (c cell) {
	s.t.Helper()
	master, _ := s.roles()
	at := intervals.Now()
	f := s.strike(master, r)
	if !harness.Poll(s.claimed(), func() bool { return s.p.Record().StartsAfter(at) > 0 }) {
		c = cell{outcome: "goes on serving", state: lasting(master)}
		s.heal(master, f, renew)
		s.undisturbed(at, master)
		return c
	}
	next, _ := s.p.Record().NextStartAfter(at)
	if next.Node == master.ID() {
		s.t.Errorf("%s serves again", master.Name)
	}
	s.deadInTime(at, master)
	c = cell{outcome: "stops in time, the other serves", took: next.Start.Sub(at), state: lasting(master)}
	s.heal(master, f, renew)
	return c
}

// claim strikes what a standby does when its master's machine is gone.
func (s *stage) claim(r faultfs.Rule) (c cell) {
	s.t.Helper()
	master, standby := s.roles()
	f := s.strike(standby, r)
	if s.fault.kind == listings { // it must have listed before the last renewal
		harness.Poll(settle, func() bool { return f.Fired() > 0 })
		seen := s.p.Register().Seq
		harness.Poll(settle, func() bool { return s.p.Register().Seq > seen })
	}
	at := master.KillTree()
	if harness.Poll(s.claimed(), func() bool { return s.p.Record().StartsAfter(at) > 0 }) {
		next, _ := s.p.Record().NextStartAfter(at)
		c = cell{outcome: "claims", took: next.Start.Sub(at), state: lasting(standby)}
		s.heal(standby, f, claim)
	} else {
		if s.fault.rule.Hang { // nor can it read then, which it says in the end
			harness.Poll(s.timing.Timeout+leeway, func() bool { return failed(standby) })
		}
		c = cell{outcome: "can not, and claims once it is over", state: lasting(standby)}
		s.heal(standby, f, claim)
		healed := intervals.Now()
		next := s.p.WaitStart(healed, settle)
		c.took = next.Start.Sub(healed)
	}
	master.Start()
	return c
}

// release strikes the end of a master's reign that was told to stop.
func (s *stage) release(r faultfs.Rule) (c cell) {
	s.t.Helper()
	master, _ := s.roles()
	f := s.strike(master, r)
	at := master.Signal(unix.SIGTERM)
	c = cell{outcome: "the other serves at once"}
	if !harness.Poll(s.timing.Timeout/2, func() bool { return s.p.Record().StartsAfter(at) > 0 }) {
		c = cell{outcome: "the other serves after the lease", state: shown(master)}
	}
	next := s.p.WaitStart(at, s.claimed()+leeway)
	c.took = next.Start.Sub(at)
	s.heal(master, f, release)
	if code := master.WaitExit(settle); code != 0 {
		s.t.Errorf("%s ended with %d, want 0", master.Name, code)
	}
	master.WaitGone(settle)
	master.Start()
	return c
}

// read strikes what a standby sees of the register.
func (s *stage) read(r faultfs.Rule) (c cell) {
	s.t.Helper()
	master, standby := s.roles()
	at := intervals.Now()
	renames := standby.Fault.Count(faultfs.Rename)
	f := s.strike(standby, r)
	blind := harness.Poll(s.claimed()+s.timing.Timeout/2, func() bool { return failed(standby) })
	switch {
	case blind:
		c = cell{outcome: "sees nothing, says so", took: intervals.Now().Sub(at)}
	case s.fault.kind == listings:
		c = cell{outcome: "its claims lose"}
		if standby.Fault.Count(faultfs.Rename) == renames {
			s.t.Error("it has claimed nothing")
		}
	default:
		c = cell{outcome: "goes on watching"}
	}
	c.state = lasting(standby)
	s.heal(standby, f, read)
	s.undisturbed(at, master)
	return c
}

// record strikes a standby's node record.
func (s *stage) record(r faultfs.Rule) (c cell) {
	s.t.Helper()
	master, standby := s.roles()
	silent := func() bool {
		st, err := master.States()
		return err == nil && st.Nodes[standby.ID()].Status == v1.StateFailed
	}
	heard := func() {
		s.t.Helper()
		if !harness.Poll(settle, func() bool { return !silent() }) {
			s.t.Errorf("%s still shows %s as silent", master.Name, standby.Name)
		}
	}
	heard()
	at := intervals.Now()
	f := s.strike(standby, r)
	if harness.Poll(s.timing.Timeout+leeway+2*time.Second, silent) {
		c = cell{outcome: "the others take it for silent", took: intervals.Now().Sub(at)}
	} else {
		c = cell{outcome: "nobody notices"}
	}
	c.state = lasting(standby)
	s.heal(standby, f, record)
	s.undisturbed(at, master)
	heard()
	return c
}

// segment strikes an object that is written beside a living master, through
// its view of the store.
func (s *stage) segment(r faultfs.Rule) (c cell) {
	s.t.Helper()
	master, _ := s.roles()
	at := intervals.Now()
	path := filepath.Join(s.p.Store, segmentKey)
	must(s.t, os.MkdirAll(filepath.Dir(path), 0o755)) // as the segment before it has
	f := s.strike(master, r)
	o, wait := putFrom(s.t, master.Store)
	c = cell{outcome: "stored", took: o.Took, state: lasting(master)}
	if o.Kind != "stored" {
		c.outcome = "error: " + o.Kind + ", not stored"
		if s.fault.rule.After || s.fault.rule.Late > 0 {
			harness.Poll(leeway, func() bool { return whole(path) })
		}
		if whole(path) {
			c.outcome = "error: " + o.Kind + ", stored"
		}
	}
	if limit := operation + leeway; o.Took > limit {
		s.t.Errorf("the write took %v, want at most %v: %s", o.Took, limit, o.Text)
	}
	s.heal(master, f, segment)
	wait()
	if b, err := os.ReadFile(path); err == nil && string(b) != segmentText {
		s.t.Errorf("half a segment is there: %q", b)
	}
	if again, wait := putFrom(s.t, master.Store); again.Kind != "stored" {
		s.t.Errorf("once it is over: %s", again.Text)
	} else {
		wait()
	}
	must(s.t, os.Remove(path))
	s.undisturbed(at, master)
	return c
}

func whole(path string) bool {
	b, err := os.ReadFile(path)
	return err == nil && string(b) == segmentText
}

// undisturbed holds that the master is master still, and nothing else served.
func (s *stage) undisturbed(since intervals.Instant, master *harness.Node) {
	s.t.Helper()
	// One question may have no answer in time on a busy machine; who is master
	// again has another service.
	if n := s.p.Record().StartsAfter(since); n != 0 || !harness.Poll(settle, master.IsMaster) {
		s.t.Errorf("%d services started, and %s is %s; want none, and the same master", n, master.Name, master.State())
	}
}

// deadInTime holds that a node's service was dead by its deadline.
func (s *stage) deadInTime(since intervals.Instant, n *harness.Node) {
	s.t.Helper()
	limit := s.timing.StopAfter() + s.timing.Stop
	for _, tree := range s.p.Record().Trees {
		if tree.Node == n.ID() && tree.Start < since && tree.Last.Sub(since) > limit {
			s.t.Errorf("the service of %s lived for %v, want at most D + S = %v", n.Name, tree.Last.Sub(since), limit)
		}
	}
}

// usage is what a daemon takes.
type usage struct{ threads, goroutines int }

// What a node may have: beside the goroutines that it had, two workers for each
// of three kinds of operation and whoever waits for them. Its threads are 10 to
// 25, the more the longer it has run, beside those six; one for each heartbeat
// of a fault would be far more.
const (
	workersMost = 6
	waitersMost = 8
	threadsMost = 40
)

func usageOf(t *testing.T, n *harness.Node) (u usage) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.Pid()))
	if n.Running() {
		must(t, err)
	}
	var r harness.Reply
	harness.Poll(10*time.Second, func() bool { r, err = n.Get("/metrics"); return err == nil || !n.Running() })
	if !n.Running() {
		return usage{} // it was told to end, and did so while it was looked at
	}
	must(t, err)
	u = usage{number(string(b), "Threads:"), number(r.Body, "go_goroutines ")}
	if u.threads == 0 || u.goroutines == 0 {
		t.Errorf("%s: no number of threads, or none of goroutines", n.Name)
	}
	return u
}

// number is what stands behind a word at the beginning of a line.
func number(text, word string) (n int) {
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, word); ok {
			_, _ = fmt.Sscan(rest, &n) // 0 says that there was none
		}
	}
	return n
}

// bounded holds a node that is struck to its bounds.
func bounded(t *testing.T, n *harness.Node, base usage) {
	t.Helper()
	now := usageOf(t, n)
	if now.threads > threadsMost {
		t.Errorf("%s had %d threads and has %d, want at most %d", n.Name, base.threads, now.threads, threadsMost)
	}
	if most := base.goroutines + workersMost + waitersMost; now.goroutines > most {
		t.Errorf("%s had %d goroutines and has %d, want at most %d", n.Name, base.goroutines, now.goroutines, most)
	}
}

func pids(p *harness.Plane) (out []int) {
	for _, n := range p.Nodes {
		out = append(out, n.Pid())
	}
	return slices.Clip(out)
}
