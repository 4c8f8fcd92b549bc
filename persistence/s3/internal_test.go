package s3

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/understudy-ha/understudy/persistence"
)

// isolate keeps the machine's own configuration out of a test.
func isolate(t *testing.T) (credentialsFile string) {
	t.Helper()
	dir := t.TempDir()
	for _, name := range SecretVariables() {
		t.Setenv(name, "")
	}
	credentialsFile = filepath.Join(dir, "credentials")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", credentialsFile)
	t.Setenv("AWS_CONFIG_FILE", filepath.Join(dir, "config"))
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	return credentialsFile
}

// watch is a clock that is set by hand.
type watch struct {
	mu  sync.Mutex
	now time.Time
}

func (w *watch) Now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *watch) forward(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

// source gives out credentials key1, key2, … each good for an hour.
type source struct {
	clock *watch
	mu    sync.Mutex
	given int
	err   error
	block chan struct{} // when set, waits for it
}

func (s *source) Retrieve(ctx context.Context) (aws.Credentials, error) {
	s.mu.Lock()
	block, err := s.block, s.err
	s.mu.Unlock()
	if block != nil {
		select {
		case <-block:
		case <-ctx.Done():
			return aws.Credentials{}, ctx.Err()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.given++
	if err != nil {
		return aws.Credentials{}, err
	}
	return aws.Credentials{
		AccessKeyID: "key" + string(rune('0'+s.given)), SecretAccessKey: "x",
		CanExpire: true, Expires: s.clock.Now().Add(time.Hour),
	}, nil
}

func (s *source) set(err error, block chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err, s.block = err, block
}

// newKeyring returns a keyring whose background work the test waits for.
func newKeyring(t *testing.T) (*keyring, *source, *watch) {
	t.Helper()
	clock := &watch{now: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)}
	src := &source{clock: clock}
	ctx, cancel := context.WithCancel(context.Background())
	var wait sync.WaitGroup
	t.Cleanup(func() { cancel(); wait.Wait() })
	run := func(f func(context.Context)) bool {
		wait.Go(func() { f(ctx) })
		return true
	}
	return &keyring{source: src, now: clock.Now, run: run}, src, clock
}

func retrieve(t *testing.T, k *keyring) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, err := k.Retrieve(ctx)
	if err != nil {
		t.Fatalf("retrieve: %v", err)
	}
	return c.AccessKeyID
}

// eventually looks until f holds.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

func TestRenewedAheadWithoutWaiting(t *testing.T) {
	k, src, clock := newKeyring(t)
	if got := retrieve(t, k); got != "key1" {
		t.Fatalf("first: %s", got)
	}
	clock.forward(54 * time.Minute)
	if got := retrieve(t, k); got != "key1" || src.given != 1 {
		t.Fatalf("with 6 minutes left: %s after %d renewals", got, src.given)
	}
	block := make(chan struct{})
	src.set(nil, block)
	clock.forward(2 * time.Minute)
	for range 3 { // does not wait for the renewal, which hangs
		if got := retrieve(t, k); got != "key1" {
			t.Fatalf("with 4 minutes left: %s", got)
		}
	}
	close(block)
	eventually(t, "the renewed credentials are used", func() bool { return retrieve(t, k) == "key2" })
}

func TestExpiredAreWaitedFor(t *testing.T) {
	k, src, clock := newKeyring(t)
	retrieve(t, k)
	block := make(chan struct{})
	src.set(nil, block)
	clock.forward(2 * time.Hour)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := k.Retrieve(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("expired, renewal hangs: %v; want DeadlineExceeded", err)
	}
	close(block)
	if got := retrieve(t, k); got != "key2" {
		t.Fatalf("expired: %s", got)
	}
}

// When the source fails the old ones are tried: it is for the server to say
// that they have expired.
func TestSourceFails(t *testing.T) {
	k, src, clock := newKeyring(t)
	retrieve(t, k)
	src.set(errors.New("no answer from the identity provider"), nil)
	clock.forward(2 * time.Hour)
	if got := retrieve(t, k); got != "key1" {
		t.Fatalf("got %s", got)
	}
	if why := k.trouble(); !strings.Contains(why, "identity provider") {
		t.Errorf("trouble %q", why)
	}
	for range 5 {
		retrieve(t, k)
	}
	if src.given != 2 {
		t.Errorf("%d renewals within the pause, want 2", src.given)
	}
	src.set(nil, nil)
	clock.forward(renewPause)
	eventually(t, "the source is asked again", func() bool { return retrieve(t, k) == "key3" })
	if why := k.trouble(); why != "" {
		t.Errorf("trouble %q after it has passed", why)
	}
}

func TestNoCredentialsAtFirst(t *testing.T) {
	k, src, clock := newKeyring(t)
	src.set(errors.New("not yet"), nil)
	for range 3 {
		var ke *keyError
		if _, err := k.Retrieve(t.Context()); !errors.As(err, &ke) || !strings.Contains(err.Error(), "not yet") {
			t.Fatalf("%v; want why", err)
		}
	}
	if src.given != 1 {
		t.Errorf("the source was asked %d times, want once within the pause", src.given)
	}
	src.set(nil, nil)
	clock.forward(renewPause)
	if got := retrieve(t, k); got != "key2" {
		t.Errorf("got %s", got)
	}
}

// Credentials in a file that somebody renews: the server refuses the old ones,
// the file is read anew, and the store goes on by itself.
func TestExpiredMidRun(t *testing.T) {
	file := isolate(t)
	write := func(key string) {
		text := "[default]\naws_access_key_id = " + key + "\naws_secret_access_key = hidden\naws_session_token = veiled\n"
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("OLDKEY")
	var mu sync.Mutex
	good := "OLDKEY"
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if !strings.Contains(r.Header.Get("Authorization"), "Credential="+good+"/") {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = w.Write([]byte("<Error><Code>ExpiredToken</Code><Message>The token veiled of OLDKEY has expired.</Message></Error>"))
			return
		}
		w.Header().Set("ETag", `"1"`)
		_, _ = w.Write([]byte("u1.0"))
	}))
	defer server.Close()
	clock := &watch{now: time.Now()}
	st, err := Open("b", "p", Options{Endpoint: server.URL, now: clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	if _, err := st.Read(t.Context()); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	good = "NEWKEY"
	mu.Unlock()
	_, err = st.Read(t.Context())
	if !errors.Is(err, persistence.Denied) || !strings.Contains(err.Error(), "renew them") {
		t.Fatalf("expired: %v; want Denied and the remedy", err)
	}
	for _, s := range []string{"OLDKEY", "hidden", "veiled"} {
		if strings.Contains(err.Error(), s) {
			t.Errorf("shows %s: %v", s, err)
		}
	}
	write("NEWKEY")
	clock.forward(renewPause)
	eventually(t, "the store goes on with what the file holds", func() bool {
		_, err := st.Read(t.Context())
		return err == nil
	})
}

func TestNoCredentials(t *testing.T) {
	isolate(t)
	st, err := Open("b", "p", Options{Endpoint: "http://127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	if err := st.Check(t.Context()); !errors.Is(err, persistence.Denied) || !strings.Contains(err.Error(), "set AWS_ACCESS_KEY_ID") {
		t.Errorf("%v; want Denied and where to put them", err)
	}
}

// Where the bucket goes: into the path with an endpoint, into the name of the
// host otherwise, unless it is said.
func TestAddressing(t *testing.T) {
	isolate(t)
	hosts := make(chan string, 10)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hosts <- r.Host + r.URL.Path
		w.WriteHeader(http.StatusNotFound)
	}))
	defer server.Close()
	yes, no := true, false
	for want, opts := range map[string]Options{
		"s3.test/buck/p/lease":    {Endpoint: "http://s3.test"},
		"buck.s3.test/p/lease":    {Endpoint: "http://s3.test", PathStyle: &no},
		"s3.test:81/buck/p/lease": {Endpoint: "http://s3.test:81", PathStyle: &yes},
	} {
		opts.Credentials = aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: "a", SecretAccessKey: "b"}, nil
		})
		st, err := Open("buck", "p", opts)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range st.wires {
			w.base.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, network, server.Listener.Addr().String())
			}
		}
		_, _ = st.Read(t.Context()) // the server has nothing
		if got := <-hosts; got != want {
			t.Errorf("%s, want %s", got, want)
		}
		_ = st.Close()
	}
}

