package guard

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/pkg/clock"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// The test binary plays every part: guard and shim are the real ones, the
// daemon is a small one that does what the test tells it, and the service
// records on disk that it is alive.
func TestMain(m *testing.M) {
	// Children built with -race would otherwise take a second to exit.
	if os.Getenv("GORACE") == "" {
		os.Setenv("GORACE", "atexit_sleep_ms=0")
	}
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case GuardCommand:
			openWatchdog, lookWatchdog = openFake, lookFake
			os.Exit(Main())
		case ShimCommand:
			os.Exit(ShimMain())
		case "test-daemon":
			os.Exit(testDaemon())
		case "test-service":
			os.Exit(testService())
		case "test-release":
			os.Exit(testRelease())
		}
	}
	os.Exit(m.Run())
}

// serviceEnv is what services are given, and with them their shim, which would
// take a second to exit as well.
var serviceEnv = []string{"PATH=/usr/bin:/bin", "GORACE=atexit_sleep_ms=0"}

// service describes a process of the managed service: it writes the present
// CLOCK_BOOTTIME into Dir/Name.beat every 5 ms.
type service struct {
	Dir        string
	Name       string
	IgnoreTerm bool
	Detach     bool // double fork and setsid, as daemons do
	ExitAsked  bool // ends as soon as there is a file Dir/exit
	ExitCode   int
	Linger     time.Duration // time it takes to end on TERM
	Children   []service
	Idle       bool // does not beat
	Lines      int  // written to standard output per second
	Crowd      int  // processes, deaf to TERM, that run away in every way there is
	Mark       string
}

func (s service) argv() []string {
	b, _ := json.Marshal(s)
	return []string{selfExe, "test-service", string(b)}
}

func testService() int {
	var s service
	if err := json.Unmarshal([]byte(os.Args[2]), &s); err != nil {
		return 99
	}
	if s.Detach {
		s.Detach = false
		_, err := os.StartProcess(selfExe, s.argv(), &os.ProcAttr{
			Env: os.Environ(), Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}, Sys: &syscall.SysProcAttr{Setsid: true},
		})
		if err != nil {
			return 98
		}
		return 0
	}
	term := make(chan os.Signal, 1)
	if s.IgnoreTerm {
		signal.Ignore(syscall.SIGTERM)
	} else {
		signal.Notify(term, syscall.SIGTERM)
	}
	for _, c := range s.Children {
		c.Dir = s.Dir
		_, err := os.StartProcess(selfExe, c.argv(), &os.ProcAttr{
			Env: os.Environ(), Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
		})
		if err != nil {
			return 97
		}
	}
	if s.Idle {
		<-term
		return 0
	}
	if err := s.crowd(); err != nil {
		return 95
	}
	if s.Lines > 0 {
		go s.talk()
	}
	f, err := os.Create(filepath.Join(s.Dir, s.Name+".beat"))
	if err != nil {
		return 96
	}
	var end <-chan time.Time
	beat := time.NewTicker(5 * time.Millisecond)
	for {
		_, _ = f.WriteAt([]byte(fmt.Sprintf("%020d\n", clock.Now().Boot)), 0)
		select {
		case <-beat.C:
			if s.ExitAsked && exists(filepath.Join(s.Dir, "exit")) {
				return s.ExitCode
			}
		case <-end:
			return s.ExitCode
		case <-term:
			if s.Linger == 0 {
				return s.ExitCode
			}
			end, term = time.After(s.Linger), nil
		}
	}
}

// crowd starts processes that are named by Mark in their arguments.
func (s service) crowd() error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	const deaf = `trap "" TERM; exec sleep "$0"`
	for i := range s.Crowd {
		argv := []string{"/bin/sh", "-c", deaf, s.Mark}
		attr := &syscall.SysProcAttr{}
		switch i % 4 {
		case 0: // a daemon: double fork, session of its own
			argv = []string{"/bin/sh", "-c", `(trap "" TERM; setsid sleep "$0" &)`, s.Mark}
		case 1:
			attr.Setsid = true
		case 2:
			attr.Setpgid = true
		case 3: // a grandchild in the group, whose parent is gone
			argv = []string{"/bin/sh", "-c", `(trap "" TERM; sleep "$0" &)`, s.Mark}
		}
		// Each holds a pipe open that nobody reads.
		if _, err := os.StartProcess("/bin/sh", argv, &os.ProcAttr{Env: os.Environ(), Files: []*os.File{r, w, os.Stderr}, Sys: attr}); err != nil {
			return err
		}
	}
	return nil
}

