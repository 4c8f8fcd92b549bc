package chaos

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/pkg/lease"
	"github.com/understudy-ha/understudy/test/e2e/intervals"
)

const second = intervals.Instant(time.Second)

// at makes a change of a plane's register.
func at(t intervals.Instant, term, seq int, holder lease.NodeID, held bool) Change {
	return Change{At: t, Value: lease.Value{
		Plane: "plane001", Term: lease.Term(term), Seq: lease.Seq(seq), Held: held, Lease: 5 * time.Second, Holder: holder, //nolint:gosec // small
		Incarnation: lease.Incarnation(strings.Repeat(string(holder[0]), 26)), WriteID: lease.WriteID(strings.Repeat("w", 26)),
	}}
}

const a, b = lease.NodeID("anode001"), lease.NodeID("bnode001")

func TestJudgeRegister(t *testing.T) {
	const rightEnds = 4450 * time.Millisecond
	for _, c := range []struct {
		name    string
		changes []Change
		want    string // part of the only sentence; empty: none
		how     How    // of the last claim
	}{
		{"renewals and a release", []Change{at(0, 1, 1, a, true), at(second, 1, 2, a, true), at(2*second, 1, 3, a, false), at(2*second, 2, 4, b, true)}, "", ByRelease},
		{"waited for", []Change{at(0, 1, 1, a, true), at(6*second, 2, 2, b, true)}, "", ByTime},
		{"own former run", []Change{at(0, 1, 1, a, true), at(second, 2, 2, a, true)}, "", ByProof},
		{"claimed early", []Change{at(0, 1, 1, a, true), at(2*second, 1, 2, a, true), at(6*second, 2, 3, b, true)}, "claimed 4s after", ByTime},
		{"a change was missed", []Change{at(0, 1, 1, a, true), at(second, 1, 3, a, true)}, "sequence", ""},
		{"written twice", []Change{at(0, 1, 1, a, true), at(second, 1, 1, a, true)}, "sequence", ""},
		{"term fell", []Change{at(0, 2, 1, a, true), at(second, 1, 2, a, true)}, "the term fell", ByProof},
		{"two holders", []Change{at(0, 1, 1, a, true), at(second, 1, 2, b, true)}, "two holders", ""},
		{"renewed after release", []Change{at(0, 1, 1, a, false), at(second, 1, 2, a, true)}, "after its release", ""},
		{"begins released", []Change{at(0, 1, 1, a, false), at(second, 2, 2, b, false)}, "begins released", ByRelease},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := JudgeRegister(c.changes, rightEnds)
			if (c.want == "") != (len(got) == 0) || len(got) > 1 || !strings.Contains(strings.Join(got, ""), c.want) {
				t.Errorf("judged %q, want one with %q", got, c.want)
			}
			var how How
			if claims := Claims(c.changes); len(claims) > 0 {
				how = claims[len(claims)-1].How
			}
			if how != c.how {
				t.Errorf("the last claim was by %q, want %q", how, c.how)
			}
		})
	}
}

// TestWatchSeesEveryChange: also those that follow at once.
func TestWatchSeesEveryChange(t *testing.T) {
	store := t.TempDir()
	dir := filepath.Join(store, "lease")
	must(t, os.Mkdir(dir, 0o755))
	name := func(seq int) string { return filepath.Join(dir, string(at(0, 1, seq, a, true).Value.Encode())) }
	must(t, os.WriteFile(name(0), nil, 0o644)) //nolint:gosec // empty
	ctx, cancel := context.WithCancel(t.Context())
	changes, err := Watch(ctx, store)
	must(t, err)
	const n = 2000
	for i := range n {
		must(t, os.Rename(name(i), name(i+1)))
	}
	cancel()
	got, err := changes()
	must(t, err)
	if len(got) != n || got[n-1].Value.Seq != n {
		t.Fatalf("saw %d changes of %d", len(got), n)
	}
	if p := JudgeRegister(got, time.Second); len(p) > 0 {
		t.Error(p)
	}
}
