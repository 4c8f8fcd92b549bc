package guard

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/pkg/lease"
)

// treeFile is the name of the tree record in the data directory.
const treeFile = "tree.json"

// Tree records the tree of the latest run of the service. The guard makes it
// durable before the shim is told to go: no process of a service ever lived
// that is not covered by a record (R10).
type Tree struct {
	Term      lease.Term `json:"term"`
	Run       uint64     `json:"run"`
	Isolation string     `json:"isolation"`
	BootID    string     `json:"bootId"`
	Shim      int        `json:"shim"`      // pid, as the guard sees it
	ShimStart uint64     `json:"shimStart"` // clock ticks since boot
	PidNS     uint64     `json:"pidNs"`     // inode of the shim's PID namespace
	// The run's cgroup, the mount point it is seen below, and the inode there.
	Cgroup      string `json:"cgroup,omitempty"`
	CgroupMount string `json:"cgroupMount,omitempty"`
	CgroupRoot  uint64 `json:"cgroupRoot,omitempty"`
	// Outside: the service hands its work to processes that are not of this
	// tree. Of these Gone and Sweep say nothing; Empty tells of both.
	Outside bool `json:"outside,omitempty"`
	// Empty is turned in place once the tree was proven empty by the guard,
	// or by the shim after the guard's death. It stays the last field.
	Empty bool `json:"empty"`

	// aux are the records of auxiliary runs that were not removed.
	aux []Tree
}

const (
	notEmptyTail = "false}\n"
	emptyTail    = "true }\n"
)

// newTree opens the file that commitTree makes the record. The shim inherits
// it, for markEmpty, so it exists before there is anything to write.
func newTree(dir string) (*os.File, error) {
	f, err := newFile(filepath.Join(dir, treeFile))
	if err != nil {
		return nil, recordError("the service's tree", err)
	}
	return f, nil
}

// commitTree makes t the record of the data directory, durably.
func commitTree(f *os.File, dir string, t Tree) error {
	if err := commitTreeFile(f, filepath.Join(dir, treeFile), t); err != nil {
		return recordError("the service's tree", err)
	}
	return nil
}

func commitTreeFile(f *os.File, path string, t Tree) error {
	b, err := json.Marshal(t)
	if err == nil {
		err = commitFile(f, path, append(b, '\n'))
	}
	return err
}

// recordError says what to do where the local disk is at fault.
func recordError(what string, err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("record %s: %w: free space in the data directory; what can not be recorded is not started", what, err)
	}
	return fmt.Errorf("record %s: %w", what, err)
}

// markEmpty turns the last field of the record in place: it needs no space, no
// path and no directory, so it works in a shim whose guard is gone and on a
// full disk. A record that is not as commitTree wrote it stays untouched.
func markEmpty(f *os.File) {
	st, err := f.Stat()
	if err != nil || st.Size() < int64(len(notEmptyTail)) {
		return
	}
	at := st.Size() - int64(len(notEmptyTail))
	tail := make([]byte, len(notEmptyTail))
	if _, err := f.ReadAt(tail, at); err != nil || !bytes.Equal(tail, []byte(notEmptyTail)) {
		return
	}
	_, _ = f.WriteAt([]byte(emptyTail), at) // unmarked merely means unproven
}

// markRecord is markEmpty for a process that did not inherit the record.
func markRecord(dir string) {
	if f, err := os.OpenFile(filepath.Join(dir, treeFile), os.O_RDWR, 0); err == nil {
		markEmpty(f)
		f.Close()
	}
}

// LoadTree reads the tree record of a data directory; ok is false when there
// is none.
func LoadTree(dir string) (t Tree, ok bool, err error) {
	b, err := os.ReadFile(filepath.Join(dir, treeFile))
	aux := loadAux(dir)
	if errors.Is(err, fs.ErrNotExist) {
		// Of the service there was nothing.
		return Tree{Empty: true, aux: aux}, len(aux) > 0, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &t)
	}
	if err != nil {
		return Tree{}, false, fmt.Errorf("read the service's tree record: %w", err)
	}
	t.aux = aux
	return t, true, nil
}

// loadAux reads the records of auxiliary runs. One that can not be read counts
// as a run that is not proven gone, in the latest of terms.
func loadAux(dir string) (aux []Tree) {
	files, _ := filepath.Glob(filepath.Join(dir, "aux-*.json"))
	for _, path := range files {
		var t Tree
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // over meanwhile
		}
		if err != nil || json.Unmarshal(b, &t) != nil {
			t = Tree{Term: math.MaxUint64}
		}
		aux = append(aux, t)
	}
	return aux
}

// latest is the highest term of which anything was recorded.
func (t Tree) latest() lease.Term {
	for _, a := range t.aux {
		t.Term = max(t.Term, a.Term)
	}
	return t.Term
}

