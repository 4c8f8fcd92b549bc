package intervals

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const ms = Instant(time.Millisecond)

// write makes a file; lines may use the tree name SELF.
func write(t *testing.T, dir, name string, lines ...string) {
	t.Helper()
	s := strings.ReplaceAll(strings.Join(lines, "\n"), "SELF", name)
	if err := os.WriteFile(filepath.Join(dir, name+Ext), []byte(s), 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, dir string) *Record {
	t.Helper()
	rec, err := Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	return rec
}

func TestCleanSuccession(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "b", "start 200000000 5 2 nodeb SELF 11", "beat 205000000", "")
	write(t, dir, "a", "start 100000000 5 1 nodea SELF 10", "beat 105000000", "beat 135000000",
		"signal 136000000 terminated", "stop 140000000 asked", "")
	write(t, dir, "ignored")
	if err := os.WriteFile(filepath.Join(dir, "notes.txt"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	rec := read(t, dir)
	if got := rec.Overlaps(); len(got) != 0 {
		t.Errorf("overlaps = %v, want none", got)
	}
	if got := rec.Regressions(); len(got) != 0 {
		t.Errorf("regressions = %v, want none", got)
	}
	if len(rec.Unborn) != 1 || rec.Unborn[0] != "ignored.rec" {
		t.Errorf("unborn = %v", rec.Unborn)
	}
	if len(rec.Trees) != 2 {
		t.Fatalf("trees = %v", rec.Trees)
	}
	a := rec.Trees[0]
	if a.Node != "nodea" || a.Term != 1 || a.Start != 100*ms || a.Last != 140*ms || !a.Stopped() {
		t.Errorf("first tree = %+v", a)
	}
	p := a.Processes[0]
	if p.Beats != 2 || p.LongGap != 30*time.Millisecond || p.StopWhy != "asked" || len(p.Signals) != 1 || p.Pid != 10 || p.Detached {
		t.Errorf("first process = %+v", p)
	}
	if rec.Trees[1].Stopped() {
		t.Error("a killed service counts as stopped")
	}
	next, ok := rec.NextStartAfter(140 * ms)
	if !ok || next.Node != "nodeb" || next.Start.Sub(140*ms) != 60*time.Millisecond {
		t.Errorf("next start = %+v, %v", next, ok)
	}
	if _, ok := rec.NextStartAfter(200 * ms); ok {
		t.Error("a start counts as after itself")
	}
	if n := rec.StartsAfter(0); n != 2 {
		t.Errorf("starts = %d", n)
	}
	if at, ok := rec.LastAliveBefore(150 * ms); !ok || at != 140*ms {
		t.Errorf("last alive before = %d, %v", at, ok)
	}
	if at, ok := rec.LastAliveBefore(120 * ms); !ok || at != 120*ms {
		t.Errorf("last alive before = %d, %v", at, ok)
	}
	if _, ok := rec.LastAliveBefore(50 * ms); ok {
		t.Error("something lived before the first start")
	}
	if got := rec.AliveAt(150 * ms); len(got) != 0 {
		t.Errorf("alive in the gap: %v", got)
	}
	if got := rec.AliveAt(110 * ms); len(got) != 1 || got[0].Node != "nodea" {
		t.Errorf("alive at 110 ms: %v", got)
	}
	if last, ok := rec.Latest(); !ok || last.Node != "nodeb" {
		t.Errorf("latest = %v, %v", last, ok)
	}
}

// TestPlantedOverlaps plants each kind of overlap and expects each to be found.
func TestPlantedOverlaps(t *testing.T) {
	first := []string{"start 100000000 5 1 nodea SELF 10", "beat 200000000", ""}
	for name, plant := range map[string]struct {
		files map[string][]string
		from  Instant
		to    Instant
	}{
		"another node, next term": {
			files: map[string][]string{"b": {"start 150000000 5 2 nodeb SELF 11", "beat 300000000", ""}},
			from:  150 * ms, to: 200 * ms,
		},
		"within": {
			files: map[string][]string{"b": {"start 150000000 5 2 nodeb SELF 11", "stop 160000000 asked", ""}},
			from:  150 * ms, to: 160 * ms,
		},
		"only a start line": {
			files: map[string][]string{"b": {"start 150000000 5 2 nodeb SELF 11", ""}},
			from:  150 * ms, to: 150 * ms,
		},
		"touching": {
			files: map[string][]string{"b": {"start 200000000 5 2 nodeb SELF 11", ""}},
			from:  200 * ms, to: 200 * ms,
		},
		"same node and term restarted too early": {
			files: map[string][]string{"b": {"start 150000000 5 1 nodea SELF 11", "beat 300000000", ""}},
			from:  150 * ms, to: 200 * ms,
		},
		"a detached child outlives its parent": {
			files: map[string][]string{
				"a2": {"start 101000000 5 1 nodea a 12", "beat 400000000", ""},
				"b":  {"start 300000000 5 2 nodeb SELF 11", "beat 500000000", ""},
			},
			from: 300 * ms, to: 400 * ms,
		},
		"not the next but the one after": {
			files: map[string][]string{
				"a2": {"start 101000000 5 1 nodea a 12", "beat 450000000", ""},
				"c":  {"start 440000000 5 3 nodec SELF 13", "beat 500000000", ""},
			},
			from: 440 * ms, to: 450 * ms,
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, "a", first...)
			for n, lines := range plant.files {
				write(t, dir, n, lines...)
			}
			got := read(t, dir).Overlaps()
			if len(got) != 1 {
				t.Fatalf("overlaps = %v, want one", got)
			}
			if got[0].From != plant.from || got[0].To != plant.to {
				t.Errorf("overlap %d..%d, want %d..%d", got[0].From, got[0].To, plant.from, plant.to)
			}
			if got[0].A.ID != "a" || !strings.Contains(got[0].String(), "nodea in term 1") {
				t.Errorf("overlap = %v", got[0])
			}
		})
	}
}

