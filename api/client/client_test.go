package client_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/understudy-ha/understudy/api/client"
	"github.com/understudy-ha/understudy/api/server"
	"github.com/understudy-ha/understudy/api/v1"
	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/lease"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// node is a master, or a standby, that remembers what it was asked.
type node struct {
	server.Node
	st    ha.Status
	calls []string
	err   error
}

func master() *node {
	now := lease.At(time.Hour)
	return &node{st: ha.Status{
		Plane: "plane123", Node: "nself001", URI: "https://nself001:8443/", Version: "1.2.3", Priority: 4,
		Standing: lease.StateStandby, Term: 8, Holder: "nself001", HolderOK: true, LoopAt: now,
		Heartbeat: time.Second, Timeout: 30 * time.Second, Warnings: []string{"HEARTBEAT_LATE: x"},
		Reign: &ha.ReignStatus{Term: 8, T0: now, End: 20 * time.Second, Ready: true, Leading: true},
		Reigns: []ha.ReignRecord{
			{Term: 8, Node: "nself001", Reason: "silent"}, {Term: 7, Node: "nother02", Reason: "birth"},
		},
	}}
}

func standby() *node {
	n := master()
	n.st.Reign = nil
	return n
}

func (n *node) Status() *ha.Status { return &n.st }
func (n *node) Now() lease.Instant { return lease.At(time.Hour + time.Second) }
func (n *node) SetMode(_ context.Context, m lease.Mode, force bool) (lease.State, error) {
	n.calls = append(n.calls, "mode "+string(m))
	if force {
		n.calls = append(n.calls, "force")
	}
	return n.st.StateAt(n.Now()), n.err
}

func (n *node) SetPriority(context.Context, int) (int, error) {
	n.calls = append(n.calls, "priority")
	return n.st.Priority, n.err
}

func (n *node) Forget(_ context.Context, id lease.NodeID) error {
	n.calls = append(n.calls, "forget "+string(id))
	return n.err
}

func (n *node) ConfirmOff(_ context.Context, id lease.NodeID, actor string) error {
	n.calls = append(n.calls, "confirm "+string(id)+" "+actor)
	return n.err
}
func (n *node) Shutdown(string) { n.calls = append(n.calls, "shutdown") }
func (n *node) Nudge()          { n.calls = append(n.calls, "nudge") }

type oneUser struct{}

func (oneUser) Known(string, string) bool { return false }

// gate lets the users of auth do everything.
func gate(auth server.Auth) func() *server.Gate {
	return func() *server.Gate { return &server.Gate{Users: auth} }
}

func (oneUser) Check(_ context.Context, user, password string) error {
	if user == "admin" && password == "one" {
		return nil
	}
	return server.ErrUnauthorized
}

func start(t *testing.T, n *node) *httptest.Server {
	t.Helper()
	s := httptest.NewTLSServer(server.New(n, server.Options{Gate: gate(oneUser{})}))
	t.Cleanup(s.Close)
	return s
}

func pemOf(s *httptest.Server) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
}

