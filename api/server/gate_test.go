package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// fourUsers has one user per role, and one that no role names, with their names
// as passwords.
type fourUsers struct{}

func (fourUsers) Known(user, password string) bool {
	return user == password && slices.Contains([]string{"viewer", "operator", "admin", "unnamed"}, user)
}

func (u fourUsers) Check(_ context.Context, user, password string) error {
	if u.Known(user, password) {
		return nil
	}
	return ErrUnauthorized
}

// who is somebody who asks, and what he may do.
type who struct {
	name   string
	header []string
	role   Role
}

// everybody asks by passwords and by tokens, right and wrong.
func everybody(t *testing.T) (*Gate, []who) {
	t.Helper()
	tokens := &Tokens{}
	token := func(name string, role Role, ends time.Time) string {
		t.Helper()
		plain, _, err := tokens.Create(name, role, ends)
		if err != nil {
			t.Fatal(err)
		}
		return "Bearer " + plain
	}
	login := func(user, password string) []string { return []string{"user", user, "password", password} }
	all := []who{
		{"nobody", nil, Open},
		{"a wrong password", login("admin", "wrong"), Open},
		{"an unknown user", login("root", "root"), Open},
		{"no token at all", []string{"Authorization", "Bearer"}, Open},
		{"an unknown token", []string{"Authorization", "Bearer ust_abcdefgh_abcdefghijklmnopqrstuvwxyz"}, Open},
		{"a token that is over", []string{"Authorization", token("over", Admin, wall)}, Open},
		{"an unnamed user", login("unnamed", "unnamed"), Viewer},
	}
	for _, r := range []Role{Viewer, Operator, Admin} {
		all = append(all, who{r.String(), login(r.String(), r.String()), r},
			who{r.String() + "'s token", []string{"Authorization", token(r.String(), r, wall.Add(time.Second))}, r})
	}
	revoked := token("revoked", Admin, time.Time{})
	if !tokens.Revoke("revoked") {
		t.Error("nothing was revoked")
	}
	all = append(all, who{"a revoked token", []string{"Authorization", revoked}, Open})
	return &Gate{Users: fourUsers{}, Tokens: tokens, Roles: map[string]Role{"viewer": Viewer, "operator": Operator, "admin": Admin}}, all
}

// Every route, by every method, asked by everybody: whoever has not the role
// that the table asks for is refused and has changed nothing. And whatever the
// table says, nobody below an operator changes anything.
func TestWhoMayDoWhat(t *testing.T) {
	asked, let := 0, 0
	for _, rt := range routes() {
		for _, method := range rt.methods {
			g, all := everybody(t)
			svc := &fakeService{err: &ha.PreconditionError{Reasons: []string{"not now"}}} // or it would be waited for
			files := &fakeArtifacts{stored: jar}
			content := &fakeContent{}
			var reloads atomic.Int32
			rig := newRig(t, mastering(), Options{
				Gate: func() *Gate { return g }, Service: svc, Artifacts: files, Content: content,
				Reload: func(context.Context) ([]string, error) { reloads.Add(1); return nil, nil },
			})
			changes := func() int {
				calls := slices.DeleteFunc(rig.node.called(), func(c string) bool { return c == "Nudge" }) // asks for a read
				return len(calls) + len(svc.asked()) + int(reloads.Load()) + int(files.writes.Load()) + int(content.writes.Load())
			}
			for _, w := range all {
				asked++
				before := changes()
				r := rig.send(method, pathOf(rt), formOf(rt.path), w.header...)
				what := fmt.Sprintf("%s %s by %s: %d %s", method, rt.path, w.name, r.code, r.body)
				changed := changes() != before
				switch may := w.role >= rt.role; {
				case may && rt.role != Open && (r.code == 401 || r.code == 403):
					t.Error(what, "but may")
				case may:
					let++
				case w.role == Open && (r.code != 401 || r.header.Get("WWW-Authenticate") != `BASIC realm="understudy"` || r.header.Get("Content-Type") != typeText):
					t.Error(what, "want 401 as text")
				case w.role != Open && (r.code != 403 || r.header.Get("Content-Type") != typeText):
					t.Error(what, "want 403 as text")
				}
				if changed && (w.role < Operator || w.role < rt.role || !isWrite(method)) {
					t.Error(what, "and it changed something")
				}
				if !changed && w.role == Admin && isWrite(method) && !rt.silent {
					t.Error(what, "and it changed nothing: this test would not see a change")
				}
			}
		}
	}
	if asked < 1500 || let < 800 {
		t.Errorf("%d asked, %d let in", asked, let)
	}
}

