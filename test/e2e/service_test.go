package e2e_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/api/v1"
	"github.com/understudy-ha/understudy/test/e2e/harness"
	"github.com/understudy-ha/understudy/test/e2e/intervals"
)

// service runs "understudy service ACTION" for the node and returns what it
// printed; it must succeed.
func service(t *testing.T, n *harness.Node, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), settle)
	defer cancel()
	out, err := n.Command(ctx, append([]string{"--config", n.ConfigFile(), "service"}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("understudy service %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// TestOperatorStopsTheService: the master stays master without its service,
// says so, and nobody takes over; the service is started again, and restarted,
// in the same term. Another node refuses and names the master.
func TestOperatorStopsTheService(t *testing.T) {
	t.Parallel()
	p := harness.NewPlane(t, harness.Options{Settings: map[string]any{"service.restart": "always", "service.drainDelay": "0s"}})
	master := p.StartAndWait(settle)
	standby := p.Standby(master)
	first := p.Latest()
	if !harness.Poll(settle, func() bool { _, err := master.States(); return err == nil }) {
		t.Fatal("the master does not answer") // the first password takes a busy machine its time
	}

	service(t, master, "stop")
	stopped := intervals.Now()
	if n := master.Count(harness.Service); n != 0 {
		t.Errorf("%d processes of the service are alive", n)
	}
	for path, want := range map[string]int{"/master": 503, "/leader": 200, "/service": 503} {
		if r, err := master.Probe(path); err != nil || r.Code != want {
			t.Errorf("%s answers %d (%v), want %d", path, r.Code, err, want)
		}
	}
	if s := master.State(); s != v1.StateInitializing {
		t.Errorf("the master shows %s", s)
	}
	neverFor(t, fastT+2*time.Second, "somebody serves although the service was stopped by an operator", func() bool {
		return len(p.Masters()) > 0 || p.Record().StartsAfter(stopped) > 0
	})
	held := p.Register()
	if uint64(held.Term) != first.Term || !held.Held || string(held.Holder) != master.ID() {
		t.Errorf("the register says %+v, want term %d held by %s", held, first.Term, master.ID())
	}
	if out := service(t, master, "status"); !strings.Contains(out, "stopped since") || !strings.Contains(out, "stopped by an operator") {
		t.Errorf("status says %s", out)
	}

	service(t, master, "start")
	if r, err := master.Probe("/master"); err != nil || r.Code != 200 {
		t.Errorf("/master answers %d (%v) after the start", r.Code, err)
	}
	second := p.Latest()
	service(t, master, "restart")
	third := p.Latest()
	if first.Term != second.Term || second.Term != third.Term || second.ID == third.ID || p.NodeOf(third) != master {
		t.Errorf("terms %d, %d, %d", first.Term, second.Term, third.Term)
	}

	ctx, cancel := context.WithTimeout(t.Context(), settle)
	defer cancel()
	out, err := standby.Command(ctx, "--config", standby.ConfigFile(), "service", "stop").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "not master") {
		t.Errorf("a standby says %s (%v)", out, err)
	}

	// Stopped in this term only: whoever comes next starts it.
	service(t, master, "stop")
	at := master.Kill(harness.Daemon)
	another(t, p, p.WaitStart(at, 2*fastT+settle), master)
}

// TestServiceFlood: 10,000 lines a second for 10 s delay no heartbeat, cost the
// daemon no memory, and arrive to the last one, in files of bounded size.
func TestServiceFlood(t *testing.T) {
	const rounds, each = 100, 1000
	settings := harness.Preset("default")
	settings["service.log.maxSize"], settings["service.log.keep"] = "1MiB", 20
	settings["service.command"] = []string{"/bin/sh", "-c", fmt.Sprintf(
		`sleep 2; i=0; while [ $i -lt %d ]; do seq -f "flood $i %%.0f 0123456789012345678901234567890123456789" 1 %d; i=$((i+1)); sleep 0.09; done & exec "$0"`, rounds, each), harness.Recorder()}
	p := harness.NewPlane(t, harness.Options{Nodes: 1, Settings: settings})
	master := p.StartAndWait(settle)
	daemon := master.Find(harness.Daemon).Pid
	before, rss, at := metric(t, master, `understudy_heartbeats_total{outcome="confirmed"}`), rssOf(t, daemon), time.Now()
	path := filepath.Join(master.DataDir, "service.log")
	last := fmt.Appendf(nil, "flood %d %d ", rounds-1, each)
	if !harness.Poll(2*time.Minute, func() bool { b, _ := os.ReadFile(path); return bytes.Contains(b, last) }) {
		t.Fatal("the last line does not arrive")
	}
	took := time.Since(at)
	beats := metric(t, master, `understudy_heartbeats_total{outcome="confirmed"}`) - before
	grown := rssOf(t, daemon) - rss
	harness.Note(t, fmt.Sprintf("%d lines in %v: %.0f heartbeats of one a second, daemon grew by %.1f MiB, the writer has %.1f MiB",
		rounds*each, took.Round(100*time.Millisecond), beats, float64(grown)/(1<<20), float64(rssOf(t, master.Find(harness.Logger).Pid))/(1<<20)))
	if late := metric(t, master, "understudy_heartbeats_late_total"); late > 0 || beats < 0.7*took.Seconds() {
		t.Errorf("%.0f heartbeats in %v, %.0f of them late", beats, took, late)
	}
	if grown > 16<<20 {
		t.Errorf("the daemon grew by %d bytes", grown)
	}
	undisturbed(t, p, master)
	var lines int
	files, err := filepath.Glob(path + "*")
	must(t, err)
	for _, f := range files {
		b, err := os.ReadFile(f)
		must(t, err)
		lines += bytes.Count(b, []byte("\nflood ")) + bytes.Count(b[:min(6, len(b))], []byte("flood "))
		if len(b) > 1<<20 {
			t.Errorf("%s has %d bytes", f, len(b))
		}
	}
	if len(files) < 5 || lines != rounds*each {
		t.Errorf("%d lines in %d files, want %d lines", lines, len(files), rounds*each)
	}
	if out := service(t, master, "logs", "-n", "1500"); strings.Count(out, "\n") != 1500 {
		t.Errorf("logs -n 1500 prints %d lines", strings.Count(out, "\n"))
	}
}

// TestLastWords: what the service says when its daemon was killed is in its
// log, and nothing is left of the process that wrote it.
func TestLastWords(t *testing.T) {
	p := harness.NewPlane(t, harness.Options{Nodes: 1, Settings: map[string]any{
		"service.command": []string{"/bin/sh", "-c", `trap 'echo asked to stop; kill $!; wait; echo last words; exit' TERM; "$0" & wait`, harness.Recorder()},
	}})
	master := p.StartAndWait(settle)
	master.Kill(harness.Daemon)
	path := filepath.Join(master.DataDir, "service.log")
	if !harness.Poll(settle, func() bool { b, _ := os.ReadFile(path); return bytes.Contains(b, []byte("last words\n")) }) {
		b, _ := os.ReadFile(path)
		t.Errorf("the log says %q", b)
	}
	if !harness.Poll(settle, func() bool { return master.Count(harness.Logger)+master.Count(harness.Guard) == 0 }) {
		t.Errorf("the log's writer is alive")
	}
	master.WaitExit(settle)
}

// TestGuardsAndShimsKilledInAGroup: without a namespace what guard and shim
// leave falls to the daemon, which proves it gone by having no children left.
// The writer of the log and the standby command's guard must not be in the way
// of that, and are there again afterwards.
func TestGuardsAndShimsKilledInAGroup(t *testing.T) {
	p := harness.NewPlane(t, harness.Options{
		Nodes: 1, ServiceEnv: map[string]string{"REC_FORK": "1"},
		Settings: map[string]any{"service.isolation": "group", "service.standbyCommand": []string{"/bin/sleep", "1000"}},
	})
	master := p.StartAndWait(settle)
	if n := master.Count(harness.Guard); n != 2 {
		t.Fatalf("%d guards, want the service's and the standby command's", n)
	}
	old := p.Latest()
	at := master.Kill(harness.Guard, harness.Shim)
	next := p.WaitStart(at, settle)
	harness.Figures(t, "kill -9 of guards and shim to the next start on the same node", []time.Duration{next.Start.Sub(at)})
	if next.Term <= old.Term {
		t.Errorf("term %d follows %d", next.Term, old.Term)
	}
	p.WaitMaster(settle)
	if !harness.Poll(settle, func() bool { return master.Count(harness.Logger) == 1 && master.Count(harness.Guard) == 2 }) {
		t.Errorf("%d writers of the log, %d guards", master.Count(harness.Logger), master.Count(harness.Guard))
	}
}

// metric is the value of one line of /metrics.
func metric(t *testing.T, n *harness.Node, name string) float64 {
	t.Helper()
	r, err := n.Probe("/metrics")
	must(t, err)
	for _, l := range strings.Split(r.Body, "\n") {
		if value, ok := strings.CutPrefix(l, name+" "); ok {
			v, err := strconv.ParseFloat(value, 64)
			must(t, err)
			return v
		}
	}
	t.Fatalf("/metrics has no %s", name)
	return 0
}

// TestStandbyCommand: it runs on the hot standby and nowhere else, and nothing
// of it lives when the service starts there, also after kill -9 of the daemon
// that had the service, and when that comes back.
func TestStandbyCommand(t *testing.T) {
	// Whoever runs holds the lock of its node, the standby's child too.
	const standby = `exec 9>>busy; flock -n 9 || { echo standby >> overlap; exit 1; }
		trap '' TERM; setsid sleep 1000 & while :; do echo $HA_STATE >> warm; sleep 0.05; done`
	const service = `exec 9>>busy; flock -n 9 || { echo service >> overlap; exit 1; }; exec "$0"`
	p := harness.NewPlane(t, harness.Options{Nodes: 2, Settings: map[string]any{
		"service.standbyCommand": []string{"/bin/sh", "-c", standby},
		"service.command":        []string{"/bin/sh", "-c", service, harness.Recorder()},
	}})
	master := p.StartAndWait(settle)
	warm := func(n *harness.Node) int64 {
		st, err := os.Stat(filepath.Join(n.DataDir, "warm"))
		if err != nil {
			return 0
		}
		return st.Size()
	}
	var took []time.Duration
	for range harness.Rounds(2, 10) {
		other := p.Standby(master)
		before := warm(other)
		if !harness.Poll(settle, func() bool { return warm(other) > before+100 }) {
			t.Fatalf("the standby command does not run on %s", other.Name)
		}
		cold := warm(master)
		p.AnyMoment(fastBeat)
		if warm(master) != cold {
			t.Error("the standby command runs on the master")
		}
		at := master.Kill(harness.Daemon)
		next := p.WaitStart(at, 2*fastT+settle)
		another(t, p, next, master)
		took = append(took, next.Start.Sub(at))
		master.WaitExit(settle)
		master.Start()
		master = p.WaitSettled(settle)
	}
	harness.Figures(t, "kill -9 of the daemon to the next start, with a standby command that ignores TERM", took)
	for _, n := range p.Nodes {
		if who, err := os.ReadFile(filepath.Join(n.DataDir, "overlap")); err == nil {
			t.Errorf("%s: service and standby command ran at once, seen by the %s", n.Name, who)
		}
		states, _ := os.ReadFile(filepath.Join(n.DataDir, "warm"))
		if words := slices.Compact(strings.Fields(string(states))); !slices.Equal(words, []string{"HOT_STANDBY"}) {
			t.Errorf("%s: HA_STATE was %q", n.Name, words)
		}
	}
}
