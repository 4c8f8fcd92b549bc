package chaos

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// Kind is a kind of fault.
type Kind string

// The kinds.
const (
	KillDaemon  Kind = "kill -9 of the daemon"
	KillGuard   Kind = "kill -9 of the guard"
	KillBoth    Kind = "kill -9 of daemon and guard"
	KillTree    Kind = "kill -9 of the whole node"
	Freeze      Kind = "daemon frozen (SIGSTOP) for 1-12 s"
	Terminate   Kind = "SIGTERM"
	StoreSlow   Kind = "store slow (50-400 ms)"
	StoreFails  Kind = "store fails (EIO)"
	StoreHangs  Kind = "store hangs"
	StoreLoses  Kind = "store loses replies (done, EIO)"
	StoreReads  Kind = "store one-way: reads only"
	StoreWrites Kind = "store one-way: writes only"
	AllHang     Kind = "store hangs for all nodes"
	ClockStep   Kind = "power cut, clocks elsewhere after it"
)

// The kinds that a network in front of a bucket has instead of a file system's.
const (
	NetSlow        Kind = "requests slow (50-400 ms)"
	NetUnavailable Kind = "503"
	NetSilent      Kind = "packets vanish"
	NetAllSilent   Kind = "packets vanish for all nodes"
	NetRefuses     Kind = "connections reset, requests lost"
	NetLoses       Kind = "connections reset, replies lost"
	NetRandom      Kind = "one request of three reset at random"
	NetTwice       Kind = "requests arrive twice"
	NetMasked      Kind = "200 with an error in the body"
	NetCut         Kind = "replies cut off"
	NetReads       Kind = "one-way: writes answered 503"
	NetWrites      Kind = "one-way: reads answered 503"
)

// The kinds that HDFS has. They strike all nodes.
const (
	NameSwitch Kind = "NameNode failover in order"
	NameKilled Kind = "active NameNode killed, the other one made active"
	NameHung   Kind = "active NameNode hung (SIGSTOP), the other one made active"
	NameSilent Kind = "active NameNode hangs (SIGSTOP), nobody takes over"
	Journals   Kind = "two of three JournalNodes hang (SIGSTOP)"
)

// Kinds are those of nodes that share a directory.
var Kinds = []Kind{
	KillDaemon, KillGuard, KillBoth, KillTree, Freeze, Terminate,
	StoreSlow, StoreFails, StoreHangs, StoreLoses, StoreReads, StoreWrites, AllHang, ClockStep,
}

// NetKinds are those of nodes that share a bucket.
var NetKinds = []Kind{
	KillDaemon, KillGuard, KillBoth, KillTree, Freeze, Terminate, ClockStep,
	NetSlow, NetUnavailable, NetSilent, NetAllSilent, NetRefuses, NetLoses, NetRandom, NetTwice, NetMasked, NetCut, NetReads, NetWrites,
}

// HDFSKinds are those of nodes that share a directory of HDFS.
var HDFSKinds = []Kind{
	KillDaemon, KillGuard, KillBoth, KillTree, Freeze, Terminate, ClockStep,
	NameSwitch, NameKilled, NameHung, NameSilent, Journals,
}

// Step is one fault. Which fields mean something depends on the kind.
type Step struct {
	Kind    Kind
	Standby int           // 0: strikes the master; 1, 2: the first, second other node
	Hold    time.Duration // how long the fault lasts, or the node is down
	Delay   time.Duration // of each operation of a slow store
	Deaf    bool          // a hang survives SIGKILL
	// The clocks after a step, relative to the machine's: CLOCK_MONOTONIC, and
	// what CLOCK_BOOTTIME is ahead of it.
	Monotonic, Suspended time.Duration
	Pause                time.Duration // from the first acknowledged write after the fault to the next fault
}

