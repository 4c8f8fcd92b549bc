package nfs

import (
	"errors"
	"fmt"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/api/v1"
	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/persistence/storetest"
	"github.com/understudy-ha/understudy/pkg/doctor"
	"github.com/understudy-ha/understudy/test/e2e/harness"
	"github.com/understudy-ha/understudy/test/e2e/intervals"
	"github.com/understudy-ha/understudy/test/need"
	"github.com/understudy-ha/understudy/test/nfs/claims"
	"github.com/understudy-ha/understudy/test/nfs/wire"
)

// What the preset "fast" means, see pkg/election/timing.go.
const (
	fastT = 5 * time.Second
	fastE = 4450 * time.Millisecond // end of the right to serve, after the start of a renewal
)

var versions = []string{"3", "4.1", "4.2"}

// full reports whether the long form is asked for.
func full() bool { return os.Getenv("NFS_FULL") == "1" }

func pick[T any](short, long T) T {
	if full() {
		return long
	}
	return short
}

// TestNFS is everything, on one lab. NFS_FULL=1 is the long form.
func TestNFS(t *testing.T) {
	if err := Missing(); err != nil {
		need.Missing(t, err.Error())
	}
	began := intervals.Now()
	l := NewLab(t, 2)
	t.Cleanup(l.Close)
	t.Logf("server and two clients are up after %v", intervals.Now().Sub(began).Round(time.Millisecond))
	for _, g := range l.guests() {
		t.Logf("the clock of %s is known to within %v", g.Name, g.clock.error())
	}

	t.Run("conformance", func(t *testing.T) { testConformance(t, l, pick([]string{"4.2", "3"}, versions)) })
	for _, tt := range []struct {
		name  string
		f     func(*testing.T, *Lab, string)
		short []string // versions in the short form
	}{
		{"two clients", testTwoClients, nil},
		{"verify", testVerify, nil},
		{"verify together", testVerifyTogether, []string{"4.2"}},
		{"doctor", testDoctor, []string{"4.2"}},
		{"renewals", testRenewals, []string{"4.2"}},
		{"clean stop", testCleanStop, nil},
		{"server unplugged", testUnplugged, nil},
		{"server frozen", testFrozen, nil},
		{"server dies", testServerDies, nil},
		{"unmounted", testUnmounted, nil},
		{"mounted over", testMountedOver, nil},
		{"host dies", testHostDies, []string{"4.2"}},
		{"watchdog", testWatchdog, []string{"4.2"}},
	} {
		for _, version := range pick(tt.short, versions) {
			t.Run(tt.name+" "+version, func(t *testing.T) { tt.f(t, l, version) })
		}
	}
	for _, g := range l.guests() {
		if !g.Running() {
			continue
		}
		if err := g.lookAtClock(); err != nil {
			t.Error(err)
		}
	}
}

// testConformance runs the posix store's own test of the contract, compiled,
// on clients and their mounts, on as many at once as there are.
func testConformance(t *testing.T, l *Lab, versions []string) {
	t.Helper()
	for some := range slices.Chunk(versions, len(l.Clients)) {
		t.Run("NFS", func(t *testing.T) {
			for i, version := range some {
				g, name := l.Clients[i], l.mkdir(t)
				t.Run(version, func(t *testing.T) {
					t.Parallel()
					g.Mount(t, name, version, "")
					defer g.Unmount(t, unix.MNT_DETACH)
					conform(t, g)
				})
			}
		})
	}
}

func conform(t *testing.T, g *Guest) {
	t.Helper()
	res := g.Run(t, wire.Command{
		Args:    []string{wire.Share + "/posix.test", "-test.v", "-test.run=^TestConformance$"},
		Env:     []string{"TMPDIR=" + Dir},
		Timeout: 5 * time.Minute,
	})
	passed := strings.Count(res.Output, "--- PASS: TestConformance/")
	if res.Code != 0 || passed == 0 || passed != strings.Count(res.Output, "=== RUN   TestConformance/") {
		t.Fatalf("exit code %d, %d tests passed:\n%s", res.Code, passed, res.Output)
	}
	harness.Note(t, fmt.Sprintf("all %d tests of the contract pass", passed))
}

// testVerify asks understudy itself what it thinks of such a mount.
func testVerify(t *testing.T, l *Lab, version string) {
	t.Helper()
	l.Mount(t, version, "")
	var verdict struct{ Verdict string }
	l.Clients[0].ask(t, &verdict, "store", "verify", "file://"+Dir)
	if !strings.HasPrefix(verdict.Verdict, "safe: ") {
		t.Errorf("verify says %q", verdict.Verdict)
	}
	harness.Note(t, fmt.Sprintf("NFS %s: store verify says %q", version, verdict.Verdict))
}

