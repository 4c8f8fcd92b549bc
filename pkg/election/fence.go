package election

import (
	"slices"
	"time"
)

// fencing is how far a holder has been fenced for the value that is watched. It
// is part of the watch, so any change of the value begins anew.
type fencing int

const (
	fenceNone fencing = iota
	fenceAsked
	fenceFailed // nothing was confirmed: the lease is waited out
	fenceOff    // the holder's machine is confirmed to be off
)

// progressFence has the machine of a silent holder powered off (R6b). The first
// candidate does so once it has reason to suspect the holder, each later one
// when all before it have had their time; whoever can claim anyhow need not.
func (m *Machine) progressFence() {
	x, t := &m.watch, m.cfg.Timing
	if m.ended || m.cfg.FenceLimit == 0 || x.fence != fenceNone || !m.fencible() {
		return
	}
	if ok, _, _ := m.electable(); !ok || x.value.Paused {
		return
	}
	wait := t.SuspectAfter() + time.Duration(m.rank())*m.cfg.FenceLimit
	if !m.waited(x.first, wait) || m.waited(x.first, m.staleAfter()) {
		return
	}
	// A claim that is made in ignorance loses; a machine that is powered off in
	// ignorance is off. So the value must have been seen to stand still for all
	// of that time: this node may be the one that is cut off.
	if x.unread || x.last.Shortest(x.first) < wait || m.now.Longest(x.last) >= t.ReadGap() {
		m.wantRead()
		return
	}
	x.fence = fenceAsked
	m.note(NoteFencing, x.value.Term, holderWord(x.value)+", and silent")
	m.act(Fence{Version: x.version, Old: m.silent()})
}

// fencible reports whether the watched value is held by another node whose
// machine can be powered off from here. A value from the past (R15) does not
// tell who holds the term now.
func (m *Machine) fencible() bool {
	x := &m.watch
	return x.known && x.value.Held && !x.past && x.value.Holder != m.cfg.Node && slices.Contains(m.cfg.Fencible, x.value.Holder)
}

// fenced takes what came of fencing. It counts for the very value that it was
// begun for: another one may be of a later run of that machine.
func (m *Machine) fenced(ev Fenced) {
	x := &m.watch
	if m.reign != nil || !x.known || x.past || x.value.Holder == "" || x.value.Holder == m.cfg.Node {
		return
	}
	off := ev.Off || m.cfg.Without.off(WithoutR6bProof)
	if off {
		m.off = x.value.Holder
	}
	if x.version != ev.Version || x.fence == fenceOff {
		return
	}
	if !off {
		x.fence = fenceFailed
		m.note(NoteUnfenced, x.value.Term, ev.Why)
		return
	}
	x.fence = fenceOff
	m.note(NoteFenced, x.value.Term, ev.Why)
}

// poweredOff reports whether the holder of the watched value is confirmed to be
// off, so that its lease need not be waited out.
func (m *Machine) poweredOff() bool {
	x := &m.watch
	if m.cfg.Without.off(WithoutR6b) {
		return x.value.Held && x.value.Holder != "" && x.value.Holder == m.off
	}
	return x.fence == fenceOff && x.value.Held && !x.past
}

// offAfter is how long a value must have stood still to be claimed from a
// holder that is off.
func (m *Machine) offAfter() time.Duration {
	if m.cfg.Without.off(WithoutR6b) {
		return 0
	}
	return m.cfg.Timing.SuspectAfter()
}

// silent is the holder of the watched value as one that did not release it; of
// no node, but with the term, where that was free, or this node's own.
func (m *Machine) silent() Silent {
	v := m.watch.value
	if !v.Held || v.Holder == m.cfg.Node {
		return Silent{Term: v.Term}
	}
	return Silent{Node: v.Holder, Term: v.Term, Incarnation: v.Incarnation, Off: m.poweredOff()}
}

// cancelFence ends fencing that is under way: the value it is for is no more.
func (m *Machine) cancelFence() {
	if m.watch.fence == fenceAsked {
		m.act(CancelFence{Version: m.watch.version})
	}
}
