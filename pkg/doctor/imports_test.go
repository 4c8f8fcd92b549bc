package doctor_test

import (
	"testing"

	"github.com/understudy-ha/understudy/test/imports"
)

// What doctor says is made of what it is given, so that each line can be
// tested without the machine that would bring it about.
func TestImports(t *testing.T) {
	const module = "github.com/understudy-ha/understudy/"
	imports.Check(t, imports.Rule{
		Unwanted: map[string]string{
			"net/http/...":         "the caller asks the daemon",
			"os/exec":              "doctor starts no processes",
			"os/signal":            "signals belong to the program, Run takes a context",
			module + "api/...":     "the caller asks the daemon",
			module + "cmd/...":     "cmd wires, doctor is wired",
			module + "pkg/ha":      "the caller reads the data directory",
			module + "pkg/guard":   "the caller asks the guard",
			module + "pkg/config":  "the caller reads the configuration",
			module + "pkg/journal": "the store is looked at through its contract",
		},
		Others: []string{
			module + "pkg/lease", module + "pkg/election", module + "persistence", module + "persistence/verify",
			module + "pkg/watchdog",
			"golang.org/x/sys/unix",
		},
	})
}
