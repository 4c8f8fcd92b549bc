package history_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/test/chaos/history"
)

const within = 10 * time.Second

func write(value string, version uint64, outcome history.Outcome, call, ret int64) history.Op {
	return history.Op{Key: "k", Write: true, Value: value, Version: version, Term: 1, Outcome: outcome, Call: call, Return: ret}
}

func read(value string, version uint64, call, ret int64) history.Op {
	return history.Op{Key: "k", Value: value, Version: version, Term: 1, Call: call, Return: ret}
}

// TestJudge plants each violation into a short history.
func TestJudge(t *testing.T) {
	const ok, failed, unknown = history.OK, history.Failed, history.Unknown
	for _, c := range []struct {
		name         string
		ops          []history.Op
		linearizable bool
		lost         string // part of the sentence; empty: none
	}{
		{"in order", []history.Op{write("a", 1, ok, 1, 2), read("a", 1, 3, 4), write("b", 2, ok, 5, 6), read("b", 2, 7, 8)}, true, ""},
		{"nothing written", []history.Op{read("", 0, 1, 2)}, true, ""},
		{"a read beside a write may return either", []history.Op{write("a", 1, ok, 1, 9), read("", 0, 2, 3), read("a", 1, 4, 5)}, true, ""},
		{"but not the old one again", []history.Op{write("a", 1, ok, 1, 9), read("a", 1, 2, 3), read("", 0, 4, 5)}, false, "fell"},
		{"stale read", []history.Op{write("a", 1, ok, 1, 2), write("b", 2, ok, 3, 4), read("a", 1, 5, 6)}, false, "fell"},
		{"lost write", []history.Op{write("a", 1, ok, 1, 2), write("b", 2, ok, 3, 4), read("a", 1, 9, 10), read("a", 1, 11, 12)}, false, "fell"},
		{"lost write, its version given again", []history.Op{write("a", 1, ok, 1, 2), write("b", 1, ok, 3, 4), read("b", 1, 5, 6)}, true, "two values"},
		{"two masters write at once", []history.Op{write("a", 1, ok, 1, 5), write("b", 1, ok, 2, 6), read("b", 1, 7, 8)}, true, "two values"},
		{"out of thin air", []history.Op{read("a", 1, 1, 2)}, false, ""},
		{"unknown, never seen", []history.Op{write("a", 1, ok, 1, 2), write("b", 0, unknown, 3, 4), read("a", 1, 5, 6)}, true, ""},
		{"unknown, seen later", []history.Op{write("a", 1, ok, 1, 2), write("b", 0, unknown, 3, 4), read("a", 1, 5, 6), read("b", 2, 7, 8)}, true, ""},
		{"unknown, seen, then gone", []history.Op{write("a", 1, ok, 1, 2), write("b", 0, unknown, 3, 4), read("b", 2, 5, 6), read("a", 1, 7, 8)}, false, "fell"},
		{"unknown, seen before it was called", []history.Op{read("b", 1, 1, 2), write("b", 0, unknown, 3, 4)}, false, ""},
		{"failed, yet seen", []history.Op{write("a", 0, failed, 1, 2), read("a", 1, 3, 4)}, false, ""},
		{"failed, not seen", []history.Op{write("a", 0, failed, 1, 2), read("", 0, 3, 4)}, true, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := history.Linearizable(c.ops, "k", within); (got == "") != c.linearizable {
				t.Errorf("linearizable: %q", got)
			}
			got := strings.Join(history.Lost(c.ops), "\n")
			if (got == "") != (c.lost == "") || !strings.Contains(got, c.lost) {
				t.Errorf("lost: %q, want something with %q", got, c.lost)
			}
			if all := history.Judge(c.ops, within); (len(all) == 0) != (c.linearizable && c.lost == "") {
				t.Errorf("judged: %q", all)
			}
		})
	}
}

func TestTermsFall(t *testing.T) {
	a, b := read("", 0, 1, 2), read("", 0, 3, 4)
	a.Term = 7
	b.Term, b.Outcome, b.Key = 6, history.Failed, "other" // a refusal tells the term, too
	if got := history.Terms([]history.Op{b, a}); len(got) != 1 {
		t.Errorf("terms 7 then 6: %q", got)
	}
	b.Call = 2 // at once with the other
	if got := history.Terms([]history.Op{a, b}); len(got) != 0 {
		t.Errorf("terms 7 and 6 at once: %q", got)
	}
	b.Call, b.Term = 3, 0 // no answer
	if got := history.Terms([]history.Op{a, b}); len(got) != 0 {
		t.Errorf("no answer: %q", got)
	}
}

// register is a real one, of which operations take effect at random moments
// between call and return.
type register struct {
	rand    *rand.Rand
	now     int64
	value   string
	version uint64
	written int
	ops     []history.Op
}

func (r *register) step(client int) {
	call := r.now + r.rand.Int64N(3)
	effect := call + 1 + r.rand.Int64N(3)
	o := history.Op{Client: client, Key: "k", Write: r.rand.IntN(2) == 0, Term: 1, Call: call}
	if o.Write {
		r.written++
		o.Value = fmt.Sprint(r.written)
		o.Outcome = history.Outcome(r.rand.IntN(3))
		lost := o.Outcome == history.Failed || (o.Outcome == history.Unknown && r.rand.IntN(2) == 0)
		if !lost {
			r.version++
			r.value = o.Value
		}
	} else {
		o.Value = r.value
	}
	if o.Outcome == history.OK {
		o.Version = r.version
	}
	o.Return = effect + 1 + r.rand.Int64N(9) // beyond the next ones' effects
	r.now = effect
	r.ops = append(r.ops, o)
}

// TestLongHistories: what a real register did passes, quickly, however many
// outcomes are unknown; the same with one read made stale, or one acknowledged
// write made to have never happened, does not.
func TestLongHistories(t *testing.T) {
	for seed := range uint64(30) {
		r := &register{rand: rand.New(rand.NewPCG(seed, 0))} //nolint:gosec // a seed is the point
		for i := range 3000 {
			r.step(i % 8)
		}
		if got := history.Judge(r.ops, within); len(got) > 0 {
			t.Fatalf("seed %d: %q", seed, got)
		}
		// The last read of a value that was acknowledged, made to return what
		// was there long before.
		for i := len(r.ops) - 1; i >= 0; i-- {
			if o := r.ops[i]; !o.Write {
				stale := r.ops[: i+1 : i+1]
				stale[i].Value, stale[i].Version = oldest(stale)
				break
			}
		}
		got := strings.Join(history.Judge(r.ops, within), "\n")
		if !strings.Contains(got, "not linearizable") || !strings.Contains(got, "lost: ") {
			t.Errorf("seed %d: a stale read passes: %q", seed, got)
		}
	}
}

func oldest(ops []history.Op) (value string, version uint64) {
	for _, o := range ops {
		if o.Write && o.Outcome == history.OK {
			return o.Value, o.Version
		}
	}
	return "", 0
}
