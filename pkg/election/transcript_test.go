package election

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/understudy-ha/understudy/pkg/lease"
)

// TestTranscripts plays the files in testdata: one node, node0001, beside a
// register that the file sets, with a store, a disk, a guard and a service
// that do as the file says. testdata/README.md explains the commands.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			var s *stage
			datadriven.RunTest(t, file, func(t *testing.T, d *datadriven.TestData) string {
				t.Helper()
				switch d.Cmd {
				case "order":
					return inOrder(t, d)
				case "play":
				default:
					d.Fatalf(t, "unknown command %s", d.Cmd)
				}
				for line := range strings.Lines(d.Input) {
					c := &datadriven.TestData{Pos: d.Pos}
					var err error
					if c.Cmd, c.CmdArgs, err = datadriven.ParseLine(strings.TrimSpace(line)); err != nil {
						d.Fatalf(t, "%s: %v", line, err)
					}
					switch {
					case c.Cmd == "node":
						s = newStage(t, c)
					case s == nil:
						d.Fatalf(t, "a scenario must begin with a node")
					default:
						s.command(t, c)
					}
				}
				return s.told()
			})
		})
	}
}

// inOrder sorts candidates: NODE PRIORITY VERSION STATE, one on a line.
func inOrder(t *testing.T, d *datadriven.TestData) string {
	t.Helper()
	var cs []Candidate
	lines := map[lease.NodeID]string{}
	for line := range strings.Lines(d.Input) {
		line = strings.TrimSpace(line)
		var c Candidate
		if _, err := fmt.Sscan(line, &c.Node, &c.Priority, &c.Version, &c.State); err != nil {
			d.Fatalf(t, "%s: %v", line, err)
		}
		cs = append(cs, c)
		lines[c.Node] = line
	}
	Order(cs)
	var out strings.Builder
	for i, c := range cs {
		fmt.Fprintf(&out, "%d. %s\n", i+1, lines[c.Node])
	}
	return out.String()
}

// stage is the little world of one node.
type stage struct {
	m   *Machine
	t   time.Duration
	due []arrival // completions on their way, in order
	out strings.Builder

	register  *lease.Value
	unread    bool // what is there can not be read
	empty     bool // the whole location lists empty
	unmounted bool // it is a mount point without its file system, which the store says
	others    int  // writeIds drawn for others
	ids       int  // and by the node

	reads, writes, disk, guard, service string
	jitter                              float64
	stopping                            time.Duration // what the service takes to stop
	raw                                 time.Duration // by which CLOCK_MONOTONIC_RAW is behind: time asleep
	tellAfter                           bool          // whom each term was taken from
	fencing                             string        // the version that the last Fence was for
	loads                               string        // how reading the persisted state goes: ok if empty
	commits                             int
}

type arrival struct {
	at time.Duration
	ev func() Event
}

const (
	self  = lease.NodeID("node0001")
	inc   = lease.Incarnation("aaaaaaaaaaaaaaaaaaaaaaaaaa")
	plane = lease.PlaneID("plane001")
	hop   = 10 * time.Millisecond // what everything takes here
)

func id26(prefix byte, n int) string {
	return fmt.Sprintf("%c%s", prefix, strings.Repeat("a", 25-len(letters(n)))+letters(n))
}

func letters(n int) string {
	s := string(rune('a' + n%26))
	if n >= 26 {
		s = letters(n/26) + s
	}
	return s
}

func (s *stage) WriteID() lease.WriteID { s.ids++; return lease.WriteID(id26('w', s.ids)) }
func (s *stage) PlaneID() lease.PlaneID { return plane }
func (s *stage) Jitter(limit time.Duration) time.Duration {
	return time.Duration(s.jitter * float64(limit))
}

