package doctor

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/pkg/watchdog"
)

// Guard says what protection the service would have.
type Guard struct {
	Isolation            string
	TreeLost, MemoryLost string // in words, what is missing; see guard.Abilities
	Err                  error  // the isolation asked for is not possible
	Root                 bool   // this process has root's rights
}

// GuardAbilities judges what the guard can do with these rights (G4).
func GuardAbilities(g Guard) []persistence.Finding {
	const name, memory = "guard", "guard's memory"
	if g.Err != nil {
		return []persistence.Finding{fail(name, "set service.isolation: auto, which takes the strongest that the rights allow, or give the daemon the rights", "%s", g.Err)}
	}
	as := "run the daemon as root, or give it CAP_SYS_ADMIN (AmbientCapabilities= in its unit); otherwise see that the service starts no daemons of its own"
	var lines []persistence.Finding
	switch {
	case g.TreeLost != "" && g.Root:
		lines = append(lines, warn(name, "set service.isolation: auto, or leave it if the service starts no daemons of its own", "%s", g.TreeLost))
	case g.TreeLost != "":
		lines = append(lines, warn(name, as, "%s", g.TreeLost))
	default:
		lines = append(lines, ok(name, "isolation %s: whatever happens to daemon and guard, nothing of the service outlives them", g.Isolation))
	}
	if g.MemoryLost != "" {
		lines = append(lines, warn(memory, "set LimitMEMLOCK=infinity in the daemon's unit, or 'ulimit -l unlimited'", "%s", g.MemoryLost))
	} else {
		lines = append(lines, ok(memory, "it can be locked, so the guard acts also while the machine swaps"))
	}
	return lines
}

// Limits judges the resource limits of a process: the live daemon's, or, with
// daemon false, those of the shell that asks, which a unit's may differ from.
// root is "/" but in tests.
func Limits(root string, pid int, daemon bool) []persistence.Finding {
	const name = "limits"
	whose := "this shell's (a systemd unit has its own)"
	if daemon {
		whose = fmt.Sprintf("the daemon's, pid %d", pid)
	}
	limits, err := readLimits(filepath.Join(root, "proc", strconv.Itoa(pid), "limits"))
	if err != nil {
		return []persistence.Finding{warn(name, "run doctor as root or as the daemon's user", "%s can not be read: %v", whose, err)}
	}
	var lines []persistence.Finding
	if n := limits["Max open files"]; n < 1024 {
		lines = append(lines, warn(name, "raise it: LimitNOFILE=65536 in the unit, or 'ulimit -n'", "%s: %.0f open files are few for daemon and service", whose, n))
	}
	if n := limits["Max processes"]; n < 200 {
		lines = append(lines, warn(name, "raise it: LimitNPROC= in the unit, or 'ulimit -u'", "%s: %.0f processes and threads are few: guard or service may fail to start", whose, n))
	}
	if free, where := freePids(root, pid); free < 100 {
		lines = append(lines, warn(name, "raise TasksMax= of the unit or slice", "%s: the control group %s has room for %.0f more processes and threads: guard or service may fail to start", whose, where, free))
	}
	if n := limits["Max core file size"]; n > 0 && coresToFile(root) {
		lines = append(lines, warn(name, "set LimitCORE=0 in the unit, or 'ulimit -c 0', unless these files are wanted", "%s: a service that crashes is written to a core file first, and counts as alive meanwhile: that delays the restart or take-over", whose))
	}
	if len(lines) == 0 {
		lines = append(lines, ok(name, "%s: enough files and processes", whose))
	}
	return lines
}

// readLimits reads the soft limits out of /proc/PID/limits.
func readLimits(path string) (map[string]float64, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	const nameWidth = 26 // of the kernel's table
	limits := map[string]float64{}
	for l := range strings.Lines(string(b)) {
		if len(l) <= nameWidth {
			continue
		}
		soft, _, _ := strings.Cut(strings.TrimSpace(l[nameWidth:]), " ")
		v, err := strconv.ParseFloat(soft, 64)
		if soft == "unlimited" {
			v, err = math.Inf(1), nil
		}
		if err == nil {
			limits[strings.TrimSpace(l[:nameWidth])] = v
		}
	}
	return limits, nil
}

// freePids is how many more processes the narrowest control group above a
// process allows, and which that is; infinite where none limits.
func freePids(root string, pid int) (free float64, where string) {
	free = math.Inf(1)
	b, err := os.ReadFile(filepath.Join(root, "proc", strconv.Itoa(pid), "cgroup"))
	if err != nil {
		return free, ""
	}
	for l := range strings.Lines(string(b)) {
		part := strings.SplitN(strings.TrimSpace(l), ":", 3)
		if len(part) != 3 {
			continue
		}
		base := "sys/fs/cgroup" // version 2
		if part[1] == "pids" {
			base = "sys/fs/cgroup/pids"
		} else if part[0] != "0" {
			continue
		}
		for dir := part[2]; ; dir = filepath.Dir(dir) {
			at := filepath.Join(root, base, dir)
			most, err1 := strconv.ParseFloat(firstLine(filepath.Join(at, "pids.max")), 64)
			now, err2 := strconv.ParseFloat(firstLine(filepath.Join(at, "pids.current")), 64)
			if err1 == nil && err2 == nil && most-now < free {
				free, where = most-now, dir
			}
			if dir == "/" || dir == "." {
				break
			}
		}
	}
	return free, where
}

// coresToFile reports whether crashes are written to files rather than handed
// to a program, as distributions with a crash collector have it.
func coresToFile(root string) bool {
	p := firstLine(filepath.Join(root, "proc/sys/kernel/core_pattern"))
	return p != "" && !strings.HasPrefix(p, "|")
}

// Watchdog judges the machine's hardware watchdog by how the node is to use it:
// setting is off, automatic or required. It is not opened, which would start it.
func Watchdog(root, setting, device string) persistence.Finding {
	const name = "watchdog"
	const without = "if daemon and guard are frozen together, which takes the whole machine, nothing stops the service"
	i, there := watchdog.Look(root, device)
	kind := i.Identity
	if kind == "" {
		kind = "of unknown make"
	}
	switch {
	case !there && setting == "required":
		return fail(name, "load the driver of the hardware, or 'modprobe softdog'; or name another watchdogDevice", "there is none at %s, and the node does not start without (watchdog: required)", device)
	case !there && setting == "automatic":
		return warn(name, "load the driver of the hardware, or 'modprobe softdog'", "there is none at %s: %s", device, without)
	case !there:
		return ok(name, "none: %s", without)
	case setting == "off" || setting == "":
		return ok(name, "%s (%s) is there and not used; with watchdog: automatic it resets this machine if daemon and guard are frozen together", device, kind)
	case !i.Known || i.Nowayout:
		return warn(name, "load its driver with nowayout=0, unless that is what you want", "%s (%s) may not be stopped once it is started: each end of the guard resets this machine", device, kind)
	}
	return ok(name, "%s (%s) resets this machine if daemon and guard are frozen together (watchdog: %s)", device, kind, setting)
}