// talk writes so many lines a second.
func (s service) talk() {
	const every = 10 * time.Millisecond
	line := strings.Repeat("x", 79) + "\n"
	for began, n := time.Now(), 0; ; time.Sleep(every) {
		for due := int(time.Since(began).Seconds() * float64(s.Lines)); n < due; n++ {
			_, _ = os.Stdout.WriteString(line)
		}
	}
}

// testRelease is the release child: it notes when it ran, with what.
func testRelease() int {
	in, _ := io.ReadAll(os.Stdin)
	note := fmt.Sprintf("%d\n%s\n%s", clock.Now().Boot, strings.Join(os.Args[3:], " "), in)
	tmp := os.Args[2] + ".tmp"
	if os.WriteFile(tmp, []byte(note), 0o644) != nil || os.Rename(tmp, os.Args[2]) != nil {
		return 1
	}
	return 0
}

// order is what a test tells its daemon.
type order struct {
	Do    string
	Term  lease.Term
	Ago   time.Duration // how long ago T0 was
	Stop  time.Duration
	Kill  time.Duration
	End   time.Duration
	RunID uint64
	Argv  []string
	Aux   *Aux
}

type daemonOptions struct {
	Dir       string
	Isolation string
	Adopt     bool
	Final     []string // command of Finals; with it the role file is Dir/role
	Outside   *Outside
	Watchdog  *Watchdog
	Released  string // where the release child leaves its note
	GuardStop time.Duration
}

// killAfter is when KILL is due after a daemon's death, unless a variant says
// otherwise. What is deaf to TERM lives that long; early is well before that, by
// what a busy machine may keep a process from its next beat.
const (
	killAfter = time.Second
	early     = killAfter / 2
)

func (o daemonOptions) finals() Finals {
	if o.Final == nil {
		return Finals{}
	}
	return Finals{RoleFile: filepath.Join(o.Dir, "role"), Command: o.Final, Env: serviceEnv, Timeout: 700 * time.Millisecond}
}

