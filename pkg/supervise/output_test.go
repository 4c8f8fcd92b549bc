package supervise

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/pkg/guard"
	"github.com/understudy-ha/understudy/pkg/ha"
)

// whole is the log at path with all that was rotated away, oldest first.
func whole(t *testing.T, path string) []byte {
	t.Helper()
	var files []string
	for i := 1; ; i++ {
		if _, err := os.Stat(older(path, i)); err != nil {
			break
		}
		files = append([]string{older(path, i)}, files...)
	}
	var text []byte
	for _, f := range append(files, path) {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		text = append(text, b...)
	}
	return text
}

// numbered checks that text is the lines "prefix N" for N from 1 to n.
func numbered(t *testing.T, text []byte, prefix string, n int) {
	t.Helper()
	lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	if len(lines) != n {
		t.Errorf("%d lines, want %d", len(lines), n)
	}
	for i, l := range lines {
		if l != prefix+strconv.Itoa(i+1) {
			t.Fatalf("line %d is %q", i+1, l)
		}
	}
}

// Rotation loses no line and cuts none, with a service that writes as fast as
// it can and knows nothing of it; files keep to their size and number.
func TestOutputIsRotatedWithoutLoss(t *testing.T) {
	t.Parallel()
	const lines = 100_000
	b := supervise(t, fmt.Sprintf(`seq -f 'line %%.0f' 1 %d; touch "$OUT/done"; exec sleep 1000`, lines), func(o *Options) {
		o.LogMaxSize, o.LogKeep = 64<<10, 100
	})
	b.begin(1)
	b.expect(ha.ServiceReady, 1)
	path := filepath.Join(b.dir, "service.log")
	last := fmt.Appendf(nil, "line %d\n", lines)
	if !eventually(func() bool { text, _ := os.ReadFile(path); return bytes.HasSuffix(text, last) }) {
		t.Fatal("the last line does not arrive")
	}
	numbered(t, whole(t, path), "line ", lines)
	// A file may have been full within a line, which then goes to its end.
	if n := size(older(path, 1)); n > 64<<10+int64(len(last)) || n < 60<<10 {
		t.Errorf("a file of %d bytes", n)
	}
}

// A file that is full within a line takes the rest of the line, and no more.
func TestFullWithinALine(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "log")
	r := &rotating{path: path, maxSize: 100, keep: 2}
	r.write([]byte(strings.Repeat("a", 98)))
	r.write([]byte("bcdef\nnext\n"))
	r.close()
	for name, want := range map[string]string{older(path, 1): strings.Repeat("a", 98) + "bcdef\n", path: "next\n"} {
		if text, err := os.ReadFile(name); err != nil || string(text) != want {
			t.Errorf("%s: %q, %v; want %q", name, text, err, want)
		}
	}
}

func TestOlderOutputIsDropped(t *testing.T) {
	t.Parallel()
	for keep, want := range map[int][]string{0: {"log"}, 2: {"log", "log.1", "log.2"}} {
		dir := t.TempDir()
		r := &rotating{path: filepath.Join(dir, "log"), maxSize: 100, keep: keep}
		for i := range 100 {
			r.write(fmt.Appendf(nil, "line %d\n", i))
		}
		r.close()
		var names []string
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			names = append(names, e.Name())
			if n := size(filepath.Join(dir, e.Name())); n > 100 {
				t.Errorf("%s has %d bytes", e.Name(), n)
			}
		}
		if strings.Join(names, " ") != strings.Join(want, " ") {
			t.Errorf("keep %d: %q", keep, names)
		}
	}
}

// A line longer than a file may be is not cut in two where the file could hold
// it, and bounds hold for one that has no end.
func TestLongLines(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "log")
	r := &rotating{path: path, maxSize: 100, keep: 50}
	for range 10 {
		r.write([]byte(strings.Repeat("a", 70)))
		r.write([]byte(strings.Repeat("b", 70) + "\n"))
	}
	r.write(bytes.Repeat([]byte("c"), 2000))
	r.close()
	text := whole(t, path)
	want := strings.Repeat(strings.Repeat("a", 70)+strings.Repeat("b", 70)+"\n", 10) + strings.Repeat("c", 2000)
	if string(text) != want {
		t.Errorf("%d bytes, want %d", len(text), len(want))
	}
	for i := 1; i <= 20; i++ {
		if n := size(older(path, i)); n > 200 {
			t.Errorf("file %d has %d bytes", i, n)
		}
	}
}

