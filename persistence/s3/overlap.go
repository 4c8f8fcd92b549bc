package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/understudy-ha/understudy/persistence"
)

const (
	overlapKey = "overlap"
	// overlapSize is so large that no server takes the half of it for the whole
	// before it looks at the condition. Some read the first 8 KiB ahead.
	overlapSize = 64 << 10
	// leastWait is how long the second write is waited for at least.
	leastWait = time.Second
)

// errQueued says that the second write did not end while the first was under
// way: the server has the writers of one object queue, as MinIO does, and would
// keep both waiting. What it was told is nothing, so it has not won.
var errQueued = errors.New("queued behind the first")

var _ persistence.Overlapper = (*Store)(nil)

// Overlap implements persistence.Overlapper: a PUT with If-Match stops half-way
// through its body, another one is made, then the first goes on. A server that
// compares when the request arrives, and not when it writes, lets both succeed.
func (s *Store) Overlap(ctx context.Context, pause time.Duration) (winners int, err error) {
	if !s.sub {
		return 0, fmt.Errorf("%w: writes are made to overlap in scratch locations only, and %s is none", persistence.Unsupported, s.url(""))
	}
	if err := s.ready(ctx, "write"); err != nil {
		return 0, err
	}
	first, err := s.overlapping(ctx, 0, "", nil)
	if err != nil {
		return 0, err
	}
	var second error
	_, err = s.overlapping(ctx, 1, first, func() {
		select {
		case <-time.After(pause):
			within, cancel := context.WithTimeout(ctx, max(10*pause, leastWait))
			defer cancel()
			_, second = s.overlapping(within, 2, first, nil)
			if within.Err() != nil && ctx.Err() == nil {
				second = errQueued
			}
		case <-ctx.Done():
			second = fmt.Errorf("%w: %w", persistence.Unknown, ctx.Err())
		}
	})
	for _, err := range []error{err, second} {
		switch {
		case err == nil:
			winners++
		case errors.Is(err, errQueued):
		case !errors.Is(err, persistence.Conflict):
			return 0, err
		}
	}
	return winners, nil
}

// overlapping writes the object of Overlap, on the condition that it is the
// given version, if any. half is called when half of it has been sent.
func (s *Store) overlapping(ctx context.Context, n byte, old persistence.Version, half func()) (persistence.Version, error) {
	key := s.root + overlapKey
	out, err := s.halves.PutObject(context.WithValue(ctx, halfKey{}, half),
		s.write(key, bytes.Repeat([]byte{'0' + n}, overlapSize), func(in *s3.PutObjectInput) {
			if old != "" {
				in.IfMatch = aws.String(string(old))
			}
		}))
	if err != nil {
		return "", s.fail(ctx, putObject, key, err)
	}
	return version(out.ETag)
}

// halfKey is the key of a func() in a request's context.
type halfKey struct{}

// halver is a wire that calls the func() of a request's context half-way through
// its body.
type halver struct{ *wire }

// RoundTrip implements http.RoundTripper.
func (h halver) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Close = true // a server that refuses early may take the rest for the next request
	if half, _ := req.Context().Value(halfKey{}).(func()); half != nil && req.Body != nil {
		req.Body, req.GetBody = &halved{ReadCloser: req.Body, left: req.ContentLength / 2, half: half}, nil
	}
	return h.wire.RoundTrip(req)
}

// halved reads left bytes, calls half, and reads the rest.
type halved struct {
	io.ReadCloser
	left int64
	half func()
}

func (h *halved) Read(p []byte) (int, error) {
	if h.left > 0 {
		n, err := h.ReadCloser.Read(p[:min(int64(len(p)), h.left)])
		h.left -= int64(n)
		return n, err
	}
	if h.half != nil {
		h.half()
		h.half = nil
	}
	return h.ReadCloser.Read(p)
}
