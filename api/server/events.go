package server

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/understudy-ha/understudy/api/v1"
	"github.com/understudy-ha/understudy/pkg/ha"
)

const (
	// maxWatchers is how many clients may watch events at once: each costs a
	// goroutine and a connection, and nothing that grows with what happens.
	maxWatchers = 1000
	// watchPause is how often a watcher hears that the connection is alive.
	watchPause = 15 * time.Second
)

// getEvents streams what happens on the plane, as server-sent events. A client
// that comes back says with Last-Event-ID what it saw last.
func getEvents(s *server, r *request) response {
	after, refused := s.eventsAfter(r)
	if refused != nil {
		return *refused
	}
	once, refused := onceParam(r)
	if refused != nil {
		return *refused
	}
	if s.watchers.Add(1) > maxWatchers {
		s.watchers.Add(-1)
		return failure(http.StatusServiceUnavailable, "too many clients watch events here", "ask another node, or later").with("Retry-After", "10")
	}
	return response{status: http.StatusOK, contentType: typeEvents, stream: func(ctx context.Context, w io.Writer) error {
		return s.watch(ctx, w, after, once)
	}, done: func() { s.watchers.Add(-1) }}
}

// eventsAfter is the last event that the client knows; without a word from it,
// the newest there is.
func (s *server) eventsAfter(r *request) (uint64, *response) {
	text := r.Header.Get("Last-Event-ID")
	if q := r.URL.Query().Get("since"); q != "" {
		text = q
	}
	if text == "" {
		kept, _ := s.node.Happened(0)
		if len(kept) == 0 {
			return 0, nil
		}
		return kept[len(kept)-1].Seq, nil
	}
	after, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		resp := failure(http.StatusBadRequest, "since must be the number of an event", err.Error())
		return 0, &resp
	}
	return after, nil
}

// onceParam reads follow=false: only what is kept is wanted.
func onceParam(r *request) (bool, *response) {
	switch r.URL.Query().Get("follow") {
	case "", "true":
		return false, nil
	case "false":
		return true, nil
	}
	resp := failure(http.StatusBadRequest, "follow must be true or false", "")
	return false, &resp
}

// watch writes events as they come; once: those that are kept.
func (s *server) watch(ctx context.Context, w io.Writer, after uint64, once bool) error {
	if _, err := io.WriteString(w, ": events of the plane\n\n"); err != nil {
		return err
	}
	alive := time.NewTicker(watchPause)
	defer alive.Stop()
	for {
		events, more := s.node.Happened(after)
		for _, e := range events {
			b, err := json.Marshal(wireEvent(e))
			if err != nil {
				return err
			}
			if _, err := fmt.Fprintf(w, "id: %d\nevent: %s\ndata: %s\n\n", e.Seq, e.Type, b); err != nil {
				return err
			}
			after = e.Seq
		}
		if once {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-more:
		case <-alive.C:
			if _, err := io.WriteString(w, ":\n\n"); err != nil {
				return err
			}
		}
	}
}

func wireEvent(e ha.PlaneEvent) v1.Event {
	w := v1.Event{
		Seq: e.Seq, At: e.At, Type: string(e.Type), Node: orNull(string(e.Node)), Term: uint64(e.Term),
		From: orNull(e.From), To: orNull(e.To), Code: orNull(e.Code), Detail: orNull(e.Detail),
	}
	if e.Operation != nil {
		op := wireOperation(*e.Operation)
		w.Operation = &op
	}
	return w
}
