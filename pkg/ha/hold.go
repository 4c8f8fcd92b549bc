package ha

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// Held is the register of a location in the hands of an operator, who works on
// what it persists while no node may become master.
type Held struct {
	Value lease.Value // as it was taken: the term is the operator's own
	Made  bool        // there was no plane; it was made
	Old   lease.Head  // of what was persisted before

	d     Disaster
	store persistence.Store
	now   lease.Value
	at    persistence.Version
	drawn map[lease.WriteID]bool
}

// Hold takes the register at a term above least and above every term that the
// location speaks of, held by nobody, so that nodes wait. In an empty location
// it makes a plane. It refuses (PreconditionError) while any node writes to the
// location; that takes as long as a claim would. Call Keep at once, and Release
// at the end. d.Plane does not matter.
func (d Disaster) Hold(ctx context.Context, store persistence.Store, least lease.Term) (*Held, error) {
	c, err := ReadContents(ctx, store, d.Operation)
	if err != nil {
		return nil, err
	}
	h := &Held{d: d, store: store, drawn: map[lease.WriteID]bool{}}
	v := lease.Value{Plane: NewPlaneID(), Term: max(least, c.HighestTerm()) + 1, Held: true, Lease: d.Lease.Truncate(time.Millisecond), WriteID: NewWriteID()}
	switch reg := c.Register; {
	case errors.Is(reg.Err, persistence.Absent):
		err = h.make(ctx, v)
	case reg.Err != nil:
		return nil, refuse("the register can not be read: %s; 'understudy store repair' puts a value in its place", reg.Err)
	default:
		err = h.take(ctx, c, v)
	}
	if err != nil {
		return nil, err
	}
	h.Value = h.now
	at := time.Now()
	rec := ReignRecord{Term: v.Term, From: at, Reason: "held by an operator, who works on the persisted state", Actor: d.Actor}
	return h, d.record(ctx, store, rec)
}

// make makes the plane.
func (h *Held) make(ctx context.Context, v lease.Value) error {
	var empty bool
	err := bounded(ctx, h.d.Operation, func(ctx context.Context) (err error) {
		empty, err = h.store.Empty(ctx)
		return err
	})
	if err != nil {
		return err
	}
	if !empty {
		return refuse("there is no plane, and something else is in its place: give an empty location; nothing was changed")
	}
	h.Made = true
	ierr := bounded(ctx, h.d.Operation, func(ctx context.Context) error { return h.store.Init(ctx, v.Encode()) })
	snap, err := h.d.read(ctx, h.store) // R5, and for the version
	if err != nil {
		return errors.Join(ierr, err)
	}
	got, err := lease.ParseValue(snap.Value)
	if err != nil || got.WriteID != v.WriteID {
		return refuse("somebody else has made a plane here at the same moment; nothing was changed")
	}
	h.now, h.at = got, snap.Version
	return nil
}

// take takes the register of a plane in which nothing moves.
func (h *Held) take(ctx context.Context, first *Contents, v lease.Value) error {
	was := first.Register.Value
	if at := h.d.answering(ctx, first, ""); at != nil {
		return refuse("node %s answers at %s: stop every node first, nothing was changed", at.Node, at.URI)
	}
	snap, err := h.d.read(ctx, h.store)
	if err != nil {
		return err
	}
	if string(snap.Value) != string(first.Register.Raw) {
		return refuse("the plane is alive: stop every node first, nothing was changed")
	}
	err = h.d.watch(ctx, h.watching(first), func(full bool) error {
		now, err := h.d.read(ctx, h.store)
		if err != nil {
			return err
		}
		if now.Version != snap.Version {
			return refuse("the plane is alive, its register moves: stop every node first, nothing was changed")
		}
		if !full {
			return nil
		}
		c, err := readLife(ctx, h.store, h.d.Operation)
		if err != nil {
			return err
		}
		return alive(first, c)
	})
	if err != nil {
		return err
	}
	v.Plane, v.Paused, v.Head, v.Lease = was.Plane, was.Paused, was.Head, max(was.Lease, v.Lease)
	h.now, h.at, h.Old = was, snap.Version, was.Head // swap adds to its sequence
	return h.swap(ctx, v)
}

// watching is how long the location must stand still: as long as a claim would
// wait (R6), and three of the slowest announced intervals.
func (h *Held) watching(c *Contents) time.Duration {
	v := c.Register.Value
	total := 3 * time.Second
	if v.Held {
		total = election.Timing{Timeout: max(v.Lease, h.d.Lease)}.ClaimAfter(v.Lease)
	}
	for _, n := range c.Nodes {
		if n.Err == nil && n.Value.State != lease.StateTerminated {
			total = max(total, 3*min(time.Duration(n.Value.IntervalMs)*time.Millisecond, election.MaxStandbyHeartbeat))
		}
	}
	return total
}

// alive refuses when a node has written since.
func alive(first, now *Contents) error {
	was := lifeOf(first)
	for id, life := range lifeOf(now) {
		if was[id] != life {
			return refuse("node %s is alive: stop every node first, nothing was changed", id)
		}
	}
	return nil
}

// swap puts v in the place of what this holds; every outcome is settled by
// reading (R5).
func (h *Held) swap(ctx context.Context, v lease.Value) error {
	var last error
	for range 10 {
		v.Seq, v.WriteID = h.now.Seq+1, NewWriteID()
		h.drawn[v.WriteID] = true
		var at persistence.Version
		last = bounded(ctx, h.d.Operation, func(ctx context.Context) (err error) {
			at, err = h.store.CAS(ctx, h.at, v.Encode())
			return err
		})
		if last == nil {
			h.now, h.at = v, at
			return nil
		}
		snap, err := h.d.read(ctx, h.store)
		if err != nil {
			last = err
			if ctx.Err() != nil {
				break
			}
			continue
		}
		got, err := lease.ParseValue(snap.Value)
		switch {
		case err == nil && h.drawn[got.WriteID]: // this attempt, or one before it that came late
			h.now, h.at = got, snap.Version
			if got.WriteID == v.WriteID {
				return nil
			}
		case snap.Version != h.at:
			return refuse("a node has taken the register over meanwhile: stop every node and begin again")
		}
	}
	return fmt.Errorf("the register could not be written: %w", last)
}

// Keep renews the hold until ctx ends, so that no node claims it, and returns
// nil then. An error means that it was lost.
func (h *Held) Keep(ctx context.Context) error {
	tick := time.NewTicker(h.Value.Lease / 10)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := h.swap(context.WithoutCancel(ctx), h.now); err != nil {
			return err
		}
	}
}

// Release lets nodes claim the register, with head as the newest segment of
// what is persisted: that is the moment in which it counts. Keep must have
// ended before.
func (h *Held) Release(ctx context.Context, head lease.Head, why string) error {
	v := h.now
	v.Held, v.Head = false, head
	if err := h.swap(ctx, v); err != nil {
		return err
	}
	to := time.Now()
	return h.d.recorded(ctx, h.store, ReignRecord{
		Term: h.Value.Term, From: to, To: &to, Reason: "held by an operator", EndReason: why, Actor: h.d.Actor,
	})
}
