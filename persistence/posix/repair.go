package posix

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/understudy-ha/understudy/persistence"
)

var (
	_ persistence.Surveyor = (*Store)(nil)
	_ persistence.Repairer = (*Store)(nil)
)

// Survey implements persistence.Surveyor.
func (s *Store) Survey(ctx context.Context) ([]persistence.Entry, error) {
	if err := s.open(); err != nil {
		return nil, err
	}
	return call(ctx, s.objects, func() ([]persistence.Entry, error) {
		entries, err := listDir(s.dir)
		if err != nil {
			return nil, rootError(s.dir, err)
		}
		out := make([]persistence.Entry, 0, len(entries))
		for _, e := range entries {
			x := persistence.Entry{Name: e.Name()}
			if fi, err := e.Info(); err == nil { // it may be gone by now
				x.Modified = fi.ModTime()
			}
			out = append(out, x)
		}
		return out, nil
	}, nil)
}

// Parts implements persistence.Repairer: the names in lease/.
func (s *Store) Parts(ctx context.Context) ([][]byte, error) {
	if err := s.open(); err != nil {
		return nil, err
	}
	names, err := call(ctx, s.reads, s.names, nil)
	if errors.Is(err, persistence.Torn) { // a file where the directory belongs
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	parts := make([][]byte, len(names))
	for i, n := range names {
		parts[i] = []byte(n)
	}
	return parts, nil
}

// Replace implements persistence.Repairer:
//
//	mkdir .repair-x; creat .repair-x/VALUE
//	rename lease/* .repair-x/*     until lease/ lists empty
//	rename .repair-x/VALUE lease/VALUE; fsync lease, .
//
// The directory lease/ stays the one it was: a client that still has it in its
// cache must not go on renewing in one that was moved away. Each name is taken
// by a rename, as a CAS would take it, so that a CAS from it fails.
func (s *Store) Replace(ctx context.Context, val []byte) (aside string, err error) {
	if err := s.open(); err != nil {
		return "", err
	}
	if err := s.token(val); err != nil {
		return "", err
	}
	return call(ctx, s.writes, func() (string, error) { return s.replace(string(val)) }, nil)
}

func (s *Store) replace(val string) (string, error) {
	name := ".repair-" + random()
	aside, dir := filepath.Join(s.dir, name), filepath.Join(s.dir, leaseDir)
	if err := os.Mkdir(aside, dirMode); err != nil {
		return "", wrap("create a directory in", s.dir, err)
	}
	if err := touch(filepath.Join(aside, val)); err != nil {
		return name, wrap("create a file in", aside, err)
	}
	if err := s.makePlace(dir, aside); err != nil {
		return name, err
	}
	if err := s.clearPlace(dir, aside); err != nil {
		return name, err
	}
	if err := syscall.Rename(filepath.Join(aside, val), filepath.Join(dir, val)); err != nil {
		return name, wrap("rename a file into", dir, err)
	}
	for _, d := range []string{aside, dir, s.dir} {
		if err := s.syncDir(d); err != nil {
			return name, wrap("fsync", d, err)
		}
	}
	switch names, err := s.names(); {
	case err != nil:
		return name, err
	case len(names) != 1 || names[0] != val:
		return name, fmt.Errorf("%w: %s holds %s after the repair: some node is still running; stop it and repair again", persistence.Conflict, dir, persistence.QuoteNames(names))
	}
	if os.Remove(aside) == nil { // nothing was there to keep
		name = ""
	}
	return name, nil
}

// makePlace sees to it that dir is a directory.
func (s *Store) makePlace(dir, aside string) error {
	_, err := listDir(dir)
	if errors.Is(err, syscall.ENOTDIR) {
		if err := syscall.Rename(dir, filepath.Join(aside, leaseDir)); err != nil {
			return wrap("move aside", dir, err)
		}
		err = syscall.ENOENT
	}
	if isMissing(err) {
		if err := os.Mkdir(dir, dirMode); err != nil {
			return wrap("create directory", dir, err)
		}
		return nil
	}
	if err != nil {
		return wrap("list", dir, err)
	}
	return nil
}

// clearPlace moves everything in dir aside. Somebody who goes on writing there
// keeps it from ending, and is told so.
func (s *Store) clearPlace(dir, aside string) error {
	for range 100 {
		entries, err := listDir(dir)
		if err != nil {
			return wrap("list", dir, err)
		}
		// What a network file system keeps of an open file goes by itself.
		entries = slices.DeleteFunc(entries, func(e os.DirEntry) bool { return hidden(e.Name()) })
		if len(entries) == 0 {
			return nil
		}
		for _, e := range entries {
			err := syscall.Rename(filepath.Join(dir, e.Name()), filepath.Join(aside, e.Name()))
			if err != nil && !isMissing(err) {
				return wrap("move aside a file in", dir, err)
			}
		}
	}
	return fmt.Errorf("%w: names keep appearing in %s: some node is still running; stop it and repair again", persistence.Conflict, dir)
}