// lateClock is the one thing that may be found amiss: the clock that stamps the
// files of an idle User Mode Linux server stands still while a busy host gives
// it no time.
var lateClock = regexp.MustCompile(`: safe, with 1 to look at: [0-9a-z.]+ behind this machine's`)

// testVerifyTogether has the two machines race each other for one register.
func testVerifyTogether(t *testing.T, l *Lab, version string) {
	t.Helper()
	l.Mount(t, version, "")
	const log = wire.Data + "/verify.log"
	command := []string{wire.Share + "/understudy", "store", "verify", "file://" + Dir}
	first := make(chan wire.Result, 1)
	go func() {
		res, err := l.Clients[0].run(wire.Command{
			Args:    []string{"busybox", "sh", "-c", strings.Join(command, " ") + " --peer client2 >" + log + " 2>&1"},
			Timeout: 5 * time.Minute,
		})
		if err != nil {
			res = wire.Result{Output: err.Error(), Code: -1}
		}
		first <- res
	}()
	told := func() string { return l.Clients[0].Run(t, wire.Command{Args: []string{"busybox", "cat", log}}).Output }
	join := regexp.MustCompile(`--join ([a-z0-9]+)`)
	var token []string
	if !harness.Poll(time.Minute, func() bool { token = join.FindStringSubmatch(told()); return token != nil }) {
		t.Fatalf("nothing to join: %s", told())
	}
	second := l.Clients[1].Run(t, wire.Command{Args: append(command, "--join", token[1]), Timeout: 5 * time.Minute})
	if res := <-first; res.Code != 0 || second.Code != 0 {
		t.Errorf("exit codes %d and %d\n%s\n%s\n%s", res.Code, second.Code, res.Output, told(), second.Output)
	}
	for _, said := range []string{told(), second.Output} {
		lines := strings.Split(strings.TrimSpace(said), "\n")
		if last := lines[len(lines)-1]; !strings.Contains(last, ": safe: ") && !lateClock.MatchString(last) {
			t.Errorf("the verdict is %q", last)
		}
	}
}

// testDoctor asks the doctor before the first start. What it finds wrong with
// the rest of so bare a machine is no matter; of the store nothing is.
func testDoctor(t *testing.T, l *Lab, version string) {
	t.Helper()
	l.Mount(t, version, "")
	g := l.Clients[0]
	g.configure(t)
	var r doctor.Report
	g.ask(t, &r, "doctor", "--config", configFile)
	var of []string
	for _, f := range r.Findings {
		if strings.HasPrefix(f.Name, "store") {
			of = append(of, f.Name)
			if f.Status != persistence.GradeOK && f.Name != "store clock" { // see lateClock
				t.Errorf("%s: %s: %s -> %s", f.Status, f.Name, f.Detail, f.Remedy)
			}
		}
		if f.Name == "store file system" && !strings.HasPrefix(f.Detail, "nfs") {
			t.Errorf("the file system is said to be %s", f.Detail)
		}
		t.Logf("%-4s  %-20s  %s", f.Status, f.Name, f.Detail)
	}
	if !r.OK || !slices.Contains(of, "store semantics") || !slices.Contains(of, "store file system") {
		t.Errorf("doctor says %q, of the store it looked at %v", r.Verdict, of)
	}
	harness.Note(t, fmt.Sprintf("NFS %s: doctor says %q", version, r.Verdict))
}

// testTwoClients is the test of the contract with its two handles on two
// machines, whose caches know nothing of each other.
func testTwoClients(t *testing.T, l *Lab, version string) {
	t.Helper()
	l.Mount(t, version, "")
	n := 0
	storetest.Run(t, func(t *testing.T) (a, b persistence.Store) {
		t.Helper()
		n++
		dir := path.Join(Dir, fmt.Sprintf("s%d", n))
		if res := l.Clients[0].Run(t, wire.Command{Args: []string{"busybox", "mkdir", dir}}); res.Code != 0 {
			t.Fatal(res.Output)
		}
		return l.Clients[0].Store(t, dir), l.Clients[1].Store(t, dir)
	})
}

