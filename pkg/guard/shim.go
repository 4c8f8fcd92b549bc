package guard

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The hidden subcommands by which a process of this binary becomes a guard or
// a shim. The program's main must call Main or ShimMain when its first
// argument is one of these, before it does anything else.
const (
	GuardCommand = "guard"
	ShimCommand  = "shim"
)

const (
	selfExe         = "/proc/self/exe"
	shimProbe       = "probe"
	shimProbeCgroup = "probe-cgroup"
)

// Descriptors the guard gives to a shim.
const (
	shimCtl = 3 + iota
	shimStdout
	shimStderr
	shimTree
	shimLock // or /dev/null; only held
	shimKill // cgroup.kill of the run, or /dev/null
	shimFds
)

// ShimMain is the shim: it executes the service's command on the guard's order
// and takes everything the command started along when it ends. It returns the
// exit code of the process.
//
// The order of its system calls matters: namespaces or PR_SET_CHILD_SUBREAPER
// first, then read the order, then fork from a thread that never ends
// (PR_SET_PDEATHSIG of the service follows that thread), then wait4 for ever.
func ShimMain() int {
	runtime.LockOSThread()
	small()
	catchSignals()
	kind := ""
	if len(os.Args) > 2 {
		kind = os.Args[2]
	}
	if kind == shimProbeCgroup {
		return 0 // to have been born there is all
	}
	if kind == shimProbe || kind == IsolationPidNamespace {
		if err := enterNamespace(); err != nil {
			fmt.Fprintf(os.Stdin, "%v\n", err) // the probe's descriptor 0 is a pipe to the guard
			return 1
		}
		if kind == shimProbe {
			return 0
		}
	} else if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		fmt.Fprintf(os.Stderr, "shim: subreaper: %v\n", err)
		return 1
	}
	for fd := shimCtl; fd < shimFds; fd++ {
		unix.CloseOnExec(fd)
	}
	if err := unix.SetNonblock(shimCtl, true); err != nil {
		fmt.Fprintf(os.Stderr, "shim: %v\n", err)
		return 1
	}
	s := &shim{
		namespace: kind == IsolationPidNamespace,
		ctl:       os.NewFile(shimCtl, "guard"),
		tree:      os.NewFile(shimTree, "tree"),
		orders:    make(chan shimOrder),
		reaped:    make(chan child),
	}
	return s.run()
}

type child struct {
	pid  int
	ws   syscall.WaitStatus
	none bool // no child is left
}

type shim struct {
	namespace bool
	ctl       *os.File
	tree      *os.File
	orders    chan shimOrder // closed when the guard is gone
	reaped    chan child

	aux      bool  // an auxiliary run
	output   *tail // of it
	main     int   // pid and process group of the service's main process
	mainGone bool
	stop     syscall.Signal // 0 until a stop was ordered
	killing  bool           // everything left gets KILL, again and again
	orphaned bool           // the guard is gone
}

func (s *shim) run() int {
	go s.listen()
	first, ok := <-s.orders
	if !ok || first.Run == nil {
		return 0 // the guard ended or changed its mind: nothing was started
	}
	if !s.exec(first) {
		return 0
	}
	go s.reap()
	orders := s.orders
	var again <-chan time.Time
	for {
		select {
		case o, ok := <-orders:
			if !ok {
				orders = nil
				s.orphaned = true
				if s.namespace {
					return 1 // the kernel kills everything inside
				}
				_, _ = unix.Write(shimKill, []byte("1")) // in a cgroup this is the end, ours included
				s.killing = true
				break
			}
			if o.Signal != 0 {
				s.begin(syscall.Signal(o.Signal))
			}
		case c := <-s.reaped:
			if c.none {
				if s.orphaned {
					markEmpty(s.tree)
				}
				return 0
			}
			if c.pid == s.main && !s.mainGone {
				s.mainGone = true
				s.report(shimReport{Exited: true, Exit: exitCode(c.ws), Output: s.output.last()})
				switch {
				case s.stop != 0 && !s.aux:
					s.signalRest() // those who have not heard of the stop yet
				case s.namespace:
					return 0 // the service ended by itself; so does the rest
				default:
					s.killing = true
				}
			}
		case <-again:
		}
		if s.killing {
			killDescendants(os.Getpid())
			again = time.After(5 * time.Millisecond)
		}
	}
}

// exec starts the service in a process group of its own.
func (s *shim) exec(o shimOrder) bool {
	r, files := *o.Run, []uintptr{0, shimStdout, shimStderr}
	path, err := lookPath(r)
	if err == nil && o.Aux {
		s.aux = true
		var done func()
		if files, done, err = s.capture(o.Stdin); err == nil {
			defer done()
		}
	}
	var pid int
	if err == nil {
		pid, err = syscall.ForkExec(path, r.Argv, &syscall.ProcAttr{
			Dir:   r.Dir,
			Env:   r.Env,
			Files: files,
			Sys:   &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL},
		})
	}
	if err != nil {
		s.report(notExecutable(o, path, err))
		return false
	}
	s.main = pid
	s.report(shimReport{Pid: pid})
	return true
}

