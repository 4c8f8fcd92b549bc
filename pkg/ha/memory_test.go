package ha

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// Looking into a data directory makes neither it nor an identity.
func TestLookInto(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	if r, err := LookInto(dir); err != nil || r != (Remembered{}) {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("it was made: %v", err)
	}
	d, err := OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if r, err := LookInto(dir); err != nil || r != (Remembered{Node: d.Node()}) {
		t.Errorf("%+v, %v", r, err)
	}
	if err := d.Remember("plane001", 7, NewIncarnation(), false); err != nil {
		t.Fatal(err)
	}
	if r, err := LookInto(dir); err != nil || r != (Remembered{Node: d.Node(), Plane: "plane001", Term: 7}) {
		t.Errorf("%+v, %v", r, err)
	}
	if err := os.WriteFile(filepath.Join(dir, planeFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LookInto(dir); err == nil {
		t.Error("a damaged memory is read")
	}
}
