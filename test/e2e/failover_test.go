package e2e_test

import (
	"net/http"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/api/v1"
	"github.com/understudy-ha/understudy/pkg/guard"
	"github.com/understudy-ha/understudy/test/e2e/harness"
	"github.com/understudy-ha/understudy/test/e2e/intervals"
	"github.com/understudy-ha/understudy/test/need"
)

const (
	fastT    = 5 * time.Second // of the preset "fast"
	fastBeat = 500 * time.Millisecond
	defaultT = 30 * time.Second

	// settle is how long a plane may take until one node serves and the others
	// watch, beyond the lease that may have to be waited out.
	settle = 20 * time.Second

	// nobody is the ordinary user the nodes run as where that matters.
	nobody = 65534
)

// timings are the settings and the lease of a plane.
type timings struct {
	name     string
	settings map[string]any
	lease    time.Duration
	beat     time.Duration
}

var (
	fastTimings    = timings{"T=5s", harness.Preset("fast"), fastT, fastBeat}
	defaultTimings = timings{"T=30s", harness.Preset("default"), defaultT, time.Second}
)

// TestKillTree kills the master's whole process tree, as a power cut would:
// the next service starts within T + 1 s.
func TestKillTree(t *testing.T) {
	p := harness.NewPlane(t, harness.Options{})
	master := p.StartAndWait(settle)
	var took []time.Duration
	for range harness.Rounds(3, 20) {
		p.AnyMoment(fastBeat)
		at := master.KillTree()
		next := p.WaitStart(at, 2*fastT+settle)
		took = append(took, next.Start.Sub(at))
		another(t, p, next, master)
		master.WaitExit(settle)
		master.Start()
		master = p.WaitSettled(settle)
	}
	if _, longest := harness.Figures(t, "kill -9 of the whole tree to the next start, T=5s", took); longest > fastT+time.Second {
		t.Errorf("it took up to %v, want at most T + 1 s", longest)
	}
}

// another fails the test if the node that ran the service is the given one.
func another(t *testing.T, p *harness.Plane, tree intervals.Tree, not *harness.Node) {
	t.Helper()
	if p.NodeOf(tree) == not {
		t.Errorf("%s serves again: %v", not.Name, tree)
	}
}

// TestTerminate ends the master's daemon in order: from the end of its service
// to the start of the next one there is hardly a gap.
func TestTerminate(t *testing.T) {
	p := harness.NewPlane(t, harness.Options{})
	master := p.StartAndWait(settle)
	var gap, whole []time.Duration
	for range harness.Rounds(3, 20) {
		p.AnyMoment(fastBeat)
		old := p.Latest()
		at := master.Stop(settle)
		next := p.WaitStart(at, settle)
		another(t, p, next, master)
		old = p.Tree(old.ID)
		if !old.Stopped() {
			t.Errorf("the service was killed, not stopped: %v", old)
		}
		gap = append(gap, next.Start.Sub(old.Last))
		whole = append(whole, next.Start.Sub(at))
		master.Start()
		master = p.WaitSettled(settle)
	}
	if _, longest := harness.Figures(t, "SIGTERM: old service's exit to the next start", gap); longest > 500*time.Millisecond {
		t.Errorf("up to %v without a service, want at most 0.5 s", longest)
	}
	harness.Figures(t, "SIGTERM: signal to the next start", whole)
}

