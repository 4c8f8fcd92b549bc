package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/persistence/posix"
	"github.com/understudy-ha/understudy/pkg/clock"
	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/lease"
	"github.com/understudy-ha/understudy/test/e2e/harness"
	"github.com/understudy-ha/understudy/test/e2e/intervals"
	"github.com/understudy-ha/understudy/test/need"
)

// TestRestartProvesItself restarts the only node of a plane after a kill -9 of
// everything: its record proves that the former run is over, so it need not
// wait for its own lease (R10). Without the record it must.
func TestRestartProvesItself(t *testing.T) {
	t.Run("T=30s with the record", func(t *testing.T) {
		p := harness.NewPlane(t, harness.Options{Nodes: 1, Settings: defaultTimings.settings})
		master := p.StartAndWait(settle)
		var took []time.Duration
		for range harness.Rounds(1, 5) {
			master.KillTree()
			master.WaitExit(settle)
			master.WaitGone(settle)
			at := intervals.Now()
			master.Start()
			next := p.WaitStart(at, 2*defaultT)
			took = append(took, next.Start.Sub(at))
			p.WaitMaster(settle)
		}
		// Watching for 2(h+o) is 8 s with h = 1 s and o = 3 s.
		timing, err := election.Derive(election.TimingRequest{Preset: "default"})
		if err != nil {
			t.Fatal(err)
		}
		limit := timing.ProofWatch() + 2*time.Second
		if _, longest := harness.Figures(t, "restart of a killed node to its service's start, T=30s", took); longest > limit {
			t.Errorf("it took up to %v, want at most %v, which is 2(h+o) and 2 s", longest, limit)
		}
	})
	for _, tt := range []struct {
		name  string
		spoil func(record string) error
	}{
		{"T=5s without it", os.Remove},
		{"T=5s with that of another machine", func(record string) error {
			b, err := os.ReadFile(record)
			if err != nil {
				return err
			}
			var fields map[string]any
			if err := json.Unmarshal(b, &fields); err != nil {
				return err
			}
			fields["machineId"] = "00000000000000000000000000000000"
			if b, err = json.Marshal(fields); err != nil {
				return err
			}
			return os.WriteFile(record, b, 0o600)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := harness.NewPlane(t, harness.Options{Nodes: 1})
			master := p.StartAndWait(settle)
			master.KillTree()
			master.WaitExit(settle)
			master.WaitGone(settle)
			if err := tt.spoil(filepath.Join(master.DataDir, "incarnation.json")); err != nil {
				t.Fatal(err)
			}
			at := intervals.Now()
			master.Start()
			took := p.WaitStart(at, 2*fastT+settle).Start.Sub(at)
			harness.Figures(t, "restart of a killed node that can prove nothing", []time.Duration{took})
			if took < fastT {
				t.Errorf("it served after %v: it may not, before the lease of its former run is over", took)
			}
			if took > fastT+3*time.Second {
				t.Errorf("it served after %v, want about T", took)
			}
		})
	}
}

// crowd is how many nodes start at once.
const crowd = 20

// stagger is within what time the nodes of a crowd start: all in each other's
// way, or some when others have found their places.
func stagger(round int) time.Duration {
	return []time.Duration{20 * time.Millisecond, 100 * time.Millisecond, 500 * time.Millisecond}[round%3]
}

// TestCrowdOfLibraryNodes starts 20 nodes of the Go library at once, on a
// posix directory: exactly one becomes master.
func TestCrowdOfLibraryNodes(t *testing.T) {
	timing, err := election.Derive(election.TimingRequest{Preset: "fast"})
	if err != nil {
		t.Fatal(err)
	}
	var took []time.Duration
	for round := range harness.Rounds(3, 50) {
		took = append(took, libraryRound(t, timing, stagger(round)))
		if t.Failed() {
			t.Fatalf("in round %d", round+1)
		}
	}
	harness.Figures(t, "20 library nodes: start of the first to one master", took)
}

