package server

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/api/v1"
	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/lease"
)

const (
	asForm     = "application/x-www-form-urlencoded"
	switchover = "/v1/server/ha/switchover"
)

func TestOperationsAreTaken(t *testing.T) {
	done := ha.Operation{Kind: ha.OpSwitchover, State: ha.OpDone, Accepted: wall}
	for _, c := range []struct {
		name, method, path, ctype, body string
		call                            string // in what the node was asked
		code                            int
	}{
		{"switchover", "POST", switchover, typeJSON, `{"to":"nthird03","reason":"new kernel"}`, "Kind:switchover To:nthird03 Node: At:0001-01-01 00:00:00 +0000 UTC TTL:0s HoldOff:0s Reason:new kernel Actor:admin Force:false DryRun:false", 200},
		{"switchover by form", "POST", switchover, asForm, "to=nthird03&wait=false", "Kind:switchover To:nthird03", 202},
		{"switchover without a body", "POST", switchover, "", "", "Kind:switchover To: ", 200},
		{"planned", "POST", switchover, typeJSON, `{"at":"2030-01-02T03:04:05Z"}`, "At:2030-01-02 03:04:05 +0000 UTC", 202},
		{"dry run", "POST", switchover, typeJSON, `{"dryRun":true}`, "DryRun:true", 200},
		{"failover", "POST", "/v1/server/ha/failover", typeJSON, `{"to":"nthird03","force":true}`, "Kind:failover To:nthird03 Node: At:0001-01-01 00:00:00 +0000 UTC TTL:0s HoldOff:0s Reason: Actor:admin Force:true", 200},
		{"step-down", "POST", "/v1/server/ha/step-down", typeJSON, `{}`, "HoldOff:1m0s", 200},
		{"step-down for long", "POST", "/v1/server/ha/step-down", typeJSON, `{"holdOff":"2h"}`, "HoldOff:2h0m0s", 200},
		{"pause", "POST", "/v1/server/ha/pause", asForm, "ttl=10m&reason=storage+work", "Kind:pause To: Node: At:0001-01-01 00:00:00 +0000 UTC TTL:10m0s HoldOff:0s Reason:storage work", 200},
		{"resume", "POST", "/v1/server/ha/resume", typeJSON, `{"wait":true}`, "Kind:resume", 200},
		{"ack", "POST", "/v1/server/ha/ack", "", "", "Kind:ack", 200},
		{"maintenance", "PUT", "/v1/server/ha/nodes/nthird03/maintenance", typeJSON, `{"ttl":"1h"}`, "Kind:maintenance To: Node:nthird03", 200},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newRig(t, status(lease.StateStandby), Options{}) // any node takes them
			g.node.outcome = done
			r := g.ask(c.method, c.path, c.body, "Content-Type", c.ctype)
			calls := g.node.called()
			if r.code != c.code || len(calls) != 1 || !strings.Contains(calls[0], c.call) {
				t.Fatalf("%d %s; asked %v, want %q", r.code, r.body, calls, c.call)
			}
			if where := r.header.Get("Location"); strings.Contains(c.body, "dryRun") != (where == "") || where != "" && where != "/v1/server/ha/operations/0123-abc" {
				t.Errorf("Location %q", where)
			}
			var op v1.Operation
			if err := json.Unmarshal([]byte(r.body), &op); err != nil || op.Kind == "" {
				t.Errorf("%s: %v", r.body, err)
			}
		})
	}
}

