package election

import "github.com/understudy-ha/understudy/pkg/lease"

// ReleaseFor is G3: what the release child of a dead daemon does with the value
// it reads. As long as the register holds the dead run's held value of that
// term, at any sequence number, the next attempt is the returned value;
// otherwise there is nothing to do.
func ReleaseFor(v lease.Value, term lease.Term, inc lease.Incarnation, id lease.WriteID) (lease.Value, bool) {
	if !v.Held || v.Term != term || v.Incarnation != inc {
		return lease.Value{}, false
	}
	v.Held, v.WriteID = false, id
	v.Seq++
	return v, true
}
