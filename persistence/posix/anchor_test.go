package posix

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/test/need"
)

func isA(val []byte) bool { return strings.HasPrefix(string(val), "u1.a") }

// location makes a directory whose register holds a value.
func location(t *testing.T, value string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	s, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Init(t.Context(), []byte(value)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestAnchor: where the register of another plane has taken the place of the
// own one, by a mount on top, objects are neither written nor removed, the
// change is told, and all goes on when the right one is back.
func TestAnchor(t *testing.T) {
	need.Root(t, "mount file systems")
	dir, other := location(t, "u1.a"), location(t, "u1.b")
	if err := os.WriteFile(filepath.Join(other, "x"), []byte("theirs"), 0o644); err != nil {
		t.Fatal(err)
	}
	var told []string
	s, err := Open(dir, Options{Warn: func(msg string) { told = append(told, msg) }})
	if err != nil {
		t.Fatal(err)
	}
	s.Anchor(isA)
	put := func() error { return s.Put(t.Context(), "nodes/n", strings.NewReader("mine"), 4) }
	if err := put(); err != nil {
		t.Fatal(err)
	}

	if err := unix.Mount(other, dir, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	if snap, rerr := s.Read(t.Context()); rerr != nil || string(snap.Value) != "u1.b" {
		t.Errorf("read %q, %v: what is there must be seen", snap.Value, rerr)
	}
	if perr := put(); !errors.Is(perr, persistence.Absent) || !strings.Contains(perr.Error(), "another plane") {
		t.Errorf("put into another plane: %v", perr)
	}
	if derr := s.Delete(t.Context(), "x"); !errors.Is(derr, persistence.Absent) {
		t.Errorf("delete from another plane: %v", derr)
	}
	if uerr := unix.Unmount(dir, unix.MNT_DETACH); uerr != nil {
		t.Fatal(uerr)
	}
	if es, lerr := os.ReadDir(other); lerr != nil || len(es) != 2 {
		t.Errorf("the other plane holds %v, %v; want its register and x", es, lerr)
	}

	if err := put(); err != nil {
		t.Errorf("once it is back: %v", err)
	}
	if len(told) != 2 || !strings.Contains(told[0], dir+" has changed: it was ") || !strings.Contains(told[0], "mounted at "+dir) {
		t.Errorf("told %q, want the change and the change back", told)
	}
	s.Anchor(nil)
	if err := s.Delete(t.Context(), "nodes/n"); err != nil {
		t.Error(err)
	}
}

// TestAnchorAllows: no register yet, and one that can not be read, are no
// other plane's.
func TestAnchorAllows(t *testing.T) {
	for name, prepare := range map[string]func(dir string) error{
		"nothing":  func(string) error { return nil },
		"no value": func(dir string) error { return os.Mkdir(dir+"/lease", 0o755) },
		"unreadable": func(dir string) error {
			return errors.Join(os.Mkdir(dir+"/lease", 0o755), os.WriteFile(dir+"/lease/junk", nil, 0o644))
		},
		"a file": func(dir string) error { return os.WriteFile(dir+"/lease", nil, 0o644) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := prepare(dir); err != nil {
				t.Fatal(err)
			}
			s, err := Open(dir, Options{})
			if err != nil {
				t.Fatal(err)
			}
			s.Anchor(isA)
			if err := s.Put(t.Context(), "nodes/n", strings.NewReader("mine"), 4); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestPutStaysWhereItBegan: a file system is unmounted while an object is on
// its way to it. The mount point stays empty.
func TestPutStaysWhereItBegan(t *testing.T) {
	need.Root(t, "mount file systems")
	dir := t.TempDir()
	mountAt(t, "none", dir, "tmpfs", 0, "size=1m")
	s, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Init(t.Context(), []byte("u1.a")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Read(t.Context()); err != nil {
		t.Fatal(err)
	}
	below := t.TempDir() // what is mounted over it, standing for the mount point
	w := &writer{s: s, key: "nodes/n", path: filepath.Join(dir, "nodes/n"), want: 2}
	if err := w.step([]byte("x"), false); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(below, dir, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	err = w.step([]byte("y"), true)
	if uerr := unix.Unmount(dir, unix.MNT_DETACH); uerr != nil {
		t.Fatal(uerr)
	}
	if err != nil {
		t.Error(err)
	}
	if es, err := os.ReadDir(below); err != nil || len(es) != 0 {
		t.Errorf("what was mounted over it holds %v, %v", es, err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "nodes/n")); err != nil || string(b) != "xy" {
		t.Errorf("%q, %v", b, err)
	}
}

// TestRemounted: other options of the same mount are told, and the new ones
// judged.
func TestRemounted(t *testing.T) {
	need.Root(t, "mount file systems")
	dir := t.TempDir()
	mountAt(t, "none", dir, "tmpfs", 0, "size=1m")
	var told []string
	s, err := Open(dir, Options{Warn: func(msg string) { told = append(told, msg) }})
	if err != nil {
		t.Fatal(err)
	}
	put := func() error { return s.Put(t.Context(), "nodes/n", strings.NewReader("mine"), 4) }
	if err := errors.Join(s.Check(t.Context()), put()); err != nil || len(told) != 0 {
		t.Fatalf("%v, told %q", err, told)
	}
	if err := unix.Mount("none", dir, "", unix.MS_REMOUNT|unix.MS_NOATIME, "size=2m"); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	s.looked = s.looked.Add(-lookEvery) // so long ago
	s.mu.Unlock()
	if err := errors.Join(put(), put()); err != nil {
		t.Fatal(err)
	}
	if len(told) != 1 || !strings.Contains(told[0], "size=1024k") || !strings.Contains(told[0], "size=2048k") {
		t.Errorf("told %q, want the old options and the new ones once", told)
	}
}
