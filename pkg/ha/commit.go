package ha

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/pkg/journal"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// change is a transaction that somebody waits for.
type change struct {
	t    journal.Txn
	done chan struct{} // closed when seq and err say what came of it
	seq  uint64
	err  error
}

func (c *change) answer(seq uint64, err error) {
	c.seq, c.err = seq, err
	close(c.done)
}

// maxWaiting bounds the bytes that writers may have waiting, so that a store
// that hangs does not fill the memory.
const maxWaiting = 64 << 20

// submit queues a transaction and waits for what comes of it. One commit is
// under way at a time; whoever comes meanwhile shares the next.
func (k *keeper) submit(ctx context.Context, t journal.Txn) (uint64, error) {
	t.Changes = slices.Clone(t.Changes)
	for i := range t.Changes {
		t.Changes[i].Value = bytes.Clone(t.Changes[i].Value) // the caller may use its own again
	}
	c := &change{t: t, done: make(chan struct{})}
	if err := k.enqueue(c); err != nil {
		return 0, err
	}
	select {
	case <-c.done:
		return c.seq, c.err
	case <-ctx.Done():
	}
	if k.withdraw(c) {
		return 0, ctx.Err() // it was never sent
	}
	select {
	case <-c.done:
		return c.seq, c.err
	default:
		return 0, fmt.Errorf("%w: %w", ErrUnknown, ctx.Err())
	}
}

func (k *keeper) enqueue(c *change) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	h, st := k.held.Load(), k.n.Status()
	if k.reign == 0 || h == nil || h.term != k.reign || !st.Leading(k.n.Now()) {
		return ErrNotMaster
	}
	var waiting int64
	for _, q := range k.queue {
		waiting += q.t.Size()
	}
	if waiting+c.t.Size() > maxWaiting {
		return ErrBusy
	}
	k.queue = append(k.queue, c)
	k.wake()
	return nil
}

// withdraw takes a transaction back whose turn has not come.
func (k *keeper) withdraw(c *change) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	i := slices.Index(k.queue, c)
	if i < 0 {
		return false
	}
	k.queue = slices.Delete(k.queue, i, i+1)
	return true
}

// fail answers everybody who waits with err: nothing of theirs was sent.
func (k *keeper) fail(err error) {
	k.mu.Lock()
	queue := k.queue
	k.queue = nil
	k.mu.Unlock()
	for _, c := range queue {
		c.answer(0, err)
	}
}

// round is one commit: a batch, and who waits for what in it.
type round struct {
	batch *journal.Batch
	made  []*change // with the numbers they get
	lost  []*change // whose conditions did not hold, on top of what else is in the batch
}

// gather takes as many waiting transactions as fit into one segment.
func (k *keeper) gather(s *journal.State) *round {
	r := &round{batch: journal.NewBatch(s, false)}
	k.mu.Lock()
	defer k.mu.Unlock()
	taken := 0
	for _, c := range k.queue {
		if !r.batch.Fits(c.t) {
			break
		}
		taken++
		if c.seq, c.err = r.batch.Add(c.t); c.err != nil {
			r.lost = append(r.lost, c)
		} else {
			r.made = append(r.made, c)
		}
	}
	k.queue = slices.Delete(k.queue, 0, taken)
	return r
}

// answer tells everybody in the round what came of it. A condition that did not
// hold may not have held because of a change in the same segment, so that it
// has to be in force, too, before anybody is told.
func (r *round) answer(err error) {
	for _, c := range append(r.made, r.lost...) {
		if err != nil {
			c.seq, c.err = 0, err
		}
		close(c.done)
	}
}

// commit makes one commit of whatever waits.
func (k *keeper) commit(ctx context.Context, h *held) bool {
	k.keepInterval(ctx)
	runtime.Gosched() // who was just answered may have the next change ready: it shares this commit
	r := k.gather(h.state)
	k.mu.Lock()
	ready := k.ready
	k.mu.Unlock()
	if r.batch.Len() == 0 {
		if ready.Rand == "" {
			var err error // a refusal is a read, and needs the lease as any other
			if st := k.n.Status(); !st.Leading(k.n.Now()) || st.Reign.Term != h.term {
				err = ErrNotMaster
			}
			r.answer(err)
			return true
		}
		if _, err := r.batch.Add(journal.Txn{}); err != nil { // only to name the snapshot
			k.n.log.Error("a commit of nothing was refused", zap.Error(err))
			return false
		}
	}
	g := r.batch.Segment(k.loader().Plane, h.term, newRandom(), ready, false)
	next, err := k.write(ctx, h, g)
	r.answer(err)
	if err != nil {
		// What was only to name the snapshot can wait for the next heartbeat.
		return !errors.Is(err, ErrUnknown) && len(r.made) > 0
	}
	if ready.Rand != "" {
		k.mu.Lock()
		k.ready = lease.Head{}
		k.mu.Unlock()
		k.collect(next)
	}
	k.maySnapshot(next) //nolint:contextcheck // it outlives the commit
	return true
}

