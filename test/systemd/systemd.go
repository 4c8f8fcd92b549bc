// Package systemd boots a real systemd for a test: the distribution's own, as
// the first process of PID, mount and cgroup namespaces of its own, with units
// that the test writes and nothing of the machine's. It has a cgroup (version 2)
// of its own, /run in memory, and no message bus: root talks to it by its
// private socket, as systemctl does.
package systemd

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/test/need"
)

// Manager is a systemd that runs.
type Manager struct {
	Units string // directory of its units: /etc/systemd/system, seen from inside

	t      testing.TB
	cmd    *exec.Cmd
	cgroup string
	log    string
}

const (
	binary   = "/lib/systemd/systemd"
	bootTime = 30 * time.Second
	endTime  = 10 * time.Second
)

// boot prepares the namespaces and becomes systemd. $1 is the directory of the
// units. What could change the kernel of everybody is mounted read-only.
const boot = `set -e
mount --make-rprivate /
mount -t proc proc /proc
mount -o bind,ro /proc/sys /proc/sys
umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/system /run/lock
for d in /lib/systemd/system /lib/systemd/system-generators; do mount -t tmpfs tmpfs $d; done
mount --bind "$1" /etc/systemd/system
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin container=understudy-test \
	/lib/systemd/systemd --system --unit=basic.target --log-target=console --log-level=info --show-status=no
`

// Boot boots a systemd that ends with the test.
func Boot(tb testing.TB) *Manager {
	tb.Helper()
	need.Root(tb, "boot a systemd")
	if _, err := os.Stat(binary); err != nil {
		need.Missing(tb, "systemd is missing; on Debian: apt-get install systemd")
	}
	dir := tb.TempDir()
	m := &Manager{Units: filepath.Join(dir, "units"), t: tb, log: filepath.Join(dir, "log")}
	if err := os.Mkdir(m.Units, 0o755); err != nil {
		tb.Fatal(err)
	}
	for _, target := range []string{"sysinit", "basic", "shutdown", "multi-user", "network-online", "remote-fs"} {
		m.Write(target+".target", "[Unit]\nDefaultDependencies=no\n")
	}
	if err := m.start(); err != nil {
		tb.Fatalf("boot systemd: %v\n%s", err, m.Log())
	}
	return m
}

func (m *Manager) start() error {
	mount, own, err := hierarchy()
	if err != nil {
		return err
	}
	m.cgroup = filepath.Join(mount, own, "understudy-systemd-"+strconv.Itoa(os.Getpid())+"-"+strconv.FormatInt(time.Now().UnixNano(), 36))
	if err := os.Mkdir(m.cgroup, 0o755); err != nil {
		return err
	}
	cg, err := os.Open(m.cgroup)
	if err != nil {
		return err
	}
	defer cg.Close()
	log, err := os.Create(m.log)
	if err != nil {
		return err
	}
	defer log.Close()
	// The cgroup namespace is entered once it is in its cgroup.
	m.cmd = exec.Command("unshare", "--cgroup", "/bin/sh", "-c", boot, "boot", m.Units) //nolint:noctx // the cleanup ends it
	m.cmd.Stdout, m.cmd.Stderr = log, log
	m.cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS, UseCgroupFD: true, CgroupFD: int(cg.Fd()),
		Pdeathsig: syscall.SIGKILL, // of the thread that forks: it has to live until then
	}
	started, over := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread()
		started <- m.cmd.Start()
		<-over
	}()
	m.t.Cleanup(func() { close(over) })
	if err := <-started; err != nil {
		return err
	}
	m.t.Cleanup(m.end)
	for end := time.Now().Add(bootTime); ; time.Sleep(20 * time.Millisecond) {
		out, err := m.Command(context.Background(), "systemctl", "is-active", "basic.target").CombinedOutput()
		if err == nil {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("not up after %v: %s", bootTime, out)
		}
	}
}

// end kills the first process, and with it everything inside.
func (m *Manager) end() {
	if m.t.Failed() {
		m.t.Logf("systemd:\n%s", m.Log())
	}
	_ = m.cmd.Process.Kill()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = m.cmd.Wait()
	}()
	select {
	case <-ended:
	case <-time.After(endTime): // somebody outside does not reap what was inside
		m.t.Error("systemd does not end")
		return
	}
	var err error
	for end := time.Now().Add(endTime); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if err = removeTree(m.cgroup); err == nil {
			return
		}
	}
	m.t.Errorf("the cgroup of systemd: %v", err)
}

// removeTree removes a cgroup and those below it.
func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return os.Remove(dir)
}

// Enter is the command line to run something inside, by appending its own. The
// shell stands between the two because nsenter, when its child is stopped, stops
// as well, and nobody wakes it.
func (m *Manager) Enter() []string {
	return []string{
		"nsenter", "--target", strconv.Itoa(m.cmd.Process.Pid), "--mount", "--pid", "--cgroup", "--",
		"/bin/sh", "-c", `"$@"; exit $?`, "sh",
	}
}

// Command prepares a command inside.
func (m *Manager) Command(ctx context.Context, args ...string) *exec.Cmd {
	all := append(m.Enter(), args...)
	return exec.CommandContext(ctx, all[0], all[1:]...)
}

// Control runs systemctl inside and returns what it prints; it must succeed.
func (m *Manager) Control(args ...string) string {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), bootTime)
	defer cancel()
	out, err := m.Command(ctx, append([]string{"systemctl", "--no-pager"}, args...)...).CombinedOutput()
	if err != nil {
		m.t.Fatalf("systemctl %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// Property is that of a unit.
func (m *Manager) Property(unit, name string) string {
	m.t.Helper()
	return strings.TrimSpace(m.Control("show", "--value", "--property="+name, unit))
}

// Signal sends a signal to systemd itself.
func (m *Manager) Signal(sig os.Signal) {
	m.t.Helper()
	if err := m.cmd.Process.Signal(sig); err != nil {
		m.t.Fatal(err)
	}
}

// Write writes a unit. Of one that was read before, "daemon-reload" tells.
func (m *Manager) Write(name, text string) {
	m.t.Helper()
	if err := os.WriteFile(filepath.Join(m.Units, name), []byte(text), 0o644); err != nil { //nolint:gosec // as units are
		m.t.Fatal(err)
	}
}

// Cgroup is the directory of a control group inside, as this process sees it.
func (m *Manager) Cgroup(path string) string { return filepath.Join(m.cgroup, path) }

// Log is what systemd has written.
func (m *Manager) Log() string {
	b, err := os.ReadFile(m.log)
	if err != nil {
		return err.Error()
	}
	return string(bytes.TrimSpace(b))
}

// hierarchy finds where cgroups of version 2 are mounted and which one this
// process is in.
func hierarchy() (mount, own string, err error) {
	cgroups, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", "", err
	}
	for l := range strings.Lines(string(cgroups)) {
		if path, ok := strings.CutPrefix(l, "0::"); ok {
			own = strings.TrimSpace(path)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", "", err
	}
	for l := range strings.Lines(string(mounts)) {
		before, after, _ := strings.Cut(l, " - ")
		if f := strings.Fields(before); strings.HasPrefix(after, "cgroup2 ") && len(f) > 4 && f[3] == "/" {
			return f[4], own, nil
		}
	}
	return "", "", fmt.Errorf("no file system of cgroups of version 2 is mounted")
}
