package posix_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/persistence/posix"
	"github.com/understudy-ha/understudy/persistence/verify"
	"github.com/understudy-ha/understudy/test/faultfs"
)

const (
	v0 = "u1.zero"
	v1 = "u1.one"
	v2 = "u1.two"
)

// plane is a store on a faulty mount with a register that holds v0, and a
// second store on the directory beneath, which sees no faults.
func plane(t *testing.T) (fs *faultfs.FS, s, below *posix.Store, dir string) {
	t.Helper()
	backing, dir := t.TempDir(), t.TempDir()
	fs, err := faultfs.Mount(backing, dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := fs.Unmount(); err != nil {
			t.Error(err)
		}
	})
	s, below = open(t, dir), open(t, backing)
	if err := s.Init(t.Context(), []byte(v0)); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(t.Context(), "nodes/x", strings.NewReader("hello"), 5); err != nil {
		t.Fatal(err)
	}
	return fs, s, below, dir
}

func holds(t *testing.T, s *posix.Store, want string) {
	t.Helper()
	if snap, err := s.Read(t.Context()); err != nil || string(snap.Value) != want {
		t.Fatalf("read %q, %v; want %q", snap.Value, err, want)
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}

// workers counts the goroutines that run I/O for a store.
func workers() int {
	buf := make([]byte, 4<<20)
	buf = buf[:runtime.Stack(buf, true)]
	n := 0
	for g := range bytes.SplitSeq(buf, []byte("\n\n")) {
		if bytes.Contains(g, []byte("created by github.com/understudy-ha/understudy/persistence/posix.")) {
			n++
		}
	}
	return n
}

// TestHang hangs each kind of operation for ever: callers come back by their
// context, two workers stay behind and no more, further calls fail at once,
// the other kinds go on, and all is well after the file system is back.
func TestHang(t *testing.T) {
	cas := func(ctx context.Context, s *posix.Store) error {
		_, err := s.CAS(ctx, v0, []byte(v1))
		return err
	}
	read := func(ctx context.Context, s *posix.Store) error { _, err := s.Read(ctx); return err }
	put := func(ctx context.Context, s *posix.Store) error {
		return s.Put(ctx, "nodes/y", strings.NewReader("1"), 1)
	}
	get := func(ctx context.Context, s *posix.Store) error {
		r, err := s.Get(ctx, "nodes/x")
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, r)
		return errors.Join(err, r.Close())
	}
	list := func(ctx context.Context, s *posix.Store) error { _, err := s.List(ctx, "", ""); return err }
	del := func(ctx context.Context, s *posix.Store) error { return s.Delete(ctx, "nodes/none") }
	empty := func(ctx context.Context, s *posix.Store) error { _, err := s.Empty(ctx); return err }
	check := func(ctx context.Context, s *posix.Store) error { return s.Check(ctx) }
	for name, tt := range map[string]struct {
		rule  faultfs.Rule
		f     func(context.Context, *posix.Store) error
		other func(context.Context, *posix.Store) error // of another kind, not under the rule
	}{
		"cas on rename":     {faultfs.Rule{Op: faultfs.Rename}, cas, list},
		"read on opendir":   {faultfs.Rule{Op: faultfs.Opendir, Path: "lease"}, read, get},
		"read on readdir":   {faultfs.Rule{Op: faultfs.Readdir, Path: "lease"}, read, get},
		"put on create":     {faultfs.Rule{Op: faultfs.Create}, put, read},
		"put on write":      {faultfs.Rule{Op: faultfs.Write}, put, read},
		"put on fsync":      {faultfs.Rule{Op: faultfs.Fsync}, put, read},
		"get on lookup":     {faultfs.Rule{Op: faultfs.Lookup, Path: "nodes/x"}, get, read},
		"get on open":       {faultfs.Rule{Op: faultfs.Open}, get, read},
		"get on read":       {faultfs.Rule{Op: faultfs.Read}, get, read},
		"list on readdir":   {faultfs.Rule{Op: faultfs.Readdir, Path: "nodes"}, list, read},
		"delete on lookup":  {faultfs.Rule{Op: faultfs.Lookup, Path: "none"}, del, read},
		"empty on opendir":  {faultfs.Rule{Op: faultfs.Opendir}, empty, nil},
		"check on create":   {faultfs.Rule{Op: faultfs.Create}, check, read},
		"everything, cas":   {faultfs.Rule{}, cas, nil},
		"everything, read":  {faultfs.Rule{}, read, nil},
		"everything, put":   {faultfs.Rule{}, put, nil},
		"everything, check": {faultfs.Rule{}, check, nil},
		"everything, get":   {faultfs.Rule{}, get, nil},
	} {
		t.Run(name, func(t *testing.T) {
			fs, s, _, _ := plane(t)
			eventually(t, "the workers of the set-up end", func() bool { return workers() == 0 })
			tt.rule.Hang, tt.rule.Deaf = true, true
			fault := fs.Inject(tt.rule)

			const callers, patience = 10, 200 * time.Millisecond
			var wg sync.WaitGroup
			for range callers {
				wg.Go(func() {
					ctx, cancel := context.WithTimeout(t.Context(), patience)
					defer cancel()
					begin := time.Now()
					err := tt.f(ctx, s)
					if took := time.Since(begin); took > patience+500*time.Millisecond {
						t.Errorf("returned after %s, its context ended after %s", took, patience)
					}
					if !errors.Is(err, persistence.Unknown) {
						t.Errorf("hanging: %v; want Unknown", err)
					}
				})
			}
			wg.Wait()
			if n := workers(); n != 2 {
				t.Errorf("%d workers are stuck, want 2", n)
			}

			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			begin := time.Now()
			err := tt.f(ctx, s)
			if took := time.Since(begin); !errors.Is(err, persistence.Unknown) || took > 500*time.Millisecond {
				t.Errorf("with two stuck: %v after %s; want Unknown at once", err, took)
			}
			if !strings.Contains(fmt.Sprint(err), "stuck") {
				t.Errorf("the message does not say that operations are stuck: %v", err)
			}
			if tt.other != nil {
				if err := tt.other(ctx, s); err != nil {
					t.Errorf("an operation of another kind: %v", err)
				}
			}
			if fault.Fired() == 0 {
				t.Error("the fault never fired")
			}

			fs.Clear()
			eventually(t, "the workers end", func() bool { return workers() == 0 })
			if err := tt.f(ctx, s); err != nil && !errors.Is(err, persistence.Conflict) {
				t.Errorf("after the file system came back: %v", err)
			}
		})
	}
}

