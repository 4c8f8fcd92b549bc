package supervise

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/pkg/ha"
)

// delegating is a service that others run: a file stands for what they do. What
// the test wants the probe to say is said, or else the truth.
func delegating(t *testing.T, change func(o *Options)) *bench {
	t.Helper()
	return supervise(t, `echo x >> "$OUT/job"; `+beatScript, func(o *Options) {
		sh := func(script string) []string { return []string{"/bin/sh", "-c", script} }
		o.Delegates = true
		o.StopCommand = sh(`rm -f "$OUT/job"`)
		o.Probe = sh(`a=$(cat "$OUT/answer" 2>/dev/null); [ -z "$a" ] || exit "$a"; [ -e "$OUT/job" ] && exit 0; exit 7`)
		if change != nil {
			change(o)
		}
	})
}

func (b *bench) answer(a string) {
	b.t.Helper()
	path := filepath.Join(b.dir, "answer")
	if a == "" {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			b.t.Fatal(err)
		}
		return
	}
	if err := os.WriteFile(path, []byte(a), 0o600); err != nil {
		b.t.Fatal(err)
	}
}

// quiet fails if anything is said for a moment.
func (b *bench) quiet(d time.Duration) {
	b.t.Helper()
	select {
	case e := <-b.Events():
		b.t.Fatalf("event %+v, want none", e)
	case <-time.After(d):
	}
}

func (b *bench) killMain() {
	b.t.Helper()
	if err := syscall.Kill(b.Info().Pid, syscall.SIGKILL); err != nil {
		b.t.Fatal(err)
	}
}

// A run whose command was killed is followed by another one only once the probe
// says that what others ran for it has stopped.
func TestDelegatedRestart(t *testing.T) {
	t.Parallel()
	b := delegating(t, nil)
	b.begin(1)
	b.expect(ha.ServiceReady, 1)
	b.answer("1")
	b.killMain()
	b.expect(ha.ServiceUnready, 1)
	if !eventually(func() bool { return strings.Contains(b.Info().Detail, "service.probe exited with 1") }) {
		t.Errorf("%+v, want the probe's answer", b.Info())
	}
	b.quiet(500 * time.Millisecond)
	b.silent()
	b.answer("")
	b.expect(ha.ServiceReady, 1)
	b.beating()
	b.Stop(1, "asked")
	b.expect(ha.ServiceEmpty, 1)
}

// A run that is never proven to be over does not keep the term for ever.
func TestDelegatedNeverProven(t *testing.T) {
	t.Parallel()
	b := delegating(t, func(o *Options) { o.StartTimeout = 2 * time.Second })
	b.begin(1)
	b.expect(ha.ServiceReady, 1)
	b.answer("1")
	b.killMain()
	b.expect(ha.ServiceUnready, 1)
	if e := b.expect(ha.ServiceFailed, 1); !strings.Contains(e.Why, "not gone within startTimeout (2s)") {
		t.Errorf("failed because of %q", e.Why)
	}
	b.Stop(1, "failed")
	b.quiet(500 * time.Millisecond)
	b.answer("")
	b.expect(ha.ServiceEmpty, 1)
}

// An operator's stop is done when the probe says so.
func TestDelegatedOperatorStops(t *testing.T) {
	t.Parallel()
	b := delegating(t, nil)
	b.begin(1)
	b.expect(ha.ServiceReady, 1)
	b.answer("3")
	stopped := make(chan error, 1)
	go func() { stopped <- b.Control(t.Context(), ha.ServiceStop) }()
	b.expect(ha.ServiceUnready, 1)
	select {
	case err := <-stopped:
		t.Fatalf("stopped (%v) although the probe says 3", err)
	case <-time.After(500 * time.Millisecond):
	}
	b.answer("")
	select {
	case err := <-stopped:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the stop does not end")
	}
	b.silent()
	b.Stop(1, "asked")
	b.expect(ha.ServiceEmpty, 1)
}

// What a killed guard left is stopped and proven gone by the next one. It counts
// as stuck when that takes too long, and never as gone.
func TestDelegatedGuardKilled(t *testing.T) {
	t.Parallel()
	b := delegating(t, nil)
	b.begin(1)
	b.expect(ha.ServiceReady, 1)
	old := b.Info().GuardPid
	b.answer("1")
	if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	b.expect(ha.ServiceGuardLost, 1)
	b.Stop(1, "the guard died")
	if e := b.expect(ha.ServiceStuck, 1); !strings.Contains(e.Why, "service.probe") {
		t.Errorf("stuck because of %q", e.Why)
	}
	b.silent()
	b.answer("")
	b.expect(ha.ServiceEmpty, 1)
	if _, err := os.Stat(filepath.Join(b.dir, "job")); err == nil {
		t.Error("nobody has stopped what others run")
	}
	b.begin(2)
	b.expect(ha.ServiceReady, 2)
	b.Stop(2, "asked")
	b.expect(ha.ServiceEmpty, 2)
	if pid := b.Info().GuardPid; pid == old || pid == 0 {
		t.Errorf("the guard is %d", pid)
	}
}

// Without both commands there is no such service.
func TestDelegatedNeedsBoth(t *testing.T) {
	t.Parallel()
	o := Options{Command: []string{"docker"}, Delegates: true, StopCommand: []string{"docker"}, DataDir: t.TempDir()}
	if _, err := New(t.Context(), o); err == nil || !strings.Contains(err.Error(), "service.probe") {
		t.Errorf("%v, want that it is refused", err)
	}
}
