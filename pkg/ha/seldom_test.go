package ha_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/understudy-ha/understudy/persistence/faulty"
	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// A standby that writes its record seldom, to save requests, is no silent
// node: it announces how seldom, and everybody waits for that. It costs nothing
// at a failover either, which is a matter of the register alone.
func TestSeldomHeartbeatsOfStandbys(t *testing.T) {
	const every = 10 * time.Second
	for preset, polls := range map[string]int{"fast": 5, "default": 1} { // the latter where requests cost money
		synctest.Test(t, func(t *testing.T) {
			p := newPlane(t)
			timing, err := election.Derive(election.TimingRequest{Preset: preset, StandbyHeartbeat: every, PollDivisor: polls})
			if err != nil {
				t.Fatal(err)
			}
			p.timing, p.charge = timing, polls == 1
			p.born()
			a := p.start(nil)
			p.within(2*time.Second, "master", func() bool { return a.State() == lease.StateMaster })
			b, c := p.start(nil), p.start(func(o *ha.Options) { o.Priority = 1 })
			all := []*member{a, b, c}
			p.within(5*every, "everybody knows everybody", func() bool {
				for _, m := range all {
					if len(m.Status().Nodes) != 3 || !known(m, all) {
						return false
					}
				}
				return true
			})

			records := b.Status().Counts.Records
			const watched = 10 * time.Minute
			for i, from := 0, time.Now(); time.Since(from) < watched; i++ {
				time.Sleep(100 * time.Millisecond)
				for j, m := range all {
					if i%71 == 0 { // the store is now slower, now faster
						m.store.Clear()
						m.store.Inject(faulty.Fault{Delay: time.Duration((i+j*13)*37%200) * time.Millisecond})
					}
					if !known(m, all) {
						t.Fatalf("%s: after %v a node is shown as silent: %+v", preset, time.Since(from), m.Status().Nodes)
					}
				}
			}
			records = b.Status().Counts.Records - records
			if most := uint64(watched / every * 5 / 4); records < uint64(watched/every)-1 || records > most {
				t.Errorf("%s: %d records in %v; one every %v, or up to a fifth earlier by chance", preset, records, watched, every)
			}
			if n := b.Status().Nodes[c.id].IntervalMs; n != every.Milliseconds() {
				t.Errorf("%s: announces an interval of %d ms", preset, n)
			}

			a.store.Clear()
			cut := a.store.Inject(faulty.Fault{Drop: true, Err: errDown})
			p.within(p.timing.ClaimAfter(0)+3*p.timing.Heartbeat, "a failover", func() bool { return masterOf(b, c) != nil })
			if p.serving() != c.id {
				t.Errorf("%s: not the preferred node took over: its record was too old to count", preset)
			}
			if cut.Fired() == 0 {
				t.Error("the fault never fired")
			}
			p.check()
		})
	}
}

// known reports whether none of the nodes is silent to m, and those that could
// take over may.
func known(m *member, all []*member) bool {
	s := m.Status()
	for _, x := range all {
		n, ok := s.Nodes[x.id]
		if !ok || !n.Fresh(m.Now(), s.Timeout) {
			return false
		}
		if x.id != s.Holder && (!n.Electable || n.State != lease.StateHotStandby) {
			return false
		}
	}
	return true
}
