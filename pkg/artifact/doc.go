// Package artifact keeps large files (jars, binaries, models) that the service
// of a plane needs on whichever node becomes master: the bytes as objects of a
// store, and an index, which is part of the persisted state, that says which
// name means which object.
//
//	index: name ──> digest, size, time, object
//	store: artifacts/<sha256>.<plane>.<term>.<time>.<random>
//	cache: <dir>/<sha256>, on the machine's own disk
//
// # A push
//
//	draw the object's name; Put it, hashing what passes; index name -> object
//
// A store shows an object when it is whole, and the hash is compared before its
// last byte is handed over, so there is no object with other content than its
// name says. It is nobody's until the index names it. Killed anywhere before
// that, a push leaves an object, a temporary file or parts of an upload that
// nobody sees, and Collect removes. The same content pushed again is stored
// again: that is how damage is repaired.
//
// # Why an object's name is used once
//
// A node that was paused in the middle of Collect may delete minutes or days
// later, when another is master. What it deletes must then still be garbage.
// So a name that the index has ceased to name never comes back, and one it has
// never named is garbage only once it can not be named any more: it carries the
// term of the push, and a later term means that the commit of that push can not
// succeed, because it is a compare-and-swap of the register. No clock decides;
// the retention only delays. The plane in the name keeps planes apart that
// share one root.
//
// # Faults
//
//	killed push                         nothing in the index; Collect
//	content cut off or altered on its way  the digest says so; nothing is stored
//	damaged object                      the digest says so; push again
//	store fails in the middle of a read read on from there, a few times
//	killed or full while caching        the part is gone on with, or removed
//	damaged file in the cache           found before each use, fetched again
//	several daemons with one cache      file locks: one fetches, none removes
//	                                    what another uses
package artifact