type lateResult struct {
	val string
	v   persistence.Version
	err error
}

// TestLateCAS lets a CAS land after its caller left: it is told to OnLate.
func TestLateCAS(t *testing.T) {
	fs, s, _, _ := plane(t)
	got := make(chan lateResult, 4)
	s.OnLate(func(val []byte, v persistence.Version, err error) { got <- lateResult{string(val), v, err} })
	fault := fs.Inject(faultfs.Rule{Op: faultfs.Rename, Hang: true, Deaf: true})
	for _, val := range []string{v1, v2} {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		if _, err := s.CAS(ctx, v0, []byte(val)); !errors.Is(err, persistence.Unknown) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("CAS: %v; want Unknown and DeadlineExceeded", err)
		}
		cancel()
	}
	if len(got) != 0 {
		t.Fatalf("a result before there can be one: %+v", <-got)
	}
	// The kernel serializes renames in one directory: the first is in the file
	// system, the second waits for the lock.
	eventually(t, "the rename hangs", func() bool { return fault.Holding() == 1 })
	fs.Clear()
	results := map[string]lateResult{}
	for range 2 {
		select {
		case r := <-got:
			results[r.val] = r
		case <-time.After(10 * time.Second):
			t.Fatal("a late result was not delivered within 10 s")
		}
	}
	won, lost := results[v1], results[v2]
	if won.err != nil {
		won, lost = lost, won
	}
	if won.err != nil || string(won.v) != won.val {
		t.Errorf("the winner: %+v", won)
	}
	if !errors.Is(lost.err, persistence.Conflict) || lost.v != "" {
		t.Errorf("the loser: %+v; want Conflict", lost)
	}
	holds(t, s, won.val)

	// What came in time is not told twice.
	if _, err := s.CAS(t.Context(), won.v, []byte("u1.three")); err != nil {
		t.Fatal(err)
	}
	if len(got) != 0 {
		t.Errorf("a CAS in time was delivered as late: %+v", <-got)
	}
}

