package hdfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/colinmarc/hdfs/v2"

	"github.com/understudy-ha/understudy/persistence"
)

func checkKey(key string) error {
	for i, seg := range strings.Split(key, "/") {
		if !legalSegment(seg) || hidden(seg) || len(key) > 1024 || (i == 0 && seg == leaseDir) {
			return fmt.Errorf("%w: %.200q is not the key of an object", persistence.Unsupported, key)
		}
	}
	return nil
}

// Put implements persistence.Objects. What is small is an attribute of an empty
// file; the rest a file that is written aside and renamed.
func (s *Store) Put(ctx context.Context, key string, r io.Reader, size int64) error {
	if err := s.open(); err != nil {
		return err
	}
	if err := checkKey(key); err != nil {
		return err
	}
	// r is the caller's, who may leave before a worker comes back: it is read
	// here, and a worker gets what was read.
	var head bytes.Buffer
	n, err := io.CopyN(&head, r, smallSize+1)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("put %s: read its content: %w", key, err)
	}
	whole := err != nil
	if whole && size >= 0 && n != size || size >= 0 && n > size {
		return fmt.Errorf("put %s: its size was announced as %d bytes, but %d came", key, size, n)
	}
	if whole && !s.link.noAttrs.Load() {
		content := head.String()
		err := s.object(ctx, "put", s.in(key), func(c *session) error { return s.putSmall(c, key, content) })
		if !errors.Is(err, errNoAttrs) {
			return err
		}
	}
	w := &writer{s: s, key: key, want: size}
	return w.put(ctx, io.MultiReader(&head, r))
}

// errNoAttrs says that an attribute can not be had for this.
var errNoAttrs = errors.New("no extended attributes")

// putSmall sets the attribute, which is one request where this handle did so
// before. Otherwise the file is made aside: there may be none, or one that has
// content of its own.
func (s *Store) putSmall(c *session, key, content string) error {
	file := s.in(key)
	if s.isAttr(key) {
		err := c.client.SetXAttr(file, attribute, content)
		if err == nil || !errors.Is(err, os.ErrNotExist) {
			return s.attrError(c, file, err)
		}
	}
	tmp := path.Dir(file) + "/" + tmpPrefix + random()
	err := touch(c.client, tmp)
	if errors.Is(err, os.ErrNotExist) {
		if err := s.parents(c, path.Dir(file)); err != nil {
			return err
		}
		err = touch(c.client, tmp)
	}
	if err != nil {
		return s.wrap(c, "create a file in", path.Dir(file), err)
	}
	if err = c.client.SetXAttr(tmp, attribute, content); err != nil {
		err = s.attrError(c, file, err)
	} else {
		err = s.wrap(c, "rename a file to", file, c.client.Rename(tmp, file))
	}
	if err != nil {
		if c.cause(err) == nil {
			_ = c.client.Remove(tmp) // a name that begins with '.' hurts nobody
		}
		return err
	}
	s.setAttr(key, true)
	return nil
}

// attrError tells apart what speaks against attributes and what against this
// write.
func (s *Store) attrError(c *session, file string, err error) error {
	var he hdfs.Error
	switch {
	case errors.As(err, &he) && strings.Contains(he.Message(), "dfs.namenode.xattrs.enabled"):
		s.link.noAttrs.Store(true)
		s.warn(s.url(s.root) + ": extended attributes are turned off (dfs.namenode.xattrs.enabled), so that each node's record is a file written through a DataNode: several requests in place of one; turn them on if you can")
		return ours("%w", errNoAttrs)
	case errors.Is(err, os.ErrInvalid): // longer than dfs.namenode.fs-limits.max-xattr-size
		return ours("%w", errNoAttrs)
	}
	return s.wrap(c, "put", file, err)
}

// parents makes the directories down to dir, beneath the location.
func (s *Store) parents(c *session, dir string) error {
	if s.base == "" {
		if err := s.there(c); err != nil {
			return err
		}
	} else if err := s.ensureRoot(c); err != nil {
		return err
	}
	return s.wrap(c, "create directory", dir, c.client.MkdirAll(dir, dirMode))
}

func (s *Store) isAttr(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.attrs[key]
	return ok
}

