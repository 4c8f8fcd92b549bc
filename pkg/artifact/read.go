package artifact

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"github.com/understudy-ha/understudy/persistence"
)

func newHash() hash.Hash { return sha256.New() }

// Open returns the content of an artifact, from the byte at offset on, as it
// lies in the store and not verified: see Read, and Verify. A read that the
// store fails in the middle of is gone on with, a few times. Close the result.
// Absent: there is no such object; another may have the name by now.
func (l *Library) Open(ctx context.Context, e Entry, offset int64) (io.ReadCloser, error) {
	if err := e.Check(); err != nil {
		return nil, err
	}
	r := &resuming{l: l, ctx: ctx, e: e, at: offset}
	if err := r.open(); err != nil { //nolint:contextcheck // it has ctx
		return nil, fmt.Errorf("artifact %s: %w", e.Name, err)
	}
	return r, nil
}

// Read copies the content of an artifact to w and verifies it. It may have
// written all of it, and more than there is, before it says ErrCorrupt.
func (l *Library) Read(ctx context.Context, e Entry, w io.Writer) error {
	r, err := l.Open(ctx, e, 0)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, Verify(r, e.Digest, e.Size))
	if err = errors.Join(err, r.Close()); err != nil {
		return fmt.Errorf("artifact %s: %w", e.Name, err)
	}
	return nil
}

// resuming reads an object to its end although the store fails now and then.
type resuming struct {
	l     *Library
	ctx   context.Context //nolint:containedctx // the contract of stores bounds each read by it
	e     Entry
	at    int64 // the next byte
	rc    io.ReadCloser
	w     *watchdog
	fails int // in a row
}

// open opens the object at r.at.
func (r *resuming) open() error {
	ctx, w := watch(r.ctx, r.l.opts.Stall)
	rc, err := openAt(ctx, r.l.store, Prefix+r.e.Object, r.at)
	if err != nil {
		w.stop()
		return w.explain(err)
	}
	w.rest() // between two reads time is the caller's
	r.rc, r.w = rc, w
	return nil
}

// openAt opens an object at an offset: by the store itself if it can, else by
// reading up to there.
func openAt(ctx context.Context, store persistence.Objects, key string, offset int64) (io.ReadCloser, error) {
	if o, ok := store.(persistence.Ranger); ok && offset > 0 {
		rc, err := o.GetFrom(ctx, key, offset)
		if !errors.Is(err, persistence.Unsupported) {
			return rc, err
		}
	}
	rc, err := store.Get(ctx, key)
	if err != nil {
		return nil, err
	}
	if _, err := io.CopyN(io.Discard, rc, offset); err != nil && !errors.Is(err, io.EOF) {
		return nil, errors.Join(err, rc.Close())
	}
	return rc, nil
}

// Read implements io.Reader.
func (r *resuming) Read(p []byte) (int, error) {
	for {
		err := r.reopened()
		if err == nil {
			var n int
			r.w.progress()
			n, err = r.rc.Read(p)
			r.w.rest()
			r.at += int64(n)
			if n > 0 {
				r.fails = 0
				return n, nil // an error comes again with the next call
			}
			if err == nil || errors.Is(err, io.EOF) {
				return 0, err
			}
			err = r.w.explain(err)
			r.drop()
		}
		if !errors.Is(err, persistence.Unknown) && !errors.Is(err, persistence.Throttled) {
			return 0, err
		}
		if r.fails++; r.fails > r.l.opts.Retries || pause(r.ctx, r.l.opts.Pause) != nil {
			return 0, err
		}
	}
}

func (r *resuming) reopened() error {
	if r.rc != nil {
		return nil
	}
	return r.open()
}

func (r *resuming) drop() {
	if r.rc != nil {
		_ = r.rc.Close() // it was only read
		r.w.stop()
		r.rc, r.w = nil, nil
	}
}

// Close implements io.Closer.
func (r *resuming) Close() error {
	r.drop()
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// watchdog ends a transfer in which nothing moves any more. A store returns by
// the end of its context and not before; how long a large file takes nobody can
// tell.
type watchdog struct {
	limit  time.Duration
	timer  *time.Timer
	ctx    context.Context //nolint:containedctx // whose cause tells why it ended
	cancel context.CancelCauseFunc
}

func watch(ctx context.Context, limit time.Duration) (context.Context, *watchdog) {
	w := &watchdog{limit: limit}
	w.ctx, w.cancel = context.WithCancelCause(ctx)
	w.timer = time.AfterFunc(limit, func() {
		w.cancel(fmt.Errorf("%w: nothing has moved for %s; look at the store", persistence.Unknown, limit))
	})
	return w.ctx, w
}

// progress says that something has moved, or begins to.
func (w *watchdog) progress() { w.timer.Reset(w.limit) }

// rest says that nothing is expected to move before the next progress.
func (w *watchdog) rest() { w.timer.Stop() }

func (w *watchdog) stop() {
	w.timer.Stop()
	w.cancel(context.Canceled)
}

// explain says why the transfer ended, if the watchdog ended it.
func (w *watchdog) explain(err error) error {
	if cause := context.Cause(w.ctx); cause != nil && errors.Is(cause, persistence.Unknown) {
		return cause
	}
	return err
}

// reader counts each read of r as progress.
func (w *watchdog) reader(r io.Reader) io.Reader { return progressing{w, r} }

type progressing struct {
	w *watchdog
	r io.Reader
}

// Read implements io.Reader. Waiting for the content is not the store's fault:
// the time it takes is not counted.
func (p progressing) Read(b []byte) (int, error) {
	p.w.rest()
	n, err := p.r.Read(b)
	p.w.progress()
	return n, err
}
