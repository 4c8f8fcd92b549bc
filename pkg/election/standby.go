package election

import (
	"fmt"
	"strings"
	"time"

	"github.com/understudy-ha/understudy/pkg/lease"
)

// BirthPause is how long after the first empty listing the second one is made
// before a node may give birth to a plane (R0).
const BirthPause = 5 * time.Second

// watch is the register as this node last read it, and for how long it has
// stood like that by this node's own count (R6).
type watch struct {
	known   bool
	version string
	value   lease.Value
	past    bool          // R15: lower than a value seen before; counts as held
	first   lease.Instant // completion of the first read that returned it
	last    lease.Instant // completion of the latest read that returned it
	unread  bool          // it is our own release, and no read has shown it yet
	moves   int           // values written by a holder while we watched
	jitter  time.Duration
	alarmed bool
	fence   fencing
}

func (x *watch) held() bool { return x.value.Held || x.past }

// staleAfter is how long the watched value must have stood still before it may
// be taken from a holder. A value from the past says nothing of the lease that
// the store has forgotten, so the longest one that was seen counts then.
func (m *Machine) staleAfter() time.Duration {
	if m.watch.past {
		return m.cfg.Timing.ClaimAfter(max(m.watch.value.Lease, m.highLease))
	}
	return m.cfg.Timing.ClaimAfter(m.watch.value.Lease)
}

// claim is a claim in preparation: the version it takes and the term it takes
// it at, which must be durable before the first attempt is sent.
type claim struct {
	base    string
	term    lease.Term
	keeping lease.Term // Remember{Claim} of this term is under way
	unasked bool       // nobody asked for the role change
}

// birth is the course of R0.
type birth struct {
	listing  bool
	emptyAt  lease.Instant // when it last listed empty, or was denied
	empty    bool
	creating bool
	denied   bool // there is something else in the location
}

func (m *Machine) readDone(ev ReadDone) {
	m.reading = false
	switch ev.Fault {
	case FaultNone:
	case FaultFailed:
		m.storeDown = ev.Detail
		return
	case FaultAbsent:
		m.storeDown, m.answered = "", m.now
		m.absent()
		return
	case FaultUnreadable:
		m.storeDown, m.answered = "", m.now
		m.unreadable(ev.Detail)
		return
	}
	m.storeDown, m.answered = "", m.now
	v, err := lease.ParseValue(ev.Value)
	if err != nil {
		m.unreadable(err.Error() + "; with all nodes stopped, 'understudy store repair' puts a value in its place")
		return
	}
	if m.plane != "" && v.Plane != m.plane {
		m.lookAway()
		m.setTrouble(NotePlane, ReasonPlaneMismatch, fmt.Sprintf("the register belongs to plane %s but this node belongs to plane %s; check persistenceDir and the mount, or run understudy forget-plane here if the plane was made anew on purpose", v.Plane, m.plane))
		return
	}
	m.plane = v.Plane
	m.needRead = m.urgent // a need that arose meanwhile is not served by this read
	m.birth = birth{}
	if m.trouble.code != ReasonForgetful {
		m.trouble = trouble{}
	}
	m.see(ev.Version, v, true)
	m.settle(ev.Version, v)
	if m.reign != nil && !m.reign.readBack || m.w.mustRead {
		m.needRead = true
	}
}

