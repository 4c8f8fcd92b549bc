package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/gorilla/mux"
	"go.uber.org/zap"

	"github.com/understudy-ha/understudy/api"
	"github.com/understudy-ha/understudy/api/v1"
	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/lease"
)

func getState(_ *server, r *request) response {
	st := r.state()
	name := "standbycode" // whatever is not MASTER: a proxy that asked for 503 must not send traffic to a FAILED node
	if st == lease.StateMaster {
		name = "mastercode"
	}
	code, refused := codeParam(r.URL.Query().Get(name), name)
	if refused != nil {
		return *refused
	}
	if code == 0 {
		code = http.StatusOK
	}
	if wantsText(r.Request) {
		return text(code, string(st))
	}
	return asJSON(code, v1.State(st))
}

// wantsText reports whether the client asks for plain text rather than JSON.
func wantsText(r *http.Request) bool {
	accept := r.Header.Get("Accept")
	return strings.Contains(accept, "text/plain") && !strings.Contains(accept, typeJSON)
}

func setState(s *server, r *request) response {
	mode, err := lease.ParseMode(r.Form.Get("mode"))
	if err != nil {
		return failure(http.StatusBadRequest, err.Error(), "")
	}
	force, refused := boolParam(r, "force")
	if refused != nil {
		return *refused
	}
	prev, err := s.node.SetMode(r.Context(), mode, force)
	if err != nil {
		return s.refusal(r, "change the mode to "+string(mode), err)
	}
	if wantsText(r.Request) {
		return text(http.StatusOK, string(prev))
	}
	return asJSON(http.StatusOK, v1.State(prev))
}

func getStates(s *server, r *request) response {
	return asJSON(http.StatusOK, r.states(s.opt.Wall()))
}

func clearStates(s *server, r *request) response {
	return forget(s, r, "")
}

func clearNode(s *server, r *request) response {
	id := r.Form.Get("nodeId")
	if id == "" {
		return forget(s, r, "") // as Brooklyn: no id means all
	}
	node, err := lease.ParseNodeID(id)
	if err != nil {
		return response{status: http.StatusOK} // nobody's id, so there is nothing to forget
	}
	return forget(s, r, node)
}

func forget(s *server, r *request, id lease.NodeID) response {
	if err := s.node.Forget(r.Context(), id); err != nil {
		return s.refusal(r, "forget nodes", err)
	}
	return response{status: http.StatusOK}
}

func getPriority(_ *server, r *request) response {
	return asJSON(http.StatusOK, r.Priority)
}

func setPriority(s *server, r *request) response {
	n, err := strconv.ParseInt(strings.TrimSpace(r.Form.Get("priority")), 10, 32)
	if err != nil {
		return failure(http.StatusBadRequest, "priority must be a whole number from -2147483648 to 2147483647", "")
	}
	prev, err := s.node.SetPriority(r.Context(), int(n))
	if err != nil {
		return s.refusal(r, "set the priority", err)
	}
	return asJSON(http.StatusOK, prev)
}

// maxActor bounds what is recorded of who said something, in bytes.
const maxActor = 200

func confirmFenced(s *server, r *request) response {
	id, err := lease.ParseNodeID(r.Form.Get("node"))
	if err != nil {
		return failure(http.StatusBadRequest, "node must be the id of the node whose machine is powered off", err.Error())
	}
	actor := r.user
	if more := strings.TrimSpace(r.Form.Get("actor")); more != "" {
		actor += " (" + more[:min(len(more), maxActor)] + ")"
	}
	if err := s.node.ConfirmOff(r.Context(), id, actor); err != nil {
		return s.refusal(r, "take that "+string(id)+" is powered off", err)
	}
	return noContent()
}

func getMetrics(s *server, r *request) response {
	m := r.metrics(s.opt.Wall())
	m.Persist.StoreRequests = map[string]uint64{}
	if s.opt.StoreRequests != nil {
		m.Persist.StoreRequests = s.opt.StoreRequests()
	}
	return asJSON(http.StatusOK, m)
}

func getLatency(s *server, _ *request) response {
	out := v1.StoreLatency{Minutes: []v1.LatencyMinute{}}
	if s.opt.StoreLatency != nil {
		out.Minutes = append(out.Minutes, s.opt.StoreLatency()...)
	}
	return asJSON(http.StatusOK, out)
}

