// Package election decides; it never acts. A Machine is one node's part in the
// election of its plane: a function from state and event to state and actions,
// without clock, chance or I/O, so that everything it can ever do can be
// replayed, enumerated and fuzzed.
//
// The loop around it, which package ha runs, is
//
//	for {
//		select {
//		case ev := <-events:              // a completion, a request
//			actions = m.Step(clock.Now(), ev)
//		case <-until(m.Deadline()):       // the earliest time that can change anything
//			actions = m.Step(clock.Now(), Tick{})
//		}
//		perform(actions)                  // completions come back as events
//		publish(m.View(clock.Now()))
//	}
//
// # The protocol in short
//
// One register per plane holds the mastership. The master renews its value by
// compare-and-swap every heartbeat; a standby takes it by compare-and-swap on
// the very version it watched stand still for longer than the lease. The
// master counts its lease from before it asked, on its own clock, and stops
// serving a margin before the lease ends; the standby counts a rival's
// silence from after it heard, on its own. So nobody compares clocks, and a
// stale read, a late write or a duplicate can only lose the compare-and-swap.
//
// # The rules and where they live
//
//	R2 R3 R5 R13     attempts and their outcomes         attempt.go
//	R4 R8 R9 R10 R11 a reign from claim to release       master.go
//	R0 R6 R7 R15 R17 watching, birth and claiming        standby.go
//	R6b              fencing a silent holder early       fence.go
//	election order                                       choose.go
//	durations and their inequalities                     timing.go
//	what must hold between any two steps                 invariant.go
//
// Each rule can be switched off by name (Rules), so that the simulator can
// show what goes wrong without it. No program but a test may do so.
package election
