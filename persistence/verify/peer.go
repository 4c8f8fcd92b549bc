package verify

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/understudy-ha/understudy/persistence"
)

// Peer makes two runs, on two nodes, race each other: caches and locks of one
// machine's client show nothing of what two clients do to each other. The two
// meet in a scratch location of the store itself, so they need nothing else in
// common; and each judges the winners of both.
type Peer struct {
	// Token names the meeting place; NewToken draws one. Both give the same.
	Token string
	// Lead is true for the run that makes the meeting place and takes it away,
	// which is to be started first.
	Lead bool
	// Host names this run to the other one. Machine is equal for two runs on
	// one machine, and for no others; it may be empty.
	Host, Machine string
	// Ready is called when the meeting place is there, so that the other run can
	// be started. May be nil.
	Ready func()
	// Wait is how long to wait for the other run to appear. Zero: 5 minutes.
	Wait time.Duration
}

// NewToken names a meeting of two runs.
func NewToken() string { return strings.ToLower(rand.Text()[:8]) }

// ValidToken reports whether s is a token that NewToken could have drawn.
func ValidToken(s string) bool {
	return len(s) == 8 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz234567") == ""
}

// ErrNoMeeting is returned when there is no run to join.
var ErrNoMeeting = errors.New("no run with this token waits here")

// silence is how long the other run may take for one step.
const silence = 2 * time.Minute

// The two sides of a meeting.
const (
	sideLead = "a"
	sideJoin = "b"
)

// meeting is where two runs exchange messages: objects with one writer each,
// named m/<step>.<side>.
type meeting struct {
	r     *run
	root  persistence.Store
	box   persistence.Store // for messages
	other string            // side
	host  string            // of the other, once it is known
	heard map[string]bool   // what the other has sent, as far as listed
}

// hello is the first message of each side; the lead's settings count.
type hello struct {
	Host    string `json:"host"`
	Machine string `json:"machine"`
	Writers int    `json:"writers"`
	Rounds  int    `json:"rounds"`
}

// arrive opens the meeting, or joins it; leave ends it.
func (r *run) arrive(ctx context.Context) (leave func(), err error) {
	p := r.opts.Peer
	m := &meeting{r: r, other: sideLead, heard: map[string]bool{}}
	r.side = sideJoin
	if p.Lead {
		r.side, m.other = sideLead, sideJoin
	}
	name := ScratchPrefix + "peer-" + p.Token
	if m.root, err = r.store.Sub(name); err != nil {
		return nil, err
	}
	if m.box, err = m.root.Sub(".box"); err != nil {
		return nil, err
	}
	if !p.Lead {
		var h hello
		if err := m.get(ctx, "hello", &h); errors.Is(err, persistence.Absent) {
			return nil, fmt.Errorf("%w: %s holds no %s; is it the same location there and mounted here, is the first run still waiting, and the token right?",
				ErrNoMeeting, r.store.Limits().URL, name)
		} else if err != nil {
			return nil, err
		}
		m.host, r.opts.Writers, r.opts.Rounds = h.Host, h.Writers, h.Rounds
	}
	r.meet = m
	if err := m.put(ctx, "hello", hello{p.Host, p.Machine, r.opts.Writers, r.opts.Rounds}); err != nil {
		return nil, err
	}
	if p.Ready != nil {
		p.Ready()
	}
	return func() { m.leave(context.WithoutCancel(ctx)) }, nil
}

// leave says good-bye; the lead waits a moment for the other's and clears up.
func (m *meeting) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 2*m.r.opts.Limit)
	defer cancel()
	_ = m.put(ctx, "bye", nil) // the other would wait, and then give up by itself
	if m.r.side != sideLead {
		return
	}
	if m.host != "" {
		_ = m.await(ctx, "bye", m.r.opts.Limit, nil)
	}
	if err := m.root.RemoveAll(ctx); err != nil {
		m.r.add("clean up", persistence.GradeWarn, err.Error(), "remove it later: understudy store fsck --remove-scratch")
	}
}

