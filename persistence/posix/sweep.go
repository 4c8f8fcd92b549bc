package posix

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/understudy-ha/understudy/persistence"
)

var (
	_ persistence.Ranger  = (*Store)(nil)
	_ persistence.Sweeper = (*Store)(nil)
)

// tmpPrefix begins the name of a file that is being written.
const tmpPrefix = ".tmp-"

// GetFrom implements persistence.Ranger.
func (s *Store) GetFrom(ctx context.Context, key string, offset int64) (io.ReadCloser, error) {
	if offset < 0 {
		return nil, fmt.Errorf("%w: an offset of %d", persistence.Unsupported, offset)
	}
	return s.get(ctx, key, offset)
}

// Sweep implements persistence.Sweeper: temporary files. It looks into the
// directories that objects with the prefix lie in.
func (s *Store) Sweep(ctx context.Context, prefix string, age time.Duration, remove bool) ([]persistence.Entry, error) {
	dir := "."
	if i := strings.LastIndexByte(prefix, '/'); i >= 0 {
		dir = prefix[:i]
	}
	if legal := dir == "." || checkKey(dir) == nil; !legal {
		return []persistence.Entry{}, nil // no key has such a prefix
	}
	if err := s.open(); err != nil {
		return nil, err
	}
	return call(ctx, s.objects, func() ([]persistence.Entry, error) {
		root, err := s.anchored()
		if err != nil {
			return nil, err
		}
		defer root.Close()
		b := broom{ctx: ctx, s: s, root: root, age: age, remove: remove}
		err = b.sweep(dir)
		return b.found, err
	}, nil)
}

// broom looks for what Puts have left behind.
type broom struct {
	ctx    context.Context //nolint:containedctx // lives as long as one call
	s      *Store
	root   *os.Root
	age    time.Duration
	remove bool
	now    time.Time // of the file system; zero: not asked yet
	found  []persistence.Entry
}

func (b *broom) sweep(dir string) error {
	if err := b.ctx.Err(); err != nil { // the caller has left; do not go on
		return fmt.Errorf("%w: sweep: %w", persistence.Unknown, err)
	}
	where := filepath.Join(b.s.dir, dir)
	entries, err := fs.ReadDir(b.root.FS(), dir)
	if isMissing(err) || errors.Is(err, syscall.ENOTDIR) {
		return nil
	}
	if err != nil {
		return wrap("list", where, err)
	}
	for _, e := range entries {
		switch name := path.Join(dir, e.Name()); {
		case e.IsDir() && !hidden(e.Name()):
			err = b.sweep(name)
		case e.Type().IsRegular() && strings.HasPrefix(e.Name(), tmpPrefix):
			err = b.consider(name, e)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// consider judges one temporary file.
func (b *broom) consider(name string, e os.DirEntry) error {
	fi, err := e.Info()
	if isMissing(err) {
		return nil // it was renamed or removed since it was listed
	}
	if err == nil && b.now.IsZero() {
		b.now, err = b.clock(path.Dir(name))
	}
	if err != nil {
		return wrap("look at", filepath.Join(b.s.dir, name), err)
	}
	if b.now.Sub(fi.ModTime()) < b.age {
		return nil
	}
	if b.remove {
		if err := b.root.Remove(name); err != nil && !isMissing(err) {
			return wrap("remove", filepath.Join(b.s.dir, name), err)
		}
	}
	b.found = append(b.found, persistence.Entry{Name: name, Modified: fi.ModTime()})
	return nil
}

// clock asks the file system for its time: that of a file made now. A file
// server's clock need not be ours.
func (b *broom) clock(dir string) (time.Time, error) {
	name := path.Join(dir, tmpPrefix+random())
	f, err := b.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return time.Time{}, err
	}
	fi, err := f.Stat()
	return modTime(fi), errors.Join(err, f.Close(), b.root.Remove(name))
}

func modTime(fi fs.FileInfo) time.Time {
	if fi == nil {
		return time.Time{}
	}
	return fi.ModTime()
}
