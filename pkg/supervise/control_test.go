package supervise

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/pkg/clock"
	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// do performs an action, which must succeed.
func (b *bench) do(a ha.ServiceAction) {
	b.t.Helper()
	if err := b.control(a); err != nil {
		b.t.Fatalf("%s: %v", a, err)
	}
}

func (b *bench) control(a ha.ServiceAction) error {
	ctx, cancel := context.WithTimeout(b.t.Context(), 20*time.Second)
	defer cancel()
	return b.Control(ctx, a)
}

// refused performs an action, which must be refused with the words.
func (b *bench) refused(a ha.ServiceAction, words string) {
	b.t.Helper()
	var unmet *ha.PreconditionError
	if err := b.control(a); !errors.As(err, &unmet) || !strings.Contains(err.Error(), words) {
		b.t.Errorf("%s: %v, want it refused with %q", a, err, words)
	}
}

// An operator stops, starts and restarts the service in one term, although it
// ignores TERM and has daemonised children, and whatever the restart policy.
// Deadlines are acknowledged all the while.
func TestOperatorStopsAndStarts(t *testing.T) {
	t.Parallel()
	for _, kind := range isolations(t) {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			b := supervise(t, `trap '' TERM; (setsid sh -c "`+strings.ReplaceAll(beatScript, `"`, `\"`)+`" &); `+beatScript, func(o *Options) {
				o.Restart, o.StopTimeout, o.Isolation = RestartAlways, time.Second, kind
			})
			b.begin(7)
			b.expect(ha.ServiceReady, 7)
			b.beating()
			first := b.Info().Pid

			b.do(ha.ServiceStop)
			if e := b.expect(ha.ServiceUnready, 7); !e.Held || !strings.Contains(e.Why, "operator") {
				t.Errorf("%+v", e)
			}
			b.silent()
			if i := b.Info(); i.Phase != phaseStopped || i.Pid != 0 || i.Failures != 0 {
				t.Errorf("%+v", i)
			}
			b.do(ha.ServiceStop) // is so already
			b.armFor(7, time.Minute)
			b.silent()

			b.do(ha.ServiceStart)
			b.expect(ha.ServiceReady, 7)
			b.beating()
			b.do(ha.ServiceStart)

			second := b.Info().Pid
			b.do(ha.ServiceRestart)
			if e := b.expect(ha.ServiceUnready, 7); e.Held {
				t.Errorf("%+v", e)
			}
			b.expect(ha.ServiceReady, 7)
			b.beating()
			if third := b.Info().Pid; first == second || second == third || b.Info().Restarts != 2 {
				t.Errorf("pids %d, %d, %d; %+v", first, second, third, b.Info())
			}

			b.do(ha.ServiceStop)
			b.expect(ha.ServiceUnready, 7)
			b.Stop(7, "the term ends")
			b.expect(ha.ServiceEmpty, 7)
			b.refused(ha.ServiceStart, "not master")
			// What an operator wanted in one term is over in the next.
			b.begin(8)
			b.expect(ha.ServiceReady, 8)
			b.beating()
		})
	}
}

func TestOperatorOfANodeWithoutATerm(t *testing.T) {
	t.Parallel()
	b := supervise(t, beatScript, nil)
	for _, a := range []ha.ServiceAction{ha.ServiceStart, ha.ServiceStop, ha.ServiceRestart} {
		b.refused(a, "ask the master")
	}
	b.do(ha.ServiceResetFailures)
	if err := b.control("dance"); err == nil {
		t.Error("an unknown action was taken")
	}
}

// Stop and start during a back-off take effect at once.
func TestOperatorDuringBackOff(t *testing.T) {
	t.Parallel()
	b := supervise(t, `[ -e "$OUT/ok" ] || exit 5; `+beatScript, func(o *Options) {
		o.BackOff = time.Hour
		o.MaxBackOff = time.Hour
		readyAt("beats")(o)
	})
	b.begin(1)
	b.expect(ha.ServiceUnready, 1)
	b.do(ha.ServiceStop)
	if i := b.Info(); i.Phase != phaseStopped || i.Failures != 1 || i.LastExit == nil || i.LastExit.Code != 5 {
		t.Errorf("%+v", i)
	}
	touch(t, filepath.Join(b.dir, "ok"))
	b.do(ha.ServiceStart)
	b.expect(ha.ServiceReady, 1)
	b.beating()
	b.do(ha.ServiceResetFailures)
	if i := b.Info(); i.Failures != 0 || i.LastExit != nil {
		t.Errorf("%+v", i)
	}
}

