package server

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/understudy-ha/understudy/test/contract"
)

// restDoc is written by UPDATE=1 go test -run TestRESTDocument ./api/server.
const restDoc = "../../docs/rest.md"

// columns are those of the situations of health_test.go that operators tell
// apart.
var columns = []string{
	"initializing", "standby", "hot-standby", "hot-backup", "promoting", "master", "draining",
	"no-master", "no-store", "paused", "maintenance", "stopping", "failed", "lapsed", "stuck",
}

// TestRESTDocument holds docs/rest.md against what the routes answer.
func TestRESTDocument(t *testing.T) {
	got := restDocument(t)
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(restDoc, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(restDoc)
	if err != nil {
		t.Fatal(err)
	}
	if string(b) != got {
		t.Errorf("docs/rest.md is not what the routes answer; look at what changed, then write it anew: UPDATE=1 go test -run TestRESTDocument ./api/server")
	}
}

func restDocument(t *testing.T) string {
	t.Helper()
	doc, err := contract.Document()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	b.WriteString(`# REST, path by path

Made from the table of routes and from what it answers; the tests hold it to
that. [api/openapi.yaml](../api/openapi.yaml), which a node serves at
` + "`/v1/openapi.yaml`" + `, has the parameters, bodies and errors.

## What answers what, by state

The status of each GET, asked by somebody who may. *promoting* has won the term,
and its service is not ready; *draining* is about to hand over; *no-master* to
*stopping* are standbys; *lapsed* is a master whose lease has ended and that was
not told yet; in a *stuck* node nothing runs but REST. A health path is there a
second time under ` + "`/v1/server/ha`" + `, and so are its aliases; codes of ` + "`/v1/server/ha/health`" + ` can be replaced.

`)
	writeStates(t, &b)
	b.WriteString(`
## Who may do what

A write on a node that is not MASTER is refused with 403, unless the request
carries ` + "`Understudy-Allow-Non-Master-Access: true`" + ` or any node takes it.

| path | method | role | any node takes it | what it is |
|---|---|---|---|---|
`)
	for _, rt := range routes() {
		if alias(rt) {
			continue
		}
		item := doc.Paths.Value(rt.path)
		summary := item.Summary
		if op := item.GetOperation(rt.methods[0]); op != nil && op.Summary != "" {
			summary = op.Summary
		}
		anyNode := ""
		if isWrite(rt.methods[0]) {
			anyNode = "no"
			if rt.anyNode {
				anyNode = "yes"
			}
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", rt.path, strings.Join(rt.methods, ", "), rt.role, anyNode, summary)
	}
	return b.String()
}

// alias reports whether the route is another name of a health path.
func alias(rt route) bool {
	for _, q := range questions() {
		for i, name := range q.names {
			if rt.path == "/v1/server/ha"+name || i > 0 && rt.path == name {
				return true
			}
		}
	}
	return false
}

func writeStates(t *testing.T, b *strings.Builder) {
	t.Helper()
	b.WriteString("| GET |")
	for _, c := range columns {
		fmt.Fprintf(b, " %s |", c)
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(columns)) + "\n")
	rigs := make([]*rig, len(columns))
	for i, c := range columns {
		rigs[i] = newRig(t, situations[c](), Options{Gate: anyone, Service: &fakeService{}})
	}
	differ := 0
	for _, rt := range routes() {
		if rt.methods[0] != http.MethodGet || alias(rt) {
			continue
		}
		codes, same := []string{}, true
		for _, g := range rigs {
			path := pathOf(rt)
			if path == "/v1/server/ha/term/check" {
				path += fmt.Sprintf("?token=%d", g.node.Status().Term)
			}
			codes = append(codes, fmt.Sprint(g.send(http.MethodGet, path, "").code))
			same = same && codes[0] == codes[len(codes)-1]
		}
		if same {
			continue
		}
		differ++
		fmt.Fprintf(b, "| `%s` | %s |\n", rt.path, strings.Join(codes, " | "))
	}
	b.WriteString("\nEvery other GET answers the same in each of them.\n")
	if differ < 10 {
		t.Errorf("only %d paths depend on the state", differ)
	}
}
