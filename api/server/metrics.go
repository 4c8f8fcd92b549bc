package server

import (
	"bytes"
	"net/http"
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/common/expfmt"
	"go.uber.org/zap"

	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// newRegistry makes the metrics of /metrics: those of the node, of this
// process, and what else there is to collect. The registry is the server's own,
// so that two nodes in one process do not share their figures.
func newRegistry(node Node, opt Options) *prometheus.Registry {
	reg := prometheus.NewRegistry()
	reg.MustRegister(nodeCollector{node: node, build: opt.Build},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	reg.MustRegister(opt.Collectors...)
	return reg
}

// metricsFormat is the text format that every Prometheus understands.
var metricsFormat = expfmt.NewFormat(expfmt.TypeTextPlain)

// getMetricsText is GET /metrics. What one collector can not tell is left out
// and logged; the rest is still worth having.
func getMetricsText(s *server, _ *request) response {
	families, err := s.registry.Gather()
	if err != nil {
		s.opt.Logger.Warn("some metrics could not be collected", zap.Error(err))
	}
	var b bytes.Buffer
	enc := expfmt.NewEncoder(&b, metricsFormat)
	for _, f := range families {
		if err := enc.Encode(f); err != nil {
			return failure(http.StatusServiceUnavailable, "the metrics could not be written", err.Error())
		}
	}
	if len(families) == 0 {
		return failure(http.StatusServiceUnavailable, "there are no metrics", "see the node's log")
	}
	return response{status: http.StatusOK, contentType: string(metricsFormat), body: b.Bytes()}
}

// nodeCollector turns the node's snapshot into metrics, at the moment it is
// asked: what is true of a lease is not true a moment later.
type nodeCollector struct {
	node  Node
	build Build
}

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("understudy_"+name, help, labels, nil)
}

var (
	descBuild        = describe("build_info", "Always 1; the labels say which program runs.", "version", "revision", "goversion")
	descNode         = describe("node_info", "Always 1; the labels say which node of which plane this is, and on what kind of store.", "plane", "node", "store")
	descState        = describe("state", "1 for the state this node is in, 0 for the others. MASTER by the truth rule.", "state")
	descMaster       = describe("master", "1 while this node is MASTER: term held, own clock before the end of the lease, service ready, not draining.")
	descLeader       = describe("leader", "1 while this node holds the term with its lease ahead; the service may be starting.")
	descTerm         = describe("term", "Highest term this node has seen.")
	descPaused       = describe("paused", "1 while automatic moves are off, plane-wide.")
	descRemaining    = describe("lease_remaining_seconds", "How long this node may go on serving without another renewal; 0 unless it holds the term.")
	descTimeout      = describe("heartbeat_timeout_seconds", "This node's heartbeatTimeout, the length of the lease.")
	descInterval     = describe("heartbeat_interval_seconds", "This node's heartbeatInterval.")
	descChanges      = describe("state_changes_total", "Changes of this node's state, by the state it came to and the reason.", "state", "reason")
	descBeats        = describe("heartbeats_total", "Attempts to write the register: confirmed, undecided (settled by reading the register) or unsent (their time was over).", "outcome")
	descLate         = describe("heartbeats_late_total", "Renewals that were not confirmed within half the time to the stop of the service (HEARTBEAT_LATE).")
	descRecords      = describe("node_records_total", "Records of this node: written, or failed to be.", "outcome")
	descBackups      = describe("state_backups_total", "Backups of the persisted state by this node: made, or failed to be.", "outcome")
	descGuard        = describe("guard_acknowledgement_age_seconds", "Age of the renewal that the deadline rests on which the guard acknowledged last. Only while the term is held.")
	descRestarts     = describe("service_restarts_total", "Restarts of the managed service on this node.")
	descFailures     = describe("service_failures", "Exits and failed checks of the managed service on this node since the daemon began or an operator reset them.")
	descServiceReady = describe("service_ready", "1 while the managed service runs and is ready; without one, while this node is MASTER.")
	descStoreUp      = describe("store_up", "1 while the last read and the last write of the store succeeded and are recent.")
	descNodes        = describe("nodes", "Nodes of the plane by state, as this node sees them, itself included.", "state")
	descElectable    = describe("electable_nodes", "Other nodes that could take over now. 0 on the master means that its end is an outage.")
	descVisible      = describe("master_visible", "1 while this node is MASTER or sees another node that is.")
)

// Describe implements prometheus.Collector.
func (nodeCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descBuild, descNode, descState, descMaster, descLeader, descTerm, descPaused, descRemaining, descTimeout,
		descInterval, descChanges, descBeats, descLate, descRecords, descBackups, descGuard, descRestarts, descFailures, descServiceReady,
		descStoreUp, descNodes, descElectable, descVisible,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c nodeCollector) Collect(ch chan<- prometheus.Metric) {
	p := look(c.node)
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(descBuild, 1, p.Version, c.build.SHA1, runtime.Version())
	gauge(descNode, 1, string(p.Plane), string(p.Node), p.Store.Kind)
	for _, st := range lease.States() {
		gauge(descState, one(p.state() == st), string(st))
	}
	gauge(descMaster, one(p.serving()))
	gauge(descLeader, one(p.leading()))
	gauge(descVisible, one(p.master() != ""))
	gauge(descTerm, float64(p.Term))
	gauge(descPaused, one(p.Paused))
	gauge(descRemaining, p.LeaseRemaining(p.now).Seconds())
	gauge(descTimeout, p.Timeout.Seconds())
	gauge(descInterval, p.Heartbeat.Seconds())
	if p.leading() {
		gauge(descGuard, p.now.Longest(p.Reign.T0).Seconds())
	}
	gauge(descServiceReady, one(p.serviceOK()))
	gauge(descFailures, float64(p.Service.Failures))
	gauge(descStoreUp, one(p.alive() && p.storeOK()))
	c.collectNodes(p, gauge)
	collectCounts(p.Counts, ch)
}

// collectNodes tells of the plane, as /v1/server/ha/states does.
func (c nodeCollector) collectNodes(p picture, gauge func(*prometheus.Desc, float64, ...string)) {
	in := map[lease.State]int{p.state(): 1}
	electable := 0
	for id, n := range p.Nodes {
		if id == p.Node || n.Removed {
			continue
		}
		st, _ := p.stateOf(id, n)
		in[st]++
		if p.electable(id, n) {
			electable++
		}
	}
	for _, st := range lease.States() {
		gauge(descNodes, float64(in[st]), string(st))
	}
	gauge(descElectable, float64(electable))
}

// collectCounts passes on what the node has counted.
func collectCounts(n ha.Counts, ch chan<- prometheus.Metric) {
	count := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	for c, k := range n.Changes {
		count(descChanges, k, string(c.To), c.Code)
	}
	count(descBeats, n.Beats, "confirmed")
	count(descBeats, n.Undecided, "undecided")
	count(descBeats, n.Unsent, "unsent")
	count(descLate, n.Late)
	count(descRecords, n.Records, "written")
	count(descRecords, n.RecordsFailed, "failed")
	count(descBackups, n.Backups, "made")
	count(descBackups, n.BackupsFailed, "failed")
	count(descRestarts, n.Restarts)
}

func one(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}
