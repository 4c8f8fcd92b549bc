package artifact

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
)

// registry is an index in memory, which fails on command.
type registry struct {
	mu      sync.Mutex
	entries map[string]Entry
	fail    error // of the next write
	applied bool  // although it failed
}

func newRegistry() *registry { return &registry{entries: map[string]Entry{}} }

func (r *registry) Get(_ context.Context, name string) (Entry, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e, ok := r.entries[name]
	if !ok {
		return Entry{}, fmt.Errorf("%s: %w", name, ErrNone)
	}
	return e, nil
}

func (r *registry) List(context.Context) ([]Entry, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.SortedFunc(maps.Values(r.entries), func(a, b Entry) int { return strings.Compare(a.Name, b.Name) }), nil
}

func (r *registry) Set(_ context.Context, e Entry) error {
	return r.write(func() { r.entries[e.Name] = e })
}

func (r *registry) Delete(_ context.Context, name string) error {
	return r.write(func() { delete(r.entries, name) })
}

func (r *registry) write(apply func()) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	err := r.fail
	r.fail = nil
	if err == nil || r.applied {
		apply()
	}
	return err
}

var errNotMaster = errors.New("not the master")
