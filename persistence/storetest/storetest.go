// Package storetest is the conformance suite of persistence.Store. Every store
// passes it with two handles on one location, which stand for two nodes. What
// it can not see from one machine, `store verify` looks for from two.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/persistence/faulty"
)

// Writers and Rounds are the size of the races.
const (
	Writers = 16
	Rounds  = 20
)

// Run tests a store. open returns two handles on one new, empty location; the
// test closes them. Values begin with "u1.", as those of a plane do.
func Run(t *testing.T, open func(t *testing.T) (a, b persistence.Store)) {
	t.Helper()
	tests := []struct {
		name string
		f    func(conformance)
	}{
		{"absent until created", conformance.testAbsent},
		{"created once", conformance.testCreate},
		{"CAS", conformance.testCAS},
		{"CAS never creates", conformance.testCASMissing},
		{"longest value", conformance.testLongest},
		{"racing creators", conformance.testRaceCreate},
		{"racing writers", conformance.testRaceCAS},
		{"lost replies", conformance.testLostReplies},
		{"reopened", conformance.testReopen},
		{"objects", conformance.testObjects},
		{"big objects", conformance.testBigObjects},
		{"transfers", conformance.testTransfers},
		{"keys", conformance.testKeys},
		{"list", conformance.testList},
		{"list pages", conformance.testPages},
		{"empty", conformance.testEmpty},
		{"sub", conformance.testSub},
		{"ended context", conformance.testContext},
		{"limits", conformance.testLimits},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a, b := open(t)
			t.Cleanup(func() {
				for _, s := range []persistence.Store{a, b} {
					if err := s.Close(); err != nil {
						t.Errorf("close: %v", err)
					}
				}
			})
			tt.f(conformance{t, a, b})
		})
	}
}

// conformance is one test with two handles on one location.
type conformance struct {
	t    *testing.T
	a, b persistence.Store
}

func value(format string, args ...any) []byte {
	return []byte("u1." + fmt.Sprintf(format, args...))
}

func read(t *testing.T, s persistence.Register) persistence.Snapshot {
	t.Helper()
	snap, err := s.Read(t.Context())
	if err != nil {
		t.Fatalf("read: %v", err)
	}
	if snap.Version == "" {
		t.Fatalf("read %q with an empty version", snap.Value)
	}
	return snap
}

func mustHold(t *testing.T, want []byte, stores ...persistence.Store) {
	t.Helper()
	for i, s := range stores {
		if got := read(t, s); !bytes.Equal(got.Value, want) {
			t.Fatalf("handle %d reads %q, want %q", i, got.Value, want)
		}
	}
}

func create(t *testing.T, s persistence.Register, val []byte) persistence.Version {
	t.Helper()
	if err := s.Init(t.Context(), val); err != nil {
		t.Fatalf("init: %v", err)
	}
	return read(t, s).Version
}

// refused asserts that a CAS was answered by a precondition that did not hold.
func refused(t *testing.T, what string, v persistence.Version, err error) {
	t.Helper()
	if !errors.Is(err, persistence.Conflict) || v != "" {
		t.Fatalf("CAS with %s: version %q, error %v; want Conflict", what, v, err)
	}
}

func (c conformance) testAbsent() {
	t, a, _ := c.t, c.a, c.b
	if snap, err := a.Read(t.Context()); !errors.Is(err, persistence.Absent) {
		t.Fatalf("read: %+v, %v; want Absent", snap, err)
	}
}

func (c conformance) testCreate() {
	t, a, b := c.t, c.a, c.b
	create(t, a, value("first"))
	for _, s := range []persistence.Store{a, b} {
		if err := s.Init(t.Context(), value("second")); !errors.Is(err, persistence.Conflict) {
			t.Fatalf("second init: %v; want Conflict", err)
		}
	}
	mustHold(t, value("first"), a, b)
}

