package s3_test

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/understudy-ha/understudy/api/v1"
	"github.com/understudy-ha/understudy/test/e2e/harness"
	"github.com/understudy-ha/understudy/test/e2e/intervals"
	"github.com/understudy-ha/understudy/test/s3/proxy"
	"github.com/understudy-ha/understudy/test/s3/server"
)

const (
	fastT    = 5 * time.Second // of the preset "fast"
	fastBeat = 500 * time.Millisecond
	glance   = 10 * time.Second // how often nodes look at each other on S3

	// settle is how long a plane may take until one node serves and the others
	// watch, beyond the lease that may have to be waited out.
	settle = 30 * time.Second

	planePrefix = "a/plane"
	registerKey = planePrefix + "/lease"
)

// cloud is a plane of real nodes on an S3 server, each behind a network of its
// own.
type cloud struct {
	*harness.Plane
	server *server.Server
	of     map[string]*proxy.Proxy // by the name of the node
}

// newCloud makes a plane and starts no node.
func newCloud(t *testing.T, s *server.Server, o harness.Options) *cloud {
	t.Helper()
	proxies := map[string]*proxy.Proxy{}
	if o.Nodes == 0 {
		o.Nodes = 3
	}
	for i := range o.Nodes {
		proxies[fmt.Sprintf("n%d", i+1)] = proxy.Start(t, s.URL, uint64(i)) //nolint:gosec // small
	}
	return cloudOf(t, s, proxies, o)
}

// cloudOf is newCloud with the networks given; a node without one is directly
// at the server.
func cloudOf(t *testing.T, s *server.Server, proxies map[string]*proxy.Proxy, o harness.Options) *cloud {
	t.Helper()
	c := &cloud{server: s, of: proxies}
	o.Storage = &harness.Storage{
		Location: func(node string) string {
			if p := proxies[node]; p != nil {
				return s.Location(p.URL, planePrefix)
			}
			return s.Location("", planePrefix)
		},
		Env:      s.Env(),
		Register: c.register,
	}
	c.Plane = harness.NewPlane(t, o)
	t.Cleanup(func() { c.secrets(t) }) // while it lives
	return c
}

// register reads the register's object with a client of the test's own.
func (c *cloud) register() ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), requestLimit)
	defer cancel()
	out, err := c.server.Client().GetObject(ctx, &awss3.GetObjectInput{Bucket: &c.server.Bucket, Key: aws.String(registerKey)})
	if err != nil {
		return nil, err
	}
	defer out.Body.Close()
	return io.ReadAll(out.Body)
}

// net is the network of a node.
func (c *cloud) net(n *harness.Node) *proxy.Proxy { return c.of[n.Name] }

// everywhere injects a fault into every node's network.
func (c *cloud) everywhere(r proxy.Rule) (faults []*proxy.Fault) {
	for _, n := range c.Nodes {
		faults = append(faults, c.net(n).Inject(r))
	}
	return faults
}

// waitKnown waits until a master knows that all the others are there, so that
// it can nudge them, and each of them knows its rank.
func (c *cloud) waitKnown(t *testing.T, master *harness.Node) {
	t.Helper()
	for _, n := range c.Nodes {
		if n == master || !n.Running() {
			continue
		}
		if !harness.Poll(4*glance, func() bool {
			s, err := master.States()
			return err == nil && s.Nodes[n.ID()].Status == v1.StateHotStandby
		}) {
			t.Fatalf("%s never learns of %s", master.Name, n.Name)
		}
	}
}

// alongside lets the short forms of tests, which mostly wait, run beside each
// other. The full ones have figures to measure.
func alongside(t *testing.T) {
	t.Helper()
	if !full() {
		t.Parallel()
	}
}

