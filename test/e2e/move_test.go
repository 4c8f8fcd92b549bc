package e2e_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/understudy-ha/understudy/api/v1"
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
	t.Parallel()
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
	merged(t, n, p.Dir)
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
	goBack(t, n, there)
	if got := command(t, n, "state", "get", "jobs/next"); strings.TrimSpace(got) != "17" {
		t.Errorf("the key is %q after going back", got)
	}
	pulled(t, p, file)
}

// goBack changes the state of a node's plane, stops it, goes back to the state
// that its reign began with, and starts it again.
func goBack(t *testing.T, n *harness.Node, location string) {
	t.Helper()
	command(t, n, "state", "put", "jobs/next", "18")
	var backups []struct {
		Name     string `json:"name"`
		Occasion string `json:"occasion"`
	}
	list := func() bool {
		out := command(t, n, "backup", "list", "--store", location, "-o", "json")
		if err := json.Unmarshal([]byte(out), &backups); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return len(backups) == 1 && backups[0].Occasion == "promotion"
	}
	if !harness.Poll(settle, list) {
		t.Fatalf("the promotion has left the backups %v", backups)
	}
	restore := []string{"backup", "restore", backups[0].Name, "--store", location}
	if out, err := understudy(t, n, append(restore, "--replace")...); err == nil || !strings.Contains(out, "stop every node") {
		t.Errorf("into a live plane: %v\n%s", err, out)
	}
	n.Stop(settle)
	if out, err := understudy(t, n, restore...); err == nil || !strings.Contains(out, "--replace drops them") {
		t.Errorf("without --replace: %v\n%s", err, out)
	}
	command(t, n, append(restore, "--replace")...)
	n.Start()
	n.WaitState(settle, v1.StateMaster)
}

// merged saves a live plane by way of its master, changes it, and brings what
// was saved back into it: what came after it and is not in the file stays.
func merged(t *testing.T, n *harness.Node, dir string) {
	t.Helper()
	live, bad := filepath.Join(dir, "live.zip"), filepath.Join(dir, "bad.zip")
	if said := command(t, n, "export", live); !strings.Contains(said, "1 keys and 1 artifacts") {
		t.Errorf("export says %s", said)
	}
	command(t, n, "state", "put", "jobs/next", "99")
	command(t, n, "state", "put", "later", "stays")
	b, err := os.ReadFile(live)
	if err == nil {
		err = os.WriteFile(bad, b[:len(b)-40], 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if out, err := understudy(t, n, "import", bad); err == nil || !strings.Contains(out, "not an archive of understudy") {
		t.Errorf("a torn file: %v\n%s", err, out)
	}
	if said := command(t, n, "import", live); !strings.Contains(said, "1 keys and 0 artifacts were imported, 1 were so already") {
		t.Errorf("import says %s", said)
	}
	for key, want := range map[string]string{"jobs/next": "17", "later": "stays"} {
		if got := strings.TrimSpace(command(t, n, "state", "get", key)); got != want {
			t.Errorf("%s is %q", key, got)
		}
	}
	command(t, n, "state", "delete", "later")
}
