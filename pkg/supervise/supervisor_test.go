package supervise

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/understudy-ha/understudy/pkg/clock"
	"github.com/understudy-ha/understudy/pkg/guard"
	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/lease"
)

func TestMain(m *testing.M) {
	// Children built with -race would otherwise take a second to exit.
	if os.Getenv("GORACE") == "" {
		os.Setenv("GORACE", "atexit_sleep_ms=0")
	}
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case guard.GuardCommand:
			os.Exit(guard.Main())
		case guard.ShimCommand:
			os.Exit(guard.ShimMain())
		case LogCommand:
			os.Exit(LogMain(os.Args[2:]))
		}
	}
	goleak.VerifyTestMain(m)
}

const beatScript = `while :; do echo x >> "$OUT/beats"; sleep 0.01; done`

type bench struct {
	*Supervisor
	t   *testing.T
	dir string
}

// supervise starts a supervisor whose service is a shell script; $OUT is a
// scratch directory.
func supervise(t *testing.T, script string, change func(o *Options)) *bench {
	t.Helper()
	dir := t.TempDir()
	o := Options{
		Command: []string{"/bin/sh", "-c", script},
		Env:     []string{"PATH=/usr/bin:/bin", "OUT=" + dir, "NOTIFY_SOCKET=/n", "UNDERSTUDY_PASSWORD=x", "SECRET=y"},
		HideEnv: []string{"SECRET"},
		DataDir: dir, BackOff: 10 * time.Millisecond, StartGrace: 50 * time.Millisecond,
		OutputPath: filepath.Join(dir, "service.log"), GuardLogPath: filepath.Join(dir, "guard.log"), LeaseFile: filepath.Join(dir, "lease"),
	}
	if change != nil {
		change(&o)
	}
	s, err := New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{Supervisor: s, t: t, dir: dir}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		// Where the guard was killed no next one comes to tidy up after it.
		var left []string
		for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			if left = guard.ClearCgroups(o.DataDir); len(left) == 0 {
				break
			}
		}
		if len(left) > 0 {
			t.Errorf("cgroups are left: %v", left)
		}
		if t.Failed() {
			for _, f := range []string{"guard.log", "service.log"} {
				text, _ := os.ReadFile(filepath.Join(dir, f))
				t.Logf("%s:\n%s", f, text)
			}
		}
	})
	return b
}

// readyAt makes a file of the scratch directory, which the script makes once it
// is as far as the test needs it, the sign that the service is ready. Nothing
// else is: on a busy machine a script can take any time to its first command.
func readyAt(name string) func(o *Options) {
	return func(o *Options) {
		o.Ready = Check{File: filepath.Join(o.DataDir, name), Interval: 20 * time.Millisecond}
	}
}

func (b *bench) next() ha.ServiceEvent {
	b.t.Helper()
	select {
	case e := <-b.Events():
		return e
	case <-time.After(20 * time.Second):
		b.t.Fatalf("no event within 20s; %+v", b.Info())
	}
	panic("unreachable")
}

// expect takes the next event and checks its kind and term.
func (b *bench) expect(k ha.ServiceEventKind, t lease.Term) ha.ServiceEvent {
	b.t.Helper()
	e := b.next()
	if e.Kind != k || e.Term != t {
		b.t.Fatalf("event %+v, want kind %d of term %d", e, k, t)
	}
	return e
}

func (b *bench) armFor(t lease.Term, stop time.Duration) {
	b.t.Helper()
	d := ha.Deadline{Term: t, T0: clock.Now(), Stop: stop, Kill: stop + 5*time.Second, End: stop + 10*time.Second}
	b.Arm(d)
	if e := b.expect(ha.ServiceArmed, t); e.T0 != d.T0 {
		b.t.Fatalf("acknowledged %v, want %v", e.T0, d.T0)
	}
}

func (b *bench) begin(t lease.Term) {
	b.t.Helper()
	b.armFor(t, time.Minute)
	b.Start(ha.StartOrder{Term: t, Plane: "plane001", Node: "node0001", NodeURI: "https://n1/", PrevState: lease.StateHotStandby, Reason: "released"})
}

