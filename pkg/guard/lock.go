package guard

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// ErrLocked is wrapped by the error of LockDir when another process holds the
// data directory.
var ErrLocked = errors.New("the data directory is in use")

// LockedError names who holds a data directory. A pid is 0 when that process
// is gone: with Daemon 0 and Guard set, a former daemon's guard is still
// stopping its service, and waiting is the right thing to do (R10).
type LockedError struct {
	Dir           string
	Daemon, Guard int
}

func (e *LockedError) Error() string {
	switch {
	case e.Daemon != 0:
		return fmt.Sprintf("data directory %s is in use by the daemon with pid %d: give each node a dataDir of its own, or stop that daemon", e.Dir, e.Daemon)
	case e.Guard != 0:
		return fmt.Sprintf("data directory %s is still held by the guard with pid %d, which is stopping the service of a daemon that died: wait for it", e.Dir, e.Guard)
	}
	return fmt.Sprintf("data directory %s is in use by a process that is just starting or ending: try again", e.Dir)
}

// Unwrap makes errors.Is(err, ErrLocked) true.
func (e *LockedError) Unwrap() error { return ErrLocked }

const lockFile = "lock"

// LockDir locks a data directory, which must exist, against every other
// process. The lock belongs to the open file: guard and shim inherit it, and
// it ends when the last of them has ended. Keep the file open, do not unlock
// it. A *LockedError says that it is held.
func LockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE, 0o644) //nolint:gosec // whoever finds it held may read by whom
	if err != nil {
		return nil, fmt.Errorf("lock the data directory: %w", err)
	}
	err = withFd(f, func(fd int) error { return unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) })
	if errors.Is(err, unix.EWOULDBLOCK) {
		defer f.Close()
		return nil, lockHolder(dir, f)
	}
	if err == nil {
		err = noteHolders(f, 0)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock the data directory %s: %w", dir, err)
	}
	return f, nil
}

// noteHolders writes into the lock file who holds it, for error messages.
func noteHolders(f *os.File, guard int) error {
	me := os.Getpid()
	line := fmt.Sprintf("daemon %d %d\nguard %d %d\n", me, startTime(me), guard, startTime(guard))
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := f.WriteAt([]byte(line), 0)
	return err
}

func lockHolder(dir string, f *os.File) *LockedError {
	e := &LockedError{Dir: dir}
	var daemon, guard int
	var daemonStart, guardStart uint64
	_, _ = fmt.Fscanf(f, "daemon %d %d\nguard %d %d\n", &daemon, &daemonStart, &guard, &guardStart)
	if daemon > 0 && alive(daemon, daemonStart) {
		e.Daemon = daemon
	}
	if guard > 0 && alive(guard, guardStart) {
		e.Guard = guard
	}
	return e
}

// withFd runs fn on the file's descriptor without making it blocking, which
// File.Fd would.
func withFd(f *os.File, fn func(fd int) error) error {
	c, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var ferr error
	if err := c.Control(func(fd uintptr) { ferr = fn(int(fd)) }); err != nil {
		return err
	}
	return ferr
}
