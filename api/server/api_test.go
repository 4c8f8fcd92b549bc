package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/api/v1"
	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// The wire's words are the core's.
func TestWireWordsAreTheCores(t *testing.T) {
	states := map[lease.State]v1.State{
		lease.StateInitializing: v1.StateInitializing, lease.StateStandby: v1.StateStandby,
		lease.StateHotStandby: v1.StateHotStandby, lease.StateHotBackup: v1.StateHotBackup,
		lease.StateMaster: v1.StateMaster, lease.StateFailed: v1.StateFailed, lease.StateTerminated: v1.StateTerminated,
	}
	for l, w := range states {
		if string(l) != string(w) {
			t.Errorf("%s is %s on the wire", l, w)
		}
	}
	wire := []v1.Mode{v1.ModeAuto, v1.ModeMaster, v1.ModeStandby, v1.ModeHotStandby, v1.ModeHotBackup, v1.ModeDisabled}
	for i, m := range lease.Modes() {
		if string(m) != string(wire[i]) {
			t.Errorf("%s is %s on the wire", m, wire[i])
		}
	}
}

// The answers, byte for byte: Brooklyn's users parse them.
func TestGoldenAnswers(t *testing.T) {
	const (
		nother = `"nother02":{"nodeId":"nother02","nodeUri":"https://nother02:8443/","status":%q,"priority":0,` +
			`"localTimestamp":1777895999700,"remoteTimestamp":1777895999700,"version":"1.2.3","ageMs":300,"electable":%v,"why":null,"storeLatencyMs":4}`
		nquiet = `"nquiet04":{"nodeId":"nquiet04","nodeUri":"https://nquiet04:8443/","status":"FAILED","priority":0,` +
			`"localTimestamp":1777895400000,"remoteTimestamp":1777895400000,"version":"1.2.3","ageMs":600000,"electable":false,"why":"SILENT","storeLatencyMs":4}`
		nself = `"nself001":{"nodeId":"nself001","nodeUri":"https://nself001:8443/","status":%q,"priority":0,` +
			`"localTimestamp":1777895999800,"remoteTimestamp":1777895999800,"version":"1.2.3","ageMs":%d,"electable":%v,"why":null,"storeLatencyMs":3}`
		nthird = `"nthird03":{"nodeId":"nthird03","nodeUri":"https://nthird03:8443/","status":"STANDBY","priority":0,` +
			`"localTimestamp":1777895999600,"remoteTimestamp":1777895999600,"version":"1.2.3","ageMs":400,"electable":true,"why":null,"storeLatencyMs":4}`
	)
	plane := func(head, otherState string, otherElectable bool, ownState string, ownAge int, ownElectable bool) string {
		return `{"planeId":"plane123","ownId":"nself001",` + head + `,"paused":false,"nodes":{` +
			fmt.Sprintf(nother, otherState, otherElectable) + "," + nquiet + "," + fmt.Sprintf(nself, ownState, ownAge, ownElectable) + "," + nthird +
			`},"links":{}}`
	}
	standbyPlane := plane(`"masterId":"nother02","leaderId":"nother02","term":7`, "MASTER", false, "STANDBY", 200, true)
	ended := wall.Add(-time.Minute)
	reigned := with(status(lease.StateStandby), func(s *ha.Status) {
		s.Reigns = []ha.ReignRecord{
			{Term: 7, Node: other, Incarnation: "i2", From: ended, Reason: "silent", Phases: ha.Phases{Detected: 1, Claimed: 2, Started: 3, Ready: 4}},
			{Term: 6, Node: self, Incarnation: "i1", From: wall.Add(-time.Hour), To: &ended, Reason: "switchover", EndReason: "stepped down", Actor: "admin"},
		}
	})
	unborn := &ha.Status{Node: self, Standing: lease.StateInitializing}
	for _, c := range []struct {
		name, path string
		st         *ha.Status
		code       int
		ctype      string
		body       string
	}{
		{"state", "/v1/server/ha/state", mastering(), 200, typeJSON, `"MASTER"`},
		{"state promoting", "/v1/server/ha/state", holding(lease.StateStandby, false), 200, typeJSON, `"STANDBY"`},
		{"state by code", "/v1/server/ha/state?mastercode=200&standbycode=503", status(lease.StateStandby), 503, typeJSON, `"STANDBY"`},
		{"failed is no master", "/v1/server/ha/state?mastercode=200&standbycode=503", status(lease.StateFailed), 503, typeJSON, `"FAILED"`},
		{"master by code", "/v1/server/ha/state?mastercode=201&standbycode=503", mastering(), 201, typeJSON, `"MASTER"`},
		{"state by bad code", "/v1/server/ha/state?standbycode=301", status(lease.StateStandby), 400, typeJSON, `{"message":"standbycode must be a status code: 200 to 299 (not 204) or 400 to 599","error":400}`},
		{"priority", "/v1/server/ha/priority", with(mastering(), func(s *ha.Status) { s.Priority = -3 }), 200, typeJSON, `-3`},
		{"states", "/v1/server/ha/states", status(lease.StateStandby), 200, typeJSON, standbyPlane},
		{
			"states of the master", "/v1/server/ha/states", mastering(), 200, typeJSON,
			plane(`"masterId":"nself001","leaderId":"nself001","term":8`, "STANDBY", true, "MASTER", 0, false),
		},
		{
			"states promoting", "/v1/server/ha/states", holding(lease.StateHotStandby, false), 200, typeJSON,
			plane(`"masterId":null,"leaderId":"nself001","term":8`, "STANDBY", true, "HOT_STANDBY", 0, false),
		},
		{
			"states before anything is known", "/v1/server/ha/states", unborn, 200, typeJSON,
			`{"planeId":null,"ownId":"nself001","masterId":null,"leaderId":null,"term":0,"paused":false,"nodes":{"nself001":{"nodeId":"nself001","nodeUri":null,` +
				`"status":"INITIALIZING","priority":0,"localTimestamp":null,"remoteTimestamp":null,"version":null,"ageMs":null,"electable":false,"why":"LOOP_STUCK","storeLatencyMs":0}},"links":{}}`,
		},
		{
			"metrics", "/v1/server/ha/metrics", status(lease.StateStandby), 200, typeJSON,
			`{"state":"STANDBY","uptime":"1h0m0s","currentTimeUtc":1777896000000,"startTimeUtc":1777892400000,` +
				`"highAvailability":{"priority":0,"pollPeriod":200,"heartbeatTimeout":30000,"history":[` +
				`{"state":"STANDBY","timestamp":1777895940000,"term":7,"reason":"started"},{"state":"INITIALIZING","timestamp":1777892400000,"term":0,"reason":"started"}]},` +
				`"rebind":{},"persist":{"url":"/mnt/plane","kind":"posix","readAgeMs":100,"writeAgeMs":200,"latencyMs":3,"error":null,"verified":true,"storeRequests":{}}}`,
		},
		{
			"history", "/v1/server/ha/history", reigned, 200, typeJSON,
			`{"planeId":"plane123","reigns":[` +
				`{"term":7,"node":"nother02","incarnation":"i2","from":"2026-05-04T11:59:00Z","to":null,"reason":"silent","endReason":null,"actor":null,"phasesMs":{"detected":1,"claimed":2,"started":3,"ready":4}},` +
				`{"term":6,"node":"nself001","incarnation":"i1","from":"2026-05-04T11:00:00Z","to":"2026-05-04T11:59:00Z","reason":"switchover","endReason":"stepped down","actor":"admin","phasesMs":{"detected":0,"claimed":0,"started":0,"ready":0}}]}`,
		},
		{"history empty", "/v1/server/ha/history?since=8", reigned, 200, typeJSON, `{"planeId":"plane123","reigns":[]}`},
		{"history none", "/v1/server/ha/history?limit=0", reigned, 200, typeJSON, `{"planeId":"plane123","reigns":[]}`},
		{"up", "/v1/server/up", mastering(), 200, typeJSON, `true`},
		{"up promoting", "/v1/server/up", holding(lease.StateStandby, false), 200, typeJSON, `false`},
		{"healthy", "/v1/server/healthy", mastering(), 200, typeJSON, `true`},
		{
			"healthy though it only writes", "/v1/server/healthy",
			with(mastering(), func(s *ha.Status) { s.Store.LastRead = start.Add(-time.Minute) }), 200, typeJSON, `true`,
		},
		{"healthy failed", "/v1/server/healthy", status(lease.StateFailed), 200, typeJSON, `false`},
		{"shuttingDown", "/v1/server/shuttingDown", status(lease.StateStandby), 200, typeJSON, `false`},
		{
			"up/extended", "/v1/server/up/extended", status(lease.StateStandby), 200, typeJSON,
			`{"up":true,"shuttingDown":false,"healthy":true,"ha":` + standbyPlane + `,"osgiUp":true,"brooklyn.security.sensitive.fields":` +
				`{"tokens":["password","passwd","passphrase","secret","private","access.cert","access.key","credential"],"plaintext.blocked":false}}`,
		},
		{"version", "/v1/server/version", mastering(), 200, typeJSON, `{"version":"1.2.3","buildSha1":"abc","buildBranch":null,"features":[]}`},
		{"planeid", "/v1/server/planeid", mastering(), 200, typeText, `plane123`},
		{"planeid unknown", "/v1/server/planeid", unborn, 200, typeText, ``},
		{"user", "/v1/server/user", mastering(), 200, typeJSON, `"admin"`},
		{"access", "/v1/access", mastering(), 200, typeJSON, `{"locationProvisioningAllowed":false,"links":{}}`},
		{"no such path", "/v1/server/nothing", mastering(), 404, typeJSON, `{"message":"no such path: /v1/server/nothing","details":"GET /v1/openapi.yaml lists what there is","error":404}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newRig(t, c.st, Options{Build: Build{SHA1: "abc"}})
			r := g.ask(http.MethodGet, c.path, "")
			if r.code != c.code || r.header.Get("Content-Type") != c.ctype || r.body != c.body {
				t.Errorf("GET %s:\n got %d %s %s\nwant %d %s %s", c.path, r.code, r.header.Get("Content-Type"), r.body, c.code, c.ctype, c.body)
			}
			if c.code < 300 {
				h := g.ask(http.MethodHead, c.path, "")
				if h.code != c.code || h.body != "" || h.header.Get("Content-Length") != fmt.Sprint(len(c.body)) {
					t.Errorf("HEAD %s: %d, length %s", c.path, h.code, h.header.Get("Content-Length"))
				}
			}
			if got := r.header.Get("Cache-Control"); got != "no-cache, no-store" {
				t.Errorf("Cache-Control is %q", got)
			}
			if calls := g.node.called(); len(calls) != 0 {
				t.Errorf("a GET called %v", calls)
			}
		})
	}
}

func TestStateAsPlainText(t *testing.T) {
	g := newRig(t, mastering(), Options{})
	r := g.ask(http.MethodGet, "/v1/server/ha/state", "", "Accept", "text/plain")
	if r.body != "MASTER" || r.header.Get("Content-Type") != typeText {
		t.Errorf("%s %q", r.header.Get("Content-Type"), r.body)
	}
	if r := g.ask(http.MethodPost, "/v1/server/ha/state", "mode=AUTO", "Accept", "text/plain"); r.body != "MASTER" {
		t.Errorf("POST: %q", r.body)
	}
}

func TestDocumentIsServed(t *testing.T) {
	g := newRig(t, mastering(), Options{})
	if r := g.send(http.MethodGet, "/v1/openapi.yaml", ""); r.code != 200 || !strings.HasPrefix(r.body, "openapi: 3.1.") {
		t.Errorf("%d %.40q", r.code, r.body)
	}
}

// What is known of another node, and what is made of it.
func TestStatesOfOthers(t *testing.T) {
	fresh, old := 300*time.Millisecond, 31*time.Second
	for _, c := range []struct {
		name     string
		rec      ha.NodeStatus
		holder   bool // the register names it
		holderOK bool // and is seen to be renewed
		want     v1.State
		why      string
		master   bool
		leader   bool
	}{
		{"master", peer(other, lease.StateMaster, fresh), true, true, v1.StateMaster, "", true, true},
		{"master whose record is old", peer(other, lease.StateMaster, time.Minute), true, true, v1.StateMaster, "", true, true},
		{"master that no longer renews", peer(other, lease.StateMaster, fresh), true, false, v1.StateFailed, whySilent, false, false},
		{"says master, register names another", peer(other, lease.StateMaster, fresh), false, false, v1.StateStandby, whyUnconfirmed, false, false},
		{"said master long ago", peer(other, lease.StateMaster, old), false, false, v1.StateFailed, whySilent, false, false},
		{"being promoted", peer(other, lease.StateStandby, fresh), true, true, v1.StateStandby, "", false, true},
		{"being promoted, record old", peer(other, lease.StateHotStandby, old), true, true, v1.StateHotStandby, "", false, true},
		{"standby", peer(other, lease.StateStandby, fresh), false, false, v1.StateStandby, "", false, false},
		{"standby silent", peer(other, lease.StateStandby, old), false, false, v1.StateFailed, whySilent, false, false},
		{"hot backup", peer(other, lease.StateHotBackup, fresh), false, false, v1.StateHotBackup, "", false, false},
		{"stopped long ago", peer(other, lease.StateTerminated, old), false, false, v1.StateTerminated, "", false, false},
		{"a word nobody knows", peer(other, "BOSS", fresh), true, true, v1.StateFailed, whyUnknownState, false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			st := status(lease.StateStandby)
			st.Holder, st.HolderOK = third, false
			if c.holder {
				st.Holder, st.HolderOK = other, c.holderOK
			}
			st.Nodes[other] = c.rec
			g := newRig(t, st, Options{})
			if c.rec.State == "BOSS" {
				c.rec.Electable = true
			}
			var got v1.PlaneStates
			if err := json.Unmarshal([]byte(g.ask(http.MethodGet, "/v1/server/ha/states", "").body), &got); err != nil {
				t.Fatal(err)
			}
			n := got.Nodes[string(other)]
			if n.Status != c.want || str(n.Why) != c.why {
				t.Errorf("shown as %s %q, want %s %q", n.Status, str(n.Why), c.want, c.why)
			}
			if is := str(got.MasterID) == string(other); is != c.master {
				t.Errorf("masterId %q", str(got.MasterID))
			}
			if is := str(got.LeaderID) == string(other); is != c.leader {
				t.Errorf("leaderId %q", str(got.LeaderID))
			}
			wantURI := ""
			if c.master {
				wantURI = "https://nother02:8443/"
			}
			if uri := g.send(http.MethodGet, "/master", "").header.Get(v1.HeaderMaster); uri != wantURI {
				t.Errorf("%s %q, want %q", v1.HeaderMaster, uri, wantURI)
			}
		})
	}
}

func TestRemovedNodesAreNotShown(t *testing.T) {
	st := status(lease.StateStandby)
	gone := peer(third, lease.StateStandby, 0)
	gone.Removed = true
	st.Nodes[third] = gone
	g := newRig(t, st, Options{})
	if r := g.ask(http.MethodGet, "/v1/server/ha/states", ""); strings.Contains(r.body, string(third)) {
		t.Errorf("%s", r.body)
	}
	if r := g.send(http.MethodGet, "/electable", ""); r.code != http.StatusServiceUnavailable {
		t.Errorf("/electable counts a removed node: %d", r.code)
	}
}

func str(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// Writes: what is called with what, and what comes of its errors.
func TestWrites(t *testing.T) {
	for _, c := range []struct {
		name, path, form string
		err              error
		code             int
		body             string // contained
		calls            []string
	}{
		{"mode", "/v1/server/ha/state", "mode=hot_standby", nil, 200, `"MASTER"`, []string{"SetMode HOT_STANDBY false"}},
		{"mode by query", "/v1/server/ha/state?mode=STANDBY&force=true", "", nil, 200, `"MASTER"`, []string{"SetMode STANDBY true"}},
		{"mode missing", "/v1/server/ha/state", "", nil, 400, "AUTO, MASTER, STANDBY, HOT_STANDBY, HOT_BACKUP, DISABLED", nil},
		{"mode unknown", "/v1/server/ha/state", "mode=boss", nil, 400, `unknown mode \"boss\"`, nil},
		{"force unknown", "/v1/server/ha/state", "mode=AUTO&force=yes", nil, 400, "force must be true or false", nil},
		{
			"mode refused", "/v1/server/ha/state", "mode=STANDBY", &ha.PreconditionError{Reasons: []string{"nthird03 is silent", "nother02 is in maintenance"}},
			412,
			`{"message":"can not change the mode to STANDBY: nthird03 is silent; nother02 is in maintenance","details":"nthird03 is silent\nnother02 is in maintenance","error":412}`,
			[]string{"SetMode STANDBY false"},
		},
		{"node ended", "/v1/server/ha/state", "mode=STANDBY", fmt.Errorf("x: %w", ha.ErrClosed), 503, "shutting down", []string{"SetMode STANDBY false"}},
		{"still under way", "/v1/server/ha/state", "mode=STANDBY", context.DeadlineExceeded, 504, "still under way", []string{"SetMode STANDBY false"}},
		{"broken", "/v1/server/ha/state", "mode=STANDBY", errors.New("disk full"), 500, "disk full", []string{"SetMode STANDBY false"}},
		{"priority", "/v1/server/ha/priority", "priority=-5", nil, 200, "0", []string{"SetPriority -5"}},
		{"priority not a number", "/v1/server/ha/priority", "priority=high", nil, 400, "whole number", nil},
		{"priority too large", "/v1/server/ha/priority", "priority=2147483648", nil, 400, "whole number", nil},
		{"priority missing", "/v1/server/ha/priority", "", nil, 400, "whole number", nil},
		{"clear", "/v1/server/ha/states/clear", "", nil, 200, "", []string{`Forget ""`}},
		{"clear node", "/v1/server/ha/states/clear/node", "nodeId=nquiet04", nil, 200, "", []string{`Forget "nquiet04"`}},
		{"clear unknown node", "/v1/server/ha/states/clear/node", "nodeId=Somebody", nil, 200, "", nil},
		{"clear no node", "/v1/server/ha/states/clear/node", "", nil, 200, "", []string{`Forget ""`}},
		{"clear fails", "/v1/server/ha/states/clear", "", errors.New("store full"), 500, "store full", []string{`Forget ""`}},
		{"fence confirm", "/v1/server/ha/fence/confirm", "node=nquiet04&actor=root%40hall", nil, 204, "", []string{"ConfirmOff nquiet04, says admin (root@hall)"}},
		{"fence confirm of nobody", "/v1/server/ha/fence/confirm", "", nil, 400, "id of the node", nil},
		{"fence confirm in vain", "/v1/server/ha/fence/confirm", "node=nquiet04", &ha.PreconditionError{Reasons: []string{"nobody holds the register"}}, 412, "nobody holds", []string{"ConfirmOff nquiet04, says admin"}},
		{"nudge", "/v1/server/ha/nudge", "", nil, 204, "", []string{"Nudge"}},
		{"shutdown", "/v1/server/shutdown", "stopAppsFirst=true&shutdownTimeout=60s", nil, 204, "", []string{"Shutdown asked for by admin"}},
		{"form too long", "/v1/server/ha/state", "mode=" + strings.Repeat("x", maxBody), nil, 413, "too long", nil},
		{"form broken", "/v1/server/ha/state", "mode=%zz", nil, 400, "form could not be read", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newRig(t, mastering(), Options{})
			g.node.err = c.err
			r := g.ask(http.MethodPost, c.path, c.form)
			if r.code != c.code || !strings.Contains(r.body, c.body) {
				t.Errorf("%d %s, want %d %s", r.code, r.body, c.code, c.body)
			}
			if calls := g.node.called(); !slices.Equal(calls, c.calls) {
				t.Errorf("calls %v, want %v", calls, c.calls)
			}
		})
	}
}