// setAttr remembers which keys are attributes, of some of the latest.
func (s *Store) setAttr(key string, is bool) {
	const most = 256
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.attrs) >= most {
		clear(s.attrs)
	}
	if is {
		s.attrs[key] = struct{}{}
	} else {
		delete(s.attrs, key)
	}
}

// writer is one Put of a file. It has a session of its own, which the library
// keeps the file's lease on.
type writer struct {
	s    *Store
	key  string
	want int64 // size, -1 when unknown
	got  int64
}

func (w *writer) put(ctx context.Context, r io.Reader) error {
	s := w.s
	what := "put " + s.url(s.in(w.key))
	c, err := call(ctx, s.objects, what, func(found *session) (*session, error) {
		// A connection alone does not show that its NameNode is active; an answer
		// does.
		if err := s.there(found); err != nil {
			return nil, err
		}
		return s.link.open(ctx, found.at, false)
	})
	if err != nil {
		return err
	}
	defer c.finish()
	defer c.during(ctx)()
	err = w.write(c, r)
	if cause := c.cause(err); cause != nil && !errors.Is(err, errContent) {
		s.link.demote(ctx, c.at)
		return s.link.lost(ctx, what, c.at, cause)
	}
	return err
}

// errContent marks errors of what a Put was given.
var errContent = errors.New("content")

// write writes the file aside and renames it.
func (w *writer) write(c *session, r io.Reader) error {
	s, file := w.s, w.s.in(w.key)
	tmp := path.Dir(file) + "/" + tmpPrefix + random()
	f, err := w.create(c, tmp)
	if err != nil {
		return err
	}
	err = w.copy(c, f, r)
	if err == nil {
		err = w.finish(c, f, tmp)
	} else {
		_ = f.Close() // or the library would keep what it has begun alive for ever
	}
	if err == nil {
		err = s.wrap(c, "rename a file to", file, c.client.Rename(tmp, file))
	}
	if err != nil {
		_ = c.client.Remove(tmp) // a name that begins with '.' hurts nobody if this fails
		return err
	}
	s.setAttr(w.key, false)
	return nil
}

// create begins the file, of one block if its size is known: the library can not
// wait for the DataNodes to agree to one block before it asks for the next.
func (w *writer) create(c *session, tmp string) (*hdfs.FileWriter, error) {
	const (
		sector  = 512     // what checksums are over, which a block is a multiple of
		largest = 8 << 30 // of blocks, lest a DataNode has no room for one
	)
	defaults, err := c.client.ServerDefaults()
	if err != nil {
		return nil, w.s.wrap(c, "ask for the defaults of", "/", err)
	}
	block := max(defaults.BlockSize, usualBlock, min(w.want/sector*sector+sector, largest))
	f, err := c.client.CreateFile(tmp, defaults.Replication, block, 0o644)
	if errors.Is(err, os.ErrNotExist) {
		if err := w.s.parents(c, path.Dir(tmp)); err != nil {
			return nil, err
		}
		f, err = c.client.CreateFile(tmp, defaults.Replication, block, 0o644)
	}
	if err != nil {
		return nil, w.s.wrap(c, "create a file in", path.Dir(tmp), err)
	}
	return f, nil
}

func (w *writer) copy(c *session, f *hdfs.FileWriter, r io.Reader) error {
	buf := make([]byte, 64<<10)
	for {
		n, err := r.Read(buf)
		if c.over() { // the library would go on filling its buffer, however slowly more comes
			return errSecondDial
		}
		w.got += int64(n)
		last := errors.Is(err, io.EOF)
		if w.want >= 0 && (w.got > w.want || last && w.got < w.want) {
			return &told{fmt.Errorf("%w: put %s: its size was announced as %d bytes, but %d came", errContent, w.key, w.want, w.got)}
		}
		if err != nil && !last {
			return &told{fmt.Errorf("%w: put %s: read its content: %w", errContent, w.key, err)}
		}
		if n > 0 { // an empty write would begin a block, and one without content is never complete
			if _, err := f.Write(buf[:n]); err != nil {
				return w.s.wrap(c, "write", w.s.in(w.key), err)
			}
		}
		if last {
			return nil
		}
	}
}

