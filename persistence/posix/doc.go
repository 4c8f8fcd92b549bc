// Package posix keeps a plane on a directory that the nodes share: NFS, a
// cluster file system, or a local disk for trying things out.
//
// # The register
//
// The register is a directory, lease/, with exactly one empty file in it, and
// the NAME of that file is the value. It is also the version: no two values
// are equal. The whole protocol is three calls:
//
//	Init: mkdir .init-x; creat .init-x/VALUE; rename .init-x lease; fsync lease, .
//	CAS:  rename lease/OLD lease/NEW; fsync lease
//	Read: open lease; getdents; close
//
// rename(2) consumes its source, so of several movers of OLD one wins, on the
// server, whatever the clients have cached. There is nothing to collect and
// no name ever comes back. A directory is not replaced by rename unless it is
// empty, so of several Inits one wins.
//
// What is not used, and why: link(2) gave two winners on GlusterFS;
// renameat2(RENAME_NOREPLACE) and flock(2) are missing or local on several
// file systems; overwriting a file by rename let NFS readers see the old one
// for 29 s; stat(2) and open(2) of a name that does not exist yet answer from
// negative dentries for 90 s, so absence is concluded from listings only.
//
// # When the file system hangs
//
// A hard mount whose server is gone blocks a thread for ever and takes no
// signal but KILL. Each call therefore runs in a worker; the caller waits on
// its context. Reads, writes of the register, and operations on objects each
// have two workers per handle; when both are stuck further calls fail at once
// with Unknown. They recover by themselves when the file system does, and the
// outcome of a CAS whose caller had left goes to OnLate.
//
// # When the mount changes
//
// What the path leads to can change under an open handle: unmounted, mounted
// anew, or another file system mounted over it. A CAS names the version it
// consumes, so it finds nothing to rename elsewhere. An object is written
// through a descriptor of the directory (openat and its kin), after a look at
// the register through the same descriptor: if that is gone, or another
// plane's (Anchor), nothing is written, and if it is there, what follows stays
// on that file system whatever is mounted meanwhile. The mount's id is compared
// with each read and write, its options every ten seconds, and Options.Warn is
// told of a change.
//
// # Names
//
// Objects are files under their key. Everything that begins with '.' is
// ignored: it is a write in progress, a scratch area, or the file system's.
// The location itself, often a mount point, is never created: an empty
// directory in the place of an unmounted file system would be a second plane.
package posix
