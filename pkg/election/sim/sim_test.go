package sim

import (
	"os"
	"strconv"
	"testing"
)

func TestOne(t *testing.T) {
	seed, _ := strconv.ParseUint(os.Getenv("SIM_SEED"), 10, 64)
	r := Run(Config{Seed: seed, Trace: os.Stdout})
	t.Logf("%+v", r)
}
func TestMany(t *testing.T) {
	n, _ := strconv.Atoi(os.Getenv("SIM_SEEDS"))
	bad := 0
	var f [KindCount]int
	for s := range n {
		r := Run(Config{Seed: uint64(s)})
		for i, x := range r.Faults {
			f[i] += x
		}
		if r.Violation != nil {
			bad++
			t.Logf("seed %d: %v", s, r.Violation)
		}
	}
	t.Logf("bad %d of %d", bad, n)
	for i, x := range f {
		t.Logf("%s %d", Kind(i), x)
	}
}
