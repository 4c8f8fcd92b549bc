package harness

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// programs are what Main built.
var programs struct{ understudy, recorder string }

// buildLimit is generous: the first build of a machine compiles everything.
const buildLimit = 10 * time.Minute

// Main builds the programs once and runs the tests; the result is the exit
// code. E2E_UNDERSTUDY names a binary to be tested instead of a fresh one.
func Main(m *testing.M) int {
	dir, err := os.MkdirTemp(workDir(), "understudy-e2e-bin-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "harness:", err)
		return 1
	}
	defer os.RemoveAll(dir)
	if err := build(dir); err != nil {
		fmt.Fprintln(os.Stderr, "harness:", err)
		return 1
	}
	return m.Run()
}

func build(dir string) error {
	if err := os.Chmod(dir, 0o755); err != nil { // nodes may run as another user
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), buildLimit)
	defer cancel()
	const module = "github.com/understudy-ha/understudy"
	programs.understudy = os.Getenv("E2E_UNDERSTUDY")
	todo := map[string]string{module + "/test/e2e/recorder": filepath.Join(dir, "recorder")}
	programs.recorder = filepath.Join(dir, "recorder")
	if programs.understudy == "" {
		programs.understudy = filepath.Join(dir, "understudy")
		todo[module+"/cmd/understudy"] = programs.understudy
	}
	for pkg, out := range todo {
		cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", out, pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // as it is shipped
		if b, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("go build %s: %w\n%s", pkg, err, b)
		}
	}
	return nil
}

// Understudy is the path of the binary under test.
func Understudy() string { return programs.understudy }

// Recorder is the path of the recorder service.
func Recorder() string { return programs.recorder }

// Full reports whether the full counts are asked for (E2E_FULL=1).
func Full() bool { return os.Getenv("E2E_FULL") == "1" }

// Slow reports whether tests that take minutes are asked for (E2E_SLOW=1, or
// the full counts).
func Slow() bool { return Full() || os.Getenv("E2E_SLOW") == "1" }

// Rounds is full when the full counts are asked for, else short.
func Rounds(short, full int) int {
	if Full() {
		return full
	}
	return short
}

// workDir is where nodes keep what they write. On a busy machine a disk can
// stand still for seconds, which would fail every bound there is and show
// nothing, so memory is taken where it can be had. "" is the system's own
// choice; E2E_DIR chooses otherwise.
func workDir() string {
	if dir := os.Getenv("E2E_DIR"); dir != "" {
		return dir
	}
	const shm = "/dev/shm"
	var fs unix.Statfs_t
	if err := unix.Statfs(shm, &fs); err != nil || fs.Type != unix.TMPFS_MAGIC || fs.Bavail*uint64(fs.Bsize) < 1<<30 || fs.Flags&unix.ST_NOEXEC != 0 {
		return ""
	}
	return shm
}
