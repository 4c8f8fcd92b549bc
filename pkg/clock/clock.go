// Package clock reads a machine's own clocks as lease.Instant.
package clock

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/pkg/lease"
)

// Now reads CLOCK_BOOTTIME, which counts suspension, and CLOCK_MONOTONIC_RAW,
// which no daemon slews. Neither is affected by setting the wall clock.
func Now() lease.Instant {
	return lease.Instant{Boot: read(unix.CLOCK_BOOTTIME), Raw: read(unix.CLOCK_MONOTONIC_RAW)}
}

func read(id int32) int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(id, &ts); err != nil {
		// Without a clock no lease can be judged; going on would be a lie.
		panic(fmt.Sprintf("clock: clock_gettime(%d): %v", id, err))
	}
	return ts.Nano()
}
