// Package persistence is the contract between Understudy and the storage that
// the nodes of a plane share. It knows bytes and versions, not elections.
//
// # What safety rests on
//
// Register.CAS is atomic against every client of the store, and durable once
// it has succeeded; the store never rolls back; a read returns only values
// that were once written. A read may be arbitrarily old: freshness is needed
// for progress, never for safety.
//
// # What an error leaves unknown
//
// A CAS that returns nil has been applied. Every other outcome, Conflict
// included, is undecided: the attempt may have been applied, may be applied
// later, or never. Callers settle it by reading the register and looking for
// the bytes they meant to write. (A replayed NFS RENAME answers ENOENT to its
// own winner; a retried conditional PUT answers 412 to it.) For that reason
// a store sends each attempt once and leaves all retrying to its caller.
//
// # Time
//
// Every method returns by the deadline of its context, also when the I/O
// beneath is stuck for ever; the I/O may still complete afterwards. A store
// keeps a bounded number of stuck operations (two per kind) and then fails
// fast with Unknown.
//
// Methods may be called from any goroutine.
package persistence

import (
	"context"
	"errors"
	"io"
	"time"
)

// Version identifies one value of the register. It is opaque to callers,
// never empty for a value that exists, and never equal for two values.
type Version string

// Snapshot is what one read of the register returned.
type Snapshot struct {
	Version Version
	Value   []byte
}

// MaxValueLen is the longest value a register must hold, in bytes. Values
// consist of [0-9a-z.-] and begin with a letter; stores do not look inside.
const MaxValueLen = 200

// Register is the one cell on which safety rests.
type Register interface {
	// Read returns a value that the register held at some time. It never
	// invents and never merges. Errors: Absent when there is no register,
	// Torn when what is there can not be one value, others as listed below.
	Read(ctx context.Context) (Snapshot, error)

	// CAS replaces the value whose version is old by val and returns the new
	// version. It never creates a register. A nil error means applied; any
	// error means undecided, see the package comment.
	CAS(ctx context.Context, old Version, val []byte) (Version, error)

	// Init creates the register. Exactly one of several concurrent calls
	// succeeds; Conflict when the register exists already.
	Init(ctx context.Context, val []byte) error
}

// Objects holds everything else: node records, requests, history, journal
// segments, snapshots, artifacts. Each key has a single writer, or is unique,
// so no conditions are needed. Keys are slash-separated paths of segments out
// of [0-9A-Za-z._-]; a segment neither is empty nor begins with '.'.
type Objects interface {
	// Put stores an object; readers see the old or the new content, whole.
	// A size of -1 means unknown; r giving more or fewer bytes than a known
	// size is an error and stores nothing. It is durable when Put returns
	// nil. r is read by the calling goroutine only, never after the return.
	Put(ctx context.Context, key string, r io.Reader, size int64) error
	// Get opens an object. Absent when there is none. Reads from the result
	// are bounded by ctx as well. Close it.
	Get(ctx context.Context, key string) (io.ReadCloser, error)
	// List returns the keys that begin with prefix and sort after the key
	// after, in order, at most one page of them.
	List(ctx context.Context, prefix, after string) (Page, error)
	// Delete removes an object; removing what is not there succeeds.
	Delete(ctx context.Context, key string) error
}

// Page is one page of a listing.
type Page struct {
	Items []Item
	More  bool // list again after the last item's key
}

// Item is one object of a listing.
type Item struct {
	Key  string
	Size int64 // bytes; -1 where a listing does not tell
}

// Store is one location that the nodes of a plane share.
type Store interface {
	Register
	Objects
	// Empty reports whether the WHOLE location lists empty, not merely the
	// names Understudy uses. Scratch areas of Verify, whose names begin with
	// '.', do not count. A location that can not be listed is an error. The
	// location is never created by this call, nor by any other but Init's
	// own entries beneath it.
	Empty(ctx context.Context) (bool, error)
	// Sub opens an independent location beneath this one, for scratch use:
	// name begins with '.'. Several handles of one name share the location,
	// and each has stuck operations of its own. It does no I/O; the location
	// comes into being with its first Init or Put, and is Absent or Empty
	// before. Removing it is RemoveAll's job.
	Sub(name string) (Store, error)
	// RemoveAll removes everything at this location. It refuses (Unsupported)
	// on a location that was not opened by Sub.
	RemoveAll(ctx context.Context) error
	// Limits describes the store.
	Limits() Limits
	// Close releases what the store holds. It does not wait for stuck I/O.
	Close() error
}

