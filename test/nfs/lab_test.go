package nfs

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/test/e2e/intervals"
)

const ms = intervals.Instant(time.Millisecond)

func TestOffsetNarrows(t *testing.T) {
	var o offset
	// Their clock is 1000 ms behind ours, and the way there and back is never
	// shared out evenly.
	for _, look := range [][3]intervals.Instant{
		{1000 * ms, 9 * ms, 1010 * ms},
		{2000 * ms, 1001 * ms, 2020 * ms},
		{3000 * ms, 2003 * ms, 3004 * ms},
	} {
		if err := o.narrow(look[0], look[1], look[2]); err != nil {
			t.Fatal(err)
		}
	}
	if o.low != 999*ms || o.top != 1001*ms || o.ahead() != 1000*ms || o.error() != time.Millisecond {
		t.Errorf("ahead by %d..%d", o.low, o.top)
	}
}

func TestOffsetNoticesAnotherRate(t *testing.T) {
	var o offset
	if err := o.narrow(1000*ms, 0, 1001*ms); err != nil {
		t.Fatal(err)
	}
	// A hundred seconds later theirs has gained 50 ms.
	if err := o.narrow(101000*ms, 100050*ms, 101001*ms); err == nil {
		t.Error("a clock that gains half a per mille is taken for ours")
	}
}

func TestKeepMovesRecordsToOurTime(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "n-1-5-aa.rec")
	for _, lines := range []string{"start 100000000 7 1 n n-1-5-aa 5\nbeat 105000000\n", "stop 110000000 asked\n"} {
		if err := keep(file, lines, 1000*ms); err != nil {
			t.Fatal(err)
		}
	}
	rec, err := intervals.Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(rec.Trees) != 1 || rec.Trees[0].Start != 1100*ms || rec.Trees[0].Last != 1110*ms || !rec.Trees[0].Stopped() {
		t.Errorf("read back: %+v", rec.Trees)
	}
	if err := keep(file, "beat soon\n", 0); err == nil {
		t.Error("a line without an instant was kept")
	}
	if b, err := os.ReadFile(file); err != nil || len(b) == 0 {
		t.Error(err)
	}
}
