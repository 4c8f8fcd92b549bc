package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/test/chaos/history"
	"github.com/understudy-ha/understudy/test/e2e/harness"
	"github.com/understudy-ha/understudy/test/e2e/intervals"
	"github.com/understudy-ha/understudy/test/need"
)

const (
	nodes   = 3
	clients = 8
	keys    = 12
	// Besides there are clients of the plane's own persisted state.
	stateClients = 4
	stateKeys    = 6

	defaultFor = time.Minute
	// allFrom is the length of a run from which on a round has every kind, and
	// fullFrom that from which on the full counts are asked for; a shorter one
	// has to have every kind of its round once.
	allFrom  = 5 * time.Minute
	fullFrom = 10 * time.Minute

	// settle is how long a plane may take until somebody serves, beyond a lease
	// that may have to be waited out.
	settle = 40 * time.Second
	// judgeWithin bounds the search for an order of one key's operations.
	judgeWithin = 2 * time.Minute
)

// demands are what a run has to have seen to mean anything.
type demands struct {
	each, failovers, byTime, acked, persisted int
}

var (
	full  = demands{each: 5, failovers: 30, byTime: 5, acked: 10_000, persisted: 5_000}
	short = demands{each: 1, failovers: 1, byTime: 1, acked: 200, persisted: 100}
)

// TestChaos is a run: see the package comment. CHAOS_T is its length, CHAOS_SEED
// its schedule, CHAOS_STORE what the nodes share (empty: a directory; s3; hdfs),
// CHAOS_SUMMARY a file for the table.
func TestChaos(t *testing.T) {
	needs(t)
	length, seed := defaultFor, rand.Uint64N(1_000_000)
	if s := os.Getenv("CHAOS_T"); s != "" {
		d, err := time.ParseDuration(s)
		must(t, err)
		length = d
	}
	if s := os.Getenv("CHAOS_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		must(t, err)
		seed = n
	}
	want := full
	if length < fullFrom {
		want = short
	}
	var on shared = &directory{}
	store := os.Getenv("CHAOS_STORE")
	switch store {
	case "":
	case "s3":
		on = newBucket(t, seed)
	case "hdfs":
		on = newHadoop(t)
	default:
		t.Fatalf("CHAOS_STORE=%s: there are runs on a directory (empty), on s3 and on hdfs", store)
	}
	timing, err := election.Derive(election.TimingRequest{Preset: "fast", PollDivisor: on.pollDivisor()})
	must(t, err)
	plan := NewPlan(seed, on.kinds(), length < allFrom)
	sum := &Summary{Store: store, Seed: seed, Length: length, Want: want, Kinds: plan.Kinds(), Timing: timing, Fired: map[Kind]int{}, OnMaster: map[Kind]int{}, Struck: map[Kind]int{}}
	t.Logf("reproduce the schedule with: %s", sum.Command())

	r := newRun(t, on, timing, sum)
	r.play(plan, length, want.each)
	r.finish()

	sum.Problems = append(sum.Problems, sum.Lacks()...)
	table := sum.Markdown()
	t.Log("\n" + table)
	if path := os.Getenv("CHAOS_SUMMARY"); path != "" {
		must(t, os.WriteFile(path, []byte(table), 0o644)) //nolint:gosec // a report
	}
	for _, p := range sum.Problems {
		t.Error(p)
	}
}

// latest is when the latest acknowledged write was called.
type latest struct {
	mu sync.Mutex
	at int64
}

func (l *latest) add(at int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.at = max(l.at, at)
}

func (l *latest) instant() intervals.Instant {
	l.mu.Lock()
	defer l.mu.Unlock()
	return intervals.Instant(l.at)
}

// needs ends the run where faults can not be made.
func needs(t *testing.T) {
	t.Helper()
	need.Root(t, "mount file systems")
	if _, err := os.Stat("/proc/self/ns/time"); err != nil {
		t.Skip("this kernel has no time namespaces")
	}
	if _, err := exec.LookPath("unshare"); err != nil {
		need.Missing(t, "needs unshare, of util-linux")
	}
}

