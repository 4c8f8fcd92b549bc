// Package chaos runs three real nodes under faults, with clients that read and
// write through whatever is master, and judges what everybody saw.
//
// The service is package kvservice: it answers reads from memory, so two of
// them at once, or one that lives too long, give stale answers at once. Nothing
// but Understudy keeps it from running twice; each node's has a port of its
// own. Five judges look at a run, none of which trusts another:
//
//   - the services' own records, a line every 5 ms: no two alive at once, terms
//     only grow (package intervals);
//   - the clients' history: linearizable per key (porcupine), no acknowledged
//     write lost, terms only grow (package history);
//   - that of clients of the plane's own persisted state, by REST, judged likewise,
//     and at the end store fsck finds nothing wrong with it;
//   - the register, of which every change is seen in the backing directory, on the
//     wire, or in HDFS' journal: each follows from the one before, and nobody takes a held term over
//     before the end of its holder's right to serve;
//   - progress: after each fault a write is acknowledged again.
//
// The nodes share a directory, each through a file system of its own that can
// fail, or a bucket on a real S3 server, each through a network of its own that
// can (CHAOS_STORE=s3), or a directory of a real HDFS whose NameNodes fail over, die
// and hang (CHAOS_STORE=hdfs); the service's registers are then in a directory that
// does not fail, and changes of the register are seen in what the server answers, or
// in what the JournalNodes have kept.
//
// Which faults come, on whom and for how long, follows from a seed (plan.go).
// When exactly they meet the plane does not: a seed reproduces the schedule, not
// the run.
//
// Left out, on purpose: freezing daemon and guard together, or a whole node.
// No software on that machine is left to act then; a service that is thawed
// with them runs on until its guard has looked at the clock, and only its
// fencing token, or a hardware watchdog, stops what it does meanwhile
// (docs/safety.md). So is setting the machine's clock: nodes are started in
// time namespaces of their own instead, where CLOCK_BOOTTIME and
// CLOCK_MONOTONIC differ from the other nodes' and from their own before. The
// time of day has no namespace; no decision uses it.
package chaos
