package server

import (
	"context"
	"errors"
	"mime"
	"net/http"
	"net/netip"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/gorilla/mux"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/understudy-ha/understudy/api/v1"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// NonMaster says what a node that is not MASTER does with a write it may not
// take.
type NonMaster string

// What a node may do with such a write.
const (
	NonMasterForbid   NonMaster = "forbid"   // 403 in Brooklyn's words; the default
	NonMasterRedirect NonMaster = "redirect" // 307 to the MASTER; 403 when none is known
	NonMasterForward  NonMaster = "forward"  // passed on to the MASTER; 503 when there is none
)

// Options are what New can be told besides the node. The zero value works: it
// refuses every request that needs a password.
type Options struct {
	Logger *zap.Logger // nil: no log
	// Gate returns who is let in at this moment; nil: nobody.
	Gate func() *Gate
	// NonMaster returns what is done with writes for the MASTER, and with reads
	// of the persisted state where it is not loaded; nil: NonMasterForbid.
	NonMaster func() NonMaster
	// Peer is what this node shows the MASTER when it forwards; nil: it has
	// nothing to show, and forwards nothing.
	Peer  *Peer
	Build Build
	// Config returns the value of a key of the configuration in YAML, secrets
	// masked, and whether there is such a key and it has a value. nil: there is
	// none.
	Config func(key string) (value any, ok bool)
	// Reload reads the configuration again and returns the keys that changed
	// and need a restart. An error means that nothing was changed. nil: nothing
	// can be reloaded.
	Reload func(ctx context.Context) (restart []string, err error)
	// Collectors add to /metrics what the node does not know, as of its store.
	Collectors []prometheus.Collector
	// StoreRequests says how many requests of each kind were sent to the store
	// since the node began; nil: nobody counts them.
	StoreRequests func() map[string]uint64
	// Content saves and restores the persisted state; nil: there is none.
	Content Content
	// StoreLatency says how the store has answered within the last hour, newest
	// first; nil: nobody measures it.
	StoreLatency func() []v1.LatencyMinute
	// State is the persisted state; nil: there is none.
	State State
	// Artifacts are the plane's large files; nil: there are none.
	Artifacts Artifacts
	// Service is the managed service; nil: there is none.
	Service Service
	// Wall is the wall clock, for the timestamps people read. nil: time.Now.
	Wall func() time.Time
}

// Build says what is running. Empty fields are shown as null.
type Build struct {
	SHA1     string
	Branch   string
	Features []string
}

type server struct {
	node     Node
	opt      Options
	auditLog *zap.Logger
	nudges   limiter             // of anybody's
	peers    rates[lease.NodeID] // nudges of other nodes
	watchers atomic.Int64        // of events
	logins   logins
	rates    rates[netip.Addr]
	forward  forwarder
	foreign  *http.CrossOriginProtection

	registry *prometheus.Registry
}

// New returns the handler of the node's REST interface.
func New(node Node, opt Options) http.Handler { return newServer(node, opt).router() }

func newServer(node Node, opt Options) *server {
	if opt.Logger == nil {
		opt.Logger = zap.NewNop()
	}
	if opt.Gate == nil {
		opt.Gate = func() *Gate { return &Gate{} }
	}
	if opt.NonMaster == nil {
		opt.NonMaster = func() NonMaster { return NonMasterForbid }
	}
	if opt.Wall == nil {
		opt.Wall = time.Now
	}
	return &server{
		node: node, opt: opt, auditLog: opt.Logger.Named("audit"),
		foreign: http.NewCrossOriginProtection(), registry: newRegistry(node, opt),
	}
}

func (s *server) router() http.Handler {
	// Cleaning a path means redirecting, and a health path never redirects.
	m := mux.NewRouter().SkipClean(true)
	f := fixed{paths: map[string]map[string]http.Handler{}, rest: m}
	for _, rt := range routes() {
		h := s.handler(rt)
		m.Handle(rt.pattern(), h).Methods(slices.Clone(rt.methods)...) // it writes to what it is given
		f.add(rt, h)
	}
	m.NotFoundHandler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		failure(http.StatusNotFound, "no such path: "+r.URL.Path, "GET /v1/openapi.yaml lists what there is").write(w)
	})
	m.MethodNotAllowedHandler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		allow := strings.Join(methodsOf(r.URL.Path), ", ")
		failure(http.StatusMethodNotAllowed, r.Method+" is not possible here, only "+allow, "").
			with("Allow", allow).write(w)
	})
	return f
}

