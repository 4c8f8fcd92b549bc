package main

import (
	"fmt"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/persistence/posix"
	"github.com/understudy-ha/understudy/pkg/config"
)

// openStore opens a location. It is the only place that names concrete stores.
// It does no I/O; the store's Check tells whether the location is fit for use.
// warn is told of what an operator should look at; it may be nil.
func openStore(loc config.Location, warn func(string)) (persistence.Store, error) {
	switch loc.Scheme {
	case "file":
		return posix.Open(loc.Path, posix.Options{Warn: warn})
	case "s3", "hdfs":
		return nil, fmt.Errorf("%w: %s: this version opens directories only; use a path or file:///path", persistence.Unsupported, loc)
	default:
		return nil, fmt.Errorf("%w: no location: persistMode is DISABLED", persistence.Unsupported)
	}
}