// Each write in the table on a node that is not MASTER: refused in Brooklyn's
// words without touching the node, let through when the request insists, and
// taken anyhow where the table says so.
func TestNonMasterRule(t *testing.T) {
	writes := 0
	for _, rt := range routes() {
		if !slices.ContainsFunc(rt.methods, isWrite) {
			continue
		}
		writes++
		t.Run(rt.path, func(t *testing.T) {
			g := newRig(t, status(lease.StateStandby), Options{Service: &fakeService{}, State: &fakeState{}, Artifacts: &fakeArtifacts{}, Content: &fakeContent{}})
			r := g.ask(rt.methods[0], pathOf(rt), formOf(rt.path))
			if rt.anyNode {
				if strings.Contains(r.body, notMasterMessage) {
					t.Errorf("exempt, but %d %s", r.code, r.body)
				}
				return
			}
			want := `{"message":"This request is only permitted against an active primary Brooklyn server","error":403}`
			if r.code != 403 || r.body != want || r.header.Get(v1.HeaderMaster) != "https://nother02:8443/" {
				t.Errorf("%d %s, master %q", r.code, r.body, r.header.Get(v1.HeaderMaster))
			}
			if calls := g.node.called(); len(calls) != 0 {
				t.Errorf("refused, but called %v", calls)
			}
			for _, name := range []string{"Brooklyn-Allow-Non-Master-Access", "Understudy-Allow-Non-Master-Access"} {
				if r := g.ask(rt.methods[0], pathOf(rt), formOf(rt.path), name, "false"); r.code != 403 {
					t.Errorf("%s: false: %d", name, r.code)
				}
				if r := g.ask(rt.methods[0], pathOf(rt), formOf(rt.path), name, "true"); r.code/100 != 2 {
					t.Errorf("%s: true: %d %s", name, r.code, r.body)
				}
			}
			if r := g.send(rt.methods[0], pathOf(rt), formOf(rt.path), "Brooklyn-Allow-Non-Master-Access", "true"); r.code != 401 {
				t.Errorf("the header without a password: %d", r.code)
			}
		})
	}
	if writes < 14 {
		t.Errorf("%d writes in the table", writes)
	}
}

