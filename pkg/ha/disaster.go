package ha

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// What operators may do to a register after a disaster, without a node. Both
// watch the location for as long as a claim would have to (R6) and refuse when
// anything moves, so that a wrong word costs time, not two masters; and both
// are recorded in the plane's history before they are done and after.

// Disaster is what both operations need.
type Disaster struct {
	Plane     lease.PlaneID        // as the operator typed it
	Actor     string               // who asks, for the history
	Lease     time.Duration        // T of the operator's configuration, for a register that tells none
	Operation time.Duration        // limit of one store operation
	Clock     func() lease.Instant // the own clock
	// Answers asks whether the node with this record answers at its URI: one
	// that can not use the store writes nothing there. May be nil.
	Answers func(ctx context.Context, rec lease.NodeRecord) bool
	// Watching is told how long the location has been watched. May be nil.
	Watching func(done, total time.Duration)
}

// minWatchPoll and maxWatchPoll bound how often a watched location is read.
const (
	minWatchPoll = 20 * time.Millisecond
	maxWatchPoll = time.Second
)

// Release makes the held value of term claimable on the operator's word that
// the node's machine is powered off. It refuses (PreconditionError) unless the
// register stands still for as long as R6 asks of a claim, the node's record
// does too, and both say what the operator says. The swap is made on the very
// version that was watched.
func (d Disaster) Release(ctx context.Context, store persistence.Store, term lease.Term, node lease.NodeID) (lease.Value, error) {
	before, snap, err := d.heldBy(ctx, store, term, node)
	if err != nil {
		return lease.Value{}, err
	}
	first, err := readLife(ctx, store, d.Operation)
	if err != nil {
		return lease.Value{}, err
	}
	if at := d.answering(ctx, first, node); at != nil {
		return lease.Value{}, refuse("%s answers at %s, so it is not powered off; nothing was changed", node, at.URI)
	}
	timing := election.Timing{Timeout: max(before.Lease, d.Lease)}
	err = d.watch(ctx, timing.ClaimAfter(before.Lease), func(full bool) error {
		now, err := d.read(ctx, store)
		if err != nil {
			return err
		}
		if now.Version != snap.Version {
			return refuse("the register has moved while it was watched: %s is alive, or another node has taken over; nothing was changed", node)
		}
		if !full {
			return nil
		}
		c, err := readLife(ctx, store, d.Operation)
		if err == nil && lifeOf(c)[node] != lifeOf(first)[node] {
			return refuse("%s has written its record while it was watched, so it is not powered off; nothing was changed", node)
		}
		return err
	})
	if err != nil {
		return lease.Value{}, err
	}
	rec := d.reign(ctx, store, term, node, before.Incarnation)
	rec.EndReason = fmt.Sprintf("an operator asked for a release: %s is powered off", node)
	if err := d.record(ctx, store, rec); err != nil {
		return lease.Value{}, fmt.Errorf("nothing was changed, because it could not be recorded: %w", err)
	}
	after, err := d.swapReleased(ctx, store, snap, before)
	if err != nil {
		return lease.Value{}, err
	}
	to := time.Now()
	rec.To, rec.EndReason = &to, fmt.Sprintf("released by an operator: %s is powered off", node)
	return after, d.recorded(ctx, store, rec)
}

// heldBy reads the register and compares it with the operator's words.
func (d Disaster) heldBy(ctx context.Context, store persistence.Store, term lease.Term, node lease.NodeID) (lease.Value, persistence.Snapshot, error) {
	snap, err := d.read(ctx, store)
	if errors.Is(err, persistence.Absent) {
		return lease.Value{}, snap, refuse("the location holds no register: %s", err)
	}
	if errors.Is(err, persistence.Torn) {
		return lease.Value{}, snap, refuse("the register can not be read: %s", err)
	}
	if err != nil {
		return lease.Value{}, snap, err
	}
	v, err := lease.ParseValue(snap.Value)
	switch {
	case err != nil:
		err = refuse("%s; 'understudy store repair' puts a value in its place", err)
	case v.Plane != d.Plane:
		err = refuse("the location holds plane %s, not %s; nothing was changed", v.Plane, d.Plane)
	case !v.Held:
		err = refuse("the register is released already, at term %d: any node may claim it; nothing was changed", v.Term)
	case v.Holder == "":
		err = refuse("the register is held by nobody, at term %d: the first node to start claims it after %s; nothing was changed", v.Term, v.Lease)
	case v.Holder != node || v.Term != term:
		err = refuse("the register is held by %s in term %d, not by %s in term %d; nothing was changed", v.Holder, v.Term, node, term)
	}
	return v, snap, err
}

