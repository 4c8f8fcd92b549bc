package server

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/understudy-ha/understudy/api/v1"
	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// Limits of what is passed on to the MASTER.
const (
	reachLimit  = 3 * time.Second  // to connect to it, and once more to shake hands
	answerLimit = 30 * time.Second // to hear nothing from it, where its answer is not a slow one
	retryAfter  = "1"              // seconds; by then a clean hand-over is done
)

// forwarder passes requests on to the MASTER. The zero value works.
type forwarder struct {
	limit time.Duration // 0: answerLimit

	mu        sync.Mutex
	pin       string // of the node that transport leads to
	transport *http.Transport
}

// to is the transport to the node that has the pin: connections to another one
// are never used, not even where it has the same address by now.
func (f *forwarder) to(me *Peer, pin string) *http.Transport {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.transport != nil && f.pin == pin {
		return f.transport
	}
	if f.transport != nil {
		f.transport.CloseIdleConnections()
	}
	f.pin = pin
	f.transport = &http.Transport{
		DialContext:         (&net.Dialer{Timeout: reachLimit}).DialContext,
		TLSClientConfig:     me.Dial(pin),
		TLSHandshakeTimeout: reachLimit,
		MaxIdleConnsPerHost: 8,
		IdleConnTimeout:     time.Minute,
		DisableCompression:  true,
	}
	return f.transport
}

// elsewhere answers a request that this node can not take and the MASTER may:
// by passing it on, where that is configured. nil: it is this node's to refuse.
// It must be called before the body is read.
func (s *server) elsewhere(rt route, r *request) *response {
	if s.opt.NonMaster() != NonMasterForward || !rt.forwarded(r.Method) || r.Header.Get(v1.HeaderForwarded) != "" {
		return nil // what was forwarded once is not forwarded again
	}
	p := look(s.node)
	id := p.master()
	if id == p.Node || isWrite(r.Method) && insists(r.Request) || !isWrite(r.Method) && s.hot() {
		return nil
	}
	if id == "" {
		return noMaster("there is no MASTER at the moment", "")
	}
	n := p.Nodes[id]
	target, err := url.Parse(n.URI)
	if err != nil || target.Scheme != "https" || n.Key == "" || s.opt.Peer == nil {
		return noMaster("the MASTER can not be asked for you: forwarding needs HTTPS on both nodes", "ask it yourself, at "+n.URI)
	}
	return &response{status: http.StatusOK, relay: func(ctx context.Context, w http.ResponseWriter) int {
		return s.relay(ctx, w, rt, r, id, target, s.forward.to(s.opt.Peer, n.Key))
	}}
}

// hot reports whether this node has the persisted state to read from, or none of
// the plane's nodes has one.
func (s *server) hot() bool {
	if s.opt.State == nil {
		return true
	}
	_, err := s.opt.State.Picture()
	return !errors.Is(err, ha.ErrNotHot)
}

// noMaster asks the client to come again.
func noMaster(message, details string) *response {
	resp := failure(http.StatusServiceUnavailable, message+"; try again soon", details).with("Retry-After", retryAfter)
	return &resp
}

// relay passes a request on and its answer back, and returns the status that was
// sent. Both may be of any length, and are never held as a whole.
func (s *server) relay(ctx context.Context, w http.ResponseWriter, rt route, r *request, id lease.NodeID, target *url.URL, tr http.RoundTripper) int {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if streams, ok := ctx.Value(streamsKey{}).(context.Context); ok && !isWrite(r.Method) {
		defer context.AfterFunc(streams, cancel)() //nolint:contextcheck // it ends with the server, ctx with the client
	}
	limit := cmp.Or(s.forward.limit, answerLimit)
	if rt.slow || rt.limit < 0 {
		limit = slowLimit
	}
	out := newRelayed(w, cancel, limit)
	if !isWrite(r.Method) {
		_ = out.control.SetReadDeadline(time.Time{}) // its end would end the stream
	}
	defer out.idle.Stop()
	req := r.WithContext(ctx)
	if req.Body != nil && req.Body != http.NoBody {
		req.Body = &relayedBody{ReadCloser: req.Body, out: out}
	}
	proxy := httputil.ReverseProxy{
		Transport:      tr,
		FlushInterval:  -1, // events are worth nothing later
		ErrorLog:       zap.NewStdLog(s.opt.Logger.WithOptions(zap.IncreaseLevel(zap.DebugLevel))),
		Rewrite:        func(p *httputil.ProxyRequest) { rewrite(p, target, r.caller) },
		ModifyResponse: func(resp *http.Response) error { return readdress(resp, id, target) },
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			s.opt.Logger.Debug("forwarding", zap.String("to", string(id)), zap.String("path", r.URL.Path), zap.Error(err))
			relayFailed(r, err, out.expired()).write(w)
		},
	}
	proxy.ServeHTTP(out, req)
	return out.status
}

