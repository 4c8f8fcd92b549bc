package config

import (
	"errors"
	"fmt"
	"net/url"
	"path"
	"path/filepath"
	"strings"
)

// Location is where the nodes of a plane keep what they share.
type Location struct {
	Scheme string // "file", "s3" or "hdfs"; empty: none
	Host   string // bucket (s3); host:port or nameservice (hdfs); empty for file
	Path   string // absolute directory (file, hdfs); prefix without slashes around it (s3)
}

// String writes the location as a URL; a directory as its bare path.
func (l Location) String() string {
	switch l.Scheme {
	case "":
		return ""
	case "file":
		return l.Path
	default:
		return l.Scheme + "://" + l.Host + "/" + strings.TrimPrefix(l.Path, "/")
	}
}

// PollDivisor is how many polls a standby makes per heartbeat interval on this
// kind of store, as its persistence.Limits will say.
func (l Location) PollDivisor() int {
	switch l.Scheme {
	case "s3":
		return 1
	case "hdfs":
		return 2
	default:
		return 5
	}
}

// ErrNoLocation is returned by ParseLocation for an empty string.
var ErrNoLocation = errors.New("is not set: name the directory all nodes share, e.g. persistenceDir: /mnt/understudy (or set store.allowLocal: true to keep it on this machine, without high availability)")

// ParseLocation reads a path, file:///path, s3://bucket/prefix,
// hdfs://host:port/path or hdfs://nameservice/path. Whether this build can
// open it is another question.
func ParseLocation(s string) (Location, error) {
	if s == "" {
		return Location{}, ErrNoLocation
	}
	if strings.ContainsAny(s, "\x00\n\r") {
		return Location{}, fmt.Errorf("%q contains a control character", s)
	}
	scheme, _, isURL := strings.Cut(s, "://")
	if !isURL {
		return directory(s, s)
	}
	u, err := url.Parse(s)
	if err != nil {
		// url.Error repeats the input, which may hold a password.
		return Location{}, fmt.Errorf("is not a URL: must be a path, file:///path, s3://bucket/prefix or hdfs://host:port/path")
	}
	if u.User != nil {
		return Location{}, fmt.Errorf("%s://…: credentials do not belong into the URL; use the store's own way to log in", scheme)
	}
	if u.RawQuery != "" || u.Fragment != "" {
		return Location{}, fmt.Errorf("%q: a location takes no '?' or '#'", s)
	}
	switch strings.ToLower(scheme) {
	case "file":
		if u.Host != "" && u.Host != "localhost" {
			return Location{}, fmt.Errorf("%q names host %q; a file URL has three slashes: file:///%s%s", s, u.Host, u.Host, u.Path)
		}
		return directory(u.Path, s)
	case "s3":
		if u.Host == "" {
			return Location{}, fmt.Errorf("%q names no bucket: must be s3://bucket/prefix", s)
		}
		return Location{Scheme: "s3", Host: u.Host, Path: strings.Trim(path.Clean("/"+u.Path), "/")}, nil
	case "hdfs":
		if u.Host == "" {
			return Location{}, fmt.Errorf("%q names no host: must be hdfs://host:port/path or hdfs://nameservice/path", s)
		}
		p := path.Clean("/" + u.Path)
		if p == "/" {
			return Location{}, fmt.Errorf("%q names the root of the file system: give a directory of its own, e.g. hdfs://%s/understudy", s, u.Host)
		}
		return Location{Scheme: "hdfs", Host: u.Host, Path: p}, nil
	default:
		return Location{}, fmt.Errorf("unknown scheme %q: must be a path, file://, s3:// or hdfs://", scheme)
	}
}

func directory(p, given string) (Location, error) {
	if !filepath.IsAbs(p) {
		return Location{}, fmt.Errorf("%q is not an absolute path: the nodes' working directories differ; write e.g. /mnt/understudy", given)
	}
	p = filepath.Clean(p)
	if p == "/" {
		return Location{}, fmt.Errorf("%q is the root of the file system: give a directory of its own", given)
	}
	return Location{Scheme: "file", Path: p}, nil
}
