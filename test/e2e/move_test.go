package e2e_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/understudy-ha/understudy/test/e2e/harness"
)

// command runs the CLI for a node, which must succeed.
func command(t *testing.T, n *harness.Node, args ...string) string {
	t.Helper()
	out, err := understudy(t, n, args...)
	if err != nil {
		t.Fatalf("understudy %q: %v\n%s", args, err, out)
	}
	return out
}

// TestMovedPlane: what a plane persists is copied while it runs, elsewhere, and
// nodes that move there go on with it, in a higher term. A live plane is not
// written to.
func TestMovedPlane(t *testing.T) {
	p := harness.NewPlane(t, harness.Options{Nodes: 1})
	n := p.StartAndWait(settle)
	command(t, n, "state", "put", "jobs/next", "17")
	file := bigFile(t, p.Dir, 1<<20)
	pushed(t, n, "big", file)
	there := filepath.Join(p.Dir, "elsewhere")
	if err := os.Mkdir(there, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := understudy(t, n, "copy-state", "--from", p.Store, "--to", p.Store+"/."); err == nil {
		t.Errorf("copied onto itself: %s", out)
	}
	said := command(t, n, "copy-state", "--from", p.Store, "--to", there)
	if !strings.Contains(said, "1 keys and 1 artifacts") {
		t.Errorf("it says %s", said)
	}
	if out, err := understudy(t, n, "copy-state", "--from", there, "--to", p.Store, "--replace"); err == nil || !strings.Contains(out, "stop every node") {
		t.Errorf("into a live plane: %v\n%s", err, out)
	}
	saved, third := filepath.Join(p.Dir, "saved.zip"), filepath.Join(p.Dir, "third")
	if err := os.Mkdir(third, 0o755); err != nil {
		t.Fatal(err)
	}
	command(t, n, "export", saved, "--store", there)
	restored := command(t, n, "import", saved, "--to", third)
	_, digest, _ := strings.Cut(said, "sha256 ")
	if digest, _, _ = strings.Cut(digest, "\n"); len(digest) != 64 || !strings.Contains(restored, digest) {
		t.Errorf("copied as %q, restored as %s", digest, restored)
	}
	before := p.Register().Term
	n.Stop(settle)
	command(t, n, "forget-plane", string(p.Register().Plane))
	n.Set("persistenceDir", there)
	n.Start()
	if p.WaitMaster(settle) != n {
		t.Fatal("no master")
	}
	if got := command(t, n, "state", "get", "jobs/next"); strings.TrimSpace(got) != "17" {
		t.Errorf("the key is %q", got)
	}
	pulled(t, p, file)
	if s, err := n.States(); err != nil || s.Term <= uint64(before) {
		t.Errorf("term %d after %d, %v", s.Term, before, err)
	}
}
