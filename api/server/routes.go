package server

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/understudy-ha/understudy/pkg/journal"
)

// route is one line of the table.
type route struct {
	methods []string
	path    string
	role    Role
	// anyNode: a write that a node takes also when it is not MASTER. GET, HEAD
	// and OPTIONS need no exemption.
	anyNode bool
	// slow: the answer comes when the change is complete, which may take
	// longer than the server's timeouts.
	slow bool
	// health: carries the X-HA- headers. Open health paths can be closed by
	// Gate.CloseHealth.
	health bool
	// raw: the handler reads the body of a write itself. Otherwise that must be
	// a form, or nothing; anything else is 415.
	raw bool
	// limit is how long the body may be, in bytes; 0 is maxBody, below 0 there
	// is no limit.
	limit int64
	// deep: the last {name} stands for the rest of the path, slashes and all.
	deep bool
	// silent: not worth a line of the audit log, although it is a write.
	silent bool
	// hot: a read that only a node with the persisted state loaded can answer.
	hot    bool
	handle func(s *server, r *request) response
}

// routes is the whole REST interface. The router, who may do what, what may be
// sent, the tests of all that and docs/rest.md follow from this table.
// api/openapi.yaml describes the same routes; a test holds one against the
// other.
func routes() []route {
	var table []route
	for _, q := range questions() {
		for _, name := range q.names {
			for _, path := range []string{name, "/v1/server/ha" + name} {
				table = append(table, route{methods: probe, path: path, role: Open, health: true, handle: q.ask})
			}
		}
	}
	return append(table, []route{
		{methods: probe, path: "/v1/server/ha/health", role: Open, health: true, handle: haHealth},
		{methods: probe, path: "/metrics", role: Open, health: true, handle: getMetricsText},
		{methods: post, path: "/v1/server/ha/nudge", role: Open, anyNode: true, silent: true, handle: nudge},

		{methods: get, path: "/v1/server/ha/state", role: Viewer, health: true, handle: getState},
		{methods: post, path: "/v1/server/ha/state", role: Operator, slow: true, handle: setState},
		{methods: get, path: "/v1/server/ha/states", role: Viewer, handle: getStates},
		{methods: post, path: "/v1/server/ha/states/clear", role: Operator, handle: clearStates},
		{methods: post, path: "/v1/server/ha/states/clear/node", role: Operator, handle: clearNode},
		{methods: post, path: "/v1/server/ha/fence/confirm", role: Operator, anyNode: true, handle: confirmFenced},
		{methods: get, path: "/v1/server/ha/priority", role: Viewer, handle: getPriority},
		{methods: post, path: "/v1/server/ha/priority", role: Operator, handle: setPriority},
		{methods: get, path: "/v1/server/ha/metrics", role: Viewer, handle: getMetrics},
		{methods: get, path: "/v1/server/ha/latency", role: Viewer, handle: getLatency},
		{methods: get, path: "/v1/server/ha/history", role: Viewer, handle: getHistory},
		{methods: get, path: "/v1/server/ha/events", role: Viewer, handle: getEvents},
		{methods: post, path: "/v1/server/ha/switchover", role: Operator, anyNode: true, slow: true, raw: true, handle: postSwitchover},
		{methods: get, path: "/v1/server/ha/switchover", role: Viewer, handle: getSwitchover},
		{methods: del, path: "/v1/server/ha/switchover", role: Operator, anyNode: true, handle: deleteSwitchover},
		{methods: post, path: "/v1/server/ha/failover", role: Operator, anyNode: true, slow: true, raw: true, handle: postFailover},
		{methods: post, path: "/v1/server/ha/step-down", role: Operator, anyNode: true, slow: true, raw: true, handle: postStepDown},
		{methods: post, path: "/v1/server/ha/pause", role: Operator, anyNode: true, slow: true, raw: true, handle: postPause},
		{methods: post, path: "/v1/server/ha/resume", role: Operator, anyNode: true, slow: true, raw: true, handle: postResume},
		{methods: post, path: "/v1/server/ha/ack", role: Operator, anyNode: true, slow: true, raw: true, handle: postAck},
		{methods: put, path: "/v1/server/ha/nodes/{id}/maintenance", role: Operator, anyNode: true, slow: true, raw: true, handle: putMaintenance},
		{methods: del, path: "/v1/server/ha/nodes/{id}/maintenance", role: Operator, anyNode: true, handle: deleteMaintenance},
		{methods: get, path: "/v1/server/ha/operations/{id}", role: Viewer, handle: getOperation},
		{methods: get, path: "/v1/server/ha/term", role: Viewer, health: true, handle: getTerm},
		{methods: get, path: "/v1/server/ha/term/check", role: Viewer, health: true, handle: checkTerm},

		{methods: get, path: "/v1/server/up", role: Viewer, handle: getUp},
		{methods: get, path: "/v1/server/healthy", role: Viewer, handle: getHealthy},
		{methods: get, path: "/v1/server/shuttingDown", role: Viewer, handle: getShuttingDown},
		{methods: get, path: "/v1/server/up/extended", role: Viewer, handle: getUpExtended},
		{methods: get, path: "/v1/server/version", role: Viewer, handle: getVersion},
		{methods: get, path: "/v1/server/planeid", role: Viewer, handle: getPlaneID},
		{methods: get, path: "/v1/server/user", role: Viewer, handle: getUser},
		{methods: get, path: "/v1/server/config/{key}", role: Operator, handle: getConfig},
		{methods: post, path: "/v1/server/properties/reload", role: Admin, anyNode: true, handle: reload},
		{methods: post, path: "/v1/server/shutdown", role: Admin, anyNode: true, handle: shutdown},

		{methods: get, path: "/v1/server/service", role: Viewer, handle: getService},
		{methods: get, path: "/v1/server/service/logs", role: Operator, handle: getServiceLogs},
		{methods: post, path: "/v1/server/service/start", role: Operator, anyNode: true, slow: true, handle: startService},
		{methods: post, path: "/v1/server/service/stop", role: Operator, anyNode: true, slow: true, handle: stopService},
		{methods: post, path: "/v1/server/service/restart", role: Operator, anyNode: true, slow: true, handle: restartService},
		{methods: post, path: "/v1/server/service/reset-failures", role: Operator, anyNode: true, slow: true, handle: resetFailures},

		{methods: get, path: "/v1/state", role: Operator, health: true, hot: true, handle: listState},
		{methods: get, path: "/v1/state/watch", role: Operator, health: true, hot: true, handle: watchState},
		{methods: get, path: "/v1/state/{key}", role: Operator, health: true, deep: true, hot: true, handle: getKey},
		{methods: []string{http.MethodPut}, path: "/v1/state/{key}", role: Operator, health: true, deep: true, slow: true, raw: true, silent: true, limit: journal.MaxValue, handle: putKey},
		{methods: []string{http.MethodDelete}, path: "/v1/state/{key}", role: Operator, health: true, deep: true, slow: true, silent: true, handle: deleteKey},

		{methods: get, path: "/v1/artifacts", role: Operator, hot: true, handle: listArtifacts},
		{methods: get, path: "/v1/artifacts/{name}", role: Operator, hot: true, handle: getArtifact},
		{methods: []string{http.MethodPut}, path: "/v1/artifacts/{name}", role: Operator, slow: true, raw: true, limit: -1, handle: putArtifact},
		{methods: []string{http.MethodDelete}, path: "/v1/artifacts/{name}", role: Operator, slow: true, handle: deleteArtifact},

		{methods: get, path: "/v1/server/ha/persist/export", role: Operator, slow: true, hot: true, handle: exportContent},
		{methods: post, path: "/v1/server/ha/persist/import", role: Operator, slow: true, raw: true, limit: -1, handle: importContent},

		{methods: get, path: "/v1/access", role: Viewer, handle: getAccess},
		{methods: post, path: "/v1/logout", role: Open, anyNode: true, silent: true, handle: logout},
		{methods: post, path: "/v1/logout/unauthorize", role: Open, anyNode: true, silent: true, handle: logout},
		{methods: post, path: "/v1/logout/{user}", role: Open, anyNode: true, silent: true, handle: logout},
		{methods: get, path: "/v1/openapi.yaml", role: Open, handle: getOpenAPI},
	}...)
}

