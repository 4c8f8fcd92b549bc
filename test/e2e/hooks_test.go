package e2e_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/api/v1"
	"github.com/understudy-ha/understudy/pkg/hook"
	"github.com/understudy-ha/understudy/pkg/lease"
	"github.com/understudy-ha/understudy/test/e2e/harness"
	"github.com/understudy-ha/understudy/test/e2e/intervals"
)

// hookScript keeps what each hook is told, and vetoes where there is a file
// that says so. The name that ends in .json comes last, with all of it there.
const hookScript = `#!/bin/sh
at="$0.d/$HA_NODE-$HA_SEQ"
env | grep ^HA_ >"$at.env"
[ -e "$HA_LEASE_FILE" ] && echo LEASE=there >>"$at.env"
cat >"$at.part" && mv "$at.part" "$at.json"
if [ "$HA_EVENT" = prePromote ] && [ -e "$0.veto-$HA_NODE" ]; then echo "not me"; exit 3; fi
exit 0
`

// withHooks gives every node of a plane the script as every hook, and returns
// its path.
func withHooks(t *testing.T, p *harness.Plane) string {
	t.Helper()
	script := filepath.Join(p.Dir, "hook")
	must(t, os.WriteFile(script, []byte(hookScript), 0o755)) //nolint:gosec // it is to be executed
	must(t, os.Mkdir(script+".d", 0o755))
	for _, n := range p.Nodes {
		for _, e := range hook.Events() {
			n.Set("hooks."+string(e)+".command", []string{script})
		}
	}
	return script
}

// told is what one hook was told.
type told struct {
	hook.Facts
	leaseFile bool // HA_LEASE_FILE was there
}

// toldTo is what the hooks of a node were told so far, by sequence number:
// without gaps, and with the same in the environment as on standard input.
func toldTo(t *testing.T, script string, n *harness.Node) []told {
	t.Helper()
	// Counted first: the next one may end at any moment.
	files, err := filepath.Glob(script + ".d/" + n.ID() + "-*.json")
	must(t, err)
	all := make([]told, len(files))
	for i := range all {
		seq := uint64(i + 1)
		at := fmt.Sprintf("%s.d/%s-%d", script, n.ID(), seq)
		b, err := os.ReadFile(at + ".json")
		if os.IsNotExist(err) {
			t.Fatalf("%d hooks ran, and number %d is missing: %v", len(files), seq, files)
		}
		must(t, err)
		var f hook.Facts
		must(t, json.Unmarshal(b, &f))
		if f.Seq != seq {
			t.Errorf("number %d says it is %d", seq, f.Seq)
		}
		text, err := os.ReadFile(at + ".env")
		must(t, err)
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		for _, want := range f.Environ(nil) {
			if !slices.Contains(lines, want) {
				t.Errorf("%s: the environment lacks %s, which standard input has: %s", f.Event, want, text)
			}
		}
		all[i] = told{f, slices.Contains(lines, "LEASE=there")}
	}
	return all
}

// of are the facts of one event.
func of(all []told, e hook.Event) []told {
	return slices.DeleteFunc(slices.Clone(all), func(f told) bool { return f.Event != e })
}