func TestParseRole(t *testing.T) {
	for _, r := range []Role{Viewer, Operator, Admin} {
		if got, err := ParseRole(r.String()); err != nil || got != r {
			t.Errorf("%v: %v %v", r, got, err)
		}
	}
	for _, s := range []string{"", "open", "Admin", "root"} {
		if _, err := ParseRole(s); err == nil || !strings.Contains(err.Error(), "viewer, operator or admin") {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func TestWithoutRolesEveryUserIsAdmin(t *testing.T) {
	g := newRig(t, mastering(), Options{})
	if r := g.ask(http.MethodPost, "/v1/server/shutdown", ""); r.code != 204 {
		t.Errorf("%d %s", r.code, r.body)
	}
}

// A client certificate counts only if it was verified and its name is known.
func TestCertificatesHaveRoles(t *testing.T) {
	g := &Gate{Certificates: map[string]Role{"monitor.example": Viewer, "ops": Operator, "spiffe://x/y": Admin}}
	uri, err := url.Parse("spiffe://x/y")
	if err != nil {
		t.Fatal(err)
	}
	cert := func(cn string, dns ...string) *x509.Certificate {
		return &x509.Certificate{Subject: pkix.Name{CommonName: cn}, DNSNames: dns}
	}
	for _, c := range []struct {
		name     string
		cert     *x509.Certificate
		verified bool
		code     int
	}{
		{"SAN", cert("ops", "monitor.example"), true, 403}, // the SAN comes first
		{"CN", cert("ops"), true, 200},
		{"URI", &x509.Certificate{URIs: []*url.URL{uri}}, true, 200},
		{"unknown", cert("somebody", "else.example"), true, 401},
		{"not verified", cert("ops"), false, 401},
		{"none", nil, false, 401},
	} {
		t.Run(c.name, func(t *testing.T) {
			req := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/v1/server/ha/priority?priority=1", nil)
			req.TLS = &tls.ConnectionState{}
			if c.cert != nil {
				req.TLS.PeerCertificates = []*x509.Certificate{c.cert}
			}
			if c.verified {
				req.TLS.VerifiedChains = [][]*x509.Certificate{{c.cert}}
			}
			w := httptest.NewRecorder()
			New(&fakeNode{st: mastering(), now: start}, Options{Gate: gate(*g)}).ServeHTTP(w, req)
			if w.Code != c.code {
				t.Errorf("%d %s, want %d", w.Code, w.Body, c.code)
			}
		})
	}
}

// from sends one request as if from an address.
func from(t *testing.T, h http.Handler, addr, path string) int {
	t.Helper()
	req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)
	req.RemoteAddr = addr
	req.SetBasicAuth("viewer", "viewer")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, req)
	return w.Code
}

func TestOnlyAllowedAddressesAreAnswered(t *testing.T) {
	h := New(&fakeNode{st: mastering(), now: start}, Options{Gate: gate(Gate{
		Users: fourUsers{}, Allow: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")},
	})})
	for addr, want := range map[string]int{
		"10.1.2.3:4": 200, "[::ffff:10.1.2.3]:4": 200, "[2001:db8::1%eth0]:4": 200,
		"11.0.0.1:4": 403, "[::1]:4": 403, "": 403, "@": 403,
	} {
		for _, path := range []string{"/master", "/v1/server/ha/state", "/v1/openapi.yaml"} {
			if code := from(t, h, addr, path); code != want {
				t.Errorf("%s from %q: %d, want %d", path, addr, code, want)
			}
		}
	}
}

func TestHealthPathsCanBeClosed(t *testing.T) {
	g := newRig(t, mastering(), Options{Gate: gate(Gate{Users: fourUsers{}, CloseHealth: true})})
	closed := 0
	for _, rt := range routes() {
		if !rt.health || rt.role != Open {
			continue
		}
		closed++
		if r := g.send(http.MethodGet, rt.path, ""); r.code != 401 {
			t.Errorf("%s: %d", rt.path, r.code)
		}
		if r := g.send(http.MethodGet, rt.path, "", "user", "viewer", "password", "viewer"); r.code == 401 || r.code == 403 {
			t.Errorf("%s with a password: %d", rt.path, r.code)
		}
	}
	if closed < 30 {
		t.Errorf("only %d", closed)
	}
	if r := g.send(http.MethodPost, "/v1/server/ha/nudge", ""); r.code != 204 {
		t.Errorf("nudge: %d", r.code)
	}
}

// Each address has its own allowance, health paths need none, and it comes
// back with time.
func TestRequestsPerAddressAreLimited(t *testing.T) {
	node := &fakeNode{st: mastering(), now: start}
	s := newServer(node, Options{Gate: gate(Gate{Users: fourUsers{}, Rate: 5})})
	h := s.router()
	const path = "/v1/server/ha/state"
	for i := range 10 {
		if code := from(t, h, "10.0.0.1:1", path); code != 200 {
			t.Fatalf("request %d: %d", i, code)
		}
	}
	if code := from(t, h, "10.0.0.1:2", path); code != 429 {
		t.Errorf("the eleventh: %d", code)
	}
	if code := from(t, h, "10.0.0.2:1", path); code != 200 {
		t.Errorf("another address: %d", code)
	}
	if code := from(t, h, "10.0.0.1:1", "/master"); code != 200 {
		t.Errorf("a health path: %d", code)
	}
	node.advance(200 * time.Millisecond)
	if code := from(t, h, "10.0.0.1:1", path); code != 200 {
		t.Errorf("a fifth of a second later: %d", code)
	}
	if code := from(t, h, "10.0.0.1:1", path); code != 429 {
		t.Errorf("and at once again: %d", code)
	}
	for i := range maxClients + 10 {
		from(t, h, fmt.Sprintf("[2001:db8:0:%x::1]:1", i), path)
	}
	if n := len(s.rates.of); n > maxClients {
		t.Errorf("%d addresses are remembered", n)
	}
}

// Failed logins of one address as one user have to wait longer and longer; what
// was right before, another user and another address do not.
func TestFailedLoginsAreDelayed(t *testing.T) {
	a, _ := counted(t, hashed(t, "ann", "one")+hashed(t, "bob", "two"))
	node := &fakeNode{st: status(lease.StateStandby), now: start}
	h := New(node, Options{Gate: gate(Gate{Users: a})})
	login := func(addr, user, password string) (int, string) {
		t.Helper()
		a.mu.Lock()
		a.rest = time.Time{} // what one bcrypt costs the next is another test's
		a.mu.Unlock()
		req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/v1/server/ha/state", nil)
		req.RemoteAddr = addr
		req.SetBasicAuth(user, password)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		return w.Code, w.Header().Get("Retry-After")
	}
	want := func(addr, user, password string, code int, retry string) {
		t.Helper()
		if c, r := login(addr, user, password); c != code || r != retry {
			t.Errorf("%s %s from %s: %d, Retry-After %q; want %d, %q", user, password, addr, c, r, code, retry)
		}
	}
	const here, there = "10.0.0.1:1", "10.0.0.2:1"
	for i := range freeFailures {
		want(here, "ann", fmt.Sprint("wrong", i), 401, "")
	}
	want(here, "ann", "one", 429, "1") // not even the right one, which nobody has seen yet
	want(there, "ann", "one", 200, "") // from elsewhere it is
	want(here, "ann", "one", 200, "")  // and now it is known
	want(here, "bob", "two", 200, "")
	delay := firstDelay
	for i := range 10 {
		node.advance(delay)
		want(here, "ann", fmt.Sprint("worse", i), 401, "")
		delay = min(2*delay, longestDelay)
		want(here, "ann", "worst", 429, fmt.Sprint(int(delay.Seconds())))
	}
	node.advance(forgetAfter + time.Second)
	for i := range freeFailures {
		want(here, "ann", fmt.Sprint("again", i), 401, "")
	}
}

// A success makes up for the failures before it.
func TestSuccessForgetsFailures(t *testing.T) {
	l := &logins{}
	addr := netip.MustParseAddr("10.0.0.1")
	for range freeFailures {
		l.add(addr, "ann", start)
	}
	if l.wait(addr, "ann", start) != firstDelay {
		t.Error("no delay")
	}
	l.succeeded(addr, "ann")
	if w := l.wait(addr, "ann", start); w != 0 {
		t.Errorf("still %v", w)
	}
}

// Whoever tries one name after the other is delayed as well, and does not fill
// the memory.
func TestManyNamesOfOneAddress(t *testing.T) {
	l := &logins{}
	addr := netip.MustParseAddr("10.0.0.1")
	for i := range freePerAddress {
		if w := l.wait(addr, fmt.Sprint(i), start); w != 0 {
			t.Fatalf("attempt %d waits %v", i, w)
		}
		l.add(addr, fmt.Sprint(i), start)
	}
	if l.wait(addr, "another", start) != firstDelay {
		t.Error("no delay")
	}
	for i := range 3 * maxClients {
		l.add(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), "x", start)
	}
	if len(l.failed) > maxClients {
		t.Errorf("%d are remembered", len(l.failed))
	}
}

