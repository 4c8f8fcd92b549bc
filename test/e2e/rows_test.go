package e2e_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"

	"github.com/understudy-ha/understudy/api/client"
	"github.com/understudy-ha/understudy/api/v1"
	"github.com/understudy-ha/understudy/test/contract"
	"github.com/understudy-ha/understudy/test/e2e/harness"
	"github.com/understudy-ha/understudy/test/faultfs"
	"github.com/understudy-ha/understudy/test/need"
)

// restAnswers is what every path answers to every method, in every state in
// which a node can be held. The first line names the situations; after that a
// line is a request, as method, path and body, and what it is answered with:
//
//	503         the status
//	204/429     one or the other
//	"MASTER"    status 200 and this body
//	-           not asked: it would change the situation, and is asked where that
//	            is wanted; or the answer takes minutes, as for the content of an
//	            artifact that lies in a store that hangs
//
// One answer stands for all situations. Names with commas are aliases; health
// paths, which do not begin with /v1, are asked below /v1/server/ha as well.
// Every GET is asked as HEAD, too, and OPTIONS where there is one. {self} is
// the node that is asked, {other} another one that is no master, {term} the
// highest term that the node has seen. "!" before the method sends
// Brooklyn-Allow-Non-Master-Access.
const restAnswers = `
situation                                                        | master   standby   hot-standby   hot-backup   paused        maintenance   disabled stopped        promoting     draining      stopping      no-master     no-store      failed   initializing   alone
GET /master,/primary,/read-write                                 | 200      503       503           503          503           503           503      503            503           503           503           503           503           503      503            200
GET /leader                                                      | 200      503       503           503          503           503           503      200            200           200           200           503           503           503      503            200
GET /standby,/replica                                            | 503      200       200           503          200           503           503      503            503           503           503           200           200           503      503            503
GET /hot-standby                                                 | 503      503       200           503          200           200           503      503            200           200           503           200           200           503      503            503
GET /hot-backup                                                  | 503      503       503           200          503           503           503      503            503           503           503           503           503           503      503            503
GET /read-only                                                   | 200      503       200           200          200           200           503      503            200           200           503           200           200           503      503            200
GET /service                                                     | 200      503       503           503          503           503           503      503            503           200           200           503           503           503      503            200
GET /livez                                                       | 200
GET /readyz                                                      | 200      200       200           503          200           503           503      503            503           503           503           200           200           503      503            200
GET /startupz                                                    | 200      200       200           200          200           200           200      200            200           200           200           200           200           200      503            200
GET /store                                                       | 200      200       200           200          200           200           200      200            200           200           200           200           503           503      503            503
GET /electable,/quorum                                           | 200      200       200           200          200           200           200      200            200           200           200           200           503           503      503            503
GET /v1/server/ha/health                                         | 200      429       473           472          475           475           503      501            202           503           503           474           474           503      501            200
GET /v1/server/ha/health?masterok=false&standbyok=true&hotstandbycode=299&hotbackupok=true&aloneok=true&pausedok=true&promotingok=true&initializingok=true | 200      200       299           200          200           200           503      200            200           503           503           200           200           503      200            200
GET /v1/server/ha/health?standbycode=301                         | 400
GET /metrics                                                     | 200
POST /v1/server/ha/nudge                                         | 204/429
GET /v1/server/ha/state                                          | "MASTER" "STANDBY" "HOT_STANDBY" "HOT_BACKUP" "HOT_STANDBY" "HOT_STANDBY" "FAILED" "INITIALIZING" "HOT_STANDBY" "HOT_STANDBY" "HOT_STANDBY" "HOT_STANDBY" "HOT_STANDBY" "FAILED" "INITIALIZING" "MASTER"
GET /v1/server/ha/state?mastercode=202&standbycode=503           | 202      503       503           503          503           503           503      503            503           503           503           503           503           503      503            202
POST /v1/server/ha/state mode=AUTO                               | "MASTER" 403       403           403          403           403           403      403            403           403           403           403           403           403      403            412
!POST /v1/server/ha/state mode=KING                              | 400
!POST /v1/server/ha/state                                        | 400
GET /v1/server/ha/states                                         | 200
POST /v1/server/ha/states/clear                                  | 200      403       403           403          403           403           403      403            403           403           403           403           403           403      403            200
POST /v1/server/ha/states/clear/node nodeId=nnobody1             | 200      403       403           403          403           403           403      403            403           403           403           403           403           403      403            200
!POST /v1/server/ha/states/clear/node nodeId=nnobody1            | 200
POST /v1/server/ha/fence/confirm node=nnobody1                   | 412
POST /v1/server/ha/fence/confirm node=NOBODY                     | 400
GET /v1/server/ha/priority                                       | 0
POST /v1/server/ha/priority priority=0                           | 0        403       403           403          403           403           403      403            403           403           403           403           403           403      403            412
!POST /v1/server/ha/priority priority=0                          | 0        0         0             0            0             0             0        0              0             0             0             0             0             0        0              412
!POST /v1/server/ha/priority priority=high                       | 400
GET /v1/server/ha/metrics                                        | 200
GET /v1/server/ha/latency                                        | 200
GET /v1/server/ha/persist/export                                 | 200      403       200           200          200           200           403      200            200           200           200           200           -             403      403            412
GET /v1/server/ha/persist/export?origin=x                        | 400
POST /v1/server/ha/persist/import no-zip-file                    | 400      403       403           403          403           403           403      403            403           403           403           403           403           403      403            412
GET /v1/server/ha/latency                                        | 200
GET /v1/server/ha/history                                        | 200
GET /v1/server/ha/history?since=x                                | 400
GET /v1/server/ha/events                                         | 200
POST /v1/server/ha/switchover {"dryRun":true}                    | 200      200       200           200          200           200           200      200            200           409           409           409           503           503      503            412
POST /v1/server/ha/switchover {"to":"nnobody1","dryRun":true}    | 412      412       412           412          412           412           412      412            412           409           409           409           503           503      503            412
POST /v1/server/ha/switchover {"from":"x"}                       | 400
GET /v1/server/ha/switchover                                     | 404      404       404           404          404           404           404      404            404           200           200           200           503           503      503            404
DELETE /v1/server/ha/switchover                                  | 404      404       404           404          404           404           404      404            404           409           409           409           503           503      503            404
POST /v1/server/ha/failover {"dryRun":true}                      | 200      200       200           200          200           200           200      200            200           409           409           409           503           503      503            412
POST /v1/server/ha/failover {"to":"nnobody1","dryRun":true}      | 412      412       412           412          412           412           412      412            412           409           409           409           503           503      503            412
POST /v1/server/ha/step-down {"dryRun":true}                     | 200      200       200           200          200           200           200      200            200           409           409           409           503           503      503            412
POST /v1/server/ha/pause {"dryRun":true}                         | 200      200       200           200          200           200           200      200            200           200           200           412           200           412      412            412
POST /v1/server/ha/resume {"dryRun":true}                        | 200      200       200           200          200           200           200      200            200           200           200           200           200           200      200            412
POST /v1/server/ha/ack {"dryRun":true}                           | 200      200       200           200          200           200           200      200            200           200           200           200           200           200      200            412
POST /v1/server/ha/ack to=x                                      | 400      400       400           400          400           400           400      400            400           400           400           400           400           400      400            412
PUT /v1/server/ha/nodes/{other}/maintenance {"dryRun":true}      | 200      200       200           200          200           200           200      200            200           200           200           200           200           200      412            412
PUT /v1/server/ha/nodes/nnobody1/maintenance {"dryRun":true}     | 412
DELETE /v1/server/ha/nodes/nnobody1/maintenance                  | 404      404       404           404          404           404           404      404            404           404           404           404           503           503      503            404
GET /v1/server/ha/operations/0123-abc                            | 404      404       404           404          404           404           404      404            404           404           404           404           503           503      503            404
GET /v1/server/ha/term                                           | 200
GET /v1/server/ha/term/check?token={term}                        | 200      503       503           503          503           503           503      503            503           503           503           503           503           503      503            200
GET /v1/server/ha/term/check?token=0                             | 412      412       412           412          412           412           412      412            412           412           412           412           412           412      503            412
GET /v1/server/ha/term/check                                     | 400
GET /v1/server/up                                                | true     true      true          true         true          true          true     false          false         false         false         true          true          true     false          true
GET /v1/server/healthy                                           | true     true      true          true         true          true          false    false          false         false         false         true          false         false    false          true
GET /v1/server/shuttingDown                                      | false    false     false         false        false         false         false    false          false         false         true          false         false         false    false          false
GET /v1/server/up/extended                                       | 200
GET /v1/server/version                                           | 200
GET /v1/server/planeid                                           | 200
GET /v1/server/user                                              | "admin"
GET /v1/server/config/log.level                                  | "debug"
GET /v1/server/config/no.such.key                                | 204
POST /v1/server/properties/reload                                | 204
POST /v1/server/shutdown stopAppsFirst=maybe                     | 400
POST /v1/server/shutdown stopAppsFirst=true                      | -        403       403           403          403           403           403      403            403           403           403           403           403           403      403            -
GET /v1/server/service                                           | 200
GET /v1/server/service/logs                                      | 200
GET /v1/server/service/logs?lines=x                              | 400
POST /v1/server/service/start                                    | 200      412       412           412          412           412           412      -              -             -             -             412           412           412      412            200
POST /v1/server/service/stop                                     | -        412       412           412          412           412           412      200            -             -             -             412           412           412      412            -
POST /v1/server/service/restart                                  | -        412       412           412          412           412           412      -              -             -             -             412           412           412      412            -
POST /v1/server/service/reset-failures                           | 200
GET /v1/state                                                    | 200      403       200           200          200           200           403      200            200           200           200           200           200           403      403            412
GET /v1/state/watch                                              | 200      403       200           200          200           200           403      200            200           200           200           200           200           403      403            412
GET /v1/state/rows/kept                                          | kept     403       kept          kept         kept          kept          403      kept           kept          kept          kept          kept          kept          403      403            412
GET /v1/state/rows/never                                         | 404      403       404           404          404           404           403      404            404           404           404           404           404           403      403            412
PUT /v1/state/rows/new new                                       | 204      403       403           403          403           403           403      403            403           403           403           403           403           403      403            412
!PUT /v1/state/rows/new new                                      | 204      403       403           403          403           403           403      204            204           204           204           403           403           403      403            412
DELETE /v1/state/rows/new                                        | 204      403       403           403          403           403           403      403            403           403           403           403           403           403      403            412
GET /v1/artifacts                                                | 200      403       200           200          200           200           403      200            200           200           200           200           200           403      403            412
GET /v1/artifacts/kept                                           | kept     403       kept          kept         kept          kept          403      kept           kept          kept          kept          kept          -             403      403            412
GET /v1/artifacts/never                                          | 404      403       404           404          404           404           403      404            404           404           404           404           404           403      403            412
PUT /v1/artifacts/new new                                        | 200      403       403           403          403           403           403      403            403           403           403           403           403           403      403            412
DELETE /v1/artifacts/gone                                        | 204      403       403           403          403           403           403      403            403           403           403           403           403           403      403            412
GET /v1/access                                                   | 200
POST /v1/logout                                                  | 204
POST /v1/logout/unauthorize                                      | 401
POST /v1/logout/ann                                              | 204
GET /v1/openapi.yaml                                             | 200
`

