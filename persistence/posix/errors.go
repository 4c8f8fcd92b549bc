package posix

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"github.com/understudy-ha/understudy/persistence"
)

// verdicts says which kind each errno is, and what an operator can do.
var verdicts = map[syscall.Errno]struct {
	kind   error
	remedy string
}{
	syscall.EACCES:       {persistence.Denied, "give the user that runs understudy read, write and search permission there"},
	syscall.EPERM:        {persistence.Denied, "give the user that runs understudy read, write and search permission there"},
	syscall.EROFS:        {persistence.ReadOnly, "mount it read-write"},
	syscall.ENOSPC:       {persistence.Full, "free space or inodes on the file system"},
	syscall.EDQUOT:       {persistence.Full, "raise the quota or delete files of its owner"},
	syscall.ENAMETOOLONG: {persistence.Unsupported, "use a file system that takes names of 200 bytes"},
	syscall.EXDEV:        {persistence.Unsupported, "keep the whole directory on one file system"},
	syscall.EOPNOTSUPP:   {persistence.Unsupported, "use another file system"},
	syscall.ENOSYS:       {persistence.Unsupported, "use another file system"},
	syscall.ESTALE:       {persistence.Unknown, "the server has replaced what was mounted; if this lasts, mount it again"},
	syscall.EIO:          {persistence.Unknown, "look at the kernel's log and the file server"},
	syscall.ETIMEDOUT:    {persistence.Unknown, "look at the file server and the network; mount it 'hard', not 'soft'"},
	syscall.ENOTCONN:     {persistence.Unknown, "the file system's own process has died; mount it again"},
	syscall.ENOTDIR:      {persistence.Unsupported, "move away what is not a directory"},
}

// cause strips the path that package os adds: our messages name their own, and
// a register's value makes a long one.
func cause(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	var le *os.LinkError
	if errors.As(err, &le) {
		return le.Err
	}
	return err
}

// wrap gives an error of the file system its kind, the path and the remedy.
func wrap(op, path string, err error) error {
	err = cause(err)
	var no syscall.Errno
	if errors.As(err, &no) {
		if v, ok := verdicts[no]; ok {
			return fmt.Errorf("%w: %s %s: %w; %s", v.kind, op, path, err, v.remedy)
		}
	}
	return fmt.Errorf("%w: %s %s: %w", persistence.Unknown, op, path, err)
}

// isMissing reports ENOENT, and nothing else that fs.ErrNotExist may match.
func isMissing(err error) bool { return errors.Is(err, syscall.ENOENT) }

// rootError explains why the location itself could not be opened.
func rootError(dir string, err error) error {
	switch {
	case isMissing(err):
		return fmt.Errorf("%w: directory %s does not exist; create it, or mount the shared file system there "+
			"(understudy never creates it itself)", persistence.Absent, dir)
	case errors.Is(err, syscall.ENOTDIR):
		return fmt.Errorf("%w: %s is not a directory; name a directory on the shared file system",
			persistence.Unsupported, dir)
	default:
		return wrap("open", dir, err)
	}
}
