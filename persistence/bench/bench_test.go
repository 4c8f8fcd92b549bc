package bench_test

import (
	"errors"
	"math"
	"os"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/persistence/bench"
	"github.com/understudy-ha/understudy/persistence/faulty"
	"github.com/understudy-ha/understudy/persistence/memory"
	"github.com/understudy-ha/understudy/persistence/posix"
)

func TestRun(t *testing.T) {
	dir := t.TempDir()
	px, err := posix.Open(dir, posix.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []persistence.Store{memory.New().Open(), px} {
		last := -1
		r, err := bench.Run(t.Context(), s, bench.Options{Count: 10, Progress: func(name string, done, total int) {
			if done < last || done > total || total != 80 {
				t.Errorf("%s: %d of %d after %d", name, done, total, last)
			}
			last = done
		}})
		if err != nil {
			t.Fatal(err)
		}
		if last != 80 || r.RenewalsPerSecond <= 0 || r.Kind != s.Limits().Kind || len(r.Primitives) != 8 {
			t.Errorf("%+v", r)
		}
		for _, p := range r.Primitives {
			if p.Count < 3 || p.P50 <= 0 || p.P99 < p.P50 || p.Max < p.P99 || r.Of(p.Name) != p.Latency {
				t.Errorf("%+v", p)
			}
		}
		if ok, err := s.Empty(t.Context()); !ok || err != nil {
			t.Errorf("empty afterwards: %t, %v", ok, err)
		}
	}
	if es, err := os.ReadDir(dir); err != nil || len(es) != 0 {
		t.Errorf("left behind: %v, %v", es, err)
	}
}

// A delay shows in the primitive that it was put on.
func TestMeasuresWhatIsSlow(t *testing.T) {
	for op, name := range map[faulty.Op]string{
		faulty.Read: bench.Read, faulty.CAS: bench.Renew, faulty.List: bench.List, faulty.Delete: bench.Delete,
	} {
		s := faulty.Wrap(memory.New().Open())
		f := s.Inject(faulty.Fault{Op: op, Delay: 20 * time.Millisecond})
		r, err := bench.Run(t.Context(), s, bench.Options{Count: 3})
		if err != nil || f.Fired() == 0 {
			t.Fatalf("%v, fired %d", err, f.Fired())
		}
		if r.Of(name).P50 < 20*time.Millisecond {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

func TestStoreThatDoesNotAnswer(t *testing.T) {
	s := faulty.Wrap(memory.New().Open())
	f := s.Inject(faulty.Fault{Op: faulty.CAS, Hang: true})
	r, err := bench.Run(t.Context(), s, bench.Options{Count: 3, Limit: 50 * time.Millisecond})
	if !errors.Is(err, persistence.Unknown) || f.Fired() == 0 || r.Of(bench.Read).Count != 3 {
		t.Errorf("%+v, %v", r, err)
	}
}

// What the heartbeats of a plane cost on Amazon S3, in dollars.
func TestCost(t *testing.T) {
	round := func(x float64) float64 { return math.Round(x*100) / 100 }
	plane := bench.Plane{Nodes: 3, Heartbeat: time.Second, StandbyHeartbeat: time.Second, Poll: time.Second}
	if b := bench.Cost(plane, bench.S3Prices()); round(b.Standby) != 14.00 {
		t.Errorf("a node that writes and reads each second costs $%.4f a month, want $14.00: %+v", b.Standby, b)
	}
	plane.StandbyHeartbeat = 10 * time.Second
	b := bench.Cost(plane, bench.S3Prices())
	if round(b.Heartbeats) != 5.88 || round(b.PerNode) != 5.88 {
		t.Errorf("each of three nodes costs $%.4f a month, want $5.88: %+v", b.Heartbeats, b)
	}
	plane.Glance = 10 * time.Second
	if more := bench.Cost(plane, bench.S3Prices()); round(more.Heartbeats) != 5.88 || more.PerNode <= b.PerNode || more.Total != more.PerNode*3 {
		t.Errorf("%+v", more)
	}
	if b := bench.Cost(bench.Plane{Nodes: 1, Heartbeat: time.Second}, bench.Prices{Put: 1}); b.Total != 2592 || b.Standby != 0 {
		t.Errorf("%+v", b)
	}
}
