package guard

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/pkg/clock"
)

func TestHook(t *testing.T) {
	t.Parallel()
	each(t, func(d *daemon) {
		t := d.t
		d.serve(1, service{})
		d.hookShell(Aux{Term: 1, ID: 7, Timeout: wait, Stdin: []byte("said\n")}, `read x; echo "heard $x"; echo bad >&2; exit 3`)
		if e := d.wait(AuxStarted); e.Run != 7 || e.Term != 1 || e.Pid == 0 {
			t.Errorf("%+v", e)
		}
		if e := d.wait(AuxEnded); e.Run != 7 || e.Exit != 3 || e.Output != "heard said\nbad\n" || e.TimedOut {
			t.Errorf("%+v", e)
		}
		d.tell(order{Do: opAux, Aux: &Aux{Term: 1, ID: 8, Timeout: wait, Argv: []string{"/nonexistent/hook"}}})
		if e := d.wait(AuxStarted, AuxEnded); e.Kind != AuxEnded || e.Exit != 127 || !strings.Contains(e.Why, "does not exist") {
			t.Errorf("%+v", e)
		}
		d.alone("main")
		if !within(wait, func() bool { return len(loadAux(d.dir)) == 0 }) {
			t.Error("a record is left of what is over")
		}
	})
}

// Hooks that hang, flood and leave children behind are bounded, and the service
// goes on.
func TestHookThatMisbehaves(t *testing.T) {
	t.Parallel()
	each(t, func(d *daemon) {
		t := d.t
		d.serve(1, stubborn())
		began := boot()
		// Hangs, deaf to TERM, with a daemon of its own.
		d.hook(Aux{Term: 1, ID: 1, Timeout: 700 * time.Millisecond}, service{Name: "hook", IgnoreTerm: true, Children: []service{
			{Name: "hook-escaped", IgnoreTerm: true, Detach: true},
		}})
		// Two at once.
		d.hookShell(Aux{Term: 1, ID: 2, Timeout: 700 * time.Millisecond}, `while :; do echo 0123456789; done`)
		var took [2]time.Duration
		for i := range took {
			e := d.wait(AuxEnded)
			took[i] = boot() - began
			if !e.TimedOut || e.Run == 2 && (e.Exit != 137 || len(e.Output) != maxAuxOutput || !strings.Contains(e.Output, "\n0123456789\n")) {
				t.Errorf("%+v", e)
			}
		}
		d.alone("main", "hook", "hook-escaped")
		if took[0] < 600*time.Millisecond {
			t.Errorf("killed after %v, before its time", took[0])
		}
		// Ends, and leaves a daemon that holds its pipe.
		began = boot()
		d.hookShell(Aux{Term: 1, ID: 3, Timeout: wait}, `setsid sh -c 'trap "" TERM; echo > `+d.dir+`/left; while :; do sleep 0.05; done' `+d.dir+` & while ! [ -e `+d.dir+`/left ]; do sleep 0.01; done; echo done`)
		e := d.wait(AuxEnded)
		if e.Run != 3 || e.Exit != 0 || e.Output != "done\n" || e.TimedOut {
			t.Errorf("%+v", e)
		}
		if took := boot() - began; took > wait/2 {
			t.Errorf("what it left held it up for %v", took)
		}
		for _, pid := range d.processes() {
			if strings.Contains(readAll("/proc/"+strconv.Itoa(pid)+"/cmdline"), "trap") {
				t.Errorf("pid %d of it is alive after its end was said", pid)
			}
		}
		d.alone("main")
	})
}

