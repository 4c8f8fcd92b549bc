package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/test/e2e/intervals"
	"github.com/understudy-ha/understudy/test/nfs/wire"
)

// Guest is what the lab may ask a machine to do. The methods have the form
// that net/rpc wants, and may be called at once.
type Guest struct{}

// Now tells the machine's CLOCK_BOOTTIME.
func (*Guest) Now(_ wire.Nothing, now *int64) error { //nolint:unparam // net/rpc wants this form
	*now = int64(intervals.Now())
	return nil
}

// Run runs a command to its end.
func (*Guest) Run(c wire.Command, res *wire.Result) error {
	if c.Timeout == 0 {
		c.Timeout = time.Minute
	}
	ctx, cancel := context.WithTimeout(context.Background(), c.Timeout)
	defer cancel()
	cmd := command(ctx, c)
	b, err := cmd.CombinedOutput()
	res.Output = string(b)
	if cmd.ProcessState == nil {
		return err
	}
	res.Code = cmd.ProcessState.ExitCode()
	if ctx.Err() != nil {
		return fmt.Errorf("%v did not end within %v: %s", c.Args, c.Timeout, b)
	}
	return nil
}

// Start starts a command and leaves it running.
func (*Guest) Start(c wire.Command, pid *int) error {
	log, err := os.OpenFile(c.Log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644) //nolint:gosec // the machine has one user
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := command(context.Background(), c)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return err
	}
	*pid = cmd.Process.Pid
	go func() { _ = cmd.Wait() }() // Alive tells
	return nil
}

func command(ctx context.Context, c wire.Command) *exec.Cmd {
	cmd := exec.CommandContext(ctx, c.Args[0], c.Args[1:]...) //nolint:gosec // that is what the lab is for
	cmd.Env = append(os.Environ(), c.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Chroot: c.Chroot}
	if c.Chroot != "" {
		cmd.Dir = "/"
	}
	return cmd
}

// Signal signals a process that Start started.
func (*Guest) Signal(s wire.Signal, _ *wire.Nothing) error {
	return unix.Kill(s.Pid, unix.Signal(s.Signal))
}

// Alive reports whether a process that Start started has not ended.
func (*Guest) Alive(pid int, alive *bool) error { //nolint:unparam // net/rpc wants this form
	*alive = unix.Kill(pid, 0) == nil
	return nil
}

// Load inserts a kernel module and what it depends on.
func (*Guest) Load(module string, _ *wire.Nothing) error { return load(module) }

// Write writes a file of the machine's own.
func (*Guest) Write(f wire.TailResult, _ *wire.Nothing) error {
	for path, content := range f.News {
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, content, 0o600)); err != nil {
			return err
		}
	}
	return nil
}

// Mount mounts a file system.
func (*Guest) Mount(m wire.MountArgs, _ *wire.Nothing) error {
	if strings.HasPrefix(m.Type, "nfs") {
		for _, module := range []string{"nfs", "nfsv3", "nfsv4"} {
			if err := load(module); err != nil {
				return err
			}
		}
	}
	if err := os.MkdirAll(m.Target, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(m.Source, m.Target, m.Type, uintptr(m.Flags), m.Options); err != nil { //nolint:gosec // flags of mount(2)
		return fmt.Errorf("mount %s on %s with %s: %w", m.Source, m.Target, m.Options, err)
	}
	return nil
}

// Unmount unmounts one.
func (*Guest) Unmount(m wire.MountArgs, _ *wire.Nothing) error {
	return unix.Unmount(m.Target, m.Flags)
}

// Tail returns what the files of a directory have gained.
func (*Guest) Tail(args wire.TailArgs, res *wire.TailResult) error {
	res.News = map[string][]byte{}
	entries, err := os.ReadDir(args.Dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		b, err := after(filepath.Join(args.Dir, e.Name()), args.Have[e.Name()])
		if err != nil {
			return err
		}
		if len(b) > 0 {
			res.News[e.Name()] = b
		}
	}
	return nil
}

func after(path string, offset int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		return nil, err
	}
	return io.ReadAll(f)
}