func newStage(t *testing.T, d *datadriven.TestData) *stage {
	t.Helper()
	s := &stage{reads: "ok", writes: "ok", disk: "ok", guard: "ok", service: "ready", empty: true, stopping: 100 * time.Millisecond}
	r := TimingRequest{Timeout: 10 * time.Second}
	cfg := Config{Node: self, Incarnation: inc, Mode: lease.ModeAuto, HotStandby: true, Version: "1.0.0", Plane: plane, AutoInit: true, Random: s}
	trusted := true
	for _, a := range d.CmdArgs {
		v := ""
		if len(a.Vals) > 0 {
			v = a.Vals[0]
		}
		switch a.Key {
		case "mode":
			cfg.Mode = lease.Mode(v)
		case "timeout":
			r.Timeout = duration(t, d, v)
		case "preset":
			r = TimingRequest{Preset: v}
		case "priority":
			cfg.Priority = int(number(t, d, v))
		case "maxterm":
			cfg.MaxTerm = lease.Term(number(t, d, v))
		case "drain":
			cfg.DrainDelay = duration(t, d, v)
		case "former": // the term of a former run that is proven gone
			cfg.Former = &Former{Incarnation: lease.Incarnation(id26('f', 0)), Term: lease.Term(number(t, d, v))}
		case "fences": // the nodes whose machines it can power off, within 20 s
			for _, v := range a.Vals {
				cfg.Fencible = append(cfg.Fencible, lease.NodeID(v))
			}
			cfg.FenceLimit, s.tellAfter = 20*time.Second, true
		case "persist":
			cfg.Persist = true
		case "new": // no plane is remembered
			cfg.Plane = ""
		case "failback":
			cfg.Failback = Failback{Policy: FailbackManual}
			if v != "manual" {
				cfg.Failback = Failback{Policy: FailbackAfter, After: duration(t, d, v)}
			}
		case "flaps": // within a minute
			cfg.AntiFlap = AntiFlap{Changes: int(number(t, d, v)), Window: time.Minute}
		case "noautoinit":
			cfg.AutoInit = false
		case "unverified":
			trusted = false
		case "jitter":
			var err error
			if s.jitter, err = strconv.ParseFloat(v, 64); err != nil {
				d.Fatalf(t, "%v", err)
			}
		default:
			d.Fatalf(t, "node: %s", a.Key)
		}
	}
	var err error
	if cfg.Timing, err = Derive(r); err != nil {
		d.Fatalf(t, "%v", err)
	}
	s.m = New(cfg)
	if trusted {
		s.m.trusted = true
	}
	return s
}

func duration(t *testing.T, d *datadriven.TestData, s string) time.Duration {
	t.Helper()
	v, err := time.ParseDuration(s)
	if err != nil {
		d.Fatalf(t, "%v", err)
	}
	return v
}

func number(t *testing.T, d *datadriven.TestData, s string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		d.Fatalf(t, "%v", err)
	}
	return n
}

// told is what was said since it was last asked for.
func (s *stage) told() string {
	out := s.out.String()
	s.out.Reset()
	if out == "" {
		return "nothing\n"
	}
	return out
}

func (s *stage) say(format string, args ...any) {
	fmt.Fprintf(&s.out, "%8.3fs  %s\n", s.t.Seconds(), fmt.Sprintf(format, args...))
}

func (s *stage) now() lease.Instant {
	i := lease.At(s.t)
	i.Raw -= int64(s.raw)
	return i
}

func (s *stage) command(t *testing.T, d *datadriven.TestData) {
	t.Helper()
	arg := func(key string) string {
		for _, a := range d.CmdArgs {
			if a.Key == key && len(a.Vals) > 0 {
				return a.Vals[0]
			}
		}
		return ""
	}
	word := ""
	if len(d.CmdArgs) > 0 {
		word = d.CmdArgs[0].Key
	}
	switch d.Cmd {
	case "register":
		s.setRegister(t, d)
	case "beat": // the other holder renews
		s.register.Seq++
		s.others++
		s.register.WriteID = lease.WriteID(id26('x', s.others))
	case "store", "disk", "guard", "service":
		for _, a := range d.CmdArgs {
			v := a.Key
			if len(a.Vals) > 0 {
				v = a.Vals[0]
			}
			switch {
			case d.Cmd == "store" && a.Key == "reads":
				s.reads = v
			case d.Cmd == "store" && a.Key == "writes":
				s.writes = v
			case d.Cmd == "store" && a.Key == "loads":
				s.loads = v
			case d.Cmd == "store" && a.Key == "not-empty":
				s.empty = false
			case d.Cmd == "store" && a.Key == "mounted":
				s.unmounted = v == "no"
			case d.Cmd == "disk":
				s.disk = v
			case d.Cmd == "guard":
				s.guard = v
			case a.Key == "takes":
				s.stopping = duration(t, d, v)
			case d.Cmd == "service":
				s.service = v
			}
		}
	case "run":
		s.run(duration(t, d, word))
	case "sleep": // the machine is suspended
		for _, a := range d.CmdArgs {
			s.t += duration(t, d, a.Key)
			s.raw += duration(t, d, a.Key)
		}
		s.step(Tick{})
	case "frozen": // the daemon is stopped by a signal
		s.t += duration(t, d, word)
		s.step(Tick{})
	case "peers":
		var ev Peers
		for _, a := range d.CmdArgs {
			if a.Key == "prefer" {
				ev.Prefer = lease.NodeID(a.Vals[0])
				continue
			}
			c := Candidate{Node: lease.NodeID(a.Key), Version: "1.0.0", State: lease.StateHotStandby}
			if len(a.Vals) > 0 {
				c.Priority = int(number(t, d, a.Vals[0]))
			}
			ev.Candidates = append(ev.Candidates, c)
		}
		s.step(ev)
	case "commit":
		s.commit(word)
	case "operator":
		s.operator(t, d, word, arg)
	case "event":
		term := s.m.high.Term
		switch word {
		case "service-failed":
			s.step(ServiceFailed{Term: term, Why: "exit 1"})
		case "unready":
			s.step(Unready{Term: term})
		case "ready":
			s.step(Ready{Term: term})
		case "guard-stopping":
			s.step(GuardStopping{Term: term, Why: "the deadline passed"})
		case "guard-lost":
			s.step(GuardLost{Term: term})
		case "tree-empty":
			s.step(TreeEmpty{Term: term})
		case "tree-stuck":
			s.step(TreeStuck{Term: term, Why: "process 77 does not die"})
		case "verified":
			s.step(Trust{OK: true})
		case "not-verified":
			s.step(Trust{Why: "the store did not pass verification: two writers won"})
		case "nudged":
			s.step(Nudged{})
		case "powered-off":
			s.step(Fenced{Version: s.fencing, Off: true, Why: "the instance is stopped"})
		case "not-powered-off":
			s.step(Fenced{Version: s.fencing, Why: "the switch does not answer"})
		default:
			d.Fatalf(t, "event %s", word)
		}
	case "show":
		s.show()
	default:
		d.Fatalf(t, "unknown command %s", d.Cmd)
	}
}

