package e2e_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/api/v1"
	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/pkg/lease"
	"github.com/understudy-ha/understudy/test/e2e/harness"
	"github.com/understudy-ha/understudy/test/e2e/intervals"
	"github.com/understudy-ha/understudy/test/faultfs"
	"github.com/understudy-ha/understudy/test/need"
)

// The tests of this file and of rules_service_test.go each show one rule of the
// protocol at work on real parts. docs/safety.md has the list, rule by rule.

// TestBirth is R0: three nodes find an empty directory. They make one plane,
// which nobody holds at first, and the first service waits for a whole lease,
// because a node that is not heard of yet might hold another.
func TestBirth(t *testing.T) {
	t.Parallel()
	timing := fast(t)
	p := harness.NewPlane(t, harness.Options{NoInit: true})
	p.Start()
	dir := filepath.Join(p.Store, "lease")
	if !harness.Poll(settle, func() bool { _, err := os.Stat(dir); return err == nil }) {
		t.Fatal("nobody made a plane")
	}
	first, made := bornWith(t, dir)
	if first.Term != 0 || !first.Held || first.Holder != "" || first.Incarnation != "" {
		t.Errorf("the register was born as %+v, want it in term 0, held by nobody", first)
	}
	if first.Lease != timing.Timeout {
		t.Errorf("it was born with a lease of %v, want %v", first.Lease, timing.Timeout)
	}
	next := p.WaitStart(0, settle)
	// A file keeps its time of modification however it is renamed.
	waited := next.Processes[0].Wall.Sub(made)
	harness.Figures(t, "birth of a plane to the first service", []time.Duration{waited})
	if waited < timing.Timeout {
		t.Errorf("the first service started %v after the birth, want at least a lease, %v", waited, timing.Timeout)
	}
	p.WaitSettled(settle)
	if v := p.Register(); v.Plane != first.Plane || v.Term != 1 {
		t.Errorf("the register is of plane %s in term %d, want %s in term 1", v.Plane, v.Term, first.Plane)
	}
	for _, n := range p.Nodes {
		var s v1.PlaneStates
		var err error
		// The first password takes a busy machine its time.
		if !harness.Poll(settle, func() bool { s, err = n.States(); return err == nil }) || deref(s.PlaneID) != string(first.Plane) {
			t.Errorf("%s is of plane %s (%v), want %s", n.Name, deref(s.PlaneID), err, first.Plane)
		}
	}
	if left, err := filepath.Glob(filepath.Join(p.Store, ".init-*")); err != nil || len(left) > 0 {
		t.Errorf("attempts at other planes were left behind: %v (%v)", left, err)
	}
}

// bornWith is the first value of a register and when it was made.
func bornWith(t *testing.T, dir string) (v lease.Value, made time.Time) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	if len(entries) != 1 {
		t.Fatalf("the register has %d names, want 1", len(entries))
	}
	v, err = lease.ParseValue([]byte(entries[0].Name()))
	must(t, err)
	info, err := entries[0].Info()
	must(t, err)
	return v, info.ModTime()
}

// TestAutoInitOff is R0 too: a node that may not make a plane makes none. What
// else keeps nodes from it: TestLocationThatIsNoPlane, TestUnmountedMountPoint.
func TestAutoInitOff(t *testing.T) {
	t.Parallel()
	p := harness.NewPlane(t, harness.Options{Nodes: 1, NoInit: true, Settings: map[string]any{"ha.autoInit": false}})
	n := p.Nodes[0]
	n.Start()
	says(t, n, "the location holds no register", "ha.autoInit is off", "run understudy init once")
	// A birth takes two listings 5 s apart.
	neverFor(t, election.BirthPause+time.Second, "something was created there", func() bool { return len(lasting(t, p.Store)) > 0 })
	var why string
	if !harness.Poll(settle, func() bool { why = whyOf(n); return why == election.ReasonNoRegister }) {
		t.Errorf("the reason shown is %s, want %s", why, election.ReasonNoRegister)
	}
	p.Init()
	if next := p.WaitStart(0, settle); next.Term != 1 {
		t.Errorf("the first service is of term %d, want 1", next.Term)
	}
}

