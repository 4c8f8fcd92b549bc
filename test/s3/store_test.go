package s3_test

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/persistence/s3"
	"github.com/understudy-ha/understudy/persistence/storetest"
	"github.com/understudy-ha/understudy/persistence/verify"
	"github.com/understudy-ha/understudy/test/e2e/harness"
	"github.com/understudy-ha/understudy/test/s3/double"
	"github.com/understudy-ha/understudy/test/s3/server"
)

// full reports whether the full counts are asked for.
func full() bool { return harness.Full() || os.Getenv("S3_FULL") == "1" }

func rounds(short, long int) int {
	if full() {
		return long
	}
	return short
}

// servers are the real ones that keep the contract.
func servers() []string {
	if full() {
		return []string{server.Versity, server.MinIO}
	}
	return []string{server.Versity}
}

// open opens a handle of its own on a location of a server.
func open(t *testing.T, s *server.Server, prefix string) *s3.Store {
	t.Helper()
	inPath := true
	st, err := s3.Open(s.Bucket, prefix, s3.Options{Endpoint: s.URL, PathStyle: &inPath, Credentials: s.Keys()})
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// prefixes are drawn for locations, so that one server serves many tests.
var prefixes atomic.Int64

func newPrefix() string { return fmt.Sprintf("p%d/location", prefixes.Add(1)) }

func TestConformance(t *testing.T) {
	for _, name := range servers() {
		t.Run(name, func(t *testing.T) {
			s := server.Start(t, name)
			storetest.Run(t, func(t *testing.T) (a, b persistence.Store) {
				t.Helper()
				prefix := newPrefix()
				return open(t, s, prefix), open(t, s, prefix)
			})
		})
	}
}

// TestVerify: a server that keeps the contract passes, with more writers and
// rounds than an operator's check has, too.
func TestVerify(t *testing.T) {
	for _, name := range servers() {
		t.Run(name, func(t *testing.T) {
			s := server.Start(t, name)
			for _, o := range []verify.Options{{Writers: 16, Rounds: 20}, {Writers: 32, Rounds: rounds(20, 200)}} {
				st := open(t, s, newPrefix())
				defer st.Close()
				o.OperationTimeout = 20 * time.Second // this machine may be busy; latency is not the question
				r, err := verify.Run(t.Context(), st, o)
				if err != nil {
					t.Fatalf("%d × %d: %v", o.Writers, o.Rounds, err)
				}
				harness.Note(t, fmt.Sprintf("%d × %d in %v: %s", o.Writers, o.Rounds, r.Took.Round(time.Millisecond), r.Verdict))
				if !r.OK {
					t.Errorf("%d × %d: %s", o.Writers, o.Rounds, r.Verdict)
				}
			}
		})
	}
}

// liar is a server that must not be trusted.
type liar struct {
	name  string
	start func(t *testing.T) *server.Server
}

func liars() []liar {
	racy := func(h http.Handler) http.Handler { return double.Racy(h, 3*time.Millisecond) }
	out := []liar{
		{"ignores preconditions", func(t *testing.T) *server.Server { t.Helper(); return server.Fake(t, double.Ignoring) }},
		{"looks, then writes", func(t *testing.T) *server.Server { t.Helper(); return server.Fake(t, racy) }},
	}
	if full() {
		out = append(out, liar{server.OldVersity, func(t *testing.T) *server.Server { t.Helper(); return server.Start(t, server.OldVersity) }})
	}
	return out
}

// TestLiarsAreRefused: every one of ten checks tells them.
func TestLiarsAreRefused(t *testing.T) {
	for _, l := range liars() {
		t.Run(l.name, func(t *testing.T) {
			s := l.start(t)
			for n := range 10 {
				st := open(t, s, newPrefix())
				r, err := verify.Run(t.Context(), st, verify.Options{OperationTimeout: 20 * time.Second})
				if err != nil {
					t.Fatal(err)
				}
				if r.OK || !strings.HasPrefix(r.Verdict, "NOT SAFE") || !strings.Contains(r.Verdict, "use another") {
					t.Errorf("run %d: %s", n+1, r.Verdict)
				}
				if n == 0 {
					harness.Note(t, r.Verdict)
				}
				if err := st.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}
