package e2e_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/api/client"
	"github.com/understudy-ha/understudy/api/v1"
	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/test/e2e/harness"
	"github.com/understudy-ha/understudy/test/e2e/intervals"
)

// operator is a client of one node.
func operator(t *testing.T, n *harness.Node) *client.Client {
	t.Helper()
	user, password, err := n.Credentials()
	must(t, err)
	c, err := client.New([]string{n.URL("")}, client.Options{User: user, Password: password, Insecure: true, Timeout: settle})
	must(t, err)
	t.Cleanup(c.Close)
	return c
}

// ask has a node take an operation and waits for its end; ok says which
// ends are right.
func ask(t *testing.T, n *harness.Node, kind, node string, r v1.OperationRequest, ok ...string) v1.Operation {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*settle)
	defer cancel()
	later := false
	r.Wait = &later
	c := operator(t, n)
	op, err := c.Operate(ctx, kind, node, r)
	if err != nil {
		t.Fatalf("%s: %v", kind, err)
	}
	return ended(t, n, op.ID, ok...)
}

// ended waits for one of the states.
func ended(t *testing.T, n *harness.Node, id string, ok ...string) v1.Operation {
	t.Helper()
	c := operator(t, n)
	var op v1.Operation
	var err error
	if !harness.Poll(2*settle, func() bool {
		op, err = c.Operation(t.Context(), id)
		return err == nil && slices.Contains([]string{"done", "failed", "rolled-back", "cancelled", "running"}, op.State) &&
			(op.State != "running" || slices.Contains(ok, "running"))
	}) {
		t.Fatalf("operation %s is %q (%v) after %v", id, op.State, err, 2*settle)
	}
	if !slices.Contains(ok, op.State) {
		t.Fatalf("operation %s is %s, want one of %v: %v", id, op.State, ok, op.Reasons)
	}
	return op
}

// candidate waits until a node looks to another as if it could take over from
// the master that the other sees.
func candidate(t *testing.T, to, n *harness.Node) {
	t.Helper()
	if !harness.Poll(settle, func() bool {
		s, err := to.States()
		return err == nil && s.MasterID != nil && s.Nodes[n.ID()].Electable
	}) {
		t.Fatalf("%s does not become a candidate", n.Name)
	}
}

// underLoad asks all nodes who is master, without a break, until the test ends.
func underLoad(t *testing.T, p *harness.Plane) {
	t.Helper()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for _, n := range p.Nodes {
		wg.Go(func() {
			web := harness.Insecure()
			defer web.CloseIdleConnections()
			for {
				req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, n.URL("/master"), http.NoBody)
				if err == nil {
					if resp, err := web.Do(req); err == nil {
						_ = resp.Body.Close()
					}
				}
				select {
				case <-stop:
					return
				case <-time.After(2 * time.Millisecond):
				}
			}
		})
	}
	t.Cleanup(func() { close(stop); wg.Wait() })
}

// TestSwitchovers moves the mastership around three nodes, one operation after
// the other, each taken by whichever node is next: no acknowledged write of the
// persisted state is lost, no two services overlap, and between the old
// service's exit and the start of the next one there is hardly a gap.
func TestSwitchovers(t *testing.T) {
	p := harness.NewPlane(t, harness.Options{Settings: harness.Preset("default")})
	master := p.StartAndWait(settle)
	underLoad(t, p)
	var gaps []time.Duration
	var keys []string
	rounds, undone := harness.Rounds(6, 200), 0
	for i := range rounds {
		at := slices.Index(p.Nodes, master)
		target, asked := p.Nodes[(at+1)%3], p.Nodes[(at+i)%3]
		candidate(t, asked, target)
		candidate(t, master, target)
		key := fmt.Sprintf("moves/%03d", i)
		if _, err := operator(t, master).StatePut(t.Context(), key, []byte(target.ID()), client.StateCondition{}); err != nil {
			t.Fatalf("write %s: %v", key, err)
		}
		keys = append(keys, key)
		old := p.Latest()
		from := intervals.Now()
		op := ask(t, asked, "switchover", "", v1.OperationRequest{To: target.ID(), Reason: "round"}, "done", "rolled-back")
		if op.State == "rolled-back" { // a target that a busy machine starves gives up, and it says so
			undone++
			t.Logf("round %d: %v", i, op.Reasons)
			master = p.WaitSettled(settle)
			continue
		}
		if op.Master == nil || *op.Master != target.ID() {
			t.Fatalf("%+v, want %s to be master", op, target.ID())
		}
		next := p.WaitStart(from, settle)
		if p.NodeOf(next) != target {
			t.Fatalf("%s serves, want %s", p.NodeOf(next).Name, target.Name)
		}
		gaps = append(gaps, next.Start.Sub(p.Tree(old.ID).Last))
		master = target
		master.WaitState(settle, v1.StateMaster)
	}
	c := operator(t, master)
	for _, key := range keys {
		if _, err := c.StateGet(t.Context(), key); err != nil {
			t.Errorf("an acknowledged write is lost: %s: %v", key, err)
		}
	}
	_, longest := harness.Figures(t, fmt.Sprintf("%d switchovers: old service's exit to the next start", len(gaps)), gaps)
	slices.Sort(gaps)
	harness.Note(t, fmt.Sprintf("switchovers: p50 %v, p99 %v", gaps[len(gaps)/2].Round(time.Millisecond), gaps[(len(gaps)*99-1)/100].Round(time.Millisecond)))
	if undone > rounds/6 {
		t.Errorf("%d of %d switchovers were rolled back", undone, rounds)
	}
	if longest > time.Second {
		t.Errorf("up to %v without a service, want well under 1 s", longest)
	}
}

