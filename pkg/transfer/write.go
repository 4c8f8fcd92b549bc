package transfer

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/pkg/artifact"
	"github.com/understudy-ha/understudy/pkg/journal"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// Progress is told what is being done, and how many of its bytes are. May be
// nil.
type Progress func(step string, done, total int64)

// Target is where content is written to: a location whose register somebody
// holds, in a term of his own.
type Target struct {
	Store persistence.Objects
	Files persistence.Objects // for artifacts
	Plane lease.PlaneID
	Term  lease.Term
	Old   lease.Head    // the newest segment there; sequence numbers go on above it
	Limit time.Duration // of each request, and for how long nothing may move
	Now   func() time.Time
	Told  Progress
}

// Write stores c and reads it back, and returns the segment that the register
// has to name for it to count. Until then nobody sees any of it; what is there
// becomes garbage if that never happens. Keys keep their versions. An error
// that wraps ErrDiffers says that what was read back is not what was written.
func (t Target) Write(ctx context.Context, c *Content) (lease.Head, error) {
	moved, err := t.artifacts(ctx, c)
	if err != nil {
		return lease.Head{}, err
	}
	head, err := t.state(ctx, c, moved)
	if err != nil {
		return lease.Head{}, err
	}
	return head, t.verify(ctx, c, head)
}

// ErrDiffers says that a copy is not what was copied.
var ErrDiffers = errors.New("the copy differs from what was copied")

// artifacts copies the bytes and returns the entries that name the copies.
func (t Target) artifacts(ctx context.Context, c *Content) ([]artifact.Entry, error) {
	into := &entries{}
	lib := artifact.New(t.Files, into, artifact.Options{Stall: t.Limit, Now: t.Now})
	for i, e := range c.Artifacts {
		rc, err := c.Open(ctx, e, 0)
		if err != nil {
			return nil, err
		}
		step := fmt.Sprintf("artifact %s (%d of %d)", e.Name, i+1, len(c.Artifacts))
		_, err = lib.Push(ctx, e.Name, artifact.Reign{Plane: t.Plane, Term: t.Term}, artifact.Content{
			R: t.told(step, rc, e.Size), Digest: e.Digest, Size: e.Size,
		})
		if err = errors.Join(err, rc.Close()); err != nil {
			return nil, err
		}
		into.last().Pushed = e.Pushed // it is not newer for being moved
	}
	return into.all, nil
}

// state stores the keys as a snapshot, and the entries of the artifacts in a
// segment that follows it.
func (t Target) state(ctx context.Context, c *Content, moved []artifact.Entry) (lease.Head, error) {
	now := t.Now().UnixMilli()
	seq := max(c.State.Seq(), t.Old.Seq)
	// No segment has the name that the snapshot was made after: nobody reads
	// further back than the snapshot.
	snapshot, before := name(seq), name(seq)
	r := journal.SnapshotReader(c.State, journal.SnapshotInfo{
		Plane: t.Plane, Term: t.Term, Head: snapshot, Segment: before, WallMs: now,
	})
	size := c.State.Bytes()
	err := t.put(ctx, journal.SnapshotKey(snapshot), t.told("keys", r, size), -1)
	if err = errors.Join(err, r.Close()); err != nil {
		return lease.Head{}, err
	}
	txns := [][]journal.Change{nil}
	for _, e := range moved {
		change, err := e.Change()
		if err != nil {
			return lease.Head{}, err
		}
		if last := len(txns) - 1; len(txns[last]) < journal.MaxChanges {
			txns[last] = append(txns[last], change)
		} else {
			txns = append(txns, []journal.Change{change})
		}
	}
	g := &journal.Segment{
		Plane: t.Plane, Term: t.Term, Head: name(seq + uint64(len(txns))), Pred: before, Snapshot: snapshot, WallMs: now, Txns: txns,
	}
	b := g.Encode()
	return g.Head, t.put(ctx, journal.SegmentKey(g.Head), bytes.NewReader(b), int64(len(b)))
}

// put stores an object; it has time as long as it moves.
func (t Target) put(ctx context.Context, key string, r io.Reader, size int64) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	quiet := time.AfterFunc(t.Limit, cancel)
	defer quiet.Stop()
	err := t.Store.Put(ctx, key, beating{r, func() { quiet.Reset(t.Limit) }}, size)
	if err != nil {
		return fmt.Errorf("store %s: %w", key, err)
	}
	return nil
}

// verify reads everything back.
func (t Target) verify(ctx context.Context, c *Content, head lease.Head) error {
	loader := journal.Loader{Objects: t.Store, Plane: t.Plane, Limit: t.Limit}
	got, err := loader.Load(ctx, head, nil)
	if err != nil {
		return fmt.Errorf("read the copy back: %w", err)
	}
	found, err := artifact.Entries(got.State)
	if err != nil {
		return fmt.Errorf("read the copy back: %w", err)
	}
	back := &Content{State: got.State, Artifacts: found}
	if a, b := c.Digest(), back.Digest(); a != b {
		return fmt.Errorf("%w: %s was copied, %s is there", ErrDiffers, a, b)
	}
	lib := artifact.New(t.Files, artifact.StateIndex{}, artifact.Options{Stall: t.Limit})
	for i, e := range found {
		step := fmt.Sprintf("verifying artifact %s (%d of %d)", e.Name, i+1, len(found))
		rc, err := lib.Open(ctx, e, 0)
		if err != nil {
			return fmt.Errorf("read the copy back: %w", err)
		}
		_, err = io.Copy(io.Discard, artifact.Verify(t.told(step, rc, e.Size), e.Digest, e.Size))
		if err = errors.Join(err, rc.Close()); err != nil {
			return fmt.Errorf("%w: artifact %s: %w", ErrDiffers, e.Name, err)
		}
	}
	return nil
}

// told tells of what is read.
func (t Target) told(step string, r io.Reader, total int64) io.Reader {
	if t.Told == nil {
		return r
	}
	done := int64(0)
	t.Told(step, 0, total)
	return io.TeeReader(r, writerFunc(func(p []byte) (int, error) {
		done += int64(len(p))
		t.Told(step, done, total)
		return len(p), nil
	}))
}

type writerFunc func(p []byte) (int, error)

// Write implements io.Writer.
func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

type beating struct {
	r    io.Reader
	beat func()
}

// Read implements io.Reader.
func (b beating) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	b.beat()
	return n, err
}

// name draws the name of a segment or snapshot.
func name(seq uint64) lease.Head {
	return lease.Head{Seq: seq, Rand: strings.ToLower(rand.Text()[:lease.HeadRandLen])}
}

// entries is an index that only takes note.
type entries struct{ all []artifact.Entry }

func (x *entries) last() *artifact.Entry { return &x.all[len(x.all)-1] }

func (x *entries) Get(context.Context, string) (artifact.Entry, error) {
	return artifact.Entry{}, artifact.ErrNone
}

func (x *entries) List(context.Context) ([]artifact.Entry, error) { return x.all, nil }

func (x *entries) Set(_ context.Context, e artifact.Entry) error {
	x.all = append(x.all, e)
	return nil
}

func (x *entries) Delete(context.Context, string) error { return artifact.ErrReadOnly }
