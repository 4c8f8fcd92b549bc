package hdfs

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/user"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/colinmarc/hdfs/v2"
	"github.com/colinmarc/hdfs/v2/hadoopconf"

	"github.com/understudy-ha/understudy/persistence"
)

const (
	// maxWorkers bounds the calls of one kind that one handle has under way.
	// Connections end with the context, so that only a KDC that hangs can hold
	// them up longer, for seconds.
	maxWorkers = 4
	// idleFor is how long a connection is kept unused. NameNodes close those
	// that idle for some time, and a request would be lost on such a one.
	idleFor = 8 * time.Second
	// dialShare is the part of the time left that one NameNode of several may
	// take to be reached.
	dialShare = 2
)

// link is the way to one file system. Handles of one Open share it.
type link struct {
	authority string
	site      site
	addresses []string // of the NameNodes
	user      string
	tickets   *tickets // nil without Kerberos
	library   hdfs.ClientOptions

	prefer  atomic.Int32 // index of the NameNode to be asked first
	noAttrs atomic.Bool  // extended attributes are turned off
}

func newLink(authority string, o Options) (*link, error) {
	conf, err := loadSite(o.ConfDir)
	if err != nil {
		return nil, err
	}
	l := &link{authority: authority, site: conf, user: o.User}
	if l.addresses, err = conf.nameNodes(authority); err != nil {
		return nil, err
	}
	if l.user == "" {
		l.user = userName()
	}
	// Only what belongs to this nameservice: the library would take the
	// addresses of all of them.
	own := hadoopconf.HadoopConf{}
	for _, k := range []string{"dfs.client.use.datanode.hostname", "dfs.data.transfer.protection", "dfs.encrypt.data.transfer"} {
		own[k] = conf.specific(k, authority)
	}
	l.library = hdfs.ClientOptionsFromConf(own)
	if o.Kerberos.wanted() || strings.EqualFold(conf.get("hadoop.security.authentication"), "kerberos") {
		if l.tickets, err = newTickets(o.Kerberos, conf.specific("dfs.namenode.kerberos.principal", authority), l.addresses); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// options are those of a session with one NameNode.
func (l *link) options(ctx context.Context, at int) (hdfs.ClientOptions, error) {
	o := l.library
	o.Addresses, o.User = []string{l.addresses[at]}, l.user
	if l.tickets != nil {
		var err error
		if o.KerberosClient, err = l.tickets.client(ctx); err != nil {
			return o, err
		}
		o.KerberosServicePrincipleName = l.tickets.service(l.addresses[at])
	}
	return o, nil
}

// who is the user that HDFS sees.
func (l *link) who() string {
	if l.tickets != nil {
		return l.tickets.who()
	}
	return l.user
}

// order lists the NameNodes as they are to be asked.
func (l *link) order() []int {
	first := int(l.prefer.Load())
	out := make([]int, len(l.addresses))
	for i := range out {
		out[i] = (first + i) % len(out)
	}
	return out
}

// demote has another NameNode asked first from now on, unless it was the caller
// who had enough.
func (l *link) demote(ctx context.Context, at int) {
	if errors.Is(ctx.Err(), context.Canceled) {
		return
	}
	next := (at + 1) % len(l.addresses)
	l.prefer.CompareAndSwap(int32(at), int32(next)) //nolint:gosec // a handful
}

// lane is one kind of call of one handle: its workers and their connections.
type lane struct {
	link *link
	kind string // for messages

	mu      sync.Mutex
	running int
	gone    int           // those among them whose caller has left
	changed chan struct{} // closed and replaced when running changes
	idle    []*session
	closed  bool
}

func newLane(l *link, kind string) *lane {
	return &lane{link: l, kind: kind, changed: make(chan struct{})}
}

func (n *lane) acquire(ctx context.Context) error {
	for {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("%w: %s hdfs://%s: %w", persistence.Unknown, n.kind, n.link.authority, err)
		}
		n.mu.Lock()
		if n.running < maxWorkers {
			n.running++
			n.mu.Unlock()
			return nil
		}
		changed, stuck := n.changed, n.gone >= maxWorkers
		n.mu.Unlock()
		if stuck {
			return fmt.Errorf("%w: %s hdfs://%s: %d earlier calls hang still; is the KDC or the name server down?",
				persistence.Unknown, n.kind, n.link.authority, maxWorkers)
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

func (n *lane) release(left bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.running--
	if left {
		n.gone--
	}
	close(n.changed)
	n.changed = make(chan struct{})
}

// call runs f on a connection to the active NameNode and returns what it does,
// or Unknown once ctx has ended. f runs again when it turns out that it asked a
// NameNode that is standby, which has then changed nothing.
func call[T any](ctx context.Context, n *lane, what string, f func(*session) (T, error)) (T, error) {
	type result struct {
		val T
		err error
	}
	var none T
	if err := n.acquire(ctx); err != nil {
		return none, err
	}
	done := make(chan result, 1)
	var left atomic.Bool
	var asked atomic.Int32
	go func() {
		var r result
		r.err = n.attempt(ctx, what, &asked, func(s *session) (err error) {
			r.val, err = f(s)
			return err
		})
		done <- r
		n.release(!left.CompareAndSwap(false, true))
	}()
	select {
	case r := <-done:
		return r.val, r.err
	case <-ctx.Done():
	}
	n.mu.Lock()
	if left.CompareAndSwap(false, true) {
		n.gone++
	}
	n.mu.Unlock()
	select { // an answer in hand beats a deadline that has passed
	case r := <-done:
		return r.val, r.err
	default:
	}
	n.link.demote(ctx, int(asked.Load())) // the worker would be too late for the next call
	return none, n.link.silent(ctx, what)
}

// do is call for what returns nothing.
func (n *lane) do(ctx context.Context, what string, f func(*session) error) error {
	_, err := call(ctx, n, what, func(s *session) (struct{}, error) { return struct{}{}, f(s) })
	return err
}

// attempt asks one NameNode after the other until one is active. It leaves in
// asked which one it is at.
func (n *lane) attempt(ctx context.Context, what string, asked *atomic.Int32, f func(*session) error) error {
	var said []string
	var last error
	for i, at := range n.link.order() {
		asked.Store(int32(at)) //nolint:gosec // a handful
		s, err := n.take(ctx, at, len(n.link.addresses)-i)
		if err == nil {
			stop := s.during(ctx)
			err = f(s)
			stop()
			if cause := s.cause(err); cause != nil {
				err = cause
			}
			n.give(s, err)
			if !errors.Is(err, errStandby) {
				if errors.Is(err, errLost) {
					n.link.demote(ctx, at)
					return n.link.lost(ctx, what, at, err)
				}
				return err // nil, or what the NameNode has to say
			}
		}
		n.link.demote(ctx, at)
		if ctx.Err() != nil {
			return n.link.silent(ctx, what)
		}
		said, last = append(said, n.link.addresses[at]+": "+short(err.Error())), err
	}
	return n.link.unreached(what, said, last)
}

// take is a session with one NameNode, one of several that are still to be
// asked.
func (n *lane) take(ctx context.Context, at, rest int) (*session, error) {
	n.mu.Lock()
	for len(n.idle) > 0 {
		s := n.idle[len(n.idle)-1]
		n.idle = n.idle[:len(n.idle)-1]
		if s.at == at && time.Since(s.used) < idleFor {
			n.mu.Unlock()
			return s, nil
		}
		s.abort()
	}
	n.mu.Unlock()
	if end, ok := ctx.Deadline(); ok && rest > 1 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(end)/dialShare)
		defer cancel()
	}
	return n.link.open(ctx, at, true)
}

// give takes a session back, if it can be used again.
func (n *lane) give(s *session, err error) {
	if !s.sound(err) {
		s.abort()
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		s.abort()
		return
	}
	s.used = time.Now()
	n.idle = append(n.idle, s)
}

func (n *lane) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closed = true
	for _, s := range n.idle {
		s.abort()
	}
	n.idle = nil
}

// userName is whom Hadoop's tools would take this process for.
func userName() string {
	if name := hadoopUser(); name != "" {
		return name
	}
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return "understudy"
}

// host is that of an address.
func host(address string) string {
	h, _, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	return h
}
