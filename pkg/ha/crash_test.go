package ha_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/persistence/memory"
	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/journal"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// TestCrashPoints strikes the master at one request to the store after the
// other, in every way that a network, a crash or a pause can, while writers
// write and snapshots and collection go on. Whatever happens: what was
// acknowledged is there for the next master and for good, what was refused or
// found missing by a later reign never appears, and nothing that is needed is
// removed.
//
// CRASH_POINTS says how many points; unset: some. `make crashes` has ten
// thousand.
func TestCrashPoints(t *testing.T) {
	points := crashPoints()
	var sum crashSum
	for world := uint64(1); sum.points < points; world++ {
		calls := 60 // a world without a blow says how many requests there are
		for _, b := range blows {
			for at := 0; at < calls && sum.points < points; at += stride(points) {
				calls = max(calls, play(t, world, b, at+int(world)%stride(points), &ha.Persist{}, &sum))
				if len(sum.violations) > 0 {
					t.Fatal(strings.Join(sum.violations, "\n"))
				}
			}
		}
	}
	t.Logf("%d points, %d struck: %d requests; %d commits undecided, of which %d landed late and were observed; %d acknowledged, %d unknown, %d refused, 0 lost, 0 resurrected; %d objects collected, 0 of them needed",
		sum.points, sum.struck, sum.calls, sum.undecided, sum.landed, sum.acked, sum.unknown, sum.refused, sum.deleted)
	if sum.landed == 0 || sum.deleted == 0 || sum.struck*10 < sum.points*6 || (points >= 3000 && (sum.landed*20 < sum.struck || sum.unknown == 0)) {
		t.Error("the faults did not do what they are there for")
	}
}

func crashPoints() int {
	if n, err := strconv.Atoi(os.Getenv("CRASH_POINTS")); err == nil && n > 0 {
		return n
	}
	return 3 * many
}

// Each rule is needed: without it some point shows a violation. What takes more
// than a moment to show is shown by `make crashes`.
func TestCrashPointsNeedEachRule(t *testing.T) {
	rules := ha.WithoutRules(crashPoints() >= 3000)
	for name, persist := range rules {
		var sum crashSum
		for world := uint64(1); len(sum.violations) == 0 && world < 4; world++ {
			for _, b := range blows {
				for at := 3; at < 120 && len(sum.violations) == 0; at += 3 {
					p := persist
					play(t, world, b, at, &p, &sum)
				}
			}
		}
		if len(sum.violations) == 0 {
			t.Errorf("%s: %d points show nothing wrong", name, sum.points)
			continue
		}
		t.Logf("%s: after %d points: %s", name, sum.points, sum.violations[0])
	}
}

// stride leaves out points of each world where only a few are asked for.
func stride(points int) int {
	if points < 3000 {
		return 7
	}
	return 1
}

// crashSum counts over all points.
type crashSum struct {
	points, struck, calls            int
	undecided, landed                int
	acked, unknown, refused, deleted int
	violations                       []string
}

// blow is what happens to the request that is struck.
type blow struct {
	name    string
	applied bool          // it is applied
	late    time.Duration // so much later, and nothing else gets through until then
	dead    bool          // and nothing of this node is ever applied again
	pause   time.Duration // the caller is held up, the request applied after that; the rest of the node goes on
}

var blows = []blow{
	{name: "reply lost", applied: true},
	{name: "request lost"},
	{name: "killed before it", dead: true},
	{name: "killed after it", applied: true, dead: true},
	{name: "lands 0.7 s late", applied: true, late: 700 * time.Millisecond},
	{name: "lands 1.5 s late", applied: true, late: 1500 * time.Millisecond},
	{name: "lands 3 s late", applied: true, late: 3 * time.Second},
	{name: "lands 4.5 s late", applied: true, late: 4500 * time.Millisecond},
	{name: "lands after the next claim", applied: true, late: 6 * time.Second},
	{name: "paused past the next reign", applied: true, pause: 12 * time.Second},
}

