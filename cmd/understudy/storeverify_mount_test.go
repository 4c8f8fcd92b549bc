package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/test/faultfs"
	"github.com/understudy-ha/understudy/test/need"
)

// mountTmpfs mounts a tmpfs for the time of the test.
func mountTmpfs(t *testing.T, options string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// mountFaulty mounts a file system that fails on command.
func mountFaulty(t *testing.T) (*faultfs.FS, string) {
	t.Helper()
	return mountFaultyOn(t, t.TempDir())
}

func mountFaultyOn(t *testing.T, backing string) (*faultfs.FS, string) {
	t.Helper()
	dir := t.TempDir()
	fs, err := faultfs.Mount(backing, dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := fs.Unmount(); err != nil {
			t.Error(err)
		}
	})
	return fs, dir
}

// volatile is what differs from run to run in a verdict.
var volatile = []struct {
	re   *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`\b[0-9.]+(µs|ms|s)\b`), "TIME"},
	{regexp.MustCompile(`\.verify-[a-z0-9]+[^ ;"]*`), "SCRATCH"},
	{regexp.MustCompile(`\.check-[a-z0-9]+`), "PROBE"},
	{regexp.MustCompile(`"u1\.verify[^"]*"`), "VALUE"},
	{regexp.MustCompile(`\b(round|writer) [0-9]+`), "$1 N"},
	{regexp.MustCompile(`: [0-9]+ were told`), ": N were told"},
}

// verdictOf runs the command and returns its verdict, without what differs
// from run to run.
func verdictOf(t *testing.T, dir string, code int, args ...string) string {
	t.Helper()
	var out, errs bytes.Buffer
	begin := time.Now()
	got := execute(t.Context(), append([]string{"store", "verify", dir}, args...), &out, &errs)
	t.Logf("%s: %s%s", time.Since(begin).Round(time.Millisecond), &out, &errs)
	if got != code {
		t.Errorf("exit code %d, want %d", got, code)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	verdict := strings.ReplaceAll(lines[len(lines)-1], dir, "DIR")
	for _, v := range volatile {
		verdict = v.re.ReplaceAllString(verdict, v.with)
	}
	return strings.TrimPrefix(verdict, "file://DIR: ")
}

func mustSay(t *testing.T, verdict, want string) {
	t.Helper()
	if verdict != want {
		t.Errorf("the verdict is\n  %s\nwant\n  %s", verdict, want)
	}
}

// mustBeClean checks that nothing of the run is left.
func mustBeClean(t *testing.T, dir string) {
	t.Helper()
	if es, err := filepath.Glob(dir + "/.[!.]*"); err != nil || len(es) > 0 {
		t.Errorf("left behind: %v, %v", es, err)
	}
}

func TestVerdictOfLocalDisk(t *testing.T) {
	dir := t.TempDir()
	v := verdictOf(t, dir, exitOK)
	if !strings.HasPrefix(v, "safe, with ") || !strings.Contains(v, "is this machine's own disk, as far as can be told: no other machine sees it, so that none can take over; mount the shared file system there") {
		t.Errorf("the verdict is %q", v)
	}
	mustBeClean(t, dir)
}

func TestVerdictOfTmpfs(t *testing.T) {
	need.Root(t, "mount file systems")
	dir := mountTmpfs(t, "size=256m")
	mustSay(t, verdictOf(t, dir, exitOK),
		"safe, with 1 to look at: tmpfs (tmpfs mounted at DIR) is in this machine's memory: no other machine sees it, and a reboot empties it; mount the shared file system there; this is for trying things out")
	mustBeClean(t, dir)
}

func TestVerdictOfFullDisk(t *testing.T) {
	need.Root(t, "mount file systems")
	for name, tt := range map[string]struct{ options, at string }{
		"no space":  {"size=64k", "write"},
		"no inodes": {"size=1m,nr_inodes=4", "create"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := mountTmpfs(t, tt.options)
			for i := range 64 { // whichever runs out first
				if os.WriteFile(filepath.Join(dir, "fill"+string(rune('a'+i%26))+string(rune('a'+i/26))), make([]byte, 4096), 0o600) != nil {
					break
				}
			}
			mustSay(t, verdictOf(t, dir, exitFailed),
				"NOT USABLE as it is: store full: "+tt.at+" a file in DIR: no space left on device; free space or inodes on the file system")
			mustBeClean(t, dir)
		})
	}
}

