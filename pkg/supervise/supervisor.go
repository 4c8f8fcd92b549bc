package supervise

import (
	"context"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/understudy-ha/understudy/pkg/guard"
	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/lease"
)

const (
	guardAnswers = 10 * time.Second       // a guard that takes longer to start is given up
	proofEvery   = 10 * time.Millisecond  // looks for the tree of a lost guard
	stuckAfter   = 5 * time.Second        // without proof, and with the lease ahead: said to be stuck
	killTakes    = 250 * time.Millisecond // what the kernel is given to end the tree of a lost guard
	respawnPause = 500 * time.Millisecond // after a guard that would not start
	closeWithin  = 15 * time.Second
)

// The phases of ha.ServiceInfo.
const (
	phaseIdle       = "idle"
	phaseStarting   = "starting"
	phaseReady      = "ready"
	phaseRestarting = "restarting"
	phaseStopping   = "stopping"
	phaseStopped    = "stopped" // by an operator, in a term that goes on
	phaseStuck      = "stuck"
)

// Supervisor is the managed service of a node. It implements ha.Service.
type Supervisor struct {
	o      Options
	files  []*os.File // ours to close
	gopt   guard.Options
	events *queue
	info   atomic.Pointer[ha.ServiceInfo]
	exit   atomic.Pointer[int]
	lost   []string
	kind   string
	stops  *stopLog
	out    *output     // nil: the service writes to files of others
	sole   atomic.Bool // this process must have no children but the guard: see prove

	requests chan func() // run by the loop, in order
	closing  chan struct{}
	closed   sync.Once
	done     chan struct{}
	ctx      context.Context // ends when the loop does
	cancel   context.CancelFunc
	wg       sync.WaitGroup

	// Owned by the loop.
	guard     *guard.Client // nil while there is none
	spawned   chan spawned
	checked   chan checked
	watched   chan watched
	waiting   []chan<- error // operators, for the present action to end
	failures  int            // since an operator reset them
	lastExit  *ha.ServiceExit
	standby   *standby           // nil: no standby command
	asking    context.CancelFunc // of the stop command; nil: none runs
	term      term
	dead      lease.Term // this term and those below are over: nothing of them lives or ever will
	pending   *ha.Deadline
	deadline  ha.Deadline // the latest that was asked for
	runs      uint64
	hooks     map[uint64]chan<- guard.Event // auxiliary runs that somebody waits for
	timer     *time.Timer
	onTimer   func()
	proving   *proving
	killed    bool // we killed the guard ourselves
	proofTick *time.Ticker
}

// term is the term the service was last asked to run in.
type term struct {
	order     ha.StartOrder
	active    bool // started, and neither failed nor stopped
	stopping  bool
	env       []string
	run       uint64 // of the guard; 0: none
	startedBy time.Time
	wasReady  bool
	restarts  []time.Time
	count     int
	again     bool // start again once the former run is proven empty
	stopCheck context.CancelFunc
	stopWatch context.CancelFunc // of the liveness checks; nil: none run
	health    []health           // by check
	ending    *ending            // the present run is being ended, the term goes on
	down      bool               // stopped by an operator
	waits     bool               // for the standby command to be gone
	alive     bool               // its main process
	killed    bool               // its main process ended by KILL
	stopAt    time.Time          // when it was told to stop while alive
	addr      floating
}

// proving is the search for the tree of a guard that is gone.
type proving struct {
	term    lease.Term
	since   time.Time
	stuck   bool
	outside bool   // only what others run is left to prove, by a new guard
	answer  string // of the probe, to that guard
}

type spawned struct {
	client *guard.Client
	err    error
}

type checked struct {
	run uint64
	err error
}

var _ ha.Service = (*Supervisor)(nil)

