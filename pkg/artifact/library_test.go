package artifact

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/persistence/faulty"
	"github.com/understudy-ha/understudy/persistence/memory"
	"github.com/understudy-ha/understudy/persistence/posix"
)

var reign = Reign{Plane: "abcd1234", Term: 7}

func contentOf(s string) Content {
	d, n, err := Sum(strings.NewReader(s))
	if err != nil {
		panic(err) // of a string
	}
	return Content{R: strings.NewReader(s), Digest: d, Size: n}
}

// lib is a library in a memory that fails on command.
func lib(t *testing.T) (*Library, *faulty.Store, *registry) {
	t.Helper()
	store, index := faulty.Wrap(memory.New().Open()), newRegistry()
	return New(store, index, Options{Pause: time.Millisecond}), store, index
}

func push(t *testing.T, l *Library, name, content string) Entry {
	t.Helper()
	e, err := l.Push(t.Context(), name, reign, contentOf(content))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func read(t *testing.T, l *Library, name string) string {
	t.Helper()
	e, err := l.Get(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := l.Read(t.Context(), e, &b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func stored(t *testing.T, l *Library) int {
	t.Helper()
	all, err := l.objects(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

func TestPushAndRead(t *testing.T) {
	l, _, _ := lib(t)
	for _, size := range []int{0, 1, 256 << 10, 1<<20 + 1} {
		content := strings.Repeat("x", size)
		e := push(t, l, "app.jar", content)
		if e.Size != int64(size) || e.Digest != contentOf(content).Digest || !strings.HasPrefix(e.Object, string(e.Digest)+".") {
			t.Errorf("%d bytes: entry %+v", size, e)
		}
		if got := read(t, l, "app.jar"); got != content {
			t.Errorf("%d bytes came back as %d", size, len(got))
		}
	}
	unknown := contentOf("of no known size")
	unknown.Size = -1
	if e, err := l.Push(t.Context(), "b", reign, unknown); err != nil || e.Size != 16 {
		t.Errorf("a push of unknown size: %+v, %v", e, err)
	}
	all, err := l.List(t.Context())
	if err != nil || len(all) != 2 || all[0].Name != "app.jar" || all[1].Name != "b" {
		t.Errorf("list: %+v, %v", all, err)
	}
	if err := l.Remove(t.Context(), "b"); err != nil {
		t.Error(err)
	}
	if _, err := l.Get(t.Context(), "b"); !errors.Is(err, ErrNone) {
		t.Errorf("get of what was removed: %v", err)
	}
	if err := l.Remove(t.Context(), "b"); !errors.Is(err, ErrNone) {
		t.Errorf("remove of what was removed: %v", err)
	}
}

func TestNames(t *testing.T) {
	l, _, _ := lib(t)
	for _, name := range []string{"", ".", "..", ".x", "-x", "a/b", "a b", "ä", strings.Repeat("x", MaxName+1), "a\n", "{x}"} {
		if _, err := l.Push(t.Context(), name, reign, contentOf("x")); !errors.Is(err, ErrName) {
			t.Errorf("push of %q: %v", name, err)
		}
		if _, err := l.Get(t.Context(), name); !errors.Is(err, ErrName) {
			t.Errorf("get of %q: %v", name, err)
		}
	}
	for _, name := range []string{"a", "0", "app-1.2.3_x86.jar", strings.Repeat("x", MaxName)} {
		push(t, l, name, "x")
	}
}

// TestWrongContent: what is not what it was said to be is not stored, on any
// store that keeps the contract.
func TestWrongContent(t *testing.T) {
	good := strings.Repeat("0123456789abcdef", 50000)
	for name, c := range map[string]Content{
		"another byte": {strings.NewReader("X" + good[1:]), contentOf(good).Digest, int64(len(good))},
		"cut off":      {strings.NewReader(good[:len(good)-1]), contentOf(good).Digest, int64(len(good))},
		"cut off, -1":  {strings.NewReader(good[:1000]), contentOf(good).Digest, -1},
		"too long":     {strings.NewReader(good + "x"), contentOf(good).Digest, int64(len(good))},
		"too long, -1": {strings.NewReader(good + "x"), contentOf(good).Digest, -1},
		"nothing":      {strings.NewReader(""), contentOf(good).Digest, int64(len(good))},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			store, err := posix.Open(dir, posix.Options{})
			if err != nil {
				t.Fatal(err)
			}
			l := New(store, newRegistry(), Options{})
			if _, err := l.Push(t.Context(), "a", reign, c); !errors.Is(err, ErrCorrupt) {
				t.Errorf("pushed with %v; want ErrCorrupt", err)
			}
			if n := stored(t, l); n != 0 {
				t.Errorf("%d objects are to be seen", n)
			}
			// The store removes what it has begun to write behind the call.
			var left []string
			for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
				if left, err = filepath.Glob(filepath.Join(dir, "artifacts", "*")); err != nil || len(left) == 0 {
					break
				}
			}
			if err != nil || len(left) != 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
			if _, err := l.Get(t.Context(), "a"); !errors.Is(err, ErrNone) {
				t.Errorf("get: %v; want ErrNone", err)
			}
		})
	}
}

var errLost = fmt.Errorf("%w: the network", persistence.Unknown)

// TestPushFails: whatever happens to the requests of a push, the name means
// what it meant before or the new content, and the next push succeeds.
func TestPushFails(t *testing.T) {
	for name, tt := range map[string]struct {
		fault   *faulty.Fault
		index   error
		applied bool
		left    int // objects of the failed push, before any collection
		visible string
	}{
		"put lost":                {fault: &faulty.Fault{Op: faulty.Put, Drop: true, Err: errLost, Count: 1}, visible: "old"},
		"put done, reply lost":    {fault: &faulty.Fault{Op: faulty.Put, Err: errLost, Count: 1}, visible: "old"},
		"store full":              {fault: &faulty.Fault{Op: faulty.Put, Drop: true, Err: persistence.Full, Count: 1}, visible: "old"},
		"not the master":          {index: errNotMaster, visible: "old"},
		"undecided, not applied":  {index: ErrUndecided, left: 1, visible: "old"},
		"undecided, yet applied":  {index: ErrUndecided, applied: true, left: 1, visible: "new"},
		"undecided, wrapped once": {index: fmt.Errorf("commit: %w", ErrUndecided), left: 1, visible: "old"},
	} {
		t.Run(name, func(t *testing.T) {
			l, store, index := lib(t)
			push(t, l, "a", "old")
			var inj *faulty.Injected
			if tt.fault != nil {
				inj = store.Inject(*tt.fault)
			}
			index.fail, index.applied = tt.index, tt.applied
			if _, err := l.Push(t.Context(), "a", reign, contentOf("new")); err == nil {
				t.Fatal("pushed")
			}
			if inj != nil && inj.Fired() != 1 {
				t.Errorf("the fault fired %d times", inj.Fired())
			}
			if got := read(t, l, "a"); got != tt.visible {
				t.Errorf("the name means %q, want %q", got, tt.visible)
			}
			if n := stored(t, l); n != 1+tt.left {
				t.Errorf("%d objects, want %d", n, 1+tt.left)
			}
			push(t, l, "a", "newer")
			if got := read(t, l, "a"); got != "newer" {
				t.Errorf("after the next push: %q", got)
			}
		})
	}
}

// TestDamage: an object that has changed in the store is never taken for the
// artifact, and a push of the same content puts it right.
func TestDamage(t *testing.T) {
	l, store, _ := lib(t)
	e := push(t, l, "a", "content")
	for _, damaged := range []string{"c0ntent", "conten", "contents", ""} {
		if err := store.Put(t.Context(), Prefix+e.Object, strings.NewReader(damaged), -1); err != nil {
			t.Fatal(err)
		}
		if err := l.Read(t.Context(), e, io.Discard); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%q was read with %v", damaged, err)
		}
	}
	if err := store.Delete(t.Context(), Prefix+e.Object); err != nil {
		t.Fatal(err)
	}
	if err := l.Read(t.Context(), e, io.Discard); !errors.Is(err, persistence.Absent) {
		t.Errorf("what is gone was read with %v", err)
	}
	push(t, l, "a", "content")
	if got := read(t, l, "a"); got != "content" {
		t.Errorf("after another push: %q", got)
	}
}

// TestEntriesAreChecked: the index may have been written by hand.
func TestEntriesAreChecked(t *testing.T) {
	l, _, index := lib(t)
	good := push(t, l, "a", "content")
	for what, change := range map[string]func(*Entry){
		"no object":     func(e *Entry) { e.Object = "" },
		"a path":        func(e *Entry) { e.Object = "../lease" },
		"other content": func(e *Entry) { e.Digest = contentOf("x").Digest },
		"size":          func(e *Entry) { e.Size = -5 },
		"name":          func(e *Entry) { e.Name = "../a" },
	} {
		bad := good
		change(&bad)
		index.entries["a"] = bad
		if _, err := l.Get(t.Context(), "a"); err == nil {
			t.Errorf("%s: believed", what)
		}
		if _, err := l.Open(t.Context(), bad, 0); err == nil {
			t.Errorf("%s: opened", what)
		}
	}
}

// broken gives objects whose reading fails after some bytes, for a while.
type broken struct {
	*memory.Store
	after int64
	times int
	err   error
	gets  int
	from  []int64 // offsets asked for
}

func (b *broken) Get(ctx context.Context, key string) (io.ReadCloser, error) {
	rc, err := b.Store.Get(ctx, key)
	if b.gets++; err != nil || b.gets > b.times {
		return rc, err
	}
	return io.NopCloser(io.MultiReader(io.LimitReader(rc, b.after), failing{b.err})), nil
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// ranger is broken that can read from the middle, too.
type ranger struct{ *broken }

func (r ranger) GetFrom(ctx context.Context, key string, offset int64) (io.ReadCloser, error) {
	r.from = append(r.from, offset)
	rc, err := r.Get(ctx, key)
	if err == nil {
		_, err = io.CopyN(io.Discard, rc, offset)
	}
	return rc, err
}

// TestReadGoesOn: a store that fails in the middle of a read is asked again for
// the rest, a bounded number of times, and only if that can help.
func TestReadGoesOn(t *testing.T) {
	content := strings.Repeat("0123456789", 1000)
	for name, tt := range map[string]struct {
		times  int
		err    error
		ranger bool
		want   error
	}{
		"once":            {times: 1, err: errLost},
		"once, by range":  {times: 1, err: errLost, ranger: true},
		"throttled":       {times: 3, err: persistence.Throttled},
		"for ever":        {times: 1000, err: errLost, want: errLost},
		"forbidden":       {times: 1000, err: persistence.Denied, want: persistence.Denied},
		"gone in between": {times: 1, err: persistence.Absent, want: persistence.Absent},
	} {
		t.Run(name, func(t *testing.T) {
			b := &broken{Store: memory.New().Open(), after: 4321, times: tt.times, err: tt.err}
			var store persistence.Objects = b
			if tt.ranger {
				store = ranger{b}
			}
			l := New(store, newRegistry(), Options{Pause: time.Millisecond, Retries: 4})
			e := push(t, l, "a", content)
			var got bytes.Buffer
			err := l.Read(t.Context(), e, &got)
			if !errors.Is(err, tt.want) {
				t.Fatalf("read: %v, want %v", err, tt.want)
			}
			if tt.want == nil && got.String() != content {
				t.Errorf("%d bytes came", got.Len())
			}
			if b.gets > 8 {
				t.Errorf("the store was asked %d times", b.gets)
			}
			if tt.ranger && (len(b.from) != 1 || b.from[0] != b.after) {
				t.Errorf("asked for the offsets %d, want %d once", b.from, b.after)
			}
		})
	}
}

// TestStall: a transfer in which nothing moves is given up, however much time
// its caller has; one that moves slowly is not.
func TestStall(t *testing.T) {
	const stall = time.Second
	store, index := faulty.Wrap(memory.New().Open()), newRegistry()
	l := New(store, index, Options{Stall: stall})
	e := push(t, l, "a", "content")
	for _, op := range []faulty.Op{faulty.Put, faulty.Get} {
		inj := store.Inject(faulty.Fault{Op: op, Hang: true})
		var err error
		if op == faulty.Put {
			_, err = l.Push(t.Context(), "b", reign, contentOf("x"))
		} else {
			_, err = l.Open(t.Context(), e, 0)
		}
		if !errors.Is(err, persistence.Unknown) || !strings.Contains(fmt.Sprint(err), "nothing has moved") {
			t.Errorf("%s: %v", op, err)
		}
		if inj.Fired() == 0 {
			t.Errorf("%s: the fault never fired", op)
		}
		inj.Remove()
	}
	// The content comes slowly; that is not the store's fault.
	c := contentOf("ly")
	c.R = &slow{s: "ly", pause: stall * 3 / 2}
	if _, err := l.Push(t.Context(), "c", reign, c); err != nil {
		t.Errorf("slow content: %v", err)
	}
	// Nor is it that nobody reads.
	rc, err := l.Open(t.Context(), e, 0)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(stall * 3 / 2)
	if b, err := io.ReadAll(rc); err != nil || string(b) != "content" {
		t.Errorf("read late: %q, %v", b, err)
	}
	if err := rc.Close(); err != nil {
		t.Error(err)
	}
}

type slow struct {
	s     string
	pause time.Duration
}

func (s *slow) Read(p []byte) (int, error) {
	if s.s == "" {
		return 0, io.EOF
	}
	time.Sleep(s.pause)
	p[0], s.s = s.s[0], s.s[1:]
	return 1, nil
}

func TestMain(m *testing.M) {
	if dir := os.Getenv(pusherEnv); dir != "" {
		pusher(dir)
	}
	os.Exit(m.Run())
}