// testRenewals races four writers on each of two machines.
func testRenewals(t *testing.T, l *Lab, version string) {
	t.Helper()
	l.Mount(t, version, "")
	s := l.Clients[0].Store(t, Dir)
	if err := s.Init(t.Context(), []byte(claims.First)); err != nil {
		t.Fatal(err)
	}
	const limit = 20 * time.Minute
	began := intervals.Now()
	var wg sync.WaitGroup
	results, errs := make([]wire.Result, len(l.Clients)), make([]error, len(l.Clients))
	for i, g := range l.Clients {
		wg.Go(func() {
			results[i], errs[i] = g.run(wire.Command{
				Args: []string{
					wire.Share + "/renewers", "-dir", Dir, "-name", g.Name, "-writers", "4",
					"-until", fmt.Sprint(pick(1000, 20000)), "-limit", limit.String(),
				},
				Timeout: limit,
			})
		})
	}
	wg.Wait()
	took := intervals.Now().Sub(began)
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	last, err := s.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var all []claims.Claim
	for i, res := range results {
		own, err := claims.Parse(res.Output)
		if res.Code != 0 || err != nil || len(own) == 0 {
			t.Fatalf("%s: exit code %d, %d claims, %v: %.500s", l.Clients[i].Name, res.Code, len(own), err, res.Output)
		}
		all = append(all, own...)
	}
	v, err := claims.Judge(all, string(last.Value))
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range v.Double {
		t.Error(d)
	}
	harness.Note(t, fmt.Sprintf("NFS %s: 8 writers on 2 clients, %v; %v, %.0f a second", version, v, took.Round(time.Second), float64(v.Renewals)/took.Seconds()))
}

// testHostDies kills the master's whole machine.
func testHostDies(t *testing.T, l *Lab, version string) {
	t.Helper()
	name := l.Mount(t, version, "")
	nodes := l.NewPlane(t)
	var took []time.Duration
	for {
		master, standby := nodes[0], nodes[1]
		at := master.Kill()
		next := l.WaitStart(t, at, 2*fastT+settle)
		took = append(took, next.Start.Sub(at))
		standby.WaitMaster(t)
		if len(took) == pick(1, 5) {
			break
		}
		master.Boot(t)
		master.Mount(t, name, version, "")
		nodes[0], nodes[1] = standby, master.StartNode(t)
		nodes[1].WaitStandby(t)
	}
	// A service's start is part of it, and takes up to a second and more in
	// User Mode Linux where other work goes on.
	median, longest := harness.Figures(t, "NFS "+version+": death of the master's machine to the next start, T=5s", took)
	if longest > fastT+3*time.Second {
		t.Errorf("it took up to %v, want at most T + 3 s", longest)
	}
	if full() && median > fastT+1500*time.Millisecond {
		t.Errorf("the median is %v, want at most T + 1.5 s", median)
	}
}

// testCleanStop ends the master's daemon in order.
func testCleanStop(t *testing.T, l *Lab, version string) {
	t.Helper()
	l.Mount(t, version, "")
	nodes := l.NewPlane(t)
	var claim, start []time.Duration
	for range 5 {
		master, standby := nodes[0], nodes[1]
		old := l.latest(t)
		at := intervals.Now()
		master.Terminate(t)
		leads := standby.WaitLeader(t)
		next := l.WaitStart(t, at, settle)
		end := l.WaitEnd(t, old.ID, settle).Last
		claim, start = append(claim, leads.Sub(end)), append(start, next.Start.Sub(end))
		standby.WaitMaster(t)
		master.end(t)
		standby.WaitShows(t, old.Node, v1.StateTerminated)
		nodes[0], nodes[1] = standby, master.StartNode(t)
		nodes[1].WaitStandby(t)
	}
	// Who waits for a lease waits for more than T.
	median, longest := harness.Figures(t, "NFS "+version+": SIGTERM, old service's exit to the next holder", claim)
	if median > time.Second || longest > fastT/2 {
		t.Errorf("it took %v, up to %v; want 1 s, and at most T/2", median, longest)
	}
	harness.Figures(t, "NFS "+version+": SIGTERM, old service's exit to the next start", start)
}

func (l *Lab) latest(tb testing.TB) intervals.Tree {
	tb.Helper()
	tree, ok := l.Record(tb).Latest()
	if !ok {
		tb.Fatal("no service has started")
	}
	return tree
}

func testUnplugged(t *testing.T, l *Lab, version string) {
	t.Helper()
	testOutage(t, l, version, time.Minute, func() (end func()) { return l.Unplug(t) })
}

func testFrozen(t *testing.T, l *Lab, version string) {
	t.Helper()
	testOutage(t, l, version, time.Minute, func() (end func()) { return l.Server.Freeze(t) })
}

