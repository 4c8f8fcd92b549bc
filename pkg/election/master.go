package election

import (
	"fmt"
	"time"

	"github.com/understudy-ha/understudy/pkg/lease"
)

// reign is this node's hold on the register in one term, from the claim that
// succeeded to the release, or to the foreign value that followed it.
//
// Its course: held - read back (R8) - armed (G1) - started - ready - leaving or
// over - stopped - proven empty - released. Leaving is a planned end, during
// which renewals go on; over is the sticky end of R10, after which nothing of
// this term is ever renewed, started or served again.
type reign struct {
	term   lease.Term
	value  lease.Value   // the last own value known to be in the register
	t0     lease.Instant // start of the attempt that wrote it
	timing Timing        // R13: constant within the term
	after  Silent        // whom the term was taken from

	readBack bool
	ackT0    lease.Instant // t0 of the last deadline the guard acknowledged
	armed    bool          // ackT0 means something
	askT0    lease.Instant // t0 of the last deadline that was sent to it
	quiet    lease.Instant // since when an acknowledgement is owed
	owed     bool

	loaded     bool       // the persisted state was read, or there is none to read
	tip        lease.Head // of the newest commit; every attempt carries it (R5)
	committing bool       // tip is not settled yet

	started bool
	ready   bool
	served  bool          // was MASTER at least once
	failed  string        // the service can not be kept up here and the move away is held; empty: neither
	lateT0  lease.Instant // the base for which NoteLate was given

	leaving   *leaving
	leftAt    lease.Instant
	over      bool
	overWhy   string
	code      string // reason code of the end
	foreign   bool   // a foreign value follows: nothing to release
	stopped   bool   // Stop was sent
	stoppedAt lease.Instant
	planned   bool // by a planned end, with the lease ahead
	killed    bool // KillGuard was sent
	empty     bool
	stuck     bool
}

// leaving is a planned end.
type leaving struct {
	why     string
	code    string       // reason code for the state shown afterwards; empty: none
	end     string       // one of the End constants
	to      lease.NodeID // the only node meant to claim
	holdOff time.Duration
}

func (m *Machine) reignOf(t lease.Term) *reign {
	if m.reign != nil && m.reign.term == t {
		return m.reign
	}
	return nil
}

// beginReign: the register holds our claim. Beat 0 is the claim itself.
func (m *Machine) beginReign(a attempt, _ string) {
	r := &reign{term: a.value.Term, value: a.value, t0: a.t0, timing: a.timing, after: a.after}
	unasked := m.claim.unasked
	m.reign, m.claim, m.decided = r, claim{}, true
	m.note(NoteClaimed, r.term, "")
	m.load(r)
	if unasked {
		m.moved(r.term)
	}
	m.better.since = m.now // a failback that came to nothing is not repeated at once
	m.arm(r)
	if ok, _, why := m.electable(); !ok {
		m.leave(r, leaving{why: "the claim landed late: " + why, end: EndPromotion})
		return
	}
	m.wantNewRead() // R8
}

// arm sends the guard the deadline that the last confirmed renewal gives (G1).
func (m *Machine) arm(r *reign) {
	if r.stopped || (r.over && !m.cfg.Without.off(WithoutStickiness)) {
		return // the guard has been told to stop and refuses deadlines of this term
	}
	r.askT0 = r.t0
	if !r.owed {
		r.owed, r.quiet = true, m.now
	}
	t := r.timing
	m.act(Arm{Term: r.term, T0: r.t0, Stop: t.StopAfter(), Kill: t.KillAfter(), End: t.End()})
}

func (m *Machine) armed(ev Armed) {
	r := m.reignOf(ev.Term)
	if r == nil || r.over {
		return
	}
	if !r.armed || ev.T0.Longest(r.ackT0) > 0 {
		r.armed, r.ackT0 = true, ev.T0
	}
	r.owed = ev.T0 != r.askT0
	r.quiet = m.now
}

// base is the instant from which the right to serve counts: the start of the
// last renewal that is confirmed and that the guard acknowledged.
//
// Once a planned end has stopped the service nothing is served any more and the
// guard takes no further deadline, so then it is the last confirmed renewal.
func (r *reign) base() lease.Instant {
	if r.armed && !r.planned {
		return r.ackT0
	}
	return r.t0
}