// G2 holds for hooks: only on a request that names the term, never after its
// first stop signal, unless they belong to the stop, and never after the end.
func TestHookRefused(t *testing.T) {
	t.Parallel()
	d := startDaemon(t, variants()[0])
	id := uint64(0)
	refused := func(a Aux, words string) {
		t.Helper()
		id++
		a.ID, a.Timeout = id, wait
		d.hookShell(a, "exit 0")
		if e := d.wait(AuxStarted, AuxRefused); e.Kind != AuxRefused || e.Run != id || !strings.Contains(e.Why, words) {
			t.Errorf("%+v, want refused: %s", e, words)
		}
	}
	refused(Aux{Term: 1}, "no deadline is armed")
	refused(Aux{Term: 1, OfStop: true}, "no deadline is armed")
	d.serve(2, service{Linger: time.Second})
	refused(Aux{Term: 1}, "no deadline is armed")
	refused(Aux{Term: 3}, "no deadline is armed")
	d.hookShell(Aux{Term: 2, ID: 99}, "exit 0")
	if e := d.wait(AuxRefused); e.Run != 99 || !strings.Contains(e.Why, "Timeout") {
		t.Errorf("%+v", e)
	}
	d.hook(Aux{Term: 2, ID: 50, Timeout: wait}, service{Name: "hook"})
	d.beating("hook")
	d.hookShell(Aux{Term: 2, ID: 50, Timeout: wait}, "exit 0")
	if e := d.wait(AuxRefused); !strings.Contains(e.Why, "in use") {
		t.Errorf("%+v", e)
	}
	// The stop: the hook hears of it, what belongs to it may still start.
	d.tell(order{Do: opStop, Term: 2})
	refused(Aux{Term: 2}, "has begun")
	d.hookShell(Aux{Term: 2, ID: 60, Timeout: wait, OfStop: true}, "echo > "+d.dir+"/stopper; sleep 1.5; exit 4")
	// The end of the first may have come before the refusal.
	ended := func() (all []Event) {
		for _, e := range d.seen {
			if e.Kind == AuxEnded {
				all = append(all, e)
			}
		}
		return all
	}
	for len(ended()) < 2 {
		d.wait(AuxEnded)
	}
	for _, e := range ended() {
		if e.Run == 60 && e.Exit != 4 || e.TimedOut {
			t.Errorf("%+v", e)
		}
	}
	e := d.wait(Empty)
	if e.Run == 1 && !e.Final { // of the service, as a rule before that
		e = d.wait(Empty)
	}
	if !e.Final || e.Run != 0 {
		t.Errorf("%+v", e)
	}
	refused(Aux{Term: 2, OfStop: true}, "is over")
	refused(Aux{Term: 2}, "has begun")
}

// A term is over when nothing of any of its runs is alive, and not before.
func TestTermTakesItsHooksAlong(t *testing.T) {
	t.Parallel()
	each(t, func(d *daemon) {
		t := d.t
		hooks := []string{"hook", "hook-escaped"}
		start := func() {
			d.hook(Aux{Term: 1, ID: 3, Timeout: time.Hour}, service{Name: "hook", IgnoreTerm: true, Children: []service{
				{Name: "hook-escaped", IgnoreTerm: true, Detach: true},
			}})
			d.beating(hooks...)
		}
		d.serve(1, service{})
		start()
		killed := boot()
		d.kill9(d.proc.Pid)
		at := d.releasedAt(wait)
		last := d.lastBeat(hooks...)
		if last >= at {
			t.Errorf("released %v before the last beat of a hook", last-at)
		}
		if last-killed < early {
			t.Errorf("a hook deaf to TERM died %v after the daemon, before KILL was due", last-killed)
		}
		d.dead(time.Second, append(hooks, "main")...)
	})
}

func TestStopWithHook(t *testing.T) {
	t.Parallel()
	each(t, func(d *daemon) {
		t := d.t
		d.serve(1, service{})
		d.hook(Aux{Term: 1, ID: 3, Timeout: time.Hour}, service{Name: "hook", IgnoreTerm: true})
		d.beating("hook")
		t0 := boot()
		d.arm(1, time.Minute, time.Minute+2*time.Second, 2*time.Minute)
		d.tell(order{Do: opStop, Term: 1})
		if e := d.wait(Empty); e.Final || e.Run != 1 {
			t.Errorf("over while a hook is alive: %+v", e)
		}
		if e := d.wait(AuxEnded); e.Run != 3 || e.TimedOut {
			t.Errorf("%+v", e)
		}
		if e := d.wait(Empty); !e.Final || e.Term != 1 {
			t.Errorf("%+v", e)
		}
		if took := d.lastBeat("hook") - t0; took < time.Second {
			t.Errorf("a hook deaf to TERM died %v after the stop began, before KILL was due", took)
		}
		d.dead(0, "main", "hook")
	})
}

