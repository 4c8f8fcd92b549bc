package server

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/understudy-ha/understudy/api/v1"
	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// samples reads what /metrics answers: name{label="value"} to value.
func (g *rig) samples() map[string]float64 {
	g.t.Helper()
	r := g.send(http.MethodGet, "/metrics", "")
	if r.code != http.StatusOK || !strings.HasPrefix(r.header.Get("Content-Type"), "text/plain; version=0.0.4") {
		g.t.Fatalf("%d %s\n%s", r.code, r.header.Get("Content-Type"), r.body)
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(r.body))
	if err != nil {
		g.t.Fatalf("not Prometheus text: %v\n%s", err, r.body)
	}
	out := map[string]float64{}
	for name, f := range families {
		for _, m := range f.GetMetric() {
			v := m.GetGauge().GetValue()
			if f.GetType() == dto.MetricType_COUNTER {
				v = m.GetCounter().GetValue()
			}
			out[name+labels(m)] = v
		}
	}
	return out
}

func labels(m *dto.Metric) string {
	var ls []string
	for _, l := range m.GetLabel() {
		ls = append(ls, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
	}
	if ls == nil {
		return ""
	}
	return "{" + strings.Join(ls, ",") + "}"
}

// expect compares some of the samples.
func expect(t *testing.T, got, want map[string]float64) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if v, ok := got[name]; !ok || v != want[name] {
			t.Errorf("%s is %v (there: %v), want %v", name, v, ok, want[name])
		}
	}
}

func TestMetricsOfAMaster(t *testing.T) {
	st := mastering()
	st.Counts = ha.Counts{
		Beats: 40, Undecided: 3, Unsent: 1, Late: 2, Records: 7, RecordsFailed: 4, Restarts: 5,
		Changes: map[ha.Change]uint64{{To: lease.StateMaster, Code: ha.ChangedSilent}: 6},
	}
	g := newRig(t, st, Options{Build: Build{SHA1: "abc123"}})
	g.node.advance(700 * time.Millisecond)
	got := g.samples()
	expect(t, got, map[string]float64{
		`understudy_node_info{node="nself001",plane="plane123",store="posix"}`:  1,
		`understudy_state{state="MASTER"}`:                                      1,
		`understudy_state{state="STANDBY"}`:                                     0,
		`understudy_state{state="FAILED"}`:                                      0,
		`understudy_master`:                                                     1,
		`understudy_leader`:                                                     1,
		`understudy_master_visible`:                                             1,
		`understudy_term`:                                                       8,
		`understudy_lease_remaining_seconds`:                                    26,
		`understudy_heartbeat_timeout_seconds`:                                  30,
		`understudy_heartbeat_interval_seconds`:                                 1,
		`understudy_guard_acknowledgement_age_seconds`:                          0.7,
		`understudy_service_ready`:                                              1,
		`understudy_store_up`:                                                   1,
		`understudy_paused`:                                                     0,
		`understudy_electable_nodes`:                                            2,
		`understudy_nodes{state="MASTER"}`:                                      1,
		`understudy_nodes{state="STANDBY"}`:                                     2,
		`understudy_nodes{state="FAILED"}`:                                      1,
		`understudy_nodes{state="TERMINATED"}`:                                  0,
		`understudy_heartbeats_total{outcome="confirmed"}`:                      40,
		`understudy_heartbeats_total{outcome="undecided"}`:                      3,
		`understudy_heartbeats_total{outcome="unsent"}`:                         1,
		`understudy_heartbeats_late_total`:                                      2,
		`understudy_node_records_total{outcome="written"}`:                      7,
		`understudy_node_records_total{outcome="failed"}`:                       4,
		`understudy_service_restarts_total`:                                     5,
		`understudy_state_changes_total{reason="HOLDER_SILENT",state="MASTER"}`: 6,
	})
	build := slices.DeleteFunc(slices.Collect(maps.Keys(got)), func(s string) bool { return !strings.HasPrefix(s, "understudy_build_info") })
	if len(build) != 1 || !strings.Contains(build[0], `revision="abc123"`) || !strings.Contains(build[0], `version="1.2.3"`) {
		t.Errorf("build: %v", build)
	}
	for _, name := range []string{"go_goroutines", "process_resident_memory_bytes"} {
		if got[name] <= 0 {
			t.Errorf("%s is %v", name, got[name])
		}
	}
}

// The metric turns with the clock, not when somebody notices: a loop that is
// stuck changes no snapshot.
func TestMetricsFollowTheTruthRule(t *testing.T) {
	g := newRig(t, mastering(), Options{})
	g.node.advance(26700*time.Millisecond - 1)
	expect(t, g.samples(), map[string]float64{`understudy_master`: 1, `understudy_lease_remaining_seconds`: 1e-9})
	g.node.advance(1)
	got := g.samples()
	expect(t, got, map[string]float64{
		`understudy_master`: 0, `understudy_leader`: 0, `understudy_master_visible`: 0, `understudy_lease_remaining_seconds`: 0,
		`understudy_state{state="MASTER"}`: 0, `understudy_state{state="FAILED"}`: 1,
	})
	if _, ok := got["understudy_guard_acknowledgement_age_seconds"]; ok {
		t.Error("a node without a lease tells of its guard's acknowledgement")
	}
}

func TestMetricsOfAStandby(t *testing.T) {
	expect(t, newRig(t, status(lease.StateHotStandby), Options{}).samples(), map[string]float64{
		`understudy_master`: 0, `understudy_leader`: 0, `understudy_master_visible`: 1, `understudy_term`: 7,
		`understudy_state{state="HOT_STANDBY"}`: 1, `understudy_electable_nodes`: 1,
		`understudy_service_ready`: 0, `understudy_heartbeats_total{outcome="confirmed"}`: 0,
	})
}