func (c conformance) testCAS() {
	t, a, b := c.t, c.a, c.b
	v0 := create(t, a, value("0"))
	v1, err := b.CAS(t.Context(), v0, value("1"))
	if err != nil {
		t.Fatalf("CAS: %v", err)
	}
	if v1 == v0 || v1 == "" {
		t.Fatalf("CAS returned version %q after %q", v1, v0)
	}
	if got := read(t, a); got.Version != v1 || !bytes.Equal(got.Value, value("1")) {
		t.Fatalf("the other handle reads %+v, want version %q", got, v1)
	}
	v, err := a.CAS(t.Context(), v0, value("2"))
	refused(t, "a superseded version", v, err)
	sub, err := a.Sub(".other")
	if err != nil {
		t.Fatal(err)
	}
	v, err = a.CAS(t.Context(), create(t, sub, value("elsewhere"))+"x", value("3"))
	refused(t, "a version that never was", v, err)
	v, err = a.CAS(t.Context(), "", value("4"))
	refused(t, "no version", v, err)
	mustHold(t, value("1"), a, b)
	if _, err := a.CAS(t.Context(), v1, value("5")); err != nil {
		t.Fatalf("CAS on the version that CAS returned: %v", err)
	}
	mustHold(t, value("5"), b, a)
}

func (c conformance) testCASMissing() {
	t, a, b := c.t, c.a, c.b
	sub, err := a.Sub(".other")
	if err != nil {
		t.Fatal(err)
	}
	v, err := a.CAS(t.Context(), create(t, sub, value("elsewhere")), value("0"))
	refused(t, "no register there", v, err)
	if snap, err := b.Read(t.Context()); !errors.Is(err, persistence.Absent) {
		t.Fatalf("read after CAS on nothing: %+v, %v; want Absent", snap, err)
	}
}

func (c conformance) testLongest() {
	t, a, b := c.t, c.a, c.b
	long := func(c string) []byte { return value("%s", strings.Repeat(c, persistence.MaxValueLen-3)) }
	v := create(t, a, long("a"))
	if _, err := a.CAS(t.Context(), v, long("-")); err != nil {
		t.Fatalf("CAS to %d bytes: %v", persistence.MaxValueLen, err)
	}
	mustHold(t, long("-"), a, b)
}

// race has all writers try f at once and returns those that were told nil.
func race(t *testing.T, f func(ctx context.Context, writer int) error) (winners []int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		start = make(chan struct{})
	)
	for w := range Writers {
		wg.Go(func() {
			<-start
			err := f(ctx, w)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				winners = append(winners, w)
			case !errors.Is(err, persistence.Conflict):
				t.Errorf("writer %d: %v; want nil or Conflict", w, err)
			}
		})
	}
	close(start)
	wg.Wait()
	return winners
}

// handles opens one handle per writer, half of them through each of a and b,
// on the scratch location name.
func handles(t *testing.T, name string, a, b persistence.Store) []persistence.Store {
	t.Helper()
	out := make([]persistence.Store, Writers)
	for i := range out {
		parent := a
		if i%2 == 1 {
			parent = b
		}
		s, err := parent.Sub(name)
		if err != nil {
			t.Fatal(err)
		}
		out[i] = s
	}
	return out
}

func (c conformance) testRaceCreate() {
	t, a, b := c.t, c.a, c.b
	for round := range Rounds {
		hs := handles(t, fmt.Sprintf(".create-%d", round), a, b)
		winners := race(t, func(ctx context.Context, w int) error { return hs[w].Init(ctx, value("%d", w)) })
		if len(winners) != 1 {
			t.Fatalf("round %d: creators %v were all told that they had won, want exactly one", round, winners)
		}
		mustHold(t, value("%d", winners[0]), hs...)
	}
}

func (c conformance) testRaceCAS() {
	t, a, b := c.t, c.a, c.b
	hs := handles(t, ".cas", a, b)
	v := create(t, hs[0], value("begin"))
	for round := range Rounds {
		versions := make([]persistence.Version, Writers)
		winners := race(t, func(ctx context.Context, w int) (err error) {
			versions[w], err = hs[w].CAS(ctx, v, value("%d.%d", round, w))
			return err
		})
		if len(winners) != 1 {
			t.Fatalf("round %d: writers %v were all told that they had won, want exactly one", round, winners)
		}
		mustHold(t, value("%d.%d", round, winners[0]), hs...)
		v = versions[winners[0]]
	}
}