// silent reports whether the beating service beats no more.
func (b *bench) silent() {
	b.t.Helper()
	before := size(filepath.Join(b.dir, "beats"))
	time.Sleep(100 * time.Millisecond)
	if after := size(filepath.Join(b.dir, "beats")); after != before {
		b.t.Fatal("the service is alive")
	}
}

func (b *bench) beating() {
	b.t.Helper()
	before := size(filepath.Join(b.dir, "beats"))
	if !eventually(func() bool { return size(filepath.Join(b.dir, "beats")) > before }) {
		b.t.Fatal("the service does not run")
	}
}

func size(path string) int64 {
	st, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return st.Size()
}

func eventually(cond func() bool) bool {
	for range 2000 {
		if cond() {
			return true
		}
		time.Sleep(5 * time.Millisecond)
	}
	return false
}

func TestStartReadyStopEmpty(t *testing.T) {
	t.Parallel()
	b := supervise(t, `env > "$OUT/env"; echo hello; `+beatScript, nil)
	if i := b.Info(); i.Phase != phaseIdle || i.GuardPid == 0 {
		t.Errorf("%+v", i)
	}
	b.begin(3)
	b.expect(ha.ServiceReady, 3)
	b.beating()
	if i := b.Info(); i.Phase != phaseReady || i.Pid == 0 || syscall.Kill(i.Pid, 0) != nil {
		t.Errorf("%+v", i)
	}
	b.Stop(3, "asked")
	b.expect(ha.ServiceEmpty, 3)
	b.silent()
	if i := b.Info(); i.Phase != phaseIdle || i.Pid != 0 {
		t.Errorf("%+v", i)
	}
	if code, ok := b.ExitCode(); !ok || code != 143 {
		t.Errorf("exit code %d %v", code, ok)
	}
	text, _ := os.ReadFile(filepath.Join(b.dir, "env"))
	env := strings.Split(string(text), "\n")
	for _, want := range []string{
		"HA_PLANE=plane001", "HA_NODE=node0001", "HA_STATE=MASTER", "HA_PREV_STATE=HOT_STANDBY", "HA_TERM=3",
		"HA_TOKEN=3", "HA_LEASE_FILE=" + filepath.Join(b.dir, "lease"), "HA_MASTER=node0001", "HA_MASTER_URI=https://n1/", "HA_REASON=released",
	} {
		if !slices.Contains(env, want) {
			t.Errorf("environment lacks %s", want)
		}
	}
	for _, bad := range []string{"NOTIFY_SOCKET", "UNDERSTUDY_", "SECRET", "GOMAXPROCS"} {
		if strings.Contains(string(text), bad) {
			t.Errorf("environment has %s", bad)
		}
	}
	if !eventually(func() bool { // another process writes it
		text, _ = os.ReadFile(filepath.Join(b.dir, "service.log"))
		return strings.Contains(string(text), "hello")
	}) {
		t.Errorf("log: %q", text)
	}
	// The term is over for good; the next is not.
	b.Start(ha.StartOrder{Term: 3})
	b.expect(ha.ServiceFailed, 3)
	b.Stop(3, "again")
	b.expect(ha.ServiceEmpty, 3)
	b.begin(4)
	b.expect(ha.ServiceReady, 4)
}

func TestStopOfWhatNeverStarted(t *testing.T) {
	t.Parallel()
	b := supervise(t, beatScript, nil)
	b.armFor(1, time.Minute)
	b.Stop(1, "read-back failed")
	b.expect(ha.ServiceEmpty, 1)
	b.Stop(9, "never armed")
	b.expect(ha.ServiceEmpty, 9)
	b.silent()
}

func TestExits(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, script string
		policy       Policy
		exit         int
		why          string
	}{
		{"clean", "exit 0", RestartOnFailure, 0, "service exited with 0"},
		{"never", "exit 3", RestartNever, 3, "service exited with 3"},
		{"signal", "kill -9 $$", RestartNever, 137, "killed by signal 9"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := supervise(t, c.script, func(o *Options) { o.Restart = c.policy; o.StartGrace = 10 * time.Second })
			b.begin(1)
			e := b.expect(ha.ServiceFailed, 1)
			if code, ok := b.ExitCode(); e.Exit != c.exit || !strings.Contains(e.Why, c.why) || !ok || code != c.exit {
				t.Errorf("%+v, exit code %d %v", e, code, ok)
			}
			b.Stop(1, "failed")
			b.expect(ha.ServiceEmpty, 1)
		})
	}
}

