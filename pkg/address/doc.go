// Package address is how clients find the master without asking: a floating
// address (Floating) that the master's machine alone has, and a file with the
// role (KeepRole) for other programs of the machine.
//
// # Who does what with the floating address
//
//	supervise   asks for it once the service is ready, and again every two seconds while it is refused
//	guard       starts "add" as a run of the term (G2); removes the address when nothing of the term is alive,
//	            at KILL at the latest, and when it starts; prolongs its lifetime with each deadline
//	Main "add"  asks the network who has the address; if nobody answers, sets it and announces it once
//	Main "announce"  five times, and five times again after five seconds
//
// The address carries a lifetime in the kernel that ends with the right to
// serve, rounded up to whole seconds. So it goes away although daemon and guard
// are dead or frozen together, within about two seconds.
//
// # What it can not do
//
// The duplicate check is a question to the network (RFC 5227, RFC 4862): a
// machine that is frozen, or cut off from this network, does not answer, and has
// the address again when it is back, until its kernel has seen the lifetime end.
// Caches of neighbours that ignore announcements keep the old machine until they
// expire.
package address
