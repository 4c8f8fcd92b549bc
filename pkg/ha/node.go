package ha

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// Options describe a node. Node, Clock and one of Service and OnReign are
// required; the rest has working zero values.
type Options struct {
	Node lease.NodeID
	// Incarnation names this run; empty: drawn by New.
	Incarnation lease.Incarnation
	URI         string // where clients and other nodes reach this one
	// Key is the pin of the key that this node proves itself by to other nodes.
	// They find it in its record; nothing else is made of it here. Empty: none.
	Key      string
	Version  string // of the program; higher is preferred in elections
	Mode     lease.Mode
	Priority int
	Timing   election.Timing // zero: the defaults of election.Derive

	HotStandby bool // AUTO shows HOT_STANDBY rather than STANDBY
	// StateCompat shows MASTER from the moment of the claim, as Apache Brooklyn
	// does. Health paths go on telling the truth.
	StateCompat bool
	AutoInit    bool          // this node may make the register of a new plane
	FailFast    bool          // end with code 4 when the store can not be reached at start
	DrainDelay  time.Duration // of planned ends, before the service is stopped
	Force       bool          // DISABLED although the plane is alive
	// InactiveNodeRemoval: the master forgets nodes silent for this long; 0: never.
	InactiveNodeRemoval time.Duration

	// Clock reads this machine's own clocks; package clock provides it.
	Clock func() lease.Instant
	// Service is the managed service. Without one OnReign runs in this process.
	Service Service
	OnReign func(ctx context.Context, r Reign) error
	// Memory is the local disk; nil keeps nothing over restarts, which is for
	// tests and for nodes that never claim.
	Memory Memory
	// Former is a former run of this node that is proven to be over (R10).
	Former *election.Former
	// Verify checks the store before this node may claim (R18). nil: trusted.
	Verify func(ctx context.Context) error
	// Nudge tells other nodes to read the register now. It must return soon.
	Nudge func(ctx context.Context, uris []string)
	// PreSwitchover may veto a planned move of the mastership away from this
	// node, by an error that says why. nil: nothing does.
	PreSwitchover func(ctx context.Context, term lease.Term, to lease.NodeID, why string) error
	// Failback and AntiFlap say when the mastership moves by itself, or does
	// not; the zero values leave it where it is, and bound nothing.
	Failback election.Failback
	AntiFlap election.AntiFlap
	// Fencing says how former masters are made harmless; nil: nobody is.
	Fencing *Fencing
	// OnStatus is shown each new Status, with the instant it was made. It is
	// called by the loop and must return at once. nil: nobody looks.
	OnStatus func(s *Status, now lease.Instant)
	// Persist keeps a state for the master on the store; nil: nothing is kept.
	Persist *Persist
	// Warnings are shown in Status from the start.
	Warnings []string

	Log *zap.Logger
}

// Memory keeps what a node must remember over restarts on its local disk.
// Methods return when it is durable. They are called one at a time.
type Memory interface {
	// Recall returns the plane and the highest term remembered; empty and 0
	// for a node that never ran.
	Recall() (lease.PlaneID, lease.Term)
	// Remember keeps plane and term. With claim it keeps besides the local
	// record on which a restart may later prove that this run is over (R10).
	Remember(plane lease.PlaneID, term lease.Term, inc lease.Incarnation, claim bool) error
	// KeepPriority keeps the election priority an operator set.
	KeepPriority(p int) error
}

// ExitError ends Run when the process has to end with a code of its own.
type ExitError struct {
	Code   int // see the exit codes of the command line
	Reason string
}

func (e *ExitError) Error() string { return e.Reason }

