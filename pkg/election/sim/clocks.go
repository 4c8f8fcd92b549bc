package sim

import (
	"time"

	"github.com/understudy-ha/understudy/pkg/lease"
)

// instant is a moment of the world, in nanoseconds since it began. No node
// ever sees one.
type instant = int64

const (
	ms  = int64(time.Millisecond)
	sec = int64(time.Second)
	ppm = 1_000_000
)

// clocks are one machine's two clocks. Each has an offset of its own and a rate
// that errs by at most 1 %; the second stands still while the machine sleeps.
type clocks struct {
	bootOff, rawOff int64
	bootErr, rawErr int64 // parts per million

	asleep   bool
	sleptAt  instant
	sleptFor int64
}

func (c *clocks) at(t instant) lease.Instant {
	s := t
	if c.asleep {
		s = c.sleptAt
	}
	s -= c.sleptFor
	return lease.Instant{
		Boot: c.bootOff + t + t/ppm*c.bootErr + t%ppm*c.bootErr/ppm,
		Raw:  c.rawOff + s + s/ppm*c.rawErr + s%ppm*c.rawErr/ppm,
	}
}

func (c *clocks) sleep(t instant) { c.asleep, c.sleptAt = true, t }

func (c *clocks) wake(t instant) {
	c.sleptFor += t - c.sleptAt
	c.asleep = false
}

// world is how long d of this machine's time takes at least in the world's,
// whichever of the two clocks is asked.
func (c *clocks) world(d time.Duration) int64 {
	if d <= 0 {
		return 0
	}
	fast := ppm + max(c.bootErr, c.rawErr)
	return int64(d)/fast*ppm + int64(d)%fast*ppm/fast + 1
}
