// Package guard is the second process that outlives the daemon: it alone
// starts and kills the managed service, and it holds the deadline by which the
// service must be dead (rules G1 to G4).
//
// Three processes of one binary take part:
//
//	daemon ── socket ──> guard ── socket ──> shim ── exec ──> the service and all it starts
//
// The daemon calls Start and talks through a Client. The guard (Main) is one
// goroutine around poll(2): it reads requests, judges the deadline at least
// every 100 ms by both clocks, signals, reaps, and never waits for anybody. The
// shim (ShimMain) runs the user's command; there is a new one for each run, and
// its death takes the tree along.
//
//	for {
//		wait for the socket, the daemon's death, the shim, or the next moment of the deadline
//		if the daemon is dead         { begin to stop, KILL after guardStop }
//		if t0+Stop is over            { begin to stop: first signal, refuse the term for ever }
//		if it is time                 { KILL everything, again and again }
//		if the tree is proven empty   { remove the floating address; say so; daemon dead: Finals, the release child, exit }
//		if t0+End is over             { say that the service is stuck }
//	}
//
// Beside the service a term may have auxiliary runs (Client.RunHook): hooks and
// probes, each with a shim, a timeout and the end of its output. They obey the
// same deadline, and the term is over when nothing of any run is alive.
//
// The floating address of a term is added by such a run and removed by the
// guard itself: before it says that the term is over, at KILL if something
// survives that, and when it starts. Each deadline also sets how long the kernel
// keeps it, in case nobody is left to do so.
//
// # Faults, and why each is survived
//
//   - The daemon is killed: the guard holds a pidfd of it that was opened by
//     the daemon itself, so neither a reused pid nor a missed death is
//     possible. It stops the tree, proves it empty, and only then runs the
//     release child (G3).
//   - The daemon is stopped or hangs: a closed socket or silence proves
//     nothing. The deadline runs down, the tree dies by it, nothing is released.
//   - The guard is killed: a shim that is pid 1 of a PID namespace dies by
//     PR_SET_PDEATHSIG and the kernel kills everything inside; any other shim
//     sees its socket close and kills its cgroup by the descriptor it holds, or
//     its subtree as its subreaper.
//   - The shim is killed: the namespace dies with it; otherwise the direct
//     child dies by PR_SET_PDEATHSIG and the guard kills the rest, by the
//     cgroup or because the orphans fell to it, which is a subreaper too.
//   - Guard and shim are killed: the namespace dies; otherwise only the direct
//     child does, which is said at start (Client.Lost). What is left is found
//     by the daemon (Tree.Sweep), in its cgroup or, if it called Adopt, among
//     its children, and a cgroup also by the next guard. It is never reported
//     as empty before that.
//   - A local disk that hangs: the log, the lease file and the records of
//     auxiliary runs are written by goroutines of their own, and the service's
//     tree record is synced before the service exists, never while it runs.
//
// "Empty" always means proven: wait4 answers ECHILD in a process that is the
// subreaper of everything the shim ever started. A PID namespace's first
// process can be reaped only after every other process in it is gone. In cgroup
// isolation the kernel must say, besides, that the cgroup is not populated; a
// cgroup can be removed only then, and none is used twice.
//
// What it can not do: a process in uninterruptible sleep survives SIGKILL; it
// is reported as stuck and never as gone. A guard and a daemon that are frozen
// together keep the service alive; only a watchdog helps.
package guard
