// Package client speaks to Understudy's REST interface. It needs api/v1 and
// the standard library only.
//
// A client is given the endpoints of any nodes of a plane and tries them in
// turn until one answers; which node answers matters little, since each knows
// the whole plane. An answer is an answer, also a refusal: only an endpoint
// that can not be reached is passed over. A write is not sent to a second
// endpoint once it may have arrived at the first.
package client

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/understudy-ha/understudy/api/v1"
)

// Options are what New can be told besides the endpoints. The zero value
// works, without a password and with the system's certificate authorities.
type Options struct {
	User, Password string
	// Token is a bearer token to be known by, instead of User and Password.
	Token string
	// Certificate is one to be known by.
	Certificate *tls.Certificate
	// Insecure accepts any certificate. For trying things out only: the
	// password goes to whoever answers.
	Insecure bool
	// CA holds certificates in PEM that are trusted besides the system's: an
	// authority's, or nodes' own (tls.crt). A node that shows a certificate that
	// is one of these is trusted by whatever name or address it is reached.
	CA []byte
	// TLS replaces what Certificate, Insecure and CA make: for those who know
	// better whom to trust.
	TLS *tls.Config
	// Here has changes of the persisted state made by the endpoint itself or
	// not at all, also while its service starts or stops: for a service that
	// speaks to the node it runs on.
	Here bool
	// Timeout is how long one endpoint may take to be reached and, for reads,
	// to answer. 0: 5 s. Writes answer when they are complete and are bounded
	// by their context alone.
	Timeout time.Duration
}

const defaultTimeout = 5 * time.Second

// maxAnswer is the longest answer that is read, in bytes.
const maxAnswer = 16 << 20

// Client speaks to a plane. Methods may be called from any goroutine.
type Client struct {
	endpoints []string
	opt       Options
	http      *http.Client
	last      atomic.Int32 // index of the endpoint that answered last: tried first
}

// New returns a client for the endpoints: URLs, or host:port for HTTPS.
func New(endpoints []string, opt Options) (*Client, error) {
	if len(endpoints) == 0 {
		return nil, errors.New("no endpoint given; name a node, for example https://localhost:8443")
	}
	c := &Client{opt: opt}
	if c.opt.Timeout <= 0 {
		c.opt.Timeout = defaultTimeout
	}
	for _, e := range endpoints {
		u, err := parseEndpoint(e)
		if err != nil {
			return nil, err
		}
		c.endpoints = append(c.endpoints, u)
	}
	conf, err := tlsConfig(opt)
	if err != nil {
		return nil, err
	}
	c.http = &http.Client{
		Transport: &http.Transport{
			Proxy:               http.ProxyFromEnvironment,
			DialContext:         (&net.Dialer{Timeout: c.opt.Timeout}).DialContext,
			TLSHandshakeTimeout: c.opt.Timeout,
			TLSClientConfig:     conf,
			ForceAttemptHTTP2:   opt.TLS == nil,
			MaxIdleConnsPerHost: 2,
			IdleConnTimeout:     time.Minute,
			// A long body is not sent before the node has said that it wants it.
			ExpectContinueTimeout: c.opt.Timeout,
		},
		// A redirect names the MASTER; following it is the caller's choice.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c, nil
}

func parseEndpoint(e string) (string, error) {
	s := e
	if !strings.Contains(s, "://") {
		s = "https://" + s
	}
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") {
		return "", fmt.Errorf("endpoint %q is not a URL; it should look like https://host:8443", e)
	}
	return u.Scheme + "://" + u.Host + strings.TrimRight(u.EscapedPath(), "/"), nil
}

// Close lets go of idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// UnreachableError says that no endpoint answered.
type UnreachableError struct{ Attempts []Attempt }

// Attempt is one endpoint that was tried.
type Attempt struct {
	Endpoint string
	Err      error
	// MaybeSent says that the request may have arrived. A write is not tried
	// elsewhere then.
	MaybeSent bool
}

func (e *UnreachableError) Error() string {
	var b strings.Builder
	b.WriteString("no node could be reached:")
	for i, a := range e.Attempts {
		if i > 0 {
			b.WriteByte(';')
		}
		fmt.Fprintf(&b, " %s: %v", a.Endpoint, a.Err)
		if a.MaybeSent {
			b.WriteString(" (the request may have arrived)")
		}
	}
	return b.String()
}

// Unwrap returns what went wrong with each endpoint.
func (e *UnreachableError) Unwrap() []error {
	errs := make([]error, len(e.Attempts))
	for i, a := range e.Attempts {
		errs[i] = a.Err
	}
	return errs
}

