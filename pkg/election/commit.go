package election

import "github.com/understudy-ha/understudy/pkg/lease"

// The persisted state's head lives in the register. A reign begins by reading
// what the head names, and moves it from one segment to the next; the
// compare-and-swap that does so is a renewal like any other. Here is what that
// has to do with the lease; what a segment is, package journal knows.

type (
	// Loaded means: a Load action completed, or can not.
	Loaded struct {
		Term   lease.Term
		Failed string // why it can not; empty if it did
	}

	// Commit means: the segment Head, which follows Pred, is durable; the
	// register is to name it. Settled answers. The next one waits for that.
	Commit struct {
		Term       lease.Term
		Pred, Head lease.Head
	}
)

func (Loaded) isEvent() {}
func (Commit) isEvent() {}

type (
	// Load has the persisted state read, up to the segment that the claim of
	// Term carries. The service starts when that is done.
	Load struct {
		Term lease.Term
		Head lease.Head
	}

	// Settled says what became of a Commit.
	Settled struct {
		Term    lease.Term
		Head    lease.Head
		Outcome Outcome
	}
)

func (Load) isAction()    {}
func (Settled) isAction() {}

// Outcome is what became of a commit.
type Outcome int

// The outcomes of a commit.
const (
	// Committed: the register names the segment, with the lease still ahead.
	Committed Outcome = iota + 1
	// Refused: no attempt to move the head was made, and none will be.
	Refused
	// Undecided: the reign ended first. The head may have moved, or may yet.
	Undecided
)

func (o Outcome) String() string {
	switch o {
	case Committed:
		return "committed"
	case Refused:
		return "refused"
	case Undecided:
		return "undecided"
	}
	return "no outcome"
}

// load asks for the persisted state at the beginning of a reign.
func (m *Machine) load(r *reign) {
	r.tip = r.value.Head
	if !m.cfg.Persist {
		r.loaded = true
		return
	}
	m.act(Load{Term: r.term, Head: r.tip})
}

func (m *Machine) stateLoaded(ev Loaded) {
	r := m.reignOf(ev.Term)
	switch {
	case r == nil || r.over:
	case ev.Failed == "":
		r.loaded = true
	default:
		m.backOff(ReasonState, ev.Failed)
		m.leave(r, leaving{why: ev.Failed, code: ReasonState, end: EndState})
	}
}

// commit takes a segment for the next attempts. One whose predecessor is not in
// the register was made for another reign, or follows a commit that is open. It
// may come before the claim was read back; attempts wait for that (R8).
func (m *Machine) commit(ev Commit) {
	r := m.reignOf(ev.Term)
	if r == nil || r.over || r.committing || ev.Pred != r.value.Head {
		m.act(Settled{Term: ev.Term, Head: ev.Head, Outcome: Refused})
		return
	}
	r.tip, r.committing = ev.Head, true
}

// settleCommit tells what became of the commit that is open. It is in the
// register for good once a value of this reign names it; that counts only while
// the lease is ahead (R4). Once the reign is over nobody waits for the outcome,
// but for a planned end, which renews until its release.
func (m *Machine) settleCommit(r *reign, gone bool) {
	if !r.committing {
		return
	}
	ahead := (!r.over || r.planned) && m.now.Longest(r.t0) < r.timing.End()
	outcome := Undecided
	switch {
	case r.value.Head == r.tip && ahead:
		outcome = Committed
	case ahead && !gone && !r.foreign:
		return
	}
	r.committing = false
	m.act(Settled{Term: r.term, Head: r.tip, Outcome: outcome})
}
