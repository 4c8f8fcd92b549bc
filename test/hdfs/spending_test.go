package hdfs_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/test/e2e/harness"
	"github.com/understudy-ha/understudy/test/e2e/intervals"
	"github.com/understudy-ha/understudy/test/hdfs/cluster"
)

// TestSpending holds the requests of a plane at rest, as the NameNode's metrics
// count them and its audit log tells them apart, against what may be spent: 5
// per heartbeat by a master, 6 by a standby.
func TestSpending(t *testing.T) {
	c := hdfsCluster(t)
	// The short form has shorter heartbeats, and not more per heartbeat.
	preset, rest, length := "fast", 6*time.Second, 10*time.Second
	if full() {
		preset, rest, length = "default", 30*time.Second, 3*time.Minute
	}
	p := newPlane(t, c, harness.Options{Settings: harness.Preset(preset)})
	for i, n := range p.Nodes {
		n.Env = []string{"HADOOP_USER_NAME=" + cluster.Users[i]}
	}
	master := p.StartAndWait(settle)
	time.Sleep(rest) // the first seconds show nodes that get to know each other
	nn := active(t, c)
	sumBefore, byBefore := counted(t, c, nn)
	from := intervals.Now()
	time.Sleep(length)
	sum, by := counted(t, c, nn)
	beats := float64(intervals.Now().Sub(from)) / float64(timingOf(t, preset).Heartbeat)
	if !harness.Poll(settle, master.IsMaster) || len(p.Record().Trees) != 1 {
		t.Fatalf("the plane was not at rest: %v", p.Record().Trees)
	}

	told, counts := 0, less(sum, sumBefore)
	for i, n := range p.Nodes {
		got := less(by[cluster.Users[i]], byBefore[cluster.Users[i]])
		most, role := 6.0, "standby"
		if n == master {
			most, role = 5, "master"
		}
		all := total(got)
		told += all
		harness.Note(t, fmt.Sprintf("HDFS, 3 nodes, %s: %.2f requests per heartbeat, over %.0f: %v", role, float64(all)/beats, beats, got))
		if float64(all) > most*beats {
			t.Errorf("%s: %d requests in %.0f beats, want at most %.0f per beat", role, all, beats, most)
		}
	}
	harness.Note(t, fmt.Sprintf("HDFS, the NameNode's metrics: %v", counts))
	if n := counts["RenewLease"]; n > 0 {
		t.Errorf("%d leases of files were renewed, and none is written", n)
	}
	// The audit log leaves some kinds out, were there any, and requests were made
	// between one look and the other.
	if all := total(counts); all > told+20 {
		t.Errorf("the NameNode counts %d requests, its audit log %d", all, told)
	}
}

// counted is what a NameNode has answered so far: in all, and by user.
func counted(t *testing.T, c *cluster.Cluster, nn *cluster.Daemon) (map[string]int, map[string]map[string]int) {
	t.Helper()
	sum, err := c.Requests(t.Context(), nn)
	must(t, err)
	by, err := c.Audit(nn)
	must(t, err)
	return sum, by
}

func less(now, before map[string]int) map[string]int {
	out := maps.Clone(now)
	for k, v := range before {
		out[k] -= v
	}
	maps.DeleteFunc(out, func(_ string, n int) bool { return n == 0 })
	return out
}

func total(m map[string]int) (n int) {
	for _, v := range slices.Collect(maps.Values(m)) {
		n += v
	}
	return n
}
