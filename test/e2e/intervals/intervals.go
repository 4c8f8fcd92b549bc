// Package intervals reads what the recorder services of an end-to-end test
// wrote about themselves and answers the questions such a test asks: were two
// of them ever alive at once, and how long was none.
//
// A directory holds one file per process, NAME.rec, of lines
//
//	start <boot-ns> <wall-ns> <term> <node> <tree> <pid>
//	beat <boot-ns>
//	signal <boot-ns> <name>
//	stop <boot-ns> <reason>
//
// boot-ns is CLOCK_BOOTTIME, which all processes of one machine share; wall-ns
// is for people. A tree is one started service with all the processes it
// forked, however they detached themselves. A process is known to have lived
// from its start line to its last line; it did live a little longer on both
// sides, so a gap of a few milliseconds between two trees proves nothing, but
// an overlap is proof.
package intervals

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Ext is the extension of the recorder's files. Files without it are ignored.
const Ext = ".rec"

// Instant is a reading of CLOCK_BOOTTIME in nanoseconds.
type Instant int64

// Now reads CLOCK_BOOTTIME as the machine has it: a process in a time
// namespace of its own gets the instant that all others get.
func Now() Instant {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(err) // every Linux since 2.6.39 has it
	}
	return Instant(ts.Nano()) - shift()
}

// shift is how far the clock of this process's time namespace is ahead of the
// machine's. Namespaces are entered at a fork, hence it never changes.
var shift = sync.OnceValue(func() Instant {
	b, err := os.ReadFile("/proc/self/timens_offsets")
	if err != nil {
		return 0 // a kernel without time namespaces
	}
	for line := range strings.Lines(string(b)) {
		var s, ns int64
		if n, _ := fmt.Sscanf(line, "boottime %d %d", &s, &ns); n == 2 {
			return Instant(s*int64(time.Second) + ns)
		}
	}
	panic("no boottime in /proc/self/timens_offsets: " + string(b))
})

// Sub is the time from earlier to i.
func (i Instant) Sub(earlier Instant) time.Duration { return time.Duration(i - earlier) }

// Add is the instant d later.
func (i Instant) Add(d time.Duration) Instant { return i + Instant(d) }

// Word makes s one word, as the file's fields must be.
func Word(s string) string { return strings.Join(strings.Fields(s), "-") }

// Process is what one process wrote.
type Process struct {
	File  string // base name
	Node  string
	Term  uint64
	Tree  string
	Pid   int // in its own PID namespace
	Wall  time.Time
	Start Instant
	Last  Instant // last evidence of life

	Beats    int
	LongGap  time.Duration // longest time between two lines: it was frozen, or the machine was busy
	Signals  []Instant     // when it was asked to stop
	Stopped  bool          // it ended by itself and said so; otherwise it was killed, or lives
	StopWhy  string
	Detached bool // a child that the tree's first process forked
}

// Tree is one started service with everything it forked.
type Tree struct {
	ID        string
	Node      string
	Term      uint64
	Start     Instant // first start line
	Last      Instant // last evidence of life of any of its processes
	Processes []Process
}

func (t Tree) String() string {
	return fmt.Sprintf("%s in term %d (%s, %d processes) alive %.3fs..%.3fs",
		t.Node, t.Term, t.ID, len(t.Processes), time.Duration(t.Start).Seconds(), time.Duration(t.Last).Seconds())
}

// Stopped reports whether every process of the tree ended by itself.
func (t Tree) Stopped() bool {
	return !slices.ContainsFunc(t.Processes, func(p Process) bool { return !p.Stopped })
}

// Overlap is the proof that two services ran at the same time.
type Overlap struct {
	A, B     Tree // A started first
	From, To Instant
}

func (o Overlap) String() string {
	return fmt.Sprintf("two services alive at once for %v: %v, and %v", o.To.Sub(o.From), o.A, o.B)
}

// Record is everything a directory of files says. Trees are in the order of
// their starts.
type Record struct {
	Trees []Tree
	// Unborn names files without a whole start line: of processes that were
	// killed, or are about to write it.
	Unborn []string
}