// struckStore is a node's way to the store. The at-th request that concerns the
// register's writes or the persisted state is struck.
type struckStore struct {
	persistence.Store
	blow blow
	at   int

	mu       sync.Mutex
	n        int
	hit      bool
	cut      bool // nothing gets through
	dead     bool
	mastered bool // count from the moment that this node is master
	landed   int
	commits  int
	deleted  int
	wait     sync.WaitGroup
}

var errCut = fmt.Errorf("%w: nothing got through", persistence.Unknown)

// request does one request, or what the blow makes of it.
func (s *struckStore) request(ctx context.Context, counts, commit bool, do func(context.Context) error) error {
	s.mu.Lock()
	strike := false
	if counts && s.mastered {
		strike = s.n == s.at && !s.hit
		s.n++
	}
	down := s.dead || s.cut
	if strike {
		s.hit = true
		s.dead, s.cut = s.dead || s.blow.dead, s.blow.late > 0
		if commit {
			s.commits++
		}
	}
	s.mu.Unlock()
	land := func() error {
		err := do(context.WithoutCancel(ctx))
		s.mu.Lock()
		defer s.mu.Unlock()
		s.cut = false
		if err == nil && commit {
			s.landed++
		}
		return err
	}
	switch {
	case !strike && down:
		<-ctx.Done()
		return errCut
	case !strike:
		return do(ctx)
	case s.blow.late > 0:
		s.wait.Go(func() { time.Sleep(s.blow.late); _ = land() })
		<-ctx.Done()
		return errCut
	case s.blow.pause > 0: // a thread that is stuck in the file system
		s.wait.Go(func() { time.Sleep(s.blow.pause); _ = land() })
		<-ctx.Done()
		return errCut
	case s.blow.applied:
		if err := land(); err != nil {
			return err
		}
		return errCut
	}
	return errCut
}

func ofState(key string) bool { return strings.HasPrefix(key, "state/") }

func (s *struckStore) Read(ctx context.Context) (persistence.Snapshot, error) {
	var snap persistence.Snapshot
	err := s.request(ctx, false, false, func(ctx context.Context) (err error) { snap, err = s.Store.Read(ctx); return err })
	if err != nil {
		return persistence.Snapshot{}, err // snap may yet be written
	}
	return snap, nil
}

func (s *struckStore) CAS(ctx context.Context, old persistence.Version, val []byte) (persistence.Version, error) {
	var v persistence.Version
	before, rerr := s.Store.Read(context.WithoutCancel(ctx))
	was, perr := lease.ParseValue(before.Value)
	is, perr2 := lease.ParseValue(val)
	commit := errors.Join(rerr, perr, perr2) == nil && was.Head != is.Head
	err := s.request(ctx, true, commit, func(ctx context.Context) (err error) { v, err = s.Store.CAS(ctx, old, val); return err })
	if err != nil {
		return "", err
	}
	return v, nil
}

func (s *struckStore) Put(ctx context.Context, key string, r io.Reader, size int64) error {
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	return s.request(ctx, ofState(key), false, func(ctx context.Context) error {
		return s.Store.Put(ctx, key, strings.NewReader(string(b)), size)
	})
}

func (s *struckStore) Get(ctx context.Context, key string) (io.ReadCloser, error) {
	var r io.ReadCloser
	err := s.request(ctx, ofState(key), false, func(ctx context.Context) (err error) { r, err = s.Store.Get(ctx, key); return err })
	if err != nil {
		return nil, err
	}
	return r, nil
}

func (s *struckStore) List(ctx context.Context, prefix, after string) (persistence.Page, error) {
	var p persistence.Page
	err := s.request(ctx, ofState(prefix), false, func(ctx context.Context) (err error) { p, err = s.Store.List(ctx, prefix, after); return err })
	if err != nil {
		return persistence.Page{}, err
	}
	return p, nil
}

