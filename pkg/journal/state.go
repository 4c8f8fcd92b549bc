package journal

import (
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/understudy-ha/understudy/pkg/lease"
)

// Change is one key that is written or deleted.
type Change struct {
	Key    string
	Value  []byte // nil with Delete
	Delete bool
}

// Condition is what must be so for a transaction to happen.
type Condition struct {
	Key     string
	Version uint64 // that the key must have; 0: the key must not be there
	Any     bool   // the key must be there, whatever its version
}

// Txn is changes that happen together, or not at all.
type Txn struct {
	If      []Condition
	Changes []Change
}

// ConflictError says that a condition did not hold. Nothing was changed.
type ConflictError struct {
	Condition
	Have uint64 // the key's version; 0: it is not there
}

func (e *ConflictError) Error() string {
	there := fmt.Sprintf("it has version %d", e.Have)
	if e.Have == 0 {
		there = "it is not there"
	}
	switch {
	case e.Any:
		return fmt.Sprintf("key %q must be there, but %s", e.Key, there)
	case e.Version == 0:
		return fmt.Sprintf("key %q must not be there, but %s", e.Key, there)
	}
	return fmt.Sprintf("key %q must have version %d, but %s; read it and try again", e.Key, e.Version, there)
}

// State is the persisted state after one segment. It never changes.
type State struct {
	Head     lease.Head // the newest segment; empty: nothing was ever persisted
	Term     lease.Term // in which it was written
	Snapshot lease.Head // the newest snapshot that a segment of the chain refers to
	Previous lease.Head // and the one before it
	Segments int        // of the chain since Snapshot
	LogBytes int64      // of these
	t        tree
}

// Empty is the state before the first segment.
func Empty() *State { return &State{} }

// FromEntries is a state that was saved elsewhere: entries in the order of
// their keys, each once, with versions no higher than that of head.
func FromEntries(head lease.Head, term lease.Term, entries []Entry) *State {
	var b builder
	for _, e := range entries {
		b.add(e)
	}
	return &State{Head: head, Term: term, t: b.tree()}
}

// Seq is the number of the last transaction.
func (s *State) Seq() uint64 { return s.Head.Seq }

// Len is the number of keys.
func (s *State) Len() int { return s.t.count }

// Bytes is the sum of the lengths of keys and values.
func (s *State) Bytes() int64 { return s.t.bytes }

// Get returns the entry of a key.
func (s *State) Get(key string) (Entry, bool) { return s.t.get(key) }

// List yields the entries whose keys begin with prefix and come after the key
// after, in the order of their bytes.
func (s *State) List(prefix, after string) iter.Seq[Entry] {
	return func(yield func(Entry) bool) {
		for e := range s.t.from(max(prefix, after)) {
			if !strings.HasPrefix(e.Key, prefix) {
				if e.Key > prefix {
					return
				}
				continue
			}
			if (after == "" || e.Key > after) && !yield(e) {
				return
			}
		}
	}
}

// holds returns a *ConflictError if the condition does not hold.
func (t tree) holds(c Condition) error {
	e, _ := t.get(c.Key) // no key has version 0
	if (c.Any && e.Version != 0) || (!c.Any && e.Version == c.Version) {
		return nil
	}
	return &ConflictError{c, e.Version}
}

// apply makes the changes of transaction seq.
func (t tree) apply(seq uint64, changes []Change) tree {
	for _, c := range changes {
		if c.Delete {
			t = t.remove(c.Key)
		} else {
			t = t.put(Entry{c.Key, c.Value, seq})
		}
	}
	return t
}

// Apply returns the state after a segment that follows s. size is that of its
// object, in bytes. An error says that it does not follow.
func (s *State) Apply(g *Segment, size int64) (*State, error) {
	if g.Pred != s.Head {
		return nil, fmt.Errorf("segment %s follows %s, not %s", name(g.Head), name(g.Pred), name(s.Head))
	}
	n := &State{
		Head: g.Head, Term: g.Term, Snapshot: g.Snapshot, Previous: g.Previous,
		Segments: s.Segments + 1, LogBytes: s.LogBytes + size, t: s.t,
	}
	if g.Clean {
		n.t, n.Segments, n.LogBytes = tree{}, 1, size
	}
	if g.Snapshot != s.Snapshot {
		n.Segments, n.LogBytes = 1, size // a little less than there is since the snapshot
	}
	for i, changes := range g.Txns {
		n.t = n.t.apply(g.Pred.Seq+1+uint64(i), changes)
	}
	return n, nil
}

// Batch gathers transactions into the next segment after a state.
type Batch struct {
	base *State
	t    tree
	txns [][]Change
	size int64
}

// NewBatch begins a batch that follows s; with clean, from an empty state.
func NewBatch(s *State, clean bool) *Batch {
	b := &Batch{base: s, t: s.t}
	if clean {
		b.t = tree{}
	}
	return b
}

// Len is the number of transactions in the batch.
func (b *Batch) Len() int { return len(b.txns) }

// Fits reports whether t can be added without making the segment too large.
func (b *Batch) Fits(t Txn) bool {
	return len(b.txns) == 0 || (b.size+t.Size() <= MaxBatch && len(b.txns) < maxTxns)
}

// maxTxns bounds the transactions of one segment, the empty ones included.
const maxTxns = 1 << 14

// Add adds a transaction, on top of those added before, and returns its
// sequence number. *ConflictError: a condition does not hold. *LimitError: the
// state would become too large.
func (b *Batch) Add(t Txn) (uint64, error) {
	for _, c := range t.If {
		if err := b.t.holds(c); err != nil {
			return 0, err
		}
	}
	seq := b.base.Seq() + uint64(len(b.txns)) + 1
	next := b.t.apply(seq, t.Changes)
	if next.bytes > MaxState && next.bytes > b.t.bytes {
		return 0, &LimitError{What: "bytes of the persisted state", Have: next.bytes, Max: MaxState, Whole: true}
	}
	b.t, b.size = next, b.size+t.Size()
	b.txns = append(b.txns, slices.Clip(t.Changes))
	return seq, nil
}

// Segment is the batch as a segment under a name made of random. snapshot is a
// stored snapshot of a state of this chain, to be referred to from now on; its
// Rand is empty if there is no new one.
func (b *Batch) Segment(plane lease.PlaneID, term lease.Term, random string, snapshot lease.Head, clean bool) *Segment {
	g := &Segment{
		Plane: plane, Term: term, Pred: b.base.Head, Clean: clean, Txns: b.txns,
		Head:     lease.Head{Seq: b.base.Seq() + uint64(len(b.txns)), Rand: random},
		Snapshot: b.base.Snapshot, Previous: b.base.Previous,
	}
	switch {
	case clean:
		g.Snapshot, g.Previous = lease.Head{}, lease.Head{}
	case snapshot.Rand != "":
		g.Snapshot, g.Previous = snapshot, b.base.Snapshot
	}
	return g
}
