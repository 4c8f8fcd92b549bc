package client

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/understudy-ha/understudy/api/v1"
)

const haPath = "/v1/server/ha/"

// Operate asks the plane for an operation: switchover, failover, step-down,
// pause, resume, ack, or maintenance of the given node. Any endpoint will do.
// Unless the request says wait false it is answered when the operation has
// ended: a StatusError 409 says that another is under way, or that it was
// rolled back, 412 why it would come to nothing, 504 that it still goes on.
func (c *Client) Operate(ctx context.Context, kind, node string, r v1.OperationRequest) (v1.Operation, error) {
	form := url.Values{}
	for name, value := range map[string]string{
		"to": r.To, "reason": r.Reason, "timeout": r.Timeout, "holdOff": r.HoldOff, "ttl": r.TTL,
	} {
		if value != "" {
			form.Set(name, value)
		}
	}
	if r.At != nil {
		form.Set("at", r.At.Format(time.RFC3339))
	}
	if r.DryRun {
		form.Set("dryRun", "true")
	}
	if r.Force {
		form.Set("force", "true")
	}
	if r.Wait != nil {
		form.Set("wait", strconv.FormatBool(*r.Wait))
	}
	if kind == "maintenance" {
		return call[v1.Operation](ctx, c, http.MethodPut, haPath+"nodes/"+url.PathEscape(node)+"/maintenance", form)
	}
	return call[v1.Operation](ctx, c, http.MethodPost, haPath+url.PathEscape(kind), form)
}

// Operation returns what has become of an operation.
func (c *Client) Operation(ctx context.Context, id string) (v1.Operation, error) {
	return call[v1.Operation](ctx, c, http.MethodGet, haPath+"operations/"+url.PathEscape(id), nil)
}

// Planned returns the move of the mastership that is planned or under way; a
// StatusError 404 says that there is none.
func (c *Client) Planned(ctx context.Context) (v1.Operation, error) {
	return call[v1.Operation](ctx, c, http.MethodGet, haPath+"switchover", nil)
}

// CancelPlanned cancels what Planned returns; a StatusError 409 says that it
// has begun.
func (c *Client) CancelPlanned(ctx context.Context) error {
	return c.remove(ctx, haPath+"switchover")
}

// EndMaintenance lets a node be master again.
func (c *Client) EndMaintenance(ctx context.Context, node string) error {
	return c.remove(ctx, haPath+"nodes/"+url.PathEscape(node)+"/maintenance")
}

func (c *Client) remove(ctx context.Context, path string) error {
	a, err := c.do(ctx, http.MethodDelete, path, nil)
	if err != nil {
		return err
	}
	return a.refused()
}

// Events calls take for each event that the answering node has kept.
func (c *Client) Events(ctx context.Context, take func(v1.Event) error) error {
	return c.stream(ctx, haPath+"events?since=0&follow=false", &eventReader{take: take})
}

// FollowEvents calls take for each event to come, and with kept first for those
// that the answering node has kept, until ctx or that node ends, or take
// returns an error.
func (c *Client) FollowEvents(ctx context.Context, kept bool, take func(v1.Event) error) error {
	path := haPath + "events"
	if kept {
		path += "?since=0"
	}
	return c.stream(ctx, path, &eventReader{take: take})
}

// eventReader finds the events in a stream of server-sent events.
type eventReader struct {
	take func(v1.Event) error
	line bytes.Buffer
}

var _ io.Writer = (*eventReader)(nil)

func (r *eventReader) Write(p []byte) (int, error) {
	for _, b := range p {
		if b != '\n' {
			r.line.WriteByte(b)
			continue
		}
		data, ok := strings.CutPrefix(r.line.String(), "data: ")
		r.line.Reset()
		if !ok {
			continue
		}
		var e v1.Event
		if err := json.Unmarshal([]byte(data), &e); err != nil {
			return 0, err
		}
		if err := r.take(e); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// Get returns the body of any GET, also of one that this client has no method
// for. Of health paths the answer 503 is a body like any other.
func (c *Client) Get(ctx context.Context, path string) ([]byte, error) {
	a, err := c.do(ctx, http.MethodGet, path, nil)
	if err != nil {
		return nil, err
	}
	if a.header.Get(v1.HeaderNode) != "" {
		return a.body, nil
	}
	return a.body, a.refused()
}
