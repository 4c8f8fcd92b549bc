package hdfs

import (
	"context"
	"errors"
	"os"

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
	return call(ctx, s.objects, "list "+s.url(s.root), func(c *session) ([]persistence.Entry, error) {
		entries, err := c.list(s.root)
		if err != nil {
			return nil, s.rootError(c, err)
		}
		out := make([]persistence.Entry, 0, len(entries))
		for _, e := range entries {
			out = append(out, persistence.Entry{Name: e.Name(), Modified: e.ModTime()})
		}
		return out, nil
	})
}

// Parts implements persistence.Repairer: the names in lease/.
func (s *Store) Parts(ctx context.Context) ([][]byte, error) {
	if err := s.open(); err != nil {
		return nil, err
	}
	names, err := call(ctx, s.reads, "read "+s.url(s.in(leaseDir)), s.names)
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
//	mkdirs .repair-x; create .repair-x/VALUE
//	rename2 lease/* .repair-x/*     until lease/ lists empty
//	rename2 .repair-x/VALUE lease/VALUE
//
// Each name is taken by a rename, as a CAS would take it, so that a CAS from it
// fails.
func (s *Store) Replace(ctx context.Context, val []byte) (aside string, err error) {
	if err := s.open(); err != nil {
		return "", err
	}
	if err := s.token(val); err != nil {
		return "", err
	}
	return call(ctx, s.writes, "repair "+s.url(s.in(leaseDir)), func(c *session) (string, error) { return s.replace(c, string(val)) })
}

func (s *Store) replace(c *session, val string) (string, error) {
	name := ".repair-" + random()
	aside, dir := s.in(name), s.in(leaseDir)
	if err := c.client.Mkdir(aside, dirMode); err != nil {
		return "", s.wrap(c, "create a directory in", s.root, err)
	}
	if err := touch(c.client, aside+"/"+val); err != nil {
		return name, s.wrap(c, "create a file in", aside, err)
	}
	if err := s.makePlace(c, dir, aside); err != nil {
		return name, err
	}
	if err := s.clearPlace(c, dir, aside); err != nil {
		return name, err
	}
	if err := c.client.Rename(aside+"/"+val, dir+"/"+val); err != nil {
		return name, s.wrap(c, "rename a file into", dir, err)
	}
	switch names, err := s.names(c); {
	case err != nil:
		return name, err
	case len(names) != 1 || names[0] != val:
		return name, ours("%w: %s holds %s after the repair: some node is still running; stop it and repair again", persistence.Conflict, s.url(dir), persistence.QuoteNames(names))
	}
	if c.client.Remove(aside) == nil { // nothing was there to keep
		name = ""
	}
	return name, nil
}

// makePlace sees to it that dir is a directory.
func (s *Store) makePlace(c *session, dir, aside string) error {
	fi, err := c.client.Stat(dir)
	if err == nil && !fi.IsDir() {
		if err := c.client.Rename(dir, aside+"/"+leaseDir); err != nil {
			return s.wrap(c, "move aside", dir, err)
		}
		err = os.ErrNotExist
	}
	if errors.Is(err, os.ErrNotExist) {
		err = c.client.Mkdir(dir, dirMode)
	}
	return s.wrap(c, "create directory", dir, err)
}

// clearPlace moves everything in dir aside. Somebody who goes on writing there
// keeps it from ending, and is told so.
func (s *Store) clearPlace(c *session, dir, aside string) error {
	for range 100 {
		entries, err := c.list(dir)
		if err != nil {
			return s.wrap(c, "list", dir, err)
		}
		if len(entries) == 0 {
			return nil
		}
		for _, e := range entries {
			err := c.client.Rename(dir+"/"+e.Name(), aside+"/"+e.Name())
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				return s.wrap(c, "move aside a file in", dir, err)
			}
		}
	}
	return ours("%w: names keep appearing in %s: some node is still running; stop it and repair again", persistence.Conflict, s.url(dir))
}
