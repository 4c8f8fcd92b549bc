package e2e_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/test/e2e/harness"
	"github.com/understudy-ha/understudy/test/e2e/intervals"
)

// formerRevision is the source of the version that is upgraded from.
const formerRevision = "c90fb5c55954701cf97df5b4db2eb7c774854f48"

// TestUpgrade moves a plane from one version to the next and back in the order
// that docs/operations.md gives, standbys first, while clients ask all nodes:
// the service moves once each time, without waiting for a lease, and never runs
// twice.
func TestUpgrade(t *testing.T) {
	const former, present = "v0.1.0", "v0.2.0"
	dir := t.TempDir()
	programs := map[string]string{
		former:  buildAs(t, formerSource(t), filepath.Join(dir, former, "understudy"), former),
		present: buildAs(t, "../..", filepath.Join(dir, present, "understudy"), present),
	}
	p := harness.NewPlane(t, harness.Options{ServiceEnv: map[string]string{"REC_FORK": "1"}})
	for _, n := range p.Nodes {
		n.Program = programs[former]
	}
	p.StartAndWait(settle)
	asked := askAll(t, p)
	var gaps []time.Duration
	for _, to := range []string{present, former} {
		master := p.WaitSettled(settle)
		began := intervals.Now()
		for _, n := range p.Nodes {
			if n != master {
				change(t, n, programs[to], to)
			}
		}
		if n := p.Record().StartsAfter(began); n > 0 {
			t.Fatalf("%d services started while standbys were changed", n)
		}
		old := p.Latest()
		at := master.Stop(settle)
		next := p.WaitStart(at, settle)
		if got := p.NodeOf(next); got == master {
			t.Fatalf("%s serves again", got.Name)
		}
		gaps = append(gaps, next.Start.Sub(p.Tree(old.ID).Last))
		change(t, master, programs[to], to)
		p.WaitSettled(settle)
		if n := p.Record().StartsAfter(began); n != 1 {
			t.Errorf("the service moved %d times on the way to %s, want once", n, to)
		}
	}
	if _, longest := harness.Figures(t, "old service's exit to the next start, other version", gaps); longest > fastT/2 {
		t.Errorf("up to %v without a service: somebody waited for the lease", longest)
	}
	if n := asked(); n < 100 {
		t.Errorf("the clients asked %d times only", n)
	}
}

// change gives a node, running or stopped, another program, and waits until it
// is a standby and says which version it is.
func change(t *testing.T, n *harness.Node, program, version string) {
	t.Helper()
	if n.Running() {
		n.Stop(settle)
	}
	n.Program = program
	n.Start()
	n.WaitStandby(settle)
	if !harness.Poll(settle, func() bool {
		s, err := n.States()
		v := s.Nodes[n.ID()].Version
		return err == nil && v != nil && *v == version
	}) {
		t.Errorf("%s does not say that it is %s", n.Name, version)
	}
}

// askAll begins to ask all nodes who is master, without a pause. The function
// that it returns ends that and is the number of answers.
func askAll(t *testing.T, p *harness.Plane) func() int64 {
	t.Helper()
	var answers atomic.Int64
	var wg sync.WaitGroup
	quit := make(chan struct{})
	var once sync.Once
	end := func() int64 {
		once.Do(func() { close(quit) })
		wg.Wait()
		return answers.Load()
	}
	t.Cleanup(func() { end() })
	for _, n := range p.Nodes {
		wg.Go(func() {
			for {
				select {
				case <-quit:
					return
				case <-time.After(5 * time.Millisecond):
				}
				if _, err := n.Probe("/master"); err == nil {
					answers.Add(1)
				}
			}
		})
	}
	return end
}

// formerSource is the source of the former version where this checkout has its
// history, else this one's own.
func formerSource(t *testing.T) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	git := exec.CommandContext(ctx, "git", "archive", formerRevision)
	git.Dir = "../.." // or it packs this directory only
	tarball, err := git.Output()
	if err != nil {
		t.Logf("no source of the former version here (%v): both are of this one", err)
		return "../.."
	}
	dir := t.TempDir()
	tar := exec.CommandContext(ctx, "tar", "-x", "-C", dir)
	tar.Stdin = bytes.NewReader(tarball)
	if b, err := tar.CombinedOutput(); err != nil {
		t.Fatalf("tar: %v: %s", err, b)
	}
	return dir
}

func buildAs(t *testing.T, source, out, version string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -X main.version="+version, "-o", out, "./cmd/understudy")
	cmd.Dir, cmd.Env = source, append(os.Environ(), "CGO_ENABLED=0")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, b)
	}
	return out
}
