package supervise

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// stopsOf waits for n records.
func (b *bench) stopsOf(n int) []Stop {
	b.t.Helper()
	var stops []Stop
	if !eventually(func() bool {
		var err error
		if stops, err = Stops(b.dir); err != nil {
			b.t.Fatal(err)
		}
		return len(stops) >= n
	}) || len(stops) != n {
		b.t.Fatalf("recorded stops: %+v, want %d", stops, n)
	}
	return stops
}

func TestStopsAreRecorded(t *testing.T) {
	b := supervise(t, `trap 'sleep 0.3; exit 0' TERM; touch "$OUT/up"; while :; do sleep 0.01; done`, readyAt("up"))
	if stops, err := Stops(b.dir); err != nil || len(stops) != 0 {
		t.Fatalf("before the first stop: %v, %v", stops, err)
	}
	for term := lease.Term(1); term <= 2; term++ {
		b.begin(term)
		b.expect(ha.ServiceReady, term)
		b.Stop(term, "test")
		b.expect(ha.ServiceEmpty, term)
		if err := os.Remove(filepath.Join(b.dir, "up")); err != nil {
			t.Fatal(err)
		}
		stops := b.stopsOf(int(term))
		s := stops[len(stops)-1]
		if s.Term != term || s.Killed || s.Took < 300*time.Millisecond || s.Took > 10*time.Second || time.Since(s.At) > time.Minute {
			t.Fatalf("%+v", s)
		}
	}
}

// A stop that began without the service alive says nothing about the service.
func TestOnlyStopsOfWhatLivedAreRecorded(t *testing.T) {
	b := supervise(t, "exit 3", func(o *Options) { o.Restart = RestartNever; o.StartGrace = 5 * time.Second })
	b.Stop(1, "never started")
	b.expect(ha.ServiceEmpty, 1)
	b.begin(2)
	b.expect(ha.ServiceFailed, 2)
	b.Stop(2, "it had ended")
	b.expect(ha.ServiceEmpty, 2)
	if err := b.Close(); err != nil { // all that is to be written is
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(b.dir, stopsFile)); !os.IsNotExist(err) {
		t.Fatalf("a record was made: %v", err)
	}
}

func TestStopThatNeededKillIsMarked(t *testing.T) {
	b := supervise(t, `trap '' TERM; touch "$OUT/up"; while :; do sleep 0.01; done`, readyAt("up"))
	b.begin(1)
	b.expect(ha.ServiceReady, 1)
	b.armFor(1, 200*time.Millisecond)
	b.expect(ha.ServiceStopping, 1) // the deadline, with KILL 5 s later
	b.expect(ha.ServiceEmpty, 1)
	if s := b.stopsOf(1)[0]; !s.Killed || s.Took < 4*time.Second {
		t.Fatalf("%+v", s)
	}
}

func TestStopRecordIsBoundedAndSurvivesDamage(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, stopsFile), []byte("[{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Stops(dir); err == nil {
		t.Error("a damaged record is read")
	}
	l := openStopLog(dir)
	for i := range keptStops + 5 {
		if err := l.add(Stop{Term: lease.Term(i + 1)}); err != nil {
			t.Fatal(err)
		}
	}
	stops, err := Stops(dir)
	if err != nil || len(stops) != keptStops || stops[0].Term != 6 || stops[keptStops-1].Term != keptStops+5 {
		t.Fatalf("%v, %v", stops, err)
	}
}