func (s *stage) operator(t *testing.T, d *datadriven.TestData, word string, arg func(string) string) {
	t.Helper()
	switch word {
	case "mode":
		s.step(SetMode{Mode: lease.Mode(arg("mode"))})
	case "step-down":
		ev := StepDown{To: lease.NodeID(arg("to")), Why: "an operator asked"}
		if h := arg("hold-off"); h != "" {
			ev.HoldOff = duration(t, d, h)
		}
		s.step(ev)
	case "pause", "unpause":
		s.step(SetPaused{Paused: word == "pause"})
	case "maintenance":
		s.step(SetMaintenance{Why: arg("maintenance")})
	case "moves":
		var ages []time.Duration
		for _, a := range d.CmdArgs[1:] {
			ages = append(ages, duration(t, d, a.Key))
		}
		s.step(Moves{Ages: ages})
	case "ack":
		s.step(Ack{})
	case "timeout":
		timing, err := Derive(TimingRequest{Timeout: duration(t, d, arg("timeout"))})
		if err != nil {
			d.Fatalf(t, "%v", err)
		}
		s.step(SetTimeout{Timing: timing})
	case "powered-off": // says that the machine of the present holder is
		s.step(Fenced{Version: s.m.watch.version, Off: true, Why: "an operator says so"})
	case "priority":
		s.step(SetPriority{Priority: int(number(t, d, arg("priority")))})
	case "shutdown":
		s.step(Shutdown{Why: "an operator asked"})
	default:
		d.Fatalf(t, "operator %s", word)
	}
}

func (s *stage) setRegister(t *testing.T, d *datadriven.TestData) {
	t.Helper()
	s.unread = false
	v := lease.Value{Plane: plane, Term: 1, Seq: 10, Lease: 10 * time.Second, Holder: "node0002", Incarnation: lease.Incarnation(id26('b', 0))}
	for _, a := range d.CmdArgs {
		x := ""
		if len(a.Vals) > 0 {
			x = a.Vals[0]
		}
		switch a.Key {
		case "absent":
			s.register = nil
			return
		case "unreadable":
			s.unread = true
			return
		case "held":
			v.Held = true
		case "released":
			v.Held = false
		case "paused":
			v.Paused = true
		case "born":
			v.Held, v.Term, v.Seq, v.Holder, v.Incarnation = true, 0, 0, "", ""
		case "term":
			v.Term = lease.Term(number(t, d, x))
		case "seq":
			v.Seq = lease.Seq(number(t, d, x))
		case "by":
			switch x {
			case "former":
				v.Holder, v.Incarnation = self, lease.Incarnation(id26('f', 0))
			case "self":
				v.Holder, v.Incarnation = self, inc
			default:
				v.Holder = lease.NodeID(x)
			}
		case "to":
			v.To = lease.NodeID(x)
		case "lease":
			v.Lease = duration(t, d, x)
		case "plane":
			v.Plane = lease.PlaneID(x)
		default:
			d.Fatalf(t, "register: %s", a.Key)
		}
	}
	s.others++
	v.WriteID = lease.WriteID(id26('x', s.others))
	s.register = &v
}

