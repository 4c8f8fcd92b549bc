package posix_test

import (
	"testing"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/persistence/posix"
	"github.com/understudy-ha/understudy/persistence/storetest"
)

func open(t *testing.T, dir string) *posix.Store {
	t.Helper()
	s, err := posix.Open(dir, posix.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) (a, b persistence.Store) {
		t.Helper()
		dir := t.TempDir()
		return open(t, dir), open(t, dir)
	})
}
