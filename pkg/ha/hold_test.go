package ha_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/persistence/faulty"
	"github.com/understudy-ha/understudy/persistence/memory"
	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/lease"
)

func registerOf(t *testing.T, s persistence.Store) lease.Value {
	t.Helper()
	snap, err := s.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	v, err := lease.ParseValue(snap.Value)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

var someHead = lease.Head{Seq: 9, Rand: "bbbbccccddddeeee"}

// TestHoldMakesAPlane in an empty location, at a term above what was asked for.
func TestHoldMakesAPlane(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memory.New().Open()
		h, err := operator(virtual()).Hold(t.Context(), s, 41)
		if err != nil {
			t.Fatal(err)
		}
		if v := registerOf(t, s); !h.Made || v.Term != 42 || !v.Held || v.Holder != "" || v != h.Value {
			t.Errorf("%+v", v)
		}
		if err := h.Release(t.Context(), someHead, "done"); err != nil {
			t.Fatal(err)
		}
		if v := registerOf(t, s); v.Held || v.Head != someHead || v.Term != 42 || v.Plane != h.Value.Plane {
			t.Errorf("%+v", v)
		}
		other := memory.New().Open()
		put(t, other, "notes", "x")
		_, err = operator(virtual()).Hold(t.Context(), other, 1)
		refused(t, err, "something else")
	})
}

// TestHoldWaitsOutALease: a held register that stands still is taken as a claim
// would take it, at a term above all that the location speaks of.
func TestHoldWaitsOutALease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memory.New().Open()
		was := heldValue(7)
		if err := s.Init(t.Context(), was.Encode()); err != nil {
			t.Fatal(err)
		}
		beat(t, s, deadNode, was.Incarnation, 3)
		began := time.Now()
		h, err := operator(virtual()).Hold(t.Context(), s, 3)
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took < 1010*time.Millisecond {
			t.Errorf("taken after %s, within the lease", took)
		}
		v := registerOf(t, s)
		if h.Made || v.Plane != lostPlane || v.Term != 8 || !v.Held || v.Holder != "" || v.Head != was.Head || h.Old != was.Head {
			t.Errorf("%+v", v)
		}
	})
}

