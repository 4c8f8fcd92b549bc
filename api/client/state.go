package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/understudy-ha/understudy/api/v1"
)

// StateEntry is a key of the persisted state as a node has it.
type StateEntry struct {
	Value   []byte
	Version uint64
	Seq     uint64 // how far the answering node holds the state
	// Master: the node is the master, so nothing newer was acknowledged.
	Master bool
}

// StateCondition is what must be so for a change to be made. The zero value
// asks for nothing.
type StateCondition struct {
	Version uint64 // the key must have it
	There   bool   // the key must be there
	Absent  bool   // the key must not be there
}

func (s StateCondition) header() http.Header {
	h := http.Header{}
	switch {
	case s.Version != 0:
		h.Set("If-Match", strconv.Quote(strconv.FormatUint(s.Version, 10)))
	case s.There:
		h.Set("If-Match", "*")
	}
	if s.Absent {
		h.Set("If-None-Match", "*")
	}
	return h
}

// StateGet returns a key of the persisted state. A StatusError 404 means that
// there is no such key; 403 that the node does not hold the state.
func (c *Client) StateGet(ctx context.Context, key string) (StateEntry, error) {
	a, err := c.do(ctx, http.MethodGet, statePath(key), nil)
	if err == nil {
		err = a.refused()
	}
	if err != nil {
		return StateEntry{}, err
	}
	e := StateEntry{Value: a.body, Master: a.header.Get(v1.HeaderState) == string(v1.StateMaster)}
	e.Version, err = a.version()
	if err == nil {
		e.Seq, err = strconv.ParseUint(a.header.Get(v1.HeaderStateSeq), 10, 64)
	}
	return e, err
}

// version is that of the ETag.
func (a *answer) version() (uint64, error) {
	v, err := strconv.ParseUint(strings.Trim(a.header.Get("ETag"), `"`), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s sent no version; is it Understudy? %w", a.endpoint, err)
	}
	return v, nil
}

// statePath is the path of a key, each part of it escaped.
func statePath(key string) string {
	parts := strings.Split(key, "/")
	for i := range parts {
		parts[i] = url.PathEscape(parts[i])
	}
	return "/v1/state/" + strings.Join(parts, "/")
}

// StatePut writes a key and returns its version, once the change is durable. A
// StatusError 412 means that the condition did not hold, 504 that whether the
// change was made is not known; with any other nothing was changed. The first
// endpoint that can be reached is asked, and the master that it names if it is
// not the master itself.
func (c *Client) StatePut(ctx context.Context, key string, value []byte, cond StateCondition) (uint64, error) {
	h := cond.header()
	h.Set("Content-Type", "application/octet-stream")
	a, err := c.change(ctx, http.MethodPut, statePath(key), h, value)
	if err != nil {
		return 0, err
	}
	return a.version()
}

// StateDelete removes a key; that it was not there is no error. Otherwise it is
// as StatePut.
func (c *Client) StateDelete(ctx context.Context, key string, cond StateCondition) error {
	_, err := c.change(ctx, http.MethodDelete, statePath(key), cond.header(), nil)
	return err
}

// change sends a write to the first endpoint that can be reached, and on to the
// master that it names.
func (c *Client) change(ctx context.Context, method, path string, header http.Header, body []byte) (*answer, error) {
	first := int(c.last.Load())
	var tried []Attempt
	for i := range c.endpoints {
		n := (first + i) % len(c.endpoints)
		a, err := c.write(ctx, method, c.endpoints[n]+path, header, body)
		if err != nil {
			tried = append(tried, Attempt{Endpoint: c.endpoints[n], Err: plain(err), MaybeSent: maybeSent(err)})
			if ctx.Err() != nil || maybeSent(err) {
				break
			}
			continue
		}
		c.last.Store(int32(n)) //nolint:gosec // a handful of endpoints
		a.endpoint = c.endpoints[n]
		master := strings.TrimRight(a.header.Get(v1.HeaderMaster), "/")
		if c.opt.Here || a.code != http.StatusForbidden || master == "" || master == a.endpoint {
			return a, a.refused()
		}
		if a, err = c.write(ctx, method, master+path, header, body); err != nil {
			return nil, &UnreachableError{[]Attempt{{Endpoint: master, Err: plain(err), MaybeSent: maybeSent(err)}}}
		}
		a.endpoint = master
		return a, a.refused()
	}
	return nil, &UnreachableError{Attempts: tried}
}

func (c *Client) write(ctx context.Context, method, uri string, header http.Header, body []byte) (*answer, error) {
	req, err := http.NewRequestWithContext(ctx, method, uri, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header = header.Clone()
	if c.opt.Here {
		req.Header.Set(v1.HeaderAllowNonMaster, "true")
	}
	req.Header.Set("Accept", "application/json, text/plain;q=0.5")
	c.authorise(req)
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	return &answer{code: resp.StatusCode, header: resp.Header, body: b}, nil
}

// StateList returns the keys that begin with prefix and come after the key
// after, at most limit of them; 0 means as many as the node gives at a time.
func (c *Client) StateList(ctx context.Context, prefix, after string, limit int) (v1.StateList, error) {
	q := url.Values{"prefix": {prefix}, "after": {after}}
	if limit > 0 {
		q.Set("limit", strconv.Itoa(limit))
	}
	return call[v1.StateList](ctx, c, http.MethodGet, "/v1/state?"+q.Encode(), nil)
}

// ErrWatchEnded is wrapped by what StateWatch returns when the node ends the
// stream; the message says why.
var ErrWatchEnded = errors.New("the node ended the watch")

// StateWatch hands each transaction that changes a key with the prefix to fn,
// until fn fails, ctx ends, or the node ends the stream. since is the number of
// the last transaction that is known; nil: from now on.
func (c *Client) StateWatch(ctx context.Context, prefix string, since *uint64, fn func(v1.StateChanges) error) error {
	q := url.Values{"prefix": {prefix}}
	if since != nil {
		q.Set("since", strconv.FormatUint(*since, 10))
	}
	r, w := io.Pipe()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		err := c.stream(ctx, "/v1/state/watch?"+q.Encode(), w)
		ended <- err
		_ = w.CloseWithError(err) // fails never
	}()
	err := readEvents(r, fn)
	cancel()
	_ = r.Close()
	if serr := <-ended; err == nil {
		err = serr
	}
	return err
}

// readEvents reads server-sent events. It returns nil at the end of the stream.
func readEvents(r io.Reader, fn func(v1.StateChanges) error) error {
	in := bufio.NewScanner(r)
	in.Buffer(nil, maxAnswer)
	name := ""
	for in.Scan() {
		if v, ok := strings.CutPrefix(in.Text(), "event: "); ok {
			name = v
			continue
		}
		data, ok := strings.CutPrefix(in.Text(), "data: ")
		if !ok {
			continue
		}
		if name == "end" {
			var e v1.Error
			if err := json.Unmarshal([]byte(data), &e); err != nil {
				return fmt.Errorf("%w: %w", ErrWatchEnded, err)
			}
			return fmt.Errorf("%w: %s", ErrWatchEnded, e.Message)
		}
		var c v1.StateChanges
		if err := json.Unmarshal([]byte(data), &c); err != nil {
			return fmt.Errorf("an event is not of the expected form: %w", err)
		}
		if err := fn(c); err != nil {
			return err
		}
	}
	return in.Err()
}