// The death of a hook's shim costs neither the proof nor the service.
func TestHooksShimKilled(t *testing.T) {
	t.Parallel()
	each(t, func(d *daemon) {
		d.serve(1, stubborn())
		d.hook(Aux{Term: 1, ID: 3, Timeout: wait}, service{Name: "hook", Children: []service{{Name: "hook-escaped", Detach: true, IgnoreTerm: true}}})
		e := d.wait(AuxStarted)
		d.beating("hook", "hook-escaped")
		s, err := readStat(e.Pid)
		if err != nil {
			d.t.Fatal(err)
		}
		d.kill9(s.ppid)
		if e := d.wait(AuxEnded); e.Run != 3 || e.Exit != -1 || e.Why == "" {
			d.t.Errorf("%+v", e)
		}
		d.alone("main", "hook", "hook-escaped")
		d.alone("escaped")
	})
}

// The same for the service: it is proven gone while a hook lives on.
func TestShimKilledBesideAHook(t *testing.T) {
	t.Parallel()
	each(t, func(d *daemon) {
		d.serve(1, stubborn())
		d.hook(Aux{Term: 1, ID: 3, Timeout: time.Hour}, service{Name: "hook", Children: []service{{Name: "hook-escaped", Detach: true}}})
		d.beating("hook", "hook-escaped")
		d.kill9(d.shim())
		if e := d.wait(Empty); e.Final || e.Run != 1 {
			d.t.Errorf("%+v", e)
		}
		d.alone("hook", stubbornNames...)
		d.alone("hook-escaped")
		d.run(1, 2, service{Name: "second"})
		d.wait(Started)
		d.beating("second")
	})
}

// What a guard leaves of a hook when it dies is found, and nothing is called
// gone before.
func TestGuardKilledWithHook(t *testing.T) {
	t.Parallel()
	for _, v := range variants() {
		v.adopt = true
		t.Run(strings.ReplaceAll(v.name, " ", "-"), func(t *testing.T) {
			t.Parallel()
			d := startDaemon(t, v)
			d.serve(1, service{})
			d.hook(Aux{Term: 1, ID: 3, Timeout: time.Hour}, service{Name: "hook", IgnoreTerm: true, Children: []service{{Name: "hook-escaped", Detach: true, IgnoreTerm: true}}})
			d.beating("hook", "hook-escaped")
			tree, _, err := LoadTree(d.dir)
			if gone, _ := tree.aux[0].goneItself(); gone || len(tree.aux) != 1 || err != nil {
				t.Fatalf("records of auxiliary runs: %+v, %v", tree.aux, err)
			}
			d.kill9(d.guard)
			d.wait(Lost)
			d.wait("swept")
			d.dead(0, "main", "hook", "hook-escaped")
			if tree, _, _ := LoadTree(d.dir); !func() bool { gone, _ := tree.Gone(); return gone }() {
				t.Error("not proven afterwards")
			}
		})
	}
}

func TestLeaseFile(t *testing.T) {
	t.Parallel()
	each(t, func(d *daemon) {
		t := d.t
		path := filepath.Join(d.dir, "lease")
		read := func() (boot string, at time.Duration) {
			f := strings.Fields(readAll(path))
			if len(f) != 2 {
				return "", 0
			}
			n, _ := strconv.ParseInt(f[1], 10, 64)
			return f[0], time.Duration(n)
		}
		for _, end := range []time.Duration{time.Minute, 2 * time.Minute} {
			from := boot()
			d.arm(1, time.Minute, time.Minute, end)
			until := boot()
			if !within(wait, func() bool { _, at := read(); return at >= from+end && at <= until+end }) {
				_, at := read()
				t.Fatalf("the deadline is %v away, want %v", at-until, end)
			}
			if id, _ := read(); id != bootID() {
				t.Errorf("boot id %q", id)
			}
		}
		d.tell(order{Do: opStop, Term: 1})
		d.wait(Empty)
		if !within(wait, func() bool { return !exists(path) }) {
			t.Error("it outlives the term")
		}
	})
}

