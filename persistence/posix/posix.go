package posix

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/understudy-ha/understudy/persistence"
)

const (
	leaseDir = "lease"
	dirMode  = 0o750
	fileMode = 0o640
)

// Options adjust a Store; the zero value is what a node uses.
type Options struct {
	// Valid tells a value of the register from a foreign file's name. Nil:
	// it begins with "u1." and has at most persistence.MaxValueLen bytes out
	// of [0-9a-z.-].
	Valid func(name []byte) bool
	// Warn is told once of each thing an operator should look at, with its
	// remedy; the same texts are among the Warnings of Limits. It is called
	// from the goroutine of the operation that noticed. May be nil.
	Warn func(msg string)
	// TornFor is how long Read looks again at a register that is not exactly
	// one value before it says Torn. Zero: 5 s.
	TornFor time.Duration
}

// Store is a location on a POSIX file system. Open makes one.
type Store struct {
	dir     string // absolute
	base    string // of a Sub: the directory of the plane, beneath which dir may be created
	opts    Options
	closed  atomic.Bool
	known   atomic.Bool // this handle has seen the location's register
	reads   *pool       // Read
	writes  *pool       // CAS, Init
	objects *pool       // everything else

	mu       sync.Mutex
	late     func([]byte, persistence.Version, error)
	mine     func([]byte) bool // see persistence.Anchored
	mount    mount
	seen     bool      // mount comes from the file system, not from its path alone
	looked   time.Time // when it was looked at last
	warnings []string
}

var (
	_ persistence.Store       = (*Store)(nil)
	_ persistence.LateResults = (*Store)(nil)
	_ persistence.Anchored    = (*Store)(nil)
	_ persistence.Checker     = (*Store)(nil)
	_ persistence.Inspector   = (*Store)(nil)
)

// Open returns a handle on the directory dir. It does no I/O there, so it
// succeeds on a directory that is missing or hangs; Check tells.
func Open(dir string, opts Options) (*Store, error) {
	if dir == "" || strings.ContainsRune(dir, 0) {
		return nil, fmt.Errorf("%w: %q is not the name of a directory", persistence.Unsupported, dir)
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w; give an absolute path", persistence.Unsupported, dir, err)
	}
	if opts.Valid == nil {
		opts.Valid = validValue
	}
	if opts.TornFor == 0 {
		opts.TornFor = 5 * time.Second
	}
	return newStore(abs, "", inspectByName(abs), opts), nil
}

func newStore(dir, base string, m mount, opts Options) *Store {
	return &Store{
		dir: dir, base: base, mount: m, opts: opts,
		reads: newPool(dir, "read"), writes: newPool(dir, "write"), objects: newPool(dir, "object"),
	}
}

func validValue(name []byte) bool {
	if len(name) > persistence.MaxValueLen || !strings.HasPrefix(string(name), "u1.") {
		return false
	}
	for _, c := range name {
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') && c != '.' && c != '-' {
			return false
		}
	}
	return true
}