// New starts the guard and returns the service, not running. It fails when a
// setting is wrong or the isolation asked for is not possible here.
func New(ctx context.Context, o Options) (*Supervisor, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Supervisor{
		o: o, requests: make(chan func(), 64), closing: make(chan struct{}), done: make(chan struct{}),
		spawned: make(chan spawned, 1), checked: make(chan checked, 1), watched: make(chan watched, 1),
		hooks: map[uint64]chan<- guard.Event{},
	}
	if o.Subreaper {
		if err := guard.Adopt(); err != nil {
			return nil, err
		}
	}
	if err := s.openFiles(); err != nil {
		s.closeFiles()
		return nil, err
	}
	sctx, cancel := context.WithTimeout(ctx, guardAnswers)
	s.guard, err = guard.Start(sctx, s.gopt)
	cancel()
	if err != nil {
		s.closeFiles()
		return nil, err
	}
	s.kind, s.lost = s.guard.Isolation(), s.guard.Lost()
	if err := s.openStandby(ctx); err != nil {
		_ = s.guard.Close(ctx)
		s.closeFiles()
		return nil, err
	}
	s.stops = openStopLog(o.DataDir)
	s.events = newQueue()
	// The loop outlives the call: it ends with Close.
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	s.show(phaseIdle, 0, "")
	go s.loop() //nolint:contextcheck // it ends with Close, not with the call that began it
	return s, nil
}

func (s *Supervisor) openFiles() error {
	o := s.o
	s.gopt = guard.Options{
		DataDir: o.DataDir, Lock: o.Lock, Incarnation: o.Incarnation, Isolation: o.Isolation,
		ReleaseArgv: o.ReleaseArgv, ReleaseStdin: o.ReleaseStdin, ReleaseTimeout: o.ReleaseTimeout,
		GuardStop: o.GuardStop, StopSignal: o.StopSignal, Stdout: o.Stdout, Stderr: o.Stderr, Exe: o.Exe,
		LeaseFile: o.LeaseFile, Finals: o.Finals, Floating: o.Floating, Watchdog: o.Watchdog,
	}
	if o.Delegates {
		s.gopt.Outside = &guard.Outside{Stop: o.StopCommand, Probe: o.Probe, Env: o.inherited(), Dir: o.Dir}
	}
	if o.OutputPath != "" {
		var err error
		if s.out, err = openOutput(o, &s.sole); err != nil {
			return fmt.Errorf("the service's log: %w", err)
		}
		s.gopt.Stdout, s.gopt.Stderr = s.out.in, s.out.in
	}
	if o.GuardLogPath != "" {
		f, err := s.open(o.GuardLogPath)
		if err != nil {
			return fmt.Errorf("the guard's log: %w", err)
		}
		s.gopt.Log = f
	}
	return nil
}

func (s *Supervisor) open(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640) //nolint:gosec // the group may read the log
	if err == nil {
		s.files = append(s.files, f)
	}
	return f, err
}

func (s *Supervisor) closeFiles() {
	if s.out != nil {
		if err := s.out.close(); err != nil {
			s.o.Log.Warn("service", zap.Error(err))
		}
	}
	for _, f := range s.files {
		f.Close()
	}
}

// Lost lists in words what protection the service does without, for want of
// rights; to be said at start.
func (s *Supervisor) Lost() []string { return s.lost }

// Isolation is how the service's tree is kept together.
func (s *Supervisor) Isolation() string { return s.kind }

// ExitCode is the exit code of the service's latest run that ended, 128+n for
// death by signal n; ok is false while none has.
func (s *Supervisor) ExitCode() (code int, ok bool) {
	if p := s.exit.Load(); p != nil {
		return *p, true
	}
	return 0, false
}

// Arm implements ha.Service (G1).
func (s *Supervisor) Arm(d ha.Deadline) { s.ask(func() { s.arm(d) }) }

// Start implements ha.Service (G2).
func (s *Supervisor) Start(o ha.StartOrder) { s.ask(func() { s.start(o) }) }

// Stop implements ha.Service (R11).
func (s *Supervisor) Stop(t lease.Term, why ha.StopReason) {
	s.ask(func() { s.stop(t, string(why)) })
}

// Kill implements ha.Service: the guard is killed, and the service with it.
func (s *Supervisor) Kill(t lease.Term, why ha.StopReason) {
	s.ask(func() { s.kill(t, string(why)) })
}

// Events implements ha.Service.
func (s *Supervisor) Events() <-chan ha.ServiceEvent { return s.events.out }

