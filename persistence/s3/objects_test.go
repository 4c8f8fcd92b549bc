package s3_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/persistence/s3"
)

const part = 5 << 20

// uploads counts what becomes of multi-part uploads.
type uploads struct{ begun, parts, completed, aborted atomic.Int64 }

func (u *uploads) watch(w http.ResponseWriter, r *http.Request, s3 http.Handler) {
	q := r.URL.Query()
	switch {
	case r.Method == http.MethodPost && q.Has("uploads"):
		u.begun.Add(1)
	case r.Method == http.MethodPost && q.Has("uploadId"):
		u.completed.Add(1)
	case r.Method == http.MethodPut && q.Has("uploadId"):
		u.parts.Add(1)
	case r.Method == http.MethodDelete && q.Has("uploadId"):
		u.aborted.Add(1)
	}
	s3.ServeHTTP(w, r)
}

func TestUploadInParts(t *testing.T) {
	s := serve(t)
	content := make([]byte, 2*part)
	_, _ = rand.Read(content)
	for _, tc := range []struct {
		size  int
		parts int64 // 0: one PUT
	}{
		{part, 0}, {part + 1, 2}, {2 * part, 2},
	} {
		for _, announced := range []int64{int64(tc.size), -1} {
			var u uploads
			s.through(u.watch)
			st := s.open(t, s3.Options{PartSize: part})
			if err := st.Put(t.Context(), "artifacts/big", bytes.NewReader(content[:tc.size]), announced); err != nil {
				t.Fatalf("put %d bytes, announced %d: %v", tc.size, announced, err)
			}
			if u.parts.Load() != tc.parts || u.begun.Load() != u.completed.Load() || u.aborted.Load() != 0 {
				t.Errorf("%d bytes, announced %d: %d parts, %d begun, %d completed, %d aborted; want %d parts",
					tc.size, announced, u.parts.Load(), u.begun.Load(), u.completed.Load(), u.aborted.Load(), tc.parts)
			}
			r, err := st.Get(t.Context(), "artifacts/big")
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(r)
			if err = errors.Join(err, r.Close()); err != nil || !bytes.Equal(got, content[:tc.size]) {
				t.Errorf("%d bytes came back as %d, %v", tc.size, len(got), err)
			}
		}
	}
}

// broken gives n bytes, then fails.
type broken struct{ n int }

var errBroken = errors.New("broken")

func (b *broken) Read(p []byte) (int, error) {
	if b.n == 0 {
		return 0, errBroken
	}
	n := min(b.n, len(p))
	b.n -= n
	return n, nil
}

// An upload that does not get to its end leaves nothing: neither an object nor
// parts that are paid for.
func TestUploadThatFails(t *testing.T) {
	s := serve(t)
	blank := strings.NewReader(strings.Repeat("x", 2*part+5))
	for name, tc := range map[string]struct {
		content io.Reader
		size    int64
		fault   func(w http.ResponseWriter, r *http.Request) bool
		want    error
	}{
		"its content breaks off": {&broken{2*part + 5}, -1, nil, errBroken},
		"it is too short":        {io.LimitReader(blank, 2*part), 2*part + 5, nil, nil},
		"it is too long":         {strings.NewReader(strings.Repeat("x", 2*part+5)), 2 * part, nil, nil},
		"a part is refused": {strings.NewReader(strings.Repeat("x", 2*part)), -1, func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Query().Get("partNumber") != "2" {
				return false
			}
			reply(503, "SlowDown", "slow", nil)(w, r, nil)
			return true
		}, persistence.Throttled},
		"a part is refused late": {strings.NewReader(strings.Repeat("x", 2*part)), -1, func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Query().Get("partNumber") != "2" {
				return false
			}
			_, _ = io.WriteString(w, errorBody)
			return true
		}, persistence.Unknown},
		"the end is refused late": {strings.NewReader(strings.Repeat("x", 2*part)), -1, func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodPost || !r.URL.Query().Has("uploadId") {
				return false
			}
			_, _ = io.WriteString(w, errorBody)
			return true
		}, persistence.Unknown},
	} {
		t.Run(name, func(t *testing.T) {
			var u uploads
			s.through(func(w http.ResponseWriter, r *http.Request, s3 http.Handler) {
				if tc.fault == nil || !tc.fault(w, r) {
					u.watch(w, r, s3)
				}
			})
			st := s.open(t, s3.Options{PartSize: part})
			err := st.Put(t.Context(), "artifacts/big", tc.content, tc.size)
			if err == nil || (tc.want != nil && !errors.Is(err, tc.want)) {
				t.Errorf("put: %v; want %v", err, tc.want)
			}
			if u.begun.Load() != 1 || u.aborted.Load() != 1 {
				t.Errorf("%d uploads begun, %d aborted; want one of each", u.begun.Load(), u.aborted.Load())
			}
			if empty, err := st.Empty(t.Context()); !empty || err != nil {
				t.Errorf("something was left behind: %t, %v", empty, err)
			}
		})
	}
}

