package posix

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/persistence"
)

// lookEvery is how often a mount is looked at for other options. That another
// one has taken its place is seen with each object that is written.
const lookEvery = 10 * time.Second

// anchored opens the location for writing objects, if it is the one this
// handle is for. What is then done through the result stays on the file system
// that was looked at, whatever is mounted or unmounted meanwhile.
func (s *Store) anchored() (*os.Root, error) {
	if err := s.ensureRoot(); err != nil {
		return nil, err
	}
	root, err := openRoot(s.dir)
	if err != nil {
		return nil, rootError(s.dir, err)
	}
	s.watchMount()
	if err := s.recognise(root); err != nil {
		root.Close()
		return nil, err
	}
	return root, nil
}

// onlyDir, at the end of a path, keeps open(2) from waiting in a FIFO.
const onlyDir = "/."

func openRoot(dir string) (*os.Root, error) { return os.OpenRoot(dir + onlyDir) }

// stillThere fails when the location is not the one this handle is for.
func (s *Store) stillThere() error {
	if s.sub() {
		return nil
	}
	root, err := openRoot(s.dir)
	if err != nil {
		return rootError(s.dir, err)
	}
	defer root.Close()
	return s.recognise(root)
}

// recognise fails when root has lost the register that this handle has seen:
// then it is, as a rule, the mount point that the location was mounted on, in
// which nothing must be created. It also fails when root holds the register of
// another plane, see Anchor. A register that can not be read is no reason: it
// is in need of repair, and still in its place.
func (s *Store) recognise(root *os.Root) error {
	s.mu.Lock()
	mine := s.mine
	s.mu.Unlock()
	if s.sub() || (mine == nil && !s.known.Load()) {
		return nil
	}
	names, err := namesIn(root, leaseDir)
	switch {
	case isMissing(err) && s.known.Load():
		return fmt.Errorf("%w: %s holds no register any more, so nothing is written there; is the file system still mounted?", persistence.Absent, s.dir)
	case isMissing(err), errors.Is(err, syscall.ENOTDIR):
		return nil
	case err != nil:
		return wrap("list", filepath.Join(s.dir, leaseDir), err)
	}
	foreign := false
	for _, name := range names {
		if hidden(name) || !s.opts.Valid([]byte(name)) {
			continue
		}
		if mine == nil || mine([]byte(name)) {
			return nil
		}
		foreign = true
	}
	if foreign {
		return fmt.Errorf("%w: %s holds the register of another plane now, so nothing is written there; is the right file system mounted?", persistence.Absent, s.dir)
	}
	return nil
}

func namesIn(root *os.Root, dir string) ([]string, error) {
	f, err := root.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Readdirnames(-1)
}

// watchMount notices when the mount beneath the location is not what it was:
// another one at once, other options after a while. Both are told; what
// follows from them is decided by the register that is found there.
func (s *Store) watchMount() {
	s.mu.Lock()
	seen, id, age := s.seen, s.mount.id, time.Since(s.looked)
	s.mu.Unlock()
	if !seen || s.sub() {
		return // whoever asks first looks, see lookOnce; a scratch location is not watched
	}
	var sx unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, s.place(), unix.AT_STATX_DONT_SYNC, unix.STATX_MNT_ID, &sx)
	moved := err == nil && sx.Mask&unix.STATX_MNT_ID != 0 && id != 0 && sx.Mnt_id != id
	if moved || age >= lookEvery {
		_, _ = s.look() // what is wrong shows with the write that follows
	}
}

// since says how a mount differs from the one that was there before, or is
// empty.
func (m mount) since(old mount) string {
	switch {
	case m.fstype != old.fstype || m.source != old.source || m.point != old.point || m.root != old.root:
		return fmt.Sprintf("it was %s and is %s", old, m)
	case strings.Join(m.options, ",") != strings.Join(old.options, ","):
		return fmt.Sprintf("%s was mounted with %s and is with %s", m, strings.Join(old.options, ","), strings.Join(m.options, ","))
	case m.id != old.id:
		return m.String() + " was mounted anew"
	}
	return ""
}

// syncRoot is syncDir of an open directory.
func (s *Store) syncRoot(dir *os.Root) error {
	if !s.lookOnce().syncDirs() {
		return nil
	}
	f, err := dir.Open(".")
	if err != nil {
		return err
	}
	defer f.Close()
	return syncNames(f)
}

// syncNames makes the names in an open directory durable.
func syncNames(dir *os.File) error {
	err := dir.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.ENOSYS) {
		return nil // this file system commits names by itself
	}
	return err
}