// TestKillDaemonAndGuard leaves the service alone in the world: it must die
// all the same, with what it forked, before the next one starts.
func TestKillDaemonAndGuard(t *testing.T) {
	for _, who := range []struct {
		name string
		uid  int
	}{{"root", 0}, {"ordinary user", nobody}} {
		t.Run(who.name, func(t *testing.T) {
			const forks = 2
			p := harness.NewPlane(t, harness.Options{UID: who.uid, ServiceEnv: map[string]string{"REC_FORK": "2"}})
			master := p.StartAndWait(settle)
			var took, outlived []time.Duration
			for range harness.Rounds(2, 20) {
				old := p.Latest()
				if n := len(old.Processes); n != 1+forks {
					t.Errorf("the service has %d processes, want %d", n, 1+forks)
				}
				p.AnyMoment(fastBeat)
				at := master.Kill(harness.Daemon, harness.Guard)
				next := p.WaitStart(at, 2*fastT+settle)
				took = append(took, next.Start.Sub(at))
				if left := master.Processes(); len(left) > 0 {
					t.Errorf("the next service runs and of the former node there is still %v", left)
				}
				old = p.Tree(old.ID)
				outlived = append(outlived, max(0, old.Last.Sub(at)))
				if old.Last >= next.Start {
					t.Errorf("the former service was alive: %v, then %v", old, next)
				}
				master.WaitExit(settle)
				master.Start()
				master = p.WaitSettled(settle)
			}
			harness.Figures(t, "kill -9 of daemon and guard to the service's end", outlived)
			if _, longest := harness.Figures(t, "kill -9 of daemon and guard to the next start, T=5s", took); longest > fastT+time.Second {
				t.Errorf("it took up to %v, want at most T + 1 s", longest)
			}
		})
	}
}

// TestKillDaemon leaves the guard, which stops the service and has the release
// written: nobody has to wait for the lease.
func TestKillDaemon(t *testing.T) {
	for _, tt := range []timings{fastTimings, defaultTimings} {
		t.Run(tt.name, func(t *testing.T) {
			p := harness.NewPlane(t, harness.Options{Settings: tt.settings, ServiceEnv: map[string]string{"REC_FORK": "2"}})
			master := p.StartAndWait(settle)
			var starts, serves []time.Duration
			for range harness.Rounds(3, 50) {
				p.AnyMoment(tt.beat)
				old := p.Latest()
				at := master.Kill(harness.Daemon)
				next := p.WaitStart(at, tt.lease+settle)
				starts = append(starts, next.Start.Sub(at))
				successor := p.NodeOf(next)
				if !harness.Poll(settle, successor.IsMaster) {
					t.Fatalf("%s serves and does not say so", successor.Name)
				}
				serves = append(serves, intervals.Now().Sub(at))
				another(t, p, next, master)
				if left := master.Count(harness.Service); left > 0 {
					t.Errorf("the next service runs and of the former there are %d processes", left)
				}
				if old = p.Tree(old.ID); !old.Stopped() {
					t.Errorf("the guard killed the service instead of stopping it: %v", old)
				}
				master.WaitExit(settle)
				master.WaitGone(settle)
				master.Start()
				master = p.WaitSettled(settle)
			}
			harness.Figures(t, "kill -9 of the daemon to the next start, "+tt.name, starts)
			if _, longest := harness.Figures(t, "kill -9 of the daemon to /master 200, "+tt.name, serves); longest > 2*time.Second {
				t.Errorf("it took up to %v, want at most 2 s", longest)
			}
		})
	}
}

// TestKillGuard leaves the daemon: the service dies with its guard, and the
// daemon starts both anew or steps down.
func TestKillGuard(t *testing.T) {
	p := harness.NewPlane(t, harness.Options{ServiceEnv: map[string]string{"REC_FORK": "2"}})
	master := p.StartAndWait(settle)
	var dead, starts, serves []time.Duration
	for range harness.Rounds(3, 20) {
		p.AnyMoment(fastBeat)
		old := p.Latest()
		at := master.Kill(harness.Guard)
		next := p.WaitStart(at, 2*fastT+settle)
		starts = append(starts, next.Start.Sub(at))
		p.WaitMaster(settle)
		serves = append(serves, intervals.Now().Sub(at))
		old = p.Tree(old.ID)
		dead = append(dead, max(0, old.Last.Sub(at)))
		if old.Last >= next.Start {
			t.Errorf("the former service was alive: %v, then %v", old, next)
		}
		if !master.Running() {
			t.Errorf("the daemon of %s ended with its guard", master.Name)
		}
		master = p.WaitSettled(settle)
		// The node that lost its guard has a new one before the next round.
		for _, n := range p.Nodes {
			if !harness.Poll(settle, func() bool { return n.Count(harness.Guard) == 1 }) {
				t.Fatalf("%s has %d guards", n.Name, n.Count(harness.Guard))
			}
		}
	}
	harness.Figures(t, "kill -9 of the guard to the service's end", dead)
	harness.Figures(t, "kill -9 of the guard to the next start", starts)
	if _, longest := harness.Figures(t, "kill -9 of the guard to /master 200", serves); longest > fastT+time.Second {
		t.Errorf("it took up to %v, want at most T + 1 s", longest)
	}
}

