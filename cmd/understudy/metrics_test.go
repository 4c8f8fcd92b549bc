package main

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/expfmt"

	"github.com/understudy-ha/understudy/api/server"
	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/persistence/memory"
	"github.com/understudy-ha/understudy/pkg/clock"
	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/hook"
	"github.com/understudy-ha/understudy/pkg/lease"
)

func TestStoreMetrics(t *testing.T) {
	var m meter
	s := m.wrap(memory.New().Open())
	if _, err := s.Read(t.Context()); !errors.Is(err, persistence.Absent) {
		t.Fatal(err)
	}
	if err := s.Init(t.Context(), []byte("u1")); err != nil {
		t.Fatal(err)
	}
	if got := m.requests(); got["read"] != 1 || got["init"] != 1 || got["put"] != 0 {
		t.Errorf("a store that counts no requests: %v", got)
	}
	m.sent.Add("PUT")
	m.sent.Add("GET-304")
	m.sent.Add("PUT")
	if got := m.requests(); !maps.Equal(got, map[string]uint64{"PUT": 2, "GET-304": 1}) {
		t.Errorf("a store that counts its requests: %v", got)
	}

	problems, err := testutil.CollectAndLint(&m)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	if err := testutil.CollectAndCompare(&m, strings.NewReader(`
# HELP understudy_store_requests_total Requests sent to the store, by kind. Only of stores that are paid for by the request.
# TYPE understudy_store_requests_total counter
understudy_store_requests_total{kind="GET-304"} 1
understudy_store_requests_total{kind="PUT"} 2
`), "understudy_store_requests_total"); err != nil {
		t.Error(err)
	}
	text, err := testutil.CollectAndFormat(&m, expfmt.TypeTextPlain, "understudy_store_operation_errors_total", "understudy_store_operation_duration_seconds")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		`understudy_store_operation_errors_total{error="absent",operation="read"} 1`,
		`understudy_store_operation_errors_total{error="unknown",operation="read"} 0`,
		`understudy_store_operation_duration_seconds_count{operation="read"} 1`,
		`understudy_store_operation_duration_seconds_bucket{operation="init",le="+Inf"} 1`,
		`understudy_store_operation_duration_seconds_count{operation="cas"} 0`,
	} {
		if !strings.Contains(string(text), line+"\n") {
			t.Errorf("%s is not in\n%s", line, text)
		}
	}
}

// docs/metrics.md lists what a running node shows, with its type, and nothing
// else.
func TestMetricsAreDocumented(t *testing.T) {
	var m meter
	m.sent.Add("PUT")
	store := m.wrap(memory.New().Open())
	v := lease.Value{Plane: ha.NewPlaneID(), Lease: 30 * time.Second, WriteID: ha.NewWriteID()}
	if err := store.Init(t.Context(), v.Encode()); err != nil {
		t.Fatal(err)
	}
	node, err := ha.New(store, ha.Options{
		Node: ha.NewNodeID(), Clock: clock.Now,
		OnReign: func(ctx context.Context, _ ha.Reign) error { <-ctx.Done(); return ctx.Err() },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- node.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	for deadline := time.Now().Add(20 * time.Second); node.State() != lease.StateMaster; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not master but %s", node.State())
		}
	}

	hooks := hook.Open(t.Context(), hook.Options{
		Hooks:   map[hook.Event]hook.Hook{hook.OnStoreLost: {Command: []string{"/h"}, Timeout: time.Second}},
		DataDir: t.TempDir(), Bound: noGuard, Apart: noGuard,
	})
	defer hooks.Close(0)
	w := httptest.NewRecorder()
	server.New(node, server.Options{Collectors: []prometheus.Collector{&m, hookMeter{hooks}}}).
		ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
	shown := pairs(t, `(?m)^# TYPE (understudy_\w+) (\w+)$`, w.Body.String())
	page, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := pairs(t, "(?m)^\\| `(understudy_\\w+)` \\| (\\w+) \\|", string(page))
	if len(shown) < 20 || !maps.Equal(shown, documented) {
		t.Errorf("shown:      %v\ndocumented: %v", shown, documented)
	}
}

// pairs are the two groups of each match, which must differ in the first.
func pairs(t *testing.T, pattern, text string) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
		if _, twice := out[m[1]]; twice {
			t.Errorf("%s is there twice", m[1])
		}
		out[m[1]] = m[2]
	}
	return out
}