// since leaves out what belongs to terms before.
func (t Tree) since(term lease.Term) Tree {
	t.aux = slices.DeleteFunc(slices.Clone(t.aux), func(a Tree) bool { return a.Term < term })
	t.Empty = t.Empty || t.Term < term
	return t
}

// Gone reports whether nothing of the recorded tree is alive; why says what
// speaks against it. It must be called in the PID namespace in which the guard
// ran, on the machine that wrote the record.
func (t Tree) Gone() (gone bool, why string) {
	for _, a := range t.aux {
		if gone, why := a.goneItself(); !gone {
			return false, fmt.Sprintf("auxiliary run %d: %s", a.Run, why)
		}
	}
	return t.goneItself()
}

// goneItself is Gone without the auxiliary runs.
func (t Tree) goneItself() (gone bool, why string) {
	switch {
	case t.Empty:
		return true, ""
	case t.BootID == "" || t.BootID != bootID():
		return false, "the service's tree was recorded before a reboot"
	case alive(t.Shim, t.ShimStart):
		return false, fmt.Sprintf("the service's first process, pid %d, is alive", t.Shim)
	case t.Isolation == IsolationCgroup:
		return t.cgroupGone()
	case t.Isolation != IsolationPidNamespace:
		return false, "the service ran without a PID namespace or cgroup of its own and nobody saw its last process end"
	case t.PidNS == 0 || namespaceInUse(t.PidNS):
		return false, "a process lives in the service's PID namespace"
	}
	return true, ""
}

// cgroupGone reports whether the recorded cgroup is empty. Whoever does not see
// the hierarchy that the guard saw can not tell.
func (t Tree) cgroupGone() (gone bool, why string) {
	switch {
	case t.Cgroup == "" || t.CgroupRoot == 0 || cgroupInode(t.CgroupMount) != t.CgroupRoot:
		return false, fmt.Sprintf("the service ran in the cgroup %s, which is not to be seen from here", t.Cgroup)
	case !cgroup(t.Cgroup).empty():
		return false, fmt.Sprintf("a process lives in the service's cgroup %s", t.Cgroup)
	}
	return true, ""
}

// Adopt makes this process the subreaper of all it starts, so that Sweep can
// find what outlived both guard and shim. It is for a daemon whose only
// children are guards and short checks: orphans of any other child would
// become its zombies.
func Adopt() error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become a subreaper: %w", err)
	}
	return nil
}

// Sweep is Gone for a process that called Adopt before it started the guard
// and has no children now: what the dead guard and the dead shim left fell to
// it. It kills what it finds; call it again until it answers true. Then no
// child is left, which proves the tree empty in group isolation too. In cgroup
// isolation the kernel's word for the cgroup is enough.
func (t Tree) Sweep(dir string) (gone bool, why string) {
	if gone, why = t.Gone(); gone {
		return true, ""
	}
	inGroups := false
	for _, r := range append(t.aux, t) {
		here := r.BootID != "" && r.BootID == bootID()
		switch gone, unproven := r.goneItself(); {
		case gone:
		case here && r.Isolation == IsolationCgroup && cgroupInode(r.CgroupMount) == r.CgroupRoot:
			cgroup(r.Cgroup).kill()
		case !here || alive(r.Shim, r.ShimStart): // that shim is about to end, or to be ended by the kernel
			return false, unproven
		default:
			inGroups = true
		}
	}
	if !inGroups {
		return t.Gone()
	}
	killDescendants(os.Getpid())
	pids, err := allPids()
	if err != nil {
		return false, err.Error()
	}
	for _, pid := range pids {
		if s, err := readStat(pid); err != nil || s.ppid != os.Getpid() {
			continue
		}
		// Only ours by number: a child can not change its pid unreaped.
		if got, _ := syscall.Wait4(pid, nil, syscall.WNOHANG|unix.WALL, nil); got != pid {
			why = fmt.Sprintf("pid %d of the service is alive", pid)
		}
	}
	// A process whose parent died during the scan may have been missed: only
	// the kernel knows that no child is left.
	var si unix.Siginfo
	if err := unix.Waitid(unix.P_ALL, 0, &si, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT|unix.WALL, nil); !errors.Is(err, unix.ECHILD) {
		return false, why
	}
	for _, r := range append(t.aux, t) {
		if gone, why := r.goneItself(); !gone && r.Isolation == IsolationCgroup {
			return false, why
		}
	}
	if !t.Outside {
		markRecord(dir)
	}
	for _, a := range t.aux {
		_ = os.Remove(filepath.Join(dir, auxFile(a.Term, a.Run))) // left, it only proves less
	}
	return true, ""
}

// newFile opens the temporary file that commitFile turns into path.
func newFile(path string) (*os.File, error) {
	return os.OpenFile(path+".tmp", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
}

// commitFile replaces path durably: write, fsync, rename, fsync of the
// directory. f stays open.
func commitFile(f *os.File, path string, b []byte) error {
	_, err := f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	return err
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
