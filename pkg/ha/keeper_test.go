package ha

import (
	"context"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/persistence/memory"
	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// The keeper may have read the state for a reign before the loop has said that
// the reign has begun. It must not take the reign for one that is over: a warm
// standby would let go of the state, and its reign could not read or write it.
func TestStateReadBeforeItsReignIsShown(t *testing.T) {
	n, err := New(memory.New().Open(), Options{
		Node: NewNodeID(), Clock: func() lease.Instant { return lease.At(time.Hour) }, Persist: &Persist{},
		OnReign: func(context.Context, Reign) error { return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	k := n.keeper
	k.base = t.Context()
	k.load(election.Load{Term: 5})
	for k.turn(t.Context()) {
	}
	if h := k.held.Load(); h == nil || h.term != 5 || k.left == 5 {
		t.Errorf("it holds %+v, and has seen the end of term %d", h, k.left)
	}
}
