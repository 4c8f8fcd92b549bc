package hook

import (
	"context"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/understudy-ha/understudy/pkg/clock"
	"github.com/understudy-ha/understudy/pkg/guard"
	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// inner is a service that notes what it is asked.
type inner struct {
	mu     sync.Mutex
	calls  []string
	events chan ha.ServiceEvent
}

func (i *inner) note(s string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.calls = append(i.calls, s)
}

func (i *inner) said() string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return strings.Join(i.calls, " ")
}

func (i *inner) Arm(ha.Deadline)                { i.note("arm") }
func (i *inner) Start(ha.StartOrder)            { i.note("start") }
func (i *inner) Stop(lease.Term, ha.StopReason) { i.note("stop") }
func (i *inner) Kill(lease.Term, ha.StopReason) { i.note("kill") }
func (i *inner) Events() <-chan ha.ServiceEvent { return i.events }
func (i *inner) Info() ha.ServiceInfo           { return ha.ServiceInfo{Phase: "idle"} }
func (i *inner) Close() error                   { close(i.events); return nil }

const grace = time.Second

// bench is a Service with hooks that take so long and end so.
type bench struct {
	*Service
	t     *testing.T
	inner *inner
}

// virtual runs a test in virtual time; hooks end as run says.
func virtual(t *testing.T, run func(a guard.Aux) guard.Event, test func(b *bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		in := &inner{events: make(chan ha.ServiceEvent)}
		q := Open(t.Context(), Options{
			Hooks: one(10*time.Second, "hook"), DataDir: t.TempDir(),
			Bound: func(_ context.Context, a guard.Aux) guard.Event { return run(a) },
			Apart: func(_ context.Context, a guard.Aux) guard.Event { return run(a) },
		})
		w := NewWatch(q, "/run/lease", time.Second)
		b := &bench{Service: NewService(in, w, grace), t: t, inner: in}
		test(b)
		q.Close(time.Hour)
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		if _, open := <-b.Events(); open {
			t.Error("events are not closed")
		}
	})
}

func after(d time.Duration, exit int) func(guard.Aux) guard.Event {
	return func(a guard.Aux) guard.Event {
		time.Sleep(min(d, a.Timeout))
		return guard.Event{Kind: guard.AuxEnded, Exit: exit, TimedOut: d > a.Timeout}
	}
}

func (b *bench) order(t lease.Term) {
	b.Arm(ha.Deadline{Term: t, T0: clock.Now(), Stop: time.Hour, Kill: time.Hour, End: time.Hour})
	b.Start(ha.StartOrder{Term: t, Plane: "plane001", Node: "node0001", NodeURI: "https://n1/", PrevState: lease.StateHotStandby, Reason: "released"})
}

// is checks what the service was asked so far, once nothing can happen without
// time going on.
func (b *bench) is(want string) {
	b.t.Helper()
	synctest.Wait()
	if got := b.inner.said(); got != want {
		b.t.Errorf("the service was asked %q, want %q", got, want)
	}
}

func TestPrePromoteComesFirst(t *testing.T) {
	var seen guard.Aux
	virtual(t, func(a guard.Aux) guard.Event { seen = a; return after(2*time.Second, 0)(a) }, func(b *bench) {
		b.order(3)
		time.Sleep(time.Second)
		b.Arm(ha.Deadline{Term: 3}) // renewals go on
		b.is("arm arm")
		if i := b.Info(); i.Phase != "starting" || !strings.Contains(i.Detail, "prePromote") {
			t.Errorf("%+v", i)
		}
		time.Sleep(time.Second)
		b.is("arm arm start")
		if i := b.Info(); i.Phase != "idle" {
			t.Errorf("%+v", i)
		}
		for name, want := range map[string]string{
			"HA_EVENT": "prePromote", "HA_TERM": "3", "HA_STATE": "HOT_STANDBY", "HA_MASTER": "node0001",
			"HA_MASTER_URI": "https://n1/", "HA_REASON": "released", "HA_LEASE_FILE": "/run/lease", "HA_PLANE": "plane001",
		} {
			if got := env(seen.Env, name); got != want {
				t.Errorf("%s is %q, want %q", name, got, want)
			}
		}
		if seen.Term != 3 || seen.Timeout != 10*time.Second {
			t.Errorf("%+v", seen)
		}
	})
}

func TestVeto(t *testing.T) {
	for words, run := range map[string]func(guard.Aux) guard.Event{
		"exit code 3":       after(time.Second, 3),
		"timeout after 10s": after(time.Hour, 0),
		"refused: too late": func(guard.Aux) guard.Event { return guard.Event{Kind: guard.AuxRefused, Why: "too late"} },
		"stuck: D":          func(guard.Aux) guard.Event { return guard.Event{Kind: guard.AuxStuck, Why: "D"} },
	} {
		virtual(t, run, func(b *bench) {
			b.order(3)
			e := <-b.Events()
			if e.Kind != ha.ServiceFailed || e.Term != 3 || e.Exit != -1 || !strings.Contains(e.Why, words) {
				t.Errorf("%+v, want %q", e, words)
			}
			b.is("arm")
			b.Stop(3, "failed")
			b.is("arm stop")
		})
	}
}

