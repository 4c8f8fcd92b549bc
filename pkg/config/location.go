package config

import (
	"errors"
	"fmt"
	"net/url"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
)

// Location is where the nodes of a plane keep what they share.
type Location struct {
	Scheme string // "file", "s3" or "hdfs"; empty: none
	Host   string // bucket (s3); host:port or nameservice (hdfs); empty for file
	Path   string // absolute directory (file, hdfs); prefix without slashes around it (s3)
	S3     S3     // how to reach it (s3); an empty text: not set
}

// String writes the location as a URL that ParseLocation reads back; a
// directory as its bare path.
func (l Location) String() string {
	switch l.Scheme {
	case "":
		return ""
	case "file":
		return l.Path
	case "s3":
		return "s3://" + l.Host + "/" + strings.NewReplacer("%", "%25", "?", "%3F", "#", "%23").Replace(l.Path) + l.S3.query()
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
	if u.Fragment != "" || (u.RawQuery != "" && !strings.EqualFold(scheme, "s3")) {
		return Location{}, fmt.Errorf("%q: a location takes no '?' or '#'", withoutQuery(s))
	}
	switch strings.ToLower(scheme) {
	case "file":
		if u.Host != "" && u.Host != "localhost" {
			return Location{}, fmt.Errorf("%q names host %q; a file URL has three slashes: file:///%s%s", s, u.Host, u.Host, u.Path)
		}
		return directory(u.Path, s)
	case "s3":
		if u.Host == "" {
			return Location{}, fmt.Errorf("%q names no bucket: must be s3://bucket/prefix", withoutQuery(s))
		}
		options, err := parseS3Query(u.RawQuery)
		if err != nil {
			return Location{}, err
		}
		return Location{Scheme: "s3", Host: u.Host, Path: strings.Trim(path.Clean("/"+u.Path), "/"), S3: options}, nil
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

// withoutQuery leaves out what may be a secret that does not belong there.
func withoutQuery(s string) string {
	s, _, _ = strings.Cut(s, "?")
	return s
}

// s3Settings are the settings of store.s3, which are the keys of a query too.
func s3Settings() []setting { return schema().sections["store"].sections["s3"].flatten() }

// s3Name is the key of a query that stands for a setting of store.s3.
func (s setting) s3Name() string { return strings.TrimPrefix(s.key, "store.s3.") }

// field is that of a setting of store.s3.
func (o *S3) field(s setting) reflect.Value {
	return reflect.ValueOf(o).Elem().Field(s.index[len(s.index)-1])
}

// parseS3Query reads ?region=…&endpoint=…. Errors show names, never values.
func parseS3Query(query string) (S3, error) {
	var o S3
	values, err := url.ParseQuery(query)
	if err != nil {
		return o, errors.New("what follows the '?' can not be read; write ?region=eu-west-1&endpoint=https://minio:9000")
	}
	known := s3Settings()
	for name, v := range values {
		i := slices.IndexFunc(known, func(s setting) bool { return s.s3Name() == name })
		switch {
		case i < 0:
			var names []string
			for _, s := range known {
				names = append(names, s.s3Name())
			}
			return o, fmt.Errorf("unknown option %q behind the '?': legal are %s; credentials do not belong there, use AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or a role",
				name, strings.Join(names, ", "))
		case len(v) > 1:
			return o, fmt.Errorf("option %q is given %d times behind the '?'; remove all but one", name, len(v))
		}
		text := v[0]
		if enum := known[i].enum; len(enum) > 0 {
			word, ok := enumWord(text, known[i])
			if !ok {
				return o, fmt.Errorf("option %q behind the '?' is not one of %s", name, strings.Join(enum, ", "))
			}
			text = word
		}
		o.field(known[i]).SetString(text)
	}
	return o, o.check()
}

// query writes what is set, as parseS3Query reads it.
func (o S3) query() string {
	q := url.Values{}
	for _, s := range s3Settings() {
		if text := o.field(s).String(); text != "" && !slices.Contains([]string{"auto", "none"}, text) {
			q.Set(s.s3Name(), text)
		}
	}
	if len(q) == 0 {
		return ""
	}
	return "?" + q.Encode()
}

// or fills in from defaults what is not set.
func (o S3) or(defaults S3) S3 {
	for _, s := range s3Settings() {
		if f := o.field(s); f.String() == "" {
			f.SetString(defaults.field(s).String())
		}
	}
	return o
}

// check refuses options that can not work, alone or together. The message
// begins with the name of one of them.
func (o S3) check() error {
	if o.Endpoint != "" {
		u, err := url.Parse(o.Endpoint)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
			return &s3Error{"endpoint", "is not the URL of a server; write e.g. https://minio.example.org:9000 (credentials do not belong there)"}
		}
	}
	if o.KMSKeyID != "" && !strings.HasPrefix(o.SSE, "aws:kms") {
		return &s3Error{"kmsKeyId", "needs sse: aws:kms beside it"}
	}
	if o.CAFile != "" && !filepath.IsAbs(o.CAFile) {
		return &s3Error{"caFile", fmt.Sprintf("%q is not an absolute path", o.CAFile)}
	}
	return nil
}

// s3Error is about one option.
type s3Error struct{ name, text string }

func (e *s3Error) Error() string { return e.name + ": " + e.text }