func (s Step) String() string {
	whom := "master"
	if s.Standby > 0 {
		whom = fmt.Sprintf("standby %d", s.Standby)
	}
	text := fmt.Sprintf("%s, %s, for %v", s.Kind, whom, s.Hold)
	switch s.Kind {
	case StoreSlow, NetSlow:
		text += fmt.Sprintf(", %v each", s.Delay)
	case StoreHangs, AllHang:
		text += fmt.Sprintf(", deaf: %t", s.Deaf)
	case ClockStep:
		text += fmt.Sprintf(", monotonic %+v, boottime %+v", s.Monotonic, s.Monotonic+s.Suspended)
	case KillDaemon, KillGuard, KillBoth, KillTree, Freeze, Terminate, StoreFails, StoreLoses, StoreReads, StoreWrites,
		NetUnavailable, NetSilent, NetAllSilent, NetRefuses, NetLoses, NetRandom, NetTwice, NetMasked, NetCut, NetReads, NetWrites,
		NameSwitch, NameKilled, NameHung, NameSilent, Journals:
	}
	return text + fmt.Sprintf("; then %v", s.Pause)
}

// Plan is the endless schedule that follows from a seed: rounds of the same
// kinds in ever new order.
type Plan struct {
	rand  *rand.Rand
	kinds []Kind
	round []Kind // what is left of this round
}

// NewPlan makes the schedule of a seed out of the given kinds. In the short form
// a round has a few of them that the seed chooses, a power cut of the master
// among them.
func NewPlan(seed uint64, kinds []Kind, short bool) *Plan {
	p := &Plan{rand: rand.New(rand.NewPCG(seed, 1)), kinds: kinds} //nolint:gosec // reproducible on purpose
	if short {
		const others = 5
		p.kinds = []Kind{KillTree}
		for _, i := range p.rand.Perm(len(kinds)) {
			if k := kinds[i]; k != KillTree && len(p.kinds) <= others {
				p.kinds = append(p.kinds, k)
			}
		}
	}
	return p
}

// Kinds are those of a round.
func (p *Plan) Kinds() []Kind { return p.kinds }

// Next is the next step.
func (p *Plan) Next() Step {
	if len(p.round) == 0 {
		for _, i := range p.rand.Perm(len(p.kinds)) {
			p.round = append(p.round, p.kinds[i])
		}
	}
	kind := p.round[0]
	p.round = p.round[1:]
	// Everything is drawn for each kind, so that a change of one kind's use of
	// it does not change the others' schedule.
	between := func(lo, hi time.Duration) time.Duration {
		return (lo + time.Duration(p.rand.Int64N(int64(hi-lo)))).Truncate(time.Millisecond)
	}
	s := Step{
		Kind:      kind,
		Delay:     between(50*time.Millisecond, 400*time.Millisecond),
		Deaf:      p.rand.IntN(2) == 0,
		Monotonic: between(-15*time.Minute, 240*time.Hour),
		Suspended: between(0, 240*time.Hour),
		Pause:     between(0, 1200*time.Millisecond),
	}
	short, long := between(300*time.Millisecond, 3*time.Second), between(time.Second, 8*time.Second)
	freeze, gone := between(time.Second, 12*time.Second), between(6500*time.Millisecond, 9*time.Second)
	standby := 0
	if p.rand.IntN(5) == 0 {
		standby = 1 + p.rand.IntN(2)
	}
	switch kind {
	case KillDaemon, KillGuard, Terminate, ClockStep:
		s.Hold, s.Standby = short, standby
	case KillBoth, StoreSlow, StoreFails, StoreHangs, StoreLoses, StoreReads, StoreWrites,
		NetSlow, NetUnavailable, NetSilent, NetRefuses, NetLoses, NetRandom, NetTwice, NetMasked, NetCut, NetReads:
		s.Hold, s.Standby = long, standby
	case NetWrites:
		s.Hold, s.Standby = long, max(standby, 1) // a master at rest reads nothing
	case KillTree:
		// Always the master, and away until its lease has run out: the one way
		// to be sure of a take-over by time alone. ClockStep comes back early.
		s.Hold = gone
	case Freeze:
		s.Hold, s.Standby = freeze, standby
	case AllHang, NetAllSilent, NameSwitch, NameKilled, NameHung, NameSilent, Journals:
		s.Hold = long
	}
	return s
}