func TestMetricsAreWellNamed(t *testing.T) {
	st := mastering()
	st.Counts.Changes = map[ha.Change]uint64{{To: lease.StateMaster, Code: ha.ChangedReleased}: 1}
	g := newRig(t, st, Options{})
	text := g.send(http.MethodGet, "/metrics", "").body
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	if !strings.Contains(text, "# HELP understudy_master 1 while this node is MASTER") {
		t.Errorf("no help in\n%s", text)
	}
}

func TestMetricsNeedNoPasswordAndCarryTheHeaders(t *testing.T) {
	g := newRig(t, mastering(), Options{})
	for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodOptions} {
		r := g.send(method, "/metrics", "")
		if r.code != http.StatusOK || r.header.Get(v1.HeaderState) != "MASTER" || r.header.Get("Cache-Control") != "no-cache, no-store" {
			t.Errorf("%s: %d %v", method, r.code, r.header)
		}
	}
}

// brokenCollector can not tell anything.
type brokenCollector struct{ prometheus.Collector }

func (brokenCollector) Collect(ch chan<- prometheus.Metric) {
	ch <- prometheus.NewInvalidMetric(describe("broken", "It is."), errors.New("no"))
}

func TestOneBrokenCollectorDoesNotHideTheRest(t *testing.T) {
	more := prometheus.NewCounter(prometheus.CounterOpts{Name: "understudy_more_total", Help: "More."})
	more.Add(3)
	g := newRig(t, mastering(), Options{Collectors: []prometheus.Collector{more, brokenCollector{prometheus.NewGauge(prometheus.GaugeOpts{Name: "broken", Help: "x"})}}})
	expect(t, g.samples(), map[string]float64{`understudy_more_total`: 3, `understudy_master`: 1})
}

// Two nodes in one process have a registry each.
func TestTwoNodesDoNotShareMetrics(t *testing.T) {
	a, b := newRig(t, mastering(), Options{}), newRig(t, status(lease.StateStandby), Options{})
	expect(t, a.samples(), map[string]float64{`understudy_master`: 1})
	expect(t, b.samples(), map[string]float64{`understudy_master`: 0})
}

// A late heartbeat is said on every health path, also while the loop that
// would notice it is stuck, and for one heartbeatTimeout afterwards.
func TestLateHeartbeatIsWarnedOf(t *testing.T) {
	st := mastering()
	st.Reign.Late = 8 * time.Second
	g := newRig(t, st, Options{})
	warning := func() string { return g.send(http.MethodGet, "/master", "").header.Get(v1.HeaderWarning) }
	g.node.advance(8*time.Second - 1)
	if w := warning(); w != "" {
		t.Errorf("before its time: %q", w)
	}
	g.node.advance(1)
	if w := warning(); w != "HEARTBEAT_LATE" {
		t.Errorf("late: %q", w)
	}
	again := *st
	again.LateAt = g.node.Now()
	reign := *st.Reign
	reign.T0 = g.node.Now()
	again.Reign = &reign
	g.node.mu.Lock()
	g.node.st = &again
	g.node.mu.Unlock()
	g.node.advance(time.Second)
	if w := warning(); w != "HEARTBEAT_LATE" {
		t.Errorf("just after: %q", w)
	}
	reign.Late = 0
	g.node.advance(again.Timeout - time.Second)
	if w := warning(); w != "" {
		t.Errorf("long after: %q", w)
	}
}

func TestStoreRequestsInMetrics(t *testing.T) {
	g := newRig(t, mastering(), Options{StoreRequests: func() map[string]uint64 { return map[string]uint64{"PUT": 12} }})
	if r := g.ask(http.MethodGet, "/v1/server/ha/metrics", ""); !strings.Contains(r.body, `"storeRequests":{"PUT":12}`) {
		t.Error(r.body)
	}
	g = newRig(t, mastering(), Options{})
	if r := g.ask(http.MethodGet, "/v1/server/ha/latency", ""); r.body != `{"minutes":[]}` {
		t.Errorf("nobody measures: %s", r.body)
	}
	g = newRig(t, status(lease.StateStandby), Options{StoreLatency: func() []v1.LatencyMinute {
		return []v1.LatencyMinute{{From: wall, Operations: map[string]v1.OperationLatency{"read": {Count: 2, Failed: 1, MeanMs: 1.5, MaxMs: 2}}}}
	}})
	if r := g.ask(http.MethodGet, "/v1/server/ha/latency", ""); r.body != `{"minutes":[{"from":"2026-05-04T12:00:00Z","operations":{"read":{"count":2,"failed":1,"meanMs":1.5,"maxMs":2}}}]}` {
		t.Errorf("latency: %s", r.body)
	}
	g = newRig(t, status(lease.StateStandby), Options{})
	if r := g.ask(http.MethodGet, "/v1/server/ha/metrics", ""); !strings.Contains(r.body, `"storeRequests":{}`) {
		t.Error(r.body)
	}
}

// BenchmarkMetrics says what one scrape costs: rest.md asks for less than 1 ms.
func BenchmarkMetrics(b *testing.B) {
	st := mastering()
	for i := range 50 {
		id := lease.NodeID(fmt.Sprintf("nmore%03d", i))
		st.Nodes[id] = peer(id, lease.StateStandby, time.Second)
	}
	h := New(&fakeNode{st: st, now: start}, Options{})
	req := httptest.NewRequestWithContext(context.Background(), http.MethodGet, "/metrics", nil)
	for b.Loop() {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		if w.Code != http.StatusOK {
			b.Fatal(w.Code)
		}
	}
}
