package ha_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/persistence/faulty"
	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/journal"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// persisting has a node persist, with a snapshot after each few segments.
func persisting(o *ha.Options) { o.Persist = &ha.Persist{SnapshotSegments: 8} }

// master waits for a node that may write.
func (p *plane) master(nodes ...*member) *member {
	p.t.Helper()
	var m *member
	p.within(2*p.timing.ClaimAfter(0), "a master", func() bool { m = masterOf(nodes...); return m != nil })
	return m
}

func (m *member) put(t *testing.T, key, value string) uint64 {
	t.Helper()
	seq, err := m.Persisted().Put(t.Context(), key, []byte(value))
	if err != nil {
		t.Fatalf("put %s: %v", key, err)
	}
	return seq
}

func (m *member) value(key string) string {
	e, ok, err := m.Persisted().Get(key)
	if err != nil {
		return err.Error()
	}
	if !ok {
		return "none"
	}
	return string(e.Value)
}

// What the master acknowledged is there for the next one, and hot standbys
// follow.
func TestStateSurvivesFailovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t).born()
		nodes := []*member{p.start(persisting), p.start(persisting), p.start(persisting)}
		written := 0
		for round := range 3 {
			m := p.master(nodes...)
			for range 40 {
				m.put(t, fmt.Sprint("key/", written%13), fmt.Sprint(written))
				written++
			}
			for _, n := range nodes {
				p.within(3*p.timing.Heartbeat, "it follows", func() bool {
					s := n.Status().Persisted
					return s.Held && s.Lag == 0 && n.value(fmt.Sprint("key/", (written-1)%13)) == fmt.Sprint(written-1)
				})
			}
			if _, err := nodes[(index(nodes, m)+1)%3].Persisted().Put(t.Context(), "x", nil); !errors.Is(err, ha.ErrNotMaster) {
				t.Errorf("a standby was written to: %v", err)
			}
			switch round {
			case 0:
				m.stop()
				<-m.ended
				if _, err := m.Persisted().Put(t.Context(), "x", nil); !errors.Is(err, ha.ErrNotMaster) {
					t.Errorf("a stopped node was written to: %v", err)
				}
				nodes[index(nodes, m)] = p.start(persisting)
			case 1:
				m.store.Inject(faulty.Fault{Drop: true, Err: errDown})
				p.within(p.timing.Timeout, "it notices", func() bool { return m.State() != lease.StateMaster })
				if v := m.value("key/0"); v != ha.ErrNotHot.Error() {
					t.Errorf("it reads %q with its lease over", v)
				}
				p.master(nodes...)
				m.store.Clear()
			}
		}
		p.check()
	})
}

func index(nodes []*member, m *member) int {
	for i, n := range nodes {
		if n == m {
			return i
		}
	}
	return -1
}

// Sixty-four writers share commits, each gets a version of its own, and one of
// them wins where they race.
func TestWritersShareCommits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t).born()
		m := p.start(persisting)
		p.master(m)
		slow := m.store.Inject(faulty.Fault{Op: faulty.CAS, Delay: 20 * time.Millisecond})
		before, cas := m.Status().Counts.Commits, m.store.Count(faulty.CAS)
		type result struct {
			seq uint64
			err error
		}
		results := make(chan result)
		for i := range 64 {
			go func() {
				_, err := m.Persisted().Put(t.Context(), fmt.Sprint("own/", i), []byte("v"))
				if err != nil {
					t.Error(err)
				}
				seq, err := m.Persisted().Put(t.Context(), "shared", fmt.Append(nil, i), journal.Condition{Key: "shared"})
				results <- result{seq, err}
			}()
		}
		won := 0
		for range 64 {
			r := <-results
			var conflict *journal.ConflictError
			switch {
			case r.err == nil:
				won++
			case !errors.As(r.err, &conflict):
				t.Error(r.err)
			}
		}
		commits := m.Status().Counts.Commits - before
		if won != 1 || commits > 16 || slow.Fired() == 0 {
			t.Errorf("%d won, %d commits, %d attempts", won, commits, m.store.Count(faulty.CAS)-cas)
		}
		pic, err := m.Persisted().Picture()
		if err != nil || !pic.Master || pic.Len() != 65 || pic.Seq() != 65 {
			t.Errorf("%+v %v", pic, err)
		}
		p.check()
	})
}

