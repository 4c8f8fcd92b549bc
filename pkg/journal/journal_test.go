package journal_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/persistence/faulty"
	"github.com/understudy-ha/understudy/persistence/memory"
	"github.com/understudy-ha/understudy/pkg/journal"
	"github.com/understudy-ha/understudy/pkg/lease"
)

const plane = lease.PlaneID("plane001")

// log writes segments and snapshots as a master does, one after the other.
type log struct {
	t     testing.TB
	store persistence.Store
	state *journal.State
	n     int
	chain []lease.Head // every head there was, oldest first
}

func newLog(tb testing.TB) *log {
	tb.Helper()
	return &log{t: tb, store: memory.New().Open(), state: journal.Empty()}
}

func (l *log) random() string {
	l.n++
	return fmt.Sprintf("%016d", l.n)
}

func put(key, value string) journal.Txn {
	return journal.Txn{Changes: []journal.Change{{Key: key, Value: []byte(value)}}}
}

func (l *log) commit(term lease.Term, snapshot lease.Head, clean bool, txns ...journal.Txn) lease.Head {
	l.t.Helper()
	b := journal.NewBatch(l.state, clean)
	for _, x := range txns {
		if _, err := b.Add(x); err != nil {
			l.t.Fatal(err)
		}
	}
	g := b.Segment(plane, term, l.random(), snapshot, clean)
	enc := g.Encode()
	l.put(journal.SegmentKey(g.Head), enc)
	next, err := l.state.Apply(g, int64(len(enc)))
	if err != nil {
		l.t.Fatal(err)
	}
	l.state = next
	l.chain = append(l.chain, g.Head)
	return g.Head
}

func (l *log) put(key string, b []byte) {
	l.t.Helper()
	if err := l.store.Put(context.Background(), key, bytes.NewReader(b), int64(len(b))); err != nil {
		l.t.Fatal(err)
	}
}