// StatusError is a refusal: an answer with a status other than 2xx.
type StatusError struct {
	Endpoint string
	Code     int
	Message  string
	Details  string // empty when there are none
	Master   string // URI of the MASTER as the refusing node knows it, or empty
}

func (e *StatusError) Error() string {
	msg := e.Message
	if msg == "" {
		msg = http.StatusText(e.Code)
	}
	if e.Code == http.StatusForbidden && e.Master != "" {
		msg += "; the master is " + e.Master
	}
	return fmt.Sprintf("%s answered %d: %s", e.Endpoint, e.Code, msg)
}

// answer is what an endpoint sent back, whatever its status.
type answer struct {
	endpoint string
	code     int
	header   http.Header
	body     []byte
}

// do sends the request to one endpoint after the other until one answers.
func (c *Client) do(ctx context.Context, method, path string, form url.Values) (*answer, error) {
	first := int(c.last.Load())
	var tried []Attempt
	for i := range c.endpoints {
		n := (first + i) % len(c.endpoints)
		a, err := c.once(ctx, method, c.endpoints[n], path, form)
		if err == nil {
			c.last.Store(int32(n)) //nolint:gosec // a handful of endpoints
			return a, nil
		}
		sent := maybeSent(err)
		tried = append(tried, Attempt{Endpoint: c.endpoints[n], Err: plain(err), MaybeSent: sent && method != http.MethodGet})
		if ctx.Err() != nil || (sent && method != http.MethodGet) {
			break
		}
	}
	return nil, &UnreachableError{Attempts: tried}
}

// ErrCutOff means that a stream ended before its time: the node has ended, or
// the way to it.
var ErrCutOff = errors.New("it ended in between")

// stream copies the answer of the first endpoint that can be reached.
func (c *Client) stream(ctx context.Context, path string, w io.Writer) error {
	first := int(c.last.Load())
	var tried []Attempt
	for i := range c.endpoints {
		endpoint := c.endpoints[(first+i)%len(c.endpoints)]
		resp, err := c.send(ctx, http.MethodGet, endpoint, path, nil)
		if err != nil {
			tried = append(tried, Attempt{Endpoint: endpoint, Err: plain(err)})
			continue
		}
		defer func() { _ = resp.Body.Close() }()
		if resp.StatusCode/100 != 2 {
			b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
			if err != nil {
				return fmt.Errorf("read the answer: %w", err)
			}
			return (&answer{endpoint: endpoint, code: resp.StatusCode, header: resp.Header, body: b}).refused()
		}
		if _, err = io.Copy(w, resp.Body); err != nil && ctx.Err() == nil {
			return fmt.Errorf("%s: %w: %w", endpoint, ErrCutOff, err)
		}
		return nil
	}
	return &UnreachableError{Attempts: tried}
}

func (c *Client) once(ctx context.Context, method, endpoint, path string, form url.Values) (*answer, error) {
	if method == http.MethodGet {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.opt.Timeout)
		defer cancel()
	}
	resp, err := c.send(ctx, method, endpoint, path, form)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	return &answer{endpoint: endpoint, code: resp.StatusCode, header: resp.Header, body: b}, nil
}

// send sends one request; the body of the answer is the caller's to close.
func (c *Client) send(ctx context.Context, method, endpoint, path string, form url.Values) (*http.Response, error) {
	var body io.Reader
	if method != http.MethodGet {
		body = strings.NewReader(form.Encode())
	}
	req, err := http.NewRequestWithContext(ctx, method, endpoint+path, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json, text/plain;q=0.5")
	if body != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		// Who asks a node by its address means that node.
		req.Header.Set(v1.HeaderAllowNonMaster, "true")
	}
	c.authorise(req)
	return c.http.Do(req)
}

// authorise says who asks.
func (c *Client) authorise(req *http.Request) {
	switch {
	case c.opt.Token != "":
		req.Header.Set("Authorization", "Bearer "+c.opt.Token)
	case c.opt.User != "" || c.opt.Password != "":
		req.SetBasicAuth(c.opt.User, c.opt.Password)
	}
}

// maybeSent reports whether a request that failed may have arrived: not if
// there was no connection, or none that could be trusted.
func maybeSent(err error) bool {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return false
	}
	var cert *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	return !errors.As(err, &cert) && !errors.As(err, &record)
}

// plain drops the "Get https://…:" that net/http puts before its errors, since
// the endpoint is named already, and adds the remedy to those that have one.
func plain(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	var cert *tls.CertificateVerificationError
	if errors.As(err, &cert) {
		return fmt.Errorf("%w (give the node's tls.crt as CA, or accept any certificate)", err)
	}
	return err
}

