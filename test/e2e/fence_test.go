package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	v1 "github.com/understudy-ha/understudy/api/v1"
	"github.com/understudy-ha/understudy/pkg/ec2/ec2test"
	"github.com/understudy-ha/understudy/pkg/hook"
	"github.com/understudy-ha/understudy/pkg/lease"
	"github.com/understudy-ha/understudy/test/e2e/harness"
	"github.com/understudy-ha/understudy/test/e2e/intervals"
)

// named gives every node of a plane an id of the test's choice, and its settings
// the machine that it runs on.
func named(t *testing.T, p *harness.Plane, machine func(n *harness.Node) string) {
	t.Helper()
	hosts := map[string]string{}
	for i, n := range p.Nodes {
		id := fmt.Sprintf("node000%d", i+1)
		write(t, filepath.Join(n.DataDir, "node.json"), fmt.Sprintf(`{"nodeId":%q}`, id))
		hosts[id] = machine(n)
	}
	for _, n := range p.Nodes {
		n.Set("fencing.hosts", hosts)
	}
}

// fencedBy waits until the history, as a node tells it, has the reign of a term
// with fencing that has ended, and returns that.
func fencedBy(t *testing.T, n *harness.Node, term uint64) v1.Fencing {
	t.Helper()
	var h v1.History
	var f v1.Fencing
	if !harness.Poll(settle, func() bool {
		r, err := n.Get("/v1/server/ha/history")
		if err != nil || json.Unmarshal([]byte(r.Body), &h) != nil {
			return false
		}
		for _, reign := range h.Reigns {
			if reign.Term == term && len(reign.Fencing) == 1 {
				f = reign.Fencing[0]
				return f.Outcome != "pending"
			}
		}
		return false
	}) {
		t.Fatalf("no fencing in the history of term %d: %+v", term, h.Reigns)
	}
	return f
}

// freeze stops every process of a node, as a paused machine: nothing there keeps
// any deadline. Some may end before their turn, and have children before it.
func freeze(t *testing.T, n *harness.Node) intervals.Instant {
	t.Helper()
	at := intervals.Now()
	if !harness.Poll(settle, func() bool {
		all := n.Processes()
		for _, q := range all {
			q.Signal(unix.SIGSTOP)
		}
		return !slices.ContainsFunc(all, func(q harness.Process) bool { return q.Alive() && !q.Stopped() })
	}) {
		t.Fatalf("%s is not frozen: %v", n.Name, n.Processes())
	}
	return at
}

// outlet cuts the power of what a file lists. Some of it dies with the rest.
const outlet = `[ -s "$1" ] && { xargs kill -KILL <"$1" 2>/dev/null; echo "$FENCE_NODE is off"; }`

// TestFencingEarly freezes all of the master, service included, with T = 30s. A
// standby suspects it, has it powered off by a command, which here kills what it
// finds in a file, and serves long before the lease has ended.
func TestFencingEarly(t *testing.T) {
	p := harness.NewPlane(t, harness.Options{Nodes: 2, Settings: map[string]any{
		"ha.preset": "default", "fencing.early": true,
		"fencing.methods": []map[string]any{
			{"method": "stepDown", "timeout": "1s"}, // proves nothing, so it is not tried
			{"method": "command", "timeout": "10s", "provesOff": true, "command": []string{"/bin/sh", "-c", outlet, "sh", "{host}"}},
		},
	}})
	file := func(n *harness.Node) string { return filepath.Join(p.Dir, n.Name+".outlet") }
	named(t, p, file)
	script := withHooks(t, p)
	master := p.StartAndWait(settle)
	before := p.Latest()
	p.AnyMoment(time.Second)
	at := freeze(t, master)
	var pids strings.Builder
	for _, q := range master.Processes() {
		fmt.Fprintln(&pids, q.Pid)
	}
	write(t, file(master), pids.String())
	next := p.WaitStart(at, defaultT+settle)
	took := next.Start.Sub(at)
	harness.Figures(t, "all of the master frozen to the next start, fenced early, T=30s", []time.Duration{took})
	another(t, p, next, master)
	// Suspected after max(3h, h+2o) = 7s; without fencing, T(1+e)+g = 30.8s.
	if took < 5*time.Second || took > 20*time.Second {
		t.Errorf("it took %v, want more than 5s and much less than the 30.8s of the lease", took)
	}
	if n := len(master.Processes()); n != 0 {
		t.Errorf("%d processes of the old master live", n)
	}
	heir := p.NodeOf(next)
	p.WaitMaster(settle)
	f := fencedBy(t, heir, next.Term)
	if f.Node != master.ID() || f.Term != before.Term || !f.Off || !f.Early || f.Detail == nil || *f.Detail != master.ID()+" is off" {
		t.Errorf("the history says %+v", f)
	}
	if !harness.Poll(settle, func() bool { return len(of(toldTo(t, script, heir), hook.OnFence)) == 1 }) {
		t.Fatal("no onFence hook")
	}
	if got := of(toldTo(t, script, heir), hook.OnFence)[0]; !strings.Contains(got.Reason, master.ID()+" of term "+fmt.Sprint(before.Term)+" was fenced (command)") {
		t.Errorf("the hook was told %q", got.Reason)
	}
}

