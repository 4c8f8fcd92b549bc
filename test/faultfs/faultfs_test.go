package faultfs_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/test/faultfs"
)

// mount mounts a new file system and returns it with its mount point.
func mount(t *testing.T, backing string) (*faultfs.FS, string) {
	t.Helper()
	dir := t.TempDir()
	fs, err := faultfs.Mount(backing, dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := fs.Unmount(); err != nil {
			t.Error(err)
		}
	})
	return fs, dir
}

// eventually polls for an outcome.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}

func TestTwoMountsShowOneDirectory(t *testing.T) {
	backing := t.TempDir()
	_, a := mount(t, backing)
	_, b := mount(t, backing)
	if err := os.Mkdir(filepath.Join(a, "d"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(a, "d/one"), []byte("hello"), 0o644); err != nil {
		t.Fatal(err)
	}
	for range 50 { // what one does the other sees at once
		if got, err := os.ReadFile(filepath.Join(b, "d/one")); err != nil || string(got) != "hello" {
			t.Fatalf("%q, %v", got, err)
		}
		if err := os.Rename(filepath.Join(b, "d/one"), filepath.Join(b, "d/two")); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(a, "d/one")); !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("the old name: %v", err)
		}
		if err := os.Rename(filepath.Join(a, "d/two"), filepath.Join(a, "d/one")); err != nil {
			t.Fatal(err)
		}
		if es, err := os.ReadDir(filepath.Join(b, "d")); err != nil || len(es) != 1 || es[0].Name() != "one" {
			t.Fatalf("%v, %v", es, err)
		}
	}
}

func TestErrno(t *testing.T) {
	ops := map[faultfs.Op]func(dir string) error{
		faultfs.Lookup:   func(d string) error { _, err := os.Lstat(d + "/f"); return err },
		faultfs.Open:     func(d string) error { _, err := os.ReadFile(d + "/f"); return err },
		faultfs.Read:     func(d string) error { _, err := os.ReadFile(d + "/f"); return err },
		faultfs.Create:   func(d string) error { return os.WriteFile(d+"/new", nil, 0o644) },
		faultfs.Write:    func(d string) error { return os.WriteFile(d+"/f", []byte("x"), 0o644) },
		faultfs.Flush:    func(d string) error { return os.WriteFile(d+"/f", nil, 0o644) },
		faultfs.Mkdir:    func(d string) error { return os.Mkdir(d+"/sub", 0o755) },
		faultfs.Rmdir:    func(d string) error { return syscall.Rmdir(d + "/empty") },
		faultfs.Unlink:   func(d string) error { return syscall.Unlink(d + "/f") },
		faultfs.Rename:   func(d string) error { return syscall.Rename(d+"/f", d+"/g") },
		faultfs.Setattr:  func(d string) error { return os.Chmod(d+"/f", 0o600) },
		faultfs.Opendir:  func(d string) error { _, err := os.ReadDir(d); return err },
		faultfs.Readdir:  func(d string) error { _, err := os.ReadDir(d); return err },
		faultfs.Fsync:    func(d string) error { return sync(d + "/f") },
		faultfs.Fsyncdir: sync,
	}
	for op, f := range ops {
		t.Run(string(op), func(t *testing.T) {
			backing := t.TempDir()
			if err := errors.Join(os.WriteFile(backing+"/f", []byte("x"), 0o644), os.Mkdir(backing+"/empty", 0o755)); err != nil {
				t.Fatal(err)
			}
			fs, dir := mount(t, backing)
			x := fs.Inject(faultfs.Rule{Op: op, Errno: syscall.ENOSPC, Count: 1})
			if err := f(dir); !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("%v, want ENOSPC", err)
			}
			if x.Fired() != 1 {
				t.Errorf("fired %d times, want once", x.Fired())
			}
			if err := f(dir); err != nil {
				t.Errorf("after the fault: %v", err)
			}
		})
	}
}

