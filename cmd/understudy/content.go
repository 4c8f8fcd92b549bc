package main

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/understudy-ha/understudy/api/server"
	"github.com/understudy-ha/understudy/api/v1"
	"github.com/understudy-ha/understudy/pkg/artifact"
	"github.com/understudy-ha/understudy/pkg/journal"
	"github.com/understudy-ha/understudy/pkg/transfer"
)

var _ server.Content = (*artifacts)(nil)

// Export implements server.Content.
func (a *artifacts) Export() (func(context.Context, io.Writer) error, error) {
	p, err := a.node.Persisted().Picture()
	if err != nil {
		return nil, err
	}
	entries, err := artifact.Entries(p.State())
	if err != nil {
		return nil, err
	}
	s := a.node.Status()
	c := &transfer.Content{Plane: s.Plane, Term: s.Term, State: p.State(), Artifacts: entries, Open: a.Library.Open}
	return func(ctx context.Context, w io.Writer) error { return c.WriteArchive(ctx, w, time.Now()) }, nil
}

// Import implements server.Content. The archive is put by in the cache's
// directory: what is in it is known only once it is whole.
func (a *artifacts) Import(ctx context.Context, archive io.Reader) (v1.Imported, error) {
	in, err := a.reign()
	if err != nil {
		return v1.Imported{}, err
	}
	f, size, err := a.Cache.PutBy(ctx, archive)
	if err != nil {
		return v1.Imported{}, err
	}
	defer f.Close() // it has no name any more
	c, err := transfer.ReadArchive(f, size)
	if err != nil {
		return v1.Imported{}, archiveRefusal(err)
	}
	m, err := transfer.Live{
		Picture: func() (*journal.State, error) {
			p, err := a.node.Persisted().Picture()
			if err != nil {
				return nil, err
			}
			return p.State(), nil
		},
		Txn: a.write, Files: a.store, In: in,
	}.Merge(ctx, c)
	done := v1.Imported{Keys: m.Written, Artifacts: m.Artifacts, Same: m.Same, Kept: m.Kept, SHA256: c.Digest()}
	return done, archiveRefusal(err)
}

func archiveRefusal(err error) error {
	if errors.Is(err, transfer.ErrArchive) {
		return &server.ArchiveError{Err: err}
	}
	return err
}