// fixed finds the paths without {names}, which are what is asked all the time,
// without trying one route after the other.
type fixed struct {
	paths map[string]map[string]http.Handler // by path and method
	rest  http.Handler
}

func (f fixed) add(rt route, h http.Handler) {
	if strings.Contains(rt.path, "{") {
		return
	}
	if f.paths[rt.path] == nil {
		f.paths[rt.path] = map[string]http.Handler{}
	}
	for _, method := range rt.methods {
		f.paths[rt.path][method] = h
	}
}

// ServeHTTP implements http.Handler.
func (f fixed) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if h := f.paths[r.URL.Path][r.Method]; h != nil {
		h.ServeHTTP(w, r)
		return
	}
	f.rest.ServeHTTP(w, r)
}

// methodsOf are the methods of a path, sorted.
func methodsOf(path string) []string {
	var methods []string
	for _, rt := range routes() {
		if rt.matches(path) {
			methods = append(methods, rt.methods...)
		}
	}
	slices.Sort(methods)
	return slices.Compact(methods)
}

// request is what a handler gets: the picture that all of its answer is taken
// from, and who asks.
type request struct {
	*http.Request
	picture
	caller
}

// handler does for a route what the table says of it, in an order in which
// nobody learns or costs more than he may.
func (s *server) handler(rt route) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, hr *http.Request) {
		defer s.recoverFrom(w, hr)
		began := time.Now()
		r := &request{Request: hr}
		resp := s.answer(w, rt, r)
		switch {
		case resp.relay != nil:
			resp.status = resp.relay(hr.Context(), w)
		case resp.stream != nil:
			s.sendStream(w, hr, resp)
		default:
			resp.write(w)
		}
		// Refused logins have a line of their own.
		if r.role != Open && (isWrite(hr.Method) && !rt.silent || resp.status == http.StatusForbidden) {
			s.audit(hr, r.caller, resp.status, time.Since(began))
		}
	})
}

// answer finds out whether the request may be made at all, and has it done.
func (s *server) answer(w http.ResponseWriter, rt route, r *request) response {
	if refused := s.enter(rt, r); refused != nil {
		return *refused
	}
	write := isWrite(r.Method)
	bound(w, rt, r.Request)
	if resp := s.elsewhere(rt, r); resp != nil {
		return *resp
	}
	if refused := receive(rt, r.Request, write); refused != nil {
		return *refused
	}
	r.picture = look(s.node) // last: passwords take time, and time counts against the lease
	if write && !rt.anyNode && !r.serving() && !insists(r.Request) {
		return s.notMaster(r)
	}
	resp := rt.handle(s, r)
	if rt.health {
		haHeaders(w.Header(), r.picture)
	}
	return resp
}

// enter says who is asking and whether he may.
func (s *server) enter(rt route, r *request) *response {
	g := s.opt.Gate()
	needs := g.needs(rt)
	if needs == Open && len(g.Allow) == 0 {
		return nil // health paths, as a rule
	}
	exact, addr := clientAddr(r.Request)
	if !g.admits(exact) {
		resp := failure(http.StatusForbidden, "this address is not allowed here", "server.allow lists those that are")
		return &resp
	}
	if needs == Open {
		return nil
	}
	if c, ok := s.byPeer(rt, r.Request); ok {
		r.caller = c // whoever it is forwarded for was counted and asked there
	} else if refused := s.login(g, r, addr); refused != nil {
		return refused
	}
	if r.role < needs {
		return denied(r.caller, needs)
	}
	// A browser sends a password it knows along with any site's request.
	if err := s.foreign.Check(r.Request); err != nil {
		resp := failure(http.StatusForbidden, "a page of another site asked for this", err.Error())
		return &resp
	}
	return nil
}