func getHistory(_ *server, r *request) response {
	since, err := uintParam(r, "since", 0, uint64(lease.MaxTerm))
	if err != nil {
		return failure(http.StatusBadRequest, "since must be a term", err.Error())
	}
	limit, err := uintParam(r, "limit", 200, 200)
	if err != nil {
		return failure(http.StatusBadRequest, "limit must be a number from 0 to 200", err.Error())
	}
	return asJSON(http.StatusOK, r.reigns(lease.Term(since), int(limit)))
}

// nudgesPerSecond is how many nudges a node takes: each costs one read of the
// register, and anybody may send them. Each node that proves to be one of the
// plane has as many of its own, so that nobody can use them up for it.
const nudgesPerSecond = 5

func nudge(s *server, r *request) response {
	var allowed bool
	if node := s.peerOf(r.Request); node != "" {
		allowed = s.peers.allow(node, r.now, nudgesPerSecond, nudgesPerSecond)
	} else {
		allowed = s.nudges.allow(r.now, nudgesPerSecond, nudgesPerSecond)
	}
	if !allowed {
		return failure(http.StatusTooManyRequests, "too many nudges: the register is read soon anyhow", "").
			with("Retry-After", "1")
	}
	s.node.Nudge()
	return noContent()
}

func getTerm(_ *server, r *request) response {
	return asJSON(http.StatusOK, v1.Term{Term: uint64(r.Term), HolderID: orNull(string(r.leader()))})
}

// checkTerm is for a service, or the storage behind it, that wants to know
// whether a fencing token is the present master's: 200 only from the master
// itself, 412 for a token that is surely over, 503 when this node can not tell.
func checkTerm(_ *server, r *request) response {
	token, err := strconv.ParseUint(r.URL.Query().Get("token"), 10, 64)
	switch {
	case err != nil || token > uint64(lease.MaxTerm):
		return failure(http.StatusBadRequest, "token must be a term: a whole number from 0 to "+strconv.FormatUint(uint64(lease.MaxTerm), 10), "")
	case token < uint64(r.Term):
		return failure(http.StatusPreconditionFailed, fmt.Sprintf("token %d is over: the highest term seen is %d", token, r.Term), "")
	case r.serving() && token == uint64(r.Term):
		return asJSON(http.StatusOK, v1.Term{Term: token, HolderID: orNull(string(r.Node))})
	}
	return failure(http.StatusServiceUnavailable, "unknown: this node is not the MASTER of that term", "ask the master: see "+v1.HeaderMaster)
}

func getUp(_ *server, r *request) response           { return asJSON(http.StatusOK, r.up()) }
func getHealthy(_ *server, r *request) response      { return asJSON(http.StatusOK, r.healthy()) }
func getShuttingDown(_ *server, r *request) response { return asJSON(http.StatusOK, r.Stopping) }

// sensitiveTokens are the names that mark a value as secret, as Brooklyn
// lists them by default.
var sensitiveTokens = []string{
	"password", "passwd", "passphrase", "secret", "private", "access.cert", "access.key", "credential",
}

// Sensitive reports whether a name marks its value as secret.
func Sensitive(name string) bool {
	name = strings.ToLower(name)
	return slices.ContainsFunc(sensitiveTokens, func(t string) bool { return strings.Contains(name, t) })
}

func getUpExtended(s *server, r *request) response {
	return asJSON(http.StatusOK, v1.UpExtended{
		Up: r.up(), ShuttingDown: r.Stopping, Healthy: r.healthy(),
		HA:        r.states(s.opt.Wall()),
		OSGiUp:    true,
		Sensitive: v1.SensitiveFields{Tokens: sensitiveTokens},
	})
}

func getVersion(s *server, r *request) response {
	return asJSON(http.StatusOK, v1.Version{
		Version:   r.Version,
		BuildSHA1: orNull(s.opt.Build.SHA1), BuildBranch: orNull(s.opt.Build.Branch),
		Features: append([]string{}, s.opt.Build.Features...),
	})
}