// beginClean is the first commit of a plane that was started CLEAN: the state
// begins anew. It reports whether the reign goes on.
func (k *keeper) beginClean(ctx context.Context, term lease.Term) bool {
	k.clean = false
	if k.first+1 != term {
		k.n.log.Error("persistMode CLEAN was not carried out: another node was master since this one was started; stop every node and start again with it",
			zap.Uint64("term", uint64(term)))
		return true
	}
	h := k.held.Load()
	b := journal.NewBatch(h.state, true)
	if _, err := b.Add(journal.Txn{}); err != nil {
		return false
	}
	if _, err := k.write(ctx, h, b.Segment(k.loader().Plane, term, newRandom(), lease.Head{}, true)); err != nil {
		k.n.log.Warn("persistMode CLEAN is carried out in the next term of this node", zap.Error(err))
		k.clean, k.first = true, term
		return false
	}
	k.feed.reset(k.held.Load().state.Seq())
	k.n.log.Info("the persisted state begins anew, as persistMode CLEAN asks; what came before is removed in time", zap.Uint64("term", uint64(term)))
	return true
}

// write stores a segment, has the register name it, and makes the state after
// it the one that is held. The segment is durable before any attempt to name it
// is made; the register decides. With any error but ErrUnknown nothing was
// changed and nothing ever will be: the segment is an orphan.
func (k *keeper) write(ctx context.Context, h *held, g *journal.Segment) (*journal.State, error) {
	g.WallMs = time.Now().UnixMilli()
	b := g.Encode()
	if k.opts.without == withoutPut {
		k.beside.Go(func() { _ = k.n.store.Put(ctx, journal.SegmentKey(g.Head), bytes.NewReader(b), int64(len(b))) })
	} else if err := k.store(ctx, journal.SegmentKey(g.Head), b); err != nil {
		if ctx.Err() != nil {
			return nil, ErrNotMaster // the reign is over
		}
		return nil, &NotStoredError{err}
	}
	next, err := h.state.Apply(g, int64(len(b)))
	if err != nil {
		return nil, fmt.Errorf("the change was not made: %w", err)
	}
	if snapped := k.snapped.Load(); snapped != nil && g.Snapshot != g.Previous && g.Snapshot != h.state.Snapshot {
		next.Segments += h.state.Segments - snapped.Segments // what was committed while it was being written
		next.LogBytes += h.state.LogBytes - snapped.LogBytes
	}
	k.beganAt = time.Now()
	if k.opts.without == withoutFence {
		k.held.Store(&held{next, h.term})
		return next, nil
	}
	k.n.send(election.Commit{Term: h.term, Pred: g.Pred, Head: g.Head})
	for {
		select {
		case a := <-k.settled:
			if a.Head != g.Head {
				continue // of a commit that nobody waits for any more
			}
			switch a.Outcome {
			case election.Committed:
				k.held.Store(&held{next, h.term})
				k.feed.add(g)
				k.commits.Add(1)
				return next, nil
			case election.Refused:
				return nil, ErrNotMaster
			case election.Undecided:
				if k.opts.without == withoutUndecided {
					return nil, ErrNotMaster
				}
			}
			return nil, ErrUnknown
		case <-k.n.done:
			return nil, ErrUnknown
		}
	}
}

// store puts a segment. A request without an answer is repeated: the name is
// unique and the content the same, so a late one does no harm.
func (k *keeper) store(ctx context.Context, key string, b []byte) error {
	for try := 1; ; try++ {
		err := bounded(ctx, max(k.n.opts.Timing.Operation, minRead), func(ctx context.Context) error {
			return k.n.store.Put(ctx, key, bytes.NewReader(b), int64(len(b)))
		})
		unsure := errors.Is(err, persistence.Unknown) || errors.Is(err, persistence.Throttled)
		if err == nil || !unsure || try == 3 || ctx.Err() != nil {
			return err
		}
		k.pause(ctx)
	}
}

// keepInterval waits until a store that takes so many writes of the register
// and no more may be asked for the next.
func (k *keeper) keepInterval(ctx context.Context) {
	wait := k.n.store.Limits().MinBeat - time.Since(k.beganAt)
	if wait <= 0 {
		return
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// newRandom draws the random part of a name.
func newRandom() string {
	const digits = "abcdefghijklmnopqrstuvwxyz234567"
	var b [lease.HeadRandLen]byte
	_, _ = rand.Read(b[:]) // never fails
	for i := range b {
		b[i] = digits[b[i]&31]
	}
	return string(b[:])
}
