package server

import (
	"context"
	"errors"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
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
)

// Options are what New can be told besides the node. The zero value works: it
// refuses every request that needs a password.
type Options struct {
	Logger    *zap.Logger // nil: no log
	Auth      Auth        // nil: nobody is let in
	NonMaster NonMaster   // empty: NonMasterForbid
	Build     Build
	// Collectors add to /metrics what the node does not know, as of its store.
	Collectors []prometheus.Collector
	// StoreRequests says how many requests of each kind were sent to the store
	// since the node began; nil: nobody counts them.
	StoreRequests func() map[string]uint64
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

// maxBody is the longest request body, in bytes, of every route there is.
const maxBody = 64 << 10

// slowLimit bounds how long a slow route may take to answer.
const slowLimit = 10 * time.Minute

type server struct {
	node   Node
	opt    Options
	nudges limiter

	registry *prometheus.Registry
}

// New returns the handler of the node's REST interface.
func New(node Node, opt Options) http.Handler {
	if opt.Logger == nil {
		opt.Logger = zap.NewNop()
	}
	if opt.Auth == nil {
		opt.Auth = nobody{}
	}
	if opt.NonMaster == "" {
		opt.NonMaster = NonMasterForbid
	}
	if opt.Wall == nil {
		opt.Wall = time.Now
	}
	s := &server{node: node, opt: opt, registry: newRegistry(node, opt)}

	// Cleaning a path means redirecting, and a health path never redirects.
	m := mux.NewRouter().SkipClean(true)
	allowed := map[string][]string{}
	for _, rt := range routes() {
		m.Handle(rt.path, s.handler(rt)).Methods(rt.methods...)
		allowed[rt.path] = append(allowed[rt.path], rt.methods...)
	}
	m.NotFoundHandler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		failure(http.StatusNotFound, "no such path: "+r.URL.Path, "GET /v1/openapi.yaml lists what there is").write(w)
	})
	m.MethodNotAllowedHandler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		methods := slices.Clone(allowed[r.URL.Path])
		slices.Sort(methods)
		allow := strings.Join(slices.Compact(methods), ", ")
		failure(http.StatusMethodNotAllowed, r.Method+" is not possible here, only "+allow, "").
			with("Allow", allow).write(w)
	})
	return m
}

// request is what a handler gets: the picture that all of its answer is taken
// from, and who asks.
type request struct {
	*http.Request
	picture
	user string // empty on open routes
}

func (s *server) handler(rt route) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, hr *http.Request) {
		defer s.recoverFrom(w, hr)
		r := &request{Request: hr}
		if rt.role != open {
			user, refused := s.authenticate(hr)
			if refused != nil {
				refused.write(w)
				return
			}
			r.user = user
		}
		if hr.Body != nil && hr.Body != http.NoBody {
			hr.Body = http.MaxBytesReader(w, hr.Body, maxBody)
		}
		write := isWrite(hr.Method)
		if write {
			if err := hr.ParseForm(); err != nil {
				badForm(err).write(w)
				return
			}
			if rt.slow {
				// Nobody but the client itself may cut this answer off. Fails only
				// with a ResponseWriter that has no deadlines to begin with.
				_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(slowLimit))
			}
		}
		r.picture = look(s.node) // last: passwords take time, and time counts against the lease
		if write && !rt.anyNode && !r.serving() && !insists(hr) {
			s.notMaster(r).write(w)
			return
		}
		resp := rt.handle(s, r)
		if rt.health {
			haHeaders(w.Header(), r.picture)
		}
		if resp.stream != nil {
			s.sendStream(w, hr, resp)
			return
		}
		resp.write(w)
	})
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

func (s *server) notMaster(r *request) response {
	uri := r.masterURI()
	if s.opt.NonMaster == NonMasterRedirect && uri != "" && r.master() != r.Node {
		return failure(http.StatusTemporaryRedirect, "this node is not MASTER", "").
			with(v1.HeaderMaster, uri).
			with("Location", strings.TrimRight(uri, "/")+r.URL.RequestURI())
	}
	return failure(http.StatusForbidden, notMasterMessage, "").with(v1.HeaderMaster, uri)
}

func badForm(err error) response {
	var tooLong *http.MaxBytesError
	if errors.As(err, &tooLong) {
		return failure(http.StatusRequestEntityTooLarge, "the request body is too long", err.Error())
	}
	return failure(http.StatusBadRequest, "the form could not be read", err.Error())
}

// authenticate returns the user, or the refusal to send.
func (s *server) authenticate(r *http.Request) (string, *response) {
	if _, anyone := s.opt.Auth.(Anyone); anyone {
		return "", nil
	}
	user, password, ok := r.BasicAuth()
	if !ok {
		return "", unauthorized()
	}
	err := s.opt.Auth.Check(r.Context(), user, password)
	switch {
	case err == nil:
		return user, nil
	case errors.Is(err, ErrBusy), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		resp := failure(http.StatusServiceUnavailable, ErrBusy.Error(), "").with("Retry-After", "1")
		return "", &resp
	}
	s.opt.Logger.Debug("a request was refused", zap.String("user", user), zap.String("remote", r.RemoteAddr), zap.Error(err))
	return "", unauthorized()
}

func unauthorized() *response {
	resp := text(http.StatusUnauthorized, "Authentication is required\n").
		with("WWW-Authenticate", `BASIC realm="understudy"`)
	return &resp
}

// limiter lets through a number of events per second of the node's own clock.
type limiter struct {
	mu    sync.Mutex
	last  lease.Instant
	avail float64
}

// nudgesPerSecond is how many nudges a node takes: each costs one read of the
// register, and anybody may send them.
const nudgesPerSecond = 5

func (l *limiter) allow(now lease.Instant) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.last.IsZero() {
		l.last, l.avail = now, nudgesPerSecond
	}
	if d := now.Shortest(l.last); d > 0 { // requests overtake one another
		l.last, l.avail = now, min(nudgesPerSecond, l.avail+d.Seconds()*nudgesPerSecond)
	}
	if l.avail < 1 {
		return false
	}
	l.avail--
	return true
}