// slowBeats leave a second and a half between the claims of one rank and the
// next, which no busy machine mixes up.
var slowBeats = map[string]any{
	"ha.preset": nil, "ha.heartbeatTimeout": "10s", "ha.heartbeatInterval": "1500ms", "store.operationTimeout": "500ms", "service.stopTimeout": "4s",
}

const slowBeat = 1500 * time.Millisecond

// ranked starts a plane whose nodes have falling priorities, the first one
// lowest of all and master.
func ranked(t *testing.T) (p *harness.Plane, master, best, next *harness.Node) {
	t.Helper()
	p = harness.NewPlane(t, harness.Options{Settings: slowBeats})
	master, next, best = p.Nodes[0], p.Nodes[1], p.Nodes[2]
	master.Set("priority", -1)
	next.Set("priority", 5)
	best.Set("priority", 10)
	master.Start()
	p.WaitMaster(settle)
	best.Start()
	next.Start()
	p.WaitSettled(settle)
	for _, n := range []*harness.Node{best, next} {
		for _, other := range []*harness.Node{best, next} {
			knows(t, n, other)
		}
	}
	return p, master, best, next
}

// knows waits until one node counts with another as a candidate.
func knows(t *testing.T, n, other *harness.Node) {
	t.Helper()
	if !harness.Poll(settle, func() bool {
		s, err := n.States()
		node := s.Nodes[other.ID()]
		return err == nil && node.Electable && node.Priority != nil && *node.Priority > 0
	}) {
		t.Fatalf("%s never counts with %s", n.Name, other.Name)
	}
}

// TestOrderOfClaims is R7, and R1 beside it: the candidate of the highest
// priority claims first, and each claim is of the term after the one that the
// register shows.
func TestOrderOfClaims(t *testing.T) {
	p, master, best, next := ranked(t)
	for i, want := range []*harness.Node{best, next} {
		before := p.Register()
		old := p.Latest()
		at := master.Stop(settle)
		got := p.WaitStart(at, settle)
		if p.NodeOf(got) != want {
			t.Errorf("hand-over %d: %s serves, want %s", i+1, p.NodeOf(got).Name, want.Name)
		}
		if got.Term != uint64(before.Term)+1 {
			t.Errorf("hand-over %d: term %d follows %d, want the next one", i+1, got.Term, before.Term)
		}
		gap := got.Start.Sub(p.Tree(old.ID).Last)
		harness.Figures(t, "first-ranked: old service's end to the next start", []time.Duration{gap})
		if gap >= slowBeat {
			t.Errorf("hand-over %d: the first-ranked waited %v, as if there were a better one", i+1, gap)
		}
		if v := p.Register(); v.Seq <= before.Seq {
			t.Errorf("sequence number %d follows %d", v.Seq, before.Seq)
		}
		master = p.WaitSettled(settle)
	}
}

// TestStuckBestCandidate is R7's other half: the order only delays. The best
// candidate is frozen, so the next one claims about a heartbeat later.
func TestStuckBestCandidate(t *testing.T) {
	p, master, best, next := ranked(t)
	old := p.Latest()
	best.Signal(syscall.SIGSTOP)
	at := master.Signal(syscall.SIGTERM)
	got := p.WaitStart(at, settle)
	if p.NodeOf(got) != next {
		t.Errorf("%s serves, want %s", p.NodeOf(got).Name, next.Name)
	}
	if !best.Find(harness.Daemon).Stopped() {
		t.Error("the best candidate is not frozen: this shows nothing")
	}
	gap := got.Start.Sub(p.Tree(old.ID).Last)
	harness.Figures(t, "best candidate frozen: old service's end to the next start", []time.Duration{gap})
	if gap < slowBeat {
		t.Errorf("the second-ranked started after %v, want at least a heartbeat, %v", gap, slowBeat)
	}
	if most := 2*slowBeat + 2*time.Second; gap > most {
		t.Errorf("the second-ranked started after %v, want about a heartbeat and at most %v", gap, most)
	}
	best.Signal(syscall.SIGCONT)
	if code := master.WaitExit(settle); code != 0 {
		t.Errorf("the old master ended with %d, want 0", code)
	}
	if got := p.WaitSettled(settle); got != next {
		t.Errorf("%s is master once the best candidate thawed, want %s", got.Name, next.Name)
	}
}

