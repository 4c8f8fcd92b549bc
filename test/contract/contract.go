// Package contract holds what REST is asked and what it answers against
// api/openapi.yaml, for the tests of the server and for those of whole planes.
package contract

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"

	"github.com/understudy-ha/understudy/api"
)

// Document is api/openapi.yaml, read and valid, examples included.
var Document = sync.OnceValues(func() (*openapi3.T, error) {
	loader := openapi3.NewLoader()
	doc, err := loader.LoadFromData(api.OpenAPI)
	if err != nil {
		return nil, fmt.Errorf("openapi.yaml: %w", err)
	}
	if err := doc.Validate(loader.Context, openapi3.EnableExamplesValidation()); err != nil {
		return nil, fmt.Errorf("openapi.yaml: %w", err)
	}
	return doc, nil
})

func init() {
	// The document can only say that it is text.
	openapi3filter.RegisterBodyDecoder("text/event-stream", openapi3filter.PlainBodyDecoder)
}

// Exchange is one request and its answer.
type Exchange struct {
	Request *http.Request // its body is not looked at
	Sent    []byte        // the body of the request
	Status  int
	Header  http.Header
	Body    []byte
}

// Check returns what of the exchange the document does not say: a path that it
// does not know and that is answered, an answer of another form, a request that
// was taken although the document forbids it.
func (x Exchange) Check(ctx context.Context) error {
	doc, err := Document()
	if err != nil {
		return err
	}
	route, vars := find(doc, x.Request.Method, x.Request.URL.Path)
	if route == nil {
		if x.Status != http.StatusNotFound && x.Status != http.StatusMethodNotAllowed {
			return x.wrong("it is not in openapi.yaml", nil)
		}
		return nil
	}
	in := &openapi3filter.RequestValidationInput{
		Request: x.resent(ctx), PathParams: vars, Route: route,
		Options: &openapi3filter.Options{AuthenticationFunc: openapi3filter.NoopAuthenticationFunc},
	}
	if err := openapi3filter.ValidateRequest(ctx, in); err != nil && x.Status < http.StatusBadRequest {
		return x.wrong("it was taken although openapi.yaml forbids it", err)
	}
	out := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: in, Status: x.Status, Header: x.Header,
		Options: &openapi3filter.Options{IncludeResponseStatus: true},
	}
	out.SetBodyBytes(x.Body)
	if len(x.Body) == 0 && (x.Header.Get("Content-Type") == "" || x.Request.Method == http.MethodHead) {
		out.Options.ExcludeResponseBody = true
	}
	if err := openapi3filter.ValidateResponse(ctx, out); err != nil {
		return x.wrong("the answer is not what openapi.yaml says", err)
	}
	return nil
}

func (x Exchange) wrong(what string, err error) error {
	return fmt.Errorf("%s %s: %s: %w\n%d %.500s", x.Request.Method, x.Request.URL, what, errors.Join(err), x.Status, x.Body)
}

// resent is the request with a body that can be read.
func (x Exchange) resent(ctx context.Context) *http.Request {
	r := x.Request.Clone(ctx)
	r.Body = io.NopCloser(bytes.NewReader(x.Sent))
	r.ContentLength = int64(len(x.Sent))
	return r
}

// find returns the operation for a path and what its {names} stand for; nil if
// the document has none. Every GET answers HEAD as well.
func find(doc *openapi3.T, method, path string) (*routers.Route, map[string]string) {
	for _, template := range templates(doc) {
		item := doc.Paths.Value(template)
		vars, ok := match(template, path, item.Extensions["x-slashes"] == true)
		if !ok {
			continue
		}
		if method == http.MethodHead && item.Head == nil {
			method = http.MethodGet
		}
		op := item.GetOperation(method)
		if op == nil {
			continue
		}
		return &routers.Route{Spec: doc, Path: template, PathItem: item, Method: method, Operation: op}, vars
	}
	return nil, nil
}

// Template is the document's path that a path is one of, {names} and all; empty
// if the document has none that is asked by the method.
func Template(doc *openapi3.T, method, path string) string {
	if route, _ := find(doc, method, path); route != nil {
		return route.Path
	}
	return ""
}

// templates are the document's paths, those without {names} first.
func templates(doc *openapi3.T) []string {
	paths := doc.Paths.Keys()
	slices.SortStableFunc(paths, func(a, b string) int { return strings.Count(a, "{") - strings.Count(b, "{") })
	return paths
}

// match says what the {names} of a template stand for; with slashes the last
// one stands for all that is left.
func match(template, path string, slashes bool) (map[string]string, bool) {
	want, got := strings.Split(template, "/"), strings.Split(path, "/")
	if slashes {
		got = strings.SplitN(path, "/", len(want))
	}
	if len(want) != len(got) {
		return nil, false
	}
	vars := map[string]string{}
	for i, w := range want {
		switch {
		case strings.HasPrefix(w, "{") && got[i] != "":
			vars[strings.Trim(w, "{}")] = got[i]
		case w != got[i]:
			return nil, false
		}
	}
	return vars, true
}

// maxKept is how much of a body is looked at, in bytes; of a longer one
// nothing is.
const maxKept = 4 << 20

// Transport passes requests on and reports each exchange that is not by the
// document, once its answer was read to the end. What was not read is not
// judged.
func Transport(base http.RoundTripper, report func(error)) http.RoundTripper {
	return &transport{base, report}
}

type transport struct {
	http.RoundTripper
	report func(error)
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	var sent []byte
	if r.Body != nil && r.GetBody != nil {
		if b, err := r.GetBody(); err == nil {
			sent, _ = io.ReadAll(b) // in memory
		}
	}
	resp, err := t.RoundTripper.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	x := Exchange{Request: r, Sent: sent, Status: resp.StatusCode, Header: resp.Header}
	resp.Body = &recorder{ReadCloser: resp.Body, done: func(b []byte) {
		x.Body = b
		if err := x.Check(context.WithoutCancel(r.Context())); err != nil {
			t.report(err)
		}
	}}
	return resp, nil
}

// recorder keeps what is read of a body.
type recorder struct {
	io.ReadCloser
	kept []byte
	long bool
	done func([]byte) // called at the end, once
}

func (b *recorder) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.long = b.long || len(b.kept)+n > maxKept; !b.long {
		b.kept = append(b.kept, p[:n]...)
	}
	if errors.Is(err, io.EOF) && b.done != nil && !b.long {
		done := b.done
		b.done = nil
		done(b.kept)
	}
	return n, err
}
