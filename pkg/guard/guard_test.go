package guard

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/pkg/lease"
)

// A service with everything that makes one hard to stop: children, a
// grandchild that double-forked into a session of its own, all deaf to TERM.
func stubborn() service {
	return service{IgnoreTerm: true, Children: []service{
		{Name: "child", IgnoreTerm: true},
		{Name: "escaped", IgnoreTerm: true, Detach: true},
	}}
}

var stubbornNames = []string{"main", "child", "escaped"}

func TestDeadlineKillsWhileDaemonIsStopped(t *testing.T) {
	t.Parallel()
	each(t, func(d *daemon) {
		t := d.t
		const stop, kill, end = 1500 * time.Millisecond, 2 * time.Second, 3 * time.Second
		d.serve(1, stubborn())
		t0 := boot()
		d.arm(1, stop, kill, end)
		signalOf(t, d.proc.Pid, unix.SIGSTOP)
		d.dead(10*time.Second, stubbornNames...)
		last := d.lastBeat(stubbornNames...) - t0
		if last < kill-100*time.Millisecond || last > end {
			t.Errorf("last beat %v after t0, want between KILL at %v and End at %v", last, kill, end)
		}
		signalOf(t, d.proc.Pid, unix.SIGCONT)
		if e := d.wait(Stopping); e.Term != 1 {
			t.Errorf("stopping: %+v", e)
		}
		if e := d.wait(Empty); !e.Final || e.Term != 1 {
			t.Errorf("empty: %+v", e)
		}
		d.notReleased() // alive but silent: never
		// Then it dies: now, and only now, the release is allowed.
		d.kill9(d.proc.Pid)
		d.releasedAt(10 * time.Second)
	})
}

func TestTermAtStopIsEnoughForTheWellBehaved(t *testing.T) {
	t.Parallel()
	each(t, func(d *daemon) {
		t := d.t
		const longer = 1500 * time.Millisecond // than the main process takes
		d.serve(1, service{ExitCode: 7, Linger: 100 * time.Millisecond, Children: []service{{Name: "child", Linger: longer}, {Name: "escaped", Detach: true, Linger: longer}}})
		asked := boot()
		d.tell(order{Do: opStop, Term: 1})
		if e := d.wait(Exited); e.Exit != 7 {
			t.Errorf("exit %d, want 7", e.Exit)
		}
		if e := d.wait(Empty); !e.Final {
			t.Errorf("not final: %+v", e)
		}
		// The others were asked as well and had the time they needed.
		for _, name := range []string{"child", "escaped"} {
			if took := d.lastBeat(name) - asked; took < longer/2 || took > 10*time.Second {
				t.Errorf("the %s ended %v after the stop began", name, took)
			}
		}
		d.dead(time.Second, "main", "child", "escaped")
	})
}

func TestDaemonKilled(t *testing.T) {
	t.Parallel()
	each(t, func(d *daemon) {
		t := d.t
		d.serve(5, stubborn())
		killed := boot()
		d.kill9(d.proc.Pid)
		at := d.releasedAt(10 * time.Second)
		last := d.lastBeat(stubbornNames...)
		if last >= at {
			t.Errorf("released %v before the service's last beat", last-at)
		}
		if last-killed < early {
			t.Errorf("a service deaf to TERM died %v after the daemon, before KILL was due", last-killed)
		}
		d.dead(time.Second, stubbornNames...)
		if f := strings.Split(readAll(filepath.Join(d.dir, "released")), "\n"); f[1] != "5 testincarnation" {
			t.Errorf("release child's arguments: %q", f[1])
		}
		t.Logf("released %v after the kill", at-killed)
	})
}

// The KILL of a dead daemon's service never comes later than the deadline's.
func TestDaemonKilledJustBeforeDeadline(t *testing.T) {
	t.Parallel()
	eachWith(t, func(v *variant) { v.killAfter = wait }, func(d *daemon) {
		t := d.t
		d.serve(1, stubborn())
		d.tell(order{Do: opArm, Term: 1, Ago: time.Hour - 300*time.Millisecond, Stop: time.Hour, Kill: time.Hour, End: time.Hour + 2*time.Second})
		d.wait(Armed)
		armed := boot()
		d.kill9(d.proc.Pid)
		at := d.releasedAt(10 * time.Second)
		last := d.lastBeat(stubbornNames...)
		if last >= at || last-armed > 2*time.Second {
			t.Errorf("last beat %v after arming with 300ms left; release %v", last-armed, at-armed)
		}
	})
}

