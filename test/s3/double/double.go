// Package double makes S3 servers that must not be trusted out of one that may
// be: each breaks the promise of conditional writes in a way that is found in
// the field and that no client sees who works alone.
package double

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"time"
)

// Ignoring accepts the preconditions of writes and ignores them.
func Ignoring(server http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		server.ServeHTTP(w, without(r))
	})
}

// Racy honours the preconditions of writes, but looks at them before it
// writes, not as it writes: between the two lies a moment in which others do
// the same.
func Racy(server http.Handler, moment time.Duration) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		match, none := r.Header.Get("If-Match"), r.Header.Get("If-None-Match")
		if r.Method != http.MethodPut || match == "" && none == "" {
			server.ServeHTTP(w, r)
			return
		}
		there := etag(server, r)
		if none != "" && there != "" || match != "" && strings.Trim(match, `"`) != strings.Trim(there, `"`) {
			w.Header().Set("Content-Type", "application/xml")
			w.WriteHeader(http.StatusPreconditionFailed)
			_, _ = w.Write([]byte("<Error><Code>PreconditionFailed</Code><Message>it does not hold</Message></Error>")) // the client is gone
			return
		}
		time.Sleep(moment)
		server.ServeHTTP(w, without(r))
	})
}

// etag is that of the object a request is about; empty when there is none.
func etag(server http.Handler, r *http.Request) string {
	look := r.Clone(r.Context())
	look.Method, look.Body, look.ContentLength = http.MethodHead, http.NoBody, 0
	rec := httptest.NewRecorder()
	server.ServeHTTP(rec, without(look))
	if rec.Code != http.StatusOK {
		return ""
	}
	return rec.Header().Get("ETag")
}

// without is the request without its preconditions. Reads keep theirs.
func without(r *http.Request) *http.Request {
	if r.Method == http.MethodGet {
		return r
	}
	out := r.Clone(r.Context())
	out.Header.Del("If-Match")
	out.Header.Del("If-None-Match")
	return out
}
