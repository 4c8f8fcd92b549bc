package election

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/pkg/lease"
)

// FuzzMachine makes events out of bytes: any of them in any order, with any
// contents, completions of what was never asked for and values that nobody
// could have written included. The machine must not panic, must keep Check's
// invariants, must start the service at most once in a term, never after a stop
// in it, and never before the guard has acknowledged a deadline of that term,
// and must do nothing after its Quit.
//
// TestAnyEvents, whose events are likelier, goes deeper; this goes wider.
func FuzzMachine(f *testing.F) {
	f.Add([]byte{})
	for _, seed := range machineSeeds() {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		newFuzzed(t, b).run()
	})
}

// fuzzed is a machine with what an onlooker can know of it.
type fuzzed struct {
	t   *testing.T
	in  input
	m   *Machine
	now lease.Instant
	ids int

	jitter byte // out of 255; not from in, or it would be read at any time

	written          []lease.Value       // what it asked to write, latest last
	asked            map[lease.Term]bool // the guard was sent a deadline of the term
	armed            map[lease.Term]bool // and acknowledged one
	started, stopped map[lease.Term]bool
	fencing          string                    // the version for which it last fenced
	kept             map[lease.Term]lease.Term // what it asked to be remembered
	quit             bool
}

func newFuzzed(t *testing.T, b []byte) *fuzzed {
	t.Helper()
	timing, err := Derive(TimingRequest{Preset: "fast"})
	if err != nil {
		t.Fatal(err)
	}
	h := &fuzzed{
		t: t, in: b, asked: map[lease.Term]bool{}, armed: map[lease.Term]bool{},
		started: map[lease.Term]bool{}, stopped: map[lease.Term]bool{}, kept: map[lease.Term]lease.Term{},
	}
	cfg := Config{
		Node: self, Incarnation: inc, Timing: timing, Version: "1.0.0", Random: h,
		Mode: h.mode(), MaxTerm: h.term(),
	}
	h.jitter = h.in.byte()
	flags := h.in.byte()
	cfg.HotStandby, cfg.AutoInit = flags&1 != 0, flags&2 != 0
	if flags&4 != 0 {
		cfg.Plane = plane
	}
	if flags&8 != 0 {
		cfg.Former = &Former{Term: h.term(), Incarnation: lease.Incarnation(id26('f', 0))}
	}
	if flags&16 != 0 {
		cfg.DrainDelay = h.duration()
	}
	if flags&32 != 0 {
		cfg.Fencible, cfg.FenceLimit = []lease.NodeID{"node0002", self}, h.duration()
	}
	h.m = New(cfg)
	return h
}

func (h *fuzzed) WriteID() lease.WriteID { h.ids++; return lease.WriteID(id26('w', h.ids)) }
func (h *fuzzed) PlaneID() lease.PlaneID { return plane }
func (h *fuzzed) Jitter(limit time.Duration) time.Duration {
	if limit <= 0 {
		h.t.Fatalf("jitter of %v", limit)
	}
	return time.Duration(h.jitter) * (limit - 1) / 255
}

func (h *fuzzed) run() {
	const most = 400 // so that one input does not take for ever
	for n := 0; len(h.in) > 0 && n < most; n++ {
		d := h.duration()
		h.now.Boot += int64(d)
		if h.in.byte() != 0 { // otherwise the machine was suspended
			h.now.Raw += int64(d)
		}
		ev := h.event()
		if a, ok := ev.(Armed); ok && h.asked[a.Term] {
			h.armed[a.Term] = true
		}
		if g, ok := ev.(GuardStopping); ok && h.asked[g.Term] {
			h.stopped[g.Term] = true
		}
		actions := h.m.Step(h.now, ev)
		if err := h.m.Check(); err != nil {
			h.t.Fatalf("after %#v: %v", ev, err)
		}
		if h.quit && len(actions) > 0 {
			h.t.Fatalf("after its end it still does %#v", actions[0])
		}
		for _, a := range actions {
			h.look(a)
		}
		h.m.Serving(h.now) // must not panic either
		h.m.View(h.now)
	}
}

func (h *fuzzed) look(a Action) {
	switch a := a.(type) {
	case Write:
		a.Value.Encode() // panics on what nobody could read
		h.written = append(h.written, a.Value)
	case Create:
		a.Value.Encode()
	case Arm:
		h.asked[a.Term] = true
	case Remember:
		h.kept[a.Term] = a.Term
	case Start:
		if h.started[a.Term] || h.stopped[a.Term] || !h.armed[a.Term] {
			h.t.Fatalf("start of term %d: started %t, stopped %t, armed %t", a.Term, h.started[a.Term], h.stopped[a.Term], h.armed[a.Term])
		}
		h.started[a.Term] = true
	case Stop:
		h.stopped[a.Term] = true
	case KillGuard:
		h.stopped[a.Term] = true
	case Fence:
		if h.fencing = a.Version; a.Old.Node != "node0002" {
			h.t.Fatalf("fences %q", a.Old.Node)
		}
	case Quit:
		h.quit = true
	}
}

