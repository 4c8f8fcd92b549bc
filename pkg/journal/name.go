package journal

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/understudy-ha/understudy/pkg/lease"
)

// Where the objects of the persisted state lie in a store.
const (
	LogPrefix      = "state/log/"
	SnapshotPrefix = "state/snapshot/"
)

// maxSeq is the largest sequence number that a head can carry (48 bits).
const maxSeq = 1<<48 - 1

// SegmentKey is the key of a segment's object.
func SegmentKey(h lease.Head) string { return LogPrefix + name(h) }

// SnapshotKey is the key of a snapshot's object.
func SnapshotKey(h lease.Head) string { return SnapshotPrefix + name(h) }

func name(h lease.Head) string { return fmt.Sprintf("%012x-%s", h.Seq, h.Rand) }

// ParseKey reads the key of a segment or a snapshot. ok is false for anything
// else.
func ParseKey(key string) (h lease.Head, snapshot, ok bool) {
	rest, isLog := strings.CutPrefix(key, LogPrefix)
	if !isLog {
		if rest, snapshot = strings.CutPrefix(key, SnapshotPrefix); !snapshot {
			return lease.Head{}, false, false
		}
	}
	digits, random, _ := strings.Cut(rest, "-")
	n, err := strconv.ParseUint(digits, 16, 48)
	if err != nil || len(digits) != 12 || strings.ToLower(digits) != digits || !isRandom(random) {
		return lease.Head{}, false, false
	}
	return lease.Head{Seq: n, Rand: random}, snapshot, true
}

// isRandom reports whether s can be the random part of a name.
func isRandom(s string) bool {
	return len(s) == lease.HeadRandLen && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789") == ""
}
