package ha_test

import (
	"testing"

	"github.com/understudy-ha/understudy/test/imports"
)

// The runtime is also the Go library: who embeds it gets the protocol and no
// HTTP server, no SDK of a store, no process management.
func TestImports(t *testing.T) {
	const module = "github.com/understudy-ha/understudy/"
	imports.Check(t, imports.Rule{
		Unwanted: map[string]string{
			"net/http/...":           "the API sits on top of the runtime",
			"os/exec":                "the guard starts the service",
			"os/signal":              "signals belong to the program, Run takes a context",
			"flag":                   "options are the program's",
			module + "api/...":       "the API sits on top of the runtime",
			module + "cmd/...":       "cmd wires, the runtime is wired",
			module + "pkg/config":    "the runtime takes Options",
			module + "pkg/guard":     "the runtime knows the Service interface only",
			module + "pkg/supervise": "the runtime knows the Service interface only",
		},
		Others: []string{
			module + "pkg/lease", module + "pkg/election", module + "pkg/journal", module + "pkg/clock", module + "persistence",
			"go.uber.org/zap/...", "golang.org/x/sys/unix",
		},
	})
}