// refused turns an answer that is not 2xx into a StatusError.
func (a *answer) refused() error {
	if a.code/100 == 2 {
		return nil
	}
	e := &StatusError{Endpoint: a.endpoint, Code: a.code, Master: a.header.Get(v1.HeaderMaster)}
	var w v1.Error
	if json.Unmarshal(a.body, &w) == nil && w.Message != "" {
		e.Message, e.Details = w.Message, w.Details
	} else {
		e.Message = strings.TrimSpace(string(a.body[:min(len(a.body), 200)]))
	}
	return e
}

func call[T any](ctx context.Context, c *Client, method, path string, form url.Values) (T, error) {
	var out T
	a, err := c.do(ctx, method, path, form)
	if err != nil {
		return out, err
	}
	if err := a.refused(); err != nil {
		return out, err
	}
	if err := json.Unmarshal(a.body, &out); err != nil {
		return out, fmt.Errorf("%s%s sent no answer of the expected form; is it Understudy? %w", a.endpoint, path, err)
	}
	return out, nil
}

// tell is for requests that are answered without a body.
func (c *Client) tell(ctx context.Context, path string, form url.Values) error {
	a, err := c.do(ctx, http.MethodPost, path, form)
	if err != nil {
		return err
	}
	return a.refused()
}

// States returns the plane as the answering node sees it.
func (c *Client) States(ctx context.Context) (v1.PlaneStates, error) {
	return call[v1.PlaneStates](ctx, c, http.MethodGet, "/v1/server/ha/states", nil)
}

// State returns the answering node's state.
func (c *Client) State(ctx context.Context) (v1.State, error) {
	return call[v1.State](ctx, c, http.MethodGet, "/v1/server/ha/state", nil)
}

// SetState asks the answering node for a mode and returns its state before,
// when the change is complete. A StatusError 412 lists why it was refused;
// force overrides it. Give a client one endpoint to be sure which node it is.
func (c *Client) SetState(ctx context.Context, mode v1.Mode, force bool) (v1.State, error) {
	form := url.Values{"mode": {string(mode)}}
	if force {
		form.Set("force", "true")
	}
	return call[v1.State](ctx, c, http.MethodPost, "/v1/server/ha/state", form)
}

// Priority returns the answering node's election priority.
func (c *Client) Priority(ctx context.Context) (int, error) {
	return call[int](ctx, c, http.MethodGet, "/v1/server/ha/priority", nil)
}

// SetPriority sets the answering node's election priority and returns the one
// before.
func (c *Client) SetPriority(ctx context.Context, priority int) (int, error) {
	return call[int](ctx, c, http.MethodPost, "/v1/server/ha/priority", url.Values{"priority": {strconv.Itoa(priority)}})
}

// ClearNodes forgets the nodes that are TERMINATED or silent.
func (c *Client) ClearNodes(ctx context.Context) error {
	return c.tell(ctx, "/v1/server/ha/states/clear", nil)
}

// ClearNode forgets one node if it is TERMINATED or silent.
func (c *Client) ClearNode(ctx context.Context, nodeID string) error {
	return c.tell(ctx, "/v1/server/ha/states/clear/node", url.Values{"nodeId": {nodeID}})
}

// ConfirmFenced tells the answering node that the machine of a former master is
// powered off; actor says who says so, beside the user. A StatusError 412 lists
// why that means nothing to it. Give a client one endpoint to be sure which node
// it is.
func (c *Client) ConfirmFenced(ctx context.Context, nodeID, actor string) error {
	return c.tell(ctx, "/v1/server/ha/fence/confirm", url.Values{"node": {nodeID}, "actor": {actor}})
}

// Metrics returns the answering node's figures.
func (c *Client) Metrics(ctx context.Context) (v1.Metrics, error) {
	return call[v1.Metrics](ctx, c, http.MethodGet, "/v1/server/ha/metrics", nil)
}

// History returns the plane's reigns of at least the given term, newest first,
// at most limit of them; limit 0 means as many as there are.
func (c *Client) History(ctx context.Context, since uint64, limit int) (v1.History, error) {
	q := url.Values{}
	if since > 0 {
		q.Set("since", strconv.FormatUint(since, 10))
	}
	if limit > 0 {
		q.Set("limit", strconv.Itoa(limit))
	}
	path := "/v1/server/ha/history"
	if len(q) > 0 {
		path += "?" + q.Encode()
	}
	return call[v1.History](ctx, c, http.MethodGet, path, nil)
}

// UpExtended returns whether the answering node is up, and the plane.
func (c *Client) UpExtended(ctx context.Context) (v1.UpExtended, error) {
	return call[v1.UpExtended](ctx, c, http.MethodGet, "/v1/server/up/extended", nil)
}

// Up reports whether the answering node has started and goes on.
func (c *Client) Up(ctx context.Context) (bool, error) {
	return call[bool](ctx, c, http.MethodGet, "/v1/server/up", nil)
}