// login is for clients: everybody but the nodes of this plane.
func (s *server) login(g *Gate, r *request, addr netip.Addr) *response {
	if !s.rates.allow(addr, s.node.Now(), g.Rate, 2*g.Rate) {
		resp := tooMany("too many requests from this address", time.Second)
		return &resp
	}
	c, refused := s.authenticate(g, r.Request, addr)
	r.caller = c
	return refused
}

// bound bounds what is sent along, and the time it may take.
func bound(w http.ResponseWriter, rt route, r *http.Request) {
	if limit := rt.maxBody(); limit >= 0 && r.Body != nil && r.Body != http.NoBody {
		r.Body = http.MaxBytesReader(w, r.Body, limit)
	}
	if rt.slow || rt.limit < 0 {
		// Nobody but the client itself may cut this answer off. Fails only with
		// a ResponseWriter that has no deadlines to begin with.
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(slowLimit))
	}
	if rt.limit < 0 && r.Body != nil && r.Body != http.NoBody {
		r.Body = idling{r.Body, http.NewResponseController(w)}
	}
}

// receive reads what is sent along, unless the handler does.
func receive(rt route, r *http.Request, write bool) *response {
	if !write || rt.raw {
		return nil
	}
	if ctype := r.Header.Get("Content-Type"); ctype != "" && r.ContentLength != 0 && !isForm(ctype) {
		resp := failure(http.StatusUnsupportedMediaType, "this takes application/x-www-form-urlencoded, not "+ctype, "")
		return &resp
	}
	if err := r.ParseForm(); err != nil {
		resp := badForm(err)
		return &resp
	}
	return nil
}

func isForm(ctype string) bool { return isMedia(ctype, "application/x-www-form-urlencoded") }

func isMedia(ctype, want string) bool {
	t, _, err := mime.ParseMediaType(ctype)
	return err == nil && t == want
}

// recoverFrom keeps one broken handler from taking the node down, which would
// cost a reign.
func (s *server) recoverFrom(w http.ResponseWriter, r *http.Request) {
	v := recover()
	if v == nil {
		return
	}
	if err, ok := v.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		panic(v)
	}
	s.opt.Logger.Error("a request handler panicked; this is a bug", zap.String("method", r.Method),
		zap.String("path", r.URL.Path), zap.Any("panic", v), zap.ByteString("stack", debug.Stack()))
	failure(http.StatusInternalServerError, "internal error: see the node's log", "").write(w)
}

// insists reports whether a write is meant for this node whatever its state.
func insists(r *http.Request) bool {
	return strings.EqualFold(r.Header.Get(v1.HeaderAllowNonMaster), "true") ||
		strings.EqualFold(r.Header.Get(v1.HeaderAllowNonMasterBrooklyn), "true")
}

// notMasterMessage is Brooklyn's, word for word: its clients match on it.
const notMasterMessage = "This request is only permitted against an active primary Brooklyn server"

func (s *server) notMaster(r *request) response { return s.notHere(r, notMasterMessage) }

// notHere refuses what the MASTER could do, in those words, or sends the client
// there.
func (s *server) notHere(r *request, message string) response {
	uri := r.masterURI()
	switch {
	case r.Header.Get(v1.HeaderForwarded) != "" && r.node != "":
		return *noMaster("the node that was MASTER is not any more", "")
	case s.opt.NonMaster() == NonMasterRedirect && uri != "" && r.master() != r.Node:
		return failure(http.StatusTemporaryRedirect, "this node is not MASTER", "").
			with(v1.HeaderMaster, uri).
			with("Location", strings.TrimRight(uri, "/")+r.URL.RequestURI())
	}
	return failure(http.StatusForbidden, message, "").with(v1.HeaderMaster, uri)
}

func badForm(err error) response {
	var tooLong *http.MaxBytesError
	if errors.As(err, &tooLong) {
		return failure(http.StatusRequestEntityTooLarge, "the request body is too long", err.Error())
	}
	return failure(http.StatusBadRequest, "the form could not be read", err.Error())
}
