package s3_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/persistence/s3"
)

// TestOverlap: a server that compares when it writes tells one of two
// overlapping writers that it succeeded, one that compares when a request
// arrives tells both.
func TestOverlap(t *testing.T) {
	var writing sync.Mutex
	for _, c := range []struct {
		name  string
		front func(w http.ResponseWriter, r *http.Request, s3 http.Handler)
		want  int
	}{
		{"compares when it writes", func(w http.ResponseWriter, r *http.Request, s3 http.Handler) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			r.Body = io.NopCloser(bytes.NewReader(body))
			s3.ServeHTTP(w, r)
		}, 1},
		{"compares when a request arrives", func(w http.ResponseWriter, r *http.Request, s3 http.Handler) {
			// The first byte is here; the condition holds, as far as it goes.
			r.Header.Del("If-Match")
			s3.ServeHTTP(w, r)
		}, 2},
		{"has writers queue", func(w http.ResponseWriter, r *http.Request, s3 http.Handler) {
			writing.Lock()
			defer writing.Unlock()
			s3.ServeHTTP(w, r)
		}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := serve(t)
			s.through(c.front)
			st := s.open(t, s3.Options{})
			sub, err := st.Sub(".overlap")
			if err != nil {
				t.Fatal(err)
			}
			if n, err := sub.(persistence.Overlapper).Overlap(t.Context(), time.Millisecond); n != c.want || err != nil {
				t.Errorf("%d winners, %v; want %d", n, err, c.want)
			}
			if err := sub.RemoveAll(t.Context()); err != nil {
				t.Error(err)
			}
			if _, err := st.Overlap(t.Context(), time.Millisecond); !errors.Is(err, persistence.Unsupported) {
				t.Errorf("in a plane's own location: %v", err)
			}
		})
	}
}
