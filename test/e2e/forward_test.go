package e2e_test

import (
	"context"
	"crypto/tls"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/test/e2e/harness"
)

// Through any node the MASTER is written to and read from, by whoever may; and
// without one the answer is that there is none.
func TestForwardToTheMaster(t *testing.T) {
	p := harness.NewPlane(t, harness.Options{Nodes: 2, Settings: map[string]any{"server.nonMaster": "forward", "ha.hotStandby": false}})
	master := p.StartAndWait(30 * time.Second)
	standby := p.Standby(master)
	c := standby.Client(&tls.Config{InsecureSkipVerify: true})
	c.Timeout = 20 * time.Second // the machine may be busy; nothing here is measured
	ask := func(method, body string) (int, string, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, standby.URL("/v1/state/greeting"), strings.NewReader(body))
		must(t, err)
		user, password, err := standby.Credentials()
		must(t, err)
		req.SetBasicAuth(user, password)
		req.Header.Set("Content-Type", "application/octet-stream")
		resp, err := c.Do(req)
		must(t, err)
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		must(t, err)
		return resp.StatusCode, resp.Header.Get("X-HA-Node"), string(b)
	}
	// Until each has read the other's record, the answer is to come again.
	until := func(what string, method, body string, want int) (string, string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		for {
			code, node, got := ask(method, body)
			if code == want {
				return node, got
			}
			if code != http.StatusServiceUnavailable {
				t.Fatalf("%s: %d %s", what, code, got)
			}
			select {
			case <-time.After(50 * time.Millisecond):
			case <-ctx.Done():
				t.Fatalf("%s: still %d %s", what, code, got)
			}
		}
	}
	if node, _ := until("a write", http.MethodPut, "hello", http.StatusNoContent); node != master.ID() {
		t.Errorf("written by %q, want the MASTER %q", node, master.ID())
	}
	if node, got := until("a read", http.MethodGet, "", http.StatusOK); node != master.ID() || got != "hello" {
		t.Errorf("%q of %q", got, node)
	}
}
