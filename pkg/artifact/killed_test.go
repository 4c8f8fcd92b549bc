package artifact

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/persistence/posix"
)

// pusherEnv makes this binary a process that pushes, into that directory.
const pusherEnv = "ARTIFACT_TEST_PUSHER"

const killedSize = 8 << 20

// pusher pushes content that it reads from its standard input, and says when
// the index names it.
func pusher(dir string) {
	store, err := posix.Open(dir, posix.Options{})
	if err == nil {
		l := New(store, sayingIndex{newRegistry()}, Options{})
		c := Content{R: os.Stdin, Digest: zeroes(killedSize), Size: killedSize}
		_, err = l.Push(context.Background(), "a", reign, c)
	}
	if err != nil {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

type sayingIndex struct{ *registry }

func (s sayingIndex) Set(ctx context.Context, e Entry) error {
	fmt.Println("named", e.Object)
	return s.registry.Set(ctx, e)
}

func zeroes(n int64) Digest {
	d, _, err := Sum(bytes.NewReader(make([]byte, n)))
	if err != nil {
		panic(err) // of memory
	}
	return d
}

// TestKilledPush kills pushing processes at random points. Whole objects are
// all that is ever to be seen, and the next push succeeds.
func TestKilledPush(t *testing.T) {
	dir := t.TempDir()
	content := make([]byte, killedSize)
	killed := 0
	for round := 0; killed < 10; round++ {
		if round == 100 {
			t.Fatalf("only %d of %d pushes were killed before they ended", killed, round)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cmd := exec.CommandContext(ctx, os.Args[0])
		cmd.Env = append(os.Environ(), pusherEnv+"="+dir)
		var out bytes.Buffer
		cmd.Stdout = &out
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// Somewhere in what it reads, or, at times, while it finishes.
		n := rand.IntN(killedSize * 9 / 8)
		if _, err := in.Write(content[:min(n, killedSize)]); err != nil {
			t.Fatal(err)
		}
		if n >= killedSize {
			_ = in.Close() // it may have ended by now
			time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond)
		}
		cancel() // KILL
		if cmd.Wait() == nil || strings.Contains(out.String(), "named") {
			continue // it was done
		}
		if out.Len() > 0 {
			t.Fatalf("the push failed by itself: %s", &out)
		}
		killed++
		objects, err := filepath.Glob(filepath.Join(dir, "artifacts", "[^.]*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range objects { // whole, and named by nobody: Collect's
			if fi, err := os.Stat(o); err != nil || fi.Size() != killedSize {
				t.Fatalf("killed after %d bytes: %s is to be seen with %d bytes, %v", n, o, fi.Size(), err)
			}
		}
	}
	store, err := posix.Open(dir, posix.Options{})
	if err != nil {
		t.Fatal(err)
	}
	l := New(store, newRegistry(), Options{})
	e, err := l.Push(t.Context(), "a", reign, Content{R: bytes.NewReader(content), Digest: zeroes(killedSize), Size: killedSize})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Read(t.Context(), e, &bytes.Buffer{}); err != nil {
		t.Error(err)
	}
	left, err := l.Leftovers(t.Context(), 0)
	if err != nil || len(left) == 0 {
		t.Errorf("killed pushes left %v, %v; some are found", left, err)
	}
}