func TestOperationsAreAnsweredFor(t *testing.T) {
	for _, c := range []struct {
		name    string
		err     error
		outcome ha.Operation
		going   bool
		code    int
		words   string
	}{
		{"bad", &ha.UsageError{Reason: "at: it is in the past"}, ha.Operation{}, false, 400, "in the past"},
		{"busy", &ha.BusyError{Other: ha.Operation{ID: "77-x", Kind: ha.OpFailover, State: ha.OpRunning}}, ha.Operation{}, false, 409, "operation 77-x (failover) is running"},
		{"unmet", &ha.PreconditionError{Reasons: []string{"b is silent", "c was stopped"}}, ha.Operation{}, false, 412, `"details":"b is silent\nc was stopped"`},
		{"closing", ha.ErrClosed, ha.Operation{}, false, 503, "shutting down"},
		{"the store", errors.New("the store did not take the request"), ha.Operation{}, false, 500, "the store"},
		{"failed", nil, ha.Operation{Kind: ha.OpSwitchover, State: ha.OpFailed, Reasons: []string{"vetoed"}}, false, 412, "the switchover failed: vetoed"},
		{"rolled back", nil, ha.Operation{Kind: ha.OpSwitchover, State: ha.OpRolledBack, Reasons: []string{"it did not come"}}, false, 409, "was rolled back: it did not come"},
		{"cancelled", nil, ha.Operation{Kind: ha.OpSwitchover, State: ha.OpCancelled, Reasons: []string{"cancelled by bob"}}, false, 409, "cancelled by bob"},
		{"goes on", nil, ha.Operation{}, true, 504, "still goes on"},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newRig(t, status(lease.StateStandby), Options{})
			g.node.err, g.node.outcome, g.node.going = c.err, c.outcome, c.going
			r := g.ask(http.MethodPost, switchover, `{"timeout":"50ms"}`, "Content-Type", typeJSON)
			if r.code != c.code || !strings.Contains(r.body, c.words) {
				t.Errorf("%d %s", r.code, r.body)
			}
		})
	}
}

func TestOperationsBadInput(t *testing.T) {
	for _, c := range []struct {
		name, ctype, body string
		code              int
		words             string
	}{
		{"unknown field", typeJSON, `{"target":"x"}`, 400, `unknown field \"target\"`},
		{"field twice", typeJSON, `{"to":"nthird03","to":"nself001"}`, 400, "twice"},
		{"form field twice", asForm, "to=nthird03&to=nself001", 400, "twice"},
		{"unknown form field", asForm, "target=x", 400, "unknown field"},
		{"no object", typeJSON, `["to"]`, 400, "no JSON object"},
		{"no JSON", typeJSON, `{"to":`, 400, "field"},
		{"two objects", typeJSON, `{}{}`, 400, "after the JSON object"},
		{"wrong type", typeJSON, `{"to":7}`, 400, `field \"to\"`},
		{"force as text", typeJSON, `{"force":"yes"}`, 400, `field \"force\"`},
		{"force by form", asForm, "force=maybe", 400, "true or false"},
		{"no time", typeJSON, `{"at":"tomorrow"}`, 400, "2030-01-02T15:04:05Z"},
		{"no duration", typeJSON, `{"ttl":"10"}`, 400, "such as 30s"},
		{"no timeout", typeJSON, `{"timeout":"-1s"}`, 400, "timeout must be"},
		{"endless timeout", typeJSON, `{"timeout":"99999h"}`, 400, "timeout must be"},
		{"XML", "application/xml", `<to/>`, 415, "application/json"},
		{"huge", typeJSON, `{"reason":"` + strings.Repeat("x", 100<<10) + `"}`, 413, "too long"},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newRig(t, mastering(), Options{})
			r := g.ask(http.MethodPost, switchover, c.body, "Content-Type", c.ctype)
			if r.code != c.code || !strings.Contains(r.body, c.words) {
				t.Errorf("%d %s", r.code, r.body)
			}
			if calls := g.node.called(); len(calls) > 0 {
				t.Errorf("refused, but called %v", calls)
			}
		})
	}
}

func TestWhatIsPlanned(t *testing.T) {
	g := newRig(t, status(lease.StateStandby), Options{})
	if r := g.ask(http.MethodGet, switchover, ""); r.code != 404 {
		t.Errorf("nothing planned: %d %s", r.code, r.body)
	}
	g.node.planned = "0123-abc"
	if r := g.ask(http.MethodGet, switchover, ""); r.code != 200 || !strings.Contains(r.body, `"id":"0123-abc"`) {
		t.Errorf("planned: %d %s", r.code, r.body)
	}
	if r := g.ask(http.MethodDelete, switchover, ""); r.code != 204 {
		t.Errorf("cancel: %d %s", r.code, r.body)
	}
	g.node.err = ha.ErrNoOperation
	for _, path := range []string{switchover, "/v1/server/ha/nodes/nthird03/maintenance"} {
		if r := g.ask(http.MethodDelete, path, ""); r.code != 404 {
			t.Errorf("DELETE %s: %d %s", path, r.code, r.body)
		}
	}
	if r := g.ask(http.MethodGet, "/v1/server/ha/operations/nothing", ""); r.code != 404 {
		t.Errorf("no such operation: %d %s", r.code, r.body)
	}
	if r := g.ask(http.MethodGet, "/v1/server/ha/operations/0123-abc", ""); r.code != 200 {
		t.Errorf("the operation: %d %s", r.code, r.body)
	}
}

