package verify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/understudy-ha/understudy/persistence"
)

// result is what came of one round of a race.
type result struct {
	winners []int // writers that were told nil
	unknown error // what some writer was told that is neither, nor Throttled
}

// race starts all writers at the same moment.
func (r *run) race(ctx context.Context, f func(ctx context.Context, writer int) error) result {
	octx, cancel := context.WithTimeout(ctx, r.opts.Limit)
	defer cancel()
	var wg sync.WaitGroup
	errs := make([]error, r.opts.Writers)
	start := make(chan struct{})
	for w := range errs {
		wg.Go(func() {
			<-start
			errs[w] = f(octx, w)
		})
	}
	close(start)
	wg.Wait()
	var res result
	for w, err := range errs {
		switch {
		case err == nil:
			res.winners = append(res.winners, w)
		case errors.Is(err, persistence.Throttled):
			r.throttled++
		case !errors.Is(err, persistence.Conflict):
			res.unknown = err
		}
	}
	return res
}

// tally sums up the rounds of one kind of race.
type tally struct {
	name string
	idle int // rounds that nobody won
	lost int // rounds whose winner was not told
}

// round judges one round. old is what the register held before, nil for
// nothing; vals is what each writer meant to write. It returns what the
// register holds now, and stop when there is no point in going on.
func (r *run) round(ctx context.Context, t *tally, n int, res result, old []byte, vals [][]byte, hs []persistence.Store) (now persistence.Snapshot, stop bool, err error) {
	fail := func(format string, args ...any) (persistence.Snapshot, bool, error) {
		r.add(t.name, persistence.GradeFail, fmt.Sprintf("round %d of %d writers: ", n+1, len(vals))+fmt.Sprintf(format, args...), useOther)
		return persistence.Snapshot{}, true, nil
	}
	if ctx.Err() != nil {
		return now, true, ctx.Err()
	}
	if len(res.winners) > 1 {
		return fail("%d were told that they had won", len(res.winners))
	}
	if len(res.winners) == 0 && res.unknown != nil {
		// An attempt may still be on its way and win, rightly, whenever it
		// lands: nothing that follows could be judged.
		return now, true, fmt.Errorf("no writer of %d got a clear answer: %w", len(vals), res.unknown)
	}
	want := -1
	if len(res.winners) == 1 {
		want = res.winners[0]
	}
	// Two handles see the same, and still do a moment later.
	for i, h := range []persistence.Store{hs[0], hs[len(hs)-1], hs[0]} {
		snap, err := r.settle(ctx, h, func(s persistence.Snapshot) bool {
			return want < 0 || !bytes.Equal(s.Value, old)
		})
		if errors.Is(err, persistence.Absent) && old == nil && want < 0 {
			t.idle++
			return persistence.Snapshot{}, false, nil
		}
		if err != nil {
			return now, true, err
		}
		wrote := -1
		for w, v := range vals {
			if bytes.Equal(v, snap.Value) {
				wrote = w
			}
		}
		switch {
		case want >= 0 && wrote != want:
			return fail("writer %d was told that it had won, but the register reads %q", want, snap.Value)
		case i > 0 && snap.Version != now.Version:
			return fail("the register went on changing after the race, from %q to %q", now.Value, snap.Value)
		case wrote < 0 && !bytes.Equal(snap.Value, old):
			return fail("the register reads %q, which nobody wrote in this round", snap.Value)
		case i > 0:
		case wrote < 0:
			t.idle++
		case want < 0:
			t.lost++
		}
		now = snap
	}
	return now, false, nil
}

// finish reports a kind of race that nothing spoke against.
func (r *run) finish(t *tally) {
	rounds := r.opts.Rounds
	detail := fmt.Sprintf("%d writers × %d rounds, one winner each", r.opts.Writers, rounds)
	switch {
	case t.idle == rounds:
		r.add(t.name, persistence.GradeFail, fmt.Sprintf("in %d rounds nobody won", rounds), useOther)
	case t.idle > 0 || t.lost > 0:
		r.add(t.name, persistence.GradeWarn, fmt.Sprintf("%d writers × %d rounds, never two winners; nobody won %d, the winner was not told in %d",
			r.opts.Writers, rounds, t.idle, t.lost), checkServer)
	default:
		r.add(t.name, persistence.GradeOK, detail, "")
	}
}

func (r *run) raceCreate(ctx context.Context) error {
	t := &tally{name: "racing creators"}
	for n := range r.opts.Rounds {
		hs, err := r.handles(fmt.Sprintf(".create-%d", n), r.opts.Writers)
		if err != nil {
			return err
		}
		vals := r.draw()
		res := r.race(ctx, func(ctx context.Context, w int) error { return hs[w].Init(ctx, vals[w]) })
		if _, stop, err := r.round(ctx, t, n, res, nil, vals, hs); stop || err != nil {
			return err
		}
		r.advance()
	}
	r.finish(t)
	return nil
}

func (r *run) raceCAS(ctx context.Context) error {
	t := &tally{name: "racing writers"}
	hs, err := r.handles(".race", r.opts.Writers)
	if err != nil {
		return err
	}
	if err := r.timed(ctx, nil, func(ctx context.Context) error { return hs[0].Init(ctx, r.value()) }); err != nil {
		return err
	}
	now, err := r.read(ctx, hs[0])
	if err != nil {
		return err
	}
	for n := range r.opts.Rounds {
		if err := r.pace(ctx); err != nil {
			return err
		}
		vals := r.draw()
		res := r.race(ctx, func(ctx context.Context, w int) error {
			_, err := hs[w].CAS(ctx, now.Version, vals[w])
			return err
		})
		next, stop, err := r.round(ctx, t, n, res, now.Value, vals, hs)
		if stop || err != nil {
			return err
		}
		now = next
		r.advance()
	}
	// Whatever is still on its way has lost: a late write must not appear.
	select {
	case <-time.After(r.opts.Heartbeat / 50):
	case <-ctx.Done():
		return ctx.Err()
	}
	last, err := r.read(ctx, hs[0])
	if err != nil {
		return err
	}
	if last.Version != now.Version {
		r.add(t.name, persistence.GradeFail, fmt.Sprintf("the register went on changing after the race, from %q to %q", now.Value, last.Value), useOther)
		return nil
	}
	r.finish(t)
	return nil
}

func (r *run) draw() [][]byte {
	vals := make([][]byte, r.opts.Writers)
	for i := range vals {
		vals[i] = r.value()
	}
	return vals
}
