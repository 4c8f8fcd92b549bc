package e2e_test

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/api/v1"
	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/pkg/lease"
	"github.com/understudy-ha/understudy/test/e2e/harness"
	"github.com/understudy-ha/understudy/test/e2e/intervals"
	"github.com/understudy-ha/understudy/test/faultfs"
	"github.com/understudy-ha/understudy/test/need"
)

const (
	// threadsMost is far above what a daemon has (about 12, and at most two
	// stuck workers for each of three kinds of operation), and far below one
	// per heartbeat.
	threadsMost = 40
)

// fast is the timing of the preset of that name, which all planes here use.
func fast(t *testing.T) election.Timing {
	t.Helper()
	timing, err := election.Derive(election.TimingRequest{Preset: "fast", PollDivisor: 5})
	if err != nil {
		t.Fatal(err)
	}
	return timing
}

// TestStoreHangs: the shared directory hangs for every node, first so that
// signals get through, then so that not even SIGKILL would, with a service that
// does not care about SIGTERM. The service ends by the deadline, REST answers
// as if nothing had happened and tells the truth, nobody claims, and when the
// store is back so is the plane.
func TestStoreHangs(t *testing.T) {
	need.Root(t, "mount file systems")
	for _, kind := range []struct {
		name    string
		rule    faultfs.Rule
		service map[string]string
	}{
		{"interruptible", faultfs.Rule{Hang: true}, nil},
		{"deaf", faultfs.Rule{Hang: true, Deaf: true}, map[string]string{"REC_IGNORE_TERM": "1"}},
	} {
		t.Run(kind.name, func(t *testing.T) { storeHangs(t, kind.rule, kind.service) })
	}
}

func storeHangs(t *testing.T, rule faultfs.Rule, service map[string]string) {
	t.Helper()
	timing := fast(t)
	p := harness.NewPlane(t, harness.Options{FaultFS: true, ServiceEnv: service})
	master := p.StartAndWait(settle)
	pids := pidsOf(p)
	healthy := harness.Load(t, p.Nodes, harness.Rounds(150, 500))

	threads := map[*harness.Node]int{}
	hung := intervals.Now()
	faults := hang(p.Nodes, rule)
	registerBefore := register(t, p)
	hanging := harness.Load(t, p.Nodes, harness.Rounds(500, 3000))
	for _, n := range p.Nodes {
		threads[n] = threadsOf(t, n.Pid())
	}

	for i, f := range faults {
		if f.Fired() == 0 {
			t.Errorf("the fault of %s never fired", p.Nodes[i].Name)
		}
	}
	harness.JudgeLoad(t, healthy, hanging)
	rec := p.Record()
	last, ok := rec.LastAliveBefore(intervals.Now())
	if !ok {
		t.Fatal("no service ever ran")
	}
	// A renewal that was confirmed began before the store hung.
	if limit := timing.StopAfter() + timing.Stop; last.Sub(hung) > limit {
		t.Errorf("the service lived %v into the hang, want at most D + S = %v", last.Sub(hung), limit)
	}
	harness.Note(t, fmt.Sprintf("service dead %v after the store hung (D + S = %v)", last.Sub(hung).Round(time.Millisecond), timing.StopAfter()+timing.Stop))
	if n := rec.StartsAfter(hung); n != 0 {
		t.Errorf("%d services started while the store hung for all", n)
	}
	for _, n := range p.Nodes {
		failedWithReason(t, n, election.ReasonLeaseLost, election.ReasonStore)
		if threads[n] > threadsMost {
			t.Errorf("%s has %d threads, want at most %d", n.Name, threads[n], threadsMost)
		}
		harness.Note(t, fmt.Sprintf("%s has %d threads after %v of hanging", n.Name, threads[n], intervals.Now().Sub(hung).Round(time.Second)))
	}
	if s, err := master.States(); err != nil || s.MasterID != nil {
		t.Errorf("the former master says that the master is %v (%v), want none", deref(s.MasterID), err)
	}
	if now := register(t, p); now != registerBefore {
		t.Errorf("the register moved while the store hung: %s, then %s", registerBefore, now)
	}

	healed := intervals.Now()
	for _, f := range faults {
		f.Remove()
	}
	next := p.WaitStart(healed, settle)
	p.WaitSettled(settle)
	harness.Note(t, fmt.Sprintf("a service again %v after the store was back", next.Start.Sub(healed).Round(time.Millisecond)))
	if now := pidsOf(p); !slices.Equal(pids, now) {
		t.Errorf("daemons %v became %v: the plane is to recover without restarts", pids, now)
	}
}

// TestMastersStoreHangs: only the master's view hangs. A standby takes over by
// T + 1 s, and the old service is dead before the new one starts.
func TestMastersStoreHangs(t *testing.T) {
	need.Root(t, "mount file systems")
	timing := fast(t)
	var takeovers []time.Duration
	for range harness.Rounds(1, 5) {
		p := harness.NewPlane(t, harness.Options{FaultFS: true})
		master := p.StartAndWait(settle)
		hung := intervals.Now()
		faults := hang([]*harness.Node{master}, faultfs.Rule{Hang: true, Deaf: true})
		next := p.WaitStart(hung, settle)
		takeovers = append(takeovers, next.Start.Sub(hung))
		if next.Node == master.ID() {
			t.Errorf("%s serves again although its store hangs", master.Name)
		}
		if d := next.Start.Sub(hung); d > timing.Timeout+time.Second {
			t.Errorf("the next service started %v after the hang, want at most T + 1s = %v", d, timing.Timeout+time.Second)
		}
		if last, ok := p.Record().LastAliveBefore(next.Start); !ok || last >= next.Start {
			t.Errorf("the old service lived until %v and the new one started at %v", last, next.Start)
		}
		failedWithReason(t, master, election.ReasonLeaseLost, election.ReasonStore)
		faults[0].Remove()
		if p.WaitSettled(settle) == master {
			t.Error("the old master is master again")
		}
	}
	harness.Figures(t, "take-over when the master's store hangs", takeovers)
}

