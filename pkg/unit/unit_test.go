package unit

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	lab "github.com/understudy-ha/understudy/test/systemd"
)

// The test binary plays the commands, inside the namespaces of a systemd.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == Command {
		os.Exit(Main(os.Args[2:], os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

const limit = 20 * time.Second

// inside runs a command of this package where the systemd is.
func inside(t *testing.T, m *lab.Manager, args ...string) (code int, out string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := m.Command(ctx, append([]string{exe, Command}, args...)...)
	b, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		t.Fatalf("%v does not end: %s", args, b)
	}
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(b)
}

func is(t *testing.T, want, code int, out, what string) {
	t.Helper()
	if code != want {
		t.Errorf("%s: exit code %d, want %d: %s", what, code, want, out)
	}
}

// TestCommands: what the three commands do and say, on a real systemd.
func TestCommands(t *testing.T) {
	m := lab.Boot(t)
	m.Write("app.service", "[Service]\nExecStart=/bin/sleep 1000\n")
	m.Write("deaf.service", "[Service]\nExecStart=/bin/sh -c 'trap \"\" TERM; setsid sh -c \": >/run/child; while :; do sleep 0.1; done\" & while :; do sleep 0.1; done'\nKillMode=process\n")
	m.Write("fails.service", "[Service]\nExecStart=/bin/sh -c 'sleep 0.3; exit 42'\n")
	m.Write("slow.service", "[Service]\nType=notify\nExecStart=/bin/sleep 1000\n") // never ready
	probe := func(name string, want int) {
		t.Helper()
		code, out := inside(t, m, OpProbe, name)
		is(t, want, code, out, "probe "+name)
	}
	until := func(what string, is func() bool) {
		t.Helper()
		for end := time.Now().Add(limit); !is(); time.Sleep(look) {
			if time.Now().After(end) {
				t.Fatal(what)
			}
		}
	}
	probe("app.service", exitStopped)
	probe("never-heard-of.service", exitStopped) // nothing of it runs

	code, out := inside(t, m, OpReady, "app.service")
	is(t, exitFailed, code, out, "ready before the start")
	m.Control("start", "app.service")
	probe("app.service", exitRuns)
	code, out = inside(t, m, OpReady, "app.service")
	is(t, 0, code, out, "ready")
	code, out = inside(t, m, OpStop, "app.service", "10s")
	is(t, 0, code, out, "stop")
	probe("app.service", exitStopped)
	code, out = inside(t, m, OpStop, "app.service", "10s")
	is(t, 0, code, out, "stop of what does not run")

	m.Control("start", "--no-block", "slow.service")
	code, out = inside(t, m, OpReady, "slow.service")
	is(t, exitFailed, code, out, "ready while it starts")
	probe("slow.service", exitRuns)
	code, out = inside(t, m, OpStop, "slow.service", "10s")
	is(t, 0, code, out, "stop while it starts")
	probe("slow.service", exitStopped)

	// Deaf to TERM, and with a child that systemd leaves alone.
	m.Control("start", "deaf.service")
	until("the unit has no child", func() bool { return m.Command(t.Context(), "rm", "/run/child").Run() == nil })
	code, out = inside(t, m, OpStop, "deaf.service", "300ms")
	is(t, 0, code, out, "stop of what is deaf")
	probe("deaf.service", exitStopped)

	// Inactive by systemd's word, alive by the kernel's.
	m.Control("start", "deaf.service")
	until("the unit has no child", func() bool { return m.Command(t.Context(), "test", "-e", "/run/child").Run() == nil })
	m.Control("kill", "--kill-who=main", "--signal=KILL", "deaf.service")
	until("the unit does not fail", func() bool { return m.Property("deaf.service", "ActiveState") == "failed" })
	code, out = inside(t, m, OpProbe, "deaf.service")
	is(t, exitRuns, code, out, "probe of what is left")
	if !strings.Contains(out, "processes live in its control group") {
		t.Errorf("it says %q", out)
	}
	code, out = inside(t, m, OpStop, "deaf.service", "10s")
	is(t, 0, code, out, "stop of what is left")
	probe("deaf.service", exitStopped)

	// The command of the service stays as long as the unit, and tells its end.
	code, out = inside(t, m, OpRun, "fails.service")
	is(t, 42, code, out, "run of what fails")
}

// TestFit: what systemd would start by itself is refused.
func TestFit(t *testing.T) {
	for _, tt := range []struct {
		s    state
		said string // empty: fit
	}{
		{state{load: "loaded", file: "disabled", restart: "no"}, ""},
		{state{load: "loaded", file: "static", restart: "no"}, ""},
		{state{load: "not-found", restart: "no"}, "not-found"},
		{state{load: "masked", restart: "no"}, "masked"},
		{state{load: "loaded", file: "enabled", restart: "no"}, "systemctl disable a.service"},
		{state{load: "loaded", file: "enabled-runtime", restart: "no"}, "enabled-runtime"},
		{state{load: "loaded", file: "static", restart: "no", pulls: []string{"a.socket"}}, "a.socket would start it"},
		{state{load: "loaded", file: "disabled", restart: "on-failure"}, "Restart=on-failure"},
	} {
		err := tt.s.fit("a.service")
		if (err == nil) != (tt.said == "") || (err != nil && (!errors.Is(err, ErrUnfit) || !strings.Contains(err.Error(), tt.said))) {
			t.Errorf("%+v: %v, want %q", tt.s, err, tt.said)
		}
	}
}

// TestUsage: whoever calls it by hand is told what it is for.
func TestUsage(t *testing.T) {
	for _, args := range [][]string{nil, {OpRun}, {OpStop, "a.service"}, {OpProbe, "a.service", "x"}, {"dance", "a.service"}} {
		var said bytes.Buffer
		if code := Main(args, &said, &said); code != exitUsage || said.Len() == 0 {
			t.Errorf("%q: exit code %d, %q", args, code, &said)
		}
	}
}

// TestUnknown: where systemd does not answer, nobody says that the unit stopped.
func TestUnknown(t *testing.T) {
	m := lab.Boot(t)
	m.Signal(unix.SIGSTOP)
	code, out := inside(t, m, OpProbe, "app.service")
	is(t, exitFailed, code, out, "probe of a systemd that is frozen")
	m.Signal(unix.SIGCONT)
	code, out = inside(t, m, OpProbe, "app.service")
	is(t, exitStopped, code, out, "probe of one that is awake again")
}