// On a full disk the service goes on, lines are dropped whole and counted, and
// the log says so as soon as there is room.
func TestOutputOnAFullDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path, good := filepath.Join(dir, "log"), filepath.Join(dir, "good")
	if err := os.Symlink("/dev/full", path); err != nil {
		t.Fatal(err)
	}
	r := &rotating{path: path}
	r.write([]byte("one\ntwo\n"))
	r.write([]byte("three\n"))
	if r.lost != 3 {
		t.Fatalf("%d lines are lost, want 3: is there room on /dev/full?", r.lost)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(good, path); err != nil {
		t.Fatal(err)
	}
	touch(t, good)
	r.looked = time.Time{} // a second later
	r.write([]byte("four\n"))
	r.close()
	want := "understudy: 3 lines of output are missing here: write " + path + ": no space left on device\nfour\n"
	if got, _ := os.ReadFile(good); string(got) != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// The service whose log's disk is full does not notice.
func TestServiceOnAFullDisk(t *testing.T) {
	t.Parallel()
	b := supervise(t, `seq 1 200000 && seq 1 200000 >&2 && touch "$OUT/wrote"; exec sleep 1000`, func(o *Options) {
		o.OutputPath = filepath.Join(o.DataDir, "full.log")
		if err := os.Symlink("/dev/full", o.OutputPath); err != nil {
			t.Fatal(err)
		}
	})
	b.begin(1)
	b.expect(ha.ServiceReady, 1)
	if !eventually(func() bool { _, err := os.Stat(filepath.Join(b.dir, "wrote")); return err == nil }) {
		t.Error("the service waits for the disk, or was told that it is full")
	}
}

// A log that somebody moves away is begun anew.
func TestLogMovedAway(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "log")
	r := &rotating{path: path, maxSize: 1 << 20, keep: 1}
	r.write([]byte("one\n"))
	if err := os.Rename(path, path+".mine"); err != nil {
		t.Fatal(err)
	}
	r.looked = time.Time{}
	r.write([]byte("two\n"))
	r.close()
	if got, _ := os.ReadFile(path); string(got) != "two\n" {
		t.Errorf("%q", got)
	}
}

// A writer that is killed is replaced; the service feels nothing, and what it
// writes in between arrives. Only what the writer had in hand is lost, so this
// one is killed when it has written all there was.
func TestLogWriterDies(t *testing.T) {
	t.Parallel()
	const before = 5
	b := supervise(t, fmt.Sprintf(`n=0; while :; do n=$((n+1)); echo "n $n"; while [ $n = %d ] && [ ! -e "$OUT/go" ]; do sleep 0.01; done; sleep 0.01; done`, before), nil)
	b.begin(1)
	b.expect(ha.ServiceReady, 1)
	path := filepath.Join(b.dir, "service.log")
	lines := func(n int) bool {
		return eventually(func() bool { text, _ := os.ReadFile(path); return bytes.Count(text, []byte{'\n'}) >= n })
	}
	if !lines(before) {
		t.Fatal("there is no output")
	}
	b.out.mu.Lock()
	first := b.out.writer.Process
	b.out.mu.Unlock()
	if err := first.Kill(); err != nil {
		t.Fatal(err)
	}
	touch(t, filepath.Join(b.dir, "go"))
	if !eventually(func() bool {
		b.out.mu.Lock()
		defer b.out.mu.Unlock()
		return b.out.writer.Process.Pid != first.Pid
	}) || !lines(before+50) {
		t.Fatal("nobody took its place")
	}
	if i := b.Info(); i.Phase != phaseReady || i.Failures != 0 {
		t.Errorf("%+v", i)
	}
	b.Stop(1, "asked")
	b.expect(ha.ServiceEmpty, 1)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	text, _ := os.ReadFile(path)
	numbered(t, text, "n ", bytes.Count(text, []byte{'\n'}))
}

// What a service says while and after its daemon dies is written. The daemon's
// part is played by whoever holds the pipe.
func TestLastWordsAreWritten(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "log")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", LogCommand, path, "0", "0")
	cmd.Stdin = r
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r.Close()
	fmt.Fprintln(w, "first")
	if !eventually(func() bool { return size(path) > 0 }) {
		t.Fatal("nothing is written")
	}
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP} {
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
	}
	fmt.Fprint(w, "last words")
	w.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if got, _ := os.ReadFile(path); string(got) != "first\nlast words" {
		t.Errorf("%q", got)
	}
}