func TestErrors(t *testing.T) {
	for _, tt := range []struct {
		errno  syscall.Errno
		want   error
		remedy string
	}{
		{syscall.ENOSPC, persistence.Full, "free space"},
		{syscall.EDQUOT, persistence.Full, "quota"},
		{syscall.EROFS, persistence.ReadOnly, "read-write"},
		{syscall.EACCES, persistence.Denied, "permission"},
		{syscall.EPERM, persistence.Denied, "permission"},
		{syscall.ESTALE, persistence.Unknown, "mount it again"},
		{syscall.EIO, persistence.Unknown, "kernel's log"},
		{syscall.ETIMEDOUT, persistence.Unknown, "hard"},
		{syscall.EBUSY, persistence.Unknown, ""},
	} {
		t.Run(tt.errno.Error(), func(t *testing.T) {
			fs, s, _, dir := plane(t)
			for _, op := range []struct {
				name string
				op   faultfs.Op
				path string // that the message must name
				f    func() error
			}{
				{"cas", faultfs.Rename, dir + "/lease", func() error { _, err := s.CAS(t.Context(), v0, []byte(v1)); return err }},
				{"cas fsync", faultfs.Fsyncdir, dir + "/lease", func() error { _, err := s.CAS(t.Context(), v0, []byte(v1)); return err }},
				{"read", faultfs.Opendir, dir + "/lease", func() error { _, err := s.Read(t.Context()); return err }},
				{"init", faultfs.Mkdir, dir, func() error { return s.Init(t.Context(), []byte(v1)) }},
				{"init file", faultfs.Create, dir, func() error { return s.Init(t.Context(), []byte(v1)) }},
				{"put", faultfs.Create, dir + "/nodes", func() error { return s.Put(t.Context(), "nodes/y", strings.NewReader("1"), 1) }},
				{"put write", faultfs.Write, dir + "/nodes/y", func() error { return s.Put(t.Context(), "nodes/y", strings.NewReader("1"), 1) }},
				{"put fsync", faultfs.Fsync, dir + "/nodes/y", func() error { return s.Put(t.Context(), "nodes/y", strings.NewReader("1"), 1) }},
				{"put close", faultfs.Flush, dir + "/nodes/y", func() error { return s.Put(t.Context(), "nodes/y", strings.NewReader("1"), 1) }},
				{"put rename", faultfs.Rename, dir + "/nodes/y", func() error { return s.Put(t.Context(), "nodes/y", strings.NewReader("1"), 1) }},
				{"put mkdir", faultfs.Mkdir, dir + "/new", func() error { return s.Put(t.Context(), "new/y", strings.NewReader("1"), 1) }},
				{"get", faultfs.Open, dir + "/nodes/x", func() error { _, err := s.Get(t.Context(), "nodes/x"); return err }},
				{"list", faultfs.Opendir, dir, func() error { _, err := s.List(t.Context(), "", ""); return err }},
				{"delete", faultfs.Unlink, dir + "/nodes/x", func() error { return s.Delete(t.Context(), "nodes/x") }},
				{"empty", faultfs.Opendir, dir, func() error { _, err := s.Empty(t.Context()); return err }},
				{"check list", faultfs.Opendir, dir, func() error { return s.Check(t.Context()) }},
				{"check", faultfs.Create, dir, func() error { return s.Check(t.Context()) }},
				{"check write", faultfs.Write, dir, func() error { return s.Check(t.Context()) }},
			} {
				fault := fs.Inject(faultfs.Rule{Op: op.op, Errno: tt.errno}) // the kernel tries twice after ESTALE
				err := op.f()
				if !errors.Is(err, tt.want) || !errors.Is(err, tt.errno) {
					t.Errorf("%s: %v; want %v", op.name, err, tt.want)
				}
				if msg := fmt.Sprint(err); !strings.Contains(msg, op.path) || !strings.Contains(msg, tt.remedy) {
					t.Errorf("%s: the message lacks the path %q or the remedy %q: %s", op.name, op.path, tt.remedy, msg)
				}
				if fault.Fired() == 0 {
					t.Errorf("%s: the fault never fired", op.name)
				}
				fault.Remove()
				if op.name == "cas fsync" { // it did happen
					holds(t, s, v1)
					if _, err := s.CAS(t.Context(), v1, []byte(v0)); err != nil {
						t.Fatal(err)
					}
				}
			}
			holds(t, s, v0)
			if p, err := s.List(t.Context(), "", ""); err != nil || len(p.Items) != 1 {
				t.Errorf("failed operations left %+v, %v", p, err)
			}
			left, err := filepath.Glob(filepath.Join(dir, "*", ".tmp-*"))
			more, err2 := filepath.Glob(filepath.Join(dir, ".[cit]*"))
			if err = errors.Join(err, err2); err != nil || len(left)+len(more) > 0 {
				t.Errorf("failed operations left %v %v, %v", left, more, err)
			}
		})
	}
}

// TestAppliedButFailed is the replayed RENAME of a lossy network: it happened,
// and its sender is told that it did not.
func TestAppliedButFailed(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.EIO, syscall.ENOENT, syscall.ETIMEDOUT} {
		t.Run(errno.Error(), func(t *testing.T) {
			fs, s, below, _ := plane(t)
			fault := fs.Inject(faultfs.Rule{Op: faultfs.Rename, Errno: errno, After: true, Count: 1})
			v, err := s.CAS(t.Context(), v0, []byte(v1))
			if err == nil || v != "" {
				t.Fatalf("CAS: %q, %v; want an error", v, err)
			}
			if fault.Fired() != 1 {
				t.Fatalf("the fault fired %d times", fault.Fired())
			}
			holds(t, s, v1)
			holds(t, below, v1)
		})
	}
}

