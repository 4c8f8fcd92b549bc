package server

import (
	"net/http"
	"slices"
)

// role says who may use a route.
type role int

const (
	// open: anybody, without a password.
	open role = iota
	// viewer: any known user; sees and changes nothing.
	viewer
	// operator: may change the plane. Every known user is one.
	operator
)

// route is one line of the table.
type route struct {
	methods []string
	path    string
	role    role
	// anyNode: a write that a node takes also when it is not MASTER. GET, HEAD
	// and OPTIONS need no exemption.
	anyNode bool
	// slow: the answer comes when the change is complete, which may take
	// longer than the server's timeouts.
	slow bool
	// health: carries the X-HA- headers.
	health bool
	handle func(s *server, r *request) response
}

// routes is the whole REST interface. api/openapi.yaml describes the same
// routes; a test holds one against the other.
func routes() []route {
	var table []route
	for _, q := range questions() {
		for _, name := range q.names {
			for _, path := range []string{name, "/v1/server/ha" + name} {
				table = append(table, route{methods: probe, path: path, role: open, health: true, handle: q.ask})
			}
		}
	}
	return append(table, []route{
		{methods: probe, path: "/v1/server/ha/health", role: open, health: true, handle: haHealth},
		{methods: probe, path: "/metrics", role: open, health: true, handle: getMetricsText},
		{methods: post, path: "/v1/server/ha/nudge", role: open, anyNode: true, handle: nudge},

		{methods: get, path: "/v1/server/ha/state", role: viewer, health: true, handle: getState},
		{methods: post, path: "/v1/server/ha/state", role: operator, slow: true, handle: setState},
		{methods: get, path: "/v1/server/ha/states", role: viewer, handle: getStates},
		{methods: post, path: "/v1/server/ha/states/clear", role: operator, handle: clearStates},
		{methods: post, path: "/v1/server/ha/states/clear/node", role: operator, handle: clearNode},
		{methods: get, path: "/v1/server/ha/priority", role: viewer, handle: getPriority},
		{methods: post, path: "/v1/server/ha/priority", role: operator, handle: setPriority},
		{methods: get, path: "/v1/server/ha/metrics", role: viewer, handle: getMetrics},
		{methods: get, path: "/v1/server/ha/history", role: viewer, handle: getHistory},

		{methods: get, path: "/v1/server/up", role: viewer, handle: getUp},
		{methods: get, path: "/v1/server/healthy", role: viewer, handle: getHealthy},
		{methods: get, path: "/v1/server/shuttingDown", role: viewer, handle: getShuttingDown},
		{methods: get, path: "/v1/server/up/extended", role: viewer, handle: getUpExtended},
		{methods: get, path: "/v1/server/version", role: viewer, handle: getVersion},
		{methods: get, path: "/v1/server/planeid", role: viewer, handle: getPlaneID},
		{methods: get, path: "/v1/server/user", role: viewer, handle: getUser},
		{methods: post, path: "/v1/server/shutdown", role: operator, anyNode: true, handle: shutdown},

		{methods: get, path: "/v1/server/service", role: viewer, handle: getService},
		{methods: get, path: "/v1/server/service/logs", role: operator, handle: getServiceLogs},
		{methods: post, path: "/v1/server/service/start", role: operator, anyNode: true, slow: true, handle: startService},
		{methods: post, path: "/v1/server/service/stop", role: operator, anyNode: true, slow: true, handle: stopService},
		{methods: post, path: "/v1/server/service/restart", role: operator, anyNode: true, slow: true, handle: restartService},
		{methods: post, path: "/v1/server/service/reset-failures", role: operator, anyNode: true, slow: true, handle: resetFailures},

		{methods: get, path: "/v1/access", role: viewer, handle: getAccess},
		{methods: get, path: "/v1/openapi.yaml", role: open, handle: getOpenAPI},
	}...)
}

// What a route answers to. HEAD is answered like GET, without the body.
var (
	get   = []string{http.MethodGet, http.MethodHead}
	post  = []string{http.MethodPost}
	probe = []string{http.MethodGet, http.MethodHead, http.MethodOptions}
)

// isWrite reports whether the method may change something.
func isWrite(method string) bool {
	return !slices.Contains(probe, method)
}