// A node that has won the term and is not ready yet is not MASTER.
func TestPromotingNodeTakesNoWrites(t *testing.T) {
	g := newRig(t, holding(lease.StateStandby, false), Options{})
	if r := g.ask(http.MethodPost, "/v1/server/ha/priority", "priority=1"); r.code != 403 || r.header.Get(v1.HeaderMaster) != "" {
		t.Errorf("%d, master %q", r.code, r.header.Get(v1.HeaderMaster))
	}
}

func TestShutdownOfServicesNeedsTheMaster(t *testing.T) {
	g := newRig(t, status(lease.StateStandby), Options{})
	if r := g.ask(http.MethodPost, "/v1/server/shutdown", "stopAppsFirst=true"); r.code != 403 || len(g.node.called()) != 0 {
		t.Errorf("%d, calls %v", r.code, g.node.called())
	}
	if r := g.ask(http.MethodPost, "/v1/server/shutdown", "stopAppsFirst=false"); r.code != 204 || len(g.node.called()) != 1 {
		t.Errorf("%d, calls %v", r.code, g.node.called())
	}
}

func TestNonMasterRedirects(t *testing.T) {
	g := newRig(t, status(lease.StateStandby), Options{NonMaster: func() NonMaster { return NonMasterRedirect }})
	r := g.ask(http.MethodPost, "/v1/server/ha/priority?x=1", "priority=1")
	if r.code != 307 || r.header.Get("Location") != "https://nother02:8443/v1/server/ha/priority?x=1" {
		t.Errorf("%d to %q", r.code, r.header.Get("Location"))
	}
	if r := g.send(http.MethodGet, "/master", ""); r.code != 503 {
		t.Errorf("a health path answers %d", r.code)
	}
	g.node.advance(10 * time.Second) // nobody is known to be master any more
	if r := g.ask(http.MethodPost, "/v1/server/ha/priority", "priority=1"); r.code != 403 {
		t.Errorf("without a master: %d", r.code)
	}
}

