package proxy_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/understudy-ha/understudy/test/s3/proxy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// backend counts what arrives and answers with the body, or a page.
type backend struct {
	mu   sync.Mutex
	got  []string
	host string
}

const page = "0123456789abcdefghij"

func (b *backend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	b.mu.Lock()
	b.got = append(b.got, r.Method+" "+r.URL.RequestURI()+" "+string(body))
	b.host = r.Host
	b.mu.Unlock()
	w.Header().Set("ETag", `"e"`)
	_, _ = io.WriteString(w, page)
}

func (b *backend) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.got)
}

func start(t *testing.T) (*proxy.Proxy, *backend) {
	t.Helper()
	b := &backend{}
	srv := httptest.NewServer(b)
	t.Cleanup(srv.Close)
	return proxy.Start(t, srv.URL, 1), b
}

// ask sends a request of its own connection.
func ask(t *testing.T, p *proxy.Proxy, method, path, body string, within time.Duration) (int, string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, p.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{DisableKeepAlives: true}
	defer tr.CloseIdleConnections()
	res, err := tr.RoundTrip(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return res.StatusCode, string(b), err
}

func TestPassesOnWhatItIsGiven(t *testing.T) {
	p, b := start(t)
	code, body, err := ask(t, p, http.MethodPut, "/bucket/key?x=1", "value", time.Second)
	if code != 200 || body != page || err != nil {
		t.Errorf("answered %d %q, %v", code, body, err)
	}
	if len(b.got) != 1 || b.got[0] != "PUT /bucket/key?x=1 value" || "http://"+b.host != p.URL {
		t.Errorf("the server got %q for host %q", b.got, b.host)
	}
	rs := p.Requests()
	if len(rs) != 1 || rs[0].Kind != proxy.Put || rs[0].Path != "/bucket/key" || rs[0].Status != 200 || !bytes.Equal(rs[0].Body, []byte("value")) {
		t.Errorf("kept: %+v", rs)
	}
}

func TestKinds(t *testing.T) {
	p, _ := start(t)
	for _, c := range []struct{ method, path string }{
		{http.MethodPut, "/b/k"},
		{http.MethodPost, "/b/k?uploads"},
		{http.MethodGet, "/b/k"},
		{http.MethodGet, "/b?list-type=2"},
		{http.MethodGet, "/b/?list-type=2"},
		{http.MethodHead, "/b/k"},
		{http.MethodDelete, "/b/k"},
	} {
		if _, _, err := ask(t, p, c.method, c.path, "", time.Second); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := proxy.Count(p.Requests()).String(), "2 PUT, 1 GET, 2 LIST, 1 HEAD, 1 DELETE"; got != want {
		t.Errorf("counted %s, want %s", got, want)
	}
	p.Forget()
	if n := len(p.Requests()); n != 0 {
		t.Errorf("%d requests after Forget", n)
	}
}

// TestFaults: what the client sees, and how often the server got the request.
func TestFaults(t *testing.T) {
	for _, c := range []struct {
		name   string
		rule   proxy.Rule
		sees   func(code int, body string, err error) bool
		served int
	}{
		{"reset before", proxy.Rule{Reset: true}, wasReset, 0},
		{"reset after", proxy.Rule{Reset: true, After: true}, wasReset, 1},
		{"503", proxy.Rule{Status: 503, Code: "SlowDown"}, answered(503, "<Code>SlowDown</Code>"), 0},
		{"503 after", proxy.Rule{Status: 503, Code: "SlowDown", After: true}, answered(503, "<Code>SlowDown</Code>"), 1},
		{"200 with an error", proxy.Rule{Status: 200, Code: "InternalError"}, answered(200, "<Code>InternalError</Code>"), 0},
		{"twice", proxy.Rule{Twice: true}, answered(200, page), 2},
		{"cut", proxy.Rule{Cut: true}, func(code int, body string, err error) bool { return code == 200 && err != nil && len(body) < len(page) }, 1},
		{"hang", proxy.Rule{Hang: true}, timedOut, 0},
		{"hang after", proxy.Rule{Hang: true, After: true}, timedOut, 1},
		{"slow", proxy.Rule{Delay: 50 * time.Millisecond}, answered(200, page), 1},
		{"too slow", proxy.Rule{Delay: time.Minute}, timedOut, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, b := start(t)
			c.rule.Path = "key"
			f := p.Inject(c.rule)
			if code, body, err := ask(t, p, http.MethodPut, "/b/other", "", 5*time.Second); code != 200 || err != nil {
				t.Errorf("another path: %d %q, %v", code, body, err)
			}
			code, body, err := ask(t, p, http.MethodPut, "/b/key", "v", time.Second)
			if !c.sees(code, body, err) {
				t.Errorf("the client sees %d %q, %v", code, body, err)
			}
			if f.Fired() != 1 || b.count() != 1+c.served {
				t.Errorf("fired %d times; the server got %d requests, want %d", f.Fired(), b.count(), 1+c.served)
			}
			f.Remove()
			if code, _, err := ask(t, p, http.MethodPut, "/b/key", "v", 5*time.Second); code != 200 || err != nil {
				t.Errorf("once it is removed: %d, %v", code, err)
			}
		})
	}
}

func wasReset(_ int, _ string, err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, io.EOF)
}

func timedOut(_ int, _ string, err error) bool { return errors.Is(err, context.DeadlineExceeded) }

func answered(status int, part string) func(int, string, error) bool {
	return func(code int, body string, err error) bool {
		return code == status && err == nil && strings.Contains(body, part)
	}
}

// TestSentIsSent: a client that gives up does not call its request back.
func TestSentIsSent(t *testing.T) {
	release := make(chan struct{})
	var served sync.WaitGroup
	served.Add(1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer served.Done()
		<-release
		if r.Context().Err() != nil {
			t.Error("the request was called back")
		}
		w.WriteHeader(http.StatusOK)
	}))
	t.Cleanup(srv.Close)
	p := proxy.Start(t, srv.URL, 1)
	if _, _, err := ask(t, p, http.MethodPut, "/b/k", "v", 200*time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	close(release)
	served.Wait()
	for range 500 {
		if len(p.Requests()) == 1 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("the answer was not kept")
}

func TestSkipCountAndChance(t *testing.T) {
	p, _ := start(t)
	f := p.Inject(proxy.Rule{Method: http.MethodGet, Skip: 1, Count: 2, Status: 503, Code: "SlowDown"})
	var codes []int
	for range 5 {
		code, _, err := ask(t, p, http.MethodGet, "/b/k", "", 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		codes = append(codes, code)
	}
	if want := []int{200, 503, 503, 200, 200}; f.Fired() != 2 || !slices.Equal(codes, want) {
		t.Errorf("fired %d times, answers %v, want %v", f.Fired(), codes, want)
	}
	p.Clear()
	half := p.Inject(proxy.Rule{Chance: 0.5, Status: 503})
	for range 100 {
		if _, _, err := ask(t, p, http.MethodGet, "/b/k", "", 5*time.Second); err != nil {
			t.Fatal(err)
		}
	}
	if n := half.Fired(); n < 30 || n > 70 {
		t.Errorf("one of two fired %d times of 100", n)
	}
}
