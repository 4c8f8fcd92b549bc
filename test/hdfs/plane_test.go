package hdfs_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	lib "github.com/colinmarc/hdfs/v2"

	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/test/e2e/harness"
	"github.com/understudy-ha/understudy/test/e2e/intervals"
	"github.com/understudy-ha/understudy/test/hdfs/cluster"
)

const (
	fastT    = 5 * time.Second // of the preset "fast"
	fastBeat = 500 * time.Millisecond

	// settle is how long a plane may take until one node serves and the others
	// watch, beyond the lease that may have to be waited out. Half a dozen JVMs
	// share the machine with whatever else there is.
	settle = 90 * time.Second
)

// fast is the timing of the preset of that name.
func fast(t *testing.T) election.Timing { t.Helper(); return timingOf(t, "fast") }

func timingOf(t *testing.T, preset string) election.Timing {
	t.Helper()
	timing, err := election.Derive(election.TimingRequest{Preset: preset, PollDivisor: 2})
	if err != nil {
		t.Fatal(err)
	}
	return timing
}

// plane is a plane of real nodes on the cluster.
type plane struct {
	*harness.Plane
	cluster *cluster.Cluster
	dir     string
}

// newPlane makes a plane in a directory of its own and starts no node.
func newPlane(t *testing.T, c *cluster.Cluster, o harness.Options) *plane {
	t.Helper()
	p := &plane{cluster: c, dir: newDir(t, c, "")}
	location := "hdfs://" + cluster.Nameservice + p.dir
	o.Storage = &harness.Storage{
		Location: func(string) string { return location },
		Env:      []string{"HADOOP_CONF_DIR=" + c.ConfDir(), "HADOOP_USER_NAME=" + cluster.User},
		Register: func() ([]byte, error) { return p.register() },
	}
	p.Plane = harness.NewPlane(t, o)
	return p
}

// register reads the register with the library alone.
func (p *plane) register() ([]byte, error) {
	nn, err := p.cluster.Active(context.Background())
	if err != nil {
		return nil, err
	}
	client, err := lib.NewClient(lib.ClientOptions{Addresses: []string{fmt.Sprintf("localhost:%d", nn.RPC)}, User: cluster.User})
	if err != nil {
		return nil, err
	}
	defer client.Close()
	entries, err := client.ReadDir(p.dir + "/lease")
	if err != nil {
		return nil, err
	}
	if len(entries) != 1 {
		return nil, fmt.Errorf("the register has %d names, want 1", len(entries))
	}
	return []byte(entries[0].Name()), nil
}

// must ends the test at an error.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// active is the NameNode that is active.
func active(t *testing.T, c *cluster.Cluster) *cluster.Daemon {
	t.Helper()
	nn, err := c.Active(t.Context())
	must(t, err)
	return nn
}

// TestKillTree kills the master's whole process tree, as a power cut would: the
// next service starts within T + 1.5 s. The full form does so without a
// DataNode, which nodes do not need.
func TestKillTree(t *testing.T) {
	c := hdfsCluster(t)
	if full() {
		must(t, c.Datanode.Kill())
		defer func() { must(t, c.Restart(context.WithoutCancel(t.Context()), c.Datanode)) }()
	}
	p := newPlane(t, c, harness.Options{})
	master := p.StartAndWait(settle)
	var took []time.Duration
	for range rounds(1, 10) {
		p.AnyMoment(fastBeat)
		at := master.KillTree()
		next := p.WaitStart(at, 2*fastT+settle)
		took = append(took, next.Start.Sub(at))
		if p.NodeOf(next) == master {
			t.Errorf("%s serves again: %v", master.Name, next)
		}
		master.WaitExit(settle)
		master.Start()
		master = p.WaitSettled(settle)
	}
	if _, longest := harness.Figures(t, "HDFS: kill -9 of the whole tree to the next start, T=5s", took); longest > fastT+1500*time.Millisecond {
		t.Errorf("it took up to %v, want at most T + 1.5 s", longest)
	}
}

