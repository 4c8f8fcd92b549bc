package election

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/understudy-ha/understudy/pkg/lease"
)

// chance is Random out of a rapid run.
type chance struct {
	t *rapid.T
	n int
}

func (c *chance) WriteID() lease.WriteID { c.n++; return lease.WriteID(id26('w', c.n)) }
func (c *chance) PlaneID() lease.PlaneID { return plane }
func (c *chance) Jitter(limit time.Duration) time.Duration {
	return time.Duration(rapid.Int64Range(0, int64(limit)-1).Draw(c.t, "jitter"))
}

// TestAnyEvents tells a machine anything, in any order, also what can not
// happen: completions of what was never asked for, reports of terms that never
// were, hostile values. It must neither panic nor break an invariant, nor ask
// for two reads or two writes at once, nor serve without a readable claim and
// an armed guard, nor start a term twice or after it was stopped.
func TestAnyEvents(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		timing, err := Derive(TimingRequest{Preset: "fast"})
		if err != nil {
			t.Fatal(err)
		}
		m := New(Config{
			Node: self, Incarnation: inc, Timing: timing, HotStandby: true, Version: "1.0.0", AutoInit: true,
			Mode:    rapid.SampledFrom(lease.Modes()).Draw(t, "mode"),
			Plane:   rapid.SampledFrom([]lease.PlaneID{"", plane}).Draw(t, "plane"),
			MaxTerm: lease.Term(rapid.Uint64Range(0, 3).Draw(t, "maxterm")),
			Random:  &chance{t: t},

			Fencible: []lease.NodeID{self, "node0002"}, FenceLimit: time.Second,
		})
		h := &anyone{t: t, m: m, started: map[lease.Term]bool{}, stopped: map[lease.Term]bool{}}
		h.step(Trust{OK: true})
		for range rapid.IntRange(1, 150).Draw(t, "steps") {
			h.step(h.draw())
		}
	})
}

type anyone struct {
	t   *rapid.T
	m   *Machine
	now lease.Instant

	register         lease.Value
	any              bool // register means something
	reading, writing bool
	last             Write
	started, stopped map[lease.Term]bool
	fencing          string // the version for which it last fenced
	quit             bool
}

func (h *anyone) draw() Event {
	t := h.t
	d := rapid.SampledFrom([]time.Duration{0, time.Millisecond, 100 * time.Millisecond, 500 * time.Millisecond, 3 * time.Second, 20 * time.Second}).Draw(t, "pass")
	h.now.Boot += int64(d)
	if rapid.IntRange(0, 9).Draw(t, "asleep") > 0 {
		h.now.Raw += int64(d)
	}
	term := lease.Term(rapid.Uint64Range(0, 8).Draw(t, "term"))
	if r := h.m.reign; r != nil && rapid.Bool().Draw(t, "own term") {
		term = r.term
	}
	ok := rapid.Bool().Draw(t, "ok")
	switch rapid.IntRange(0, 28).Draw(t, "event") {
	case 0, 1, 2, 3, 4, 5:
		h.reading = false
		return h.read(term)
	case 6, 7, 8, 9:
		h.writing = false
		if ok && h.last.Value.Plane != "" {
			h.register, h.any = h.last.Value, true
			return WriteDone{WriteID: h.last.Value.WriteID, Applied: true, Version: string(h.last.Value.Encode())}
		}
		return WriteDone{WriteID: h.last.Value.WriteID, Unsent: rapid.Bool().Draw(t, "unsent")}
	case 10, 11:
		failed := ""
		if !ok {
			failed = "no space left"
		}
		if h.m.keeping {
			// What it asked for; anything else would be a lie of the disk.
			return Remembered{Plane: h.m.plane, Term: max(h.m.claim.keeping, h.m.high.Term), Failed: failed}
		}
		return Tick{}
	case 12, 13:
		var t0 lease.Instant
		if h.m.reign != nil {
			t0 = h.m.reign.askT0
		}
		return Armed{Term: term, T0: t0}
	case 14:
		return Ready{Term: term}
	case 15:
		return Unready{Term: term}
	case 16:
		return ServiceFailed{Term: term, Why: "exit 1"}
	case 17:
		return GuardStopping{Term: term, Why: "the deadline passed"}
	case 18:
		return TreeEmpty{Term: term}
	case 19:
		if ok {
			return GuardLost{Term: term}
		}
		return TreeStuck{Term: term, Why: "stuck"}
	case 20:
		return SetMode{Mode: rapid.SampledFrom(lease.Modes()).Draw(t, "mode")}
	case 21:
		return StepDown{To: "node0002", HoldOff: d, Why: "asked"}
	case 22:
		if ok {
			return Listed{OK: true, Empty: rapid.Bool().Draw(t, "empty")}
		}
		return BirthDone{}
	case 23:
		if rapid.IntRange(0, 9).Draw(t, "end") == 0 {
			return Shutdown{Why: "asked"}
		}
		return SetPaused{Paused: ok}
	case 24:
		return Fenced{Version: h.fencing, Off: ok}
	case 25:
		return Fenced{Version: h.m.watch.version, Off: ok}
	case 26:
		return Peers{Candidates: []Candidate{{Node: "node0002", Priority: rapid.IntRange(-1, 1).Draw(t, "priority"), State: lease.StateStandby}}}
	case 27:
		if ok {
			return Moves{Ages: []time.Duration{d, 0}}
		}
		if rapid.IntRange(0, 3).Draw(t, "ack") == 0 {
			return Ack{}
		}
		return SetMaintenance{Why: rapid.SampledFrom([]string{"", "patching"}).Draw(t, "maintenance")}
	}
	return Tick{}
}

