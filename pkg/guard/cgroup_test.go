package guard

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/understudy-ha/understudy/test/need"
)

// cgroupVariant is cgroup isolation as it can be had here.
func cgroupVariant(t *testing.T) variant {
	t.Helper()
	for _, v := range variants() {
		if v.isolation == IsolationCgroup {
			return v
		}
	}
	need.Missing(t, "needs root to make a cgroup")
	return variant{}
}

// What daemon, guard and shim leave when all three are killed at once lives on
// in its cgroup: the next guard ends it and removes the cgroup, and the proof
// is kept.
func TestNextGuardClearsCgroups(t *testing.T) {
	t.Parallel()
	d := startDaemon(t, cgroupVariant(t))
	d.serve(1, stubborn())
	shim := d.shim()
	signalOf(t, shim, syscall.SIGSTOP) // or it would do its work in between
	d.kill9(d.proc.Pid)
	d.kill9(d.guard)
	<-d.ended
	d.kill9(shim)
	d.unlocked()
	if n := len(d.processes()); n != 2 {
		t.Fatalf("%d processes are left: %v; the test shows nothing", n, d.processes())
	}
	tree, _, err := LoadTree(d.dir)
	if gone, why := tree.Gone(); gone || err != nil || !strings.Contains(why, "lives in the service's cgroup") {
		t.Errorf("gone %v: %s (%v)", gone, why, err)
	}
	d.ended, d.lines = make(chan struct{}), make(chan Event, 1000)
	d.start(d.variant)
	d.dead(0, stubbornNames...)
	if left := d.cgroups(); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if tree, _, _ = LoadTree(d.dir); !tree.Empty {
		t.Error("the proof went with the cgroup")
	}
}

// A service that makes cgroups of its own can not hide in them.
func TestCgroupsOfTheService(t *testing.T) {
	t.Parallel()
	v := cgroupVariant(t)
	d := startDaemon(t, v)
	d.arm(1, wait, wait, wait)
	h, err := findHierarchy()
	if err != nil {
		t.Fatal(err)
	}
	script := `set -e; me=` + h.mount + `$(sed -n 's/^0:://p' /proc/self/cgroup); mkdir -p $me/a/b
echo $$ > $me/a/b/cgroup.procs; trap "" TERM; echo > ` + d.dir + `/up; while :; do sleep 1; done`
	d.tell(order{Do: opStart, Term: 1, RunID: 1, Argv: []string{"/bin/sh", "-c", script}})
	if !within(wait, func() bool { return exists(filepath.Join(d.dir, "up")) }) {
		t.Fatal("it did not come up")
	}
	d.kill9(d.proc.Pid)
	d.releasedAt(wait)
	if left := d.cgroups(); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// Without cgroup.kill, the same end is reached by hand.
func TestKillEach(t *testing.T) {
	t.Parallel()
	cgroupVariant(t)
	h, err := findHierarchy()
	if err != nil {
		t.Fatal(err)
	}
	c := h.nameCgroup("understudy-test.", 0, 1)
	if err := c.make(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.kill()
		within(wait, c.empty)
		if err := c.remove(); err != nil {
			t.Error(err)
		}
	})
	fd, err := c.open()
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	// It forks faster than anybody who reads and kills.
	const fork = `while :; do (sleep 60 & sleep 60) & done`
	p, err := os.StartProcess("/bin/sh", []string{"sh", "-c", "ulimit -u 300; " + fork}, &os.ProcAttr{
		Files: []*os.File{nil, nil, nil},
		Sys:   &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: fd, Setsid: true, Credential: &syscall.Credential{Uid: 65533, Gid: 65533}},
	})
	if err != nil {
		t.Fatal(err)
	}
	many := func() int { return strings.Count(readAll(string(c)+"/cgroup.procs"), "\n") }
	if !within(wait, func() bool { return many() > 50 }) {
		t.Error("too few processes to show anything")
	}
	if c.empty() {
		t.Error("said to be empty while it is not")
	}
	if err := c.removeOnce(); err == nil {
		t.Error("removed while populated")
	}
	// Frozen, nobody forks: one round is enough.
	if !within(wait, func() bool { c.killEach(); return c.empty() }) {
		t.Errorf("%d are alive", many())
	}
	if _, err := p.Wait(); err != nil {
		t.Error(err)
	}
}

// Whoever does not see the hierarchy of the record proves nothing.
func TestCgroupUnseen(t *testing.T) {
	t.Parallel()
	dead := deadProcess(t)
	dir := t.TempDir()
	tree := Tree{
		Isolation: IsolationCgroup, BootID: bootID(), Shim: dead.Pid, ShimStart: dead.Start,
		Cgroup: filepath.Join(dir, "gone"), CgroupMount: dir, CgroupRoot: 1,
	}
	if gone, why := tree.Gone(); gone || !strings.Contains(why, "not to be seen") {
		t.Errorf("gone %v: %s", gone, why)
	}
	h, err := findHierarchy()
	if err != nil {
		return // nothing more to look at
	}
	tree.CgroupMount, tree.CgroupRoot, tree.Cgroup = h.mount, h.root, filepath.Join(h.own, "understudy-never.made")
	if gone, why := tree.Gone(); !gone {
		t.Error(why)
	}
	tree.CgroupRoot++
	if gone, _ := tree.Gone(); gone {
		t.Error("another hierarchy proves it gone")
	}
}
