package ha

import (
	"sync"
	"time"

	"github.com/understudy-ha/understudy/pkg/lease"
)

// PlaneEvent is something that happened on the plane, as this node saw it.
type PlaneEvent struct {
	Seq       uint64         `json:"seq"` // of this run of this node: grows by one
	At        time.Time      `json:"at"`  // wall clock
	Type      PlaneEventType `json:"type"`
	Node      lease.NodeID   `json:"node"` // whom it is about
	Term      lease.Term     `json:"term"`
	From      string         `json:"from,omitempty"` // a state
	To        string         `json:"to,omitempty"`
	Code      string         `json:"code,omitempty"`
	Detail    string         `json:"detail,omitempty"`
	Operation *Operation     `json:"operation,omitempty"`
}

// PlaneEventType is a kind of PlaneEvent.
type PlaneEventType string

// The types.
const (
	EventState     PlaneEventType = "state"     // this node's state changed
	EventNode      PlaneEventType = "node"      // another node's did
	EventHolder    PlaneEventType = "holder"    // the term was taken or released
	EventPaused    PlaneEventType = "paused"    // automatic moves went off or on
	EventOperation PlaneEventType = "operation" // an operation came a step further
	EventNotice    PlaneEventType = "notice"    // something that somebody should know
)

// chronicleLimit is how many events are kept for readers that come late.
const chronicleLimit = 500

// chronicle keeps the latest events, and wakes who waits for the next one.
type chronicle struct {
	mu   sync.Mutex
	last uint64
	ring []PlaneEvent // oldest first
	more chan struct{}
	wall func() time.Time
}

func newChronicle() *chronicle { return &chronicle{more: make(chan struct{}), wall: time.Now} }

func (f *chronicle) add(e PlaneEvent) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.last++
	e.Seq, e.At = f.last, f.wall()
	f.ring = append(f.ring, e)
	if len(f.ring) > chronicleLimit {
		f.ring = append(f.ring[:0:0], f.ring[len(f.ring)-chronicleLimit:]...)
	}
	close(f.more)
	f.more = make(chan struct{})
}

func (f *chronicle) operation(op Operation) {
	node := op.Node
	if node == "" {
		node = op.To
	}
	f.add(PlaneEvent{Type: EventOperation, Node: node, Term: max(op.Term, op.NewTerm), To: string(op.State), Detail: op.why(), Operation: &op})
}

// Happened returns the events after the given sequence number that are still
// kept, oldest first, and a channel that is closed when there are more.
func (n *Node) Happened(after uint64) ([]PlaneEvent, <-chan struct{}) {
	f := n.chronicle
	f.mu.Lock()
	defer f.mu.Unlock()
	if after > f.last {
		after = 0 // it is of a former run of this node
	}
	skip := len(f.ring)
	for skip > 0 && f.ring[skip-1].Seq > after {
		skip--
	}
	return f.ring[skip:len(f.ring):len(f.ring)], f.more
}

// seen tells of what changed between two pictures of the plane.
func (f *chronicle) seen(was, is *Status) {
	if was == nil {
		return
	}
	if was.Paused != is.Paused {
		word := map[bool]string{true: "paused", false: "resumed"}[is.Paused]
		f.add(PlaneEvent{Type: EventPaused, Node: is.Holder, Term: is.Term, To: word})
	}
	if was.Term != is.Term || was.Holder != is.Holder {
		word := "held"
		if is.Holder == "" {
			word = "released"
		}
		f.add(PlaneEvent{Type: EventHolder, Node: is.Holder, Term: is.Term, To: word})
	}
	for id, ns := range is.Nodes {
		old, ok := was.Nodes[id]
		if id == is.Node || ok && old.State == ns.State && old.Electable == ns.Electable {
			continue
		}
		e := PlaneEvent{Type: EventNode, Node: id, Term: ns.Term, To: string(ns.State), Code: ns.Why}
		if ok {
			e.From = string(old.State)
		}
		f.add(e)
	}
}
