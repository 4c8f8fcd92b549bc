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
	probe       bool        // a word in answer to a proxy, as often as it likes
	// stream writes the body instead, piece by piece, until ctx ends.
	stream func(ctx context.Context, w io.Writer) error
	done   func() // when the stream has ended; nil: nothing
	// relay sends an answer of somebody else's instead, and returns its status.
	relay func(ctx context.Context, w http.ResponseWriter) int
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

// Values of headers are shared and never changed: proxies ask several times a
// second.
var (
	noCache  = []string{"no-cache, no-store"}
	pragma   = []string{"no-cache"}
	expires  = []string{"0"}
	nosniff  = []string{"nosniff"}
	noFrame  = []string{"DENY"}
	noPolicy = []string{"default-src 'none'; frame-ancestors 'none'"}
	noRefer  = []string{"no-referrer"}
	types    = map[string][]string{typeJSON: {typeJSON}, typeText: {typeText}, typeYAML: {typeYAML}}
)

// write sends the response. Nothing here may be kept by anybody: what was true
// a moment ago need not be now. There is no Strict-Transport-Security: it would
// hold for every port of the host.
func (resp response) write(w http.ResponseWriter) {
	h := w.Header()
	h["Cache-Control"], h["Pragma"], h["Expires"] = noCache, pragma, expires
	if resp.probe {
		// A map of more than eight keys costs more than all that was done for
		// this answer: net/http copies it. So these carry what they must, which
		// is eight, and type and length are what net/http says of a short text.
		w.WriteHeader(resp.status)
		_, _ = w.Write(resp.body) // the client is gone: nobody left to tell
		return
	}
	h["X-Content-Type-Options"], h["X-Frame-Options"], h["Content-Security-Policy"], h["Referrer-Policy"] = nosniff, noFrame, noPolicy, noRefer
	for k, v := range resp.header {
		h[k] = v
	}
	if resp.stream != nil {
		h["Content-Type"] = []string{resp.contentType}
		w.WriteHeader(resp.status)
		return
	}
	if resp.contentType != "" {
		h["Content-Type"] = headerOf(resp.contentType)
		h["Content-Length"] = []string{strconv.Itoa(len(resp.body))}
	}
	w.WriteHeader(resp.status)
	if resp.contentType != "" {
		_, _ = w.Write(resp.body) // the client is gone: nobody left to tell
	}
}

func headerOf(ctype string) []string {
	if v, ok := types[ctype]; ok {
		return v
	}
	return []string{ctype}
}
