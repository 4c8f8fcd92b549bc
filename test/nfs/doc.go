// Package nfs tests stores and nodes on real kernel NFS: a server and two
// clients, each a User Mode Linux with a kernel, caches and clocks of its own,
// joined by a bridge in a network namespace that only the test has.
//
//	lab := NewLab(t, Options{Clients: 2})
//	lab.Mount("4.2")                          // on every client, at Dir
//	out := lab.Clients[0].Run("/share/understudy", "store", "verify", Dir)
//	at := lab.Clients[0].Kill()               // the whole machine, as a power cut
//
// A machine is one process of this one, which SIGKILL ends in the middle of
// whatever it does, and SIGSTOP pauses. Nothing that runs inside can get out:
// each machine is the first process of a PID namespace, so that the kernel
// kills what is left of it with it, and all of them die with the test.
//
// # Whose time
//
// Services write the instants of their own machine's clock. A machine's
// CLOCK_BOOTTIME runs at the rate of this one's (User Mode Linux reads the
// clock of its host), from another origin, which Guest measures by asking for
// the time over and over: the origin lies between what the request's sending
// and the answer's arrival allow, and of many requests the narrowest bounds
// count, some tenth of a millisecond. Records are moved to this machine's time
// when they arrive, so that package intervals judges them like any others.
// Bounds that contradict each other, which is what a clock at another rate
// would give, fail the test.
//
// What a machine's services wrote within the last 20 ms or so before it is
// killed may not arrive. It needs not: that machine's end is known.
package nfs
