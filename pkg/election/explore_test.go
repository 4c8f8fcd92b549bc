package election

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/pkg/lease"
)

// Every history of two nodes over a little more than one lease, up to a number
// of faults: who is first, which answer is lost, slow, stale or late, and when a
// daemon freezes, thaws or is asked to step down. Time runs in ticks of one heartbeat. Each node's
// guard and service are modelled as the guard promises: the tree is dead by
// End, at any moment from Stop on.
//
// EXPLORE_FAULTS sets how many faults one history may hold (default 1),
// EXPLORE_TICKS how long it is (default 11, just enough for a claim after
// silence; 14 ticks are 310,000 states with one fault).

const exploreTick = 300 * time.Millisecond

func exploreTiming(t *testing.T) Timing {
	t.Helper()
	timing, err := Derive(TimingRequest{Timeout: 3 * time.Second, Heartbeat: exploreTick, Operation: exploreTick, Stop: 1200 * time.Millisecond, Poll: exploreTick})
	if err != nil {
		t.Fatal(err)
	}
	return timing
}

// exploreChance draws names in order. All histories of one world share it:
// names need to differ, not to be the same in each.
type exploreChance struct{ n *uint64 }

func (c exploreChance) WriteID() lease.WriteID {
	*c.n++
	id := []byte(strings.Repeat("a", lease.WriteIDLen))
	id[0] = 'w'
	for i, x := lease.WriteIDLen-1, *c.n; x > 0; i, x = i-1, x/26 {
		id[i] = 'a' + byte(x%26)
	}
	return lease.WriteID(id)
}
func (exploreChance) PlaneID() lease.PlaneID             { return "plane000" }
func (exploreChance) Jitter(time.Duration) time.Duration { return 0 }

// xguard is a guard and its service.
type xguard struct {
	Armed    Arm
	Alive    lease.Term // term of the service that runs; 0: none
	Stopping bool
	Ended    lease.Term // highest term whose stop has begun
}

type xnode struct {
	m       *Machine
	guard   xguard
	reading bool
	readDue int // the tick in which it is answered
	write   *Write
	wDue    int
	late    []Write // lost answers whose request may still land
	frozen  bool
	inbox   []Event // what came while frozen
}

// xworld is one state of the world.
type xworld struct {
	tick   int
	reg    lease.Value
	before lease.Value // what a stale read may return
	nodes  [2]xnode
	faults int
	trail  []string
}

func (w *xworld) now() lease.Instant { return lease.At(time.Hour + time.Duration(w.tick)*exploreTick) }

func (w *xworld) clone(step string) *xworld {
	c := *w
	c.trail = append(slices.Clip(w.trail), step)
	for i := range c.nodes {
		n := &c.nodes[i]
		n.m = n.m.Clone()
		n.late = slices.Clone(n.late)
		n.inbox = slices.Clone(n.inbox)
		if n.write != nil {
			x := *n.write
			n.write = &x
		}
	}
	return &c
}

// tell steps a machine, or keeps the event while its daemon is frozen.
func (w *xworld) tell(i int, ev Event) error {
	n := &w.nodes[i]
	if n.frozen {
		if _, tick := ev.(Tick); !tick {
			n.inbox = append(n.inbox, ev)
		}
		return nil
	}
	acts := n.m.Step(w.now(), ev)
	if err := n.m.Check(); err != nil {
		return fmt.Errorf("node %d: %w", i, err)
	}
	for _, a := range acts {
		if err := w.perform(i, a); err != nil {
			return err
		}
	}
	return nil
}

func (w *xworld) perform(i int, a Action) error {
	n := &w.nodes[i]
	switch a := a.(type) {
	case Read:
		n.reading, n.readDue = true, w.tick
	case Write:
		if n.write != nil {
			return fmt.Errorf("node %d has two writes under way", i)
		}
		n.write, n.wDue = &a, w.tick
	case Remember:
		return w.tell(i, Remembered{Plane: a.Plane, Term: a.Term})
	case Arm:
		if a.Term > n.guard.Ended {
			n.guard.Armed = a
			return w.tell(i, Armed{Term: a.Term, T0: a.T0})
		}
	case Start:
		g := &n.guard
		if a.Term > g.Ended && a.Term == g.Armed.Term && w.now().Longest(g.Armed.T0) < g.Armed.Stop {
			g.Alive = a.Term
			if other := w.nodes[1-i].guard.Alive; other != 0 {
				return fmt.Errorf("two services at once: node %d in term %d, node %d in term %d", i, a.Term, 1-i, other)
			}
			return w.tell(i, Ready{Term: a.Term})
		}
	case Stop:
		n.guard.Ended = max(n.guard.Ended, a.Term)
		if n.guard.Alive != a.Term {
			return w.tell(i, TreeEmpty{Term: a.Term})
		}
		n.guard.Stopping = true
	case KillGuard, NudgePeers, Note, ListWhole, Create, Quit:
	}
	return nil
}

