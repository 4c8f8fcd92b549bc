package e2e_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	unit "github.com/understudy-ha/understudy/deploy/systemd"
	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/test/e2e/harness"
	"github.com/understudy-ha/understudy/test/e2e/intervals"
	"github.com/understudy-ha/understudy/test/systemd"
)

// manager stands in for the service manager: it keeps what it is told.
type manager struct {
	conn *net.UnixConn
	mu   sync.Mutex
	told []string
}

func newManager(t *testing.T) *manager {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "notify"), Net: "unixgram"})
	must(t, err)
	m := &manager{conn: conn}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 4096)
		for {
			n, err := conn.Read(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			m.mu.Lock()
			m.told = append(m.told, string(buf[:n]))
			m.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		conn.Close()
		<-done
	})
	return m
}

// count says how many notifications begin with a prefix.
func (m *manager) count(prefix string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for _, s := range m.told {
		if strings.HasPrefix(s, prefix) {
			n++
		}
	}
	return n
}

func (m *manager) wait(t *testing.T, prefix string, atLeast int) {
	t.Helper()
	if !harness.Poll(settle, func() bool { return m.count(prefix) >= atLeast }) {
		m.mu.Lock()
		defer m.mu.Unlock()
		t.Fatalf("told %q %d times, want %d: %q", prefix, strings.Count(strings.Join(m.told, "\n"), prefix), atLeast, m.told)
	}
}

// TestNotifies: the daemon tells its service manager when it is ready, how it
// is, that it lives, that it was asked to reload, and that it stops; its service
// can not. A daemon that is frozen says nothing.
func TestNotifies(t *testing.T) {
	m := newManager(t)
	p := harness.NewPlane(t, harness.Options{Nodes: 1})
	n := p.Nodes[0]
	n.Env = []string{"NOTIFY_SOCKET=" + m.conn.LocalAddr().String(), "WATCHDOG_USEC=2000000"}
	n.Set("service.command", []string{"/bin/sh", "-c", `echo "${NOTIFY_SOCKET:-none}" >"$0/inherited"; exec "$1"`, p.Dir, harness.Recorder()})
	n.Start()
	m.wait(t, "READY=1", 1)
	p.WaitMaster(settle)
	m.wait(t, "STATUS=MASTER, term 1", 1)
	m.wait(t, "WATCHDOG=1", 3)
	if b, err := os.ReadFile(filepath.Join(p.Dir, "inherited")); err != nil || strings.TrimSpace(string(b)) != "none" {
		t.Errorf("the service found NOTIFY_SOCKET=%s (%v)", b, err)
	}
	n.Signal(unix.SIGHUP)
	m.wait(t, "RELOADING=1\nMONOTONIC_USEC=", 1)
	m.wait(t, "READY=1", 2)
	n.Signal(unix.SIGSTOP)
	if !harness.Poll(settle, func() bool { return n.Find(harness.Daemon).Stopped() }) {
		t.Fatal("the daemon is not frozen")
	}
	fed := m.count("WATCHDOG=1")
	neverFor(t, 2*time.Second, "a daemon that is frozen feeds the watchdog", func() bool { return m.count("WATCHDOG=1") > fed+1 }) // one may have been on its way
	n.Signal(unix.SIGCONT)
	m.wait(t, "WATCHDOG=1", fed+2)
	p.WaitMaster(settle)
	n.Stop(settle)
	m.wait(t, "STOPPING=1", 1)
	m.mu.Lock()
	defer m.mu.Unlock()
	if i := slices.Index(m.told, "STOPPING=1"); slices.Contains(m.told[i:], "READY=1") {
		t.Errorf("told %q", m.told)
	}
}

