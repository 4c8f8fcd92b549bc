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
	HDFS   HDFS   // how to reach it (hdfs); an empty text: not set
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
		return "s3://" + l.Host + "/" + strings.NewReplacer("%", "%25", "?", "%3F", "#", "%23").Replace(l.Path) + optionsOfS3.query(&l.S3)
	default:
		return l.Scheme + "://" + l.Host + "/" + strings.NewReplacer("%", "%25", "?", "%3F", "#", "%23").Replace(strings.TrimPrefix(l.Path, "/")) + optionsOfHDFS.query(&l.HDFS)
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
	if u.Fragment != "" || (u.RawQuery != "" && strings.EqualFold(scheme, "file")) {
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
		l := Location{Scheme: "s3", Host: u.Host, Path: strings.Trim(path.Clean("/"+u.Path), "/")}
		if err := optionsOfS3.parse(u.RawQuery, &l.S3); err != nil {
			return Location{}, err
		}
		return l, l.S3.check()
	case "hdfs":
		if u.Host == "" {
			return Location{}, fmt.Errorf("%q names no host: must be hdfs://host:port/path or hdfs://nameservice/path", s)
		}
		p := path.Clean("/" + u.Path)
		if p == "/" {
			return Location{}, fmt.Errorf("%q names the root of the file system: give a directory of its own, e.g. hdfs://%s/understudy", s, u.Host)
		}
		l := Location{Scheme: "hdfs", Host: u.Host, Path: p}
		if strings.ContainsRune(p, ':') {
			return Location{}, fmt.Errorf("%q has a ':' in its path, which HDFS does not take", withoutQuery(s))
		}
		if err := optionsOfHDFS.parse(u.RawQuery, &l.HDFS); err != nil {
			return Location{}, err
		}
		return l, l.HDFS.check()
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

// options are the settings of a kind of store, which are the keys of the query
// of its URLs too.
type options struct {
	section string // "s3" stands for store.s3
	example string // of a query
	secrets string // where credentials belong instead
}

var (
	optionsOfS3 = options{
		"s3", "?region=eu-west-1&endpoint=https://minio:9000",
		"use AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or a role",
	}
	optionsOfHDFS = options{
		"hdfs", "?confDir=/etc/hadoop/conf&user=understudy",
		"use a keytab, or kinit",
	}
)

func (o options) settings() []setting {
	return schema().sections["store"].sections[o.section].flatten()
}

// name is the key of a query that stands for a setting.
func (o options) name(s setting) string { return strings.TrimPrefix(s.key, "store."+o.section+".") }

// field is that of a setting in the struct that of points to.
func (o options) field(of any, s setting) reflect.Value {
	const above = 2 // store, and the section in it
	return reflect.ValueOf(of).Elem().FieldByIndex(s.index[above:])
}

// parse reads a query into the struct. Errors show names, never values.
func (o options) parse(query string, into any) error {
	values, err := url.ParseQuery(query)
	if err != nil {
		return errors.New("what follows the '?' can not be read; write " + o.example)
	}
	known := o.settings()
	for name, v := range values {
		i := slices.IndexFunc(known, func(s setting) bool { return o.name(s) == name })
		switch {
		case i < 0:
			var names []string
			for _, s := range known {
				names = append(names, o.name(s))
			}
			return fmt.Errorf("unknown option %q behind the '?': legal are %s; credentials do not belong there, %s",
				name, strings.Join(names, ", "), o.secrets)
		case len(v) > 1:
			return fmt.Errorf("option %q is given %d times behind the '?'; remove all but one", name, len(v))
		}
		text := v[0]
		if enum := known[i].enum; len(enum) > 0 {
			word, ok := enumWord(text, known[i])
			if !ok {
				return fmt.Errorf("option %q behind the '?' is not one of %s", name, strings.Join(enum, ", "))
			}
			text = word
		}
		o.field(into, known[i]).SetString(text)
	}
	return nil
}

// query writes what is set, as parse reads it.
func (o options) query(from any) string {
	q := url.Values{}
	for _, s := range o.settings() {
		if text := o.field(from, s).String(); text != "" && !slices.Contains([]string{"auto", "none"}, text) {
			q.Set(o.name(s), text)
		}
	}
	if len(q) == 0 {
		return ""
	}
	return "?" + q.Encode()
}

// fill takes from defaults what is not set.
func (o options) fill(into, defaults any) {
	for _, s := range o.settings() {
		if f := o.field(into, s); f.String() == "" {
			f.SetString(o.field(defaults, s).String())
		}
	}
}

// check refuses options that can not work, alone or together. The message
// begins with the name of one of them.
func (o S3) check() error {
	if o.Endpoint != "" {
		u, err := url.Parse(o.Endpoint)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
			return &optionError{"endpoint", "is not the URL of a server; write e.g. https://minio.example.org:9000 (credentials do not belong there)"}
		}
	}
	if o.KMSKeyID != "" && !strings.HasPrefix(o.SSE, "aws:kms") {
		return &optionError{"kmsKeyId", "needs sse: aws:kms beside it"}
	}
	if o.CAFile != "" && !filepath.IsAbs(o.CAFile) {
		return &optionError{"caFile", fmt.Sprintf("%q is not an absolute path", o.CAFile)}
	}
	return nil
}

// check refuses options that can not work, alone or together. The message
// begins with the name of one of them.
func (o HDFS) check() error {
	for _, f := range []struct{ name, path string }{
		{"confDir", o.ConfDir}, {"kerberos.keytab", o.Kerberos.Keytab}, {"kerberos.ccache", o.Kerberos.CCache}, {"kerberos.config", o.Kerberos.Config},
	} {
		if f.path != "" && !filepath.IsAbs(f.path) {
			return &optionError{f.name, fmt.Sprintf("%q is not an absolute path", f.path)}
		}
	}
	if k := o.Kerberos; k.Keytab != "" && k.Principal == "" {
		return &optionError{"kerberos.keytab", "needs kerberos.principal beside it, as 'klist -k' shows it"}
	}
	if k := o.Kerberos; k.Keytab != "" && k.CCache != "" {
		return &optionError{"kerberos.ccache", "and kerberos.keytab are given both; remove one"}
	}
	return nil
}

// optionError is about one option.
type optionError struct{ name, text string }

func (e *optionError) Error() string { return e.name + ": " + e.text }