func (l *log) get(key string) []byte {
	l.t.Helper()
	r, err := l.store.Get(context.Background(), key)
	if err != nil {
		l.t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err = errors.Join(err, r.Close()); err != nil {
		l.t.Fatal(err)
	}
	return b
}

func (l *log) snapshot(wall time.Time) lease.Head {
	l.t.Helper()
	info := journal.SnapshotInfo{
		Plane: plane, Term: l.state.Term, Head: lease.Head{Seq: l.state.Seq(), Rand: l.random()},
		Segment: l.state.Head, Previous: l.state.Snapshot, WallMs: wall.UnixMilli(),
	}
	r := journal.SnapshotReader(l.state, info)
	b, err := io.ReadAll(r)
	if err = errors.Join(err, r.Close()); err != nil {
		l.t.Fatal(err)
	}
	l.put(journal.SnapshotKey(info.Head), b)
	return info.Head
}

// standard is a chain of a hundred segments with snapshots after 30, 60 and 90.
func standard(tb testing.TB) (*log, []lease.Head) {
	tb.Helper()
	l := newLog(tb)
	var snaps []lease.Head
	var next lease.Head
	for i := range 100 {
		l.commit(lease.Term(1+i/40), next, false, put(fmt.Sprintf("k/%02d", i%25), fmt.Sprint("v", i)), put("count", fmt.Sprint(i)))
		if next = (lease.Head{}); i%30 == 29 {
			next = l.snapshot(time.Unix(int64(i), 0))
			snaps = append(snaps, next)
		}
	}
	return l, snaps
}

func (l *log) loader() *journal.Loader {
	return &journal.Loader{Objects: l.store, Plane: plane, Limit: 5 * time.Second}
}

func dumpOf(s *journal.State) map[string]string {
	m := map[string]string{}
	for e := range s.List("", "") {
		m[e.Key] = fmt.Sprintf("%d:%s", e.Version, e.Value)
	}
	return m
}

// same holds a state that was read against the one that was written.
func (l *log) same(got *journal.State) {
	l.t.Helper()
	if got.Head != l.state.Head || got.Snapshot != l.state.Snapshot || got.Previous != l.state.Previous || got.Len() != l.state.Len() || got.Bytes() != l.state.Bytes() {
		l.t.Errorf("read %+v %d keys, wrote %+v %d keys", got.Head, got.Len(), l.state.Head, l.state.Len())
	}
	if a, b := dumpOf(got), dumpOf(l.state); !maps.Equal(a, b) {
		l.t.Errorf("read %v, wrote %v", a, b)
	}
}

func TestLoad(t *testing.T) {
	l, snaps := standard(t)
	got, err := l.loader().Load(t.Context(), l.state.Head, nil)
	if err != nil || len(got.Damages) > 0 {
		t.Fatal(err, got)
	}
	l.same(got.State)

	// A follower reads what follows only, though a snapshot has come between.
	half, err := l.loader().Load(t.Context(), l.chain[75], nil)
	if err != nil {
		t.Fatal(err)
	}
	counted := faulty.Wrap(l.store)
	ld := l.loader()
	ld.Objects = counted
	if got, err = ld.Load(t.Context(), l.state.Head, half.State); err != nil {
		t.Fatal(err)
	}
	l.same(got.State)
	if n := counted.Count(faulty.Get); n != len(l.chain)-76 {
		t.Errorf("%d objects read for %d segments", n, len(l.chain)-76)
	}
	// One that was left behind begins with the snapshot.
	old, err := l.loader().Load(t.Context(), l.chain[5], nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range l.chain[:60] {
		if err := l.store.Delete(t.Context(), journal.SegmentKey(h)); err != nil {
			t.Fatal(err)
		}
	}
	if got, err = l.loader().Load(t.Context(), l.state.Head, old.State); err != nil {
		t.Fatal(err)
	}
	l.same(got.State)
	_ = snaps

	if got, err = l.loader().Load(t.Context(), lease.Head{}, nil); err != nil || got.Len() != 0 || got.Seq() != 0 {
		t.Errorf("nothing persisted: %+v %v", got, err)
	}
}

// A damaged snapshot is no reason to lose anything while the one before it and
// the log between are whole.
func TestLoadFallsBack(t *testing.T) {
	l, snaps := standard(t)
	key := journal.SnapshotKey(snaps[2])
	b := l.get(key)
	b[len(b)/2] ^= 4
	l.put(key, b)
	got, err := l.loader().Load(t.Context(), l.state.Head, nil)
	if err != nil {
		t.Fatal(err)
	}
	l.same(got.State)
	damages := got.Damages
	if len(damages) != 1 || damages[0].Object != key || !strings.Contains(damages[0].What, "checksum") {
		t.Errorf("damage: %v", damages)
	}
	// Both gone: back to the beginning, as nothing was collected yet.
	if err := l.store.Delete(t.Context(), journal.SnapshotKey(snaps[1])); err != nil {
		t.Fatal(err)
	}
	if got, err = l.loader().Load(t.Context(), l.state.Head, nil); err != nil || len(got.Damages) != 2 {
		t.Fatal(err, got)
	}
	l.same(got.State)
	// And a hole in the log: nothing is left to stand on.
	hole := journal.SegmentKey(l.chain[44])
	if err := l.store.Delete(t.Context(), hole); err != nil {
		t.Fatal(err)
	}
	_, err = l.loader().Load(t.Context(), l.state.Head, nil)
	var damage *journal.DamageError
	if !errors.As(err, &damage) || len(damage.Damages) != 3 || damage.Damages[2].Object != hole || !damage.Missing() {
		t.Errorf("%v", err)
	}
}

func TestCleanBeginsAnew(t *testing.T) {
	l, _ := standard(t)
	seq := l.state.Seq()
	l.commit(9, lease.Head{}, true, put("new", "1"))
	l.commit(9, lease.Head{}, false, put("newer", "2"))
	if l.state.Seq() != seq+2 {
		t.Errorf("numbers began again: %d after %d", l.state.Seq(), seq)
	}
	got, err := l.loader().Load(t.Context(), l.state.Head, nil)
	if err != nil {
		t.Fatal(err)
	}
	l.same(got.State)
	if got.Len() != 2 {
		t.Errorf("%d keys", got.Len())
	}
}

// Every single flipped bit and every cut is noticed, and named.
func TestDamageIsNoticed(t *testing.T) {
	l := newLog(t)
	for i := range 3 {
		l.commit(1, lease.Head{}, false, put(fmt.Sprint("key", i), "value"))
	}
	snap := l.snapshot(time.Unix(1, 0))
	l.commit(2, snap, false, put("last", "value"))
	for _, key := range []string{journal.SegmentKey(l.state.Head), journal.SnapshotKey(snap)} {
		whole := l.get(key)
		check := func(what string, b []byte) {
			t.Helper()
			l.put(key, b)
			got, err := l.loader().Load(t.Context(), l.state.Head, nil)
			var bad *journal.DamageError
			var damages []journal.Damage
			if errors.As(err, &bad) {
				damages = bad.Damages
			} else if err == nil {
				damages = got.Damages
			}
			if len(damages) != 1 || damages[0].Object != key || damages[0].What == "" {
				t.Errorf("%s, %s: %v %v", key, what, err, damages)
			}
		}
		for i := range whole {
			for bit := range 8 {
				b := slices.Clone(whole)
				b[i] ^= 1 << bit
				check(fmt.Sprintf("bit %d of byte %d", bit, i), b)
			}
			check(fmt.Sprintf("cut after %d", i), whole[:i])
		}
		check("more", append(slices.Clone(whole), 0))
		l.put(key, whole)
	}
}

// What a store says is no damage when it says nothing.
func TestStoreErrorIsNoDamage(t *testing.T) {
	l, snaps := standard(t)
	for _, key := range []string{journal.SegmentKey(l.state.Head), journal.SnapshotKey(snaps[2])} {
		s := faulty.Wrap(l.store)
		f := s.Inject(faulty.Fault{Op: faulty.Get, Match: key, Err: persistence.Unknown})
		ld := l.loader()
		ld.Objects = s
		_, err := ld.Load(t.Context(), l.state.Head, nil)
		var damage *journal.DamageError
		if f.Fired() == 0 || !errors.Is(err, persistence.Unknown) || errors.As(err, &damage) {
			t.Errorf("%s: %v", key, err)
		}
	}
}

func TestGarbage(t *testing.T) {
	l, snaps := standard(t)
	lister := &journal.Lister{Loader: *l.loader()}
	keys, err := lister.List(t.Context(), l.state.Seq())
	if err != nil {
		t.Fatal(err)
	}
	if len(keys) != len(l.chain)+len(snaps) {
		t.Errorf("%d keys listed", len(keys))
	}
	for _, k := range append(journal.Garbage(keys, snaps[1]), journal.Garbage([]string{"nodes/a", "state/log/x", "state/x", "lease"}, snaps[1])...) {
		if err := l.store.Delete(t.Context(), k); err != nil {
			t.Fatal(err)
		}
	}
	if left, err := lister.List(t.Context(), l.state.Seq()); err != nil || len(left) != 40+2 {
		t.Errorf("%d left, %v", len(left), err)
	}
	got, err := l.loader().Load(t.Context(), l.state.Head, nil)
	if err != nil || len(got.Damages) > 0 {
		t.Fatal(err, got)
	}
	l.same(got.State)
	if g := journal.Garbage(keys, lease.Head{}); g != nil {
		t.Errorf("without a snapshot %v is garbage", g)
	}
	// Snapshots are kept for as long as the retention says, by their age.
	for _, c := range []struct {
		retention time.Duration
		want      lease.Head
	}{{0, snaps[2]}, {12 * time.Second, snaps[1]}, {time.Hour, lease.Head{}}} {
		if keep, err := lister.Keep(t.Context(), snaps[2], time.Unix(100, 0), c.retention); err != nil || keep != c.want {
			t.Errorf("%v: keeps from %v on, want %v (%v)", c.retention, keep, c.want, err)
		}
	}
}

func TestConditions(t *testing.T) {
	b := journal.NewBatch(journal.Empty(), false)
	add := func(want uint64, x journal.Txn, conds ...journal.Condition) {
		t.Helper()
		x.If = conds
		got, err := b.Add(x)
		var conflict *journal.ConflictError
		if got != want || (want == 0) != errors.As(err, &conflict) {
			t.Errorf("%d %v, want %d", got, err, want)
		}
	}
	add(1, put("a", "1"), journal.Condition{Key: "a"})
	add(0, put("a", "2"), journal.Condition{Key: "a"})
	add(2, put("a", "2"), journal.Condition{Key: "a", Version: 1})
	add(0, put("a", "3"), journal.Condition{Key: "a", Version: 1})
	add(0, put("b", "1"), journal.Condition{Key: "b", Any: true})
	add(3, put("b", "1"), journal.Condition{Key: "a", Any: true})
	add(4, journal.Txn{Changes: []journal.Change{{Key: "a", Delete: true}}})
	add(5, put("a", "4"), journal.Condition{Key: "a"})
	add(0, put("a", "5"), journal.Condition{Key: "a", Version: 2}) // numbers never return
	if b.Len() != 5 {
		t.Errorf("%d transactions", b.Len())
	}
}

func TestKeys(t *testing.T) {
	for _, k := range []string{"a", "a/b", "ä/ö", "a b", strings.Repeat("x", journal.MaxKey), "...", "a=b&c?d"} {
		if err := journal.CheckKey(k); err != nil {
			t.Errorf("%q: %v", k, err)
		}
	}
	for _, k := range []string{"", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "a\x00", "a\n", "\xff", strings.Repeat("x", journal.MaxKey+1)} {
		if err := journal.CheckKey(k); err == nil {
			t.Errorf("%q is a key", k)
		}
	}
	big := put("a", strings.Repeat("x", journal.MaxValue+1))
	var limit *journal.LimitError
	if err := big.Check(); !errors.As(err, &limit) || limit.Max != journal.MaxValue {
		t.Errorf("%v", err)
	}
}

// The tree is a sorted map, and a state that was taken stays as it was.
func TestStateIsASortedMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		keys := rapid.SampledFrom([]string{"a", "a/b", "a/c", "ab", "b", "b/a", "c", "d", "e", "f", "g"})
		s, model := journal.Empty(), map[string]string{}
		var old []*journal.State
		var oldModel []map[string]string
		for i := range rapid.IntRange(1, 40).Draw(t, "n") {
			k := keys.Draw(t, "key")
			c := journal.Change{Key: k, Delete: rapid.Bool().Draw(t, "delete"), Value: []byte(fmt.Sprint(i))}
			old, oldModel = append(old, s), append(oldModel, maps.Clone(model))
			b := journal.NewBatch(s, false)
			seq, err := b.Add(journal.Txn{Changes: []journal.Change{c}})
			if err != nil {
				t.Fatal(err)
			}
			if s, err = s.Apply(b.Segment(plane, 1, fmt.Sprintf("%016d", i), lease.Head{}, false), 1); err != nil {
				t.Fatal(err)
			}
			if c.Delete {
				delete(model, k)
			} else {
				model[k] = fmt.Sprintf("%d:%d", seq, i)
			}
		}
		for i, o := range append(old, s) {
			want := append(oldModel, model)[i]
			if got := dumpOf(o); !maps.Equal(got, want) {
				t.Fatalf("%v, want %v", got, want)
			}
			if !slices.IsSortedFunc(slices.Collect(o.List("", "")), func(a, b journal.Entry) int { return strings.Compare(a.Key, b.Key) }) {
				t.Fatal("not sorted")
			}
		}
		prefix, after := rapid.SampledFrom([]string{"", "a", "a/", "b", "x"}).Draw(t, "prefix"), keys.Draw(t, "after")
		var want []string
		for _, k := range slices.Sorted(maps.Keys(model)) {
			if strings.HasPrefix(k, prefix) && k > after {
				want = append(want, k)
			}
		}
		var got []string
		for e := range s.List(prefix, after) {
			got = append(got, e.Key)
		}
		if !slices.Equal(got, want) {
			t.Fatalf("list %q after %q: %v, want %v", prefix, after, got, want)
		}
	})
}