// finish closes the file, which the DataNodes may take a moment to agree to, and
// compares its length.
func (w *writer) finish(c *session, f *hdfs.FileWriter, tmp string) error {
	err := f.Close()
	for wait := 5 * time.Millisecond; hdfs.IsErrReplicating(err); wait = min(2*wait, time.Second) {
		c.mu.Lock()
		ctx := c.limit()
		c.mu.Unlock()
		select {
		case <-ctx.Done():
			return err
		case <-time.After(wait):
		}
		err = f.Close()
	}
	if err != nil {
		return w.s.wrap(c, "write", w.s.in(w.key), err)
	}
	fi, err := c.client.Stat(tmp)
	if err != nil {
		return w.s.wrap(c, "look at", tmp, err)
	}
	if fi.Size() != w.got {
		return ours("%w: put %s: %d bytes were written, but the file has %d; look at the DataNodes' logs", persistence.Unknown, w.key, w.got, fi.Size())
	}
	return nil
}

// Get implements persistence.Objects.
func (s *Store) Get(ctx context.Context, key string) (io.ReadCloser, error) {
	return s.get(ctx, key, 0)
}

// get opens an object at an offset.
func (s *Store) get(ctx context.Context, key string, offset int64) (io.ReadCloser, error) {
	if err := s.open(); err != nil {
		return nil, err
	}
	if err := checkKey(key); err != nil {
		return nil, err
	}
	what := "get " + s.url(s.in(key))
	return call(ctx, s.objects, what, func(c *session) (io.ReadCloser, error) {
		content, err := s.small(c, key)
		if err == nil {
			return &smallReader{ctx, what, strings.NewReader(content[min(offset, int64(len(content))):])}, nil
		}
		if !errors.Is(err, errNoAttrs) {
			return nil, err
		}
		return s.openFile(ctx, c.at, what, s.in(key), offset)
	})
}

// small is the content of an object that is an attribute; errNoAttrs if it is
// none.
func (s *Store) small(c *session, key string) (string, error) {
	if s.link.noAttrs.Load() {
		return "", ours("%w", errNoAttrs)
	}
	file := s.in(key)
	attrs, err := c.client.GetXAttrs(file, attribute)
	var pe *os.PathError
	switch {
	case errors.Is(err, os.ErrNotExist):
		return "", ours("%w: there is no %s in %s", persistence.Absent, key, s.url(s.root))
	case errors.As(err, &pe) && pe.Err.Error() == noSuchAttr:
		return "", ours("%w", errNoAttrs)
	case err != nil:
		return "", s.attrError(c, file, err)
	}
	content, ok := attrs[attribute]
	if !ok {
		return "", ours("%w", errNoAttrs)
	}
	return content, nil
}

// smallReader reads what has come already, while ctx lasts.
type smallReader struct {
	ctx  context.Context //nolint:containedctx // the contract bounds each read by it
	what string
	r    *strings.Reader
}

// Read implements io.Reader.
func (r *smallReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, fmt.Errorf("%w: %s: %w", persistence.Unknown, r.what, err)
	}
	return r.r.Read(p)
}

// Close implements io.Closer.
func (r *smallReader) Close() error { return nil }

// openFile opens an object that is a file at an offset, on a session of its own.
func (s *Store) openFile(ctx context.Context, at int, what, file string, offset int64) (io.ReadCloser, error) {
	c, err := s.link.open(ctx, at, true)
	if err != nil {
		return nil, err
	}
	f, err := c.client.Open(file)
	if err == nil && f.Stat().IsDir() {
		err = &os.PathError{Op: "open", Path: file, Err: os.ErrNotExist}
	}
	if err == nil {
		_, err = f.Seek(min(offset, f.Stat().Size()), io.SeekStart) // asks nobody
	}
	if err != nil {
		c.abort()
		if errors.Is(err, os.ErrNotExist) {
			return nil, ours("%w: there is no %s", persistence.Absent, s.url(file))
		}
		return nil, s.wrap(c, "open", file, err)
	}
	return &reader{s: s, c: c, f: f, ctx: ctx, what: what, stop: c.during(ctx)}, nil
}

// reader is an open file. The end of its context closes its connections, so that
// nothing in it blocks for longer.
type reader struct {
	s    *Store
	c    *session
	f    *hdfs.FileReader
	ctx  context.Context //nolint:containedctx // the contract bounds each read by it
	what string
	stop func()
}

