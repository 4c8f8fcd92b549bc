package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/pkg/config"
)

// buffer may be written and read at once.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// leader --watch prints a line per change, survives a node that does not
// answer, and ends with 0 when interrupted.
func TestLeaderWatch(t *testing.T) {
	var body atomic.Value
	states := func(master string) string {
		id := "null"
		if master != "" {
			id = `"n1aaaaaa"`
		}
		return fmt.Sprintf(`{"masterId":%s,"term":1,"nodes":{"n1aaaaaa":{"nodeUri":"%s"}}}`, id, master)
	}
	body.Store(states("https://a/"))
	var asked atomic.Int64
	node := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		if b, _ := body.Load().(string); b != "" {
			_, _ = w.Write([]byte(b))
			return
		}
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	defer node.Close()

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var stdout, stderr buffer
	code := make(chan int, 1)
	go func() {
		code <- execute(ctx, []string{"leader", "--watch", "--interval", "100ms", "--endpoint", node.URL, "--config", os.DevNull}, &stdout, &stderr)
	}()
	await := func(what string, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s: not within 20s; stdout %q stderr %q", what, stdout.String(), stderr.String())
			}
		}
	}
	await("the first master", func() bool { return stdout.String() == "https://a/\n" })
	n := asked.Load()
	await("three more looks", func() bool { return asked.Load() >= n+3 })
	if got := stdout.String(); got != "https://a/\n" {
		t.Errorf("printed without a change: %q", got)
	}
	body.Store("")
	await("the error", func() bool { return strings.Contains(stderr.String(), "answered 503") })
	body.Store(states(""))
	await("no master", func() bool { return stdout.String() == "https://a/\n-\n" })
	body.Store(states("https://b/"))
	await("the second master", func() bool { return stdout.String() == "https://a/\n-\nhttps://b/\n" })
	cancel()
	if got := <-code; got != exitOK {
		t.Errorf("exit code %d after an interruption", got)
	}
}

// What dataDir holds goes to this host's node and to nobody else.
func TestLocalCredentialsStayHere(t *testing.T) {
	dir := t.TempDir()
	if err := keepLocalCredentials(dir, "op", "first"); err != nil {
		t.Fatal(err)
	}
	if err := keepLocalCredentials(dir, "op", "pass:word"); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, localCredentialsFile)
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", fi, err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
	if err := keepLocalCredentials(dir, "a:b", "c"); err == nil {
		t.Error("kept a user name with a colon")
	}
	conf := config.Default()
	conf.DataDir = dir
	for endpoint, elsewhere := range map[string]bool{
		"https://127.0.0.1:8443": false, "localhost:8443": false, "https://[::1]:1": false,
		"https://node2:8443": true, "10.0.0.1:8443": true, "https://localhost.example.org": true,
	} {
		if got := isElsewhere(endpoint); got != elsewhere {
			t.Errorf("isElsewhere(%s) = %v", endpoint, got)
		}
	}
	user, password, err := (&globals{}).credentials(conf, true)
	if err != nil || user != "op" || password != "pass:word" {
		t.Errorf("local: %q %q %v", user, password, err)
	}
	user, password, err = (&globals{}).credentials(conf, false)
	if err != nil || user != "" || password != "" {
		t.Errorf("elsewhere: %q %q %v", user, password, err)
	}
}

func TestLocalEndpoint(t *testing.T) {
	for _, tc := range []struct{ listen, uri, cert, want string }{
		{":8443", "", "", "https://127.0.0.1:8443/"},
		{"10.0.0.1:9", "https://node1:9/", "", "https://10.0.0.1:9/"},
		{":9", "https://node1:9/", "/etc/x.pem", "https://node1:9/"},
	} {
		c := config.Default()
		c.Server.Listen, c.NodeURI, c.Server.TLS.Cert = tc.listen, tc.uri, tc.cert
		if got := localEndpoint(c); got != tc.want {
			t.Errorf("%+v: %s", tc, got)
		}
	}
	if got := localEndpoint(nil); got != defaultEndpoint {
		t.Error(got)
	}
}