// abandon tells the other side that nothing more will come.
func (r *run) abandon(ctx context.Context, why error) {
	if r.meet != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.opts.Limit)
		defer cancel()
		_ = r.meet.put(ctx, "left", why.Error())
	}
}

func (m *meeting) put(ctx context.Context, step string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return m.r.timed(ctx, nil, func(ctx context.Context) error {
		return m.box.Put(ctx, "m/"+step+"."+m.r.side, bytes.NewReader(b), int64(len(b)))
	})
}

// get reads what the other side has sent for the step.
func (m *meeting) get(ctx context.Context, step string, into any) error {
	return m.r.timed(ctx, nil, func(ctx context.Context) error {
		rc, err := m.box.Get(ctx, "m/"+step+"."+m.other)
		if err != nil {
			return err
		}
		b, err := io.ReadAll(rc)
		if err = errors.Join(err, rc.Close()); err != nil || into == nil {
			return err
		}
		return json.Unmarshal(b, into)
	})
}

// await waits for the other side's message.
func (m *meeting) await(ctx context.Context, step string, limit time.Duration, into any) error {
	pause := 2 * time.Millisecond
	if m.r.store.Limits().PollDivisor == 1 { // each look costs money
		pause = 200 * time.Millisecond
	}
	for end := time.Now().Add(limit); ; {
		if err := m.listen(ctx); err != nil {
			return err
		}
		if m.heard[step] {
			if err := m.get(ctx, step, into); !errors.Is(err, persistence.Absent) && !errors.Is(err, persistence.Unknown) {
				return err
			}
			// It is listed, and can not be opened yet.
		} else if m.heard["left"] && step != "bye" {
			var why string
			_ = m.get(ctx, "left", &why)
			return fmt.Errorf("%w: the run at %s has ended early: %s", persistence.Unknown, m.host, why)
		}
		if time.Now().After(end) {
			return fmt.Errorf("the other run did not get to %q within %s: %w", step, limit, context.DeadlineExceeded)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (m *meeting) listen(ctx context.Context) error {
	return m.r.timed(ctx, nil, func(ctx context.Context) error {
		after := ""
		for {
			page, err := m.box.List(ctx, "m/", after)
			if err != nil {
				return err
			}
			for _, it := range page.Items {
				after = it.Key
				if step, ok := strings.CutSuffix(strings.TrimPrefix(it.Key, "m/"), "."+m.other); ok {
					m.heard[step] = true
				}
			}
			if !page.More || len(page.Items) == 0 {
				return nil
			}
		}
	})
}

// sub opens a register of the meeting.
func (m *meeting) sub(name string, n int) ([]persistence.Store, error) {
	hs := make([]persistence.Store, n)
	for i := range hs {
		var err error
		if hs[i], err = m.root.Sub(name); err != nil {
			return nil, err
		}
	}
	return hs, nil
}

// racePeer waits for the other node and races it.
func (r *run) racePeer(ctx context.Context) error {
	m, p := r.meet, r.opts.Peer
	wait := p.Wait
	if wait == 0 {
		wait = 5 * time.Minute
	}
	var h hello
	if err := m.await(ctx, "hello", wait, &h); err != nil {
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			return fmt.Errorf("nobody joined: run the line shown above on the other node, and see that it names the same location: %w", err)
		}
		return err
	}
	m.host = h.Host
	if h.Machine != "" && h.Machine == p.Machine {
		r.add("other node", persistence.GradeWarn, "both runs are on one machine, so nothing was learnt about the caches of two",
			"run the second one on another node")
	}
	hs, err := m.sub(".race", r.opts.Writers)
	if err != nil {
		return err
	}
	if p.Lead {
		first := []byte("u1.verify.first." + strings.ToLower(rand.Text()))
		if err := r.timed(ctx, nil, func(ctx context.Context) error { return hs[0].Init(ctx, first) }); err != nil {
			return err
		}
	}
	// Both have come here before either begins.
	if err := m.exchange(ctx, "ready", nil, nil, wait); err != nil {
		return err
	}
	if bad, err := r.createAgainst(ctx); bad || err != nil {
		return err
	}
	return r.swapAgainst(ctx, hs)
}

// exchange sends mine and waits for theirs.
func (m *meeting) exchange(ctx context.Context, step string, mine, theirs any, limit time.Duration) error {
	if err := m.put(ctx, step, mine); err != nil {
		return err
	}
	return m.await(ctx, step, limit, theirs)
}

// created is what one side says of one round of creating.
type created struct {
	Won  []string `json:"won"`  // values whose writer was told that it had won
	Read string   `json:"read"` // the register afterwards; empty: none, or no answer
}

// createAgainst has both nodes create the same registers.
func (r *run) createAgainst(ctx context.Context) (bad bool, err error) {
	name := "creators on two nodes"
	for n := range r.opts.Rounds {
		step := fmt.Sprintf("create-%03d", n)
		hs, err := r.meet.sub("."+step, r.opts.Writers)
		if err != nil {
			return false, err
		}
		vals := r.draw()
		res := r.race(ctx, func(ctx context.Context, w int) error { return hs[w].Init(ctx, vals[w]) })
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		var mine, theirs created
		for _, w := range res.winners {
			mine.Won = append(mine.Won, string(vals[w]))
		}
		if err := r.meet.exchange(ctx, step, mine, &theirs, silence); err != nil {
			return false, err
		}
		// Only now has everybody written.
		snap, err := r.settle(ctx, hs[0], func(persistence.Snapshot) bool { return true })
		if err != nil && !errors.Is(err, persistence.Absent) {
			return false, err
		}
		won := slices.Concat(mine.Won, theirs.Won)
		mine.Read = string(snap.Value)
		if err := r.meet.exchange(ctx, step+"-read", mine, &theirs, silence); err != nil {
			return false, err
		}
		wrong := ""
		switch {
		case len(won) > 1:
			wrong = fmt.Sprintf("%d writers were told that they had created one register: %d here, %d at %s", len(won), len(mine.Won), len(theirs.Won), r.meet.host)
		case mine.Read != theirs.Read:
			wrong = fmt.Sprintf("the two nodes read different registers, %q here and %q at %s", mine.Read, theirs.Read, r.meet.host)
		case len(won) == 1 && won[0] != mine.Read:
			wrong = fmt.Sprintf("the register reads %q, not what its creator wrote, %q", mine.Read, won[0])
		}
		if wrong != "" {
			r.add(name, persistence.GradeFail, fmt.Sprintf("round %d: %s", n+1, wrong), useOther)
			return true, nil
		}
		r.advance()
	}
	r.add(name, persistence.GradeOK, fmt.Sprintf("2 × %d writers × %d rounds, never two winners", r.opts.Writers, r.opts.Rounds), "")
	return false, nil
}

// ledger is what one side says of its swaps.
type ledger struct {
	Won   map[string][]string `json:"won"`   // the value that was swapped away: by which ones
	Tried []string            `json:"tried"` // values that somebody read and tried to swap away
	Last  string              `json:"last"`  // the register when both had finished
}

// swapAgainst has both nodes swap one register as fast as they can, each
// writer from whatever it reads: a chain of values, whoever wrote them, in
// which no value is swapped away twice and none that was confirmed is missing.
func (r *run) swapAgainst(ctx context.Context, hs []persistence.Store) error {
	mine, err := r.swapFreely(ctx, hs)
	if err != nil {
		return err
	}
	if err := r.meet.exchange(ctx, "swapped", nil, nil, silence); err != nil {
		return err
	}
	snap, err := r.settle(ctx, hs[0], func(persistence.Snapshot) bool { return true })
	if err != nil {
		return err
	}
	mine.Last = string(snap.Value)
	var theirs ledger
	if err := r.meet.exchange(ctx, "ledger", mine, &theirs, silence); err != nil {
		return err
	}
	r.judgeLedgers(mine, theirs)
	return nil
}

// swapFreely makes this side's attempts, and goes on as long as the other
// side makes its own, so that neither has the register to itself.
func (r *run) swapFreely(ctx context.Context, hs []persistence.Store) (ledger, error) {
	var (
		mu    sync.Mutex
		l     = ledger{Won: map[string][]string{}}
		tried = map[string]bool{}
		fatal error
		wg    sync.WaitGroup
		over  = make(chan struct{}) // the other side has made its attempts
		left  = r.opts.Rounds * r.opts.Writers
		full  = 0 // attempts refused as too many
	)
	attempt := func(h persistence.Store) {
		mu.Lock()
		val := r.value()
		mu.Unlock()
		octx, cancel := context.WithTimeout(ctx, r.opts.Limit)
		defer cancel()
		snap, err := h.Read(octx)
		if err == nil {
			mu.Lock()
			tried[string(snap.Value)] = true
			mu.Unlock()
			_, err = h.CAS(octx, snap.Version, val)
		}
		mu.Lock()
		defer mu.Unlock()
		left--
		switch {
		case err == nil:
			l.Won[string(snap.Value)] = append(l.Won[string(snap.Value)], string(val))
		case errors.Is(err, persistence.Throttled):
			full++
		case !errors.Is(err, persistence.Conflict) && !errors.Is(err, persistence.Unknown):
			fatal = err
		}
	}
	goOn := func() bool {
		mu.Lock()
		quota, failed := left > 0, fatal != nil
		mu.Unlock()
		if quota || failed {
			return !failed && ctx.Err() == nil
		}
		select {
		case <-over:
			return false
		case <-time.After(20 * time.Millisecond): // the ledger must not grow without bound
			return ctx.Err() == nil
		}
	}
	for _, h := range hs {
		wg.Go(func() {
			for goOn() && r.pace(ctx) == nil {
				attempt(h)
			}
		})
	}
	err := r.followPeer(ctx, func() bool { mu.Lock(); defer mu.Unlock(); return left <= 0 || fatal != nil })
	close(over)
	wg.Wait()
	r.throttled += full
	l.Tried = slices.Collect(maps.Keys(tried))
	return l, errors.Join(err, fatal, ctx.Err())
}

// followPeer tells the other side when this one has made its attempts, and
// returns when the other has made its own.
func (r *run) followPeer(ctx context.Context, made func() bool) error {
	for !made() {
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return r.meet.exchange(ctx, "attempts", nil, nil, silence)
}

func (r *run) judgeLedgers(mine, theirs ledger) {
	const name = "writers on two nodes"
	fail := func(format string, args ...any) {
		r.add(name, persistence.GradeFail, fmt.Sprintf(format, args...), useOther)
	}
	known := map[string]bool{mine.Last: true}
	for _, l := range []ledger{mine, theirs} {
		for _, v := range l.Tried {
			known[v] = true
		}
	}
	values := slices.Sorted(maps.Keys(merged(mine.Won, theirs.Won))) // so that both nodes say the same
	for _, from := range values {
		if here, there := len(mine.Won[from]), len(theirs.Won[from]); here+there > 1 {
			fail("%d writers were told that they had swapped the same value: %d here, %d at %s", here+there, here, there, r.meet.host)
			return
		}
	}
	swaps, met := 0, 0
	for _, from := range values {
		to := slices.Concat(mine.Won[from], theirs.Won[from])[0]
		if !known[to] {
			fail("a swap that was confirmed has vanished: nobody ever read %q", to)
			return
		}
		swaps++
		if s := sideOf(from); s != "first" && s != sideOf(to) {
			met++
		}
	}
	detail := fmt.Sprintf("%d swaps, %d of them of what the other node had written, no value swapped away twice", swaps, met)
	switch {
	case mine.Last != theirs.Last:
		fail("the two nodes read different values when all was over, %q here and %q at %s", mine.Last, theirs.Last, r.meet.host)
	case met == 0:
		r.add(name, persistence.GradeWarn, detail+": the two never met", "run it again with more --rounds")
	default:
		r.add(name, persistence.GradeOK, detail, "")
	}
}

func merged(a, b map[string][]string) map[string]bool {
	keys := map[string]bool{}
	for _, m := range []map[string][]string{a, b} {
		for k := range m {
			keys[k] = true
		}
	}
	return keys
}

// sideOf says which side wrote a value, see value.
func sideOf(val string) string {
	parts := strings.SplitN(val, ".", 4)
	if len(parts) < 4 {
		return ""
	}
	return parts[2]
}