// TestKillTreeLater pins the other side of the lease: nobody takes over early.
// The short form has a shorter lease.
func TestKillTreeLater(t *testing.T) {
	tt := defaultTimings
	still, by, median := 25*time.Second, 32*time.Second, 31300*time.Millisecond
	if !harness.Slow() {
		tt = timings{"T=10s", map[string]any{"ha.preset": nil, "ha.heartbeatTimeout": "10s"}, 10 * time.Second, time.Second}
		still, by, median = 8*time.Second, 12*time.Second, 11500*time.Millisecond
	}
	p := harness.NewPlane(t, harness.Options{Settings: tt.settings})
	master := p.StartAndWait(settle)
	var starts, serves []time.Duration
	for range harness.Rounds(1, 5) {
		p.AnyMoment(tt.beat)
		at := master.KillTree()
		master.WaitExit(settle)
		// All the time up to then, not only at the end of it.
		for intervals.Now() < at.Add(still) {
			for _, n := range p.Nodes {
				if n == master {
					continue
				}
				r, err := n.Probe("/master")
				state := v1.State("")
				if err == nil {
					state = v1.State(r.Header.Get(v1.HeaderState))
				}
				if since := intervals.Now().Sub(at); since < still && (r.Code != http.StatusServiceUnavailable || (state != v1.StateStandby && state != v1.StateHotStandby)) {
					t.Errorf("%s is %q and answers %d (%v) %v after the kill", n.Name, state, r.Code, err, since)
				}
			}
			time.Sleep(50 * time.Millisecond)
		}
		next := p.WaitStart(at, tt.lease+settle)
		starts = append(starts, next.Start.Sub(at))
		if next.Start.Sub(at) < still {
			t.Errorf("%v started %v after the kill", next, next.Start.Sub(at))
		}
		p.WaitMaster(settle)
		serves = append(serves, intervals.Now().Sub(at))
		master.Start()
		master = p.WaitSettled(settle)
	}
	if mid, _ := harness.Figures(t, "kill -9 of the whole tree to the next start, "+tt.name, starts); mid > median {
		t.Errorf("the median is %v, want at most %v", mid, median)
	}
	if _, longest := harness.Figures(t, "kill -9 of the whole tree to /master 200, "+tt.name, serves); longest > by {
		t.Errorf("it took up to %v, want at most %v", longest, by)
	}
}

