package ha

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/pkg/journal"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// Why the persisted state was not read or not changed, besides
// *journal.ConflictError, *journal.LimitError, journal.ErrBadKey, and what the
// store says when it does not take a segment (persistence.Full and the like).
// All but ErrUnknown mean that nothing was changed.
var (
	// ErrNoState: this node persists nothing.
	ErrNoState = errors.New("nothing is persisted here: persistMode is DISABLED; set it to AUTO, with high availability on")
	// ErrNotMaster: only the master changes the persisted state.
	ErrNotMaster = errors.New("only the master changes the persisted state, and this node is not; ask the master")
	// ErrNotHot: this node does not hold the persisted state, or not yet.
	ErrNotHot = errors.New("this node does not hold the persisted state; ask the master or a hot standby")
	// ErrUnknown: the reign ended, or the caller gave up, before the outcome of
	// a change was known. It was made, or will be, or never: read the key.
	ErrUnknown = errors.New("whether the change was made is not known; read the key to find out")
	// ErrBusy: so many changes wait for the store that no more are taken.
	ErrBusy = errors.New("too many changes wait for the store; try again later")
	// ErrBehind: what a watcher is to be told next is no longer at hand.
	ErrBehind = errors.New("the watcher is too far behind; list the keys and watch from there")
)

// NotStoredError says that the store did not take a segment. Nothing was
// changed.
type NotStoredError struct{ Err error }

func (e *NotStoredError) Error() string {
	remedy := "; look at the store and try again"
	if e.Full() {
		remedy = "; free space or raise the quota there, and try again"
	}
	return "the change was not made: " + e.Err.Error() + remedy
}

// Unwrap returns what the store said.
func (e *NotStoredError) Unwrap() error { return e.Err }

// Full reports whether the store has no space left.
func (e *NotStoredError) Full() bool { return errors.Is(e.Err, persistence.Full) }

// Persist says how the state of a plane is persisted. The zero value will do.
type Persist struct {
	// Clean begins with an empty state in this node's next term, if nobody else
	// was master in between.
	Clean bool
	// Retention delays the removal of what nobody needs any more.
	Retention time.Duration
	// Backups are kept beside the state. The zero value keeps none.
	Backups Backups
	// SnapshotSegments and SnapshotBytes say after how much log a snapshot is
	// made; 0: by the size of the last one. For tests.
	SnapshotSegments int
	SnapshotBytes    int64

	without rule // tests only
}

// rule is a rule of the persisted state that a test can remove, to show what it
// is for.
type rule int

const (
	withoutNothing   rule = iota
	withoutPut            // the register may name a segment that is not confirmed to be durable
	withoutFence          // a change counts once its segment is durable
	withoutUndecided      // a commit whose outcome is not known is told to have failed
	withoutChain          // collection goes by a snapshot that no segment refers to yet
)

// State is the persisted state of the plane, as this node may use it: the
// master reads and writes, hot standbys and backups read. Methods may be called
// from any goroutine.
type State struct{ k *keeper }

// Persisted returns the persisted state, never nil.
func (n *Node) Persisted() *State { return &State{n.keeper} }

// Picture is the persisted state after one transaction. It never changes.
type Picture struct {
	// Master: nothing newer was acknowledged by anybody when it was taken.
	// Otherwise it may be behind.
	Master bool
	s      *journal.State
}

// Seq is the number of the newest transaction in the picture.
func (p Picture) Seq() uint64 { return p.s.Seq() }

// State is the whole of it, for those who read everything.
func (p Picture) State() *journal.State { return p.s }

// Len is the number of keys in the picture.
func (p Picture) Len() int { return p.s.Len() }

// Get returns the entry of a key.
func (p Picture) Get(key string) (journal.Entry, bool) { return p.s.Get(key) }

// List yields the entries whose keys begin with prefix and come after the key
// after (empty: from the first), in the order of their bytes.
func (p Picture) List(prefix, after string) iter.Seq[journal.Entry] { return p.s.List(prefix, after) }

// Picture returns the state as it is now: on the master what every
// acknowledged transaction left, on a hot standby or backup as far as it has
// followed. ErrNotHot on any other node, ErrNoState.
func (s *State) Picture() (Picture, error) {
	k := s.k
	if k.opts == nil {
		return Picture{}, ErrNoState
	}
	held := k.held.Load()
	// The clock is asked after the state was taken: whoever is master by then
	// was when it was taken, and nobody else has acknowledged anything (R4).
	st, now := k.n.Status(), k.n.Now()
	switch {
	case held == nil:
	case st.Leading(now) && held.term == st.Reign.Term:
		return Picture{Master: true, s: held.state}, nil
	case st.Reign == nil && isHot(st.StateAt(now)):
		return Picture{s: held.state}, nil
	}
	return Picture{}, ErrNotHot
}

