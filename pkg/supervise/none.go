package supervise

import (
	"sync"
	"time"

	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// None is the service of a node that runs none (service.none: true): whatever
// is asked has already happened. There is no guard, so nothing is released
// when the daemon dies.
type None struct {
	mu      sync.Mutex
	closed  bool
	stopped lease.Term
	info    ha.ServiceInfo
	events  *queue
}

var _ ha.Service = (*None)(nil)

// NewNone returns the service that is none.
func NewNone() *None {
	return &None{info: ha.ServiceInfo{Phase: "none", Since: time.Now()}, events: newQueue()}
}

// Arm implements ha.Service: acknowledged at once.
func (n *None) Arm(d ha.Deadline) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if d.Term > n.stopped {
		n.say(ha.ServiceEvent{Kind: ha.ServiceArmed, Term: d.Term, T0: d.T0})
	}
}

// Start implements ha.Service: ready at once.
func (n *None) Start(o ha.StartOrder) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if o.Term > n.stopped {
		n.say(ha.ServiceEvent{Kind: ha.ServiceReady, Term: o.Term})
		return
	}
	n.say(ha.ServiceEvent{Kind: ha.ServiceFailed, Term: o.Term, Exit: -1, Why: "the stop of this term has begun"})
}

// Stop implements ha.Service: empty at once.
func (n *None) Stop(t lease.Term, _ ha.StopReason) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.stopped = max(n.stopped, t)
	n.say(ha.ServiceEvent{Kind: ha.ServiceEmpty, Term: t})
}

// Kill implements ha.Service: empty at once.
func (n *None) Kill(t lease.Term, why ha.StopReason) { n.Stop(t, why) }

// Events implements ha.Service.
func (n *None) Events() <-chan ha.ServiceEvent { return n.events.out }

// Info implements ha.Service.
func (n *None) Info() ha.ServiceInfo { return n.info }

// Close implements ha.Service.
func (n *None) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.closed {
		n.closed = true
		n.events.close()
	}
	return nil
}

func (n *None) say(e ha.ServiceEvent) {
	if !n.closed {
		n.events.put(e)
	}
}

// queue delivers events in order to a reader who takes his time, without ever
// making the writer wait.
type queue struct {
	out  chan ha.ServiceEvent
	in   chan ha.ServiceEvent
	quit chan struct{}
	done chan struct{}
}

func newQueue() *queue {
	q := &queue{
		out: make(chan ha.ServiceEvent, 16), in: make(chan ha.ServiceEvent),
		quit: make(chan struct{}), done: make(chan struct{}),
	}
	go q.run()
	return q
}

func (q *queue) run() {
	defer close(q.done)
	defer close(q.out)
	var held []ha.ServiceEvent
	for {
		var out chan ha.ServiceEvent
		var next ha.ServiceEvent
		if len(held) > 0 {
			out, next = q.out, held[0]
		}
		select {
		case e := <-q.in:
			held = append(held, e)
		case out <- next:
			held = held[1:]
		case <-q.quit:
			return
		}
	}
}

// put must not be called after close.
func (q *queue) put(e ha.ServiceEvent) { q.in <- e }

// close ends the delivery; what was not taken is dropped.
func (q *queue) close() {
	close(q.quit)
	<-q.done
}