// /master turns to 503 for drainDelay before the service is told to stop.
func TestOperatorsStopDrains(t *testing.T) {
	t.Parallel()
	const drain = 2 * time.Second // in which what follows is seen
	b := supervise(t, beatScript, func(o *Options) { o.DrainDelay = drain })
	b.begin(1)
	b.expect(ha.ServiceReady, 1)
	began := time.Now()
	done := make(chan error, 1)
	go func() { done <- b.Control(t.Context(), ha.ServiceStop) }()
	b.expect(ha.ServiceUnready, 1)
	b.beating()
	b.refused(ha.ServiceRestart, "being stopped already")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < drain {
		t.Errorf("stopped after %v, want no sooner than after %v", took, drain)
	}
	b.silent()
}

// The end of the lease comes first, whatever an operator has asked for.
func TestDeadlineDuringAnOperatorsStop(t *testing.T) {
	t.Parallel()
	b := supervise(t, beatScript, func(o *Options) { o.DrainDelay = time.Hour })
	b.begin(1)
	b.expect(ha.ServiceReady, 1)
	done := make(chan error, 1)
	go func() { done <- b.Control(t.Context(), ha.ServiceStop) }()
	b.expect(ha.ServiceUnready, 1)
	b.armFor(1, 200*time.Millisecond)
	b.expect(ha.ServiceStopping, 1)
	b.expect(ha.ServiceEmpty, 1)
	if err := <-done; err == nil {
		t.Error("the operator was told that it worked")
	}
	b.silent()
}

// A service that fails its start after an operator's restart is given up, and
// the operator hears why.
func TestOperatorHearsOfAFailedStart(t *testing.T) {
	t.Parallel()
	b := supervise(t, `[ -e "$OUT/broken" ] && exit 9; touch "$OUT/broken"; touch "$OUT/up"; `+beatScript, func(o *Options) {
		o.Restart = RestartNever
		readyAt("up")(o)
	})
	b.begin(1)
	b.expect(ha.ServiceReady, 1)
	if err := os.Remove(filepath.Join(b.dir, "up")); err != nil {
		t.Fatal(err)
	}
	b.refused(ha.ServiceRestart, "exited with 9")
	b.expect(ha.ServiceUnready, 1)
	b.expect(ha.ServiceFailed, 1)
}

