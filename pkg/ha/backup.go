package ha

import (
	"context"
	"errors"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/pkg/journal"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// Backups says which states are put by when a reign begins or ends, for people
// who want one of them back. They lie beside the chain (journal.Backup): no
// node ever reads them, so nothing depends on one having been made.
type Backups struct {
	Promotion bool // put by the state that a reign begins with
	Demotion  bool // and the one that it ends with
	// Keep is how many the plane keeps; whoever makes one removes the oldest
	// beyond that. 0: none are made.
	Keep int
}

// backupGrace is how long a node that stops may take for what it puts by last.
// Its term is released before.
const backupGrace = 5 * time.Second

// promoted puts by what a reign begins with.
func (k *keeper) promoted(s *journal.State, term lease.Term) {
	if k.opts.Backups.Promotion {
		k.putBy(k.base, s, term, journal.OnPromotion)
	}
}

// demoted puts by what a reign that is over has left, once.
func (k *keeper) demoted(h *held) {
	if h == nil || h.term == 0 || h.term == k.left {
		return
	}
	k.left = h.term
	if !k.opts.Backups.Demotion {
		return
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(k.base))
	context.AfterFunc(k.base, func() { time.AfterFunc(backupGrace, cancel) })
	k.putBy(ctx, h.state, h.term, journal.OnDemotion)
}

// putBy makes a backup beside everything else: no promotion waits for it, and
// none fails by it. An empty state is not worth one, nor is a state that has
// one already, so that a plane whose mastership moves to and fro does not push
// out what is old and valuable.
func (k *keeper) putBy(ctx context.Context, s *journal.State, term lease.Term, occasion string) {
	if k.opts.Backups.Keep <= 0 || s.Head.Rand == "" {
		return
	}
	l := k.loader()
	b := journal.Backup{Made: time.Now(), Node: k.n.opts.Node, Occasion: occasion, Head: s.Head}
	k.beside.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, snapshotLimit)
		defer cancel()
		made, err := k.makeBackup(ctx, l, b, s)
		switch {
		case err != nil && k.base.Err() != nil && occasion == journal.OnPromotion:
		case err != nil:
			why := err.Error()
			k.backupsFailed.Add(1)
			k.backupTrouble.Store(&why)
			k.n.log.Warn("a backup of the persisted state could not be made; nothing else is affected, and the next reign tries again",
				zap.String("backup", b.Name()), zap.Uint64("term", uint64(term)), zap.Error(err))
		default:
			k.backupTrouble.Store(nil)
			if made {
				k.backups.Add(1)
				k.n.log.Info("backup of the persisted state", zap.String("backup", b.Name()), zap.Uint64("term", uint64(term)), zap.Int("keys", s.Len()))
			}
		}
	})
}

// makeBackup stores a backup, unless there is one of the same state, and
// removes those that are too many.
func (k *keeper) makeBackup(ctx context.Context, l *journal.Loader, b journal.Backup, s *journal.State) (bool, error) {
	have, err := l.Backups(ctx)
	if err != nil {
		return false, err
	}
	same := slices.ContainsFunc(have, func(o journal.Backup) bool { return o.Head == b.Head })
	if !same {
		r := journal.SnapshotReader(s, journal.SnapshotInfo{
			Plane: l.Plane, Term: s.Term, Head: b.Head, Segment: s.Head, Previous: s.Snapshot, WallMs: b.Made.UnixMilli(),
		})
		if err := errors.Join(k.n.store.Put(ctx, b.Key(), r, -1), r.Close()); err != nil {
			return false, err
		}
		have = append(have, b)
	}
	// By name, as people see them: a clock that is wrong makes no exception.
	slices.SortFunc(have, journal.Backup.Compare)
	for _, old := range have[:max(len(have)-k.opts.Backups.Keep, 0)] {
		err := bounded(ctx, max(k.n.opts.Timing.Operation, minRead), func(ctx context.Context) error { return k.n.store.Delete(ctx, old.Key()) })
		if err != nil && !errors.Is(err, persistence.Absent) {
			return !same, err
		}
	}
	return !same, nil
}
