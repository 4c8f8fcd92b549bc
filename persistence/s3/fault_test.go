package s3_test

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/persistence/s3"
	"github.com/understudy-ha/understudy/persistence/verify"
)

// begin makes a register that holds u1.0.
func begin(t *testing.T, st *s3.Store) persistence.Snapshot {
	t.Helper()
	if err := st.Init(t.Context(), []byte("u1.0")); err != nil {
		t.Fatal(err)
	}
	return read(t, st)
}

func read(t *testing.T, st persistence.Register) persistence.Snapshot {
	t.Helper()
	snap, err := st.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return snap
}

// A write of the register is sent once, whatever comes back and whatever the
// environment asks of the SDK.
func TestRegisterIsSentOnce(t *testing.T) {
	s := serve(t)
	t.Setenv("AWS_MAX_ATTEMPTS", "7")
	t.Setenv("AWS_RETRY_MODE", "adaptive")
	st := s.open(t, s3.Options{})
	snap := begin(t, st)
	for name, f := range map[string]func(http.ResponseWriter, *http.Request, http.Handler){
		"503":      reply(503, "SlowDown", "slow", nil),
		"500":      reply(500, "InternalError", "oops", nil),
		"skew":     reply(403, "RequestTimeTooSkewed", "skew", http.Header{"Date": {time.Now().Add(time.Hour).UTC().Format(http.TimeFormat)}}),
		"reset":    func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { hangUp(w, "") },
		"redirect": reply(307, "TemporaryRedirect", "there", http.Header{"Location": {s.URL + "/elsewhere"}}),
	} {
		s.through(f)
		before := s.seen.Load()
		if _, err := st.CAS(t.Context(), snap.Version, []byte("u1.1")); !errors.Is(err, persistence.Unknown) {
			t.Errorf("%s: CAS: %v; want Unknown", name, err)
		}
		if n := s.seen.Load() - before; n != 1 {
			t.Errorf("%s: %d requests for one CAS", name, n)
		}
		before = s.seen.Load()
		if _, err := st.Read(t.Context()); !errors.Is(err, persistence.Unknown) {
			t.Errorf("%s: read: %v; want Unknown", name, err)
		}
		// A read that finds its idle connection closed may be sent again, by
		// net/http; a redirect is not followed.
		if n := s.seen.Load() - before; n != 1 && name != "reset" {
			t.Errorf("%s: %d requests for one read", name, n)
		}
	}
	s.through(reply(503, "SlowDown", "slow", nil))
	// What is idempotent is tried again.
	before := s.seen.Load()
	if _, err := st.List(t.Context(), "", ""); !errors.Is(err, persistence.Throttled) {
		t.Errorf("list: %v; want Throttled", err)
	}
	if n := s.seen.Load() - before; n != 3 {
		t.Errorf("%d requests for one list, want 3", n)
	}
}

// hangUp ends the connection after sending what is given.
func hangUp(w http.ResponseWriter, first string) {
	c, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	_, _ = buf.WriteString(first)
	_ = buf.Flush()
	_ = c.Close()
}

// The reply is lost after the write was applied: undecided, and a read tells.
func TestLostReply(t *testing.T) {
	s := serve(t)
	st := s.open(t, s3.Options{})
	snap := begin(t, st)
	s.through(func(w http.ResponseWriter, r *http.Request, s3 http.Handler) {
		s3.ServeHTTP(httptest.NewRecorder(), r)
		hangUp(w, "")
	})
	_, err := st.CAS(t.Context(), snap.Version, []byte("u1.1"))
	if !errors.Is(err, persistence.Unknown) {
		t.Errorf("CAS: %v; want Unknown", err)
	}
	s.front.Store(nil)
	if got := read(t, st); string(got.Value) != "u1.1" {
		t.Errorf("the register reads %q, want what was applied", got.Value)
	}
}

