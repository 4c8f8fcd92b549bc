package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/gorilla/mux"

	"github.com/understudy-ha/understudy/api/v1"
	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// Where operations are found.
const (
	operationsPath = "/v1/server/ha/operations/"
	awaitLimit     = 2 * time.Minute // how long a request waits that says nothing else
	askLimit       = 10 * time.Second
	stepDownHold   = time.Minute
)

func postSwitchover(s *server, r *request) response { return s.operate(r, ha.OpSwitchover) }
func postFailover(s *server, r *request) response   { return s.operate(r, ha.OpFailover) }
func postStepDown(s *server, r *request) response   { return s.operate(r, ha.OpStepDown) }
func postPause(s *server, r *request) response      { return s.operate(r, ha.OpPause) }
func postResume(s *server, r *request) response     { return s.operate(r, ha.OpResume) }
func postAck(s *server, r *request) response        { return s.operate(r, ha.OpAck) }
func putMaintenance(s *server, r *request) response { return s.operate(r, ha.OpMaintenance) }

// operate takes an operation and, unless told otherwise, waits for its end.
func (s *server) operate(r *request, kind ha.OperationKind) response {
	body, refused := operationBody(r.Request)
	if refused != nil {
		return *refused
	}
	ask, limit, err := body.request(kind)
	if err != nil {
		return failure(http.StatusBadRequest, err.Error(), "")
	}
	ask.Actor = r.user
	if kind == ha.OpMaintenance {
		ask.Node = lease.NodeID(mux.Vars(r.Request)["id"])
	}
	op, err := s.node.Operate(r.Context(), ask)
	what := "take the " + string(kind)
	if err != nil {
		return s.operationRefusal(r, what, err)
	}
	if ask.DryRun {
		return asJSON(http.StatusOK, wireOperation(op))
	}
	where := operationsPath + op.ID
	if !body.waits() {
		return asJSON(http.StatusAccepted, wireOperation(op)).with("Location", where)
	}
	ctx, cancel := context.WithTimeout(r.Context(), limit)
	defer cancel()
	last, err := s.node.Await(ctx, op.ID)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return failure(http.StatusGatewayTimeout, fmt.Sprintf("the %s still goes on", kind), "GET "+where+" shows what comes of it").with("Location", where)
	case err != nil:
		return s.operationRefusal(r, what, err).with("Location", where)
	}
	return ended(last).with("Location", where)
}

// ended answers for an operation that waits for nothing more.
func ended(op ha.Operation) response {
	why := strings.Join(op.Reasons, "; ")
	switch op.State {
	case ha.OpFailed:
		return failure(http.StatusPreconditionFailed, fmt.Sprintf("the %s failed: %s", op.Kind, why), strings.Join(op.Reasons, "\n"))
	case ha.OpRolledBack, ha.OpCancelled:
		return failure(http.StatusConflict, fmt.Sprintf("the %s was %s: %s", op.Kind, strings.ReplaceAll(string(op.State), "-", " "), why), strings.Join(op.Reasons, "\n"))
	case ha.OpDone, ha.OpRunning, ha.OpAccepted, ha.OpScheduled, ha.OpDryRun:
	}
	return asJSON(http.StatusOK, wireOperation(op))
}

func getSwitchover(s *server, r *request) response {
	ctx, cancel := context.WithTimeout(r.Context(), askLimit)
	defer cancel()
	op, err := s.node.Planned(ctx)
	if err != nil {
		return s.operationRefusal(r, "look for a planned switchover", err)
	}
	return asJSON(http.StatusOK, wireOperation(op))
}

func deleteSwitchover(s *server, r *request) response {
	ctx, cancel := context.WithTimeout(r.Context(), askLimit)
	defer cancel()
	if _, err := s.node.CancelPlanned(ctx, r.user); err != nil {
		return s.operationRefusal(r, "cancel the switchover", err)
	}
	return noContent()
}

func getOperation(s *server, r *request) response {
	ctx, cancel := context.WithTimeout(r.Context(), askLimit)
	defer cancel()
	op, err := s.node.Operation(ctx, mux.Vars(r.Request)["id"])
	if err != nil {
		return s.operationRefusal(r, "look for the operation", err)
	}
	return asJSON(http.StatusOK, wireOperation(op))
}

func deleteMaintenance(s *server, r *request) response {
	ctx, cancel := context.WithTimeout(r.Context(), askLimit)
	defer cancel()
	if err := s.node.EndMaintenance(ctx, lease.NodeID(mux.Vars(r.Request)["id"]), r.user); err != nil {
		return s.operationRefusal(r, "end the maintenance", err)
	}
	return noContent()
}

// operationRefusal turns an error about operations into an answer.
func (s *server) operationRefusal(r *request, what string, err error) response {
	var (
		usage *ha.UsageError
		busy  *ha.BusyError
		store *ha.StoreError
	)
	switch {
	case errors.As(err, &usage):
		return failure(http.StatusBadRequest, usage.Reason, "")
	case errors.As(err, &busy):
		return failure(http.StatusConflict, busy.Error(), "GET "+operationsPath+busy.Other.ID+" shows what comes of it").with("Location", operationsPath+busy.Other.ID)
	case errors.Is(err, ha.ErrNoOperation):
		return failure(http.StatusNotFound, err.Error(), "")
	case errors.As(err, &store) && r.Context().Err() == nil:
		return failure(http.StatusServiceUnavailable, "can not "+what+": "+store.Error(), "").with("Retry-After", "1")
	}
	return s.refusal(r, what, err)
}