// TestUnit runs a node by the unit that is shipped, under a real systemd: it is
// up when it is ready; kill -9 of the daemon is followed by the guard's work and
// only then by a new daemon; a frozen daemon is killed by the watchdog and
// started again; and a stop leaves nothing.
func TestUnit(t *testing.T) {
	m := systemd.Boot(t)
	p := harness.NewPlane(t, harness.Options{Nodes: 1})
	n := p.Nodes[0]
	must(t, n.WriteConfig())
	m.Write("understudy.service", unit.Unit(harness.Understudy(), n.ConfigFile()))
	must(t, os.Mkdir(filepath.Join(m.Units, "understudy.service.d"), 0o755))
	m.Write("understudy.service.d/test.conf", "[Service]\nWatchdogSec=5s\nRestartSec=100ms\n")
	m.Control("daemon-reload")
	m.Control("start", "understudy.service")
	ready := func() bool { r, err := n.Probe("/master"); return err == nil && r.Code == 200 }
	waitServing := func(what string) int {
		t.Helper()
		if !harness.Poll(settle, ready) {
			t.Fatalf("%s: the node is not master: %s", what, m.Control("status", "understudy.service"))
		}
		pid, err := strconv.Atoi(m.Property("understudy.service", "MainPID"))
		must(t, err)
		return pid
	}
	first := waitServing("start")
	if !harness.Poll(settle, func() bool { return strings.HasPrefix(m.Property("understudy.service", "StatusText"), "MASTER, term ") }) {
		t.Errorf("systemctl status says %q", m.Property("understudy.service", "StatusText"))
	}
	m.Control("reload", "understudy.service")

	old := p.Latest()
	m.Control("kill", "--kill-who=main", "--signal=KILL", "understudy.service")
	p.WaitStart(old.Start+1, settle)
	second := waitServing("kill -9 of the daemon")
	if second == first {
		t.Error("the daemon is the same after kill -9")
	}
	if s := m.Property("understudy.service", "NRestarts"); s == "0" {
		t.Errorf("systemd counts %s restarts, want 1", s)
	}

	old = p.Latest()
	m.Control("kill", "--kill-who=main", "--signal=STOP", "understudy.service")
	p.WaitStart(old.Start+1, 2*settle)
	if waitServing("SIGSTOP of the daemon") == second {
		t.Error("the daemon is the same although it was frozen")
	}

	m.Control("stop", "understudy.service")
	old = p.Latest()
	if v := p.Register(); v.Held {
		t.Errorf("the register is held after the unit has stopped: %+v", v)
	}
	if b, err := os.ReadFile(m.Cgroup("system.slice/understudy.service/cgroup.procs")); err == nil && len(b) > 0 {
		t.Errorf("processes of the unit are alive: %s", b)
	}
	if s := m.Property("understudy.service", "Result"); s != "success" {
		t.Errorf("the unit ended with %s", s)
	}
	if !p.Tree(old.ID).Stopped() {
		t.Errorf("%v was killed, not stopped", old)
	}
}