// What follows a store may be able to do besides. Whoever wraps a store passes
// on all of it, and Inspector: what is not passed on is silently not done.

// LateResults is implemented by stores whose CAS can still complete after its
// caller has gone.
type LateResults interface {
	// OnLate has fn called with the outcome of each CAS that returned because
	// its context ended, when and if the I/O beneath comes back: val is what
	// the attempt meant to write, v its version if err is nil. As always, an
	// error leaves the attempt undecided. fn runs on a goroutine of the store
	// and must not block. Set it before the first CAS; nil takes it away.
	OnLate(fn func(val []byte, v Version, err error))
}

// Anchored is implemented by stores whose location can turn into another one
// under an open handle, as a directory does when a file system is unmounted
// from it or mounted over it.
type Anchored interface {
	// Anchor has objects put and deleted only where the register's value
	// passes mine; elsewhere these fail with Absent and change nothing. Reads
	// go on, or nobody would notice that the right location is back. mine is
	// called from workers of the store and must not block; nil, the default,
	// takes any register for the right one.
	Anchor(mine func(val []byte) bool)
}

// Checker is implemented by stores that can tell ahead of use whether a
// location is fit for it: there, writable, and of a kind that keeps the
// contract.
type Checker interface {
	// Check returns nil, or an error that names the location and the remedy:
	// Absent, Denied, ReadOnly, Full or Unsupported where an operator has to
	// act, Unknown where waiting may help. It leaves nothing behind.
	Check(ctx context.Context) error
}

// Limits describes what a store can do.
type Limits struct {
	// URL names the location for people, without secrets.
	URL string
	// Kind is "posix", "memory", "s3" or "hdfs".
	Kind string
	// MinBeat is the shortest sensible interval between writes of the
	// register; 0 when the store sets none.
	MinBeat time.Duration
	// PollDivisor says how many polls of the register a standby makes per
	// heartbeat interval: 5 on posix, 2 on hdfs, 1 on s3.
	PollDivisor int
	// Local says that the location lies on a medium other machines do not
	// share, so a plane there gives no high availability. LocalWhy names the
	// file system type.
	Local    bool
	LocalWhy string
	// Warnings are things an operator should know about this location, each
	// with its remedy.
	Warnings []string
}

// What callers branch on. Stores wrap these with what happened and, where
// there is one, the remedy.
var (
	// Conflict: the precondition did not hold.
	Conflict = errors.New("conflict") //nolint:revive,staticcheck // reads as persistence.Conflict, a kind of outcome
	// Unknown: no answer, or an answer that decides nothing.
	Unknown = errors.New("outcome unknown") //nolint:revive,staticcheck // see Conflict
	// Absent: the thing asked for is not there.
	Absent = errors.New("absent") //nolint:revive,staticcheck // see Conflict
	// Torn: what is there can not be a single value.
	Torn = errors.New("torn") //nolint:revive,staticcheck // see Conflict
	// Denied: no permission.
	Denied = errors.New("permission denied") //nolint:revive,staticcheck // see Conflict
	// Unsupported: the store can not do this.
	Unsupported = errors.New("unsupported") //nolint:revive,staticcheck // see Conflict
	// Full: no space or no quota left.
	Full = errors.New("store full") //nolint:revive,staticcheck // see Conflict
	// ReadOnly: the store does not take writes.
	ReadOnly = errors.New("store read-only") //nolint:revive,staticcheck // see Conflict
	// Throttled: too many requests.
	Throttled = errors.New("throttled") //nolint:revive,staticcheck // see Conflict
)