// TestFencingRequired kills all of the master where its successor must fence it
// and can not: the successor keeps the term and starts nothing, until an operator
// says that the machine is off.
func TestFencingRequired(t *testing.T) {
	t.Parallel()
	p := harness.NewPlane(t, harness.Options{Nodes: 3, Settings: map[string]any{
		"fencing.required": true,
		"fencing.methods":  []map[string]any{{"method": "command", "timeout": "5s", "command": []string{"/bin/sh", "-c", "echo no outlet {host}; exit 1"}}},
	}})
	named(t, p, func(n *harness.Node) string { return n.Name })
	master := p.StartAndWait(settle)
	plane := p.Register().Plane
	at := master.KillTree()
	var heir *harness.Node
	if !harness.Poll(2*fastT+settle, func() bool {
		for _, n := range p.Nodes {
			if r, err := n.Probe("/leader"); n != master && err == nil && r.Code == 200 {
				heir = n
			}
		}
		return heir != nil
	}) {
		t.Fatal("nobody takes over")
	}
	v := p.Register()
	time.Sleep(2 * fastT) // in which nothing may happen
	if n := p.Record().StartsAfter(at); n != 0 {
		t.Fatalf("%d services have started", n)
	}
	s, err := heir.States()
	must(t, err)
	if len(s.Fencing) != 1 || s.Fencing[0].Node != master.ID() || s.Fencing[0].Outcome != "pending" || s.MasterID != nil || *s.LeaderID != heir.ID() || s.Term != uint64(v.Term) {
		t.Errorf("it shows %+v, term %d, want %s pending in term %d", s.Fencing, s.Term, master.ID(), v.Term)
	}
	if why := s.Nodes[heir.ID()].Why; why == nil || *why != "FENCING" {
		t.Errorf("it says why: %v", why)
	}

	// Asked at any node, the word reaches the one that waits.
	user, password, err := heir.Credentials()
	must(t, err)
	run := func(args ...string) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, harness.Understudy(), append([]string{"--endpoint", heir.URL(""), "--insecure", "--user", user}, args...)...)
		cmd.Env = append(os.Environ(), "UNDERSTUDY_PASSWORD="+password)
		b, err := cmd.CombinedOutput()
		return string(b), err
	}
	if out, err := run("fence", "confirm", heir.ID(), "--plane", string(plane)); err == nil {
		t.Errorf("of the wrong node: %s", out)
	}
	if out, err := run("fence", "confirm", master.ID(), "--plane", "plane000"); err == nil {
		t.Errorf("of the wrong plane: %s", out)
	}
	said := intervals.Now()
	if out, err := run("fence", "confirm", master.ID(), "--plane", string(plane)); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	next := p.WaitStart(at, settle)
	harness.Figures(t, "fence confirm to the next start", []time.Duration{next.Start.Sub(said)})
	if p.NodeOf(next) != heir || lease.Term(next.Term) != v.Term {
		t.Errorf("%s serves in term %d, want %s in term %d", p.NodeOf(next).Name, next.Term, heir.Name, v.Term)
	}
	p.WaitMaster(settle)
	f := fencedBy(t, heir, next.Term)
	if f.Method == nil || *f.Method != "operator" || f.Actor == nil || !strings.HasPrefix(*f.Actor, user+" (") || f.Off {
		t.Errorf("the history says %+v", f)
	}
	if out, err := run("history"); err != nil || !strings.Contains(out, "fenced by operator, "+user) {
		t.Errorf("history: %v\n%s", err, out)
	}
}

// TestOnEC2 is a plane on instances of EC2: the Elastic IP address follows the
// master, and a master that is frozen is stopped by its successor, which waits
// until it is described as stopped.
func TestOnEC2(t *testing.T) {
	const alloc = "eipalloc-0123456789abcdef0"
	cloud := ec2test.New(t)
	cloud.AddAddress(alloc, "203.0.113.7")
	p := harness.NewPlane(t, harness.Options{Nodes: 2, Settings: map[string]any{
		"fencing.early": true, "fencing.required": true,
		"fencing.methods":        []map[string]any{{"method": "ec2Stop", "timeout": "30s", "provesOff": true}},
		"elasticIP.allocationId": alloc,
	}})
	instance := func(n *harness.Node) string { return "i-0000000000000000" + n.Name[1:] }
	named(t, p, instance)
	for _, n := range p.Nodes {
		cloud.AddInstance(instance(n), 2)
		n.Set("elasticIP.instanceId", instance(n))
		n.Env = cloud.Env()
	}
	master := p.StartAndWait(settle)
	leads := func(n *harness.Node) bool { return cloud.Address(alloc).Instance == instance(n) }
	if !harness.Poll(settle, func() bool { return leads(master) }) {
		t.Fatalf("the address leads to %+v", cloud.Address(alloc))
	}
	// Before it is described as stopped, its processes are gone.
	var stopped time.Time
	cloud.OnStopped(func(id string) {
		if id == instance(master) {
			master.KillTree()
			stopped = time.Now()
		}
	})
	at := freeze(t, master)
	next := p.WaitStart(at, fastT+settle)
	another(t, p, next, master)
	heir := p.NodeOf(next)
	if !harness.Poll(settle, func() bool { return leads(heir) }) {
		t.Errorf("the address leads to %+v", cloud.Address(alloc))
	}
	f := fencedBy(t, heir, next.Term)
	if f.Method == nil || *f.Method != "ec2Stop" || !f.Off || stopped.IsZero() {
		t.Errorf("the history says %+v; stopped %v", f, stopped)
	}
	if stops := cloud.Calls("StopInstances"); len(stops) == 0 || stops[0].Form.Get("InstanceId.1") != instance(master) || stops[0].Form.Get("Force") != "true" {
		t.Errorf("stopped by %v", stops)
	}
	moves := cloud.Calls("AssociateAddress")
	if len(moves) != 2 || moves[1].Form.Get("AllowReassociation") != "true" {
		t.Errorf("%d moves of the address, want 2: %v", len(moves), moves)
	}
	if r := cloud.Refused(); len(r) > 0 {
		t.Errorf("calls that were not believed: %v", r)
	}
}
