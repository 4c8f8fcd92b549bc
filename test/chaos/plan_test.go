package chaos

import (
	"slices"
	"testing"
	"time"
)

func TestPlanFollowsFromTheSeed(t *testing.T) {
	a, b, other := NewPlan(7, Kinds, false), NewPlan(7, Kinds, false), NewPlan(8, Kinds, false)
	same := true
	for range 200 {
		x := a.Next()
		if y := b.Next(); x != y {
			t.Fatalf("one seed, two schedules: %v, and %v", x, y)
		}
		same = same && x == other.Next()
	}
	if same {
		t.Error("two seeds, one schedule")
	}
}

func TestPlanHasEveryKindInEveryRound(t *testing.T) {
	for seed := range uint64(20) {
		for _, short := range []bool{false, true} {
			kinds := Kinds
			if seed%2 == 1 {
				kinds = NetKinds
			}
			p := NewPlan(seed, kinds, short)
			if !slices.Contains(p.Kinds(), KillTree) || (short && len(p.Kinds()) != 6) {
				t.Fatalf("seed %d: %v", seed, p.Kinds())
			}
			for range 5 {
				var round []Kind
				for range p.Kinds() {
					s := p.Next()
					round = append(round, s.Kind)
					if s.Hold < 300*time.Millisecond || s.Hold > 12*time.Second || s.Delay < 50*time.Millisecond || s.Delay > 400*time.Millisecond {
						t.Errorf("seed %d: %v", seed, s)
					}
				}
				for _, k := range p.Kinds() {
					if !slices.Contains(round, k) {
						t.Errorf("seed %d: a round without %s: %v", seed, k, round)
					}
				}
			}
		}
	}
}
