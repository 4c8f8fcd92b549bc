package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/gorilla/mux"

	"github.com/understudy-ha/understudy/api/v1"
	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/journal"
)

// State is the plane's persisted state; *ha.State is one.
type State interface {
	Picture() (ha.Picture, error)
	Txn(ctx context.Context, t journal.Txn) (uint64, error)
	Watch(prefix string, since uint64) (*ha.Watcher, error)
}

const (
	typeBytes  = "application/octet-stream"
	typeEvents = "text/event-stream"

	stateList    = 1000  // keys of a listing if nobody says how many
	maxStateList = 10000 // and at most
	// watchPulse is how often a stream of events without any says that it lives.
	watchPulse = 15 * time.Second
	// watchKey is the one key that its path does not lead to.
	watchKey = "watch"
)

// stateNow returns the state as it is, or the refusal to send.
func (s *server) stateNow(r *request) (ha.Picture, *response) {
	if s.opt.State == nil {
		return ha.Picture{}, noState()
	}
	p, err := s.opt.State.Picture()
	if err == nil && !p.Master && r.serving() {
		err = ha.ErrNotHot // its reign has ended since this request began
	}
	if err != nil {
		resp := s.stateRefusal(r, err)
		return p, &resp
	}
	return p, nil
}

func noState() *response {
	resp := failure(http.StatusPreconditionFailed, ha.ErrNoState.Error(), "")
	return &resp
}

// stateRefusal turns an error of the persisted state into an answer.
func (s *server) stateRefusal(r *request, err error) response {
	var (
		limit    *journal.LimitError
		conflict *journal.ConflictError
		store    *ha.NotStoredError
	)
	switch {
	case errors.Is(err, ha.ErrNoState):
		return *noState()
	case errors.Is(err, ha.ErrNotMaster):
		return s.notMaster(r)
	case errors.Is(err, ha.ErrNotHot):
		return s.notHere(r, err.Error())
	case errors.As(err, &limit) && limit.Whole:
		return failure(http.StatusInsufficientStorage, err.Error(), "")
	case errors.As(err, &limit):
		return failure(http.StatusRequestEntityTooLarge, err.Error(), "")
	case errors.Is(err, journal.ErrBadKey):
		return failure(http.StatusBadRequest, err.Error(), "")
	case errors.As(err, &conflict):
		resp := failure(http.StatusPreconditionFailed, err.Error(), "")
		if conflict.Have != 0 {
			resp = resp.with("ETag", etag(conflict.Have))
		}
		return resp
	case errors.Is(err, ha.ErrUnknown):
		return failure(http.StatusGatewayTimeout, err.Error(), "")
	case errors.As(err, &store) && store.Full():
		return failure(http.StatusInsufficientStorage, err.Error(), "")
	case errors.As(err, &store), errors.Is(err, ha.ErrClosed), errors.Is(err, ha.ErrBusy):
		return failure(http.StatusServiceUnavailable, err.Error(), "").with("Retry-After", "1")
	}
	return s.refusal(r, "change the persisted state", err)
}

func etag(version uint64) string { return `"` + strconv.FormatUint(version, 10) + `"` }

// parseETag reads one entity tag, or "*".
func parseETag(s string) (version uint64, star bool, err error) {
	if s = strings.TrimSpace(s); s == "*" {
		return 0, true, nil
	}
	s, opens := strings.CutPrefix(s, `"`)
	digits, closes := strings.CutSuffix(s, `"`)
	version, err = strconv.ParseUint(digits, 10, 64)
	if !opens || !closes || err != nil || version == 0 {
		return 0, false, fmt.Errorf("%q is neither * nor the ETag of a key", s)
	}
	return version, false, nil
}

// keyConditions are those of If-Match and If-None-Match.
func keyConditions(r *request, key string) ([]journal.Condition, error) {
	var out []journal.Condition
	if h := r.Header.Get("If-Match"); h != "" {
		version, star, err := parseETag(h)
		if err != nil {
			return nil, fmt.Errorf("If-Match: %w", err)
		}
		out = append(out, journal.Condition{Key: key, Version: version, Any: star})
	}
	if h := r.Header.Get("If-None-Match"); h != "" {
		if strings.TrimSpace(h) != "*" {
			return nil, fmt.Errorf("If-None-Match: a write takes * only, which means that the key must not be there; not %q", h)
		}
		out = append(out, journal.Condition{Key: key})
	}
	return out, nil
}

// seen adds how far the state has come that an answer was taken from.
func seen(resp response, seq uint64) response {
	return resp.with(v1.HeaderStateSeq, strconv.FormatUint(seq, 10))
}

func getKey(s *server, r *request) response {
	p, refused := s.stateNow(r)
	if refused != nil {
		return *refused
	}
	key := mux.Vars(r.Request)["key"]
	e, ok := p.Get(key)
	if !ok {
		return seen(failure(http.StatusNotFound, fmt.Sprintf("there is no key %q", key), ""), p.Seq())
	}
	resp := seen(response{status: http.StatusOK, contentType: typeBytes, body: e.Value}, p.Seq()).with("ETag", etag(e.Version))
	if h := r.Header.Get("If-None-Match"); h != "" {
		version, star, err := parseETag(h)
		if err == nil && (star || version == e.Version) {
			resp.status, resp.contentType, resp.body = http.StatusNotModified, "", nil
		}
	}
	return resp
}

