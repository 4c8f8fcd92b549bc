package server

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/api/v1"
	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/lease"
)

func forwarding() NonMaster { return NonMasterForward }

// forwardedFor is a MASTER, and a node in front of it that forwards, each of
// which knows the other by its key.
func forwardedFor(t *testing.T, opt, front Options) (master *peerRig, node *rig) {
	t.Helper()
	me := newPeer(t)
	master = newPeerRig(t, knowing(mastering(), third, me.Pin()), opt)
	front.NonMaster, front.Peer = forwarding, me
	node = newRig(t, leadingTo(master), front)
	return master, node
}

// leadingTo is the snapshot of a standby whose MASTER is that one.
func leadingTo(master *peerRig) *ha.Status {
	s := knowing(status(lease.StateStandby), other, master.me.Pin())
	n := s.Nodes[other]
	n.URI = master.url + "/"
	s.Nodes[other] = n
	return s
}

// users are of each role.
type users map[string]Role

func (users) Known(user, password string) bool { return password == secret && user != "" }

func (u users) Check(_ context.Context, user, password string) error {
	if u.Known(user, password) {
		return nil
	}
	return ErrUnauthorized
}

func TestForward(t *testing.T) {
	roles := users{"admin": Admin, "olga": Operator, "vic": Viewer}
	master, node := forwardedFor(t, Options{}, Options{Gate: gate(Gate{Users: roles, Roles: roles})})
	as := func(user, method, path, form string, header ...string) reply {
		return node.send(method, path, form, append([]string{"user", user, "password", secret}, header...)...)
	}
	const path = "/v1/server/ha/priority"

	r := as("olga", http.MethodPost, path, "priority=4")
	if r.code != 200 || r.body != "0" || r.header.Get(v1.HeaderNode) != string(other) {
		t.Errorf("%d %s by %q", r.code, r.body, r.header.Get(v1.HeaderNode))
	}
	if r := as("vic", http.MethodPost, path, "priority=5"); r.code != 403 {
		t.Errorf("a viewer: %d", r.code)
	}
	if r := node.send(http.MethodPost, path, "priority=6", v1.HeaderForwarded, vouch(caller{user: "olga", role: Admin})); r.code != 401 {
		t.Errorf("a client that says it was forwarded: %d", r.code)
	}
	// A page of another site is refused here, since the MASTER does not see it.
	if r := as("olga", http.MethodPost, path, "priority=7", "Sec-Fetch-Site", "cross-site"); r.code != 403 {
		t.Errorf("a page of another site: %d", r.code)
	}
	if got := strings.Join(master.node.called(), ", "); got != "SetPriority 4" {
		t.Errorf("the MASTER was asked for %s", got)
	}

	// This node's own: its health, what any node takes, and what insists on it.
	if r := node.send(http.MethodGet, "/master", ""); r.code != 503 || r.header.Get(v1.HeaderNode) != string(self) {
		t.Errorf("a health path: %d of %s", r.code, r.header.Get(v1.HeaderNode))
	}
	as("admin", http.MethodPost, "/v1/server/shutdown", "")
	as("olga", http.MethodPost, path, "priority=8", v1.HeaderAllowNonMaster, "true")
	if got := strings.Join(node.node.called(), ", "); got != "Shutdown asked for by admin, SetPriority 8" {
		t.Errorf("this node was asked for %s", got)
	}
	if n := len(master.node.called()); n != 1 {
		t.Errorf("the MASTER was asked %d times", n)
	}
}

