package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-ha/understudy/api/client"
	v1 "github.com/understudy-ha/understudy/api/v1"
	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// planeReader is what the commands that read need: a node, or the store itself
// when no node answers.
type planeReader interface {
	States(ctx context.Context) (v1.PlaneStates, error)
	History(ctx context.Context, since uint64, limit int) (v1.History, error)
	Close()
}

var _ planeReader = (*client.Client)(nil)

// storeFlag is the flag --store of the commands that read.
type storeFlag struct{ location string }

func (f *storeFlag) addTo(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.location, "store", "", "read this `location` itself instead of asking a node, for when none answers")
}

// reader is a node's client, or the store.
func (f *storeFlag) reader(cmd *cobra.Command, g *globals) (planeReader, error) {
	if f.location == "" {
		return g.connect()
	}
	p, err := g.openArg(cmd, f.location)
	if err != nil {
		return nil, err
	}
	return offline{p}, nil
}

// offline reads a plane from its store. The store does not say who is alive;
// what moves while it is watched does.
type offline struct{ p *openPlace }

func (o offline) Close() { _ = o.p.Close() }

// sightings is how long a node gets to show that it is alive: a second more
// than most heartbeats take.
const sightings = 3 * time.Second

// States reads the store twice. A node is alive if its record, or for the
// holder the register, changed in between.
func (o offline) States(ctx context.Context) (v1.PlaneStates, error) {
	first, err := o.read(ctx)
	if err != nil {
		return v1.PlaneStates{}, err
	}
	select {
	case <-time.After(sightings):
	case <-ctx.Done():
		return v1.PlaneStates{}, ctx.Err()
	}
	now, err := o.read(ctx)
	if err != nil {
		return v1.PlaneStates{}, err
	}
	return offlineStates(first, now, time.Now()), nil
}

// read wants a register that says something.
func (o offline) read(ctx context.Context) (*ha.Contents, error) {
	c, err := ha.ReadContents(ctx, o.p.Store, readLimit)
	if err == nil && c.Register.Err != nil {
		err = c.Register.Err
		if !errors.Is(err, persistence.Absent) {
			err = exitf(exitFailed, "%w", err)
		}
	}
	return c, err
}

func offlineStates(first, now *ha.Contents, at time.Time) v1.PlaneStates {
	v := now.Register.Value
	plane, holder := string(v.Plane), string(v.Holder)
	p := v1.PlaneStates{PlaneID: &plane, Term: uint64(v.Term), Paused: v.Paused, Nodes: map[string]v1.Node{}, Links: map[string]string{}}
	leads := v.Held && holder != "" && v.WriteID != first.Register.Value.WriteID
	if leads {
		p.LeaderID = &holder
	}
	before := map[lease.NodeID]uint64{}
	for _, n := range first.Nodes {
		before[n.Value.Node] = n.Value.Beat
	}
	for _, n := range now.Nodes {
		if n.Err != nil {
			continue
		}
		r := n.Value
		beat, known := before[r.Node]
		alive := (known && beat != r.Beat) || (leads && r.Node == v.Holder)
		node := offlineNode(r, alive, at)
		if alive && leads && r.Node == v.Holder && r.State == lease.StateMaster {
			p.MasterID = &holder
		} else if node.Status == v1.StateMaster {
			node.Status = v1.StateFailed // its record is older than the register
		}
		p.Nodes[string(r.Node)] = node
	}
	return p
}

// offlineNode shows a record; a node that gave no sign of life is not called
// alive.
func offlineNode(r lease.NodeRecord, alive bool, at time.Time) v1.Node {
	age := max(at.Sub(time.UnixMilli(r.WallMs)), 0).Milliseconds()
	why := r.Why
	n := v1.Node{
		NodeID: string(r.Node), NodeURI: &r.URI, Status: v1.State(r.State), Priority: &r.Priority, LocalTimestamp: &r.WallMs,
		Version: &r.Version, AgeMs: &age, Electable: r.Electable && alive, StoreLatencyMs: &r.StoreMs,
	}
	interval := time.Duration(r.IntervalMs) * time.Millisecond
	switch {
	case alive || r.State == lease.StateTerminated:
	case interval > sightings:
		why = fmt.Sprintf("no sign of life in %s, but it writes only every %s", sightings, interval)
	default:
		n.Status, why = v1.StateFailed, fmt.Sprintf("no sign of life in %s", sightings)
	}
	n.Why = &why
	return n
}

// History lists the reigns as the nodes would.
func (o offline) History(ctx context.Context, since uint64, limit int) (v1.History, error) {
	c, err := ha.ReadContents(ctx, o.p.Store, readLimit)
	if err != nil {
		return v1.History{}, err
	}
	h := v1.History{Reigns: []v1.Reign{}}
	if c.Register.Err == nil {
		plane := string(c.Register.Value.Plane)
		h.PlaneID = &plane
	}
	for _, s := range slices.Backward(c.History) {
		r := s.Value
		if s.Err != nil || uint64(r.Term) < since || (limit > 0 && len(h.Reigns) == limit) {
			continue
		}
		h.Reigns = append(h.Reigns, v1.Reign{
			Term: uint64(r.Term), Node: cmp.Or(string(r.Node), "-"), Incarnation: string(r.Incarnation), From: r.From, To: r.To,
			Code: r.Code, Reason: r.Reason, EndCode: r.EndCode, EndReason: &r.EndReason, Actor: &r.Actor, PhasesMs: v1.Phases(r.Phases),
		})
	}
	return h, nil
}
