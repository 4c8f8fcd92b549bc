package server

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strconv"

	"github.com/understudy-ha/understudy/api/v1"
)

// response is what a handler returns.
type response struct {
	status      int
	contentType string // empty: no body
	body        []byte
	header      http.Header // more headers; nil for none
	// stream writes the body instead, piece by piece, until ctx ends.
	stream func(ctx context.Context, w io.Writer) error
	done   func() // when the stream has ended; nil: nothing
}

const (
	typeJSON = "application/json"
	typeText = "text/plain; charset=utf-8"
	typeYAML = "application/yaml"
)

func text(status int, s string) response {
	return response{status: status, contentType: typeText, body: []byte(s)}
}

func noContent() response { return response{status: http.StatusNoContent} }

// asJSON answers with v.
func asJSON(status int, v any) response {
	b, err := json.Marshal(v)
	if err != nil {
		return failure(http.StatusInternalServerError, "the answer could not be written as JSON", err.Error())
	}
	return response{status: status, contentType: typeJSON, body: b}
}

// failure is a refusal in the shape of every error.
func failure(status int, message, details string) response {
	return asJSON(status, v1.Error{Message: message, Details: details, Code: status})
}

func (resp response) with(key, value string) response {
	if resp.header == nil {
		resp.header = http.Header{}
	}
	resp.header[key] = []string{value}
	return resp
}

// common is on every answer. The slices are shared and never changed: proxies
// ask several times a second. There is no Strict-Transport-Security: it would
// hold for every port of the host.
var common = []struct {
	name  string
	value []string
}{
	{"Cache-Control", []string{"no-cache, no-store"}},
	{"Pragma", []string{"no-cache"}},
	{"Expires", []string{"0"}},
	{"X-Content-Type-Options", []string{"nosniff"}},
	{"X-Frame-Options", []string{"DENY"}},
	{"Referrer-Policy", []string{"no-referrer"}},
	{"Content-Security-Policy", []string{"default-src 'none'; frame-ancestors 'none'"}},
}

// write sends the response. Nothing here may be kept by anybody: what was true
// a moment ago need not be now.
func (resp response) write(w http.ResponseWriter) {
	h := w.Header()
	for _, c := range common {
		h[c.name] = c.value
	}
	for k, v := range resp.header {
		h[k] = v
	}
	if resp.stream != nil {
		h["Content-Type"] = []string{resp.contentType}
		w.WriteHeader(resp.status)
		return
	}
	if resp.contentType != "" {
		h["Content-Type"] = []string{resp.contentType}
		h["Content-Length"] = []string{strconv.Itoa(len(resp.body))}
	}
	w.WriteHeader(resp.status)
	if resp.contentType != "" {
		_, _ = w.Write(resp.body) // the client is gone: nobody left to tell
	}
}
