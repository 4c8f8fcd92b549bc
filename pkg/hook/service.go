package hook

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/understudy-ha/understudy/pkg/clock"
	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// Grace is how long Stop may wait for preDemote where the whole stop may take
// S: half of what KILL leaves of it, so that the time the service has to end is
// what it would be without hooks. Before that it has the drain.
func Grace(stop time.Duration) time.Duration {
	if stop < 4*time.Second {
		return stop / 4
	}
	return max(2*time.Second, stop/5) / 2
}

// Service is a managed service with hooks around it.
type Service struct {
	ha.Service
	queue *Queue
	watch *Watch
	grace time.Duration

	out    chan ha.ServiceEvent
	inject chan ha.ServiceEvent
	quit   chan struct{}
	done   chan struct{}
	once   sync.Once

	mu       sync.Mutex
	deadline ha.Deadline
	order    ha.StartOrder // of the term that was last to be started
	asking   bool          // prePromote has not answered yet
	ready    lease.Term    // the last one in which the service was ready
	stopped  lease.Term    // this term and those below are to start no more
	demotion *demotion
}

var (
	_ ha.Service = (*Service)(nil)
	_ ha.Demoter = (*Service)(nil)
)

// demotion is a planned end for which preDemote was asked.
type demotion struct {
	term  lease.Term
	why   ha.StopReason
	ended bool   // the hook has
	stop  func() // what waits for it; nil: nothing does, or any more
}

// NewService puts the hooks around a service. w is the node's Watch, grace the
// Grace of its S. Close ends the service within, and not the queue.
func NewService(inner ha.Service, w *Watch, grace time.Duration) *Service {
	s := &Service{
		Service: inner, queue: w.queue, watch: w, grace: grace,
		out: make(chan ha.ServiceEvent), inject: make(chan ha.ServiceEvent),
		quit: make(chan struct{}), done: make(chan struct{}),
	}
	w.started = s.started
	go s.pump()
	return s
}

// Arm implements ha.Service.
func (s *Service) Arm(d ha.Deadline) {
	s.mu.Lock()
	s.deadline = d
	s.mu.Unlock()
	s.Service.Arm(d)
}

// Start implements ha.Service: prePromote first. It may veto.
func (s *Service) Start(o ha.StartOrder) {
	s.mu.Lock()
	again := s.asking && s.order.Term == o.Term
	s.order, s.asking = o, s.queue.Has(PrePromote) && o.Term > s.stopped
	asking := s.asking
	s.mu.Unlock()
	switch {
	case again:
	case !asking:
		s.Service.Start(o)
	default:
		f := s.watch.facts(PrePromote, o.Term, o.Reason)
		f.Plane, f.Node, f.State = string(o.Plane), string(o.Node), o.PrevState
		f.Master, f.MasterURI = o.Node, o.NodeURI
		s.queue.Put(f, s.asked)
	}
}

// asked takes the answer of prePromote.
func (s *Service) asked(r Result) {
	s.mu.Lock()
	o := s.order
	if !s.asking || o.Term != r.Term {
		s.mu.Unlock()
		return // the term ended first
	}
	s.asking = false
	if r.Outcome == OK {
		s.Service.Start(o) // with mu held, so that no Stop comes in between
	}
	s.mu.Unlock()
	if r.Outcome != OK {
		s.say(ha.ServiceEvent{
			Kind: ha.ServiceFailed, Term: o.Term, Exit: -1,
			Why: "the prePromote hook vetoed (" + r.Words() + "); put right what it found, or the hook",
		})
	}
}

// Demote implements ha.Demoter: preDemote runs while clients are drained.
func (s *Service) Demote(t lease.Term, why ha.StopReason) {
	if !s.queue.Has(PreDemote) {
		return
	}
	s.mu.Lock()
	served := s.ready == t && s.stopped < t
	d := &demotion{term: t, why: why}
	if served {
		s.demotion = d
	}
	s.mu.Unlock()
	if !served {
		return
	}
	f := s.watch.facts(PreDemote, t, string(why))
	f.State = lease.StateMaster
	s.queue.Put(f, func(Result) { s.release(d, true) })
}