// testLostReplies shows what undecided means: the caller finds out by reading,
// whichever way it went.
func (c conformance) testLostReplies() {
	t, a, b := c.t, c.a, c.b
	f := faulty.Wrap(a)
	v := create(t, f, value("0"))

	reply := f.Inject(faulty.Fault{Op: faulty.CAS, Count: 1, Err: persistence.Unknown})
	if _, err := f.CAS(t.Context(), v, value("1")); !errors.Is(err, persistence.Unknown) {
		t.Fatalf("CAS with a lost reply: %v", err)
	}
	mustHold(t, value("1"), f, b)
	v = read(t, f).Version

	request := f.Inject(faulty.Fault{Op: faulty.CAS, Count: 1, Drop: true, Err: persistence.Unknown})
	if _, err := f.CAS(t.Context(), v, value("2")); !errors.Is(err, persistence.Unknown) {
		t.Fatalf("CAS with a lost request: %v", err)
	}
	mustHold(t, value("1"), f, b)

	// A request that lands after somebody else's must lose to it.
	late := f.Inject(faulty.Fault{Op: faulty.CAS, Count: 1, Hang: true, Late: true})
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := f.CAS(ctx, v, value("3")); !errors.Is(err, persistence.Unknown) {
		t.Fatalf("CAS that hangs: %v", err)
	}
	if _, err := b.CAS(t.Context(), v, value("4")); err != nil {
		t.Fatal(err)
	}
	var landed error
	f.OnLate(func(_ []byte, _ persistence.Version, err error) { landed = err })
	late.Release()
	if !errors.Is(landed, persistence.Conflict) {
		t.Fatalf("the late CAS: %v; want Conflict", landed)
	}
	mustHold(t, value("4"), f, b)

	for name, i := range map[string]*faulty.Injected{"reply": reply, "request": request, "late": late} {
		if i.Fired() != 1 {
			t.Errorf("the fault %q fired %d times, want once", name, i.Fired())
		}
	}
}

func (c conformance) testReopen() {
	t, a, _ := c.t, c.a, c.b
	s, err := a.Sub(".again")
	if err != nil {
		t.Fatal(err)
	}
	v := create(t, s, value("0"))
	if v, err = s.CAS(t.Context(), v, value("1")); err != nil {
		t.Fatal(err)
	}
	put(t, s, "nodes/a", "hello")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = a.Sub(".again"); err != nil {
		t.Fatal(err)
	}
	if got := read(t, s); got.Version != v {
		t.Fatalf("reopened: %+v, want version %q", got, v)
	}
	if got := get(t, s, "nodes/a"); got != "hello" {
		t.Fatalf("reopened: object reads %q", got)
	}
}

func put(t *testing.T, s persistence.Objects, key, content string) {
	t.Helper()
	if err := s.Put(t.Context(), key, strings.NewReader(content), int64(len(content))); err != nil {
		t.Fatalf("put %s: %v", key, err)
	}
}

func get(t *testing.T, s persistence.Objects, key string) string {
	t.Helper()
	r, err := s.Get(t.Context(), key)
	if err != nil {
		t.Fatalf("get %s: %v", key, err)
	}
	b, err := io.ReadAll(r)
	if err = errors.Join(err, r.Close()); err != nil {
		t.Fatalf("read %s: %v", key, err)
	}
	return string(b)
}

func (c conformance) testObjects() {
	t, a, b := c.t, c.a, c.b
	if _, err := b.Get(t.Context(), "nodes/x"); !errors.Is(err, persistence.Absent) {
		t.Fatalf("get before put: %v; want Absent", err)
	}
	for _, content := range []string{"one", "", "a longer one than the first", "short"} {
		put(t, a, "nodes/x", content)
		if got := get(t, b, "nodes/x"); got != content {
			t.Fatalf("got %q, want %q", got, content)
		}
	}
	if err := a.Put(t.Context(), "nodes/y", strings.NewReader("unknown size"), -1); err != nil {
		t.Fatal(err)
	}
	if got := get(t, b, "nodes/y"); got != "unknown size" {
		t.Fatalf("got %q", got)
	}
	for range 2 { // removing what is not there succeeds
		if err := a.Delete(t.Context(), "nodes/x"); err != nil {
			t.Fatalf("delete: %v", err)
		}
	}
	if err := a.Delete(t.Context(), "never/was/there"); err != nil {
		t.Fatalf("delete: %v", err)
	}
	if _, err := b.Get(t.Context(), "nodes/x"); !errors.Is(err, persistence.Absent) {
		t.Fatalf("get after delete: %v; want Absent", err)
	}
	if _, err := b.Get(t.Context(), "nodes"); !errors.Is(err, persistence.Absent) {
		t.Fatalf("get of a prefix of keys: %v; want Absent", err)
	}
}

