package election

import (
	"fmt"
	"strings"
	"time"
)

// The constants of the protocol. Drift is the error that is assumed of any
// machine's clock rate, as one part in DriftParts.
const (
	DriftParts = 100 // e: 1 %

	minMargin = 500 * time.Millisecond
	maxMargin = 3 * time.Second
	maxGuard  = 500 * time.Millisecond

	// MinTimeout is the shortest heartbeatTimeout that is accepted.
	MinTimeout = 3 * time.Second
	// MinOperation is the shortest operation timeout that is accepted.
	MinOperation = 200 * time.Millisecond
	// MinStop is the shortest time a service may be given to stop.
	MinStop = time.Second
	// MaxStandbyHeartbeat is the longest interval between the records of a
	// standby, unless heartbeats are rarer still. Others believe no longer one:
	// a node that died would look alive for three of them.
	MaxStandbyHeartbeat = time.Minute
)

// TimingRequest is what a user asked for; zero fields are derived.
type TimingRequest struct {
	Preset           string // "", "default", "fast" or "wan"
	Timeout          time.Duration
	Heartbeat        time.Duration
	Operation        time.Duration
	Stop             time.Duration
	StandbyHeartbeat time.Duration
	Poll             time.Duration
	Takeover         time.Duration

	MinBeat     time.Duration // the store's; 0 if it sets none
	PollDivisor int           // polls per heartbeat interval: 5 on posix, 2 on hdfs, 1 on s3; 0 means 5
}

// Timing is a complete, legal set of durations.
type Timing struct {
	Timeout          time.Duration // T: the length of the lease, L
	Heartbeat        time.Duration // h: how often the master renews
	Operation        time.Duration // o: limit of one store operation
	Stop             time.Duration // S: time the service is given to stop when the lease presses
	StandbyHeartbeat time.Duration // how often a standby writes its record
	Poll             time.Duration // how often a standby reads the register
	Takeover         time.Duration // how long a release that names a successor is reserved for it
}

// TimingError says which inequality a set of durations breaks, with the
// numbers and the nearest legal value.
type TimingError struct {
	Key    string // configuration key to change
	Reason string
}

func (e *TimingError) Error() string { return e.Key + ": " + e.Reason }

// Derive fills in what was not asked for and checks the result.
func Derive(r TimingRequest) (Timing, error) {
	t, e, inequality := derive(r)
	switch {
	case e == nil:
		return t, nil
	case inequality:
		e.Reason += ". Nearest legal values: " + proposals(r, t)
	}
	return t, e
}

// derive is Derive without proposals; it tells whether what is broken is an
// inequality between several durations.
func derive(r TimingRequest) (t Timing, e *TimingError, inequality bool) {
	p, e := preset(r.Preset)
	if e != nil {
		return Timing{}, e, false
	}
	t = Timing{
		Timeout:          or(r.Timeout, p.Timeout),
		Heartbeat:        or(r.Heartbeat, p.Heartbeat),
		Operation:        or(r.Operation, p.Operation),
		Stop:             or(r.Stop, p.Stop),
		StandbyHeartbeat: r.StandbyHeartbeat,
		Poll:             r.Poll,
		Takeover:         or(r.Takeover, 10*time.Second),
	}
	if r.Takeover == 0 {
		t.Takeover = min(t.Takeover, t.Timeout) // a target that does not come is no worse than a master that died
	}
	if t.Timeout < MinTimeout {
		return Timing{}, &TimingError{"ha.heartbeatTimeout", fmt.Sprintf("%v is below the floor; the nearest legal value is %v", t.Timeout, MinTimeout)}, false
	}
	if longest := time.Duration(1<<32-1) * time.Millisecond; t.Timeout > longest || t.Timeout%time.Millisecond != 0 {
		return Timing{}, &TimingError{"ha.heartbeatTimeout", fmt.Sprintf("%v: must be whole milliseconds and at most %v", t.Timeout, longest)}, false
	}
	t.Heartbeat = or(t.Heartbeat, max(min(time.Second, t.Timeout/10), r.MinBeat))
	t.Operation = or(t.Operation, min(3*time.Second, t.Timeout/10, t.Timeout/5-t.Heartbeat))
	t.Stop = or(t.Stop, min(10*time.Second, 2*t.Timeout/5))
	t.StandbyHeartbeat = or(t.StandbyHeartbeat, t.Heartbeat)
	div := r.PollDivisor
	if div == 0 {
		div = 5
	}
	t.Poll = or(t.Poll, t.Heartbeat/time.Duration(div))
	e, inequality = t.broken(r.MinBeat)
	return t, e, inequality
}

