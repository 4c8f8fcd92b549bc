package transfer

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"
	"time"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/pkg/artifact"
	"github.com/understudy-ha/understudy/pkg/journal"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// Content is what a plane persists: keys and artifacts.
type Content struct {
	Plane     lease.PlaneID
	Term      lease.Term // the highest that the register has seen
	State     *journal.State
	Artifacts []artifact.Entry
	// Damages were met while reading and could be done without.
	Damages []journal.Damage
	// Open returns the bytes of an artifact from an offset on, not verified.
	Open func(ctx context.Context, e artifact.Entry, offset int64) (io.ReadCloser, error)
}

// Read reads what a plane persists from its store, and changes nothing. files
// is where its artifacts lie. limit bounds each request, and the time in which
// an object brings nothing. Errors: Absent when there is no plane,
// *journal.DamageError, the store's.
func Read(ctx context.Context, store persistence.Store, files persistence.Objects, limit time.Duration) (*Content, error) {
	snap, err := bounded(ctx, limit, store.Read)
	if err != nil {
		return nil, fmt.Errorf("read the register: %w", err)
	}
	v, err := lease.ParseValue(snap.Value)
	if err != nil {
		return nil, fmt.Errorf("read the register: %w", err)
	}
	loader := journal.Loader{Objects: store, Plane: v.Plane, Limit: limit}
	got, err := loader.Load(ctx, v.Head, nil)
	if err != nil {
		return nil, err
	}
	entries, err := artifact.Entries(got.State)
	if err != nil {
		return nil, err
	}
	lib := artifact.New(files, artifact.StateIndex{Read: func() (artifact.View, error) { return got.State, nil }}, artifact.Options{Stall: limit})
	return &Content{
		Plane: v.Plane, Term: v.Term, State: got.State, Artifacts: entries, Damages: got.Damages, Open: lib.Open,
	}, nil
}

// ReadBackup reads a backup (journal.Backup) of the plane whose store it lies
// in, and changes nothing. A backup holds the keys and what the names of
// artifacts meant; what of that has been removed since is lost, and not in the
// content. Errors are those of Read.
func ReadBackup(ctx context.Context, store persistence.Store, files persistence.Objects, b journal.Backup, limit time.Duration) (c *Content, lost []artifact.Entry, err error) {
	loader := journal.Loader{Objects: store, Limit: limit}
	state, info, err := loader.Backup(ctx, b)
	if err != nil {
		return nil, nil, err
	}
	entries, err := artifact.Entries(state)
	if err != nil {
		return nil, nil, err
	}
	lib := artifact.New(files, artifact.StateIndex{Read: func() (artifact.View, error) { return state, nil }}, artifact.Options{Stall: limit})
	var kept []artifact.Entry
	for _, e := range entries {
		rc, err := lib.Open(ctx, e, 0)
		switch {
		case errors.Is(err, persistence.Absent):
			lost = append(lost, e)
			continue
		case err != nil:
			return nil, nil, err
		}
		_ = rc.Close() // nothing was read
		kept = append(kept, e)
	}
	var keys []journal.Entry
	for e := range state.List("", "") {
		if !strings.HasPrefix(e.Key, artifact.KeyPrefix) {
			keys = append(keys, e)
		}
	}
	c = &Content{Plane: info.Plane, Term: info.Term, State: journal.FromEntries(state.Head, info.Term, keys), Artifacts: kept, Open: lib.Open}
	// Terms only go on: the plane's own, which it had long after the backup.
	if snap, err := bounded(ctx, limit, store.Read); err == nil {
		if v, err := lease.ParseValue(snap.Value); err == nil {
			c.Term = max(c.Term, v.Term)
		}
	}
	return c, lost, nil
}

func bounded[T any](ctx context.Context, limit time.Duration, f func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return f(ctx)
}

// Keys is the number of keys, without those that are Understudy's own.
func (c *Content) Keys() int {
	n := c.State.Len()
	for range c.State.List(artifact.KeyPrefix, "") {
		n--
	}
	return n
}

// digestMagic begins what is hashed; another way of hashing begins otherwise.
const digestMagic = "understudy content 1\n"

// Digest is one SHA-256 over all of the content: each key with its version and
// value, each artifact with name, digest and size. Two planes with the same
// digest persist the same, wherever they keep it.
func (c *Content) Digest() string {
	h := sha256.New()
	io.WriteString(h, digestMagic) //nolint:errcheck // a hash takes everything
	for e := range c.State.List("", "") {
		if strings.HasPrefix(e.Key, artifact.KeyPrefix) {
			continue // these name objects, which every place names anew
		}
		field(h, e.Key)
		number(h, e.Version)
		field(h, string(e.Value))
	}
	number(h, 0) // no key is empty, nor has version 0
	for _, e := range c.Artifacts {
		field(h, e.Name)
		field(h, string(e.Digest))
		number(h, uint64(e.Size)) //nolint:gosec // checked when it was read
	}
	return hex.EncodeToString(h.Sum(nil))
}

func field(h hash.Hash, s string) {
	number(h, uint64(len(s)))
	io.WriteString(h, s) //nolint:errcheck // a hash takes everything
}

func number(h hash.Hash, n uint64) {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], n)
	h.Write(b[:])
}