func isHot(s lease.State) bool {
	return s == lease.StateHotStandby || s == lease.StateHotBackup
}

// Get returns the entry of a key, false if there is none. Errors are those of
// Picture.
func (s *State) Get(key string) (journal.Entry, bool, error) {
	p, err := s.Picture()
	if err != nil {
		return journal.Entry{}, false, err
	}
	e, ok := p.Get(key)
	return e, ok, nil
}

// Put writes a key and returns its version, which is the number of the
// transaction. Errors are those of Txn.
func (s *State) Put(ctx context.Context, key string, value []byte, conds ...journal.Condition) (uint64, error) {
	return s.Txn(ctx, journal.Txn{If: conds, Changes: []journal.Change{{Key: key, Value: value}}})
}

// Delete removes a key; that it was not there is no error. Errors are those of
// Txn.
func (s *State) Delete(ctx context.Context, key string, conds ...journal.Condition) (uint64, error) {
	return s.Txn(ctx, journal.Txn{If: conds, Changes: []journal.Change{{Key: key, Delete: true}}})
}

// Txn makes all changes of t, or none, and returns the number of the
// transaction, which becomes the version of each key it writes. When it returns
// nil the changes are durable, and every later reign will have them.
//
// Errors: ErrUnknown when the outcome is not known, also when ctx ends while
// the commit is under way; with any other nothing was changed. See the list of
// errors.
func (s *State) Txn(ctx context.Context, t journal.Txn) (uint64, error) {
	if s.k.opts == nil {
		return 0, ErrNoState
	}
	if err := t.Check(); err != nil {
		return 0, err
	}
	for _, c := range t.Changes {
		if journal.Reserved(c.Key) {
			return 0, fmt.Errorf("%q: %w; keys whose first part begins with '.' are Understudy's own", c.Key, journal.ErrBadKey)
		}
	}
	return s.k.submit(ctx, t)
}

// OwnTxn is Txn for the keys that are Understudy's own (journal.Reserved), such
// as the index of artifacts.
func (s *State) OwnTxn(ctx context.Context, t journal.Txn) (uint64, error) {
	if s.k.opts == nil {
		return 0, ErrNoState
	}
	if err := t.Check(); err != nil {
		return 0, err
	}
	return s.k.submit(ctx, t)
}

// Watch returns a watcher of the transactions after number since that change a
// key with the prefix.
func (s *State) Watch(prefix string, since uint64) (*Watcher, error) {
	if s.k.opts == nil {
		return nil, ErrNoState
	}
	return &Watcher{s: s, prefix: prefix, at: since}, nil
}

// Event is what one transaction has changed.
type Event struct {
	Seq     uint64
	Changes []journal.Change // those that the watcher asked for
}

// Watcher tells of transactions, one after the other. It costs nothing while
// nobody asks it; whoever asks too seldom is told ErrBehind.
type Watcher struct {
	s      *State
	prefix string
	at     uint64
}

// Next waits for the next transaction that changes something the watcher asked
// for. Errors: ErrBehind, ErrNotHot once this node no longer holds the state,
// ErrClosed, ctx's.
func (w *Watcher) Next(ctx context.Context) (Event, error) {
	for {
		if _, err := w.s.Picture(); err != nil {
			return Event{}, err
		}
		events, changed, err := w.s.k.feed.after(w.at)
		if err != nil {
			return Event{}, err
		}
		for _, e := range events {
			w.at = e.Seq
			if e.Changes = matching(e.Changes, w.prefix); len(e.Changes) > 0 {
				return e, nil
			}
		}
		if len(events) > 0 {
			continue
		}
		look := time.NewTimer(watchLook)
		select {
		case <-changed:
		case <-look.C: // whether this node still holds the state
		case <-ctx.Done():
		case <-w.s.k.n.done:
		}
		look.Stop()
		if ctx.Err() != nil {
			return Event{}, ctx.Err()
		}
		select {
		case <-w.s.k.n.done:
			return Event{}, ErrClosed
		default:
		}
	}
}

// watchLook is how often a watcher looks whether its node still holds the state.
const watchLook = time.Second
