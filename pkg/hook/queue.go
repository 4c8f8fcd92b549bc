package hook

import (
	"context"
	"maps"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/understudy-ha/understudy/pkg/guard"
)

// maxWaiting bounds the queue.
const maxWaiting = 1000

// Runner runs a command within its Timeout and a few seconds. It returns
// guard.AuxEnded, AuxRefused or AuxStuck.
type Runner func(ctx context.Context, a guard.Aux) guard.Event

// Options describe a Queue. DataDir, Bound and Apart are required.
type Options struct {
	Hooks   map[Event]Hook
	DataDir string   // keeps the record
	Env     []string // the environment that the HA_ variables are added to
	Dir     string   // working directory of hooks; empty: /
	Bound   Runner   // of hooks that belong to a term: the guard
	Apart   Runner   // of all others
	Log     *zap.Logger
}

// Queue runs hooks one after the other. Its methods may be called from any
// goroutine.
type Queue struct {
	o      Options
	record Record // owned by the goroutine of run
	cancel context.CancelFunc
	done   chan struct{}

	mu      sync.Mutex
	waiting []job
	more    chan struct{} // holds one token while there may be something to do
	closed  bool
	counts  map[Count]uint64
	seconds map[Event]float64
}

type job struct {
	facts Facts
	done  func(Result) // nil: nobody waits
}

// Count is a kind of end: see Queue.Counts.
type Count struct {
	Event   Event
	Outcome Outcome
}

// Open starts a queue. ctx's end does not stop it, Close does. A record that
// can not be read is said, and begun anew.
func Open(ctx context.Context, o Options) *Queue {
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	q := &Queue{
		o: o, cancel: cancel, done: make(chan struct{}), more: make(chan struct{}, 1),
		counts: map[Count]uint64{}, seconds: map[Event]float64{},
	}
	var err error
	if q.record, err = Load(o.DataDir); err != nil {
		o.Log.Error("hooks", zap.Error(err))
	}
	for i := range q.record.Runs {
		if r := &q.record.Runs[i]; r.Outcome == Running {
			r.Outcome = Interrupted
		}
	}
	go q.run(ctx)
	return q
}

// Has reports whether there is a hook for the event.
func (q *Queue) Has(e Event) bool { return len(q.o.Hooks[e].Command) > 0 }

// Put adds the hook of an event at the end of the queue, and returns at once.
// done, if not nil, is called when its turn is over, from another goroutine as
// a rule; it must not block. Without a hook for the event nothing happens.
func (q *Queue) Put(f Facts, done func(Result)) {
	if !q.Has(f.Event) {
		return
	}
	why := ""
	q.mu.Lock()
	switch {
	case q.closed:
		why = "the daemon is ending"
	case len(q.waiting) >= maxWaiting:
		why = "too many hooks wait; give them shorter timeouts"
	default:
		q.waiting = append(q.waiting, job{f, done})
		q.wake()
	}
	q.mu.Unlock()
	if why != "" {
		q.drop(job{f, done}, why)
	}
}

// wake must be called with mu held.
func (q *Queue) wake() {
	select {
	case q.more <- struct{}{}:
	default:
	}
}

// Close takes no more events, lets those that wait have their turn, and waits
// for them. After limit the hook that runs is killed and the rest is dropped.
func (q *Queue) Close(limit time.Duration) {
	q.mu.Lock()
	q.closed = true
	q.wake()
	q.mu.Unlock()
	late := time.NewTimer(limit)
	defer late.Stop()
	select {
	case <-q.done:
	case <-late.C:
		q.cancel()
		<-q.done
	}
	q.cancel()
}

func (q *Queue) run(ctx context.Context) {
	defer close(q.done)
	for {
		j, ok := q.next()
		switch {
		case !ok:
			return
		case ctx.Err() != nil:
			q.drop(j, "the daemon is ending")
		default:
			q.one(ctx, j)
		}
	}
}

// next waits for a job; !ok: there will be none.
func (q *Queue) next() (j job, ok bool) {
	for {
		q.mu.Lock()
		if len(q.waiting) > 0 {
			j, q.waiting = q.waiting[0], q.waiting[1:]
			q.mu.Unlock()
			return j, true
		}
		closed := q.closed
		q.mu.Unlock()
		if closed {
			return job{}, false
		}
		<-q.more
	}
}

// one gives a hook its turn.
func (q *Queue) one(ctx context.Context, j job) {
	f, h := j.facts, q.o.Hooks[j.facts.Event]
	f.Seq = q.record.Seq + 1
	q.keep(Result{Seq: f.Seq, Event: f.Event, Term: f.Term, At: time.Now(), Outcome: Running, Exit: -1})
	run := q.o.Apart
	if f.Event.Bound() {
		run = q.o.Bound
	}
	r := try(ctx, run, h, f, q.o.Env, q.o.Dir)
	q.keep(r)
	q.ended(r, j)
}

// Try runs one hook outside of any queue, apart from any term.
func Try(ctx context.Context, h Hook, f Facts, env []string, dir string) Result {
	return try(ctx, guard.RunApart, h, f, env, dir)
}

func try(ctx context.Context, run Runner, h Hook, f Facts, env []string, dir string) Result {
	r := Result{Seq: f.Seq, Event: f.Event, Term: f.Term, At: time.Now()}
	e := run(ctx, guard.Aux{
		Term: f.Term, Argv: h.Command, Env: f.Environ(env), Dir: dir, Stdin: f.Stdin(), Timeout: h.Timeout,
	})
	r.Took, r.Exit, r.Why, r.Output, r.Outcome = time.Since(r.At), e.Exit, e.Why, e.Output, outcome(e)
	return r
}

// outcome is how a run ended, in a word.
func outcome(e guard.Event) Outcome {
	switch {
	case e.Kind == guard.AuxRefused:
		return Refused
	case e.Kind == guard.AuxStuck:
		return Stuck
	case e.TimedOut:
		return TimedOut
	case e.Exit == 0:
		return OK
	}
	return Failed
}

func (q *Queue) keep(r Result) {
	q.record.set(r)
	if err := q.record.save(q.o.DataDir); err != nil {
		q.o.Log.Warn("the record of hooks can not be written: their numbers may be used again after a restart; look at dataDir", zap.Error(err))
	}
}

func (q *Queue) drop(j job, why string) {
	q.ended(Result{Event: j.facts.Event, Term: j.facts.Term, At: time.Now(), Outcome: Dropped, Exit: -1, Why: why}, j)
}

// ended says how a hook's turn ended.
func (q *Queue) ended(r Result, j job) {
	q.mu.Lock()
	q.counts[Count{r.Event, r.Outcome}]++
	q.seconds[r.Event] += r.Took.Seconds()
	q.mu.Unlock()
	f := []zap.Field{
		zap.String("event", string(r.Event)), zap.Uint64("seq", r.Seq), zap.Uint64("term", uint64(r.Term)),
		zap.Duration("took", r.Took), zap.String("result", r.Words()),
	}
	if r.Outcome == OK {
		q.o.Log.Info("hook", f...)
	} else {
		q.o.Log.Warn("hook", f...)
	}
	if j.done != nil {
		j.done(r)
	}
}

// Figures are sums since the daemon began, and how many hooks wait now.
type Figures struct {
	Ends    map[Count]uint64
	Seconds map[Event]float64 // that hooks took
	Waiting int
}

// Figures returns the present figures.
func (q *Queue) Figures() Figures {
	q.mu.Lock()
	defer q.mu.Unlock()
	return Figures{maps.Clone(q.counts), maps.Clone(q.seconds), len(q.waiting)}
}
