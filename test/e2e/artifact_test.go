package e2e_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/api/v1"
	"github.com/understudy-ha/understudy/pkg/artifact"
	"github.com/understudy-ha/understudy/test/e2e/harness"
)

// fromArtifact has the recorder run from an artifact.
var fromArtifact = map[string]any{"service.command": []string{"{artifact:recorder}"}, "service.startTimeout": "20s"}

// understudy runs a command of the CLI for the node's credentials.
func understudy(t *testing.T, n *harness.Node, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	out, err := n.Command(ctx, append([]string{"--config", n.ConfigFile()}, args...)...).CombinedOutput()
	return string(out), err
}

func pushed(t *testing.T, n *harness.Node, args ...string) {
	t.Helper()
	if out, err := understudy(t, n, append([]string{"artifact", "push"}, args...)...); err != nil {
		t.Fatalf("artifact push %q: %v\n%s", args, err, out)
	}
}

// onMaster runs a command on the master, and on the next one if that ceased to
// be it meanwhile, as it may on a busy machine.
func onMaster(t *testing.T, p *harness.Plane, args ...string) string {
	t.Helper()
	for tries := 1; ; tries++ {
		out, err := understudy(t, p.WaitMaster(fastT+settle), args...)
		if err == nil {
			return out
		}
		if tries == 5 {
			t.Fatalf("understudy %q: %v\n%s", args, err, out)
		}
	}
}

// leader waits for the node that holds the term, its service running or not.
func leader(t *testing.T, p *harness.Plane) *harness.Node {
	t.Helper()
	var found *harness.Node
	if !harness.Poll(settle, func() bool {
		for _, n := range p.Nodes {
			if r, err := n.Probe("/leader"); err == nil && r.Code == 200 {
				found = n
			}
		}
		return found != nil
	}) {
		t.Fatal("nobody holds the term")
	}
	return found
}