func TestSkip(t *testing.T) {
	for key, want := range map[string]string{
		".verify-x/.reg/lease": ".verify-x0", ".a/b": ".a0", ".check-x": ".check-x", "nodes/.x": "nodes/.x", "-": "-",
	} {
		if got := skip(key); got != want {
			t.Errorf("behind %q: %q, want %q", key, got, want)
		}
	}
}

// A directory bucket lists in any order and takes no StartAfter.
func TestExpressListing(t *testing.T) {
	isolate(t)
	var queries []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		queries = append(queries, r.URL.Query().Get("prefix")+"|"+r.URL.Query().Get("start-after"))
		w.Header().Set("Content-Type", "application/xml")
		if r.URL.Query().Get("continuation-token") == "" {
			_, _ = w.Write([]byte(`<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>` +
				`<Contents><Key>p/nodes/c</Key><Size>3</Size></Contents><Contents><Key>p/nodes/a</Key><Size>1</Size></Contents></ListBucketResult>`))
			return
		}
		_, _ = w.Write([]byte(`<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>p/nodes/b</Key><Size>2</Size></Contents></ListBucketResult>`))
	}))
	defer server.Close()
	st, err := Open("b", "p", Options{Endpoint: server.URL, Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
		return aws.Credentials{AccessKeyID: "a", SecretAccessKey: "b"}, nil
	})})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	st.express = true
	page, err := st.List(t.Context(), "nodes/", "nodes/a")
	want := []persistence.Item{{Key: "nodes/b", Size: 2}, {Key: "nodes/c", Size: 3}}
	if err != nil || page.More || len(page.Items) != 2 || page.Items[0] != want[0] || page.Items[1] != want[1] {
		t.Errorf("%+v, %v; want %+v", page, err, want)
	}
	for _, q := range queries {
		if q != "p/nodes/|" {
			t.Errorf("asked for prefix and start %q", q)
		}
	}
}
