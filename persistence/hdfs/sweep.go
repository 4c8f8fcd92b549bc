package hdfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/understudy-ha/understudy/persistence"
)

var (
	_ persistence.Ranger  = (*Store)(nil)
	_ persistence.Sweeper = (*Store)(nil)
)

const (
	// tmpPrefix begins the name of a file that is being written.
	tmpPrefix = ".tmp-"
	// writeTakes is how long a file may take to be written. The NameNode tells
	// when it was begun, and not when its last block came.
	writeTakes = 24 * time.Hour
)

// GetFrom implements persistence.Ranger.
func (s *Store) GetFrom(ctx context.Context, key string, offset int64) (io.ReadCloser, error) {
	if offset < 0 {
		return nil, fmt.Errorf("%w: an offset of %d", persistence.Unsupported, offset)
	}
	return s.get(ctx, key, offset)
}

// Sweep implements persistence.Sweeper: temporary files, in the directories that
// objects with the prefix lie in. None counts as left behind within a day.
func (s *Store) Sweep(ctx context.Context, prefix string, age time.Duration, remove bool) ([]persistence.Entry, error) {
	if err := s.open(); err != nil {
		return nil, err
	}
	dir := ""
	if i := strings.LastIndexByte(prefix, '/'); i >= 0 {
		dir = prefix[:i]
		if err := checkKey(dir); err != nil {
			return nil, nil //nolint:nilerr // no key has such a prefix
		}
	}
	return call(ctx, s.objects, "sweep "+s.url(s.in(dir)), func(c *session) ([]persistence.Entry, error) {
		b := broom{s: s, c: c, age: max(age, writeTakes), remove: remove}
		err := b.sweep(dir)
		return b.found, err
	})
}

// broom looks for what Puts have left behind.
type broom struct {
	s      *Store
	c      *session
	age    time.Duration
	remove bool
	now    time.Time // of the NameNode; zero: not asked yet
	found  []persistence.Entry
}

// sweep looks into a directory beneath the location, whose own name is "".
func (b *broom) sweep(dir string) error {
	file := strings.TrimSuffix(b.s.in(dir), "/")
	entries, err := b.c.list(file)
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, errNotDir) && dir != "":
		return b.s.there(b.c) // nothing yet, or an object, where a directory would be
	case err != nil:
		return b.s.wrap(b.c, "list", file, err)
	}
	for _, e := range entries {
		name := strings.TrimPrefix(dir+"/"+e.Name(), "/")
		switch {
		case e.IsDir() && !hidden(e.Name()):
			err = b.sweep(name)
		case !e.IsDir() && strings.HasPrefix(e.Name(), tmpPrefix):
			err = b.consider(persistence.Entry{Name: name, Modified: e.ModTime()})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// consider judges one temporary file.
func (b *broom) consider(e persistence.Entry) error {
	if b.now.IsZero() {
		var err error
		if b.now, err = b.s.scratch(b.c); err != nil {
			return err
		}
	}
	if b.now.Sub(e.Modified) < b.age {
		return nil
	}
	if b.remove {
		file := b.s.in(e.Name)
		if err := b.c.client.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
			return b.s.wrap(b.c, "remove", file, err)
		}
	}
	b.found = append(b.found, e)
	return nil
}
