package posix

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/understudy-ha/understudy/persistence"
)

const (
	pageSize  = 1000      // items per page of List
	chunkSize = 256 << 10 // bytes per worker's errand in Put and Get
)

func legalSegment(seg string) bool {
	if seg == "" || len(seg) > 255 {
		return false
	}
	for i := range len(seg) {
		c := seg[i]
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && c != '.' && c != '_' && c != '-' {
			return false
		}
	}
	return true
}

func checkKey(key string) error {
	for i, seg := range strings.Split(key, "/") {
		if !legalSegment(seg) || hidden(seg) || len(key) > 1024 || (i == 0 && seg == leaseDir) {
			return fmt.Errorf("%w: %.200q is not the key of an object", persistence.Unsupported, key)
		}
	}
	return nil
}

// Put implements persistence.Objects: temporary file, write, fsync, rename,
// fsync of the directory.
func (s *Store) Put(ctx context.Context, key string, r io.Reader, size int64) error {
	if err := s.open(); err != nil {
		return err
	}
	if err := checkKey(key); err != nil {
		return err
	}
	w := &writer{s: s, key: key, path: filepath.Join(s.dir, key), want: size}
	for {
		// r is the caller's, who may leave before a worker comes back: it is
		// read here, and a worker gets what was read.
		data, err := readChunk(r)
		last := errors.Is(err, io.EOF)
		if err != nil && !last {
			s.objects.detach(w.abort)
			return fmt.Errorf("put %s: read its content: %w", key, err)
		}
		_, err = call(ctx, s.objects,
			func() (struct{}, error) { return struct{}{}, w.step(data, last) },
			func(struct{}, error) { w.abort() })
		if errors.Is(err, errNotSent) {
			s.objects.detach(w.abort)
		}
		if err != nil || last {
			return err
		}
	}
}

// readChunk reads up to chunkSize bytes; io.EOF comes with the last of them.
func readChunk(r io.Reader) ([]byte, error) {
	var b bytes.Buffer
	_, err := io.CopyN(&b, r, chunkSize)
	return b.Bytes(), err
}

// writer is one Put. Its methods run in workers, never two at a time.
type writer struct {
	s    *Store
	key  string
	path string // of key, for messages
	want int64  // size, -1 when unknown
	got  int64
	dir  *os.Root // the directory it goes to, held open from the first step to the last
	tmp  string   // name there, to be removed unless renamed
	f    *os.File
}

// step writes data, and after the last of it puts the file in its place. On an
// error it cleans up.
func (w *writer) step(data []byte, last bool) (err error) {
	defer func() {
		if err != nil {
			w.abort()
		}
	}()
	if w.got += int64(len(data)); w.want >= 0 && (w.got > w.want || (last && w.got < w.want)) {
		return fmt.Errorf("put %s: its size was announced as %d bytes, but %d came", w.path, w.want, w.got)
	}
	if w.f == nil {
		if err := w.begin(); err != nil {
			return err
		}
	}
	if _, err := w.f.Write(data); err != nil {
		return wrap("write", w.path, err)
	}
	if !last {
		return nil
	}
	return w.finish()
}

// begin makes the temporary file.
func (w *writer) begin() error {
	root, err := w.s.anchored()
	if err != nil {
		return err
	}
	defer root.Close()
	dir := path.Dir(w.key)
	if w.dir, err = w.s.subdir(root, dir); err != nil {
		return err
	}
	w.tmp = tmpPrefix + random()
	w.f, err = w.dir.OpenFile(w.tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		w.f, w.tmp = nil, ""
		return wrap("create a file in", filepath.Join(w.s.dir, dir), err)
	}
	return nil
}

// finish makes the file durable and gives it its name.
func (w *writer) finish() error {
	if err := w.f.Sync(); err != nil {
		return wrap("fsync", w.path, err)
	}
	f := w.f
	w.f = nil
	if err := f.Close(); err != nil { // NFS reports a full server here
		return wrap("close", w.path, err)
	}
	if err := w.dir.Rename(w.tmp, path.Base(w.key)); err != nil {
		return wrap("rename a file to", w.path, err)
	}
	w.tmp = ""
	if err := w.s.syncRoot(w.dir); err != nil {
		return wrap("fsync", filepath.Dir(w.path), err)
	}
	w.abort()
	return nil
}

