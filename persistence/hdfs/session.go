package hdfs

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path"
	"slices"
	"sync"
	"time"

	"github.com/colinmarc/hdfs/v2"
)

// session is one client of the library with its one connection to one NameNode.
// It serves one call at a time.
type session struct {
	client *hdfs.Client
	at     int // of link.addresses
	used   time.Time
	dirs   map[string]*hdfs.FileReader // open directories, which cost a request to open
	none   map[string]struct{}         // directories that were not there

	mu    sync.Mutex
	conn  *conn                  // to the NameNode
	data  []net.Conn             // to DataNodes
	ended bool                   // abort was called
	limit func() context.Context // bounds what is dialled
}

var errSecondDial = errors.New("the connection was lost")

// open makes a session. Files that it writes must be kept alive; a session that
// writes none is quiet.
func (l *link) open(ctx context.Context, at int, quiet bool) (*session, error) {
	s := &session{at: at, dirs: map[string]*hdfs.FileReader{}, none: map[string]struct{}{}}
	s.limit = func() context.Context { return ctx }
	defer context.AfterFunc(ctx, s.abort)()
	opts, err := l.options(ctx, at)
	if err != nil {
		return nil, err
	}
	var dialled error
	opts.NamenodeDialFunc = func(_ context.Context, network, address string) (net.Conn, error) {
		var c net.Conn
		c, dialled = s.dialNameNode(ctx, network, address)
		return c, dialled
	}
	opts.DatanodeDialFunc = func(_ context.Context, network, address string) (net.Conn, error) {
		return s.dialDataNode(network, address) //nolint:contextcheck // that of the library is not the one of the call
	}
	s.client, err = hdfs.NewClient(opts)
	if err != nil {
		s.abort()
		if dialled != nil { // the library would leave nothing of it but its text
			return nil, dialled
		}
		return nil, s.explain(err)
	}
	if quiet {
		// This ends the library's goroutine and closes the connection; the client
		// itself goes on working on one that does not let itself be closed.
		s.conn.hold(true)
		_ = s.client.Close() // what it returns is that of conn.Close
		s.conn.hold(false)
	}
	return s, nil
}

func (s *session) dialNameNode(ctx context.Context, network, address string) (net.Conn, error) {
	s.mu.Lock()
	again := s.conn != nil
	s.mu.Unlock()
	if again { // what went before it is unknown: a new session begins
		return nil, errSecondDial
	}
	c, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		_ = c.Close()
		return nil, errSecondDial
	}
	s.conn = &conn{Conn: c}
	return s.conn, nil
}

func (s *session) dialDataNode(network, address string) (net.Conn, error) {
	s.mu.Lock()
	ctx := s.limit()
	s.mu.Unlock()
	c, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		_ = c.Close()
		return nil, errSecondDial
	}
	s.data = append(s.data, c)
	return c, nil
}

// during makes ctx the limit of what the session does until the function that
// it returns is called. Whatever hangs when ctx ends comes back with an error.
func (s *session) during(ctx context.Context) (stop func()) {
	s.mu.Lock()
	s.limit = func() context.Context { return ctx }
	s.mu.Unlock()
	end := context.AfterFunc(ctx, s.abort)
	return func() { end() }
}

// abort closes the session's connections, from any goroutine.
func (s *session) abort() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	if s.conn != nil {
		_ = s.conn.Conn.Close() // nothing is learnt from it
	}
	for _, c := range s.data {
		_ = c.Close()
	}
}

// over reports whether the session's connections were closed.
func (s *session) over() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended
}

// finish ends a session that was not quiet.
func (s *session) finish() {
	s.abort() // or Close would wait for a call that hangs
	_ = s.client.Close()
}

// sound reports whether the connection can be used for another call after one
// that ended with err.
func (s *session) sound(err error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.ended && !s.conn.broken() && (err == nil || answered(err))
}