// OnLate implements persistence.LateResults.
func (s *Store) OnLate(fn func(val []byte, v persistence.Version, err error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.late = fn
}

// Anchor implements persistence.Anchored.
func (s *Store) Anchor(mine func(val []byte) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mine = mine
}

// Check reports whether a plane can live in the directory: it is there, is a
// directory, can be listed and written, and lies on a file system that keeps
// the contract. See persistence.Checker.
func (s *Store) Check(ctx context.Context) error {
	return s.object(ctx, s.check)
}

func (s *Store) check() error {
	if !s.sub() {
		if _, err := listDir(s.dir); err != nil {
			return rootError(s.dir, err)
		}
	}
	m, err := s.look()
	if err != nil {
		return err
	}
	if err := m.refusal(s.dir); err != nil {
		return err
	}
	if m.fstype == "autofs" {
		return m.vacancy(s.dir)
	}
	if err := s.ensureRoot(); err != nil {
		return err
	}
	_, err = s.scratch()
	return err
}

// look finds the mount anew and keeps it for Limits.
func (s *Store) look() (mount, error) {
	m, err := inspect(s.place())
	if err != nil {
		return mount{}, wrap("look up the file system of", s.place(), err)
	}
	s.mu.Lock()
	old, seen := s.mount, s.seen
	s.mount, s.seen, s.looked = m, true, time.Now()
	s.mu.Unlock()
	if change := m.since(old); seen && change != "" && s.opts.Warn != nil {
		s.opts.Warn(fmt.Sprintf("the file system of %s has changed: %s; if nobody meant that, look at who mounts and unmounts there", s.place(), change))
	}
	return m, nil
}

// place is a directory on the file system in question that must be there.
func (s *Store) place() string {
	if s.sub() {
		return s.base
	}
	return s.dir
}

// lookOnce makes sure that the mount was found through the file system, which
// only a worker may do. Failing is no matter: what follows will say more.
func (s *Store) lookOnce() mount {
	s.mu.Lock()
	m, seen := s.mount, s.seen
	s.mu.Unlock()
	if !seen {
		if got, err := s.look(); err == nil {
			return got
		}
	}
	return m
}

// Empty implements persistence.Store. A lost+found directory, which mkfs
// makes, does not count; everything else without a leading '.' does.
func (s *Store) Empty(ctx context.Context) (bool, error) {
	if err := s.open(); err != nil {
		return false, err
	}
	return call(ctx, s.objects, func() (bool, error) {
		entries, err := listDir(s.dir)
		if s.sub() && isMissing(err) {
			return true, nil
		}
		if err != nil {
			return false, rootError(s.dir, err)
		}
		// What was mounted at start need not be what is mounted now, and a
		// birth (R0) asks Limits after this.
		m, err := s.look()
		if err == nil {
			err = m.vacancy(s.dir)
		}
		if err != nil {
			return false, err
		}
		return !slices.ContainsFunc(entries, func(e os.DirEntry) bool {
			return !hidden(e.Name()) && (e.Name() != "lost+found" || !e.IsDir())
		}), nil
	}, nil)
}

// Sub implements persistence.Store.
func (s *Store) Sub(name string) (persistence.Store, error) {
	if !hidden(name) || name == ".." || !legalSegment(name[1:]) {
		return nil, fmt.Errorf("%w: scratch location %q: the name must be '.' and then one segment of a key",
			persistence.Unsupported, name)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	base := s.base
	if !s.sub() {
		base = s.dir
	}
	sub := newStore(filepath.Join(s.dir, name), base, s.mount, s.opts)
	sub.seen = s.seen
	return sub, nil
}

// RemoveAll implements persistence.Store.
func (s *Store) RemoveAll(ctx context.Context) error {
	if !s.sub() {
		return fmt.Errorf("%w: %s is not a scratch location; remove it by hand if you mean to", persistence.Unsupported, s.dir)
	}
	return s.object(ctx, func() error {
		if err := os.RemoveAll(s.dir); err != nil {
			return wrap("remove", s.dir, err)
		}
		return nil
	})
}

// Limits implements persistence.Store. It does no I/O on the location; it is
// exact once any operation has succeeded, and judges by the path's name
// before.
func (s *Store) Limits() persistence.Limits {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := persistence.Limits{
		URL:         "file://" + s.dir,
		Kind:        "posix",
		PollDivisor: 5,
		Warnings:    append(s.mount.warnings(), s.warnings...),
	}
	if !s.mount.shared() {
		l.Local, l.LocalWhy = true, s.mount.String()
	}
	return l
}

// Close implements persistence.Store. Stuck workers stay until the file
// system lets them go.
func (s *Store) Close() error {
	s.closed.Store(true)
	return nil
}

// sub reports whether this is a scratch location.
func (s *Store) sub() bool { return s.base != "" }

func (s *Store) open() error {
	if s.closed.Load() {
		return fmt.Errorf("%w: the store is closed", persistence.Unknown)
	}
	return nil
}

// object runs f in a worker for objects.
func (s *Store) object(ctx context.Context, f func() error) error {
	if err := s.open(); err != nil {
		return err
	}
	_, err := call(ctx, s.objects, func() (struct{}, error) { return struct{}{}, f() }, nil)
	return err
}

// warn records msg for Limits and tells Options.Warn, once.
func (s *Store) warn(msg string) {
	s.mu.Lock()
	known := slices.Contains(s.warnings, msg)
	if !known && len(s.warnings) < 20 { // foreign names are not ours to bound
		s.warnings = append(s.warnings, msg)
	}
	s.mu.Unlock()
	if !known && s.opts.Warn != nil {
		s.opts.Warn(msg)
	}
}

// ensureRoot creates the directory of a scratch location; never that of a
// plane.
func (s *Store) ensureRoot() error {
	if !s.sub() {
		return nil
	}
	dir := s.base
	for name := range strings.SplitSeq(strings.TrimPrefix(s.dir[len(s.base):], "/"), "/") {
		dir = filepath.Join(dir, name)
		err := os.Mkdir(dir, dirMode)
		switch {
		case err == nil, errors.Is(err, syscall.EEXIST):
		case isMissing(err), errors.Is(err, syscall.ENOTDIR):
			return rootError(s.base, err)
		default:
			return wrap("create directory", dir, err)
		}
	}
	return nil
}

// reachable fails when the location itself can not be listed, in which case
// nothing can be said about what is in it.
func (s *Store) reachable() error {
	_, err := listDir(s.dir)
	if err == nil || (s.sub() && isMissing(err)) {
		return nil
	}
	return rootError(s.dir, err)
}

// absent decides what an ENOENT on a path beneath the location means. Only a
// listing can say that something is not there: what open(2) says may come
// from a cache that is a minute old. It returns Absent, or why it is not
// that simple.
func (s *Store) absent(rel string) error {
	dir, path := s.dir, filepath.Join(s.dir, rel)
	for dir != path {
		entries, err := listDir(dir)
		switch {
		case dir == s.dir && s.sub() && isMissing(err):
			// A scratch location that nothing has been put into.
		case dir == s.dir && err != nil:
			return rootError(dir, err)
		case isMissing(err), errors.Is(err, syscall.ENOTDIR):
			// Gone since it was listed, or an object where a directory would be.
		case err != nil:
			return wrap("list", dir, err)
		}
		name, _, _ := strings.Cut(strings.TrimPrefix(path[len(dir):], "/"), "/")
		if !slices.ContainsFunc(entries, func(e os.DirEntry) bool { return e.Name() == name }) {
			return fmt.Errorf("%w: there is no %s in %s", persistence.Absent, rel, s.dir)
		}
		dir = filepath.Join(dir, name)
	}
	return fmt.Errorf("%w: %s is listed but can not be opened yet; read again", persistence.Unknown, path)
}

// listDir opens the directory anew and returns its entries. A kept descriptor
// would show what it saw when it was opened.
func listDir(dir string) ([]os.DirEntry, error) {
	f, err := os.OpenFile(dir, os.O_RDONLY|syscall.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.ReadDir(-1)
}

// syncDir makes the names in dir durable, where that is left to the client.
func (s *Store) syncDir(dir string) error {
	if !s.lookOnce().syncDirs() {
		return nil
	}
	f, err := os.OpenFile(dir, os.O_RDONLY|syscall.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return syncNames(f)
}

func hidden(name string) bool { return strings.HasPrefix(name, ".") }

// random is a name nobody else draws.
func random() string {
	var b [8]byte
	_, _ = io.ReadFull(rand.Reader, b[:]) // never fails, see crypto/rand
	return hex.EncodeToString(b[:])
}
