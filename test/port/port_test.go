package port

import (
	"slices"
	"testing"
)

// Nobody listens on any of them, and still none comes twice: twenty nodes that
// are to start at once must not be told the same.
func TestNoneComesTwice(t *testing.T) {
	few := Range{30500, 40}
	clear(given) // of a run before, with -count
	var got []int
	for range few.Count / 2 { // the others are for whoever has one of these
		p := few.Free(t)
		if p < few.First || p >= few.First+few.Count || slices.Contains(got, p) {
			t.Errorf("%d after %v", p, got)
		}
		got = append(got, p)
	}
}