// see takes note of a value that was read, or of an own one known to be in the
// register.
func (m *Machine) see(version string, v lease.Value, byRead bool) {
	x := &m.watch
	past := m.high.After(v.At()) && !m.cfg.Without.off(WithoutR15)
	switch {
	case !x.known || x.version != version:
		fresh := watch{known: true, version: version, value: v, past: past, first: m.now, last: m.now, unread: true}
		if x.known && v.Newer(x.value) && v.Held && v.Holder != "" {
			fresh.moves = x.moves + 1 // somebody is alive: it wrote while we watched
			if m.cfg.Without.off(WithoutR6) && v.Term == x.value.Term {
				fresh.first = x.first
			}
		}
		if !x.known || x.value.Term != v.Term || x.value.Held != v.Held {
			m.note(NoteHolder, v.Term, holderWord(v))
		}
		m.cancelFence()
		fresh.jitter = m.cfg.Random.Jitter(m.cfg.Timing.Heartbeat / 5)
		*x = fresh
	case !m.cfg.Without.off(WithoutR6Gap) && m.now.Longest(x.last) > m.cfg.Timing.ReadGap():
		x.first = m.now // a watch with a hole is no watch
	}
	if past && !x.alarmed && m.now.Shortest(x.first) >= v.Lease {
		x.alarmed = true
		if m.high.Seq == 0 { // known from the local disk only
			m.note(NoteRollback, v.Term, fmt.Sprintf("the store holds term %d although this node remembers term %d: it was rolled back or restored, or a claim of this node's former run never reached it", v.Term, m.high.Term))
		} else {
			m.note(NoteRollback, v.Term, fmt.Sprintf("the store holds term %d although term %d was seen: it was rolled back or restored", v.Term, m.high.Term))
		}
	}
	if byRead {
		x.last, x.unread = m.now, false
		m.lastRead, m.readOK = m.now, true
	}
	if v.At().After(m.high) {
		if v.Incarnation == m.cfg.Incarnation && m.reign == nil && v.Held {
			if _, ok := m.w.find(v.WriteID); !ok && v.At().After(m.w.dropped) {
				m.note(NoteAlarm, v.Term, "the register holds a value of this very run that it never wrote")
			}
		}
		m.raise(v)
	}
}

// raise takes note of the highest value seen.
func (m *Machine) raise(v lease.Value) {
	m.highLease = max(m.highLease, v.Lease)
	m.high = v.At()
}

func holderWord(v lease.Value) string {
	if v.Held {
		return "held by " + holderName(v)
	}
	return "released by " + holderName(v)
}

// lookAway forgets the watch: whatever stands there now, its time does not count.
func (m *Machine) lookAway() {
	m.cancelFence()
	m.watch.known, m.watch.fence = false, fenceNone
}

func (m *Machine) unreadable(detail string) {
	m.lookAway()
	m.setTrouble(NoteUnreadable, ReasonUnreadable, detail+"; nobody will claim it, and nothing is changed")
}

func (m *Machine) setTrouble(k NoteKind, code, detail string) {
	if now := (trouble{code, detail}); m.trouble != now {
		m.note(k, m.high.Term, detail)
	}
	m.trouble = trouble{code, detail}
}

// absent: the location answered and holds no register.
func (m *Machine) absent() {
	m.lookAway()
	switch {
	case m.durable.plane != "" || m.plane != "":
		m.birth = birth{}
		m.setTrouble(NotePlane, ReasonVanished, fmt.Sprintf("this node belongs to plane %s but its location holds no register; is the right file system mounted? Nothing is created in its place. If the plane is really gone: understudy forget-plane, then understudy init", m.plane))
	case !m.cfg.AutoInit:
		m.setTrouble(NotePlane, ReasonNoRegister, "the location holds no register and this node may not make one (ha.autoInit is off, or the location is on a local disk); run understudy init once")
	case m.cfg.Mode == lease.ModeStandby || m.cfg.Mode == lease.ModeHotStandby:
		if !m.decided {
			m.quit(3, fmt.Sprintf("no existing master; cannot start as %s", m.cfg.Mode))
		}
	case m.cfg.Mode == lease.ModeAuto || m.cfg.Mode == lease.ModeMaster:
		if m.birth == (birth{}) {
			if m.trouble.code != ReasonNoRegister {
				m.trouble = trouble{ReasonNoRegister, "the location holds no register yet"}
			}
			m.birth.listing = true
			m.act(ListWhole{})
		}
	case m.cfg.Mode == lease.ModeHotBackup || m.cfg.Mode == lease.ModeDisabled:
		m.trouble = trouble{ReasonNoRegister, "the location holds no register yet; waiting for another node or understudy init"}
	}
}