// Info implements ha.Service.
func (s *Supervisor) Info() ha.ServiceInfo { return *s.info.Load() }

// Close implements ha.Service. It stops whatever still runs, ends the guard
// and waits for it.
func (s *Supervisor) Close() error {
	s.closed.Do(func() { close(s.closing) })
	<-s.done
	return nil
}

// ask hands a request to the loop, which never waits for anything else.
func (s *Supervisor) ask(f func()) {
	select {
	case s.requests <- f:
	case <-s.closing:
	}
}

func (s *Supervisor) loop() {
	defer close(s.done)
	s.timer = time.NewTimer(time.Hour)
	s.proofTick = time.NewTicker(time.Hour)
	for {
		var fromGuard <-chan guard.Event
		if s.guard != nil {
			fromGuard = s.guard.Events()
		}
		select {
		case f := <-s.requests:
			f()
		case e := <-fromGuard:
			s.heard(e)
		case c := <-s.checked:
			s.checkEnded(c)
		case w := <-s.watched:
			s.watchedOnce(w)
		case e := <-s.fromStandby():
			s.standbyHeard(e)
		case <-s.timer.C:
			if f := s.onTimer; f != nil {
				s.onTimer = nil
				f()
			}
		case <-s.proofTick.C:
			s.prove()
		case r := <-s.spawned:
			s.guardStarted(r)
		case <-s.closing:
			s.shutDown()
			return
		}
	}
}

func (s *Supervisor) shutDown() {
	s.cancel()
	s.timer.Stop()
	s.proofTick.Stop()
	if s.guard != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), closeWithin)
		if err := s.guard.Close(ctx); err != nil {
			s.o.Log.Warn("the guard did not end", zap.Error(err))
		}
		cancel()
	}
	s.closeStandby()
	s.answer(ha.ErrClosed)
	s.wg.Wait()
	select {
	case r := <-s.spawned: // started while we were closing
		if r.client != nil {
			r.client.Kill()
			_ = r.client.Close(s.ctx)
		}
	default:
	}
	s.events.close()
	s.closeFiles()
}

func (s *Supervisor) arm(d ha.Deadline) {
	if d.Term > s.dead {
		s.deadline = d
	}
	switch {
	case d.Term <= s.dead:
	case s.guard == nil:
		s.pending = &d // for the guard that is being started
	default:
		s.guard.Arm(guard.Deadline(d))
	}
	s.stepStandby() // a claim has succeeded: what is left until the start is enough, as a rule
}

func (s *Supervisor) start(o ha.StartOrder) {
	switch {
	case o.Term <= s.dead:
		s.say(ha.ServiceEvent{Kind: ha.ServiceFailed, Term: o.Term, Exit: -1, Why: "this term is over"})
		return
	case s.term.active && s.term.order.Term == o.Term:
		return // asked twice
	}
	s.endRun()
	s.term = term{order: o, active: true, env: s.o.environment(o), startedBy: time.Now().Add(s.o.StartTimeout)}
	if s.standbyAlive() {
		s.waitForStandby()
		return
	}
	s.begin()
}

func (s *Supervisor) stop(t lease.Term, why string) {
	ask := false // for the stop command to run first
	if s.term.order.Term <= t {
		ask = s.term.alive && !s.term.stopping && len(s.o.StopCommand) > 0 && !s.o.Delegates // the guard does
		s.endRun()
		s.stopBegins()
		if s.term.run != 0 && !s.term.stopping {
			s.show(phaseStopping, s.Info().Pid, why)
		}
		s.term.stopping = true
	}
	switch {
	case s.proving != nil && t >= s.proving.term:
		s.proving.term = t // Empty follows the proof
	case s.guard == nil, t <= s.dead:
		s.over(t)
	case ask:
		s.runStopCommand(func() {
			if s.guard != nil && t > s.dead {
				s.guard.Stop(t, why)
			}
		})
	default:
		s.guard.Stop(t, why)
	}
}

func (s *Supervisor) kill(t lease.Term, why string) {
	s.endRun()
	s.term.stopping = true
	switch {
	case s.proving != nil:
		s.proving.term = max(s.proving.term, t)
	case s.guard == nil:
		s.over(t)
	default:
		s.o.Log.Warn("killing guard and service", zap.Uint64("term", uint64(t)), zap.String("why", why))
		s.killed = true
		s.term.order.Term = max(s.term.order.Term, t)
		s.guard.Kill() // Lost follows
	}
}