// expire ends what the present instant has ended.
func (m *Machine) expire() {
	r := m.reign
	if r == nil {
		return
	}
	m.expireStop(r)
	if r.over {
		return
	}
	t := r.timing
	if m.spent(r.base(), t.LateAfter()) && r.lateT0 != r.base() {
		r.lateT0 = r.base()
		m.note(NoteLate, r.term, fmt.Sprintf("no renewal confirmed for %v; the stop begins after %v", m.now.Longest(r.base()).Truncate(time.Millisecond), t.StopAfter()))
	}
	if m.spent(r.base(), t.StopAfter()) && !m.cfg.Without.off(WithoutR4) {
		m.giveUp(r, ReasonLeaseLost, "no renewal was confirmed in time: "+m.storeWord())
		m.note(NoteLapsed, r.term, r.overWhy)
		return
	}
	if r.owed && m.spent(r.quiet, t.AckLimit()) && !m.cfg.Without.off(WithoutG1) {
		m.giveUp(r, ReasonLeaseLost, "the guard did not acknowledge a deadline")
		m.note(NoteGuardSilent, r.term, r.overWhy)
		m.killGuard(r, r.overWhy)
	}
}

// expireStop looks after a stop that nobody answers: a guard that froze with
// the lease running down owes no acknowledgement, so only the missing end of
// the service tells (G1). With the lease running down the guard is killed after
// its own KILL is due and before the right to serve ends; with the lease ahead,
// when the time to stop is over. Either way it first had time to answer.
func (m *Machine) expireStop(r *reign) {
	t := r.timing
	if !r.stopped || r.empty || r.killed || r.stuck || m.cfg.Without.off(WithoutG1) {
		return
	}
	asked := t.AckLimit()
	if !r.over {
		asked += t.Stop
	}
	answered := !m.spent(r.stoppedAt, asked)
	if r.over && !m.spent(r.base(), (t.KillAfter()+t.End())/2) {
		return
	}
	if !answered {
		m.note(NoteGuardSilent, r.term, "the service was not proven gone in time")
		m.giveUp(r, ReasonLeaseLost, "the service was not proven gone in time")
		m.killGuard(r, "the service was not proven gone in time")
	}
}

func (m *Machine) killGuard(r *reign, why string) {
	m.act(KillGuard{Term: r.term, Why: why})
	r.stopped, r.killed, r.stoppedAt = true, true, m.now
}

func (m *Machine) storeWord() string {
	switch {
	case m.reign != nil && m.stood >= m.reign.timing.Heartbeat:
		return fmt.Sprintf("this process stood still for at least %v", m.stood.Truncate(time.Millisecond))
	case m.storeDown != "":
		return m.storeDown
	case m.trouble.detail != "":
		return m.trouble.detail // it answered, but not with our register
	case m.writeDown != "":
		return m.writeDown
	}
	return "the store did not answer"
}

// Why a reign ended, as the code of its NoteReleased.
const (
	EndAsked     = "asked"          // an operator moved the mastership
	EndMode      = "mode"           // an operator asked for a mode that no master has
	EndFailback  = "failback"       // a node of higher priority was there for long enough
	EndMaintain  = "maintenance"    // it made way for an operator's work
	EndShutdown  = "shutdown"       // the node was stopped
	EndService   = "service-failed" // the service could not be kept up
	EndState     = "state-failed"   // the persisted state could not be read
	EndPromotion = "promotion"      // the node might not be master by the time it was
	EndLapsed    = "lapsed"         // the lease could not be renewed, or the guard was lost
	EndStuck     = "fencing-failed" // as that, and the service outlived it
)

// endCode is why the reign ended; what was planned counts only if nothing else
// came first.
func (r *reign) endCode() string {
	switch {
	case r.leaving != nil && r.overWhy == r.leaving.why:
		return r.leaving.end
	case r.code == ReasonFencingFailed:
		return EndStuck
	}
	return EndLapsed
}

// giveUp makes the end of the term final (R10).
func (m *Machine) giveUp(r *reign, code, why string) {
	if r.over {
		return
	}
	r.over, r.overWhy, r.ready = true, why, false
	if r.code == "" {
		r.code = code
	}
}

func (m *Machine) giveUpQuietly(r *reign) {
	if !r.over {
		r.over, r.ready = true, false
		if r.leaving != nil {
			r.overWhy = r.leaving.why
		}
	}
}