// notMaster is Brooklyn's refusal, word for word.
const notMaster = `{"message":"This request is only permitted against an active primary Brooklyn server","error":403}`

// situation is a node that is held in a state, and what each of its answers
// says of it.
type situation struct {
	name   string // a column of restAnswers
	node   *harness.Node
	other  *harness.Node // another node of the plane, and no master
	state  v1.State
	master *harness.Node // who is MASTER as far as the node knows; nil: nobody
	leads  bool          // it holds the term, its lease ahead
}

// row is one line of restAnswers.
type row struct {
	method, body string
	insists      bool
	paths        []string
	answers      map[string]string // by situation
}

// rows reads restAnswers.
func rows(t *testing.T) (out []row, situations []string) {
	t.Helper()
	for line := range strings.Lines(strings.TrimSpace(restAnswers)) {
		what, cells, ok := strings.Cut(strings.TrimSpace(line), " | ")
		answers := strings.Fields(cells)
		if !ok || len(answers) == 0 {
			t.Fatalf("no line of the table: %s", line)
		}
		if situations == nil {
			situations = answers
			continue
		}
		if len(answers) == 1 {
			answers = slices.Repeat(answers, len(situations))
		}
		if len(answers) != len(situations) {
			t.Fatalf("%d answers for %d situations: %s", len(answers), len(situations), line)
		}
		f := strings.Fields(what)
		r := row{method: strings.TrimPrefix(f[0], "!"), insists: strings.HasPrefix(f[0], "!"), answers: map[string]string{}}
		if len(f) > 2 {
			r.body = f[2]
		}
		for _, path := range strings.Split(f[1], ",") {
			r.paths = append(r.paths, path)
			if !strings.HasPrefix(path, "/v1/") && path != "/metrics" {
				r.paths = append(r.paths, "/v1/server/ha"+path)
			}
		}
		for i, s := range situations {
			r.answers[s] = answers[i]
		}
		out = append(out, r)
	}
	return out, situations
}

