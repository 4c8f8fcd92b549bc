package main

import (
	"errors"
	"maps"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/expfmt"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/persistence/memory"
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
