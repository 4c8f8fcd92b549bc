package guard

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/pkg/lease"
)

// hierarchy is where this process may look for control groups of version 2.
type hierarchy struct {
	mount string // where it is mounted
	root  uint64 // inode of that directory: unique among all cgroups of a boot
	own   string // the directory of this process' own cgroup
}

// findHierarchy finds the cgroup of this process. That it may make others
// below it is for a trial to show.
func findHierarchy() (hierarchy, error) {
	own := ""
	for l := range strings.Lines(readAll("/proc/self/cgroup")) {
		if p, ok := strings.CutPrefix(l, "0::"); ok {
			own = strings.TrimSuffix(p, "\n")
		}
	}
	if own == "" || strings.HasPrefix(own, "/..") {
		return hierarchy{}, errors.New("this process has no cgroup of version 2")
	}
	for l := range strings.Lines(readAll("/proc/self/mountinfo")) {
		// ID parent device root mountpoint options... - type source options
		before, after, _ := strings.Cut(l, " - ")
		f := strings.Fields(before)
		if len(f) < 5 || !strings.HasPrefix(after, "cgroup2 ") {
			continue
		}
		rel, err := filepath.Rel(f[3], own)
		if err != nil || strings.HasPrefix(rel, "..") {
			continue // a part of the hierarchy that we are not in
		}
		mount := strings.ReplaceAll(f[4], `\040`, " ")
		if root := cgroupInode(mount); root != 0 {
			return hierarchy{mount: mount, root: root, own: filepath.Join(mount, rel)}, nil
		}
	}
	return hierarchy{}, errors.New("no cgroup2 file system with this process' cgroup is mounted")
}

// cgroupInode is the inode of a directory of a cgroup2 file system; 0 if it is
// none.
func cgroupInode(dir string) uint64 {
	var fs unix.Statfs_t
	var st unix.Stat_t
	if unix.Statfs(dir, &fs) != nil || fs.Type != unix.CGROUP2_SUPER_MAGIC || unix.Stat(dir, &st) != nil {
		return 0
	}
	return st.Ino
}

// cgroup is a control group made for one run; its value is the directory. No
// name is used twice, and a cgroup can neither be renamed nor be removed while
// it is populated: one that is gone was empty.
type cgroup string

// cgroupPrefix begins the names of all cgroups that belong to a data
// directory.
func cgroupPrefix(dataDir string) string {
	sum := sha256.Sum256([]byte(dataDir))
	return "understudy-" + hex.EncodeToString(sum[:6]) + "."
}

// nameCgroup draws the name of a run's cgroup, which is yet to be made.
func (h hierarchy) nameCgroup(prefix string, t lease.Term, run uint64) cgroup {
	return cgroup(filepath.Join(h.own, fmt.Sprintf("%s%d.%d.%s", prefix, t, run, rand.Text()[:16])))
}

func (c cgroup) make() error {
	if err := os.Mkdir(string(c), 0o755); err != nil { //nolint:gosec // as the kernel makes them
		return fmt.Errorf("make a cgroup below %s: %w", filepath.Dir(string(c)), errors.Unwrap(err))
	}
	return nil
}

// makeFor makes the cgroup for a child that is to be born in it. kill is what
// that child can kill its whole tree with. The caller closes it and CgroupFD.
func (c cgroup) makeFor(attr *syscall.SysProcAttr) (kill int, err error) {
	if err := c.make(); err != nil {
		return 0, err
	}
	if kill, err = c.openKill(); err != nil {
		return 0, err
	}
	if attr.CgroupFD, err = c.open(); err != nil {
		unix.Close(kill)
		return 0, err
	}
	attr.UseCgroupFD = true
	return kill, nil
}

