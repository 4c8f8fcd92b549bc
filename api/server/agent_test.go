package server

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// The agent port says what holds at the moment of the connection: also that the
// lease has run out, although nobody has told the node yet.
func TestAgent(t *testing.T) {
	t.Parallel()
	ln, err := ListenAgent(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	n := &fakeNode{now: start}
	var wg sync.WaitGroup
	wg.Go(func() { ServeAgent(ctx, ln, n, zap.NewNop()) })
	ask := func() string {
		t.Helper()
		c, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(t.Context(), "tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		b, err := io.ReadAll(c)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	reign := ha.ReignStatus{Term: 1, T0: start, End: time.Minute, Leading: true}
	with := func(f func(*ha.ReignStatus)) *ha.Status {
		r := reign
		f(&r)
		return &ha.Status{Standing: lease.StateStandby, Reign: &r}
	}
	for _, c := range []struct {
		name string
		st   *ha.Status
		late time.Duration
		want string
	}{
		{"standby", &ha.Status{Standing: lease.StateStandby}, 0, "down\n"},
		{"starting", with(func(*ha.ReignStatus) {}), 0, "down\n"},
		{"master", with(func(r *ha.ReignStatus) { r.Ready = true }), 0, "up ready\n"},
		{"draining", with(func(r *ha.ReignStatus) { r.Ending = true }), 0, "drain\n"},
		{"lease over", with(func(r *ha.ReignStatus) { r.Ready = true }), time.Minute, "down\n"},
	} {
		n.mu.Lock()
		n.st, n.now = c.st, start.Add(c.late)
		n.mu.Unlock()
		if got := ask(); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
	// A client that hangs on keeps nobody waiting.
	idle, err := net.Dial("tcp", ln.Addr().String()) //nolint:noctx // loopback
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	ask()
	cancel()
	wg.Wait()
	if c, err := net.Dial("tcp", ln.Addr().String()); err == nil { //nolint:noctx // loopback
		c.Close()
		t.Error("it accepts after its end")
	}
}
