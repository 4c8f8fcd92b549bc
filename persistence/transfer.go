package persistence

import (
	"context"
	"io"
	"time"
)

// Ranger is implemented by stores that can read an object from its middle, so
// that a long transfer which was cut off can be gone on with.
type Ranger interface {
	// GetFrom is Objects.Get without the first offset bytes; at or beyond the
	// end of the object there is nothing to read. The object may be another one
	// than was read before if its key is not unique. Unsupported: use Get.
	GetFrom(ctx context.Context, key string, offset int64) (io.ReadCloser, error)
}

// Sweeper is implemented by stores in which a Put that was cut off leaves
// something behind that List does not show and that takes space.
type Sweeper interface {
	// Sweep lists what was left behind by Puts of keys with the prefix, and
	// removes it if told to. Left behind is what nothing has been added to for
	// age, by the store's own clock: choose it longer than any Put that still
	// goes on can rest. A Put whose beginnings are removed nevertheless fails
	// and stores nothing. On an error the entries are those dealt with before.
	// Unsupported: nobody can tell.
	Sweep(ctx context.Context, prefix string, age time.Duration, remove bool) ([]Entry, error)
}