// TestStopAllAndStartAgain ends a plane in order: nothing is left running, the
// term is released, the others say who left, and the next start needs no lease
// to run out.
func TestStopAllAndStartAgain(t *testing.T) {
	p := harness.NewPlane(t, harness.Options{ServiceEnv: map[string]string{"REC_FORK": "2"}})
	master := p.StartAndWait(settle)

	t.Log("a standby leaves")
	leaver := p.Standby(master)
	leaver.Stop(settle)
	leaver.WaitGone(settle)
	waitShown(t, master, leaver, v1.StateTerminated)

	t.Log("the master leaves")
	at := master.Stop(settle)
	master.WaitGone(settle)
	last := p.NodeOf(p.WaitStart(at, settle))
	waitShown(t, last, master, v1.StateTerminated)

	t.Log("the last one leaves")
	if p.WaitMaster(settle) != last {
		t.Fatalf("%s is not master", last.Name)
	}
	term := p.Latest().Term
	last.Stop(settle)
	last.WaitGone(settle)
	v := p.Register()
	if v.Held || uint64(v.Term) != term {
		t.Errorf("the register says term %d, held %t; want term %d, released", v.Term, v.Held, term)
	}

	t.Log("all start again")
	again := intervals.Now()
	p.Start()
	next := p.WaitStart(again, settle)
	harness.Figures(t, "start of the daemons of a released plane to the service's start", []time.Duration{next.Start.Sub(again)})
	if next.Term <= term {
		t.Errorf("term %d, want more than %d", next.Term, term)
	}
	if d := next.Start.Sub(again); d > fastT {
		t.Errorf("the first start took %v although the term was released", d)
	}
	p.WaitSettled(settle)
}

// waitShown waits until one node shows a state of another.
func waitShown(t *testing.T, by, whom *harness.Node, want v1.State) {
	t.Helper()
	var got v1.State
	if !harness.Poll(settle, func() bool {
		s, err := by.States()
		got = s.Nodes[whom.ID()].Status
		return err == nil && got == want
	}) {
		t.Errorf("%s shows %s as %q, want %s", by.Name, whom.Name, got, want)
	}
}

// TestTerminateWhileServiceIsSlow ends the master in order while its service
// takes its time: nobody else starts before it is gone.
func TestTerminateWhileServiceIsSlow(t *testing.T) {
	p := harness.NewPlane(t, harness.Options{ServiceEnv: map[string]string{"REC_STOP_DELAY": "600"}})
	master := p.StartAndWait(settle)
	old := p.Latest()
	at := master.Signal(unix.SIGTERM)
	next := p.WaitStart(at, settle)
	master.WaitExit(settle)
	if d := next.Start.Sub(at); d < 600*time.Millisecond {
		t.Errorf("the next service started after %v", d)
	}
	if old = p.Tree(old.ID); !old.Stopped() {
		t.Errorf("the service was killed, not stopped: %v", old)
	}
	harness.Figures(t, "slow service: exit to the next start", []time.Duration{next.Start.Sub(old.Last)})
}

// TestKillsInOtherIsolations kills daemon, guard and shim, alone and together,
// where no PID namespace holds the service's tree: in a cgroup, which the kernel
// empties and whose emptiness it vouches for, and in a process group. The plane
// judges at the end that no two services overlapped.
func TestKillsInOtherIsolations(t *testing.T) {
	for _, isolation := range []string{guard.IsolationCgroup, guard.IsolationGroup} {
		t.Run(isolation, func(t *testing.T) {
			need.Root(t, "mount file systems")
			p := harness.NewPlane(t, harness.Options{
				ServiceEnv: map[string]string{"REC_FORK": "2"}, Settings: map[string]any{"service.isolation": isolation},
			})
			master := p.StartAndWait(settle)
			for _, roles := range [][]harness.Role{
				{harness.Daemon}, {harness.Guard}, {harness.Shim}, {harness.Daemon, harness.Guard}, {harness.Guard, harness.Shim},
			} {
				old := p.Latest()
				at := master.Kill(roles...)
				next := p.WaitStart(at, 2*fastT+settle)
				if old = p.Tree(old.ID); old.Last >= next.Start {
					t.Errorf("%v killed: the former service was alive: %v, then %v", roles, old, next)
				}
				if roles[0] == harness.Daemon {
					master.WaitExit(settle)
					master.Start()
				}
				master = p.WaitSettled(settle)
			}
			for _, n := range p.Nodes { // in order, so that no cgroup is left
				n.Stop(settle)
			}
		})
	}
}
