package server

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/lease"
	"github.com/understudy-ha/understudy/test/contract"
)

const (
	self   lease.NodeID = "nself001"
	other  lease.NodeID = "nother02"
	third  lease.NodeID = "nthird03"
	silent lease.NodeID = "nquiet04"
)

// start is when every fake node begins; wall is the wall clock at that moment.
var (
	start = lease.At(time.Hour)
	wall  = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
)

// fakeNode is a node whose snapshot and clock the test sets.
type fakeNode struct {
	mu    sync.Mutex
	st    *ha.Status
	now   lease.Instant
	calls []string
	err   error         // what every request is answered with
	hang  chan struct{} // not nil: requests wait until it is closed

	outcome  ha.Operation // what Await says
	going    bool         // of an operation that does not end
	planned  string       // the id of the planned one
	happened []ha.PlaneEvent
	more     chan struct{}
}

func (f *fakeNode) Status() *ha.Status { f.mu.Lock(); defer f.mu.Unlock(); return f.st }
func (f *fakeNode) Now() lease.Instant { f.mu.Lock(); defer f.mu.Unlock(); return f.now }

func (f *fakeNode) set(st *ha.Status) { f.mu.Lock(); defer f.mu.Unlock(); f.st = st }

func (f *fakeNode) advance(d time.Duration) { f.mu.Lock(); defer f.mu.Unlock(); f.now = f.now.Add(d) }

func (f *fakeNode) called() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string{}, f.calls...)
}