// swapReleased settles every outcome by reading (R5).
func (d Disaster) swapReleased(ctx context.Context, store persistence.Store, snap persistence.Snapshot, v lease.Value) (lease.Value, error) {
	drawn := map[lease.WriteID]bool{}
	var last error
	for range 10 {
		next, _ := election.ReleaseFor(v, v.Term, v.Incarnation, NewWriteID())
		drawn[next.WriteID] = true
		last = bounded(ctx, d.Operation, func(ctx context.Context) error {
			_, err := store.CAS(ctx, snap.Version, next.Encode())
			return err
		})
		if last == nil {
			return next, nil
		}
		now, err := d.read(ctx, store)
		if err != nil {
			last = err
			continue
		}
		got, err := lease.ParseValue(now.Value)
		switch {
		case err == nil && drawn[got.WriteID]:
			return got, nil
		case now.Version != snap.Version:
			return lease.Value{}, refuse("somebody else has written the register meanwhile; nothing was changed")
		}
	}
	return lease.Value{}, fmt.Errorf("whether the register was released is not known, look with 'understudy store dump' and run this again: %w", last)
}

// Repaired is what Repair did.
type Repaired struct {
	Value lease.Value
	Aside string // where what was there before is kept; empty: nowhere, or there was nothing
}

// Repair puts a value at the term least in the place of a register that can not
// be read. It refuses (PreconditionError) while any node writes to the
// location, while the register can be read, and where that is not above every
// term that the location speaks of. The new value is held by nobody, so that
// the first claim waits a full lease: should a master still be running against
// the operator's word, it has lost its register by then and stopped.
//
// head is the newest segment of the persisted state; nil takes it over from
// what is left of the register, and refuses where that does not tell.
func (d Disaster) Repair(ctx context.Context, store persistence.Store, least lease.Term, head *lease.Head) (Repaired, error) {
	first, err := ReadContents(ctx, store, d.Operation)
	if err != nil {
		return Repaired{}, err
	}
	value, err := d.replacement(first, least, head)
	if err != nil {
		return Repaired{}, err
	}
	if at := d.answering(ctx, first, ""); at != nil {
		return Repaired{}, refuse("node %s answers at %s: stop every node first, nothing was changed", at.Node, at.URI)
	}
	timing := election.Timing{Timeout: value.Lease}
	watch := timing.ClaimAfter(value.Lease)
	for _, n := range first.Nodes {
		watch = max(watch, 3*min(time.Duration(n.Value.IntervalMs)*time.Millisecond, election.MaxStandbyHeartbeat))
	}
	err = d.watch(ctx, watch, func(full bool) error {
		if !full {
			return nil
		}
		c, err := readLife(ctx, store, d.Operation)
		if err != nil {
			return err
		}
		return stillDead(first, c)
	})
	if err != nil {
		return Repaired{}, err
	}
	at := time.Now()
	rec := ReignRecord{Term: least, From: at, To: &at, Reason: "an operator asked for a repair of the register", Actor: d.Actor}
	if err := d.record(ctx, store, rec); err != nil {
		return Repaired{}, fmt.Errorf("nothing was changed, because it could not be recorded: %w", err)
	}
	aside, err := d.replace(ctx, store, first.Register, value)
	if err != nil {
		return Repaired{}, fmt.Errorf("repair of the register: %w; run it again with a higher term", err)
	}
	rec.Reason, rec.EndReason = "the register was repaired by an operator", "held by nobody"
	return Repaired{value, aside}, d.recorded(ctx, store, rec)
}

// replacement is the value to write, if writing one is in order.
func (d Disaster) replacement(c *Contents, least lease.Term, head *lease.Head) (lease.Value, error) {
	left := c.Register.values()
	v := lease.Value{Plane: d.Plane, Term: least, Held: true, Lease: d.Lease, WriteID: NewWriteID()}
	switch known := c.HighestTerm(); {
	case c.Register.Err == nil:
		return v, refuse("the register can be read (plane %s, term %d): there is nothing to repair", c.Register.Value.Plane, c.Register.Value.Term)
	case errors.Is(c.Register.Err, persistence.Absent) && len(c.Nodes)+len(c.History)+len(c.Data) == 0:
		return v, refuse("nothing is left of a plane here: check the location and that it is mounted, or make a new plane with 'understudy init'")
	case least <= known || least >= lease.MaxTerm:
		return v, refuse("the term %d must be above every term ever used: the location speaks of term %d, so at least %d", least, known, known+1)
	case slices.ContainsFunc(left, func(x lease.Value) bool { return x.Plane != d.Plane }):
		return v, refuse("what is left of the register belongs to plane %s, not %s", left[0].Plane, d.Plane)
	case head != nil:
		v.Head = *head
	case len(left) > 0:
		v.Head = left[0].Head
	case c.Data["state/"].Objects > 0:
		return v, refuse("the register pointed at the newest part of the persisted state, and what is left of it does not tell which: name it with --head, or --head none to start with an empty state")
	}
	for _, x := range left {
		v.Lease = max(v.Lease, x.Lease)
	}
	for _, n := range c.Nodes {
		if n.Err == nil {
			v.Lease = max(v.Lease, min(time.Duration(n.Value.LeaseMs)*time.Millisecond, time.Hour))
		}
	}
	v.Lease = v.Lease.Truncate(time.Millisecond)
	return v, nil
}

// answering finds a node that answers, or only the one named.
func (d Disaster) answering(ctx context.Context, c *Contents, only lease.NodeID) *lease.NodeRecord {
	if d.Answers == nil {
		return nil
	}
	for _, n := range c.Nodes {
		if n.Err != nil || n.Value.URI == "" || (only != "" && n.Value.Node != only) {
			continue
		}
		if d.Answers(ctx, n.Value) {
			return &n.Value
		}
	}
	return nil
}

