// Package journal is what a plane persists for its master: a map of keys to
// values, kept as a log of segments and now and then a snapshot, on a store
// that fences nobody. The register does: its head names the newest segment, and
// a change counts when, and only when, the compare-and-swap that moves the head
// there has succeeded.
//
//	register ──head──> segment 9 ──pred──> segment 7 ──pred──> segment 6 ── …
//	                       │
//	                       └──snapshot──> snapshot 6: everything up to there
//
// A segment lies under a name of its own, state/log/<seq>-<random>, and is
// durable before any register names it. One that no register ever named is an
// orphan: nobody reads it. Sequence numbers count transactions and never start
// again, after a CLEAN start neither.
//
// This package encodes and decodes, applies, checks, and decides what is
// garbage. It starts nothing, waits for nothing and keeps no time; package ha
// commits. Load alone asks a store, for the objects that its rules need.
//
// # Guarantees
//
//   - What Load returns is the state after the very segment that was asked for,
//     or an error that names each object that is damaged and what is wrong
//     with it. Nothing is skipped, nothing is repaired.
//   - A State never changes: readers, the writer of a snapshot and a thousand
//     watchers share one without a lock.
//   - Garbage names nothing that is at or above the snapshot it is given.
//
// # Faults
//
//	torn or bit-flipped segment   checksum over all of it; Damage names it
//	object under another's name   each carries its own name and its plane's
//	torn snapshot                 blocks with a running checksum, and an end
//	damaged snapshot              the one before it and the log between, if whole
//	segment removed while read    Missing: the reader begins again at the head
//	paused master that deletes    only names listed before its last renewal, and
//	                              below a snapshot of the chain: nobody reads them
package journal
