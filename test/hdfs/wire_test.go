package hdfs_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/persistence/hdfs"
	"github.com/understudy-ha/understudy/test/hdfs/cluster"
)

// wire lies between a store and one NameNode, and can lose what comes back.
type wire struct {
	port int

	mu    sync.Mutex
	armed bool
	pass  int // replies that pass before the one that is lost
	let   int // bytes of that one that pass
	lost  int // replies
}

// lose has a reply lost, after so many bytes of it, and its connection ended.
func (w *wire) lose(pass, let int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.armed, w.pass, w.let = true, pass, let
}

// fate says whether this reply is lost, and what of it still passes.
func (w *wire) fate() (let int, lost bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case !w.armed:
		return 0, false
	case w.pass > 0:
		w.pass--
		return 0, false
	}
	w.armed = false
	w.lost++
	return w.let, true
}

func newWire(t *testing.T, to int) *wire {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "localhost:0")
	must(t, err)
	w := &wire{port: l.Addr().(*net.TCPAddr).Port}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := new(net.Dialer).DialContext(t.Context(), "tcp", fmt.Sprintf("localhost:%d", to))
			if err != nil {
				_ = client.Close()
				continue
			}
			wg.Go(func() { _, _ = io.Copy(server, client); _ = server.Close() })
			wg.Go(func() { w.back(client, server); _ = client.Close() })
		}
	})
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	return w
}

// back passes on what the NameNode says.
func (w *wire) back(client, server net.Conn) {
	buf := make([]byte, 64<<10)
	for {
		n, err := server.Read(buf)
		if err != nil {
			return
		}
		if let, lost := w.fate(); lost {
			_, _ = client.Write(buf[:min(let, n)])
			_ = server.Close()
			return
		}
		if _, err := client.Write(buf[:n]); err != nil {
			return
		}
	}
}

// TestLostReply: the NameNode answers, and the answer is lost, as a whole or
// half-way. That is unknown, and found out by reading: of the two requests that a
// swap is made of, only the second one does something. The connection is not used
// again.
func TestLostReply(t *testing.T) {
	alongside(t)
	c := hdfsCluster(t)
	w := newWire(t, active(t, c).RPC)
	s, err := hdfs.Open(fmt.Sprintf("localhost:%d", w.port), newDir(t, c, ""), hdfs.Options{User: cluster.User})
	must(t, err)
	t.Cleanup(func() { _ = s.Close() }) // before the wire waits for its connections
	must(t, s.Init(t.Context(), []byte("u1.0")))
	snap, err := s.Read(t.Context())
	must(t, err)
	lost := 0
	for _, let := range []int{0, 1, 3, 4, 5, 20} { // a reply has more bytes
		for pass, what := range []string{"getFileInfo", "rename2"} {
			lost++
			val := fmt.Sprintf("u1.%d", lost)
			w.lose(pass, let)
			if _, err := s.CAS(limited(t, settle), snap.Version, []byte(val)); !errors.Is(err, persistence.Unknown) {
				t.Fatalf("%d bytes of the reply to %s: %v, want Unknown", let, what, err)
			}
			now, err := s.Read(limited(t, settle))
			must(t, err)
			if applied := string(now.Value) == val; applied != (what == "rename2") || (!applied && now.Version != snap.Version) {
				t.Errorf("%d bytes of the reply to %s: it reads %q", let, what, now.Value)
			}
			if snap.Version, err = s.CAS(limited(t, settle), now.Version, []byte(val+".again")); err != nil {
				t.Fatalf("the next swap: %v", err)
			}
		}
	}
	if w.lost != lost {
		t.Errorf("%d replies were lost, want %d", w.lost, lost)
	}
}