func connect(t *testing.T, opt client.Options, endpoints ...string) *client.Client {
	t.Helper()
	c, err := client.New(endpoints, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// dead is an address nobody listens on.
func dead(t *testing.T) string {
	t.Helper()
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	return ln.Addr().String()
}

func TestEveryCall(t *testing.T) {
	n := master()
	s := start(t, n)
	c := connect(t, client.Options{User: "admin", Password: "one", CA: pemOf(s)}, s.URL)
	ctx := t.Context()
	check := func(what string, got, want any, err error) {
		t.Helper()
		g, gerr := json.Marshal(got)
		w, werr := json.Marshal(want)
		if err != nil || gerr != nil || werr != nil || string(g) != string(w) {
			t.Errorf("%s: %s %v, want %s", what, g, err, w)
		}
	}
	st, err := c.State(ctx)
	check("State", st, v1.StateMaster, err)
	states, err := c.States(ctx)
	check("States", []any{states.PlaneID, states.MasterID, states.Term, states.Nodes["nself001"].Status}, []any{"plane123", "nself001", 8, "MASTER"}, err)
	prev, err := c.SetState(ctx, v1.ModeHotStandby, true)
	check("SetState", prev, v1.StateMaster, err)
	prio, err := c.Priority(ctx)
	check("Priority", prio, 4, err)
	prio, err = c.SetPriority(ctx, -1)
	check("SetPriority", prio, 4, err)
	check("ClearNodes", nil, nil, c.ClearNodes(ctx))
	check("ClearNode", nil, nil, c.ClearNode(ctx, "nother02"))
	m, err := c.Metrics(ctx)
	check("Metrics", m.HighAvailability.HeartbeatTimeout, 30000, err)
	h, err := c.History(ctx, 0, 0)
	check("History", len(h.Reigns), 2, err)
	h, err = c.History(ctx, 0, 1)
	check("History limit", h.Reigns[0].Term, 8, err)
	h, err = c.History(ctx, 9, 5)
	check("History since", len(h.Reigns), 0, err)
	up, err := c.Up(ctx)
	check("Up", up, true, err)
	x, err := c.UpExtended(ctx)
	check("UpExtended", x.HA.OwnID, "nself001", err)
	v, err := c.Version(ctx)
	check("Version", v.Version, "1.2.3", err)
	id, err := c.PlaneID(ctx)
	check("PlaneID", id, "plane123", err)
	check("Nudge", nil, nil, c.Nudge(ctx))
	check("Shutdown", nil, nil, c.Shutdown(ctx))
	check("calls", strings.Join(n.calls, ","), "mode HOT_STANDBY,force,priority,forget ,forget nother02,nudge,shutdown", nil)
}

// Health paths need no password and answer no without an error.
func TestHealth(t *testing.T) {
	s := start(t, master())
	c := connect(t, client.Options{Insecure: true}, s.URL)
	h, err := c.Health(t.Context(), "/master")
	if err != nil {
		t.Fatal(err)
	}
	want := client.Health{
		OK: true, Code: 200, Endpoint: s.URL, State: v1.StateMaster, Term: 8, Node: "nself001",
		Master: "https://nself001:8443/", LeaseRemaining: 19 * time.Second,
	}
	if strings.Join(h.Warnings, ",") != "HEARTBEAT_LATE" {
		t.Errorf("%v", h.Warnings)
	}
	h.Warnings = nil
	if g, w := show(t, h), show(t, want); g != w {
		t.Errorf("%s, want %s", g, w)
	}
	if h, err := c.Health(t.Context(), "/standby"); err != nil || h.OK || h.Code != 503 {
		t.Errorf("%+v %v", h, err)
	}
	var status *client.StatusError
	if _, err := c.Health(t.Context(), "/nothing"); !errors.As(err, &status) || status.Code != 404 {
		t.Errorf("%v", err)
	}
}

func show(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// The first endpoint that can be reached answers, and is asked first from then
// on.
func TestEndpointsAreTriedInTurn(t *testing.T) {
	s := start(t, master())
	d := dead(t)
	c := connect(t, client.Options{User: "admin", Password: "one", Insecure: true}, d, strings.TrimPrefix(s.URL, "https://"))
	for range 2 {
		if st, err := c.State(t.Context()); err != nil || st != v1.StateMaster {
			t.Fatalf("%s %v", st, err)
		}
	}
	if _, err := c.SetPriority(t.Context(), 1); err != nil { // a write that could not be sent may go elsewhere
		t.Error(err)
	}
	fresh := connect(t, client.Options{User: "admin", Password: "one", Insecure: true}, d, s.URL)
	if _, err := fresh.SetPriority(t.Context(), 1); err != nil {
		t.Error(err)
	}
}

func TestUnreachable(t *testing.T) {
	a, b := dead(t), dead(t)
	c := connect(t, client.Options{}, a, b)
	_, err := c.State(t.Context())
	var u *client.UnreachableError
	if !errors.As(err, &u) || len(u.Attempts) != 2 || u.Attempts[0].Endpoint != "https://"+a || u.Attempts[0].MaybeSent {
		t.Fatalf("%v", err)
	}
	for _, want := range []string{"https://" + a + ": ", "https://" + b + ": ", "connection refused"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
}

// A certificate nobody vouches for is named, with the remedy; nothing is sent.
func TestUntrustedCertificate(t *testing.T) {
	n := master()
	s := start(t, n)
	c := connect(t, client.Options{User: "admin", Password: "one"}, s.URL)
	err := c.Shutdown(t.Context())
	var u *client.UnreachableError
	if !errors.As(err, &u) || u.Attempts[0].MaybeSent || !strings.Contains(err.Error(), "tls.crt") {
		t.Errorf("%v", err)
	}
	var unknown x509.UnknownAuthorityError
	if !errors.As(err, &unknown) {
		t.Errorf("%v does not wrap the cause", err)
	}
	if len(n.calls) != 0 {
		t.Error(n.calls)
	}
}

// A node that hangs is passed over by a read, and a write is not sent twice.
func TestHangingEndpoint(t *testing.T) {
	var asked atomic.Int32
	release := make(chan struct{})
	hung := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(hung.Close)
	t.Cleanup(func() { close(release) })
	n := master()
	s := start(t, n)
	c := connect(t, client.Options{User: "admin", Password: "one", Insecure: true, Timeout: time.Second}, hung.URL, s.URL)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := c.SetPriority(ctx, 1)
	var u *client.UnreachableError
	if !errors.As(err, &u) || len(u.Attempts) != 1 || !u.Attempts[0].MaybeSent || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	if len(n.calls) != 0 {
		t.Errorf("the write was sent to a second endpoint: %v", n.calls)
	}
	if st, err := c.State(t.Context()); err != nil || st != v1.StateMaster {
		t.Errorf("a read: %s %v", st, err)
	}
	before := asked.Load()
	if _, err := c.State(t.Context()); err != nil || asked.Load() != before {
		t.Errorf("the endpoint that answered is not asked first: %v", err)
	}
	if asked.Load() < 2 {
		t.Errorf("the hanging endpoint was asked %d times: the test proves nothing", asked.Load())
	}
}

func TestRefusals(t *testing.T) {
	n := standby()
	s := start(t, n)
	wrong := connect(t, client.Options{User: "admin", Password: "two", Insecure: true}, s.URL)
	var e *client.StatusError
	if _, err := wrong.State(t.Context()); !errors.As(err, &e) || e.Code != 401 || e.Message != "Authentication is required" {
		t.Errorf("%v", err)
	}
	c := connect(t, client.Options{User: "admin", Password: "one", Insecure: true}, s.URL)
	n.err = &ha.PreconditionError{Reasons: []string{"no candidate", "nother02 is silent"}}
	if _, err := c.SetState(t.Context(), v1.ModeStandby, false); !errors.As(err, &e) || e.Code != 412 ||
		e.Details != "no candidate\nnother02 is silent" || e.Endpoint != s.URL || !strings.Contains(err.Error(), "no candidate") {
		t.Errorf("%v", err)
	}
	if _, err := c.SetState(t.Context(), "BOSS", false); !errors.As(err, &e) || e.Code != 400 {
		t.Errorf("%v", err)
	}
}

// Something that is not Understudy.
func TestForeignServer(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/server/ha/state" {
			http.Error(w, strings.Repeat("<html>", 100), http.StatusBadGateway)
			return
		}
		_, _ = w.Write([]byte("<html>hello</html>"))
	}))
	t.Cleanup(s.Close)
	c := connect(t, client.Options{}, s.URL)
	if _, err := c.States(t.Context()); err == nil || !strings.Contains(err.Error(), "is it Understudy?") {
		t.Errorf("%v", err)
	}
	if _, err := c.Health(t.Context(), "/master"); err == nil || !strings.Contains(err.Error(), "not a health path") {
		t.Errorf("%v", err)
	}
	var e *client.StatusError
	if _, err := c.State(t.Context()); !errors.As(err, &e) || e.Code != 502 || len(e.Message) > 200 {
		t.Errorf("%v", err)
	}
}