// testBigObjects covers contents of more than one piece, and interrupted Puts.
func (c conformance) testBigObjects() {
	t, a, b := c.t, c.a, c.b
	for _, size := range []int{256<<10 - 1, 256 << 10, 256<<10 + 1, 3<<20 + 17} {
		content := strings.Repeat("0123456789abcde\n", size/16+1)[:size]
		for _, announced := range []int64{int64(size), -1} {
			if err := a.Put(t.Context(), "artifacts/big", strings.NewReader(content), announced); err != nil {
				t.Fatalf("put %d bytes, announced %d: %v", size, announced, err)
			}
			if get(t, b, "artifacts/big") != content {
				t.Fatalf("%d bytes came back changed", size)
			}
		}
		broken := io.MultiReader(strings.NewReader(content[:size/2]), brokenReader{})
		if err := a.Put(t.Context(), "artifacts/big", broken, int64(size)); !errors.Is(err, errBroken) {
			t.Fatalf("put of a broken reader: %v", err)
		}
		for _, announced := range []int64{int64(size) - 1, int64(size) + 1} {
			if err := a.Put(t.Context(), "artifacts/big", strings.NewReader(content), announced); err == nil {
				t.Fatalf("put of %d bytes announced as %d succeeded", size, announced)
			}
		}
		if get(t, b, "artifacts/big") != content {
			t.Fatal("a failed put changed the object")
		}
	}
	if p, err := b.List(t.Context(), "", ""); err != nil || len(p.Items) != 1 {
		t.Fatalf("failed puts left something behind: %+v, %v", p, err)
	}
}

// testTransfers covers what only some stores can: reading from the middle, and
// finding what was left behind.
func (c conformance) testTransfers() {
	t, a, b := c.t, c.a, c.b
	const size = 600 << 10
	content := strings.Repeat("0123456789abcde\n", size/16)
	if err := a.Put(t.Context(), "artifacts/big", strings.NewReader(content), size); err != nil {
		t.Fatal(err)
	}
	if r, ok := b.(persistence.Ranger); ok {
		for _, offset := range []int64{0, 1, 256 << 10, size - 1, size, size + 1} {
			rc, err := r.GetFrom(t.Context(), "artifacts/big", offset)
			if errors.Is(err, persistence.Unsupported) {
				break // a wrapped store that can not
			}
			if err != nil {
				t.Fatalf("get from %d of %d: %v", offset, size, err)
			}
			got, err := io.ReadAll(rc)
			if err = errors.Join(err, rc.Close()); err != nil || string(got) != content[min(offset, size):] {
				t.Fatalf("get from %d of %d: %d bytes, %v", offset, size, len(got), err)
			}
		}
		if _, err := r.GetFrom(t.Context(), "artifacts/none", 1); !errors.Is(err, persistence.Absent) && !errors.Is(err, persistence.Unsupported) {
			t.Fatalf("get from the middle of nothing: %v; want Absent", err)
		}
	}
	if s, ok := b.(persistence.Sweeper); ok {
		for _, prefix := range []string{"artifacts/", "none/"} {
			left, err := s.Sweep(t.Context(), prefix, time.Hour, true)
			if (err != nil && !errors.Is(err, persistence.Unsupported)) || len(left) != 0 {
				t.Fatalf("swept %v beneath %s, %v; nothing was left behind", left, prefix, err)
			}
		}
		if get(t, a, "artifacts/big") != content {
			t.Fatal("an object was changed")
		}
	}
}

var errBroken = errors.New("broken")

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, errBroken }

