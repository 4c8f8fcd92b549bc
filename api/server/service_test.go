package server

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/understudy-ha/understudy/api/v1"
	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// fakeService is a service whose actions end as the test says.
type fakeService struct {
	mu    sync.Mutex
	calls []string
	err   error
	after func(ha.ServiceAction) // what the action changes
	lines chan string            // what comes of the output; closed: nothing more
}

func (f *fakeService) Control(_ context.Context, a ha.ServiceAction) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, string(a))
	if f.err == nil && f.after != nil {
		f.after(a)
	}
	return f.err
}

func (f *fakeService) asked() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.calls)
}

func (f *fakeService) Output(ctx context.Context, w io.Writer, lines int, follow bool) error {
	if _, err := fmt.Fprintf(w, "%d lines, follow %v\n", lines, follow); err != nil || !follow {
		return err
	}
	for {
		select {
		case l := <-f.lines:
			if _, err := io.WriteString(w, l+"\n"); err != nil {
				return err
			}
		case <-ctx.Done():
			return nil
		}
	}
}

func TestServiceIsDescribed(t *testing.T) {
	tried := wall.Add(-time.Second)
	g := newRig(t, with(mastering(), func(s *ha.Status) {
		s.Service = ha.ServiceInfo{
			Phase: "ready", Pid: 12, GuardPid: 11, Restarts: 1, Failures: 2, Since: wall, Standby: "idle",
			LastExit: &ha.ServiceExit{Code: 137, Why: "service was killed by signal 9", At: wall},
			Checks: []ha.ServiceCheck{
				{Name: "web", Kind: "http", Fails: 1, Fall: 3, Error: "refused", At: tried},
				{Name: "new", Kind: "tcp", Fall: 3},
			},
		}
	}), Options{})
	r := g.ask(http.MethodGet, "/v1/server/service", "")
	want := `{"phase":"ready","pid":12,"guardPid":11,"since":"2026-05-04T12:00:00Z","restarts":1,"failures":2,` +
		`"lastExit":{"code":137,"reason":"service was killed by signal 9","at":"2026-05-04T12:00:00Z"},"detail":null,` +
		`"checks":[{"name":"web","kind":"http","fails":1,"fall":3,"error":"refused","at":"2026-05-04T11:59:59Z"},` +
		`{"name":"new","kind":"tcp","fails":0,"fall":3,"error":null,"at":null}],"standby":"idle"}`
	if r.code != http.StatusOK || r.body != want {
		t.Errorf("%d\n%s\nwant\n%s", r.code, r.body, want)
	}
	var states v1.PlaneStates
	if err := json.Unmarshal([]byte(g.ask(http.MethodGet, "/v1/server/ha/states", "").body), &states); err != nil {
		t.Fatal(err)
	}
	if n := states.Nodes[string(self)].ServiceFailures; n != 2 {
		t.Errorf("%d failures in states", n)
	}
}

// Actions are answered with what came of them, on any node, and refused with
// the reason.
func TestServiceActions(t *testing.T) {
	f := &fakeService{}
	g := newRig(t, mastering(), Options{Service: f})
	f.after = func(a ha.ServiceAction) {
		g.node.mu.Lock()
		defer g.node.mu.Unlock()
		g.node.st = mastering()
		if a == ha.ServiceStop {
			g.node.st = holding(lease.StateInitializing, false)
			g.node.st.Service = ha.ServiceInfo{Phase: "stopped"}
		}
	}
	for action, phase := range map[string]string{"stop": "stopped", "start": "ready", "restart": "ready", "reset-failures": ""} {
		r := g.ask(http.MethodPost, "/v1/server/service/"+action, "")
		var s v1.Service
		if err := json.Unmarshal([]byte(r.body), &s); err != nil || r.code != http.StatusOK || (phase != "" && s.Phase != phase) {
			t.Errorf("%s: %d %s", action, r.code, r.body)
		}
		if stopped := g.send(http.MethodGet, "/master", "").code == http.StatusServiceUnavailable; stopped != (s.Phase == "stopped") {
			t.Errorf("%s: /master is 503: %v", action, stopped)
		}
	}
	f.err = &ha.PreconditionError{Reasons: []string{"this node runs no service, because it is not master; ask the master"}}
	r := g.ask(http.MethodPost, "/v1/server/service/stop", "")
	if r.code != http.StatusPreconditionFailed || !strings.Contains(r.body, "can not stop the service: this node runs no service") {
		t.Errorf("%d %s", r.code, r.body)
	}
	if r := newRig(t, mastering(), Options{}).ask(http.MethodPost, "/v1/server/service/stop", ""); r.code != http.StatusPreconditionFailed {
		t.Errorf("without a service: %d %s", r.code, r.body)
	}
	if r := g.send(http.MethodPost, "/v1/server/service/stop", ""); r.code != http.StatusUnauthorized {
		t.Errorf("without a password: %d", r.code)
	}
}

