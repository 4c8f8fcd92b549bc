package server

import (
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/understudy-ha/understudy/api/v1"
	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/lease"
)

func newPeer(t *testing.T) *Peer {
	t.Helper()
	p, err := LoadOrCreatePeer(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// knowing is the snapshot with the key of a node in its record.
func knowing(s *ha.Status, id lease.NodeID, key string) *ha.Status {
	n := s.Nodes[id]
	n.Key = key
	s.Nodes[id] = n
	return s
}

// peerRig is a server over TLS that nodes can prove themselves to.
type peerRig struct {
	*rig
	me *Peer // the server's
	// handlerFunc answers instead of the server, if set before the first request.
	handlerFunc http.HandlerFunc
}

func newPeerRig(t *testing.T, st *ha.Status, opt Options) *peerRig {
	t.Helper()
	g := &peerRig{rig: newRig(t, st, opt), me: newPeer(t)}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if g.handlerFunc != nil {
			g.handlerFunc(w, r)
			return
		}
		g.handler.ServeHTTP(w, r)
	}))
	cert, _, err := LoadOrCreateCertificate(t.TempDir(), []string{"127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	srv.TLS = g.me.Accept(TLSConfig(cert))
	srv.StartTLS()
	t.Cleanup(srv.Close)
	g.url = srv.URL
	g.as(&tls.Config{InsecureSkipVerify: true})
	return g
}

// as has the next requests sent over connections of that kind.
func (g *peerRig) as(conf *tls.Config) {
	tr := &http.Transport{TLSClientConfig: conf}
	g.t.Cleanup(tr.CloseIdleConnections)
	g.http = &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func TestPeerKeyIsKept(t *testing.T) {
	dir := t.TempDir()
	a, err := LoadOrCreatePeer(dir)
	if err != nil {
		t.Fatal(err)
	}
	b, err := LoadOrCreatePeer(dir)
	if err != nil || a.Pin() != b.Pin() || len(a.Pin()) != 43 {
		t.Errorf("%q and then %q, %v", a.Pin(), b.Pin(), err)
	}
	fi, err := os.Stat(filepath.Join(dir, peerKeyFile))
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", fi, err)
	}
	if err := os.WriteFile(filepath.Join(dir, peerKeyFile), []byte("no key"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadOrCreatePeer(dir); err == nil || !strings.Contains(err.Error(), "rm "+dir) {
		t.Errorf("a broken key: %v", err)
	}
}

// A node proves by its key that it is one, and by nothing else.
func TestNodesAreKnownByTheirKeys(t *testing.T) {
	friend := newPeer(t)
	g := newPeerRig(t, knowing(mastering(), third, friend.Pin()), Options{})
	const path = "/v1/server/ha/priority"

	g.as(friend.Dial(g.me.Pin()))
	if r := g.send(http.MethodPost, path, "priority=1"); r.code != 200 {
		t.Errorf("a node of the plane: %d %s", r.code, r.body)
	}
	if r := g.send(http.MethodPost, "/v1/server/shutdown", ""); r.code != 403 {
		t.Errorf("a node that wants another one to end: %d, want 403: it may do what an operator may", r.code)
	}
	if r := g.send(http.MethodGet, "/v1/server/user", ""); r.body != `"node:nthird03"` {
		t.Errorf("it is known as %s", r.body)
	}

	g.as(newPeer(t).Dial(g.me.Pin()))
	if r := g.send(http.MethodPost, path, "priority=2"); r.code != 401 {
		t.Errorf("the key of nobody: %d, want 401", r.code)
	}
	if r := g.ask(http.MethodPost, path, "priority=3"); r.code != 200 {
		t.Errorf("the key of nobody, with a password: %d", r.code)
	}

	g.as(&tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{friend.cert}})
	if r := g.send(http.MethodPost, path, "priority=4"); r.code != 401 {
		t.Errorf("a client that is asked for no certificate: %d, want 401", r.code)
	}

	gone := knowing(mastering(), third, friend.Pin())
	n := gone.Nodes[third]
	n.Removed = true
	gone.Nodes[third] = n
	g.node.set(gone)
	g.as(friend.Dial(g.me.Pin()))
	if r := g.send(http.MethodPost, path, "priority=5"); r.code != 401 {
		t.Errorf("a node that was forgotten: %d, want 401", r.code)
	}
	if calls := strings.Join(g.node.called(), ", "); calls != "SetPriority 1, SetPriority 3" {
		t.Error(calls)
	}
}

// Nobody but a client that offers to be a node is asked for a certificate, or a
// browser would ask its user for one.
func TestClientsAreAskedForNoCertificate(t *testing.T) {
	g := newPeerRig(t, mastering(), Options{})
	asked := false
	conf := &tls.Config{InsecureSkipVerify: true, GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		asked = true
		return &tls.Certificate{}, nil
	}}
	g.as(conf)
	if r := g.send(http.MethodGet, "/master", ""); r.code != 200 || asked {
		t.Errorf("%d, asked for a certificate: %v", r.code, asked)
	}
}

// A node that meant another one sends it nothing.
func TestTheOtherEndIsPinned(t *testing.T) {
	friend, stranger := newPeer(t), newPeer(t)
	g := newPeerRig(t, knowing(mastering(), third, friend.Pin()), Options{})
	g.as(friend.Dial(stranger.Pin()))
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, g.url+"/v1/server/ha/nudge", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := g.http.Do(req)
	if err == nil {
		resp.Body.Close()
		t.Fatalf("answered %d", resp.StatusCode)
	}
	if !strings.Contains(err.Error(), "is not the node that was meant") || len(g.node.called()) != 0 {
		t.Errorf("%v; calls %v", err, g.node.called())
	}
}

// Whoever floods a node with nudges does not keep another node's from it.
func TestNodesHaveNudgesOfTheirOwn(t *testing.T) {
	friend := newPeer(t)
	g := newPeerRig(t, knowing(status(lease.StateStandby), other, friend.Pin()), Options{})
	for range 2 * nudgesPerSecond {
		g.send(http.MethodPost, "/v1/server/ha/nudge", "")
	}
	if r := g.send(http.MethodPost, "/v1/server/ha/nudge", ""); r.code != 429 {
		t.Fatalf("the flood gets %d", r.code)
	}
	g.as(friend.Dial(g.me.Pin()))
	for i := range nudgesPerSecond + 1 {
		want := 204
		if i == nudgesPerSecond {
			want = 429
		}
		if r := g.send(http.MethodPost, "/v1/server/ha/nudge", ""); r.code != want {
			t.Errorf("nudge %d of a node: %d, want %d", i+1, r.code, want)
		}
	}
	g.as(newPeer(t).Dial(g.me.Pin()))
	if r := g.send(http.MethodPost, "/v1/server/ha/nudge", ""); r.code != 429 {
		t.Errorf("the key of nobody: %d", r.code)
	}
}

// What is forwarded is done for whom the forwarding node says, with his role,
// and only where anything is forwarded.
func TestForwardedRequests(t *testing.T) {
	friend := newPeer(t)
	const rate = 5 // a second, and no second goes by
	g := newPeerRig(t, knowing(mastering(), third, friend.Pin()), Options{Gate: gate(Gate{Users: fixedAuth{}, Rate: rate})})
	forwarded := func(method, path, word string) reply {
		form := formOf(path)
		return g.send(method, path, form, v1.HeaderForwarded, word)
	}
	const path = "/v1/server/ha/priority"
	if r := forwarded(http.MethodPost, path, vouch(caller{user: "ann", role: Operator})); r.code != 401 {
		t.Errorf("from a client: %d, want 401", r.code)
	}
	g.as(friend.Dial(g.me.Pin()))
	for _, tc := range []struct {
		what, method, path, word string
		want                     int
	}{
		{"an operator", http.MethodPost, path, vouch(caller{user: "ann", role: Operator}), 200},
		{"a viewer", http.MethodPost, path, vouch(caller{user: "vic", role: Viewer}), 403},
		{"nobody", http.MethodPost, path, vouch(caller{role: Admin}), 401},
		{"no role", http.MethodPost, path, "user=ann&role=open", 401},
		{"no word of ours", http.MethodPost, path, "%%", 401},
		{"what any node takes", http.MethodPost, "/v1/server/shutdown", vouch(caller{user: "ann", role: Admin}), 401},
		{"a read that any node can answer", http.MethodGet, "/v1/server/ha/states", vouch(caller{user: "ann", role: Admin}), 401},
	} {
		if r := forwarded(tc.method, tc.path, tc.word); r.code != tc.want {
			t.Errorf("%s: %d %s, want %d", tc.what, r.code, r.body, tc.want)
		}
	}
	if calls := strings.Join(g.node.called(), ", "); calls != "SetPriority 1" {
		t.Error(calls)
	}
	// A node's requests are not one client's: those were counted where they came in.
	for range 3 * rate {
		if r := forwarded(http.MethodPost, path, vouch(caller{user: "ann", role: Operator})); r.code != 200 {
			t.Fatalf("one of many: %d %s", r.code, r.body)
		}
	}
}