// noPlace begins what is said of a location that can not be told to be empty.
const noPlace = "the location holds no register and no plane can be made there: "

func (m *Machine) listed(ev Listed) {
	b := &m.birth
	if !b.listing {
		return
	}
	b.listing = false
	switch {
	case !ev.OK:
		*b = birth{}
		// Said once: how long a store has been silent changes with each answer.
		if ev.Detail != "" && !strings.HasPrefix(m.trouble.detail, noPlace) {
			m.setTrouble(NotePlane, ReasonNoRegister, noPlace+ev.Detail)
		}
	case !ev.Empty:
		*b = birth{denied: true, emptyAt: m.now}
		m.setTrouble(NotePlane, ReasonNoRegister, "the location holds no register but is not empty ("+ev.Detail+"), so no plane is made there; name an empty directory, or move away what is in it")
	case !b.empty:
		b.empty, b.emptyAt = true, m.now
	default:
		b.creating = true
		m.act(Create{Value: lease.Value{
			Plane: m.cfg.Random.PlaneID(), Held: true, Lease: m.cfg.Timing.Timeout, WriteID: m.cfg.Random.WriteID(),
		}})
		m.note(NoteBorn, 0, "making the register of a new plane")
	}
}

// progressBirth makes the second listing of R0 when its time has come.
func (m *Machine) progressBirth() {
	b := &m.birth
	if b.denied && m.waited(b.emptyAt, BirthPause) {
		*b = birth{} // look again: somebody may have cleared it
		m.wantRead()
	}
	if !b.empty || b.listing || b.creating || !m.trusted || m.ending {
		return
	}
	if m.waited(b.emptyAt, BirthPause) {
		b.listing = true
		m.act(ListWhole{})
	}
}

// decide honours the mode the node was started in, once there is enough to
// judge by: "live" means seen to change, never an old record (start table).
func (m *Machine) decide() {
	x := &m.watch
	if m.decided || m.ended || !x.known {
		return
	}
	live := x.moves > 0 && x.held()
	t := m.cfg.Timing
	switch m.cfg.Mode {
	case lease.ModeAuto, lease.ModeHotBackup, lease.ModeDisabled:
		m.decided = true
	case lease.ModeMaster:
		if live {
			m.quit(3, fmt.Sprintf("a live master exists: %s in term %d; to move the mastership here, start as AUTO and then run: understudy mode MASTER", x.value.Holder, x.value.Term))
		}
	case lease.ModeStandby, lease.ModeHotStandby:
		switch {
		case live:
			m.decided = true
		case x.held() && !m.waited(x.first, m.staleAfter()):
		case !x.held() && !m.waited(x.first, t.ReadGap()): // a hand-over may be under way
		default:
			m.quit(3, fmt.Sprintf("no existing master; cannot start as %s", m.cfg.Mode))
		}
	}
}

// electable reports whether this node may claim at all (R17, R18): the reason
// code and the sentence say why not.
func (m *Machine) electable() (ok bool, code, why string) {
	switch {
	case m.ending:
		return false, ReasonStopping, "shutting down"
	case m.cfg.Mode == lease.ModeHotBackup:
		return false, ReasonBackup, "a hot backup is never promoted"
	case m.cfg.Mode == lease.ModeDisabled:
		return false, ReasonDisabled, "disabled by an operator"
	case m.birth.empty && m.mistrust != "": // or it would have made the plane
		return false, ReasonUntrusted, m.mistrust
	case m.trouble.code != "":
		return false, m.trouble.code, m.trouble.detail
	case !m.decided && m.cfg.Mode != lease.ModeMaster:
		return false, ReasonStarting, "has not yet seen enough of the plane"
	case !m.trusted:
		why = m.mistrust
		if why == "" {
			why = "the store has not been verified at this node yet"
		}
		return false, ReasonUntrusted, why
	case !m.over(m.failed):
		return false, m.failed.code, m.failed.why
	case m.maintenance != "":
		return false, ReasonMaintenance, m.maintenance
	case !m.over(m.holdOff):
		return false, ReasonHeldOff, m.holdOff.why
	}
	return true, "", ""
}