// TestKillTree kills the master's whole process tree, as a power cut would:
// the next service starts within T + 1.5 s.
func TestKillTree(t *testing.T) {
	alongside(t)
	c := newCloud(t, server.Start(t, server.Versity), harness.Options{})
	master := c.StartAndWait(settle)
	var took []time.Duration
	for range rounds(2, 20) {
		c.AnyMoment(fastBeat)
		at := master.KillTree()
		next := c.WaitStart(at, 2*fastT+settle)
		took = append(took, next.Start.Sub(at))
		if c.NodeOf(next) == master {
			t.Errorf("%s serves again: %v", master.Name, next)
		}
		master.WaitExit(settle)
		master.Start()
		master = c.WaitSettled(settle)
	}
	if _, longest := harness.Figures(t, "S3: kill -9 of the whole tree to the next start, T=5s", took); longest > fastT+1500*time.Millisecond {
		t.Errorf("it took up to %v, want at most T + 1.5 s", longest)
	}
}

// TestTerminate ends the master's daemon in order: the others are nudged and
// claim at once. Those that can not be nudged claim with their next poll.
func TestTerminate(t *testing.T) {
	alongside(t)
	for _, tt := range []struct {
		name     string
		settings map[string]any
		most     time.Duration
	}{
		{"nudged", nil, 500 * time.Millisecond},
		// Where nodes say they live there is nobody. One poll, and what the
		// claim itself takes.
		{"not nudged", map[string]any{"nodeUri": "https://127.0.0.1:9/"}, fastBeat + 500*time.Millisecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			alongside(t)
			c := newCloud(t, server.Start(t, server.Versity), harness.Options{Settings: tt.settings})
			master := c.StartAndWait(settle)
			var gap []time.Duration
			for range rounds(1, 20) {
				c.waitKnown(t, master)
				c.AnyMoment(fastBeat)
				old := c.Latest()
				at := master.Stop(settle)
				next := c.WaitStart(at, settle)
				if c.NodeOf(next) == master {
					t.Errorf("%s serves again: %v", master.Name, next)
				}
				gap = append(gap, next.Start.Sub(c.Tree(old.ID).Last))
				master.Start()
				master = c.WaitSettled(settle)
			}
			most := tt.most
			if !full() {
				most = fastT / 2 // one round, beside five other tests: nobody has waited for the lease
			}
			if _, longest := harness.Figures(t, "S3: SIGTERM, "+tt.name+": old service's exit to the next start", gap); longest > most {
				t.Errorf("up to %v without a service, want at most %v", longest, most)
			}
		})
	}
}

// TestLiarIsNeverClaimed: on a server that must not be trusted no node becomes
// master, and each says why.
func TestLiarIsNeverClaimed(t *testing.T) {
	alongside(t)
	for _, l := range liars() {
		t.Run(l.name, func(t *testing.T) {
			alongside(t)
			// Directly at the server: what passes things on may receive them whole
			// first, and then no two writes overlap.
			c := cloudOf(t, l.start(t), nil, harness.Options{Nodes: 2})
			c.Start()
			for _, n := range c.Nodes {
				if !harness.Poll(settle, func() bool {
					return why(n) == "STORE_NOT_VERIFIED" && lineWith(n.Log(), "may not claim", "NOT SAFE", "use another store") != ""
				}) {
					t.Fatalf("%s shows %s and says:\n%s", n.Name, why(n), n.Log())
				}
				t.Logf("%s: %s", n.Name, lineWith(n.Log(), "may not claim"))
			}
			if harness.Poll(2*fastT, func() bool { return len(c.Masters()) > 0 || len(c.Record().Trees) > 0 || c.Register().Term > 0 }) {
				t.Errorf("somebody claimed: %+v, services %v", c.Register(), c.Record().Trees)
			}
			for _, n := range c.Nodes {
				if got := why(n); got != "STORE_NOT_VERIFIED" {
					t.Errorf("%s shows %s", n.Name, got)
				}
			}
		})
	}
}

// why is the reason code a node gives for itself.
func why(n *harness.Node) string {
	s, err := n.States()
	if err != nil {
		return err.Error()
	}
	if w := s.Nodes[n.ID()].Why; w != nil {
		return *w
	}
	return ""
}

