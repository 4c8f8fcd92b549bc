package ha

import (
	"time"

	"github.com/understudy-ha/understudy/pkg/lease"
)

// Deadline is what the guard holds for one term. All durations count from T0,
// the instant before the first byte of the renewal they rest on was sent, and
// are judged with lease.Instant.Longest.
type Deadline struct {
	Term lease.Term
	T0   lease.Instant
	Stop time.Duration // the stop begins: first signal
	Kill time.Duration // KILL to everything left
	End  time.Duration // end of the right to serve: the tree must be gone
}

// StartOrder asks for the service in one term. The environment of the service
// is made of it.
type StartOrder struct {
	Term      lease.Term
	Plane     lease.PlaneID
	Node      lease.NodeID
	NodeURI   string
	PrevState lease.State
	Reason    string
}

// StopReason says why a service is stopped, in the words of history and logs.
type StopReason string

// Service is the managed service as the runtime sees it: it runs in at most
// one term at a time, and only between Start and the deadline last
// acknowledged. Calls return at once; what comes of them arrives as events.
type Service interface {
	// Arm hands over a deadline; ServiceArmed acknowledges it. Deadlines of a
	// term whose stop has begun are refused silently.
	Arm(d Deadline)
	// Start starts the service in a term that was armed. ServiceReady or
	// ServiceFailed follows.
	Start(o StartOrder)
	// Stop stops the service of the term for good: stop signal, KILL, proof
	// that the whole tree is gone. ServiceEmpty follows, or ServiceStuck first.
	// It may be called for a term that was never started.
	Stop(t lease.Term, why StopReason)
	// Kill is the last resort when the guard no longer answers: kills service
	// and guard. ServiceEmpty follows once that is proven.
	Kill(t lease.Term, why StopReason)
	// Events delivers what happened, in order. It is closed after Close.
	Events() <-chan ServiceEvent
	// Info describes the service for status pages; never blocks.
	Info() ServiceInfo
	// Close ends the guard. The service must have been stopped before.
	Close() error
}

// Demoter is a Service that is told when a planned end of a term begins, with
// the lease ahead: before clients are drained, and before Stop with the same
// reason, if the end remains a planned one. It returns at once.
type Demoter interface {
	Demote(t lease.Term, why StopReason)
}

// ServiceEventKind tells what happened to the service.
type ServiceEventKind int

// What can happen to a service.
const (
	// ServiceArmed: the guard holds the deadline whose T0 is given.
	ServiceArmed ServiceEventKind = iota + 1
	// ServiceReady: started and its readiness check passed.
	ServiceReady
	// ServiceUnready: it died or its check failed, and a local restart is under
	// way; or, with Held, an operator wants it down.
	ServiceUnready
	// ServiceFailed: it can not be brought up here; give the term up.
	ServiceFailed
	// ServiceStopping: the guard began to stop it by itself (deadline passed).
	ServiceStopping
	// ServiceStuck: the tree is still alive at the end of the right to serve.
	ServiceStuck
	// ServiceEmpty: nothing of this term's tree is alive or ever will be.
	ServiceEmpty
	// ServiceGuardLost: the guard died; the service died with it.
	// ServiceEmpty follows when that is proven.
	ServiceGuardLost
)

// ServiceEvent is one thing that happened to the service.
type ServiceEvent struct {
	Kind ServiceEventKind
	Term lease.Term
	T0   lease.Instant // of ServiceArmed: which deadline was acknowledged
	Why  string        // one line for people; empty when there is nothing to say
	Held bool          // of ServiceUnready: it stays down until an operator starts it
	Exit int           // of ServiceFailed, ServiceUnready: the exit code, -1 if none
}

// ServiceAction is what an operator asks of the managed service.
type ServiceAction string

// What an operator can ask for.
const (
	ServiceStart         ServiceAction = "start"
	ServiceStop          ServiceAction = "stop"
	ServiceRestart       ServiceAction = "restart"
	ServiceResetFailures ServiceAction = "reset-failures"
)

// ServiceInfo describes the managed service at one moment.
type ServiceInfo struct {
	Phase    string    // idle, starting, ready, restarting, stopping, stopped (by an operator), stuck, none
	Pid      int       // of the service's main process as this host sees it; 0 if none
	GuardPid int       // 0 if there is no guard
	Restarts int       // in the present term
	Since    time.Time // when the phase began, wall clock, for people
	Detail   string

	Failures int            // exits and failed checks since the daemon began or an operator reset them
	LastExit *ServiceExit   // nil: none since then
	Checks   []ServiceCheck // liveness checks, in the order of the configuration; never changed
	Standby  string         // phase of the standby command; empty: there is none
}

// ServiceExit is one end of the service's main process.
type ServiceExit struct {
	Code int // 128+n for death by signal n
	Why  string
	At   time.Time // wall clock
}

// ServiceCheck is how a liveness check of the service stands.
type ServiceCheck struct {
	Name  string
	Kind  string    // http, tcp, file, exec
	Fails int       // in a row
	Fall  int       // so many make the service a failed one
	Error string    // of the last try; empty: it passed, or there was none
	At    time.Time // of the last try, wall clock; zero if there was none
}
