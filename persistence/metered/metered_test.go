package metered_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/persistence/faulty"
	"github.com/understudy-ha/understudy/persistence/memory"
	"github.com/understudy-ha/understudy/persistence/metered"
	"github.com/understudy-ha/understudy/persistence/storetest"
)

func TestConformance(t *testing.T) {
	storetest.Run(t, func(*testing.T) (a, b persistence.Store) {
		at := memory.New()
		return metered.Wrap(at.Open()), metered.Wrap(at.Open())
	})
}

// calls is every operation that is counted.
func calls(s persistence.Store) map[metered.Op]func(context.Context) error {
	return map[metered.Op]func(context.Context) error{
		metered.Read:   func(ctx context.Context) error { _, err := s.Read(ctx); return err },
		metered.CAS:    func(ctx context.Context) error { _, err := s.CAS(ctx, "v", []byte("u")); return err },
		metered.Init:   func(ctx context.Context) error { return s.Init(ctx, []byte("u")) },
		metered.Put:    func(ctx context.Context) error { return s.Put(ctx, "a", strings.NewReader("x"), 1) },
		metered.Get:    func(ctx context.Context) error { _, err := s.Get(ctx, "a"); return err },
		metered.List:   func(ctx context.Context) error { _, err := s.List(ctx, "", ""); return err },
		metered.Delete: func(ctx context.Context) error { return s.Delete(ctx, "a") },
		metered.Empty:  func(ctx context.Context) error { _, err := s.Empty(ctx); return err },
	}
}

func TestEachOperationIsCountedOnceWithItsError(t *testing.T) {
	for i, sentinel := range []error{
		persistence.Absent, persistence.Conflict, persistence.Torn, persistence.Denied, persistence.Unsupported,
		persistence.Full, persistence.ReadOnly, persistence.Throttled, persistence.Unknown, errors.New("something else"),
	} {
		kind := metered.ErrorKinds()[i]
		inner := faulty.Wrap(memory.New().Open())
		fault := inner.Inject(faulty.Fault{Drop: true, Err: fmt.Errorf("why: %w", sentinel)})
		s := metered.Wrap(inner)
		ops := calls(s)
		if len(ops) != len(metered.Ops()) {
			t.Fatalf("%d operations are called, %d are counted", len(ops), len(metered.Ops()))
		}
		for op, call := range ops {
			if err := call(t.Context()); !errors.Is(err, sentinel) {
				t.Errorf("%s: the error is %v, not %v", op, err, sentinel)
			}
			f := s.Figures(op)
			if f.Count != 1 || !maps.Equal(f.Errors, map[string]uint64{kind: 1}) {
				t.Errorf("%s with %v: counted %d, errors %v", op, sentinel, f.Count, f.Errors)
			}
		}
		if fault.Fired() != len(ops) {
			t.Errorf("the fault fired %d times for %d calls", fault.Fired(), len(ops))
		}
		for op, n := range s.Counts() {
			if n != 1 {
				t.Errorf("%s: %d calls in all", op, n)
			}
		}
	}
}

// A store that could not be reached and says so as Throttled is throttled.
func TestTheMoreTellingErrorCounts(t *testing.T) {
	inner := faulty.Wrap(memory.New().Open())
	inner.Inject(faulty.Fault{Drop: true, Err: fmt.Errorf("%w: %w", persistence.Unknown, persistence.Throttled)})
	s := metered.Wrap(inner)
	if _, err := s.Read(t.Context()); err == nil {
		t.Fatal("no error")
	}
	if got := s.Figures(metered.Read).Errors; !maps.Equal(got, map[string]uint64{"throttled": 1}) {
		t.Errorf("counted as %v", got)
	}
}

