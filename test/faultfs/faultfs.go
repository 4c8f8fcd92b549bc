// Package faultfs is a file system that fails on command: a FUSE mount that
// shows a backing directory, with errors, delays, hangs, requests that land
// late, stale listings and renames that two can win, injected per operation and
// path. Two mounts on one backing directory are two nodes that see the same
// store and different faults.
//
// The server lives in the test's process; the daemons under test are other
// processes (or goroutines, see Rule.Deaf). It needs root and /dev/fuse.
//
//	fs, err := faultfs.Mount(backing, mountpoint)
//	defer fs.Unmount()
//	f := fs.Inject(faultfs.Rule{Op: faultfs.Rename, Path: "lease/", Hang: true})
//	…
//	if f.Fired() == 0 { t.Error("the fault never fired") }
//	fs.Clear()
//
// Nothing is cached by the kernel: every operation of a client reaches the
// rules. A mkdir or rename that hangs holds the kernel's lock on its
// directory, so that listings of it through the same mount hang with it.
package faultfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Op is an operation of the file system, as the kernel asks for it.
type Op string

// The operations that rules can name. Listing a directory is an opendir and a
// readdir; creating a file that is not there is a lookup and a create.
const (
	Any      Op = ""
	Lookup   Op = "lookup"
	Getattr  Op = "getattr"
	Setattr  Op = "setattr"
	Open     Op = "open"
	Create   Op = "create"
	Read     Op = "read"
	Write    Op = "write"
	Flush    Op = "flush" // close(2)
	Fsync    Op = "fsync"
	Opendir  Op = "opendir"
	Readdir  Op = "readdir" // once per listing
	Fsyncdir Op = "fsyncdir"
	Mkdir    Op = "mkdir"
	Rmdir    Op = "rmdir"
	Unlink   Op = "unlink"
	Rename   Op = "rename"
	Link     Op = "link"
	Symlink  Op = "symlink"
	Statfs   Op = "statfs"
)

// longestHang bounds every hang, for tests that forget theirs.
const longestHang = 5 * time.Minute

// Rule says what goes wrong, and with which operations.
type Rule struct {
	Op    Op     // Any: every operation
	Path  string // only if the path beneath the mount contains it; of a rename, either path
	Skip  int    // let this many matching operations pass first
	Count int    // fire this often; 0: until removed

	Errno syscall.Errno // what the operation fails with; 0: it does not
	After bool          // apply the operation first: it happens, then Delay, Hang and Errno
	// Pretend answers that the operation was done, and never does it. It is
	// for operations that return nothing but success: rename, unlink, fsync.
	Pretend bool
	Delay   time.Duration // an interrupt does not shorten it
	// Hang holds the operation until the rule is removed. A signal to the
	// process interrupts it with EINTR, so that SIGKILL works, as on a hard
	// NFS mount. Of Any it leaves out Flush, unless Deaf: the kernel does not
	// interrupt what it asks for on behalf of a process that ends.
	Hang bool
	// Deaf makes Hang ignore interrupts: the process is in state D and
	// survives SIGKILL until the rule is removed. In the test's own process a
	// hang should be deaf, because the Go runtime sends itself signals.
	Deaf bool

	// Late answers with Errno at once and applies the operation this much
	// later, as a server does that got to a request after its client had given
	// up. It is for operations that return nothing but success.
	Late time.Duration
	// Stale has each listing of a directory (Op Readdir) show what the first one
	// under the rule showed, until the rule is removed.
	Stale bool
	// Shared breaks what a compare-and-swap by rename(2) rests on: for this
	// long the source of a rename can be renamed again, by the loser of a race,
	// who then wins too. The file bears the last winner's name. It holds for
	// every mount of the backing directory that has such a rule (Op Rename); it
	// fires when a loser wins, not before.
	Shared time.Duration
}

// covers reports whether the rule is about the operation.
func (r *Rule) covers(op Op) bool {
	if r.Op == Any {
		return op != Flush || !r.Hang || r.Deaf
	}
	return r.Op == op
}

