package nfs

import (
	"strings"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/test/e2e/harness"
	"github.com/understudy-ha/understudy/test/e2e/intervals"
	"github.com/understudy-ha/understudy/test/nfs/wire"
)

// testWatchdog has the kernel's own softdog reset a machine on which nobody is
// left to stop the service: its daemon and its guard are frozen together. Then,
// on the other machine, both are killed.
func testWatchdog(t *testing.T, l *Lab, version string) {
	t.Helper()
	l.Mount(t, version, "")
	for _, g := range l.Clients {
		g.Load(t, "softdog")
		g.Settings = "watchdog: required\nwatchdogDevice: /dev/watchdog1\n" // the first is the kernel's own, which needs a helper
		defer func() { g.Settings = "" }()
	}
	nodes := l.NewPlane(t)
	first, second := nodes[0], nodes[1]
	old := l.latest(t)
	query := first.Run(t, wire.Command{Args: []string{wire.Share + "/understudy", "watchdog", "query"}})
	if query.Code != 0 || !strings.Contains(query.Output, "/dev/watchdog1") {
		t.Errorf("query: %d %s", query.Code, query.Output)
	}

	at := strike(t, first, "STOP")
	next := l.WaitStart(t, at, 2*fastT+settle)
	lived := l.tree(t, old.ID).Last.Sub(at)
	harness.Figures(t, "daemon and guard frozen together: the service's last beat, T=5s, E=4.45s", []time.Duration{lived})
	if lived > fastE {
		t.Errorf("the service lived for %v, want at most %v after the start of the last renewal", lived, fastE)
	}
	harness.Figures(t, "the same: the next start", []time.Duration{next.Start.Sub(at)})
	if first.Resets() != 1 {
		t.Errorf("%s was not reset:\n%s", first.Name, first.Console())
	}
	first.Kill() // it does not find its network again

	at = strike(t, second, "KILL")
	if !harness.Poll(settle, func() bool { return second.Resets() == 1 }) {
		t.Errorf("%s was not reset:\n%s", second.Name, second.Console())
	}
	second.Kill()
	if lived := l.tree(t, next.ID).Last.Sub(at); lived > fastE {
		t.Errorf("the service lived for %v after daemon and guard were killed", lived)
	}
}

// findScript lists what runs as our guard or server. (This busybox has no pgrep.)
const findScript = `for p in /proc/[0-9]*; do
	case "$(busybox tr '\0' ' ' <"$p/cmdline")" in
	"` + wire.Share + `/understudy guard "* | "` + wire.Share + `/understudy server "*) echo "${p#/proc/}" ;;
	esac
done`

// strike signals daemon and guard of a node at once. The instant is from after
// it: no renewal has begun later.
func strike(t *testing.T, n *Node, signal string) intervals.Instant {
	t.Helper()
	pids := strings.Fields(n.Run(t, wire.Command{Args: []string{"busybox", "sh", "-c", findScript}}).Output)
	if len(pids) != 2 {
		t.Fatalf("daemon and guard are %v", pids)
	}
	if res := n.Run(t, wire.Command{Args: append([]string{"busybox", "kill", "-" + signal}, pids...)}); res.Code != 0 {
		t.Fatalf("kill -%s: %d, %s", signal, res.Code, res.Output)
	}
	return intervals.Now()
}

// tree is what is known of a service now.
func (l *Lab) tree(tb testing.TB, id string) intervals.Tree {
	tb.Helper()
	for _, tree := range l.Record(tb).Trees {
		if tree.ID == id {
			return tree
		}
	}
	tb.Fatalf("no record of service %s", id)
	return intervals.Tree{}
}
