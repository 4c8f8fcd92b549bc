package persistence

import (
	"context"
	"time"
)

// Surveyor is implemented by stores that can list everything directly beneath
// a location, including what List does not show: scratch areas, leftovers of
// writes that were cut off, and what somebody else has put there.
type Surveyor interface {
	// Survey lists the location's top level. It changes nothing.
	Survey(ctx context.Context) ([]Entry, error)
}

// Entry is one name directly beneath a location.
type Entry struct {
	Name     string
	Modified time.Time // by the store's clock; zero if the store does not tell
}

// Repairer is implemented by stores whose register can come to hold something
// that Read refuses. It is for operators after a disaster, with every node of
// the plane down; nodes never call it (R1).
type Repairer interface {
	// Parts returns everything found in the place of the register, whether
	// or not it is a value, in no order. Absent when there is nothing at all,
	// not even an empty place.
	Parts(ctx context.Context) ([][]byte, error)
	// Replace puts val in the place of all that Parts shows and keeps what was
	// there aside under the returned name, if the store can. A swap that was
	// begun on what was there before fails from then on. It is not atomic: cut
	// off, it leaves a register that Read refuses, and is to be run again.
	Replace(ctx context.Context, val []byte) (aside string, err error)
}
