package e2e_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/test/e2e/harness"
	"github.com/understudy-ha/understudy/test/e2e/intervals"
)

// operate runs an operator's command with the settings of the node and returns
// what it says and its exit code.
func operate(t *testing.T, n *harness.Node, args ...string) (said string, code int) {
	t.Helper()
	cmd := n.Command(t.Context(), append(args, "--config", n.ConfigFile())...)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// TestRepairedRegister: somebody has overwritten the register. While a node is
// running the repair is refused; with all of them stopped it is done, and the
// plane goes on at a higher term with the ids that the nodes remember.
func TestRepairedRegister(t *testing.T) {
	t.Parallel()
	timing := fast(t)
	p := harness.NewPlane(t, harness.Options{Nodes: 2})
	p.StartAndWait(settle)
	was := p.Register()
	plane, least := string(was.Plane), fmt.Sprint(was.Term+5)
	dir := filepath.Join(p.Store, "lease")
	broken := func() bool { // the master renews: the name may have moved
		entries, err := os.ReadDir(dir)
		must(t, err)
		return len(entries) == 1 && os.Rename(filepath.Join(dir, entries[0].Name()), filepath.Join(dir, "README")) == nil
	}
	if !harness.Poll(settle, broken) {
		t.Fatal("the register could not be overwritten")
	}
	n := p.Nodes[0]
	repair := []string{"store", "repair", p.Store, "--plane", plane, "--min-term", least}
	if said, code := operate(t, n, repair...); code != 3 || !strings.Contains(said, ": stop every node first, nothing was changed") {
		t.Errorf("with nodes running: exit code %d, %s", code, said)
	}
	for _, n := range p.Nodes {
		n.Stop(settle)
		n.WaitGone(settle)
	}
	if said, code := operate(t, n, "store", "fsck", p.Store); code != 1 || !strings.Contains(said, "it can not be read, so nobody can be master") {
		t.Errorf("fsck: exit code %d, %s", code, said)
	}
	if said, code := operate(t, n, repair...); code != 0 || !strings.Contains(said, "held by nobody") {
		t.Fatalf("exit code %d, %s", code, said)
	}
	at := intervals.Now()
	p.Start()
	first := p.WaitStart(at, settle)
	if waited := first.Start.Sub(at); waited < timing.ClaimAfter(0)-time.Second {
		t.Errorf("a service was started %v after the repair, within the lease that an overlooked master might hold", waited)
	}
	p.WaitSettled(settle)
	if now := p.Register(); now.Plane != was.Plane || now.Term <= was.Term+5 {
		t.Errorf("plane %s at term %d became plane %s at term %d", was.Plane, was.Term, now.Plane, now.Term)
	}
	if said, code := operate(t, n, "store", "fsck", p.Store); code != 1 || !strings.Contains(said, "what a repair has found in the place of the register") {
		t.Errorf("fsck: exit code %d, %s", code, said)
	}
}

// TestReleaseBesideALivingMaster: the operator is wrong about which machine is
// off.
func TestReleaseBesideALivingMaster(t *testing.T) {
	t.Parallel()
	p := harness.NewPlane(t, harness.Options{Nodes: 2})
	master := p.StartAndWait(settle)
	was := p.Register()
	said, code := operate(t, p.Standby(master), "store", "release", p.Store, "--plane", string(was.Plane),
		"--term", fmt.Sprint(was.Term), "--powered-off", master.ID())
	if code != 3 || !strings.Contains(said, "so it is not powered off; nothing was changed") {
		t.Errorf("exit code %d, %s", code, said)
	}
	undisturbed(t, p, master)
}

// TestReadingTheStoreItself: what the nodes do is told without asking them.
func TestReadingTheStoreItself(t *testing.T) {
	t.Parallel()
	p := harness.NewPlane(t, harness.Options{Nodes: 2})
	master := p.StartAndWait(settle)
	n := p.Standby(master)
	if said, code := operate(t, n, "leader", "--store", p.Store); code != 0 || strings.TrimSpace(said) != master.URL("/") {
		t.Errorf("leader: exit code %d, %q; want %s", code, said, master.URL("/"))
	}
	for _, n := range p.Nodes {
		n.KillTree()
	}
	if said, code := operate(t, n, "leader", "--store", p.Store); code != 1 || !strings.Contains(said, "no master") {
		t.Errorf("leader, with every node dead: exit code %d, %q", code, said)
	}
	if said, code := operate(t, n, "history", "--store", p.Store); code != 0 || !strings.Contains(said, "\n1     ") {
		t.Errorf("history: exit code %d, %q", code, said)
	}
}