// What a browser sends for a page of another site changes nothing; a page of
// this node and clients that are no browsers do.
func TestOtherSitesChangeNothing(t *testing.T) {
	for _, c := range []struct {
		name   string
		header []string
		code   int
	}{
		{"no browser", nil, 200},
		{"another site", []string{"Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example"}, 403},
		{"an older browser, another site", []string{"Origin", "https://evil.example"}, 403},
		{"a sandboxed page", []string{"Origin", "null"}, 403},
		{"this node's page", []string{"Sec-Fetch-Site", "same-origin"}, 200},
		{"typed by the user", []string{"Sec-Fetch-Site", "none"}, 200},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newRig(t, mastering(), Options{})
			if r := g.ask(http.MethodPost, "/v1/server/ha/priority", "priority=1", c.header...); r.code != c.code {
				t.Errorf("%d %s", r.code, r.body)
			}
			if n := len(g.node.called()); n != 0 != (c.code == 200) {
				t.Errorf("%d calls", n)
			}
			if r := g.ask(http.MethodGet, "/v1/server/ha/state", "", c.header...); r.code != 200 {
				t.Errorf("GET: %d", r.code)
			}
		})
	}
}

func TestSecurityHeaders(t *testing.T) {
	g := newRig(t, mastering(), Options{})
	for _, path := range []string{"/v1/server/up", "/v1/server/ha/states", "/nothing"} {
		h := g.ask(http.MethodGet, path, "").header
		for name, want := range map[string]string{
			"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer",
			"Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
			"Cache-Control":           "no-cache, no-store", "Pragma": "no-cache", "Expires": "0",
		} {
			if got := h.Get(name); got != want {
				t.Errorf("%s: %s is %q", path, name, got)
			}
		}
	}
}

