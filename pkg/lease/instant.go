package lease

import "time"

// Instant is a moment on one machine's own clocks, in nanoseconds. It is not a
// wall-clock time, means nothing on another machine or after a reboot, and is
// a type of its own so that the two can not be mixed.
//
// It carries two readings. Boot (CLOCK_BOOTTIME) counts suspension and is
// slewed by NTP; Raw (CLOCK_MONOTONIC_RAW) does neither. A node that serves
// takes the larger of the two elapsed times, a node that watches a rival takes
// the smaller, so that whichever clock errs, it errs towards safety.
type Instant struct {
	Boot int64 // CLOCK_BOOTTIME, nanoseconds
	Raw  int64 // CLOCK_MONOTONIC_RAW, nanoseconds
}

// At returns the instant d after the zero of both clocks. It is meant for
// tests and simulations.
func At(d time.Duration) Instant { return Instant{Boot: int64(d), Raw: int64(d)} }

// Add returns the instant d later on both clocks.
func (i Instant) Add(d time.Duration) Instant {
	return Instant{Boot: i.Boot + int64(d), Raw: i.Raw + int64(d)}
}

// Longest is the time since earlier by whichever clock says more. Use it for
// the right to serve: it never understates how much of a lease is used up.
func (i Instant) Longest(earlier Instant) time.Duration {
	return time.Duration(max(i.Boot-earlier.Boot, i.Raw-earlier.Raw))
}

// Shortest is the time since earlier by whichever clock says less. Use it for
// watching a rival: it never overstates how long the rival has been silent.
func (i Instant) Shortest(earlier Instant) time.Duration {
	return time.Duration(min(i.Boot-earlier.Boot, i.Raw-earlier.Raw))
}

// IsZero reports whether the instant was never set.
func (i Instant) IsZero() bool { return i == Instant{} }
