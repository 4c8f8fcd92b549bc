package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/pkg/artifact"
	"github.com/understudy-ha/understudy/pkg/config"
	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/journal"
)

const (
	// prefetchEvery is how often a node looks whether the artifacts that its
	// service needs are others; that asks nobody.
	prefetchEvery = time.Second
	// prefetchPause is how long a node waits after it could not get one.
	prefetchPause = 15 * time.Second
	// awaitEvery is how often it is looked whether an artifact was pushed that
	// the start of the service waits for.
	awaitEvery = 100 * time.Millisecond
	// collectEvery is how often the master removes what no name means.
	collectEvery = 10 * time.Minute
)

// artifacts is what a node has to do with artifacts.
type artifacts struct {
	artifact.Depot
	d     *daemon
	store persistence.Store
	node  *ha.Node // once there is one
	names []string // that service.command needs

	mu      sync.Mutex
	release func() // of what the service was started with last; nil: nothing
}

// openArtifacts opens where artifacts lie and where they are kept locally; none
// of either for a node that persists nothing.
func (d *daemon) openArtifacts(ctx context.Context) error {
	if d.cfg.PersistMode == config.PersistDisabled {
		return nil
	}
	loc, own, err := d.cfg.ArtifactsLocation()
	if err != nil {
		return exitf(exitUsage, "artifacts.root: %w", err)
	}
	warn := func(s string) { d.log.Warn("artifacts", zap.String("warning", s)) }
	if !own {
		warn = nil // the same was said of the persisted state
	}
	// A handle of its own: what is slow here must not hold up a heartbeat.
	store, err := openStore(loc, warn, d.meter.sent.Add)
	if err != nil {
		return exitf(exitUsage, "artifacts.root: %w", err)
	}
	a := &artifacts{d: d, store: store}
	d.artifacts = a
	if own {
		if err := d.checkRoot(ctx, store); err != nil {
			return err
		}
	}
	if a.Cache, err = artifact.OpenCache(d.cfg.ArtifactsCache(), int64(d.cfg.Artifacts.CacheSize)); err != nil {
		return exitf(exitUsage, "%w", err)
	}
	a.Library = artifact.New(store, artifact.StateIndex{Read: a.read, Write: a.write}, artifact.Options{})
	a.names, err = artifact.Names(d.cfg.Service.Command)
	return err
}

// checkRoot judges a location of the artifacts' own.
func (d *daemon) checkRoot(ctx context.Context, store persistence.Store) error {
	if c, ok := store.(persistence.Checker); ok {
		cctx, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		switch err := c.Check(cctx); {
		case errors.Is(err, persistence.Unknown):
			d.log.Warn("the artifacts' store does not answer", zap.Error(err))
		case err != nil:
			return exitf(exitUsage, "artifacts.root: %w", err)
		}
	}
	if l := store.Limits(); l.Local {
		d.warn("NO_HA_GUARANTEE: artifacts.root " + l.URL + " is on " + l.LocalWhy + ", which no other machine shares: after a failover the artifacts are missing. Name a location that all nodes share, or none")
	}
	return nil
}

func (a *artifacts) read() (artifact.View, error) { return a.node.Persisted().Picture() }

func (a *artifacts) write(ctx context.Context, t journal.Txn) error {
	_, err := a.node.Persisted().OwnTxn(ctx, t)
	if errors.Is(err, ha.ErrUnknown) {
		return fmt.Errorf("%w: %w", artifact.ErrUndecided, err)
	}
	return err
}

// reign is the one in which this node may push and collect.
func (a *artifacts) reign() (artifact.Reign, error) {
	s := a.node.Status()
	if !s.Leading(a.node.Now()) {
		return artifact.Reign{}, ha.ErrNotMaster
	}
	if _, err := a.read(); errors.Is(err, ha.ErrNoState) {
		return artifact.Reign{}, err // a node that serves alone has no plane to keep them in
	}
	return artifact.Reign{Plane: s.Plane, Term: s.Reign.Term}, nil
}

// List implements server.Artifacts.
func (a *artifacts) List(ctx context.Context) ([]artifact.Entry, error) { return a.Library.List(ctx) }

// Get implements server.Artifacts.
func (a *artifacts) Get(ctx context.Context, name string) (artifact.Entry, error) {
	return a.Library.Get(ctx, name)
}