func TestNewRefusesBadOptions(t *testing.T) {
	for _, c := range []struct {
		endpoints []string
		opt       client.Options
		want      string
	}{
		{nil, client.Options{}, "no endpoint"},
		{[]string{"ftp://x"}, client.Options{}, `endpoint "ftp://x" is not a URL`},
		{[]string{"https://"}, client.Options{}, "is not a URL"},
		{[]string{"a b"}, client.Options{}, "is not a URL"},
		{[]string{"localhost:8443"}, client.Options{CA: []byte("garbage")}, "no certificate"},
	} {
		if _, err := client.New(c.endpoints, c.opt); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v, want %q", c.endpoints, err, c.want)
		}
	}
}

// The whole path a user takes: generated password, generated certificate given
// as CA, the real server.
func TestGeneratedCredentialsAndCertificate(t *testing.T) {
	dir := t.TempDir()
	auth, cred, err := server.GenerateCredentials(dir)
	if err != nil {
		t.Fatal(err)
	}
	cert, _, err := server.LoadOrCreateCertificate(dir, []string{"localhost", "127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(filepath.Join(dir, "tls.crt"))
	if err != nil {
		t.Fatal(err)
	}
	ln, err := server.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- server.Serve(ctx, ln, server.New(master(), server.Options{Gate: gate(auth)}), server.TLSConfig(cert), nil)
	}()
	c := connect(t, client.Options{User: cred.User, Password: cred.Password, CA: ca, Timeout: time.Minute}, ln.Addr().String()) // bcrypt takes what it takes
	if st, err := c.State(t.Context()); err != nil || st != v1.StateMaster {
		t.Errorf("%s %v", st, err)
	}
	c.Close()
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// A certificate that was given is trusted by whatever name its node is reached,
// and no other is.
func TestPinnedCertificate(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	cert, _, err := server.LoadOrCreateCertificate(dir, []string{"node1.example"})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := server.LoadOrCreateCertificate(other, []string{"127.0.0.1"}); err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(server.New(master(), server.Options{Gate: gate(oneUser{})}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.TLS = server.TLSConfig(cert)
	s.StartTLS()
	t.Cleanup(s.Close)
	read := func(dirs ...string) []byte {
		t.Helper()
		var all []byte
		for _, d := range dirs {
			b, err := os.ReadFile(filepath.Join(d, "tls.crt"))
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, b...)
		}
		return all
	}
	ask := func(ca []byte) error {
		_, err := connect(t, client.Options{User: "admin", Password: "one", CA: ca, Timeout: time.Minute}, s.URL).State(t.Context())
		return err
	}
	if err := ask(read(other, dir)); err != nil {
		t.Errorf("its own among several: %v", err)
	}
	for name, ca := range map[string][]byte{"another node's": read(other), "none": nil} {
		var wrong *tls.CertificateVerificationError
		if err := ask(ca); !errors.As(err, &wrong) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestToken(t *testing.T) {
	tokens := &server.Tokens{}
	plain, _, err := tokens.Create("x", server.Viewer, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewTLSServer(server.New(master(), server.Options{Gate: func() *server.Gate { return &server.Gate{Tokens: tokens} }}))
	t.Cleanup(s.Close)
	c := connect(t, client.Options{Token: plain, CA: pemOf(s)}, s.URL)
	if st, err := c.State(t.Context()); err != nil || st != v1.StateMaster {
		t.Errorf("%s %v", st, err)
	}
	var refused *client.StatusError
	if _, err := c.SetPriority(t.Context(), 1); !errors.As(err, &refused) || refused.Code != 403 || refused.Message != "token:x has the role viewer; this needs operator" {
		t.Errorf("%v", err)
	}
}