func TestNotExecutable(t *testing.T) {
	t.Parallel()
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, []byte("#!/bin/sh\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for cmd, exit := range map[string]int{"/nonexistent/thing": 127, "no-such-command": 127, plain: 126} {
		b := supervise(t, "", func(o *Options) { o.Command = []string{cmd} })
		b.begin(1)
		if e := b.expect(ha.ServiceFailed, 1); e.Exit != exit || !strings.Contains(e.Why, cmd) {
			t.Errorf("%s: %+v", cmd, e)
		}
		b.Stop(1, "failed")
		b.expect(ha.ServiceEmpty, 1)
	}
}

func TestRestarts(t *testing.T) {
	t.Parallel()
	b := supervise(t, `echo x >> "$OUT/starts"; [ $(wc -l < "$OUT/starts") -ge 3 ] || exit 4; `+beatScript, readyAt("beats"))
	b.begin(1)
	for range 2 {
		if e := b.expect(ha.ServiceUnready, 1); e.Exit != 4 {
			t.Errorf("%+v", e)
		}
	}
	b.expect(ha.ServiceReady, 1)
	if i := b.Info(); i.Restarts != 2 || i.Phase != phaseReady {
		t.Errorf("%+v", i)
	}
	b.beating()
}

func TestRestartsAreUsedUp(t *testing.T) {
	t.Parallel()
	b := supervise(t, "exit 5", func(o *Options) {
		o.Restart = RestartAlways
		o.StartGrace = 10 * time.Second
		o.BackOff = 40 * time.Millisecond
	})
	began := time.Now()
	b.begin(1)
	for range 3 {
		b.expect(ha.ServiceUnready, 1)
	}
	if e := b.expect(ha.ServiceFailed, 1); e.Exit != 5 || !strings.Contains(e.Why, "after 3 restarts") {
		t.Errorf("%+v", e)
	}
	if took := time.Since(began); took < (40+80+160)*time.Millisecond {
		t.Errorf("back-off did not double: %v in all", took)
	}
	b.Stop(1, "failed")
	b.expect(ha.ServiceEmpty, 1)
}

func TestStopDuringBackOff(t *testing.T) {
	t.Parallel()
	b := supervise(t, "exit 5", func(o *Options) { o.BackOff = 200 * time.Millisecond; o.StartGrace = 10 * time.Second })
	b.begin(1)
	b.expect(ha.ServiceUnready, 1)
	b.Stop(1, "asked")
	e := b.next()
	for e.Kind == ha.ServiceUnready { // the stop came when it was over
		e = b.next()
	}
	if e.Kind != ha.ServiceEmpty || e.Term != 1 {
		t.Errorf("%+v", e)
	}
	select {
	case e := <-b.Events():
		t.Errorf("after empty: %+v", e)
	case <-time.After(400 * time.Millisecond): // twice the back-off
	}
}

func TestDeadlineStops(t *testing.T) {
	t.Parallel()
	b := supervise(t, beatScript, nil)
	b.begin(1)
	b.expect(ha.ServiceReady, 1)
	b.armFor(1, 300*time.Millisecond)
	if e := b.expect(ha.ServiceStopping, 1); e.Why == "" {
		t.Errorf("%+v", e)
	}
	b.expect(ha.ServiceEmpty, 1)
	b.silent()
	b.Start(ha.StartOrder{Term: 1})
	b.expect(ha.ServiceFailed, 1)
	b.silent()
}

func isolations(t *testing.T) []string {
	t.Helper()
	if os.Getuid() == 0 {
		return []string{guard.IsolationPidNamespace, guard.IsolationGroup}
	}
	return []string{guard.IsolationGroup}
}

