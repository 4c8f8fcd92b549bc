package server

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/understudy-ha/understudy/pkg/lease"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestCertificateIsMadeOnceAndKept(t *testing.T) {
	dir := t.TempDir()
	cert, print1, err := LoadOrCreateCertificate(dir, []string{"node1.example", "127.0.0.1", "::1"})
	if err != nil {
		t.Fatal(err)
	}
	again, print2, err := LoadOrCreateCertificate(dir, []string{"another"})
	if err != nil || print1 != print2 || string(cert.Certificate[0]) != string(again.Certificate[0]) {
		t.Errorf("made anew: %s %s %v", print1, print2, err)
	}
	if len(print1) != 95 || strings.ToUpper(print1) != print1 {
		t.Errorf("fingerprint %q", print1)
	}
	if fi, err := os.Stat(filepath.Join(dir, "tls.key")); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("key: %v %v", fi.Mode(), err)
	}
	leaf := cert.Leaf
	for _, host := range []string{"node1.example", "127.0.0.1", "::1"} {
		if err := leaf.VerifyHostname(host); err != nil {
			t.Error(err)
		}
	}
	if leaf.PublicKeyAlgorithm != x509.ECDSA || leaf.IsCA || leaf.NotAfter.Before(time.Now().AddDate(10, 0, 0)) {
		t.Errorf("%v CA %v until %v", leaf.PublicKeyAlgorithm, leaf.IsCA, leaf.NotAfter)
	}
}

func TestCertificateWithHalfOfItMissing(t *testing.T) {
	dir := t.TempDir()
	crt, key := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	if _, _, err := LoadOrCreateCertificate(dir, nil); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	// A start that got no further than the key: the certificate is made for it.
	if err := os.Remove(crt); err != nil {
		t.Fatal(err)
	}
	if _, _, err := LoadOrCreateCertificate(dir, []string{"x"}); err != nil {
		t.Error(err)
	}
	if after, _ := os.ReadFile(key); string(after) != string(before) {
		t.Error("the key was replaced")
	}
	// A certificate without its key is of no use, and is not replaced.
	if err := os.Remove(key); err != nil {
		t.Fatal(err)
	}
	_, _, err = LoadOrCreateCertificate(dir, nil)
	wantPathsAndRemedy(t, err, crt, key)
	if _, err := os.Stat(key); err == nil {
		t.Error("a new key was made")
	}
}

func wantPathsAndRemedy(t *testing.T, err error, paths ...string) {
	t.Helper()
	if err == nil {
		t.Error("no error")
		return
	}
	for _, want := range append(paths, "remove both") {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
}

func TestBrokenCertificateIsNeverReplaced(t *testing.T) {
	for _, broken := range []string{"tls.crt", "tls.key"} {
		for name, content := range map[string]string{
			"empty": "", "garbage": "garbage", "other": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
		} {
			t.Run(broken+" "+name, func(t *testing.T) {
				dir := t.TempDir()
				if _, _, err := LoadOrCreateCertificate(dir, nil); err != nil {
					t.Fatal(err)
				}
				path := filepath.Join(dir, broken)
				if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
				_, _, err := LoadOrCreateCertificate(dir, nil)
				wantPathsAndRemedy(t, err, path)
				if b, _ := os.ReadFile(path); string(b) != content {
					t.Error("replaced")
				}
			})
		}
	}
	t.Run("a directory", func(t *testing.T) {
		dir := t.TempDir()
		path := filepath.Join(dir, "tls.key")
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
		_, _, err := LoadOrCreateCertificate(dir, nil)
		wantPathsAndRemedy(t, err, path)
	})
}

// served starts a server and returns its address and a way to stop it that
// returns Serve's error.
func served(t *testing.T, h http.Handler, conf *tls.Config, lim limits) (string, func() error) {
	t.Helper()
	ln, err := Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx, ln, h, conf, nil, lim) }()
	stop := sync.OnceValue(func() error { cancel(); return <-ended })
	t.Cleanup(func() { _ = stop() })
	return ln.Addr().String(), stop
}

