package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/journal"
)

// stateRemedy is what helps where the persisted state itself is broken.
const stateRemedy = "put the object back from a copy of the store; without one, start the plane once with persistMode CLEAN, which drops the persisted state"

// checkState reads all of the persisted state and reports what is wrong with it.
func (r *fsckReport) checkState(ctx context.Context, store persistence.Store, c *ha.Contents) error {
	const name = "state"
	if c.Register.Err != nil {
		if d := c.Data["state/"]; d.Objects > 0 {
			r.add(name, persistence.GradeWarn, "repair the register first", "%d objects, not looked at: only the register says which of them count", d.Objects)
		}
		return nil
	}
	v := c.Register.Value
	l := &journal.Loader{Objects: store, Plane: v.Plane, Limit: readLimit}
	found, err := l.Check(ctx, v.Head)
	if err != nil {
		return err
	}
	for _, d := range found.Broken {
		r.add(name, persistence.GradeFail, stateRemedy, "%s: %s", d.Object, d.What)
	}
	for _, d := range found.Idle {
		r.add(name, persistence.GradeWarn, "nothing: nobody needs it any more, and it is removed in time", "%s: %s", d.Object, d.What)
	}
	for _, k := range found.Foreign {
		r.add("foreign", persistence.GradeWarn, "keep a plane's location to itself: move it away, unless a newer version wrote it", "%s is not of this version's making", k)
	}
	if found.State == nil {
		r.add(name, persistence.GradeFail, stateRemedy, "it can not be read, so nobody will be master: %d objects lead nowhere", len(found.Objects))
		return nil
	}
	if len(found.Broken) > 0 {
		r.add(name, persistence.GradeWarn, stateRemedy, "it can be read for now: %s", stateWords(found))
		return nil
	}
	r.add(name, persistence.GradeOK, "", "%s", stateWords(found))
	return nil
}

func stateWords(found *journal.Report) string {
	s := found.State
	words := fmt.Sprintf("%d keys, %d bytes, up to transaction %d; %d objects", s.Len(), s.Bytes(), s.Seq(), len(found.Objects))
	if s.Head.Rand == "" {
		words = "nothing persisted"
	}
	if n := len(found.Above); n > 0 {
		words += fmt.Sprintf("; %d of commits that came to nothing", n)
	}
	return words
}

// dumpedState is what `store dump` says of the persisted state.
type dumpedState struct {
	Segments  int              `json:"segments"`
	Newest    []dumpedSegment  `json:"newest"` // of the chain, newest first
	Snapshots []dumpedSnapshot `json:"snapshots"`
	Error     string           `json:"error,omitempty"` // why the chain can not be followed
}

type dumpedSegment struct {
	Key      string `json:"key"`
	Term     uint64 `json:"term"`
	Seq      uint64 `json:"seq"` // of its last transaction
	Txns     int    `json:"txns"`
	Changes  int    `json:"changes"`
	Bytes    int64  `json:"bytes"`
	Snapshot string `json:"snapshot,omitempty"` // that a reader may begin with
	Clean    bool   `json:"clean,omitempty"`
	AgeMs    *int64 `json:"ageMs"`
}

type dumpedSnapshot struct {
	Key   string `json:"key"`
	Term  uint64 `json:"term"`
	Seq   uint64 `json:"seq"`
	Keys  uint64 `json:"keys"`
	Bytes int64  `json:"bytes"`
	AgeMs *int64 `json:"ageMs"`
	Error string `json:"error,omitempty"`
}

// dumpSegments is how many segments are shown.
const dumpSegments = 10

// dumpStateOf reads the newest segments and what snapshots say of themselves.
func dumpStateOf(ctx context.Context, store persistence.Store, c *ha.Contents, now time.Time) (*dumpedState, error) {
	if register := c.Register.Err; register != nil || c.Data["state/"].Objects == 0 {
		return nil, nil //nolint:nilerr,nilnil // there is nothing to show
	}
	l := &journal.Loader{Objects: store, Plane: c.Register.Value.Plane, Limit: readLimit}
	all, err := l.Survey(ctx)
	if err != nil {
		return nil, err
	}
	d := &dumpedState{Newest: []dumpedSegment{}, Snapshots: []dumpedSnapshot{}}
	for _, o := range all.Objects {
		if !o.Snapshot {
			d.Segments++
			continue
		}
		s := dumpedSnapshot{Key: o.Key, Seq: o.Head.Seq, Bytes: o.Size}
		info, err := l.Info(ctx, o.Head)
		if err != nil {
			s.Error = err.Error()
		} else {
			s.Term, s.Keys, s.AgeMs = uint64(info.Term), info.Keys, ageOf(time.UnixMilli(info.WallMs), now)
		}
		d.Snapshots = append(d.Snapshots, s)
	}
	for h := c.Register.Value.Head; h.Rand != "" && len(d.Newest) < dumpSegments; {
		g, err := l.Segment(ctx, h)
		if err != nil {
			d.Error = err.Error()
			break
		}
		s := dumpedSegment{
			Key: journal.SegmentKey(h), Term: uint64(g.Term), Seq: h.Seq, Txns: len(g.Txns), Bytes: g.Size,
			Clean: g.Clean, AgeMs: ageOf(time.UnixMilli(g.WallMs), now),
		}
		for _, t := range g.Txns {
			s.Changes += len(t)
		}
		if g.Snapshot.Rand != "" {
			s.Snapshot = journal.SnapshotKey(g.Snapshot)
		}
		d.Newest = append(d.Newest, s)
		if g.Snapshot.Rand != "" && g.Snapshot.Seq >= g.Pred.Seq {
			break // what is older may have been removed
		}
		h = g.Pred
	}
	return d, nil
}

func (d *dumpedState) draw(s *screen) {
	if d == nil {
		return
	}
	s.printf("\nstate: %d segments, %d snapshots\n", d.Segments, len(d.Snapshots))
	rows := [][]cell{plainCells("OBJECT", "TERM", "SEQ", "HOLDS", "BYTES", "AGE")}
	number := func(n uint64) string { return strconv.FormatUint(n, 10) }
	for _, g := range d.Newest {
		holds := fmt.Sprintf("%d changes", g.Changes)
		if g.Clean {
			holds += ", begins anew"
		}
		rows = append(rows, plainCells(strings.TrimPrefix(g.Key, "state/"), number(g.Term), number(g.Seq), holds, strconv.FormatInt(g.Bytes, 10), age(g.AgeMs)))
	}
	for _, x := range d.Snapshots {
		holds := number(x.Keys) + " keys"
		if x.Error != "" {
			holds = "can not be read: " + oneLine(x.Error)
		}
		rows = append(rows, plainCells(strings.TrimPrefix(x.Key, "state/"), number(x.Term), number(x.Seq), holds, strconv.FormatInt(x.Bytes, 10), age(x.AgeMs)))
	}
	s.table(rows)
	if d.Error != "" {
		s.printf("state: the chain ends: %s\n", printable(oneLine(d.Error)))
	}
}