func TestGuardDies(t *testing.T) {
	t.Parallel()
	for _, iso := range isolations(t) {
		t.Run(iso, func(t *testing.T) {
			t.Parallel()
			b := supervise(t, beatScript, func(o *Options) { o.Isolation = iso })
			b.begin(1)
			b.expect(ha.ServiceReady, 1)
			b.beating()
			old := b.Info().GuardPid
			kill(t, old)
			if e := b.expect(ha.ServiceGuardLost, 1); e.Why == "" {
				t.Errorf("%+v", e)
			}
			b.expect(ha.ServiceEmpty, 1)
			b.silent()
			b.arm(1) // never answered
			b.Start(ha.StartOrder{Term: 1})
			b.expect(ha.ServiceFailed, 1)
			// Armed at once, perhaps before the new guard is there.
			b.arm(2)
			b.expect(ha.ServiceArmed, 2)
			b.Start(ha.StartOrder{Term: 2})
			b.expect(ha.ServiceReady, 2)
			b.beating()
			b.arm(1) // nor by the new guard
			b.Start(ha.StartOrder{Term: 1})
			b.expect(ha.ServiceFailed, 1)
			if now := b.Info().GuardPid; now == old || now == 0 {
				t.Errorf("guard %d after %d", now, old)
			}
		})
	}
}

// arm hands a deadline over without waiting for the answer.
func (b *bench) arm(t lease.Term) {
	b.Arm(ha.Deadline{Term: t, T0: clock.Now(), Stop: time.Minute, Kill: time.Minute, End: time.Minute})
}

func kill(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

func TestKillOfAFrozenGuard(t *testing.T) {
	t.Parallel()
	for _, iso := range isolations(t) {
		t.Run(iso, func(t *testing.T) {
			t.Parallel()
			b := supervise(t, beatScript, func(o *Options) { o.Isolation = iso })
			b.begin(1)
			b.expect(ha.ServiceReady, 1)
			if err := syscall.Kill(b.Info().GuardPid, syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			b.Arm(ha.Deadline{Term: 1, T0: clock.Now(), Stop: time.Minute, Kill: time.Minute, End: time.Minute})
			select {
			case e := <-b.Events():
				t.Errorf("a frozen guard answered: %+v", e)
			case <-time.After(300 * time.Millisecond):
			}
			b.beating()
			b.Kill(1, "the guard does not answer")
			b.expect(ha.ServiceEmpty, 1)
			b.silent()
		})
	}
}

// Without a PID namespace the death of guard and shim leaves what detached
// itself alive. That is never called empty.
func TestGuardAndShimDieInAGroup(t *testing.T) {
	t.Parallel()
	b := supervise(t, `setsid sh -c 'echo $$ > "$OUT/escaped.tmp"; mv "$OUT/escaped.tmp" "$OUT/escaped"; exec sleep 300' & wait`,
		func(o *Options) { o.Isolation = guard.IsolationGroup })
	b.begin(1)
	b.expect(ha.ServiceReady, 1)
	var pid int
	if !eventually(func() bool {
		text, _ := os.ReadFile(filepath.Join(b.dir, "escaped"))
		n, _ := fmt.Sscan(string(text), &pid)
		return n == 1
	}) {
		t.Fatal("nothing escaped")
	}
	defer func() { _ = syscall.Kill(pid, syscall.SIGKILL) }()
	tree, _, err := guard.LoadTree(b.dir)
	if err != nil {
		t.Fatal(err)
	}
	// The shim first stopped, so that it can not do its work in between.
	if err := syscall.Kill(tree.Shim, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	kill(t, b.Info().GuardPid)
	b.expect(ha.ServiceGuardLost, 1)
	kill(t, tree.Shim)
	if e := b.expect(ha.ServiceStuck, 1); !strings.Contains(e.Why, "PID namespace") {
		t.Errorf("%+v", e)
	}
	if syscall.Kill(pid, 0) != nil {
		t.Error("nothing was left alive: the test shows nothing")
	}
	select {
	case e := <-b.Events():
		t.Errorf("after stuck: %+v", e)
	case <-time.After(300 * time.Millisecond):
	}
}

func TestReadiness(t *testing.T) {
	t.Parallel()
	var lc net.ListenConfig
	ln, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	status := make(chan int, 100)
	web := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		select {
		case c := <-status:
			w.WriteHeader(c)
		default:
		}
	}))
	defer web.Close()
	status <- 503
	status <- 500
	dir := t.TempDir()
	for name, c := range map[string]Check{
		"tcp":  {TCP: ln.Addr().String()},
		"http": {HTTP: web.URL},
		"file": {File: filepath.Join(dir, "up")},
		"exec": {Exec: []string{"/usr/bin/test", "-e", filepath.Join(dir, "up")}},
	} {
		b := supervise(t, `sleep 0.2; touch `+dir+`/up; `+beatScript, func(o *Options) { o.Ready = c; o.Ready.Interval = 20 * time.Millisecond })
		b.begin(1)
		b.expect(ha.ServiceReady, 1)
		if name == "file" {
			if _, err := os.Stat(c.File); err != nil {
				t.Error("ready too early")
			}
		}
		b.Stop(1, "done")
		b.expect(ha.ServiceEmpty, 1)
	}
}

