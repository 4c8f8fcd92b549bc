package e2e_test

import (
	"testing"
	"time"

	"github.com/understudy-ha/understudy/test/e2e/harness"
)

const (
	fastT    = 5 * time.Second // of the preset "fast"
	defaultT = 30 * time.Second

	// settle is how long a plane may take until one node serves and the others
	// watch, beyond the lease that may have to be waited out.
	settle = 20 * time.Second
)

// TestKillTree kills the master's whole process tree, as a power cut would:
// the next service starts within T + 1 s.
func TestKillTree(t *testing.T) {
	p := harness.NewPlane(t, harness.Options{})
	master := p.StartAndWait(settle)
	var took []time.Duration
	for range harness.Rounds(3, 20) {
		at := master.KillTree()
		next := p.WaitStart(at, 2*fastT+settle)
		took = append(took, next.Start.Sub(at))
		master.WaitExit(settle)
		master.Start()
		master = p.WaitSettled(settle)
	}
	if _, longest := harness.Figures(t, "kill -9 of the whole tree to the next start, T=5s", took); longest > fastT+time.Second {
		t.Errorf("it took up to %v, want at most T + 1 s", longest)
	}
}
