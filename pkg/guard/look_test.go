package guard

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// probes lists the cgroups that were made to try whether that works.
func probes() []string {
	h, err := findHierarchy()
	if err != nil {
		return nil
	}
	found, _ := filepath.Glob(filepath.Join(h.own, "understudy-probe.*"))
	return found
}

func TestLook(t *testing.T) {
	before := probes()
	a, err := Look(IsolationGroup)
	if err != nil || a.Isolation != IsolationGroup || !strings.Contains(a.TreeLost, "as configured") {
		t.Errorf("%+v, %v", a, err)
	}
	a, err = Look(IsolationAuto)
	if err != nil {
		t.Fatal(err)
	}
	if strong := a.Isolation == IsolationPidNamespace; strong == (a.TreeLost != "") {
		t.Errorf("isolation %s, lost: %q", a.Isolation, a.TreeLost)
	}
	if hasCap(unix.CAP_IPC_LOCK) && a.MemoryLost != "" {
		t.Errorf("memory can be locked, but: %s", a.MemoryLost)
	}
	if _, err := Look("jail"); err == nil {
		t.Error("an isolation that is not offered is possible")
	}
	switch a, err = Look(IsolationCgroup); {
	case os.Getuid() != 0: // as the machine has it
	case err != nil || a.Isolation != IsolationCgroup || !strings.Contains(a.TreeLost, "in a cgroup"):
		t.Errorf("%+v, %v", a, err)
	}
	// Guards of other tests try the same meanwhile, and one that was killed then
	// has left something.
	var left []string
	if !within(wait, func() bool {
		left = slices.DeleteFunc(probes(), func(p string) bool { return slices.Contains(before, p) })
		return len(left) == 0
	}) {
		t.Errorf("probes were left: %v", left)
	}
}

// Asking who holds a directory makes nothing and takes nothing.
func TestHolder(t *testing.T) {
	dir := t.TempDir()
	is := func(daemon, guard int) {
		t.Helper()
		d, g, err := Holder(dir)
		if err != nil || d != daemon || g != guard {
			t.Errorf("daemon %d, guard %d, %v; want %d and %d", d, g, err, daemon, guard)
		}
	}
	is(0, 0)
	if _, err := os.Stat(filepath.Join(dir, lockFile)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a lock was made: %v", err)
	}
	f, err := LockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	is(os.Getpid(), 0)
	if _, err := LockDir(dir); !errors.Is(err, ErrLocked) {
		t.Errorf("the lock went: %v", err)
	}
	// Noted by processes that are gone, or whose pids others have now.
	if err := os.WriteFile(filepath.Join(dir, lockFile), []byte("daemon 1 1\nguard 4194305 7\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	is(0, 0)
	if _, _, err := Holder(filepath.Join(dir, lockFile)); err == nil {
		t.Error("a file has a holder")
	}
}
