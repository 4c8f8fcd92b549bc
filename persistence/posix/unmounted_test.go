package posix_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/persistence/posix"
)

// A location whose file system went away shows its empty mount point. Nothing
// is created there by a handle that knows better, and all goes on when it is
// back.
func TestNothingIsPutIntoTheMountPoint(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "mnt")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s, err := posix.Open(dir, posix.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	put := func() error { return s.Put(t.Context(), "nodes/a", strings.NewReader("x"), 1) }
	if err := s.Init(t.Context(), []byte("u1.value")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Read(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := put(); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Rename(dir, dir+".away"), os.Mkdir(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	if err := put(); !errors.Is(err, persistence.Absent) || !strings.Contains(err.Error(), "still mounted?") {
		t.Errorf("put into the mount point: %v", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("the mount point holds %v, %v", entries, err)
	}
	if err := errors.Join(os.Remove(dir), os.Rename(dir+".away", dir)); err != nil {
		t.Fatal(err)
	}
	if err := put(); err != nil {
		t.Errorf("once it is back: %v", err)
	}
}