// TestHoldRefusesALivePlane: by its register, by its nodes' records, and by an
// answer.
func TestHoldRefusesALivePlane(t *testing.T) {
	for name, alive := range map[string]func(t *testing.T, s persistence.Store, n uint64){
		"register": func(t *testing.T, s persistence.Store, _ uint64) {
			t.Helper()
			snap, err := s.Read(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			v, err := lease.ParseValue(snap.Value)
			if err != nil {
				t.Fatal(err)
			}
			v.Seq, v.WriteID = v.Seq+1, ha.NewWriteID()
			if _, err := s.CAS(t.Context(), snap.Version, v.Encode()); err != nil {
				t.Fatal(err)
			}
		},
		"record": func(t *testing.T, s persistence.Store, n uint64) {
			t.Helper()
			beat(t, s, "nalive23", "aaaaaaaaaaaaaaaaaaaaaaaaaa", n)
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := memory.New().Open()
			v := heldValue(7)
			v.Held = false // released: a claim would not wait
			if err := s.Init(t.Context(), v.Encode()); err != nil {
				t.Fatal(err)
			}
			beat(t, s, "nalive23", "aaaaaaaaaaaaaaaaaaaaaaaaaa", 1)
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() {
				defer close(done)
				for n := uint64(2); ctx.Err() == nil; n++ {
					time.Sleep(time.Second)
					alive(t, s, n)
				}
			}()
			_, err := operator(virtual()).Hold(t.Context(), s, 0)
			cancel()
			<-done
			refused(t, err, "stop every node")
			if got := registerOf(t, s); got.Term != 7 || got.Held {
				t.Errorf("%s: %+v", name, got)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		s := memory.New().Open()
		if err := s.Init(t.Context(), heldValue(7).Encode()); err != nil {
			t.Fatal(err)
		}
		put(t, s, "nodes/"+string(deadNode), string(lease.NodeRecord{Node: deadNode, URI: "https://n1:8443/", IntervalMs: 1000}.Encode()))
		d := operator(virtual())
		d.Answers = func(context.Context, lease.NodeRecord) bool { return true }
		_, err := d.Hold(t.Context(), s, 0)
		refused(t, err, "answers at https://n1:8443/")
	})
}

// TestHoldIsKept: nodes that watch see it change within each lease, however
// long it takes; replies that are lost are settled; and whoever takes it over
// is noticed, and nothing counts then.
func TestHoldIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := faulty.Wrap(memory.New().Open())
		h, err := operator(virtual()).Hold(t.Context(), s, 0)
		if err != nil {
			t.Fatal(err)
		}
		lost := s.Inject(faulty.Fault{Op: faulty.CAS, Err: persistence.Unknown, Count: 3})
		dropped := s.Inject(faulty.Fault{Op: faulty.CAS, Drop: true, Err: persistence.Unknown, Count: 2})
		ctx, cancel := context.WithCancel(t.Context())
		kept := make(chan error, 1)
		go func() { kept <- h.Keep(ctx) }()
		last := registerOf(t, s)
		for range 20 {
			time.Sleep(500 * time.Millisecond) // half a lease
			now := registerOf(t, s)
			if now.WriteID == last.WriteID || !now.Held || now.Term != last.Term {
				t.Fatalf("unchanged for half a lease, or lost: %+v", now)
			}
			last = now
		}
		if lost.Fired() != 3 || dropped.Fired() != 2 {
			t.Errorf("the faults fired %d and %d times", lost.Fired(), dropped.Fired())
		}
		time.Sleep(30 * time.Millisecond) // between two renewals
		last = registerOf(t, s)
		snap, err := s.Read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		thief := last
		thief.Term, thief.Seq, thief.Holder, thief.Incarnation, thief.WriteID = last.Term+1, last.Seq+1, deadNode, ha.NewIncarnation(), ha.NewWriteID()
		if _, err := s.CAS(t.Context(), snap.Version, thief.Encode()); err != nil {
			t.Fatal(err)
		}
		refused(t, <-kept, "taken the register over")
		cancel()
		refused(t, h.Release(t.Context(), someHead, "done"), "taken the register over")
		if got := registerOf(t, s); got != thief {
			t.Errorf("%+v", got)
		}
	})
}

// TestHoldReleaseSettles: a reply of the last write that is lost changes
// nothing about what it did.
func TestHoldReleaseSettles(t *testing.T) {
	for _, f := range []faulty.Fault{
		{Op: faulty.CAS, Err: persistence.Unknown, Count: 1},
		{Op: faulty.CAS, Drop: true, Err: persistence.Unknown, Count: 1},
		{Op: faulty.CAS, Err: persistence.Conflict, Count: 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := faulty.Wrap(memory.New().Open())
			h, err := operator(virtual()).Hold(t.Context(), s, 0)
			if err != nil {
				t.Fatal(err)
			}
			inj := s.Inject(f)
			if err := h.Release(t.Context(), someHead, "done"); err != nil {
				t.Fatal(err)
			}
			if v := registerOf(t, s); v.Held || v.Head != someHead || inj.Fired() != 1 {
				t.Errorf("%+v, fired %d", v, inj.Fired())
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		s := faulty.Wrap(memory.New().Open())
		h, err := operator(virtual()).Hold(t.Context(), s, 0)
		if err != nil {
			t.Fatal(err)
		}
		s.Inject(faulty.Fault{Op: faulty.CAS, Drop: true, Err: persistence.Denied})
		if err := h.Release(t.Context(), someHead, "done"); !errors.Is(err, persistence.Denied) || !strings.Contains(err.Error(), "could not be written") {
			t.Errorf("%v", err)
		}
	})
}