// Node is one running node. Make it with New, start it with Run.
type Node struct {
	opts  Options
	store persistence.Store
	inc   lease.Incarnation
	log   *zap.Logger

	machine *election.Machine
	service Service
	events  chan election.Event
	calls   chan func(context.Context)
	shut    chan string
	status  atomic.Pointer[Status]
	latency atomic.Int64 // nanoseconds: of the last operation on the store that succeeded
	wait    sync.WaitGroup
	lanes   sync.WaitGroup
	done    chan struct{}
	running atomic.Bool
	ending  atomic.Pointer[ExitError] // why a clean stop ends with a code of its own

	verifyNow  chan struct{} // closed once there is something to verify
	verifyOnce sync.Once

	// Owned by the loop.
	exit     *ExitError
	shown    shown
	storage  StoreStatus
	started  time.Time
	loopAt   lease.Instant
	phases   phaseClock
	history  []Transition
	warnings []string
	counts   Counts
	lateAt   lease.Instant // when a heartbeat was last found to be late
	ruled    lease.Term    // the last term in which this node was MASTER
	// registered: the location holds our register as far as the last read
	// tells. Nothing is written beside a register that is not there: the
	// location may be an unmounted mount point, or one that a birth must find
	// empty.
	registered bool

	recorder  *recorder
	peers     *peers
	reigns    *reigns
	keeper    *keeper
	ops       *operations
	chronicle *chronicle
	fences    *fences
}

// shown is what the last transition was made of.
type shown struct {
	state lease.State
	term  lease.Term
	why   string
}