func TestVerdictOfReadOnlyMount(t *testing.T) {
	need.Root(t, "mount file systems")
	dir := mountTmpfs(t, "size=1m")
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	mustSay(t, verdictOf(t, dir, exitFailed),
		"NOT USABLE as it is: store read-only: create a file in DIR: read-only file system; mount it read-write")
}

func TestVerdictOfMissingDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "none")
	mustSay(t, verdictOf(t, dir, exitUsage),
		"NOT USABLE as it is: absent: directory DIR does not exist; create it, or mount the shared file system there (understudy never creates it itself)")
}

// A file system on which two clients can rename one file, both told that they
// have: it looks right to one client that tries one thing after the other.
func TestVerdictOfRenamesThatAreNotExclusive(t *testing.T) {
	need.Root(t, "mount file systems")
	for name, tt := range map[string]struct{ path, want string }{
		"always":        {"lease/", "a swap on a superseded version succeeded: preconditions are ignored"},
		"in races only": {".race/lease/", "round N of 16 writers: N were told that they had won"},
	} {
		t.Run(name, func(t *testing.T) {
			fs, dir := mountFaulty(t)
			f := fs.Inject(faultfs.Rule{Op: faultfs.Rename, Path: tt.path, Shared: time.Second})
			v := verdictOf(t, dir, exitFailed)
			if f.Fired() == 0 {
				t.Error("the fault never fired")
			}
			mustSay(t, v, "NOT SAFE: "+tt.want+"; two nodes could be master at once here: use another store, no setting makes this one safe")
			mustBeClean(t, dir)
		})
	}
}

func TestVerdictOfSlowStore(t *testing.T) {
	t.Parallel() // it takes half a minute of waiting
	need.Root(t, "mount file systems")
	fs, dir := mountFaulty(t)
	// Half a second on the way there and back, for the calls that do the work.
	var faults []*faultfs.Fault
	for _, op := range []faultfs.Op{faultfs.Rename, faultfs.Readdir} {
		faults = append(faults, fs.Inject(faultfs.Rule{Op: op, Delay: 500 * time.Millisecond}))
	}
	v := verdictOf(t, dir, exitOK, "--writers", "4", "--rounds", "2")
	for _, f := range faults {
		if f.Fired() == 0 {
			t.Error("a delay never fired")
		}
	}
	fs.Clear()
	mustSay(t, v, "safe, with 2 to look at: fuse.faultfs (faultfs mounted at DIR) is this machine's own disk, as far as can be told: no other machine sees it, so that none can take over; mount the shared file system there, or name a directory on it; this is for trying things out"+
		" -- it is slow: writes p50 TIME, p99 TIME, max TIME; reads p50 TIME, p99 TIME, max TIME, against a heartbeat every TIME; set ha.preset: wan, or find out what slows the store down")
	mustBeClean(t, dir)
}

func TestVerdictOfHangingStore(t *testing.T) {
	need.Root(t, "mount file systems")
	fs, dir := mountFaulty(t)
	f := fs.Inject(faultfs.Rule{Op: faultfs.Rename, Hang: true, Deaf: true})
	t.Setenv("UNDERSTUDY_CONFIG", quickConfig(t))
	v := verdictOf(t, dir, exitUnreachable)
	if f.Fired() == 0 {
		t.Error("the fault never fired")
	}
	mustSay(t, v, `NOT VERIFIED: no answer within TIME, at "create once"; see whether the store's server and the network are up, then run it again`)
}

// quickConfig is a configuration with an operation timeout of 200 ms.
func quickConfig(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "u.yaml")
	if err := os.WriteFile(path, []byte("store: {operationTimeout: 200ms}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
