package server

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"

	"github.com/understudy-ha/understudy/test/contract"
)

// roleOf is the role that the document says an operation needs.
func roleOf(op *openapi3.Operation) Role {
	if op.Security != nil && len(*op.Security) == 0 {
		return Open
	}
	name, _ := op.Extensions["x-role"].(string)
	r, err := ParseRole(name)
	if err != nil {
		return Role(-1)
	}
	return r
}

// Each route is in the document and the other way round, with the same
// methods and the same role.
func TestRoutesAndDocumentAgree(t *testing.T) {
	doc, err := contract.Document()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(doc.OpenAPI, "3.1.") {
		t.Errorf("openapi.yaml is of version %s", doc.OpenAPI)
	}
	inTable := map[string]bool{}
	for _, rt := range routes() {
		for _, m := range rt.methods {
			key := m + " " + rt.path
			if inTable[key] {
				t.Errorf("%s is in the table twice", key)
			}
			inTable[key] = true
			if m == http.MethodHead && slices.Equal(rt.methods, get) {
				continue // every GET answers HEAD; said once for all in the document
			}
			item := doc.Paths.Value(rt.path)
			if item == nil || item.GetOperation(m) == nil {
				t.Errorf("%s is in the table, not in openapi.yaml", key)
				continue
			}
			op := item.GetOperation(m)
			if got := roleOf(op); got != rt.role {
				t.Errorf("%s: needs %s in openapi.yaml, %s in the table", key, got, rt.role)
			}
			if can := rt.role > Viewer || isWrite(m) && !rt.anyNode; can != (op.Responses.Value("403") != nil) {
				t.Errorf("%s: can be refused with 403: %v, but in openapi.yaml it is otherwise", key, can)
			}
			if rt.role != Open && op.Responses.Value("401") == nil {
				t.Errorf("%s: needs a password but openapi.yaml has no 401", key)
			}
			if isWrite(m) && rt.role == Viewer {
				t.Errorf("%s: a viewer may write", key)
			}
			if op.Summary == "" && item.Summary == "" {
				t.Errorf("%s has no summary", key)
			}
		}
	}
	for path, item := range doc.Paths.Map() {
		for m := range item.Operations() {
			if !inTable[m+" "+path] {
				t.Errorf("%s %s is in openapi.yaml, not in the table", m, path)
			}
		}
	}
	if len(inTable) < 90 {
		t.Errorf("only %d lines in the table", len(inTable))
	}
}
