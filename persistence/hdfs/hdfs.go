package hdfs

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/colinmarc/hdfs/v2"

	"github.com/understudy-ha/understudy/persistence"
)

const (
	dirMode    = 0o755
	leaseDir   = "lease"
	pageSize   = 1000    // items per page of List
	smallSize  = 8 << 10 // bytes that an extended attribute is given; a NameNode takes 16 KiB by default
	attribute  = "user.understudy"
	manyDoubts = 1024
)

// Options adjust a Store; the zero value is what Hadoop's own tools would take
// from this process' environment.
type Options struct {
	// ConfDir holds core-site.xml and hdfs-site.xml. Empty: HADOOP_CONF_DIR, or
	// HADOOP_HOME/etc/hadoop.
	ConfDir string
	// User is whom HDFS takes this process for where there is no Kerberos.
	// Empty: HADOOP_USER_NAME, or the process' own.
	User     string
	Kerberos Kerberos
	// Valid tells a value of the register from a foreign file's name. Nil: it
	// begins with "u1." and has at most persistence.MaxValueLen bytes out of
	// [0-9a-z.-].
	Valid func(name []byte) bool
	// Warn is told once of each thing an operator should look at, with its
	// remedy; the same texts are among the Warnings of Limits. It is called from
	// the goroutine of the operation that noticed. May be nil.
	Warn func(msg string)
}

// Store is a location in HDFS. Open makes one.
type Store struct {
	link    *link
	root    string // absolute
	base    string // of a Sub: the directory of the plane, beneath which root may be created
	opts    Options
	closed  atomic.Bool
	reads   *lane // Read
	writes  *lane // CAS, Init
	objects *lane // everything else

	mu       sync.Mutex
	doubts   []string            // values of attempts whose outcome is unknown, oldest first
	attrs    map[string]struct{} // keys that this handle has put as an attribute
	warnings []string
}

var (
	_ persistence.Store     = (*Store)(nil)
	_ persistence.Checker   = (*Store)(nil)
	_ persistence.Inspector = (*Store)(nil)
)

// Open returns a handle on a directory of the file system that authority names:
// a nameservice of Hadoop's configuration, or a NameNode's host with or without
// a port. It reads local files only, so it succeeds on a cluster that is down;
// Check tells. The error is Unsupported: a configuration that can not work.
func Open(authority, dir string, opts Options) (*Store, error) {
	if authority == "" || !path.IsAbs(dir) || path.Clean(dir) == "/" || strings.ContainsAny(dir, ":\x00") {
		return nil, fmt.Errorf("%w: hdfs://%s%s does not name a directory; write hdfs://nameservice/path or hdfs://host:port/path",
			persistence.Unsupported, authority, dir)
	}
	if opts.Valid == nil {
		opts.Valid = validValue
	}
	l, err := newLink(authority, opts)
	if err != nil {
		return nil, err
	}
	return newStore(l, path.Clean(dir), "", opts), nil
}