func TestGuardKilled(t *testing.T) {
	t.Parallel()
	each(t, func(d *daemon) {
		t := d.t
		d.serve(1, stubborn())
		tr, _, _ := LoadTree(d.dir)
		if gone, _ := tr.Gone(); gone {
			t.Error("a living tree is said to be gone")
		}
		killed := boot()
		d.kill9(d.guard)
		d.wait(Lost)
		d.dead(5*time.Second, stubbornNames...)
		if took := d.lastBeat(stubbornNames...) - killed; took > time.Second {
			t.Errorf("the service lived %v longer than its guard", took)
		}
		if !within(5*time.Second, func() bool {
			tr, ok, err := LoadTree(d.dir)
			gone, _ := tr.Gone()
			return ok && err == nil && gone
		}) {
			t.Error("the tree is not proven gone")
		}
		d.notReleased()
	})
}

func TestDaemonAndGuardKilled(t *testing.T) {
	t.Parallel()
	each(t, func(d *daemon) {
		t := d.t
		d.serve(1, stubborn())
		killed := boot()
		d.kill9(d.proc.Pid)
		d.kill9(d.guard)
		d.dead(5*time.Second, stubbornNames...)
		if took := d.lastBeat(stubbornNames...) - killed; took > time.Second {
			t.Errorf("the service lived %v longer than daemon and guard", took)
		} else {
			t.Logf("last beat %v after the kill", took)
		}
		d.notReleased()
	})
}

func TestGuardAndShimKilled(t *testing.T) {
	t.Parallel()
	each(t, func(d *daemon) {
		d.serve(1, service{IgnoreTerm: true})
		shim := d.shim()
		d.kill9(d.guard)
		_ = unix.Kill(shim, unix.SIGKILL) // it may be gone by then
		d.wait(Lost)
		d.dead(5*time.Second, "main")
	})
}

// A daemon that is a subreaper finds what outlived guard and shim.
func TestSweep(t *testing.T) {
	t.Parallel()
	for _, v := range variants() {
		v.adopt = true
		t.Run(strings.ReplaceAll(v.name, " ", "-"), func(t *testing.T) {
			t.Parallel()
			d := startDaemon(t, v)
			d.serve(1, stubborn())
			shim := d.shim()
			signalOf(t, shim, unix.SIGSTOP) // or it would do its work in between
			d.kill9(d.guard)
			d.wait(Lost)
			if v.isolation == IsolationGroup {
				if len(d.processes()) != 4 {
					t.Errorf("nothing was left alive, the test shows nothing: %v", d.processes())
				}
				d.kill9(shim)
			}
			if v.isolation == IsolationCgroup {
				_ = unix.Kill(shim, unix.SIGKILL) // the cgroup's end may have been faster
			}
			d.wait("swept")
			d.dead(0, stubbornNames...)
			if tree, _, _ := LoadTree(d.dir); v.isolation == IsolationGroup && !tree.Empty {
				t.Error("not recorded")
			}
		})
	}
}

// What was kept from the service is not there for it to find in /proc/1 either.
func TestShimHasTheEnvironmentOfTheService(t *testing.T) {
	t.Parallel()
	each(t, func(d *daemon) {
		d.serve(1, service{})
		env, err := os.ReadFile("/proc/" + strconv.Itoa(d.shim()) + "/environ")
		if err != nil {
			d.t.Fatal(err)
		}
		if got, want := strings.TrimSuffix(string(env), "\x00"), strings.Join(serviceEnv, "\x00"); got != want {
			d.t.Errorf("the shim has the environment %q, want the service's, %q", got, want)
		}
	})
}

func TestShimKilled(t *testing.T) {
	t.Parallel()
	each(t, func(d *daemon) {
		t := d.t
		d.serve(1, stubborn())
		d.kill9(d.shim())
		if e := d.wait(Exited); e.Exit != 137 {
			t.Errorf("exit %d", e.Exit)
		}
		if e := d.wait(Empty); e.Final || e.Run != 1 {
			t.Errorf("the run is over, the term is not: %+v", e)
		}
		d.dead(time.Second, stubbornNames...)
		// The same term may start it again.
		d.run(1, 2, service{Name: "second"})
		d.wait(Started)
		d.beating("second")
	})
}

