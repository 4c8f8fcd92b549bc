package harness

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"
)

const (
	loadEvery = 20 * time.Millisecond // 50 requests a second
	// What REST has to keep to while the store hangs. A machine that does not
	// manage that for a healthy plane either is measured against itself.
	loadP99 = 5 * time.Millisecond
	loadMax = 100 * time.Millisecond
)

// loadPaths is what monitors and operators ask; those under /v1 want a
// password.
var loadPaths = []string{"/master", "/v1/server/ha/state", "/v1/server/ha/states"}

// Load asks the nodes in turn, 50 times a second, whatever became of the
// requests before, and returns how long each answer took. Every request must
// be answered, and truthfully as far as the answer alone can tell.
func Load(tb testing.TB, nodes []*Node, requests int) []time.Duration {
	tb.Helper()
	client := Insecure()
	defer client.CloseIdleConnections()
	type account struct{ user, password string }
	accounts := make([]account, len(nodes))
	for i, n := range nodes {
		user, password, err := n.Credentials()
		if err != nil {
			tb.Fatal(err)
		}
		accounts[i] = account{user, password}
	}
	ask := func(ctx context.Context, i int) error {
		at := i % len(nodes)
		path := loadPaths[i/len(nodes)%len(loadPaths)]
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, nodes[at].URL(path), http.NoBody)
		if err != nil {
			return err
		}
		req.SetBasicAuth(accounts[at].user, accounts[at].password)
		res, err := client.Do(req)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil {
			return err
		}
		return plausible(path, res.StatusCode, body)
	}
	for i := range len(nodes) * len(loadPaths) { // connect, and have the passwords checked once
		if err := ask(tb.Context(), i); err != nil {
			tb.Fatal(err)
		}
	}
	var (
		wait sync.WaitGroup
		mu   sync.Mutex
		out  []time.Duration
	)
	tick := time.NewTicker(loadEvery)
	defer tick.Stop()
	for i := range requests {
		<-tick.C
		wait.Go(func() {
			from := time.Now()
			err := ask(tb.Context(), i)
			took := time.Since(from)
			mu.Lock()
			defer mu.Unlock()
			out = append(out, took)
			if err != nil {
				tb.Errorf("request %d: %v", i, err)
			}
		})
	}
	wait.Wait()
	slices.Sort(out)
	return out
}

// Insecure is a client that keeps its connections, as a monitor's does.
func Insecure() *http.Client {
	return &http.Client{
		Timeout: 5 * time.Second,
		Transport: &http.Transport{
			TLSClientConfig:     &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // self-signed, on loopback
			MaxIdleConnsPerHost: 4,
		},
	}
}

func plausible(path string, code int, body []byte) error {
	switch {
	case path == "/master" && (code == http.StatusOK || code == http.StatusServiceUnavailable):
		return nil
	case path == "/master" || code != http.StatusOK:
		return fmt.Errorf("%s: status %d: %s", path, code, body)
	case !json.Valid(bytes.TrimSpace(body)):
		return fmt.Errorf("%s: not JSON: %s", path, body)
	}
	return nil
}

// JudgeLoad holds the answers during a hang against the limits, or against
// three times what the healthy plane took on a machine too busy for those.
// Both are sorted.
func JudgeLoad(tb testing.TB, healthy, hanging []time.Duration) {
	tb.Helper()
	tell := func(what string, d []time.Duration) {
		Note(tb, fmt.Sprintf("REST %s: n=%d p50=%v p99=%v max=%v", what, len(d), quantile(d, 50), quantile(d, 99), d[len(d)-1].Round(time.Microsecond)))
	}
	tell("with a healthy store", healthy)
	tell("with a hanging store", hanging)
	if got, most := quantile(hanging, 99), max(loadP99, 3*quantile(healthy, 99)); got > most {
		tb.Errorf("p99 is %v while the store hangs, want at most %v", got, most)
	}
	if got, most := hanging[len(hanging)-1], max(loadMax, 3*healthy[len(healthy)-1]); got > most {
		tb.Errorf("the slowest answer took %v while the store hangs, want at most %v", got, most)
	}
}

func quantile(sorted []time.Duration, percent int) time.Duration {
	return sorted[min(len(sorted)*percent/100, len(sorted)-1)].Round(time.Microsecond)
}
