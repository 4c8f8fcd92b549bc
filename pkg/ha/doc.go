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
//	node, err := ha.New(store, ha.Options{
//		Node: id, DataDir: "/var/lib/app", URI: "https://node1:8443/",
//		OnReign: func(ctx context.Context, r ha.Reign) error {
//			// Only one node of the plane is in here at a time. ctx ends with
//			// the reign; return soon after. r.Term() is the fencing token.
//			return serve(ctx, r)
//		},
//	})
//	err = node.Run(ctx)
//
// A service that runs as a process of its own is given as Options.Service;
// package supervise provides one.
package ha
