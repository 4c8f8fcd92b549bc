package main

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/persistence/memory"
	"github.com/understudy-ha/understudy/pkg/config"
	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/lease"
)

const (
	ownNode   = lease.NodeID("n1aaaaaa")
	otherNode = lease.NodeID("n2bbbbbb")
)

func fastTiming(t *testing.T) election.Timing {
	t.Helper()
	timing, err := election.Derive(election.TimingRequest{Preset: "fast"})
	if err != nil {
		t.Fatal(err)
	}
	return timing
}

func putRecord(tb testing.TB, s persistence.Store, id lease.NodeID, beat uint64, state lease.State) {
	tb.Helper()
	b := lease.NodeRecord{Node: id, Incarnation: "x", Beat: beat, IntervalMs: 500, State: state}.Encode()
	if err := s.Put(context.Background(), "nodes/"+string(id), bytes.NewReader(b), int64(len(b))); err != nil {
		tb.Error(err)
	}
}

func testValue(seq lease.Seq, holder lease.NodeID) lease.Value {
	v := lease.Value{Plane: "plane234", Seq: seq, Lease: 5 * time.Second, WriteID: ha.NewWriteID()}
	if holder != "" {
		v.Held, v.Holder, v.Incarnation = true, holder, ha.NewIncarnation()
	}
	return v
}

func TestRebindNeedsAPlane(t *testing.T) {
	store := memory.New().Open()
	timing := fastTiming(t)
	check := func() error {
		return checkPersistMode(t.Context(), store, config.PersistRebind, ownNode, timing)
	}
	if err := check(); exitCode(err) != exitUsage || !strings.Contains(err.Error(), "is empty") {
		t.Errorf("empty location: %v", err)
	}
	putRecord(t, store, otherNode, 1, lease.StateStandby)
	if err := check(); exitCode(err) != exitUsage || !strings.Contains(err.Error(), "holds no plane") {
		t.Errorf("no register: %v", err)
	}
	if err := store.Init(t.Context(), testValue(0, "").Encode()); err != nil {
		t.Fatal(err)
	}
	if err := check(); err != nil {
		t.Errorf("a plane: %v", err)
	}
}

// CLEAN is refused while anybody is seen to live, and by that only: what the
// dead left behind does not count, nor does what this node itself left.
func TestCleanRefusesLiveNodes(t *testing.T) {
	for _, tc := range []struct {
		name  string
		alive func(tb testing.TB, s persistence.Store, beat uint64) // called every 500 ms
		want  string
	}{
		{"nobody but old records", func(testing.TB, persistence.Store, uint64) {}, ""},
		{"a standby", func(tb testing.TB, s persistence.Store, beat uint64) {
			tb.Helper()
			putRecord(tb, s, otherNode, 2+beat, lease.StateStandby)
		}, "alive on this plane: " + string(otherNode)},
		{"a master by its renewals alone", func(tb testing.TB, s persistence.Store, _ uint64) {
			tb.Helper()
			snap, err := s.Read(context.Background())
			if err != nil {
				tb.Error(err)
				return
			}
			v, err := lease.ParseValue(snap.Value)
			if err != nil {
				tb.Error(err)
				return
			}
			v.Seq, v.WriteID = v.Seq+1, ha.NewWriteID()
			if _, err := s.CAS(context.Background(), snap.Version, v.Encode()); err != nil {
				tb.Error(err)
			}
		}, "alive on this plane: n3cccccc"},
		{"a node that comes up meanwhile", func(tb testing.TB, s persistence.Store, beat uint64) {
			tb.Helper()
			if beat > 1 {
				putRecord(tb, s, "n4dddddd", beat, lease.StateInitializing)
			}
		}, "alive on this plane: n4dddddd"},
		{"this node's own record", func(tb testing.TB, s persistence.Store, beat uint64) {
			tb.Helper()
			putRecord(tb, s, ownNode, 2+beat, lease.StateStandby)
		}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := memory.New().Open()
				if err := store.Init(t.Context(), testValue(3, "n3cccccc").Encode()); err != nil {
					t.Fatal(err)
				}
				putRecord(t, store, ownNode, 1, lease.StateTerminated)
				putRecord(t, store, otherNode, 1, lease.StateStandby)
				putRecord(t, store, "n3cccccc", 1, lease.StateMaster)
				ctx, stop := context.WithCancel(t.Context())
				done := make(chan struct{})
				go func() {
					defer close(done)
					for beat := uint64(0); ; beat++ {
						select {
						case <-ctx.Done():
							return
						case <-time.After(500 * time.Millisecond):
							tc.alive(t, store, beat)
						}
					}
				}()
				began := time.Now()
				err := checkPersistMode(ctx, store, config.PersistClean, ownNode, fastTiming(t))
				stop()
				<-done
				if tc.want == "" && err != nil {
					t.Errorf("refused: %v", err)
				}
				if tc.want != "" && (exitCode(err) != exitPrecondition || !strings.Contains(err.Error(), tc.want)) {
					t.Errorf("%v, want %q", err, tc.want)
				}
				if took := time.Since(began); took > 8*time.Second {
					t.Errorf("took %v", took)
				}
			})
		})
	}
}

func TestOtherPersistModesAskNothing(t *testing.T) {
	for _, m := range []config.PersistMode{config.PersistAuto, config.PersistDisabled} {
		if err := checkPersistMode(t.Context(), nil, m, ownNode, election.Timing{}); err != nil {
			t.Error(err)
		}
	}
}