// Version returns what the answering node runs.
func (c *Client) Version(ctx context.Context) (v1.Version, error) {
	return call[v1.Version](ctx, c, http.MethodGet, "/v1/server/version", nil)
}

// PlaneID returns the plane's id; empty before the node has read the register.
func (c *Client) PlaneID(ctx context.Context) (string, error) {
	a, err := c.do(ctx, http.MethodGet, "/v1/server/planeid", nil)
	if err != nil {
		return "", err
	}
	return string(a.body), a.refused()
}

// Service returns the managed service of the answering node.
func (c *Client) Service(ctx context.Context) (v1.Service, error) {
	return call[v1.Service](ctx, c, http.MethodGet, "/v1/server/service", nil)
}

// ControlService asks the answering node to start, stop or restart its service
// or to reset-failures, and returns how the service is once that is done. A
// StatusError 412 says why it is not possible now.
func (c *Client) ControlService(ctx context.Context, action string) (v1.Service, error) {
	return call[v1.Service](ctx, c, http.MethodPost, "/v1/server/service/"+url.PathEscape(action), nil)
}

// ServiceLogs writes the last lines of the service's output on the answering
// node, and with follow whatever comes after them until ctx or the node ends.
func (c *Client) ServiceLogs(ctx context.Context, w io.Writer, lines int, follow bool) error {
	q := url.Values{"lines": {strconv.Itoa(lines)}, "follow": {strconv.FormatBool(follow)}}
	return c.stream(ctx, "/v1/server/service/logs?"+q.Encode(), w)
}

// Shutdown has the answering node stop in order, handing over if it is MASTER.
func (c *Client) Shutdown(ctx context.Context) error {
	return c.tell(ctx, "/v1/server/shutdown", nil)
}

// Nudge has the answering node read the register soon. It needs no password.
func (c *Client) Nudge(ctx context.Context) error {
	return c.tell(ctx, "/v1/server/ha/nudge", nil)
}

// HealthReport asks for what the answering node says of its health, with the
// reason in words. It needs no password.
func (c *Client) HealthReport(ctx context.Context) (v1.HealthReport, error) {
	const path = "/v1/server/ha/health"
	var r v1.HealthReport
	a, err := c.do(ctx, http.MethodGet, path, nil)
	if err != nil {
		return r, err
	}
	// Its codes are as many as its conditions; the body tells whether it is one.
	if err := json.Unmarshal(a.body, &r); err != nil || r.NodeID == "" {
		return r, errors.Join(fmt.Errorf("%s%s is not a health path of Understudy", a.endpoint, path), a.refused())
	}
	return r, nil
}

// Health is the answer of a health path.
type Health struct {
	OK             bool // 200
	Code           int
	Endpoint       string // who answered
	State          v1.State
	Term           uint64
	Node           string
	Master         string // URI; empty when none is known
	LeaseRemaining time.Duration
	Warnings       []string // reason codes
}

// healthCodes are what a health path may answer.
var healthCodes = []int{http.StatusOK, http.StatusServiceUnavailable}

// Health asks a health path such as "/master", which needs no password. No is
// not an error. A StatusError means that the path is not a health path.
func (c *Client) Health(ctx context.Context, path string) (Health, error) {
	a, err := c.do(ctx, http.MethodGet, path, nil)
	if err != nil {
		return Health{}, err
	}
	h := Health{
		OK: a.code == http.StatusOK, Code: a.code, Endpoint: a.endpoint,
		State: v1.State(a.header.Get(v1.HeaderState)), Node: a.header.Get(v1.HeaderNode),
		Master: a.header.Get(v1.HeaderMaster),
	}
	if h.Node == "" || !slices.Contains(healthCodes, a.code) {
		return Health{}, errors.Join(fmt.Errorf("%s%s is not a health path of Understudy", a.endpoint, path), a.refused())
	}
	term, err := strconv.ParseUint(a.header.Get(v1.HeaderTerm), 10, 64)
	if err != nil {
		return Health{}, fmt.Errorf("%s%s: header %s: %w", a.endpoint, path, v1.HeaderTerm, err)
	}
	ms, err := strconv.ParseInt(a.header.Get(v1.HeaderLeaseRemaining), 10, 64)
	if err != nil {
		return Health{}, fmt.Errorf("%s%s: header %s: %w", a.endpoint, path, v1.HeaderLeaseRemaining, err)
	}
	h.Term, h.LeaseRemaining = term, time.Duration(ms)*time.Millisecond
	if w := a.header.Get(v1.HeaderWarning); w != "" {
		h.Warnings = strings.Split(w, ",")
	}
	return h, nil
}
