package faulty_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/persistence/faulty"
	"github.com/understudy-ha/understudy/persistence/memory"
	"github.com/understudy-ha/understudy/persistence/storetest"
)

// TestConformance: without faults the decorator is the store it wraps.
func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) (a, b persistence.Store) {
		t.Helper()
		l := memory.New()
		return faulty.Wrap(l.Open()), faulty.Wrap(l.Open())
	})
}

const v0, v1 = "u1.zero", "u1.one"

func begin(t *testing.T) (s *faulty.Store, first persistence.Version) {
	t.Helper()
	s = faulty.Wrap(memory.New().Open())
	if err := s.Init(t.Context(), []byte(v0)); err != nil {
		t.Fatal(err)
	}
	snap, err := s.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s, snap.Version
}

func holds(t *testing.T, s persistence.Store, want string) {
	t.Helper()
	if snap, err := s.Read(t.Context()); err != nil || string(snap.Value) != want {
		t.Errorf("read %q, %v; want %q", snap.Value, err, want)
	}
}

// TestFourKinds: applied or not, error or not.
func TestFourKinds(t *testing.T) {
	for _, tt := range []struct {
		drop bool
		err  error
		want string
	}{
		{false, nil, v1}, {false, persistence.Unknown, v1}, {true, persistence.Throttled, v0}, {true, nil, v0},
	} {
		s, v := begin(t)
		f := s.Inject(faulty.Fault{Op: faulty.CAS, Match: "one", Drop: tt.drop, Err: tt.err})
		if _, err := s.CAS(t.Context(), v, []byte(v1)); !errors.Is(err, tt.err) {
			t.Errorf("%+v: %v", tt, err)
		}
		holds(t, s, tt.want)
		if f.Fired() != 1 || s.Count(faulty.CAS) != 1 {
			t.Errorf("%+v: fired %d, counted %d", tt, f.Fired(), s.Count(faulty.CAS))
		}
	}
}

// TestSelection: which operation, which key, which of several.
func TestSelection(t *testing.T) {
	s, _ := begin(t)
	f := s.Inject(faulty.Fault{Op: faulty.Put, Match: "nodes/", Skip: 1, Count: 2, Drop: true, Err: persistence.Full})
	for i, tt := range []struct {
		key  string
		fail bool
	}{{"nodes/a", false}, {"other", false}, {"nodes/b", true}, {"nodes/c", true}, {"nodes/d", false}} {
		if err := s.Put(t.Context(), tt.key, strings.NewReader("x"), 1); errors.Is(err, persistence.Full) != tt.fail {
			t.Errorf("put %d %s: %v", i, tt.key, err)
		}
	}
	if f.Fired() != 2 {
		t.Errorf("fired %d times, want 2", f.Fired())
	}
	all := s.Inject(faulty.Fault{Drop: true, Err: persistence.Denied})
	for name, err := range map[string]error{
		"read":   second(s.Read(t.Context())),
		"list":   second(s.List(t.Context(), "", "")),
		"get":    second(s.Get(t.Context(), "other")),
		"delete": s.Delete(t.Context(), "other"),
		"empty":  second(s.Empty(t.Context())),
		"init":   s.Init(t.Context(), []byte(v0)),
	} {
		if !errors.Is(err, persistence.Denied) {
			t.Errorf("%s: %v; want Denied", name, err)
		}
	}
	if all.Fired() != 6 {
		t.Errorf("fired %d times, want 6", all.Fired())
	}
	s.Clear()
	r, err := s.Get(t.Context(), "other")
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(r); err != nil || string(b) != "x" {
		t.Errorf("after Clear: %q, %v", b, err)
	}
}

func second[T any](_ T, err error) error { return err }

// TestTime runs in a bubble, where a leaked goroutine or a real clock fails.
func TestTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, v := begin(t)
		s.Inject(faulty.Fault{Op: faulty.CAS, Delay: 3 * time.Second, Count: 1})
		start := time.Now()
		v, err := s.CAS(t.Context(), v, []byte(v1))
		if err != nil || time.Since(start) != 3*time.Second {
			t.Errorf("delayed: %v after %s", err, time.Since(start))
		}

		hang := s.Inject(faulty.Fault{Op: faulty.CAS, Hang: true, Count: 1})
		go func() {
			time.Sleep(time.Minute)
			hang.Release()
		}()
		start = time.Now()
		if v, err = s.CAS(t.Context(), v, []byte("u1.two")); err != nil || time.Since(start) != time.Minute {
			t.Errorf("released: %v after %s", err, time.Since(start))
		}

		for _, late := range []bool{false, true} {
			var told int
			s.OnLate(func(val []byte, _ persistence.Version, err error) {
				if told++; string(val) != "u1.late" || err != nil {
					t.Errorf("late: %q, %v", val, err)
				}
			})
			hang := s.Inject(faulty.Fault{Op: faulty.CAS, Hang: true, Late: late, Count: 1})
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			start = time.Now()
			if _, err := s.CAS(ctx, v, []byte("u1.late")); !errors.Is(err, persistence.Unknown) || time.Since(start) != time.Second {
				t.Errorf("hung: %v after %s", err, time.Since(start))
			}
			cancel()
			holds(t, s, "u1.two")
			hang.Remove()
			if want := map[bool]int{false: 0, true: 1}[late]; told != want {
				t.Errorf("late=%t: told %d times, want %d", late, told, want)
			}
		}
		holds(t, s, "u1.late")
	})
}
