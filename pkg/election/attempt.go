package election

import (
	"time"

	"github.com/understudy-ha/understudy/pkg/lease"
)

// attempt is one compare-and-swap that was sent and may have been applied.
type attempt struct {
	id     lease.WriteID
	value  lease.Value
	t0     lease.Instant // R3: read before the first byte was sent
	timing Timing        // R13: of the term it is made in
	after  Silent        // of a claim: whom it takes the term from
}

// writer keeps the attempts from one version of the register. All of them
// consume the same version, so at most one of them can ever be applied, and
// none any more once the register is known to have moved on.
type writer struct {
	base      string   // the version they consume
	at        Position // and its place in the chain
	open      []attempt
	pending   lease.WriteID // an answer is due; empty if none is
	undecided lease.Instant // when the last undecided answer came
	mustRead  bool          // only a read can tell what became of them
	sent      lease.Instant // t0 of the latest attempt
	dropped   Position      // of the last attempts that were forgotten; they may yet turn up in a stale read
}

func (w *writer) find(id lease.WriteID) (attempt, bool) {
	for _, a := range w.open {
		if a.id == id {
			return a, true
		}
	}
	return attempt{}, false
}

// rebase starts afresh on a version: every attempt from the former one has
// either become it or lost.
func (w *writer) rebase(version string, at Position) {
	if k := len(w.open); k > 0 {
		w.dropped = w.open[k-1].value.At()
	}
	w.base, w.at, w.open, w.mustRead = version, at, nil, false
}

// send makes one attempt to replace the register's value by v, whose sequence
// number and writeId are filled in (R2).
func (m *Machine) send(v lease.Value, until time.Duration) {
	w := &m.w
	v.Seq = w.at.Seq + 1
	if m.cfg.Without.off(WithoutR2) && len(w.open) > 0 && w.open[0].value.Held == v.Held {
		v.WriteID = w.open[0].id
		w.open = w.open[:0]
	} else {
		v.WriteID = m.cfg.Random.WriteID()
	}
	timing := m.cfg.Timing
	if m.reign != nil {
		timing = m.reign.timing
	}
	w.open = append(w.open, attempt{id: v.WriteID, value: v, t0: m.now, timing: timing})
	w.pending, w.sent = v.WriteID, m.now
	m.act(Write{Old: w.base, Value: v, Until: until})
}

// writeDone takes the answer to an attempt, or a late one. Whatever is not
// "applied" is undecided: it may have been applied, may be applied later, or
// never (R5).
func (m *Machine) writeDone(ev WriteDone) {
	w := &m.w
	a, mine := w.find(ev.WriteID)
	if ev.WriteID == w.pending {
		if !ev.Applied && !ev.Unsent && m.cfg.Without.off(WithoutR5Reading) {
			return
		}
		w.pending = ""
	}
	if !mine {
		return // an answer to what was settled long ago
	}
	switch {
	case ev.Unsent:
		for i := range w.open {
			if w.open[i].id == ev.WriteID {
				w.open = append(w.open[:i:i], w.open[i+1:]...)
				break
			}
		}
	case ev.Applied:
		m.confirm(a, ev.Version)
	case m.cfg.Without.off(WithoutR5):
		m.confirm(a, string(a.value.Encode()))
	default:
		w.mustRead, w.undecided = true, m.now
		m.wantNewRead()
	}
}

// settle compares what a read returned with what this node wrote.
func (m *Machine) settle(version string, v lease.Value) {
	w, own := &m.w, v.Incarnation == m.cfg.Incarnation
	if m.reign != nil && m.reign.foreign {
		return // a foreign value was seen: nothing of ours is open any more
	}
	if own {
		if a, ok := w.find(v.WriteID); ok {
			m.confirm(a, version)
			if m.reign != nil {
				m.reign.readBack = true
			}
			return
		}
	}
	r := m.reign
	switch {
	case version == w.base && (r != nil || len(w.open) > 0):
		// Still the version we write from. An attempt may yet be applied, so
		// it stays open; but a new one may be made, if this read began after
		// the last answer came.
		if w.mustRead && m.readSent.Longest(w.undecided) >= 0 {
			w.mustRead = false
		}
		if r != nil && v.WriteID == r.value.WriteID {
			r.readBack = true
		}
	case !v.At().After(w.at) && (r != nil || len(w.open) > 0):
		// Older than what we know: a stale read decides nothing.
	case r != nil && own:
		m.note(NoteAlarm, v.Term, "the register holds a value of this very run that it never wrote")
		m.demote(r, v)
	case r != nil:
		m.demote(r, v)
	case len(w.open) > 0:
		m.note(NoteClaimLost, v.Term, "held by "+holderName(v))
		w.rebase("", Position{})
	}
}

// confirm learns that an attempt was applied, from its answer or from a read.
func (m *Machine) confirm(a attempt, version string) {
	w := &m.w
	if !a.value.At().After(w.at) {
		return
	}
	if m.cfg.Without.off(WithoutR3) {
		a.t0 = m.now
	}
	w.rebase(version, a.value.At())
	if a.value.Newer(lease.Value{Term: m.high.Term, Seq: m.high.Seq}) {
		m.raise(a.value)
	}
	r := m.reign
	switch {
	case r == nil:
		m.beginReign(a, version)
	case !a.value.Held:
		m.endReign(r, a, version)
	case a.value.Head != r.value.Head && !r.owed && !r.over && a.t0.Longest(r.askT0) < r.timing.Heartbeat/20:
		// Of many commits a second the guard hears now and then: its deadline
		// may be this much earlier than it need be.
		r.value, r.t0 = a.value, a.t0
	default:
		r.value, r.t0 = a.value, a.t0
		if r.over && m.cfg.Without.off(WithoutStickiness) {
			r.over, r.armed, r.owed, r.started, r.stopped, r.empty, r.code = false, false, false, false, false, false, ""
		}
		m.arm(r)
	}
}

func holderName(v lease.Value) string {
	if v.Holder == "" {
		return "nobody"
	}
	return string(v.Holder)
}