// Nudges are open to anybody, so there is a limit: by the node's own clock.
func TestNudgesAreLimited(t *testing.T) {
	g := newRig(t, status(lease.StateStandby), Options{})
	for i := range 5 {
		if r := g.send(http.MethodPost, "/v1/server/ha/nudge", ""); r.code != 204 {
			t.Fatalf("nudge %d: %d", i, r.code)
		}
	}
	if r := g.send(http.MethodPost, "/v1/server/ha/nudge", ""); r.code != 429 {
		t.Errorf("sixth nudge: %d", r.code)
	}
	g.node.advance(200 * time.Millisecond)
	if r := g.send(http.MethodPost, "/v1/server/ha/nudge", ""); r.code != 204 {
		t.Errorf("a fifth of a second later: %d", r.code)
	}
	if r := g.send(http.MethodPost, "/v1/server/ha/nudge", ""); r.code != 429 {
		t.Errorf("and at once again: %d", r.code)
	}
	if n := len(g.node.called()); n != 6 {
		t.Errorf("%d nudges got through", n)
	}
}

// Every GET answers while each request that changes something hangs.
func TestGetsNeverWait(t *testing.T) {
	g := newRig(t, mastering(), Options{})
	hang := make(chan struct{})
	g.node.hang = hang
	stuck := make(chan reply)
	go func() { stuck <- g.ask(http.MethodPost, "/v1/server/ha/state", "mode=STANDBY") }()
	deadline := time.Now().Add(10 * time.Second)
	for len(g.node.called()) == 0 {
		if time.Now().After(deadline) {
			t.Fatal("the write never arrived")
		}
		time.Sleep(time.Millisecond)
	}
	for _, rt := range routes() {
		if !slices.Contains(rt.methods, http.MethodGet) {
			continue
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, g.url+pathOf(rt), nil)
		if err != nil {
			t.Fatal(err)
		}
		req.SetBasicAuth("admin", secret)
		resp, err := g.http.Do(req)
		if err != nil {
			t.Errorf("GET %s waits: %v", rt.path, err)
		} else {
			_ = resp.Body.Close()
		}
		cancel()
	}
	select {
	case <-stuck:
		t.Error("the write did not hang: the test proves nothing")
	default:
	}
	close(hang)
	if r := <-stuck; r.code != 200 {
		t.Errorf("the write: %d %s", r.code, r.body)
	}
}

