package journal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// BackupPrefix is where backups lie: whole states, kept for people. No reader
// of the chain looks there, and no collection.
const BackupPrefix = "backups/"

// The occasions of a backup.
const (
	OnPromotion = "promotion" // as the reign found it
	OnDemotion  = "demotion"  // as the reign left it
)

// Backup names a backup: backups/<time>-<node>-<occasion>/<state>. Its object
// is a snapshot of the state whose name is Head.
type Backup struct {
	Made     time.Time // by the wall clock of the node, to the second
	Node     lease.NodeID
	Occasion string
	Head     lease.Head // number of its last transaction, and the segment of that
}

// backupTime is how a backup's name says when: names sort by it.
const backupTime = "20060102T150405Z"

// Name is what people call it by.
func (b Backup) Name() string {
	return b.Made.UTC().Format(backupTime) + "-" + string(b.Node) + "-" + b.Occasion
}

// Key is the key of its object.
func (b Backup) Key() string { return BackupPrefix + b.Name() + "/" + name(b.Head) }

// Compare orders backups as their names do, the oldest first.
func (b Backup) Compare(other Backup) int { return strings.Compare(b.Key(), other.Key()) }

// ParseBackupKey reads the key of a backup. ok is false for anything else.
func ParseBackupKey(key string) (b Backup, ok bool) {
	rest, found := strings.CutPrefix(key, BackupPrefix)
	dir, state, nested := strings.Cut(rest, "/")
	words := strings.Split(dir, "-")
	if !found || !nested || len(words) != 3 {
		return b, false
	}
	made, terr := time.Parse(backupTime, words[0])
	node, nerr := lease.ParseNodeID(words[1])
	head, _, isName := ParseKey(SnapshotPrefix + state)
	b = Backup{Made: made, Node: node, Occasion: words[2], Head: head}
	known := b.Occasion == OnPromotion || b.Occasion == OnDemotion
	return b, terr == nil && nerr == nil && isName && known
}

// Backups lists the backups there are, the oldest first.
func (l *Loader) Backups(ctx context.Context) ([]Backup, error) {
	var out []Backup
	err := l.list(ctx, "", BackupPrefix, func(it persistence.Item) bool {
		if b, ok := ParseBackupKey(it.Key); ok {
			out = append(out, b)
		}
		return true
	})
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", BackupPrefix, err)
	}
	return out, nil
}

// Backup reads a backup, of whichever plane. A *DamageError says what is wrong
// with it.
func (l *Loader) Backup(ctx context.Context, b Backup) (*State, SnapshotInfo, error) {
	var s *State
	var info SnapshotInfo
	err := l.get(ctx, b.Key(), func(r io.Reader) (err error) {
		s, info, err = DecodeSnapshot(r)
		return err
	})
	var read readError
	switch {
	case errors.As(err, &read) || isStore(err):
		return nil, info, missing(b.Key(), err)
	case err == nil && info.Head != b.Head:
		err = fmt.Errorf("it holds state %s", name(info.Head))
	}
	if err != nil {
		return nil, info, &DamageError{[]Damage{{Object: b.Key(), What: err.Error()}}}
	}
	return s, info, nil
}
