package posix_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/persistence/posix"
)

// register makes a location whose lease/ holds names.
func register(t *testing.T, names ...string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "lease"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		if err := os.WriteFile(filepath.Join(dir, "lease", n), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestReadJudges(t *testing.T) {
	for _, tt := range []struct {
		names   []string
		want    string   // the value, or
		torn    []string // words of the error
		warning string
	}{
		{names: []string{v1}, want: v1},
		{names: []string{v1, ".nfs0001", ".x"}, want: v1},
		{names: []string{v1, "README", "u2.future"}, want: v1, warning: `"README", "u2.future"`},
		{names: nil, torn: []string{"is empty", "understudy store repair"}},
		{names: []string{".u1.one"}, torn: []string{"is empty"}},
		{names: []string{v1, v2}, torn: []string{"2 values", v1, v2}},
		{names: []string{"u2.future"}, torn: []string{`"u2.future"`, "understudy store repair"}},
		{names: []string{"u1.UPPER", "u1.a_b", "a", "b", "c"}, torn: []string{`"a", "b", "c" and 2 more`}},
		{names: []string{"u1." + strings.Repeat("x", 198)}, torn: []string{"holds no value"}},
	} {
		t.Run(fmt.Sprint(tt.names), func(t *testing.T) {
			dir := register(t, tt.names...)
			var warned []string
			s, err := posix.Open(dir, posix.Options{
				TornFor: 20 * time.Millisecond,
				Warn:    func(msg string) { warned = append(warned, msg) },
			})
			if err != nil {
				t.Fatal(err)
			}
			for range 2 {
				snap, err := s.Read(t.Context())
				if tt.torn == nil {
					if err != nil || string(snap.Value) != tt.want {
						t.Errorf("%q, %v; want %q", snap.Value, err, tt.want)
					}
					continue
				}
				if !errors.Is(err, persistence.Torn) {
					t.Fatalf("%q, %v; want Torn", snap.Value, err)
				}
				for _, word := range append(tt.torn, dir) {
					if !strings.Contains(err.Error(), word) {
						t.Errorf("the message lacks %q: %v", word, err)
					}
				}
			}
			if tt.warning == "" {
				if len(warned) > 0 {
					t.Errorf("warned: %q", warned)
				}
				return
			}
			if len(warned) != 1 || !strings.Contains(warned[0], tt.warning) || !slices.Contains(s.Limits().Warnings, warned[0]) {
				t.Errorf("warned %q, limits say %q; want %s once", warned, s.Limits().Warnings, tt.warning)
			}
		})
	}
}

// TestReadWaits sees a register in the middle of a rename, in the way that
// some file systems show it, and reads until it is one value.
func TestReadWaits(t *testing.T) {
	for _, names := range [][]string{nil, {v1, v2}, {"foreign"}} {
		t.Run(fmt.Sprint(names), func(t *testing.T) {
			dir := register(t, names...)
			s := open(t, dir)
			done := make(chan error, 1)
			go func() {
				time.Sleep(50 * time.Millisecond)
				_ = os.Remove(filepath.Join(dir, "lease", v1))
				done <- os.WriteFile(filepath.Join(dir, "lease", v2), nil, 0o644)
			}()
			snap, err := s.Read(t.Context())
			if err != nil || string(snap.Value) != v2 {
				t.Errorf("%q, %v; want %q", snap.Value, err, v2)
			}
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("context", func(t *testing.T) {
		s := open(t, register(t, v1, v2))
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		begin := time.Now()
		if _, err := s.Read(ctx); !errors.Is(err, persistence.Torn) {
			t.Errorf("%v; want Torn, the best there is to say", err)
		}
		if took := time.Since(begin); took > time.Second {
			t.Errorf("took %s", took)
		}
	})
}

// TestBadLocations gives each location that can not be used one clear line.
func TestBadLocations(t *testing.T) {
	top := t.TempDir()
	file := filepath.Join(top, "file")
	if err := os.WriteFile(file, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	fifo := filepath.Join(top, "fifo")
	if err := syscall.Mkfifo(fifo, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, dir string
		want      error
		words     string
	}{
		{"missing", filepath.Join(top, "none"), persistence.Absent, "does not exist; create it, or mount"},
		{"missing parent", filepath.Join(top, "none/deeper"), persistence.Absent, "does not exist; create it, or mount"},
		{"a file", file, persistence.Unsupported, "is not a directory"},
		{"beneath a file", filepath.Join(file, "x"), persistence.Unsupported, "is not a directory"},
		{"a fifo", fifo, persistence.Unsupported, "is not a directory"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := open(t, tt.dir)
			for op, f := range map[string]func() error{
				"check": func() error { return s.Check(t.Context()) },
				"read":  func() error { _, err := s.Read(t.Context()); return err },
				"init":  func() error { return s.Init(t.Context(), []byte(v0)) },
				"put":   func() error { return s.Put(t.Context(), "a", strings.NewReader(""), 0) },
				"put deeper": func() error {
					return s.Put(t.Context(), "a/b/c", strings.NewReader(""), 0)
				},
				"get":    func() error { _, err := s.Get(t.Context(), "a/b"); return err },
				"list":   func() error { _, err := s.List(t.Context(), "a/", ""); return err },
				"delete": func() error { return s.Delete(t.Context(), "a") },
				"empty":  func() error { _, err := s.Empty(t.Context()); return err },
				"sub": func() error {
					sub, err := s.Sub(".x")
					if err != nil {
						return err
					}
					return sub.Init(t.Context(), []byte(v0))
				},
			} {
				err := f()
				if !errors.Is(err, tt.want) || !strings.Contains(fmt.Sprint(err), tt.words) || !strings.Contains(fmt.Sprint(err), tt.dir) {
					t.Errorf("%s: %v; want %v, %q and the path", op, err, tt.want, tt.words)
				}
			}
			if _, err := s.CAS(t.Context(), v0, []byte(v1)); err == nil {
				t.Error("CAS succeeded")
			}
		})
	}
	if es, err := os.ReadDir(top); err != nil || len(es) != 2 {
		t.Errorf("something was created: %v, %v", es, err)
	}
	for _, dir := range []string{"", "a\x00b"} {
		if _, err := posix.Open(dir, posix.Options{}); !errors.Is(err, persistence.Unsupported) {
			t.Errorf("open %q: %v", dir, err)
		}
	}
}

func TestCheckLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	if err := open(t, dir).Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	if es, err := os.ReadDir(dir); err != nil || len(es) != 0 {
		t.Errorf("left behind: %v, %v", es, err)
	}
}

// TestReadOnlyMount is a real one, over the same directory.
func TestReadOnlyMount(t *testing.T) {
	below, dir := register(t, v0), t.TempDir()
	if err := syscall.Mount(below, dir, "", syscall.MS_BIND, ""); err != nil {
		t.Fatalf("bind mount: %v; this test needs root", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	if err := syscall.Mount("", dir, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	s := open(t, dir)
	if err := s.Check(t.Context()); !errors.Is(err, persistence.ReadOnly) || !strings.Contains(err.Error(), dir) {
		t.Errorf("check: %v; want ReadOnly", err)
	}
	if _, err := s.CAS(t.Context(), v0, []byte(v1)); !errors.Is(err, persistence.ReadOnly) {
		t.Errorf("CAS: %v; want ReadOnly", err)
	}
	holds(t, s, v0)
}

// TestRealFull fills a small file system.
func TestRealFull(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatalf("mount tmpfs: %v; this test needs root", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	s := open(t, dir)
	if err := s.Init(t.Context(), []byte(v0)); err != nil {
		t.Fatal(err)
	}
	big := strings.Repeat("x", 128<<10)
	if err := s.Put(t.Context(), "artifacts/big", strings.NewReader(big), -1); !errors.Is(err, persistence.Full) {
		t.Errorf("put: %v; want Full", err)
	}
	// Renewing needs no space: a full disk does not end a reign.
	if _, err := s.CAS(t.Context(), v0, []byte(v1)); err != nil {
		t.Errorf("CAS: %v", err)
	}
	if p, err := s.List(t.Context(), "", ""); err != nil || len(p.Items) != 0 {
		t.Errorf("list: %+v, %v", p, err)
	}
}

func TestLeaseInTheWay(t *testing.T) {
	t.Run("an empty directory is taken", func(t *testing.T) { // what a crash in Init can leave
		s := open(t, register(t))
		if err := s.Init(t.Context(), []byte(v0)); err != nil {
			t.Fatal(err)
		}
		holds(t, s, v0)
	})
	t.Run("a foreign file in it forbids", func(t *testing.T) {
		s := open(t, register(t, "README"))
		if err := s.Init(t.Context(), []byte(v0)); !errors.Is(err, persistence.Conflict) {
			t.Errorf("init: %v; want Conflict", err)
		}
	})
	t.Run("a file", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "lease"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		s := open(t, dir)
		if err := s.Init(t.Context(), []byte(v0)); !errors.Is(err, persistence.Conflict) || !strings.Contains(err.Error(), "not a directory") {
			t.Errorf("init: %v", err)
		}
		if _, err := s.Read(t.Context()); !errors.Is(err, persistence.Torn) || !strings.Contains(err.Error(), "not a directory") {
			t.Errorf("read: %v", err)
		}
	})
	t.Run("removed under a living plane", func(t *testing.T) {
		dir := register(t, v0)
		s := open(t, dir)
		holds(t, s, v0)
		if err := os.RemoveAll(filepath.Join(dir, "lease")); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Read(t.Context()); !errors.Is(err, persistence.Absent) || !strings.Contains(err.Error(), dir) {
			t.Errorf("read: %v; want Absent", err)
		}
		if _, err := s.CAS(t.Context(), v0, []byte(v1)); !errors.Is(err, persistence.Conflict) {
			t.Errorf("CAS: %v; want Conflict", err)
		}
		if _, err := os.Stat(filepath.Join(dir, "lease")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("it came back: %v", err)
		}
	})
}

// TestBadAttempts are refused before anything is sent.
func TestBadAttempts(t *testing.T) {
	dir := register(t, v0)
	s := open(t, dir)
	if _, err := s.CAS(t.Context(), v0, []byte(v0)); err == nil {
		t.Error("a CAS to the same value succeeded, as it would for everybody")
	}
	for _, val := range []string{"", ".hidden", "../x", "u1.a/b", "u1.a\x00", "u1.A", "other", "u1." + strings.Repeat("x", 198)} {
		if _, err := s.CAS(t.Context(), v0, []byte(val)); !errors.Is(err, persistence.Unsupported) {
			t.Errorf("CAS to %q: %v; want Unsupported", val, err)
		}
		if err := s.Init(t.Context(), []byte(val)); !errors.Is(err, persistence.Unsupported) {
			t.Errorf("init with %q: %v; want Unsupported", val, err)
		}
	}
	for _, old := range []persistence.Version{"", ".", "..", "../lease/" + v0, ".x", "a\x00"} {
		if _, err := s.CAS(t.Context(), old, []byte(v1)); !errors.Is(err, persistence.Conflict) {
			t.Errorf("CAS from %q: %v; want Conflict", old, err)
		}
	}
	for _, key := range []string{"lease", "lease/x", "lease/" + v0} {
		if err := s.Delete(t.Context(), key); err == nil {
			t.Errorf("delete %s succeeded", key)
		}
		if err := s.Put(t.Context(), key, strings.NewReader(""), 0); err == nil {
			t.Errorf("put %s succeeded", key)
		}
	}
	holds(t, s, v0)
}

func TestEmptyIgnores(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	for _, name := range []string{".snapshot", ".init-0", "lost+found"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if ok, err := s.Empty(t.Context()); !ok || err != nil {
		t.Errorf("%t, %v; want empty", ok, err)
	}
	for _, name := range []string{"lease", "nodes", "holiday photos"} {
		path := filepath.Join(dir, name)
		if err := os.Mkdir(path, 0o755); err != nil {
			t.Fatal(err)
		}
		if ok, err := s.Empty(t.Context()); ok || err != nil {
			t.Errorf("with %s: %t, %v; want not empty", name, ok, err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

func TestClosed(t *testing.T) {
	s := open(t, register(t, v0))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Read(t.Context()); !errors.Is(err, persistence.Unknown) {
		t.Errorf("read: %v; want Unknown", err)
	}
	if _, err := s.CAS(t.Context(), v0, []byte(v1)); !errors.Is(err, persistence.Unknown) {
		t.Errorf("CAS: %v; want Unknown", err)
	}
}

// BenchmarkRenewal is a heartbeat of the master.
func BenchmarkRenewal(b *testing.B) {
	s, err := posix.Open(b.TempDir(), posix.Options{})
	if err != nil {
		b.Fatal(err)
	}
	old := persistence.Version("u1.0")
	if err := s.Init(b.Context(), []byte(old)); err != nil {
		b.Fatal(err)
	}
	for i := 1; b.Loop(); i++ {
		if old, err = s.CAS(b.Context(), old, fmt.Appendf(nil, "u1.%d", i)); err != nil {
			b.Fatal(err)
		}
	}
}