// TestTargetsThatDie kills the node that is to take over in the middle of a
// switchover, at any moment: it is completed, rolled back or given up, and there
// is a service again within T + 2 s.
func TestTargetsThatDie(t *testing.T) {
	p := harness.NewPlane(t, harness.Options{})
	master := p.StartAndWait(settle)
	var gaps []time.Duration
	ends := map[string]int{}
	for range harness.Rounds(2, 20) {
		at := slices.Index(p.Nodes, master)
		target, third := p.Nodes[(at+1)%3], p.Nodes[(at+2)%3]
		for _, by := range []*harness.Node{master, third} { // the one checks the request, the other carries it out
			candidate(t, by, target)
		}
		candidate(t, master, third)
		later := false
		op, err := operator(t, third).Operate(t.Context(), "switchover", "", v1.OperationRequest{To: target.ID(), Wait: &later})
		must(t, err)
		p.AnyMoment(fastBeat)
		killed := target.KillTree()
		last := p.WaitMaster(fastT + settle)
		end := ended(t, last, op.ID, "done", "rolled-back", "failed")
		ends[end.State]++
		// Without a service from the end of the one before to the start of the
		// one that stays; a target may have served in between.
		stays := p.Latest()
		if p.NodeOf(stays) != last {
			t.Fatalf("%s serves, and %s is master", p.NodeOf(stays).Name, last.Name)
		}
		if stays.Start > killed {
			gaps = append(gaps, stays.Start.Sub(lastBefore(p, stays)))
		}
		target.WaitExit(settle)
		target.Start()
		master = p.WaitSettled(settle)
	}
	harness.Note(t, fmt.Sprintf("targets killed in the middle of a switchover: %v", ends))
	if len(gaps) > 0 {
		if _, longest := harness.Figures(t, "target killed in the middle of a switchover: without a service, T=5s", gaps); longest > fastT+2*time.Second {
			t.Errorf("up to %v without a service, want at most T + 2 s", longest)
		}
	}
}

// lastBefore is the last sign of life of any service that began before.
func lastBefore(p *harness.Plane, tree intervals.Tree) intervals.Instant {
	var last intervals.Instant
	for _, other := range p.Record().Trees {
		if other.Start < tree.Start {
			last = max(last, other.Last)
		}
	}
	return last
}

