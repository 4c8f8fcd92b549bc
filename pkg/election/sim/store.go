package sim

import (
	"fmt"

	"github.com/understudy-ha/understudy/pkg/lease"
)

// entry is one value the register held, from an instant on.
type entry struct {
	at      instant
	version string // the line itself, as on posix
	bytes   []byte
	value   lease.Value
}

// store is the register: bytes and a version in one place, and every value it
// ever held, so that reads can be stale. An empty history means that there is
// no register.
type store struct{ hist []entry }

func (s *store) now() *entry { return &s.hist[len(s.hist)-1] }

// before is the value that the register held at t; nil if there was none.
func (s *store) before(t instant) *entry {
	for i := len(s.hist) - 1; i >= 0; i-- {
		if s.hist[i].at <= t {
			return &s.hist[i]
		}
	}
	return nil
}

func (s *store) put(t instant, v lease.Value) {
	b := v.Encode()
	s.hist = append(s.hist, entry{at: t, version: string(b), bytes: b, value: v})
}

// back brings an old value back, as a restored backup would.
func (s *store) back(t instant, e entry) {
	e.at = t
	s.hist = append(s.hist, e)
}

// write is one compare-and-swap on its way.
type write struct {
	refs    int8 // events that still need it
	child   bool // sent by a guard's release child
	old     string
	value   lease.Value
	applied bool
}

// How one compare-and-swap goes: where it lands and what its caller hears. The
// store never says "applied" of what it did not apply, and any error may hide
// a success.
type fate struct {
	lands   bool
	landAt  instant
	answer  instant // when the caller hears something
	honest  bool    // the answer is the outcome; otherwise it is an error
	late    bool    // the outcome is delivered after all, when it has landed
	counted Kind    // which fault this was; noFault if none
}

// sendWrite sends a compare-and-swap for a node, by its daemon or its guard's
// release child.
func (w *World) sendWrite(n *node, child bool, gen uint32, old string, v lease.Value) {
	p := w.writes.get()
	o := w.writes.at(p)
	*o = write{refs: 1, child: child, old: old, value: v}
	f := w.fate(n)
	if f.counted != noFault {
		w.fired(f.counted)
		w.logf(n, "write seq %d: %s, lands %v, answer %v", v.Seq, f.counted, f.lands, f.honest)
	}
	if f.lands {
		o.refs++
		w.push(f.landAt, evLand, n, 0, p)
	}
	kind := evAnswer
	if !f.honest {
		kind = evNoAnswer
	}
	w.push(f.answer, kind, n, gen, p)
	if f.late && !f.honest {
		o.refs++
		w.push(max(f.landAt, f.answer)+w.upTo(50*ms), evLateAnswer, n, gen, p)
	}
}

// land is the moment a compare-and-swap reaches the register.
func (w *World) land(o *write) {
	if len(w.store.hist) == 0 {
		return
	}
	cur := w.store.now()
	if cur.version != o.old {
		return
	}
	o.applied = true
	prev := cur.value
	w.store.put(w.t, o.value)
	w.committed(prev, o.value, o.child)
}

// settled drops one event's hold on a compare-and-swap.
func (w *World) settled(p int32) {
	if o := w.writes.at(p); o.refs > 1 {
		o.refs--
		return
	}
	w.writes.put(p)
}

// slab hands out small records by index, so that the heap holds no pointers.
type slab[T any] struct {
	all  []T
	free []int32
}

func (s *slab[T]) get() int32 {
	if k := len(s.free); k > 0 {
		i := s.free[k-1]
		s.free = s.free[:k-1]
		return i
	}
	s.all = append(s.all, *new(T))
	return int32(len(s.all) - 1)
}

func (s *slab[T]) at(i int32) *T { return &s.all[i] }

func (s *slab[T]) put(i int32) {
	s.all[i] = *new(T)
	s.free = append(s.free, i)
}

// describe is a value in the words of a transcript.
func describe(v lease.Value) string {
	word := "released"
	if v.Held {
		word = "held"
	}
	who := "nobody"
	if v.Holder != "" {
		who = string(v.Holder)
	}
	s := fmt.Sprintf("term %d seq %d %s by %s, lease %v", v.Term, v.Seq, word, who, v.Lease)
	if v.To != "" {
		s += " for " + string(v.To)
	}
	if v.Paused {
		s += ", paused"
	}
	return s
}
