package guard

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// engine stands in for a container engine: on the wish of its client, the
// service's command, it runs a job that is nobody's child but its own.
type engine struct {
	d    *daemon
	jobs chan *os.Process // closed once the engine has ended
}

const (
	// The client asks for the job and stays, as "docker run" does.
	client = `echo >> "$0/wanted"; while :; do sleep 0.05; done`
	// What the test wants to be said is said, or else the truth.
	probe = `echo >> "$0/probed"; a=$(cat "$0/answer" 2>/dev/null)
		[ "$a" != hang ] || while :; do sleep 0.05; done
		[ -z "$a" ] || exit "$a"
		kill -0 "$(cat "$0/job")" 2>/dev/null && exit 0
		exit 7`
	stop = `echo >> "$0/asked"; [ -e "$0/deaf" ] || kill "$(cat "$0/job")" 2>/dev/null; exit 0`
)

func engineCommands(dir string) *Outside {
	return &Outside{Stop: []string{"/bin/sh", "-c", stop, dir}, Probe: []string{"/bin/sh", "-c", probe, dir}, Env: serviceEnv}
}

// delegating starts a daemon whose service is run by an engine, and the engine.
func delegating(t *testing.T, v variant) (*daemon, *engine) {
	t.Helper()
	v.outside = engineCommands
	d := startDaemon(t, v)
	e := &engine{d: d, jobs: make(chan *os.Process, 100)}
	done := make(chan struct{})
	go func() {
		defer close(e.jobs)
		for began := 0; ; {
			select {
			case <-done:
				return
			case <-time.After(5 * time.Millisecond):
			}
			if d.lines0("wanted") > began {
				began++
				e.begin()
			}
		}
	}()
	t.Cleanup(func() { // before the daemon's own: a job that lives fails nothing else
		close(done)
		for p := range e.jobs {
			_ = p.Kill()
		}
		d.answer("7")
	})
	return d, e
}

func (e *engine) begin() {
	attr := &syscall.SysProcAttr{}
	if e.d.variant.nobody {
		attr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
	}
	p, err := os.StartProcess(selfExe, service{Dir: e.d.dir, Name: "job"}.argv(), &os.ProcAttr{Env: os.Environ(), Files: []*os.File{nil, nil, os.Stderr}, Sys: attr})
	if err != nil {
		e.d.t.Error(err)
		return
	}
	go func() { _, _ = p.Wait() }() // or it would stay a zombie, which kill -0 finds
	e.jobs <- p
	if err := os.WriteFile(filepath.Join(e.d.dir, "job"), []byte(strconv.Itoa(p.Pid)), 0o644); err != nil {
		e.d.t.Error(err)
	}
}

// lines0 counts the lines of a file that may not be there.
func (d *daemon) lines0(name string) int {
	return strings.Count(readAll(filepath.Join(d.dir, name)), "\n")
}

// answer is what the probe exits with from now on: a code, "hang", or the truth.
func (d *daemon) answer(a string) {
	path := filepath.Join(d.dir, "answer")
	if a == "" {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			d.t.Error(err)
		}
		return
	}
	if err := writeWhole(path, a, 0o666); err != nil {
		d.t.Error(err)
	}
}

// begin arms a long lease and runs the service until the job beats.
func (d *daemon) begin(id uint64) {
	d.t.Helper()
	d.arm(1, time.Minute, 70*time.Second, 80*time.Second)
	d.tell(order{Do: opStart, Term: 1, RunID: id, Argv: []string{"/bin/sh", "-c", client, d.dir}})
	d.wait(Started)
	d.beating("job")
}

// probed waits until the probe was asked n times more.
func (d *daemon) probed(n int) {
	d.t.Helper()
	n += d.lines0("probed")
	if !within(wait, func() bool { return d.lines0("probed") >= n }) {
		d.t.Fatalf("the probe was asked %d times, want %d", d.lines0("probed"), n)
	}
}

// notEmpty fails if the guard has said meanwhile that something is over.
func (d *daemon) notEmpty() {
	d.t.Helper()
	for {
		select {
		case e := <-d.lines:
			d.seen = append(d.seen, e)
			if e.Kind == Empty {
				d.t.Fatalf("said to be over without a proof: %+v", e)
			}
		default:
			return
		}
	}
}

func eachDelegating(t *testing.T, f func(d *daemon, e *engine)) {
	t.Helper()
	for _, v := range variants() {
		t.Run(strings.ReplaceAll(v.name, " ", "-"), func(t *testing.T) {
			t.Parallel()
			f(delegating(t, v))
		})
	}
}

// A stop is over when the probe says 7, and not while it says anything else,
// although nothing of the command's own tree is alive.
func TestOutsideStop(t *testing.T) {
	t.Parallel()
	eachDelegating(t, func(d *daemon, _ *engine) {
		d.begin(1)
		d.answer("1")
		d.tell(order{Do: opStop, Term: 1})
		if e := d.wait(Unproven, Empty); e.Kind != Unproven || !strings.Contains(e.Why, "exited with 1") {
			t.Fatalf("%+v, want that it is not proven", e)
		}
		d.probed(3)
		d.notEmpty()
		if d.lines0("asked") == 0 {
			t.Error("service.stop was not run")
		}
		d.answer("")
		if e := d.wait(Empty); !e.Final || e.Term != 1 {
			t.Errorf("empty: %+v", e)
		}
		d.dead(time.Second, "job")
		// The guard does not wait for the disk before it says so.
		var tr Tree
		var err error
		if !within(wait, func() bool { tr, _, err = LoadTree(d.dir); return err == nil && tr.Outside && tr.Empty }) {
			t.Errorf("the record says %+v (%v), want that it is proven to be over", tr, err)
		}
	})
}