// methods are those that the row is asked by.
func (r *row) methods(doc *openapi3.T) []string {
	if r.method != http.MethodGet {
		return []string{r.method}
	}
	methods := []string{http.MethodGet, http.MethodHead}
	if item := doc.Paths.Value(r.paths[0]); item != nil && item.Options != nil {
		methods = append(methods, http.MethodOptions)
	}
	return methods
}

// TestEveryRowHasAnswers: whatever a node serves is in the table above, by
// every method. The document is held against the router by the server's tests.
func TestEveryRowHasAnswers(t *testing.T) {
	doc, err := contract.Document()
	must(t, err)
	all, situations := rows(t)
	asked := map[string]bool{}
	for _, r := range all {
		for _, path := range r.paths {
			for _, method := range r.methods(doc) {
				path, _, _ := strings.Cut(path, "?")
				template := contract.Template(doc, method, path)
				if template == "" {
					t.Errorf("there is no %s %s", method, path)
				}
				asked[method+" "+template] = true
			}
		}
		if !slices.ContainsFunc(situations, func(s string) bool { return r.answers[s] != "-" }) {
			t.Errorf("nobody asks %s %s", r.method, r.paths)
		}
	}
	for path, item := range doc.Paths.Map() {
		for method := range item.Operations() {
			if !asked[method+" "+path] {
				t.Errorf("%s %s has no line in the table of answers", method, path)
			}
		}
	}
}

