package server

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/understudy-ha/understudy/pkg/lease"
)

// FuzzRequests sends anything at all, without and with the password: nothing
// panics, redirects or is let in, and health paths answer 200 or 503.
func FuzzRequests(f *testing.F) {
	for _, rt := range routes() {
		for _, m := range rt.methods {
			f.Add(m, rt.path, "standbycode=200&limit=1&since=2", "mode=AUTO&priority=1&nodeId=nself001", false)
		}
	}
	f.Add("PATCH", "//v1/../master", "%zz;;=&mastercode=-1", "%zz", true)
	f.Add("OPTIONS", "*", "", "", true)
	health := map[string]bool{}
	for _, rt := range routes() {
		if rt.health && rt.role == Open && rt.path != "/v1/server/ha/health" {
			health[rt.path] = true
		}
	}
	anyNodes := []string{"Shutdown", "Nudge", "Operate", "CancelPlanned", "EndMaintenance"}
	f.Fuzz(func(t *testing.T, method, path, query, form string, known bool) {
		node := &fakeNode{st: status(lease.StateStandby), now: start}
		req, err := http.NewRequestWithContext(t.Context(), method, "http://node/", strings.NewReader(form))
		if err != nil {
			return // no such request can be sent
		}
		req.URL = &url.URL{Scheme: "http", Host: "node", Path: path, RawQuery: query}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		if known {
			req.SetBasicAuth("admin", secret)
		}
		w := &discard{h: http.Header{}}
		New(node, Options{Gate: gate(Gate{Users: fixedAuth{}})}).ServeHTTP(w, req)
		if w.code == http.StatusInternalServerError || w.code/100 == 3 || w.code < 200 || w.code > 599 {
			t.Errorf("%d", w.code)
		}
		if health[path] && !isWrite(method) && w.code != http.StatusOK && w.code != http.StatusServiceUnavailable {
			t.Errorf("a health path answers %d", w.code)
		}
		for _, c := range node.called() {
			if !known && c != "Nudge" {
				t.Errorf("%s without a password", c)
			}
			if known && !slices.ContainsFunc(anyNodes, func(p string) bool { return strings.HasPrefix(c, p) }) {
				t.Errorf("%s on a node that is not MASTER", c)
			}
		}
	})
}