func preset(name string) (Timing, *TimingError) {
	switch name {
	case "", "default":
		return Timing{Timeout: 30 * time.Second}, nil
	case "fast":
		return Timing{Timeout: 5 * time.Second, Heartbeat: 500 * time.Millisecond, Operation: 500 * time.Millisecond, Stop: 2 * time.Second}, nil
	case "wan":
		return Timing{Timeout: 60 * time.Second, Heartbeat: 2 * time.Second, Operation: 6 * time.Second, Stop: 20 * time.Second}, nil
	default:
		return Timing{}, &TimingError{"ha.preset", fmt.Sprintf("unknown preset %q: must be default, fast or wan", name)}
	}
}

func or(v, otherwise time.Duration) time.Duration {
	if v != 0 {
		return v
	}
	return otherwise
}

// broken finds the first rule of the protocol that is broken, and tells whether
// it is an inequality between several durations. Both sides are compared as
// whole nanoseconds; equality is legal.
func (t Timing) broken(minBeat time.Duration) (e *TimingError, inequality bool) {
	for _, f := range []struct {
		key        string
		v, atLeast time.Duration
		why        string
	}{
		{"ha.heartbeatInterval", t.Heartbeat, max(time.Millisecond, minBeat), "the shortest the store takes"},
		{"store.operationTimeout", t.Operation, MinOperation, "the floor for one store operation"},
		{"service.stopTimeout", t.Stop, MinStop, "the floor for stopping a service"},
		{"ha.standbyHeartbeatInterval", t.StandbyHeartbeat, t.Heartbeat, "ha.heartbeatInterval"},
		{"ha.pollInterval", t.Poll, time.Millisecond, "one millisecond"},
		{"ha.takeoverTimeout", t.Takeover, t.Heartbeat, "ha.heartbeatInterval"},
	} {
		if f.v < f.atLeast {
			return &TimingError{f.key, fmt.Sprintf("%v is below %v (%s); the nearest legal value is %v", f.v, f.atLeast, f.why, f.atLeast)}, false
		}
	}
	if t.Poll > t.Heartbeat {
		return &TimingError{"ha.pollInterval", fmt.Sprintf("%v is longer than ha.heartbeatInterval %v; the nearest legal value is %v", t.Poll, t.Heartbeat, t.Heartbeat)}, false
	}
	if most := max(MaxStandbyHeartbeat, t.Heartbeat); t.StandbyHeartbeat > most {
		return &TimingError{"ha.standbyHeartbeatInterval", fmt.Sprintf("%v is longer than %v, the longest that other nodes believe; the nearest legal value is %v", t.StandbyHeartbeat, most, most)}, false
	}
	if need := t.Heartbeat + 2*t.Operation; t.StopAfter() < need {
		return &TimingError{"service.stopTimeout", fmt.Sprintf(
			"D >= h + 2o is broken: D = 0.99*T - m - S = %v (T=%v, m=%v, S=%v) but h + 2o = %v (h=%v, o=%v)",
			t.StopAfter(), t.Timeout, t.Margin(), t.Stop, need, t.Heartbeat, t.Operation)}, true
	}
	if need := 5 * (t.Heartbeat + t.Operation); t.Timeout < need {
		return &TimingError{"ha.heartbeatTimeout", fmt.Sprintf(
			"T >= 5(h + o) is broken: T=%v but 5(h + o) = %v (h=%v, o=%v)",
			t.Timeout, need, t.Heartbeat, t.Operation)}, true
	}
	return nil, false
}

