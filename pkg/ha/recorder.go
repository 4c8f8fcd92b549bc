package ha

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// masterRecordInterval is how often a master writes its node record: its
// renewal of the register is its heartbeat, the record only tells the rest.
const masterRecordInterval = 10 * time.Second

const recordPrefix = "nodes/"

// maxRecord bounds how much of an advisory object is read.
const maxRecord = 1 << 20

// recorder writes this node's advisory record once per interval and at each
// change, and watches for another process that writes it too (R14).
type recorder struct {
	n    *Node
	host string
	lane *lane

	mu      sync.Mutex
	beat    uint64        // records that were begun
	stored  uint64        // and those that reached the store
	failed  uint64        // or did not
	written lease.Instant // completion of the last record that was written
	says    int           // the priority in it

	// Owned by the loop.
	at     lease.Instant // when the last record was asked for
	every  time.Duration
	key    recordKey
	began  bool
	holder holder

	other atomic.Pointer[lease.NodeRecord] // of a clone

	// Owned by the lane.
	rival  clone
	looks  int           // for a clone
	lookAt lease.Instant // the last one
	alone  bool          // it showed none
	looked bool
	wrote  bool
	found  lease.Incarnation // whose record was there when this run began
}

// recordKey is what makes a record worth writing before its time.
type recordKey struct {
	state     lease.State
	mode      lease.Mode
	priority  int
	electable bool
}

// holder is a run under this node's id, not this one, that holds the register.
type holder struct {
	inc   lease.Incarnation
	moves int // seen of the register when it was first seen to hold it
}

// clone is another process seen under this node's id.
type clone struct {
	inc     lease.Incarnation
	beat    uint64
	changes int
}

func newRecorder(n *Node, host string) *recorder {
	return &recorder{n: n, host: host, lane: newLane()}
}

func (r *recorder) start(ctx context.Context) { r.n.lanes.Go(func() { r.lane.run(ctx) }) }

// record is what this node says of itself now.
func (r *recorder) record(s *Status, now lease.Instant) lease.NodeRecord {
	r.mu.Lock()
	beat := r.beat
	r.mu.Unlock()
	why := s.Why
	return lease.NodeRecord{
		Node: s.Node, Incarnation: s.Incarnation, Beat: beat, IntervalMs: r.interval(s).Milliseconds(),
		State: s.StateAt(now), Mode: s.Mode, URI: s.URI, Key: r.n.opts.Key, Host: r.host, Priority: s.Priority, Version: s.Version,
		Term: s.Term, Electable: s.Electable, Why: why, LeaseMs: s.Timeout.Milliseconds(),
		StateSeq: s.Persisted.Seq, StoreMs: time.Duration(r.n.latency.Load()).Milliseconds(), WallMs: time.Now().UnixMilli(), StartedMs: s.Started.UnixMilli(),
	}
}

func (r *recorder) interval(s *Status) time.Duration {
	switch {
	case s.Reign != nil && r.n.thrifty():
		return thriftyRecord
	case s.Reign != nil:
		return masterRecordInterval
	}
	return r.n.opts.Timing.StandbyHeartbeat
}

// poke has the record written with the next status.
func (r *recorder) poke() { r.began = false }

// shown writes the record when it is due.
func (r *recorder) shown(s *Status, now lease.Instant) {
	if !r.n.running.Load() || !r.n.registered || s.Mode == lease.ModeDisabled {
		return
	}
	key := recordKey{s.StateAt(now), s.Mode, s.Priority, s.Electable}
	if r.began && key == r.key && now.Longest(r.at) < min(r.every, r.interval(s)) {
		return
	}
	// A little early, by chance: two clones that write in step would each see
	// nothing but its own record.
	r.began, r.key, r.at = true, key, now
	r.every = r.interval(s) - random{}.Jitter(r.interval(s)/5)
	r.lane.put(func(ctx context.Context) {
		if err := r.write(ctx, s); err != nil {
			r.n.log.Debug("node record", zap.Error(err))
		}
	})
}

// last writes a final record: this node stopped cleanly, or was told to end.
func (r *recorder) last(ctx context.Context) {
	s := *r.n.Status()
	if s.Mode == lease.ModeDisabled || !r.n.registered {
		return
	}
	s.Standing, s.Reign, s.Electable = lease.StateTerminated, nil, false
	ctx, cancel := context.WithTimeout(ctx, r.n.opts.Timing.Operation)
	defer cancel()
	if err := r.put(ctx, &s); err != nil {
		r.n.log.Debug("last node record", zap.Error(err))
	}
}

