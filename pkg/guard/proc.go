package guard

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// procStat is what /proc/PID/stat says of a process. Pid and start time name
// it for as long as the machine runs.
type procStat struct {
	pid, ppid, pgrp int
	state           byte
	start           uint64 // clock ticks since boot
}

func readStat(pid int) (procStat, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return procStat{}, err
	}
	// The command's name is in parentheses and may contain anything.
	i := bytes.LastIndexByte(b, ')')
	f := strings.Fields(string(b[i+1:]))
	if i < 0 || len(f) < 20 {
		return procStat{}, fmt.Errorf("/proc/%d/stat: unknown format", pid)
	}
	s := procStat{pid: pid, state: f[0][0]}
	s.ppid, _ = strconv.Atoi(f[1])
	s.pgrp, _ = strconv.Atoi(f[2])
	s.start, err = strconv.ParseUint(f[19], 10, 64)
	return s, err
}

// startTime is when the process began, in clock ticks since boot; 0 if there
// is no such process.
func startTime(pid int) uint64 {
	s, err := readStat(pid)
	if err != nil {
		return 0
	}
	return s.start
}

// alive reports whether the process that began at the given time still runs. A
// zombie does not: the first process of a PID namespace becomes one only after
// every other process of the namespace is gone.
func alive(pid int, start uint64) bool {
	s, err := readStat(pid)
	return err == nil && s.start == start && s.state != 'Z' && s.state != 'X'
}

// allPids lists the processes of this /proc.
func allPids() ([]int, error) {
	d, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, n := range names {
		if pid, err := strconv.Atoi(n); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// descendants lists the living processes beneath root, root excluded, and
// without some and what is beneath these.
func descendants(root int, without ...int) []procStat {
	pids, err := allPids()
	if err != nil {
		return nil
	}
	kids := make(map[int][]procStat)
	for _, pid := range pids {
		if s, err := readStat(pid); err == nil {
			kids[s.ppid] = append(kids[s.ppid], s)
		}
	}
	var out []procStat
	seen := map[int]bool{root: true}
	for todo := []int{root}; len(todo) > 0; todo = todo[1:] {
		for _, s := range kids[todo[0]] {
			if seen[s.pid] || slices.Contains(without, s.pid) {
				continue // a pid reused during the scan, or left out
			}
			seen[s.pid] = true
			todo = append(todo, s.pid)
			if s.state != 'Z' && s.state != 'X' {
				out = append(out, s)
			}
		}
	}
	return out
}

// signalExactly signals the very process that was seen, never one that got
// its pid since.
func signalExactly(s procStat, sig unix.Signal) {
	fd, err := unix.PidfdOpen(s.pid, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	if startTime(s.pid) == s.start {
		_ = unix.PidfdSendSignal(fd, sig, nil, 0) // gone already, or not ours: seen by the proof
	}
}

// killDescendants sends KILL to all descendants, and looks again as long as it
// finds processes it had not seen: they may have forked meanwhile.
func killDescendants(root int, without ...int) {
	seen := make(map[procStat]bool)
	for range 20 {
		fresh := false
		for _, s := range descendants(root, without...) {
			k := procStat{pid: s.pid, start: s.start}
			if !seen[k] {
				seen[k], fresh = true, true
			}
			signalExactly(s, unix.SIGKILL)
		}
		if !fresh {
			return
		}
	}
}

// pidNamespace is the inode of a process' PID namespace; 0 if it can not be
// told.
func pidNamespace(pid string) uint64 {
	l, err := os.Readlink("/proc/" + pid + "/ns/pid")
	if err != nil {
		return 0
	}
	_, n, _ := strings.Cut(l, ":[")
	ino, _ := strconv.ParseUint(strings.TrimSuffix(n, "]"), 10, 64)
	return ino
}

// namespaceInUse reports whether some process lives in the PID namespace.
func namespaceInUse(ino uint64) bool {
	pids, err := allPids()
	if err != nil {
		return true
	}
	for _, pid := range pids {
		if pidNamespace(strconv.Itoa(pid)) == ino {
			// A zombie keeps its link until it is reaped, but runs no more.
			if s, err := readStat(pid); err == nil && s.state != 'Z' && s.state != 'X' {
				return true
			}
		}
	}
	return false
}

func bootID() string { return firstLine("/proc/sys/kernel/random/boot_id") }

func firstLine(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	l, _, _ := strings.Cut(string(b), "\n")
	return strings.TrimSpace(l)
}

// reapAny collects one dead child without waiting. none is true when there is
// no child left at all, which in a subreaper proves the tree empty.
func reapAny() (pid int, ws syscall.WaitStatus, none bool) {
	for {
		pid, err := syscall.Wait4(-1, &ws, syscall.WNOHANG|unix.WALL, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case errors.Is(err, syscall.ECHILD):
			return 0, 0, true
		case err != nil:
			return 0, 0, false
		}
		return pid, ws, false
	}
}

// exitCode is the shell's reading of a wait status.
func exitCode(ws syscall.WaitStatus) int {
	if ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return ws.ExitStatus()
}