// TestSystemdUnitAsService: each node has a systemd of its own, which runs the
// service, one that ignores TERM and whose child systemd leaves alone. Whatever
// becomes of the daemon, the unit is stopped, by KILL, within the right to serve,
// and nothing of it is alive when the next master's begins.
func TestSystemdUnitAsService(t *testing.T) {
	// T=10s leaves a stop twice the time of "fast", in which a busy machine
	// starts and ends three processes.
	timing, err := election.Derive(election.TimingRequest{Timeout: 10 * time.Second})
	must(t, err)
	p := harness.NewPlane(t, harness.Options{Nodes: 2, Settings: map[string]any{"ha.preset": nil, "ha.heartbeatTimeout": "10s"}})
	machine := map[*harness.Node]*systemd.Manager{}
	for _, n := range p.Nodes {
		m := systemd.Boot(t)
		m.Write("app.service", "[Service]\nEnvironmentFile=/run/understudy/app.service.env\n"+
			"Environment=REC_DIR="+p.Records+" REC_FORK=1 REC_IGNORE_TERM=1\nExecStart="+harness.Recorder()+"\nKillMode=process\n")
		n.Via = m.Enter()
		n.Set("service.command", nil)
		n.Set("service.env", nil)
		n.Set("service.systemd", "app.service")
		machine[n] = m
	}
	master := p.StartAndWait(settle)
	active := func(n *harness.Node) bool {
		switch s := machine[n].Property("app.service", "ActiveState"); s {
		case "active":
			return true
		case "inactive", "failed": // by KILL
		default:
			t.Errorf("the unit is %s on %s", s, n.Name)
		}
		return false
	}
	for _, round := range []struct {
		what string
		end  func(n *harness.Node) intervals.Instant
	}{
		{"kill -9 of the daemon", func(n *harness.Node) intervals.Instant { return n.Kill(harness.Daemon) }},
		{"SIGSTOP of the daemon", func(n *harness.Node) intervals.Instant { return n.Signal(unix.SIGSTOP) }},
		{"kill -9 of the guard", func(n *harness.Node) intervals.Instant { return n.Kill(harness.Guard) }},
	} {
		other := p.Standby(master)
		if !active(master) || active(other) {
			t.Errorf("%s: the unit does not run on the master, or on the other node as well", round.what)
		}
		var old intervals.Tree // the unit is active before its processes have written anything
		if !harness.Poll(settle, func() bool {
			tree, ok := p.Record().Latest()
			old = tree
			return ok && tree.Node == master.ID() && len(tree.Processes) == 2
		}) {
			t.Fatalf("%s: %v has %d processes, want 2", round.what, old, len(old.Processes))
		}
		group := machine[master].Cgroup(machine[master].Property("app.service", "ControlGroup"))
		if _, err := os.Stat(filepath.Join(group, "cgroup.procs")); err != nil {
			t.Errorf("%s: %v", round.what, err)
		}
		at := round.end(master)
		next := p.WaitStart(old.Last+1, 2*timing.Timeout+settle)
		harness.Figures(t, round.what+" to the next start, service run by systemd", []time.Duration{next.Start.Sub(at)})
		old = p.Tree(old.ID)
		if lived := old.Last.Sub(at); lived > timing.End() {
			t.Errorf("%s: %v lived for %v, longer than its right to serve, %v", round.what, old, lived, timing.End())
		}
		if p.NodeOf(next) != master { // the one that lost its guard may win again
			if b, err := os.ReadFile(filepath.Join(group, "cgroup.procs")); err == nil && len(b) > 0 {
				t.Errorf("%s: the unit's control group has processes: %s", round.what, b)
			}
			if active(master) {
				t.Errorf("%s: the unit is active on the former master", round.what)
			}
		}
		switch round.what {
		case "kill -9 of the daemon":
			master.WaitExit(settle)
			master.Start()
		case "SIGSTOP of the daemon":
			master.Signal(unix.SIGCONT)
		}
		master = p.WaitSettled(settle)
	}
	master.Stop(settle)
	if active(master) {
		t.Error("the unit is active after an orderly end")
	}
	refusedUnits(t, machine[master], master)
}

// refusedUnits: a unit that systemd would start by itself ends the daemon with
// the code of a precondition that is not met.
func refusedUnits(t *testing.T, m *systemd.Manager, n *harness.Node) {
	t.Helper()
	for name, unit := range map[string]struct{ text, said string }{
		"enabled.service": {"[Service]\nExecStart=/bin/sleep 1000\n[Install]\nWantedBy=multi-user.target\n", "it is enabled"},
		"again.service":   {"[Service]\nExecStart=/bin/sleep 1000\nRestart=always\n", "Restart=always"},
		"missing.service": {"", "not-found"},
	} {
		if unit.text != "" {
			m.Write(name, unit.text)
		}
		if name == "enabled.service" {
			m.Control("enable", name)
		}
		n.Set("service.systemd", name)
		n.Start()
		if code := n.WaitExit(settle); code != 3 || lineWith(n.Log(), name, unit.said) == "" {
			t.Errorf("%s: ended with %d and said %s, want 3 and %q", name, code, tailOf(n.Log()), unit.said)
		}
	}
}

func tailOf(log string) string { return log[max(0, len(log)-1000):] }