// missing reports whether a directory that was not there is not there still, by
// listing the one above it, which shows at once that that is there.
func (s *session) missing(dir string) (bool, error) {
	if _, was := s.none[dir]; !was {
		return false, nil
	}
	entries, err := s.list(path.Dir(dir))
	if err == nil && !slices.ContainsFunc(entries, func(e os.FileInfo) bool { return e.Name() == path.Base(dir) }) {
		return true, nil
	}
	delete(s.none, dir)
	return false, err
}

// list returns what is in a directory, with one request if it was listed by
// this session before.
func (s *session) list(dir string) ([]os.FileInfo, error) {
	d := s.dirs[dir]
	if d == nil {
		var err error
		if d, err = s.client.Open(dir); err != nil {
			return nil, err
		}
		if !d.Stat().IsDir() {
			return nil, &os.PathError{Op: "list", Path: dir, Err: errNotDir}
		}
		if len(s.dirs) < 16 {
			s.dirs[dir] = d
		}
	}
	entries, err := d.Readdir(0)
	if err != nil {
		delete(s.dirs, dir)
		return nil, err
	}
	if len(entries) == 1 && entries[0].Name() == "." { // a file lists as itself, without a name
		delete(s.dirs, dir)
		return nil, &os.PathError{Op: "list", Path: dir, Err: errNotDir}
	}
	return entries, nil
}

// conn is a connection to a NameNode that closes itself on any error, and reads
// along to tell a Hadoop server from others.
type conn struct {
	net.Conn

	mu   sync.Mutex
	held bool  // Close does nothing
	err  error // of the first failure
	left int   // bytes of the reply under way; 0: its length comes next
	head []byte
	body []byte // the beginning of the latest reply
}

// longest is the longest reply that a NameNode sends, see
// ipc.maximum.response.length.
const longest = 128 << 20

// keep is how much is kept of a reply, for errors in words.
const keep = 4 << 10

var errNotHadoop = errors.New("what answers there is not the RPC port of a NameNode")

func (c *conn) hold(on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held = on
}

func (c *conn) broken() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err != nil
}

// fault is why the connection broke.
func (c *conn) fault() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

func (c *conn) fail(err error) error {
	c.mu.Lock()
	if c.err == nil {
		c.err = err
	}
	c.mu.Unlock()
	_ = c.Conn.Close()
	return err
}

// Read implements net.Conn.
func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if ferr := c.follow(p[:n]); ferr != nil {
		return 0, c.fail(ferr) // with a length in hand the reader would make room for so much
	}
	if err != nil {
		return n, c.fail(err)
	}
	return n, nil
}

// follow keeps track of replies: four bytes of length, then so many bytes.
func (c *conn) follow(b []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(b) > 0 {
		if c.left == 0 {
			n := min(4-len(c.head), len(b))
			c.head, b = append(c.head, b[:n]...), b[n:]
			if len(c.head) < 4 {
				return nil
			}
			size := binary.BigEndian.Uint32(c.head)
			if size > longest {
				return fmt.Errorf("%w: it says %q", errNotHadoop, c.head)
			}
			c.left, c.head, c.body = int(size), c.head[:0], c.body[:0]
			continue
		}
		n := min(c.left, len(b))
		if room := keep - len(c.body); room > 0 {
			c.body = append(c.body, b[:min(n, room)]...)
		}
		c.left, b = c.left-n, b[n:]
	}
	return nil
}

// latest is the beginning of the latest reply.
func (c *conn) latest() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]byte(nil), c.body...)
}

// Write implements net.Conn.
func (c *conn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if err != nil {
		return n, c.fail(c.lastWords(err))
	}
	return n, nil
}

// lastWords looks whether one who hung up has said that it is no NameNode.
func (c *conn) lastWords(err error) error {
	_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	var head [4]byte
	n, _ := io.ReadFull(c.Conn, head[:])
	if strange := c.follow(head[:n]); strange != nil {
		return strange
	}
	return err
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.mu.Lock()
	held := c.held
	if !held && c.err == nil {
		c.err = io.ErrClosedPipe
	}
	c.mu.Unlock()
	if held {
		return nil
	}
	return c.Conn.Close()
}