// begin forwards the stop signal to the main process' group. CONT follows, so
// that a stopped process gets to see it.
func (s *shim) begin(sig syscall.Signal) {
	if s.stop != 0 {
		return
	}
	s.stop = sig
	if s.mainGone {
		s.signalRest()
		return
	}
	_ = syscall.Kill(-s.main, sig) // gone already: the reaper tells
	_ = syscall.Kill(-s.main, syscall.SIGCONT)
}

// signalRest sends the stop signal to what left the main process' group. They
// have until the guard's KILL.
func (s *shim) signalRest() {
	for _, d := range descendants(os.Getpid()) {
		if d.pgrp != s.main {
			signalExactly(d, s.stop)
			signalExactly(d, unix.SIGCONT)
		}
	}
}

// listen delivers the guard's orders. The end of the connection is the death
// of the guard.
func (s *shim) listen() {
	defer close(s.orders)
	in := bufio.NewReader(s.ctl)
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			return
		}
		var o shimOrder
		if json.Unmarshal(line, &o) == nil {
			s.orders <- o
		}
	}
}

// reap waits for children, adopted ones included, until there is none left.
func (s *shim) reap() {
	for {
		var c child
		var err error
		c.pid, err = syscall.Wait4(-1, &c.ws, unix.WALL, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case err != nil:
			c.none = true
		}
		s.reaped <- c
		if c.none {
			return
		}
	}
}

func (s *shim) report(r shimReport) {
	b, err := json.Marshal(r)
	if err == nil {
		_, _ = s.ctl.Write(append(b, '\n')) // a guard that is gone is noticed by listen
	}
}

// lookPath finds the command in the PATH of the service's environment.
func lookPath(r Run) (string, error) {
	if len(r.Argv) == 0 || r.Argv[0] == "" {
		return "", syscall.ENOENT
	}
	name := r.Argv[0]
	if strings.Contains(name, "/") {
		return name, nil
	}
	path := "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	for _, e := range r.Env {
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			path = v
		}
	}
	denied := false
	for _, dir := range strings.Split(path, ":") {
		if dir == "" {
			continue // never the working directory by accident
		}
		p := dir + "/" + name
		st, err := os.Stat(p)
		if err != nil || st.IsDir() {
			continue
		}
		if unix.Access(p, unix.X_OK) != nil {
			denied = true
			continue
		}
		return p, nil
	}
	if denied {
		return name, syscall.EACCES
	}
	return name, syscall.ENOENT
}

// notExecutable words a failed exec and gives it the shell's exit codes.
func notExecutable(o shimOrder, path string, err error) shimReport {
	r, whose := *o.Run, "the service's"
	if o.Aux {
		whose = "its"
	}
	errno := syscall.EINVAL
	_ = errors.As(err, &errno)
	rep := shimReport{Errno: int(errno), Exit: 126}
	if path == "" {
		path = strings.Join(r.Argv, " ")
	}
	if !filepath.IsAbs(path) && strings.Contains(path, "/") {
		path = filepath.Join(r.Dir, path)
	}
	_, statErr := os.Stat(path)
	switch {
	case r.Dir != "" && !isDir(r.Dir):
		rep.Why = fmt.Sprintf("%s working directory %s does not exist or is not a directory", whose, r.Dir)
	case errno == syscall.ENOENT && statErr != nil:
		rep.Exit = 127
		rep.Why = fmt.Sprintf("%s command %q does not exist", whose, path)
	case errno == syscall.ENOENT:
		rep.Why = fmt.Sprintf("the interpreter or loader that %s command %q names does not exist", whose, path)
	case errno == syscall.EACCES:
		rep.Why = fmt.Sprintf("%s command %q is not executable: check its permissions (chmod +x) and the mount option noexec", whose, path)
	case errno == syscall.ENOEXEC:
		rep.Why = fmt.Sprintf("%s command %q is neither a program for this machine nor a script with a #! line", whose, path)
	default:
		rep.Why = fmt.Sprintf("%s command %q can not be executed: %v", whose, path, err)
	}
	return rep
}

func isDir(p string) bool {
	st, err := os.Stat(p)
	return err == nil && st.IsDir()
}

// catchSignals keeps the signals of terminals and service managers from ending
// this process. They are caught, not ignored: what is ignored would stay
// ignored in the service.
func catchSignals() {
	signal.Notify(make(chan os.Signal, 1),
		unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGPIPE, unix.SIGUSR1, unix.SIGUSR2,
		unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU, unix.SIGALRM)
}