// FuzzDecodeSegment: a segment is refused, or it is what Encode would write.
func FuzzDecodeSegment(f *testing.F) {
	l := newLog(f)
	f.Add(l.get(journal.SegmentKey(l.commit(1, lease.Head{}, true, put("a", "b")))))
	f.Add(l.get(journal.SegmentKey(l.commit(2, l.snapshot(time.Unix(1, 0)), false, put("a", ""), journal.Txn{}, journal.Txn{Changes: []journal.Change{{Key: "x/y", Delete: true}}}))))
	f.Fuzz(func(t *testing.T, b []byte) {
		g, err := journal.DecodeSegment(journal.Summed(b))
		if err != nil {
			return
		}
		back, err := journal.DecodeSegment(g.Encode())
		if err != nil || back.Head != g.Head || len(back.Txns) != len(g.Txns) {
			t.Fatalf("%+v came back as %+v (%v)", g, back, err)
		}
	})
}

// FuzzDecodeSnapshot: whatever the bytes are, an answer comes, and not from
// memory that nobody has.
func FuzzDecodeSnapshot(f *testing.F) {
	l := newLog(f)
	l.commit(1, lease.Head{}, false, put("a", "b"), put("c", "d"))
	f.Add(l.get(journal.SnapshotKey(l.snapshot(time.Unix(1, 0)))))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, info, err := journal.DecodeSnapshot(bytes.NewReader(b))
		if err == nil && (s.Len() != int(info.Keys) || s.Head != info.Segment) {
			t.Fatalf("%+v %+v", s, info)
		}
	})
}
