// Package history judges what clients of registers saw: was it possible with
// one register per key and nobody else, were acknowledged writes kept, and did
// terms only grow.
//
// Each key is a register that begins as the empty value at version 0. Values
// of writes must be unique. Times are those of one clock.
package history

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"
)

// Outcome is what a client knows of its operation.
type Outcome int

// The outcomes.
const (
	OK      Outcome = iota // answered
	Failed                 // for sure: it had and will have no effect
	Unknown                // a write that may have happened, then or at any later time
)

func (o Outcome) String() string { return [...]string{"ok", "failed", "unknown"}[o] }

// Op is one operation of one client.
type Op struct {
	Client  int
	Key     string
	Write   bool
	Value   string // written, or read
	Version uint64 // of the register, as answered
	Term    uint64 // of the service that answered; 0: no answer
	Outcome Outcome
	Call    int64 // nanoseconds, from before the request was sent
	Return  int64 // from after the answer was there
}

func (o Op) String() string {
	what := "read"
	if o.Write {
		what = "write"
	}
	return fmt.Sprintf("client %d %s %s %q (%s, version %d, term %d) %.6fs..%.6fs",
		o.Client, what, o.Key, o.Value, o.Outcome, o.Version, o.Term, seconds(o.Call), seconds(o.Return))
}

func seconds(ns int64) float64 { return time.Duration(ns).Seconds() }

// Judge returns a sentence per violation. Each check is made on its own: they
// overlap, and none trusts another.
func Judge(ops []Op, within time.Duration) []string {
	out := slices.Concat(Lost(ops), Terms(ops))
	for _, key := range Keys(ops) {
		if v := Linearizable(ops, key, within); v != "" {
			out = append(out, v)
		}
	}
	return out
}

// Keys lists the keys of a history.
func Keys(ops []Op) []string {
	keys := map[string]bool{}
	for _, o := range ops {
		keys[o.Key] = true
	}
	return slices.Sorted(maps.Keys(keys))
}

// Linearizable says what is wrong with one key's operations: empty if there is
// an order of them, each within its time, that one register could have served.
func Linearizable(ops []Op, key string, within time.Duration) string {
	history := Operations(ops, key)
	switch res, _ := porcupine.CheckOperationsVerbose(Register, history, within); res {
	case porcupine.Ok:
		return ""
	case porcupine.Illegal:
		return fmt.Sprintf("%s is not linearizable (%d operations)", key, len(history))
	case porcupine.Unknown:
	}
	return fmt.Sprintf("%s: not decided within %v (%d operations)", key, within, len(history))
}

// Operations is one key's history as porcupine wants it.
//
// Only what has an effect or says something is in it. A write of unknown
// outcome that nobody read is left out: if the rest is linearizable, then so is
// the whole, with that write at the very end; and if the whole is, then so is
// the rest, since between that write and the next one there was no read. One
// that was read happened before the first answer that returned it. So nothing
// stays open for ever, which would make the search exponential.
func Operations(ops []Op, key string) []porcupine.Operation {
	firstRead := map[string]int64{}
	for _, o := range ops {
		if o.Key != key || o.Write || o.Outcome != OK {
			continue
		}
		if at, ok := firstRead[o.Value]; !ok || o.Return < at {
			firstRead[o.Value] = o.Return
		}
	}
	var out []porcupine.Operation
	for _, o := range ops {
		if o.Key != key || o.Outcome == Failed {
			continue
		}
		end := o.Return
		if o.Outcome == Unknown {
			at, ok := firstRead[o.Value]
			if !o.Write || !ok {
				continue
			}
			// A read that returned before the write was even called is a
			// violation, which an operation of no length still shows.
			end = max(at, o.Call)
		}
		out = append(out, porcupine.Operation{ClientId: o.Client, Input: o, Output: o, Call: o.Call, Return: end})
	}
	return out
}

// Register is one register, with an Op as input and as output.
var Register = porcupine.Model{
	Init: func() any { return "" },
	Step: func(state, input, _ any) (bool, any) {
		o := input.(Op)
		if o.Write {
			return true, o.Value
		}
		return o.Value == state, state
	},
	DescribeOperation: func(input, _ any) string { return input.(Op).String() },
}

// Lost finds acknowledged writes that later answers contradict, by the versions
// in the answers alone: a version that two acknowledged writes got, a version
// with two values, and an answer of a lower version than one that was complete
// before it was asked for.
func Lost(ops []Op) []string {
	var out []string
	for _, key := range Keys(ops) {
		answered := slices.DeleteFunc(slices.Clone(ops), func(o Op) bool { return o.Key != key || o.Outcome != OK })
		at := map[uint64]Op{}
		for _, o := range answered {
			before, ok := at[o.Version]
			switch {
			case !ok:
				at[o.Version] = o
			case before.Value != o.Value:
				out = append(out, fmt.Sprintf("lost: version %d of %s has two values: %v, and %v", o.Version, key, before, o))
			}
		}
		if at[0].Value != "" {
			out = append(out, fmt.Sprintf("lost: %s begins with a value: %v", key, at[0]))
		}
		out = append(out, falls(answered, "lost: the version", func(o Op) uint64 { return o.Version })...)
	}
	return out
}

// Terms finds answers of a lower term than one that was complete before they
// were asked for.
func Terms(ops []Op) []string {
	answered := slices.DeleteFunc(slices.Clone(ops), func(o Op) bool { return o.Term == 0 })
	return falls(answered, "the term", func(o Op) uint64 { return o.Term })
}

// falls lists operations whose figure is lower than that of one that had
// returned when they were called. A write must have a higher version than
// whatever returned before it, but that is for the linearizability check.
func falls(ops []Op, what string, figure func(Op) uint64) []string {
	byCall := slices.SortedFunc(slices.Values(ops), func(a, b Op) int { return cmp.Compare(a.Call, b.Call) })
	byReturn := slices.SortedFunc(slices.Values(ops), func(a, b Op) int { return cmp.Compare(a.Return, b.Return) })
	var out []string
	var highest Op
	next := 0
	for _, o := range byCall {
		for next < len(byReturn) && byReturn[next].Return < o.Call {
			if figure(byReturn[next]) >= figure(highest) {
				highest = byReturn[next]
			}
			next++
		}
		if figure(o) < figure(highest) {
			out = append(out, fmt.Sprintf("%s fell: %v, then %v", what, highest, o))
		}
	}
	return out
}

// Count is how many operations of a kind and outcome there are.
func Count(ops []Op, write bool, outcome Outcome) int {
	n := 0
	for _, o := range ops {
		if o.Write == write && o.Outcome == outcome {
			n++
		}
	}
	return n
}
