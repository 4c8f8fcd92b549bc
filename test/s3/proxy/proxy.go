// Package proxy is a network that fails on command: a reverse proxy in front of
// an S3 server that resets connections, delays, repeats, refuses and cuts
// requests, per method and path. A node with a proxy of its own has a network of
// its own; two proxies on one server are two nodes that see the same bucket and
// different faults.
//
//	p := proxy.Start(t, server.URL, 17)
//	f := p.Inject(proxy.Rule{Method: http.MethodPut, Path: "lease", After: true, Reset: true})
//	…
//	if f.Fired() == 0 { t.Error("the fault never fired") }
//	p.Clear()
//
// What the server was asked and what it answered is kept, whether or not the
// client got to hear of it: see Requests and Tap.
package proxy

import (
	"bytes"
	"context"
	"encoding/xml"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/test/e2e/intervals"
)

const (
	// longestHang bounds every hang, for tests that forget theirs.
	longestHang = 5 * time.Minute
	// answerWithin bounds how long the server may take. It has nothing to do
	// with how long the client waits: what was sent arrives.
	answerWithin = 30 * time.Second
	// keptBody is how much of a request's body is kept for Tap.
	keptBody = 1 << 10
)

// Rule says what goes wrong, and with which requests. Without any fault in it a
// rule merely counts.
type Rule struct {
	Method string  // "": every method
	Path   string  // only if the request's path and query contain it
	Body   string  // only if the request's body contains it
	Skip   int     // let this many matching requests pass first
	Count  int     // fire this often; 0: until removed
	Chance float64 // of firing, by the proxy's seed; 0: always

	// Match says which requests are meant, if method and path do not.
	Match func(*http.Request) bool

	After bool          // the server gets and answers the request first: it happens, then the rest
	Twice bool          // the server gets the request twice; the client, the second answer
	Delay time.Duration // before everything that follows
	// Hang holds the request until the rule is removed or the client has gone:
	// packets that vanish.
	Hang  bool
	Reset bool // break the connection
	// Status refuses the request with this status and an S3 error of this Code.
	// 200 is an error too, if the body says so: some servers begin to answer
	// before they know.
	Status int
	Code   string
	Header http.Header // goes with Status
	Cut    bool        // promise the whole answer and break the connection half-way
}

// Fault is a rule at work.
type Fault struct {
	p     *Proxy
	rule  Rule
	seen  int
	fired int
	gate  chan struct{} // closed when the rule has been removed
}

// Kind is what a request costs, which S3 charges by.
type Kind string

// The kinds.
const (
	Put    Kind = "PUT" // and POST
	Get    Kind = "GET" // an unchanged object included
	List   Kind = "LIST"
	Head   Kind = "HEAD"
	Delete Kind = "DELETE"
)

// Request is a request that the server answered.
type Request struct {
	At      intervals.Instant // when the answer was there
	Kind    Kind
	Path    string // of the object: /bucket/key
	Query   string
	Status  int
	IfMatch string
	Body    []byte // of the request, its first KiB
}

// Proxy is a proxy at work, on 127.0.0.1.
type Proxy struct {
	URL string

	target    *url.URL
	transport *http.Transport
	server    *http.Server
	wait      sync.WaitGroup // for requests

	mu       sync.Mutex
	rand     *rand.Rand
	faults   []*Fault
	requests []Request
	tap      func(Request)
}

// Start starts a proxy in front of an S3 server, on a free port. It ends with
// the test.
func Start(tb testing.TB, target string, seed uint64) *Proxy {
	tb.Helper()
	u, err := url.Parse(target)
	if err != nil {
		tb.Fatal(err)
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(context.WithoutCancel(tb.Context()), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	p := &Proxy{
		URL: "http://" + ln.Addr().String(), target: u,
		transport: &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true},
		rand:      rand.New(rand.NewPCG(seed, 7)), //nolint:gosec // reproducible on purpose
	}
	p.server = &http.Server{Handler: http.HandlerFunc(p.serve), ReadHeaderTimeout: answerWithin}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = p.server.Serve(ln) // it is closed
	}()
	tb.Cleanup(func() {
		p.Clear()
		_ = p.server.Close() // connections are closed whatever it says
		<-served
		p.wait.Wait()
		p.transport.CloseIdleConnections()
	})
	return p
}

// Inject adds a rule. Of several that match a request the oldest fires.
func (p *Proxy) Inject(r Rule) *Fault {
	f := &Fault{p: p, rule: r, gate: make(chan struct{})}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = append(p.faults, f)
	return f
}

// Fired says how many requests the fault has struck.
func (f *Fault) Fired() int {
	f.p.mu.Lock()
	defer f.p.mu.Unlock()
	return f.fired
}

// Remove ends the fault and lets go what hangs in it.
func (f *Fault) Remove() {
	f.p.mu.Lock()
	defer f.p.mu.Unlock()
	if i := slices.Index(f.p.faults, f); i >= 0 {
		f.p.faults = slices.Delete(f.p.faults, i, i+1)
		close(f.gate)
	}
}

// Clear removes every fault.
func (p *Proxy) Clear() {
	p.mu.Lock()
	all := slices.Clone(p.faults)
	p.mu.Unlock()
	for _, f := range all {
		f.Remove()
	}
}

// Tap has fn called with each request once it is answered, in the order of
// the answers. Set it before there are any; fn must not block.
func (p *Proxy) Tap(fn func(Request)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tap = fn
}

// Requests are those that the server has answered so far.
func (p *Proxy) Requests() []Request {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.requests)
}

// Forget drops what Requests would return.
func (p *Proxy) Forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.requests = nil
}