// asker asks one node all there is to ask.
type asker struct {
	*situation
	t              *testing.T
	doc            *openapi3.T
	web            *http.Client
	user, password string
	ids            *strings.Replacer
}

// answered holds every answer of a node in a situation against the table.
func answered(t *testing.T, s situation) {
	t.Helper()
	a := newAsker(t, s)
	var err error
	a.user, a.password, err = s.node.Credentials()
	must(t, err)
	a.holds("before")
	id := "nnobody1"
	if s.other != nil {
		id = s.other.ID()
	}
	a.ids = strings.NewReplacer("{self}", s.node.ID(), "{other}", id, "{term}", a.ask(http.MethodGet, "/livez", "", false).header.Get(v1.HeaderTerm))
	all, _ := rows(t)
	// At once, because what has to look at a store that hangs takes its time.
	var wg sync.WaitGroup
	todo := make(chan row)
	for range askers {
		wg.Go(func() {
			for r := range todo {
				a.row(&r)
			}
		})
	}
	for _, r := range all {
		todo <- r
	}
	close(todo)
	wg.Wait()
	a.holds("after")
}

// askers is how many requests are under way at a time.
const askers = 12

// holds checks that the node is still in its situation.
func (a *asker) holds(when string) {
	a.t.Helper()
	if got := a.ask(http.MethodGet, "/livez", "", false).header.Get(v1.HeaderState); got != string(a.state) {
		a.t.Fatalf("%s: %s it was asked, %s is %s, want %s", a.name, when, a.node.Name, got, a.state)
	}
}

// row asks one line of the table by all its names and methods.
func (a *asker) row(r *row) {
	want := r.answers[a.name]
	if want == "-" {
		return
	}
	for _, path := range r.paths {
		for _, method := range r.methods(a.doc) {
			got := a.ask(method, a.ids.Replace(path), a.ids.Replace(r.body), r.insists)
			// The situation lasts; what a starved machine says of its last
			// heartbeats does not.
			for tries := 0; tries < retries && r.method == http.MethodGet && misses(method, want, got); tries++ {
				time.Sleep(100 * time.Millisecond)
				got = a.ask(method, a.ids.Replace(path), a.ids.Replace(r.body), r.insists)
			}
			a.judge(r, method, path, want, got)
		}
	}
}

// retries is how often a question that changes nothing is asked again.
const retries = 50

// misses reports whether an answer is not what the table says.
func misses(method, want string, got heard) bool {
	if codes, isCode := statuses(want); isCode {
		return !slices.Contains(codes, got.code)
	}
	return got.code != http.StatusOK || method == http.MethodGet && got.body != want
}

// heard is an answer, read.
type heard struct {
	code   int
	header http.Header
	body   string
}

