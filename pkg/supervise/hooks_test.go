package supervise

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/pkg/guard"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// Auxiliary runs are the guard's, of one term, and whoever waits for one hears
// of its end, whatever brought it about.
func TestRunHook(t *testing.T) {
	t.Parallel()
	b := supervise(t, beatScript, nil)
	hook := func(term lease.Term, script string) guard.Event {
		return b.RunHook(t.Context(), guard.Aux{
			Term: term, Argv: []string{"/bin/sh", "-c", script}, Env: []string{"PATH=/usr/bin:/bin", "GORACE=atexit_sleep_ms=0"},
			Timeout: 20 * time.Second,
		})
	}
	if e := hook(1, "exit 0"); e.Kind != guard.AuxRefused {
		t.Errorf("in a term that is not armed: %+v", e)
	}
	b.armFor(1, time.Minute)
	if e := hook(1, "echo said; exit 3"); e.Kind != guard.AuxEnded || e.Exit != 3 || e.Output != "said\n" {
		t.Errorf("%+v", e)
	}
	ended := make(chan guard.Event, 1)
	began := filepath.Join(b.dir, "began")
	go func() { ended <- hook(1, ": > "+began+"; exec sleep 300") }()
	if !eventually(func() bool { _, err := os.Stat(began); return err == nil }) {
		t.Fatal("it does not begin")
	}
	kill(t, b.Info().GuardPid)
	select {
	case e := <-ended:
		if e.Kind != guard.AuxEnded || e.Exit != -1 || e.Why == "" {
			t.Errorf("when the guard died: %+v", e)
		}
	case <-time.After(20 * time.Second):
		t.Error("nobody says that the guard died")
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if e := hook(2, "exit 0"); e.Kind != guard.AuxRefused {
		t.Errorf("after Close: %+v", e)
	}
}
