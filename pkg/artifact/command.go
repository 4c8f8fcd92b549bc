package artifact

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
)

// A word of a command names an artifact as {artifact:NAME}, alone or as part of
// a longer word.
const (
	openRef  = "{artifact:"
	closeRef = "}"
)

// Names lists the artifacts that a command names, each once. The error says
// what is wrong with a reference.
func Names(argv []string) ([]string, error) {
	var names []string
	_, err := expand(argv, func(name string) (string, error) {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
		return "", nil
	})
	return names, err
}

// expand replaces each reference by what path returns for its name.
func expand(argv []string, path func(name string) (string, error)) ([]string, error) {
	out := make([]string, 0, len(argv))
	for _, word := range argv {
		var b strings.Builder
		for {
			before, rest, found := strings.Cut(word, openRef)
			b.WriteString(before)
			if !found {
				break
			}
			name, after, closed := strings.Cut(rest, closeRef)
			if !closed {
				return nil, fmt.Errorf("%q: a reference ends with %s; write %sNAME%s", word, closeRef, openRef, closeRef)
			}
			if err := CheckName(name); err != nil {
				return nil, fmt.Errorf("%q: %w", word, err)
			}
			p, err := path(name)
			if err != nil {
				return nil, err
			}
			b.WriteString(p)
			word = after
		}
		out = append(out, b.String())
	}
	return out, nil
}

// Depot is what a node needs to run a command that names artifacts: where they
// are, and where they are kept locally.
type Depot struct {
	Library *Library
	Cache   *Cache
}

// Command returns argv with each {artifact:NAME} replaced by the path of a
// local copy that was verified just now, as the index has the name now. The
// copies can be relied on until release is called. The error says which
// artifact is not to be had, and why.
func (d Depot) Command(ctx context.Context, argv []string) (out []string, release func(), err error) {
	held := map[string]*Local{}
	release = func() {
		for _, l := range held {
			_ = l.Close() // it was only read
		}
	}
	out, err = expand(argv, func(name string) (string, error) {
		if l := held[name]; l != nil {
			return l.Path, nil
		}
		l, err := d.Local(ctx, name)
		if err != nil {
			return "", err
		}
		held[name] = l
		return l.Path, nil
	})
	if err != nil {
		release()
		return nil, nil, err
	}
	return out, release, nil
}

// Local returns a verified copy of an artifact, fetched if need be. Errors:
// ErrNone, ErrCorrupt, persistence.Absent, those of the index, the store and
// the cache. Close the result.
func (d Depot) Local(ctx context.Context, name string) (*Local, error) {
	e, err := d.Library.Get(ctx, name)
	if err != nil {
		return nil, err
	}
	l, err := d.Cache.Get(ctx, e.Digest, e.Size, func(ctx context.Context, offset int64) (io.ReadCloser, error) {
		return d.Library.Open(ctx, e, offset)
	})
	if err != nil {
		return nil, fmt.Errorf("artifact %s: %w", name, err)
	}
	return l, nil
}