// What does not listen is asked to stop again, as long as the probe says 0.
func TestOutsideStopAgain(t *testing.T) {
	t.Parallel()
	d, _ := delegating(t, variants()[0])
	d.begin(1)
	deaf := filepath.Join(d.dir, "deaf")
	if err := os.WriteFile(deaf, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	d.tell(order{Do: opStop, Term: 1})
	if !within(wait, func() bool { return d.lines0("asked") >= 3 }) {
		t.Fatalf("asked to stop %d times, want 3", d.lines0("asked"))
	}
	d.notEmpty()
	if err := os.Remove(deaf); err != nil {
		t.Fatal(err)
	}
	d.wait(Empty)
	d.dead(time.Second, "job")
}

// With the daemon dead the guard stops and asks, and releases nothing before 7.
func TestOutsideDaemonKilled(t *testing.T) {
	t.Parallel()
	eachDelegating(t, func(d *daemon, _ *engine) {
		d.begin(1)
		d.answer("3")
		d.kill9(d.proc.Pid)
		d.probed(3)
		d.notReleased()
		if tr, _, err := LoadTree(d.dir); err != nil || tr.Empty {
			t.Errorf("the record says %+v (%v), want that nothing is proven", tr, err)
		}
		d.answer("")
		d.releasedAt(wait)
		if !within(wait, func() bool { return d.lastBeat("job") > 0 }) {
			t.Error("the job never ran")
		}
		d.proven("job")
	})
}

// proven shows by the beats that nothing runs on.
func (d *daemon) proven(name string) {
	d.t.Helper()
	before := d.lastBeat(name)
	time.Sleep(50 * time.Millisecond) // ten beats
	if d.lastBeat(name) != before {
		d.t.Errorf("%s beats on", name)
	}
}

// With the daemon frozen and a probe that hangs, the end of the right to serve
// passes: the guard says that it is stuck, and goes on asking. The job itself
// is dead by then.
func TestOutsideProbeHangs(t *testing.T) {
	t.Parallel()
	d, _ := delegating(t, variants()[0])
	d.begin(1)
	d.answer("hang")
	const stop, kill, end = 1500 * time.Millisecond, 2500 * time.Millisecond, 3500 * time.Millisecond
	t0 := boot()
	d.arm(1, stop, kill, end)
	signalOf(t, d.proc.Pid, unix.SIGSTOP)
	if !within(wait, func() bool { return strings.Contains(readAll(filepath.Join(d.dir, "guard.log")), "stuck: ") }) {
		t.Fatal("the guard does not say that it is stuck")
	}
	d.proven("job")
	if last := d.lastBeat("job") - t0; last > end {
		t.Errorf("the job ran until %v after t0, want at most %v", last, end)
	}
	d.notReleased()
	signalOf(t, d.proc.Pid, unix.SIGCONT)
	if e := d.wait(Stuck, Empty); e.Kind != Stuck || !strings.Contains(e.Why, "service.probe") {
		t.Errorf("%+v, want stuck because of the probe", e)
	}
	d.answer("")
	if e := d.wait(Empty); !e.Final {
		t.Errorf("empty: %+v", e)
	}
	d.notReleased() // the daemon lives
}

// A run whose command ends by itself is over when its job is: no other run
// starts beside it.
func TestOutsideRestart(t *testing.T) {
	t.Parallel()
	d, _ := delegating(t, variants()[0])
	d.begin(1)
	d.answer("1")
	d.tell(order{Do: opStart, Term: 1, RunID: 2, Argv: []string{"/bin/true"}})
	d.wait(Refused) // the first one runs
	d.kill9(childOf(d.shim()))
	d.wait(Exited)
	d.wait(Unproven)
	d.probed(2)
	d.tell(order{Do: opStart, Term: 1, RunID: 3, Argv: []string{"/bin/true"}})
	if e := d.wait(Refused, Started); e.Kind != Refused || !strings.Contains(e.Why, "not proven") {
		t.Errorf("%+v, want refused", e)
	}
	d.answer("")
	if e := d.wait(Empty); e.Final || e.Run != 1 {
		t.Errorf("empty: %+v, want that of run 1 in a term that goes on", e)
	}
	d.proven("job")
	d.begin(4)
	d.tell(order{Do: opStop, Term: 1})
	if e := d.wait(Empty); !e.Final {
		t.Errorf("empty: %+v", e)
	}
}

// What could not be executed has handed nothing to anybody: no question.
func TestOutsideNeverBegan(t *testing.T) {
	t.Parallel()
	d, _ := delegating(t, variants()[0])
	d.answer("1")
	d.arm(1, time.Minute, 70*time.Second, 80*time.Second)
	d.tell(order{Do: opStart, Term: 1, RunID: 1, Argv: []string{d.dir + "/no-such"}})
	d.wait(NotExecutable)
	d.wait(Empty)
	d.tell(order{Do: opStop, Term: 1})
	if e := d.wait(Empty); !e.Final {
		t.Errorf("empty: %+v", e)
	}
	if n := d.lines0("probed"); n != 0 {
		t.Errorf("the probe was asked %d times, want never", n)
	}
}

// The guard says at start what nobody protects.
func TestOutsideLost(t *testing.T) {
	t.Parallel()
	d, _ := delegating(t, variants()[0])
	if all := strings.Join(d.lost, "\n"); !strings.Contains(all, "hands its work to other processes") {
		t.Errorf("it says %q", all)
	}
}