// testServerDies kills the server and boots it again with its disk. What it has
// promised is still there, and for 10 s it takes nothing new.
func testServerDies(t *testing.T, l *Lab, version string) {
	t.Helper()
	testOutage(t, l, version, 15*time.Second, func() (end func()) {
		l.Server.Kill()
		return func() {
			l.Server.Boot(t)
			if err := l.serve(true); err != nil {
				t.Error(err)
			}
		}
	})
}

// testOutage takes the server away for some time. Nothing but time may be
// needed for everything to be as before.
func testOutage(t *testing.T, l *Lab, version string, outage time.Duration, begin func() (end func())) {
	t.Helper()
	l.Mount(t, version, "")
	nodes := l.NewPlane(t)
	old := l.latest(t)

	at := intervals.Now()
	end := sync.OnceFunc(begin())
	t.Cleanup(end) // or nothing could be unmounted
	stopped := l.WaitEnd(t, old.ID, settle).Last.Sub(at)
	// The renewal that counts last began before the outage.
	if stopped > fastE {
		t.Errorf("the service lived for %v after the server was gone, want at most %v", stopped, fastE)
	}
	for intervals.Now() < at.Add(outage) {
		for _, n := range nodes {
			if n.IsMaster() && intervals.Now().Sub(at) > fastE {
				t.Errorf("%s says it is master %v after the server was gone", n.Name, intervals.Now().Sub(at))
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	if n := l.Record(t).StartsAfter(at); n > 0 {
		t.Errorf("%d services started without a server", n)
	}

	back := intervals.Now()
	end()
	next := l.WaitStart(t, back, 3*time.Minute)
	took := next.Start.Sub(back)
	if !harness.Poll(settle, func() bool { return nodes[0].IsMaster() != nodes[1].IsMaster() }) {
		t.Error("a service runs and not exactly one node says that it is master")
	}
	if nodes[0].IsMaster() {
		nodes[1].WaitStandby(t)
	} else {
		nodes[0].WaitStandby(t)
	}
	for _, n := range nodes {
		if !n.Runs(t) {
			t.Errorf("the daemon of %s has ended", n.Name)
		}
	}
	harness.Note(t, fmt.Sprintf("NFS %s: server away for %v: service's end after %v, next start %v after its return, no restart of anything",
		version, outage, stopped.Round(time.Millisecond), took.Round(time.Millisecond)))
}

// testUnmounted takes the mount away under a running master, as `umount -l`
// does, and gives it back.
func testUnmounted(t *testing.T, l *Lab, version string) {
	t.Helper()
	name := l.Mount(t, version, "")
	testVoid(t, l, version, "unmounted",
		func(g *Guest) { g.Unmount(t, unix.MNT_DETACH) },
		func(g *Guest) { g.Mount(t, name, version, "") })
}

// testMountedOver hides the mount beneath another, empty file system.
func testMountedOver(t *testing.T, l *Lab, version string) {
	t.Helper()
	l.Mount(t, version, "")
	testVoid(t, l, version, "mounted over",
		func(g *Guest) {
			g.must(t, "Guest.Mount", wire.MountArgs{Source: "none", Target: Dir, Type: "tmpfs"}, &wire.Nothing{})
		},
		func(g *Guest) { g.Unmount(t, unix.MNT_DETACH) })
}

// testVoid has the master's location vanish while it runs. It must stop, write
// nothing in the place, and take part again once the location is back.
func testVoid(t *testing.T, l *Lab, version, what string, vanish, restore func(*Guest)) {
	t.Helper()
	nodes := l.NewPlane(t)
	master, standby := nodes[0], nodes[1]
	old := l.latest(t)
	at := intervals.Now()
	vanish(master.Guest)
	next := l.WaitStart(t, at, 2*fastT+settle)
	stopped := l.WaitEnd(t, old.ID, settle).Last.Sub(at)
	if stopped > fastE {
		t.Errorf("the service lived for %v after the location was gone, want at most %v", stopped, fastE)
	}
	standby.WaitMaster(t)
	if res := master.Run(t, wire.Command{Args: []string{"busybox", "find", Dir}}); strings.TrimSpace(res.Output) != Dir {
		t.Errorf("in the place of the location there is something:\n%s", res.Output)
	}
	if master.IsMaster() {
		t.Errorf("%s still says that it is master", master.Name)
	}
	restore(master.Guest)
	master.WaitStandby(t)
	harness.Note(t, fmt.Sprintf("NFS %s: %s at run time: service's end after %v, the other's start after %v, no restart of anything",
		version, what, stopped.Round(time.Millisecond), next.Start.Sub(at).Round(time.Millisecond)))
}