func (h *anyone) read(term lease.Term) Event {
	t := h.t
	switch rapid.IntRange(0, 9).Draw(t, "read") {
	case 0:
		return ReadDone{Fault: FaultFailed, Detail: "no answer"}
	case 1:
		return ReadDone{Fault: FaultAbsent}
	case 2:
		return ReadDone{Version: "x", Value: []byte("u2.what")}
	case 3, 4:
		v := lease.Value{
			Plane: plane, Term: term, Seq: lease.Seq(rapid.Uint64Range(0, 40).Draw(t, "seq")), Held: rapid.Bool().Draw(t, "held"),
			Paused: rapid.IntRange(0, 5).Draw(t, "paused") == 0, Lease: 5 * time.Second, Holder: "node0002",
			Incarnation: lease.Incarnation(id26('b', 0)), WriteID: lease.WriteID(id26('x', rapid.IntRange(0, 5).Draw(t, "x"))),
		}
		switch rapid.IntRange(0, 9).Draw(t, "who") {
		case 0:
			v.Plane = "plane999"
		case 1:
			v.Holder, v.Incarnation = self, inc
		case 2:
			v.To = self
		}
		h.register, h.any = v, true
	}
	if !h.any {
		return ReadDone{Fault: FaultAbsent}
	}
	b := h.register.Encode()
	return ReadDone{Version: string(b), Value: b}
}

func (h *anyone) step(ev Event) {
	t, m := h.t, h.m
	actions := m.Step(h.now, ev)
	if err := m.Check(); err != nil {
		t.Fatalf("after %T: %v", ev, err)
	}
	if h.quit && len(actions) > 0 {
		t.Fatalf("after its end the machine still does %T", actions[0])
	}
	if m.Deadline().Boot < h.now.Boot {
		t.Fatalf("the deadline %v lies before now %v", m.Deadline(), h.now)
	}
	for _, a := range actions {
		h.act(a)
	}
	if m.Serving(h.now) {
		r := m.reign
		if !r.armed || !r.readBack || r.over || h.stopped[r.term] || h.now.Longest(r.ackT0) >= r.timing.End() {
			t.Fatalf("serves without the right to: %+v", r)
		}
	}
	_ = fmt.Sprint(m.View(h.now)) // must not panic either
}

func (h *anyone) act(a Action) {
	t := h.t
	switch a := a.(type) {
	case Read:
		if h.reading {
			t.Fatal("a second read while one is under way")
		}
		h.reading = true
	case Write:
		if h.writing {
			t.Fatal("a second write while one is under way")
		}
		h.writing, h.last = true, a
		a.Value.Encode() // panics on what nobody could read
	case Create:
		a.Value.Encode()
	case Start:
		if h.started[a.Term] || h.stopped[a.Term] || a.Until <= 0 {
			t.Fatalf("start of term %d: started %v, stopped %v, until %v", a.Term, h.started[a.Term], h.stopped[a.Term], a.Until)
		}
		h.started[a.Term] = true
	case Stop:
		h.stopped[a.Term] = true
	case KillGuard:
		h.stopped[a.Term] = true
	case Fence:
		if h.fencing = a.Version; a.Old.Node != "node0002" {
			t.Fatalf("fences %q", a.Old.Node)
		}
	case Quit:
		h.quit = true
	}
}