// An undecided commit is settled by reading: the writer hears that it was made
// or that it is not known, never that it failed while it may yet be there.
func TestUndecidedCommits(t *testing.T) {
	for _, c := range []struct {
		name  string
		fault faulty.Fault
		lost  bool // the lease ends first
	}{
		{"the reply is lost", faulty.Fault{Op: faulty.CAS, Count: 1, Err: errDown}, false},
		{"the request is lost", faulty.Fault{Op: faulty.CAS, Count: 1, Drop: true, Err: errDown}, false},
		{"no answer comes", faulty.Fault{Op: faulty.CAS, Count: 1, Hang: true}, false},
		{"every reply is lost, and every read", faulty.Fault{Match: "", Err: errDown}, true},
		{"nothing gets through", faulty.Fault{Drop: true, Err: errDown}, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			p := newPlane(t).born()
			a := p.start(persisting)
			p.master(a)
			a.put(t, "k", "0")
			b := p.start(persisting)
			p.within(2*time.Second, "standby", func() bool { return b.State() == lease.StateHotStandby })
			if c.fault.Op == "" { // the segment is to be stored before all else fails
				c.fault.Match = "u1." // the register's values
			}
			f := a.store.Inject(c.fault)
			var reads *faulty.Injected
			if c.lost {
				reads = a.store.Inject(faulty.Fault{Op: faulty.Read, Drop: true, Err: errDown})
			}
			_, err := a.Persisted().Put(t.Context(), "k", []byte("1"))
			if c.lost != errors.Is(err, ha.ErrUnknown) || (!c.lost && err != nil) {
				t.Errorf("%s: %v", c.name, err)
			}
			if f.Fired() == 0 || (reads != nil && reads.Fired() == 0) {
				t.Errorf("%s: the fault never fired", c.name)
			}
			if !c.lost {
				a.stop()
			}
			p.within(2*p.timing.ClaimAfter(0), "the other takes over", func() bool { return b.State() == lease.StateMaster })
			got := b.value("k")
			if want := map[bool]string{true: "0", false: "1"}[c.fault.Drop && c.lost]; got != want {
				t.Errorf("%s: the successor has %s, want %s", c.name, got, want)
			}
			a.store.Clear()
			b.put(t, "k", got+"2")
			p.within(3*p.timing.Timeout, "it is the same later", func() bool { return b.value("k") == got+"2" })
			p.check()
		})
	}
}

// A store that does not take a segment: the writer is told why, nothing that
// was acknowledged is lost, and the node stays master.
func TestFullStore(t *testing.T) {
	for _, reason := range []error{persistence.Full, persistence.ReadOnly, persistence.Denied} {
		synctest.Test(t, func(t *testing.T) {
			p := newPlane(t).born()
			m := p.start(persisting)
			p.master(m)
			m.put(t, "a", "1")
			f := m.store.Inject(faulty.Fault{Op: faulty.Put, Match: journal.LogPrefix, Drop: true, Err: reason})
			if _, err := m.Persisted().Put(t.Context(), "a", []byte("2")); !errors.Is(err, reason) || errors.Is(err, ha.ErrUnknown) {
				t.Errorf("%v", err)
			}
			if v := m.value("a"); v != "1" || f.Fired() == 0 || m.State() != lease.StateMaster {
				t.Errorf("a is %s, %s", v, m.State())
			}
			f.Remove()
			m.put(t, "a", "3")
			p.check()
		})
	}
}

// A state that can not be read is not served: the term is given up, the node
// says which object and what is wrong, and nothing is overwritten.
func TestDamagedStateIsNotServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t).born()
		a := p.start(persisting)
		p.master(a)
		for i := range 5 {
			a.put(t, "k", fmt.Sprint(i))
		}
		keys := p.keys(journal.LogPrefix)
		a.stop()
		<-a.ended
		torn := p.object(keys[2])
		p.write(keys[2], torn[:len(torn)-5])
		b := p.start(persisting)
		p.within(5*time.Second, "it fails", func() bool { return b.Status().Why == "STATE_UNREADABLE" })
		s := b.Status()
		if !strings.Contains(s.Detail, keys[2]) || !strings.Contains(s.Detail, "checksum") || b.State() != lease.StateFailed || p.serving() != "" {
			t.Errorf("shows %s %s %s", b.State(), s.Why, s.Detail)
		}
		p.write(keys[2], torn)
		p.master(b)
		if v := b.value("k"); v != "4" {
			t.Errorf("k is %s", v)
		}
		p.check()
	})
}