func TestBodiesAreBoundedAndOfOneKind(t *testing.T) {
	for _, c := range []struct {
		name, form, ctype string
		code              int
	}{
		{"JSON", `{"priority":1}`, "application/json", 415},
		{"a broken type", "priority=1", "application/;;", 415},
		{"a form with a charset", "priority=1", "application/x-www-form-urlencoded; charset=utf-8", 200},
		{"100 MB", strings.Repeat("priority=1&", 100<<20/11), "application/x-www-form-urlencoded", 413},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := New(&fakeNode{st: mastering(), now: start}, Options{Gate: anyone})
			req := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/v1/server/ha/priority", strings.NewReader(c.form))
			req.Header.Set("Content-Type", c.ctype)
			w := httptest.NewRecorder()
			h.ServeHTTP(w, req)
			if w.Code != c.code {
				t.Errorf("%d %.200s", w.Code, w.Body)
			}
		})
	}
}

// The audit log says who did what from where and what came of it, and no
// secret.
func TestAuditLog(t *testing.T) {
	core, logs := observer.New(zap.InfoLevel)
	gt, all := everybody(t)
	g := newRig(t, mastering(), Options{Gate: func() *Gate { return gt }, Logger: zap.New(core)})
	form := "priority=3&password=hush&zzz=" + strings.Repeat("x", 2*maxAsked)
	for _, w := range all {
		g.send(http.MethodPost, "/v1/server/ha/priority", form, w.header...)
		g.send(http.MethodGet, "/v1/server/ha/state", "", w.header...)
	}
	g.send(http.MethodGet, "/v1/server/config/log.level", "", "user", "viewer", "password", "viewer")
	g.send(http.MethodGet, "/master", "")
	g.send(http.MethodPost, "/v1/server/ha/nudge", "")
	got := map[string]int{}
	for _, e := range logs.FilterLoggerName("audit").All() {
		f := e.ContextMap()
		got[fmt.Sprint(e.Message, " ", f["user"], " ", f["method"], " ", f["path"], " ", f["status"])]++
		asked, _ := f["asked"].(string)
		if text := fmt.Sprint(f); strings.Contains(text, "hush") || strings.Contains(text, "ust_") || len(asked) > maxAsked+3 {
			t.Errorf("%s", text)
		}
		if e.Message == "request" && f["status"] == int64(200) && !strings.Contains(asked, "password=%2A") {
			t.Errorf("asked %q", asked)
		}
		if !strings.HasPrefix(fmt.Sprint(f["remote"]), "127.0.0.1:") {
			t.Errorf("remote %v", f["remote"])
		}
	}
	const set, get = " POST /v1/server/ha/priority ", " GET /v1/server/ha/state "
	for _, want := range []string{
		"request viewer" + set + "403", "request unnamed" + set + "403", "request operator" + set + "200", "request admin" + set + "200",
		"request token:viewer" + set + "403", "request token:operator" + set + "200", "request token:admin" + set + "200",
		"login failed admin" + set + "<nil>", "login failed admin" + get + "<nil>", "login failed root" + set + "<nil>",
		"login failed token" + set + "<nil>", "request viewer GET /v1/server/config/log.level 403",
	} {
		if got[want] == 0 {
			t.Errorf("%q is not in the log", want)
		}
		delete(got, want)
	}
	delete(got, "login failed root"+get+"<nil>")
	delete(got, "login failed token"+get+"<nil>")
	if len(got) != 0 {
		t.Errorf("also in the log: %v", got)
	}
}