// Who resets the failures of a service that was given up has the node elected
// again; a node that is in office, or in order, is left alone.
func TestResetFailuresForgives(t *testing.T) {
	failed := with(status(lease.StateFailed), func(s *ha.Status) { s.Why, s.Electable = "SERVICE_FAILED", false })
	for name, c := range map[string]struct {
		st    *ha.Status
		calls int
	}{"gave up": {failed, 1}, "master": {mastering(), 0}, "standby": {status(lease.StateStandby), 0}} {
		g := newRig(t, c.st, Options{Service: &fakeService{}})
		if r := g.ask(http.MethodPost, "/v1/server/service/reset-failures", ""); r.code != http.StatusOK {
			t.Errorf("%s: %d %s", name, r.code, r.body)
		}
		if calls := g.node.called(); len(calls) != c.calls {
			t.Errorf("%s: %q", name, calls)
		}
	}
}

func TestServiceLogs(t *testing.T) {
	g := newRig(t, mastering(), Options{Service: &fakeService{}})
	for query, want := range map[string]string{
		"":                        "100 lines, follow false\n",
		"?lines=7&follow=false":   "7 lines, follow false\n",
		"?lines=9999999":          "10000 lines, follow false\n",
		"?lines=x":                "lines must be a number",
		"?follow=perhaps":         "follow must be true or false",
		"?follow=false&lines=000": "0 lines, follow false\n",
	} {
		if r := g.ask(http.MethodGet, "/v1/server/service/logs"+query, ""); !strings.Contains(r.body, want) {
			t.Errorf("%q: %d %s", query, r.code, r.body)
		}
	}
	if r := g.ask(http.MethodHead, "/v1/server/service/logs?follow=true", ""); r.code != http.StatusOK {
		t.Errorf("HEAD: %d", r.code)
	}
	if r := g.send(http.MethodGet, "/v1/server/service/logs", ""); r.code != http.StatusUnauthorized {
		t.Errorf("without a password: %d", r.code)
	}
}

// Output that is followed arrives line by line, outlives the limits of other
// requests, and ends at once, without an error, when the server does.
func TestFollowedLogsArriveAndEndWithTheServer(t *testing.T) {
	f := &fakeService{lines: make(chan string)}
	ctx, stop := context.WithCancel(t.Context())
	ln, err := Listen(ctx, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	lim := defaultLimits()
	lim.read, lim.write, lim.grace = 300*time.Millisecond, 300*time.Millisecond, time.Minute
	served := make(chan error, 1)
	h := New(&fakeNode{st: mastering(), now: start}, Options{Gate: gate(Gate{Users: fixedAuth{}}), Service: f})
	go func() { served <- serve(ctx, ln, h, nil, zap.NewNop(), lim) }()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+ln.Addr().String()+"/v1/server/service/logs?follow=true", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth("admin", secret)
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	in := bufio.NewReader(resp.Body)
	next := func(want string) {
		t.Helper()
		if got, err := in.ReadString('\n'); err != nil || got != want+"\n" {
			t.Fatalf("%q %v, want %q", got, err, want)
		}
	}
	next("100 lines, follow true")
	for i := range 3 {
		time.Sleep(lim.write) // this is what is outlived
		f.lines <- fmt.Sprint(i)
		next(fmt.Sprint(i))
	}
	stop()
	if rest, err := io.ReadAll(in); err != nil || len(rest) != 0 {
		t.Errorf("%q %v", rest, err)
	}
	select {
	case err := <-served:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the server waits for a stream that never ends")
	}
}