// getConfig answers with one value of the configuration; 204 when it has none.
// A key that does not exist has none either: Brooklyn's clients ask for any.
func getConfig(s *server, r *request) response {
	if s.opt.Config == nil {
		return noContent()
	}
	v, ok := s.opt.Config(mux.Vars(r.Request)["key"])
	if !ok {
		return noContent()
	}
	return asJSON(http.StatusOK, v)
}

// reload has the configuration read again. What changed and can not be reloaded
// is named in a header, since 204 has no body.
func reload(s *server, r *request) response {
	if s.opt.Reload == nil {
		return failure(http.StatusUnprocessableEntity, "this node has nothing to reload", "")
	}
	restart, err := s.opt.Reload(r.Context())
	if err != nil {
		return failure(http.StatusUnprocessableEntity, "nothing was reloaded: the configuration is not valid", err.Error())
	}
	resp := noContent()
	if len(restart) > 0 {
		resp = resp.with(v1.HeaderRestartNeeded, strings.Join(restart, ","))
	}
	return resp
}

// logout ends no session, for there are none; a browser that is asked for its
// password again forgets the one it has. Brooklyn's own clients do this last.
func logout(_ *server, r *request) response {
	if strings.HasSuffix(r.URL.Path, "/unauthorize") {
		return *unauthorized()
	}
	return noContent()
}

// getPlaneID answers with the bare id; empty before the register was read.
func getPlaneID(_ *server, r *request) response {
	return text(http.StatusOK, string(r.Plane))
}

func getUser(_ *server, r *request) response {
	if r.user == "" {
		return noContent()
	}
	return asJSON(http.StatusOK, r.user)
}

// shutdown starts an orderly stop. Brooklyn's timeouts (shutdownTimeout,
// requestTimeout, delayForHttpReturn) are accepted and not needed: the answer
// is sent before the process ends in any case.
func shutdown(s *server, r *request) response {
	stopApps, refused := boolParam(r, "stopAppsFirst")
	if refused != nil {
		return *refused
	}
	if stopApps && !r.serving() {
		return s.notMaster(r)
	}
	who := r.user
	if who == "" {
		who = "anonymous"
	}
	s.node.Shutdown("asked for by " + who)
	return noContent()
}

func getAccess(*server, *request) response {
	return asJSON(http.StatusOK, v1.Access{Links: map[string]string{}})
}

func getOpenAPI(*server, *request) response {
	return response{status: http.StatusOK, contentType: typeYAML, body: api.OpenAPI}
}

// refusal turns an error of the node into an answer.
func (s *server) refusal(r *request, what string, err error) response {
	var pre *ha.PreconditionError
	switch {
	case errors.As(err, &pre):
		return failure(http.StatusPreconditionFailed, "can not "+what+": "+pre.Error(), strings.Join(pre.Reasons, "\n"))
	case errors.Is(err, ha.ErrClosed):
		return failure(http.StatusServiceUnavailable, "can not "+what+": "+err.Error(), "")
	case errors.Is(err, context.DeadlineExceeded):
		return failure(http.StatusGatewayTimeout, "still under way: "+what, "GET /v1/server/ha/states shows what comes of it")
	case errors.Is(err, context.Canceled):
		return failure(499, "the client went away", "") // nobody reads this
	}
	s.opt.Logger.Warn("a request failed", zap.String("path", r.URL.Path), zap.Error(err))
	return failure(http.StatusInternalServerError, "can not "+what+": "+err.Error(), "")
}

// boolParam reads an optional true or false from form or query.
func boolParam(r *request, name string) (bool, *response) {
	v := strings.ToLower(strings.TrimSpace(r.Form.Get(name)))
	if v != "" && !slices.Contains([]string{"true", "false"}, v) {
		resp := failure(http.StatusBadRequest, name+" must be true or false", "")
		return false, &resp
	}
	return v == "true", nil
}

// uintParam reads an optional number from the query, at most limit.
func uintParam(r *request, name string, otherwise, limit uint64) (uint64, error) {
	v := r.URL.Query().Get(name)
	if v == "" {
		return otherwise, nil
	}
	n, err := strconv.ParseUint(v, 10, 64)
	if err != nil {
		return 0, err
	}
	return min(n, limit), nil
}