func sync(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func TestSelection(t *testing.T) {
	fs, dir := mount(t, t.TempDir())
	mk := func(name string) error { return os.Mkdir(filepath.Join(dir, name), 0o755) }
	x := fs.Inject(faultfs.Rule{Op: faultfs.Mkdir, Path: "bad", Skip: 1, Count: 2, Errno: syscall.EIO})
	for _, tt := range []struct {
		name string
		fail bool
	}{{"good1", false}, {"bad1", false}, {"bad2", true}, {"good2", false}, {"bad3", true}, {"bad4", false}} {
		if err := mk(tt.name); (err != nil) != tt.fail {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	if x.Fired() != 2 || fs.Count(faultfs.Mkdir) != 6 {
		t.Errorf("fired %d, counted %d; want 2 and 6", x.Fired(), fs.Count(faultfs.Mkdir))
	}
}

func TestAppliedThenFails(t *testing.T) {
	backing := t.TempDir()
	fs, dir := mount(t, backing)
	if err := os.WriteFile(backing+"/f", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	fs.Inject(faultfs.Rule{Op: faultfs.Rename, After: true, Errno: syscall.EIO, Count: 1})
	if err := os.Rename(dir+"/f", dir+"/g"); !errors.Is(err, syscall.EIO) {
		t.Fatalf("%v, want EIO", err)
	}
	if _, err := os.Stat(backing + "/g"); err != nil {
		t.Fatalf("it was not applied: %v", err)
	}
	if _, err := os.Stat(dir + "/g"); err != nil {
		t.Fatalf("the mount does not show it: %v", err)
	}
}

// TestHang has another process hang, as a daemon under test would.
func TestHang(t *testing.T) {
	for _, deaf := range []bool{false, true} {
		name := "interruptible"
		if deaf {
			name = "deaf"
		}
		t.Run(name, func(t *testing.T) {
			fs, dir := mount(t, t.TempDir())
			x := fs.Inject(faultfs.Rule{Op: faultfs.Mkdir, Hang: true, Deaf: deaf})
			cmd := exec.CommandContext(t.Context(), "mkdir", dir+"/d")
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			eventually(t, "the operation hangs", func() bool { return x.Holding() == 1 })
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			if deaf {
				select {
				case err := <-ended:
					t.Errorf("SIGKILL ended a process in a deaf hang: %v", err)
				case <-time.After(300 * time.Millisecond):
				}
				fs.Clear()
			}
			select {
			case err := <-ended:
				if err == nil {
					t.Error("the process ended well, although it was killed")
				}
			case <-time.After(10 * time.Second):
				t.Error("the process lives on")
			}
			if x.Holding() != 0 && deaf {
				t.Errorf("%d operations are held after Clear", x.Holding())
			}
			_, err := os.Stat(dir + "/d")
			if made := err == nil; made != deaf {
				t.Errorf("directory made: %t; want %t, because what is let go goes on, and what is interrupted does not", made, deaf)
			}
		})
	}
}

// TestDiesHanging runs this test binary again, has it hang deafly in its own
// mount, and kills it: nothing of it may stay.
func TestDiesHanging(t *testing.T) {
	if dir := os.Getenv("FAULTFS_DIE_IN"); dir != "" {
		fs, err := faultfs.Mount(os.Getenv("FAULTFS_BACKING"), dir)
		if err != nil {
			t.Fatal(err)
		}
		fs.Inject(faultfs.Rule{Op: faultfs.Mkdir, Hang: true, Deaf: true, After: true})
		t.Error(os.Mkdir(dir+"/d", 0o755)) // never comes back
		return
	}
	dir, backing := t.TempDir(), t.TempDir()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestDiesHanging$")
	cmd.Env = append(os.Environ(), "FAULTFS_DIE_IN="+dir, "FAULTFS_BACKING="+backing)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	mounted := func() bool {
		mounts, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			t.Fatal(err)
		}
		return strings.Contains(string(mounts), dir)
	}
	eventually(t, "it hangs", func() bool { // which it does once the directory is there
		_, err := os.Stat(backing + "/d")
		return err == nil
	})
	if !mounted() {
		t.Fatal("it is not mounted")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		if err == nil {
			t.Error("the process ended well, although it was killed")
		}
	case <-time.After(10 * time.Second):
		t.Error("the process lives on")
	}
	eventually(t, "it is unmounted", func() bool { return !mounted() })
}

// TestLandsLate: the client is told of a failure, and later the rename is
// there all the same.
func TestLandsLate(t *testing.T) {
	backing := t.TempDir()
	fs, dir := mount(t, backing)
	if err := os.WriteFile(backing+"/f", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	x := fs.Inject(faultfs.Rule{Op: faultfs.Rename, Late: 300 * time.Millisecond, Errno: syscall.EIO, Count: 1})
	at := time.Now()
	if err := os.Rename(dir+"/f", dir+"/g"); !errors.Is(err, syscall.EIO) {
		t.Fatalf("%v, want EIO", err)
	}
	landed := func() bool { _, err := os.Stat(dir + "/g"); return err == nil }
	eventually(t, "it lands", landed)
	if d := time.Since(at); d < 300*time.Millisecond {
		t.Errorf("it landed after %v", d)
	}
	if _, err := os.Stat(dir + "/f"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the old name: %v", err)
	}
	if es, err := os.ReadDir(dir); err != nil || len(es) != 1 || es[0].Name() != "g" {
		t.Errorf("%v, %v", es, err)
	}
	if x.Fired() != 1 {
		t.Errorf("fired %d times", x.Fired())
	}
	eventually(t, "nothing is left to land", func() bool { return x.Holding() == 0 })
}

// TestStaleListing: one mount goes on showing what was there, the other does
// not, and the rule's end is the end of it.
func TestStaleListing(t *testing.T) {
	backing := t.TempDir()
	fs, a := mount(t, backing)
	_, b := mount(t, backing)
	if err := errors.Join(os.Mkdir(a+"/d", 0o755), os.WriteFile(a+"/d/one", nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	shows := func(dir, want string) {
		t.Helper()
		if es, err := os.ReadDir(dir + "/d"); err != nil || len(es) != 1 || es[0].Name() != want {
			t.Errorf("%s shows %v, %v; want %s", dir, es, err, want)
		}
	}
	x := fs.Inject(faultfs.Rule{Op: faultfs.Readdir, Path: "d", Stale: true})
	shows(a, "one")
	if err := os.Rename(b+"/d/one", b+"/d/two"); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		shows(a, "one")
		shows(b, "two")
	}
	if x.Fired() != 4 {
		t.Errorf("fired %d times, want 4", x.Fired())
	}
	x.Remove()
	shows(a, "two")
}

// TestSharedRename: of several movers of one name each is told that it has
// won, through one mount and through two; when the rule's time is over, and
// without it, the name is gone for the second.
func TestSharedRename(t *testing.T) {
	for name, mounts := range map[string]int{"one mount": 1, "two mounts": 2} {
		t.Run(name, func(t *testing.T) {
			backing := t.TempDir()
			var dirs []string
			var faults []*faultfs.Fault
			for range mounts {
				fs, dir := mount(t, backing)
				dirs = append(dirs, dir)
				faults = append(faults, fs.Inject(faultfs.Rule{Op: faultfs.Rename, Path: "r/", Shared: 300 * time.Millisecond}))
			}
			if err := errors.Join(os.Mkdir(backing+"/r", 0o755), os.WriteFile(backing+"/r/old", []byte("x"), 0o644)); err != nil {
				t.Fatal(err)
			}
			const movers = 8
			errs := make(chan error, movers)
			for i := range movers {
				go func() {
					d := dirs[i%len(dirs)] + "/r/"
					errs <- syscall.Rename(d+"old", d+"new"+strconv.Itoa(i))
				}()
			}
			won := 0
			for range movers {
				if err := <-errs; err == nil {
					won++
				} else if !errors.Is(err, syscall.ENOENT) {
					t.Error(err)
				}
			}
			fired := 0
			for _, x := range faults {
				fired += x.Fired()
			}
			if won < 2 || fired != won-1 {
				t.Errorf("%d movers won, and the rule fired %d times; want several, all but the first by the rule", won, fired)
			}
			es, err := os.ReadDir(backing + "/r")
			if err != nil || len(es) != 1 {
				t.Fatalf("the directory holds %v, %v; want one name", es, err)
			}
			if b, err := os.ReadFile(dirs[0] + "/r/" + es[0].Name()); err != nil || string(b) != "x" {
				t.Errorf("%q, %v", b, err)
			}
			eventually(t, "the old name is gone", func() bool {
				return errors.Is(syscall.Rename(dirs[0]+"/r/old", dirs[0]+"/r/late"), syscall.ENOENT)
			})
			for _, x := range faults {
				x.Remove()
			}
			now := dirs[0] + "/r/" + last(t, backing+"/r")
			if err := syscall.Rename(now, dirs[0]+"/r/again"); err != nil {
				t.Error(err)
			}
			if err := syscall.Rename(now, dirs[0]+"/r/twice"); !errors.Is(err, syscall.ENOENT) {
				t.Errorf("without the rule a second mover was told %v", err)
			}
		})
	}
}

// last is the one name in a directory.
func last(t *testing.T, dir string) string {
	t.Helper()
	es, err := os.ReadDir(dir)
	if err != nil || len(es) != 1 {
		t.Fatalf("%v, %v; want one name", es, err)
	}
	return es[0].Name()
}

// TestUnmountAlways unmounts while a file is open and operations hang.
func TestUnmountAlways(t *testing.T) {
	dir := t.TempDir()
	fs, err := faultfs.Mount(t.TempDir(), dir)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(dir + "/open")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	x := fs.Inject(faultfs.Rule{Op: faultfs.Mkdir, Hang: true, Deaf: true})
	ended := make(chan error, 1)
	go func() { ended <- os.Mkdir(dir+"/d", 0o755) }()
	eventually(t, "the operation hangs", func() bool { return x.Holding() == 1 })
	if err := fs.Unmount(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil {
		t.Log("the operation was let go in time") // either is right
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), dir) {
		t.Fatalf("%s is still mounted (%v)", dir, err)
	}
	if err := fs.Unmount(); err != nil {
		t.Errorf("a second Unmount: %v", err)
	}
}