// event makes the next event of bytes. The disk alone is held to the truth:
// that it has something which it was never given is not an event but a broken
// machine.
func (h *fuzzed) event() Event {
	in := &h.in
	switch in.byte() % 30 {
	case 0, 1, 2, 3, 4:
		return ReadDone{Value: h.value(), Version: in.text(), Fault: Fault(in.byte() % 6), Detail: in.text()}
	case 5, 6, 7:
		b := h.value()
		return ReadDone{Value: b, Version: string(b)}
	case 8, 9, 10:
		return WriteDone{WriteID: h.writeID(), Applied: in.bool(), Version: in.text(), Unsent: in.bool(), Detail: in.text()}
	case 11:
		if n := len(h.written); n > 0 {
			v := h.written[n-1]
			return WriteDone{WriteID: v.WriteID, Applied: true, Version: string(v.Encode())}
		}
	case 12, 13:
		r := Remembered{Plane: plane, Term: h.kept[h.term()]}
		if in.bool() {
			r.Failed = in.text()
		}
		return r
	case 14, 15:
		return Armed{Term: h.term(), T0: h.instant()}
	case 16:
		return Ready{Term: h.term()}
	case 17:
		return Unready{Term: h.term()}
	case 18:
		return ServiceFailed{Term: h.term(), Why: in.text()}
	case 19:
		return GuardStopping{Term: h.term(), Why: in.text()}
	case 20:
		return TreeStuck{Term: h.term(), Why: in.text()}
	case 21:
		return TreeEmpty{Term: h.term()}
	case 22:
		return GuardLost{Term: h.term()}
	case 23:
		var cs []Candidate
		for range in.byte() % 5 {
			cs = append(cs, Candidate{Node: lease.NodeID(in.text()), Priority: int(in.byte()) - 128, Version: in.text(), State: lease.State(in.text())})
		}
		return Peers{Candidates: cs}
	case 24:
		return Trust{OK: in.bool(), Why: in.text()}
	case 25:
		return h.operator()
	case 26:
		if in.bool() {
			return Nudged{}
		}
		return Listed{OK: in.bool(), Empty: in.bool(), Detail: in.text()}
	case 27:
		return BirthDone{Detail: in.text()}
	case 29:
		ev := Fenced{Version: h.fencing, Off: in.bool(), Why: in.text()}
		if in.bool() {
			ev.Version = in.text()
		}
		return ev
	}
	return Tick{}
}

func (h *fuzzed) operator() Event {
	in := &h.in
	switch in.byte() % 8 {
	case 0:
		return SetMode{Mode: h.mode(), Force: in.bool()}
	case 1:
		return SetPriority{Priority: int(in.byte()) - 128}
	case 2:
		return StepDown{To: []lease.NodeID{"", "node0002", self}[in.byte()%3], HoldOff: h.duration(), Why: in.text()}
	case 3:
		return SetPaused{Paused: in.bool()}
	case 4:
		if timing, err := Derive(TimingRequest{Preset: "fast", Timeout: h.duration()}); err == nil {
			return SetTimeout{Timing: timing}
		}
		return Tick{}
	case 6:
		return SetMaintenance{Why: in.text()}
	case 7:
		return Ack{}
	}
	return Shutdown{Why: in.text()}
}

// value is what a read of the register returns: anything, or a line that
// parses, or what this very node wrote.
func (h *fuzzed) value() []byte {
	in := &h.in
	switch in.byte() % 4 {
	case 0:
		return []byte(in.text())
	case 1:
		if n := len(h.written); n > 0 {
			return h.written[n-1-int(in.byte())%n].Encode()
		}
	}
	flags := in.byte()
	v := lease.Value{
		Plane: plane, Term: h.term(), Seq: lease.Seq(in.number()) % (lease.MaxSeq + 1),
		Held: flags&1 != 0, Paused: flags&2 != 0,
		Lease: time.Duration(1+in.number()%(1<<32-1)) * time.Millisecond, WriteID: h.writeID(),
	}
	if flags&4 != 0 {
		v.Plane = "plane999"
	}
	switch flags >> 3 & 3 {
	case 1:
		v.Holder, v.Incarnation = "node0002", lease.Incarnation(id26('b', 0))
	case 2:
		v.Holder, v.Incarnation = self, inc
	case 3:
		v.Holder, v.Incarnation = self, lease.Incarnation(id26('f', 0))
	}
	switch flags >> 5 & 3 {
	case 1:
		v.To = "node0002"
	case 2:
		v.To = self
	}
	if flags&128 != 0 {
		v.Head = lease.Head{Seq: in.number() % (1 << 48), Rand: "0123456789abcdef"}
	}
	return v.Encode()
}

// writeID is one of its own, or another.
func (h *fuzzed) writeID() lease.WriteID {
	n := int(h.in.byte())
	if h.ids > 0 && n < 192 {
		return lease.WriteID(id26('w', 1+n%h.ids))
	}
	return lease.WriteID(id26('x', n))
}

