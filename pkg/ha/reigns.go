package ha

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/pkg/lease"
)

const historyPrefix = "history/"

// reigns keeps the plane's history: each reign is an object of its own,
// written by its holder and completed by the holder or by the next one. It is
// for people; nothing is decided by it.
type reigns struct {
	n    *Node
	lane *lane
	seen atomic.Pointer[[]ReignRecord] // newest first

	// Owned by the loop.
	asked time.Time

	loaded bool // the store's history was read; owned by the lane, then by Run

	mu      sync.Mutex
	pending []ReignRecord // own records not yet on the store
	all     map[lease.Term]ReignRecord
}

func newReigns(n *Node) *reigns {
	return &reigns{n: n, lane: newLane(), all: map[lease.Term]ReignRecord{}}
}

func (r *reigns) start(ctx context.Context) {
	r.n.lanes.Go(func() { r.lane.run(ctx) })
	r.lane.put(r.sync)
}

func (r *reigns) list() []ReignRecord {
	if l := r.seen.Load(); l != nil {
		return *l
	}
	return nil
}

// began notes that this node's reign has begun to serve.
func (r *reigns) began(rec ReignRecord) {
	r.mu.Lock()
	r.all[rec.Term] = rec
	r.pending = append(r.pending, rec)
	r.mu.Unlock()
	r.lane.put(r.sync)
}

// ended notes the clean end of one of this node's reigns.
func (r *reigns) ended(t lease.Term, code, why string) {
	r.mu.Lock()
	rec, ok := r.all[t]
	if ok {
		to := time.Now()
		rec.To, rec.EndCode, rec.EndReason = &to, code, why
		r.all[t] = rec
		r.pending = append(r.pending, rec)
	}
	r.mu.Unlock()
	if ok {
		r.lane.put(r.sync)
	}
}

// own is one of this node's reigns.
func (r *reigns) own(t lease.Term) (ReignRecord, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rec, ok := r.all[t]
	return rec, ok && rec.Incarnation == r.n.inc
}

// attribute says which operation brought one of this node's reigns about, and
// who asked for it.
func (r *reigns) attribute(t lease.Term, code, actor string) {
	r.mu.Lock()
	rec, ok := r.all[t]
	ok = ok && rec.Incarnation == r.n.inc
	if ok {
		rec.Code, rec.Actor = code, actor
		r.all[t] = rec
		r.pending = append(r.pending, rec)
	}
	r.mu.Unlock()
	if ok {
		r.lane.put(r.sync)
	}
}

// shown fetches what other nodes wrote, when there is something new.
func (r *reigns) shown(s *Status) {
	every := 10 * time.Second
	if l := r.list(); len(l) == 0 || l[0].Term < s.Term {
		every = 2 * r.n.opts.Timing.Heartbeat // its holder writes it once the service is ready
	}
	if r.n.thrifty() {
		every = max(every, glanceEvery/2)
	}
	if !r.n.running.Load() || s.Term == 0 || time.Since(r.asked) < every {
		return
	}
	r.asked = time.Now()
	r.lane.put(r.sync)
}

func historyKey(t lease.Term) string { return fmt.Sprintf("%s%012x", historyPrefix, uint64(t)) }

// sync writes own records and reads those of others that are missing or open.
func (r *reigns) sync(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 4*r.n.opts.Timing.Operation)
	defer cancel()
	if err := errors.Join(r.write(ctx), r.load(ctx), r.refresh(ctx)); err != nil {
		r.n.log.Debug("history", zap.Error(err))
	}
	r.mu.Lock()
	out := make([]ReignRecord, 0, len(r.all))
	for _, rec := range r.all {
		out = append(out, rec)
	}
	r.mu.Unlock()
	slices.SortFunc(out, func(a, b ReignRecord) int { return int(b.Term) - int(a.Term) })
	out = out[:min(len(out), historyLimit)]
	r.seen.Store(&out)
}

func (r *reigns) write(ctx context.Context) error {
	r.mu.Lock()
	todo := r.pending
	r.mu.Unlock()
	for _, rec := range todo {
		if rec.Term > 1 && rec.To == nil {
			r.complete(ctx, rec)
		}
		if err := r.put(ctx, rec); err != nil {
			return err
		}
		r.mu.Lock()
		r.pending = r.pending[1:]
		r.mu.Unlock()
	}
	return nil
}

// complete ends the record of the reign before, whose holder did not.
func (r *reigns) complete(ctx context.Context, next ReignRecord) {
	for t := next.Term - 1; t > 0 && t+5 > next.Term; t-- {
		old, err := r.get(ctx, t)
		if err != nil {
			continue // terms may be skipped: a claim that lost uses one up
		}
		if old.To == nil {
			to := next.From
			old.To, old.EndCode, old.EndReason = &to, EndSilent, "silent"
			if next.Code == CodeReleased {
				old.EndCode, old.EndReason = EndCrashed, "its process died; its guard let go of the term"
			}
			if err := r.put(ctx, old); err == nil {
				r.keep(old)
			}
		}
		return
	}
}