// TestHooks: the best candidate's prePromote vetoes, the next takes over, and
// leaves again. What its hooks were told is true, and in order.
func TestHooks(t *testing.T) {
	p := harness.NewPlane(t, harness.Options{Nodes: 3, Settings: slowBeats})
	first, picky, next := p.Nodes[0], p.Nodes[1], p.Nodes[2]
	script := withHooks(t, p)
	picky.Set("priority", 10) // asked before the other
	first.Start()
	p.WaitMaster(settle)
	picky.Start()
	next.Start()
	p.WaitSettled(settle)
	write(t, script+".veto-"+picky.ID(), "")
	if !harness.Poll(settle, func() bool {
		s, err := next.States()
		n := s.Nodes[picky.ID()]
		return err == nil && n.Priority != nil && *n.Priority == 10 && n.Status == v1.StateHotStandby
	}) {
		t.Fatal("the others do not see the best candidate")
	}

	before := p.Latest()
	at := first.Stop(settle)
	tree := p.WaitStart(at, settle)
	harness.Figures(t, "clean end to the next start, with a veto in between", []time.Duration{tree.Start.Sub(at)})
	if p.NodeOf(tree) != next || tree.Term < before.Term+2 {
		t.Fatalf("%s took over in term %d after %d, want %s after a term that was vetoed", p.NodeOf(tree).Name, tree.Term, before.Term, next.Name)
	}
	failedBecause(t, picky, "the prePromote hook vetoed (exit code 3: not me)")
	if p.WaitMaster(settle) != next {
		t.Error("another is master")
	}
	plane := string(p.Register().Plane)
	next.Stop(settle)
	next.WaitGone(settle)

	// It lives on, and the hooks of its end had to wait for their turn.
	var vetoed []told
	if !harness.Poll(settle, func() bool { vetoed = toldTo(t, script, picky); return len(of(vetoed, hook.PostDemote)) > 0 }) {
		t.Error("no postDemote of the one that vetoes")
	}
	if f := of(vetoed, hook.PrePromote); len(f) == 0 || uint64(f[0].Term) != before.Term+1 {
		t.Errorf("prePromote of the one that vetoes: %+v, want term %d", f, before.Term+1)
	}
	if f := of(vetoed, hook.PostDemote); len(f) == 0 || uint64(f[0].Term) != before.Term+1 {
		t.Errorf("postDemote of the one that vetoes: %+v", f)
	}
	if n := len(of(vetoed, hook.PostPromote)) + len(of(vetoed, hook.PreDemote)); n != 0 {
		t.Errorf("%d hooks of a master that never was", n)
	}

	all := toldTo(t, script, next)
	var order []string
	for _, f := range all {
		if f.Event != hook.OnRoleChange {
			order = append(order, string(f.Event))
		}
		if f.Plane != plane || f.Node != next.ID() || f.Token != f.Term || f.Test {
			t.Errorf("%+v is not of %s in %s", f, next.ID(), plane)
		}
	}
	if got := strings.Join(order, " "); got != "prePromote postPromote preDemote postDemote" {
		t.Errorf("the hooks ran as %s", got)
	}
	for e, want := range map[hook.Event]struct{ state, prev lease.State }{
		hook.PrePromote:  {lease.StateHotStandby, lease.StateInitializing},
		hook.PostPromote: {lease.StateMaster, lease.StateHotStandby},
		hook.PreDemote:   {lease.StateMaster, lease.StateHotStandby},
		hook.PostDemote:  {lease.StateTerminated, lease.StateHotStandby},
	} {
		for _, f := range of(all, e) {
			if f.State != want.state || f.PrevState != want.prev || uint64(f.Term) != tree.Term {
				t.Errorf("%s in %s after %s, term %d; want %s after %s, term %d", e, f.State, f.PrevState, f.Term, want.state, want.prev, tree.Term)
			}
			if master := string(f.Master) == next.ID() && f.MasterURI == next.URL("/"); master != (e != hook.PostDemote) {
				t.Errorf("%s: the master is said to be %q at %q", e, f.Master, f.MasterURI)
			}
			if f.Reason == "" {
				t.Errorf("%s has no reason", e)
			}
			if e.Bound() && !f.leaseFile {
				t.Errorf("%s: no file at %s", e, f.LeaseFile)
			}
		}
	}
	last := lease.StateInitializing
	for _, f := range of(all, hook.OnRoleChange) {
		if f.PrevState != last || f.State == last {
			t.Errorf("%s after %s, which was %s", f.State, f.PrevState, last)
		}
		last = f.State
	}
}

// failedBecause waits until a node says FAILED and why.
func failedBecause(t *testing.T, n *harness.Node, words string) {
	t.Helper()
	var r harness.Reply
	if !harness.Poll(settle, func() bool {
		var err error
		r, err = n.Get("/v1/server/ha/metrics")
		return err == nil && strings.Contains(r.Body, words)
	}) {
		t.Errorf("%s does not say %q: %s", n.Name, words, r.Body)
	}
}

