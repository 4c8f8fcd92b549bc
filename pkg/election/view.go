package election

import (
	"time"

	"github.com/understudy-ha/understudy/pkg/lease"
)

// View is what the machine shows of itself.
type View struct {
	Standing  lease.State // the state, except that MASTER is asked for by Serving
	Why       string      // reason code when FAILED or not electable
	Detail    string
	Electable bool
	Mode      lease.Mode
	Priority  int
	Timing    Timing
	Plane     lease.PlaneID
	Paused    bool
	Ending    bool
	Ended     bool
	Changes   []time.Duration // how long ago role changes were that nobody asked for and that still count
	Flapping  bool            // automatic moves are held until an operator's ack
	Failback  lease.NodeID    // a node of higher priority could take over; empty: none, or the policy does not care

	Term      lease.Term // highest seen
	Holder    lease.NodeID
	HolderInc lease.Incarnation
	To        lease.NodeID // whom a release names
	Held      bool
	HolderOK  bool          // seen to renew, within its lease
	Moves     int           // values that holders wrote while the register was watched
	Since     lease.Instant // when the register was first seen as it stands; zero if it never was

	Version string // of the register, as it was last read; empty: not known

	Head lease.Head // of the persisted state, as far as the register was read

	Reign *ReignView
}

// ReignView is this node's hold on the register.
type ReignView struct {
	Term    lease.Term
	T0      lease.Instant
	End     time.Duration
	Late    time.Duration // since T0: HEARTBEAT_LATE
	Leading bool          // armed, read back, not given up; ask the clock for the rest
	Ready   bool
	Ending  bool // its end has begun, planned or not
	Stuck   bool
	Over    bool // nothing of it will be renewed or committed again
}

// View describes the machine at now.
func (m *Machine) View(now lease.Instant) View {
	v := View{
		Mode: m.cfg.Mode, Priority: m.cfg.Priority, Timing: m.cfg.Timing, Plane: m.plane,
		Ending: m.ending, Ended: m.ended, Term: m.high.Term,
	}
	wake := m.wake
	ok, code, why := m.electable()
	v.Flapping, v.Changes = m.flapping(), m.ages(now)
	m.wake = wake
	if m.reign != nil && m.cfg.Failback.Policy != FailbackNever {
		v.Failback = m.better.node
	}
	v.Electable, v.Why, v.Detail = ok && m.watch.known && m.reign == nil, code, why
	if x := &m.watch; x.known {
		v.Since, v.Moves, v.Version = x.first, x.moves, x.version
		v.Holder, v.HolderInc, v.Held, v.Paused, v.To = x.value.Holder, x.value.Incarnation, x.value.Held, x.value.Paused, x.value.To
		v.Head = x.value.Head
		v.HolderOK = x.value.Held && x.moves > 0 && now.Longest(x.first) < x.value.Lease
	}
	if r := m.reign; r != nil {
		v.Reign = &ReignView{
			Term: r.term, T0: r.base(), End: r.timing.End(), Late: r.timing.LateAfter(), Ready: r.ready && r.leaving == nil,
			Ending: r.over || r.leaving != nil, Stuck: r.stuck,
			Leading: !r.over && r.readBack && r.armed,
		}
		v.Reign.Over = r.over
		v.Holder, v.HolderInc, v.Held, v.HolderOK = m.cfg.Node, m.cfg.Incarnation, true, true
		v.Paused, v.Head = r.value.Paused, r.value.Head
	}
	v.Standing = m.standing(now, &v)
	return v
}

// standing is the state shown whenever the truth rule does not say MASTER.
func (m *Machine) standing(now lease.Instant, v *View) lease.State {
	r := m.reign
	silent := m.storeSilent(now)
	switch {
	case m.ended:
		v.Why, v.Detail = "", ""
		return lease.StateTerminated
	case r != nil && r.stuck:
		v.Why, v.Detail = ReasonFencingFailed, "the service is still alive past the end of the lease; the term is not released"
		return lease.StateFailed
	case r != nil && r.over && r.code == ReasonLeaseLost && m.trouble.code != "":
		v.Why, v.Detail = m.trouble.code, m.trouble.detail // what an operator has to put right
		return lease.StateFailed
	case r != nil && r.over && r.code != "":
		v.Why, v.Detail = r.code, r.overWhy
		return lease.StateFailed
	case r != nil && r.over:
		return m.standbyState()
	case r != nil && r.leaving != nil:
		v.Why, v.Detail = ReasonStopping, r.leaving.why
		return m.standbyState()
	case r != nil && now.Longest(r.base()) >= r.timing.End():
		v.Why, v.Detail = ReasonLeaseLost, m.storeWord()
		return lease.StateFailed
	case r != nil && r.failed != "":
		v.Why, v.Detail = ReasonFlapping, "the service failed ("+r.failed+") and "+flapWords
		return lease.StateFailed
	case r != nil && r.served:
		return lease.StateInitializing // a local restart of the service
	case r != nil:
		return m.standbyState() // promotion under way
	case m.cfg.Mode == lease.ModeDisabled:
		return lease.StateFailed
	case silent != "" && !m.answered.IsZero():
		v.Why, v.Detail = ReasonStore, silent
		return lease.StateFailed
	case v.Why == ReasonServiceFailed || v.Why == ReasonPromotion || v.Why == ReasonState:
		return lease.StateFailed
	case m.trouble.code != "" && m.trouble.code != ReasonNoRegister:
		v.Why, v.Detail = m.trouble.code, m.trouble.detail
		return lease.StateFailed
	case !m.watch.known:
		if silent != "" {
			v.Why, v.Detail = ReasonStore, silent
		}
		return lease.StateInitializing
	case !m.decided && m.cfg.Mode != lease.ModeMaster:
		return lease.StateInitializing
	case m.cfg.Mode == lease.ModeHotBackup:
		return lease.StateHotBackup
	}
	return m.standbyState()
}

// storeSilent says, in words, that no read has succeeded for longer than the
// lease; empty when one has.
func (m *Machine) storeSilent(now lease.Instant) string {
	if m.storeDown == "" && !m.reading {
		return ""
	}
	since := m.since
	if !m.answered.IsZero() {
		since = m.answered
	}
	if now.Longest(since) < m.cfg.Timing.Timeout {
		return ""
	}
	return "the store has not answered for " + now.Longest(since).Truncate(time.Second).String() + ": " + m.storeWord()
}

func (m *Machine) standbyState() lease.State {
	switch m.cfg.Mode {
	case lease.ModeStandby:
		return lease.StateStandby
	case lease.ModeHotStandby:
		return lease.StateHotStandby
	case lease.ModeAuto, lease.ModeMaster, lease.ModeHotBackup, lease.ModeDisabled:
	}
	if m.cfg.HotStandby {
		return lease.StateHotStandby
	}
	return lease.StateStandby
}
