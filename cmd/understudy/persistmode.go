package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/pkg/config"
	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// maxRecord is the longest node record that is read, in bytes.
const maxRecord = 64 << 10

// checkPersistMode holds a starting node to its persistMode: REBIND needs a
// plane that exists (else exit code 2), CLEAN that no other node of it lives
// (else 3, naming them). Whether a node lives is seen from its record, or the
// register, changing while it is watched; no wall clock and no old record
// decides. It takes up to a lease and a half, CLEAN only.
func checkPersistMode(ctx context.Context, store persistence.Store, mode config.PersistMode, self lease.NodeID, t election.Timing) error {
	switch mode {
	case config.PersistAuto, config.PersistDisabled:
		return nil
	case config.PersistRebind:
		return requirePlane(ctx, store, t)
	case config.PersistClean:
		return refuseLiveNodes(ctx, store, self, t)
	}
	return usagef("persistMode: %s is not one of AUTO, REBIND, CLEAN, DISABLED", mode)
}

func requirePlane(ctx context.Context, store persistence.Store, t election.Timing) error {
	ctx, cancel := context.WithTimeout(ctx, t.Timeout)
	defer cancel()
	_, err := store.Read(ctx)
	if !errors.Is(err, persistence.Absent) {
		return err // nil, or why it is not known
	}
	what := "holds no plane"
	if empty, err := store.Empty(ctx); err == nil && empty {
		what = "is empty"
	}
	return usagef("persistMode REBIND: persistenceDir %s %s; is the file system mounted there? For a new plane run 'understudy init', or set persistMode: AUTO", store.Limits().URL, what)
}

// sighting is what changes as long as a node lives.
type sighting struct {
	run  lease.Incarnation
	beat uint64
}

func refuseLiveNodes(ctx context.Context, store persistence.Store, self lease.NodeID, t election.Timing) error {
	first, watch, err := lookAround(ctx, store, self, t)
	if err != nil {
		return fmt.Errorf("persistMode CLEAN: look for live nodes: %w", err)
	}
	if len(first) == 0 {
		return nil
	}
	end := time.NewTimer(watch)
	defer end.Stop()
	tick := time.NewTicker(t.Heartbeat)
	defer tick.Stop()
	for last := false; !last; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-end.C:
			last = true
		case <-tick.C:
		}
		now, _, err := lookAround(ctx, store, self, t)
		if err != nil {
			return fmt.Errorf("persistMode CLEAN: look for live nodes: %w", err)
		}
		var live []string
		for id, s := range now {
			if before, seen := first[id]; !seen || before != s {
				live = append(live, string(id))
			}
		}
		if len(live) > 0 {
			slices.Sort(live)
			return exitf(exitPrecondition, "persistMode CLEAN: alive on this plane: %s; stop every node first, or set persistMode: AUTO", strings.Join(live, ", "))
		}
	}
	return nil
}

// lookAround reads what other nodes have written last, and how long to watch
// before silence means something: three of the slowest announced intervals,
// and at most one and a half leases.
func lookAround(ctx context.Context, store persistence.Store, self lease.NodeID, t election.Timing) (map[lease.NodeID]sighting, time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, t.Timeout)
	defer cancel()
	seen := map[lease.NodeID]sighting{}
	watch := 3 * t.Heartbeat
	for after, more := "", true; more; {
		page, err := store.List(ctx, "nodes/", after)
		if err != nil {
			return nil, 0, err
		}
		more = page.More && len(page.Items) > 0
		for _, item := range page.Items {
			after = item.Key
			r, err := readRecord(ctx, store, item.Key)
			if errors.Is(err, persistence.Absent) {
				continue // removed since it was listed
			}
			if err != nil {
				return nil, 0, err
			}
			if r.Node == "" || r.Node == self {
				continue
			}
			seen[r.Node] = sighting{r.Incarnation, r.Beat}
			watch = max(watch, min(3*time.Duration(r.IntervalMs)*time.Millisecond, t.Timeout*3/2))
		}
	}
	snap, err := store.Read(ctx)
	if errors.Is(err, persistence.Absent) {
		return seen, watch, nil
	}
	if err != nil {
		return nil, 0, err
	}
	// A master's own record is written seldom: its renewals count instead.
	if v, err := lease.ParseValue(snap.Value); err == nil && v.Held && v.Holder != "" && v.Holder != self {
		s := seen[v.Holder]
		s.run, s.beat = v.Incarnation, s.beat+uint64(v.Seq)
		seen[v.Holder] = s
		watch = max(watch, min(v.Lease, t.Timeout*3/2))
	}
	return seen, watch, nil
}

// readRecord returns a zero record for one that can not be read: nobody is
// alive by it.
func readRecord(ctx context.Context, store persistence.Store, key string) (lease.NodeRecord, error) {
	rc, err := store.Get(ctx, key)
	if err != nil {
		return lease.NodeRecord{}, err
	}
	b, err := io.ReadAll(io.LimitReader(rc, maxRecord))
	if err = errors.Join(err, rc.Close()); err != nil {
		return lease.NodeRecord{}, err
	}
	if r, err := lease.ParseNodeRecord(b); err == nil {
		return r, nil
	}
	return lease.NodeRecord{}, nil
}