// TestStoreHangsAtStart: a node that starts while the store hangs waits as
// INITIALIZING and says so; with ha.failFast it ends with code 4. Neither
// needs the store to end.
func TestStoreHangsAtStart(t *testing.T) {
	t.Parallel()
	need.Root(t, "mount file systems")
	p := harness.NewPlane(t, harness.Options{Nodes: 2, FaultFS: true})
	waits, fails := p.Nodes[0], p.Nodes[1]
	fails.Set("ha.failFast", true)
	faults := hang(p.Nodes, faultfs.Rule{Hang: true})
	p.Start()
	if code := fails.WaitExit(settle); code != 4 {
		t.Errorf("with ha.failFast the daemon ended with %d, want 4", code)
	}
	saysOneLine(t, fails.Log(), fails.Store, "no answer from the file system")
	waits.WaitState(settle, v1.StateInitializing)
	says(t, waits, "the store does not answer; waiting for it", waits.Store)
	if r, err := waits.Probe("/master"); err != nil || r.Code != http.StatusServiceUnavailable {
		t.Errorf("/master: %d %v, want 503", r.Code, err)
	}
	faults[0].Remove()
	if m := p.WaitMaster(settle); m != waits {
		t.Errorf("%s is master", m.Name)
	}
	hang(p.Nodes[:1], faultfs.Rule{Hang: true})
	waits.Signal(unix.SIGTERM)
	if code := waits.WaitExit(settle); code != 0 {
		t.Errorf("stopping with the store hung ended with %d, want 0", code)
	}
}

// TestStopWhileStoreHangs: a master that is told to end while its store hangs,
// deaf to signals, can not die of it: the kernel keeps a process whose thread
// is inside the file system. It stops its service and closes its port all the
// same, and a standby takes over when the lease has run out.
func TestStopWhileStoreHangs(t *testing.T) {
	need.Root(t, "mount file systems")
	p := harness.NewPlane(t, harness.Options{Nodes: 2, FaultFS: true})
	master := p.StartAndWait(settle)
	hung := intervals.Now()
	fault := hang([]*harness.Node{master}, faultfs.Rule{Hang: true, Deaf: true})[0]
	master.Signal(unix.SIGTERM)
	next := p.WaitStart(hung, 2*fastT)
	if d := next.Start.Sub(hung); next.Node == master.ID() || d > fastT+time.Second {
		t.Errorf("%s serves after %v, want the other node after at most T + 1 s", next.Node, d)
	}
	var err error
	if !harness.Poll(settle, func() bool { _, err = master.Probe("/livez"); return errors.Is(err, syscall.ECONNREFUSED) }) {
		t.Errorf("the port of a node that was told to end: %v, want connection refused", err)
	}
	if fault.Holding() == 0 {
		t.Error("nothing hangs in the store: this shows nothing")
	}
	fault.Remove()
	if code := master.WaitExit(settle); code != 0 {
		t.Errorf("it ended with %d, want 0", code)
	}
}

// hang injects a rule into the views of the given nodes at once.
func hang(nodes []*harness.Node, rule faultfs.Rule) []*faultfs.Fault {
	var out []*faultfs.Fault
	for _, n := range nodes {
		out = append(out, n.Fault.Inject(rule))
	}
	return out
}

// register is the value in the backing directory, which never hangs.
func register(t *testing.T, p *harness.Plane) string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(p.Store, "lease"))
	if err != nil || len(entries) != 1 {
		t.Fatalf("the register has %d entries: %v", len(entries), err)
	}
	if _, err := lease.ParseValue([]byte(entries[0].Name())); err != nil {
		t.Fatal(err)
	}
	return entries[0].Name()
}

func pidsOf(p *harness.Plane) []int {
	var pids []int
	for _, n := range p.Nodes {
		pids = append(pids, n.Pid())
	}
	return pids
}

// failedWithReason waits until the node shows FAILED and one of the reasons.
func failedWithReason(t *testing.T, n *harness.Node, reasons ...string) {
	t.Helper()
	var state v1.State
	var why string
	if !harness.Poll(settle, func() bool {
		state, why = n.State(), whyOf(n)
		return state == v1.StateFailed && slices.Contains(reasons, why)
	}) {
		t.Errorf("%s shows %s because of %q, want FAILED because of one of %v", n.Name, state, why, reasons)
	}
}

// whyOf is the reason code a node gives for itself.
func whyOf(n *harness.Node) string {
	s, err := n.States()
	if err != nil {
		return err.Error()
	}
	return deref(s.Nodes[n.ID()].Why)
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// threadsOf is the number of threads of a process.
func threadsOf(t *testing.T, pid int) int {
	t.Helper()
	n, err := strconv.Atoi(procStatus(t, pid, "Threads"))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// procStatus is a field of /proc/PID/status.
func procStatus(t *testing.T, pid int, key string) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, key+":"); ok {
			return strings.TrimSpace(v)
		}
	}
	t.Fatalf("no %s in /proc/%d/status", key, pid)
	return ""
}
