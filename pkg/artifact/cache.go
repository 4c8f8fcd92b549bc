package artifact

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	partPrefix = ".part-"
	// fileMode lets what is cached be executed, by whomever the service turns
	// itself into, and written by nobody.
	fileMode = 0o555
	dirMode  = 0o755
	// lockPoll is how often a file is looked at that another process fetches.
	lockPoll = 50 * time.Millisecond
)

// DefaultCacheSize bounds a cache for which nothing else was said, in bytes.
const DefaultCacheSize = 10 << 30

// Cache keeps artifacts on this machine's disk, each under its digest. Several
// processes may share one. What is in it is verified at each use, so that
// nothing depends on how it came there.
type Cache struct {
	dir  string
	size int64
}

// OpenCache returns the cache in dir, which is made if need be. It keeps to
// size bytes by removing what was not used for the longest time and is not in
// use; 0 means DefaultCacheSize.
func OpenCache(dir string, size int64) (*Cache, error) {
	if err := os.MkdirAll(dir, dirMode); err != nil {
		return nil, fmt.Errorf("artifacts.cacheDir: %w; name a directory on a local disk", err)
	}
	return &Cache{dir: dir, size: cmp.Or(size, DefaultCacheSize)}, nil
}

// Local is a verified copy of an artifact. As long as it is not closed no cache
// removes it.
type Local struct {
	Path string // absolute; may be executed
	f    *os.File
}

// Close lets the cache remove the copy once it needs the space.
func (l *Local) Close() error { return l.f.Close() }

// Fetch opens the content of an artifact from the byte at offset on.
type Fetch func(ctx context.Context, offset int64) (io.ReadCloser, error)

// Get returns a copy that was verified just now: what is there, or else what
// fetch brings. A part that was fetched before, even by a process that was
// killed, is gone on with. ErrCorrupt: that is what fetch brought.
func (c *Cache) Get(ctx context.Context, d Digest, size int64, fetch Fetch) (*Local, error) {
	for {
		l, err := c.look(ctx, d, size)
		if err == nil || !errors.Is(err, os.ErrNotExist) {
			return l, err
		}
		// Whoever else fetches it at this moment may leave it behind complete.
		if err := c.fetch(ctx, d, size, fetch); err != nil {
			return nil, err
		}
	}
}

// look returns the copy that is there, after reading all of it. One that is
// damaged is removed. os.ErrNotExist: there is none.
func (c *Cache) look(ctx context.Context, d Digest, size int64) (*Local, error) {
	path := filepath.Join(c.dir, string(d))
	for {
		f, err := os.Open(path)
		if err != nil {
			return nil, c.explain(err)
		}
		if err := lockShared(ctx, f); err != nil {
			return nil, errors.Join(err, f.Close())
		}
		if !isAt(f, path) { // removed between the two
			_ = f.Close()
			continue
		}
		_, err = io.Copy(io.Discard, Verify(contextReader{ctx, f}, d, size))
		switch {
		case errors.Is(err, ErrCorrupt):
			if err := errors.Join(os.Remove(path), f.Close()); err != nil {
				return nil, c.explain(err)
			}
		case err != nil:
			return nil, errors.Join(c.explain(err), f.Close())
		default:
			now := time.Now()
			_ = os.Chtimes(path, now, now) // for the order of removal only
			return &Local{Path: path, f: f}, nil
		}
	}
}

// fetch puts the artifact into its place, verified.
func (c *Cache) fetch(ctx context.Context, d Digest, size int64, fetch Fetch) error {
	path, final := filepath.Join(c.dir, partPrefix+string(d)), filepath.Join(c.dir, string(d))
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return c.explain(err)
	}
	defer f.Close() // closed below on the way to success
	if mine, err := lockPart(ctx, f, path); !mine || err != nil {
		return err // another process has brought it into its place: look again
	}
	if _, err := os.Stat(final); err == nil { // so it has, before we made ours
		return c.explain(os.Remove(path))
	}
	if err := c.makeRoom(size); err != nil {
		return err
	}
	if err := Complete(ctx, f, d, size, fetch); err != nil {
		return c.explain(err)
	}
	if err := errors.Join(f.Chmod(fileMode), f.Sync(), os.Rename(path, final)); err != nil {
		return c.explain(err)
	}
	return c.explain(syncDir(c.dir))
}

// Complete fetches what is missing of the content of which f holds the first
// part, and verifies all of it. If what f holds turns out wrong, everything is
// fetched anew. What was fetched before an error stays in f, to be gone on with,
// unless it is ErrCorrupt.
func Complete(ctx context.Context, f *os.File, d Digest, size int64, fetch Fetch) error {
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	begun := fi.Size()
	if begun > size {
		begun = 0
	}
	for {
		err := fillFrom(ctx, f, begun, d, size, fetch)
		if begun == 0 || !errors.Is(err, ErrCorrupt) {
			if errors.Is(err, ErrCorrupt) {
				err = errors.Join(err, f.Truncate(0)) // nothing to go on with
			}
			return err
		}
		begun = 0
	}
}

