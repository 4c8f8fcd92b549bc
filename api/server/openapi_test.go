package server

import (
	"net/http"
	"slices"
	"strings"
	"testing"
)

// Each route is in the document and the other way round, with the same
// methods and the same need of a password.
func TestRoutesAndDocumentAgree(t *testing.T) {
	doc, err := document()
	if err != nil {
		t.Fatalf("openapi.yaml: %v", err)
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
			if openInDoc := op.Security != nil && len(*op.Security) == 0; openInDoc != (rt.role == open) {
				t.Errorf("%s: open in openapi.yaml: %v, in the table: %v", key, openInDoc, rt.role == open)
			}
			if refuses := op.Responses.Value("403") != nil; refuses != (isWrite(m) && !rt.anyNode) && rt.path != "/v1/server/shutdown" {
				t.Errorf("%s: 403 in openapi.yaml: %v, exempt from the master check in the table: %v", key, refuses, rt.anyNode)
			}
			if rt.role != open && op.Responses.Value("401") == nil {
				t.Errorf("%s: needs a password but openapi.yaml has no 401", key)
			}
			if isWrite(m) && rt.role == viewer {
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