func putKey(s *server, r *request) response {
	value, err := io.ReadAll(r.Body)
	var tooLong *http.MaxBytesError
	if errors.As(err, &tooLong) {
		return s.stateRefusal(r, &journal.LimitError{What: "bytes of a value", Have: max(r.ContentLength, tooLong.Limit), Max: journal.MaxValue})
	}
	if err != nil {
		return failure(http.StatusBadRequest, "the value could not be read", err.Error())
	}
	return s.changeKey(r, journal.Change{Value: value})
}

func deleteKey(s *server, r *request) response { return s.changeKey(r, journal.Change{Delete: true}) }

// changeKey makes one change and answers once it is durable.
func (s *server) changeKey(r *request, c journal.Change) response {
	if s.opt.State == nil {
		return *noState()
	}
	c.Key = mux.Vars(r.Request)["key"]
	if c.Key == watchKey {
		return failure(http.StatusBadRequest, "/v1/state/watch is the stream of changes: no key can have that name here", "")
	}
	conds, err := keyConditions(r, c.Key)
	if err != nil {
		return failure(http.StatusBadRequest, err.Error(), "")
	}
	seq, err := s.opt.State.Txn(r.Context(), journal.Txn{If: conds, Changes: []journal.Change{c}})
	if err != nil {
		return s.stateRefusal(r, err)
	}
	resp := seen(noContent(), seq)
	if !c.Delete {
		resp = resp.with("ETag", etag(seq))
	}
	return resp
}

func listState(s *server, r *request) response {
	p, refused := s.stateNow(r)
	if refused != nil {
		return *refused
	}
	limit, err := uintParam(r, "limit", stateList, maxStateList)
	if err != nil {
		return failure(http.StatusBadRequest, fmt.Sprintf("limit must be a number from 0 to %d", maxStateList), err.Error())
	}
	q := r.URL.Query()
	out := v1.StateList{Seq: p.Seq(), Keys: []v1.StateKey{}}
	for e := range p.List(q.Get("prefix"), q.Get("after")) {
		if uint64(len(out.Keys)) == limit {
			out.More = true
			break
		}
		out.Keys = append(out.Keys, v1.StateKey{Key: e.Key, Version: e.Version, Size: len(e.Value)})
	}
	return seen(asJSON(http.StatusOK, out), p.Seq())
}

// watchState streams the transactions after the one that the client has seen.
func watchState(s *server, r *request) response {
	p, refused := s.stateNow(r)
	if refused != nil {
		return *refused
	}
	since, err := uintParam(r, "since", p.Seq(), 1<<62)
	if last := r.Header.Get("Last-Event-ID"); last != "" && err == nil {
		since, err = strconv.ParseUint(last, 10, 62)
	}
	if err != nil {
		return failure(http.StatusBadRequest, "since must be the number of a transaction", err.Error())
	}
	w, err := s.opt.State.Watch(r.URL.Query().Get("prefix"), since)
	if err != nil {
		return s.stateRefusal(r, err)
	}
	resp := response{status: http.StatusOK, contentType: typeEvents, stream: func(ctx context.Context, out io.Writer) error {
		return streamChanges(ctx, out, w)
	}}
	return seen(resp, p.Seq())
}

// streamChanges writes server-sent events until ctx ends or the watcher does,
// which a last event says.
func streamChanges(ctx context.Context, out io.Writer, w *ha.Watcher) error {
	for {
		next, cancel := context.WithTimeout(ctx, watchPulse)
		e, err := w.Next(next)
		cancel()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, context.DeadlineExceeded):
			_, err = io.WriteString(out, ": nothing new\n\n")
		case err != nil:
			b, jerr := json.Marshal(v1.Error{Message: err.Error(), Code: http.StatusGone})
			if jerr != nil {
				return jerr
			}
			_, werr := fmt.Fprintf(out, "event: end\ndata: %s\n\n", b)
			return errors.Join(err, werr)
		default:
			var b []byte
			if b, err = json.Marshal(wireChanges(e)); err == nil {
				_, err = fmt.Fprintf(out, "id: %d\nevent: change\ndata: %s\n\n", e.Seq, b)
			}
		}
		if err != nil {
			return err
		}
	}
}

func wireChanges(e ha.Event) v1.StateChanges {
	out := v1.StateChanges{Seq: e.Seq, Changes: make([]v1.StateChange, 0, len(e.Changes))}
	for _, c := range e.Changes {
		w := v1.StateChange{Key: c.Key, Deleted: c.Delete}
		if !c.Delete {
			w.Value = c.Value
			if w.Value == nil {
				w.Value = []byte{}
			}
		}
		out.Changes = append(out.Changes, w)
	}
	return out
}