// fillFrom verifies the first begun bytes of f together with what it fetches.
func fillFrom(ctx context.Context, f *os.File, begun int64, d Digest, size int64, fetch Fetch) error {
	if err := f.Truncate(begun); err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	rc, err := fetch(ctx, begun)
	if err != nil {
		return err
	}
	// What was there is read, what comes is written; both pass the hash.
	fresh := io.TeeReader(contextReader{ctx, rc}, &appender{f, begun})
	_, err = io.Copy(io.Discard, Verify(io.MultiReader(io.LimitReader(f, begun), fresh), d, size))
	return errors.Join(err, rc.Close())
}

// appender writes at a place of its own in the file, whatever is read of it.
type appender struct {
	f  *os.File
	at int64
}

// Write implements io.Writer.
func (a *appender) Write(p []byte) (int, error) {
	n, err := a.f.WriteAt(p, a.at)
	a.at += int64(n)
	return n, err
}

// makeRoom removes what was used longest ago until size more bytes fit.
func (c *Cache) makeRoom(size int64) error {
	if size > c.size {
		return fmt.Errorf("an artifact of %d bytes does not fit into a cache of %d; raise artifacts.cacheSize", size, c.size)
	}
	files, err := os.ReadDir(c.dir)
	if err != nil {
		return c.explain(err)
	}
	var kept []os.FileInfo
	total := size
	for _, e := range files {
		if fi, err := e.Info(); err == nil && isOurs(e.Name()) && fi.Mode().IsRegular() { // or it is gone already
			kept = append(kept, fi)
			total += fi.Size()
		}
	}
	slices.SortFunc(kept, func(a, b os.FileInfo) int { return a.ModTime().Compare(b.ModTime()) })
	for _, fi := range kept {
		if total <= c.size {
			return nil
		}
		if removeUnused(filepath.Join(c.dir, fi.Name())) {
			total -= fi.Size()
		}
	}
	// What is in use stays, even if it is too much.
	return nil
}

// isOurs reports whether a file in the directory is the cache's.
func isOurs(name string) bool {
	d, err := ParseDigest(strings.TrimPrefix(name, partPrefix))
	return err == nil && strings.HasSuffix(name, string(d))
}

// removeUnused removes a file that nobody has locked.
func removeUnused(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return errors.Is(err, os.ErrNotExist)
	}
	defer f.Close()                                                // it was only locked
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil { //nolint:gosec // a file descriptor is small
		return false
	}
	return os.Remove(path) == nil
}

// explain says which cache failed, and the remedy where the disk is at fault.
func (c *Cache) explain(err error) error {
	var pe *os.PathError
	switch {
	case err == nil, errors.Is(err, os.ErrNotExist):
		return err
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("artifacts.cacheDir: %w; free space there, or name another directory", err)
	case errors.As(err, &pe):
		return fmt.Errorf("artifacts.cacheDir: %w; give %s to the user that runs understudy", err, c.dir)
	}
	return err
}

// lockShared waits for a shared lock of a file while ctx lasts. It goes with the
// file.
func lockShared(ctx context.Context, f *os.File) error {
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) //nolint:gosec // a file descriptor is small
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return err
		}
		if err := pause(ctx, lockPoll); err != nil {
			return fmt.Errorf("wait for another process to let go of %s: %w", f.Name(), err)
		}
	}
}

// lockPart waits until f, which was opened at path, is ours alone; false once it
// is there no longer. Then it is in its place, and in use, perhaps for ever: a
// lock is the file's, whatever its name.
func lockPart(ctx context.Context, f *os.File, path string) (bool, error) {
	for isAt(f, path) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) //nolint:gosec // a file descriptor is small
		switch {
		case err == nil:
			return isAt(f, path), nil
		case !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR):
			return false, err
		}
		if err := pause(ctx, lockPoll); err != nil {
			return false, fmt.Errorf("wait for another process to fetch %s: %w", f.Name(), err)
		}
	}
	return false, nil
}

// isAt reports whether an open file is still what its path leads to.
func isAt(f *os.File, path string) bool {
	a, aerr := f.Stat()
	b, berr := os.Stat(path)
	return aerr == nil && berr == nil && os.SameFile(a, b)
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// contextReader ends with its context: a large file takes a while.
type contextReader struct {
	ctx context.Context //nolint:containedctx // lives as long as one call
	r   io.Reader
}

// Read implements io.Reader.
func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