func testDaemon() int {
	var o daemonOptions
	if err := json.Unmarshal([]byte(os.Args[2]), &o); err != nil {
		return 99
	}
	out := json.NewEncoder(os.Stdout)
	fail := func(err error) int {
		_ = out.Encode(Event{Kind: "failed", Why: err.Error()})
		return 1
	}
	if o.Adopt {
		if err := Adopt(); err != nil {
			return fail(err)
		}
	}
	lock, err := LockDir(o.Dir)
	if err != nil {
		return fail(err)
	}
	logf, err := os.OpenFile(filepath.Join(o.Dir, "guard.log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return fail(err)
	}
	c, err := Start(context.Background(), Options{
		DataDir: o.Dir, Lock: lock, Log: logf, Isolation: o.Isolation, Stdout: logf, Stderr: logf,
		Incarnation: "testincarnation", ReleaseStdin: []byte("opaque"),
		ReleaseArgv:    []string{selfExe, "test-release", o.Released},
		ReleaseTimeout: 5 * time.Second, GuardStop: o.GuardStop,
		LeaseFile: filepath.Join(o.Dir, "lease"), Finals: o.finals(), Watchdog: o.Watchdog, Outside: o.Outside,
	})
	if err != nil {
		return fail(err)
	}
	_ = out.Encode(Event{Kind: hello, Pid: c.Pid(), Isolation: c.Isolation(), LostWords: c.Lost()})
	go func() {
		for e := range c.Events() {
			_ = out.Encode(e)
		}
		for o.Adopt {
			tree, _, err := LoadTree(o.Dir)
			if gone, _ := tree.Sweep(o.Dir); gone && err == nil {
				_ = out.Encode(Event{Kind: "swept"})
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	}()
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		var q order
		if err := json.Unmarshal(in.Bytes(), &q); err != nil {
			return fail(err)
		}
		switch q.Do {
		case opArm:
			c.Arm(Deadline{Term: q.Term, T0: clock.Now().Add(-q.Ago), Stop: q.Stop, Kill: q.Kill, End: q.End})
		case opStart:
			c.Start(Run{Term: q.Term, ID: q.RunID, Argv: q.Argv, Env: serviceEnv})
		case opAux:
			q.Aux.Env = serviceEnv
			c.RunHook(*q.Aux)
		case opStop:
			c.Stop(q.Term, "asked")
		case opClose:
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			err := c.Close(ctx)
			cancel()
			if err != nil {
				return fail(err)
			}
			return 0
		}
	}
	return 0
}

// variant is one way to run: isolation and user.
type variant struct {
	name      string
	isolation string
	nobody    bool
	adopt     bool // the daemon is a subreaper
	final     []string
	outside   func(dir string) *Outside
	watchdog  func(dir string) *Watchdog
	killAfter time.Duration // 0: the constant of that name
}

func variants() []variant {
	if os.Getuid() != 0 {
		return []variant{{name: "group", isolation: IsolationGroup}}
	}
	return []variant{
		{name: "root pid-namespace", isolation: IsolationPidNamespace},
		{name: "root cgroup", isolation: IsolationCgroup},
		{name: "root group", isolation: IsolationGroup},
		{name: "user group", isolation: IsolationGroup, nobody: true},
		{name: "user cgroup", isolation: IsolationCgroup, nobody: true},
		{name: "user pid-namespace", isolation: IsolationPidNamespace, nobody: true},
	}
}

// each runs a test for every variant, with a daemon started.
func each(t *testing.T, f func(d *daemon)) {
	t.Helper()
	eachWith(t, func(*variant) {}, f)
}

// eachWith is each of variants that are changed first.
func eachWith(t *testing.T, change func(v *variant), f func(d *daemon)) {
	t.Helper()
	for _, v := range variants() {
		change(&v)
		t.Run(strings.ReplaceAll(v.name, " ", "-"), func(t *testing.T) {
			t.Parallel()
			f(startDaemon(t, v))
		})
	}
}

// daemon is a running test daemon.
type daemon struct {
	t       *testing.T
	variant variant
	dir     string
	proc    *os.Process
	ended   chan struct{}
	in      io.Writer
	lines   chan Event
	guard   int
	// Start times, to name them after their end.
	started, guardStarted uint64
	lost                  []string
	seen                  []Event
	guardKilled           bool   // its cgroups stay for the next one
	released              string // what the release child writes
	delegated             cgroup // the daemon lives in it and may make others there
}

const nobody = 65534

// wait is how long a test waits for what must happen: only failures take it.
const wait = 20 * time.Second

// soon is when a stop begins that a test waits for. The deadline must have come
// to the guard by then, or it is answered with the stop instead of with Armed.
const soon = 1500 * time.Millisecond

// startDaemon starts a daemon with its guard. When the test ends, everything
// is killed, and the test fails if anything is left.
func startDaemon(t *testing.T, v variant) *daemon {
	t.Helper()
	d := prepareDaemon(t, v)
	d.start(v)
	return d
}

func prepareDaemon(t *testing.T, v variant) *daemon {
	t.Helper()
	dir, err := os.MkdirTemp("", "guardtest") //nolint:usetesting // other users must be able to enter it
	if err != nil {
		t.Fatal(err)
	}
	d := &daemon{t: t, variant: v, dir: dir, released: filepath.Join(dir, "released"), ended: make(chan struct{}), lines: make(chan Event, 1000)}
	t.Cleanup(d.cleanup)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return d
}

func (d *daemon) start(v variant) {
	t := d.t
	t.Helper()
	attr := &syscall.SysProcAttr{}
	if v.nobody {
		attr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
		if v.isolation == IsolationCgroup {
			defer d.delegate(attr)()
		}
	}
	inR, inW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	o := daemonOptions{Dir: d.dir, Isolation: v.isolation, Adopt: v.adopt, Final: v.final, Released: d.released, GuardStop: cmp.Or(v.killAfter, killAfter)}
	if v.outside != nil {
		o.Outside = v.outside(d.dir)
	}
	if v.watchdog != nil {
		o.Watchdog = v.watchdog(d.dir)
	}
	b, _ := json.Marshal(o)
	d.proc, err = os.StartProcess(selfExe, []string{os.Args[0], "test-daemon", string(b)}, &os.ProcAttr{
		Env: os.Environ(), Files: []*os.File{inR, outW, os.Stderr}, Sys: attr,
	})
	inR.Close()
	outW.Close()
	if err != nil {
		t.Fatal(err)
	}
	d.in = inW
	proc, ended, lines := d.proc, d.ended, d.lines
	go func() {
		_, _ = proc.Wait()
		close(ended)
	}()
	go func() {
		dec := json.NewDecoder(outR)
		for {
			var e Event
			if dec.Decode(&e) != nil {
				outR.Close()
				close(lines)
				return
			}
			lines <- e
		}
	}()
	e := d.wait(hello)
	d.guard, d.lost = e.Pid, e.LostWords
	d.started, d.guardStarted = startTime(d.proc.Pid), startTime(d.guard)
	if e.Isolation != v.isolation {
		t.Fatalf("isolation %q, want %q", e.Isolation, v.isolation)
	}
	t.Cleanup(func() { inW.Close() })
}

// delegate has the daemon born in a cgroup that belongs to its user, as
// Delegate=yes in a unit does. The caller calls done after the fork.
func (d *daemon) delegate(attr *syscall.SysProcAttr) (done func()) {
	t := d.t
	t.Helper()
	h, err := findHierarchy()
	if err != nil {
		t.Fatal(err)
	}
	if d.delegated == "" {
		d.delegated = h.nameCgroup("understudy-test.", 0, 0)
		if err := d.delegated.make(); err != nil {
			t.Fatal(err)
		}
		for _, f := range []string{"", "/cgroup.procs", "/cgroup.subtree_control", "/cgroup.threads"} {
			if err := os.Chown(string(d.delegated)+f, nobody, nobody); err != nil {
				t.Fatal(err)
			}
		}
	}
	attr.UseCgroupFD = true
	if attr.CgroupFD, err = d.delegated.open(); err != nil {
		t.Fatal(err)
	}
	return func() { syscall.Close(attr.CgroupFD) }
}

// cgroups lists those of this data directory that are there.
func (d *daemon) cgroups() []string {
	h, err := findHierarchy()
	if err != nil {
		return nil
	}
	if d.delegated != "" {
		h.own = string(d.delegated)
	}
	found, _ := filepath.Glob(filepath.Join(h.own, cgroupPrefix(d.dir)+"*"))
	return found
}

// noCgroups removes what a guard that was killed leaves to the next one.
func (d *daemon) noCgroups() {
	for _, dir := range d.cgroups() {
		if !d.guardKilled {
			d.t.Errorf("cgroup %s was left behind", dir)
		}
		if err := cgroup(dir).remove(); err != nil {
			d.t.Error(err)
		}
	}
	if d.delegated != "" {
		if err := d.delegated.remove(); err != nil {
			d.t.Error(err)
		}
	}
}

func (d *daemon) cleanup() {
	t := d.t
	if d.proc != nil {
		_ = d.proc.Kill()
		<-d.ended
	}
	// With the daemon dead the guard stops and ends by itself.
	d.unlocked()
	left := d.processes()
	if len(left) > 0 && !t.Failed() {
		t.Errorf("processes left behind: %v", left)
	}
	for _, pid := range left {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	d.noCgroups()
	if t.Failed() {
		t.Logf("guard's log:\n%s", readAll(filepath.Join(d.dir, "guard.log")))
		t.Logf("events: %+v", d.seen)
	}
	_ = os.RemoveAll(d.dir)
}

// unlocked waits until guard and shim are gone.
func (d *daemon) unlocked() {
	d.t.Helper()
	if !within(wait, func() bool {
		f, err := LockDir(d.dir)
		if err == nil {
			f.Close()
		}
		return err == nil
	}) {
		d.t.Errorf("guard or shim left behind")
	}
}

// processes lists what runs with this test's directory in its arguments.
func (d *daemon) processes() []int {
	pids, _ := allPids()
	var out []int
	for _, pid := range pids {
		args := readAll("/proc/" + strconv.Itoa(pid) + "/cmdline")
		if s, err := readStat(pid); err == nil && s.state != 'Z' && strings.Contains(args, d.dir) {
			out = append(out, pid)
		}
	}
	return out
}

func (d *daemon) tell(o order) {
	d.t.Helper()
	b, _ := json.Marshal(o)
	if _, err := d.in.Write(append(b, '\n')); err != nil {
		d.t.Fatal(err)
	}
}

func (d *daemon) arm(term lease.Term, stop, kill, end time.Duration) {
	d.t.Helper()
	d.tell(order{Do: opArm, Term: term, Stop: stop, Kill: kill, End: end})
	d.wait(Armed)
}

func (d *daemon) run(term lease.Term, id uint64, s service) {
	d.t.Helper()
	s.Dir = d.dir
	if s.Name == "" {
		s.Name = "main"
	}
	d.tell(order{Do: opStart, Term: term, RunID: id, Argv: s.argv()})
}

// hook asks for an auxiliary run of the service s; hookShell for one of a shell.
func (d *daemon) hook(a Aux, s service) {
	d.t.Helper()
	s.Dir = d.dir
	a.Argv = s.argv()
	d.tell(order{Do: opAux, Aux: &a})
}

func (d *daemon) hookShell(a Aux, script string) {
	d.t.Helper()
	// The directory names its processes as this test's.
	a.Argv = []string{"/bin/sh", "-c", script, d.dir}
	d.tell(order{Do: opAux, Aux: &a})
}

// alone waits until only these beat, and proves that the others do not.
func (d *daemon) alone(living string, dead ...string) {
	d.t.Helper()
	before := d.lastBeat(dead...)
	at := d.beat(living)
	if !within(wait, func() bool { return d.beat(living) > at+50_000_000 }) { // ten beats
		d.t.Fatalf("%s beats no more", living)
	}
	if after := d.lastBeat(dead...); after != before {
		d.t.Fatalf("one of %v still beats", dead)
	}
}

// serve arms a long lease and runs the service until its whole tree beats.
func (d *daemon) serve(term lease.Term, s service) {
	d.t.Helper()
	d.arm(term, time.Minute, 70*time.Second, 80*time.Second)
	d.run(term, 1, s)
	d.wait(Started)
	d.beating(append([]string{"main"}, names(s.Children)...)...)
}

func names(cs []service) (out []string) {
	for _, c := range cs {
		if !c.Idle {
			out = append(out, c.Name)
		}
	}
	return out
}

// wait returns the next event of the kind, passing over others.
func (d *daemon) wait(kinds ...EventKind) Event {
	d.t.Helper()
	limit := time.After(wait)
	for {
		select {
		case e, ok := <-d.lines:
			if !ok {
				d.t.Fatalf("the daemon ended, waiting for %v", kinds)
			}
			d.seen = append(d.seen, e)
			for _, k := range kinds {
				if e.Kind == k {
					return e
				}
			}
			if e.Kind == "failed" {
				d.t.Fatalf("daemon: %s", e.Why)
			}
		case <-limit:
			d.t.Fatalf("no event %v within %v", kinds, wait)
		}
	}
}

func (d *daemon) kill9(pid int) {
	d.t.Helper()
	d.guardKilled = d.guardKilled || pid == d.guard
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		d.t.Fatalf("kill %d: %v", pid, err)
	}
}

func (d *daemon) shim() int {
	d.t.Helper()
	tr, ok, err := LoadTree(d.dir)
	if err != nil || !ok {
		d.t.Fatalf("tree record: %v %v", ok, err)
	}
	return tr.Shim
}

func (d *daemon) beat(name string) (boot int64) {
	_, _ = fmt.Sscanf(readAll(filepath.Join(d.dir, name+".beat")), "%d", &boot)
	return boot
}

func (d *daemon) beating(names ...string) {
	d.t.Helper()
	for _, n := range names {
		if !within(wait, func() bool { return d.beat(n) != 0 }) {
			d.t.Fatalf("%s does not run", n)
		}
	}
}

func (d *daemon) lastBeat(names ...string) time.Duration {
	var last int64
	for _, n := range names {
		last = max(last, d.beat(n))
	}
	return time.Duration(last)
}

// dead waits until nothing of the service's tree is left, and proves by the
// beats that nothing runs on.
func (d *daemon) dead(limit time.Duration, names ...string) {
	d.t.Helper()
	mine := d.proc.Pid
	if !within(limit, func() bool {
		for _, pid := range d.processes() {
			if pid != mine {
				return false
			}
		}
		return true
	}) {
		d.t.Fatalf("alive after %v: %v", limit, d.processes())
	}
	before := d.lastBeat(names...)
	time.Sleep(50 * time.Millisecond) // ten beats
	if after := d.lastBeat(names...); after != before {
		d.t.Fatalf("something still beats")
	}
}

// releasedAt waits for the release child and returns when it ran.
func (d *daemon) releasedAt(limit time.Duration) time.Duration {
	d.t.Helper()
	path := d.released
	if !within(limit, func() bool { return exists(path) }) {
		d.t.Fatalf("no release within %v", limit)
	}
	f := strings.Split(readAll(path), "\n")
	n, _ := strconv.ParseInt(f[0], 10, 64)
	if len(f) != 3 || f[2] != "opaque" {
		d.t.Fatalf("release child got %q", f)
	}
	return time.Duration(n)
}

func (d *daemon) notReleased() {
	d.t.Helper()
	if exists(d.released) {
		d.t.Fatal("released")
	}
}

func within(limit time.Duration, cond func() bool) bool {
	for end := time.Now().Add(limit); ; time.Sleep(5 * time.Millisecond) {
		if cond() {
			return true
		}
		if time.Now().After(end) {
			return false
		}
	}
}

func boot() time.Duration { return time.Duration(clock.Now().Boot) }

func signalOf(t *testing.T, pid int, sig unix.Signal) {
	t.Helper()
	if err := unix.Kill(pid, sig); err != nil {
		t.Fatal(err)
	}
}