func (c conformance) testKeys() {
	t, a, _ := c.t, c.a, c.b
	for _, key := range []string{"", "/", "a//b", "/a", "a/", ".a", "a/.b", "..", "a/../b", "a b", "ä", "a\x00b"} {
		if err := a.Put(t.Context(), key, strings.NewReader("x"), 1); err == nil {
			t.Errorf("put under the key %q succeeded", key)
		}
	}
	if ok, err := a.Empty(t.Context()); !ok || err != nil {
		t.Errorf("a refused key left something behind: empty %t, %v", ok, err)
	}
}

func list(t *testing.T, s persistence.Objects, prefix, after string) []string {
	t.Helper()
	var keys []string
	for {
		p, err := s.List(t.Context(), prefix, after)
		if err != nil {
			t.Fatalf("list %q after %q: %v", prefix, after, err)
		}
		for _, it := range p.Items {
			keys = append(keys, it.Key)
		}
		if !p.More {
			return keys
		}
		if len(p.Items) == 0 {
			t.Fatal("an empty page says that there is more")
		}
		after = p.Items[len(p.Items)-1].Key
	}
}

func (c conformance) testList() {
	t, a, b := c.t, c.a, c.b
	if got := list(t, a, "", ""); len(got) != 0 {
		t.Fatalf("a new location lists %q", got)
	}
	create(t, a, value("register"))
	keys := []string{"a/b", "a/b-c", "a/c/d", "a-b", "a.b", "a0", "B", "nodes/n1", "nodes/n2", "nodes2", "z/y/x/w", "a/b.c/d", "leases"}
	for _, k := range keys {
		put(t, a, k, k)
	}
	slices.Sort(keys)
	if got := list(t, b, "", ""); !slices.Equal(got, keys) {
		t.Fatalf("list: %q\nwant: %q", got, keys)
	}
	p, err := b.List(t.Context(), "nodes/", "")
	if err != nil || len(p.Items) != 2 || p.Items[0].Key != "nodes/n1" || (p.Items[0].Size != 8 && p.Items[0].Size != -1) {
		t.Fatalf("list nodes/: %+v, %v", p, err)
	}
	for _, prefix := range append(keys, "", "a", "a/", "a/b", "n", "nodes", "nodes/", "nodes/n", "nodes/n1/", "zz", "zz/", "a/c/", "lease", "lease/", "//", ".") {
		for _, after := range append(keys, "", "0", "a/", "a/bb", "nodes/", "zzz", prefix) {
			var want []string
			for _, k := range keys {
				if strings.HasPrefix(k, prefix) && k > after {
					want = append(want, k)
				}
			}
			if got := list(t, b, prefix, after); !slices.Equal(got, want) {
				t.Errorf("list %q after %q: %q, want %q", prefix, after, got, want)
			}
		}
	}
}

func (c conformance) testPages() {
	t, a, b := c.t, c.a, c.b
	var want []string
	for i := range 1100 {
		key := fmt.Sprintf("history/%06d", i)
		put(t, a, key, "")
		want = append(want, key)
	}
	if got := list(t, b, "history/", ""); !slices.Equal(got, want) {
		t.Fatalf("%d keys listed, want %d", len(got), len(want))
	}
	if p, err := b.List(t.Context(), "history/", want[len(want)-2]); err != nil || len(p.Items) != 1 || p.More {
		t.Fatalf("the last page: %+v, %v", p, err)
	}
}

func (c conformance) testEmpty() {
	t, a, b := c.t, c.a, c.b
	expect := func(want bool, why string) {
		t.Helper()
		if got, err := b.Empty(t.Context()); got != want || err != nil {
			t.Fatalf("%s: empty is %t, %v; want %t", why, got, err, want)
		}
	}
	expect(true, "new")
	sub, err := a.Sub(".verify-x")
	if err != nil {
		t.Fatal(err)
	}
	create(t, sub, value("scratch"))
	expect(true, "with a scratch area")
	put(t, a, "nodes/x", "1")
	expect(false, "with an object")
	if err := a.Delete(t.Context(), "nodes/x"); err != nil {
		t.Fatal(err)
	}
	create(t, a, value("register"))
	expect(false, "with a register")
}

