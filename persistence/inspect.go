package persistence

import "context"

// Grade is how a Finding came out.
type Grade string

// The grades of a Finding.
const (
	GradeOK   Grade = "ok"
	GradeWarn Grade = "warn" // usable; read the remedy
	GradeFail Grade = "fail" // do not trust this
)

// Finding is one thing looked at, in words for an operator.
type Finding struct {
	Name   string `json:"name"`
	Status Grade  `json:"status"`
	Detail string `json:"detail"`
	Remedy string `json:"remedy,omitempty"` // what to do about it; empty when nothing need be done
}

// Inspector is implemented by stores that can tell more about a location than
// Limits does: the mount and its options, free space, the settings of a
// bucket, how far the store's clock is from this machine's.
type Inspector interface {
	// Inspect looks at the location and reports what it found, good and bad.
	// It writes nothing that stays. What can not be found out is a finding
	// too, so there is no error. It returns by ctx's deadline.
	Inspect(ctx context.Context) []Finding
}