// Something on the way sends the request twice; the answer to the second is
// 412, although the first has won.
func TestReplayed(t *testing.T) {
	s := serve(t)
	st := s.open(t, s3.Options{})
	snap := begin(t, st)
	s.through(func(w http.ResponseWriter, r *http.Request, s3 http.Handler) {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		s3.ServeHTTP(httptest.NewRecorder(), r)
		r.Body = io.NopCloser(bytes.NewReader(body))
		s3.ServeHTTP(w, r)
	})
	if _, err := st.CAS(t.Context(), snap.Version, []byte("u1.1")); !errors.Is(err, persistence.Conflict) {
		t.Errorf("CAS: %v; want Conflict", err)
	}
	s.front.Store(nil)
	if got := read(t, st); string(got.Value) != "u1.1" {
		t.Errorf("the register reads %q, want what the first request wrote", got.Value)
	}
}

const errorBody = `<?xml version="1.0" encoding="UTF-8"?><Error><Code>InternalError</Code><Message>late</Message></Error>`

// Replies with the status of a success that are none: never applied, never a
// value, never Torn, since the next may be good.
func TestFalseSuccess(t *testing.T) {
	s := serve(t)
	st := s.open(t, s3.Options{})
	snap := begin(t, st)
	for name, send := range map[string]func(w http.ResponseWriter){
		"error":              func(w http.ResponseWriter) { _, _ = io.WriteString(w, errorBody) },
		"error with an ETag": func(w http.ResponseWriter) { w.Header().Set("ETag", `"v"`); _, _ = io.WriteString(w, errorBody) },
		"no ETag":            func(w http.ResponseWriter) { _, _ = io.WriteString(w, "") },
		"weak ETag":          func(w http.ResponseWriter) { w.Header().Set("ETag", `W/"v"`) },
		"wildcard":           func(w http.ResponseWriter) { w.Header().Set("ETag", "*") },
		"list of ETags":      func(w http.ResponseWriter) { w.Header().Set("ETag", `"a", "b"`) },
		"cut off": func(w http.ResponseWriter) {
			hangUp(w, "HTTP/1.1 200 OK\r\nETag: \"v\"\r\nContent-Length: 150\r\n\r\nu1.half")
		},
		"no length": func(w http.ResponseWriter) {
			hangUp(w, "HTTP/1.1 200 OK\r\nETag: \"v\"\r\nConnection: close\r\n\r\nu1.half")
		},
		"a page":        func(w http.ResponseWriter) { _, _ = io.WriteString(w, "<html>Please log in</html>") },
		"not asked for": func(w http.ResponseWriter) { w.WriteHeader(http.StatusNotModified) },
		"garbage":       func(w http.ResponseWriter) { hangUp(w, "SSH-2.0-OpenSSH\r\n") },
	} {
		s.through(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { send(w) })
		fresh := s.open(t, s3.Options{}) // has read nothing, so that 304 is no answer
		if got, err := fresh.Read(t.Context()); !errors.Is(err, persistence.Unknown) {
			t.Errorf("%s: read: %+v, %v; want Unknown", name, got, err)
		}
		if name != "no length" && name != "cut off" { // of which a PUT's reply needs nothing
			if v, err := st.CAS(t.Context(), snap.Version, []byte("u1.1")); !errors.Is(err, persistence.Unknown) {
				t.Errorf("%s: CAS: %q, %v; want Unknown", name, v, err)
			}
		}
		r, err := fresh.Get(t.Context(), "nodes/x")
		if err == nil {
			_, err = io.ReadAll(r)
			_ = r.Close()
		}
		if whole := slices.Contains([]string{"error with an ETag", "weak ETag", "wildcard", "list of ETags"}, name); !whole && !errors.Is(err, persistence.Unknown) {
			t.Errorf("%s: get: %v; want Unknown", name, err)
		}
	}
}