// A term that ends while prePromote runs or waits starts nothing.
func TestStopDuringPrePromote(t *testing.T) {
	virtual(t, after(2*time.Second, 0), func(b *bench) {
		b.order(3)
		time.Sleep(time.Second)
		b.Stop(3, "asked")
		b.is("arm stop")
		b.order(4) // its hook waits for that of term 3
		time.Sleep(2500 * time.Millisecond)
		b.is("arm stop arm")
		time.Sleep(time.Second)
		b.is("arm stop arm start")
		b.Kill(4, "frozen")
		b.is("arm stop arm start kill")
		b.Start(ha.StartOrder{Term: 4}) // the service refuses it, and says so
		b.is("arm stop arm start kill start")
	})
}

// serve has the service ready in term 3.
func (b *bench) serve() {
	b.t.Helper()
	b.order(3)
	time.Sleep(time.Minute)
	b.is("arm start")
	b.inner.events <- ha.ServiceEvent{Kind: ha.ServiceReady, Term: 3}
	<-b.Events()
}

func byEvent(preDemote time.Duration) func(guard.Aux) guard.Event {
	return func(a guard.Aux) guard.Event {
		if env(a.Env, "HA_EVENT") == string(PreDemote) {
			return after(preDemote, 0)(a)
		}
		return guard.Event{Kind: guard.AuxEnded}
	}
}

func TestPreDemote(t *testing.T) {
	virtual(t, byEvent(3*time.Second), func(b *bench) {
		b.serve()
		b.Demote(3, "asked")
		time.Sleep(2500 * time.Millisecond) // the drain
		b.Stop(3, "asked")
		b.is("arm start")
		time.Sleep(500 * time.Millisecond)
		b.is("arm start stop") // when the hook ended
		time.Sleep(time.Hour)
		b.is("arm start stop")
	})
	virtual(t, byEvent(9*time.Second), func(b *bench) {
		b.serve()
		b.Demote(3, "asked")
		b.Stop(3, "asked")
		time.Sleep(grace - time.Millisecond)
		b.is("arm start")
		time.Sleep(time.Millisecond)
		b.is("arm start stop") // S is kept
		time.Sleep(time.Hour)
		b.is("arm start stop")
	})
	virtual(t, byEvent(time.Millisecond), func(b *bench) {
		b.serve()
		b.Demote(3, "asked")
		time.Sleep(time.Second)
		b.Stop(3, "asked")
		b.is("arm start stop") // it ended long ago
	})
}

// Nothing waits where the end is no planned one, the lease presses, or nothing
// was served.
func TestNoPreDemote(t *testing.T) {
	virtual(t, byEvent(9*time.Second), func(b *bench) {
		b.serve()
		b.Stop(3, "no renewal was confirmed in time")
		b.is("arm start stop")
	})
	virtual(t, byEvent(9*time.Second), func(b *bench) {
		b.serve()
		b.Demote(3, "asked")
		b.Stop(3, "the register is held by another")
		b.is("arm start stop")
	})
	virtual(t, byEvent(9*time.Second), func(b *bench) {
		b.serve()
		b.Demote(3, "asked")
		b.Arm(ha.Deadline{Term: 3, T0: clock.Now(), Stop: 0})
		b.Stop(3, "asked")
		b.is("arm start arm stop")
	})
	ran := false
	virtual(t, func(a guard.Aux) guard.Event {
		ran = ran || env(a.Env, "HA_EVENT") == string(PreDemote)
		return guard.Event{Kind: guard.AuxEnded}
	}, func(b *bench) {
		b.order(3)
		b.is("arm start")
		b.Demote(3, "it never became ready")
		b.Stop(3, "it never became ready")
		b.is("arm start stop")
	})
	if ran {
		t.Error("preDemote ran although nothing was served")
	}
}

// onStoreLost and onStoreBack come in pairs, and not for one failed read.
func TestStoreLostAndBack(t *testing.T) {
	var mu sync.Mutex
	var seen []string
	virtual(t, func(a guard.Aux) guard.Event {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, env(a.Env, "HA_EVENT")+": "+env(a.Env, "HA_REASON"))
		return guard.Event{Kind: guard.AuxEnded}
	}, func(b *bench) {
		at := func(ms int, failing string) {
			s := &ha.Status{Standing: lease.StateHotStandby}
			s.Store.Error = failing
			n := (time.Duration(ms)*time.Millisecond + time.Hour).Nanoseconds()
			b.watch.See(s, lease.Instant{Boot: n, Raw: n})
		}
		for i, failing := range []string{"", "EIO", "EIO", "", "EIO", "EIO", "EIO", "EIO", "", ""} {
			at(400*i, failing)
		}
		synctest.Wait()
	})
	if got := strings.Join(seen, ", "); got != "onStoreLost: EIO, onStoreBack: the store answers again" {
		t.Error(got)
	}
}
