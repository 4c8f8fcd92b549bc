package nfs

import (
	"fmt"
	"time"

	"github.com/understudy-ha/understudy/test/e2e/intervals"
	"github.com/understudy-ha/understudy/test/nfs/wire"
)

// offset is what is known of how far this machine's clock is ahead of a
// guest's. The zero value knows nothing.
type offset struct {
	known    bool
	low, top intervals.Instant
}

// slack is how far two bounds may contradict each other before a guest's clock
// is called wrong: User Mode Linux rounds its timers, and not the clock.
const slack = intervals.Instant(time.Millisecond)

// narrow adds a look: the guest's clock showed there at some time between sent
// and received of ours.
func (o *offset) narrow(sent, there, received intervals.Instant) error {
	low, top := sent-there, received-there
	if !o.known {
		o.known, o.low, o.top = true, low, top
	}
	if low > o.top+slack || top < o.low-slack {
		return fmt.Errorf("its clock runs at another rate than ours: ahead by %v..%v, and now by %v..%v",
			time.Duration(o.low), time.Duration(o.top), time.Duration(low), time.Duration(top))
	}
	o.low, o.top = max(o.low, low), min(o.top, top)
	return nil
}

// ahead is what to add to an instant of the guest's to have ours.
func (o *offset) ahead() intervals.Instant { return (o.low + o.top) / 2 }

// error is how wrong ahead may be.
func (o *offset) error() time.Duration { return time.Duration(max(0, o.top-o.low)) / 2 }

func (g *Guest) lookAtClock() error {
	var there int64
	sent := intervals.Now()
	if err := g.call("Guest.Now", wire.Nothing{}, &there, endLimit); err != nil {
		return err
	}
	received := intervals.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.clock.narrow(sent, intervals.Instant(there), received); err != nil {
		return fmt.Errorf("%s: %w", g.Name, err)
	}
	return nil
}