// The caller's time ends in the middle: Put returns at once, and the parts are
// removed all the same.
func TestUploadGivenUp(t *testing.T) {
	s := serve(t)
	var u uploads
	ctx, cancel := context.WithCancel(t.Context())
	s.through(func(w http.ResponseWriter, r *http.Request, s3 http.Handler) {
		if r.URL.Query().Get("partNumber") == "2" {
			_, _ = io.Copy(io.Discard, r.Body)
			cancel()
			<-r.Context().Done()
			return
		}
		u.watch(w, r, s3)
	})
	st := s.open(t, s3.Options{PartSize: part})
	err := st.Put(ctx, "artifacts/big", strings.NewReader(strings.Repeat("x", 3*part)), -1)
	if !errors.Is(err, persistence.Unknown) || !errors.Is(err, context.Canceled) {
		t.Errorf("put: %v; want Unknown and Canceled", err)
	}
	for end := time.Now().Add(10 * time.Second); u.aborted.Load() == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the parts were never removed")
		}
	}
}

// zeroes gives n bytes without holding them.
type zeroes struct{ n int64 }

func (z *zeroes) Read(p []byte) (int, error) {
	if z.n == 0 {
		return 0, io.EOF
	}
	n := min(z.n, int64(len(p)))
	clear(p[:n])
	z.n -= n
	return int(n), nil
}

// sink is a server that takes uploads and keeps nothing; large objects read
// back as zeroes.
func sink(size int64) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		switch {
		case r.Method == http.MethodPost && q.Has("uploads"):
			_, _ = io.WriteString(w, "<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>")
		case r.Method == http.MethodPost:
			_, _ = io.Copy(io.Discard, r.Body)
			_, _ = io.WriteString(w, `<CompleteMultipartUploadResult><ETag>"e"</ETag></CompleteMultipartUploadResult>`)
		case r.Method == http.MethodPut:
			_, _ = io.Copy(io.Discard, r.Body)
			w.Header().Set("ETag", `"e"`)
		case r.Method == http.MethodGet:
			w.Header().Set("ETag", `"e"`)
			w.Header().Set("Content-Length", fmt.Sprint(size))
			_, _ = io.Copy(w, &zeroes{size})
		}
	})
}

// peak runs f and returns by how much the heap grew at most, in bytes.
func peak(f func()) int64 {
	defer debug.SetGCPercent(debug.SetGCPercent(20))
	runtime.GC()
	var before, now runtime.MemStats
	runtime.ReadMemStats(&before)
	stop, done := make(chan struct{}), make(chan int64)
	go func() {
		var most int64
		for tick := time.NewTicker(5 * time.Millisecond); ; {
			select {
			case <-tick.C:
				runtime.ReadMemStats(&now)
				most = max(most, int64(now.HeapAlloc)-int64(before.HeapAlloc)) //nolint:gosec // far from overflow
			case <-stop:
				tick.Stop()
				done <- most
				return
			}
		}
	}()
	f()
	close(stop)
	return <-done
}

// 256 MiB go through in the memory of a few parts, there and back.
func TestMemoryOfLargeObjects(t *testing.T) {
	serve(t) // for its environment
	const size, limit = 256 << 20, 64 << 20
	server := httptest.NewServer(sink(size))
	defer server.Close()
	st, err := s3.Open(bucket, prefix, s3.Options{Endpoint: server.URL, Credentials: keys})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	for name, f := range map[string]func() error{
		"put, size known":   func() error { return st.Put(t.Context(), "artifacts/big", &zeroes{size}, size) },
		"put, size unknown": func() error { return st.Put(t.Context(), "artifacts/big", &zeroes{size}, -1) },
		"get": func() error {
			r, err := st.Get(t.Context(), "artifacts/big")
			if err != nil {
				return err
			}
			n, err := io.Copy(io.Discard, r)
			if n != size {
				t.Errorf("%d bytes came back", n)
			}
			return errors.Join(err, r.Close())
		},
	} {
		var err error
		grown := peak(func() { err = f() })
		t.Logf("%s: 256 MiB with %.1f MiB more heap", name, float64(grown)/(1<<20))
		if err != nil || grown > limit {
			t.Errorf("%s: %d bytes more heap, %v; want at most %d", name, grown, err, limit)
		}
	}
}