// Foreign content in place of the register lasts, so it is Torn.
func TestGarbageInRegister(t *testing.T) {
	s := serve(t)
	st := s.open(t, s3.Options{})
	begin(t, st)
	for _, garbage := range []string{"", "U1.0", "u1 0", "<html>", strings.Repeat("a", 201), strings.Repeat("x", 1<<20), "u1\x00"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, s.URL+"/"+bucket+"/"+prefix+"/lease", strings.NewReader(garbage))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("put garbage: %v, %v", resp, err)
		}
		_ = resp.Body.Close()
		if got, err := st.Read(t.Context()); !errors.Is(err, persistence.Torn) {
			t.Errorf("%.20q: read %+v, %v; want Torn", garbage, got, err)
		}
	}
	http.DefaultClient.CloseIdleConnections()
}

// Conditions that would hold always, or be left out, never leave this machine.
func TestNoUnconditionalWrite(t *testing.T) {
	s := serve(t)
	st := s.open(t, s3.Options{})
	begin(t, st)
	before := s.seen.Load()
	for _, v := range []persistence.Version{"", "*", `""`, `"*"`, `"a","b"`, `"a", *`, "a b", `W/"a"`, "\r\nX: y", "ü"} {
		if _, err := st.CAS(t.Context(), v, []byte("u1.1")); !errors.Is(err, persistence.Conflict) {
			t.Errorf("CAS on %q: %v; want Conflict", v, err)
		}
	}
	for _, val := range []string{"", strings.Repeat("a", 201)} {
		if _, err := st.CAS(t.Context(), `"v"`, []byte(val)); !errors.Is(err, persistence.Unsupported) {
			t.Errorf("CAS to %d bytes: %v; want Unsupported", len(val), err)
		}
	}
	if n := s.seen.Load() - before; n != 0 {
		t.Errorf("%d requests were sent", n)
	}
}

// Every operation returns by its deadline while the server says nothing.
func TestSilence(t *testing.T) {
	s := serve(t)
	st := s.open(t, s3.Options{})
	snap := begin(t, st)
	over := make(chan struct{})
	defer close(over)
	s.through(func(http.ResponseWriter, *http.Request, http.Handler) { <-over })
	for name, f := range map[string]func(context.Context) error{
		"read":   func(ctx context.Context) error { _, err := st.Read(ctx); return err },
		"cas":    func(ctx context.Context) error { _, err := st.CAS(ctx, snap.Version, []byte("u1.1")); return err },
		"put":    func(ctx context.Context) error { return st.Put(ctx, "nodes/x", strings.NewReader("x"), 1) },
		"get":    func(ctx context.Context) error { _, err := st.Get(ctx, "nodes/x"); return err },
		"list":   func(ctx context.Context) error { _, err := st.List(ctx, "", ""); return err },
		"delete": func(ctx context.Context) error { return st.Delete(ctx, "nodes/x") },
		"check":  st.Check,
		"inspect": func(ctx context.Context) error {
			for _, f := range st.Inspect(ctx) {
				if f.Status == persistence.GradeFail {
					return errors.Join(persistence.Unknown, context.DeadlineExceeded)
				}
			}
			return nil
		},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		begun := time.Now()
		if err := f(ctx); !errors.Is(err, persistence.Unknown) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v; want Unknown and DeadlineExceeded", name, err)
		}
		cancel()
		if took := time.Since(begun); took > 2*time.Second {
			t.Errorf("%s took %v for a deadline of 50ms", name, took)
		}
	}
}

