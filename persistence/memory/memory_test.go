package memory_test

import (
	"testing"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/persistence/memory"
	"github.com/understudy-ha/understudy/persistence/storetest"
)

func TestConformance(t *testing.T) {
	storetest.Run(t, func(*testing.T) (a, b persistence.Store) {
		l := memory.New()
		return l.Open(), l.Open()
	})
}
