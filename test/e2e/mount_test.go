package e2e_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/test/e2e/harness"
	"github.com/understudy-ha/understudy/test/e2e/intervals"
	"github.com/understudy-ha/understudy/test/need"
)

// TestAnotherPlaneIsMounted: under a living plane the file system of another
// one is mounted over its directory. The master stops by its deadline, nothing
// is written to the other plane, and when its own file system is back the
// plane recovers by itself.
func TestAnotherPlaneIsMounted(t *testing.T) {
	need.Root(t, "mount file systems")
	p := harness.NewPlane(t, harness.Options{Nodes: 2})
	p.StartAndWait(settle)
	other := filepath.Join(p.Dir, "other")
	must(t, os.Mkdir(other, 0o755))
	if out, err := p.Nodes[0].Command(t.Context(), "init", "--location", other).CombinedOutput(); err != nil {
		t.Fatalf("init: %v: %s", err, out)
	}
	before := listing(t, other)
	mountChanges(t, p, election.ReasonPlaneMismatch, mountChange{
		happen: func() { must(t, unix.Mount(other, p.Store, "", unix.MS_BIND, "")) },
		undo:   func() { must(t, unix.Unmount(p.Store, unix.MNT_DETACH)) },
		void:   func() bool { return slices.Equal(before, listing(t, other)) },
	})
}

// TestLazyUnmount: the file system is unmounted under a living plane although
// it is in use, and mounted again later.
func TestLazyUnmount(t *testing.T) {
	need.Root(t, "mount file systems")
	p := harness.NewPlane(t, harness.Options{Nodes: 2, NoInit: true})
	disk := filepath.Join(p.Dir, "real")
	must(t, os.Mkdir(disk, 0o755))
	attach := func() { must(t, unix.Mount(disk, p.Store, "", unix.MS_BIND, "")) }
	attach()
	t.Cleanup(func() { must(t, unix.Unmount(p.Store, unix.MNT_DETACH)) })
	p.Init()
	p.StartAndWait(settle)
	mountChanges(t, p, election.ReasonVanished, mountChange{
		happen: func() { must(t, unix.Unmount(p.Store, unix.MNT_DETACH)) },
		undo:   attach,
		void:   func() bool { return len(listing(t, p.Store)) == 0 },
	})
}

// mountChange is what happens to the mount beneath a plane.
type mountChange struct {
	happen, undo func()
	void         func() bool // what shows meanwhile is as it was
}

func mountChanges(t *testing.T, p *harness.Plane, reason string, c mountChange) {
	t.Helper()
	timing := fast(t)
	pids := pidsOf(p)
	at := intervals.Now()
	c.happen()
	undo := c.undo
	defer func() { undo() }()
	for _, n := range p.Nodes {
		failedWithReason(t, n, reason)
		says(t, n, "WARN", "the file system of "+p.Store+" has changed", "it was ")
	}
	neverFor(t, timing.ClaimAfter(0), "something was written to what is mounted there now", func() bool { return !c.void() })
	last, ok := p.Record().LastAliveBefore(intervals.Now())
	if limit := timing.StopAfter() + timing.Stop; !ok || last.Sub(at) > limit {
		t.Errorf("the service lived for %v after the change, want at most D + S = %v", last.Sub(at), limit)
	}
	if n := p.Record().StartsAfter(at); n != 0 {
		t.Errorf("%d services started without a store", n)
	}
	c.undo()
	undo = func() {}
	p.WaitSettled(settle)
	if now := pidsOf(p); !slices.Equal(pids, now) {
		t.Errorf("daemons %v became %v: the plane is to recover without restarts", pids, now)
	}
}