// TestTermIsAboveWhatIsRemembered is R7 and R15: a node that remembers a term
// above the register's, which was restored from a copy, waits as if somebody
// held it, and claims a term above both.
func TestTermIsAboveWhatIsRemembered(t *testing.T) {
	t.Parallel()
	timing := fast(t)
	const remembered = 1000
	p := harness.NewPlane(t, harness.Options{Nodes: 1})
	n := p.StartAndWait(settle)
	n.Stop(settle)
	file := filepath.Join(n.DataDir, "plane.json")
	b, err := os.ReadFile(file)
	must(t, err)
	var memory map[string]any
	must(t, json.Unmarshal(b, &memory))
	if memory["maxTerm"] != 1.0 {
		t.Fatalf("the node remembers %v", memory)
	}
	memory["maxTerm"] = remembered
	b, err = json.Marshal(memory)
	must(t, err)
	write(t, file, string(b))
	at := intervals.Now()
	n.Start()
	next := p.WaitStart(at, settle)
	if next.Term != remembered+1 {
		t.Errorf("it serves in term %d, want %d", next.Term, remembered+1)
	}
	if d := next.Start.Sub(at); d < timing.Timeout {
		t.Errorf("it took a released value from the past after %v, want at least a lease, %v", d, timing.Timeout)
	}
	says(t, n, "the store holds term 1 although", fmt.Sprintf("term %d", remembered))
}

// TestRenewalLandsLate is R5: the file system holds a renewal for longer than
// the operation timeout, and then does it. Reading back finds it, and nobody
// notices. What lands after another node's claim: TestMastersStoreHangs.
func TestRenewalLandsLate(t *testing.T) {
	need.Root(t, "mount file systems")
	timing := fast(t)
	p := harness.NewPlane(t, harness.Options{Nodes: 2, FaultFS: true})
	master := p.StartAndWait(settle)
	for range 2 {
		fault := master.Fault.Inject(faultfs.Rule{Op: faultfs.Rename, Path: "lease/u1." + string(p.Register().Plane), Hang: true, Deaf: true, Count: 1})
		if !harness.Poll(settle, func() bool { return fault.Holding() == 1 }) {
			t.Fatal("no renewal was held")
		}
		held := p.Register()
		time.Sleep(timing.Operation + timing.Operation/5) // the fault's length, well below D
		if now := p.Register(); now.Seq != held.Seq {
			t.Fatalf("the register moved from %d to %d while its only writer was held", held.Seq, now.Seq)
		}
		fault.Remove()
		if !harness.Poll(settle, func() bool { return p.Register().Seq > held.Seq+1 }) {
			t.Error("the renewals do not go on")
		}
		undisturbed(t, p, master)
	}
	neverFor(t, timing.ClaimAfter(0), "the plane was disturbed", func() bool { return len(p.Record().Trees) != 1 })
	undisturbed(t, p, master)
}

// TestClaimIsReadBack is R8: the claim was made and the store's answer comes,
// but the register can not be read. The service must not start; the term is
// given up, and another node serves in a higher one.
func TestClaimIsReadBack(t *testing.T) {
	need.Root(t, "mount file systems")
	p := harness.NewPlane(t, harness.Options{Nodes: 2, FaultFS: true})
	healthy, blind := p.Nodes[0], p.Nodes[1]
	healthy.Start()
	p.WaitMaster(settle)
	blind.Start()
	p.WaitSettled(settle)
	// While a rename is held the kernel lists that directory for nobody, so
	// that the rule against listings is there before the first one.
	reply := blind.Fault.Inject(faultfs.Rule{Op: faultfs.Rename, Path: "lease/u1." + string(p.Register().Plane), After: true, Hang: true, Deaf: true, Count: 1})
	healthy.Stop(settle)
	if !harness.Poll(settle, func() bool { return reply.Holding() == 1 }) {
		t.Fatal("the standby did not claim")
	}
	claim := p.Register()
	if !claim.Held || string(claim.Holder) != blind.ID() {
		t.Fatalf("the register says %+v, want a claim by %s", claim, blind.ID())
	}
	at := intervals.Now()
	listing := blind.Fault.Inject(faultfs.Rule{Op: faultfs.Readdir, Path: "lease", Errno: syscall.EIO})
	reply.Remove()
	healthy.Start()
	next := p.WaitStart(at, settle)
	if next.Node != healthy.ID() || next.Term <= uint64(claim.Term) {
		t.Errorf("%v, want %s in a term above %d", next, healthy.ID(), claim.Term)
	}
	harness.Figures(t, "claim that can not be read back to the next start", []time.Duration{next.Start.Sub(at)})
	if listing.Fired() == 0 {
		t.Error("no listing failed: this shows nothing")
	}
	// A run may die before it writes a record; the guard knows of it.
	if log := blind.GuardLog(); strings.Contains(log, fmt.Sprintf(": term %d: run ", claim.Term)) {
		t.Errorf("the guard of a node that could not read its claim back started something:\n%s", log)
	}
	listing.Remove()
	if m := p.WaitSettled(settle); m != healthy {
		t.Errorf("%s is master, want %s", m.Name, healthy.Name)
	}
}

