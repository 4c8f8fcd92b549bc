// Package hdfs keeps a plane in a directory of HDFS, with or without a standby
// NameNode.
//
// # The register
//
// The register is a directory, lease/, with exactly one empty file in it, and
// the NAME of that file is the value. It is also the version: no two values are
// equal. It lives in the NameNode alone; no DataNode is needed for it.
//
//	Init: mkdirs .init-x; create .init-x/VALUE; rename2 .init-x lease
//	CAS:  getFileInfo lease/NEW; rename2 lease/OLD lease/NEW
//	Read: getListing lease
//
// rename2 consumes its source under the NameNode's lock, so of several movers
// of OLD one wins, and it is answered when the edit is on a majority of the
// JournalNodes, so that a failover keeps it. A directory is not replaced by it
// unless that is empty, so of several Inits one wins. The library asks for
// lease/NEW first, and would overwrite it; no two attempts share a name.
//
// # What a reader may see too early
//
// A NameNode applies an edit in memory, lets readers see it, and only then
// waits for the JournalNodes. One that has lost them, or its place to the other
// NameNode, can therefore show a value that will never have been written. It
// harms nobody but its writer, who would take it for the success of a swap that
// had no answer. Where Read finds such a value of this handle's own it has the
// same NameNode write something first: edits are made durable in order, so what
// was seen before an edit that succeeded is durable (settle).
//
// # Connections
//
// The library knows neither contexts nor deadlines, one hung call holds up its
// client, and a reply that was not read to its end leaves the connection out of
// step. So each call has a connection to itself while it runs (session), which
// is closed, and the client with it, when the context ends or anything but a
// whole reply came. It is given one NameNode's address at a time; which one is
// active is found out here (link): one that is standby, refuses, or did not
// answer in time is tried last from then on. A request of which nothing is known
// is not sent again, with the next call the other NameNode is asked.
//
// The library renews leases of files once per second and client, whether or not
// it writes any. That would cost more than the heartbeats do, so it is ended on
// all connections but those that write files.
//
// # Objects
//
// What is small, as records of nodes are, is an empty file with one extended
// attribute that holds the content: one request to write, one to read, nothing
// on DataNodes. What is larger is a file, written under a temporary name and
// renamed, its length compared first. Where extended attributes are turned off
// everything is a file. A listing does not tell the size of an attribute. What a
// Put that was cut off leaves under its temporary name Sweep removes, a day later:
// the NameNode does not tell whether a file still grows.
//
// # Names
//
// Everything that begins with '.' is ignored: it is a write in progress or a
// scratch area. The location itself is never created.
package hdfs
