package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/test/e2e/intervals"
)

// TestMain lets the test binary be the recorder: started with asRecorder set
// it runs main, so the tests need no build of their own.
func TestMain(m *testing.M) {
	if os.Getenv(asRecorder) == "1" {
		main()
	}
	os.Exit(m.Run())
}

const asRecorder = "RECORDER_TEST_MAIN"

// patience bounds waits for things that take milliseconds on an idle machine.
const patience = 20 * time.Second

func start(t *testing.T, dir string, env ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), asRecorder+"=1", "REC_DIR="+dir, "HA_NODE=nodea001", "HA_TERM=7")
	cmd.Env = append(cmd.Env, env...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); _ = cmd.Wait() })
	return cmd
}

func wait(t *testing.T, dir string, cond func(*intervals.Record) bool) *intervals.Record {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	rec, err := intervals.Wait(ctx, dir, cond)
	if err != nil {
		t.Fatal(err)
	}
	return rec
}

// beating says that the tree has n processes, each of them beating.
func beating(n int) func(*intervals.Record) bool {
	return func(r *intervals.Record) bool {
		return len(r.Trees) == 1 && len(r.Trees[0].Processes) == n &&
			!slices.ContainsFunc(r.Trees[0].Processes, func(p intervals.Process) bool { return p.Beats < 3 })
	}
}

func TestStopsOnTerm(t *testing.T) {
	dir := t.TempDir()
	before := intervals.Now()
	cmd := start(t, dir, "REC_STOP_DELAY=40")
	rec := wait(t, dir, beating(1))
	if tree := rec.Trees[0]; tree.Node != "nodea001" || tree.Term != 7 || tree.Start < before || tree.Processes[0].Pid != cmd.Process.Pid {
		t.Errorf("tree = %+v", tree)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("exit: %v", err)
	}
	rec, err := intervals.Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	p := rec.Trees[0].Processes[0]
	if !p.Stopped || p.StopWhy != "asked" || len(p.Signals) != 1 {
		t.Fatalf("process = %+v", p)
	}
	if d := p.Last.Sub(p.Signals[0]); d < 40*time.Millisecond {
		t.Errorf("stopped %v after the signal, asked to take 40ms", d)
	}
	if p.Last > intervals.Now() {
		t.Error("the last line lies in the future")
	}
}

func TestIgnoresTermAndLeavesARecordWhenKilled(t *testing.T) {
	dir := t.TempDir()
	cmd := start(t, dir, "REC_IGNORE_TERM=1")
	wait(t, dir, beating(1))
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	rec := wait(t, dir, func(r *intervals.Record) bool {
		p := r.Trees[0].Processes[0]
		return len(p.Signals) == 1 && p.Last > p.Signals[0] // a beat after the signal
	})
	if rec.Trees[0].Stopped() {
		t.Error("it stopped")
	}
	killed := intervals.Now()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	dead := intervals.Now()
	rec, err := intervals.Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	p := rec.Trees[0].Processes[0]
	if p.Stopped {
		t.Error("a killed process says it stopped")
	}
	if p.Last > dead || killed.Sub(p.Last) > time.Second {
		t.Errorf("last line %v before the kill, %v before it was gone", killed.Sub(p.Last), dead.Sub(p.Last))
	}
}

func TestDetachedChildrenKeepFilesOfTheirOwn(t *testing.T) {
	dir := t.TempDir()
	cmd := start(t, dir, "REC_FORK=2", "REC_IGNORE_TERM=1")
	t.Cleanup(func() { killDetached(t, dir) })
	rec := wait(t, dir, beating(3))
	children := detached(rec)
	if len(children) != 2 {
		t.Fatalf("processes = %+v", rec.Trees[0].Processes)
	}
	for _, pid := range children {
		sid, _, errno := syscall.RawSyscall(syscall.SYS_GETSID, uintptr(pid), 0, 0)
		if errno != 0 || int(sid) != pid {
			t.Errorf("child %d is in session %d (%v), want one of its own", pid, sid, errno)
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	dead := intervals.Now()
	rec = wait(t, dir, func(r *intervals.Record) bool { return r.Trees[0].Last > dead })
	if len(rec.Trees) != 1 {
		t.Errorf("trees = %v", rec.Trees)
	}
}

func detached(rec *intervals.Record) []int {
	var pids []int
	for _, tree := range rec.Trees {
		for _, p := range tree.Processes {
			if p.Detached {
				pids = append(pids, p.Pid)
			}
		}
	}
	return pids
}

// killDetached kills the children, which are ours by the record they have
// been writing until now.
func killDetached(t *testing.T, dir string) {
	t.Helper()
	rec, err := intervals.Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range detached(rec) {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

func TestDiesByItself(t *testing.T) {
	dir := t.TempDir()
	cmd := start(t, dir, "REC_EXIT_AFTER=30", "REC_EXIT_CODE=9")
	wantExit(t, cmd.Wait(), 9)
	rec := wait(t, dir, func(r *intervals.Record) bool { return len(r.Trees) == 1 })
	p := rec.Trees[0].Processes[0]
	if !p.Stopped || p.StopWhy != "exit-after" || p.Last.Sub(p.Start) < 30*time.Millisecond {
		t.Errorf("process = %+v", p)
	}
}

func TestRefusesWhatItCanNotRecord(t *testing.T) {
	wantExit(t, start(t, "").Wait(), exitUsage)
	wantExit(t, start(t, t.TempDir(), "REC_FORK=some").Wait(), exitUsage)
	wantExit(t, start(t, t.TempDir()+"/missing").Wait(), exitRecord)
}

func wantExit(t *testing.T, err error, code int) {
	t.Helper()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != code {
		t.Errorf("ended with %v, want exit code %s", err, strconv.Itoa(code))
	}
}
