package guard

import (
	"fmt"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// How the service's tree is kept together (G4).
const (
	// IsolationAuto is the strongest the rights allow without a user namespace.
	IsolationAuto = "auto"
	// IsolationPidNamespace gives each run a PID and a mount namespace of its
	// own; its first process is the shim, and nothing outlives it. Without
	// root it needs a user namespace, and is then never chosen by itself.
	IsolationPidNamespace = "pid-namespace"
	// IsolationCgroup gives each run a cgroup (version 2) below the daemon's
	// own, killed as a whole by cgroup.kill and empty when the kernel says so.
	IsolationCgroup = "cgroup"
	// IsolationGroup is a process group under two subreapers.
	IsolationGroup = "group"
)

// CheckIsolation reports whether s names an isolation this version offers. The
// empty string means IsolationAuto.
func CheckIsolation(s string) error {
	switch s {
	case "", IsolationAuto, IsolationPidNamespace, IsolationCgroup, IsolationGroup:
		return nil
	}
	return fmt.Errorf("unknown isolation %q: must be auto, pid-namespace, cgroup or group", s)
}

const (
	cgroupLost = "the service runs in a cgroup, not in a PID namespace of its own (%s): " +
		"if daemon, guard and shim are all killed at once, processes that it detached live on until the daemon is started again"
	groupLost = "the service runs in a process group, not in a PID namespace or cgroup of its own (%s): " +
		"if guard and shim are both killed at once, only the service's main process dies with them; processes it detached may live on"
	needsAdmin = "a PID namespace needs root or CAP_SYS_ADMIN; isolation pid-namespace asks for a user namespace instead"
	needsBoth  = "that needs root or CAP_SYS_ADMIN, or a cgroup that is delegated to this user; isolation pid-namespace asks for a user namespace instead"
	asAsked    = "as configured"

	outsideLost = "the service hands its work to other processes, which live on when daemon and guard are both killed: " +
		"nobody stops them then, while the next master waits for the lease to end. A watchdog, or fencing, is for that"
)

// isolation is what the guard settled on.
type isolation struct {
	kind    string
	userNS  bool
	cgroups hierarchy // of IsolationCgroup
	lost    []string
}

// chooseIsolation settles on an isolation by trying it: rights on paper are
// not enough in a container that filters system calls.
func chooseIsolation(want string) (isolation, error) {
	if err := CheckIsolation(want); err != nil {
		return isolation{}, err
	}
	switch want {
	case IsolationGroup:
		return groupIsolation(asAsked), nil
	case IsolationCgroup:
		iso, err := cgroupIsolation(asAsked)
		if err != nil {
			return isolation{}, fmt.Errorf("isolation cgroup is not possible here: %w: use isolation auto, or give the rights (root, or a cgroup of version 2 that is delegated: Delegate=yes in the daemon's unit)", err)
		}
		return iso, nil
	case IsolationPidNamespace:
		iso := isolation{kind: IsolationPidNamespace, userNS: !hasCap(unix.CAP_SYS_ADMIN)}
		if err := probeNamespace(iso); err != nil {
			return isolation{}, fmt.Errorf("isolation pid-namespace is not possible here: %w: use isolation auto, or give the rights (root, CAP_SYS_ADMIN, or user namespaces)", err)
		}
		return iso, nil
	}
	return strongest(), nil
}

// strongest is IsolationAuto: the first that works.
func strongest() isolation {
	why := needsAdmin
	if hasCap(unix.CAP_SYS_ADMIN) {
		iso := isolation{kind: IsolationPidNamespace}
		err := probeNamespace(iso)
		if err == nil {
			return iso
		}
		why = err.Error()
	}
	iso, err := cgroupIsolation(why)
	switch {
	case err == nil:
		return iso
	case why == needsAdmin:
		return groupIsolation(needsBoth)
	}
	return groupIsolation(why + "; " + err.Error())
}

func groupIsolation(why string) isolation {
	return isolation{kind: IsolationGroup, lost: []string{fmt.Sprintf(groupLost, why)}}
}

func cgroupIsolation(why string) (isolation, error) {
	h, err := findHierarchy()
	if err != nil {
		return isolation{}, err
	}
	iso := isolation{kind: IsolationCgroup, cgroups: h, lost: []string{fmt.Sprintf(cgroupLost, why)}}
	return iso, probeCgroup(iso)
}

// sysProcAttr is how a shim is forked. The forking thread must live as long
// as the guard: its end is what PR_SET_PDEATHSIG reacts to.
func (i isolation) sysProcAttr() *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{}
	if i.kind != IsolationPidNamespace {
		// No PDEATHSIG: this shim must survive its guard for the moment it
		// takes to kill what detached itself.
		return a
	}
	a.Pdeathsig = syscall.SIGKILL
	a.Cloneflags = syscall.CLONE_NEWPID | syscall.CLONE_NEWNS
	if i.userNS {
		a.Cloneflags |= syscall.CLONE_NEWUSER
		a.UidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getuid(), HostID: os.Getuid(), Size: 1}}
		a.GidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getgid(), HostID: os.Getgid(), Size: 1}}
		a.AmbientCaps = []uintptr{unix.CAP_SYS_ADMIN} // for its own /proc; dropped before the service
	}
	return a
}

