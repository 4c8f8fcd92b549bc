package election

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/understudy-ha/understudy/pkg/lease"
)

func TestOrder(t *testing.T) {
	hot, warm := lease.StateHotStandby, lease.StateStandby
	// Best first; each line differs from the next by the criterion it names.
	want := []struct {
		why string
		c   Candidate
	}{
		{"a higher priority beats everything", Candidate{"z0000000", 5, "0.1.0-rc.1", warm}},
		{"a negative priority is below none", Candidate{"a0000000", 0, "1.10.0", hot}},
		{"a higher version, by number and not by letter", Candidate{"a0000001", 0, "v1.9.0", hot}},
		{"hot before warm", Candidate{"a0000002", 0, "1.9.0", warm}},
		{"the lower id", Candidate{"b0000000", 0, "1.9.0", warm}},
		{"a release before any pre-release", Candidate{"a0000003", 0, "2.0.0-rc.1", hot}},
		{"an earlier pre-release", Candidate{"a0000004", 0, "2.0.0-beta.1", hot}},
		{"what is no version", Candidate{"a0000005", 0, "devel", hot}},
		{"the lowest priority", Candidate{"a0000006", -1, "9.9.9", hot}},
	}
	var all []Candidate
	for _, w := range want {
		all = append(all, w.c)
	}
	got := slices.Clone(all)
	slices.Reverse(got)
	Order(got)
	for i, c := range got {
		if c != want[i].c {
			t.Errorf("place %d: got %v, want %v (%s)", i, c, want[i].c, want[i].why)
		}
	}
	for i, c := range all {
		if r := Rank(c, all); r != i {
			t.Errorf("%v has rank %d, want %d", c, r, i)
		}
	}
}

// Build metadata and a leading v mean nothing.
func TestOrderIgnoresBuild(t *testing.T) {
	a, b := Candidate{Node: "a0000000", Version: "v1.2.3+linux"}, Candidate{Node: "a0000000", Version: "1.2.3"}
	if compare(a, b) != 0 || compare(b, a) != 0 {
		t.Error("the same version in two spellings differs")
	}
}

// The order is total whatever the records say, so no two nodes share a rank.
func TestOrderIsTotal(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := rapid.Custom(func(t *rapid.T) Candidate {
			return Candidate{
				Node:     lease.NodeID(rapid.StringMatching(`[a-c][0-2]{7}`).Draw(t, "node")),
				Priority: rapid.IntRange(-1, 1).Draw(t, "priority"),
				Version:  rapid.SampledFrom([]string{"", "1", "1.0", "1.0.0", "1.0.0-a", "1.0.0-b", "x", "v2", "-", "1.-1", "1..2"}).Draw(t, "version"),
				State:    rapid.SampledFrom([]lease.State{lease.StateHotStandby, lease.StateStandby}).Draw(t, "state"),
			}
		})
		a, b, c := draw.Draw(t, "a"), draw.Draw(t, "b"), draw.Draw(t, "c")
		if compare(a, b) != -compare(b, a) {
			t.Fatal("not antisymmetric")
		}
		if compare(a, b) < 0 && compare(b, c) < 0 && compare(a, c) >= 0 {
			t.Fatal("not transitive")
		}
		if a.Node != b.Node && compare(a, b) == 0 {
			t.Fatal("two nodes at one rank")
		}
	})
}
