package s3_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"go.uber.org/goleak"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/persistence/s3"
	"github.com/understudy-ha/understudy/persistence/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	bucket = "planes"
	prefix = "a/plane"
	// What must never show. Made up.
	accessKey = "AKIDUNDERSTUDYTEST"
	secret    = "s3cretS3cretS3cretS3cretS3cretS3cret00"
	session   = "t0kenT0kenT0kenT0kenT0kenT0kenT0kenT0ken"
)

var keys = aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
	return aws.Credentials{AccessKeyID: accessKey, SecretAccessKey: secret, SessionToken: session, Source: "test"}, nil
})

// server is an S3 server of this process with one bucket. Requests pass
// through front, when one is set.
type server struct {
	*httptest.Server
	s3    http.Handler
	front atomic.Pointer[func(w http.ResponseWriter, r *http.Request, s3 http.Handler)]
	seen  atomic.Int64
}

func serve(t *testing.T) *server {
	t.Helper()
	// Nothing of the machine's own configuration must show.
	t.Setenv("AWS_CONFIG_FILE", t.TempDir()+"/none")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", t.TempDir()+"/none")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	backend := s3mem.New()
	if err := backend.CreateBucket(bucket); err != nil {
		t.Fatal(err)
	}
	quiet := gofakes3.StdLog(log.New(io.Discard, "", 0))
	s := &server{s3: gofakes3.New(backend, gofakes3.WithLogger(quiet)).Server()}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.seen.Add(1)
		if f := s.front.Load(); f != nil {
			(*f)(w, r, s.s3)
			return
		}
		s.s3.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

// through has requests pass f.
func (s *server) through(f func(w http.ResponseWriter, r *http.Request, s3 http.Handler)) {
	s.front.Store(&f)
}

func (s *server) open(t *testing.T, opts s3.Options) *s3.Store {
	t.Helper()
	if opts.Endpoint == "" {
		opts.Endpoint = s.URL
	}
	if opts.Credentials == nil {
		opts.Credentials = keys
	}
	st, err := s3.Open(bucket, prefix, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	return st
}

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) (a, b persistence.Store) {
		t.Helper()
		s := serve(t)
		return s.open(t, s3.Options{}), s.open(t, s3.Options{})
	})
}

// A bucket without a prefix is a location too.
func TestWholeBucket(t *testing.T) {
	s := serve(t)
	st, err := s3.Open(bucket, "", s3.Options{Endpoint: s.URL, Credentials: keys})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	empty := func(want bool) {
		t.Helper()
		if got, err := st.Empty(t.Context()); got != want || err != nil {
			t.Errorf("empty: %t, %v; want %t", got, err, want)
		}
	}
	sub, err := st.Sub(".verify-x")
	if err != nil {
		t.Fatal(err)
	}
	if err := sub.Init(t.Context(), []byte("u1.0")); err != nil {
		t.Fatal(err)
	}
	empty(true)
	if err := st.Put(t.Context(), "nodes/x", strings.NewReader("x"), 1); err != nil {
		t.Fatal(err)
	}
	empty(false)
	page, err := st.List(t.Context(), "", "")
	if err != nil || len(page.Items) != 1 || page.Items[0].Key != "nodes/x" {
		t.Errorf("list: %+v, %v", page, err)
	}
	if err := sub.RemoveAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := st.Get(t.Context(), "nodes/x"); err != nil {
		t.Errorf("after removing a scratch area: %v", err)
	}
}

// A scratch area larger than a page is skipped, not listed through.
func TestListSkipsScratchAreas(t *testing.T) {
	s := serve(t)
	st := s.open(t, s3.Options{})
	sub, err := st.Sub(".verify-x")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 1001 {
		if err := sub.Put(t.Context(), fmt.Sprintf("nodes/%04d", i), strings.NewReader(""), 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := st.Put(t.Context(), "nodes/x", strings.NewReader("x"), 1); err != nil {
		t.Fatal(err)
	}
	page, err := st.List(t.Context(), "", "")
	if err != nil || page.More || len(page.Items) != 1 || page.Items[0].Key != "nodes/x" {
		t.Errorf("list: %+v, %v", page, err)
	}
	if err := sub.RemoveAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if page, err := sub.List(t.Context(), "", ""); err != nil || len(page.Items) != 0 {
		t.Errorf("removed, it lists %d objects, %v", len(page.Items), err)
	}
}

func TestMissingBucket(t *testing.T) {
	s := serve(t)
	st, err := s3.Open("nowhere", "", s3.Options{Endpoint: s.URL, Credentials: keys})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	err = st.Check(t.Context())
	if err == nil || !strings.Contains(err.Error(), "create the bucket") {
		t.Errorf("check: %v", err)
	}
}