// stillDead compares two looks at a location with no node alive.
func stillDead(first, now *Contents) error {
	if now.Register.Err == nil {
		return refuse("the register can be read again: a node is alive, or somebody has repaired it; nothing was changed")
	}
	if !bytes.Equal(first.Register.Raw, now.Register.Raw) || !slices.EqualFunc(first.Register.Parts, now.Register.Parts, bytes.Equal) {
		return refuse("what is in the place of the register has changed while it was watched: a node is alive; stop every node first, nothing was changed")
	}
	was := lifeOf(first)
	for id, life := range lifeOf(now) {
		if was[id] != life {
			return refuse("node %s has written its record while the location was watched: stop every node first, nothing was changed", id)
		}
	}
	return nil
}

// lifeOf says of each node what changes with each of its heartbeats.
func lifeOf(c *Contents) map[lease.NodeID]string {
	out := map[lease.NodeID]string{}
	for _, n := range c.Nodes {
		if n.Err == nil {
			out[n.Value.Node] = fmt.Sprintf("%s %d", n.Value.Incarnation, n.Value.Beat)
		}
	}
	return out
}

// replace writes the value in whatever way the register's state leaves.
func (d Disaster) replace(ctx context.Context, store persistence.Store, was Register, v lease.Value) (aside string, err error) {
	switch p, can := store.(persistence.Repairer); {
	case errors.Is(was.Err, persistence.Absent):
		return "", bounded(ctx, d.Operation, func(ctx context.Context) error { return store.Init(ctx, v.Encode()) })
	case was.Raw != nil: // one value, if an unknown one: it can be swapped
		snap, err := d.read(ctx, store)
		if err != nil {
			return "", err
		}
		if !bytes.Equal(snap.Value, was.Raw) {
			return "", refuse("the register has changed at the last moment: a node is alive; nothing was changed")
		}
		return "", bounded(ctx, d.Operation, func(ctx context.Context) error {
			_, err := store.CAS(ctx, snap.Version, v.Encode())
			return err
		})
	case can:
		err = bounded(ctx, 10*d.Operation, func(ctx context.Context) (err error) { // it may move many files
			aside, err = p.Replace(ctx, v.Encode())
			return err
		})
		return aside, err
	default:
		return "", fmt.Errorf("%w: this kind of store can not be repaired from here", persistence.Unsupported)
	}
}

func (d Disaster) read(ctx context.Context, store persistence.Register) (snap persistence.Snapshot, err error) {
	err = bounded(ctx, d.Operation, func(ctx context.Context) (err error) {
		snap, err = store.Read(ctx)
		return err
	})
	return snap, err
}

// watch looks again and again until the location was seen unchanged for as
// long as total, by the own clock that says less. full asks for a look at
// everything, not the register alone. A look that fails ends it: a watch with
// a hole is no watch.
func (d Disaster) watch(ctx context.Context, total time.Duration, look func(full bool) error) error {
	began := d.Clock()
	poll := min(max(total/100, minWatchPoll), maxWatchPoll)
	fullAt := time.Duration(-1)
	for {
		done := d.Clock().Shortest(began)
		over := done >= total
		full := over || fullAt < 0 || done-fullAt >= time.Second
		if full {
			fullAt = done
		}
		if err := look(full); err != nil {
			return err
		}
		if d.Watching != nil {
			d.Watching(min(done, total), total)
		}
		if over {
			return nil
		}
		select {
		case <-time.After(poll):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// reign is the history's record of the term, or one to begin it with.
func (d Disaster) reign(ctx context.Context, store persistence.Store, term lease.Term, node lease.NodeID, inc lease.Incarnation) ReignRecord {
	rec := ReignRecord{Term: term, Node: node, Incarnation: inc, From: time.Now(), Reason: "not known"}
	_ = bounded(ctx, d.Operation, func(ctx context.Context) error { // its loss would lose nothing that is needed
		b, err := readObject(ctx, store, historyKey(term))
		if err != nil {
			return err
		}
		var have ReignRecord
		if err := json.Unmarshal(b, &have); err == nil && have.Term == term {
			rec = have
		}
		return nil
	})
	rec.Actor = d.Actor
	return rec
}

func (d Disaster) record(ctx context.Context, store persistence.Objects, rec ReignRecord) error {
	b, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	return bounded(ctx, d.Operation, func(ctx context.Context) error {
		return store.Put(ctx, historyKey(rec.Term), bytes.NewReader(b), int64(len(b)))
	})
}

// recorded completes the record of what has been done.
func (d Disaster) recorded(ctx context.Context, store persistence.Objects, rec ReignRecord) error {
	if err := d.record(ctx, store, rec); err != nil {
		return fmt.Errorf("it is done, but the history says only that it was asked for: %w", err)
	}
	return nil
}

func refuse(format string, args ...any) error {
	return &PreconditionError{Reasons: []string{fmt.Sprintf(format, args...)}}
}