func (s *struckStore) Delete(ctx context.Context, key string) error {
	return s.request(ctx, ofState(key), false, func(ctx context.Context) error {
		if ofState(key) {
			s.mu.Lock()
			s.deleted++
			s.mu.Unlock()
		}
		return s.Store.Delete(ctx, key)
	})
}

// crashWorld is one run: two nodes, some writers, one blow.
type crashWorld struct {
	t      *testing.T
	began  time.Time
	at     *memory.Location
	nodes  []*ha.Node
	stores []*struckStore

	mu   sync.Mutex
	keys map[string]*keyHistory
	sum  *crashSum
	what string
}

// keyHistory is what the one writer of a key did, and what was seen of it.
type keyHistory struct {
	issued  int // number of the last write that was begun; values are these numbers
	acked   int
	pending bool
	refused map[int]bool
	gone    map[int]bool // found missing by a reign after their own
	term    map[int]lease.Term
	seen    int
}

// play runs one world with one blow and returns how many requests there were.
func play(t *testing.T, world uint64, b blow, at int, persist *ha.Persist, sum *crashSum) int {
	t.Helper()
	calls := 0
	synctest.Test(t, func(t *testing.T) {
		timing, err := election.Derive(election.TimingRequest{Preset: "fast"})
		if err != nil {
			t.Fatal(err)
		}
		zero := time.Now()
		w := &crashWorld{t: t, began: zero, at: memory.New(), keys: map[string]*keyHistory{}, sum: sum, what: fmt.Sprintf("world %d, request %d %s", world, at, b.name)}
		v := lease.Value{Plane: "plane001", Lease: timing.Timeout, WriteID: ha.NewWriteID()}
		if err := w.at.Open().Init(t.Context(), v.Encode()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wait sync.WaitGroup
		r := rand.New(rand.NewPCG(world, 1)) //nolint:gosec // a world that can be played again
		persist.SnapshotSegments = 2 + r.IntN(4)
		for range 2 {
			s := &struckStore{Store: w.at.Open(), blow: b, at: at}
			n, err := ha.New(s, ha.Options{
				Node: ha.NewNodeID(), Timing: timing, HotStandby: true, Persist: persist,
				Clock:   func() lease.Instant { return lease.At(time.Since(zero) + time.Hour) },
				OnReign: func(ctx context.Context, _ ha.Reign) error { <-ctx.Done(); return ctx.Err() },
			})
			if err != nil {
				t.Fatal(err)
			}
			w.nodes, w.stores = append(w.nodes, n), append(w.stores, s)
			wait.Go(func() { _ = n.Run(ctx) })
			time.Sleep(time.Second)
		}
		w.stores[0].mu.Lock()
		w.stores[0].mastered = true
		w.stores[0].mu.Unlock()
		var writers sync.WaitGroup
		for i := range 3 {
			pause := time.Duration(r.IntN(80)+5) * time.Millisecond
			writers.Go(func() { w.writer(ctx, fmt.Sprint("key/", i), 14, pause) })
		}
		watching, stopWatching := context.WithCancel(ctx)
		wait.Go(func() { w.reader(watching) })
		writers.Wait()
		time.Sleep(15 * time.Second) // what is late lands, what is to be removed is
		w.writer(ctx, "key/0", 2, time.Millisecond)
		stopWatching()
		w.judge()
		cancel()
		wait.Wait()
		w.stores[0].wait.Wait()
		w.judge() // the same with every daemon down
		s := w.stores[0]
		calls = s.n
		w.count(s)
	})
	return calls
}

func (w *crashWorld) violated(format string, args ...any) {
	w.sum.violations = append(w.sum.violations, w.what+": "+fmt.Sprintf(format, args...))
}

func (w *crashWorld) count(s *struckStore) {
	w.sum.points++
	w.sum.calls += s.n
	if s.hit {
		w.sum.struck++
	}
	w.sum.undecided += s.commits
	w.sum.landed += s.landed
	w.sum.deleted += s.deleted + w.stores[1].deleted
	for _, k := range w.keys {
		w.sum.acked += k.acked
		w.sum.refused += len(k.refused)
	}
}

func (w *crashWorld) master() *ha.Node {
	for _, n := range w.nodes {
		if n.State() == lease.StateMaster {
			return n
		}
	}
	return nil
}

func (w *crashWorld) key(name string) *keyHistory {
	k := w.keys[name]
	if k == nil {
		k = &keyHistory{refused: map[int]bool{}, gone: map[int]bool{}, term: map[int]lease.Term{}}
		w.keys[name] = k
	}
	return k
}

// writer writes numbers to one key until so many were acknowledged.
func (w *crashWorld) writer(ctx context.Context, name string, count int, pause time.Duration) {
	for done := 0; done < count; {
		m := w.master()
		if time.Since(w.began) > 5*time.Minute {
			w.mu.Lock()
			w.violated("there is no master that takes writes")
			w.mu.Unlock()
			return
		}
		if m == nil {
			time.Sleep(50 * time.Millisecond)
			continue
		}
		w.mu.Lock()
		k := w.key(name)
		k.issued++
		k.pending = true
		n := k.issued
		k.term[n] = m.Status().Term
		w.mu.Unlock()
		_, err := m.Persisted().Put(ctx, name, []byte(strconv.Itoa(n)))
		w.mu.Lock()
		k.pending = false
		switch {
		case err == nil:
			k.acked = n
			done++
		case errors.Is(err, ha.ErrUnknown):
			w.sum.unknown++
		default:
			k.refused[n] = true
		}
		w.mu.Unlock()
		time.Sleep(pause)
	}
}

// reader looks at what masters say, now and then.
func (w *crashWorld) reader(ctx context.Context) {
	for ctx.Err() == nil {
		time.Sleep(37 * time.Millisecond)
		w.mu.Lock()
		for _, n := range w.nodes {
			p, err := n.Persisted().Picture()
			if err != nil || !p.Master {
				continue
			}
			term := n.Status().Term
			for name, k := range w.keys {
				w.observe(name, k, valueIn(p.Get(name)), term)
			}
		}
		w.mu.Unlock()
	}
}

func valueIn(e journal.Entry, ok bool) int {
	if !ok {
		return 0
	}
	n, err := strconv.Atoi(string(e.Value))
	if err != nil {
		return -1
	}
	return n
}

// observe holds what an authoritative read returned against what was done.
func (w *crashWorld) observe(name string, k *keyHistory, got int, term lease.Term) {
	switch {
	case got < k.acked:
		w.violated("%s is %d, but %d was acknowledged: lost", name, got, k.acked)
	case got < k.seen:
		w.violated("%s is %d, after it was %d", name, got, k.seen)
	case k.refused[got]:
		w.violated("%s is %d, which was refused", name, got)
	case k.gone[got]:
		w.violated("%s is %d, which a later reign had not found: resurrected", name, got)
	}
	k.seen = max(k.seen, got)
	for n := got + 1; n <= k.issued; n++ {
		if k.term[n] < term {
			k.gone[n] = true // whoever reigns now began without it
		}
	}
}

// judge reads the state from the store, as the next master would.
func (w *crashWorld) judge() {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	store := w.at.Open()
	snap, err := store.Read(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	v, err := lease.ParseValue(snap.Value)
	if err != nil {
		w.t.Fatal(err)
	}
	l := &journal.Loader{Objects: store, Plane: "plane001", Limit: time.Second, Workers: 1}
	got, err := l.Load(context.Background(), v.Head, nil)
	if err != nil || len(got.Damages) > 0 {
		w.violated("%v %v: something that is needed was removed", err, got)
		return
	}
	for name, k := range w.keys {
		w.observe(name, k, valueIn(got.Get(name)), v.Term)
	}
	if prev := got.Previous; prev.Rand != "" {
		if _, err := l.Snapshot(context.Background(), prev); err != nil {
			w.violated("the snapshot to fall back to: %v", err)
		}
	}
}