// run is a plane with clients.
type run struct {
	t        *testing.T
	on       shared
	plane    *harness.Plane
	data     string // the registers, in the backing directory
	urls     []string
	sum      *Summary
	began    intervals.Instant
	timing   election.Timing
	acked    latest
	master   atomic.Int64 // index of the node that says so, -1 for none
	clients  []*Client
	stateful []*Client // of the persisted state
	stop     func()    // ends clients and watchers, and waits for them
	changes  func() ([]Change, error)
}

// newPlane makes nodes that keep a kvservice alive, each at a port of its own,
// and starts none.
func newPlane(tb testing.TB, on shared) (p *harness.Plane, urls []string) {
	tb.Helper()
	o := on.options()
	o.Nodes, o.Settings = nodes, map[string]any{"service.restart": "always"}
	p = harness.NewPlane(tb, o)
	if err := os.Mkdir(on.registers(p, nil), 0o755); err != nil {
		tb.Fatal(err)
	}
	for _, n := range p.Nodes {
		address := fmt.Sprintf("127.0.0.1:%d", p.FreePort())
		urls = append(urls, "http://"+address)
		n.Set("service.command", []string{kvservice, "-listen", address, "-dir", on.registers(p, n)})
		n.Set("service.ready.http", "http://"+address+"/ready")
	}
	return p, urls
}

func newRun(t *testing.T, on shared, timing election.Timing, sum *Summary) *run {
	t.Helper()
	r := &run{t: t, on: on, timing: timing, sum: sum}
	r.plane, r.urls = newPlane(t, on)
	r.plane.KeepOnFailure = true
	r.data = on.registers(r.plane, nil)
	ctx, cancel := context.WithCancel(context.Background()) // it is to end before the plane does
	var wg sync.WaitGroup
	r.stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	t.Cleanup(r.stop)
	var err error
	r.changes, err = on.watch(ctx, r.plane)
	must(t, err)
	wg.Go(func() { _, _ = r.changes() })
	r.began = intervals.Now()
	r.plane.StartAndWait(settle)

	wg.Go(func() { r.follow(ctx.Done()) }) //nolint:contextcheck // the harness bounds its own requests
	for i := range clients {
		c := &Client{ID: i, URLs: r.urls, Acked: r.acked.add}
		for k := range keys {
			c.Keys = append(c.Keys, fmt.Sprintf("k%02d", k))
		}
		if i%2 == 0 {
			c.Master = &r.master
		}
		r.clients = append(r.clients, c)
		wg.Go(func() { c.Run(ctx, sum.Seed) })
	}
	for i := range stateClients {
		c := &Client{ID: clients + i, State: r.plane.Nodes, Acked: func(int64) {}}
		for k := range stateKeys {
			c.Keys = append(c.Keys, fmt.Sprintf("chaos/s%02d", k))
		}
		if i%2 == 0 {
			c.Master = &r.master
		}
		r.stateful = append(r.stateful, c)
		wg.Go(func() { c.Run(ctx, sum.Seed) })
	}
	return r
}

// follow keeps finding out who says that it is master.
func (r *run) follow(done <-chan struct{}) {
	for {
		who := int64(-1)
		for _, m := range r.plane.Masters() {
			for i, n := range r.plane.Nodes {
				if n == m {
					who = int64(i)
				}
			}
		}
		r.master.Store(who)
		select {
		case <-time.After(200 * time.Millisecond):
		case <-done:
			return
		}
	}
}

// play strikes until the time is over and every kind has fired often enough.
func (r *run) play(plan *Plan, length time.Duration, each int) {
	r.t.Helper()
	from := intervals.Now()
	limit := length*3/2 + time.Minute
	r.progress(from)
	for {
		elapsed := intervals.Now().Sub(from)
		if elapsed >= length && r.sum.leastFired() >= each {
			break
		}
		if elapsed > limit {
			r.t.Errorf("after %v not every kind of fault has fired %d times", elapsed.Round(time.Second), each)
			break
		}
		step := plan.Next()
		healed := r.strike(step)
		took := r.progress(healed)
		r.t.Logf("%7.1fs  %v; a write was acknowledged %v after its end", intervals.Now().Sub(from).Seconds(), step, took.Round(time.Millisecond))
		time.Sleep(step.Pause)
	}
	r.sum.Ran = intervals.Now().Sub(from)
}