// abort lets go of what is open, and removes what is unfinished.
func (w *writer) abort() {
	if w.f != nil {
		_ = w.f.Close()
		w.f = nil
	}
	if w.tmp != "" {
		_ = w.dir.Remove(w.tmp) // a name that begins with '.' hurts nobody if this fails
		w.tmp = ""
	}
	if w.dir != nil {
		_ = w.dir.Close()
		w.dir = nil
	}
}

// subdir opens a directory beneath root, and creates it, durably, if need be.
func (s *Store) subdir(root *os.Root, dir string) (*os.Root, error) {
	got, err := root.OpenRoot(dir + onlyDir)
	if !isMissing(err) {
		if err != nil {
			return nil, wrap("open directory", filepath.Join(s.dir, dir), err)
		}
		return got, nil
	}
	parent, err := s.subdir(root, path.Dir(dir))
	if err != nil {
		return nil, err
	}
	defer parent.Close()
	name := path.Base(dir)
	switch err := parent.Mkdir(name, dirMode); {
	case errors.Is(err, syscall.EEXIST):
	case err != nil:
		return nil, wrap("create directory", filepath.Join(s.dir, dir), err)
	default:
		if err := s.syncRoot(parent); err != nil {
			return nil, wrap("fsync", filepath.Join(s.dir, path.Dir(dir)), err)
		}
	}
	if got, err = parent.OpenRoot(name + onlyDir); err != nil {
		return nil, wrap("open directory", filepath.Join(s.dir, dir), err)
	}
	return got, nil
}

// Get implements persistence.Objects. The file is opened anew each time: a
// kept descriptor never sees what was renamed over it.
func (s *Store) Get(ctx context.Context, key string) (io.ReadCloser, error) {
	return s.get(ctx, key, 0)
}

func (s *Store) get(ctx context.Context, key string, offset int64) (io.ReadCloser, error) {
	if err := s.open(); err != nil {
		return nil, err
	}
	if err := checkKey(key); err != nil {
		return nil, err
	}
	r := &reader{ctx: ctx, pool: s.objects, path: filepath.Join(s.dir, key)}
	_, err := call(ctx, s.objects,
		func() (struct{}, error) { return struct{}{}, r.begin(s, key, offset) },
		func(struct{}, error) { r.shut() })
	if err != nil {
		return nil, err
	}
	return r, nil
}

// reader is an open object. A worker reads ahead into buf, because it may come
// back when the caller's own buffer has long been used for something else.
type reader struct {
	ctx  context.Context //nolint:containedctx // the contract bounds each read by it
	pool *pool
	path string
	f    *os.File // nil once everything has been read, or after an error
	buf  []byte
	rest []byte // of buf, not yet delivered
	err  error  // after rest
}

// begin opens the file and reads what begins at offset, which mostly is all of
// it.
func (r *reader) begin(s *Store, key string, offset int64) error {
	f, err := openObject(r.path)
	if isMissing(err) || errors.Is(err, syscall.ENOTDIR) {
		absent := s.absent(key)
		if errors.Is(absent, persistence.Absent) {
			return absent
		}
		// An NFS client that just remembered that there is no such name has
		// looked at the directory anew by now, in order to list it.
		if f, err = openObject(r.path); err != nil {
			return absent
		}
	}
	if err != nil {
		return wrap("open", r.path, err)
	}
	r.f = f
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		r.shut()
		return fmt.Errorf("%w: %s is not a regular file", persistence.Absent, r.path)
	}
	if err != nil {
		r.shut()
		return wrap("stat", r.path, err)
	}
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		r.shut()
		return wrap("seek in", r.path, err)
	}
	r.buf = make([]byte, min(max(fi.Size()-offset, 0)+1, chunkSize)) // one more, to see the end
	return r.fill()
}

func openObject(path string) (*os.File, error) {
	// O_NONBLOCK, or a FIFO in this place would block for ever.
	return os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
}

// fill reads the next part and closes the file at its end. It runs in a
// worker.
func (r *reader) fill() error {
	n, err := io.ReadFull(r.f, r.buf)
	r.rest = r.buf[:n]
	switch {
	case err == nil:
		return nil
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		r.shut()
		r.err = io.EOF
		return nil
	}
	r.shut()
	return wrap("read", r.path, err)
}