// choose finds the fault that strikes a request.
func (p *Proxy) choose(r *http.Request, body []byte) *Fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range p.faults {
		if !f.rule.matches(r, body) {
			continue
		}
		f.seen++
		if f.seen <= f.rule.Skip || (f.rule.Count > 0 && f.fired >= f.rule.Count) ||
			(f.rule.Chance > 0 && p.rand.Float64() >= f.rule.Chance) {
			continue
		}
		f.fired++
		return f
	}
	return nil
}

func (r Rule) matches(req *http.Request, body []byte) bool {
	return (r.Method == "" || r.Method == req.Method) &&
		(r.Path == "" || strings.Contains(req.URL.RequestURI(), r.Path)) &&
		(r.Body == "" || bytes.Contains(body, []byte(r.Body))) &&
		(r.Match == nil || r.Match(req))
}

// serve handles one request.
func (p *Proxy) serve(w http.ResponseWriter, r *http.Request) {
	p.wait.Add(1)
	defer p.wait.Done()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		reset(w)
		return
	}
	f := p.choose(r, body)
	var rule Rule
	if f != nil {
		rule = f.rule
	}
	var answer *answer
	if rule.After {
		answer, err = p.forward(r, body)
	}
	if !pause(r.Context(), rule.Delay) || rule.Hang && !f.hang(r.Context()) {
		reset(w)
		return
	}
	if !rule.After && !rule.Reset && rule.Status == 0 {
		answer, err = p.forward(r, body)
	}
	if rule.Twice && err == nil {
		answer, err = p.forward(r, body)
	}
	switch {
	case rule.Reset, err != nil:
		reset(w)
	case rule.Status != 0:
		refuse(w, r, rule)
	default:
		answer.give(w, rule.Cut)
	}
}

// pause waits, and reports whether the client is still there.
func pause(ctx context.Context, d time.Duration) bool {
	if d == 0 {
		return true
	}
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// hang waits for the rule to go, and reports whether the client is still there.
func (f *Fault) hang(ctx context.Context) bool {
	select {
	case <-f.gate:
		return true
	case <-ctx.Done():
	case <-time.After(longestHang):
	}
	return false
}

// answer is what the server said.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// forward sends a request on and takes the answer. A client that has gone does
// not call it back: it is on the wire.
func (p *Proxy) forward(r *http.Request, body []byte) (*answer, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), answerWithin)
	defer cancel()
	out := r.Clone(ctx)
	out.RequestURI, out.URL.Scheme, out.URL.Host = "", p.target.Scheme, p.target.Host
	out.Body, out.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	if len(body) == 0 {
		out.Body = http.NoBody
	}
	out.Header.Del("Expect") // the body is here already
	out.TransferEncoding = nil
	// The Host header stays the client's: its signature covers it.
	res, err := p.transport.RoundTrip(out)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, err
	}
	p.keep(Request{
		At: intervals.Now(), Kind: kind(r), Path: r.URL.Path, Query: r.URL.RawQuery, Status: res.StatusCode,
		IfMatch: r.Header.Get("If-Match"), Body: body[:min(len(body), keptBody)],
	})
	return &answer{res.StatusCode, res.Header, b}, nil
}

func (p *Proxy) keep(r Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.requests = append(p.requests, r)
	if p.tap != nil {
		p.tap(r)
	}
}

func kind(r *http.Request) Kind {
	_, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	switch r.Method {
	case http.MethodPut, http.MethodPost:
		return Put
	case http.MethodGet:
		if key == "" {
			return List
		}
		return Get
	case http.MethodHead:
		return Head
	}
	return Delete
}

func (a *answer) give(w http.ResponseWriter, cut bool) {
	for k, v := range a.header {
		w.Header()[k] = v
	}
	w.WriteHeader(a.status)
	if !cut {
		_, _ = w.Write(a.body) // the client is gone
		return
	}
	_, _ = w.Write(a.body[:len(a.body)/2])
	if f, ok := w.(http.Flusher); ok {
		f.Flush()
	}
	reset(w)
}

// refuse answers with an error as S3 writes it.
func refuse(w http.ResponseWriter, r *http.Request, rule Rule) {
	for k, v := range rule.Header {
		w.Header()[k] = v
	}
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(rule.Status)
	if r.Method == http.MethodHead {
		return
	}
	type refusal struct {
		XMLName   xml.Name `xml:"Error"`
		Code      string
		Message   string
		Resource  string
		RequestID string `xml:"RequestId"`
	}
	_, _ = io.WriteString(w, xml.Header)
	_ = xml.NewEncoder(w).Encode(refusal{Code: rule.Code, Message: "injected: " + rule.Code, Resource: r.URL.Path, RequestID: "fault"}) // the client is gone
}

// reset breaks the connection so that the client sees a reset, not an end.
func reset(w http.ResponseWriter) {
	h, ok := w.(http.Hijacker)
	if !ok {
		panic(http.ErrAbortHandler)
	}
	conn, _, err := h.Hijack()
	if err != nil {
		panic(http.ErrAbortHandler) // hijacked or broken already
	}
	if c, ok := conn.(*net.TCPConn); ok {
		_ = c.SetLinger(0)
	}
	_ = conn.Close()
}

// Tally counts requests by kind.
type Tally map[Kind]int

// Count sums requests up.
func Count(rs []Request) Tally {
	t := Tally{}
	for _, r := range rs {
		t[r.Kind]++
	}
	return t
}

func (t Tally) String() string {
	return fmt.Sprintf("%d PUT, %d GET, %d LIST, %d HEAD, %d DELETE", t[Put], t[Get], t[List], t[Head], t[Delete])
}