func newStore(l *link, root, base string, opts Options) *Store {
	return &Store{
		link: l, root: root, base: base, opts: opts, attrs: map[string]struct{}{},
		reads: newLane(l, "read"), writes: newLane(l, "write"), objects: newLane(l, "objects of"),
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

// url names a file for people.
func (s *Store) url(file string) string { return "hdfs://" + s.link.authority + file }

// in is a path beneath the location.
func (s *Store) in(key string) string { return s.root + "/" + key }

func (s *Store) open() error {
	if s.closed.Load() {
		return fmt.Errorf("%w: the store is closed", persistence.Unknown)
	}
	return nil
}

// object runs f as one of the calls about objects.
func (s *Store) object(ctx context.Context, op, file string, f func(*session) error) error {
	if err := s.open(); err != nil {
		return err
	}
	return s.objects.do(ctx, op+" "+s.url(file), f)
}

// Check reports whether a plane can live in the directory: it is there, can be
// listed and written. See persistence.Checker.
func (s *Store) Check(ctx context.Context) error {
	return s.object(ctx, "look at", s.root, func(c *session) error {
		if s.base == "" {
			if _, err := c.list(s.root); err != nil {
				return s.rootError(c, err)
			}
		}
		if err := s.ensureRoot(c); err != nil {
			return err
		}
		_, err := s.scratch(c)
		return err
	})
}

// scratch makes a directory and removes it again, which asks for all that the
// register asks for; and returns the time that it got.
func (s *Store) scratch(c *session) (stamp time.Time, err error) {
	dir := s.in(".check-" + random())
	if err := c.client.Mkdir(dir, dirMode); err != nil {
		return stamp, s.wrap(c, "create a directory in", s.root, err)
	}
	if fi, err := c.client.Stat(dir); err == nil {
		stamp = fi.ModTime()
	}
	if err := c.client.Remove(dir); err != nil {
		return stamp, s.wrap(c, "remove", dir, err)
	}
	return stamp, nil
}

// Empty implements persistence.Store.
func (s *Store) Empty(ctx context.Context) (empty bool, err error) {
	if err := s.open(); err != nil {
		return false, err
	}
	return call(ctx, s.objects, "list "+s.url(s.root), func(c *session) (bool, error) {
		entries, err := c.list(s.root)
		if s.base != "" && errors.Is(err, os.ErrNotExist) {
			return true, nil
		}
		if err != nil {
			return false, s.rootError(c, err)
		}
		return !slices.ContainsFunc(entries, func(e os.FileInfo) bool { return !hidden(e.Name()) }), nil
	})
}

// Sub implements persistence.Store. It shares the configuration and the tickets
// of the handle it comes from, and ends with it; it has connections of its own.
func (s *Store) Sub(name string) (persistence.Store, error) {
	if !hidden(name) || name == ".." || !legalSegment(name[1:]) {
		return nil, fmt.Errorf("%w: scratch location %q: the name must be '.' and then one segment of a key",
			persistence.Unsupported, name)
	}
	base := s.base
	if base == "" {
		base = s.root
	}
	return newStore(s.link, s.in(name), base, s.opts), nil
}

// RemoveAll implements persistence.Store.
func (s *Store) RemoveAll(ctx context.Context) error {
	if s.base == "" {
		return fmt.Errorf("%w: %s is not a scratch location; remove it by hand if you mean to", persistence.Unsupported, s.url(s.root))
	}
	return s.object(ctx, "remove", s.root, func(c *session) error {
		return s.wrap(c, "remove", s.root, c.client.RemoveAll(s.root))
	})
}

// Limits implements persistence.Store.
func (s *Store) Limits() persistence.Limits {
	s.mu.Lock()
	defer s.mu.Unlock()
	return persistence.Limits{URL: s.url(s.root), Kind: "hdfs", PollDivisor: 2, Warnings: slices.Clone(s.warnings)}
}

// Close implements persistence.Store. Closing the handle of a scratch location
// closes that one only.
func (s *Store) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	for _, n := range []*lane{s.reads, s.writes, s.objects} {
		n.close()
	}
	if s.base == "" && s.link.tickets != nil {
		s.link.tickets.close()
	}
	return nil
}

// ensureRoot creates the directory of a scratch location; never that of a plane.
func (s *Store) ensureRoot(c *session) error {
	if s.base == "" {
		return nil
	}
	if _, err := c.client.Stat(s.base); err != nil {
		return s.rootError(c, err)
	}
	return s.wrap(c, "create directory", s.root, c.client.MkdirAll(s.root, dirMode))
}

// there fails when the location itself is not.
func (s *Store) there(c *session) error {
	_, err := c.client.Stat(s.root)
	if err == nil || s.base != "" && errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return s.rootError(c, err)
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

// touch makes an empty file, which must not be there.
func touch(c *hdfs.Client, file string) error {
	f, err := c.CreateFile(file, 1, usualBlock, 0o644)
	if err != nil {
		return err
	}
	return f.Close()
}

// usualBlock is a block size that every NameNode takes, Hadoop's default.
const usualBlock = 128 << 20

func legalSegment(seg string) bool {
	return seg != "" && len(seg) <= 255 && !strings.ContainsFunc(seg, func(c rune) bool {
		return (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && c != '.' && c != '_' && c != '-'
	})
}

func hidden(name string) bool { return strings.HasPrefix(name, ".") }

// random is a name nobody else draws.
func random() string { return strings.ToLower(rand.Text()[:16]) }