// What a route answers to. HEAD is answered like GET, without the body.
var (
	get   = []string{http.MethodGet, http.MethodHead}
	post  = []string{http.MethodPost}
	put   = []string{http.MethodPut}
	del   = []string{http.MethodDelete}
	probe = []string{http.MethodGet, http.MethodHead, http.MethodOptions}
)

// isWrite reports whether the method may change something.
func isWrite(method string) bool {
	return !slices.Contains(probe, method)
}

// maxBody is the longest request body, in bytes, of routes that say nothing
// else.
const maxBody = 64 << 10

// forwarded reports whether a node may pass such a request on to the MASTER.
func (rt route) forwarded(method string) bool {
	if isWrite(method) {
		return !rt.anyNode && rt.role != Open
	}
	return rt.hot
}

func (rt route) maxBody() int64 {
	if rt.limit == 0 {
		return maxBody
	}
	return rt.limit
}

// slowLimit bounds how long a slow route may take to answer.
const slowLimit = 10 * time.Minute

// matches reports whether a path is one of the route's, whose {names} stand for
// one part each, or the last of a deep one for several.
func (rt route) matches(path string) bool {
	want := strings.Split(rt.path, "/")
	parts := -1
	if rt.deep {
		parts = len(want)
	}
	got := strings.SplitN(path, "/", parts)
	return slices.EqualFunc(want, got, func(w, g string) bool { return w == g || strings.HasPrefix(w, "{") && g != "" })
}

// pattern is the path as the router takes it.
func (rt route) pattern() string {
	if rt.deep {
		return strings.TrimSuffix(rt.path, "}") + ":.+}"
	}
	return rt.path
}
