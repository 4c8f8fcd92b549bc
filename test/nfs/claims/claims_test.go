package claims

import (
	"slices"
	"strings"
	"testing"
)

// chain is a race of n renewals without a fault.
func chain(n uint64) (all []Claim, last string) {
	last = First
	for seq := uint64(1); seq <= n; seq++ {
		c := Claim{How: Won, Seq: seq, Value: Value(seq, "w"), Old: last}
		all, last = append(all, c), c.Value
	}
	return all, last
}

func TestJudge(t *testing.T) {
	for name, tt := range map[string]struct {
		plant     func(all []Claim) []Claim
		double    string // part of the complaint
		unclaimed int
	}{
		"a race as it should be": {func(all []Claim) []Claim { return all }, "", 0},
		"in any order":           {func(all []Claim) []Claim { slices.Reverse(all); return all }, "", 0},
		"a winner that was told an error": {
			func(all []Claim) []Claim { all[3].How = ReadBack; return all }, "", 0,
		},
		"a winner that never knew": {
			func(all []Claim) []Claim { return slices.Delete(all, 3, 4) }, "", 1,
		},
		"two winners of one round": {
			func(all []Claim) []Claim {
				c := all[3]
				c.Value = Value(c.Seq, "x")
				return append(all, c)
			}, "two winners", 0,
		},
		"a winner beside the one that never knew": {
			func(all []Claim) []Claim { all[3].Value = Value(all[3].Seq, "x"); return all }, "not in the chain", 0,
		},
		"a first winner of nothing": {
			func(all []Claim) []Claim { all[0].Old = Value(0, "x"); return all }, "begins with", 0,
		},
	} {
		t.Run(name, func(t *testing.T) {
			all, last := chain(8)
			v, err := Judge(tt.plant(all), last)
			if err != nil {
				t.Fatal(err)
			}
			if v.Renewals != 8 || v.Unclaimed != tt.unclaimed {
				t.Errorf("%v, want 8 renewals, %d unclaimed", v, tt.unclaimed)
			}
			if tt.double == "" && len(v.Double) > 0 {
				t.Errorf("complaints %v, want none", v.Double)
			}
			if tt.double != "" && (len(v.Double) == 0 || !strings.Contains(v.Double[0].Error(), tt.double)) {
				t.Errorf("complaints %v, want %q", v.Double, tt.double)
			}
		})
	}
}

func TestJudgeClaimsBeyondTheEnd(t *testing.T) {
	all, _ := chain(8)
	if v, err := Judge(all, all[6].Value); err == nil {
		t.Errorf("%v, want an error", v)
	}
}

func TestParse(t *testing.T) {
	all, _ := chain(3)
	var text strings.Builder
	for _, c := range all {
		text.WriteString(c.String() + "\n")
	}
	got, err := Parse(text.String())
	if err != nil || !slices.Equal(got, all) {
		t.Errorf("got %v, %v; want %v", got, err, all)
	}
	if _, err := Parse("lost 3 a b\n"); err == nil {
		t.Error("a line of another form is a claim")
	}
}