// run lets time pass: completions, and ticks when the machine asked for them.
func (s *stage) run(until time.Duration) {
	if !s.m.begun {
		s.step(Tick{})
	}
	for range 100_000 {
		at := time.Duration(s.m.Deadline().Boot)
		at = max(at, s.t)
		next := -1
		for i, d := range s.due {
			if d.at <= at {
				at, next = d.at, i
			}
		}
		if at > until {
			break
		}
		if at == s.t && next < 0 {
			at += time.Microsecond
		}
		s.t = max(s.t, at)
		if next < 0 {
			s.step(Tick{})
			continue
		}
		ev := s.due[next].ev
		s.due = append(s.due[:next:next], s.due[next+1:]...)
		s.step(ev())
	}
	s.t = max(s.t, until)
}

func (s *stage) after(d time.Duration, ev func() Event) {
	for i := range s.due { // keep them in order
		if s.due[i].at > s.t+d {
			s.due = append(s.due[:i:i], append([]arrival{{s.t + d, ev}}, s.due[i:]...)...)
			return
		}
	}
	s.due = append(s.due, arrival{s.t + d, ev})
}

func (s *stage) step(ev Event) {
	actions := s.m.Step(s.now(), ev)
	if err := s.m.Check(); err != nil {
		s.say("BROKEN INVARIANT: %v", err)
	}
	for _, a := range actions {
		s.perform(a)
	}
}

func (s *stage) perform(a Action) {
	o := s.m.cfg.Timing.Operation
	switch a := a.(type) {
	case Read:
		switch s.reads {
		case "ok":
			s.after(hop, s.readNow)
		case "fail":
			s.after(o, func() Event { return ReadDone{Fault: FaultFailed, Detail: "no answer"} })
		case "stale": // what is there now, whatever comes
			old := s.readNow()
			s.after(hop, func() Event { return old })
		}
	case Write:
		s.write(a, o)
	case ListWhole:
		s.say("asks whether the whole location is empty")
		empty := s.empty
		if s.unmounted {
			s.after(hop, func() Event { return Listed{Detail: "/mnt/plane is not mounted"} })
			break
		}
		s.after(hop, func() Event { return Listed{OK: true, Empty: empty, Detail: "lost+found"} })
	case Create:
		s.say("makes the register: %s", sentence(a.Value))
		v := a.Value
		s.register = &v
		s.after(hop, func() Event { return BirthDone{} })
	case Remember:
		s.say("remembers plane %s, term %d%s", a.Plane, a.Term, map[bool]string{true: ", claim"}[a.Claim])
		failed := ""
		if s.disk == "full" {
			failed = "no space left"
		}
		s.after(hop, func() Event { return Remembered{Plane: a.Plane, Term: a.Term, Failed: failed} })
	case Arm:
		if s.guard == "ok" {
			s.after(time.Millisecond, func() Event { return Armed{Term: a.Term, T0: a.T0} })
		}
	case Start:
		after := ""
		if o := a.After; s.tellAfter && o.Node != "" {
			after = fmt.Sprintf(", after %s of term %d, which is %s", o.Node, o.Term, map[bool]string{true: "off", false: "silent"}[o.Off])
		}
		s.say("STARTS THE SERVICE, term %d (%s)%s, not later than %v from now", a.Term, a.Reason, after, a.Until.Round(time.Millisecond))
		switch s.service {
		case "ready":
			s.after(hop, func() Event { return Ready{Term: a.Term} })
		case "fails":
			s.after(hop, func() Event { return ServiceFailed{Term: a.Term, Why: "exit 1"} })
		}
	case Stop:
		s.say("STOPS THE SERVICE, term %d: %s", a.Term, a.Why)
		if s.service != "stuck" && s.guard == "ok" {
			s.after(s.stopping, func() Event { return TreeEmpty{Term: a.Term} })
		}
	case KillGuard:
		s.say("KILLS THE GUARD, term %d: %s", a.Term, a.Why)
		if s.service != "stuck" {
			s.after(100*time.Millisecond, func() Event { return TreeEmpty{Term: a.Term} })
		}
	case Load:
		s.say("reads the persisted state up to %s", headName(a.Head))
		switch s.loads {
		case "":
			s.after(hop, func() Event { return Loaded{Term: a.Term} })
		case "damaged":
			s.after(hop, func() Event { return Loaded{Term: a.Term, Failed: "the persisted state is damaged: state/log/x: torn"} })
		}
	case Settled:
		s.say("commit of %s: %s", headName(a.Head), a.Outcome)
	case Fence:
		s.fencing = a.Version
		s.say("FENCES %s, term %d", a.Old.Node, a.Old.Term)
	case CancelFence:
		s.say("stops fencing")
	case NudgePeers:
		s.say("nudges its peers")
	case Note:
		if a.Detail != "" {
			s.say("note: %s, term %d: %s", a.Kind, a.Term, a.Detail)
		} else {
			s.say("note: %s, term %d", a.Kind, a.Term)
		}
	case Quit:
		s.say("QUITS with code %d: %s", a.Code, a.Reason)
	}
}

