// Package sim runs whole planes of election machines in simulated time: every
// node with clocks of its own that run up to 1 % fast or slow, a register that
// loses, delays and repeats what is asked of it, guards, services, operators,
// and a schedule of faults. An oracle watches the services themselves, not what
// the nodes say of them, and what the nodes say besides.
//
// A run is a function of its Config: the same seed gives the same run, event
// by event. A failing seed is a bug report; run it again with a Trace.
//
// Where things are:
//
//	world.go    time: the event heap, clocks, nodes' processes and their ends
//	node.go     the daemon: the loop around election.Machine
//	guard.go    the guard process and the service tree it holds (G1 to G4)
//	store.go    the register and its unreliable ways
//	faults.go   what goes wrong, and when
//	profile.go  which faults a run has; one profile per rule that is switched off
//	oracle.go   what must hold
package sim
