package wire

import (
	"errors"
	"time"

	"github.com/understudy-ha/understudy/persistence"
)

// StoreCall is one operation on a store of a guest. Each method uses the
// fields it needs.
type StoreCall struct {
	Handle  int
	Timeout time.Duration // until the end of the caller's context; 0: none
	Key     string        // also prefix, scratch name, directory, register version
	After   string
	Data    []byte
	Size    int64
}

// StoreResult is its outcome.
type StoreResult struct {
	Handle  int
	Version persistence.Version
	Data    []byte
	Page    persistence.Page
	Empty   bool
	Limits  persistence.Limits
	Err     Error
}

// Error carries an error across, with the sentinels of persistence in it.
type Error struct {
	Text  string // "" for no error
	Kinds []int
}

var sentinels = []error{
	persistence.Conflict, persistence.Unknown, persistence.Absent, persistence.Torn, persistence.Denied,
	persistence.Unsupported, persistence.Full, persistence.ReadOnly, persistence.Throttled,
}

// FromError prepares err, which may be nil, for the way.
func FromError(err error) Error {
	if err == nil {
		return Error{}
	}
	e := Error{Text: err.Error()}
	for i, s := range sentinels {
		if errors.Is(err, s) {
			e.Kinds = append(e.Kinds, i)
		}
	}
	return e
}

// Err is the error that arrived, or nil.
func (e Error) Err() error {
	if e.Text == "" {
		return nil
	}
	return &arrived{e}
}

type arrived struct{ e Error }

func (a *arrived) Error() string { return a.e.Text }

func (a *arrived) Is(target error) bool {
	for _, k := range a.e.Kinds {
		if sentinels[k] == target {
			return true
		}
	}
	return false
}
