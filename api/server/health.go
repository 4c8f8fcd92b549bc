package server

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/understudy-ha/understudy/api/v1"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// question is one health path: it has one name or several, and one answer.
type question struct {
	names []string // the first is the name, the others aliases; each also under /v1/server/ha
	yes   func(p picture) bool
}

// questions are the health paths. Proxies and monitors ask them without a
// password, several times a second; the answer is 200 or 503 and never
// anything else, because some probes take a 3xx for healthy.
func questions() []question {
	return []question{
		{[]string{"/master", "/primary", "/read-write"}, picture.serving},
		{[]string{"/leader"}, picture.leading},
		{[]string{"/standby", "/replica"}, picture.standing},
		{[]string{"/hot-standby"}, func(p picture) bool { return p.loaded(lease.StateHotStandby) }},
		{[]string{"/hot-backup"}, func(p picture) bool { return p.loaded(lease.StateHotBackup) }},
		{[]string{"/read-only"}, func(p picture) bool {
			return p.serving() || p.loaded(lease.StateHotStandby) || p.loaded(lease.StateHotBackup)
		}},
		{[]string{"/service"}, picture.serviceOK},
		{[]string{"/livez"}, picture.alive},
		{[]string{"/readyz"}, func(p picture) bool { return p.serving() || p.standing() }},
		{[]string{"/startupz"}, picture.started},
		{[]string{"/store"}, func(p picture) bool { return p.alive() && p.storeOK() }},
		{[]string{"/electable", "/quorum"}, picture.spare},
	}
}

// loaded reports whether the node is in the given state, which implies that
// the persisted state is loaded. It stays true during a promotion.
func (p picture) loaded(want lease.State) bool {
	return p.state() == want && !p.Stopping && p.alive()
}

// serviceOK reports whether the managed service runs and is ready, whatever
// the role. Where Understudy manages none, it is the role that serves.
func (p picture) serviceOK() bool {
	switch p.Service.Phase {
	case "ready":
		return p.alive()
	case "none":
		return p.serving()
	}
	return false
}

// started reports whether the node has ever left INITIALIZING. It does not
// fall back when the service is restarted.
func (p picture) started() bool {
	if p.LoopAt.IsZero() {
		return false
	}
	if p.state() != lease.StateInitializing {
		return true
	}
	for _, t := range p.History {
		if t.State != lease.StateInitializing {
			return true
		}
	}
	return false
}

// spare reports whether a node other than this one could take over now, so
// that this one may be stopped.
func (p picture) spare() bool {
	for id, n := range p.Nodes {
		if p.electable(id, n) {
			return true
		}
	}
	return false
}

// ask answers a health path by the status line. The body is the state, for
// people and for probes that match on it.
func (q question) ask(_ *server, r *request) response {
	code := http.StatusServiceUnavailable
	if q.yes(r.picture) {
		code = http.StatusOK
	}
	resp := text(code, string(r.state())+"\n")
	resp.probe = true
	return resp
}

// haHeaders adds what every health answer carries. The names are stored as
// they are written in the documentation, not in Go's canonical form, because
// people grep for them.
func haHeaders(h http.Header, p picture) {
	v := []string{
		string(p.state()), strconv.FormatUint(uint64(p.Term), 10), string(p.Node), p.masterURI(),
		strconv.FormatInt(p.LeaseRemaining(p.now).Milliseconds(), 10),
	}
	for i, name := range haNames {
		h[name] = v[i : i+1 : i+1]
	}
	if w := warningCodes(p.WarningsAt(p.now)); w != "" {
		h[v1.HeaderWarning] = []string{w}
	}
}

var haNames = [...]string{v1.HeaderState, v1.HeaderTerm, v1.HeaderNode, v1.HeaderMaster, v1.HeaderLeaseRemaining}