// TestHooksThatHang: neither a deaf hook nor what it starts holds up a planned
// end beyond its bound, outlives the daemon, or costs a heartbeat.
func TestHooksThatHang(t *testing.T) {
	timing := fast(t)
	p := harness.NewPlane(t, harness.Options{Nodes: 2, Settings: map[string]any{
		"hooks.preDemote.command":    []string{"/bin/sh", "-c", `trap "" TERM; setsid sleep 300 & sleep 300`},
		"hooks.preDemote.timeout":    "5m",
		"hooks.onRoleChange.command": []string{"/bin/sh", "-c", `trap "" TERM; setsid sleep 300 & yes`},
		"hooks.onRoleChange.timeout": "300ms",
	}})
	p.StartAndWait(settle)
	master := p.WaitSettled(settle)
	at := master.Signal(15)
	next := p.WaitStart(at, settle)
	took := next.Start.Sub(at)
	harness.Figures(t, "SIGTERM to the next start, with a preDemote hook that hangs", []time.Duration{took})
	if most := hook.Grace(timing.Stop) + timing.Stop + 2*time.Second; took > most {
		t.Errorf("the hand-over took %v, want at most the hook's grace, S and 2 s: %v", took, most)
	}
	another(t, p, next, master)
	if code := master.WaitExit(settle); code != 0 {
		t.Errorf("it ended with %d", code)
	}
	master.WaitGone(settle)
	p.WaitMaster(settle)
	if strings.Contains(master.Log(), "HEARTBEAT_LATE") {
		t.Error("a hook held up the heartbeat")
	}
}

// TestGuardStopHook: when its daemon was killed the guard runs this hook, the
// service being gone and the term not released, and does not wait for it longer
// than its timeout. A daemon that ends in order runs it never.
func TestGuardStopHook(t *testing.T) {
	p := harness.NewPlane(t, harness.Options{Nodes: 2, Settings: harness.Preset("default")})
	ran := filepath.Join(p.Dir, "ran")
	script := filepath.Join(p.Dir, "last")
	must(t, os.WriteFile(script, []byte("#!/bin/sh\nls \"$STORE\" >\"$RAN.$HA_NODE.tmp\"; env >>\"$RAN.$HA_NODE.tmp\"; mv \"$RAN.$HA_NODE.tmp\" \"$RAN.$HA_NODE\"\nexec sleep 1000\n"), 0o755)) //nolint:gosec // it is to be executed
	for _, n := range p.Nodes {
		n.Env = append(n.Env, "RAN="+ran, "STORE="+filepath.Join(p.Store, "lease"))
		n.Set("hooks.guardStop.command", []string{script})
		n.Set("hooks.guardStop.timeout", "1s")
	}
	master := p.StartAndWait(settle)
	old := p.Latest()
	at := master.Kill(harness.Daemon)
	path := ran + "." + master.ID()
	if !harness.Poll(settle, func() bool { _, err := os.Stat(path); return err == nil }) {
		t.Fatal("the hook did not run")
	}
	began := intervals.Now()
	old = p.Tree(old.ID)
	if old.Last > began {
		t.Errorf("%v lived when the hook ran", old)
	}
	next := p.WaitStart(at, defaultT)
	another(t, p, next, master)
	took := next.Start.Sub(at)
	harness.Figures(t, "kill -9 of the daemon to the next start, with a guardStop hook that hangs for its timeout of 1s", []time.Duration{took})
	if took < time.Second || took > defaultT/2 {
		t.Errorf("the next start came %v after the kill, want it after the hook's timeout and long before the lease ends", took)
	}
	b, err := os.ReadFile(path)
	must(t, err)
	told := "\n" + string(b)
	for _, want := range []string{"HA_EVENT=guardStop", fmt.Sprintf("HA_TERM=%d", old.Term), fmt.Sprintf("HA_TOKEN=%d", old.Term), "HA_NODE=" + master.ID()} {
		if !strings.Contains(told, "\n"+want+"\n") {
			t.Errorf("the hook was not told %s: %s", want, told)
		}
	}
	name, _, _ := strings.Cut(string(b), "\n")
	if v, err := lease.ParseValue([]byte(name)); err != nil || !v.Held || uint64(v.Term) != old.Term {
		t.Errorf("the register was %q (%v) when the hook ran, want it held", name, err)
	}
	master = p.NodeOf(next)
	p.WaitMaster(settle)
	master.Stop(settle)
	if _, err := os.Stat(ran + "." + master.ID()); err == nil {
		t.Error("the hook ran at an orderly end")
	}
}