// Read implements io.Reader.
func (r *reader) Read(p []byte) (int, error) {
	n, err := r.f.Read(p)
	switch {
	case err == nil, errors.Is(err, io.EOF):
		return n, err
	case r.ctx.Err() != nil:
		return n, r.s.link.silent(r.ctx, r.what)
	}
	return n, fmt.Errorf("%w: %s: %s; look at the DataNodes", persistence.Unknown, r.what, short(err.Error()))
}

// Close implements io.Closer.
func (r *reader) Close() error {
	r.stop()
	r.c.abort()
	return nil
}

// Delete implements persistence.Objects.
func (s *Store) Delete(ctx context.Context, key string) error {
	if err := s.open(); err != nil {
		return err
	}
	if err := checkKey(key); err != nil {
		return err
	}
	return s.object(ctx, "remove", s.in(key), func(c *session) error {
		err := c.client.Remove(s.in(key))
		switch {
		case errors.Is(err, os.ErrNotExist):
			return s.there(c) // or else nobody knows whether it is there
		case errors.Is(err, syscall.ENOTEMPTY):
			return nil // a directory of objects, which is none itself
		}
		return s.wrap(c, "remove", s.in(key), err)
	})
}

// List implements persistence.Objects.
func (s *Store) List(ctx context.Context, prefix, after string) (persistence.Page, error) {
	if err := s.open(); err != nil {
		return persistence.Page{}, err
	}
	return call(ctx, s.objects, "list "+s.url(s.root), func(c *session) (persistence.Page, error) {
		l := lister{s: s, c: c, prefix: prefix, after: after}
		dir := "" // the directory that holds everything with this prefix
		if i := strings.LastIndexByte(prefix, '/'); i >= 0 {
			dir = prefix[:i+1]
			if err := checkKey(prefix[:i]); err != nil {
				return persistence.Page{}, nil //nolint:nilerr // no key has such a prefix
			}
		}
		err := l.walk(dir)
		if errors.Is(err, errPageFull) {
			l.page.More, err = true, nil
		}
		if err != nil {
			return persistence.Page{}, err
		}
		return l.page, nil
	})
}

var errPageFull = &told{errors.New("page full")}

type lister struct {
	s             *Store
	c             *session
	prefix, after string
	page          persistence.Page
}

// walk adds the keys beneath dir, which is empty or ends in '/', in order.
func (l *lister) walk(dir string) error {
	file := strings.TrimSuffix(l.s.in(dir), "/")
	// What is mostly not there, as requests are, is asked for often.
	if still, err := l.c.missing(file); still || err != nil && !errors.Is(err, os.ErrNotExist) {
		return l.s.wrap(l.c, "list", path.Dir(file), err)
	}
	entries, err := l.c.list(file)
	switch {
	case errors.Is(err, errNotDir) && dir != "":
		return nil // an object where a directory would be
	case errors.Is(err, os.ErrNotExist):
		if path.Dir(file) == l.s.root && len(l.c.none) < 16 {
			l.c.none[file] = struct{}{}
		}
		return l.s.there(l.c)
	case err != nil:
		return l.s.wrap(l.c, "list", file, err)
	}
	// Keys sort as strings, and "a-b" lies before "a/b": a directory has its
	// place where its name with the slash has.
	name := func(e os.FileInfo) string {
		if e.IsDir() {
			return e.Name() + "/"
		}
		return e.Name()
	}
	slices.SortFunc(entries, func(a, b os.FileInfo) int { return strings.Compare(name(a), name(b)) })
	for _, e := range entries {
		if n := e.Name(); hidden(n) || !legalSegment(n) || (dir == "" && n == leaseDir) {
			continue
		}
		if err := l.visit(dir+name(e), e); err != nil {
			return err
		}
	}
	return nil
}

// visit adds one key, or the keys of a directory.
func (l *lister) visit(key string, e os.FileInfo) error {
	if e.IsDir() {
		inside := strings.HasPrefix(key, l.prefix) || strings.HasPrefix(l.prefix, key)
		if !inside || (key < l.after && !strings.HasPrefix(l.after, key)) {
			return nil
		}
		return l.walk(key)
	}
	if !strings.HasPrefix(key, l.prefix) || key <= l.after {
		return nil
	}
	if len(l.page.Items) == pageSize {
		return errPageFull
	}
	size := e.Size()
	if size == 0 { // the content may be an attribute, which a listing does not show
		size = -1
	}
	l.page.Items = append(l.page.Items, persistence.Item{Key: key, Size: size})
	return nil
}
