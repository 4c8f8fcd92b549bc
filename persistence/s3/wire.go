package s3

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
)

// wire is the transport beneath the SDK. It counts requests, watches the
// server's clock, and does not let half a reply pass for a whole one.
type wire struct {
	base  *http.Transport
	count func(op string)
	clock *skew
}

// RoundTrip implements http.RoundTripper.
func (w *wire) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := w.base.RoundTrip(req)
	w.count(kind(req, resp))
	if err != nil {
		return nil, err
	}
	w.clock.observe(resp.Header.Get("Date"))
	if resp.StatusCode == http.StatusOK && req.Method == http.MethodGet && resp.ContentLength < 0 && len(resp.TransferEncoding) == 0 {
		_ = resp.Body.Close()
		return nil, errors.New("the reply has no length, so that one that was cut off could not be told from a whole one")
	}
	return resp, nil
}

// kind says what a request asked for, in the words of Options.Count.
func kind(req *http.Request, resp *http.Response) string {
	switch {
	case req.Method != http.MethodGet:
		return req.Method
	case strings.Contains(req.URL.RawQuery, "list-type="):
		return "LIST"
	case resp != nil && resp.StatusCode == http.StatusNotModified:
		return "GET-304"
	}
	return http.MethodGet
}

// skew follows how far the server's clock is from this machine's. The SDK
// corrects for it once a request was refused; it is told all the same, since
// whoever reads logs or certificates will stumble over it.
type skew struct {
	now   func() time.Time
	ahead atomic.Int64 // of the server, in ns
	seen  atomic.Bool
}

// worthAWord is the least difference that is complained about. S3 refuses what
// was signed more than 15 minutes from its own time.
const worthAWord = time.Minute

// observe takes the Date header of a reply.
func (s *skew) observe(date string) {
	if t, err := http.ParseTime(date); err == nil {
		s.ahead.Store(int64(t.Sub(s.now())))
		s.seen.Store(true)
	}
}

// String tells how this machine's clock relates to that of the store, empty if
// that is not known. A Date header tells whole seconds.
func (s *skew) String() string {
	d := time.Duration(s.ahead.Load()).Round(time.Second)
	switch {
	case !s.seen.Load():
		return ""
	case d.Abs() <= time.Second:
		return "level with"
	case d > 0:
		return fmt.Sprintf("%s behind", d)
	default:
		return fmt.Sprintf("%s ahead of", -d)
	}
}

// complaint is empty while the clocks agree well enough.
func (s *skew) complaint() string {
	if d := time.Duration(s.ahead.Load()).Abs(); d < worthAWord {
		return ""
	}
	return fmt.Sprintf("this machine's clock is %s that of the store, and S3 refuses requests from 15 minutes on; have it set by NTP", s)
}
