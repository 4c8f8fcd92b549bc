// Package doctor looks at everything a node depends on, before its first start
// or beside the live one, and says in an operator's words what it found: the
// machine's clocks and limits, the data directory, the port and certificate,
// the service, the store and the plane on it.
//
// Each look is a Check whose answer is lines, persistence.Findings: ok, warn or
// fail, what it means, and what to do. The functions that make the lines take
// what they judge as arguments, or the root of a /proc and /sys to read, so
// that they are tested without the machine; cmd/understudy gathers the
// arguments.
//
//	for each check, one after the other {
//		run it, within its limit    // what hangs costs one line, not the rest
//		show its lines at once
//	}
//
// Nothing here changes what it looks at. On the store it uses a scratch
// location of its own and removes it; of the data directory it reads, and
// leaves the lock alone.
//
// # Grades
//
// fail: this node can not do its duty, or not safely, until somebody acts.
// warn: it can, with less protection or not for long. ok: nothing to do.
package doctor