func (a *asker) ask(method, path, body string, insists bool) heard {
	a.t.Helper()
	ctx, cancel := context.WithCancel(a.t.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, a.node.URL(path), bytes.NewReader([]byte(body)))
	if err != nil {
		a.t.Error(err)
		return heard{}
	}
	if a.user != "" {
		req.SetBasicAuth(a.user, a.password)
	}
	switch {
	case strings.HasPrefix(body, "{"):
		req.Header.Set("Content-Type", "application/json")
	case strings.Contains(path, "/state/") || strings.Contains(path, "/artifacts/") || strings.HasSuffix(path, "/import"):
		req.Header.Set("Content-Type", "application/octet-stream")
	case body != "":
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if insists {
		req.Header.Set(v1.HeaderAllowNonMasterBrooklyn, "true")
	}
	resp, err := a.web.Do(req)
	if err != nil {
		a.t.Errorf("%s: %v", a.name, err)
		return heard{}
	}
	defer resp.Body.Close()
	h := heard{code: resp.StatusCode, header: resp.Header}
	if resp.Header.Get("Content-Type") == "text/event-stream" {
		return h // it does not end
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		a.t.Errorf("%s: %s %s: %v", a.name, method, path, err)
	}
	h.body = string(b)
	return h
}

// judge holds one answer against the table, and its headers against what all
// answers of the path and of the node have in common.
func (a *asker) judge(r *row, method, path, want string, got heard) {
	a.t.Helper()
	what := fmt.Sprintf("%s: %s %s %s", a.name, method, path, r.body)
	if misses(method, want, got) {
		a.t.Errorf("%s: %d %.300s, want %s", what, got.code, got.body, want)
	}
	if method == http.MethodHead && got.body != "" {
		a.t.Errorf("%s: HEAD has a body", what)
	}
	if got.header.Get("Cache-Control") != "no-cache, no-store" || got.header.Get("Pragma") != "no-cache" || got.header.Get("Expires") != "0" {
		a.t.Errorf("%s: somebody may keep it: %v", what, got.header)
	}
	if got.code == http.StatusForbidden && r.method != http.MethodGet {
		if got.body != notMaster {
			a.t.Errorf("%s: it is refused by %s", what, got.body)
		}
		a.masterNamed(what, got)
	}
	if doc := contract.Template(a.doc, method, strings.Split(path, "?")[0]); a.doc.Paths.Value(doc).Options != nil {
		a.told(what, got)
	}
}

// statuses reads 204/429.
func statuses(cell string) (codes []int, ok bool) {
	for part := range strings.SplitSeq(cell, "/") {
		code, err := strconv.Atoi(part)
		if err != nil || code < 100 {
			return nil, false
		}
		codes = append(codes, code)
	}
	return codes, true
}

// told checks what each health answer says of the node.
func (a *asker) told(what string, got heard) {
	a.t.Helper()
	if s := got.header.Get(v1.HeaderState); s != string(a.state) {
		a.t.Errorf("%s: %s is %q, want %q", what, v1.HeaderState, s, a.state)
	}
	if id := got.header.Get(v1.HeaderNode); id != a.node.ID() {
		a.t.Errorf("%s: %s is %q, want %q", what, v1.HeaderNode, id, a.node.ID())
	}
	if _, err := strconv.ParseUint(got.header.Get(v1.HeaderTerm), 10, 48); err != nil {
		a.t.Errorf("%s: %s: %v", what, v1.HeaderTerm, err)
	}
	if ms, err := strconv.Atoi(got.header.Get(v1.HeaderLeaseRemaining)); err != nil || (ms > 0) != a.leads {
		a.t.Errorf("%s: %s is %q, and it leads: %v", what, v1.HeaderLeaseRemaining, got.header.Get(v1.HeaderLeaseRemaining), a.leads)
	}
	a.masterNamed(what, got)
}

// masterNamed checks X-HA-Master.
func (a *asker) masterNamed(what string, got heard) {
	a.t.Helper()
	want := ""
	if a.master != nil {
		want = a.master.URL("/")
	}
	if uri := got.header.Get(v1.HeaderMaster); uri != want {
		a.t.Errorf("%s: %s is %q, want %q", what, v1.HeaderMaster, uri, want)
	}
}

// visited are the situations in which a node was asked everything.
type visited struct {
	mu   sync.Mutex
	seen []string
}

func (v *visited) ask(t *testing.T, s situation) {
	t.Helper()
	answered(t, s)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.seen = append(v.seen, s.name)
}

// rowsPlane is a plane whose nodes can be asked as fast as one likes, and that
// stays as it is for as long as it takes.
func rowsPlane(t *testing.T, nodes int, faulty bool, settings map[string]any) *harness.Plane {
	t.Helper()
	all := map[string]any{"server.rateLimit": 0, "ha.takeoverTimeout": "10m", "ha.preset": "default"}
	for key, value := range settings {
		all[key] = value
	}
	p := harness.NewPlane(t, harness.Options{Nodes: nodes, FaultFS: faulty, Settings: all})
	for _, n := range p.Nodes {
		n.Set("nodeUri", n.URL("/"))
	}
	return p
}

// keep makes what the table expects to find on hot nodes.
func keep(t *testing.T, master *harness.Node, hot ...*harness.Node) {
	t.Helper()
	if _, err := operator(t, master).StatePut(t.Context(), "rows/kept", []byte("kept"), client.StateCondition{}); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "kept")
	write(t, file, "kept")
	pushed(t, master, "kept", file)
	pushed(t, master, "gone", file)
	for _, n := range hot {
		waits(t, n, "holds the persisted state", func() bool {
			key, err := n.Get("/v1/state/rows/kept")
			large, lerr := n.Get("/v1/artifacts/kept")
			return err == nil && lerr == nil && key.Body == "kept" && large.Body == "kept"
		})
	}
}