// TestHangOnFsync is a CAS that has happened but is not durable yet: undecided
// for its caller, told late when it is.
func TestHangOnFsync(t *testing.T) {
	fs, s, below, _ := plane(t)
	got := make(chan lateResult, 1)
	s.OnLate(func(val []byte, v persistence.Version, err error) { got <- lateResult{string(val), v, err} })
	fault := fs.Inject(faultfs.Rule{Op: faultfs.Fsyncdir, Hang: true, Deaf: true})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := s.CAS(ctx, v0, []byte(v1)); !errors.Is(err, persistence.Unknown) {
		t.Errorf("CAS: %v; want Unknown", err)
	}
	holds(t, below, v1)
	if fault.Fired() != 1 {
		t.Errorf("the fault fired %d times", fault.Fired())
	}
	fs.Clear()
	select {
	case r := <-got:
		if r != (lateResult{v1, v1, nil}) {
			t.Errorf("late: %+v", r)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the late result was not delivered within 10 s")
	}
}

// TestReadAgain answers once as a client's stale negative dentry does.
func TestReadAgain(t *testing.T) {
	fs, s, below, _ := plane(t)
	fault := fs.Inject(faultfs.Rule{Op: faultfs.Opendir, Path: "lease", Errno: syscall.ENOENT, Count: 1})
	if _, err := s.Read(t.Context()); !errors.Is(err, persistence.Unknown) || errors.Is(err, persistence.Absent) {
		t.Errorf("a register that is listed but does not open: %v; want Unknown, not Absent", err)
	}
	if fault.Fired() != 1 {
		t.Error("the fault never fired")
	}
	holds(t, s, v0)
	holds(t, below, v0)
}

// TestStreamingGet ends the context in the middle of an object.
func TestStreamingGet(t *testing.T) {
	fs, s, _, _ := plane(t)
	content := strings.Repeat("x", 1<<20)
	if err := s.Put(t.Context(), "artifacts/big", strings.NewReader(content), -1); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	r, err := s.Get(ctx, "artifacts/big")
	if err != nil {
		t.Fatal(err)
	}
	fault := fs.Inject(faultfs.Rule{Op: faultfs.Read, Hang: true, Deaf: true})
	n, err := io.Copy(io.Discard, r)
	if !errors.Is(err, persistence.Unknown) || n >= int64(len(content)) {
		t.Errorf("read %d bytes, %v; want Unknown before the end", n, err)
	}
	if fault.Fired() == 0 {
		t.Error("the fault never fired")
	}
	begin := time.Now()
	if err := r.Close(); err != nil || time.Since(begin) > 500*time.Millisecond {
		t.Errorf("close: %v after %s", err, time.Since(begin))
	}
	fs.Clear()
	eventually(t, "the workers end", func() bool { return workers() == 0 })
	eventually(t, "the file is closed", func() bool { return !isOpen(t, "artifacts/big") })
}

// isOpen reports whether this process has a file open whose path ends so.
func isOpen(t *testing.T, suffix string) bool {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		// Those of the FUSE server itself name the directory beneath.
		if p, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && strings.HasSuffix(p, suffix) {
			return true
		}
	}
	return false
}

// TestRenameThatIsNotExclusive: on a file system where several racing movers of
// one name win, the check that a node makes says so.
func TestRenameThatIsNotExclusive(t *testing.T) {
	fs, s, _, _ := plane(t)
	x := fs.Inject(faultfs.Rule{Op: faultfs.Rename, Path: "/lease/", Shared: 100 * time.Millisecond})
	r, err := verify.Run(t.Context(), s, verify.Options{Short: true, OperationTimeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if r.OK || x.Fired() == 0 {
		t.Errorf("verdict %q, and the rule fired %d times; want a refusal, and some", r.Verdict, x.Fired())
	}
}

// TestInspectHangs: it comes back by its deadline with what it has found.
func TestInspectHangs(t *testing.T) {
	fs, s, _, _ := plane(t)
	x := fs.Inject(faultfs.Rule{Op: faultfs.Statfs, Hang: true, Deaf: true})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	begin := time.Now()
	found := s.Inspect(ctx)
	if took := time.Since(begin); took > 5*time.Second || x.Fired() == 0 {
		t.Errorf("it took %s, and the fault fired %d times", took, x.Fired())
	}
	end := found[len(found)-1]
	if len(found) < 3 || found[0].Status != persistence.GradeOK || end.Status != persistence.GradeFail || !strings.Contains(end.Detail, "no answer") {
		t.Errorf("found %+v", found)
	}
}
