package verify_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/persistence/memory"
	"github.com/understudy-ha/understudy/persistence/verify"
)

// overlapping is a store of which two overlapping writes succeed so many times.
type overlapping struct {
	persistence.Store
	winners int
}

func (o overlapping) Sub(name string) (persistence.Store, error) {
	s, err := o.Store.Sub(name)
	return overlapping{s, o.winners}, err
}

func (o overlapping) Overlap(context.Context, time.Duration) (int, error) { return o.winners, nil }

func TestOverlap(t *testing.T) {
	for winners, ok := range map[int]bool{0: true, 1: true, 2: false} {
		r, err := verify.Run(t.Context(), overlapping{memory.New().Open(), winners}, verify.Options{Short: true})
		if err != nil {
			t.Fatal(err)
		}
		if r.OK != ok || !ok && !strings.Contains(r.Verdict, "NOT SAFE: two writes") {
			t.Errorf("%d winners: OK %t, %q", winners, r.OK, r.Verdict)
		}
	}
}