// open returns a descriptor of the directory, for clone3 to put a child there.
func (c cgroup) open() (int, error) {
	return unix.Open(string(c), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}

// openKill returns a descriptor of cgroup.kill, with which the shim can kill
// its whole tree, itself included, without looking at any path. Kernels before
// 5.14 do not have it; the shim then writes to /dev/null and kills by hand.
func (c cgroup) openKill() (int, error) {
	fd, err := unix.Open(string(c)+"/cgroup.kill", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return unix.Open(os.DevNull, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	}
	return fd, err
}

// kill sends KILL to everything in the cgroup and below.
func (c cgroup) kill() {
	if os.WriteFile(string(c)+"/cgroup.kill", []byte("1"), 0) != nil {
		c.killEach()
	}
}

// killEach is kill for kernels before 5.14: frozen, nothing forks meanwhile,
// and KILL ends what is frozen.
func (c cgroup) killEach() {
	_ = os.WriteFile(string(c)+"/cgroup.freeze", []byte("1"), 0)
	_ = filepath.WalkDir(string(c), func(dir string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() {
			return nil //nolint:nilerr // removed meanwhile; the proof sees what is left
		}
		for l := range strings.Lines(readAll(dir + "/cgroup.procs")) {
			pid, err := strconv.Atoi(strings.TrimSpace(l))
			if err != nil {
				continue
			}
			if s, err := readStat(pid); err == nil {
				signalExactly(s, unix.SIGKILL)
			}
		}
		return nil
	})
}

// empty reports whether the kernel says that no process is alive in the cgroup
// or below. One that was removed was empty.
func (c cgroup) empty() bool {
	b, err := os.ReadFile(string(c) + "/cgroup.events")
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return true
	}
	return err == nil && bytes.Contains(b, []byte("populated 0\n"))
}

// remove removes an empty cgroup with those that the service made in it. The
// kernel may call one busy for the moment it takes a dead process to leave.
func (c cgroup) remove() error {
	var err error
	for range 50 {
		if err = c.removeOnce(); !errors.Is(err, unix.EBUSY) {
			break
		}
		time.Sleep(time.Millisecond)
	}
	return err
}

func (c cgroup) removeOnce() error {
	entries, err := os.ReadDir(string(c))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := cgroup(filepath.Join(string(c), e.Name())).removeOnce(); err != nil {
				return err
			}
		}
	}
	return os.Remove(string(c))
}

// ClearCgroups does what the next guard of a data directory would do: it ends
// and removes the cgroups that dead runs left. It is for a directory whose node
// does not come back, and that no process has locked. left names those that can
// not be removed.
func ClearCgroups(dataDir string) (left []string) {
	h, err := findHierarchy()
	if err != nil {
		return nil
	}
	return clearCgroups(h, dataDir)
}

// clearCgroups removes what dead runs of this data directory left. The lock of
// the data directory says that their guard and shim are gone; whatever is still
// alive has no business to be, and is killed. What can not be removed now is
// tried again at the next start.
func clearCgroups(h hierarchy, dataDir string) (left []string) {
	found, _ := filepath.Glob(filepath.Join(h.own, cgroupPrefix(dataDir)+"*"))
	t, recorded, err := LoadTree(dataDir)
	if err == nil && recorded && t.Cgroup != "" && t.BootID == bootID() {
		found = append(found, t.Cgroup) // the guard may have been elsewhere then
	}
	for _, dir := range found {
		c := cgroup(dir)
		if !c.empty() {
			c.kill()
		}
		for range 500 { // a guard may take ten seconds to answer
			if c.empty() {
				break
			}
			time.Sleep(time.Millisecond)
		}
		if gone, _ := t.goneItself(); gone && dir == t.Cgroup && !t.Outside {
			markRecord(dataDir) // the proof must not go with the cgroup
		}
		if !c.empty() || c.remove() != nil {
			left = append(left, dir)
		}
	}
	return left
}

// probeCgroup tries everything that cgroup isolation needs.
func probeCgroup(i isolation) error {
	c := i.cgroups.nameCgroup("understudy-probe.", 0, 0)
	err := i.probeIn(c)
	if rerr := c.remove(); err == nil && rerr != nil {
		err = fmt.Errorf("remove a cgroup: %w", rerr)
	}
	return err
}

func (i isolation) probeIn(c cgroup) error {
	attr := i.sysProcAttr()
	kill, err := c.makeFor(attr)
	if err != nil {
		return err
	}
	defer unix.Close(kill)
	defer unix.Close(attr.CgroupFD)
	if !exists(string(c) + "/cgroup.events") {
		return errors.New("the cgroup has no cgroup.events")
	}
	pid, err := syscall.ForkExec(selfExe, []string{os.Args[0], ShimCommand, shimProbeCgroup}, &syscall.ProcAttr{
		Env: os.Environ(), Files: []uintptr{2, 2, 2}, Sys: attr,
	})
	if err != nil {
		return fmt.Errorf("clone into a cgroup: %w", err)
	}
	var ws syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &ws, 0, nil); err != nil {
		return err
	}
	if ws.ExitStatus() != 0 {
		return fmt.Errorf("the first process of the cgroup ended with %d", exitCode(ws))
	}
	return nil
}