// Open implements server.Artifacts.
func (a *artifacts) Open(ctx context.Context, e artifact.Entry, offset int64) (io.ReadCloser, error) {
	return a.Library.Open(ctx, e, offset)
}

// Push implements server.Artifacts.
func (a *artifacts) Push(ctx context.Context, name string, c artifact.Content) (artifact.Entry, error) {
	in, err := a.reign()
	if err != nil {
		return artifact.Entry{}, err
	}
	return a.Depot.Push(ctx, name, in, c)
}

// Remove implements server.Artifacts.
func (a *artifacts) Remove(ctx context.Context, name string) error {
	return a.Library.Remove(ctx, name)
}

// command is service.command with the paths of the artifacts it names. They
// stay in the cache until it is asked for again: a service may open them late.
func (a *artifacts) command(ctx context.Context) ([]string, error) {
	argv, release, err := a.await(ctx)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.release != nil {
		a.release()
	}
	a.release = release
	return argv, nil
}

// await waits for names that mean nothing yet: no other node would know better,
// and it is this node, which has the term, that a push needs. All other trouble
// may be this machine's own.
func (a *artifacts) await(ctx context.Context) (argv []string, release func(), err error) {
	said := false
	for {
		argv, release, err = a.Command(ctx, a.d.cfg.Service.Command)
		if !errors.Is(err, artifact.ErrNone) {
			return argv, release, err
		}
		if !said {
			said = true
			a.d.log.Warn("the start of the service waits for an artifact; store it with: understudy artifact push NAME FILE", zap.Error(err))
		}
		select {
		case <-time.After(awaitEvery):
		case <-ctx.Done():
			return nil, nil, fmt.Errorf("%w; store it with: understudy artifact push NAME FILE", err)
		}
	}
}

// run gets the service's artifacts ahead of time and, on the master, removes
// what no name means any more, until ctx ends.
func (a *artifacts) run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, name := range a.names {
		wg.Go(func() { a.prefetch(ctx, name) })
	}
	tick := time.NewTicker(collectEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			a.collect(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// prefetch keeps a verified copy of an artifact at hand.
func (a *artifacts) prefetch(ctx context.Context, name string) {
	var have *artifact.Local // held, so that no cache removes it
	digest, said := artifact.Digest(""), ""
	defer func() {
		if have != nil {
			_ = have.Close() // it was only read
		}
	}()
	wait := time.NewTimer(0)
	defer wait.Stop()
	for {
		select {
		case <-wait.C:
		case <-ctx.Done():
			return
		}
		wait.Reset(prefetchEvery)
		e, err := a.Library.Get(ctx, name)
		if errors.Is(err, ha.ErrNotHot) || errors.Is(err, artifact.ErrNone) || (err == nil && e.Digest == digest) {
			continue // the index is not here, or says nothing new
		}
		if err == nil {
			var l *artifact.Local
			if l, err = a.Local(ctx, name); err == nil {
				if have != nil {
					_ = have.Close() // it was only read
				}
				have, digest, said = l, e.Digest, ""
				a.d.log.Info("an artifact of the service is at hand", zap.String("artifact", name), zap.String("sha256", string(e.Digest)), zap.Int64("bytes", e.Size))
				continue
			}
		}
		if why := err.Error(); why != said && ctx.Err() == nil {
			said = why
			a.d.log.Warn("an artifact of the service is not to be had; a promotion of this node would fail", zap.String("artifact", name), zap.Error(err))
		}
		wait.Reset(prefetchPause)
	}
}

// collect is for the master.
func (a *artifacts) collect(ctx context.Context) {
	in, err := a.reign()
	if err != nil {
		return
	}
	c, err := a.Library.Collect(ctx, in, a.d.cfg.State.Retention)
	if err != nil && ctx.Err() == nil {
		a.d.log.Warn("artifacts that no name means could not be removed; it is tried again", zap.Error(err))
	}
	if c.Objects+c.Leftovers > 0 {
		a.d.log.Info("removed what no artifact needs any more", zap.Int("objects", c.Objects), zap.Int64("bytes", c.Bytes), zap.Int("leftovers", c.Leftovers))
	}
}

// close lets go of everything.
func (a *artifacts) close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.release != nil {
		a.release()
		a.release = nil
	}
	return a.store.Close()
}
