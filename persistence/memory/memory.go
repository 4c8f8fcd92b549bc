// Package memory keeps a plane in the memory of one process: for tests, for
// examples, and for trying the library out. Handles opened on one Location see
// the same plane. It starts no goroutines and reads no clock, so that it works
// inside a testing/synctest bubble.
package memory

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/understudy-ha/understudy/persistence"
)

const pageSize = 1000

// Location is what several handles share. New makes one.
type Location struct {
	mu      sync.Mutex
	exists  bool // the register
	value   []byte
	version uint64 // counts values; 0 is none's
	objects map[string][]byte
	subs    map[string]*Location
}

// New returns an empty location.
func New() *Location {
	return &Location{objects: map[string][]byte{}, subs: map[string]*Location{}}
}

// Open returns one more handle on the location.
func (l *Location) Open() *Store { return &Store{l: l} }

// Store is a handle on a Location.
type Store struct {
	l   *Location
	sub bool
}

var _ persistence.Store = (*Store)(nil)

func version(n uint64) persistence.Version {
	return persistence.Version("m" + strconv.FormatUint(n, 10))
}

// live fails when ctx has ended, as a store that does I/O would.
func live(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", persistence.Unknown, err)
	}
	return nil
}

// Read implements persistence.Register.
func (s *Store) Read(ctx context.Context) (persistence.Snapshot, error) {
	if err := live(ctx); err != nil {
		return persistence.Snapshot{}, err
	}
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	if !s.l.exists {
		return persistence.Snapshot{}, fmt.Errorf("%w: no register in this memory", persistence.Absent)
	}
	return persistence.Snapshot{Version: version(s.l.version), Value: slices.Clone(s.l.value)}, nil
}

// CAS implements persistence.Register.
func (s *Store) CAS(ctx context.Context, old persistence.Version, val []byte) (persistence.Version, error) {
	if err := live(ctx); err != nil {
		return "", err
	}
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	if !s.l.exists || version(s.l.version) != old {
		return "", fmt.Errorf("%w: the register does not hold version %q", persistence.Conflict, old)
	}
	if err := s.l.set(val); err != nil {
		return "", err
	}
	return version(s.l.version), nil
}

// Init implements persistence.Register.
func (s *Store) Init(ctx context.Context, val []byte) error {
	if err := live(ctx); err != nil {
		return err
	}
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	if s.l.exists {
		return fmt.Errorf("%w: the register exists already", persistence.Conflict)
	}
	if err := s.l.set(val); err != nil {
		return err
	}
	s.l.exists = true
	return nil
}

// set is called with the lock held.
func (l *Location) set(val []byte) error {
	if len(val) == 0 || len(val) > persistence.MaxValueLen {
		return fmt.Errorf("%w: a value of %d bytes", persistence.Unsupported, len(val))
	}
	l.value = slices.Clone(val)
	l.version++
	return nil
}

// Put implements persistence.Objects.
func (s *Store) Put(ctx context.Context, key string, r io.Reader, size int64) error {
	data, err := io.ReadAll(r)
	if err != nil {
		return fmt.Errorf("put %s: read its content: %w", key, err)
	}
	if size >= 0 && size != int64(len(data)) {
		return fmt.Errorf("put %s: its size was announced as %d bytes, but %d came", key, size, len(data))
	}
	if err := live(ctx); err != nil {
		return err
	}
	if err := checkKey(key); err != nil {
		return err
	}
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	s.l.objects[key] = data
	return nil
}

// Get implements persistence.Objects.
func (s *Store) Get(ctx context.Context, key string) (io.ReadCloser, error) {
	if err := live(ctx); err != nil {
		return nil, err
	}
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	data, ok := s.l.objects[key]
	if !ok {
		return nil, fmt.Errorf("%w: there is no %s in this memory", persistence.Absent, key)
	}
	return &reader{ctx: ctx, r: bytes.NewReader(data)}, nil // Put never changes what it stored
}

type reader struct {
	ctx context.Context //nolint:containedctx // the contract bounds each read by it
	r   *bytes.Reader
}

func (r *reader) Read(p []byte) (int, error) {
	if err := live(r.ctx); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

func (r *reader) Close() error { return nil }

// List implements persistence.Objects.
func (s *Store) List(ctx context.Context, prefix, after string) (persistence.Page, error) {
	var p persistence.Page
	if err := live(ctx); err != nil {
		return p, err
	}
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	for _, key := range slices.Sorted(maps.Keys(s.l.objects)) {
		if !strings.HasPrefix(key, prefix) || key <= after {
			continue
		}
		if len(p.Items) == pageSize {
			p.More = true
			break
		}
		p.Items = append(p.Items, persistence.Item{Key: key, Size: int64(len(s.l.objects[key]))})
	}
	return p, nil
}

// Delete implements persistence.Objects.
func (s *Store) Delete(ctx context.Context, key string) error {
	if err := live(ctx); err != nil {
		return err
	}
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	delete(s.l.objects, key)
	return nil
}

func checkKey(key string) error {
	for seg := range strings.SplitSeq(key, "/") {
		legal := seg != "" && seg[0] != '.'
		for _, c := range []byte(seg) {
			legal = legal && (c == '.' || c == '_' || c == '-' ||
				(c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'))
		}
		if !legal {
			return fmt.Errorf("%w: %q is not the key of an object", persistence.Unsupported, key)
		}
	}
	return nil
}

// Empty implements persistence.Store.
func (s *Store) Empty(ctx context.Context) (bool, error) {
	if err := live(ctx); err != nil {
		return false, err
	}
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	return !s.l.exists && len(s.l.objects) == 0, nil
}

// Sub implements persistence.Store.
func (s *Store) Sub(name string) (persistence.Store, error) {
	if len(name) < 2 || name[0] != '.' || name == ".." || strings.Contains(name, "/") {
		return nil, fmt.Errorf("%w: scratch location %q: the name must be '.' and then one segment of a key",
			persistence.Unsupported, name)
	}
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	sub, ok := s.l.subs[name]
	if !ok {
		sub = New()
		s.l.subs[name] = sub
	}
	return &Store{l: sub, sub: true}, nil
}

// RemoveAll implements persistence.Store.
func (s *Store) RemoveAll(ctx context.Context) error {
	if !s.sub {
		return fmt.Errorf("%w: not a scratch location", persistence.Unsupported)
	}
	if err := live(ctx); err != nil {
		return err
	}
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	// The version goes on, so that no version ever names two values.
	s.l.exists, s.l.value = false, nil
	clear(s.l.objects)
	clear(s.l.subs)
	return nil
}

// Limits implements persistence.Store.
func (s *Store) Limits() persistence.Limits {
	return persistence.Limits{
		URL: "memory:", Kind: "memory", PollDivisor: 5,
		Local: true, LocalWhy: "memory of this process",
	}
}

// Close implements persistence.Store.
func (s *Store) Close() error { return nil }
