package harness

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/test/e2e/intervals"
)

// Role is what a process of a node does.
type Role string

// The roles.
const (
	Daemon  Role = "daemon"
	Guard   Role = "guard"
	Shim    Role = "shim"
	Service Role = "service" // the managed program and all it started
	Logger  Role = "logger"  // writes the service's log
	Release Role = "release" // the child of a guard that writes a release
)

// Everything is each role of a node.
var Everything = []Role{Daemon, Guard, Shim, Service, Release}

// Process is one process of a node. Pid and start time name it for as long as
// the machine runs.
type Process struct {
	Pid   int
	Role  Role
	start uint64 // clock ticks since boot
}

// markVariable is in the environment of everything a node runs, its service
// included: variables named UNDERSTUDY_* would be kept from that.
const markVariable = "E2E_NODE_MARK"

// marked lists the living processes whose environment holds the mark.
func marked(mark string) []Process {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		panic(err) // without it nothing here means anything
	}
	want := []byte("\x00" + markVariable + "=" + mark + "\x00")
	var out []Process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		dir := filepath.Join("/proc", e.Name())
		env, err := os.ReadFile(filepath.Join(dir, "environ"))
		if err != nil || !bytes.Contains(append([]byte{0}, env...), want) {
			continue // gone, a zombie, or not ours
		}
		state, start := stat(pid)
		if start == 0 || state == 'Z' || state == 'X' {
			continue
		}
		line, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil {
			continue
		}
		out = append(out, Process{Pid: pid, Role: role(strings.Split(string(line), "\x00")), start: start})
	}
	return out
}

func role(argv []string) Role {
	if len(argv) > 1 && filepath.Base(argv[0]) == filepath.Base(Understudy()) {
		switch argv[1] {
		case "server", "run":
			return Daemon
		case "guard":
			return Guard
		case "shim":
			return Shim
		case "logger":
			return Logger
		case "release-child":
			return Release
		}
	}
	return Service
}

// stat reads state and start time; 0 and 0 when there is no such process.
func stat(pid int) (state byte, start uint64) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, 0
	}
	// The command's name is in parentheses and may contain anything.
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(f) < 20 {
		return 0, 0
	}
	start, err = strconv.ParseUint(f[19], 10, 64)
	if err != nil {
		return 0, 0
	}
	return f[0][0], start
}

// Alive reports whether the process still runs. A zombie does not.
func (p Process) Alive() bool {
	state, start := stat(p.Pid)
	return start == p.start && state != 'Z' && state != 'X'
}

// Stopped reports whether the process is stopped by a signal.
func (p Process) Stopped() bool {
	state, start := stat(p.Pid)
	return start == p.start && state == 'T'
}

// Signal signals this very process, never one that got its pid since.
func (p Process) Signal(sig unix.Signal) {
	fd, err := unix.PidfdOpen(p.Pid, 0)
	if err != nil {
		return // gone
	}
	defer unix.Close(fd)
	if _, start := stat(p.Pid); start == p.start {
		_ = unix.PidfdSendSignal(fd, sig, nil, 0) // gone since
	}
}

// killAtOnce kills processes as a power cut would: none of them gets to act on
// the death of another, since all are frozen before the first one dies. The
// instant is from before the first signal.
func killAtOnce(ps []Process) intervals.Instant {
	at := intervals.Now()
	for _, p := range ps {
		p.Signal(unix.SIGSTOP)
	}
	for _, p := range ps {
		p.Signal(unix.SIGKILL)
	}
	return at
}

// only keeps the processes of the given roles.
func only(ps []Process, roles []Role) []Process {
	return slices.DeleteFunc(ps, func(p Process) bool { return !slices.Contains(roles, p.Role) })
}

// starter is the thread that forks all daemons. They get SIGKILL when it ends,
// so it must live exactly as long as the test process.
var starter = sync.OnceValue(func() chan<- func() {
	c := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range c {
			f()
		}
	}()
	return c
})

// onStarter runs f on the starter's thread.
func onStarter(f func() error) error {
	done := make(chan error)
	starter() <- func() { done <- f() }
	return <-done
}

func attributes(uid int) *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{
		Setpgid:   true, // Ctrl-C at the test's terminal is the test's business
		Pdeathsig: syscall.SIGKILL,
	}
	if uid != 0 {
		a.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)} //nolint:gosec // small numbers of the tests
	}
	return a
}