// lineWith returns the first line that has all of the words.
func lineWith(text string, words ...string) string {
	for line := range strings.Lines(text) {
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
			return strings.TrimSpace(line)
		}
	}
	return ""
}

// TestSpending holds the requests of a plane at rest, as its nodes' networks
// count them, against what may be spent.
func TestSpending(t *testing.T) {
	alongside(t)
	// The first minute shows nodes that get to know each other.
	rest, length := time.Duration(rounds(25, 90))*time.Second, time.Duration(rounds(30, 600))*time.Second
	var seldom map[string]proxy.Tally
	for _, every := range []string{"10s", "1s"} {
		if !full() && every == "1s" {
			continue
		}
		c := newCloud(t, server.Start(t, server.Versity), harness.Options{Settings: map[string]any{"ha.preset": "default", "ha.standbyHeartbeatInterval": every}})
		master := c.StartAndWait(settle)
		time.Sleep(rest)
		for _, p := range c.of {
			p.Forget()
		}
		from := intervals.Now()
		time.Sleep(length)
		beats := intervals.Now().Sub(from).Seconds() // one per second
		got, roles := map[string]proxy.Tally{}, []string{"master", "standby a", "standby b"}
		others := slices.DeleteFunc(slices.Clone(c.Nodes), func(n *harness.Node) bool { return n == master })
		var polls int
		for i, n := range append([]*harness.Node{master}, others...) {
			rs := c.net(n).Requests()
			got[roles[i]] = proxy.Count(rs)
			harness.Note(t, fmt.Sprintf("standbyHeartbeatInterval %s, %.0f beats: %s %v", every, beats, roles[i], got[roles[i]]))
			if n == master {
				polls = len(slices.DeleteFunc(rs, func(r proxy.Request) bool { return r.Kind != proxy.Get || !strings.HasSuffix(r.Path, registerKey) }))
			}
		}
		if !harness.Poll(settle, master.IsMaster) || len(c.Record().Trees) != 1 {
			t.Fatalf("the plane was not at rest: %v", c.Record().Trees)
		}
		atMost := func(role, what string, n int, perBeat float64) {
			t.Helper()
			// What comes every ten seconds may come once more, and in the short
			// form nodes still look for clones of themselves.
			if float64(n) > perBeat*beats+float64(rounds(4, 2)) {
				t.Errorf("%s: %d %s in %.0f beats, want at most %.2f per beat", role, n, what, beats, perBeat)
			}
		}
		m := got["master"]
		atMost("master", "PUT", m[proxy.Put], 1.15)
		atMost("master", "LIST", m[proxy.List], 0.1)
		if polls != 0 {
			t.Errorf("the master read the register %d times", polls)
		}
		for _, role := range roles[1:] {
			s := got[role]
			atMost(role, "GET", s[proxy.Get], 1.15)
			atMost(role, "LIST, HEAD or DELETE", s[proxy.List]+s[proxy.Head]+s[proxy.Delete], 0)
			if seldom == nil {
				atMost(role, "PUT", s[proxy.Put], 0.15)
				continue
			}
			// The interval is shortened by chance, by a tenth on average.
			atMost(role, "PUT more", s[proxy.Put]-seldom[role][proxy.Put], 1.15)
			atMost(role, "GET more", s[proxy.Get]-seldom[role][proxy.Get], 0.02)
		}
		if seldom != nil {
			for _, k := range []proxy.Kind{proxy.Put, proxy.Get, proxy.List} {
				atMost("master", string(k)+" more", m[k]-seldom["master"][k], 0.02)
			}
		}
		seldom = got
	}
}

// TestFollowing: a hot standby on S3 has what it needs before it needs it.
func TestFollowing(t *testing.T) {
	alongside(t)
	c := newCloud(t, server.Start(t, server.Versity), harness.Options{Nodes: 2, Settings: harness.FromArtifact()})
	harness.Following(t, c.Plane, 2*settle)
}