// While there is no MASTER that takes it, the answer is 503, and never a loop.
func TestForwardWithoutMaster(t *testing.T) {
	master, node := forwardedFor(t, Options{NonMaster: forwarding}, Options{})
	post := func() reply { return node.ask(http.MethodPost, "/v1/server/ha/priority", "priority=1") }
	expect := func(what string, r reply, words string) {
		t.Helper()
		if r.code != 503 || r.header.Get("Retry-After") == "" || !strings.Contains(r.body, words) {
			t.Errorf("%s: %d, Retry-After %q, %s", what, r.code, r.header.Get("Retry-After"), r.body)
		}
	}
	// Each takes the other for the MASTER.
	mutual := knowing(status(lease.StateStandby), third, node.peer.Pin())
	mutual = knowing(mutual, other, node.peer.Pin())
	master.node.set(mutual)
	expect("who was MASTER is not", post(), "is not any more")

	master.node.set(mastering())
	expect("the MASTER knows no such node", post(), "did not take this")

	node.node.set(knowing(leadingTo(master), other, newPeer(t).Pin()))
	expect("another answers at its address", post(), "is not the node that was meant")

	node.node.set(knowing(leadingTo(master), other, ""))
	expect("a MASTER without a key", post(), "HTTPS on both")

	gone := leadingTo(master)
	n := gone.Nodes[other]
	n.URI = "https://127.0.0.1:1/"
	gone.Nodes[other] = n
	node.node.set(gone)
	expect("nobody answers", post(), "can not be reached")

	none := leadingTo(master)
	none.HolderOK = false
	node.node.set(none)
	expect("there is none", post(), "no MASTER")
	if calls := append(master.node.called(), node.node.called()...); len(calls) > 0 {
		t.Errorf("done all the same: %v", calls)
	}
}

// Bodies and streams pass through, bounded as they are here.
func TestForwardBodies(t *testing.T) {
	master, node := forwardedFor(t, Options{State: &fakeState{}}, Options{State: &fakeState{}})
	if r := node.ask(http.MethodPut, "/v1/state/k", strings.Repeat("x", 100_000), "Content-Type", typeBytes); r.code != 204 {
		t.Errorf("a value: %d %s", r.code, r.body)
	}
	if r := node.ask(http.MethodPost, "/v1/server/ha/priority", "priority="+strings.Repeat("1", maxBody)); r.code != 413 {
		t.Errorf("a body that is too long: %d %s", r.code, r.body)
	}
	// What this node can not read, the MASTER is asked: which has not loaded it
	// either by now, and says so.
	r := node.ask(http.MethodGet, "/v1/state/k", "")
	if r.code != 503 || r.header.Get(v1.HeaderNode) != string(other) || r.header.Get("Retry-After") == "" {
		t.Errorf("a read: %d of %q", r.code, r.header.Get(v1.HeaderNode))
	}
	if len(master.node.called()) != 0 {
		t.Error(master.node.called())
	}
}

// A MASTER that does not answer costs a bounded time, and what became of the
// write is not known.
func TestForwardToASilentMaster(t *testing.T) {
	master, node := forwardedFor(t, Options{}, Options{})
	hang := make(chan struct{})
	master.node.hang = hang
	defer close(hang)
	node.server.forward.limit = 200 * time.Millisecond
	began := time.Now()
	r := node.ask(http.MethodPost, "/v1/server/ha/priority", "priority=1")
	if r.code != 504 || !strings.Contains(r.body, "may have done this") {
		t.Errorf("%d %s after %v", r.code, r.body, time.Since(began))
	}
}

// A stream of the MASTER's reaches the client piece by piece, and ends with it.
func TestForwardStreams(t *testing.T) {
	me := newPeer(t)
	pieces, gone := make(chan string), make(chan struct{})
	upstream := newPeerRig(t, knowing(mastering(), third, me.Pin()), Options{})
	upstream.handlerFunc = func(w http.ResponseWriter, r *http.Request) {
		defer close(gone)
		w.Header().Set("Content-Type", typeEvents)
		for {
			select {
			case p := <-pieces:
				_, _ = io.WriteString(w, p)
				_ = http.NewResponseController(w).Flush()
			case <-r.Context().Done():
				return
			}
		}
	}
	node := newRig(t, leadingTo(upstream), Options{NonMaster: forwarding, Peer: me, State: &fakeState{}})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, node.url+"/v1/state/watch", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth("admin", secret)
	go func() { pieces <- "one" }()
	resp, err := node.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got := make([]byte, 3)
	for _, want := range []string{"one", "two"} {
		if want != "one" {
			pieces <- want
		}
		if _, err := io.ReadFull(resp.Body, got); err != nil || !bytes.Equal(got, []byte(want)) {
			t.Fatalf("%q, %v", got, err)
		}
	}
	cancel()
	select {
	case <-gone:
	case <-time.After(30 * time.Second):
		t.Error("the MASTER goes on for a client that has gone")
	}
}