// rewrite makes the request one of this node, for its caller: with nothing that
// would prove anything else, and with nothing that a browser says of pages, which
// this node has judged.
func rewrite(p *httputil.ProxyRequest, target *url.URL, c caller) {
	p.SetURL(&url.URL{Scheme: target.Scheme, Host: target.Host, Path: strings.TrimRight(target.Path, "/")})
	for _, name := range []string{"Authorization", "Cookie", "Origin", "Sec-Fetch-Site", "Sec-Fetch-Mode", "Sec-Fetch-Dest", "Sec-Fetch-User"} {
		p.Out.Header.Del(name)
	}
	p.Out.Header.Set(v1.HeaderForwarded, vouch(c))
}

// errUnknown: the MASTER does not take this node for one.
var errUnknown = errors.New("the MASTER does not know this node yet, or lets nobody's users in but its own")

// readdress makes the MASTER's answer one of this node.
func readdress(resp *http.Response, id lease.NodeID, target *url.URL) error {
	if resp.StatusCode == http.StatusUnauthorized {
		return errUnknown
	}
	if at := resp.Header.Get("Location"); at != "" {
		resp.Header.Set("Location", strings.TrimPrefix(at, strings.TrimRight(target.String(), "/")))
	}
	resp.Header.Set(v1.HeaderNode, string(id))
	return nil
}

// relayFailed says what is known of a request that brought no answer.
func relayFailed(r *request, err error, late bool) response {
	var tooLong *http.MaxBytesError
	var dial *net.OpError
	var pin *pinError
	switch {
	case errors.As(err, &tooLong):
		return badForm(err)
	case errors.Is(err, errUnknown):
		return *noMaster("the MASTER did not take this from here", err.Error())
	case r.Context().Err() != nil:
		return failure(499, "the client went away", "") // nobody reads this
	case isWrite(r.Method) && late:
		return failure(http.StatusGatewayTimeout, "the MASTER did not answer in time; it may have done this, or may do it yet", "look before you repeat it")
	case errors.As(err, &dial) && dial.Op == "dial", !isWrite(r.Method), errors.As(err, &pin):
		return *noMaster("the MASTER can not be reached", err.Error())
	}
	return failure(http.StatusBadGateway, "the connection to the MASTER was lost; it may have done this", "look before you repeat it")
}

// relayed writes the MASTER's answer to the client, gives each piece its time, and
// ends the relay when neither end has moved for too long.
type relayed struct {
	http.ResponseWriter
	control *http.ResponseController
	limit   time.Duration
	idle    *time.Timer
	status  int

	mu   sync.Mutex
	late bool
}

func newRelayed(w http.ResponseWriter, end context.CancelFunc, limit time.Duration) *relayed {
	out := &relayed{ResponseWriter: w, control: http.NewResponseController(w), limit: limit, status: http.StatusOK}
	out.idle = time.AfterFunc(limit, func() {
		out.mu.Lock()
		out.late = true
		out.mu.Unlock()
		end()
	})
	out.moved()
	return out
}

func (w *relayed) expired() bool { w.mu.Lock(); defer w.mu.Unlock(); return w.late }

// moved gives both ends their time anew.
func (w *relayed) moved() {
	w.idle.Reset(w.limit)
	_ = w.control.SetWriteDeadline(time.Now().Add(w.limit + slowClient)) // not every ResponseWriter has deadlines
}

// Unwrap lets ReverseProxy flush.
func (w *relayed) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *relayed) WriteHeader(status int) {
	if status >= http.StatusOK {
		w.status = status
	}
	w.moved()
	w.ResponseWriter.WriteHeader(status)
}

func (w *relayed) Write(p []byte) (int, error) {
	w.moved()
	return w.ResponseWriter.Write(p)
}

// relayedBody is the client's body on its way to the MASTER.
type relayedBody struct {
	io.ReadCloser
	out *relayed
}

func (b *relayedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.out.moved()
	return n, err
}