// operationFields is what was sent along.
type operationFields struct {
	v1.OperationRequest
	at string
}

// waits reports whether the answer is to come when the operation has ended.
func (f *operationFields) waits() bool {
	if f.Wait != nil {
		return *f.Wait
	}
	return f.at == ""
}

// request is what the node is asked for, and how long the client waits.
func (f *operationFields) request(kind ha.OperationKind) (r ha.OperationRequest, limit time.Duration, err error) {
	r = ha.OperationRequest{Kind: kind, To: lease.NodeID(f.To), Reason: f.Reason, Force: f.Force, DryRun: f.DryRun}
	limit = awaitLimit
	if kind == ha.OpStepDown {
		r.HoldOff = stepDownHold
	}
	for _, d := range []struct {
		name, text string
		into       *time.Duration
	}{{"holdOff", f.HoldOff, &r.HoldOff}, {"ttl", f.TTL, &r.TTL}, {"timeout", f.Timeout, &limit}} {
		if d.text == "" {
			continue
		}
		if *d.into, err = time.ParseDuration(d.text); err != nil {
			return r, 0, fmt.Errorf("%s must be a duration such as 30s or 10m, not %q", d.name, d.text)
		}
	}
	if limit <= 0 || limit > slowLimit {
		return r, 0, fmt.Errorf("timeout must be more than 0 and at most %v", slowLimit)
	}
	if f.at != "" {
		if r.At, err = time.Parse(time.RFC3339, f.at); err != nil {
			return r, 0, fmt.Errorf("at must be a time such as 2030-01-02T15:04:05Z, not %q", f.at)
		}
	}
	return r, limit, nil
}

// operationBody reads the body, a JSON object or a form: a field that is
// unknown, or there twice, is refused rather than overlooked.
func operationBody(r *http.Request) (*operationFields, *response) {
	f := &operationFields{}
	fields := map[string]any{
		"to": &f.To, "at": &f.at, "reason": &f.Reason, "dryRun": &f.DryRun, "wait": &f.Wait, "timeout": &f.Timeout,
		"holdOff": &f.HoldOff, "ttl": &f.TTL, "force": &f.Force,
	}
	var err error
	switch ctype := r.Header.Get("Content-Type"); {
	case r.ContentLength == 0 || r.Body == nil || r.Body == http.NoBody:
	case isForm(ctype):
		err = formFields(r, fields)
	case isMedia(ctype, typeJSON):
		err = jsonFields(r.Body, fields)
	default:
		resp := failure(http.StatusUnsupportedMediaType, "this takes application/json or application/x-www-form-urlencoded, not "+ctype, "")
		return nil, &resp
	}
	var tooLong *http.MaxBytesError
	switch {
	case errors.As(err, &tooLong):
		resp := badForm(err)
		return nil, &resp
	case err != nil:
		resp := failure(http.StatusBadRequest, err.Error(), "")
		return nil, &resp
	}
	return f, nil
}

func formFields(r *http.Request, fields map[string]any) error {
	if err := r.ParseForm(); err != nil {
		return err
	}
	for name, values := range r.PostForm {
		into, ok := fields[name]
		switch {
		case !ok:
			return fmt.Errorf("unknown field %q", name)
		case len(values) != 1:
			return fmt.Errorf("field %q is there twice", name)
		}
		if text, ok := into.(*string); ok {
			*text = values[0]
		} else if err := json.Unmarshal([]byte(strings.ToLower(values[0])), into); err != nil {
			return fmt.Errorf("field %q must be true or false, not %q", name, values[0])
		}
	}
	return nil
}

func jsonFields(body io.Reader, fields map[string]any) error {
	dec := json.NewDecoder(body)
	if t, err := dec.Token(); err != nil {
		return fmt.Errorf("the body is no JSON: %w", err)
	} else if t != json.Delim('{') {
		return errors.New("the body is no JSON object")
	}
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return fmt.Errorf("the body is no JSON: %w", err)
		}
		name, _ := t.(string)
		into, ok := fields[name]
		if !ok {
			return fmt.Errorf("unknown field %q, or it is there twice", name)
		}
		delete(fields, name)
		if err := dec.Decode(into); err != nil {
			return fmt.Errorf("field %q: %w", name, err)
		}
	}
	if _, err := dec.Token(); err != nil {
		return fmt.Errorf("the body is no JSON: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is something after the JSON object")
	}
	return nil
}

// wireOperation is the operation as clients see it.
func wireOperation(op ha.Operation) v1.Operation {
	w := v1.Operation{
		ID: op.ID, Kind: string(op.Kind), State: string(op.State), To: orNull(string(op.To)), Node: orNull(string(op.Node)),
		At: op.At, Until: op.Until, HoldOffMs: op.HoldOff.Milliseconds(), Force: op.Force, Reason: orNull(op.Reason), Actor: orNull(op.Actor),
		Accepted: op.Accepted, AcceptedBy: orNull(string(op.By)), From: orNull(string(op.From)), FromTerm: uint64(op.OldTerm),
		Master: orNull(string(op.Master)), Term: uint64(op.NewTerm), Reasons: append([]string{}, op.Reasons...),
		PhasesMs: v1.OperationPhases(op.Phases), Ended: op.Ended,
	}
	return w
}