func TestMainExitsLeavingOthers(t *testing.T) {
	t.Parallel()
	each(t, func(d *daemon) {
		t := d.t
		s := stubborn()
		s.ExitAsked, s.ExitCode = true, 3
		d.serve(1, s)
		if err := os.WriteFile(filepath.Join(d.dir, "exit"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if e := d.wait(Exited); e.Exit != 3 || e.Run != 1 {
			t.Errorf("%+v", e)
		}
		if e := d.wait(Empty); e.Final {
			t.Errorf("%+v", e)
		}
		d.dead(time.Second, stubbornNames...)
		if tr, _, _ := LoadTree(d.dir); tr.Term != 1 || !within(time.Second, func() bool { tr, _, _ = LoadTree(d.dir); return tr.Empty }) {
			t.Errorf("tree record: %+v", tr)
		}
	})
}

// G2: once the first signal of a stop was sent, nothing of that term or below
// starts again, whatever is asked or renewed afterwards.
func TestNothingStartsAfterTheFirstSignal(t *testing.T) {
	t.Parallel()
	each(t, func(d *daemon) {
		t := d.t
		d.serve(7, service{Linger: 300 * time.Millisecond})
		d.arm(7, soon, 5*time.Second, 10*time.Second)
		signalOf(t, d.proc.Pid, unix.SIGSTOP)
		if !within(10*time.Second, func() bool { return len(d.processes()) == 1 }) {
			t.Fatal("not stopped")
		}
		// The daemon thaws long before End, and asks for everything.
		signalOf(t, d.proc.Pid, unix.SIGCONT)
		d.wait(Stopping)
		d.wait(Empty)
		d.tell(order{Do: opArm, Term: 7, Stop: time.Hour, Kill: time.Hour, End: time.Hour})
		d.run(7, 2, service{Name: "again"})
		if e := d.wait(Armed, Started, Refused); e.Kind != Refused || e.Run != 2 {
			t.Fatalf("%+v", e)
		}
		d.tell(order{Do: opArm, Term: 6, Stop: time.Hour, Kill: time.Hour, End: time.Hour})
		d.run(6, 3, service{Name: "again"})
		if e := d.wait(Armed, Started, Refused); e.Kind != Refused || e.Run != 3 {
			t.Fatalf("%+v", e)
		}
		if exists(filepath.Join(d.dir, "again.beat")) {
			t.Fatal("started again")
		}
		// A later term is another matter.
		d.arm(8, time.Minute, time.Minute, time.Minute)
		d.run(8, 4, service{Name: "next"})
		d.wait(Started)
		d.beating("next")
	})
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	d := startDaemon(t, variants()[0])
	refused := func(id uint64, term lease.Term, words string) {
		t.Helper()
		d.run(term, id, service{Name: "never"})
		if e := d.wait(Armed, Started, Refused); e.Kind != Refused || e.Run != id || !strings.Contains(e.Why, words) {
			t.Fatalf("%+v, want refused: %s", e, words)
		}
	}
	refused(1, 1, "no deadline is armed")
	d.tell(order{Do: opArm, Term: 1, Stop: time.Second, Kill: 500 * time.Millisecond, End: time.Second})
	refused(2, 1, "no deadline is armed") // Kill before Stop
	d.tell(order{Do: opArm, Term: 1, Ago: -time.Minute, Stop: time.Second, Kill: time.Second, End: time.Second})
	refused(3, 1, "no deadline is armed") // from the future
	d.arm(2, time.Minute, time.Minute, time.Minute)
	refused(4, 1, "no deadline is armed") // terms only go up
	// A stop of what never started is answered, and final.
	d.tell(order{Do: opStop, Term: 2})
	if e := d.wait(Empty); !e.Final || e.Term != 2 {
		t.Fatalf("%+v", e)
	}
	// Neither is it armed again, however long its lease still was.
	d.tell(order{Do: opArm, Term: 2, Stop: time.Hour, Kill: time.Hour, End: time.Hour})
	refused(5, 2, "has begun")
	// A deadline that is over on arrival ends the term.
	d.tell(order{Do: opArm, Term: 3, Ago: time.Minute, Stop: time.Second, Kill: time.Second, End: time.Second})
	if e := d.wait(Armed, Stopping); e.Kind != Stopping {
		t.Fatalf("%+v", e)
	}
	// Two runs at once are refused.
	d.arm(4, time.Minute, time.Minute, time.Minute)
	d.run(4, 6, service{})
	d.wait(Started)
	d.run(4, 7, service{Name: "never"})
	if e := d.wait(Refused, Empty, Exited); e.Kind != Refused || e.Run != 7 {
		t.Fatalf("%+v", e)
	}
	// A later term is not armed while an earlier one's service is alive.
	d.tell(order{Do: opArm, Term: 5, Stop: time.Hour, Kill: time.Hour, End: time.Hour})
	d.tell(order{Do: opStop, Term: 4})
	if e := d.wait(Armed, Empty); e.Kind != Empty {
		t.Fatalf("%+v", e)
	}
}

func TestNotExecutable(t *testing.T) {
	t.Parallel()
	each(t, func(d *daemon) {
		t := d.t
		script := filepath.Join(d.dir, "plain")
		if err := os.WriteFile(script, []byte("#!/bin/sh\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		d.arm(1, time.Minute, time.Minute, time.Minute)
		for i, c := range []struct {
			cmd  string
			exit int
		}{{"/nonexistent/program", 127}, {"no-such-program-anywhere", 127}, {script, 126}, {d.dir, 126}} {
			d.tell(order{Do: opStart, Term: 1, RunID: uint64(i + 1), Argv: []string{c.cmd}})
			e := d.wait(NotExecutable, Started)
			if e.Kind != NotExecutable || e.Exit != c.exit || !strings.Contains(e.Why, c.cmd) {
				t.Errorf("%s: %+v", c.cmd, e)
			}
			d.wait(Empty)
		}
	})
}

func TestCloseEndsGuardAndService(t *testing.T) {
	t.Parallel()
	each(t, func(d *daemon) {
		t := d.t
		d.serve(1, service{})
		d.tell(order{Do: opClose})
		<-d.ended
		d.dead(time.Second, "main")
		if alive(d.guard, startTime(d.guard)) {
			t.Error("the guard is alive")
		}
		d.notReleased()
	})
}

func TestLockOutlivesTheDaemon(t *testing.T) {
	t.Parallel()
	d := startDaemon(t, variants()[0])
	d.serve(1, stubborn())
	_, err := LockDir(d.dir)
	var le *LockedError
	if !errors.As(err, &le) || !errors.Is(err, ErrLocked) || le.Daemon != d.proc.Pid || le.Guard != d.guard || !strings.Contains(err.Error(), strconv.Itoa(d.proc.Pid)) {
		t.Errorf("lock held by a daemon: %v", err)
	}
	signalOf(t, d.guard, unix.SIGSTOP)
	d.kill9(d.proc.Pid)
	<-d.ended
	_, err = LockDir(d.dir)
	if !errors.As(err, &le) || le.Daemon != 0 || le.Guard != d.guard || !strings.Contains(err.Error(), "guard") {
		t.Errorf("lock held by a guard: %v", err)
	}
	signalOf(t, d.guard, unix.SIGCONT)
	at := d.releasedAt(10 * time.Second)
	if last := d.lastBeat(stubbornNames...); last >= at {
		t.Error("released before the last beat")
	}
}

// In a group the shim may outlive daemon and guard for a moment: so does the
// lock.
func TestLockIsHeldByTheShim(t *testing.T) {
	t.Parallel()
	each(t, func(d *daemon) {
		t := d.t
		if d.variant.isolation == IsolationPidNamespace {
			return // that shim dies with the guard, by the kernel
		}
		d.serve(1, stubborn())
		shim := d.shim()
		signalOf(t, shim, unix.SIGSTOP)
		d.kill9(d.proc.Pid)
		d.kill9(d.guard)
		<-d.ended
		time.Sleep(100 * time.Millisecond)
		_, err := LockDir(d.dir)
		signalOf(t, shim, unix.SIGCONT)
		if !errors.Is(err, ErrLocked) {
			t.Errorf("free while the service's tree is alive: %v", err)
		}
		d.dead(wait, stubbornNames...)
	})
}

// A guard that slept through its deadline acts on waking before it believes
// any newer renewal.
func TestGuardThatWokeLate(t *testing.T) {
	t.Parallel()
	each(t, func(d *daemon) {
		t := d.t
		d.serve(1, service{})
		d.arm(1, soon, 2*soon, 4*soon)
		signalOf(t, d.guard, unix.SIGSTOP)
		time.Sleep(soon + 200*time.Millisecond)
		d.tell(order{Do: opArm, Term: 1, Stop: time.Hour, Kill: time.Hour, End: time.Hour})
		d.run(1, 2, service{Name: "again"})
		signalOf(t, d.guard, unix.SIGCONT)
		if e := d.wait(Armed, Stopping, Started); e.Kind != Stopping {
			t.Fatalf("%+v", e)
		}
		d.wait(Empty)
	})
}

func TestLostIsSaid(t *testing.T) {
	t.Parallel()
	each(t, func(d *daemon) {
		t := d.t
		words := strings.Join(d.lost, "; ")
		for kind, word := range map[string]string{IsolationGroup: "in a process group", IsolationCgroup: "in a cgroup"} {
			if (d.variant.isolation == kind) != strings.Contains(words, word) {
				t.Errorf("lost: %q", words)
			}
		}
		if !d.variant.nobody && hasCap(unix.CAP_IPC_LOCK) && strings.Contains(words, "memory is not locked") {
			t.Errorf("lost: %q", words)
		}
	})
}