// claimable reports whether the watched value may be claimed now (R6, R7).
func (m *Machine) claimable() bool {
	x, t := &m.watch, m.cfg.Timing
	rank := m.rank()
	if m.barred() {
		return false
	}
	stagger := time.Duration(rank)*t.Heartbeat + x.jitter
	var wait time.Duration
	switch {
	case x.held() && m.isFormer(x.value):
		wait = t.ProofWatch()
	case m.poweredOff():
		wait = m.offAfter()
	case x.held():
		wait = m.staleAfter() + stagger
	case x.value.To == m.cfg.Node:
	case x.value.To != "":
		wait = t.Takeover + stagger
	default:
		wait = stagger
	}
	if m.cfg.Without.off(WithoutR17) && rank > 0 {
		return false
	}
	if !m.waited(x.first, wait) {
		return false
	}
	if m.cfg.Without.off(WithoutR6Gap) {
		return true
	}
	if x.unread || m.now.Longest(x.last) >= t.ReadGap() {
		m.wantRead() // R6: the last sight is too old to act on, or was none
		return false
	}
	return true
}

// isFormer reports whether v was written by a run of this node that is proven
// to be over (R10).
func (m *Machine) isFormer(v lease.Value) bool {
	if !v.Held || v.Holder != m.cfg.Node || m.watch.past {
		return false
	}
	if m.cfg.Without.off(WithoutR10Proof) {
		return v.Incarnation != m.cfg.Incarnation
	}
	f := m.cfg.Former
	return f != nil && v.Term == f.Term && v.Incarnation == f.Incarnation
}

func (m *Machine) self() Candidate {
	return Candidate{Node: m.cfg.Node, Priority: m.cfg.Priority, Version: m.cfg.Version, State: m.standbyState()}
}

func (m *Machine) progressClaim() {
	w, x := &m.w, &m.watch
	if m.ended || w.pending != "" {
		return
	}
	if len(w.open) > 0 && w.mustRead {
		m.wantRead()
		return
	}
	if ok, _, _ := m.electable(); !ok || !x.known || !m.claimable() {
		return
	}
	if len(w.open) > 0 && !m.spent(w.sent, m.cfg.Timing.Heartbeat/5) {
		return
	}
	if m.claim.base != x.version || m.claim.term <= m.high.Term {
		m.claim = claim{base: x.version, term: max(x.value.Term, m.durable.term, m.high.Term) + 1, unasked: m.unasked(x.value)}
	}
	if m.durable.claim != m.claim.term || m.durable.plane != m.plane {
		if !m.keeping && m.claim.keeping == 0 {
			m.remember(Remember{Plane: m.plane, Term: m.claim.term, Claim: true})
			if m.keeping {
				m.claim.keeping = m.claim.term
			}
		}
		return
	}
	if w.base != x.version {
		w.rebase(x.version, x.value.At())
	}
	v := x.value // every field we do not mean to change, the journal head above all
	v.Term, v.Held, v.To, v.Lease = m.claim.term, true, "", m.cfg.Timing.Timeout
	v.Holder, v.Incarnation = m.cfg.Node, m.cfg.Incarnation
	v.Paused = v.Paused && m.resumed != x.version
	m.note(NoteClaiming, v.Term, holderWord(x.value))
	m.send(v, m.cfg.Timing.Heartbeat)
	w.open[len(w.open)-1].after = m.silent()
}
