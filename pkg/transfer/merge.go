package transfer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/pkg/artifact"
	"github.com/understudy-ha/understudy/pkg/journal"
)

// Live is a plane that runs, as its master changes it.
type Live struct {
	// Picture is the state as it is now.
	Picture func() (*journal.State, error)
	// Txn commits changes, those of Understudy's own keys too. It fails where
	// this node is not the master. An error that wraps artifact.ErrUndecided
	// leaves the outcome open.
	Txn   func(ctx context.Context, t journal.Txn) error
	Files persistence.Objects // for artifacts
	In    artifact.Reign
	Limit time.Duration // for how long nothing may move
}

// Merged says what became of each key and artifact of a content.
type Merged struct {
	Written   int // keys
	Artifacts int // pushed
	Same      int // keys and artifacts that were so already
	Kept      int // keys and artifacts that somebody changed meanwhile: theirs stay
}

// Merge brings content into a plane that runs. What the content does not name
// stays; what it names becomes as it is there, unless somebody changed it after
// Merge began: whatever is written while it runs is the later, and stays. Keys
// get new versions. Artifacts come first, for keys may speak of them. It is
// many transactions: an error says how far it came, and doing it again goes on.
//
// Errors: ErrArchive, found before anything was changed; those of Txn and of
// artifact.Library.Push.
func (l Live) Merge(ctx context.Context, c *Content) (Merged, error) {
	var m Merged
	// Nothing is to be changed by half of an archive.
	if err := c.Verify(ctx); err != nil {
		return m, err
	}
	began, err := l.Picture()
	if err != nil {
		return m, err
	}
	for _, e := range c.Artifacts {
		if err = l.artifact(ctx, began, c, e, &m); err != nil {
			break
		}
	}
	if err == nil {
		err = l.keys(ctx, began, c.State, &m)
	}
	if err != nil {
		return m, fmt.Errorf("%d artifacts and %d keys were imported, then: %w; import it again to go on", m.Artifacts, m.Written, err)
	}
	return m, nil
}

// Verify reads all artifacts and compares them with their digests. ErrArchive:
// one is not what it should be.
func (c *Content) Verify(ctx context.Context) error {
	for _, e := range c.Artifacts {
		rc, err := c.Open(ctx, e, 0)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, artifact.Verify(ending{ctx, rc}, e.Digest, e.Size))
		if err = errors.Join(err, rc.Close()); err != nil {
			return hostile("artifact %s: %v", e.Name, err)
		}
	}
	return nil
}

// ending is a reader that ends with a context.
type ending struct {
	ctx context.Context //nolint:containedctx // lives for one copy
	io.Reader
}

// Read implements io.Reader.
func (e ending) Read(p []byte) (int, error) {
	if err := e.ctx.Err(); err != nil {
		return 0, err
	}
	return e.Reader.Read(p)
}

// artifact pushes one, if its name means other content, and still what it meant
// when this began.
func (l Live) artifact(ctx context.Context, began *journal.State, c *Content, e artifact.Entry, m *Merged) error {
	key := artifact.KeyPrefix + e.Name
	seen, _ := began.Get(key)
	var have artifact.Entry
	if json.Unmarshal(seen.Value, &have) == nil && have.Digest == e.Digest {
		m.Same++
		return nil
	}
	rc, err := c.Open(ctx, e, 0)
	if err != nil {
		return err
	}
	index := artifact.StateIndex{
		Read: func() (artifact.View, error) { return l.Picture() },
		Write: func(ctx context.Context, t journal.Txn) error {
			t.If = append(t.If, journal.Condition{Key: key, Version: seen.Version})
			return l.Txn(ctx, t)
		},
	}
	lib := artifact.New(l.Files, index, artifact.Options{Stall: l.Limit})
	_, err = lib.Push(ctx, e.Name, l.In, artifact.Content{R: rc, Digest: e.Digest, Size: e.Size})
	var conflict *journal.ConflictError
	if errors.As(err, &conflict) {
		err = nil
		m.Kept++
	} else if err == nil {
		m.Artifacts++
	}
	return errors.Join(err, rc.Close())
}

// mergeBytes is about how much one transaction carries.
const mergeBytes = journal.MaxTxn / 2

func (l Live) keys(ctx context.Context, began, content *journal.State, m *Merged) error {
	var t journal.Txn
	for e := range content.List("", "") {
		seen, ok := began.Get(e.Key)
		switch {
		case strings.HasPrefix(e.Key, artifact.KeyPrefix):
			continue
		case ok && string(seen.Value) == string(e.Value):
			m.Same++
			continue
		}
		t.If = append(t.If, journal.Condition{Key: e.Key, Version: seen.Version})
		t.Changes = append(t.Changes, journal.Change{Key: e.Key, Value: e.Value})
		if len(t.Changes) == journal.MaxChanges || t.Size() >= mergeBytes {
			if err := l.commit(ctx, t, m); err != nil {
				return err
			}
			t = journal.Txn{}
		}
	}
	return l.commit(ctx, t, m)
}

// commit makes a transaction without those keys that somebody has changed.
func (l Live) commit(ctx context.Context, t journal.Txn, m *Merged) error {
	for len(t.Changes) > 0 {
		err := l.Txn(ctx, t)
		var conflict *journal.ConflictError
		if !errors.As(err, &conflict) {
			if err == nil {
				m.Written += len(t.Changes)
			}
			return err
		}
		t, m.Kept = without(t, conflict.Key), m.Kept+1
	}
	return nil
}

func without(t journal.Txn, key string) journal.Txn {
	var out journal.Txn
	for i, c := range t.Changes {
		if c.Key != key {
			out.If, out.Changes = append(out.If, t.If[i]), append(out.Changes, c)
		}
	}
	return out
}