// probeNamespace runs a shim that only sets up its namespaces.
func probeNamespace(i isolation) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	pid, err := syscall.ForkExec(selfExe, []string{os.Args[0], ShimCommand, shimProbe}, &syscall.ProcAttr{
		Env:   os.Environ(),
		Files: []uintptr{w.Fd(), 2, 2},
		Sys:   i.sysProcAttr(),
	})
	w.Close()
	if err != nil {
		return fmt.Errorf("clone: %w", err)
	}
	why := make([]byte, 300)
	n, _ := r.Read(why)
	var ws syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &ws, 0, nil); err != nil {
		return err
	}
	if ws.ExitStatus() != 0 {
		if n == 0 {
			return fmt.Errorf("the first process of the namespace ended with %d", exitCode(ws))
		}
		return fmt.Errorf("%s", strings.TrimSpace(string(why[:n])))
	}
	return nil
}

// enterNamespace prepares the first process of a new PID namespace.
func enterNamespace() error {
	// Mounts made later on the host still arrive here; ours do not leave.
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("mount namespace: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	// Left over from a user namespace; the service gets no rights from us.
	_ = unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
	return nil
}

func hasCap(c uint) bool {
	for l := range strings.Lines(readAll("/proc/self/status")) {
		if hex, ok := strings.CutPrefix(l, "CapEff:"); ok {
			var eff uint64
			if _, err := fmt.Sscanf(strings.TrimSpace(hex), "%x", &eff); err == nil {
				return eff>>c&1 == 1
			}
		}
	}
	return false
}

func readAll(path string) string {
	b, _ := os.ReadFile(path)
	return string(b)
}

// lockMemory keeps the guard's pages in memory, so that it can act on a
// machine that thrashes. MCL_ONFAULT locks only what is ever used.
func lockMemory() (lost string) {
	if lost := memoryLost(); lost != "" {
		return lost
	}
	if err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT); err != nil {
		return fmt.Sprintf("the guard's memory is not locked (mlockall: %v): it may be slow to act on a machine that swaps", err)
	}
	return ""
}

// memoryLost says why memory is better not locked here: with a limit on locked
// memory a later allocation could fail and kill the guard.
func memoryLost() string {
	var rl unix.Rlimit
	unlimited := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &rl) == nil && rl.Cur == unix.RLIM_INFINITY
	if !unlimited && !hasCap(unix.CAP_IPC_LOCK) {
		return "the guard's memory is not locked (RLIMIT_MEMLOCK, LimitMEMLOCK=infinity in systemd): it may be slow to act on a machine that swaps"
	}
	return ""
}
