package main

import (
	"fmt"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/persistence/hdfs"
	"github.com/understudy-ha/understudy/persistence/posix"
	"github.com/understudy-ha/understudy/persistence/s3"
	"github.com/understudy-ha/understudy/pkg/config"
)

// openStore opens a location. It is the only place that names concrete stores.
// It does no I/O; the store's Check tells whether the location is fit for use.
// warn is told of what an operator should look at; it may be nil. count, which
// most can do without, is told the kind of each request of a store that is paid
// for by the request.
func openStore(loc config.Location, warn func(string), count ...func(string)) (persistence.Store, error) {
	switch loc.Scheme {
	case "file":
		return opened(posix.Open(loc.Path, posix.Options{Warn: warn}))
	case "s3":
		o := s3Options(loc.S3)
		o.Count = func(kind string) {
			for _, f := range count {
				f(kind)
			}
		}
		return opened(s3.Open(loc.Host, loc.Path, o))
	case "hdfs":
		return opened(hdfs.Open(loc.Host, loc.Path, hdfs.Options{
			ConfDir: loc.HDFS.ConfDir, User: loc.HDFS.User, Kerberos: hdfs.Kerberos(loc.HDFS.Kerberos), Warn: warn,
		}))
	default:
		return nil, fmt.Errorf("%w: no location: persistMode is DISABLED", persistence.Unsupported)
	}
}

// opened makes of no store at all a nil that compares as one.
func opened[S persistence.Store](s S, err error) (persistence.Store, error) {
	if err != nil {
		return nil, err
	}
	return s, nil
}

func s3Options(c config.S3) s3.Options {
	o := s3.Options{Region: c.Region, Endpoint: c.Endpoint, Profile: c.Profile, CAFile: c.CAFile, KMSKeyID: c.KMSKeyID}
	if c.PathStyle != "" && c.PathStyle != "auto" {
		inPath := c.PathStyle == "true"
		o.PathStyle = &inPath
	}
	if c.SSE != "none" {
		o.SSE = c.SSE
	}
	return o
}

// storeSecrets names the variables that open the store, which are nobody
// else's business.
func storeSecrets(loc config.Location) []string {
	if loc.Scheme == "s3" {
		return s3.SecretVariables()
	}
	return nil
}