// TestTermIsTheToken is R16: what the service is given as its fencing token is
// the term of the register, and it grows with each reign.
func TestTermIsTheToken(t *testing.T) {
	tokens := filepath.Join(t.TempDir(), "tokens")
	p := harness.NewPlane(t, harness.Options{Nodes: 2, Settings: map[string]any{
		"service.command": []string{"/bin/sh", "-c", `echo "$HA_TERM $HA_TOKEN $HA_NODE" >>"$0"; exec "$1"`, tokens, harness.Recorder()},
	}})
	master := p.StartAndWait(settle)
	var want string
	var last uint64
	for i := range 4 {
		tree, v := p.Latest(), p.Register()
		want += fmt.Sprintf("%d %d %s\n", v.Term, v.Term, v.Holder)
		if tree.Term != uint64(v.Term) || tree.Node != string(v.Holder) || p.NodeOf(tree) != master {
			t.Errorf("%v serves, and the register says %s in term %d", tree, v.Holder, v.Term)
		}
		if tree.Term <= last {
			t.Errorf("term %d follows %d", tree.Term, last)
		}
		last = tree.Term
		var at intervals.Instant
		if i%2 == 0 {
			at = master.Stop(settle)
		} else {
			at = master.Kill(harness.Daemon)
			master.WaitExit(settle)
			master.WaitGone(settle)
		}
		p.WaitStart(at, settle)
		master.Start()
		master = p.WaitSettled(settle)
	}
	b, err := os.ReadFile(tokens)
	must(t, err)
	if got := string(b); !strings.HasPrefix(got, want) {
		t.Errorf("the services were given\n%swant\n%s", got, want)
	}
}

// TestUnverifiedStoreIsNotClaimed is R18: a store whose renames are sometimes
// not done although it says so is no register. The node sees that in a scratch
// area, and does not touch the register, which it could claim without trouble.
func TestUnverifiedStoreIsNotClaimed(t *testing.T) {
	t.Parallel()
	need.Root(t, "mount file systems")
	p := harness.NewPlane(t, harness.Options{Nodes: 1, FaultFS: true})
	n := p.Nodes[0]
	lies := n.Fault.Inject(faultfs.Rule{Op: faultfs.Rename, Path: "/.reg/lease/", Pretend: true})
	before := p.Register()
	n.Start()
	says(t, n, "this node may not claim", "the store did not pass verification")
	n.WaitState(settle, v1.StateStandby, v1.StateHotStandby)
	var shown v1.Node
	if !harness.Poll(settle, func() bool {
		s, err := n.States()
		shown = s.Nodes[n.ID()]
		return err == nil && !shown.Electable && deref(shown.Why) == election.ReasonUntrusted
	}) {
		t.Errorf("it is shown as electable=%t because of %q, want not because of %s", shown.Electable, deref(shown.Why), election.ReasonUntrusted)
	}
	neverFor(t, 3*time.Second, "a store that failed the check was claimed", func() bool { return p.Register() != before || len(p.Record().Trees) > 0 })
	if lies.Fired() == 0 {
		t.Error("the store never lied: this shows nothing")
	}
	lies.Remove()
	// It is checked again after a pause, which doubles from a heartbeat on.
	if next := p.WaitStart(0, 2*settle); next.Term != 1 {
		t.Errorf("%v, want term 1", next)
	}
	p.WaitMaster(settle)
}
