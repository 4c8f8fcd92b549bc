package lease_test

import (
	"testing"

	"github.com/understudy-ha/understudy/test/imports"
)

// The vocabulary is values only. fmt itself pulls in os, sync and reflect, so
// what counts here is what could act: ask a clock, chance, the network, or
// another process.
func TestImports(t *testing.T) {
	imports.Check(t, imports.Rule{
		Unwanted: map[string]string{
			"context":       "values are not cancelled",
			"crypto/...":    "ids are drawn by the caller, so that a run can be replayed",
			"math/rand/...": "ids are drawn by the caller, so that a run can be replayed",
			"log/...":       "values do not log",
			"net/...":       "values do no I/O",
			"os/exec":       "values do no I/O",
			"os/signal":     "values do no I/O",
			"github.com/understudy-ha/understudy/...": "everything else is built on lease",
		},
	})
}
