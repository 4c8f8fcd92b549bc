package e2e_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/test/e2e/harness"
	"github.com/understudy-ha/understudy/test/e2e/intervals"
)

// docker stands in for any command that has another process do its work. Each
// node has an engine of its own, at $ENGINE. What the test wants the probe to
// say is said, or else the truth.
const docker = `#!/bin/sh
case $1 in
run)
	rm -f "$ENGINE/ended"
	env -0 >"$ENGINE/wish.tmp" && mv "$ENGINE/wish.tmp" "$ENGINE/wish"
	while [ ! -e "$ENGINE/ended" ]; do sleep 0.05; done ;;
stop)
	echo >>"$ENGINE/stops"
	kill "$(cat "$ENGINE/job")" 2>/dev/null
	exit 0 ;;
inspect)
	echo >>"$ENGINE/probes"
	answer=$(cat "$ENGINE/answer" 2>/dev/null)
	[ "$answer" != hang ] || while :; do sleep 0.05; done
	[ -z "$answer" ] || exit "$answer"
	kill -0 "$(cat "$ENGINE/job")" 2>/dev/null && exit 0
	exit 7 ;;
esac
`

// engine runs the recorder for a node as a child of the test, which no guard
// can kill with its tree.
type engine struct {
	t   *testing.T
	dir string
	end chan struct{}
}

// engines gives every node of a plane an engine, and a service that is run by it.
func engines(t *testing.T, p *harness.Plane) map[*harness.Node]*engine {
	t.Helper()
	script := filepath.Join(p.Dir, "docker")
	must(t, os.WriteFile(script, []byte(docker), 0o755)) //nolint:gosec // it is to be executed
	all := map[*harness.Node]*engine{}
	for _, n := range p.Nodes {
		e := &engine{t: t, dir: filepath.Join(p.Dir, n.Name+".engine"), end: make(chan struct{})}
		must(t, os.Mkdir(e.dir, 0o755))
		n.Env = append(n.Env, "ENGINE="+e.dir)
		n.Set("service.command", []string{"/usr/bin/env", "ROLE=main", script, "run"})
		n.Set("service.stop", []string{script, "stop"})
		n.Set("service.probe", []string{script, "inspect"})
		n.Set("service.restart", "never")
		done := make(chan struct{})
		go func() {
			defer close(done)
			e.work()
		}()
		t.Cleanup(func() {
			close(e.end)
			<-done
		})
		all[n] = e
	}
	return all
}

// work runs a job for each wish, one at a time, until the test ends.
func (e *engine) work() {
	for {
		wish, err := os.ReadFile(filepath.Join(e.dir, "wish"))
		if err != nil {
			select {
			case <-e.end:
				return
			case <-time.After(5 * time.Millisecond):
				continue
			}
		}
		cmd := exec.Command(harness.Recorder()) //nolint:noctx // it ends with the test's plane at the latest
		for _, kv := range bytes.Split(bytes.TrimRight(wish, "\x00"), []byte{0}) {
			cmd.Env = append(cmd.Env, string(kv))
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := cmd.Start(); err != nil {
			e.t.Error(err)
			return
		}
		e.write("job", strconv.Itoa(cmd.Process.Pid))
		e.remove("wish")
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_ = cmd.Wait() // however it ends
		}()
		select {
		case <-ended:
		case <-e.end:
			_ = cmd.Process.Kill()
			<-ended
		}
		e.write("ended", "")
	}
}

func (e *engine) write(name, text string) {
	path := filepath.Join(e.dir, name)
	if err := os.WriteFile(path+".new", []byte(text), 0o644); err != nil { //nolint:gosec // no secret
		e.t.Error(err)
	} else if err := os.Rename(path+".new", path); err != nil {
		e.t.Error(err)
	}
}

func (e *engine) remove(name string) {
	if err := os.Remove(filepath.Join(e.dir, name)); err != nil {
		e.t.Error(err)
	}
}

// probed waits until the probe was asked n times more.
func (e *engine) probed(n int) {
	e.t.Helper()
	asked := func() int {
		b, _ := os.ReadFile(filepath.Join(e.dir, "probes"))
		return bytes.Count(b, []byte("\n"))
	}
	n += asked()
	if !harness.Poll(settle, func() bool { return asked() >= n }) {
		e.t.Fatalf("the probe was asked %d times, want %d", asked(), n)
	}
}

