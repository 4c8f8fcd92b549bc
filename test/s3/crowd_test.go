package s3_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/persistence/s3"
	"github.com/understudy-ha/understudy/pkg/clock"
	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/lease"
	"github.com/understudy-ha/understudy/test/e2e/harness"
	"github.com/understudy-ha/understudy/test/s3/proxy"
	"github.com/understudy-ha/understudy/test/s3/server"
)

// crowd is a plane of library nodes, all behind one network.
type crowd struct {
	nodes []*ha.Node
	net   *proxy.Proxy
}

func newCrowd(t *testing.T, n int) *crowd {
	t.Helper()
	srv := server.Start(t, server.Versity)
	timing, err := election.Derive(election.TimingRequest{Preset: "default", PollDivisor: 1})
	must(t, err)
	first := open(t, srv, planePrefix)
	must(t, first.Init(t.Context(), lease.Value{Plane: ha.NewPlaneID(), Lease: timing.Timeout, WriteID: ha.NewWriteID()}.Encode()))
	must(t, first.Close())

	c := &crowd{net: proxy.Start(t, srv.URL, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	t.Cleanup(func() { cancel(); wg.Wait() })
	inPath := true
	for range n {
		st, err := s3.Open(srv.Bucket, planePrefix, s3.Options{Endpoint: c.net.URL, PathStyle: &inPath, Credentials: srv.Keys()})
		must(t, err)
		node, err := ha.New(st, ha.Options{
			Node: ha.NewNodeID(), Timing: timing, HotStandby: true, Clock: clock.Now,
			OnReign: func(ctx context.Context, _ ha.Reign) error { <-ctx.Done(); return ctx.Err() },
		})
		must(t, err)
		c.nodes = append(c.nodes, node)
		wg.Go(func() {
			if err := node.Run(ctx); err != nil {
				t.Error(err)
			}
			if err := st.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	return c
}

// master is the only one there is.
func (c *crowd) master() *ha.Node {
	var out *ha.Node
	for _, n := range c.nodes {
		if n.State() == lease.StateMaster {
			if out != nil {
				return nil
			}
			out = n
		}
	}
	return out
}

// claims counts attempts to claim: all writes of the register but the renewals
// of the new master, which follow its claim.
func claims(t *testing.T, rs []proxy.Request, master lease.Incarnation) (n int) {
	t.Helper()
	renewing := false
	for _, r := range rs {
		if r.Kind != proxy.Put || !strings.HasSuffix(r.Path, registerKey) {
			continue
		}
		v, err := lease.ParseValue(r.Body)
		must(t, err)
		if v.Incarnation != master || !renewing {
			n++
		}
		renewing = renewing || v.Incarnation == master && r.Status == http.StatusOK
	}
	return n
}

// TestCrowd compares planes of 10 and of 50 standbys: requests grow linearly,
// and a failover costs few attempts to claim.
func TestCrowd(t *testing.T) {
	if !full() {
		return // pkg/ha counts the same on virtual time
	}
	type bill struct{ rest, failover int }
	of := map[int]bill{}
	for _, n := range []int{10, 50} {
		t.Run(fmt.Sprint(n, " standbys"), func(t *testing.T) {
			c := newCrowd(t, n+1)
			if !harness.Poll(settle, func() bool { return c.master() != nil }) {
				t.Fatal("no master")
			}
			old := c.master()
			time.Sleep(45 * time.Second) // they get to know each other
			c.net.Forget()
			time.Sleep(time.Minute)
			rest := c.net.Requests()
			c.net.Forget()

			// The master's renewals no longer get through, those of nobody else do.
			cut := c.net.Inject(proxy.Rule{Method: http.MethodPut, Body: string(old.Incarnation()), Reset: true})
			from := time.Now()
			if !harness.Poll(2*time.Minute, func() bool { m := c.master(); return m != nil && m != old }) {
				t.Fatal("no other master")
			}
			took, next := time.Since(from), c.master()
			failover := c.net.Requests()
			time.Sleep(10 * time.Second) // whoever is late has tried by now
			claims := claims(t, c.net.Requests(), next.Incarnation())
			if cut.Fired() == 0 {
				t.Error("the fault never fired")
			}
			harness.Note(t, fmt.Sprintf("a minute at rest: %v; a failover of %v: %v, %d attempts to claim", proxy.Count(rest), took.Round(time.Millisecond), proxy.Count(failover), claims))
			if claims > 10 {
				t.Errorf("%d attempts to claim, want at most 10", claims)
			}
			of[n] = bill{len(rest), len(failover)}
		})
	}
	if len(of) < 2 {
		return // one of them was asked for
	}
	if a, b := of[10].rest, of[50].rest; b > 5*a {
		t.Errorf("at rest 50 standbys cost %d requests, 10 cost %d", b, a)
	}
	if a, b := of[10].failover, of[50].failover; b > 6*a {
		t.Errorf("a failover among 50 standbys cost %d requests, among 10 it cost %d", b, a)
	}
}