// Snapshots are named by the chain and what nobody needs is removed; a standby
// that comes late reads what is left.
func TestSnapshotsAndCollection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t).born()
		m := p.start(persisting)
		p.master(m)
		for i := range 200 {
			m.put(t, fmt.Sprint("k", i%7), fmt.Sprint(i))
		}
		// What is kept reaches back to the snapshot before the newest, which may
		// have been long in the making.
		p.within(20*p.timing.Heartbeat, "what is old is removed", func() bool {
			time.Sleep(50 * time.Millisecond)
			m.put(t, "k3", "199")
			return len(p.keys(journal.LogPrefix)) < 30 && len(p.keys(journal.SnapshotPrefix)) <= 4
		})
		b := p.start(persisting)
		p.within(2*time.Second, "a late standby", func() bool { return b.State() == lease.StateHotStandby && b.Status().Persisted.Lag == 0 })
		if v := b.value("k3"); v != "199" {
			t.Errorf("k3 is %s", v)
		}
		m.stop()
		p.master(b)
		b.put(t, "k3", "200")
		p.check()
	})
}

func TestCleanBegin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t).born()
		a := p.start(persisting)
		p.master(a)
		seq := a.put(t, "old", "1")
		a.stop()
		<-a.ended
		clean := func(o *ha.Options) { o.Persist = &ha.Persist{Clean: true} }
		b := p.start(clean)
		p.master(b)
		if v := b.value("old"); v != "none" {
			t.Errorf("old is %s after a CLEAN start", v)
		}
		if s := b.put(t, "new", "1"); s <= seq {
			t.Errorf("numbers began again: %d after %d", s, seq)
		}
		// Once only: what b itself persists stays.
		if _, err := b.SetMode(t.Context(), lease.ModeStandby, true); err != nil {
			t.Fatal(err)
		}
		if _, err := b.SetMode(t.Context(), lease.ModeAuto, true); err != nil {
			t.Fatal(err)
		}
		p.master(b)
		if v := b.value("new"); v != "1" {
			t.Errorf("new is %s in the next term", v)
		}
		// Not behind another's back.
		c := p.start(clean)
		p.within(2*time.Second, "standby", func() bool { return c.State() == lease.StateHotStandby })
		b.stop()
		<-b.ended
		d := p.start(persisting)
		m := p.master(c, d)
		if m == c {
			if v := c.value("new"); v != "none" {
				t.Errorf("c began anew, and has %s", v)
			}
		}
		p.check()
	})
}

func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t).born()
		a := p.start(persisting)
		p.master(a)
		b := p.start(persisting)
		p.within(2*time.Second, "standby", func() bool { return b.State() == lease.StateHotStandby })
		for _, m := range []*member{a, b} {
			w, err := m.Persisted().Watch("job/", 0)
			if err != nil {
				t.Fatal(err)
			}
			go func() { // beside the watcher
				a.put(t, "other", "x")
				a.put(t, "job/1", "x")
				if _, err := a.Persisted().Delete(t.Context(), "job/1"); err != nil {
					t.Error(err)
				}
			}()
			for i := range 2 {
				ctx, cancel := context.WithTimeout(t.Context(), 3*p.timing.Heartbeat)
				e, err := w.Next(ctx)
				cancel()
				if err != nil || len(e.Changes) != 1 || e.Changes[0].Key != "job/1" || e.Changes[0].Delete != (i == 1) {
					t.Fatalf("%+v %v", e, err)
				}
			}
			synctest.Wait()
		}
		// Who never reads falls behind, and costs nobody anything.
		idle, err := a.Persisted().Watch("", 0)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 5000 {
			a.put(t, "job/1", fmt.Sprint(i))
		}
		if _, err := idle.Next(t.Context()); !errors.Is(err, ha.ErrBehind) {
			t.Errorf("an idle watcher was told %v", err)
		}
		p.check()
	})
}

// keys lists what the store holds.
func (p *plane) keys(prefix string) []string {
	p.t.Helper()
	page, err := p.at.Open().List(p.t.Context(), prefix, "")
	if err != nil {
		p.t.Fatal(err)
	}
	var out []string
	for _, it := range page.Items {
		out = append(out, it.Key)
	}
	return out
}

func (p *plane) object(key string) []byte {
	p.t.Helper()
	r, err := p.at.Open().Get(p.t.Context(), key)
	if err != nil {
		p.t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err = errors.Join(err, r.Close()); err != nil {
		p.t.Fatal(err)
	}
	return b
}

func (p *plane) write(key string, b []byte) {
	p.t.Helper()
	if err := p.at.Open().Put(p.t.Context(), key, bytes.NewReader(b), int64(len(b))); err != nil {
		p.t.Fatal(err)
	}
}