// copies lists a node's local copies of artifacts.
func copies(t *testing.T, n *harness.Node) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(n.DataDir, "artifacts", "[0-9a-f]*"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestServiceFromArtifact: a plane whose service is an artifact waits for it,
// runs it from local copies, and fails over to a standby that has fetched it,
// although the store has lost it meanwhile. A standby whose copy is damaged
// then does not run it, and says why.
func TestServiceFromArtifact(t *testing.T) {
	t.Parallel()
	p := harness.NewPlane(t, harness.Options{Nodes: 2, Settings: fromArtifact})
	p.Start()
	first := leader(t, p)
	if r, err := first.Probe("/master"); err != nil || r.Code != 503 {
		t.Errorf("/master answers %d (%v) without the service", r.Code, err)
	}
	for tries := 1; ; tries++ { // on a busy machine the term may move on
		out, err := understudy(t, leader(t, p), "artifact", "push", "recorder", harness.Recorder())
		if err == nil {
			break
		}
		if tries == 5 {
			t.Fatalf("artifact push: %v\n%s", err, out)
		}
	}
	first = p.WaitSettled(fastT + settle)
	standby := p.Standby(first)
	if !harness.Poll(settle, func() bool { return len(copies(t, standby)) == 1 }) {
		t.Fatal("the standby has not fetched the artifact")
	}
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", first.Find(harness.Service).Pid))
	if err != nil || filepath.Dir(exe) != filepath.Join(first.DataDir, "artifacts") {
		t.Errorf("the service runs from %s, %v", exe, err)
	}

	objects, err := filepath.Glob(filepath.Join(p.Store, "artifacts", "*"))
	if err != nil || len(objects) == 0 {
		t.Fatalf("the store holds %v, %v", objects, err)
	}
	for _, o := range objects {
		if err := os.WriteFile(o, []byte("not what it was"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	first.KillTree()
	if p.WaitMaster(fastT+settle) != standby {
		t.Fatal("the standby did not take over")
	}

	first.Start()
	first.WaitStandby(settle)
	own := copies(t, first)
	if len(own) != 1 {
		t.Fatalf("the node that is back holds %v", own)
	}
	if err := errors.Join(os.Chmod(own[0], 0o755), os.Truncate(own[0], 100)); err != nil {
		t.Fatal(err)
	}
	standby.KillTree()
	first.WaitState(fastT+settle, v1.StateFailed)
	if out, err := understudy(t, first, "status"); err != nil || !strings.Contains(out, "SERVICE_FAILED") || !strings.Contains(out, "artifact recorder") || !strings.Contains(out, "corrupt") {
		t.Errorf("status says %v\n%s", err, out)
	}
	// It says so before it has given the term back.
	if !harness.Poll(settle, func() bool { return !p.Register().Held }) {
		t.Errorf("the failed node still holds the term: %+v", p.Register())
	}
	standby.Start() // its copy is whole
	if p.WaitMaster(settle) != standby {
		t.Error("the node with a whole copy is not master")
	}
}

// bigFile makes a file of random content.
func bigFile(t *testing.T, dir string, size int64) string {
	t.Helper()
	path := filepath.Join(dir, fmt.Sprintf("content-%d", rand.Uint64()))
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	var seed [32]byte
	for i := range seed {
		seed[i] = byte(rand.Uint32())
	}
	_, err = io.Copy(f, io.LimitReader(rand.NewChaCha8(seed), size))
	if err = errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestKilledPush kills, at random points of a push, the process that stores:
// the master's daemon. Nothing of it is ever to be seen, and the next push
// succeeds. The full size is 2 GiB, ten times.
func TestKilledPush(t *testing.T) {
	size, rounds := int64(64<<20), 3
	if harness.Full() {
		size, rounds = 2<<30, 10
	}
	p := harness.NewPlane(t, harness.Options{Nodes: 2})
	p.StartAndWait(settle)
	file := bigFile(t, p.Dir, size)
	took := time.Duration(0) // a push that is let be
	for killed := 0; killed < rounds; {
		master := p.WaitSettled(fastT + settle)
		ctx, cancel := context.WithCancel(t.Context())
		cmd := master.Command(ctx, "--config", master.ConfigFile(), "artifact", "push", "--again", "big", file)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		began := time.Now()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if took == 0 {
			if err := cmd.Wait(); err != nil {
				t.Fatalf("the push that is let be: %v\n%s", err, &out)
			}
			took = time.Since(began)
			onMaster(t, p, "artifact", "rm", "big")
			cancel()
			continue
		}
		time.Sleep(time.Duration(rand.Int64N(int64(took))))
		master.Kill(harness.Daemon)
		err := cmd.Wait()
		cancel()
		list, lerr := understudyList(t, p.Store)
		if lerr != nil {
			t.Fatal(lerr)
		}
		switch done := strings.Contains(out.String(), "big"); {
		case err == nil && done && strings.Contains(list, "big"):
			// It was over before the kill; away with it, for the next round.
			onMaster(t, p, "artifact", "rm", "big")
		case strings.Contains(list, "big"):
			t.Logf("killed between the commit and its answer: %s", &out)
			killed++
			pulled(t, p, file)
			onMaster(t, p, "artifact", "rm", "big")
		default:
			killed++
		}
		master.WaitExit(settle)
		master.WaitGone(settle)
		clearObjects(t, p.Store)
		master.Start()
	}
	if out := onMaster(t, p, "artifact", "list"); strings.Contains(out, "big") {
		t.Errorf("to be seen after %d killed pushes: %s", rounds, out)
	}
	onMaster(t, p, "artifact", "push", "big", file)
	pulled(t, p, file)
}

// pulled gets the artifact from the master and compares it.
func pulled(t *testing.T, p *harness.Plane, file string) {
	t.Helper()
	got := file + ".pulled"
	onMaster(t, p, "artifact", "pull", "big", got)
	if a, b := sum(t, file), sum(t, got); a != b {
		t.Errorf("pulled %s, pushed %s", b, a)
	}
	if err := os.Remove(got); err != nil {
		t.Error(err)
	}
}

// clearObjects removes what the master would remove by and by: what no name
// means. Nothing has a name at this moment.
func clearObjects(t *testing.T, store string) {
	t.Helper()
	left, err := filepath.Glob(filepath.Join(store, "artifacts", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range left {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
}

// understudyList reads the index straight from the store.
func understudyList(t *testing.T, store string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), settle)
	defer cancel()
	out, err := exec.CommandContext(ctx, harness.Understudy(), "artifact", "list", "--store", store).CombinedOutput()
	return string(out), err
}

func sum(t *testing.T, path string) artifact.Digest {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d, _, err := artifact.Sum(f)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestBigArtifact: a file of any size goes through daemon and command line in
// little memory, both ways, verified. The full size is 2 GiB.
func TestBigArtifact(t *testing.T) {
	size := int64(128 << 20)
	if harness.Full() {
		size = 2 << 30
	}
	const extra = 64 << 20
	p := harness.NewPlane(t, harness.Options{Nodes: 1})
	master := p.StartAndWait(settle)
	file := bigFile(t, p.Dir, size)
	if out, err := understudy(t, master, "artifact", "list"); err != nil { // whatever the first request costs
		t.Fatalf("%v\n%s", err, out)
	}
	before := peak(t, master.Pid())
	for _, step := range []struct {
		name string
		args []string
	}{
		{"push", []string{"artifact", "push", "big", file}},
		{"pull", []string{"artifact", "pull", "big", file + ".pulled"}},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		cmd := master.Command(ctx, append([]string{"--config", master.ConfigFile()}, step.args...)...)
		began := time.Now()
		out, err := cmd.CombinedOutput()
		took := time.Since(began)
		cancel()
		if err != nil {
			t.Fatalf("%s: %v\n%s", step.name, err, out)
		}
		// ru_maxrss is in KiB; a command that does nothing needs about 30 MiB.
		cli := maxRSS(t, cmd)
		daemon := peak(t, master.Pid()) - before
		harness.Note(t, fmt.Sprintf("artifact %s of %d MiB: %v, peak memory of the command %d MiB, of the daemon %d MiB more than before",
			step.name, size>>20, took.Round(time.Millisecond), cli>>20, daemon>>20))
		if cli > extra {
			t.Errorf("%s: the command took %d MiB", step.name, cli>>20)
		}
		if daemon > extra {
			t.Errorf("%s: the daemon took %d MiB more than before", step.name, daemon>>20)
		}
	}
	if a, b := sum(t, file), sum(t, file+".pulled"); a != b {
		t.Errorf("pulled %s, pushed %s", b, a)
	}
}

// peak is the most memory that a process has had so far, in bytes.
func peak(t *testing.T, pid int) int64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kb << 10
		}
	}
	t.Fatalf("process %d has no VmHWM", pid)
	return 0
}

// maxRSS is the most memory that a command that has ended had, in bytes.
func maxRSS(t *testing.T, cmd *exec.Cmd) int64 {
	t.Helper()
	usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok {
		t.Fatal("no usage of resources")
	}
	return usage.Maxrss << 10
}