// watchEvents opens the stream, until the test ends.
func (g *rig) watchEvents(t *testing.T, query string) *bufio.Scanner {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, g.url+"/v1/server/ha/events"+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth("admin", secret)
	resp, err := g.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() })
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != typeEvents {
		t.Fatalf("%d %s", resp.StatusCode, resp.Header.Get("Content-Type"))
	}
	return bufio.NewScanner(resp.Body)
}

// next is the next event of a stream.
func next(t *testing.T, s *bufio.Scanner) (id string, e v1.Event) {
	t.Helper()
	for s.Scan() {
		line := s.Text()
		if v, ok := strings.CutPrefix(line, "id: "); ok {
			id = v
		}
		if v, ok := strings.CutPrefix(line, "data: "); ok {
			if err := json.Unmarshal([]byte(v), &e); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			return id, e
		}
	}
	t.Fatalf("the stream ended: %v", s.Err())
	return "", e
}

func TestEvents(t *testing.T) {
	g := newRig(t, mastering(), Options{})
	g.node.happen(ha.PlaneEvent{Type: ha.EventHolder, Node: other, Term: 7, To: "held"})
	g.node.happen(ha.PlaneEvent{Type: ha.EventNode, Node: third, From: "STANDBY", To: "FAILED", Code: "X"})
	all := g.watchEvents(t, "?since=0")
	for _, want := range []string{"1", "2"} {
		if id, e := next(t, all); id != want || e.Term != 7 && e.Type == "holder" {
			t.Errorf("event %s: %+v, want %s", id, e, want)
		}
	}
	fresh := g.watchEvents(t, "")
	fresh.Scan() // the server is listening
	g.node.happen(ha.PlaneEvent{Type: ha.EventOperation, To: "done", Operation: &ha.Operation{ID: "1-a", Kind: ha.OpAck, State: ha.OpDone}})
	for _, s := range []*bufio.Scanner{all, fresh} {
		if id, e := next(t, s); id != "3" || e.Operation == nil || e.Operation.ID != "1-a" {
			t.Errorf("event %s: %+v", id, e)
		}
	}
	kept := g.watchEvents(t, "?since=1&follow=false")
	for range 2 {
		next(t, kept)
	}
	for kept.Scan() {
		if kept.Text() != "" {
			t.Errorf("after what is kept: %s", kept.Text())
		}
	}
	if r := g.ask(http.MethodGet, "/v1/server/ha/events?since=yesterday", ""); r.code != 400 {
		t.Errorf("%d %s", r.code, r.body)
	}
}

// However many watch, it costs a bounded number of goroutines, and none once
// they have left.
func TestManyWatchers(t *testing.T) {
	s := newServer(&fakeNode{st: mastering(), now: start}, Options{Gate: anyone})
	h := s.router()
	before := runtime.NumGoroutine()
	ctx, cancel := context.WithCancel(t.Context())
	answered := make(chan int, 10000)
	for range 10000 {
		go func() {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://node/v1/server/ha/events", nil)
			if err != nil {
				panic(err)
			}
			w := &discard{h: http.Header{}}
			h.ServeHTTP(w, req)
			answered <- w.code
		}()
	}
	for range 10000 - maxWatchers { // the rest is sent away at once
		if code := <-answered; code != 503 {
			t.Fatalf("one too many was answered %d", code)
		}
	}
	cancel()
	for range maxWatchers {
		if code := <-answered; code != 200 {
			t.Fatalf("a watcher was answered %d", code)
		}
	}
	deadline := time.Now().Add(10 * time.Second)
	for runtime.NumGoroutine() > before+5 && time.Now().Before(deadline) {
		time.Sleep(10 * time.Millisecond)
	}
	if n := runtime.NumGoroutine(); n > before+5 {
		t.Errorf("%d goroutines are left of %d before", n, before)
	}
	if n := s.watchers.Load(); n != 0 {
		t.Errorf("%d watchers are left", n)
	}
}