func TestTermCheck(t *testing.T) {
	for _, c := range []struct {
		name, query string
		st          *ha.Status
		code        int
	}{
		{"the master's own", "?token=8", mastering(), 200},
		{"an older one", "?token=7", mastering(), 412},
		{"a newer one", "?token=9", mastering(), 503},
		{"its own, still starting", "?token=8", holding(lease.StateStandby, false), 503},
		{"the present one, asked of a standby", "?token=7", status(lease.StateStandby), 503},
		{"an older one, asked of a standby", "?token=6", status(lease.StateStandby), 412},
		{"none", "", mastering(), 400},
		{"no number", "?token=x", mastering(), 400},
		{"negative", "?token=-1", mastering(), 400},
		{"too large", "?token=281474976710656", mastering(), 400},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newRig(t, c.st, Options{})
			if r := g.ask(http.MethodGet, "/v1/server/ha/term/check"+c.query, ""); r.code != c.code {
				t.Errorf("%d %s, want %d", r.code, r.body, c.code)
			}
		})
	}
	g := newRig(t, mastering(), Options{})
	g.node.advance(time.Minute) // the lease is over, though the snapshot does not know
	if r := g.ask(http.MethodGet, "/v1/server/ha/term/check?token=8", ""); r.code != 503 {
		t.Errorf("after the lease: %d %s", r.code, r.body)
	}
	if r := g.ask(http.MethodGet, "/v1/server/ha/term", ""); r.body != `{"term":8,"holderId":null}` {
		t.Errorf("%s", r.body)
	}
}

