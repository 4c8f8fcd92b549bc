// Package ha runs one node of a plane. It is the thin edge around
// election.Machine: one goroutine owns the machine, reads the clock once per
// event, performs the actions the machine returns and publishes an immutable
// Status. Everything that can block, every operation on the shared store and
// on the local disk, happens in goroutines of its own, each bounded in time
// and number, so that neither the lease's end nor a status page ever waits for
// storage.
//
// Programs that want to be highly available themselves use it as a library:
//
//	store, err := posix.Open("/mnt/shared", posix.Options{})
//	dir, err := ha.OpenDir("/var/lib/app") // on this machine's own disk
//	node, err := ha.New(store, ha.Options{
//		Node: dir.Node(), Memory: dir, Clock: clock.Now, AutoInit: true,
//		URI: "https://node1:8443/", Persist: &ha.Persist{},
//		OnReign: func(ctx context.Context, r ha.Reign) error {
//			// Only one node of the plane is in here at a time. ctx ends with
//			// the reign; return soon after. r.Term() is the fencing token.
//			return serve(ctx, r)
//		},
//	})
//	err = node.Run(ctx)
//
// What the next master must know goes into the persisted state, by node.Persisted
// (State.Txn above all): what it acknowledged is there for every later reign,
// and a node that is no longer master can change nothing. examples/scheduler is
// a whole program.
//
// A service that runs as a process of its own is given as Options.Service;
// package supervise provides one.
package ha
