// Package supervise runs the managed service: it implements ha.Service on top
// of a guard process (pkg/guard), which alone starts and kills.
//
// One goroutine owns all state. It takes requests of the runtime, events of
// the guard, results of readiness checks and its own timer, and answers with
// events:
//
//	Arm   -> guard -> ServiceArmed
//	Start -> guard -> started -> readiness check -> ServiceReady
//	                  exited  -> ServiceUnready, back-off, start again -> ServiceReady
//	                          -> ServiceFailed when the policy says no or the restarts are used up
//	Stop  -> guard -> TERM, KILL, proof -> ServiceEmpty
//	deadline passed -> guard -> ServiceStopping, then ServiceEmpty or first ServiceStuck
//	guard died      -> ServiceGuardLost, proof, ServiceEmpty; a new guard for later terms
//
// Nothing here is needed for safety: the guard refuses what comes late, and
// stops by its own clock. Timers of this package may therefore be Go's, which
// stand still while the machine is suspended.
package supervise
