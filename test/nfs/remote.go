package nfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/rpc"
	"sync"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/test/nfs/wire"
)

// remote is a posix store of a guest, through that guest's own mount and
// caches, so that one test can hold the handles of two machines.
type remote struct {
	g      *Guest
	handle int
	limits persistence.Limits
}

var _ persistence.Store = (*remote)(nil)

// settled is how long after a change it can be looked for on another machine.
// Reads may be stale, and on NFS they are: version 3 tells by a time stamp of
// 10 ms whether a directory has changed, so that who lists it between two
// changes with one stamp does not see the second until the third; with 4.1 and
// 4.2 a file replaced by rename was read for up to 30 ms after. Nodes leave
// each other more time, and nothing but their progress rests on it; a test
// that asks at once would fail by chance.
const settled = 100 * time.Millisecond

// changes knows when a store of the lab was changed last.
type changes struct {
	mu   sync.Mutex
	last time.Time
}

func (c *changes) note() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = time.Now()
}

func (c *changes) wait() {
	c.mu.Lock()
	left := time.Until(c.last.Add(settled))
	c.mu.Unlock()
	time.Sleep(left)
}

// Store opens the directory dir of the guest.
func (g *Guest) Store(tb testing.TB, dir string) persistence.Store {
	tb.Helper()
	r := &remote{g: g}
	res, err := r.call(context.Background(), "Open", wire.StoreCall{Key: dir})
	if err != nil {
		tb.Fatal(err)
	}
	return &remote{g: g, handle: res.Handle, limits: res.Limits}
}

// change does an operation that changes something.
func (r *remote) change(ctx context.Context, method string, c wire.StoreCall) (wire.StoreResult, error) {
	defer r.g.lab.changes.note()
	return r.call(ctx, method, c)
}

// look does an operation that only reads.
func (r *remote) look(ctx context.Context, method string, c wire.StoreCall) (wire.StoreResult, error) {
	r.g.lab.changes.wait()
	return r.call(ctx, method, c)
}

// call does one operation by the end of ctx.
func (r *remote) call(ctx context.Context, method string, c wire.StoreCall) (wire.StoreResult, error) {
	var res wire.StoreResult
	if err := ctx.Err(); err != nil {
		return res, fmt.Errorf("%w: %w", persistence.Unknown, err)
	}
	c.Handle = r.handle
	if end, ok := ctx.Deadline(); ok {
		c.Timeout = time.Until(end)
	}
	r.g.mu.Lock()
	client := r.g.rpc
	r.g.mu.Unlock()
	done := client.Go("Store."+method, c, &res, make(chan *rpc.Call, 1)).Done
	select {
	case call := <-done:
		if call.Error != nil {
			return wire.StoreResult{}, fmt.Errorf("%w: %s: %w", persistence.Unknown, r.g.Name, call.Error)
		}
		return res, res.Err.Err()
	case <-ctx.Done():
		return wire.StoreResult{}, fmt.Errorf("%w: %s: %w", persistence.Unknown, r.g.Name, ctx.Err())
	}
}

func (r *remote) Read(ctx context.Context) (persistence.Snapshot, error) {
	res, err := r.look(ctx, "Read", wire.StoreCall{})
	return persistence.Snapshot{Version: res.Version, Value: res.Data}, err
}

func (r *remote) CAS(ctx context.Context, old persistence.Version, val []byte) (persistence.Version, error) {
	res, err := r.change(ctx, "CAS", wire.StoreCall{Key: string(old), Data: val})
	return res.Version, err
}

func (r *remote) Init(ctx context.Context, val []byte) error {
	_, err := r.change(ctx, "Init", wire.StoreCall{Data: val})
	return err
}

func (r *remote) Put(ctx context.Context, key string, from io.Reader, size int64) error {
	data, err := io.ReadAll(from)
	if err != nil {
		return err
	}
	_, err = r.change(ctx, "Put", wire.StoreCall{Key: key, Data: data, Size: size})
	return err
}

func (r *remote) Get(ctx context.Context, key string) (io.ReadCloser, error) {
	res, err := r.look(ctx, "Get", wire.StoreCall{Key: key})
	if err != nil {
		return nil, err
	}
	return io.NopCloser(bytes.NewReader(res.Data)), nil
}

func (r *remote) List(ctx context.Context, prefix, after string) (persistence.Page, error) {
	res, err := r.look(ctx, "List", wire.StoreCall{Key: prefix, After: after})
	return res.Page, err
}

func (r *remote) Delete(ctx context.Context, key string) error {
	_, err := r.change(ctx, "Delete", wire.StoreCall{Key: key})
	return err
}

func (r *remote) Empty(ctx context.Context) (bool, error) {
	res, err := r.look(ctx, "Empty", wire.StoreCall{})
	return res.Empty, err
}

func (r *remote) Sub(name string) (persistence.Store, error) {
	res, err := r.call(context.Background(), "Sub", wire.StoreCall{Key: name})
	if err != nil {
		return nil, err
	}
	return &remote{g: r.g, handle: res.Handle, limits: res.Limits}, nil
}

func (r *remote) RemoveAll(ctx context.Context) error {
	_, err := r.change(ctx, "RemoveAll", wire.StoreCall{})
	return err
}

func (r *remote) Limits() persistence.Limits { return r.limits }

func (r *remote) Close() error {
	_, err := r.call(context.Background(), "Close", wire.StoreCall{})
	if errors.Is(err, rpc.ErrShutdown) {
		return nil // the machine is gone, and its handles with it
	}
	return err
}
