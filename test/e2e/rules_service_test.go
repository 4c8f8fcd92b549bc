package e2e_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/api/v1"
	"github.com/understudy-ha/understudy/pkg/clock"
	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/test/e2e/harness"
	"github.com/understudy-ha/understudy/test/e2e/intervals"
	"github.com/understudy-ha/understudy/test/faultfs"
	"github.com/understudy-ha/understudy/test/need"
)

// deafDisk mounts a file system with one file whose readers sleep so deep that
// not even SIGKILL wakes them, until the fault is removed.
func deafDisk(t *testing.T) (file string, fault *faultfs.Fault) {
	t.Helper()
	need.Root(t, "mount file systems")
	backing, dir := t.TempDir(), t.TempDir()
	write(t, filepath.Join(backing, "hang"), "at last\n")
	disk, err := faultfs.Mount(backing, dir)
	must(t, err)
	t.Cleanup(func() {
		if err := disk.Unmount(); err != nil {
			t.Error(err)
		}
	})
	return filepath.Join(dir, "hang"), disk.Inject(faultfs.Rule{Op: faultfs.Read, Path: "hang", Hang: true, Deaf: true})
}

// TestServiceThatCanNotBeKilled is R11: one process of the service hangs in a
// disk of its own and survives SIGKILL. Every way of asking says
// FENCING_FAILED, and although the store takes writes again, the term is not
// released while that process lives. Then the plane goes on by itself.
func TestServiceThatCanNotBeKilled(t *testing.T) {
	timing := fast(t)
	file, hang := deafDisk(t)
	p := harness.NewPlane(t, harness.Options{Nodes: 2, FaultFS: true, Settings: map[string]any{
		"service.command": []string{"/bin/sh", "-c", `cat "$0" & exec "$1"`, file, harness.Recorder()},
	}})
	master, watcher := p.Nodes[0], p.Nodes[1]
	watcher.Set("highAvailabilityMode", "HOT_BACKUP") // it tells, and never claims
	master.Start()
	p.WaitMaster(settle)
	watcher.Start()
	watcher.WaitState(settle, v1.StateHotBackup)
	old := p.Latest()
	if !harness.Poll(settle, func() bool { return hang.Holding() > 0 }) {
		t.Fatal("no process of the service hangs")
	}

	// The first password takes a busy machine its time.
	if !harness.Poll(settle, func() bool { _, err := master.States(); return err == nil }) {
		t.Fatal("the master does not answer")
	}

	at := intervals.Now()
	refused := master.Fault.Inject(faultfs.Rule{Op: faultfs.Rename, Path: "lease/u1." + string(p.Register().Plane), Errno: syscall.EIO})
	failedWithReason(t, master, election.ReasonFencingFailed)
	shownAfter := intervals.Now().Sub(at)
	harness.Figures(t, "renewals refused to FENCING_FAILED", []time.Duration{shownAfter})
	if most := timing.End() + 2*time.Second; shownAfter > most {
		t.Errorf("FENCING_FAILED is shown %v after the last renewal, want it at E = %v and at most at %v", shownAfter, timing.End(), most)
	}
	if refused.Fired() == 0 {
		t.Error("no renewal was refused")
	}
	refused.Remove()

	held := p.Register()
	neverFor(t, timing.ClaimAfter(0), "the term was released or renewed although the service lives", func() bool { return p.Register() != held })
	if !held.Held || uint64(held.Term) != old.Term || string(held.Holder) != master.ID() {
		t.Errorf("the register says %+v, want it held by %s in term %d", held, master.ID(), old.Term)
	}
	failedWithReason(t, master, election.ReasonFencingFailed) // still
	if r, err := master.Get("/v1/server/ha/state"); err != nil || strings.TrimSpace(r.Body) != `"FAILED"` {
		t.Errorf("/v1/server/ha/state says %s (%v), want \"FAILED\"", r.Body, err)
	}
	if r, err := master.Get("/v1/server/ha/metrics"); err != nil || !strings.Contains(r.Body, election.ReasonFencingFailed) {
		t.Errorf("the history of states lacks %s: %s (%v)", election.ReasonFencingFailed, r.Body, err)
	}
	says(t, master, "FAILED", election.ReasonFencingFailed)
	var shown v1.Node
	if !harness.Poll(settle, func() bool {
		s, err := watcher.States()
		shown = s.Nodes[master.ID()]
		return err == nil && shown.Status == v1.StateFailed && deref(shown.Why) == election.ReasonFencingFailed
	}) {
		t.Errorf("another node shows it as %s because of %q, want FAILED because of %s", shown.Status, deref(shown.Why), election.ReasonFencingFailed)
	}
	if n := p.Record().StartsAfter(at); n != 0 {
		t.Errorf("%d services started beside one that lives", n)
	}
	if hang.Holding() == 0 {
		t.Fatal("nothing hangs any more: this shows nothing")
	}

	freed := intervals.Now()
	hang.Remove()
	next := p.WaitStart(freed, settle)
	harness.Figures(t, "stuck service let go to the next start", []time.Duration{next.Start.Sub(freed)})
	if next.Term != old.Term+1 {
		t.Errorf("term %d follows %d", next.Term, old.Term)
	}
	p.WaitMaster(settle)
}

