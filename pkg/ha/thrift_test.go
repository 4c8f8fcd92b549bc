package ha_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/persistence/faulty"
	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// charging is a store that charges for requests.
type charging struct{ persistence.Store }

func (c charging) Limits() persistence.Limits {
	l := c.Store.Limits()
	l.PollDivisor = 1
	return l
}

// spent is what one node has asked of the store.
type spent struct{ cas, put, read, get, list int }

func spending(m *member) spent {
	c := m.store.Count
	return spent{c(faulty.CAS), c(faulty.Put), c(faulty.Read), c(faulty.Get), c(faulty.List)}
}

func (s spent) since(before spent) spent {
	return spent{s.cas - before.cas, s.put - before.put, s.read - before.read, s.get - before.get, s.list - before.list}
}

func (s spent) sum() int { return s.cas + s.put + s.read + s.get + s.list }

func (s spent) String() string {
	return fmt.Sprintf("%d CAS, %d PUT, %d reads, %d GET, %d LIST", s.cas, s.put, s.read, s.get, s.list)
}

// crowd starts nodes on a store that charges, and waits for a master that
// everybody knows, and until what is new has settled down.
func (p *plane) crowd(n int, standbyHeartbeat, settle time.Duration) (master *member, standbys []*member) {
	p.t.Helper()
	timing, err := election.Derive(election.TimingRequest{PollDivisor: 1, StandbyHeartbeat: standbyHeartbeat})
	if err != nil {
		p.t.Fatal(err)
	}
	p.timing, p.charge = timing, true
	p.born()
	var all []*member
	for range n {
		all = append(all, p.start(nil))
	}
	p.within(time.Minute, "master", func() bool { return masterOf(all...) != nil })
	time.Sleep(settle)
	master = masterOf(all...)
	for _, m := range all {
		if m != master {
			standbys = append(standbys, m)
		}
		if s := m.Status(); len(s.Nodes) != n || s.Nodes[master.id].State != lease.StateMaster {
			p.t.Errorf("%s knows %d nodes of %d and shows the master as %s", m.id, len(s.Nodes), n, s.Nodes[master.id].State)
		}
	}
	return master, standbys
}

// spentIn is what each node spends in a while.
func spentIn(d time.Duration, ms ...*member) []spent {
	var out []spent
	for _, m := range ms {
		out = append(out, spending(m))
	}
	time.Sleep(d)
	for i, m := range ms {
		out[i] = spending(m).since(out[i])
	}
	return out
}

// TestSpendingOfAPlaneAtRest holds the requests of ten quiet minutes against
// what may be spent per heartbeat.
func TestSpendingOfAPlaneAtRest(t *testing.T) {
	const beats = 600 // in ten minutes, at one per second
	var seldom []spent
	for _, every := range []time.Duration{10 * time.Second, time.Second} {
		synctest.Test(t, func(t *testing.T) {
			p := newPlane(t)
			master, standbys := p.crowd(3, every, 3*time.Minute)
			got := spentIn(10*time.Minute, append([]*member{master}, standbys...)...)
			t.Logf("every %v: master %v; standbys %v", every, got[0], got[1:])
			atMost := func(what string, n int, perBeat float64) {
				t.Helper()
				if float64(n) > perBeat*beats {
					t.Errorf("standby records every %v: %d %s in %d beats, want at most %.2f per beat", every, n, what, beats, perBeat)
				}
			}
			m := got[0]
			atMost("PUT of the master", m.cas+m.put, 1.15)
			atMost("reads of the master to renew", m.read, 0)
			if m.list > 60 {
				t.Errorf("%d listings, want at most 6 per minute", m.list)
			}
			for i, s := range got[1:] {
				atMost("GET of a standby", s.read+s.get, 1.15)
				atMost("LIST and CAS of a standby", s.list+s.cas, 0)
				if every == time.Second {
					// One PUT more per beat, at most: the interval is shortened
					// by chance, so that clones do not write in step.
					atMost("further PUT of a standby", s.put-seldom[1+i].put, 1.25)
					atMost("further GET of a standby", s.read+s.get-seldom[1+i].read-seldom[1+i].get, 0.02)
					continue
				}
				atMost("PUT of a standby", s.put, 0.15)
			}
			if every == time.Second {
				atMost("further requests of the master", m.sum()-seldom[0].sum(), 0.02)
			}
			seldom = got
			p.check()
		})
	}
}