// demote: a foreign value follows ours. There is nothing to release.
func (m *Machine) demote(r *reign, v lease.Value) {
	m.giveUp(r, ReasonLeaseLost, "the register is held by "+holderName(v))
	r.foreign = true
	m.w.rebase("", Position{})
	m.note(NoteDemoted, r.term, r.overWhy)
}

// leave begins a planned end: drain, stop, prove empty, release. Renewals go
// on until the release.
func (m *Machine) leave(r *reign, l leaving) {
	if r.leaving != nil || r.over {
		return
	}
	r.leaving, r.leftAt = &l, m.now
	if r.code == "" {
		r.code = l.code
	}
	m.note(NoteDraining, r.term, l.why)
}

func (m *Machine) ready(t lease.Term) {
	r := m.reignOf(t)
	if r == nil || r.over || r.leaving != nil {
		return
	}
	r.ready, r.failed = true, ""
	m.failures = 0
	if !r.served {
		r.served = true
		m.decided = true
	}
	m.note(NoteServing, r.term, "")
}

func (m *Machine) serviceFailed(ev ServiceFailed) {
	r := m.reignOf(ev.Term)
	if r == nil || r.over {
		return
	}
	r.ready = false
	if r.served && r.leaving == nil && m.flapping() {
		r.failed = ev.Why
		m.note(NoteFlapping, r.term, "not stepping down although the service failed ("+ev.Why+"): "+flapWords)
		return
	}
	m.leaveFailed(r, ev.Why)
}

func (m *Machine) leaveFailed(r *reign, why string) {
	m.backOff(ReasonServiceFailed, why)
	m.leave(r, leaving{why: why, code: ReasonServiceFailed, end: EndService})
}

// backOff makes the node not electable for T, 2T, 4T, ... at most 10T, so that
// a node where promotions come to nothing does not take each term anew while
// others could serve.
func (m *Machine) backOff(code, why string) {
	m.failures++
	d := min(m.cfg.Timing.Timeout<<min(m.failures-1, 4), 10*m.cfg.Timing.Timeout)
	m.failed = until{from: m.now, d: d, why: why, code: code}
}

// progressReign takes the reign to its next step.
func (m *Machine) progressReign(r *reign) {
	t := r.timing
	m.progressMoves(r)
	if !r.over && !r.readBack {
		m.wantRead()
	}
	if !r.over && r.leaving == nil && !r.started && r.readBack && r.loaded && (r.armed || m.cfg.Without.off(WithoutG1)) {
		r.started = true
		m.act(Start{Term: r.term, Reason: m.claimReason(r), Until: t.StopAfter() - m.now.Longest(r.base()), After: r.after})
	}
	if !r.stopped && !r.empty && (r.over || (r.leaving != nil && m.drained(r))) {
		r.stopped, r.stoppedAt, r.planned = true, m.now, !r.over
		why := r.overWhy
		if !r.over {
			why = r.leaving.why
		}
		m.note(NoteStopping, r.term, why)
		m.act(Stop{Term: r.term, Why: why})
	}
	m.expireStop(r)
	m.settleCommit(r, false)
	if r.over && r.empty && !r.foreign && m.forgotten() {
		m.demote(r, m.watch.value)
	}
	if r.foreign {
		if r.empty {
			m.finish(r)
		}
		return
	}
	m.progressWrite(r)
}

// forgotten reports whether the store went back in time, past this reign, and
// stayed there for as long as anybody could have held a lease: the release has
// nothing to replace any more (R15).
func (m *Machine) forgotten() bool {
	x := &m.watch
	if !x.known || !x.past || !m.waited(x.first, m.staleAfter()) {
		return false
	}
	if m.now.Longest(x.last) >= m.cfg.Timing.ReadGap() {
		m.wantRead() // it may have been one stale read, long ago
		return false
	}
	return true
}

// drained reports whether a planned end may stop the service: clients had
// drainDelay to notice, or there was nothing to drain.
func (m *Machine) drained(r *reign) bool {
	return !r.served || m.cfg.DrainDelay == 0 || m.spent(r.leftAt, m.cfg.DrainDelay)
}

