package e2e_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/test/e2e/harness"
)

// authority signs certificates for a test.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	last int64
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t}
	a.cert, a.key = a.sign("test authority", func(c *x509.Certificate) {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
	})
	return a
}

func (a *authority) sign(cn string, with func(*x509.Certificate)) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(a.t, err)
	a.last++
	c := &x509.Certificate{
		SerialNumber: big.NewInt(a.last), Subject: pkix.Name{CommonName: cn},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	with(c)
	parent, by := a.cert, a.key
	if parent == nil {
		parent, by = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, by)
	must(a.t, err)
	c, err = x509.ParseCertificate(der)
	must(a.t, err)
	return c, key
}

// keep signs a certificate and writes it and its key as two PEM files, each
// replaced whole.
func (a *authority) keep(crt, key, cn string) {
	a.t.Helper()
	c, k := a.sign(cn, func(c *x509.Certificate) {
		c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	})
	der, err := x509.MarshalPKCS8PrivateKey(k)
	must(a.t, err)
	for path, block := range map[string]*pem.Block{crt: {Type: "CERTIFICATE", Bytes: c.Raw}, key: {Type: "PRIVATE KEY", Bytes: der}} {
		write(a.t, path+".new", string(pem.EncodeToMemory(block)))
		must(a.t, os.Rename(path+".new", path))
	}
}

// guarded is a node whose REST has users of each role, a certificate of an
// authority, and clients with certificates.
type guarded struct {
	*harness.Node
	t    *testing.T
	dir  string
	ca   *authority
	pool *x509.CertPool
}

func (g *guarded) file(name string) string { return filepath.Join(g.dir, name) }

// passwords are the users'; each is hashed as cheaply as bcrypt can.
func (g *guarded) users(passwords map[string]string) {
	g.t.Helper()
	var b strings.Builder
	for user, password := range passwords {
		hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
		must(g.t, err)
		fmt.Fprintf(&b, "%s:%s\n", user, hash)
	}
	write(g.t, g.file("htpasswd"), b.String())
}

// ask sends one request, verified against the authority, and returns status,
// header and body.
func (g *guarded) ask(conf *tls.Config, method, path string, prepare func(*http.Request)) (int, http.Header, string) {
	g.t.Helper()
	if conf == nil {
		conf = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	conf.RootCAs = g.pool
	c := g.Client(conf)
	c.Timeout = 20 * time.Second // the machine may be busy; nothing here is measured
	req, err := http.NewRequestWithContext(g.t.Context(), method, g.URL(path), http.NoBody)
	must(g.t, err)
	if prepare != nil {
		prepare(req)
	}
	res, err := c.Do(req)
	if err != nil {
		return 0, nil, err.Error()
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	must(g.t, err)
	return res.StatusCode, res.Header, string(b)
}

func as(user, password string) func(*http.Request) {
	return func(r *http.Request) { r.SetBasicAuth(user, password) }
}

func with(token string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+token) }
}

