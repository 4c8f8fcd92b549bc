package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/test/e2e/harness"
	"github.com/understudy-ha/understudy/test/e2e/intervals"
	"github.com/understudy-ha/understudy/test/need"
)

// haproxyConfig is that of docs/operations.md: whom /master calls MASTER over
// HTTPS, and the agent beside it.
const haproxyConfig = `global
    log stdout format raw local0 info
defaults
    mode http
    log global
    timeout connect 1s
    timeout client 5s
    timeout server 5s
    timeout check 1s
frontend clients
    bind 127.0.0.1:%d
    default_backend service
backend service
    option httpchk GET /master
    default-server check inter 200ms fall 2 rise 1 check-ssl verify none agent-check agent-inter 200ms on-marked-down shutdown-sessions
`

// startHAProxy runs HAProxy, which ends with the test.
func startHAProxy(t *testing.T, config string) {
	t.Helper()
	if _, err := exec.LookPath("haproxy"); err != nil {
		need.Missing(t, "haproxy is missing; on Debian: apt-get install haproxy")
	}
	file := filepath.Join(t.TempDir(), "haproxy.cfg")
	write(t, file, config)
	if out, err := exec.CommandContext(t.Context(), "haproxy", "-c", "-q", "-f", file).CombinedOutput(); err != nil {
		t.Fatalf("haproxy -c: %v: %s\n%s", err, out, config)
	}
	log := filepath.Join(t.TempDir(), "log")
	f, err := os.Create(log)
	must(t, err)
	defer f.Close()
	cmd := exec.Command("haproxy", "-db", "-f", file) //nolint:noctx // the cleanup ends it
	cmd.Stdout, cmd.Stderr = f, f
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if b, err := os.ReadFile(log); err == nil && t.Failed() {
			t.Logf("haproxy:\n%s", tailOf(string(b)))
		}
	})
}

// visit is one request of a client through the proxy.
type visit struct {
	node     string // whose service answered; empty: none did
	from, to intervals.Instant
}

// clients ask through the proxy all the time, each time on a new connection.
func clients(t *testing.T, url string) (visits func() []visit) {
	t.Helper()
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	var mu sync.Mutex
	var all []visit
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			v := visit{from: intervals.Now()}
			v.node = whoAnswers(ctx, client, url)
			v.to = intervals.Now()
			mu.Lock()
			all = append(all, v)
			mu.Unlock()
			time.Sleep(10 * time.Millisecond)
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return func() []visit {
		mu.Lock()
		defer mu.Unlock()
		return append([]visit{}, all...)
	}
}

func whoAnswers(ctx context.Context, client *http.Client, url string) string {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return ""
	}
	res, err := client.Do(req)
	if err != nil {
		return ""
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	var said struct{ Node string }
	if err != nil || res.StatusCode != http.StatusOK || json.Unmarshal(b, &said) != nil {
		return ""
	}
	return said.Node
}

// TestHAProxy: behind a real HAProxy, which asks /master and the agent, clients
// reach the master's service and follow it through a switchover and a crash of
// the daemon.
func TestHAProxy(t *testing.T) {
	p := harness.NewPlane(t, harness.Options{Nodes: 2})
	front := p.FreePort()
	config := fmt.Sprintf(haproxyConfig, front)
	for _, n := range p.Nodes {
		service, agent := p.FreePort(), p.FreePort()
		n.Set("server.agentListen", fmt.Sprintf("127.0.0.1:%d", agent))
		n.Set("service.drainDelay", "500ms")
		n.Set("service.command", []string{
			"/bin/sh", "-c", `"$0" & exec "$1" demo-service --listen "$2" --dir "$3"`,
			harness.Recorder(), harness.Understudy(), fmt.Sprintf("127.0.0.1:%d", service), filepath.Join(p.Dir, "counter"),
		})
		n.Set("service.ready.tcp", fmt.Sprintf("127.0.0.1:%d", service))
		_, rest, err := net.SplitHostPort(strings.TrimPrefix(n.URL(""), "https://"))
		must(t, err)
		config += fmt.Sprintf("    server %s 127.0.0.1:%d port %s agent-port %d\n", n.Name, service, rest, agent)
	}
	must(t, os.Mkdir(filepath.Join(p.Dir, "counter"), 0o755))
	startHAProxy(t, config)
	master := p.StartAndWait(settle)
	visits := clients(t, fmt.Sprintf("http://127.0.0.1:%d/counter", front))
	answeredBy := func(n *harness.Node) {
		t.Helper()
		seen := len(visits())
		if !harness.Poll(settle, func() bool {
			all := visits()
			return len(all) > seen+2 && all[len(all)-1].node == n.ID() && all[len(all)-2].node == n.ID()
		}) {
			t.Fatalf("clients do not reach %s", n.Name)
		}
	}
	answeredBy(master)
	for _, move := range []struct {
		what string
		do   func()
	}{
		{"switchover", func() {
			ctx, cancel := context.WithTimeout(t.Context(), settle)
			defer cancel()
			other := p.Standby(master)
			for _, n := range p.Nodes {
				if !harness.Poll(settle, func() bool {
					s, err := n.States()
					return err == nil && s.Nodes[other.ID()].Electable
				}) {
					t.Fatalf("%s never counts with %s", n.Name, other.Name)
				}
			}
			if out, err := other.Command(ctx, "--config", other.ConfigFile(), "mode", "MASTER").CombinedOutput(); err != nil {
				t.Fatalf("understudy mode MASTER: %v: %s", err, out)
			}
		}},
		{"kill -9 of the daemon", func() { master.Kill(harness.Daemon) }},
	} {
		next := p.Standby(master)
		at := intervals.Now()
		move.do()
		if !harness.Poll(settle, next.IsMaster) {
			t.Fatalf("%s: %s is not master", move.what, next.Name)
		}
		moved := intervals.Now()
		answeredBy(next)
		judgeMove(t, move.what, visits(), at, moved, master, next)
		if !master.Running() {
			master.Start()
		}
		master = p.WaitSettled(settle)
		if master != next {
			t.Fatalf("%s: %s is master, want %s", move.what, master.Name, next.Name)
		}
	}
}

// judgeMove: once the next master has answered, the former never does, and the
// way there took no longer than HAProxy's checks explain.
func judgeMove(t *testing.T, what string, all []visit, at, moved intervals.Instant, from, to *harness.Node) {
	t.Helper()
	var first intervals.Instant
	lost := 0
	for _, v := range all {
		switch {
		case v.from < at:
		case v.node == to.ID() && first == 0:
			first = v.to
		case v.node == from.ID() && first != 0:
			t.Errorf("%s: %s answered %v after %s had", what, from.Name, v.to.Sub(first), to.Name)
		case v.node == "":
			lost++
		}
	}
	if first == 0 {
		t.Errorf("%s: %s never answered", what, to.Name)
		return
	}
	harness.Figures(t, what+": MASTER to its first answer through HAProxy", []time.Duration{max(0, first.Sub(moved))})
	harness.Note(t, fmt.Sprintf("%s: %d requests found no server", what, lost))
}
