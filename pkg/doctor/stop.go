package doctor

import (
	"time"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/pkg/election"
)

// Stop is how long the service took once to stop, up to the proof that nothing
// of it was left.
type Stop struct {
	Took   time.Duration
	Killed bool // it was still alive when KILL was sent
}

// StopTimes holds what was observed on this node against S, the time there is
// when the lease presses.
func StopTimes(stops []Stop, t election.Timing) persistence.Finding {
	const name = "stop time"
	limit := t.KillAfter() - t.StopAfter() // from the stop signal to KILL
	if len(stops) == 0 {
		return ok(name, "not observed yet on this node; service.stopTimeout is %s, KILL comes after %s", t.Stop, limit)
	}
	var longest time.Duration
	killed := 0
	for _, s := range stops {
		longest = max(longest, s.Took)
		if s.Killed {
			killed++
		}
	}
	const slow = "make the service stop faster on its stop signal, or raise service.stopTimeout (and with it ha.heartbeatTimeout)"
	switch {
	case longest > t.Stop:
		return fail(name, "find out what keeps the service's processes after KILL (a hung file system as a rule) before you trust a failover", "of %d stops the longest took %s, more than service.stopTimeout, %s", len(stops), short(longest), t.Stop)
	case killed > 0:
		return warn(name, slow, "in %d of %d stops the service had to be killed: it does not end on its stop signal, or needs longer than it is given; the longest took %s, service.stopTimeout is %s", killed, len(stops), short(longest), t.Stop)
	case longest > limit*8/10:
		return warn(name, slow, "of %d stops the longest took %s; when the lease presses KILL comes after %s", len(stops), short(longest), limit)
	}
	return ok(name, "of %d stops the longest took %s; service.stopTimeout is %s", len(stops), short(longest), t.Stop)
}
