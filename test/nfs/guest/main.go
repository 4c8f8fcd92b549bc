// Command guest is the first program of a machine of package nfs. As process 1
// it mounts what a machine needs, brings up its network and reaps; its only
// child does what the lab asks for (package wire). It holds no opinion on what
// a test is about.
package main

import (
	"errors"
	"fmt"
	"net"
	"net/rpc"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/test/nfs/wire"
)

func main() {
	f := serve
	if os.Getpid() == 1 {
		f = first
	}
	if err := f(); err != nil {
		fmt.Fprintln(os.Stderr, "guest:", err)
	}
	if os.Getpid() == 1 {
		_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	}
}

// first is process 1: orphans come to it, and to reap them it must not wait
// for children of its own in any other way.
func first() error {
	if err := prepare(); err != nil {
		return err
	}
	child, err := os.StartProcess("/proc/self/exe", os.Args[:1], &os.ProcAttr{Env: environment(), Files: []*os.File{nil, os.Stdout, os.Stderr}})
	if err != nil {
		return err
	}
	for {
		pid, err := unix.Wait4(-1, nil, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("wait: %w", err)
		case pid == child.Pid:
			return errors.New("the agent has ended")
		}
	}
}

func environment() []string {
	return append(os.Environ(), "PATH="+wire.Image+"/bin:"+wire.Image+"/sbin:"+wire.Image+"/usr/sbin", "HOME="+wire.Data)
}

// prepare makes a machine of a kernel.
func prepare() error {
	for _, m := range []wire.MountArgs{
		{Target: "/proc", Type: "proc"},
		{Target: "/sys", Type: "sysfs"},
		{Target: "/sys/fs/cgroup", Type: "cgroup2"},
		{Target: "/dev", Type: "devtmpfs"},
		{Target: "/tmp", Type: "tmpfs"},
		{Target: "/run", Type: "tmpfs"},
		{Target: wire.Data, Type: "tmpfs"},
		{Target: wire.Mount, Type: "tmpfs"},
		{Target: wire.Image, Type: "hostfs", Options: os.Getenv(wire.EnvImage), Flags: unix.MS_RDONLY},
		{Target: wire.Share, Type: "hostfs", Options: os.Getenv(wire.EnvShare), Flags: unix.MS_RDONLY},
	} {
		if err := unix.Mount("none", m.Target, m.Type, uintptr(m.Flags), m.Options); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount %s: %w", m.Target, err)
		}
	}
	if err := unix.Sethostname([]byte(os.Getenv(wire.EnvName))); err != nil {
		return err
	}
	for _, args := range []string{
		"link set lo up",
		"addr add " + os.Getenv(wire.EnvAddress) + " dev vec0",
		"link set vec0 up",
	} {
		cmd := exec.Command(wire.Image+"/bin/busybox", append([]string{"ip"}, strings.Fields(args)...)...) //nolint:noctx // process 1 has nobody to end it
		if b, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", args, err, b)
		}
	}
	return nil
}

// serve answers the lab until the machine ends.
func serve() error {
	server := rpc.NewServer()
	if err := errors.Join(server.RegisterName("Guest", new(Guest)), server.RegisterName("Store", newStores())); err != nil {
		return err
	}
	l, err := net.Listen("tcp", fmt.Sprintf(":%d", wire.Port)) //nolint:noctx // as long as the machine lives
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go server.ServeConn(c)
	}
}

// load inserts a kernel module and what it depends on.
func load(name string) error {
	dirs, err := filepath.Glob(wire.Image + "/usr/lib/uml/modules/*")
	if err != nil || len(dirs) != 1 {
		return fmt.Errorf("%d directories of modules, want 1", len(dirs))
	}
	b, err := os.ReadFile(filepath.Join(dirs[0], "modules.dep"))
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(b)) {
		file, deps, _ := strings.Cut(strings.TrimSpace(line), ":")
		if filepath.Base(file) != name+".ko" {
			continue
		}
		// Each entry lists what it needs last first.
		all := append([]string{file}, strings.Fields(deps)...)
		for i := len(all) - 1; i >= 0; i-- {
			if err := insert(filepath.Join(dirs[0], all[i])); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("there is no module %s", name)
}

func insert(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("insert %s: %w", path, err)
	}
	return nil
}