func (r *reigns) put(ctx context.Context, rec ReignRecord) error {
	b, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	return r.n.store.Put(ctx, historyKey(rec.Term), bytes.NewReader(b), int64(len(b)))
}

func (r *reigns) get(ctx context.Context, t lease.Term) (ReignRecord, error) {
	var rec ReignRecord
	b, err := readObject(ctx, r.n.store, historyKey(t))
	if err != nil {
		return rec, err
	}
	return rec, json.Unmarshal(b, &rec)
}

// pended writes the record of a reign whose service has not begun yet.
func (r *reigns) pended(ctx context.Context, rec ReignRecord) error {
	ctx, cancel := context.WithTimeout(ctx, 2*r.n.opts.Timing.Operation)
	defer cancel()
	if err := r.put(ctx, rec); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.all[rec.Term]; !ok {
		r.all[rec.Term] = rec
	}
	return nil
}

// unfencedWithin bounds how many terms back is looked for a record.
const unfencedWithin = 32

// unfenced lists whom the holder of a term had to fence and, as far as the
// history tells, did not. A holder takes over what those before it have left
// undone before it does anything, so one record tells. Where the holder of the
// term itself has left none, the one before it may have fallen silent.
func (r *reigns) unfenced(ctx context.Context, term lease.Term) ([]election.Silent, error) {
	ctx, cancel := context.WithTimeout(ctx, 4*r.n.opts.Timing.Operation)
	defer cancel()
	for t := term; t > 0 && t+unfencedWithin > term; t-- {
		rec, err := r.get(ctx, t)
		var syntax *json.SyntaxError
		if errors.Is(err, persistence.Absent) || errors.As(err, &syntax) {
			continue // a claim that lost uses up a term, too
		}
		if err != nil {
			return nil, err
		}
		var owed []election.Silent
		if t < term && rec.To == nil {
			owed = append(owed, election.Silent{Node: rec.Node, Term: t, Incarnation: rec.Incarnation})
		}
		for _, f := range rec.Fencing {
			if f.Outcome == FencePending {
				owed = append(owed, election.Silent{Node: f.Node, Term: f.Term})
			}
		}
		return owed, nil
	}
	return nil, nil
}

func (r *reigns) keep(rec ReignRecord) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if have, ok := r.all[rec.Term]; !ok || have.To == nil {
		r.all[rec.Term] = rec
	}
}

// load reads the history once, newest last.
func (r *reigns) load(ctx context.Context) error {
	if r.loaded {
		return nil
	}
	var keys []string
	after := ""
	for {
		page, err := r.n.store.List(ctx, historyPrefix, after)
		if err != nil {
			return err
		}
		for _, it := range page.Items {
			keys, after = append(keys, it.Key), it.Key
		}
		if !page.More || len(page.Items) == 0 {
			break
		}
	}
	for _, k := range keys[max(0, len(keys)-historyLimit):] {
		var t uint64
		if _, err := fmt.Sscanf(strings.TrimPrefix(k, historyPrefix), "%x", &t); err != nil {
			continue
		}
		if rec, err := r.get(ctx, lease.Term(t)); err == nil {
			r.keep(rec)
		} else if !errors.Is(err, persistence.Absent) && ctx.Err() != nil {
			return err
		}
	}
	r.loaded = true
	return nil
}

// refresh fetches the newest reign and those still open.
func (r *reigns) refresh(ctx context.Context) error {
	for _, t := range r.wanted(r.n.Status()) {
		rec, err := r.get(ctx, t)
		if err == nil && rec.Incarnation != r.n.inc {
			r.keep(rec)
		} else if err != nil && ctx.Err() != nil {
			return err
		}
	}
	return nil
}

// wanted are the reigns to fetch, newest first. A holder completes what was
// left open before it writes of its own reign, so where requests cost money
// nobody looks after what is open still.
func (r *reigns) wanted(s *Status) []lease.Term {
	var out []lease.Term
	r.mu.Lock()
	defer r.mu.Unlock()
	// A reign that is seen to last has nothing new to tell.
	if rec, ok := r.all[s.Term]; s.Term > 0 && (!ok || rec.To == nil && !s.HolderOK) {
		out = append(out, s.Term)
	}
	if len(out) == 0 && r.n.thrifty() {
		return nil
	}
	for t, rec := range r.all {
		if rec.To == nil && t != s.Term {
			out = append(out, t)
		}
	}
	slices.SortFunc(out, func(a, b lease.Term) int { return cmp.Compare(b, a) })
	return out
}