// proposals lists the changes of one duration that make a request legal; t is
// what it came to. What was not asked for follows the change, as it will when
// the operator makes it.
func proposals(r TimingRequest, t Timing) string {
	h, o := t.Heartbeat, t.Operation
	var out []string
	try := func(key string, v time.Duration, change func(*TimingRequest, time.Duration)) bool {
		c := r
		change(&c, v)
		if v <= 0 { // which would stand for "derive it"
			return false
		}
		if _, e, _ := derive(c); e != nil {
			return false
		}
		out = append(out, fmt.Sprintf("%s %v", key, v))
		return true
	}
	longer := max(t.timeoutFor(h+2*o+t.Stop), (5*(h+o) + time.Millisecond - 1).Truncate(time.Millisecond))
	for range 8 { // what is derived from it may grow with it
		if try("ha.heartbeatTimeout", longer, func(c *TimingRequest, v time.Duration) { c.Timeout = v }) {
			break
		}
		longer = (longer + longer/4).Truncate(time.Millisecond)
	}
	try("service.stopTimeout", t.End()-h-2*o, func(c *TimingRequest, v time.Duration) { c.Stop = v })
	try("ha.heartbeatInterval", min(t.StopAfter()-2*o, t.Timeout/5-o), func(c *TimingRequest, v time.Duration) { c.Heartbeat = v })
	try("store.operationTimeout", min((t.StopAfter()-h)/2, t.Timeout/5-h), func(c *TimingRequest, v time.Duration) { c.Operation = v })
	return strings.Join(out, ", or ")
}

// timeoutFor is the shortest lease whose right to serve lasts at least d, in
// whole milliseconds.
func (t Timing) timeoutFor(d time.Duration) time.Duration {
	c := t
	lo, hi := time.Millisecond, 2*(d+maxMargin)
	for lo < hi {
		mid := ((lo + hi) / 2).Truncate(time.Millisecond)
		if c.Timeout = mid; c.End() >= d {
			hi = mid
		} else {
			lo = mid + time.Millisecond
		}
	}
	return hi
}

// Margin is m: the part of the lease nobody may use.
func (t Timing) Margin() time.Duration { return min(max(t.Timeout/10, minMargin), maxMargin) }

// End is the length of the right to serve, counted from the start of the last
// confirmed renewal: E = L(1-e) - m.
func (t Timing) End() time.Duration {
	return t.Timeout - t.Timeout/DriftParts - t.Margin()
}

// StopAfter is D: the stop begins this long after the start of the last
// confirmed renewal.
func (t Timing) StopAfter() time.Duration { return t.End() - t.Stop }

// LateAfter is D/2: without a confirmed renewal for this long the heartbeat is
// late, and somebody should know before the service has to stop for it.
func (t Timing) LateAfter() time.Duration { return t.StopAfter() / 2 }

// KillAfter is when KILL is sent to what is still alive, on the same count.
func (t Timing) KillAfter() time.Duration {
	if t.Stop < 4*time.Second {
		return t.End() - t.Stop/2
	}
	return t.End() - max(2*time.Second, t.Stop/5)
}

// ObserverGuard is g: what a watcher adds to the lease it waits out.
func (t Timing) ObserverGuard() time.Duration { return min(maxGuard, t.Timeout/20) }

// ClaimAfter is how long a held value whose lease is given must have stood
// unchanged before it may be claimed: max(L(x), own L)(1+e) + g.
func (t Timing) ClaimAfter(other time.Duration) time.Duration {
	l := max(other, t.Timeout)
	return l + l/DriftParts + t.ObserverGuard()
}

// ReadGap is the longest pause in reading the register that does not restart
// the watch: max(3h, h+2o).
func (t Timing) ReadGap() time.Duration { return max(3*t.Heartbeat, t.Heartbeat+2*t.Operation) }

// SuspectAfter is how long a held value must have stood unchanged before its
// holder may be fenced early: max(3h, h+2o) (R6b).
func (t Timing) SuspectAfter() time.Duration { return t.ReadGap() }

// ProofWatch is how long the value of a node's own former run must be watched
// unchanged before it may be claimed on local proof: 2(h+o).
func (t Timing) ProofWatch() time.Duration { return 2 * (t.Heartbeat + t.Operation) }

// Watchdog is the longest timeout of a hardware watchdog, in whole seconds, with
// which a renewal that is late, but in time, never lets it go off: it is fed only
// so long before the end of the right to serve, E - h - 2o (R11). It is at least
// one second, as D >= h + 2o and S is.
func (t Timing) Watchdog() time.Duration {
	return (t.End() - t.Heartbeat - 2*t.Operation).Truncate(time.Second)
}

// AckLimit is how long the guard may take to acknowledge a deadline: 2h.
func (t Timing) AckLimit() time.Duration { return 2 * t.Heartbeat }