func TestRegressions(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a", "start 100000000 5 5 nodea SELF 10", "")
	write(t, dir, "b", "start 200000000 5 5 nodea SELF 10", "") // a local restart
	write(t, dir, "c", "start 300000000 5 5 nodeb SELF 10", "")
	write(t, dir, "d", "start 400000000 5 4 nodeb SELF 10", "")
	got := read(t, dir).Regressions()
	if len(got) != 2 || !strings.HasPrefix(got[0], "one term, two nodes") || !strings.HasPrefix(got[1], "the term fell") {
		t.Errorf("regressions = %q", got)
	}
}

func TestHalfALastLineIsLeftOut(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a", "start 100000000 5 1 nodea SELF 10", "beat 105000000", "beat 1100")
	rec := read(t, dir)
	if len(rec.Trees) != 1 || rec.Trees[0].Last != 105*ms {
		t.Errorf("trees = %+v", rec.Trees)
	}
}

func TestBrokenFilesAreErrors(t *testing.T) {
	for name, lines := range map[string][]string{
		"no start":        {"beat 100000000", ""},
		"garbage":         {"start 100000000 5 1 nodea SELF 10", "\x00\x00", ""},
		"unknown line":    {"start 100000000 5 1 nodea SELF 10", "pause 200000000", ""},
		"start again":     {"start 100000000 5 1 nodea SELF 10", "start 100000000 5 1 nodea SELF 10", ""},
		"term not number": {"start 100000000 5 x nodea SELF 10", ""},
		"time backwards":  {"start 100000000 5 1 nodea SELF 10", "beat 99999999", ""},
		"life after stop": {"start 100000000 5 1 nodea SELF 10", "stop 110000000 asked", "beat 120000000", ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, "a", lines...)
			if rec, err := Read(dir); err == nil {
				t.Errorf("read as %+v", rec)
			} else if !strings.Contains(err.Error(), "a.rec") {
				t.Errorf("the error does not name the file: %v", err)
			}
		})
	}
	t.Run("one tree, two nodes", func(t *testing.T) {
		dir := t.TempDir()
		write(t, dir, "a", "start 100000000 5 1 nodea SELF 10", "")
		write(t, dir, "b", "start 100000000 5 1 nodeb a 10", "")
		if _, err := Read(dir); err == nil {
			t.Error("no error")
		}
	})
}

func TestWait(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	one := func(r *Record) bool { return len(r.Trees) == 1 }
	if rec, err := Wait(ctx, dir, one); err == nil || rec == nil {
		t.Errorf("Wait = %v, %v, want the last record and an error", rec, err)
	}
	write(t, dir, "a", "start 100000000 5 1 nodea SELF 10", "")
	if rec, err := Wait(t.Context(), dir, one); err != nil || !one(rec) {
		t.Errorf("Wait = %v, %v", rec, err)
	}
}