func (f *fakeNode) record(ctx context.Context, format string, args ...any) error {
	f.mu.Lock()
	f.calls = append(f.calls, fmt.Sprintf(format, args...))
	err, hang := f.err, f.hang
	f.mu.Unlock()
	if hang != nil {
		select {
		case <-hang:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return err
}

func (f *fakeNode) SetMode(ctx context.Context, m lease.Mode, force bool) (lease.State, error) {
	prev := f.Status().StateAt(f.Now())
	return prev, f.record(ctx, "SetMode %s %v", m, force)
}

func (f *fakeNode) SetPriority(ctx context.Context, n int) (int, error) {
	return f.Status().Priority, f.record(ctx, "SetPriority %d", n)
}

func (f *fakeNode) Forget(ctx context.Context, id lease.NodeID) error {
	return f.record(ctx, "Forget %q", id)
}

func (f *fakeNode) ConfirmOff(ctx context.Context, id lease.NodeID, actor string) error {
	return f.record(ctx, "ConfirmOff %s, says %s", id, actor)
}

func (f *fakeNode) Operate(ctx context.Context, r ha.OperationRequest) (ha.Operation, error) {
	op := ha.Operation{ID: "0123-abc", Kind: r.Kind, To: r.To, Node: r.Node, Actor: r.Actor, Accepted: wall, By: self, Term: 7, State: ha.OpAccepted}
	if r.DryRun {
		op.ID, op.State = "", ha.OpDryRun
	}
	return op, f.record(ctx, "Operate %+v", r)
}

func (f *fakeNode) Await(ctx context.Context, id string) (ha.Operation, error) {
	f.mu.Lock()
	op, hang := f.outcome, f.going
	f.mu.Unlock()
	if hang {
		<-ctx.Done()
		return op, ctx.Err()
	}
	if op.Kind == "" {
		op = ha.Operation{Kind: ha.OpSwitchover, State: ha.OpDone, Accepted: wall}
	}
	op.ID = id
	return op, nil
}

func (f *fakeNode) Operation(_ context.Context, id string) (ha.Operation, error) {
	if id != "0123-abc" {
		return ha.Operation{}, ha.ErrNoOperation
	}
	return ha.Operation{ID: id, Kind: ha.OpSwitchover, State: ha.OpDone, Accepted: wall}, nil
}

func (f *fakeNode) Planned(ctx context.Context) (ha.Operation, error) {
	return f.Operation(ctx, f.planned)
}

func (f *fakeNode) CancelPlanned(ctx context.Context, actor string) (ha.Operation, error) {
	return ha.Operation{}, f.record(ctx, "CancelPlanned %s", actor)
}

func (f *fakeNode) EndMaintenance(ctx context.Context, id lease.NodeID, actor string) error {
	return f.record(ctx, "EndMaintenance %s %s", id, actor)
}

func (f *fakeNode) Happened(after uint64) ([]ha.PlaneEvent, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.more == nil {
		f.more = make(chan struct{})
	}
	return f.happened[min(int(after), len(f.happened)):], f.more //nolint:gosec // a handful
}

func (f *fakeNode) happen(e ha.PlaneEvent) {
	f.mu.Lock()
	defer f.mu.Unlock()
	e.Seq, e.At = uint64(len(f.happened))+1, wall
	f.happened = append(f.happened, e)
	if f.more != nil {
		close(f.more)
	}
	f.more = make(chan struct{})
}

func (f *fakeNode) Shutdown(reason string) { _ = f.record(context.Background(), "Shutdown %s", reason) }
func (f *fakeNode) Nudge()                 { _ = f.record(context.Background(), "Nudge") }

// peer is the record of another node, last heard of age ago.
func peer(id lease.NodeID, st lease.State, age time.Duration) ha.NodeStatus {
	return ha.NodeStatus{
		NodeRecord: lease.NodeRecord{
			Node: id, State: st, Mode: lease.ModeAuto, URI: "https://" + string(id) + ":8443/",
			IntervalMs: 1000, Version: "1.2.3", Electable: st == lease.StateStandby || st == lease.StateHotStandby,
			StoreMs: 4, WallMs: wall.Add(-age).UnixMilli(), LeaseMs: 30000, Term: 7,
		},
		SeenAt: start.Add(-age),
	}
}

// status is a healthy node in the given state at start, in a plane of four:
// node other holds the term and is master, third is a standby, and silent has
// not been heard of for ten minutes.
func status(st lease.State) *ha.Status {
	own := peer(self, st, 200*time.Millisecond)
	s := &ha.Status{
		Plane: "plane123", Node: self, URI: "https://nself001:8443/", Version: "1.2.3",
		Mode: lease.ModeAuto, Started: wall.Add(-time.Hour),
		Heartbeat: time.Second, Timeout: 30 * time.Second, Poll: 200 * time.Millisecond,
		Standing: st, Electable: own.Electable,
		Term: 7, Holder: other, HolderOK: true,
		Nodes: map[lease.NodeID]ha.NodeStatus{
			self:   own,
			other:  peer(other, lease.StateMaster, 300*time.Millisecond),
			third:  peer(third, lease.StateStandby, 400*time.Millisecond),
			silent: peer(silent, lease.StateHotStandby, 10*time.Minute),
		},
		Store: ha.StoreStatus{
			URL: "/mnt/plane", Kind: "posix", Verified: true, Latency: 3 * time.Millisecond,
			LastRead: start.Add(-100 * time.Millisecond), LastWrite: start.Add(-200 * time.Millisecond),
		},
		Service: ha.ServiceInfo{Phase: "idle"},
		History: []ha.Transition{
			{State: st, Term: 7, Reason: "started", At: wall.Add(-time.Minute)},
			{State: lease.StateInitializing, Reason: "started", At: wall.Add(-time.Hour)},
		},
		LoopAt: start.Add(-100 * time.Millisecond),
	}
	if st == lease.StateInitializing {
		s.History = s.History[1:]
	}
	return s
}

// holding is status for a node that holds term 8, its lease ending 26.7 s after
// start; standing is what it shows when the truth rule fails.
func holding(standing lease.State, ready bool) *ha.Status {
	s := status(standing)
	s.Term, s.Holder, s.Electable = 8, self, false
	old := s.Nodes[other]
	old.State, old.Electable = lease.StateStandby, true
	s.Nodes[other] = old
	s.Reign = &ha.ReignStatus{Term: 8, T0: start, End: 26700 * time.Millisecond, Ready: ready, Leading: true, Since: wall}
	s.Service.Phase = "starting"
	if ready {
		s.Service.Phase = "ready"
	}
	return s
}

func mastering() *ha.Status { return holding(lease.StateStandby, true) }

// rig is a server under test. Every answer it gives is held against the
// OpenAPI document.
type rig struct {
	t    *testing.T
	node *fakeNode
	url  string
	http *http.Client

	server  *server
	handler http.Handler
	peer    *Peer // of Options
}

// secret is the password of user admin wherever a test needs none of its own.
const secret = "correct horse"

// gate is a Gate that never changes.
func gate(g Gate) func() *Gate { return func() *Gate { return &g } }

// anyone lets everybody in.
var anyone = gate(Gate{Disabled: true})

// fixedAuth knows one user, without bcrypt, and remembers nothing.
type fixedAuth struct{}

func (fixedAuth) Known(string, string) bool { return false }

func (fixedAuth) Check(_ context.Context, user, password string) error {
	if user == "admin" && password == secret {
		return nil
	}
	return ErrUnauthorized
}

func newRig(t *testing.T, st *ha.Status, opt Options) *rig {
	t.Helper()
	node := &fakeNode{st: st, now: start}
	if opt.Gate == nil {
		opt.Gate = gate(Gate{Users: fixedAuth{}})
	}
	opt.Wall = func() time.Time { return wall }
	s := newServer(node, opt)
	h := s.router()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	c := srv.Client()
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &rig{t: t, node: node, url: srv.URL, http: c, server: s, handler: h, peer: opt.Peer}
}

// reply is one answer, read.
type reply struct {
	code   int
	header http.Header
	body   string
}

// ask sends a request with admin's password.
func (g *rig) ask(method, path, form string, header ...string) reply {
	g.t.Helper()
	return g.send(method, path, form, append([]string{"user", "admin", "password", secret}, header...)...)
}

// send sends a request; header lists names and values, of which user and
// password become basic authentication.
func (g *rig) send(method, path, form string, header ...string) reply {
	g.t.Helper()
	var body io.Reader
	if form != "" {
		body = strings.NewReader(form)
	}
	req, err := http.NewRequestWithContext(g.t.Context(), method, g.url+path, body)
	if err != nil {
		g.t.Fatal(err)
	}
	if form != "" {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	var user, password string
	for i := 0; i+1 < len(header); i += 2 {
		switch header[i] {
		case "user":
			user = header[i+1]
		case "password":
			password = header[i+1]
		default:
			req.Header.Set(header[i], header[i+1])
		}
	}
	if user != "" {
		req.SetBasicAuth(user, password)
	}
	resp, err := g.http.Do(req)
	if err != nil {
		g.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer func() { _ = resp.Body.Close() }()
	var all io.Reader = resp.Body
	if resp.Header.Get("Content-Type") == "text/event-stream" {
		all = io.LimitReader(all, 1) // it does not end
	}
	b, err := io.ReadAll(all)
	if err != nil {
		g.t.Fatalf("%s %s: %v", method, path, err)
	}
	r := reply{code: resp.StatusCode, header: resp.Header, body: string(b)}
	x := contract.Exchange{Request: req, Sent: []byte(form), Status: r.code, Header: r.header, Body: b}
	if err := x.Check(g.t.Context()); err != nil {
		g.t.Error(err)
	}
	return r
}

// formOf is a form that the path takes.
func formOf(path string) string {
	return map[string]string{"/v1/server/ha/state": "mode=AUTO", "/v1/server/ha/priority": "priority=1", "/v1/server/ha/fence/confirm": "node=nother02"}[path]
}

// pathOf is one path of the route.
func pathOf(rt route) string {
	return strings.NewReplacer("{key}", "log.level", "{user}", "ann", "/{id}/maintenance", "/nother02/maintenance", "{id}", "0123-abc").Replace(rt.path)
}
