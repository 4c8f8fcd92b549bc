package address

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestKeepRole(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "role")
	ctx, cancel := context.WithCancel(t.Context())
	var serving atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		KeepRole(ctx, path, serving.Load, func(err error) { t.Error(err) })
	})
	says := func(want string) {
		t.Helper()
		end := time.Now().Add(10 * time.Second)
		var got []byte
		for string(got) != want {
			if time.Now().After(end) {
				t.Fatalf("the file says %q, want %q", got, want)
			}
			time.Sleep(time.Millisecond)
			got, _ = os.ReadFile(path)
		}
	}
	says("1\n")
	serving.Store(true)
	says("0\n")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	says("0\n")
	serving.Store(false)
	says("1\n")
	serving.Store(true)
	says("0\n")
	cancel()
	wg.Wait()
	if b, err := os.ReadFile(path); err != nil || string(b) != "1\n" {
		t.Errorf("at the end the file says %q, %v", b, err)
	}
}

// Whenever it is told to end, even while it looks, the last word is "1".
func TestKeepRoleLastWord(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "role")
	ctx, cancel := context.WithCancel(t.Context())
	KeepRole(ctx, path, func() bool { cancel(); return true }, func(err error) { t.Error(err) })
	if b, err := os.ReadFile(path); err != nil || string(b) != "1\n" {
		t.Errorf("at the end the file says %q, %v", b, err)
	}
}

// A directory that is not there is told of once, not 20 times a second.
func TestKeepRoleTellsOnce(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	looks, told := 0, 0
	KeepRole(ctx, filepath.Join(t.TempDir(), "nonesuch", "role"), func() bool {
		if looks++; looks == 5 {
			cancel()
		}
		return true
	}, func(error) { told++ })
	if told != 1 {
		t.Errorf("told %d times, want 1", told)
	}
}
