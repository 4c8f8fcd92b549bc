package server

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"go.uber.org/zap"

	"github.com/understudy-ha/understudy/api/v1"
	"github.com/understudy-ha/understudy/pkg/ha"
)

// Service is the managed service as operators see it. Methods may be called
// from any goroutine.
type Service interface {
	// Control does what is asked for and returns when it is done. Errors:
	// *ha.PreconditionError when that is not possible now; ha.ErrClosed; ctx's.
	Control(ctx context.Context, a ha.ServiceAction) error
	// Output writes the last lines of the service's output, and with follow
	// whatever comes after them, until ctx ends.
	Output(ctx context.Context, w io.Writer, lines int, follow bool) error
}

const (
	logLines    = 100    // what is shown of the log if nobody says how much
	maxLogLines = 10_000 // most that is read back
)

func getService(_ *server, r *request) response {
	return asJSON(http.StatusOK, wireService(r.Service))
}

func wireService(i ha.ServiceInfo) v1.Service {
	s := v1.Service{
		Phase: i.Phase, Pid: i.Pid, GuardPid: i.GuardPid, Since: i.Since, Restarts: i.Restarts, Failures: i.Failures,
		Detail: orNull(i.Detail), Standby: orNull(i.Standby), Checks: make([]v1.ServiceCheck, 0, len(i.Checks)),
	}
	if e := i.LastExit; e != nil {
		s.LastExit = &v1.ServiceExit{Code: e.Code, Reason: e.Why, At: e.At}
	}
	for _, c := range i.Checks {
		k := v1.ServiceCheck{Name: c.Name, Kind: c.Kind, Fails: c.Fails, Fall: c.Fall, Error: orNull(c.Error)}
		if !c.At.IsZero() {
			k.At = &c.At
		}
		s.Checks = append(s.Checks, k)
	}
	return s
}

func startService(s *server, r *request) response   { return s.control(r, ha.ServiceStart) }
func stopService(s *server, r *request) response    { return s.control(r, ha.ServiceStop) }
func restartService(s *server, r *request) response { return s.control(r, ha.ServiceRestart) }

func resetFailures(s *server, r *request) response {
	resp := s.control(r, ha.ServiceResetFailures)
	if resp.status == http.StatusOK {
		s.forgive(r)
	}
	return resp
}

// control has one action done and answers with what came of it.
func (s *server) control(r *request, a ha.ServiceAction) response {
	if s.opt.Service == nil {
		return noService()
	}
	if err := s.opt.Service.Control(r.Context(), a); err != nil {
		return s.refusal(r, string(a)+" the service", err).with(v1.HeaderMaster, r.masterURI())
	}
	s.settle(r.Context(), a)
	return asJSON(http.StatusOK, wireService(s.node.Status().Service))
}

// forgive makes a node electable again that gave up because of its service, by
// asking for the mode it has: whoever resets the failures has seen to it.
func (s *server) forgive(r *request) {
	if r.Reign != nil || r.Electable || r.Why == "" {
		return
	}
	if _, err := s.node.SetMode(r.Context(), r.Mode, false); err != nil {
		s.opt.Logger.Info("this node stays as it is", zap.Error(err))
	}
}

// settle waits until health paths say what was just done: the node's picture
// follows within moments.
func (s *server) settle(ctx context.Context, a ha.ServiceAction) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		p := look(s.node)
		switch phase := p.Service.Phase; {
		case a == ha.ServiceStop && phase == "stopped" && !p.serving():
			return
		case (a == ha.ServiceStart || a == ha.ServiceRestart) && phase == "ready" && p.serving():
			return
		case a == ha.ServiceResetFailures && p.Service.Failures == 0:
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func getServiceLogs(s *server, r *request) response {
	if s.opt.Service == nil {
		return noService()
	}
	lines, err := uintParam(r, "lines", logLines, maxLogLines)
	if err != nil {
		return failure(http.StatusBadRequest, "lines must be a number from 0 to 10000", err.Error())
	}
	if err := r.ParseForm(); err != nil {
		return badForm(err)
	}
	follow, refused := boolParam(r, "follow")
	if refused != nil {
		return *refused
	}
	return response{status: http.StatusOK, contentType: typeText, stream: func(ctx context.Context, w io.Writer) error {
		return s.opt.Service.Output(ctx, w, int(lines), follow)
	}}
}

func noService() response {
	return failure(http.StatusPreconditionFailed, "this node manages no service process: service.none is set", "")
}

// streamer writes a stream to a client, each piece at once, and gives a client
// that does not read its time and no more.
type streamer struct {
	http.ResponseWriter
	control *http.ResponseController
	begun   bool
}

// slowClient is how long a client may take to read one piece of a stream.
const slowClient = 30 * time.Second

func (w *streamer) Write(p []byte) (int, error) {
	w.begun = true
	_ = w.control.SetWriteDeadline(time.Now().Add(slowClient)) // not every ResponseWriter has deadlines
	n, err := w.ResponseWriter.Write(p)
	if err == nil {
		err = w.control.Flush()
		if errors.Is(err, http.ErrNotSupported) {
			err = nil
		}
	}
	return n, err
}

type streamsKey struct{}

// sendStream sends a body that may go on for as long as the client likes and
// the server lives.
func (s *server) sendStream(w http.ResponseWriter, r *http.Request, resp response) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	if resp.done != nil {
		defer resp.done()
	}
	if streams, ok := ctx.Value(streamsKey{}).(context.Context); ok {
		defer context.AfterFunc(streams, cancel)() //nolint:contextcheck // it ends with the server, ctx with the client
	}
	resp.write(w)
	if r.Method == http.MethodHead {
		return
	}
	out := &streamer{ResponseWriter: w, control: http.NewResponseController(w)}
	_ = out.control.SetReadDeadline(time.Time{}) // its end would end the stream
	_ = out.control.Flush()                      // the client sees that it was let in
	if err := resp.stream(ctx, out); err != nil && ctx.Err() == nil {
		s.opt.Logger.Debug("a stream ended", zap.Error(err))
		if !out.begun {
			_, _ = io.WriteString(out, err.Error()+"\n")
		}
	}
}
