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
//	                  check failed -> the run is ended -> the same
//	operator: stop, restart -> ServiceUnready -> drain -> the run is ended -> down, or start again
//	Stop  -> guard -> TERM, KILL, proof -> ServiceEmpty
//	deadline passed -> guard -> ServiceStopping, then ServiceEmpty or first ServiceStuck
//	guard died      -> ServiceGuardLost, proof, ServiceEmpty; a new guard for later terms
//
// Ending a run and not the term is this package's own doing (end.go): it signals
// the main process, whose end takes the tree along. The guard is not asked, for
// from its first stop signal a term is over for good (G2).
//
// Beside the guard there are up to two more children: the writer of the
// service's log (output.go, logger.go), which outlives this process by as long
// as somebody may write, and a second guard with the standby command
// (standby.go), which is proven gone before the service starts.
//
// Nothing here is needed for safety: the guard refuses what comes late, and
// stops by its own clock. Timers of this package may therefore be Go's, which
// stand still while the machine is suspended.
package supervise
