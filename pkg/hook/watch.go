package hook

import (
	"sync/atomic"
	"time"

	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// Watch puts hooks in the queue for what a node's status shows. See is called
// by one goroutine.
type Watch struct {
	queue     *Queue
	leaseFile string
	lostAfter time.Duration
	started   func(lease.Term) bool // of Service; nil: there is none

	latest atomic.Pointer[sight]

	head     ha.Transition // the latest that was seen
	promoted lease.Term    // the last one for which postPromote was put
	fenced   *ha.FenceRecord
	reign    lease.Term    // the one this node holds; 0: none
	failing  lease.Instant // since when the store does not answer; zero: it does
	lost     bool          // onStoreLost was put
}

// sight is what facts are made of.
type sight struct {
	status *ha.Status
	state  lease.State
	prev   lease.State
}

// NewWatch returns a Watch over q. leaseFile is what hooks find as
// HA_LEASE_FILE, lostAfter how long the store must have failed to answer to
// count as lost.
func NewWatch(q *Queue, leaseFile string, lostAfter time.Duration) *Watch {
	return &Watch{queue: q, leaseFile: leaseFile, lostAfter: lostAfter}
}

// See looks at the node's newest status. It never blocks.
func (w *Watch) See(s *ha.Status, now lease.Instant) {
	is, was := sight{status: s, state: s.StateAt(now)}, w.latest.Load()
	changed := was != nil && was.state != is.state
	switch {
	case changed:
		is.prev = was.state
	case was != nil:
		is.prev = was.prev
	}
	w.latest.Store(&is)
	w.seePromotion(s, now)
	if changed {
		w.put(OnRoleChange, s.Term, reason(s))
	}
	w.seeFence(s)
	w.seeFencing(s)
	w.seeEnd(s)
	w.seeStore(s, now)
}

// reason is that of the latest change of state.
func reason(s *ha.Status) string {
	if len(s.History) == 0 {
		return ""
	}
	return s.History[0].Reason
}

func (w *Watch) seePromotion(s *ha.Status, now lease.Instant) {
	if r := s.Reign; r != nil && s.Serving(now) && r.Term != w.promoted {
		w.promoted = r.Term
		w.put(PostPromote, r.Term, reason(s))
	}
}

func (w *Watch) seeFence(s *ha.Status) {
	if s.Fenced != nil && s.Fenced != w.fenced {
		w.put(OnFence, s.Term, s.Fenced.Words())
	}
	w.fenced = s.Fenced
}

// Tell puts the hook of an event that no status shows in the queue. It may be
// called from any goroutine.
func (w *Watch) Tell(e Event, reason string) {
	var t lease.Term
	if is := w.latest.Load(); is != nil {
		t = is.status.Term
	}
	w.put(e, t, reason)
}

func (w *Watch) seeFencing(s *ha.Status) {
	if len(s.History) == 0 || s.History[0] == w.head {
		return
	}
	w.head = s.History[0]
	if w.head.State == lease.StateFailed && w.head.Code == election.ReasonFencingFailed {
		w.put(OnFencingFailed, w.head.Term, w.head.Reason)
	}
}

// seeEnd looks for the end of a reign: the service proven gone, the term
// released or lost.
func (w *Watch) seeEnd(s *ha.Status) {
	was := w.reign
	w.reign = 0
	if s.Reign != nil {
		w.reign = s.Reign.Term
	}
	if was == 0 || was == w.reign {
		return
	}
	if was == w.promoted || w.started != nil && w.started(was) {
		w.put(PostDemote, was, reason(s))
	}
}

func (w *Watch) seeStore(s *ha.Status, now lease.Instant) {
	switch {
	case s.Store.Error == "":
		if w.lost {
			w.put(OnStoreBack, s.Term, "the store answers again")
		}
		w.lost, w.failing = false, lease.Instant{}
	case w.failing.IsZero():
		w.failing = now
	case !w.lost && now.Longest(w.failing) >= w.lostAfter:
		w.lost = true
		w.put(OnStoreLost, s.Term, s.Store.Error)
	}
}

func (w *Watch) put(e Event, t lease.Term, reason string) {
	w.queue.Put(w.facts(e, t, reason), nil)
}

// facts are those of this moment, from the newest status.
func (w *Watch) facts(e Event, t lease.Term, reason string) Facts {
	f := Facts{Event: e, Term: t, Token: t, Reason: reason, LeaseFile: w.leaseFile, At: time.Now()}
	is := w.latest.Load()
	if is == nil {
		return f
	}
	s := is.status
	f.Plane, f.Node, f.State, f.PrevState = string(s.Plane), string(s.Node), is.state, is.prev
	f.Master, f.MasterURI = s.Holder, s.Nodes[s.Holder].URI
	if s.Holder == s.Node {
		f.MasterURI = s.URI
	}
	return f
}
