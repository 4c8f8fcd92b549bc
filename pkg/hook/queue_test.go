package hook

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/pkg/guard"
	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// The test binary plays the shim, too.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == guard.ShimCommand {
		os.Exit(guard.ShimMain())
	}
	goleak.VerifyTestMain(m)
}

// one is a hook for each event.
func one(timeout time.Duration, command ...string) map[Event]Hook {
	all := map[Event]Hook{}
	for _, e := range Events() {
		all[e] = Hook{Command: command, Timeout: timeout}
	}
	return all
}

// A node changes its state a thousand times, faster or slower than its hooks
// can follow, and they are slow, fail and hang. Time is virtual.
func TestThousandRoleChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const timeout = 100 * time.Millisecond
		random, fate := rand.New(rand.NewPCG(7, 11)), rand.New(rand.NewPCG(7, 12)) // of the node, of its hooks
		var told []string                                                          // what each hook saw, in the order in which they ran
		busy := false
		kinds := map[Outcome]int{}
		run := func(_ context.Context, a guard.Aux) guard.Event {
			if busy {
				t.Error("two hooks at once")
			}
			busy = true
			defer func() { busy = false }()
			told = append(told, env(a.Env, "HA_SEQ")+" "+env(a.Env, "HA_EVENT")+" "+env(a.Env, "HA_REASON"))
			e := guard.Event{Kind: guard.AuxEnded, Exit: fate.IntN(2)}
			wait := time.Duration(fate.IntN(90)) * time.Millisecond
			if fate.IntN(10) == 0 {
				wait, e.TimedOut, e.Exit = a.Timeout, true, 137
			}
			time.Sleep(wait)
			kinds[outcome(e)]++
			return e
		}
		dir := t.TempDir()
		q := Open(t.Context(), Options{Hooks: one(timeout, "hook"), DataDir: dir, Bound: run, Apart: run})
		w := NewWatch(q, "", time.Second)

		began := time.Now()
		states := []lease.State{lease.StateHotStandby, lease.StateStandby, lease.StateMaster, lease.StateFailed}
		var expected []string
		state := lease.StateInitializing
		s := &ha.Status{Standing: state}
		w.See(s, lease.Instant{Boot: 1, Raw: 1})
		for i := range 1000 {
			next := states[random.IntN(len(states))]
			for next == state {
				next = states[random.IntN(len(states))]
			}
			why := "change " + strconv.Itoa(i)
			s = &ha.Status{Standing: next, History: []ha.Transition{{State: next, Term: lease.Term(i), Reason: why, At: time.Now()}}}
			if next == lease.StateMaster {
				reign := lease.Term(i + 1)
				s.Reign = &ha.ReignStatus{Term: reign, T0: lease.Instant{Boot: 1, Raw: 1}, End: time.Hour, Leading: true, Ready: true}
				s.Standing = lease.StateHotStandby
				expected = append(expected, "postPromote "+why)
			}
			expected = append(expected, "onRoleChange "+why)
			if next == lease.StateFailed {
				s.History[0].Code = election.ReasonFencingFailed
				expected = append(expected, "onFencingFailed "+why)
			}
			if state == lease.StateMaster {
				expected = append(expected, "postDemote "+why)
			}
			state = next
			w.See(s, lease.Instant{Boot: 2, Raw: 2})
			time.Sleep(time.Duration(random.IntN(200)) * time.Millisecond)
		}
		q.Close(time.Hour)
		if len(told) != len(expected) {
			t.Fatalf("%d hooks ran for %d events", len(told), len(expected))
		}
		for i, want := range expected {
			if want = strconv.Itoa(i+1) + " " + want; told[i] != want {
				t.Fatalf("hook %d was told %q, want %q", i+1, told[i], want)
			}
		}
		if most := time.Duration(len(told)) * timeout; time.Since(began) > most {
			t.Errorf("they took %v, want at most %v", time.Since(began), most)
		}
		for _, o := range []Outcome{OK, Failed, TimedOut} {
			if kinds[o] < 50 {
				t.Errorf("%d of %s: that shows little", kinds[o], o)
			}
			n := uint64(0)
			for _, e := range Events() {
				n += q.Figures().Ends[Count{e, o}]
			}
			if n != uint64(kinds[o]) {
				t.Errorf("%d of %s are counted, want %d", n, o, kinds[o])
			}
		}
		r, err := Load(dir)
		if err != nil || r.Seq != uint64(len(told)) || len(r.Runs) != keptRuns {
			t.Errorf("record: number %d, %d runs, %v", r.Seq, len(r.Runs), err)
		}
		for i, run := range r.Runs {
			if run.Seq != r.Seq-keptRuns+1+uint64(i) || run.Took > timeout {
				t.Errorf("run %d of the record: %+v", i, run)
			}
		}
	})
}