// Fault is a rule at work.
type Fault struct {
	fs      *FS
	rule    Rule
	seen    int
	fired   int
	holding int
	gate    chan struct{}              // closed when the rule has been removed
	stale   map[string][]fuse.DirEntry // by directory; of a rule that is Stale
}

// FS is a mounted file system.
type FS struct {
	mountpoint string
	backing    string // absolute
	server     *fuse.Server
	endWatch   func() // ends the watch process

	mu     sync.Mutex
	faults []*Fault
	counts map[Op]int
	closed bool
	late   sync.WaitGroup // operations that have yet to be applied
}

// Mount shows backing at mountpoint; both are directories that exist.
func Mount(backing, mountpoint string) (*FS, error) {
	var st syscall.Stat_t
	if err := syscall.Stat(backing, &st); err != nil {
		return nil, fmt.Errorf("faultfs: backing directory %s: %w", backing, err)
	}
	mountpoint, err := filepath.Abs(mountpoint)
	if err != nil {
		return nil, err
	}
	if backing, err = filepath.Abs(backing); err != nil {
		return nil, err
	}
	f := &FS{mountpoint: mountpoint, backing: backing, counts: map[Op]int{}}
	root := &fs.LoopbackRoot{Path: backing, Dev: st.Dev}
	top := &node{LoopbackNode: &fs.LoopbackNode{RootData: root}, f: f}
	root.RootNode = top
	var zero time.Duration
	f.server, err = fs.Mount(mountpoint, top, &fs.Options{
		AttrTimeout:  &zero,
		EntryTimeout: &zero,
		MountOptions: fuse.MountOptions{
			FsName: "faultfs", Name: "faultfs",
			DirectMountStrict:  true, // the fusermount helper may not be there
			AllowOther:         true,
			EnableLocks:        true,
			DisableReadDirPlus: true, // or listings would do lookups of their own
		},
	})
	if err != nil {
		return nil, fmt.Errorf("faultfs: mount %s: %w; this needs root and /dev/fuse", mountpoint, err)
	}
	if f.endWatch, err = watch(mountpoint); err != nil {
		return nil, errors.Join(fmt.Errorf("faultfs: watch process: %w", err), f.server.Unmount())
	}
	return f, nil
}

// watch starts a process that takes the mount away when ours dies. A thread of
// ours that is in a deaf hang would otherwise keep the dead process, and with
// it the connection that it waits for, alive for ever.
func watch(mountpoint string) (end func(), err error) {
	const script = `trap : TERM; echo ready; read -r _; umount --no-canonicalize -f -l "$1" 2>/dev/null`
	cmd := exec.Command("/bin/sh", "-c", script, "faultfs-watch", mountpoint) //nolint:noctx // lives as long as the mount
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Setpgid: true}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	started, stop, ended := make(chan error), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		// The signal comes when this thread dies, which must be with the process.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		if err == nil {
			// Until its trap is set, the signal would merely end it.
			_, err = io.ReadFull(stdout, make([]byte, len("ready\n")))
		}
		started <- err
		if err != nil {
			return
		}
		<-stop
		_ = stdin.Close() // ends the script
		_ = cmd.Wait()    // umount fails, because Unmount was faster
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return sync.OnceFunc(func() { close(stop); <-ended }), nil
}

// Inject adds a rule. Of several that match an operation the oldest fires.
func (f *FS) Inject(r Rule) *Fault {
	x := &Fault{fs: f, rule: r, gate: make(chan struct{})}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		close(x.gate)
		return x
	}
	f.faults = append(f.faults, x)
	return x
}

// Clear removes every rule and lets go what hangs.
func (f *FS) Clear() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.clear()
}

func (f *FS) clear() {
	for _, x := range f.faults {
		close(x.gate)
	}
	f.faults = nil
}

// Count says how often clients have asked for op, faults or not.
func (f *FS) Count(op Op) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.counts[op]
}

