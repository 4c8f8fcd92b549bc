package main

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	v1 "github.com/understudy-ha/understudy/api/v1"
	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/persistence/metered"
)

// meter is what is counted of the shared store.
type meter struct {
	store *metered.Store
	sent  metered.Requests // by stores that are paid for by the request
}

// wrap has everything counted that is asked of the store.
func (m *meter) wrap(s persistence.Store) persistence.Store {
	m.store = metered.Wrap(s)
	return m.store
}

// requests is how many requests of each kind went to the store; where the
// store does not say what it sends, how often each operation was called.
func (m *meter) requests() map[string]uint64 {
	if n := m.sent.Counts(); len(n) > 0 {
		return n
	}
	return m.store.Counts()
}

// lastHour is how the store has answered, by the minute.
func (m *meter) lastHour() []v1.LatencyMinute {
	now := time.Now()
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	var out []v1.LatencyMinute
	for _, p := range m.store.Past() {
		w := v1.LatencyMinute{From: now.Add(-p.Age).UTC().Truncate(time.Second), Operations: map[string]v1.OperationLatency{}}
		for op, c := range p.Ops {
			w.Operations[string(op)] = v1.OperationLatency{
				Count: c.Count, Failed: c.Failed, MeanMs: ms(c.Sum / time.Duration(c.Count)), MaxMs: ms(c.Max), //nolint:gosec // calls of a minute
			}
		}
		out = append(out, w)
	}
	return out
}

var (
	descOperations = prometheus.NewDesc("understudy_store_operation_duration_seconds",
		"How long operations on the store took, whatever came of them.", []string{"operation"}, nil)
	descErrors = prometheus.NewDesc("understudy_store_operation_errors_total",
		"Operations on the store that failed, by kind of error. conflict and absent are answers, not trouble.", []string{"operation", "error"}, nil)
	descRequests = prometheus.NewDesc("understudy_store_requests_total",
		"Requests sent to the store, by kind. Only of stores that are paid for by the request.", []string{"kind"}, nil)
)

// Describe implements prometheus.Collector.
func (m *meter) Describe(ch chan<- *prometheus.Desc) {
	ch <- descOperations
	ch <- descErrors
	ch <- descRequests
}

// Collect implements prometheus.Collector. Errors that did not happen are there
// with 0, so that the first one shows as an increase.
func (m *meter) Collect(ch chan<- prometheus.Metric) {
	for _, op := range metered.Ops() {
		f := m.store.Figures(op)
		classes := map[float64]uint64{}
		for i, bound := range metered.Bounds() {
			classes[bound.Seconds()] = f.Within[i]
		}
		ch <- prometheus.MustNewConstHistogram(descOperations, f.Count, f.Sum.Seconds(), classes, string(op))
		for _, kind := range metered.ErrorKinds() {
			ch <- prometheus.MustNewConstMetric(descErrors, prometheus.CounterValue, float64(f.Errors[kind]), string(op), kind)
		}
	}
	for kind, n := range m.sent.Counts() {
		ch <- prometheus.MustNewConstMetric(descRequests, prometheus.CounterValue, float64(n), kind)
	}
}