// next returns every world that can follow.
func (w *xworld) next(limit, faults int) ([]*xworld, error) {
	var out []*xworld
	try := func(step string, cost int, f func(c *xworld) error) error {
		if w.faults+cost > faults {
			return nil
		}
		c := w.clone(step)
		c.faults += cost
		if err := f(c); err != nil {
			return fmt.Errorf("%w\n%s", err, strings.Join(c.trail, "\n"))
		}
		out = append(out, c)
		return nil
	}
	var errs []error
	do := func(step string, cost int, f func(c *xworld) error) {
		if err := try(step, cost, f); err != nil {
			errs = append(errs, err)
		}
	}
	due := false
	for i := range w.nodes {
		n := &w.nodes[i]
		if n.reading && n.readDue <= w.tick {
			due = true
			if n.readDue == w.tick {
				do(fmt.Sprintf("%d: node %d's read is slow", w.tick, i), 1, func(c *xworld) error {
					c.nodes[i].readDue++
					return nil
				})
			}
			read := func(v lease.Value) func(*xworld) error {
				return func(c *xworld) error {
					c.nodes[i].reading = false
					return c.tell(i, ReadDone{Version: string(v.WriteID), Value: v.Encode()})
				}
			}
			do(fmt.Sprintf("%d: node %d reads seq %d", w.tick, i, w.reg.Seq), 0, read(w.reg))
			if w.before.WriteID != w.reg.WriteID {
				do(fmt.Sprintf("%d: node %d reads stale seq %d", w.tick, i, w.before.Seq), 1, read(w.before))
			}
			do(fmt.Sprintf("%d: node %d's read fails", w.tick, i), 1, func(c *xworld) error {
				c.nodes[i].reading = false
				return c.tell(i, ReadDone{Fault: FaultFailed, Detail: "lost"})
			})
		}
		if a := n.write; a != nil && n.wDue <= w.tick {
			due = true
			answer := func(applied, told, later bool) func(*xworld) error {
				return func(c *xworld) error {
					x := &c.nodes[i]
					x.write = nil
					ok := applied && c.apply(*a)
					if later {
						x.late = append(x.late, *a)
					}
					ev := WriteDone{WriteID: a.Value.WriteID, Detail: "no answer"}
					if ok && told {
						ev = WriteDone{WriteID: a.Value.WriteID, Applied: true, Version: string(a.Value.WriteID)}
					}
					return c.tell(i, ev)
				}
			}
			name := fmt.Sprintf("%d: node %d writes term %d seq %d held %t: ", w.tick, i, a.Value.Term, a.Value.Seq, a.Value.Held)
			do(name+"slow", 1, func(c *xworld) error {
				c.nodes[i].wDue++
				return nil
			})
			do(name+"answered", 0, answer(true, true, false))
			do(name+"reply lost", 1, answer(true, false, false))
			do(name+"request lost", 1, answer(false, false, false))
			do(name+"delayed past its limit", 1, answer(false, false, true))
		}
		for k, a := range n.late {
			if string(w.reg.WriteID) == a.Old {
				do(fmt.Sprintf("%d: node %d's late write of seq %d lands", w.tick, i, a.Value.Seq), 0, func(c *xworld) error {
					c.apply(a)
					c.nodes[i].late = slices.Delete(c.nodes[i].late, k, k+1)
					return nil
				})
			}
		}
		if n.guard.Stopping {
			do(fmt.Sprintf("%d: node %d's service ends", w.tick, i), 0, func(c *xworld) error { return c.die(i) })
		}
		if !n.frozen {
			do(fmt.Sprintf("%d: node %d freezes", w.tick, i), 1, func(c *xworld) error {
				c.nodes[i].frozen = true
				return nil
			})
		} else {
			do(fmt.Sprintf("%d: node %d thaws", w.tick, i), 0, func(c *xworld) error {
				x := &c.nodes[i]
				x.frozen = false
				box := x.inbox
				x.inbox = nil
				if err := c.tell(i, Tick{}); err != nil {
					return err
				}
				for _, ev := range box {
					if err := c.tell(i, ev); err != nil {
						return err
					}
				}
				return nil
			})
		}
	}
	if due || w.tick == limit {
		return out, errors.Join(errs...)
	}
	for i := range w.nodes {
		if r := w.nodes[i].m.reign; r != nil && !r.over && r.leaving == nil && !w.nodes[i].frozen {
			do(fmt.Sprintf("%d: node %d is asked to step down", w.tick, i), 1, func(c *xworld) error {
				return c.tell(i, StepDown{Why: "asked", HoldOff: time.Minute})
			})
		}
	}
	for first := range w.nodes {
		do(fmt.Sprintf("%d: a tick, node %d first", w.tick, first), 0, func(c *xworld) error {
			c.tick++
			for _, i := range []int{first, 1 - first} {
				if err := c.guardTick(i); err != nil {
					return err
				}
				if err := c.tell(i, Tick{}); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return out, errors.Join(errs...)
}

func (w *xworld) apply(a Write) bool {
	if string(w.reg.WriteID) != a.Old {
		return false
	}
	w.before, w.reg = w.reg, a.Value
	return true
}

// guardTick is the guard's own clock: the stop begins at Stop, and nothing is
// left at End.
func (w *xworld) guardTick(i int) error {
	g := &w.nodes[i].guard
	if g.Alive == 0 || g.Armed.Term != g.Alive {
		return nil
	}
	// The next tick is the first moment at which something can happen, so what
	// is due before it is due now.
	el := w.now().Longest(g.Armed.T0)
	if el >= g.Armed.Stop && !g.Stopping {
		g.Stopping = true
		g.Ended = max(g.Ended, g.Alive)
		if err := w.tell(i, GuardStopping{Term: g.Alive, Why: "deadline"}); err != nil {
			return err
		}
	}
	if el >= g.Armed.End {
		return w.die(i)
	}
	return nil
}

func (w *xworld) die(i int) error {
	g := &w.nodes[i].guard
	t := g.Alive
	g.Alive, g.Stopping = 0, false
	return w.tell(i, TreeEmpty{Term: t})
}

// key names the state up to the passing of time and the choice of names.
type keyer struct {
	seed  maphash.Seed
	buf   []byte
	names map[string]uint64
	now   lease.Instant
}

func (k *keyer) of(w *xworld) uint64 {
	k.buf, k.now = k.buf[:0], w.now()
	clear(k.names)
	k.walk(reflect.ValueOf(w.reg))
	k.walk(reflect.ValueOf(w.before))
	k.buf = binary.AppendVarint(k.buf, int64(w.faults))
	k.buf = binary.AppendVarint(k.buf, int64(w.tick))
	for i := range w.nodes {
		n := &w.nodes[i]
		k.walk(reflect.ValueOf(*n.m))
		k.walk(reflect.ValueOf(n.guard))
		k.walk(reflect.ValueOf(struct {
			R, F   bool
			RD, WD int
			W      *Write
			L      []Write
			I      []Event
		}{n.reading, n.frozen, n.readDue - w.tick, n.wDue - w.tick, n.write, n.late, n.inbox}))
	}
	return maphash.Bytes(k.seed, k.buf)
}

var instantType = reflect.TypeFor[lease.Instant]()

func (k *keyer) walk(v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		if v.Type() == instantType {
			b := v.Field(0).Int()
			if b != 0 {
				b -= k.now.Boot
			} else {
				b = 1 // never set
			}
			k.buf = binary.AppendVarint(k.buf, b)
			return
		}
		for i := range v.NumField() {
			switch v.Type().Field(i).Name {
			case "out", "cfg", "now", "wake":
				continue
			}
			k.walk(v.Field(i))
		}
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			k.buf = append(k.buf, 0)
			return
		}
		k.buf = append(k.buf, 1)
		if v.Kind() == reflect.Interface {
			k.buf = append(k.buf, v.Elem().Type().Name()...)
		}
		k.walk(v.Elem())
	case reflect.Slice:
		k.buf = binary.AppendVarint(k.buf, int64(v.Len()))
		for i := range v.Len() {
			k.walk(v.Index(i))
		}
	case reflect.String:
		s := v.String()
		if len(s) == lease.WriteIDLen && s[0] == 'w' {
			n, ok := k.names[s]
			if !ok {
				n = uint64(len(k.names) + 1)
				k.names[strings.Clone(s)] = n
			}
			k.buf = binary.AppendUvarint(append(k.buf, 'w'), n)
			return
		}
		k.buf = append(append(k.buf, s...), 0)
	case reflect.Bool:
		b := byte(0)
		if v.Bool() {
			b = 1
		}
		k.buf = append(k.buf, b)
	case reflect.Int, reflect.Int64, reflect.Int8, reflect.Int16, reflect.Int32:
		k.buf = binary.AppendVarint(k.buf, v.Int())
	case reflect.Uint, reflect.Uint64, reflect.Uint8, reflect.Uint16, reflect.Uint32:
		k.buf = binary.AppendUvarint(k.buf, v.Uint())
	default:
		panic("explore: " + v.Kind().String())
	}
}

func newXWorld(t *testing.T, without Rules) *xworld {
	t.Helper()
	chance := exploreChance{new(uint64)}
	first := lease.Value{Plane: "plane000", Lease: 3 * time.Second, WriteID: chance.WriteID()}
	w := &xworld{reg: first, before: first}
	for i := range w.nodes {
		id := lease.NodeID("node000" + strconv.Itoa(i))
		w.nodes[i].m = New(Config{
			Node: id, Incarnation: lease.Incarnation(strings.Repeat(string(rune('a'+i)), lease.IncarnationLen)),
			Timing: exploreTiming(t), Mode: lease.ModeAuto, Plane: "plane000", Random: chance, Without: without,
		})
	}
	for i := range w.nodes {
		other := Candidate{Node: lease.NodeID("node000" + strconv.Itoa(1-i)), State: lease.StateStandby}
		for _, ev := range []Event{Trust{OK: true}, Peers{Candidates: []Candidate{other}}} {
			if err := w.tell(i, ev); err != nil {
				t.Fatal(err)
			}
		}
	}
	return w
}

// explore visits every state within limit ticks and returns how many there
// are, and the first violation.
func explore(t *testing.T, without Rules, limit, faults int) (states, reigns int, err error) {
	t.Helper()
	k := &keyer{seed: maphash.MakeSeed(), names: map[string]uint64{}}
	first := newXWorld(t, without)
	seen := map[uint64]struct{}{k.of(first): {}}
	stack := []*xworld{first}
	for len(stack) > 0 {
		w := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		more, err := w.next(limit, faults)
		if err != nil {
			return len(seen), reigns, err
		}
		for _, c := range more {
			key := k.of(c)
			if _, ok := seen[key]; ok {
				continue
			}
			seen[key] = struct{}{}
			reigns = max(reigns, int(c.reg.Term))
			stack = append(stack, c)
		}
	}
	return len(seen), reigns, nil
}

func TestExplore(t *testing.T) {
	number := func(name string, otherwise int) int {
		n, err := strconv.Atoi(cmp.Or(os.Getenv(name), strconv.Itoa(otherwise)))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return n
	}
	limit, faults := number("EXPLORE_TICKS", exploreTicks), number("EXPLORE_FAULTS", 1)
	began := time.Now()
	states, terms, err := explore(t, 0, limit, faults)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d ticks, at most %d faults: %d states, up to term %d, %.1f s", limit, faults, states, terms, time.Since(began).Seconds())
	if terms < 2 && limit >= 11 {
		t.Error("no history had a second reign: nothing was shown")
	}
}

// The explorer is worth something only if it finds what a removed rule breaks.
func TestExploreFindsRemovedRules(t *testing.T) {
	for _, c := range []struct {
		name  string
		rule  Rules
		ticks int
	}{
		{"R5", WithoutR5, 14},
		{"R6", WithoutR6, 14},
		{"R9", WithoutR9, 6},
	} {
		if c.ticks > exploreTicks+3 {
			continue
		}
		states, _, err := explore(t, c.rule, c.ticks, 1)
		if err == nil {
			t.Errorf("without %s: nothing found in %d states", c.name, states)
			continue
		}
		t.Logf("without %s, after %d states: %v", c.name, states, err)
	}
}