// waits waits until something is true of a node.
func waits(t *testing.T, n *harness.Node, what string, ok func() bool) {
	t.Helper()
	if !harness.Poll(2*settle, ok) {
		t.Fatalf("%s: not after %v: it %s", n.Name, 2*settle, what)
	}
}

// sees waits until a node sees others as it says.
func sees(t *testing.T, n *harness.Node, what string, ok func(v1.PlaneStates) bool) {
	t.Helper()
	waits(t, n, "sees "+what, func() bool {
		s, err := n.States()
		return err == nil && ok(s)
	})
}

// sent sends a write with Brooklyn's header and returns what came of it.
func sent(t *testing.T, n *harness.Node, path, form string) string {
	t.Helper()
	return curlWith(t, n, path, "-X", "POST", "-H", v1.HeaderAllowNonMasterBrooklyn+": true", "-d", form, "-w", " %{http_code}")
}

// TestRows asks every row of the table, by every method, of real nodes that are
// held in every state. Nothing here waits for a time to pass: each state lasts
// until the test ends it.
func TestRows(t *testing.T) {
	_, situations := rows(t)
	v := &visited{}
	t.Run("at once", func(t *testing.T) {
		for name, held := range map[string]func(*testing.T, *visited){
			"roles": rowsOfRoles, "service": rowsOfService, "store": rowsOfStore, "alone": rowsAlone,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				held(t, v)
			})
		}
	})
	slices.Sort(situations)
	slices.Sort(v.seen)
	if !t.Failed() && !slices.Equal(situations, v.seen) {
		t.Errorf("asked in %v, want %v", v.seen, situations)
	}
}