// New makes a node. It does no I/O on the shared store.
func New(store persistence.Store, o Options) (*Node, error) {
	if _, err := lease.ParseNodeID(string(o.Node)); err != nil {
		return nil, err
	}
	if o.Clock == nil {
		return nil, errors.New("ha: Options.Clock is required; use clock.Now")
	}
	if (o.Service == nil) == (o.OnReign == nil) {
		return nil, errors.New("ha: exactly one of Options.Service and Options.OnReign is required")
	}
	if o.Mode == "" {
		o.Mode = lease.ModeAuto
	}
	if o.Timing == (election.Timing{}) {
		l := store.Limits()
		t, err := election.Derive(election.TimingRequest{MinBeat: l.MinBeat, PollDivisor: l.PollDivisor})
		if err != nil {
			return nil, err
		}
		o.Timing = t
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if o.Incarnation == "" {
		o.Incarnation = NewIncarnation()
	}
	n := &Node{
		opts: o, store: store, inc: o.Incarnation,
		service: o.Service,
		events:  make(chan election.Event, 256), calls: make(chan func(context.Context)), shut: make(chan string, 1),
		done: make(chan struct{}), verifyNow: make(chan struct{}), started: time.Now(),
		warnings: o.Warnings,
	}
	n.log = o.Log.With(zap.String("node", string(o.Node)))
	if n.service == nil {
		n.service = newInProcess(o.Clock, o.OnReign)
	}
	cfg := election.Config{
		Node: o.Node, Incarnation: n.inc, Timing: o.Timing, Mode: o.Mode,
		HotStandby: o.HotStandby, Priority: o.Priority, Version: o.Version,
		DrainDelay: o.DrainDelay, AutoInit: o.AutoInit, Persist: o.Persist != nil, Former: o.Former,
		Failback: o.Failback, AntiFlap: o.AntiFlap,
		Random: random{},
	}
	if f := o.Fencing; f != nil && f.Fencer != nil {
		cfg.Fencible, cfg.FenceLimit = f.Early, f.EarlyLimit
	}
	if o.Memory != nil {
		cfg.Plane, cfg.MaxTerm = o.Memory.Recall()
	}
	n.machine = election.New(cfg)
	l := store.Limits()
	n.storage = StoreStatus{URL: l.URL, Kind: l.Kind}
	n.warnings = append(n.warnings, l.Warnings...)
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	n.recorder = newRecorder(n, host)
	n.peers = newPeers(n)
	n.reigns = newReigns(n)
	n.keeper = newKeeper(n)
	n.ops = newOperations(n)
	n.chronicle = newChronicle()
	n.fences = newFences(n)
	n.publish(o.Clock())
	return n, nil
}

// Incarnation is this run's random name.
func (n *Node) Incarnation() lease.Incarnation { return n.inc }

// Status returns the newest snapshot. It never waits and is never nil.
func (n *Node) Status() *Status { return n.status.Load() }

// Now reads the clock that Status's instants were taken from.
func (n *Node) Now() lease.Instant { return n.opts.Clock() }

// State is the node's state at this moment, by the truth rule.
func (n *Node) State() lease.State { return n.Status().StateAt(n.Now()) }

// loopLimit bounds how long the loop sleeps. Go's timers stand still while the
// machine is suspended and the instants do not, so the loop looks at the clock
// at least this often (R12).
const loopLimit = 100 * time.Millisecond

// ownPlane reports whether a register with this value may be that of this
// node's plane. What can not be read may be.
func (n *Node) ownPlane(val []byte) bool {
	v, err := lease.ParseValue(val)
	own := n.Status().Plane
	return err != nil || own == "" || v.Plane == own
}

// Run takes part in the plane until ctx ends, the node is shut down or it has
// to end. It leaves cleanly: the service stopped and proven gone, the term
// released. It returns nil after a clean stop and an *ExitError otherwise, and
// only when everything it started has ended.
func (n *Node) Run(ctx context.Context) error {
	if !n.running.CompareAndSwap(false, true) {
		return errors.New("ha: Run was called before")
	}
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer n.wait.Wait()
	defer cancel()
	defer close(n.done)
	if n.opts.Service == nil {
		defer n.service.Close() // in-process: nothing can fail
	}
	if late, ok := n.store.(persistence.LateResults); ok {
		late.OnLate(func(val []byte, v persistence.Version, err error) { n.late(work, val, v, err) })
		defer late.OnLate(nil)
	}
	if place, ok := n.store.(persistence.Anchored); ok {
		place.Anchor(n.ownPlane)
		defer place.Anchor(nil)
	}
	if n.opts.Mode == lease.ModeDisabled {
		return n.runAlone(ctx)
	}
	n.goVerify(work)
	if o := n.opts.Persist; o != nil {
		n.wait.Go(func() { n.keeper.run(work) })
	}
	lanes, stopLanes := context.WithCancel(work)
	defer stopLanes()
	n.recorder.start(lanes)
	n.peers.start(lanes)
	n.reigns.start(lanes)
	n.ops.start(lanes)
	leave := ctx.Done()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for n.exit == nil {
		var ev election.Event = election.Tick{}
		select {
		case <-timer.C:
		case ev = <-n.events:
		case sev, ok := <-n.service.Events():
			if !ok {
				return &ExitError{1, "the service supervisor ended"}
			}
			ev = n.fromService(sev)
		case call := <-n.calls:
			call(work)
		case why := <-n.shut:
			ev = election.Shutdown{Why: why}
		case <-leave:
			leave = nil
			ev = election.Shutdown{Why: "asked to stop"}
		}
		n.step(work, ev)
		now := n.opts.Clock()
		left := min(n.machine.Deadline().Boot-now.Boot, n.machine.Deadline().Raw-now.Raw)
		timer.Reset(min(max(time.Duration(left), 0), loopLimit))
	}
	stopLanes() // nothing older may overwrite the last words
	n.lanes.Wait()
	if err := n.ops.flush(work); err != nil {
		n.log.Debug("operations", zap.Error(err))
	}
	n.recorder.last(work)
	n.reigns.sync(work)
	n.publish(n.opts.Clock())
	if n.exit.Code == 0 {
		if e := n.ending.Load(); e != nil {
			return e
		}
		return nil
	}
	return n.exit
}

// step runs one event through the machine and performs what it decides.
func (n *Node) step(ctx context.Context, ev election.Event) {
	now := n.opts.Clock()
	n.loopAt = now
	n.account(now, ev)
	for _, a := range n.machine.Step(now, ev) {
		n.perform(ctx, now, a)
	}
	n.publish(now)
}

// call runs fn on the loop's goroutine and waits for it.
func (n *Node) call(ctx context.Context, fn func(context.Context)) error {
	if n.opts.Mode == lease.ModeDisabled {
		return disabledError()
	}
	ran := make(chan struct{})
	select {
	case n.calls <- func(work context.Context) { fn(work); close(ran) }:
		<-ran
		return nil
	case <-n.done:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// send hands an event to the loop from another goroutine.
func (n *Node) send(ev election.Event) {
	select {
	case n.events <- ev:
	case <-n.done:
	}
}

// Nudge has the register read soon, and what operators asked for by whoever
// has to look after it.
func (n *Node) Nudge() {
	n.ops.hurry.Store(true)
	select {
	case n.events <- election.Nudged{}:
	default: // the loop is busy and will read anyway
	}
}

// Shutdown begins an orderly stop with hand-over and returns at once.
func (n *Node) Shutdown(reason string) {
	select {
	case n.shut <- reason:
	default: // one is on its way already
	}
}

// SetPriority sets the election priority, keeps it on the local disk and
// returns the one before. Where the store answers, the others can read the new
// one by then: who asks another node to leave next relies on it.
func (n *Node) SetPriority(ctx context.Context, p int) (int, error) {
	var before int
	var shows bool
	err := n.call(ctx, func(work context.Context) {
		before = n.Status().Priority
		n.step(work, election.SetPriority{Priority: p})
		n.recorder.poke()
		shows = n.registered && n.Status().Mode != lease.ModeDisabled
	})
	if err != nil {
		return before, err
	}
	if n.opts.Memory != nil {
		if err := n.opts.Memory.KeepPriority(p); err != nil {
			return before, err
		}
	}
	if shows && p != before {
		ctx, cancel := context.WithTimeout(ctx, 2*n.opts.Timing.Operation)
		defer cancel()
		_ = n.until(ctx, func(*Status) bool { return n.recorder.tells(p) }) // it is set either way
	}
	return before, nil
}

// SetMode asks for a mode and returns the state before, once the change is
// complete or ctx ends.
func (n *Node) SetMode(ctx context.Context, mode lease.Mode, force bool) (lease.State, error) {
	var before lease.State
	var refused error
	leaves := mode != lease.ModeAuto && mode != lease.ModeMaster
	var others election.Event
	if leaves && n.Status().Reign != nil {
		others = n.peers.renew(ctx) // the best of them is to be the next master
	}
	err := n.call(ctx, func(work context.Context) {
		now := n.opts.Clock()
		s := n.Status()
		before = s.StateAt(now)
		holds := s.Reign != nil
		if holds && others != nil {
			n.step(work, others)
		}
		if holds && leaves && !force {
			if reasons := n.peers.noSuccessor(now); reasons != nil {
				refused = &PreconditionError{reasons}
				return
			}
		}
		n.step(work, election.SetMode{Mode: mode, Force: force})
		n.recorder.poke()
	})
	if err != nil || refused != nil {
		return before, errors.Join(err, refused)
	}
	if mode == lease.ModeMaster {
		return before, n.takeOver(ctx)
	}
	return before, n.until(ctx, func(s *Status) bool {
		return mode == lease.ModeAuto || s.Reign == nil
	})
}

// takeOver asks whoever is master, through the store, to hand over to this
// node, once per term, and waits until this node is MASTER. It never steals.
func (n *Node) takeOver(ctx context.Context) error {
	var asked Operation
	var failed error
	looked := time.Now()
	err := n.until(ctx, func(s *Status) bool {
		if s.Serving(n.Now()) {
			return true
		}
		if s.HolderOK && s.Reign == nil && (asked.ID == "" || s.Term != asked.Term) {
			asked = Operation{Kind: OpSwitchover, To: s.Node, Term: s.Term, Lapses: true, Accepted: time.Now(), By: s.Node, State: OpAccepted}
			failed = n.ops.submit(ctx, &asked)
		}
		if asked.ID != "" && time.Since(looked) > n.opts.Timing.Heartbeat {
			looked = time.Now()
			if op, err := n.Operation(ctx, asked.ID); err == nil && op.State == OpFailed && op.Term == s.Term {
				failed = &PreconditionError{op.Reasons}
			}
		}
		return failed != nil
	})
	if failed != nil {
		return fmt.Errorf("asking the master to hand over: %w", failed)
	}
	return err
}

// until waits for a status that pleases.
func (n *Node) until(ctx context.Context, ok func(*Status) bool) error {
	t := time.NewTicker(10 * time.Millisecond)
	defer t.Stop()
	for !ok(n.Status()) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-n.done:
			return ErrClosed
		case <-t.C:
		}
	}
	return nil
}

// Forget removes the records of nodes that are TERMINATED or silent: of the
// one named, or of all when id is empty.
func (n *Node) Forget(ctx context.Context, id lease.NodeID) error {
	return n.peers.forget(ctx, id)
}