// Remove takes the rule away and lets go what it holds.
func (x *Fault) Remove() {
	x.fs.mu.Lock()
	defer x.fs.mu.Unlock()
	if i := slices.Index(x.fs.faults, x); i >= 0 {
		x.fs.faults = slices.Delete(x.fs.faults, i, i+1)
		close(x.gate)
	}
}

// Fired says how many operations the rule has struck.
func (x *Fault) Fired() int {
	x.fs.mu.Lock()
	defer x.fs.mu.Unlock()
	return x.fired
}

// Holding says how many operations hang in the rule, are delayed, or have yet
// to land, now.
func (x *Fault) Holding() int {
	x.fs.mu.Lock()
	defer x.fs.mu.Unlock()
	return x.holding
}

// Unmount clears all rules and takes the mount away, also when clients still
// use it, operations are stuck, or a mount namespace that somebody made
// meanwhile has a copy of it: it breaks the connection rather than wait.
func (f *FS) Unmount() error {
	f.mu.Lock()
	f.closed = true
	f.clear()
	f.mu.Unlock()
	defer f.endWatch()

	err := unix.Unmount(f.mountpoint, unix.MNT_FORCE|unix.MNT_DETACH)
	if err != nil && !errors.Is(err, unix.EINVAL) { // not a mount point any more
		return fmt.Errorf("faultfs: unmount %s: %w", f.mountpoint, err)
	}
	ended := make(chan struct{})
	go func() { f.server.Wait(); close(ended) }()
	select {
	case <-ended:
		return nil
	case <-time.After(10 * time.Second):
		return fmt.Errorf("faultfs: %s is unmounted, but its server does not end", f.mountpoint)
	}
}

// pick finds the rule that strikes this operation, if any.
func (f *FS) pick(op Op, paths []string) *Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.counts[op]++
	for _, x := range f.faults {
		r := x.rule
		if !r.covers(op) || r.Shared > 0 {
			continue
		}
		if !slices.ContainsFunc(paths, func(p string) bool { return strings.Contains(p, r.Path) }) {
			continue
		}
		if x.seen++; x.seen <= r.Skip || (r.Count > 0 && x.fired == r.Count) {
			continue
		}
		x.fired++
		return x
	}
	return nil
}

// do performs one operation under the rules.
func (f *FS) do(ctx context.Context, op Op, apply func() syscall.Errno, paths ...string) syscall.Errno {
	x := f.pick(op, paths)
	if x == nil {
		return apply()
	}
	if x.rule.Late > 0 {
		f.later(x, apply)
		return x.rule.Errno
	}
	if x.rule.After {
		if e := apply(); e != 0 {
			return e
		}
	}
	if e := x.hold(ctx); e != 0 {
		return e
	}
	if x.rule.Errno != 0 || x.rule.After || x.rule.Pretend {
		return x.rule.Errno
	}
	return apply()
}

// later has an operation applied when its client has long been answered, or
// when the rule is removed.
func (f *FS) later(x *Fault, apply func() syscall.Errno) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return
	}
	x.holding++
	f.late.Go(func() {
		defer x.add(-1)
		t := time.NewTimer(x.rule.Late)
		defer t.Stop()
		select {
		case <-t.C:
		case <-x.gate:
		}
		_ = apply() // nobody is left to be told how it went
	})
}

func (x *Fault) hold(ctx context.Context) syscall.Errno {
	if x.rule.Delay == 0 && !x.rule.Hang {
		return 0
	}
	x.add(1)
	defer x.add(-1)
	if x.rule.Delay > 0 {
		select {
		case <-time.After(x.rule.Delay):
		case <-x.gate:
		}
	}
	if !x.rule.Hang {
		return 0
	}
	interrupted := ctx.Done()
	if x.rule.Deaf {
		interrupted = nil
	}
	select {
	case <-x.gate:
	case <-time.After(longestHang):
	case <-interrupted:
		return syscall.EINTR
	}
	return 0
}

func (x *Fault) add(n int) {
	x.fs.mu.Lock()
	defer x.fs.mu.Unlock()
	x.holding += n
}