func TestTail(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "log")
	r := &rotating{path: path, maxSize: 60, keep: 5}
	for i := 1; i <= 30; i++ {
		r.write(fmt.Appendf(nil, "line %d\n", i))
	}
	r.write([]byte("incomplete"))
	r.close()
	for lines, first := range map[int]string{1: "incomplete", 2: "line 30", 25: "line 7", 1000: "line "} {
		var out bytes.Buffer
		if err := Logs(t.Context(), path, &out, lines, false); err != nil {
			t.Fatal(err)
		}
		if got := strings.Count(out.String(), "\n") + 1; (lines < 1000 && got != lines) || !strings.HasPrefix(out.String(), first) {
			t.Errorf("%d lines: %d, beginning with %.20q", lines, got, out.String())
		}
	}
	var out bytes.Buffer
	if err := Logs(t.Context(), path, &out, 0, false); err != nil || out.Len() != 0 {
		t.Errorf("no lines: %q %v", out.String(), err)
	}
	if err := Logs(t.Context(), path+"x", &out, 1, false); err == nil {
		t.Error("a log that is not there was read")
	}
}

// syncBuffer is read while it is written.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) bytes() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.Clone(s.b.Bytes())
}

// Who follows the log gets each line once, over rotations, also more than one
// between two looks.
func TestFollow(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "log")
	ctx, cancel := context.WithCancel(t.Context())
	var out syncBuffer
	done := make(chan error, 1)
	go func() { done <- Logs(ctx, path, &out, 100, true) }() // before there is a log
	r := &rotating{path: path, maxSize: 1000, keep: 100}
	const lines = 2000
	for i := 1; i <= lines; i++ {
		r.write(fmt.Appendf(nil, "line %d\n", i))
		if i%100 == 0 {
			time.Sleep(time.Duration(i%300) * time.Millisecond / 2) // sometimes slower, sometimes faster than the reader
		}
	}
	r.close()
	last := fmt.Appendf(nil, "line %d\n", lines)
	if !eventually(func() bool { return bytes.HasSuffix(out.bytes(), last) }) {
		t.Error("the last line does not arrive")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	text := out.bytes()
	if bytes.Count(text, []byte{'\n'}) > lines {
		t.Errorf("%d lines", bytes.Count(text, []byte{'\n'}))
	}
	// It began when some lines were there already.
	first, _, _ := strings.Cut(string(text), "\n")
	n, err := strconv.Atoi(strings.TrimPrefix(first, "line "))
	if err != nil {
		t.Fatalf("%q", first)
	}
	for i, l := range strings.Split(strings.TrimSuffix(string(text), "\n"), "\n") {
		if l != "line "+strconv.Itoa(n+i) {
			t.Fatalf("line %d is %q", n+i, l)
		}
	}
}

// What a check starts does not outlive it, not even what made itself a daemon.
// Not parallel: it makes this process a subreaper.
func TestChecksLeaveNoProcess(t *testing.T) {
	if err := guard.Adopt(); err != nil {
		t.Fatal(err)
	}
	mark := filepath.Join(t.TempDir(), "pids")
	script := `sh -c 'echo $$ >> "` + mark + `"; exec sleep 1000' &
setsid sh -c 'echo $$ >> "` + mark + `"; exec sleep 1000' &
(setsid sh -c 'setsid sh -c "echo \$\$ >> ` + mark + `; exec sleep 1000" & sleep 0.2' &)
while [ "$(wc -l < "` + mark + `")" -lt 3 ]; do sleep 0.01; done; `
	for name, c := range map[string]struct {
		end    string
		ok     bool
		within time.Duration
	}{"passes": {"exit 0", true, time.Minute}, "fails": {"exit 1", false, time.Minute}, "hangs": {"sleep 1000", false, 5 * time.Second}} {
		touch(t, mark)
		ctx, cancel := context.WithTimeout(t.Context(), c.within)
		err := tryExec(ctx, []string{"/bin/sh", "-c", script + c.end}, os.Environ())
		cancel()
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
		text, _ := os.ReadFile(mark)
		pids := strings.Fields(string(text))
		if len(pids) != 3 {
			t.Errorf("%s: %d processes were started, want 3", name, len(pids))
		}
		for _, p := range pids {
			pid, err := strconv.Atoi(p)
			if err != nil {
				t.Fatal(err)
			}
			if unix.Kill(pid, 0) == nil {
				t.Errorf("%s: process %d is alive", name, pid)
			}
		}
	}
}