func TestLeaseFilePlace(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("XDG_RUNTIME_DIR", "")
	t.Setenv("RUNTIME_DIRECTORY", filepath.Join(dir, "a")+":"+filepath.Join(dir, "b"))
	if path, warning, err := LeaseFile("node0001", dir); err != nil || warning != "" || path != filepath.Join(dir, "a", "node0001", "lease") || !exists(filepath.Dir(path)) {
		t.Errorf("%s, %q, %v", path, warning, err)
	}
	t.Setenv("RUNTIME_DIRECTORY", "")
	path, warning, err := LeaseFile("node0001", dir)
	if err != nil || onTmpfs(filepath.Dir(path)) != (warning == "") {
		t.Errorf("%s, %q, %v", path, warning, err)
	}
	if warning == "" {
		if err := os.Remove(filepath.Dir(path)); err != nil {
			t.Error(err)
		}
		return
	}
	if path != filepath.Join(dir, "lease") || !strings.Contains(warning, "XDG_RUNTIME_DIR") {
		t.Errorf("%s, %q", path, warning)
	}
}

// When the daemon is dead and the tree empty: role file, command, release. The
// command is bounded, and all of it comes before the release.
func TestFinals(t *testing.T) {
	t.Parallel()
	for _, v := range variants() {
		t.Run(strings.ReplaceAll(v.name, " ", "-"), func(t *testing.T) {
			t.Parallel()
			v.final = []string{"/bin/sh", "-c", `d=$0; cat $d/role > $d/seen; echo $HA_TERM >> $d/seen
(setsid sh -c 'while :; do sleep 0.05; done' $d &); trap "" TERM; while :; do date +%s%N > $d/final; sleep 0.01; done`, ""}
			d := prepareDaemon(t, v)
			v.final[3] = d.dir
			if err := os.WriteFile(filepath.Join(d.dir, "role"), []byte("0\n"), 0o666); err != nil {
				t.Fatal(err)
			}
			d.start(v)
			d.serve(4, stubborn())
			d.kill9(d.proc.Pid)
			at := d.releasedAt(wait)
			if got := readAll(filepath.Join(d.dir, "seen")); got != "1\n4\n" {
				t.Errorf("the command saw role and term %q", got)
			}
			st, err := os.Stat(filepath.Join(d.dir, "final"))
			if err != nil {
				t.Fatal(err)
			}
			lag := time.Duration(clock.Now().Boot) - at
			if ended := time.Since(st.ModTime()); ended < lag-10*time.Millisecond {
				t.Errorf("the command's last sign is %v old, the release %v", ended, lag)
			}
			d.dead(time.Second, stubbornNames...)
		})
	}
}

// A daemon that was no master has nothing to undo but the role file.
func TestFinalsOfAStandby(t *testing.T) {
	t.Parallel()
	v := variants()[0]
	v.final = []string{"/bin/sh", "-c", "echo > $0/final", ""}
	d := prepareDaemon(t, v)
	v.final[3] = d.dir
	d.start(v)
	d.serve(4, service{})
	d.tell(order{Do: opStop, Term: 4})
	if e := d.wait(Empty); !e.Final {
		t.Fatalf("%+v", e)
	}
	d.kill9(d.proc.Pid)
	d.releasedAt(wait)
	if exists(filepath.Join(d.dir, "final")) {
		t.Error("its command was run")
	}
	if got := readAll(filepath.Join(d.dir, "role")); got != "1\n" {
		t.Errorf("role file: %q", got)
	}
}

// A deadline that comes while a hook's record is being written is kept.
func TestHooksAreInNobodysWay(t *testing.T) {
	t.Parallel()
	each(t, func(d *daemon) {
		d.serve(1, service{})
		for id := range uint64(20) {
			d.hook(Aux{Term: 1, ID: 100 + id, Timeout: time.Hour}, service{Name: "hook" + strconv.Itoa(int(id)), IgnoreTerm: true})
		}
		const stop, kill, end = 3 * time.Second, 3500 * time.Millisecond, 6 * time.Second // it takes twenty hooks before it
		t0 := boot()
		d.arm(1, stop, kill, end)
		signalOf(d.t, d.proc.Pid, unix.SIGSTOP)
		d.dead(wait, "main")
		if last := d.lastBeat("main") - t0; last > end {
			d.t.Errorf("the service lived until %v after t0", last)
		}
		signalOf(d.t, d.proc.Pid, unix.SIGCONT)
		if e := d.wait(Empty); !e.Final {
			e = d.wait(Empty)
			if !e.Final {
				d.t.Errorf("%+v", e)
			}
		}
	})
}