// TestOperationsThroughTheStoreAlone: nodes that reach nothing but the store
// carry out what any of them takes, within two heartbeats; what is planned
// outlives the node that took it.
func TestOperationsThroughTheStoreAlone(t *testing.T) {
	p := harness.NewPlane(t, harness.Options{Settings: map[string]any{"nodeUri": "https://127.0.0.1:1/"}}) // nobody lives there
	master := p.StartAndWait(settle)
	at := slices.Index(p.Nodes, master)
	target, third := p.Nodes[(at+1)%3], p.Nodes[(at+2)%3]
	candidate(t, third, target)
	candidate(t, master, target)
	old := p.Latest()
	later := false
	from := intervals.Now()
	op, err := operator(t, third).Operate(t.Context(), "switchover", "", v1.OperationRequest{To: target.ID(), Wait: &later})
	must(t, err)
	taken := intervals.Now()
	ended(t, third, op.ID, "done")
	harness.Figures(t, "request to the end of the old service, through the store alone, h=0.5s", []time.Duration{p.Tree(old.ID).Last.Sub(from)})
	// Listed with the next heartbeat, read and carried out: a third one is for
	// the busy machine.
	if d := p.Tree(old.ID).Last.Sub(taken); d > 3*fastBeat {
		t.Errorf("taken up after %v, want within two heartbeats", d)
	}
	target.WaitState(settle, v1.StateMaster)

	// Planned by the third node, which is dead by then.
	candidate(t, third, master)
	candidate(t, target, master)
	due := time.Now().Add(3 * time.Second)
	op, err = operator(t, third).Operate(t.Context(), "switchover", "", v1.OperationRequest{To: master.ID(), At: &due})
	must(t, err)
	third.KillTree()
	third.WaitExit(settle)
	master.WaitState(settle, v1.StateMaster)
	if early := time.Until(due); early > time.Second { // at is in whole seconds
		t.Errorf("it came %v early", early)
	}
	third.Start()
	third.WaitStandby(settle)
	if op = ended(t, third, op.ID, "done"); *op.Master != master.ID() || op.Actor == nil || op.AcceptedBy == nil || *op.AcceptedBy != third.ID() {
		t.Errorf("%+v", op)
	}
}

// TestPausedPlane: nobody takes over from a master that dies, until somebody
// resumes the plane; then at once, since the lease has long ended.
func TestPausedPlane(t *testing.T) {
	t.Parallel()
	p := harness.NewPlane(t, harness.Options{})
	master := p.StartAndWait(settle)
	standby := p.Standby(master)
	candidate(t, standby, standby)
	ask(t, standby, "pause", "", v1.OperationRequest{Reason: "storage work"}, "running")
	at := master.KillTree()
	neverFor(t, 2*fastT, "somebody took over a paused plane", func() bool { return len(p.Masters()) > 0 || p.Record().StartsAfter(at) > 0 })
	if !p.Register().Paused {
		t.Error("the register does not say paused")
	}
	resumed := intervals.Now()
	ask(t, standby, "resume", "", v1.OperationRequest{}, "done")
	next := p.WaitStart(resumed, settle)
	harness.Figures(t, "resume of a plane whose master is dead to the next start, T=5s", []time.Duration{next.Start.Sub(resumed)})
	if d := next.Start.Sub(resumed); d > fastT {
		t.Errorf("it took %v, although the lease had ended", d)
	}
	if p.Register().Paused {
		t.Error("the plane is still paused")
	}
}

// TestMaintenance: a master that goes into maintenance hands over first, and
// does not come back before its end, though it is preferred.
func TestMaintenance(t *testing.T) {
	t.Parallel()
	p := harness.NewPlane(t, harness.Options{Nodes: 2})
	p.Nodes[0].Set("priority", 5)
	p.Nodes[0].Start()
	p.WaitMaster(settle)
	p.Nodes[1].Start()
	master := p.WaitSettled(settle)
	other := p.Standby(master)
	candidate(t, other, other)
	candidate(t, master, other)
	old := p.Latest()
	from := intervals.Now()
	ask(t, other, "maintenance", master.ID(), v1.OperationRequest{Reason: "new disk"}, "running")
	next := p.WaitStart(from, settle)
	if p.NodeOf(next) != other || !p.Tree(old.ID).Stopped() {
		t.Errorf("%s serves; the old service: %v", p.NodeOf(next).Name, p.Tree(old.ID))
	}
	var shown v1.Node
	if !harness.Poll(settle, func() bool { // with its next record
		s, err := other.States()
		shown = s.Nodes[master.ID()]
		return err == nil && !shown.Electable && deref(shown.Why) == election.ReasonMaintenance
	}) {
		t.Errorf("it is shown as %+v", shown)
	}
	at := other.KillTree()
	neverFor(t, fastT+2*time.Second, "a node in maintenance took over", func() bool { return p.Record().StartsAfter(at) > 0 })
	must(t, operator(t, master).EndMaintenance(t.Context(), master.ID()))
	if next := p.WaitStart(at, settle); p.NodeOf(next) != master {
		t.Errorf("%s serves", p.NodeOf(next).Name)
	}
}