// TestAccess: TLS with a certificate of one's own, users, tokens and client
// certificates with roles, and all of them changed under the running node.
func TestAccess(t *testing.T) {
	p := harness.NewPlane(t, harness.Options{Nodes: 1})
	g := &guarded{Node: p.Nodes[0], t: t, dir: p.Dir, ca: newAuthority(t), pool: x509.NewCertPool()}
	g.pool.AddCert(g.ca.cert)
	write(t, g.file("ca.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: g.ca.cert.Raw})))
	g.ca.keep(g.file("node.crt"), g.file("node.key"), "node")
	g.ca.keep(g.file("monitor.crt"), g.file("monitor.key"), "monitor")
	g.ca.keep(g.file("stranger.crt"), g.file("stranger.key"), "stranger")
	g.users(map[string]string{"ann": "one", "bob": "two", "eve": "three"})
	for key, value := range map[string]any{
		"server.tls.cert": g.file("node.crt"), "server.tls.key": g.file("node.key"), "server.tls.clientCA": g.file("ca.pem"),
		"server.auth.htpasswd": g.file("htpasswd"), "server.auth.roles": map[string]string{"ann": "admin", "bob": "operator"},
		"server.auth.certificates": map[string]string{"monitor": "viewer"}, "log.level": "info",
	} {
		g.Set(key, value)
	}
	p.StartAndWait(settle)

	const state, priority, reload = "/v1/server/ha/state", "/v1/server/ha/priority?priority=3", "/v1/server/properties/reload"
	want := func(what string, code int, method, path string, conf *tls.Config, who func(*http.Request)) {
		t.Helper()
		if got, _, body := g.ask(conf, method, path, who); got != code {
			t.Errorf("%s: %s %s: %d %s, want %d", what, method, path, got, body, code)
		}
	}
	token := func(args ...string) string {
		t.Helper()
		cmd := g.Command(t.Context(), append([]string{"token", "--config", g.ConfigFile()}, args...)...)
		out, err := cmd.Output()
		must(t, err)
		return strings.TrimSpace(string(out))
	}
	client := func(name string) *tls.Config {
		t.Helper()
		cert, err := tls.LoadX509KeyPair(g.file(name+".crt"), g.file(name+".key"))
		must(t, err)
		return &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}}
	}
	// eventually is for what a running node takes over by itself, within
	// seconds.
	eventually := func(what string, ok func() bool) {
		t.Helper()
		if !harness.Poll(settle, ok) {
			t.Errorf("%s: not within %v", what, settle)
		}
	}
	code := func(path string, who func(*http.Request)) int {
		c, _, _ := g.ask(nil, http.MethodGet, path, who)
		return c
	}

	want("nobody", 200, http.MethodGet, "/master", nil, nil)
	want("nobody", 401, http.MethodGet, state, nil, nil)
	want("nobody", 401, http.MethodPost, priority, nil, nil)
	want("a viewer", 200, http.MethodGet, state, nil, as("eve", "three"))
	want("a viewer", 403, http.MethodPost, priority, nil, as("eve", "three"))
	want("an operator", 200, http.MethodPost, priority, nil, as("bob", "two"))
	want("an operator", 403, http.MethodPost, reload, nil, as("bob", "two"))
	want("an admin", 204, http.MethodPost, reload, nil, as("ann", "one"))
	want("a known certificate", 200, http.MethodGet, state, client("monitor"), nil)
	want("a known certificate", 403, http.MethodPost, priority, client("monitor"), nil)
	want("an unknown certificate", 401, http.MethodGet, state, client("stranger"), nil)
	if got, _, body := g.ask(&tls.Config{MaxVersion: tls.VersionTLS11}, http.MethodGet, "/master", nil); got != 0 { //nolint:gosec // must be refused
		t.Errorf("TLS 1.1 is taken: %d %s", got, body)
	}
	if got := do(t, g.Node, "--ca-file", g.file("ca.pem"), "--client-cert", g.file("monitor.crt"), "--client-key", g.file("monitor.key"), "states"); !strings.Contains(got, g.ID()) {
		t.Errorf("states with a client certificate: %s", got)
	}

	// Tokens are taken and refused again while the node runs.
	viewer, operator := token("create", "grafana"), token("create", "deploy", "--role", "operator")
	eventually("a new token", func() bool { return code(state, with(viewer)) == 200 })
	want("a viewer's token", 403, http.MethodPost, priority, nil, with(viewer))
	want("an operator's token", 200, http.MethodPost, priority, nil, with(operator))
	token("revoke", "deploy")
	eventually("a revoked token", func() bool { return code(state, with(operator)) == 401 || code(state, with(operator)) == 429 })

	// So is a changed password, although the old one was in use.
	g.users(map[string]string{"ann": "one", "bob": "tulip", "eve": "three"})
	eventually("a new password", func() bool { return code(state, as("bob", "tulip")) == 200 })
	if c := code(state, as("bob", "two")); c != 401 && c != 429 {
		t.Errorf("the old password: %d", c)
	}

	// And a renewed certificate; a broken one is not.
	serial := func() string {
		d := tls.Dialer{Config: &tls.Config{RootCAs: g.pool, MinVersion: tls.VersionTLS12}}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		u, err := url.Parse(g.URL("/"))
		must(t, err)
		conn, err := d.DialContext(ctx, "tcp", u.Host)
		must(t, err)
		defer conn.Close()
		return conn.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	before := serial()
	g.ca.keep(g.file("node.crt"), g.file("node.key"), "node")
	eventually("a renewed certificate", func() bool { return serial() != before })
	renewed := serial()
	write(t, g.file("node.crt"), "broken")
	eventually("a broken certificate is told of", func() bool { return strings.Contains(g.Log(), "are not taken over") })
	if serial() != renewed {
		t.Error("a broken certificate replaced one that works")
	}
	g.ca.keep(g.file("node.crt"), g.file("node.key"), "node")
	eventually("a repaired certificate", func() bool { return serial() != renewed })

	// The configuration is read again on demand: all of it, or nothing.
	g.Set("log.level", "debug")
	g.Set("server.auth.health", "closed")
	g.Set("ha.takeoverTimeout", "11s")
	must(t, g.WriteConfig())
	if c, h, body := g.ask(nil, http.MethodPost, reload, as("ann", "one")); c != 204 || h.Get("X-HA-Restart-Needed") != "ha.takeoverTimeout" {
		t.Errorf("reload: %d %v %s", c, h, body)
	}
	want("nobody, health closed", 401, http.MethodGet, "/master", nil, nil)
	want("a viewer, health closed", 200, http.MethodGet, "/master", nil, as("eve", "three"))
	g.Set("server.auth.health", "ajar")
	must(t, g.WriteConfig())
	if c, _, body := g.ask(nil, http.MethodPost, reload, as("ann", "one")); c != 422 || !strings.Contains(body, "server.auth.health") {
		t.Errorf("reload of what can not be: %d %s", c, body)
	}
	g.Set("server.auth.health", "open")
	must(t, g.WriteConfig())
	g.Signal(unix.SIGHUP)
	eventually("SIGHUP", func() bool { return code("/master", nil) == 200 })
	want("an operator", 200, http.MethodGet, "/v1/server/config/log.level", nil, as("bob", "tulip"))

	for _, line := range []string{"login failed", `"user": "bob"`, `"role": "operator"`, `"path": "/v1/server/ha/priority"`} {
		if !strings.Contains(g.Log(), line) {
			t.Errorf("the log has no %s", line)
		}
	}
	for _, secret := range []string{"three", "tulip", viewer, operator} {
		if strings.Contains(g.Log(), secret) {
			t.Errorf("the log shows %s", secret)
		}
	}
	undisturbed(t, p, g.Node)
}

// do runs a client command against a node and returns what it says.
func do(t *testing.T, n *harness.Node, args ...string) string {
	t.Helper()
	b, err := n.Command(t.Context(), append([]string{"--endpoint", n.URL("")}, args...)...).CombinedOutput()
	if err != nil {
		t.Errorf("%v: %v: %s", args, err, b)
	}
	return string(b)
}

// TestChoosingTheMasterAsInBrooklyn: the recipe of its documentation, word for
// word, by curl, one request after the other without waiting for anything. It
// holds for each node, whatever its rank among equals.
func TestChoosingTheMasterAsInBrooklyn(t *testing.T) {
	p := harness.NewPlane(t, harness.Options{Settings: harness.Preset("default")})
	old := p.StartAndWait(settle)
	post := func(n *harness.Node, path, form string) string {
		t.Helper()
		return curlWith(t, n, path, "-X", "POST", "-H", "Brooklyn-Allow-Non-Master-Access: true", "-d", form)
	}
	for round := range harness.Rounds(3, 10) {
		at := slices.Index(p.Nodes, old)
		target := p.Nodes[(at+1+round%2)%3]
		for _, n := range p.Nodes { // the one that left before may be chosen again
			if n != old {
				post(n, "/v1/server/ha/state", "mode=AUTO")
				candidate(t, old, n)
			}
		}
		for _, step := range []struct {
			node             *harness.Node
			path, form, want string
		}{
			{target, "/v1/server/ha/priority", "priority=1", "0"},
			{old, "/v1/server/ha/state", "mode=HOT_STANDBY", `"MASTER"`},
			{target, "/v1/server/ha/priority", "priority=0", "1"},
		} {
			if got := post(step.node, step.path, step.form); got != step.want {
				t.Fatalf("round %d: %s returns %s, want %s", round, step.form, got, step.want)
			}
		}
		if next := p.WaitSettled(settle); next != target {
			t.Fatalf("round %d: %s is master, want %s", round, next.Name, target.Name)
		}
		if got := curl(t, target, "/v1/server/ha/state"); got != `"MASTER"` {
			t.Errorf("round %d: the target is %s", round, got)
		}
		if got := curl(t, target, "/v1/server/ha/priority"); got != "0" {
			t.Errorf("round %d: its priority is %s", round, got)
		}
		// Without the header a standby refuses, in Brooklyn's words.
		if got := curlWith(t, old, "/v1/server/ha/priority", "-X", "POST", "-d", "priority=1"); got != notMaster {
			t.Errorf("round %d: a standby answers %s", round, got)
		}
		old = target
	}
}
