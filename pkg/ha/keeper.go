package ha

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/pkg/journal"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// keeper holds the persisted state of this node. One goroutine of its own reads
// the state at the beginning of a reign, commits while the reign lasts, and
// otherwise follows the register's head if the node is hot. Whether and when,
// the loop tells it; it never holds the loop up.
type keeper struct {
	n    *Node
	opts *Persist // nil: nothing is persisted
	feed *feed

	held    atomic.Pointer[held] // nil: no state here
	commits atomic.Uint64        // that succeeded
	trouble atomic.Pointer[string]

	backups, backupsFailed atomic.Uint64          // that this node made, or did not
	backupTrouble          atomic.Pointer[string] // of the last one; nil: none

	settled chan election.Settled
	poke    chan struct{}

	mu                 sync.Mutex
	queue              []*change                     // writers whose turn has not come
	order              *election.Load                // a state to be read for a reign
	reign              lease.Term                    // that may commit; 0: none
	plane              lease.PlaneID                 // empty until the register was read
	head               lease.Head                    // of the register, as last read
	hot                bool                          // this node follows
	first              lease.Term                    // highest term seen when the register was first read
	seen               bool                          // it was
	current            func()                        // ends what is under way for a reign or role that is over
	ready              lease.Head                    // a snapshot that is stored and not yet referred to
	snapped            atomic.Pointer[journal.State] // what the newest snapshot of this reign was made of
	making, collecting bool                          // a snapshot is being made; old segments are being removed

	// Owned by the goroutine.
	clean   bool
	left    lease.Term      // the last reign whose end was seen to
	beganAt time.Time       // of the last commit, for stores with a shortest interval
	kept    string          // why the state was last said not to be readable
	misses  int             // in a row, of objects that should be there
	base    context.Context //nolint:containedctx // of run, for what goes on beside the commits
	beside  sync.WaitGroup
	lister  journal.Lister // of the collector
}

// held is a state and the reign it was read for: 0 if it was followed.
type held struct {
	state *journal.State
	term  lease.Term
}

func newKeeper(n *Node) *keeper {
	k := &keeper{
		n: n, opts: n.opts.Persist, feed: newFeed(),
		settled: make(chan election.Settled, 1), poke: make(chan struct{}, 1),
	}
	k.clean = k.opts != nil && k.opts.Clean
	return k
}

func (k *keeper) wake() {
	select {
	case k.poke <- struct{}{}:
	default:
	}
}

// shown takes note of where the node stands. Called by the loop.
func (k *keeper) shown(v *election.View, s *Status) {
	if k.opts == nil {
		return
	}
	var reign lease.Term
	if v.Reign != nil && !v.Reign.Over {
		reign = v.Reign.Term
	}
	hot := v.Reign == nil && s.Plane != "" && (s.Mode == lease.ModeHotStandby || s.Mode == lease.ModeHotBackup ||
		(k.n.opts.HotStandby && (s.Mode == lease.ModeAuto || s.Mode == lease.ModeMaster)))
	k.mu.Lock()
	defer k.mu.Unlock()
	k.plane = s.Plane
	if !k.seen && !v.Since.IsZero() {
		k.seen, k.first = true, s.Term
	}
	same := reign == k.reign && hot == k.hot
	if same && v.Head == k.head {
		return
	}
	if k.order != nil && k.order.Term != reign {
		k.order = nil // that reign is over
	}
	if !same && k.current != nil && k.order == nil {
		k.current()
	}
	k.reign, k.hot, k.head = reign, hot, v.Head
	k.wake()
}

// load asks for the state that a reign begins with. Called by the loop.
func (k *keeper) load(a election.Load) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.current != nil {
		k.current()
	}
	k.order = &a
	k.reign = a.Term // shown says so in a moment, which may be after the state was read
	k.wake()
}

// settle hands on what became of a commit. Called by the loop.
func (k *keeper) settle(a election.Settled) {
	select {
	case k.settled <- a:
		return
	default:
	}
	select {
	case <-k.settled: // of a commit that nobody waits for any more
	default:
	}
	k.settled <- a // this loop is the only sender
}

// run is the keeper's goroutine.
func (k *keeper) run(ctx context.Context) {
	k.base = ctx
	defer k.beside.Wait()
	defer func() { k.demoted(k.held.Load()) }() //nolint:contextcheck // it outlives ctx
	defer k.fail(ErrClosed)
	again := time.NewTimer(time.Hour)
	defer again.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
			return
		case <-k.poke:
		case <-again.C:
		}
		for k.turn(ctx) {
		}
		again.Reset(k.n.opts.Timing.Heartbeat) // what could not be read may be by then
	}
}