// term is likely one that means something.
func (h *fuzzed) term() lease.Term {
	switch b := h.in.byte(); {
	case b < 96 && h.m != nil && h.m.reign != nil:
		return h.m.reign.term
	case b < 128 && h.m != nil:
		return h.m.high.Term + lease.Term(b&1)
	case b < 240:
		return lease.Term(b & 7)
	}
	return lease.Term(h.in.number()) % (lease.MaxTerm + 1)
}

func (h *fuzzed) mode() lease.Mode {
	modes := lease.Modes()
	return modes[int(h.in.byte())%len(modes)]
}

// instant is a past or future one.
func (h *fuzzed) instant() lease.Instant {
	if h.in.bool() && h.m.reign != nil {
		return h.m.reign.askT0
	}
	return lease.Instant{Boot: h.now.Boot - int64(h.duration()), Raw: h.now.Raw + int64(h.duration()) - int64(h.duration())}
}

// duration is one that matters to the preset, or anything up to 49 days.
func (h *fuzzed) duration() time.Duration {
	some := [...]time.Duration{
		0, time.Nanosecond, time.Millisecond, 100 * time.Millisecond, 499 * time.Millisecond, 500 * time.Millisecond,
		time.Second, 2450 * time.Millisecond, 4450 * time.Millisecond, 5300 * time.Millisecond, 20 * time.Second,
	}
	if b := int(h.in.byte()); b < 240 {
		return some[b%len(some)]
	}
	return time.Duration(h.in.number()%(1<<32)) * time.Millisecond
}

// input is what is left of the fuzzer's bytes: zeros after the end.
type input []byte

func (in *input) byte() byte {
	if len(*in) == 0 {
		return 0
	}
	b := (*in)[0]
	*in = (*in)[1:]
	return b
}

func (in *input) bool() bool { return in.byte()&1 != 0 }

func (in *input) number() uint64 {
	var b [8]byte
	*in = (*in)[copy(b[:], *in):]
	return binary.LittleEndian.Uint64(b[:])
}

func (in *input) text() string {
	n := min(int(in.byte()), len(*in))
	s := string((*in)[:n])
	*in = (*in)[n:]
	return s
}

// The bytes of some events, for the seeds: each follows a passing of time.
var (
	seedTrust    = []byte{24, 1, 0}
	seedReleased = append([]byte{5, 2, 8, 129}, make([]byte, 8+8+1)...)     // term 1, given up by node0002
	seedForeign  = append([]byte{5, 2, 8 | 1, 131}, make([]byte, 8+8+1)...) // term 3, held by node0002
	seedKept1    = []byte{12, 129, 0}
	seedKept2    = []byte{12, 130, 0}
	seedWritten  = []byte{11}
	seedReadOwn  = []byte{5, 1, 0}
	seedArmed    = []byte{14, 0, 1}
	seedReady    = []byte{16, 0}
	seedEmpty    = []byte{21, 0}
	seedStep     = []byte{25, 2, 1, 0, 0} // step down for node0002
	seedShutdown = []byte{25, 5, 0}
	seedFrozen   = []byte{19, 0, 0} // the guard stops by itself
	seedTick     = []byte{28}
)

// machineSeeds are histories that reach a reign and its ends. From there the
// fuzzer goes on.
func machineSeeds() [][]byte {
	history := func(events ...[]byte) []byte {
		out := []byte{0, 0, 0, 1 | 4} // AUTO, no term remembered, no jitter, hot standby, of this plane
		for _, ev := range events {
			out = append(append(out, 3, 1), ev...) // 100 ms, awake
		}
		return out
	}
	reign := [][]byte{
		seedTrust, seedReleased, seedKept1, seedKept2, seedReleased, seedTick, seedWritten,
		seedReadOwn, seedArmed, seedReady, seedTick, seedTick, seedTick, seedTick, seedTick, seedWritten, seedArmed, seedWritten, seedArmed,
	}
	with := func(end ...[]byte) []byte { return history(append(reign[:len(reign):len(reign)], end...)...) }
	return [][]byte{
		history(seedTrust, seedReleased),
		with(),
		with(seedStep, seedEmpty, seedWritten, seedReadOwn),
		with(seedShutdown, seedEmpty, seedWritten, seedReadOwn),
		with(seedFrozen, seedEmpty, seedWritten, seedReadOwn, seedReleased, seedTick, seedKept2),
		with(seedForeign, seedEmpty, seedTick),
	}
}

// TestMachineSeeds: the seeds are no good if they get nowhere.
func TestMachineSeeds(t *testing.T) {
	started, stopped, released, quit := 0, 0, 0, 0
	for _, b := range machineSeeds() {
		h := newFuzzed(t, b)
		h.run()
		started += len(h.started)
		stopped += len(h.stopped)
		if n := len(h.written); n > 0 && !h.written[n-1].Held {
			released++
		}
		if h.quit {
			quit++
		}
	}
	if started < 5 || stopped < 4 || released < 3 || quit < 1 {
		t.Errorf("the seeds reach %d starts, %d stops, %d releases, %d ends", started, stopped, released, quit)
	}
}