// rowsOfRoles: a plane with a node in each role, then what operators do to it.
func rowsOfRoles(t *testing.T, v *visited) {
	t.Helper()
	p := rowsPlane(t, 5, false, nil)
	master, warm, hot, backup, spare := p.Nodes[0], p.Nodes[1], p.Nodes[2], p.Nodes[3], p.Nodes[4]
	warm.Set("ha.hotStandby", false)
	backup.Set("highAvailabilityMode", "HOT_BACKUP")
	master.Start()
	master.WaitState(settle, v1.StateMaster)
	for _, n := range p.Nodes[1:] {
		n.Start()
	}
	warm.WaitState(settle, v1.StateStandby)
	hot.WaitState(settle, v1.StateHotStandby)
	backup.WaitState(settle, v1.StateHotBackup)
	spare.WaitState(settle, v1.StateHotStandby)
	keep(t, master, hot, backup, spare)
	for _, n := range p.Nodes {
		sees(t, n, "the master and two candidates", func(s v1.PlaneStates) bool {
			return s.MasterID != nil && (n == warm || s.Nodes[warm.ID()].Electable) && (n == hot || s.Nodes[hot.ID()].Electable) && (n == spare || s.Nodes[spare.ID()].Electable)
		})
	}
	v.ask(t, situation{"master", master, hot, v1.StateMaster, master, true})
	v.ask(t, situation{"standby", warm, hot, v1.StateStandby, master, false})
	v.ask(t, situation{"hot-standby", hot, warm, v1.StateHotStandby, master, false})
	v.ask(t, situation{"hot-backup", backup, hot, v1.StateHotBackup, master, false})
	unauthorized(t, situation{name: "nobody", node: master})

	ask(t, hot, "pause", "", v1.OperationRequest{}, "running")
	sees(t, hot, "the pause", func(s v1.PlaneStates) bool { return s.Paused })
	waits(t, hot, "knows of the operation", func() bool { return healthIs(hot, 475) })
	v.ask(t, situation{"paused", hot, warm, v1.StateHotStandby, master, false})
	ask(t, hot, "resume", "", v1.OperationRequest{}, "done")

	ask(t, hot, "maintenance", spare.ID(), v1.OperationRequest{}, "running")
	waits(t, spare, "is in maintenance", func() bool { return healthIs(spare, 475) })
	v.ask(t, situation{"maintenance", spare, warm, v1.StateHotStandby, master, false})
	must(t, operator(t, hot).EndMaintenance(t.Context(), spare.ID()))

	if got := sent(t, spare, "/v1/server/ha/state", "mode=DISABLED"); got != `"HOT_STANDBY" 200` {
		t.Errorf("mode=DISABLED: %s", got)
	}
	spare.WaitState(settle, v1.StateFailed)
	v.ask(t, situation{"disabled", spare, warm, v1.StateFailed, master, false})
	if got := sent(t, spare, "/v1/server/ha/state", "mode=AUTO"); got != `"FAILED" 200` {
		t.Errorf("mode=AUTO: %s", got)
	}
	spare.WaitState(settle, v1.StateHotStandby)
	sees(t, master, "it back", func(s v1.PlaneStates) bool { return s.Nodes[spare.ID()].Electable })
	spare.Stop(settle)
	sees(t, hot, "it as TERMINATED", func(s v1.PlaneStates) bool {
		n := s.Nodes[spare.ID()]
		return n.Status == v1.StateTerminated && !n.Electable
	})

	if got := sent(t, master, "/v1/server/service/stop", ""); !strings.HasSuffix(got, " 200") {
		t.Errorf("service/stop: %s", got)
	}
	v.ask(t, situation{"stopped", master, hot, v1.StateInitializing, nil, true})
	for _, action := range []string{"start", "restart"} {
		if got := sent(t, master, "/v1/server/service/"+action, ""); !strings.HasSuffix(got, " 200") {
			t.Errorf("service/%s: %s", action, got)
		}
		master.WaitState(settle, v1.StateMaster)
	}

	// The release names a node that will not come, and nobody else may for a
	// long time.
	later := false
	_, err := operator(t, hot).Operate(t.Context(), "failover", "", v1.OperationRequest{To: spare.ID(), Force: true, Wait: &later})
	must(t, err)
	waits(t, hot, "sees no master", func() bool { return healthIs(hot, 474) })
	v.ask(t, situation{"no-master", hot, warm, v1.StateHotStandby, nil, false})
	if s, err := hot.States(); err != nil || s.Nodes[spare.ID()].Status != v1.StateTerminated {
		t.Errorf("%v, %v", s.Nodes[spare.ID()], err)
	}
}

// healthIs reports whether the node's one rich path answers so.
func healthIs(n *harness.Node, code int) bool {
	r, err := n.Probe("/v1/server/ha/health")
	return err == nil && r.Code == code
}

// rowsOfService: a master whose service takes its time to become ready, and to
// say goodbye.
func rowsOfService(t *testing.T, v *visited) {
	t.Helper()
	p := rowsPlane(t, 2, false, nil)
	n, first := p.Nodes[0], p.Nodes[1]
	ready := filepath.Join(p.Dir, "ready")
	n.Set("service.ready", map[string]any{"file": ready})
	n.Set("service.startTimeout", "10m")
	n.Set("service.drainDelay", "10m")
	first.Start()
	first.WaitState(settle, v1.StateMaster)
	n.Start()
	n.WaitState(settle, v1.StateHotStandby)
	keep(t, first, n)
	first.Stop(settle)
	waits(t, n, "is promoted", func() bool { return healthIs(n, 202) })
	first.Start()
	first.WaitState(settle, v1.StateHotStandby)
	sees(t, n, "the other", func(s v1.PlaneStates) bool { return s.Nodes[first.ID()].Electable })
	v.ask(t, situation{"promoting", n, first, v1.StateHotStandby, nil, true})

	write(t, ready, "")
	n.WaitState(settle, v1.StateMaster)
	candidate(t, n, first)
	later := false
	_, err := operator(t, n).Operate(t.Context(), "switchover", "", v1.OperationRequest{Wait: &later})
	must(t, err)
	waits(t, n, "drains", func() bool { return healthIs(n, 503) })
	v.ask(t, situation{"draining", n, first, v1.StateHotStandby, nil, true})

	if got := sent(t, n, "/v1/server/shutdown", "stopAppsFirst=false"); got != " 204" {
		t.Errorf("shutdown: %s", got)
	}
	waits(t, n, "says that it stops", func() bool {
		r, err := n.Get("/v1/server/shuttingDown")
		return err == nil && r.Body == "true"
	})
	v.ask(t, situation{"stopping", n, first, v1.StateHotStandby, nil, true})
}