func (r *recorder) write(ctx context.Context, s *Status) error {
	ctx, cancel := context.WithTimeout(ctx, 2*r.n.opts.Timing.Operation)
	defer cancel()
	if err := r.lookForClone(ctx, s); err != nil {
		return err
	}
	return r.put(ctx, s)
}

func (r *recorder) put(ctx context.Context, s *Status) error {
	r.mu.Lock()
	r.beat++
	r.mu.Unlock()
	b := r.record(s, r.n.Now()).Encode()
	r.wrote = true
	err := r.n.timed(func() error {
		return r.n.store.Put(ctx, recordPrefix+string(s.Node), bytes.NewReader(b), int64(len(b)))
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.failed++
		return err
	}
	r.stored++
	r.written, r.says = r.n.Now(), s.Priority
	return nil
}

// sums are how many records reached the store, and how many did not.
func (r *recorder) sums() (stored, failed uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stored, r.failed
}

// tells reports whether the record on the store has the priority.
func (r *recorder) tells(priority int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.written.IsZero() && r.says == priority
}

// wroteAt is when this node's record last reached the store.
func (r *recorder) wroteAt() lease.Instant {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.written
}

// lookForClone reads the own record before it is overwritten. A record under
// the same id that changes while we watch belongs to another live process: a
// cloned machine or a copied data directory (R14). One that stands still is
// the trace of a former run.
func (r *recorder) lookForClone(ctx context.Context, s *Status) error {
	now := r.n.Now()
	if r.n.thrifty() && r.alone && r.looks >= firstLooks && now.Longest(r.lookAt) < thriftyLook {
		return nil
	}
	r.looks, r.lookAt, r.alone = r.looks+1, now, true
	b, err := readObject(ctx, r.n.store, recordPrefix+string(s.Node))
	if errors.Is(err, persistence.Absent) {
		r.looked = true
		return nil
	}
	if err != nil {
		r.alone = false // nothing was seen
		return err
	}
	rec, err := lease.ParseNodeRecord(b)
	if err == nil && !r.looked {
		r.found = rec.Incarnation
	}
	r.looked = true
	if err != nil || rec.Incarnation == s.Incarnation || rec.State == lease.StateTerminated {
		return nil //nolint:nilerr // a torn record says nothing about a clone
	}
	r.alone = false
	r.other.Store(&rec)
	if rec.Incarnation != r.rival.inc {
		r.rival = clone{inc: rec.Incarnation, beat: rec.Beat}
		if r.wrote {
			r.rival.changes = 1 // it overwrote ours
		}
	} else if rec.Beat != r.rival.beat {
		r.rival.beat = rec.Beat
		r.rival.changes++
	}
	// Whoever found the other alive when it began gives way. Two that began
	// together settle it by incarnation, after time enough for the first rule.
	newcomer := rec.Incarnation == r.found
	if (newcomer && r.rival.changes >= 2) || (rec.Incarnation < s.Incarnation && r.rival.changes >= 6) {
		r.giveWay(s.Node)
	}
	return nil
}

// watchHolder looks for a clone that is master. It writes its record only now
// and then, but it renews the register with every heartbeat, and whoever does
// not hold the term gives way to it (R14). It runs in the loop.
func (r *recorder) watchHolder(v *election.View) {
	h := &r.holder
	switch {
	case v.Reign != nil || !v.Held || v.Holder != r.n.opts.Node || v.HolderInc == r.n.inc:
		*h = holder{}
	case v.HolderInc != h.inc:
		*h = holder{inc: v.HolderInc, moves: v.Moves}
	case v.Moves >= h.moves+2:
		r.giveWay(r.n.opts.Node)
	}
}

// giveWay ends this process in favour of its clone.
func (r *recorder) giveWay(id lease.NodeID) {
	other := "another host"
	if rec := r.other.Load(); rec != nil {
		other = fmt.Sprintf("host %s (%s)", rec.Host, rec.URI)
	}
	r.n.endFor(3, fmt.Sprintf("node id %s is in use by another live process: this one on host %s, the other on %s. One machine or data directory was cloned from the other; give one of them a data directory of its own", id, r.host, other))
}

// endFor leaves cleanly and then ends with a code of its own.
func (n *Node) endFor(code int, why string) {
	n.ending.CompareAndSwap(nil, &ExitError{Code: code, Reason: why})
	n.Shutdown(why)
}

func readObject(ctx context.Context, store persistence.Objects, key string) ([]byte, error) {
	rc, err := store.Get(ctx, key)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(rc, maxRecord))
	return b, errors.Join(err, rc.Close())
}