func TestServeTLS(t *testing.T) {
	cert, _, err := LoadOrCreateCertificate(t.TempDir(), []string{"127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	addr, stop := served(t, New(&fakeNode{st: mastering(), now: start}, Options{}), TLSConfig(cert), defaultLimits())

	roots := x509.NewCertPool()
	roots.AddCert(cert.Leaf)
	for _, h2 := range []bool{true, false} {
		tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: h2}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+addr+"/master", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := (&http.Client{Transport: tr}).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK || (resp.ProtoMajor == 2) != h2 {
			t.Errorf("%s %d", resp.Proto, resp.StatusCode)
		}
		tr.CloseIdleConnections()
	}

	old := &tls.Dialer{Config: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}} //nolint:gosec // must be refused
	if c, err := old.DialContext(t.Context(), "tcp", addr); err == nil {
		_ = c.Close()
		t.Error("TLS 1.1 was accepted")
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// The spelling of the headers on a real connection.
func TestHeadersOnTheWire(t *testing.T) {
	addr, _ := served(t, New(&fakeNode{st: mastering(), now: start}, Options{}), nil, defaultLimits())
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := fmt.Fprint(conn, "OPTIONS /master HTTP/1.0\r\n\r\n"); err != nil { // HAProxy's default check
		t.Fatal(err)
	}
	b, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"HTTP/1.0 200 OK\r\n", "\r\nX-HA-State: MASTER\r\n", "\r\nX-HA-Term: 8\r\n", "\r\nX-HA-Node: nself001\r\n",
		"\r\nX-HA-Master: https://nself001:8443/\r\n", "\r\nX-HA-Lease-Remaining-Ms: 26700\r\n", "\r\nCache-Control: no-cache, no-store\r\n",
	} {
		if !strings.Contains(string(b), want) {
			t.Errorf("%q is not in %q", want, b)
		}
	}
}

// A request under way is finished, a new one finds nobody.
func TestServeStopsInOrder(t *testing.T) {
	node := &fakeNode{st: mastering(), now: start, hang: make(chan struct{})}
	addr, stop := served(t, New(node, Options{Gate: anyone}), nil, defaultLimits())
	got := make(chan string, 1)
	go func() { got <- postMode(t.Context(), "http", addr) }()
	eventually(t, "the request arrives", func() bool { return len(node.called()) == 1 })

	stopped := make(chan error, 1)
	go func() { stopped <- stop() }()
	eventually(t, "the listener is closed", func() bool {
		c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", addr)
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	})
	select {
	case err := <-stopped:
		t.Fatalf("stopped over a request under way: %v", err)
	default:
	}
	close(node.hang)
	if r := <-got; r != `200 "MASTER"` {
		t.Errorf("the request under way: %s", r)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// A request that does not end is cut off after the grace.
func TestServeStopsAnyhow(t *testing.T) {
	node := &fakeNode{st: mastering(), now: start, hang: make(chan struct{})}
	lim := defaultLimits()
	lim.grace = 50 * time.Millisecond
	addr, stop := served(t, New(node, Options{Gate: anyone}), nil, lim)
	got := make(chan string, 1)
	go func() { got <- postMode(t.Context(), "http", addr) }()
	eventually(t, "the request arrives", func() bool { return len(node.called()) == 1 })
	if err := stop(); err != nil {
		t.Error(err)
	}
	if r := <-got; strings.HasPrefix(r, "200") {
		t.Errorf("%s", r)
	}
}

// A change that takes longer than the server's timeouts is answered when it is
// complete, over HTTP/1 and HTTP/2; a client that sends nothing is cut off.
func TestSlowRouteOutlivesTheTimeouts(t *testing.T) {
	cert, _, err := LoadOrCreateCertificate(t.TempDir(), []string{"127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	lim := limits{header: 200 * time.Millisecond, read: 200 * time.Millisecond, write: 200 * time.Millisecond, idle: time.Second, grace: time.Second}
	for scheme, conf := range map[string]*tls.Config{"http": nil, "https": TLSConfig(cert)} {
		t.Run(scheme, func(t *testing.T) {
			node := &fakeNode{st: mastering(), now: start, hang: make(chan struct{})}
			addr, _ := served(t, New(node, Options{Gate: anyone}), conf, lim)

			dumb, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = dumb.Close() }()
			if conf == nil {
				if _, err := fmt.Fprint(dumb, "GET /master HTTP/1.1\r\n"); err != nil {
					t.Fatal(err)
				}
			}

			got := make(chan string, 1)
			go func() { got <- postMode(t.Context(), scheme, addr) }()
			eventually(t, "the request arrives", func() bool { return len(node.called()) == 1 })

			if err := dumb.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
				t.Fatal(err)
			}
			if _, err := bufio.NewReader(dumb).ReadByte(); !errors.Is(err, io.EOF) {
				t.Errorf("a client that never finishes what it began: %v", err)
			}
			time.Sleep(600 * time.Millisecond) // three times the limits: what is tested is that time passes
			select {
			case r := <-got:
				t.Fatalf("cut off: %s", r)
			default:
			}
			close(node.hang)
			if r := <-got; r != `200 "MASTER"` {
				t.Errorf("%s", r)
			}
		})
	}
}

// postMode asks for a mode and returns status and body.
func postMode(ctx context.Context, scheme, addr string) string {
	tr := &http.Transport{DisableKeepAlives: true}
	tr.TLSClientConfig = &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12} //nolint:gosec // not what is tested
	tr.ForceAttemptHTTP2 = true
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, scheme+"://"+addr+"/v1/server/ha/state", strings.NewReader("mode=STANDBY"))
	if err != nil {
		return err.Error()
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		return err.Error()
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%d %s", resp.StatusCode, b)
}

func TestServeReportsADeadListener(t *testing.T) {
	ln, err := Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = ln.Close()
	if err := Serve(t.Context(), ln, http.NotFoundHandler(), nil, nil); err == nil || !strings.Contains(err.Error(), ln.Addr().String()) {
		t.Errorf("%v", err)
	}
}

func TestListenSaysWhatToDo(t *testing.T) {
	ln, err := Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	taken := ln.Addr().String()
	_, port, err := net.SplitHostPort(taken)
	if err != nil {
		t.Fatal(err)
	}
	for addr, wants := range map[string][]string{
		taken:             {taken, "in use", "sport = :" + port, "server.listen"},
		"192.0.2.1:8443":  {"192.0.2.1:8443", "does not have that address", "server.listen"},
		"no port":         {"no port", "host:port"},
		"127.0.0.1:99999": {"99999", "server.listen"},
	} {
		l, err := Listen(t.Context(), addr)
		if err == nil {
			_ = l.Close()
			t.Errorf("%s: no error", addr)
			continue
		}
		for _, want := range wants {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %q does not say %q", addr, err, want)
			}
		}
	}
}

// The daemon's loop is stuck, its lease runs out: seen from outside, over
// TLS, nothing else happening.
func TestStuckDaemonSeenFromOutside(t *testing.T) {
	began := time.Now()
	st := mastering()
	st.Reign.End = 300 * time.Millisecond
	node := &clockNode{fakeNode: &fakeNode{st: st}, now: func() lease.Instant { return start.Add(time.Since(began)) }}
	addr, _ := served(t, New(node, Options{}), nil, defaultLimits())
	ask := func() int {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr+"/master", nil)
		if err != nil {
			t.Fatal(err)
		}
		tr := &http.Transport{DisableKeepAlives: true}
		resp, err := (&http.Client{Transport: tr}).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	for {
		before := time.Since(began)
		code := ask()
		after := time.Since(began)
		if code == 200 && before >= 300*time.Millisecond {
			t.Fatalf("200 to a request sent %v after the lease began", before)
		}
		if code == 503 && after < 300*time.Millisecond {
			t.Fatalf("503 at %v, the lease not over", after)
		}
		if code == 503 {
			return
		}
	}
}

type clockNode struct {
	*fakeNode
	now func() lease.Instant
}

func (c *clockNode) Now() lease.Instant { return c.now() }

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 10 s: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}
