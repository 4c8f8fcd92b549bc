package ha

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/pkg/journal"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// How much log makes a snapshot worth its while: what a promotion reads is at
// most about half as much again as the state itself, and a state is written
// anew only after as much has changed.
const (
	snapshotSegments = 1024
	snapshotBytes    = 4 << 20
)

// snapshotLimit bounds the writing of one snapshot.
const snapshotLimit = 15 * time.Minute

// due reports whether it is time for a snapshot after s.
func (p *Persist) due(s *journal.State) bool {
	segments, limit := int64(snapshotSegments), max(snapshotBytes, s.Bytes()/2)
	segments = max(segments, s.Bytes()>>16)
	if p.SnapshotSegments > 0 {
		segments = int64(p.SnapshotSegments)
	}
	if p.SnapshotBytes > 0 {
		limit = p.SnapshotBytes
	}
	return int64(s.Segments) >= segments || s.LogBytes >= limit
}

// maySnapshot begins a snapshot of s if it is time. It is made beside the
// commits, which go on; the first of them after it is stored names it.
func (k *keeper) maySnapshot(s *journal.State) {
	k.mu.Lock()
	begin := !k.making && k.ready.Rand == "" && k.reign != 0 && k.opts.due(s)
	k.making = k.making || begin
	plane, term := k.plane, k.reign
	k.mu.Unlock()
	if !begin {
		return
	}
	k.beside.Go(func() {
		ctx, cancel := context.WithTimeout(k.base, snapshotLimit)
		defer cancel()
		head, err := k.putSnapshot(ctx, s, plane)
		k.mu.Lock()
		k.making = false
		if err == nil && k.reign == term { // of another reign it would not be in the chain for sure
			k.ready = head
			k.snapped.Store(s)
		}
		k.mu.Unlock()
		if k.opts.without == withoutChain && err == nil {
			unchained := *s
			unchained.Previous = head
			k.collect(&unchained)
		}
		if err != nil && ctx.Err() == nil {
			k.n.log.Warn("a snapshot of the persisted state could not be written; the log is kept, and it is tried again", zap.Error(err))
			return
		}
		k.wake()
	})
}

func (k *keeper) putSnapshot(ctx context.Context, s *journal.State, plane lease.PlaneID) (lease.Head, error) {
	head := lease.Head{Seq: s.Seq(), Rand: newRandom()}
	r := journal.SnapshotReader(s, journal.SnapshotInfo{
		Plane: plane, Term: s.Term, Head: head, Segment: s.Head, Previous: s.Snapshot, WallMs: time.Now().UnixMilli(),
	})
	return head, errors.Join(k.n.store.Put(ctx, journal.SnapshotKey(head), r, -1), r.Close())
}

// collect removes what nobody needs who begins with the snapshot before the
// newest, or later: list, then a renewal that succeeded, then delete. It runs
// beside the commits.
func (k *keeper) collect(s *journal.State) {
	k.mu.Lock()
	term, begin := k.reign, k.reign != 0 && !k.collecting && s.Previous.Rand != ""
	k.collecting = k.collecting || begin
	k.mu.Unlock()
	if !begin {
		return
	}
	k.beside.Go(func() {
		var err error
		for more := true; more && err == nil; {
			err = k.collectBelow(k.base, s, term)
			k.mu.Lock()
			h := k.held.Load()
			more = err == nil && h != nil && h.term == term && k.reign == term && h.state.Previous != s.Previous
			if k.collecting = more; more {
				s = h.state // the chain has gone on meanwhile
			}
			k.mu.Unlock()
		}
		if err != nil && k.base.Err() == nil {
			k.n.log.Warn("old segments of the persisted state could not be removed; it is tried again after the next snapshot", zap.Error(err))
		}
	})
}

func (k *keeper) collectBelow(ctx context.Context, s *journal.State, term lease.Term) error {
	k.lister.Loader = *k.loader()
	listed, err := k.lister.List(ctx, s.Previous.Seq)
	if err != nil {
		return err
	}
	keep, err := k.lister.Keep(ctx, s.Previous, time.Now(), k.opts.Retention)
	if err != nil {
		return err
	}
	if len(listed) > journal.MaxKept {
		keep = s.Previous
	}
	garbage := journal.Garbage(listed, keep)
	if len(garbage) == 0 || !k.renewed(ctx, term, k.n.Now()) {
		return nil
	}
	for _, key := range garbage {
		err := bounded(ctx, max(k.n.opts.Timing.Operation, minRead), func(ctx context.Context) error { return k.n.store.Delete(ctx, key) })
		if err != nil && !errors.Is(err, persistence.Absent) {
			return err
		}
	}
	k.n.log.Debug("removed what nobody needs of the persisted state", zap.Int("objects", len(garbage)), zap.Uint64("below", keep.Seq))
	return nil
}

// renewed waits for a renewal of the term that was sent after an instant and
// has succeeded. It returns false if the reign ends first: then nothing may be
// deleted.
func (k *keeper) renewed(ctx context.Context, term lease.Term, after lease.Instant) bool {
	err := k.n.until(ctx, func(s *Status) bool {
		return s.Reign == nil || s.Reign.Term != term || !s.Reign.Leading || s.Reign.T0.Shortest(after) > 0
	})
	s := k.n.Status()
	return err == nil && s.Reign != nil && s.Reign.Term == term && s.Reign.Leading && s.Reign.T0.Shortest(after) > 0
}