func TestConfigAndReload(t *testing.T) {
	var restart []string
	var fails error
	g := newRig(t, status(lease.StateStandby), Options{
		Config: func(key string) (any, bool) {
			v, ok := map[string]any{"log.level": "info", "priority": 3, "server.auth.password": "*****"}[key]
			return v, ok
		},
		Reload: func(context.Context) ([]string, error) { return restart, fails },
	})
	for key, want := range map[string]string{
		"log.level": `200 "info"`, "priority": "200 3", "server.auth.password": `200 "*****"`, "brooklyn.nothing": "204 ", "..": "204 ",
	} {
		if r := g.ask(http.MethodGet, "/v1/server/config/"+key, ""); fmt.Sprint(r.code, " ", r.body) != want {
			t.Errorf("%s: %d %s, want %s", key, r.code, r.body, want)
		}
	}
	if r := g.ask(http.MethodGet, "/v1/server/config/..%2f..%2fetc", ""); r.code != 404 {
		t.Errorf("a path: %d %s", r.code, r.body)
	}
	const path = "/v1/server/properties/reload"
	if r := g.ask(http.MethodPost, path, ""); r.code != 204 || len(r.header["X-Ha-Restart-Needed"]) != 0 {
		t.Errorf("%d %v", r.code, r.header)
	}
	restart = []string{"ha.preset", "dataDir"}
	if r := g.ask(http.MethodPost, path, ""); r.code != 204 || r.header.Get("X-HA-Restart-Needed") != "ha.preset,dataDir" {
		t.Errorf("%d %v", r.code, r.header)
	}
	fails = errors.New("u.yaml:3: log.level: wrong")
	if r := g.ask(http.MethodPost, path, ""); r.code != 422 || !strings.Contains(r.body, "u.yaml:3") {
		t.Errorf("%d %s", r.code, r.body)
	}
}

func TestLogout(t *testing.T) {
	g := newRig(t, status(lease.StateStandby), Options{})
	for path, want := range map[string]int{"/v1/logout": 204, "/v1/logout/ann": 204, "/v1/logout/unauthorize": 401} {
		if r := g.send(http.MethodPost, path, ""); r.code != want {
			t.Errorf("%s: %d", path, r.code)
		}
	}
}

func TestMethodNotAllowedNamesTheMethods(t *testing.T) {
	g := newRig(t, mastering(), Options{})
	for path, want := range map[string]string{"/v1/server/ha/state": "GET, HEAD, POST", "/v1/server/config/x": "GET, HEAD", "/master": "GET, HEAD, OPTIONS"} {
		if r := g.ask(http.MethodPatch, path, ""); r.code != 405 || r.header.Get("Allow") != want {
			t.Errorf("%s: %d, Allow %q, want %q", path, r.code, r.header.Get("Allow"), want)
		}
	}
}