func TestNotReadyInTime(t *testing.T) {
	t.Parallel()
	b := supervise(t, beatScript, func(o *Options) {
		o.Ready = Check{File: "/nonexistent/file", Interval: 20 * time.Millisecond}
		o.StartTimeout = 2 * time.Second
	})
	b.begin(1)
	if e := b.expect(ha.ServiceFailed, 1); !strings.Contains(e.Why, "startTimeout (2s)") || !strings.Contains(e.Why, "/nonexistent/file") {
		t.Errorf("%+v", e)
	}
	b.Stop(1, "failed")
	b.expect(ha.ServiceEmpty, 1)
	b.silent()
}

func TestCloseWhileRunning(t *testing.T) {
	t.Parallel()
	b := supervise(t, beatScript, nil)
	b.begin(1)
	b.expect(ha.ServiceReady, 1)
	b.beating()
	pid := b.Info().GuardPid
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b.silent()
	if syscall.Kill(pid, 0) == nil {
		t.Error("the guard is alive")
	}
	for range b.Events() { // must be closed
	}
	b.Arm(ha.Deadline{Term: 2}) // must not block
	b.Stop(2, "closed")
}

func TestBadOptions(t *testing.T) {
	t.Parallel()
	for words, o := range map[string]Options{
		"service.command":   {},
		"service.isolation": {Command: []string{"x"}, Isolation: "jail"},
		"service.restart":   {Command: []string{"x"}, Restart: "sometimes"},
		"not host:port":     {Command: []string{"x"}, Ready: Check{TCP: "nine"}},
		"exclude":           {Command: []string{"x"}, Ready: Check{TCP: "a:1", File: "/x"}},
		"absolute":          {Command: []string{"x"}, Ready: Check{File: "x"}},
		"http or https":     {Command: []string{"x"}, Ready: Check{HTTP: "ftp://x"}},
		"data directory":    {Command: []string{"x"}},
		"service's log":     {Command: []string{"x"}, DataDir: "/", OutputPath: "/nonexistent/dir/log"},
	} {
		if _, err := New(context.Background(), o); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("want %q, got %v", words, err)
		}
	}
}

func TestNone(t *testing.T) {
	t.Parallel()
	n := NewNone()
	t0 := clock.Now()
	n.Arm(ha.Deadline{Term: 1, T0: t0})
	n.Start(ha.StartOrder{Term: 1})
	n.Stop(1, "asked")
	n.Arm(ha.Deadline{Term: 1, T0: t0}) // refused silently
	n.Start(ha.StartOrder{Term: 1})
	n.Kill(2, "x")
	for i, want := range []ha.ServiceEvent{
		{Kind: ha.ServiceArmed, Term: 1, T0: t0},
		{Kind: ha.ServiceReady, Term: 1},
		{Kind: ha.ServiceEmpty, Term: 1},
		{Kind: ha.ServiceFailed, Term: 1, Exit: -1, Why: "the stop of this term has begun"},
		{Kind: ha.ServiceEmpty, Term: 2},
	} {
		if e := <-n.Events(); e != want {
			t.Errorf("event %d: %+v, want %+v", i, e, want)
		}
	}
	if n.Info().Phase != "none" {
		t.Errorf("%+v", n.Info())
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}
	if _, open := <-n.Events(); open {
		t.Error("events not closed")
	}
	n.Arm(ha.Deadline{Term: 3})
}
