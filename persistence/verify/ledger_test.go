package verify

import (
	"strings"
	"testing"

	"github.com/understudy-ha/understudy/persistence"
)

func TestLedgersOfTwoNodes(t *testing.T) {
	const first, a1, b1, a2 = "u1.verify.first.x", "u1.verify.a.1.x", "u1.verify.b.1.x", "u1.verify.a.2.x"
	chain := func(l ledger) ledger { l.Last = a2; return l }
	for name, tt := range map[string]struct {
		mine, theirs ledger
		grade        persistence.Grade
		words        string
	}{
		"a chain": {
			chain(ledger{Won: map[string][]string{first: {a1}, b1: {a2}}, Tried: []string{first, b1}}),
			chain(ledger{Won: map[string][]string{a1: {b1}}, Tried: []string{a1}}), persistence.GradeOK, "3 swaps, 2 of them",
		},
		"swapped by both": {
			chain(ledger{Won: map[string][]string{first: {a1}, b1: {a2}}, Tried: []string{first, b1}}),
			chain(ledger{Won: map[string][]string{first: {b1}}, Tried: []string{first, a1}}), persistence.GradeFail, "2 writers were told",
		},
		"swapped twice by one": {
			chain(ledger{Won: map[string][]string{first: {a1, a2}}, Tried: []string{first, a1}}),
			chain(ledger{}), persistence.GradeFail, "2 here, 0 at other",
		},
		"vanished": {
			chain(ledger{Won: map[string][]string{first: {a2}}, Tried: []string{first}}),
			chain(ledger{Won: map[string][]string{a1: {b1}}, Tried: []string{a1}}), persistence.GradeFail, "has vanished",
		},
		"different ends": {
			chain(ledger{Won: map[string][]string{first: {a2}}, Tried: []string{first}}),
			ledger{Last: b1},
			persistence.GradeFail, "read different values",
		},
		"never met": {
			chain(ledger{Won: map[string][]string{first: {a1}, a1: {a2}}, Tried: []string{first, a1}}),
			chain(ledger{}), persistence.GradeWarn, "the two never met",
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := &run{meet: &meeting{host: "other"}}
			r.judgeLedgers(tt.mine, tt.theirs)
			if c := r.report.Checks; len(c) != 1 || c[0].Status != tt.grade || !strings.Contains(c[0].Detail, tt.words) {
				t.Errorf("%+v, want %s with %q", c, tt.grade, tt.words)
			}
		})
	}
}
