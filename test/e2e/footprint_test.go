package e2e_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/test/e2e/harness"
)

// What an idle node may cost at most. The aim is 0.5 % of a core; the bound
// leaves room for machines that are slower or busy.
const (
	footprintCPU   = 3.0      // percent of one core
	footprintGuard = 16 << 20 // bytes resident
	footprintNode  = 36 << 20 // daemon and guard together, although they share the binary's pages
)

// TestFootprint measures what an idle node costs at the default timings, one
// heartbeat a second.
func TestFootprint(t *testing.T) {
	settings := harness.Preset("default")
	settings["log.level"] = "info"
	p := harness.NewPlane(t, harness.Options{Nodes: 2, Settings: settings})
	master := p.StartAndWait(settle)
	time.Sleep(3 * time.Second) // starting costs more than running

	type part struct {
		name   string
		node   *harness.Node
		role   harness.Role
		pid    int
		before time.Duration
	}
	var parts []part
	for _, n := range p.Nodes {
		role := "standby"
		if n == master {
			role = "master"
		}
		for _, r := range []harness.Role{harness.Daemon, harness.Guard} {
			pid := n.Find(r).Pid
			parts = append(parts, part{role + "'s " + string(r), n, r, pid, cpuTime(t, pid)})
		}
	}
	from := time.Now()
	time.Sleep(time.Duration(harness.Rounds(10, 60)) * time.Second) // this is what is measured
	node := map[*harness.Node]int{}
	for _, q := range parts {
		spent := cpuTime(t, q.pid) - q.before
		percent := 100 * spent.Seconds() / time.Since(from).Seconds()
		rss := rssOf(t, q.pid)
		harness.Note(t, fmt.Sprintf("%s: %.2f %% of a core, %.1f MiB RSS (%s anonymous), %d threads",
			q.name, percent, float64(rss)/(1<<20), procStatus(t, q.pid, "RssAnon"), threadsOf(t, q.pid)))
		if percent > footprintCPU {
			t.Errorf("%s takes %.2f %% of a core, want at most %.0f %%", q.name, percent, footprintCPU)
		}
		if q.role == harness.Guard && rss > footprintGuard {
			t.Errorf("%s takes %d bytes of memory, want at most %d", q.name, rss, footprintGuard)
		}
		node[q.node] += rss
	}
	for n, rss := range node {
		harness.Note(t, fmt.Sprintf("%s: daemon and guard together %.1f MiB RSS", n.Name, float64(rss)/(1<<20)))
		if rss > footprintNode {
			t.Errorf("daemon and guard of %s take %d bytes of memory, want at most %d", n.Name, rss, footprintNode)
		}
	}
}

// cpuTime is the processor time a process has used, to the nanosecond.
// /proc/PID/stat counts in ticks of 10 ms, which is too coarse here.
func cpuTime(t *testing.T, pid int) time.Duration {
	t.Helper()
	// The kernel's form of clock_getcpuclockid(3): the inverted pid above
	// three bits, of which 2 asks for the scheduler's account.
	clock := int32(^pid)<<3 | 2 //nolint:gosec // pids are small
	var ts unix.Timespec
	must(t, unix.ClockGettime(clock, &ts))
	return time.Duration(ts.Nano())
}

// rssOf is the resident memory of a process in bytes.
func rssOf(t *testing.T, pid int) int {
	t.Helper()
	kb, found := strings.CutSuffix(procStatus(t, pid, "VmRSS"), " kB")
	n, err := strconv.Atoi(kb)
	if !found || err != nil {
		t.Fatalf("VmRSS is %q", kb)
	}
	return n << 10
}
