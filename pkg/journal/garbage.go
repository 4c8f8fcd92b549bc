package journal

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// MaxKept is how many segments the retention may keep that nobody needs any
// more. Age only delays; this bounds by how much.
const MaxKept = 16384

// Garbage returns those of the listed keys that nobody needs who begins with
// keep or anything newer, where keep is a snapshot that a segment of the chain
// refers to. Objects of other kinds are never in it.
//
// They may be deleted only after a compare-and-swap of the register that was
// sent after the list was complete has succeeded: a master that slept through a
// change of reign then deletes nothing.
func Garbage(listed []string, keep lease.Head) []string {
	if keep.Rand == "" {
		return nil
	}
	var out []string
	for _, key := range listed {
		h, snapshot, ok := ParseKey(key)
		if ok && h.Seq <= keep.Seq && (!snapshot || h != keep) {
			out = append(out, key)
		}
	}
	return out
}

// Lister lists what collection may delete, and finds out how far it may go.
type Lister struct {
	Loader
	ages map[lease.Head]SnapshotInfo // of snapshots; they never change
}

// List returns the keys of all segments and snapshots below seq, in the order
// of their numbers.
func (l *Lister) List(ctx context.Context, seq uint64) ([]string, error) {
	var keys []string
	for _, prefix := range []string{LogPrefix, SnapshotPrefix} {
		err := l.list(ctx, "", prefix, func(it persistence.Item) bool {
			h, _, ok := ParseKey(it.Key)
			if ok && h.Seq <= seq {
				keys = append(keys, it.Key)
			}
			return !ok || h.Seq <= seq
		})
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", prefix, err)
		}
	}
	return keys, nil
}

// Keep returns the newest snapshot of the chain, from newest on back, that is
// older than the retention, by the wall clocks of their writers; its Rand is
// empty if there is none. Such a clock can only delay what is safe anyway.
func (l *Lister) Keep(ctx context.Context, newest lease.Head, now time.Time, retention time.Duration) (lease.Head, error) {
	limit := now.Add(-retention).UnixMilli()
	seen := map[lease.Head]SnapshotInfo{}
	defer func() { l.ages = seen }()
	for h := newest; h.Rand != ""; {
		info, known := l.ages[h]
		if !known {
			var err error
			info, err = l.Info(ctx, h)
			if errors.Is(err, persistence.Absent) {
				return lease.Head{}, nil // collected before: nothing older is left to keep
			}
			if err != nil {
				return lease.Head{}, fmt.Errorf("read %s: %w", SnapshotKey(h), err)
			}
		}
		seen[h] = info
		if info.WallMs <= limit {
			return h, nil
		}
		if info.Previous.Seq >= h.Seq {
			break
		}
		h = info.Previous
	}
	return lease.Head{}, nil
}