// A handler that panics costs one answer, not the node.
func TestPanicIsAnAnswer(t *testing.T) {
	g := newRig(t, mastering(), Options{})
	g.node.mu.Lock()
	g.node.st = nil
	g.node.mu.Unlock()
	if r := g.send(http.MethodGet, "/master", ""); r.code != 500 {
		t.Errorf("%d", r.code)
	}
	g.node.mu.Lock()
	g.node.st = mastering()
	g.node.mu.Unlock()
	if r := g.send(http.MethodGet, "/master", ""); r.code != 200 {
		t.Errorf("afterwards: %d", r.code)
	}
}

func TestZeroOptionsLetNobodyIn(t *testing.T) {
	g := newRig(t, mastering(), Options{Gate: gate(Gate{})})
	if r := g.ask(http.MethodGet, "/v1/server/ha/states", ""); r.code != 401 {
		t.Errorf("%d", r.code)
	}
	if r := g.send(http.MethodGet, "/master", ""); r.code != 200 {
		t.Errorf("/master: %d", r.code)
	}
}

func TestAnyone(t *testing.T) {
	g := newRig(t, mastering(), Options{Gate: anyone})
	if r := g.send(http.MethodGet, "/v1/server/ha/state", ""); r.code != 200 {
		t.Errorf("%d", r.code)
	}
	if r := g.ask(http.MethodGet, "/v1/server/user", ""); r.code != 204 {
		t.Errorf("an unverified name is shown: %d %s", r.code, r.body)
	}
}

func BenchmarkMaster(b *testing.B) {
	node := &fakeNode{st: mastering(), now: start}
	h := New(node, Options{})
	req, err := http.NewRequestWithContext(b.Context(), http.MethodGet, "/master", nil)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		w := &discard{h: http.Header{}}
		h.ServeHTTP(w, req)
		if w.code != http.StatusOK {
			b.Fatal(w.code)
		}
	}
}

// BenchmarkStates is a plane of twenty nodes.
func BenchmarkStates(b *testing.B) {
	st := mastering()
	for i := range 17 {
		id := lease.NodeID(fmt.Sprintf("nmore%03d", i))
		st.Nodes[id] = peer(id, lease.StateStandby, time.Second)
	}
	h := New(&fakeNode{st: st, now: start}, Options{Gate: anyone})
	req, err := http.NewRequestWithContext(b.Context(), http.MethodGet, "/v1/server/ha/states", nil)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		h.ServeHTTP(&discard{h: http.Header{}}, req)
	}
}

type discard struct {
	h    http.Header
	code int
}

func (d *discard) Header() http.Header         { return d.h }
func (d *discard) Write(p []byte) (int, error) { return len(p), nil }
func (d *discard) WriteHeader(code int)        { d.code = code }