func TestLatencyFallsIntoItsClass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := faulty.Wrap(memory.New().Open())
		s := metered.Wrap(inner)
		took := []time.Duration{
			0, time.Millisecond, time.Millisecond + 1, // the bound belongs to its class
			300 * time.Millisecond, 5 * time.Second, 6 * time.Second,
		}
		for _, d := range took {
			f := inner.Inject(faulty.Fault{Op: faulty.Delete, Delay: d})
			if err := s.Delete(t.Context(), "a"); err != nil {
				t.Fatal(err)
			}
			if f.Fired() != 1 {
				t.Fatal("the delay never came")
			}
			f.Remove()
		}
		f := s.Figures(metered.Delete)
		want := []uint64{2, 3, 3, 3, 3, 3, 3, 3, 4, 4, 4, 5}
		if f.Count != 6 || !reflect.DeepEqual(f.Within, want) {
			t.Errorf("%d calls, classes %v, want %v", f.Count, f.Within, want)
		}
		if want := 11*time.Second + 302*time.Millisecond + 1; f.Sum != want {
			t.Errorf("sum %v, want %v", f.Sum, want)
		}
	})
}

// A CAS whose caller has gone still reports its outcome through the wrapper.
func TestLateResultsComeThrough(t *testing.T) {
	inner := faulty.Wrap(memory.New().Open())
	s := metered.Wrap(inner)
	if err := s.Init(t.Context(), []byte("u1")); err != nil {
		t.Fatal(err)
	}
	snap, err := s.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var late []string
	s.OnLate(func(val []byte, _ persistence.Version, err error) { late = append(late, fmt.Sprint(string(val), err)) })
	hung := inner.Inject(faulty.Fault{Op: faulty.CAS, Hang: true, Late: true})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.CAS(ctx, snap.Version, []byte("u2")); !errors.Is(err, persistence.Unknown) {
		t.Fatalf("hung: %v", err)
	}
	hung.Release()
	if len(late) != 1 || late[0] != "u2<nil>" {
		t.Errorf("late: %q", late)
	}
	if f := s.Figures(metered.CAS); f.Count != 1 || f.Errors["unknown"] != 1 {
		t.Errorf("counted %+v: once, as its caller saw it", f)
	}
}

// telling is a store that can check and inspect, and be told what is its own.
type telling struct {
	persistence.Store
	anchored *func([]byte) bool
}

func (s telling) Anchor(mine func([]byte) bool) { *s.anchored = mine }

var errUnfit = errors.New("unfit")

func (telling) Check(context.Context) error { return errUnfit }
func (telling) Inspect(context.Context) []persistence.Finding {
	return []persistence.Finding{{Name: "mount"}}
}

func TestChecksComeThrough(t *testing.T) {
	plain := metered.Wrap(memory.New().Open())
	if err := plain.Check(t.Context()); err != nil || plain.Inspect(t.Context()) != nil {
		t.Error("a store that can not check itself is found unfit")
	}
	plain.Anchor(nil)
	var mine func([]byte) bool
	s := metered.Wrap(telling{memory.New().Open(), &mine})
	if s.Anchor(func(val []byte) bool { return string(val) == "u1.mine" }); mine == nil || !mine([]byte("u1.mine")) {
		t.Error("Anchor did not come through")
	}
	if err := s.Check(t.Context()); !errors.Is(err, errUnfit) {
		t.Errorf("Check: %v", err)
	}
	if got := s.Inspect(t.Context()); len(got) != 1 || got[0].Name != "mount" {
		t.Errorf("Inspect: %v", got)
	}
}

func TestScratchIsNotCounted(t *testing.T) {
	s := metered.Wrap(memory.New().Open())
	sub, err := s.Sub(".verify")
	if err != nil {
		t.Fatal(err)
	}
	if err := sub.Init(t.Context(), []byte("u1")); err != nil {
		t.Fatal(err)
	}
	if n := s.Figures(metered.Init).Count; n != 0 {
		t.Errorf("counted %d", n)
	}
}

func TestRequests(t *testing.T) {
	var r metered.Requests
	if len(r.Counts()) != 0 {
		t.Error("not empty at first")
	}
	var wait sync.WaitGroup
	for i := range 100 {
		wait.Go(func() { r.Add([]string{"PUT", "GET 304"}[i%2]) })
	}
	wait.Wait()
	if got := r.Counts(); !maps.Equal(got, map[string]uint64{"PUT": 50, "GET 304": 50}) {
		t.Errorf("counted %v", got)
	}
}
