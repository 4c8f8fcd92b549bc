package ha_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/persistence/memory"
	"github.com/understudy-ha/understudy/persistence/posix"
	"github.com/understudy-ha/understudy/pkg/clock"
	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/lease"
)

const (
	lostPlane = lease.PlaneID("abcdefgh")
	deadNode  = lease.NodeID("ndead234")
)

func heldValue(term lease.Term) lease.Value {
	return lease.Value{
		Plane: lostPlane, Term: term, Seq: 9, Held: true, Lease: time.Second, Holder: deadNode,
		Incarnation: ha.NewIncarnation(), WriteID: ha.NewWriteID(), Head: lease.Head{Seq: 5, Rand: "aaaabbbbccccdddd"},
	}
}

func operator(now func() lease.Instant) ha.Disaster {
	return ha.Disaster{Plane: lostPlane, Actor: "op@host", Lease: time.Second, Operation: 5 * time.Second, Clock: now}
}

func put(t *testing.T, s persistence.Store, key, content string) {
	t.Helper()
	if err := s.Put(t.Context(), key, strings.NewReader(content), int64(len(content))); err != nil {
		t.Fatal(err)
	}
}

func beat(t *testing.T, s persistence.Store, id lease.NodeID, inc lease.Incarnation, n uint64) {
	t.Helper()
	put(t, s, "nodes/"+string(id), string(lease.NodeRecord{Node: id, Incarnation: inc, Beat: n, IntervalMs: 1000, Term: 7}.Encode()))
}

func refused(t *testing.T, err error, words string) {
	t.Helper()
	var p *ha.PreconditionError
	if !errors.As(err, &p) || !strings.Contains(err.Error(), words) {
		t.Errorf("%v, want a refusal with %q", err, words)
	}
}

// virtual is the own clock inside a bubble.
func virtual() func() lease.Instant {
	began := time.Now()
	return func() lease.Instant { return lease.At(time.Since(began) + time.Hour) }
}

func TestReleaseOfADeadMaster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memory.New().Open()
		held := heldValue(7)
		if err := s.Init(t.Context(), held.Encode()); err != nil {
			t.Fatal(err)
		}
		put(t, s, "history/000000000007", fmt.Sprintf(`{"term":7,"node":%q,"from":"2026-01-02T03:04:05Z","to":null,"reason":"birth"}`, deadNode))
		began := time.Now()
		v, err := operator(virtual()).Release(t.Context(), s, 7, deadNode)
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took < 1010*time.Millisecond {
			t.Errorf("released after %s, within the lease", took)
		}
		snap, err := s.Read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got, err := lease.ParseValue(snap.Value)
		if err != nil || got != v || got.Held || got.Term != 7 || got.Seq != held.Seq+1 || got.Head != held.Head || got.Plane != lostPlane {
			t.Errorf("%+v, %v", got, err)
		}
		c, err := ha.ReadContents(t.Context(), s, time.Second)
		if err != nil || len(c.History) != 1 {
			t.Fatalf("%+v, %v", c, err)
		}
		if h := c.History[0].Value; h.To == nil || h.Actor != "op@host" || h.Reason != "birth" || h.EndReason != "released by an operator: ndead234 is powered off" {
			t.Errorf("history: %+v", h)
		}
	})
}

func TestReleaseIsRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		plane lease.PlaneID
		term  lease.Term
		node  lease.NodeID
		value func(*lease.Value)
		alive func(t *testing.T, s persistence.Store, v lease.Value) // a second or less after the start
		words string
	}{
		"another plane":       {"zzzzzzzz", 7, deadNode, nil, nil, "holds plane abcdefgh, not zzzzzzzz"},
		"another term":        {lostPlane, 6, deadNode, nil, nil, "held by ndead234 in term 7, not by ndead234 in term 6"},
		"another node":        {lostPlane, 7, "nother23", nil, nil, "not by nother23"},
		"released":            {lostPlane, 7, deadNode, func(v *lease.Value) { v.Held = false }, nil, "released already"},
		"nobody's":            {lostPlane, 7, deadNode, func(v *lease.Value) { v.Holder, v.Incarnation = "", "" }, nil, "held by nobody"},
		"it renews its lease": {lostPlane, 7, deadNode, nil, renew, "the register has moved"},
		"it writes its record": {lostPlane, 7, deadNode, nil, func(t *testing.T, s persistence.Store, v lease.Value) {
			t.Helper()
			beat(t, s, deadNode, v.Incarnation, 2)
		}, "so it is not powered off"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := memory.New().Open()
				v := heldValue(7)
				if tt.value != nil {
					tt.value(&v)
				}
				if err := s.Init(t.Context(), v.Encode()); err != nil {
					t.Fatal(err)
				}
				beat(t, s, deadNode, v.Incarnation, 1)
				if tt.alive != nil {
					time.AfterFunc(900*time.Millisecond, func() { tt.alive(t, s, v) })
				}
				d := operator(virtual())
				d.Plane = tt.plane
				before, err := s.Read(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				_, err = d.Release(t.Context(), s, tt.term, tt.node)
				refused(t, err, tt.words)
				if tt.alive == nil {
					if after, err := s.Read(t.Context()); err != nil || after.Version != before.Version {
						t.Errorf("the register was written: %q, %v", after.Value, err)
					}
				}
				snap, err := s.Read(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if got, err := lease.ParseValue(snap.Value); err != nil || got.Held != v.Held {
					t.Errorf("the register was released: %+v, %v", got, err)
				}
				synctest.Wait()
			})
		})
	}
}

// renew does what a living master does.
func renew(t *testing.T, s persistence.Store, v lease.Value) {
	t.Helper()
	snap, err := s.Read(t.Context())
	if err != nil {
		t.Error(err)
		return
	}
	v.Seq++
	v.WriteID = ha.NewWriteID()
	if _, err := s.CAS(t.Context(), snap.Version, v.Encode()); err != nil {
		t.Error(err)
	}
}

