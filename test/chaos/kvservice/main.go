// Command kvservice is the managed service of the chaos runs: named registers
// over HTTP, kept in files on the shared store (see registers.go), by a process
// that also keeps the record of package intervals.
//
//	GET  /r/KEY    the register: {"term":N,"version":N,"value":"..."}
//	POST /r/KEY    the body becomes its value; answers as GET does, once it is on the store
//	GET  /ready    204
//
// Every answer names the term it was given in (X-HA-Term). 200 is a promise. 503
// says that nothing was done and nothing will be; anything else says nothing.
//
// Environment: HA_NODE, HA_TERM, and REC_DIR, a local directory for the record.
// Exit codes: 0 stopped as asked, 1 the store can not be used or is another
// service's, 2 bad usage, 3 the record could not be written.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/understudy-ha/understudy/test/e2e/intervals"
)

const (
	beatEvery = 5 * time.Millisecond
	// drainWithin is how long requests that are under way may take to end when
	// the service is asked to stop.
	drainWithin = 300 * time.Millisecond
	// retryEvery is how often a store that fails is asked again at the start.
	retryEvery = 50 * time.Millisecond
	maxValue   = 4096

	exitStore  = 1
	exitUsage  = 2
	exitRecord = 3
)

func main() {
	born := intervals.Now()
	listen := flag.String("listen", "", "address to listen on")
	dir := flag.String("dir", "", "directory of the registers; must exist")
	unfenced := flag.Bool("unfenced", false, "go on writing whoever else does: to try the judges of a run on")
	flag.Parse()
	code, err := run(born, *listen, *dir, *unfenced)
	if err != nil {
		fmt.Fprintln(os.Stderr, "kvservice:", err)
	}
	os.Exit(code)
}

func run(born intervals.Instant, listen, dir string, unfenced bool) (code int, err error) {
	// Before anything else, so that an early SIGTERM is not the default one.
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)

	term, err := strconv.ParseUint(os.Getenv("HA_TERM"), 10, 64)
	node, records := os.Getenv("HA_NODE"), os.Getenv("REC_DIR")
	if err != nil || node == "" || records == "" || listen == "" || dir == "" {
		return exitUsage, errors.Join(errors.New("-listen, -dir, HA_NODE, HA_TERM and REC_DIR must be given"), err)
	}
	rec, err := intervals.Create(records, node, strconv.FormatUint(term, 10), "", born)
	if err != nil {
		return exitRecord, err
	}
	// Nothing but this loop may end the process: a record without a stop line
	// is that of a service that was killed.
	ended := make(chan outcome, 2)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { ended <- serve(ctx, listen, dir, term, unfenced) }()
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			err = rec.Beat()
		case s := <-signals:
			err = rec.Signal(s.String())
			cancel()
			time.AfterFunc(2*drainWithin, func() { ended <- outcome{why: "store hangs"} }) // it may be stuck in the store
		case o := <-ended:
			return o.code, errors.Join(o.err, rec.Stop(o.why))
		}
		if err != nil {
			return exitRecord, err
		}
	}
}

// outcome is how serving ended.
type outcome struct {
	code int
	why  string
	err  error
}

func serve(ctx context.Context, listen, dir string, term uint64, unfenced bool) outcome {
	r, err := openPatiently(ctx, dir, term)
	if err != nil {
		if ctx.Err() != nil {
			return outcome{why: "asked"}
		}
		return outcome{code: exitStore, why: "superseded", err: err}
	}
	r.unfenced = unfenced
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", listen)
	if err != nil {
		return outcome{code: exitStore, why: "listen", err: err}
	}
	superseded := make(chan error, 1)
	srv := &http.Server{Handler: handler(r, superseded), ReadHeaderTimeout: 5 * time.Second}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	var o outcome
	select {
	case <-ctx.Done():
		o = outcome{why: "asked"}
	case err := <-superseded:
		o = outcome{code: exitStore, why: "superseded", err: err}
	case err := <-served:
		return outcome{code: exitStore, why: "serve", err: err}
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainWithin)
	defer cancel()
	if srv.Shutdown(drain) != nil {
		_ = srv.Close() // requests are stuck in the store
	}
	return o
}

// openPatiently tries until the store lets it, or another service has it.
func openPatiently(ctx context.Context, dir string, term uint64) (*registers, error) {
	for {
		r, err := openRegisters(dir, term)
		if err == nil || errors.Is(err, errSuperseded) {
			return r, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(retryEvery):
		}
	}
}

func handler(r *registers, superseded chan<- error) http.Handler {
	mux := http.NewServeMux()
	reply := func(w http.ResponseWriter, e entry, err error) {
		w.Header().Set("X-Ha-Term", strconv.FormatUint(r.term, 10))
		switch {
		case err == nil:
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(e) // the client is gone
		case errors.Is(err, errNotWritten):
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		default:
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
		if errors.Is(err, errSuperseded) {
			select {
			case superseded <- err:
			default: // it is known
			}
		}
	}
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	mux.HandleFunc("GET /r/{key}", func(w http.ResponseWriter, req *http.Request) {
		e, err := r.get(req.PathValue("key"))
		reply(w, e, err)
	})
	mux.HandleFunc("POST /r/{key}", func(w http.ResponseWriter, req *http.Request) {
		b, err := io.ReadAll(io.LimitReader(req.Body, maxValue))
		if err != nil {
			reply(w, entry{}, fmt.Errorf("%w: %w", errNotWritten, err))
			return
		}
		e, err := r.set(req.PathValue("key"), string(b))
		reply(w, e, err)
	})
	return mux
}