func (c conformance) testSub() {
	t, a, b := c.t, c.a, c.b
	create(t, a, value("main"))
	sub, err := a.Sub(".verify-x")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sub.Read(t.Context()); !errors.Is(err, persistence.Absent) {
		t.Fatalf("read in a new scratch area: %v; want Absent", err)
	}
	if ok, err := sub.Empty(t.Context()); !ok || err != nil {
		t.Fatalf("new scratch area: empty is %t, %v", ok, err)
	}
	if got := list(t, sub, "", ""); len(got) != 0 {
		t.Fatalf("new scratch area lists %q", got)
	}
	if _, err := sub.Get(t.Context(), "nodes/x"); !errors.Is(err, persistence.Absent) {
		t.Fatalf("get in a new scratch area: %v; want Absent", err)
	}
	create(t, sub, value("scratch"))
	put(t, sub, "nodes/x", "1")
	fresh, err := a.Sub(".verify-y")
	if err != nil {
		t.Fatal(err)
	}
	for _, outer := range []persistence.Store{sub, fresh} { // one that exists, one that does not
		inner, err := outer.Sub(".deeper")
		if err != nil {
			t.Fatal(err)
		}
		if ok, err := inner.Empty(t.Context()); !ok || err != nil {
			t.Fatalf("new scratch area in a scratch area: empty is %t, %v", ok, err)
		}
		create(t, inner, value("inner"))
		mustHold(t, value("inner"), inner)
	}
	other, err := b.Sub(".verify-x")
	if err != nil {
		t.Fatal(err)
	}
	mustHold(t, value("scratch"), sub, other)
	mustHold(t, value("main"), a, b)
	if got := list(t, a, "", ""); len(got) != 0 {
		t.Fatalf("the plane lists the scratch area's objects: %q", got)
	}
	if err := a.RemoveAll(t.Context()); !errors.Is(err, persistence.Unsupported) {
		t.Fatalf("remove a plane: %v; want Unsupported", err)
	}
	for range 2 {
		if err := sub.RemoveAll(t.Context()); err != nil {
			t.Fatalf("remove a scratch area: %v", err)
		}
	}
	if _, err := other.Read(t.Context()); !errors.Is(err, persistence.Absent) {
		t.Fatalf("read in a removed scratch area: %v; want Absent", err)
	}
	mustHold(t, value("main"), a, b)
	for _, name := range []string{"", ".", "..", "x", "./x", ".x/y", "/x"} {
		if _, err := a.Sub(name); err == nil {
			t.Errorf("sub %q was opened", name)
		}
	}
}

func (c conformance) testContext() {
	t, a, b := c.t, c.a, c.b
	v := create(t, a, value("0"))
	put(t, a, "nodes/x", "1")
	ctx, cancel := context.WithCancel(t.Context())
	r, err := a.Get(ctx, "nodes/x")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cancel()
	for name, f := range map[string]func() error{
		"read":   func() error { _, err := a.Read(ctx); return err },
		"cas":    func() error { _, err := a.CAS(ctx, v, value("1")); return err },
		"init":   func() error { return a.Init(ctx, value("1")) },
		"put":    func() error { return a.Put(ctx, "nodes/y", strings.NewReader("1"), 1) },
		"get":    func() error { _, err := a.Get(ctx, "nodes/x"); return err },
		"list":   func() error { _, err := a.List(ctx, "", ""); return err },
		"delete": func() error { return a.Delete(ctx, "nodes/x") },
		"empty":  func() error { _, err := a.Empty(ctx); return err },
	} {
		if err := f(); !errors.Is(err, persistence.Unknown) || !errors.Is(err, context.Canceled) {
			t.Errorf("%s with an ended context: %v; want Unknown and context.Canceled", name, err)
		}
	}
	mustHold(t, value("0"), b)
	if got := list(t, b, "", ""); !slices.Equal(got, []string{"nodes/x"}) {
		t.Errorf("operations with an ended context left %q", got)
	}
}

func (c conformance) testLimits() {
	t, a, _ := c.t, c.a, c.b
	l := a.Limits()
	if l.URL == "" || l.Kind == "" || l.PollDivisor < 1 || l.MinBeat < 0 || (l.Local && l.LocalWhy == "") {
		t.Errorf("limits: %+v", l)
	}
}