// progress waits until a write that was called after the given instant is
// acknowledged.
func (r *run) progress(after intervals.Instant) time.Duration {
	r.t.Helper()
	if !harness.Poll(settle, func() bool { return r.acked.instant() > after }) {
		r.t.Fatalf("the plane is stuck: no write was acknowledged within %v", settle)
	}
	return intervals.Now().Sub(after)
}

// strike performs one step and returns when its fault was over.
func (r *run) strike(s Step) (healed intervals.Instant) {
	r.t.Helper()
	master := r.plane.WaitMaster(settle)
	victim := master
	if s.Standby > 0 {
		var others []*harness.Node
		for _, n := range r.plane.Nodes {
			if n != master {
				others = append(others, n)
			}
		}
		victim = others[s.Standby-1]
	}
	at := intervals.Now()
	fired := true
	switch s.Kind {
	case KillDaemon:
		r.kill(victim, s.Hold, nil, harness.Daemon)
	case KillBoth:
		r.kill(victim, s.Hold, nil, harness.Daemon, harness.Guard)
	case KillTree:
		r.kill(victim, s.Hold, nil, harness.Everything...)
	case ClockStep:
		r.kill(victim, s.Hold, elsewhere(s), harness.Everything...)
		fired = r.inOwnTime(victim)
	case KillGuard:
		r.hasGuard(victim)
		victim.Kill(harness.Guard)
		time.Sleep(s.Hold)
	case Freeze:
		p := victim.Find(harness.Daemon)
		victim.Signal(unix.SIGSTOP)
		time.Sleep(s.Hold)
		fired = p.Stopped()
		victim.Signal(unix.SIGCONT)
	case Terminate:
		victim.Stop(settle)
		time.Sleep(s.Hold)
		victim.Start()
	case StoreSlow, StoreFails, StoreHangs, StoreLoses, StoreReads, StoreWrites,
		NetSlow, NetUnavailable, NetSilent, NetRefuses, NetLoses, NetRandom, NetTwice, NetMasked, NetCut, NetReads, NetWrites,
		NameSwitch, NameKilled, NameHung, NameSilent, Journals:
		fired = r.inject(s, victim)
	case AllHang, NetAllSilent:
		fired = r.inject(s, r.plane.Nodes...)
	}
	if fired {
		r.sum.Fired[s.Kind]++
		if victim == master {
			r.sum.OnMaster[s.Kind]++
		}
	}
	r.sum.Steps = append(r.sum.Steps, Struck{s.Kind, at})
	return intervals.Now()
}

// kill kills processes of a node, and starts it again after a while, through
// another program if there is one.
func (r *run) kill(n *harness.Node, down time.Duration, via []string, roles ...harness.Role) {
	r.t.Helper()
	r.hasGuard(n)
	n.Kill(roles...)
	time.Sleep(down)
	n.WaitExit(settle)
	if via != nil {
		n.Via = via
	}
	n.Start()
}

// hasGuard waits for a node that is still starting, or replacing its guard.
func (r *run) hasGuard(n *harness.Node) {
	r.t.Helper()
	if !harness.Poll(settle, func() bool { return n.Count(harness.Guard) == 1 && n.Count(harness.Daemon) == 1 }) {
		r.t.Fatalf("%s has %d guards and %d daemons", n.Name, n.Count(harness.Guard), n.Count(harness.Daemon))
	}
}

// elsewhere is the program that gives a daemon, and all it starts, clocks of
// their own. They can not be set to before the machine's start.
func elsewhere(s Step) []string {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // it can not fail
	monotonic := max(s.Monotonic, -time.Duration(ts.Nano()/2)).Truncate(time.Second)
	boottime := monotonic + s.Suspended.Truncate(time.Second)
	return []string{
		"unshare", "--time", "--fork", "--kill-child=KILL",
		"--monotonic", strconv.Itoa(int(monotonic.Seconds())), "--boottime", strconv.Itoa(int(boottime.Seconds())),
	}
}

