package journal_test

import (
	"testing"

	"github.com/understudy-ha/understudy/test/imports"
)

// What is persisted is bytes and names. Who may commit, and when, is not
// decided here.
func TestImports(t *testing.T) {
	const module = "github.com/understudy-ha/understudy/"
	imports.Check(t, imports.Rule{
		Unwanted: map[string]string{
			"net/http/...":          "the journal asks a store",
			"os/exec":               "the journal runs nothing",
			"math/rand/...":         "names are drawn by the caller",
			module + "pkg/ha":       "ha commits, the journal says what a commit is",
			module + "pkg/election": "who may commit is not the journal's business",
		},
		Others: []string{module + "pkg/lease", module + "persistence"},
	})
}