// over says that nothing of a term lives or ever will.
func (s *Supervisor) over(t lease.Term) {
	s.dead = max(s.dead, t)
	s.stopAsking()
	if s.term.order.Term <= t {
		s.stopEnded()
		s.term.run = 0
		s.show(phaseIdle, 0, "")
	}
	s.say(ha.ServiceEvent{Kind: ha.ServiceEmpty, Term: t})
	s.stepStandby()
}

// heard takes an event of the guard.
func (s *Supervisor) heard(e guard.Event) {
	t := &s.term
	mine := e.Run != 0 && e.Run == t.run && t.active
	switch e.Kind {
	case guard.Armed:
		s.say(ha.ServiceEvent{Kind: ha.ServiceArmed, Term: e.Term, T0: *e.T0})
	case guard.Started:
		if e.Run == t.run {
			t.alive = true
		}
		if mine {
			s.show(s.Info().Phase, e.Pid, "")
			s.check()
		}
	case guard.Refused:
		if mine {
			s.fail("the guard refused to start the service: "+e.Why, -1)
		}
	case guard.NotExecutable:
		s.exit.Store(&e.Exit)
		s.lastExit = &ha.ServiceExit{Code: e.Exit, Why: e.Why, At: time.Now()}
		if mine {
			s.failures++
			s.fail(fmt.Sprintf("%s (exit code %d); put service.command right on this node", e.Why, e.Exit), e.Exit)
		}
	case guard.Exited:
		s.exit.Store(&e.Exit)
		s.lastExit = &ha.ServiceExit{Code: e.Exit, Why: exitWords(e), At: time.Now()}
		if e.Run == t.run {
			t.alive, t.killed = false, e.Exit == 128+int(syscall.SIGKILL)
		}
		if mine {
			s.exited(e)
		}
	case guard.Stopping:
		s.endRun()
		if e.Term >= t.order.Term {
			s.stopBegins()
			t.stopping = true
			s.show(phaseStopping, s.Info().Pid, e.Why)
		}
		s.say(ha.ServiceEvent{Kind: ha.ServiceStopping, Term: e.Term, Why: e.Why})
	case guard.Stuck:
		s.show(phaseStuck, s.Info().Pid, e.Why)
		s.say(ha.ServiceEvent{Kind: ha.ServiceStuck, Term: e.Term, Why: e.Why})
	case guard.Unproven:
		if s.proving != nil {
			s.proving.answer = e.Why
		}
		s.show(s.Info().Phase, 0, "not proven to have stopped: "+e.Why)
	case guard.Empty:
		switch {
		case e.Final:
			s.over(s.provenByGuard(e.Term))
		case mine:
			s.runGone()
		}
	case guard.Lost:
		s.guardLost(e.Why)
	case guard.AuxStarted:
	case guard.AuxRefused, guard.AuxEnded, guard.AuxStuck:
		if !s.addressHeard(e) {
			s.hookEnded(e)
		}
	default:
		s.o.Log.Error("unknown event of the guard", zap.String("kind", string(e.Kind)))
	}
}

func (s *Supervisor) after(d time.Duration, f func()) {
	s.timer.Reset(d)
	s.onTimer = f
}

func (s *Supervisor) stopTimer() { s.onTimer = nil }

func (s *Supervisor) say(e ha.ServiceEvent) { s.events.put(e) }

func (s *Supervisor) show(phase string, pid int, detail string) {
	i := ha.ServiceInfo{
		Phase: phase, Pid: pid, Restarts: s.term.count, Since: time.Now(), Detail: detail,
		Failures: s.failures, LastExit: s.lastExit, Checks: s.checks(), Standby: s.standbyPhase(),
	}
	if old := s.info.Load(); old != nil && old.Phase == phase {
		i.Since = old.Since
	}
	if s.guard != nil {
		i.GuardPid = s.guard.Pid()
	}
	s.info.Store(&i)
}
