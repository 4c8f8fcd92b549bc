package election_test

import (
	"testing"

	"github.com/understudy-ha/understudy/test/imports"
)

// The machine decides and never acts: the same events at the same instants
// must give the same actions in production, in the simulator and in a replay.
func TestImports(t *testing.T) {
	imports.Check(t, imports.Rule{
		Unwanted: map[string]string{
			"context":       "a step is not cancelled, it returns",
			"crypto/...":    "chance is an argument",
			"math/rand/...": "chance is an argument",
			"log/...":       "the runtime logs what the actions say",
			"net/...":       "the runtime performs the actions",
			"os/exec":       "the runtime performs the actions",
			"os/signal":     "the runtime turns signals into events",
			"github.com/understudy-ha/understudy/persistence/...": "the runtime talks to the store",
			"github.com/understudy-ha/understudy/pkg/clock":       "time is an argument",
			"github.com/understudy-ha/understudy/pkg/ha":          "the runtime drives the machine, not the other way round",
		},
		Others: []string{"github.com/understudy-ha/understudy/pkg/lease"},
	})
}
