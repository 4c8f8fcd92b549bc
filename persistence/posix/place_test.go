package posix

import (
	"os"
	"path/filepath"
	"testing"
)

func TestFindPlace(t *testing.T) {
	proc, err := FindPlace("/proc/self/status")
	if err != nil || proc.Type != "proc" || proc.Point != "/proc" || proc.Shared || proc.Local {
		t.Errorf("of a file: %+v, %v", proc, err)
	}
	if p := PlaceByName("/proc/self/status"); p != proc {
		t.Errorf("by name: %+v, want %+v", p, proc)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink("/proc/self/status", link); err != nil {
		t.Fatal(err)
	}
	if p, err := FindPlace(link); err != nil || p != proc {
		t.Errorf("through a link: %+v, %v", p, err)
	}
	here, err := FindPlace(t.TempDir())
	if err != nil || here.Type == "" || here.Shared {
		t.Errorf("%+v, %v", here, err)
	}
	if p, err := FindPlace(filepath.Join(t.TempDir(), "not/there/yet")); err != nil || p != here {
		t.Errorf("where it would be made: %+v, %v, want %+v", p, err, here)
	}
}