// Many requests that hang do not keep the next one from being sent.
func TestStuckRequestsDoNotBlock(t *testing.T) {
	s := serve(t)
	st := s.open(t, s3.Options{})
	begin(t, st)
	over := make(chan struct{})
	defer close(over)
	var stuck atomic.Int64
	s.through(func(w http.ResponseWriter, r *http.Request, s3 http.Handler) {
		if strings.Contains(r.URL.Path, "nodes/") {
			stuck.Add(1)
			<-over
			return
		}
		s3.ServeHTTP(w, r)
	})
	ctx, cancel := context.WithCancel(t.Context())
	var wait sync.WaitGroup
	for range 100 {
		wait.Go(func() { _, _ = st.Get(ctx, "nodes/x") })
	}
	defer wait.Wait()
	defer cancel()
	const conns = 64 // of one kind, at most
	for end := time.Now().Add(10 * time.Second); stuck.Load() < conns; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d requests hang, want %d", stuck.Load(), conns)
		}
	}
	bounded, stop := context.WithTimeout(t.Context(), 5*time.Second)
	defer stop()
	if _, err := st.Read(bounded); err != nil {
		t.Errorf("read behind stuck objects: %v", err)
	}
}

// What counts as a read, and what requests it takes.
func TestRequestsAreCounted(t *testing.T) {
	s := serve(t)
	var mu sync.Mutex
	var got []string
	st := s.open(t, s3.Options{Count: func(op string) {
		mu.Lock()
		defer mu.Unlock()
		got = append(got, op)
	}})
	snap := begin(t, st) // PUT, GET
	first := read(t, st) // GET-304
	if string(first.Value) != "u1.0" || first.Version != snap.Version {
		t.Errorf("not modified: %+v, want %+v", first, snap)
	}
	first.Value[0] = 'X'                                     // the caller's own
	if again := read(t, st); string(again.Value) != "u1.0" { // GET-304
		t.Errorf("a caller changed what others read: %q", again.Value)
	}
	other := s.open(t, s3.Options{})
	if _, err := other.CAS(t.Context(), snap.Version, []byte("u1.1")); err != nil {
		t.Fatal(err)
	}
	second := read(t, st) // GET
	if string(second.Value) != "u1.1" {
		t.Errorf("after a change by another: %q", second.Value)
	}
	v, err := st.CAS(t.Context(), second.Version, []byte("u1.2")) // PUT
	if err != nil {
		t.Fatal(err)
	}
	if third := read(t, st); third.Version != v || string(third.Value) != "u1.2" { // GET
		t.Errorf("after an own change: %+v, want version %q", third, v)
	}
	if _, err := st.List(t.Context(), "nodes/", ""); err != nil { // LIST
		t.Fatal(err)
	}
	if err := st.Delete(t.Context(), "nodes/x"); err != nil { // DELETE
		t.Fatal(err)
	}
	if want := []string{"PUT", "GET", "GET-304", "GET-304", "GET", "PUT", "GET", "LIST", "DELETE"}; !slices.Equal(got, want) {
		t.Errorf("counted %q, want %q", got, want)
	}
}

// A "not modified" about another version than the one asked for is no answer.
func TestNotModifiedOfAnother(t *testing.T) {
	s := serve(t)
	st := s.open(t, s3.Options{})
	begin(t, st)
	s.through(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		w.Header().Set("ETag", `"another"`)
		w.WriteHeader(http.StatusNotModified)
	})
	if got, err := st.Read(t.Context()); !errors.Is(err, persistence.Unknown) {
		t.Errorf("read %+v, %v; want Unknown", got, err)
	}
}

// Settings reach the requests.
func TestSettings(t *testing.T) {
	s := serve(t)
	var last atomic.Pointer[http.Request]
	s.through(func(w http.ResponseWriter, r *http.Request, s3 http.Handler) {
		last.Store(r.Clone(context.Background()))
		s3.ServeHTTP(w, r)
	})
	st := s.open(t, s3.Options{Region: "eu-north-1", SSE: "aws:kms", KMSKeyID: "key-7"})
	begin(t, st)
	if err := st.Put(t.Context(), "nodes/x", strings.NewReader("x"), 1); err != nil {
		t.Fatal(err)
	}
	r := last.Load()
	for header, want := range map[string]string{
		"X-Amz-Server-Side-Encryption":                    "aws:kms",
		"X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id":     "key-7",
		"X-Amz-Server-Side-Encryption-Bucket-Key-Enabled": "true",
		"X-Amz-Security-Token":                            session,
	} {
		if got := r.Header.Get(header); got != want {
			t.Errorf("%s: %q, want %q", header, got, want)
		}
	}
	if a := r.Header.Get("Authorization"); !strings.Contains(a, "/eu-north-1/s3/") {
		t.Errorf("signed as %q, want region eu-north-1", a)
	}
	for name := range r.Header {
		if strings.Contains(name, "Checksum") || strings.Contains(name, "Trailer") {
			t.Errorf("%s is sent, which other services refuse", name)
		}
	}
	if want := "/" + bucket + "/" + prefix + "/nodes/x"; r.URL.Path != want {
		t.Errorf("path %s, want %s", r.URL.Path, want)
	}
}

