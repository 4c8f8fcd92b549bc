package artifact

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/persistence/memory"
	"github.com/understudy-ha/understudy/persistence/posix"
)

const day = 24 * time.Hour

// depot is a store and an index with several masters, one after the other.
type depot struct {
	*testing.T
	store *memory.Store
	index *registry
	now   time.Time
}

func newDepot(t *testing.T) *depot {
	t.Helper()
	return &depot{t, memory.New().Open(), newRegistry(), time.Unix(1_800_000_000, 0)}
}

// master is a process of its own.
func (d *depot) master() *Library {
	return New(d.store, d.index, Options{Now: func() time.Time { return d.now }})
}

// collected is how many objects a collection removes.
func (d *depot) collected(l *Library, in Reign) int {
	d.Helper()
	c, err := l.Collect(d.Context(), in, day)
	if err != nil {
		d.Fatal(err)
	}
	return c.Objects
}

// TestCollect: which objects are garbage, when, and in whose eyes.
func TestCollect(t *testing.T) {
	d := newDepot(t)
	first := d.master()
	keep := push(t, first, "keep", "keep")
	push(t, first, "replaced", "one")
	push(t, first, "replaced", "two")
	push(t, first, "removed", "x")
	if err := first.Remove(t.Context(), "removed"); err != nil {
		t.Fatal(err)
	}
	if n := d.collected(first, reign); n != 0 {
		t.Errorf("%d objects younger than the retention were removed", n)
	}
	d.now = d.now.Add(day)
	if n := d.collected(first, reign); n != 2 {
		t.Errorf("%d objects were removed, want those of the replaced and of the removed artifact", n)
	}
	if got := read(t, first, "keep") + read(t, first, "replaced"); got != "keeptwo" {
		t.Errorf("left is %q", got)
	}
	if n := d.collected(first, reign); n != 0 {
		t.Errorf("%d more objects were removed", n)
	}
	// The same content under another name is another object.
	again := push(t, first, "again", "keep")
	if again.Object == keep.Object {
		t.Error("two pushes share an object")
	}
}

// TestCollectSparesPushes: an object that the index does not name yet may be
// named at any moment, by the push that stored it and by nobody else.
func TestCollectSparesPushes(t *testing.T) {
	d := newDepot(t)
	first := d.master()
	d.index.fail = ErrUndecided // the commit is on its way
	if _, err := first.Push(t.Context(), "a", reign, contentOf("a")); err == nil {
		t.Fatal("pushed")
	}
	d.now = d.now.Add(100 * day)
	for name, l := range map[string]*Library{"the process itself": first, "another of the same term": d.master()} {
		if n := d.collected(l, reign); n != 0 {
			t.Errorf("%s removed %d objects that may be named yet", name, n)
		}
	}
	earlier, later := reign, reign
	earlier.Term, later.Term = reign.Term-1, reign.Term+1
	if n := d.collected(d.master(), earlier); n != 0 {
		t.Errorf("a former master removed %d objects of its successor", n)
	}
	other := later
	other.Plane = "zzzzzzzz"
	if n := d.collected(d.master(), other); n != 0 {
		t.Errorf("another plane removed %d objects", n)
	}
	if n := d.collected(d.master(), later); n != 1 {
		t.Errorf("the next master removed %d objects, want the one whose push can not succeed any more", n)
	}
}

// TestCollectLate: a master that sleeps in the middle of its collection and
// goes on in a later reign deletes nothing that was pushed since, of whatever
// content and name.
func TestCollectLate(t *testing.T) {
	d := newDepot(t)
	first := d.master()
	push(t, first, "a", "content")
	if err := first.Remove(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	d.now = d.now.Add(2 * day)
	listed, err := first.objects(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	garbage, err := first.garbage(t.Context(), listed, reign, day)
	if err != nil || len(garbage) != 1 {
		t.Fatalf("garbage: %v, %v", garbage, err)
	}
	next := Reign{reign.Plane, reign.Term + 1}
	second := d.master()
	if _, err := second.Push(t.Context(), "a", next, contentOf("content")); err != nil {
		t.Fatal(err)
	}
	for _, it := range garbage { // it wakes
		if err := d.store.Delete(t.Context(), it.Key); err != nil {
			t.Fatal(err)
		}
	}
	if got := read(t, second, "a"); got != "content" {
		t.Errorf("after the sleeper woke: %q", got)
	}
}

// TestCollectForeign: what is not of our making stays.
func TestCollectForeign(t *testing.T) {
	d := newDepot(t)
	for _, key := range []string{"artifacts/notes.txt", "artifacts/" + string(contentOf("x").Digest), "artifacts/a/b"} {
		if err := d.store.Put(t.Context(), key, strings.NewReader("x"), 1); err != nil {
			t.Fatal(err)
		}
	}
	d.now = d.now.Add(100 * day)
	if n := d.collected(d.master(), Reign{reign.Plane, reign.Term + 100}); n != 0 {
		t.Errorf("%d foreign objects were removed", n)
	}
}

// TestSweep: temporary files of pushes that were cut off are found and removed
// once nothing has been added to them for long enough; others are not.
func TestSweep(t *testing.T) {
	dir := t.TempDir()
	store, err := posix.Open(dir, posix.Options{})
	if err != nil {
		t.Fatal(err)
	}
	l := New(store, newRegistry(), Options{})
	push(t, l, "a", "content")
	tmp := func(name string, age time.Duration) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("part"), 0o600); err != nil {
			t.Fatal(err)
		}
		at := time.Now().Add(-age)
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
		return path
	}
	old, young := tmp("artifacts/.tmp-0", 2*day), tmp("artifacts/.tmp-1", time.Minute)
	elsewhere, other := tmp("nodes/.tmp-2", 2*day), tmp("artifacts/.hidden", 2*day)
	left, err := l.Leftovers(t.Context(), day)
	if err != nil || len(left) != 1 || left[0].Name != "artifacts/.tmp-0" {
		t.Errorf("found %v, %v", left, err)
	}
	c, err := l.Collect(t.Context(), reign, day)
	if err != nil || c.Leftovers != 1 || c.Objects != 0 {
		t.Errorf("collected %+v, %v", c, err)
	}
	if _, err := os.Stat(old); !os.IsNotExist(err) {
		t.Errorf("what a push left two days ago is still there: %v", err)
	}
	for _, path := range []string{young, elsewhere, other} {
		if _, err := os.Stat(path); err != nil {
			t.Errorf("removed: %v", err)
		}
	}
	if got := read(t, l, "a"); got != "content" {
		t.Errorf("left is %q", got)
	}
}
