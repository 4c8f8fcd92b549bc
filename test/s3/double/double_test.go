package double_test

import (
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"

	"github.com/understudy-ha/understudy/test/s3/double"
)

func fake(t *testing.T) http.Handler {
	t.Helper()
	b := s3mem.New()
	if err := b.CreateBucket("b"); err != nil {
		t.Fatal(err)
	}
	return gofakes3.New(b).Server()
}

func put(h http.Handler, header, etag, body string) (code int, newTag string) {
	r := httptest.NewRequest(http.MethodPut, "/b/k", strings.NewReader(body)) //nolint:noctx // answered at once
	r.Header.Set("Content-Length", strconv.Itoa(len(body)))
	if header != "" {
		r.Header.Set(header, etag)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Code, w.Header().Get("ETag")
}

// swaps has several writers swap the same version at once and counts those
// that were told that they did.
func swaps(h http.Handler, etag string) (winners int) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	for i := range 8 {
		wg.Go(func() {
			code, _ := put(h, "If-Match", etag, strings.Repeat("x", i+1))
			mu.Lock()
			defer mu.Unlock()
			if code == http.StatusOK {
				winners++
			}
		})
	}
	wg.Wait()
	return winners
}

// TestDoubles: the server beneath keeps the promise, the doubles made of it
// break it each in its own way.
func TestDoubles(t *testing.T) {
	for _, c := range []struct {
		name    string
		of      func(http.Handler) http.Handler
		alone   int // answer to a swap of a wrong version by a client that is alone
		winners func(int) bool
	}{
		{"honest", func(h http.Handler) http.Handler { return h }, http.StatusPreconditionFailed, func(n int) bool { return n == 1 }},
		{"ignoring", double.Ignoring, http.StatusOK, func(n int) bool { return n == 8 }},
		{"racy", func(h http.Handler) http.Handler { return double.Racy(h, 20*time.Millisecond) }, http.StatusPreconditionFailed, func(n int) bool { return n > 1 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := c.of(fake(t))
			code, tag := put(h, "If-None-Match", "*", "0")
			if code != http.StatusOK {
				t.Fatalf("create: %d", code)
			}
			if code, _ := put(h, "If-Match", `"00000000000000000000000000000000"`, "1"); code != c.alone {
				t.Errorf("a swap of a wrong version is answered %d, want %d", code, c.alone)
			}
			if code == http.StatusOK {
				_, tag = put(h, "", "", "2")
			}
			if n := swaps(h, tag); !c.winners(n) {
				t.Errorf("%d winners of 8", n)
			}
		})
	}
}