// An authority of one's own is trusted when it is named, and only then.
func TestAuthority(t *testing.T) {
	s := serve(t)
	secure := httptest.NewUnstartedServer(s.s3)
	secure.Config.ErrorLog = log.New(io.Discard, "", 0) // it is refused on purpose
	secure.StartTLS()
	defer secure.Close()
	file := t.TempDir() + "/ca.pem"
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw})
	if err := os.WriteFile(file, block, 0o600); err != nil {
		t.Fatal(err)
	}
	begin(t, s.open(t, s3.Options{Endpoint: secure.URL, CAFile: file}))
	t.Setenv("AWS_CA_BUNDLE", file)
	read(t, s.open(t, s3.Options{Endpoint: secure.URL}))
	t.Setenv("AWS_CA_BUNDLE", "")
	if _, err := s.open(t, s3.Options{Endpoint: secure.URL}).Read(t.Context()); !errors.Is(err, persistence.Unknown) || !strings.Contains(err.Error(), "store.s3.caFile") {
		t.Errorf("an unknown authority: %v; want Unknown and what to set", err)
	}
}

func TestUnreachable(t *testing.T) {
	s := serve(t)
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	_ = l.Close()
	st := s.open(t, s3.Options{Endpoint: "http://127.0.0.1:" + strconv.Itoa(port)})
	_, err = st.Read(t.Context())
	if !errors.Is(err, persistence.Unknown) || !strings.Contains(err.Error(), "connection refused; check store.s3.endpoint") {
		t.Errorf("%v; want Unknown and what to check", err)
	}
	noSecrets(t, err)
}

func TestClosed(t *testing.T) {
	s := serve(t)
	st := s.open(t, s3.Options{})
	snap := begin(t, st)
	sub, err := st.Sub(".x")
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	before := s.seen.Load()
	_, casErr := st.CAS(t.Context(), snap.Version, []byte("u1.1"))
	for _, err := range []error{casErr, sub.Init(t.Context(), []byte("u1.0")), st.Check(t.Context())} {
		if !errors.Is(err, persistence.Unknown) {
			t.Errorf("after Close: %v; want Unknown", err)
		}
	}
	if n := s.seen.Load() - before; n != 0 {
		t.Errorf("%d requests after Close", n)
	}
}

// The verdict of verify on a good server, and on one that takes conditions and
// ignores them.
func TestVerify(t *testing.T) {
	s := serve(t)
	r, err := verify.Run(t.Context(), s.open(t, s3.Options{}), verify.Options{Short: true, OperationTimeout: 10 * time.Second})
	if err != nil || !r.OK {
		t.Errorf("a good server: %+v, %v", r, err)
	}
	s.through(func(w http.ResponseWriter, r *http.Request, s3 http.Handler) {
		r.Header.Del("If-Match")
		s3.ServeHTTP(w, r)
	})
	r, err = verify.Run(t.Context(), s.open(t, s3.Options{}), verify.Options{Short: true, OperationTimeout: 10 * time.Second})
	if err != nil || r.OK || !strings.Contains(r.Verdict, "NOT SAFE") {
		t.Errorf("a server that ignores If-Match: %+v, %v; want NOT SAFE", r, err)
	}
}