func (r *reader) shut() {
	if r.f != nil {
		_ = r.f.Close() // it was only read
		r.f = nil
	}
}

// Read implements io.Reader.
func (r *reader) Read(p []byte) (int, error) {
	if len(r.rest) == 0 && r.err == nil {
		// The errand works on a copy: if we leave it behind, it owns the file.
		next := *r
		got, err := call(r.ctx, r.pool,
			func() (*reader, error) { return &next, next.fill() },
			func(*reader, error) { next.shut() })
		switch {
		case err == nil:
			*r = *got
		case errors.Is(err, errNotSent):
			r.err = err // the file is still ours to close
		default:
			r.f, r.err = nil, err
		}
	}
	if len(r.rest) == 0 {
		if r.err == nil {
			return 0, nil
		}
		return 0, r.err
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// Close implements io.Closer. It does not wait: close(2) can hang as well.
func (r *reader) Close() error {
	if f := r.f; f != nil {
		r.f, r.rest = nil, nil
		r.pool.detach(func() { _ = f.Close() })
	}
	if r.err == nil || errors.Is(r.err, io.EOF) {
		r.err = os.ErrClosed
	}
	r.rest = nil
	return nil
}

// List implements persistence.Objects.
func (s *Store) List(ctx context.Context, prefix, after string) (persistence.Page, error) {
	if err := s.open(); err != nil {
		return persistence.Page{}, err
	}
	return call(ctx, s.objects, func() (persistence.Page, error) {
		l := lister{s: s, ctx: ctx, prefix: prefix, after: after}
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
	}, nil)
}

var errPageFull = errors.New("page full")

type lister struct {
	s             *Store
	ctx           context.Context //nolint:containedctx // lives as long as one call
	prefix, after string
	page          persistence.Page
}

// walk adds the keys beneath dir, which is empty or ends in '/', in order.
func (l *lister) walk(dir string) error {
	if err := l.ctx.Err(); err != nil { // the caller has left; do not go on
		return fmt.Errorf("%w: list: %w", persistence.Unknown, err)
	}
	path := filepath.Join(l.s.dir, dir)
	entries, err := listDir(path)
	switch {
	case isMissing(err), errors.Is(err, syscall.ENOTDIR):
		if dir == "" && !l.s.sub() {
			return rootError(l.s.dir, err)
		}
		if dir == "" || errors.Is(err, syscall.ENOTDIR) {
			return l.s.reachable() // an object, or nothing yet, where a directory would be
		}
		if err := l.s.absent(strings.TrimSuffix(dir, "/")); !errors.Is(err, persistence.Absent) {
			return err
		}
		return l.s.reachable()
	case err != nil:
		return wrap("list", path, err)
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		name := e.Name()
		if hidden(name) || !legalSegment(name) || (dir == "" && name == leaseDir) {
			continue
		}
		switch {
		case e.IsDir():
			// Keys sort as strings, and "a-b" lies before "a/b": a directory
			// has its place where its name with the slash has.
			names = append(names, name+"/")
		case e.Type().IsRegular():
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		if err := l.visit(dir + name); err != nil {
			return err
		}
	}
	return nil
}

// visit adds one key, or the keys of a directory.
func (l *lister) visit(key string) error {
	if strings.HasSuffix(key, "/") {
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
	fi, err := os.Lstat(filepath.Join(l.s.dir, key))
	switch {
	case isMissing(err):
		return nil // removed since the listing
	case err != nil:
		return wrap("stat", filepath.Join(l.s.dir, key), err)
	}
	l.page.Items = append(l.page.Items, persistence.Item{Key: key, Size: fi.Size()})
	return nil
}

// Delete implements persistence.Objects.
func (s *Store) Delete(ctx context.Context, key string) error {
	if err := checkKey(key); err != nil {
		return err
	}
	return s.object(ctx, func() error {
		if err := s.stillThere(); err != nil {
			return err
		}
		path := filepath.Join(s.dir, key)
		err := syscall.Unlink(path)
		switch {
		case err == nil, errors.Is(err, syscall.EISDIR):
			return nil
		case isMissing(err), errors.Is(err, syscall.ENOTDIR):
			return s.reachable() // or else nobody knows whether it is there
		}
		return wrap("remove", path, err)
	})
}