// TestKillDaemon: the guard of a dead daemon finds the way to HDFS by itself, and
// releases: nobody has to wait for the lease.
func TestKillDaemon(t *testing.T) {
	p := newPlane(t, hdfsCluster(t), harness.Options{})
	master := p.StartAndWait(settle)
	p.AnyMoment(fastBeat)
	at := master.Kill(harness.Daemon)
	next := p.WaitStart(at, 2*fastT+settle)
	took := next.Start.Sub(at)
	harness.Note(t, fmt.Sprintf("HDFS: kill -9 of the daemon to the next start: %v", took.Round(time.Millisecond)))
	// Without a release nobody may claim before this.
	if early := fast(t).ClaimAfter(0) - fastBeat - fast(t).Operation; took > early {
		t.Errorf("the next start came after %v, as if nothing had been released", took)
	}
	if v := p.Register(); v.Term < 2 {
		t.Errorf("the register is at %+v", v)
	}
}

// TestNameNodeFailover: the NameNode is killed, or hung, under a living master
// at T = 30s, and the other one made active. The master stays master, with the
// same service, in the same term.
func TestNameNodeFailover(t *testing.T) {
	c := hdfsCluster(t)
	p := newPlane(t, c, harness.Options{Settings: harness.Preset("default")})
	master := p.StartAndWait(settle)
	first := p.Register()
	var silent []time.Duration
	for i := range rounds(1, 10) {
		p.AnyMoment(time.Second)
		old := active(t, c)
		before := intervals.Now()
		if i%2 == 0 {
			must(t, old.Kill())
		} else {
			must(t, old.Hang())
		}
		now, err := c.Failover(t.Context())
		must(t, err)
		if now == old {
			t.Fatalf("%s is active still", old.Name)
		}
		if i%2 == 1 { // it is told by the JournalNodes that its time is over
			must(t, old.Resume())
		}
		seq := p.Register().Seq
		if !harness.Poll(settle, func() bool { return p.Register().Seq >= seq+2 }) {
			t.Fatalf("round %d: the register stands still at %+v", i+1, p.Register())
		}
		silent = append(silent, intervals.Now().Sub(before))
		if v := p.Register(); v.Term != first.Term || v.Incarnation != first.Incarnation {
			t.Fatalf("round %d: the register went from %+v to %+v", i+1, first, v)
		}
		if !harness.Poll(settle, master.IsMaster) {
			t.Fatalf("round %d: %s is %s", i+1, master.Name, master.State())
		}
		restore(t, c, old)
	}
	if rec := p.Record(); len(rec.Trees) != 1 {
		t.Errorf("services: %v, want one", rec.Trees)
	}
	harness.Figures(t, "HDFS: failure of the NameNode to the second renewal on the other one, T=30s", silent)
}

// restore brings a NameNode back as standby.
func restore(t *testing.T, c *cluster.Cluster, d *cluster.Daemon) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), startWithin)
	defer cancel()
	// One that was hung has lost its place, and ends when it finds out.
	must(t, d.Kill())
	must(t, c.Restart(ctx, d))
	if !harness.Poll(startWithin, func() bool { state, err := c.State(ctx, d); return err == nil && state == "standby" }) {
		t.Fatalf("%s does not come back as standby:\n%s", d.Name, c.Log(d))
	}
	must(t, c.Ready(ctx))
}

// down asserts that since then, for d, the plane has had no store: the service
// ended in time, and nobody started another one.
func (p *plane) down(t *testing.T, since intervals.Instant, d time.Duration) {
	t.Helper()
	timing := fast(t)
	time.Sleep(max(d-intervals.Now().Sub(since), 0))
	last, ok := p.Record().LastAliveBefore(intervals.Now())
	limit := timing.StopAfter() + timing.Stop
	if !ok || last.Sub(since) > limit {
		t.Errorf("the service lived for %v without a store, want at most D + S = %v", last.Sub(since), limit)
	}
	harness.Note(t, fmt.Sprintf("service dead %v after the store was gone (D + S = %v)", last.Sub(since).Round(time.Millisecond), limit))
	if n := p.Record().StartsAfter(since); n != 0 {
		t.Errorf("%d services started without a store", n)
	}
	for _, n := range p.Nodes {
		if !n.Running() {
			t.Errorf("%s ended", n.Name)
		}
	}
}

// says waits for a line of a node's log that has all of the words.
func says(t *testing.T, n *harness.Node, words ...string) {
	t.Helper()
	var line string
	if !harness.Poll(settle, func() bool { line = lineWith(n.Log(), words...); return line != "" }) {
		t.Errorf("%s never says %q:\n%s", n.Name, words, n.Log())
		return
	}
	t.Logf("%s: %s", n.Name, line)
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
