package persistence

import (
	"context"
	"time"
)

// Overlapper is implemented by stores whose writes travel long enough that two
// can be made to overlap on purpose. Racing writers find a server that looks at
// a condition first and writes later only by chance; this finds it each time.
type Overlapper interface {
	// Overlap makes two writes of one object, each on the condition that it is
	// the version both have seen: the second begins and ends while the first is
	// under way, and not before the first has been for pause, so that a server
	// that looks at conditions early has looked by then. It returns how many of them were told that they succeeded; a
	// store that keeps the contract of Register.CAS tells one at most. It works
	// in scratch locations only (Unsupported elsewhere), whose RemoveAll takes
	// away what it leaves. The error says that it could not be found out.
	Overlap(ctx context.Context, pause time.Duration) (winners int, err error)
}
