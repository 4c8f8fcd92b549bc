package election

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"github.com/understudy-ha/understudy/pkg/lease"
)

// Candidate is what the election order looks at. It comes from advisory
// records: a wrong one delays somebody, and can do no more.
type Candidate struct {
	Node     lease.NodeID
	Priority int
	Version  string
	State    lease.State // STANDBY or HOT_STANDBY
}

// Order sorts candidates, best first: higher priority, release before
// pre-release, higher version, HOT_STANDBY before STANDBY, lower node id.
func Order(cs []Candidate) { slices.SortFunc(cs, compare) }

func compare(a, b Candidate) int {
	if c := cmp.Compare(b.Priority, a.Priority); c != 0 {
		return c
	}
	if a.Version != b.Version {
		if c := compareVersions(a.Version, b.Version); c != 0 {
			return c
		}
	}
	if ha, hb := a.State == lease.StateHotStandby, b.State == lease.StateHotStandby; ha != hb {
		if ha {
			return -1
		}
		return 1
	}
	return cmp.Compare(a.Node, b.Node)
}

// compareVersions puts releases before pre-releases, then higher before lower.
func compareVersions(a, b string) int {
	va, vb := parseVersion(a), parseVersion(b)
	if va.pre != vb.pre {
		if va.pre {
			return 1
		}
		return -1
	}
	if c := slices.Compare(vb.parts, va.parts); c != 0 {
		return c
	}
	return strings.Compare(vb.tail, va.tail)
}

// Rank is the number of candidates that come before self.
func Rank(self Candidate, others []Candidate) int {
	n := 0
	for _, o := range others {
		if o.Node != self.Node && compare(o, self) < 0 {
			n++
		}
	}
	return n
}

type version struct {
	pre   bool // has a pre-release tail, or can not be read at all
	parts []int
	tail  string
}

// parseVersion reads 1.2.3, v1.2.3 and 1.2.3-rc.1. What is not a version ranks
// below every release.
func parseVersion(s string) version {
	s = strings.TrimPrefix(s, "v")
	s, _, _ = strings.Cut(s, "+")
	core, tail, pre := strings.Cut(s, "-")
	v := version{pre: pre, tail: tail}
	for p := range strings.SplitSeq(core, ".") {
		n, err := strconv.Atoi(p)
		if err != nil || n < 0 {
			return version{pre: true, tail: s}
		}
		v.parts = append(v.parts, n)
	}
	return v
}