// warningCodes keeps the leading reason code of each warning (HEARTBEAT_LATE)
// and drops the sentence: health paths are open to everybody.
func warningCodes(warnings []string) string {
	var codes []string
	for _, w := range warnings {
		n := 0
		for n < len(w) && (w[n] >= 'A' && w[n] <= 'Z' || w[n] == '_') {
			n++
		}
		if n > 2 {
			codes = append(codes, w[:n])
		}
	}
	return strings.Join(codes, ",")
}

// condition is what /v1/server/ha/health distinguishes.
type condition struct {
	name string
	code int // unless the query says otherwise
}

var (
	condMaster       = condition{"master", http.StatusOK}
	condPromoting    = condition{"promoting", http.StatusAccepted}
	condStandby      = condition{"standby", http.StatusTooManyRequests}
	condHotStandby   = condition{"hotstandby", 473}
	condHotBackup    = condition{"hotbackup", 472}
	condAlone        = condition{"alone", 474} // a standby without a live master or without the store
	condPaused       = condition{"paused", 475}
	condInitializing = condition{"initializing", http.StatusNotImplemented}
	condFailed       = condition{"failed", http.StatusServiceUnavailable}
)

func conditions() []condition {
	return []condition{
		condMaster, condPromoting, condStandby, condHotStandby, condHotBackup,
		condAlone, condPaused, condInitializing, condFailed,
	}
}

// condition is the first that applies. A master that serves is a master even
// while the plane is paused; whatever ends a role is 503 before anything else.
func (p picture) condition() condition {
	st := p.state()
	switch {
	case p.Stopping || !p.alive() && !p.serving():
		return condFailed
	case p.serving():
		return condMaster
	case st == lease.StateFailed || st == lease.StateTerminated:
		return condFailed
	case st == lease.StateInitializing:
		return condInitializing
	case p.Reign != nil && p.Reign.Ending:
		return condFailed // draining or stopping
	case p.leading():
		return condPromoting
	case p.Paused || p.Why == "MAINTENANCE":
		return condPaused
	case st == lease.StateHotBackup:
		return condHotBackup
	case p.master() == "" || !p.storeOK():
		return condAlone
	case st == lease.StateHotStandby:
		return condHotStandby
	}
	return condStandby
}

// haHealth is GET /v1/server/ha/health: one rich path in the style of Vault's.
// Each code but 503 can be replaced: standbycode=200, or standbyok=true for
// 200.
func haHealth(_ *server, r *request) response {
	q := r.URL.Query()
	codes := make(map[string]int, len(conditions()))
	for _, c := range conditions() {
		codes[c.name] = c.code
		if c == condFailed {
			continue
		}
		if v := q.Get(c.name + "ok"); v != "" {
			ok, err := strconv.ParseBool(v)
			if err != nil {
				return failure(http.StatusBadRequest, c.name+"ok must be true or false", "")
			}
			if ok {
				codes[c.name] = http.StatusOK
			}
		}
		code, resp := codeParam(q.Get(c.name+"code"), c.name+"code")
		if resp != nil {
			return *resp
		}
		if code != 0 {
			codes[c.name] = code
		}
	}
	c := r.condition()
	return asJSON(codes[c.name], v1.HealthReport{
		State: v1.State(r.state()), Condition: c.name,
		NodeID: string(r.Node), MasterID: orNull(string(r.master())),
		Term:             uint64(r.Term),
		LeaseRemainingMs: r.LeaseRemaining(r.now).Truncate(time.Millisecond).Milliseconds(),
		Why:              orNull(r.Why), Detail: orNull(r.Detail),
	})
}

// codeParam reads a status code from a query parameter: 0 when it is not
// given. 1xx would end no request, and probes take 3xx for healthy.
func codeParam(v, name string) (int, *response) {
	if v == "" {
		return 0, nil
	}
	code, err := strconv.Atoi(v)
	if err != nil || code < 200 || code > 599 || code/100 == 3 || code == http.StatusNoContent {
		r := failure(http.StatusBadRequest, name+" must be a status code: 200 to 299 (not 204) or 400 to 599", "")
		return 0, &r
	}
	return code, nil
}