func env(list []string, name string) string {
	for _, kv := range list {
		if v, ok := strings.CutPrefix(kv, name+"="); ok {
			return v
		}
	}
	return ""
}

// The numbers go on after a restart, also after one in the middle of a hook.
func TestNumbersOverRestarts(t *testing.T) {
	dir := t.TempDir()
	for want := uint64(1); want <= 3; want++ {
		q := Open(t.Context(), Options{Hooks: one(time.Minute, "/bin/true"), DataDir: dir, Apart: guard.RunApart})
		var got Result
		q.Put(Facts{Event: OnRoleChange}, func(r Result) { got = r })
		q.Close(time.Hour)
		if got.Seq != want || got.Outcome != OK {
			t.Fatalf("%+v, want number %d", got, want)
		}
		q.Put(Facts{Event: OnRoleChange}, func(r Result) { got = r })
		if got.Outcome != Dropped || got.Seq != 0 {
			t.Errorf("after Close: %+v", got)
		}
	}
	r, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	r.set(Result{Seq: 4, Event: OnStoreLost, Outcome: Running})
	if err := r.save(dir); err != nil {
		t.Fatal(err)
	}
	q := Open(t.Context(), Options{Hooks: one(time.Minute, "/bin/true"), DataDir: dir, Apart: guard.RunApart})
	q.Put(Facts{Event: OnStoreBack}, nil)
	q.Close(time.Hour)
	if r, err = Load(dir); err != nil || r.Seq != 5 || r.Runs[3].Outcome != Interrupted {
		t.Errorf("%+v, %v", r, err)
	}
	// A damaged record is said, and begun anew.
	if err := os.WriteFile(filepath.Join(dir, recordFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), "remove "+dir) {
		t.Errorf("%v", err)
	}
	q = Open(t.Context(), Options{Hooks: one(time.Minute, "/bin/true"), DataDir: dir, Apart: guard.RunApart})
	q.Put(Facts{Event: OnStoreBack}, nil)
	q.Close(time.Hour)
	if r, err = Load(dir); err != nil || r.Seq != 1 {
		t.Errorf("%+v, %v", r, err)
	}
}

// Beyond a thousand that wait, events are dropped, and whoever waits is told.
func TestTooManyWait(t *testing.T) {
	q := Open(t.Context(), Options{Hooks: one(time.Minute, "hook"), DataDir: t.TempDir(), Apart: func(ctx context.Context, _ guard.Aux) guard.Event {
		<-ctx.Done()
		return guard.Event{Kind: guard.AuxEnded, Exit: -1, TimedOut: true}
	}})
	dropped := 0
	for range maxWaiting + 2 {
		q.Put(Facts{Event: OnRoleChange}, func(r Result) {
			if r.Outcome == Dropped && strings.Contains(r.Why, "too many") {
				dropped++
			}
		})
	}
	q.Close(0)
	if dropped < 1 || dropped > 2 { // one may have had its turn
		t.Errorf("%d were dropped", dropped)
	}
	if f := q.Figures(); f.Waiting != 0 || f.Ends[Count{OnRoleChange, TimedOut}]+f.Ends[Count{OnRoleChange, Dropped}] != maxWaiting+2 {
		t.Errorf("%+v", f)
	}
}