// timeNamespace is the command line that runs a daemon with clocks of its own,
// eleven days ahead of everybody else's. It skips the test on a kernel without.
func timeNamespace(t *testing.T) []string {
	t.Helper()
	if _, err := os.Stat("/proc/self/ns/time"); errors.Is(err, fs.ErrNotExist) {
		t.Skip("kernel: it has no time namespaces")
	}
	need.Root(t, "mount file systems")
	path, err := exec.LookPath("unshare")
	must(t, err) // util-linux is essential in every distribution
	return []string{path, "--time", "--fork", "--kill-child=KILL", "--boottime", "1000000", "--monotonic", "1000000"}
}

// TestClocksOfTheirOwn is R12: only time elapsed on a node's own clocks counts.
// A node whose clocks are eleven days ahead takes part like any other: it takes
// over in time and not early, its guard keeps the same deadlines, and others
// take over from it. The time of day of the store: TestStoreClockOff.
func TestClocksOfTheirOwn(t *testing.T) {
	via := timeNamespace(t)
	timing := fast(t)
	p := harness.NewPlane(t, harness.Options{Nodes: 2})
	usual, ahead := p.Nodes[0], p.Nodes[1]
	ahead.Via = via
	usual.Start()
	p.WaitMaster(settle)
	ahead.Start()
	p.WaitSettled(settle)
	if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/timens_offsets", ahead.Find(harness.Daemon).Pid)); err != nil || !strings.Contains(string(b), "1000000") {
		t.Fatalf("the daemon's clocks are those of everybody: %s (%v)", b, err)
	}

	var took []time.Duration
	for _, hand := range []struct{ from, to *harness.Node }{{usual, ahead}, {ahead, usual}} {
		p.AnyMoment(fastBeat)
		at := hand.from.KillTree()
		next := p.WaitStart(at, 2*fastT+settle)
		took = append(took, next.Start.Sub(at))
		another(t, p, next, hand.from)
		// The last renewal before the kill began up to a heartbeat earlier.
		if d := next.Start.Sub(at); d < fastT-fastBeat || d > fastT+time.Second {
			t.Errorf("%s took over after %v, want about T", hand.to.Name, d)
		}
		hand.from.WaitExit(settle)
		hand.from.Start()
		p.WaitSettled(settle)
	}
	harness.Figures(t, "kill -9 of the whole tree to the next start, clocks 11 days apart", took)

	// Its guard reads the same clocks as its daemon.
	at := usual.Stop(settle)
	another(t, p, p.WaitStart(at, settle), usual)
	usual.Start()
	p.WaitSettled(settle)
	old := p.Latest()
	at = ahead.Signal(syscall.SIGSTOP)
	another(t, p, p.WaitStart(at, 2*fastT+settle), ahead)
	lived, limit := p.Tree(old.ID).Last.Sub(at), timing.StopAfter()+timing.Stop
	if lived > limit || lived < timing.StopAfter()-fastBeat-timing.Operation {
		t.Errorf("the guard of the frozen daemon let the service live for %v, want about D = %v and at most D + S = %v", lived, timing.StopAfter(), limit)
	}
	ahead.Signal(syscall.SIGCONT)
	if p.WaitSettled(settle) != usual {
		t.Error("the daemon that thawed is master again")
	}
}

// TestLeaseFile is what a service that checks for itself relies on: the end of
// its right to serve is in the file while it serves, moves with the heartbeats,
// is never later than the lease allows, and goes with the term.
func TestLeaseFile(t *testing.T) {
	note := filepath.Join(t.TempDir(), "where")
	p := harness.NewPlane(t, harness.Options{Nodes: 1, Settings: map[string]any{
		"service.command": []string{"/bin/sh", "-c", `echo "$HA_LEASE_FILE" >"$0"; exec "$1"`, note, harness.Recorder()},
	}})
	master := p.StartAndWait(settle)
	b, err := os.ReadFile(note)
	must(t, err)
	path := strings.TrimSpace(string(b))
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	must(t, err)
	read := func() (end time.Duration) {
		b, err := os.ReadFile(path)
		must(t, err)
		f := strings.Fields(string(b))
		if len(f) != 2 || f[0] != strings.TrimSpace(string(boot)) {
			t.Fatalf("%s says %q", path, b)
		}
		n, err := strconv.ParseInt(f[1], 10, 64)
		must(t, err)
		return time.Duration(n)
	}
	first := read()
	for last := first; last == first; {
		last = read()
		now := time.Duration(clock.Now().Boot)
		if left := last - now; left < 0 || left > p.Register().Lease {
			t.Fatalf("%v are left of a lease of %v", left, p.Register().Lease)
		}
		if now > first {
			t.Fatal("it does not move")
		}
	}
	master.Stop(settle)
	if !harness.Poll(settle, func() bool { _, err := os.Stat(path); return os.IsNotExist(err) }) {
		t.Error("it outlives the term")
	}
}
