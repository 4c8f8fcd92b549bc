package hdfs

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/understudy-ha/understudy/persistence"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server takes connections on loopback and has f serve them.
func server(t *testing.T, f func(net.Conn)) (address string, taken *atomic.Int32) {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	taken = new(atomic.Int32)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			taken.Add(1)
			f(c)
			t.Cleanup(func() { _ = c.Close() })
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return l.Addr().String(), taken
}

func openAt(t *testing.T, address string) *Store {
	t.Helper()
	t.Setenv("HADOOP_CONF_DIR", "")
	t.Setenv("HADOOP_HOME", "")
	s, err := Open(address, "/p", Options{User: "tester"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// within gives f so much time and fails the test if it takes more.
func within(t *testing.T, limit time.Duration, f func(ctx context.Context) error) error {
	t.Helper()
	const late = 500 * time.Millisecond // of a busy machine
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	from := time.Now()
	err := f(ctx)
	if took := time.Since(from); took > limit+late {
		t.Errorf("it took %v, with %v to do it in", took, limit)
	}
	return err
}

// TestNobodyAnswers: every operation ends in time when the NameNode is silent,
// any number of times, and nothing stays behind.
func TestNobodyAnswers(t *testing.T) {
	address, taken := server(t, func(net.Conn) {})
	s := openAt(t, address)
	for name, f := range map[string]func(ctx context.Context) error{
		"read": func(ctx context.Context) error { _, err := s.Read(ctx); return err },
		"cas":  func(ctx context.Context) error { _, err := s.CAS(ctx, "u1.a", []byte("u1.b")); return err },
		"init": func(ctx context.Context) error { return s.Init(ctx, []byte("u1.c")) },
		"put":  func(ctx context.Context) error { return s.Put(ctx, "k", strings.NewReader("x"), 1) },
		"big": func(ctx context.Context) error {
			return s.Put(ctx, "k", strings.NewReader(strings.Repeat("x", 9<<10)), -1)
		},
		"get":    func(ctx context.Context) error { _, err := s.Get(ctx, "k"); return err },
		"list":   func(ctx context.Context) error { _, err := s.List(ctx, "", ""); return err },
		"delete": func(ctx context.Context) error { return s.Delete(ctx, "k") },
		"check":  s.Check,
	} {
		for range 3 {
			err := within(t, 100*time.Millisecond, f)
			if !errors.Is(err, persistence.Unknown) || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "no answer from the NameNode") {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if taken.Load() == 0 {
		t.Error("nobody was asked")
	}
}

// TestNotHadoop: other servers are told from a NameNode at once, whatever they
// answer.
func TestNotHadoop(t *testing.T) {
	web := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(web.Close)
	tls := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(tls.Close)
	ssh, _ := server(t, func(c net.Conn) { _, _ = c.Write([]byte("SSH-2.0-OpenSSH_9.2\r\n")) })
	for name, address := range map[string]string{
		"http": web.Listener.Addr().String(), "https": tls.Listener.Addr().String(), "ssh": ssh,
	} {
		s := openAt(t, address)
		err := within(t, 5*time.Second, func(ctx context.Context) error { _, err := s.Read(ctx); return err })
		if errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "NameNode") {
			t.Errorf("%s: %v", name, err)
		}
		t.Logf("%s: %v", name, err)
	}
	hung, _ := server(t, func(c net.Conn) { _ = c.Close() })
	err := within(t, 5*time.Second, openAt(t, hung).Check)
	if !errors.Is(err, persistence.Unknown) || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a server that hangs up: %v", err)
	}
	nobody, _ := server(t, func(net.Conn) {})
	s := openAt(t, nobody)
	s.link.addresses = []string{"127.0.0.1:1"}
	err = within(t, 5*time.Second, s.Check)
	if !errors.Is(err, persistence.Unknown) || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("nobody there: %v", err)
	}
}

// TestHungOneIsAskedLast: of two NameNodes the one that did not answer is not
// asked first again.
func TestHungOneIsAskedLast(t *testing.T) {
	hung, first := server(t, func(net.Conn) {})
	other, second := server(t, func(c net.Conn) {
		_, _ = io.ReadAtLeast(c, make([]byte, 4<<10), 150) // beyond the handshake, hence a request
		_ = c.Close()
	})
	s := openAt(t, hung)
	s.link.addresses = []string{hung, other}
	read := func(ctx context.Context) error { _, err := s.Read(ctx); return err }
	if err := within(t, 200*time.Millisecond, read); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	if err := within(t, 5*time.Second, read); errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	if first.Load() != 1 || second.Load() == 0 {
		t.Errorf("the hung one was asked %d times, the other one %d times", first.Load(), second.Load())
	}
}

// TestCallerLeaves: one who has enough says nothing about the NameNode.
func TestCallerLeaves(t *testing.T) {
	hung, _ := server(t, func(net.Conn) {})
	s := openAt(t, hung)
	s.link.addresses = []string{hung, hung}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	if _, err := s.Read(ctx); !errors.Is(err, context.Canceled) || !errors.Is(err, persistence.Unknown) {
		t.Error(err)
	}
	if s.link.order()[0] != 0 {
		t.Error("the NameNode was passed over")
	}
}
