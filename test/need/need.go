// Package need says what tests need beyond Go. Where it is missing a test is
// skipped; with CI=true, where everything is to run, it fails.
package need

import (
	"os"
	"testing"
)

// Root ends a test that may not do what only root may, such as to "mount file
// systems".
func Root(tb testing.TB, to string) {
	tb.Helper()
	if os.Geteuid() != 0 {
		Missing(tb, "needs root to "+to)
	}
}

// Missing ends a test for want of something: why says of what, and how to get
// it. What this kernel can not do is no matter of need, but of tb.Skip.
func Missing(tb testing.TB, why string) {
	tb.Helper()
	if os.Getenv("CI") == "true" {
		tb.Fatal(why + "; CI=true forbids to skip this")
	}
	tb.Skip(why)
}