// turn does the next thing there is to do, and reports whether it did any.
func (k *keeper) turn(ctx context.Context) bool {
	k.mu.Lock()
	order, reign, hot, head := k.order, k.reign, k.hot, k.head
	waiting := len(k.queue) > 0 || k.ready.Rand != ""
	op, cancel := context.WithCancel(ctx)
	defer cancel()
	k.current = cancel
	k.mu.Unlock()
	h := k.held.Load()
	switch {
	case ctx.Err() != nil:
		return false
	case order != nil:
		return k.begin(op, order)
	case reign != 0 && h != nil && h.term == reign:
		return waiting && k.commit(op, h)
	case reign != 0:
		return false // its order is on the way
	}
	k.fail(ErrNotMaster)
	k.demoted(h) //nolint:contextcheck // it outlives the turn
	switch {
	case hot && (h == nil || h.state.Head != head):
		return k.follow(op, head, h)
	case !hot && h != nil:
		k.held.Store(nil)
	}
	return false
}

func (k *keeper) loader() *journal.Loader {
	k.mu.Lock()
	defer k.mu.Unlock()
	return &journal.Loader{Objects: k.n.store, Plane: k.plane, Limit: max(k.n.opts.Timing.Operation, minRead)}
}

// minRead is the least time that an object of the persisted state is given to
// bring its next bytes: they may be many.
const minRead = 5 * time.Second

// begin reads the state for a reign and lets the service start.
func (k *keeper) begin(ctx context.Context, o *election.Load) bool {
	done := func(failed string) bool {
		k.mu.Lock()
		current := k.order == o
		if current {
			k.order = nil
		}
		k.ready = lease.Head{}
		k.mu.Unlock()
		if current {
			k.n.send(election.Loaded{Term: o.Term, Failed: failed})
		}
		return true
	}
	from := k.held.Load()
	k.demoted(from) //nolint:contextcheck // it outlives the order
	got, err := k.read(ctx, o.Head, from)
	var damage *journal.DamageError
	switch {
	case errors.As(err, &damage) && damage.Missing() && k.misses < 3:
		k.misses++ // listings and names of some file systems lag
		return k.pause(ctx)
	case errors.As(err, &damage):
		k.complain(err)
		return done(err.Error())
	case err != nil:
		k.complain(err)
		return k.pause(ctx) // renewals go on meanwhile
	}
	k.misses = 0
	k.take(got, o.Term)
	k.promoted(got.State, o.Term) // before CLEAN drops it
	if k.clean && !k.beginClean(ctx, o.Term) {
		return done("the persisted state could not be begun anew")
	}
	return done("")
}

// pause waits for a moment before the store is asked again.
func (k *keeper) pause(ctx context.Context) bool {
	t := time.NewTimer(k.n.opts.Timing.Heartbeat / 5)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
	return true
}

// follow brings a hot node up to the register's head.
func (k *keeper) follow(ctx context.Context, head lease.Head, from *held) bool {
	got, err := k.read(ctx, head, from)
	if err != nil {
		var damage *journal.DamageError
		behind := errors.As(err, &damage) && damage.Missing() && k.misses < 3 // a collection may have been faster
		k.misses++
		if ctx.Err() == nil && !behind {
			k.complain(err)
		}
		return false // it is tried again with the next heartbeat, or head
	}
	k.misses = 0
	k.take(got, 0)
	return true
}

func (k *keeper) read(ctx context.Context, head lease.Head, from *held) (*journal.Loaded, error) {
	var s *journal.State
	if from != nil {
		s = from.state
	}
	return k.loader().Load(ctx, head, s)
}

// take makes a state that was read the one that is shown.
func (k *keeper) take(got *journal.Loaded, term lease.Term) {
	before := k.held.Swap(&held{got.State, term})
	if before != nil && got.Follows {
		for _, g := range got.Segments {
			k.feed.add(g)
		}
	} else {
		k.feed.reset(got.Seq())
	}
	for _, d := range got.Damages {
		k.n.log.Error("the persisted state is damaged; what is older was read instead, nothing is lost yet",
			zap.String("object", d.Object), zap.String("what", d.What), zap.String("remedy", "keep a copy of the store; understudy store fsck shows the rest"))
	}
	k.kept = ""
	k.trouble.Store(nil)
}

// complain says once why the state can not be read.
func (k *keeper) complain(err error) {
	why := err.Error()
	k.trouble.Store(&why)
	if k.kept != why {
		k.kept = why
		k.n.log.Warn("the persisted state can not be read", zap.Error(err))
	}
}

// StateStatus is how the persisted state stands at this node.
type StateStatus struct {
	Enabled bool
	Held    bool   // it can be read here, if the node's state allows it
	Seq     uint64 // number of the last transaction that is held
	Lag     uint64 // how many transactions the register is ahead, as last read
	Keys    int
	Bytes   int64  // of keys and values
	Error   string // why it can not be read; empty otherwise
	Backup  string // why the last backup could not be made; empty otherwise
}

// status describes the state for a status. Called by the loop.
func (k *keeper) status(head lease.Head) StateStatus {
	s := StateStatus{Enabled: k.opts != nil}
	if h := k.held.Load(); h != nil {
		s.Held, s.Seq, s.Keys, s.Bytes = true, h.state.Seq(), h.state.Len(), h.state.Bytes()
	}
	s.Lag = max(head.Seq, s.Seq) - s.Seq
	if why := k.trouble.Load(); why != nil {
		s.Error = *why
	}
	if why := k.backupTrouble.Load(); why != nil {
		s.Backup = *why
	}
	return s
}