// inOwnTime reports whether a node's daemon has clocks of its own.
func (r *run) inOwnTime(n *harness.Node) bool {
	r.t.Helper()
	ours, err := os.Readlink("/proc/self/ns/time")
	must(r.t, err)
	r.hasGuard(n)
	for _, role := range []harness.Role{harness.Daemon, harness.Guard} {
		theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/time", n.Find(role).Pid))
		must(r.t, err)
		if theirs == ours {
			r.t.Errorf("the %s of %s has the machine's clocks", role, n.Name)
			return false
		}
	}
	return true
}

// inject lets the store of some nodes misbehave for a while, and reports
// whether every one of them came to feel it.
func (r *run) inject(s Step, victims ...*harness.Node) (fired bool) {
	var ends []func() int
	for _, n := range victims {
		ends = append(ends, r.on.inject(s, n))
	}
	time.Sleep(s.Hold)
	fired = true
	for _, end := range ends {
		struck := end()
		r.sum.Struck[s.Kind] += struck
		fired = fired && struck > 0
	}
	return fired
}

// finish reads every register once more, ends the clients, and judges.
func (r *run) finish() {
	t := r.t
	t.Helper()
	r.plane.WaitMaster(settle)
	r.progress(intervals.Now())
	r.stop()
	var ops []history.Op
	for _, c := range r.clients {
		ops = append(ops, c.Ops...)
	}
	last := r.lastReads(&Client{ID: clients + stateClients, URLs: r.urls}, r.clients[0].Keys)
	ops = append(ops, last...)
	r.onDisk(last)
	var state []history.Op
	for _, c := range r.stateful {
		state = append(state, c.Ops...)
	}
	state = append(state, r.lastReads(&Client{ID: clients + stateClients, State: r.plane.Nodes}, r.stateful[0].Keys)...)
	r.sum.History(ops, state)
	r.sum.Problems = append(r.sum.Problems, history.Judge(ops, judgeWithin)...)
	r.sum.Problems = append(r.sum.Problems, history.Judge(state, judgeWithin)...)
	ops = append(ops, state...)

	for _, d := range r.plane.StateDamage() {
		r.sum.Problems = append(r.sum.Problems, "lost: the persisted state is damaged: "+d)
	}
	changes, err := r.changes()
	must(t, err)
	r.sum.Problems = append(r.sum.Problems, JudgeRegister(changes, r.timing.End())...)
	rec := r.plane.Record()
	r.sum.Services(rec, Claims(changes))
	for _, o := range rec.Overlaps() {
		r.sum.Problems = append(r.sum.Problems, o.String())
	}
	r.sum.Problems = append(r.sum.Problems, slices.Concat(rec.Regressions(), Ends(rec))...)
	if len(r.sum.Problems) > 0 {
		b, err := json.MarshalIndent(ops, "", " ")
		must(t, errors.Join(err, os.WriteFile(filepath.Join(r.plane.Dir, "history.json"), b, 0o644))) //nolint:gosec // for people
		t.Logf("the history is in %s", r.plane.Dir)
	}
}

// lastReads reads every key through whoever serves now.
func (r *run) lastReads(c *Client, keys []string) []history.Op {
	r.t.Helper()
	var out []history.Op
	c.connect()
	for _, key := range keys {
		if !harness.Poll(settle, func() bool {
			o := history.Op{Client: c.ID, Key: key}
			if c.Do(r.t.Context(), &o); o.Outcome != history.OK {
				c.elsewhere()
				return false
			}
			out = append(out, o)
			return true
		}) {
			r.t.Fatalf("%s can not be read at the end", key)
		}
	}
	return out
}

// onDisk holds the last reads against the files themselves.
func (r *run) onDisk(last []history.Op) {
	r.t.Helper()
	for _, o := range last {
		var there struct {
			Version uint64
			Value   string
		}
		b, err := os.ReadFile(filepath.Join(r.data, "key-"+o.Key))
		if err == nil {
			err = json.Unmarshal(b, &there)
		}
		if err != nil && o.Version > 0 {
			r.t.Errorf("%s: %v", o.Key, err)
		}
		if there.Version != o.Version || there.Value != o.Value {
			r.sum.Problems = append(r.sum.Problems, fmt.Sprintf("lost: the file has version %d, value %q; read was %v", there.Version, there.Value, o))
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