func libraryRound(t *testing.T, timing election.Timing, most time.Duration) time.Duration {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "store")
	if err := os.Mkdir(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	initPlane(t, dir, timing.Timeout)

	var reigning, began atomic.Int32
	var stores []*posix.Store
	var nodes []*ha.Node
	for i := range crowd {
		store, err := posix.Open(dir, posix.Options{})
		if err != nil {
			t.Fatal(err)
		}
		memory, err := ha.OpenDir(filepath.Join(t.TempDir(), fmt.Sprint(i)))
		if err != nil {
			t.Fatal(err)
		}
		n, err := ha.New(store, ha.Options{
			Node: memory.Node(), Timing: timing, HotStandby: true, Clock: clock.Now, Memory: memory,
			OnReign: func(ctx context.Context, _ ha.Reign) error {
				began.Add(1)
				if n := reigning.Add(1); n != 1 {
					t.Errorf("%d reign at once", n)
				}
				<-ctx.Done()
				reigning.Add(-1)
				return ctx.Err()
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		stores, nodes = append(stores, store), append(nodes, n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	first := intervals.Now()
	for _, n := range nodes {
		wg.Go(func() {
			time.Sleep(rand.N(most)) //nolint:gosec // a pause
			if err := n.Run(ctx); err != nil {
				t.Errorf("%v", err)
			}
		})
	}
	count := func() (masters, standbys int) {
		for _, n := range nodes {
			switch n.State() {
			case lease.StateMaster:
				masters++
			case lease.StateHotStandby:
				standbys++
			case lease.StateInitializing, lease.StateStandby, lease.StateHotBackup, lease.StateFailed, lease.StateTerminated:
			}
		}
		return masters, standbys
	}
	var masters, standbys int
	ok := harness.Poll(settle, func() bool { masters, _ = count(); return masters > 0 })
	at := intervals.Now()
	ok = ok && harness.Poll(settle, func() bool { masters, standbys = count(); return masters == 1 && standbys == crowd-1 })
	if !ok {
		t.Errorf("%d masters and %d standbys, want 1 and %d", masters, standbys, crowd-1)
	}
	// It stays so, while the crowd has every chance to do otherwise.
	for range 50 {
		if m, _ := count(); m != 1 {
			t.Errorf("%d masters, want 1", m)
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if n := began.Load(); n != 1 {
		t.Errorf("%d reigns began, want 1", n)
	}
	cancel()
	wg.Wait()
	for _, s := range stores {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	return at.Sub(first)
}

// initPlane makes a plane that is free for the first claim, as `understudy
// init` does.
func initPlane(t *testing.T, dir string, length time.Duration) {
	t.Helper()
	store, err := posix.Open(dir, posix.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	v := lease.Value{Plane: "abcdefgh", Lease: length, WriteID: ha.NewWriteID()}
	if err := store.Init(t.Context(), v.Encode()); err != nil {
		t.Fatal(err)
	}
}

// TestCrowdOfDaemons starts 20 real daemons at once: exactly one becomes
// master. When that one is gone, the 19 others want its place at one instant.
func TestCrowdOfDaemons(t *testing.T) {
	var took, again []time.Duration
	for round := range harness.Rounds(1, 5) {
		t.Run("round", func(t *testing.T) {
			p := harness.NewPlane(t, harness.Options{Nodes: crowd})
			var after []time.Duration
			for range crowd {
				after = append(after, rand.N(stagger(round))) //nolint:gosec // a pause
			}
			slices.Sort(after)
			at := intervals.Now()
			for i, n := range p.Nodes {
				time.Sleep(at.Add(after[i]).Sub(intervals.Now()))
				n.Start()
			}
			next := p.WaitStart(at, 2*settle)
			took = append(took, next.Start.Sub(at))
			master := p.WaitSettled(3 * settle)
			if p.NodeOf(next) != master {
				t.Errorf("%s is master, and %s serves", master.Name, p.NodeOf(next).Name)
			}
			if n := len(p.Record().Trees); n != 1 {
				t.Errorf("%d services started, want 1", n)
			}
			if got := p.WaitMaster(settle); got != master {
				t.Errorf("%s is master, and was %s", got.Name, master.Name)
			}
			var known int
			if !harness.Poll(settle, func() bool {
				s, err := master.States()
				known = len(s.Nodes)
				return err == nil && known == crowd
			}) {
				t.Errorf("the master knows %d nodes, want %d", known, crowd)
			}

			at = master.KillTree()
			next = p.WaitStart(at, 2*fastT+settle)
			again = append(again, next.Start.Sub(at))
			another(t, p, next, master)
			master.WaitExit(settle)
			if got := p.WaitSettled(settle); got != p.NodeOf(next) {
				t.Errorf("%s is master, and %s serves", got.Name, p.NodeOf(next).Name)
			}
			if n := len(p.Record().Trees); n != 2 {
				t.Errorf("%d services started, want 2", n)
			}
		})
	}
	harness.Figures(t, "20 daemons: start of the first to the service's start", took)
	if _, longest := harness.Figures(t, "20 daemons: kill -9 of the master's tree to the next start", again); longest > fastT+time.Second {
		t.Errorf("it took up to %v, want at most T + 1 s", longest)
	}
}

// TestCurl asks as a person would.
func TestCurl(t *testing.T) {
	p := harness.NewPlane(t, harness.Options{})
	master := p.StartAndWait(settle)
	standby := p.Standby(master)
	if got := curl(t, master, "/v1/server/ha/state"); got != `"MASTER"` {
		t.Errorf("the master's state is %s, want \"MASTER\" in quotes", got)
	}
	if got := curl(t, standby, "/v1/server/ha/state"); got != `"HOT_STANDBY"` {
		t.Errorf("a standby's state is %s, want \"HOT_STANDBY\" in quotes", got)
	}
	var states struct {
		PlaneID  string `json:"planeId"`
		OwnID    string `json:"ownId"`
		MasterID string `json:"masterId"`
		Nodes    map[string]map[string]any
		Links    map[string]any
	}
	want := map[string]string{}
	for _, n := range p.Nodes {
		want[n.ID()] = "HOT_STANDBY"
	}
	want[master.ID()] = "MASTER"
	got := ""
	// A standby hears of the others through the store, and believes that they
	// live once it has seen them do something.
	if !harness.Poll(settle, func() bool {
		got = curl(t, standby, "/v1/server/ha/states")
		if err := json.Unmarshal([]byte(got), &states); err != nil {
			t.Fatalf("%v: %s", err, got)
		}
		is := map[string]string{}
		for id, node := range states.Nodes {
			is[id], _ = node["status"].(string)
		}
		return maps.Equal(is, want)
	}) {
		t.Errorf("a standby never shows %v, but %s", want, got)
	}
	if states.PlaneID != string(p.Register().Plane) || states.OwnID != standby.ID() || states.MasterID != master.ID() || states.Links == nil {
		t.Errorf("states: %+v", states)
	}
	for _, n := range p.Nodes {
		node := states.Nodes[n.ID()]
		for _, key := range []string{"nodeId", "nodeUri", "status", "priority", "localTimestamp", "remoteTimestamp"} {
			if node[key] == nil {
				t.Errorf("%s: %s is %v", n.Name, key, node[key])
			}
		}
	}
	r, err := master.Probe("/v1/server/ha/state")
	if err != nil || r.Code != 401 {
		t.Errorf("without a password: %d, %v; want 401", r.Code, err)
	}
}

// curl asks with the real program.
func curl(t *testing.T, n *harness.Node, path string) string {
	t.Helper()
	return curlWith(t, n, path)
}

func curlWith(t *testing.T, n *harness.Node, path string, args ...string) string {
	t.Helper()
	program, err := exec.LookPath("curl")
	if err != nil {
		need.Missing(t, "curl is missing; on Debian: apt-get install curl")
	}
	user, password, err := n.Credentials()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, append(args, "-sS", "-k", "-u", user+":"+password, n.URL(path))...)
	b, err := cmd.Output()
	if err != nil {
		t.Fatalf("curl: %v: %s", err, b)
	}
	return string(b)
}