// progressWrite renews, or releases once the service is proven gone (R9).
func (m *Machine) progressWrite(r *reign) {
	w := &m.w
	if w.pending != "" {
		return
	}
	if w.mustRead {
		m.wantRead()
		return
	}
	release := r.empty || (m.cfg.Without.off(WithoutR9) && r.stopped)
	again := m.cfg.Without.off(WithoutStickiness) && r.over && r.code == ReasonLeaseLost
	release = release && !again
	renew := !release && r.readBack && (!r.over || again)
	if !release && !renew {
		return
	}
	pace := r.timing.Heartbeat
	if len(w.open) > 0 {
		pace /= 5 // the last attempt came to nothing: again, but not in a tight loop
	}
	due := renew && r.tip != r.value.Head // a commit does not wait for the next heartbeat
	if len(w.open) > 0 || (renew && !due) {
		if !m.spent(w.sent, pace) {
			return
		}
	}
	v := r.value
	v.Head = r.tip
	var limit time.Duration
	if release {
		v.Held = false
		if r.leaving != nil {
			v.To = r.leaving.to
		}
	} else if !again {
		limit = max(r.timing.StopAfter()-m.now.Longest(r.base()), 1)
		if m.cfg.Without.off(WithoutR13) {
			v.Lease = r.timing.Timeout
		}
	}
	if m.pausedWish != "" {
		v.Paused = m.pausedWish == "on"
	}
	m.send(v, limit)
}

// endReign: our release is in the register.
func (m *Machine) endReign(r *reign, a attempt, version string) {
	m.act(Note{Kind: NoteReleased, Term: r.term, Detail: r.overWhy, Code: r.endCode()})
	m.act(NudgePeers{})
	m.see(version, a.value, false)
	m.finish(r)
}

// finish leaves the reign behind.
func (m *Machine) finish(r *reign) {
	m.settleCommit(r, true)
	if r.leaving != nil && r.leaving.holdOff > 0 {
		m.holdOff = until{from: m.now, d: r.leaving.holdOff, why: r.leaving.why}
		m.note(NoteHeldOff, r.term, fmt.Sprintf("%s: not electable for %v", r.leaving.why, r.leaving.holdOff))
	}
	if !r.served && r.leaving == nil && !r.foreign && !m.cfg.Without.off(WithoutR6Gap) {
		m.backOff(ReasonPromotion, r.overWhy)
	}
	m.reign, m.claim = nil, claim{}
	m.w.rebase("", Position{})
	m.needRead = false
	m.pausedWish = ""
}

func (m *Machine) setMode(ev SetMode) {
	if m.ending {
		return
	}
	m.decided = true
	m.failed, m.holdOff, m.failures = until{}, until{}, 0
	r := m.reign
	if r == nil {
		m.cfg.Mode = ev.Mode
		return
	}
	switch ev.Mode {
	case lease.ModeAuto, lease.ModeMaster:
		m.cfg.Mode = ev.Mode
	case lease.ModeStandby, lease.ModeHotStandby:
		m.cfg.Mode = ev.Mode
		m.leave(r, leaving{why: "mode " + string(ev.Mode) + " was asked for", end: EndMode, to: m.heir(), holdOff: time.Minute})
	case lease.ModeHotBackup, lease.ModeDisabled:
		m.cfg.Mode = ev.Mode
		m.leave(r, leaving{why: "mode " + string(ev.Mode) + " was asked for", end: EndMode, to: m.heir()})
	}
}

func (m *Machine) claimReason(r *reign) string {
	if r.value.Term == 1 {
		return "first term of the plane"
	}
	return "took over"
}

// Serving is R4, the truth rule: an own value is confirmed and read back, the
// reign has not begun to end, the service is ready, and the own clock is
// before the end that the guard acknowledged.
func (m *Machine) Serving(now lease.Instant) bool {
	r := m.reign
	return r != nil && r.ready && r.leaving == nil && m.Leading(now)
}

// Leading is Serving without asking for the service to be ready, or for the
// reign to go on: it still holds while a planned end drains.
func (m *Machine) Leading(now lease.Instant) bool {
	r := m.reign
	if r == nil || r.over || !r.readBack || !r.armed {
		return r != nil && m.cfg.Without.off(WithoutG1) && r.started && !r.over
	}
	return m.cfg.Without.off(WithoutR4) || now.Longest(r.ackT0) < r.timing.End()
}
