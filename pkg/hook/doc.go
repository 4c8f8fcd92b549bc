// Package hook runs an operator's commands at the turning points of a node:
// before and after a promotion, before and after its end, at each change of
// state, when the service can not be stopped, when the store is lost and back.
//
// There is one Queue per node and one goroutine that empties it:
//
//	for each event, in the order in which they happened {
//		draw the next sequence number and make it durable
//		run the command: HA_ variables, JSON on its standard input, its timeout
//		record how it ended, log it, count it, tell whoever waits
//	}
//
// So hooks never run two at once, none is cut short by the next, and the
// sequence has no gaps, over restarts either.
//
// Service stands between the runtime and the managed service, and is where
// hooks can hold something up:
//
//	Start  -> prePromote -> Start of the service, or ServiceFailed: a veto
//	Demote -> preDemote     (a planned end begins; clients are being drained)
//	Stop   -> waits for preDemote, at most Grace, and never when the lease presses
//
// Nothing else of the service waits: deadlines pass through while a hook runs,
// and the guard stops the term when they end. Watch looks at each status of the
// node and puts the rest in the queue.
//
// Hooks that are bound to a term (prePromote, postPromote, preDemote) are
// started by the guard alone (G2), refused once the term's stop has begun, and
// over with it. The others are children of the daemon behind a shim of their
// own. Either way what a hook leaves is killed, its output is cut to the last
// few KiB, and its time is bounded.
//
// # Faults, and what comes of them
//
//   - A hook hangs: KILL at its timeout; for prePromote that is a veto.
//   - The daemon dies: the guard ends the hook with the term, or the hook's shim
//     does. The next daemon finds the number in use and calls it interrupted.
//   - The disk of the data directory fails: hooks go on, numbers are not kept
//     over a restart, which the log says.
//   - More events than hooks can follow: from maxWaiting on they are dropped,
//     said in the log, and a prePromote among them is a veto.
package hook