func (s *stage) readNow() Event {
	switch {
	case s.unread:
		return ReadDone{Fault: FaultUnreadable, Detail: "two names"}
	case s.register == nil:
		return ReadDone{Fault: FaultAbsent}
	}
	b := s.register.Encode()
	return ReadDone{Version: string(b), Value: b}
}

// write plays one compare-and-swap. A renewal that simply works is not worth a
// line.
func (s *stage) write(a Write, o time.Duration) {
	v := a.Value
	fits := s.register != nil && string(s.register.Encode()) == a.Old
	renewal := s.m.reign != nil && v.Held && fits && s.writes == "ok" && v.Head == s.register.Head
	if !renewal {
		s.say("writes %s", sentence(v))
	}
	unsure := func() Event { return WriteDone{WriteID: v.WriteID, Detail: "no answer"} }
	switch s.writes {
	case "ok":
		if !fits {
			s.say("  (conflict: the register holds something else)")
			s.after(hop, unsure)
			return
		}
		s.register = &v
		s.after(hop, func() Event { return WriteDone{WriteID: v.WriteID, Applied: true, Version: string(v.Encode())} })
	case "reply-lost":
		if fits {
			s.register = &v
		}
		s.after(o, unsure)
	case "error-though-applied":
		if fits {
			s.register = &v
		}
		s.after(hop, unsure)
	case "lost":
		s.after(o, unsure)
	case "late": // it lands when the file says so
		s.after(o, unsure)
	}
}

// commit has a segment committed: after the newest one, or after another.
func (s *stage) commit(word string) {
	s.commits++
	ev := Commit{Term: s.m.high.Term, Head: lease.Head{Seq: uint64(s.commits), Rand: fmt.Sprintf("%016d", s.commits)}}
	if r := s.m.reign; r != nil && word != "elsewhere" {
		ev.Pred = r.tip
	}
	if word == "elsewhere" {
		ev.Pred = lease.Head{Seq: 77, Rand: strings.Repeat("x", 16)}
	}
	s.step(ev)
}

func headName(h lease.Head) string {
	if h.Rand == "" {
		return "nothing"
	}
	return fmt.Sprintf("segment %d", h.Seq)
}

func sentence(v lease.Value) string {
	var b strings.Builder
	fmt.Fprintf(&b, "term %d seq %d: ", v.Term, v.Seq)
	if v.Held {
		b.WriteString("held by ")
	} else {
		b.WriteString("released by ")
	}
	b.WriteString(holderName(v))
	if v.To != "" {
		fmt.Fprintf(&b, " for %s", v.To)
	}
	fmt.Fprintf(&b, ", lease %v", v.Lease)
	if v.Head.Rand != "" {
		fmt.Fprintf(&b, ", head %s", headName(v.Head))
	}
	if v.Paused {
		b.WriteString(", plane paused")
	}
	return b.String()
}

func (s *stage) show() {
	now := s.now()
	v := s.m.View(now)
	state := string(v.Standing)
	if s.m.Serving(now) {
		state = string(lease.StateMaster)
	} else if v.Why != "" {
		state += " (" + v.Why + ": " + v.Detail + ")"
	}
	s.say("> %s", state)
	switch {
	case v.Reign != nil:
		left := (v.Reign.End - now.Longest(v.Reign.T0)).Round(time.Millisecond)
		s.say("> leads term %d: %v; right to serve ends in %v", v.Reign.Term, s.m.Leading(now), left)
	case s.m.watch.known:
		s.say("> sees %s", sentence(s.m.watch.value))
	}
}