// rowsOfStore: nodes whose store hangs, from the start, as a standby, and as
// the master.
func rowsOfStore(t *testing.T, v *visited) {
	t.Helper()
	need.Root(t, "mount file systems")
	p := rowsPlane(t, 3, true, map[string]any{"ha.preset": nil, "ha.heartbeatTimeout": "20s"})
	master, standby, late := p.Nodes[0], p.Nodes[1], p.Nodes[2]
	master.Start()
	master.WaitState(settle, v1.StateMaster)
	standby.Start()
	standby.WaitState(settle, v1.StateHotStandby)
	keep(t, master, standby)
	candidate(t, standby, standby)

	neverAnswers := faultOf(late)
	late.Start()
	late.WaitState(settle, v1.StateInitializing)
	v.ask(t, situation{"initializing", late, nil, v1.StateInitializing, nil, false})

	silent := faultOf(standby)
	waits(t, standby, "misses its store", func() bool { return healthIs(standby, 474) })
	v.ask(t, situation{"no-store", standby, master, v1.StateHotStandby, master, false})
	silent.Remove()
	waits(t, standby, "has its store back", func() bool { return healthIs(standby, 473) })
	standby.Stop(settle)
	sees(t, master, "it as TERMINATED", func(s v1.PlaneStates) bool { return s.Nodes[standby.ID()].Status == v1.StateTerminated })

	lost := faultOf(master)
	master.WaitState(2*settle, v1.StateFailed)
	waits(t, master, "has no service any more", func() bool {
		r, err := master.Probe("/service")
		return err == nil && r.Code == http.StatusServiceUnavailable
	})
	v.ask(t, situation{"failed", master, standby, v1.StateFailed, nil, false})
	for _, f := range []*faultfs.Fault{neverAnswers, silent, lost} {
		if f.Fired() == 0 {
			t.Error("a fault never fired")
		}
	}
}

// faultOf takes the store away from a node.
func faultOf(n *harness.Node) *faultfs.Fault {
	return n.Fault.Inject(faultfs.Rule{Hang: true})
}

// rowsAlone: a node that takes part in no plane.
func rowsAlone(t *testing.T, v *visited) {
	t.Helper()
	p := rowsPlane(t, 1, false, map[string]any{"highAvailabilityMode": "DISABLED"})
	n := p.Nodes[0]
	n.Start()
	n.WaitState(settle, v1.StateMaster)
	v.ask(t, situation{"alone", n, nil, v1.StateMaster, n, true})
}

// newAsker makes an asker without a password.
func newAsker(t *testing.T, s situation) *asker {
	t.Helper()
	doc, err := contract.Document()
	must(t, err)
	a := &asker{situation: &s, t: t, doc: doc, ids: strings.NewReplacer()}
	a.web = &http.Client{
		Timeout: 4 * settle, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: contract.Transport(&http.Transport{
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // self-signed, on loopback
			MaxConnsPerHost: askers,
		}, func(err error) { t.Errorf("%s: %v", s.name, err) }),
	}
	t.Cleanup(a.web.CloseIdleConnections)
	return a
}

// unauthorized asks everything that needs a password without one, and all paths
// by a method that they do not know.
func unauthorized(t *testing.T, s situation) {
	t.Helper()
	a := newAsker(t, s)
	all, _ := rows(t)
	for _, r := range all {
		path, _, _ := strings.Cut(r.paths[0], "?")
		path = strings.NewReplacer("{other}", "nnobody1").Replace(path)
		op := a.doc.Paths.Value(contract.Template(a.doc, r.method, path)).GetOperation(r.method)
		open := op.Security != nil && len(*op.Security) == 0
		if got := a.ask(r.method, path, r.body, r.insists); !open && (got.code != http.StatusUnauthorized ||
			got.header.Get("WWW-Authenticate") != `BASIC realm="understudy"` || !strings.HasPrefix(got.header.Get("Content-Type"), "text/plain")) {
			t.Errorf("without a password: %s %s: %d %v", r.method, path, got.code, got.header)
		}
		if got := a.ask(http.MethodPatch, path, "", false); got.code != http.StatusMethodNotAllowed || !strings.Contains(got.header.Get("Allow"), r.method) {
			t.Errorf("PATCH %s: %d, Allow: %q", path, got.code, got.header.Get("Allow"))
		}
	}
	if got := a.ask(http.MethodGet, "/v1/no/such/path", "", false); got.code != http.StatusNotFound {
		t.Errorf("no such path: %d %s", got.code, got.body)
	}
}
