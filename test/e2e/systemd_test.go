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
	"github.com/understudy-ha/understudy/test/e2e/harness"
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
