// Package claims is what racing writers of one register say about their
// renewals, and the judge of it.
package claims

import (
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// How a writer learned that a renewal of its own was successful.
const (
	Won      = "won"  // it was told so
	ReadBack = "read" // it was told an error, and found its value
)

// First is the value that the race begins with.
var First = Value(0, "begin")

// Claim is one writer's word that it moved the register from Old to Value.
type Claim struct {
	How        string
	Seq        uint64
	Value, Old string
}

func (c Claim) String() string { return fmt.Sprintf("%s %d %s %s", c.How, c.Seq, c.Value, c.Old) }

// Value is a value that is never made twice.
func Value(seq uint64, who string) string {
	return fmt.Sprintf("u1.%d.%s.%s", seq, who, strings.ToLower(rand.Text()[:12]))
}

// Seq is the number in a value.
func Seq(value string) (uint64, error) {
	f := strings.Split(value, ".")
	if len(f) != 4 {
		return 0, fmt.Errorf("%q is not a value of this race", value)
	}
	return strconv.ParseUint(f[1], 10, 64)
}

// Parse reads what writers printed.
func Parse(text string) ([]Claim, error) {
	var out []Claim
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) != 4 || (f[0] != Won && f[0] != ReadBack) {
			return nil, fmt.Errorf("%q is not a claim", line)
		}
		seq, err := strconv.ParseUint(f[1], 10, 64)
		if err != nil {
			return nil, err
		}
		out = append(out, Claim{How: f[0], Seq: seq, Value: f[2], Old: f[3]})
	}
	return out, nil
}

// Verdict is what the claims amount to.
type Verdict struct {
	Renewals  uint64 // that took place
	Won       int    // of which the winner was told
	ReadBack  int    // of which the winner was told an error, and read back
	Unclaimed int    // of which the winner was told an error, and read too late to know
	Double    []error
}

func (v Verdict) String() string {
	return fmt.Sprintf("%d renewals: %d told to the winner, %d found by reading back, %d never known to the winner; %d double wins",
		v.Renewals, v.Won, v.ReadBack, v.Unclaimed, len(v.Double))
}

// Judge looks at all claims of a race from First to the value last. Compare-
// and-swap makes one chain of them: no value has two successors that were told
// that they are, and each value was made from the one before it.
func Judge(all []Claim, last string) (Verdict, error) {
	var v Verdict
	end, err := Seq(last)
	if err != nil {
		return v, err
	}
	v.Renewals = end
	by := map[uint64]Claim{}
	for _, c := range all {
		if other, taken := by[c.Seq]; taken {
			v.Double = append(v.Double, fmt.Errorf("two winners: %v, and %v", other, c))
			continue
		}
		by[c.Seq] = c
		if c.How == Won {
			v.Won++
		} else {
			v.ReadBack++
		}
	}
	// Backwards, for the last value is what the register holds.
	want := last
	for seq := end; seq > 0; seq-- {
		c, ok := by[seq]
		if !ok {
			v.Unclaimed++
			want = "" // who knows; the next claim down was made from what it says
			continue
		}
		if want != "" && c.Value != want {
			v.Double = append(v.Double, fmt.Errorf("%v is not in the chain, which has %s there", c, want))
		}
		want = c.Old
		delete(by, seq)
	}
	if want != "" && want != First {
		v.Double = append(v.Double, fmt.Errorf("the chain begins with %s, want %s", want, First))
	}
	if len(by) > 0 {
		return v, errors.New("there are claims beyond the last value")
	}
	return v, nil
}
