package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/persistence/posix"
	"github.com/understudy-ha/understudy/test/nfs/wire"
)

// Stores lets the lab use posix stores through this machine's mounts.
type Stores struct {
	mu   sync.Mutex
	last int
	open map[int]persistence.Store
}

func newStores() *Stores { return &Stores{open: map[int]persistence.Store{}} }

func (s *Stores) keep(store persistence.Store, res *wire.StoreResult) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last++
	s.open[s.last] = store
	res.Handle, res.Limits = s.last, store.Limits()
}

// with does one operation on the store of a handle.
func (s *Stores) with(c wire.StoreCall, res *wire.StoreResult, f func(context.Context, persistence.Store) error) error {
	s.mu.Lock()
	store := s.open[c.Handle]
	s.mu.Unlock()
	if store == nil {
		return fmt.Errorf("no store has the handle %d", c.Handle)
	}
	ctx, cancel := context.Background(), context.CancelFunc(func() {})
	if c.Timeout > 0 {
		ctx, cancel = context.WithTimeout(ctx, c.Timeout)
	}
	defer cancel()
	res.Err = wire.FromError(f(ctx, store))
	return nil
}

// Open opens the directory Key.
func (s *Stores) Open(c wire.StoreCall, res *wire.StoreResult) error { //nolint:unparam // net/rpc wants this form
	store, err := posix.Open(c.Key, posix.Options{})
	if err == nil {
		s.keep(store, res)
	}
	res.Err = wire.FromError(err)
	return nil
}

// Read is that of persistence.Register.
func (s *Stores) Read(c wire.StoreCall, res *wire.StoreResult) error {
	return s.with(c, res, func(ctx context.Context, store persistence.Store) error {
		snap, err := store.Read(ctx)
		res.Version, res.Data = snap.Version, snap.Value
		return err
	})
}

// CAS is that of persistence.Register; Key is the old version.
func (s *Stores) CAS(c wire.StoreCall, res *wire.StoreResult) error {
	return s.with(c, res, func(ctx context.Context, store persistence.Store) (err error) {
		res.Version, err = store.CAS(ctx, persistence.Version(c.Key), c.Data)
		return err
	})
}

// Init is that of persistence.Register.
func (s *Stores) Init(c wire.StoreCall, res *wire.StoreResult) error {
	return s.with(c, res, func(ctx context.Context, store persistence.Store) error { return store.Init(ctx, c.Data) })
}

// Put is that of persistence.Objects.
func (s *Stores) Put(c wire.StoreCall, res *wire.StoreResult) error {
	return s.with(c, res, func(ctx context.Context, store persistence.Store) error {
		return store.Put(ctx, c.Key, bytes.NewReader(c.Data), c.Size)
	})
}

// Get is that of persistence.Objects, the content read to its end.
func (s *Stores) Get(c wire.StoreCall, res *wire.StoreResult) error {
	return s.with(c, res, func(ctx context.Context, store persistence.Store) error {
		r, err := store.Get(ctx, c.Key)
		if err != nil {
			return err
		}
		res.Data, err = io.ReadAll(r)
		return errors.Join(err, r.Close())
	})
}

// List is that of persistence.Objects; Key is the prefix.
func (s *Stores) List(c wire.StoreCall, res *wire.StoreResult) error {
	return s.with(c, res, func(ctx context.Context, store persistence.Store) (err error) {
		res.Page, err = store.List(ctx, c.Key, c.After)
		return err
	})
}

// Delete is that of persistence.Objects.
func (s *Stores) Delete(c wire.StoreCall, res *wire.StoreResult) error {
	return s.with(c, res, func(ctx context.Context, store persistence.Store) error { return store.Delete(ctx, c.Key) })
}

// Empty is that of persistence.Store.
func (s *Stores) Empty(c wire.StoreCall, res *wire.StoreResult) error {
	return s.with(c, res, func(ctx context.Context, store persistence.Store) (err error) {
		res.Empty, err = store.Empty(ctx)
		return err
	})
}

// Sub is that of persistence.Store.
func (s *Stores) Sub(c wire.StoreCall, res *wire.StoreResult) error {
	return s.with(c, res, func(_ context.Context, store persistence.Store) error {
		sub, err := store.Sub(c.Key)
		if err == nil {
			s.keep(sub, res)
		}
		return err
	})
}

// RemoveAll is that of persistence.Store.
func (s *Stores) RemoveAll(c wire.StoreCall, res *wire.StoreResult) error {
	return s.with(c, res, func(ctx context.Context, store persistence.Store) error { return store.RemoveAll(ctx) })
}

// Close is that of persistence.Store. The handle stays, so that what a closed
// store answers can be seen.
func (s *Stores) Close(c wire.StoreCall, res *wire.StoreResult) error {
	return s.with(c, res, func(_ context.Context, store persistence.Store) error { return store.Close() })
}