// TestSpendingGrowsLinearly compares planes of 10 and of many standbys, at rest
// and over a failover.
func TestSpendingGrowsLinearly(t *testing.T) {
	type bill struct{ rest, failover, cas int }
	of := map[int]bill{}
	for _, n := range []int{10, many} {
		synctest.Test(t, func(t *testing.T) {
			p := newPlane(t)
			master, standbys := p.crowd(n+1, time.Second, 40*time.Second)
			var b bill
			for _, s := range spentIn(time.Minute, append([]*member{master}, standbys...)...) {
				b.rest += s.sum()
			}
			var before []spent
			for _, s := range standbys {
				before = append(before, spending(s))
			}
			cut := master.store.Inject(faulty.Fault{Drop: true, Err: errDown})
			p.within(2*p.timing.Timeout, "a failover", func() bool { return masterOf(standbys...) != nil })
			took := masterOf(standbys...)
			var renewals int
			for i, s := range standbys {
				d := spending(s).since(before[i])
				b.failover += d.sum()
				b.cas += d.cas
				if s == took {
					renewals = d.cas
				}
			}
			time.Sleep(10 * time.Second) // whoever came late has tried by now
			for i, s := range standbys {
				if s != took {
					b.cas += spending(s).since(before[i]).cas
				}
			}
			if cut.Fired() == 0 {
				t.Error("the fault never fired")
			}
			t.Logf("%d standbys: %d requests in a quiet minute, %d in a failover, %d CAS in all, of which %d of the new master", n, b.rest, b.failover, b.cas, renewals)
			if b.cas > 10 {
				t.Errorf("a failover cost %d CAS attempts, want at most 10", b.cas)
			}
			of[n] = b
			p.check()
		})
	}
	const more = many / 10
	if a, b := of[10].rest, of[many].rest; b > more*a {
		t.Errorf("at rest 10 standbys cost %d requests and %d cost %d, which is more than %d times as many", a, many, b, more)
	}
	// A failover is counted to the moment of the new master's beginning, which
	// is not the same in each.
	if a, b := of[10].failover, of[many].failover; b > (more+1)*a {
		t.Errorf("a failover among 10 standbys cost %d requests and among %d it cost %d, which is more than %d times as many", a, many, b, more+1)
	}
}

// nudging nudges one node, as HTTP would.
func nudging(n *ha.Node, count *int) func(context.Context, []string) {
	return func(_ context.Context, uris []string) {
		for _, u := range uris {
			if u == n.Status().URI {
				*count++
				n.Nudge()
			}
		}
	}
}

// TestRequestIsServedAtOnce: where the master lists seldom, a nudge has it look
// for the request it is told of.
func TestRequestIsServedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t)
		timing, err := election.Derive(election.TimingRequest{Preset: "fast", PollDivisor: 1})
		if err != nil {
			t.Fatal(err)
		}
		p.timing, p.charge = timing, true
		p.born()
		a := p.start(func(o *ha.Options) { o.URI = "https://a/" })
		p.within(time.Second, "master", func() bool { return a.State() == lease.StateMaster })
		nudged := 0
		b := p.start(func(o *ha.Options) { o.Nudge = nudging(a.Node, &nudged) })
		p.within(time.Minute, "both know each other", func() bool {
			return b.Status().Nodes[a.id].URI != "" && a.Status().Nodes[b.id].Electable && a.Status().Nodes[b.id].WasSeen()
		})
		from := time.Now()
		if _, err := b.SetMode(t.Context(), lease.ModeMaster, false); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(from); took > 3*time.Second || nudged == 0 {
			t.Errorf("the switchover took %v with %d nudges", took, nudged)
		}
		p.check()
	})
}

// TestCloneWhereLooksAreFew: a node looks for a clone of itself seldom once it
// has found none; the clone finds it all the same, and gives way (R14). Of two
// that begin together one ends.
func TestCloneWhereLooksAreFew(t *testing.T) {
	for _, later := range []time.Duration{0, 2 * time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			p := newPlane(t)
			p.charge = true
			p.born()
			m := p.start(nil)
			p.within(time.Second, "master", func() bool { return m.State() == lease.StateMaster })
			a := p.start(nil)
			time.Sleep(later)
			b := p.start(func(o *ha.Options) { o.Node = a.id })
			ended := func(m *member) bool {
				select {
				case <-m.ended:
					return true
				default:
					return false
				}
			}
			p.within(30*time.Second, fmt.Sprint("a clone ends ", later), func() bool { return ended(a) || ended(b) })
			time.Sleep(time.Minute)
			var exit *ha.ExitError
			switch {
			case ended(a) && ended(b):
				t.Errorf("%v later: both ended: %v; %v", later, a.err, b.err)
			case later > 0 && !ended(b):
				t.Errorf("the elder ended: %v", a.err)
			case ended(b) && (!errors.As(b.err, &exit) || exit.Code != 3), ended(a) && (!errors.As(a.err, &exit) || exit.Code != 3):
				t.Errorf("%v later: %v; %v", later, a.err, b.err)
			}
			p.check()
		})
	}
}