// TestDelegated: a service whose command hands its work to others. Whoever
// ends its term, nothing is released, and nobody starts, while the probe does
// not say 7; once it does, the next master starts at once.
func TestDelegated(t *testing.T) {
	p := harness.NewPlane(t, harness.Options{Nodes: 2, Settings: harness.Preset("default")})
	host := engines(t, p)
	master := p.StartAndWait(settle)
	for _, round := range []struct {
		what string
		end  func()
	}{
		{"kill -9 of the daemon", func() { master.Kill(harness.Daemon) }},
		{"SIGTERM", func() { master.Signal(unix.SIGTERM) }},
	} {
		old := p.Latest()
		host[master].write("answer", "1")
		at := intervals.Now()
		round.end()
		host[master].probed(3)
		held := p.Register()
		if !held.Held || uint64(held.Term) != old.Term || p.Record().StartsAfter(at) > 0 {
			t.Errorf("%s: the register says %+v and %d services started, although the probe says 1", round.what, held, p.Record().StartsAfter(at))
		}
		if log := master.GuardLog(); !strings.Contains(log, "not proven to have stopped: service.probe exited with 1") {
			t.Errorf("%s: the guard does not say what it waits for: %s", round.what, log)
		}
		if !master.Running() {
			// What the unit's ExecStopPost does.
			if said, code := operate(t, master, "systemd", "wait-guard", "--timeout", "200ms"); code != 1 || !strings.Contains(said, "FENCING_FAILED") {
				t.Errorf("%s: wait-guard ended with %d: %s", round.what, code, said)
			}
		}
		told := intervals.Now()
		host[master].remove("answer")
		next := p.WaitStart(at, settle)
		another(t, p, next, master)
		if next.Start < told {
			t.Errorf("%s: %v started %v before the probe said 7", round.what, next, told.Sub(next.Start))
		}
		// Without a release it would come a lease after the last renewal.
		took := next.Start.Sub(told)
		harness.Figures(t, round.what+", delegated service: probe's 7 to the next start", []time.Duration{took})
		if took > defaultT/2 {
			t.Errorf("%s: started %v after the probe said 7: that was no release", round.what, took)
		}
		if old = p.Tree(old.ID); old.Last > told {
			t.Errorf("%s: %v lived when the probe said 7", round.what, old)
		}
		master.WaitExit(settle)
		if said, code := operate(t, master, "systemd", "wait-guard"); code != 0 {
			t.Errorf("%s: wait-guard ended with %d: %s", round.what, code, said)
		}
		master.Start()
		master = p.WaitSettled(settle)
	}
}

// TestDelegatedUnprovenInTime: the daemon is frozen and its probe hangs. The
// service is stopped within its right to serve; the guard does not know that,
// so the daemon shows FENCING_FAILED when it wakes, and whoever comes next has
// waited for the lease. Once the probe answers all is well.
func TestDelegatedUnprovenInTime(t *testing.T) {
	timing := fast(t)
	p := harness.NewPlane(t, harness.Options{Nodes: 2})
	host := engines(t, p)
	master := p.StartAndWait(settle)
	old := p.Latest()
	host[master].write("answer", "hang")
	at := master.Signal(unix.SIGSTOP)
	next := p.WaitStart(at, 2*fastT+settle)
	another(t, p, next, master)
	old = p.Tree(old.ID)
	if lived := old.Last.Sub(at); lived > timing.End() {
		t.Errorf("the service lived for %v, longer than its right to serve, %v", lived, timing.End())
	}
	if held := p.Register(); string(held.Holder) == master.ID() {
		t.Errorf("the register says %+v", held)
	}
	if log := master.GuardLog(); strings.Contains(log, "release child") {
		t.Errorf("the guard of a daemon that lives wrote a release: %s", log)
	}
	master.Signal(unix.SIGCONT)
	failedWithReason(t, master, election.ReasonFencingFailed)
	host[master].remove("answer")
	master.WaitStandby(settle)
	if got := p.WaitSettled(settle); got != p.NodeOf(next) {
		t.Errorf("%s is master, want %s", got.Name, p.NodeOf(next).Name)
	}
}

// TestDelegatedGuardKilled: a delegated service survives its guard. A new one
// stops it and has it proven gone before the term is released.
func TestDelegatedGuardKilled(t *testing.T) {
	p := harness.NewPlane(t, harness.Options{Nodes: 2, Settings: harness.Preset("default")})
	host := engines(t, p)
	master := p.StartAndWait(settle)
	old := p.Latest()
	host[master].write("answer", "1")
	at := master.Kill(harness.Guard)
	host[master].probed(3)
	if held := p.Register(); !held.Held || uint64(held.Term) != old.Term {
		t.Errorf("the register says %+v although the probe says 1", held)
	}
	told := intervals.Now()
	host[master].remove("answer")
	next := p.WaitStart(at, settle)
	if took := next.Start.Sub(told); next.Start < told || took > defaultT/2 {
		t.Errorf("the next start came %v after the probe said 7", took)
	}
	if old = p.Tree(old.ID); old.Last > next.Start {
		t.Errorf("%v lived when %v started", old, next)
	}
}
