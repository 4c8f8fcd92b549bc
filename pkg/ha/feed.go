package ha

import (
	"slices"
	"strings"
	"sync"

	"github.com/understudy-ha/understudy/pkg/journal"
)

// What is kept for watchers that come back or are slow.
const (
	feedEvents = 4096
	feedBytes  = 16 << 20
)

// feed holds the newest transactions for watchers. They read from it at their
// own pace, so one that never reads costs nobody anything.
type feed struct {
	mu      sync.Mutex
	base    uint64 // events after this number are here
	events  []Event
	bytes   int
	changed chan struct{} // closed and replaced when something is added
}

func newFeed() *feed { return &feed{changed: make(chan struct{})} }

// add appends the transactions of a segment.
func (f *feed) add(g *journal.Segment) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, changes := range g.Txns {
		f.events = append(f.events, Event{Seq: g.Pred.Seq + 1 + uint64(i), Changes: changes})
		f.bytes += sizeOf(changes)
	}
	drop := 0
	for len(f.events)-drop > feedEvents || (f.bytes > feedBytes && drop < len(f.events)) {
		f.bytes -= sizeOf(f.events[drop].Changes)
		f.base = f.events[drop].Seq
		drop++
	}
	f.events = slices.Delete(f.events, 0, drop)
	f.wake()
}

// reset begins anew after transaction seq: what lies between is not known here.
func (f *feed) reset(seq uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.base, f.events, f.bytes = seq, nil, 0
	f.wake()
}

func (f *feed) wake() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// after returns what came after seq, and what to wait for if nothing did.
func (f *feed) after(seq uint64) ([]Event, <-chan struct{}, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if seq < f.base {
		return nil, nil, ErrBehind
	}
	i, _ := slices.BinarySearchFunc(f.events, seq+1, func(e Event, s uint64) int {
		switch {
		case e.Seq < s:
			return -1
		case e.Seq > s:
			return 1
		}
		return 0
	})
	return slices.Clone(f.events[i:]), f.changed, nil
}

func sizeOf(changes []journal.Change) int {
	n := 64
	for _, c := range changes {
		n += 64 + len(c.Key) + len(c.Value)
	}
	return n
}

func matching(changes []journal.Change, prefix string) []journal.Change {
	if prefix == "" {
		return changes
	}
	var out []journal.Change
	for _, c := range changes {
		if strings.HasPrefix(c.Key, prefix) {
			out = append(out, c)
		}
	}
	return out
}