// broken is a location on a disk whose register was damaged.
func broken(t *testing.T, names ...string) (*posix.Store, string) {
	t.Helper()
	dir := t.TempDir()
	s, err := posix.Open(dir, posix.Options{TornFor: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range append([]string{"nodes/x"}, names...) {
		path := filepath.Join(dir, n)
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	beat(t, s, deadNode, ha.NewIncarnation(), 1)
	return s, dir
}

func TestRepairOfARegister(t *testing.T) {
	older, newer := heldValue(6), heldValue(7)
	newer.Head = lease.Head{Seq: 6, Rand: "eeeeffffgggghhhh"}
	for name, tt := range map[string]struct {
		names []string
		head  lease.Head
		aside int // names kept
	}{
		"two values":      {[]string{"lease/" + string(older.Encode()), "lease/" + string(newer.Encode())}, newer.Head, 2},
		"a foreign file":  {[]string{"lease/readme.txt"}, lease.Head{}, 1},
		"unknown format":  {[]string{"lease/u1.something-newer"}, lease.Head{}, 0}, // swapped, not moved
		"not a directory": {[]string{"lease"}, lease.Head{}, 1},
		"gone":            {nil, lease.Head{}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, dir := broken(t, tt.names...)
			r, err := operator(clock.Now).Repair(t.Context(), s, 8, nil)
			if err != nil {
				t.Fatal(err)
			}
			snap, err := s.Read(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			v, err := lease.ParseValue(snap.Value)
			if err != nil || v != r.Value || v.Plane != lostPlane || v.Term != 8 || !v.Held || v.Holder != "" || v.Head != tt.head || v.Lease != time.Second {
				t.Errorf("%+v, %v", v, err)
			}
			if tt.aside == 0 && r.Aside != "" {
				t.Errorf("aside is %q", r.Aside)
			}
			if es, err := os.ReadDir(filepath.Join(dir, r.Aside)); tt.aside > 0 && (err != nil || len(es) != tt.aside) {
				t.Errorf("kept in %q: %v, %v", r.Aside, es, err)
			}
			c, err := ha.ReadContents(t.Context(), s, time.Second)
			if err != nil || len(c.History) != 1 {
				t.Fatalf("%+v, %v", c, err)
			}
			if h := c.History[0].Value; h.Term != 8 || h.To == nil || h.Actor != "op@host" || h.Reason != "the register was repaired by an operator" {
				t.Errorf("history: %+v", h)
			}
			// What a master that was not stopped would do next.
			if _, err := s.CAS(t.Context(), persistence.Version(newer.Encode()), older.Encode()); !errors.Is(err, persistence.Conflict) {
				t.Errorf("a swap from what was there before: %v", err)
			}
		})
	}
}

func TestRepairIsRefused(t *testing.T) {
	value, other := heldValue(7), heldValue(7)
	other.Plane = "zzzzzzzz"
	torn := []string{"lease/readme.txt"}
	for name, tt := range map[string]struct {
		names []string
		term  lease.Term
		alive func(t *testing.T, s persistence.Store)
		words string
	}{
		"it can be read":       {[]string{"lease/" + string(value.Encode())}, 9, nil, "there is nothing to repair"},
		"a term that is used":  {torn, 7, nil, "at least 8"},
		"another plane":        {[]string{"lease/" + string(value.Encode()), "lease/" + string(other.Encode())}, 8, nil, "belongs to plane"},
		"state without a head": {append([]string{"state/log/1-x"}, torn...), 8, nil, "name it with --head"},
		"a node is alive": {torn, 8, func(t *testing.T, s persistence.Store) {
			t.Helper()
			beat(t, s, deadNode, ha.NewIncarnation(), 2)
		}, "stop every node first"},
		"a node comes": {torn, 8, func(t *testing.T, s persistence.Store) {
			t.Helper()
			beat(t, s, "nnew2345", ha.NewIncarnation(), 1)
		}, "node nnew2345 has written its record"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, dir := broken(t, tt.names...)
			before, err := filepath.Glob(dir + "/lease/*")
			if err != nil {
				t.Fatal(err)
			}
			d := operator(clock.Now)
			once := false
			d.Watching = func(done, _ time.Duration) {
				if tt.alive != nil && !once && done > 100*time.Millisecond {
					once = true
					tt.alive(t, s)
				}
			}
			_, err = d.Repair(t.Context(), s, tt.term, nil)
			refused(t, err, tt.words)
			if after, err := filepath.Glob(dir + "/lease/*"); err != nil || fmt.Sprint(after) != fmt.Sprint(before) {
				t.Errorf("changed from %q to %q, %v", before, after, err)
			}
			if tt.alive != nil && !once {
				t.Error("nobody came alive")
			}
		})
	}
	t.Run("an empty location", func(t *testing.T) {
		s := memory.New().Open()
		_, err := operator(clock.Now).Repair(t.Context(), s, 8, nil)
		refused(t, err, "nothing is left of a plane here")
	})
}

// A node that can not use the store writes nothing there, but still answers.
func TestNodeThatAnswers(t *testing.T) {
	asked := 0
	d := operator(clock.Now)
	d.Answers = func(_ context.Context, rec lease.NodeRecord) bool {
		asked++
		return rec.Node == deadNode
	}
	s, _ := broken(t, "lease/readme.txt")
	withURI := func(s persistence.Store) {
		put(t, s, "nodes/"+string(deadNode), string(lease.NodeRecord{Node: deadNode, URI: "https://host:1/", Term: 7}.Encode()))
	}
	withURI(s)
	_, err := d.Repair(t.Context(), s, 8, nil)
	refused(t, err, "node ndead234 answers at https://host:1/: stop every node first")
	m := memory.New().Open()
	if err := m.Init(t.Context(), heldValue(7).Encode()); err != nil {
		t.Fatal(err)
	}
	withURI(m)
	_, err = d.Release(t.Context(), m, 7, deadNode)
	refused(t, err, "ndead234 answers at https://host:1/, so it is not powered off")
	if asked != 2 {
		t.Errorf("asked %d times", asked)
	}
}