// MayMove asks the preSwitchover hook whether the mastership may be moved from
// here to another node; an error is its veto. Without the hook it may.
func (s *Service) MayMove(ctx context.Context, t lease.Term, to lease.NodeID, why string) error {
	if !s.queue.Has(PreSwitchover) {
		return nil
	}
	f := s.watch.facts(PreSwitchover, t, why)
	f.To = to
	answer := make(chan Result, 1)
	s.queue.Put(f, func(r Result) { answer <- r })
	select {
	case r := <-answer:
		if r.Outcome == OK {
			return nil
		}
		return fmt.Errorf("the preSwitchover hook vetoed (%s); put right what it found, or use failover --force", r.Words())
	case <-ctx.Done():
		return ctx.Err()
	}
}

// release lets a stop go on that waits for preDemote.
func (s *Service) release(d *demotion, ended bool) {
	s.mu.Lock()
	d.ended = d.ended || ended
	stop := d.stop
	d.stop = nil
	s.mu.Unlock()
	if stop != nil {
		stop()
	}
}

// Stop implements ha.Service. A planned one waits for preDemote, but not beyond
// Grace, and not when the lease presses.
func (s *Service) Stop(t lease.Term, why ha.StopReason) {
	s.mu.Lock()
	s.stopped = max(s.stopped, t)
	if s.order.Term <= t {
		s.asking = false
	}
	d := s.demotion
	// What is no planned end has a reason of its own.
	planned := d != nil && d.term == t && d.why == why && !d.ended
	if planned && s.deadline.Term == t && clock.Now().Longest(s.deadline.T0) < s.deadline.Stop {
		d.stop = func() { s.Service.Stop(t, why) }
		s.mu.Unlock()
		time.AfterFunc(s.grace, func() { s.release(d, false) })
		return
	}
	s.mu.Unlock()
	s.Service.Stop(t, why)
}

// Kill implements ha.Service.
func (s *Service) Kill(t lease.Term, why ha.StopReason) {
	s.mu.Lock()
	s.stopped, s.asking = max(s.stopped, t), false
	if s.demotion != nil {
		s.demotion.stop = nil
	}
	s.mu.Unlock()
	s.Service.Kill(t, why)
}

// Info implements ha.Service.
func (s *Service) Info() ha.ServiceInfo {
	i := s.Service.Info()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.asking {
		i.Phase, i.Detail = "starting", "waiting for the prePromote hook"
	}
	return i
}

// started reports whether anything of a term was begun.
func (s *Service) started(t lease.Term) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.order.Term == t
}

// Events implements ha.Service.
func (s *Service) Events() <-chan ha.ServiceEvent { return s.out }

// Close implements ha.Service.
func (s *Service) Close() error {
	err := s.Service.Close()
	s.once.Do(func() { close(s.quit) })
	<-s.done
	return err
}

func (s *Service) say(e ha.ServiceEvent) {
	select {
	case s.inject <- e:
	case <-s.done:
	}
}

// pump passes events on, in order, without making either side wait for a reader
// who takes his time.
func (s *Service) pump() {
	defer close(s.done)
	defer close(s.out)
	inner := s.Service.Events()
	var held []ha.ServiceEvent
	for {
		var out chan ha.ServiceEvent
		var next ha.ServiceEvent
		if len(held) > 0 {
			out, next = s.out, held[0]
		}
		select {
		case e, ok := <-inner:
			if !ok {
				inner = nil
				continue
			}
			s.note(e)
			held = append(held, e)
		case e := <-s.inject:
			held = append(held, e)
		case out <- next:
			held = held[1:]
		case <-s.quit:
			return
		}
	}
}

func (s *Service) note(e ha.ServiceEvent) {
	if e.Kind == ha.ServiceReady {
		s.mu.Lock()
		s.ready = e.Term
		s.mu.Unlock()
	}
}
