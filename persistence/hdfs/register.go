package hdfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/understudy-ha/understudy/persistence"
)

// Read implements persistence.Register: one listing.
func (s *Store) Read(ctx context.Context) (persistence.Snapshot, error) {
	if err := s.open(); err != nil {
		return persistence.Snapshot{}, err
	}
	return call(ctx, s.reads, "read "+s.url(s.in(leaseDir)), func(c *session) (persistence.Snapshot, error) {
		names, err := s.names(c)
		if err != nil {
			return persistence.Snapshot{}, err
		}
		snap, err := s.judge(names)
		if err == nil {
			err = s.settle(c, string(snap.Version))
		}
		return snap, err
	})
}

// names lists the register.
func (s *Store) names(c *session) ([]string, error) {
	dir := s.in(leaseDir)
	entries, err := c.list(dir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		if err := s.there(c); err != nil {
			return nil, err
		}
		return nil, ours("%w: there is no register in %s", persistence.Absent, s.url(s.root))
	case errors.Is(err, errNotDir):
		return nil, ours("%w: %s is a file, so it is no register; with all nodes stopped, 'understudy store repair' moves it aside", persistence.Torn, s.url(dir))
	case err != nil:
		return nil, s.wrap(c, "list", dir, err)
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		if !hidden(e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// judge finds the one value among the names in lease/. Without one the error is
// Torn: a NameNode shows each rename whole, so looking again would not help.
func (s *Store) judge(names []string) (persistence.Snapshot, error) {
	var values, others []string
	for _, n := range names {
		if s.opts.Valid([]byte(n)) {
			values = append(values, n)
		} else {
			others = append(others, n)
		}
	}
	dir := s.url(s.in(leaseDir))
	const remedy = "with all nodes stopped, 'understudy store fsck' says what is there and 'understudy store repair' puts a value in its place"
	switch {
	case len(values) > 1:
		return persistence.Snapshot{}, ours("%w: %s holds %d values, %s; %s", persistence.Torn, dir, len(values), persistence.QuoteNames(values), remedy)
	case len(values) == 0 && len(others) > 0:
		return persistence.Snapshot{}, ours("%w: %s holds no value this version can read, only %s; %s", persistence.Torn, dir, persistence.QuoteNames(others), remedy)
	case len(values) == 0:
		return persistence.Snapshot{}, ours("%w: %s is empty; %s", persistence.Torn, dir, remedy)
	}
	if len(others) > 0 {
		s.warn(fmt.Sprintf("%s holds foreign files beside the register: %s; remove them", dir, persistence.QuoteNames(others)))
	}
	return persistence.Snapshot{Version: persistence.Version(values[0]), Value: []byte(values[0])}, nil
}

// CAS implements persistence.Register by one rename2. Conflict stands for a
// source that is not there: as with every error, the caller reads.
func (s *Store) CAS(ctx context.Context, old persistence.Version, val []byte) (persistence.Version, error) {
	if err := s.open(); err != nil {
		return "", err
	}
	if err := s.token(val); err != nil {
		return "", err
	}
	from, to := string(old), string(val)
	if from == "" || hidden(from) || strings.ContainsAny(from, "/\x00") {
		return "", fmt.Errorf("%w: %q is not a version of %s", persistence.Conflict, from, s.url(s.root))
	}
	if from == to {
		return "", fmt.Errorf("%w: the new value equals the old; every attempt must differ", persistence.Unsupported)
	}
	dir := s.in(leaseDir)
	err := s.writes.do(ctx, "rename in "+s.url(dir), func(c *session) error {
		err := c.client.Rename(dir+"/"+from, dir+"/"+to)
		if errors.Is(err, os.ErrNotExist) {
			return ours("%w: rename in %s: the register is gone or holds another value; read it", persistence.Conflict, s.url(dir))
		}
		return s.wrap(c, "rename in", dir, err)
	})
	if err != nil {
		s.doubt(to)
		return "", err
	}
	return persistence.Version(to), nil
}

// token refuses values that Read would not find again.
func (s *Store) token(val []byte) error {
	if len(val) == 0 || len(val) > persistence.MaxValueLen || hidden(string(val)) ||
		strings.ContainsAny(string(val), "/:\x00") || !s.opts.Valid(val) {
		return fmt.Errorf("%w: %.200q can not be a value of a register", persistence.Unsupported, val)
	}
	return nil
}

// Init implements persistence.Register: the register is built aside and renamed
// into its place, which fails if there is one already.
func (s *Store) Init(ctx context.Context, val []byte) error {
	if err := s.open(); err != nil {
		return err
	}
	if err := s.token(val); err != nil {
		return err
	}
	err := s.writes.do(ctx, "create a register in "+s.url(s.root), func(c *session) error { return s.create(c, string(val)) })
	if err != nil {
		s.doubt(string(val))
	}
	return err
}

func (s *Store) create(c *session, name string) error {
	if err := s.ensureRoot(c); err != nil {
		return err
	}
	tmp, dir := s.in(".init-"+random()), s.in(leaseDir)
	if err := c.client.Mkdir(tmp, dirMode); err != nil {
		if terr := s.there(c); terr != nil {
			return terr
		}
		return s.wrap(c, "create a directory in", s.root, err)
	}
	if err := touch(c.client, tmp+"/"+name); err != nil {
		return s.wrap(c, "create a file in", tmp, err)
	}
	err := c.client.Rename(tmp, dir)
	if err == nil || c.cause(err) != nil {
		return err
	}
	_ = c.client.RemoveAll(tmp) // nothing sees it
	if _, serr := c.client.Stat(dir); serr == nil {
		return ours("%w: %s exists already", persistence.Conflict, s.url(dir))
	}
	return s.wrap(c, "rename a directory to", dir, err)
}

// doubt remembers a value whose outcome is unknown. One that is forgotten, after
// so many later ones, is older than any lease.
func (s *Store) doubt(val string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.doubts = append(s.doubts, val)
	if len(s.doubts) > manyDoubts {
		s.doubts = slices.Delete(s.doubts, 0, len(s.doubts)-manyDoubts)
	}
}

// settle makes sure that val, if it is of an attempt of ours that had no answer,
// is durable before anybody hears of it: a NameNode shows what the JournalNodes
// do not have yet, and may never take from it. Edits are made durable in their
// order, so another one, on the same connection, that succeeds proves it.
func (s *Store) settle(c *session, val string) error {
	s.mu.Lock()
	doubtful := slices.Contains(s.doubts, val)
	s.mu.Unlock()
	if !doubtful {
		return nil
	}
	dir := s.in(".settle-" + random())
	if err := c.client.Mkdir(dir, dirMode); err != nil {
		return s.wrap(c, "settle an unanswered write by another one in", s.root, err)
	}
	s.mu.Lock()
	s.doubts = slices.DeleteFunc(s.doubts, func(x string) bool { return x == val })
	s.mu.Unlock()
	_ = c.client.Remove(dir) // it is hidden, and removed as scratch areas are
	return nil
}
