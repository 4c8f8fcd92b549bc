package harness

import (
	"fmt"
	"os"
	"slices"
	"testing"
	"time"
)

// Figures logs number, minimum, median and maximum of what was measured, and
// appends the line to the file E2E_FIGURES names, if it does. It returns the
// median and the maximum.
func Figures(tb testing.TB, what string, ds []time.Duration) (median, longest time.Duration) {
	tb.Helper()
	if len(ds) == 0 {
		tb.Errorf("%s: nothing was measured", what)
		return 0, 0
	}
	s := slices.Sorted(slices.Values(ds))
	median, longest = s[len(s)/2], s[len(s)-1]
	if len(s)%2 == 0 {
		median = (median + s[len(s)/2-1]) / 2
	}
	Note(tb, fmt.Sprintf("%s: n=%d min=%s median=%s max=%s", what, len(s), round(s[0]), round(median), round(longest)))
	return median, longest
}

// Note logs a line and appends it to the file E2E_FIGURES names, if it does.
func Note(tb testing.TB, line string) {
	tb.Helper()
	tb.Log(line)
	path := os.Getenv("E2E_FIGURES")
	if path == "" {
		return
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		tb.Error(err)
		return
	}
	defer f.Close()
	if _, err := fmt.Fprintf(f, "%s: %s\n", tb.Name(), line); err != nil {
		tb.Error(err)
	}
}

func round(d time.Duration) string { return d.Round(100 * time.Microsecond).String() }