// Read reads all files of dir. Services may be writing meanwhile: a last line
// that is not whole yet is left out. Anything else unexpected is an error,
// since a checker that skips what it can not read would miss what it is for.
func Read(dir string) (*Record, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	rec := &Record{}
	trees := map[string]int{}
	for _, e := range entries {
		if filepath.Ext(e.Name()) != Ext {
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		p, err := parse(string(b))
		if errors.Is(err, errUnborn) {
			rec.Unborn = append(rec.Unborn, e.Name())
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", e.Name(), err)
		}
		p.File = e.Name()
		p.Detached = p.Tree != strings.TrimSuffix(p.File, Ext)
		i, ok := trees[p.Tree]
		if !ok {
			i = len(rec.Trees)
			trees[p.Tree] = i
			rec.Trees = append(rec.Trees, Tree{ID: p.Tree, Node: p.Node, Term: p.Term, Start: p.Start, Last: p.Last})
		}
		t := &rec.Trees[i]
		if t.Node != p.Node || t.Term != p.Term {
			return nil, fmt.Errorf("%s: of node %s in term %d, but its tree is of node %s in term %d", p.File, p.Node, p.Term, t.Node, t.Term)
		}
		t.Start, t.Last = min(t.Start, p.Start), max(t.Last, p.Last)
		t.Processes = append(t.Processes, p)
	}
	slices.SortFunc(rec.Trees, func(a, b Tree) int {
		if a.Start != b.Start {
			return int(max(-1, min(1, a.Start-b.Start)))
		}
		return strings.Compare(a.ID, b.ID)
	})
	return rec, nil
}

var errUnborn = errors.New("no start line")

func parse(s string) (Process, error) {
	whole, _, found := cutLast(s, "\n")
	if !found {
		return Process{}, errUnborn
	}
	var p Process
	for n, line := range strings.Split(whole, "\n") {
		if err := p.add(n, strings.Fields(line)); err != nil {
			return p, fmt.Errorf("line %d %q: %w", n+1, line, err)
		}
	}
	return p, nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

var errForm = errors.New("not a line of a recorder")

func (p *Process) add(n int, f []string) error {
	if len(f) < 2 || (n == 0) != (f[0] == "start") {
		return errForm
	}
	if p.Stopped {
		return errors.New("a line after stop")
	}
	at, err := strconv.ParseInt(f[1], 10, 64)
	if err != nil {
		return err
	}
	t := Instant(at)
	if n > 0 {
		if t < p.Last {
			return errors.New("time went backwards")
		}
		p.LongGap = max(p.LongGap, t.Sub(p.Last))
	}
	p.Last = t
	switch {
	case f[0] == "start" && len(f) == 7:
		p.Start = t
		wall, errWall := strconv.ParseInt(f[2], 10, 64)
		term, errTerm := strconv.ParseUint(f[3], 10, 64)
		pid, errPid := strconv.Atoi(f[6])
		p.Wall, p.Term, p.Node, p.Tree, p.Pid = time.Unix(0, wall), term, f[4], f[5], pid
		return errors.Join(errWall, errTerm, errPid)
	case f[0] == "beat" && len(f) == 2:
		p.Beats++
	case f[0] == "signal" && len(f) == 3:
		p.Signals = append(p.Signals, t)
	case f[0] == "stop" && len(f) == 3:
		p.Stopped, p.StopWhy = true, f[2]
	default:
		return errForm
	}
	return nil
}

// Overlaps lists every pair of trees that were alive at the same time, also
// of one node and of one term: a service is restarted only after it is gone.
func (r *Record) Overlaps() []Overlap {
	var out []Overlap
	for i, a := range r.Trees {
		for _, b := range r.Trees[i+1:] {
			// b did not start before a.
			if b.Start <= a.Last {
				out = append(out, Overlap{A: a, B: b, From: b.Start, To: min(a.Last, b.Last)})
			}
		}
	}
	return out
}

// Regressions lists the pairs of consecutive starts whose terms fall, or stay
// equal with another node: each sentence names one.
func (r *Record) Regressions() []string {
	var out []string
	for i := 1; i < len(r.Trees); i++ {
		a, b := r.Trees[i-1], r.Trees[i]
		switch {
		case b.Term < a.Term:
			out = append(out, fmt.Sprintf("the term fell: %v, then %v", a, b))
		case b.Term == a.Term && b.Node != a.Node:
			out = append(out, fmt.Sprintf("one term, two nodes: %v, then %v", a, b))
		}
	}
	return out
}

// NextStartAfter is the first tree that started after t.
func (r *Record) NextStartAfter(t Instant) (Tree, bool) {
	for _, tree := range r.Trees {
		if tree.Start > t {
			return tree, true
		}
	}
	return Tree{}, false
}

// StartsAfter counts the trees that started after t.
func (r *Record) StartsAfter(t Instant) int {
	n := 0
	for _, tree := range r.Trees {
		if tree.Start > t {
			n++
		}
	}
	return n
}

// Latest is the tree that started last.
func (r *Record) Latest() (Tree, bool) {
	if len(r.Trees) == 0 {
		return Tree{}, false
	}
	return r.Trees[len(r.Trees)-1], true
}

// LastAliveBefore is the last evidence of life, up to t, of any tree that
// started before t.
func (r *Record) LastAliveBefore(t Instant) (Instant, bool) {
	var last Instant
	for _, tree := range r.Trees {
		if tree.Start < t {
			last = max(last, min(tree.Last, t))
		}
	}
	return last, last != 0
}

// AliveAt lists the trees that were alive at t.
func (r *Record) AliveAt(t Instant) []Tree {
	var out []Tree
	for _, tree := range r.Trees {
		if tree.Start <= t && t <= tree.Last {
			out = append(out, tree)
		}
	}
	return out
}

// Wait reads dir again and again until cond holds, and returns what it read
// then. When ctx ends first, the error comes with the last record read.
func Wait(ctx context.Context, dir string, cond func(*Record) bool) (*Record, error) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		rec, err := Read(dir)
		if err != nil {
			return nil, err
		}
		if cond(rec) {
			return rec, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return rec, fmt.Errorf("waiting for the services in %s (%d starts so far): %w", dir, len(rec.Trees), context.Cause(ctx))
		}
	}
}