func touch(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A check that fails makes the service a failed one: it is ended, children and
// all, and started again in the same term; the count is seen and reset.
func TestLivenessRestarts(t *testing.T) {
	t.Parallel()
	b := supervise(t, `trap '' TERM; touch "$OUT/up"; `+beatScript, func(o *Options) {
		o.StopTimeout = time.Second
		o.Ready = Check{File: filepath.Join(o.DataDir, "up"), Interval: 20 * time.Millisecond}
		o.Checks = []Check{
			{Name: "up", Exec: []string{"/usr/bin/test", "-e", filepath.Join(o.DataDir, "up")}, Interval: 30 * time.Millisecond, Fall: 2, Rise: 2},
			{Name: "fine", File: o.DataDir, Interval: 30 * time.Millisecond},
		}
	})
	b.begin(1)
	b.expect(ha.ServiceReady, 1)
	first := b.Info().Pid
	if !eventually(func() bool {
		c := b.Info().Checks
		return len(c) == 2 && !c[0].At.IsZero() && !c[1].At.IsZero() && c[0].Error == ""
	}) {
		t.Fatalf("%+v", b.Info())
	}
	if err := os.Remove(filepath.Join(b.dir, "up")); err != nil {
		t.Fatal(err)
	}
	if e := b.expect(ha.ServiceUnready, 1); e.Held || !strings.Contains(e.Why, "check up failed 2 times") {
		t.Errorf("%+v", e)
	}
	b.expect(ha.ServiceReady, 1)
	b.beating()
	if i := b.Info(); i.Pid == first || i.Failures != 1 || i.Restarts != 1 || i.Checks[0].Name != "up" || i.Checks[0].Kind != "exec" {
		t.Errorf("%+v", i)
	}
	b.do(ha.ServiceResetFailures)
	if n := b.Info().Failures; n != 0 {
		t.Errorf("%d failures after the reset", n)
	}
}

// Past maxRestarts, and at once with restart: never, a failing check gives the
// term up.
func TestLivenessGivesUp(t *testing.T) {
	t.Parallel()
	for policy, restarts := range map[Policy]int{RestartNever: 0, RestartOnFailure: 2} {
		b := supervise(t, beatScript, func(o *Options) {
			o.Restart, o.MaxRestarts, o.StopTimeout = policy, 2, time.Second
			o.Checks = []Check{{Name: "no", File: "/nonexistent/file", Interval: 20 * time.Millisecond, Fall: 3}}
		})
		b.begin(1)
		for range restarts {
			b.expect(ha.ServiceReady, 1)
			b.expect(ha.ServiceUnready, 1)
		}
		b.expect(ha.ServiceReady, 1)
		if e := b.expect(ha.ServiceFailed, 1); !strings.Contains(e.Why, "check no failed 3 times") {
			t.Errorf("%s: %+v", policy, e)
		}
		b.Stop(1, "failed")
		b.expect(ha.ServiceEmpty, 1)
		b.silent()
	}
}

// Rise passes in a row make up for failures; fewer do not.
func TestLivenessRise(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	// fail, pass, fail, pass ...: with rise 1 never twice in a row
	flaky := `n=$(cat "$0" 2>/dev/null || echo 0); echo $((n+1)) > "$0"; [ $((n % 2)) = 1 ]`
	check := func(name string, rise int) Check {
		return Check{Name: name, Exec: []string{"/bin/sh", "-c", flaky, filepath.Join(dir, name)}, Interval: 10 * time.Millisecond, Fall: 2, Rise: rise}
	}
	b := supervise(t, beatScript, func(o *Options) { o.Restart, o.Checks = RestartNever, []Check{check("one", 1)} })
	b.begin(1)
	b.expect(ha.ServiceReady, 1)
	if !eventually(func() bool { n, _ := os.ReadFile(filepath.Join(dir, "one")); return len(n) > 2 }) { // ten tries
		t.Fatal("the check is not tried")
	}
	if i := b.Info(); i.Phase != phaseReady {
		t.Errorf("%+v", i)
	}
	b = supervise(t, beatScript, func(o *Options) { o.Restart, o.Checks = RestartNever, []Check{check("two", 2)} })
	b.begin(1)
	b.expect(ha.ServiceReady, 1)
	b.expect(ha.ServiceFailed, 1)
}

// A check that hangs is a failed one, in time, and the others go on.
func TestHangingChecks(t *testing.T) {
	t.Parallel()
	b := supervise(t, beatScript, func(o *Options) {
		o.Restart = RestartNever
		o.Checks = []Check{
			{Name: "hangs", Exec: []string{"/bin/sh", "-c", `trap '' TERM; sleep 1000 & sleep 1000`}, Interval: 20 * time.Millisecond, Timeout: time.Second, Fall: 2},
			{Name: "goes", Exec: []string{"/bin/sh", "-c", `echo x >> "` + filepath.Join(o.DataDir, "goes") + `"`}, Interval: 20 * time.Millisecond},
		}
	})
	b.begin(1)
	b.expect(ha.ServiceReady, 1)
	if e := b.expect(ha.ServiceFailed, 1); !strings.Contains(e.Why, "check hangs failed 2 times") || !strings.Contains(e.Why, "deadline exceeded") {
		t.Errorf("%+v", e)
	}
	if size(filepath.Join(b.dir, "goes")) == 0 {
		t.Error("the other check did not run")
	}
}

// A readiness check that hangs is bounded by its timeout and tried again; the
// limit of the start holds.
func TestReadinessCheckHangs(t *testing.T) {
	t.Parallel()
	b := supervise(t, beatScript, func(o *Options) {
		o.Ready = Check{Exec: []string{"/bin/sh", "-c", `echo x >> "$OUT/tries"; sleep 1000`}, Timeout: 100 * time.Millisecond, Interval: 10 * time.Millisecond}
		o.StartTimeout = 5 * time.Second
	})
	b.begin(1)
	if e := b.expect(ha.ServiceFailed, 1); !strings.Contains(e.Why, "startTimeout (5s)") {
		t.Errorf("%+v", e)
	}
	if n := size(filepath.Join(b.dir, "tries")); n < 4 {
		t.Errorf("tried %d times", n/2)
	}
}

// The stop command comes before the signal, and does not take the signal's time
// when it hangs.
func TestStopCommand(t *testing.T) {
	t.Parallel()
	b := supervise(t, `trap 'echo TERM >> "$OUT/order"; exit 0' TERM; while [ ! -e "$OUT/quit" ]; do sleep 0.01; done; echo quit >> "$OUT/order"; exit 0`, func(o *Options) {
		o.StopCommand = []string{"/bin/sh", "-c", `echo command $HA_TERM >> "$OUT/order"; touch "$OUT/quit"; until grep -q quit "$OUT/order"; do sleep 0.01; done`}
	})
	b.begin(3)
	b.expect(ha.ServiceReady, 3)
	b.Stop(3, "asked")
	b.expect(ha.ServiceEmpty, 3)
	if got, _ := os.ReadFile(filepath.Join(b.dir, "order")); string(got) != "command 3\nquit\n" {
		t.Errorf("%q", got)
	}

	b = supervise(t, `trap '' TERM; `+beatScript, func(o *Options) {
		o.StopTimeout = 2 * time.Second
		o.StopCommand = []string{"/bin/sh", "-c", `sleep 1000`}
		readyAt("beats")(o)
	})
	d := ha.Deadline{Term: 4, T0: clock.Now(), Stop: time.Minute, Kill: time.Minute + time.Second, End: time.Minute + 2*time.Second}
	b.Arm(d)
	b.expect(ha.ServiceArmed, 4)
	b.Start(ha.StartOrder{Term: 4})
	b.expect(ha.ServiceReady, 4)
	began := time.Now()
	b.Stop(4, "asked")
	b.expect(ha.ServiceEmpty, 4)
	if took := time.Since(began); took < 1500*time.Millisecond || took > 5*time.Second {
		t.Errorf("stopped after %v, want about S = 2s", took)
	}
}

// An operator's restart begins with the stop command, too, and that is gone
// before the next run begins.
func TestStopCommandOfARestart(t *testing.T) {
	t.Parallel()
	b := supervise(t, `rm -f "$OUT/quit"; while [ ! -e "$OUT/quit" ]; do echo x >> "$OUT/beats"; sleep 0.01; done; echo quit >> "$OUT/order"`, func(o *Options) {
		o.StopCommand = []string{"/bin/sh", "-c", `echo $$ > "$OUT/asking"; touch "$OUT/quit"; sleep 1000`}
	})
	b.begin(1)
	b.expect(ha.ServiceReady, 1)
	b.do(ha.ServiceRestart)
	b.expect(ha.ServiceUnready, 1)
	b.expect(ha.ServiceReady, 1)
	pid, err := os.ReadFile(filepath.Join(b.dir, "asking"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat("/proc/" + strings.TrimSpace(string(pid))); err == nil {
		t.Error("the stop command of the former run is alive")
	}
	if got, _ := os.ReadFile(filepath.Join(b.dir, "order")); string(got) != "quit\n" {
		t.Errorf("%q", got)
	}
	b.beating()
}

// A service that is found running where it should not is left alone, or stopped
// first, as configured. Nothing starts beside one of which nobody knows.
func TestProbe(t *testing.T) {
	t.Parallel()
	probe := []string{"/bin/sh", "-c", `exit $(cat "$OUT/probe")`}
	for _, c := range []struct {
		name, says string
		do         OnUnexpected
		fails      string
	}{
		{"stopped", "7", UnexpectedBlock, ""},
		{"runs", "0", UnexpectedBlock, "service.probe says that it runs"},
		{"unknown", "1", UnexpectedStop, "must exit with 0 (runs) or 7 (does not)"},
		{"stop it", "0", UnexpectedStop, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := supervise(t, beatScript, func(o *Options) {
				o.Probe, o.OnUnexpected = probe, c.do
				o.StopCommand = []string{"/bin/sh", "-c", `echo 7 > "$OUT/probe"; echo x >> "$OUT/stops"`}
				if err := os.WriteFile(filepath.Join(o.DataDir, "probe"), []byte(c.says), 0o600); err != nil {
					t.Fatal(err)
				}
			})
			b.begin(1)
			if c.fails == "" {
				b.expect(ha.ServiceReady, 1)
				b.beating()
				return
			}
			if e := b.expect(ha.ServiceFailed, 1); !strings.Contains(e.Why, c.fails) {
				t.Errorf("%+v", e)
			}
			b.silent()
		})
	}
}

// The standby command runs while the node stands by, and nothing of it, however
// stubborn, is alive when the service starts; afterwards it runs again.
func TestStandbyCommand(t *testing.T) {
	t.Parallel()
	// Each holds the lock for life, children included.
	hold := `exec 9>>"$OUT/lock"; flock -n 9 || { echo overlap >> "$OUT/overlap"; exit 1; }; `
	b := supervise(t, hold+beatScript, func(o *Options) {
		o.StopTimeout = time.Second
		o.StandbyCommand = []string{"/bin/sh", "-c", hold + `trap '' TERM; echo $HA_STATE > "$OUT/state"; (setsid sh -c 'while :; do sleep 0.1; done' &); while :; do echo x >> "$OUT/warm"; sleep 0.01; done`}
	})
	warm := func() bool {
		before := size(filepath.Join(b.dir, "warm"))
		return eventually(func() bool { return size(filepath.Join(b.dir, "warm")) > before })
	}
	for term := 1; term <= 3; term++ {
		b.Standby(true)
		if !warm() {
			t.Fatalf("the standby command does not run: %+v", b.Info())
		}
		b.begin(termOf(term))
		b.Standby(true) // told late that the node is a standby no more
		b.expect(ha.ServiceReady, termOf(term))
		b.beating()
		b.Standby(true)
		if i := b.Info(); i.Standby != phaseIdle {
			t.Errorf("%+v", i)
		}
		b.Standby(false)
		b.Stop(termOf(term), "asked")
		b.expect(ha.ServiceEmpty, termOf(term))
		b.silent()
	}
	if got, _ := os.ReadFile(filepath.Join(b.dir, "state")); strings.TrimSpace(string(got)) != "HOT_STANDBY" {
		t.Errorf("HA_STATE %q", got)
	}
	if got, err := os.ReadFile(filepath.Join(b.dir, "overlap")); err == nil {
		t.Errorf("both ran at once: %s", got)
	}
	if got, _ := os.ReadFile(filepath.Join(b.dir, "service.log")); strings.Contains(string(got), "overlap") {
		t.Errorf("%s", got)
	}
}

// A standby command that can not be run keeps nobody from being master.
func TestStandbyCommandFails(t *testing.T) {
	t.Parallel()
	b := supervise(t, beatScript, func(o *Options) { o.StandbyCommand = []string{"/nonexistent/" + strconv.Itoa(os.Getpid())} })
	b.Standby(true)
	b.begin(1)
	b.expect(ha.ServiceReady, 1)
	b.beating()
	b.Stop(1, "asked")
	b.expect(ha.ServiceEmpty, 1)
}

func TestBadChecks(t *testing.T) {
	t.Parallel()
	for words, checks := range map[string][]Check{
		"check-1 checks nothing":      {{}},
		"two are named a":             {{Name: "a", TCP: "h:1"}, {Name: "a", TCP: "h:2"}},
		"a: http, tcp, file and exec": {{Name: "a", TCP: "h:1", File: "/x"}},
	} {
		if _, err := New(t.Context(), Options{Command: []string{"x"}, Checks: checks}); err == nil || !strings.Contains(fmt.Sprint(err), words) {
			t.Errorf("want %q, got %v", words, err)
		}
	}
}

func termOf(n int) lease.Term { return lease.Term(n) } //nolint:gosec // small

// Checks, probe and stop command get to see what the service does, and no more.
func TestCommandsSeeTheServicesEnvironment(t *testing.T) {
	t.Parallel()
	say := func(name string) []string {
		return []string{"/bin/sh", "-c", `env > "$OUT/` + name + `.tmp"; mv "$OUT/` + name + `.tmp" "$OUT/` + name + `"; [ ` + name + ` != probe ] || exit 7`}
	}
	var o Options
	b := supervise(t, beatScript, func(opt *Options) {
		opt.Ready = Check{Exec: say("ready")}
		opt.Checks = []Check{{Exec: say("check"), Interval: 20 * time.Millisecond}}
		opt.StopCommand, opt.Probe = say("stop"), say("probe")
		o = *opt
	})
	if err := o.Vacant(t.Context()); err != nil { // as when the daemon begins
		t.Fatal(err)
	}
	files := []string{"probe", "ready", "check", "stop"}
	look := func(f string) {
		text, err := os.ReadFile(filepath.Join(b.dir, f))
		if err != nil {
			t.Error(err)
		}
		for _, bad := range []string{"NOTIFY_SOCKET", "UNDERSTUDY_", "SECRET"} {
			if strings.Contains(string(text), bad) {
				t.Errorf("the %s command sees %s", f, bad)
			}
		}
		if term := strings.Contains(string(text), "HA_TERM=5\n"); term != (b.Info().Phase != phaseIdle || f != "probe") {
			t.Errorf("the %s command sees HA_TERM: %v", f, term)
		}
	}
	look("probe")
	b.begin(5)
	b.expect(ha.ServiceReady, 5)
	if !eventually(func() bool { _, err := os.Stat(filepath.Join(b.dir, "check")); return err == nil }) {
		t.Fatal("the check is not tried")
	}
	look("probe")
	b.Stop(5, "asked")
	b.expect(ha.ServiceEmpty, 5)
	for _, f := range files[1:] {
		look(f)
	}
}
