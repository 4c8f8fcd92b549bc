package ha_test

import (
	"errors"
	"fmt"
	"slices"
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

func backingUp(b ha.Backups) func(*ha.Options) {
	return func(o *ha.Options) { o.Persist = &ha.Persist{Backups: b} }
}

// backups are those in the store, the oldest first.
func (p *plane) backups() ([]journal.Backup, *journal.Loader) {
	p.t.Helper()
	l := &journal.Loader{Objects: p.at.Open(), Limit: time.Second}
	found, err := l.Backups(p.t.Context())
	if err != nil {
		p.t.Fatal(err)
	}
	return found, l
}

// Each reign puts by what it found and what it left, no state twice, and the
// plane keeps so many.
func TestBackups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t).born()
		how := backingUp(ha.Backups{Promotion: true, Demotion: true, Keep: 3})
		nodes := []*member{p.start(how), p.start(how)}
		for round := range 4 {
			m := p.master(nodes...)
			m.put(t, "key", fmt.Sprint("round ", round))
			m.stop()
			<-m.ended
			if m.err != nil {
				t.Fatal(m.err)
			}
			found, l := p.backups()
			last := found[len(found)-1]
			s, info, err := l.Backup(t.Context(), last)
			if err != nil {
				t.Fatal(err)
			}
			e, _ := s.Get("key")
			if want := fmt.Sprint("round ", round); string(e.Value) != want || last.Occasion != journal.OnDemotion || last.Node != m.id || info.Keys != 1 {
				t.Errorf("round %d: the last backup is %s with %q", round, last.Name(), e.Value)
			}
			// What the next reign finds was put by when this one ended.
			if want := min(round+1, 3); len(found) != want {
				t.Errorf("round %d: %d backups, want %d", round, len(found), want)
			}
			time.Sleep(2 * time.Second) // names say the second
			nodes[index(nodes, m)] = p.start(how)
		}
		p.check()
	})
}

// A promotion waits for no backup and fails by none, and what went wrong is
// said until one succeeds.
func TestBackupFails(t *testing.T) {
	for name, fault := range map[string]faulty.Fault{
		"full":           {Op: faulty.Put, Match: journal.BackupPrefix, Drop: true, Err: persistence.Full},
		"hangs":          {Op: faulty.Put, Match: journal.BackupPrefix, Delay: time.Hour},
		"is not listed":  {Op: faulty.List, Match: journal.BackupPrefix, Drop: true, Err: errDown},
		"can not delete": {Op: faulty.Delete, Match: journal.BackupPrefix, Drop: true, Err: persistence.Denied},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPlane(t).born()
				how := backingUp(ha.Backups{Promotion: true, Keep: 1})
				first := p.start(how)
				p.master(first).put(t, "key", "1")
				second := p.start(how)
				first.stop()
				<-first.ended
				p.master(second).put(t, "key", "2") // this reign's backup is the first
				p.within(time.Minute, "a backup", func() bool { found, _ := p.backups(); return len(found) == 1 })
				time.Sleep(2 * time.Second)
				third := p.start(how)
				inj := third.store.Inject(fault)
				second.stop()
				<-second.ended
				p.within(2*p.timing.Heartbeat, "the promotion", func() bool { return masterOf(third) != nil })
				third.put(t, "key", "3")
				warned := func() bool {
					return slices.ContainsFunc(third.Status().WarningsAt(third.Now()), func(w string) bool { return strings.HasPrefix(w, ha.CodeBackup) })
				}
				p.within(20*time.Minute, "a warning", warned)
				if c := third.Status().Counts; c.BackupsFailed != 1 || inj.Fired() == 0 {
					t.Errorf("%d failed, the fault fired %d times", c.BackupsFailed, inj.Fired())
				}
				if _, err := third.Persisted().Put(t.Context(), "key", nil); err != nil {
					t.Error(err)
				}
				third.store.Clear()
				p.check()
			})
		})
	}
}

// The state that persistMode CLEAN drops is put by first.
func TestBackupBeforeClean(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t).born()
		how := ha.Backups{Promotion: true, Keep: 3}
		old := p.start(backingUp(how))
		p.master(old).put(t, "key", "old")
		old.stop()
		<-old.ended
		m := p.start(func(o *ha.Options) { o.Persist = &ha.Persist{Clean: true, Backups: how} })
		p.master(m)
		if _, ok, err := m.Persisted().Get("key"); ok || err != nil {
			t.Errorf("it was not begun anew: %v", err)
		}
		p.within(time.Minute, "a backup", func() bool { found, _ := p.backups(); return len(found) == 1 })
		found, l := p.backups()
		s, _, err := l.Backup(t.Context(), found[0])
		if err != nil {
			t.Fatal(err)
		}
		if e, _ := s.Get("key"); string(e.Value) != "old" {
			t.Errorf("the backup has %q", e.Value)
		}
	})
}

// A backup that is torn or altered is refused by name.
func TestBackupDamaged(t *testing.T) {
	p := newPlane(t)
	store := p.at.Open()
	b := journal.Backup{Made: time.Now(), Node: ha.NewNodeID(), Occasion: journal.OnPromotion}
	b.Head.Seq, b.Head.Rand = 3, strings.Repeat("a", lease.HeadRandLen)
	if parsed, ok := journal.ParseBackupKey(b.Key()); !ok || parsed.Key() != b.Key() {
		t.Fatalf("%s is read as %+v", b.Key(), parsed)
	}
	if err := store.Put(t.Context(), b.Key(), strings.NewReader("torn"), 4); err != nil {
		t.Fatal(err)
	}
	_, l := p.backups()
	_, _, err := l.Backup(t.Context(), b)
	var damage *journal.DamageError
	if !errors.As(err, &damage) || damage.Damages[0].Object != b.Key() {
		t.Errorf("%v", err)
	}
}
