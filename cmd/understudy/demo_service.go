package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

//go:embed demo_page.html
var demoPage []byte

// newDemoServiceCommand is the service that `understudy demo` keeps alive: a
// web page with a counter that survives every fail-over. It keeps the number in
// the plane's persisted state, which a deposed master can not change. With --dir
// it keeps it in a file on the shared store instead, as an example of a service
// that uses its fencing token.
func newDemoServiceCommand() *cobra.Command {
	var listen, dir string
	cmd := &cobra.Command{
		Use:    "demo-service",
		Short:  "The sample web service of the demo",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if dir != "" {
				return runDemoService(cmd.Context(), cmd.OutOrStdout(), listen, demoFilesIn(dir))
			}
			return runDemoService(cmd.Context(), cmd.OutOrStdout(), listen, openDemoState)
		},
	}
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:8080", "address of the web page")
	cmd.Flags().StringVar(&dir, "dir", "", "directory on the shared store for counter.json; without it the number is in the persisted state of the node at $DEMO_NODE")
	return cmd
}

// runDemoService serves until ctx ends or SIGTERM or SIGINT comes (nil), or
// until another node turns out to have taken over (errSuperseded).
func runDemoService(ctx context.Context, out io.Writer, listen string, open openDemoStore) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, os.Interrupt)
	defer stop()
	term, err := strconv.ParseUint(os.Getenv("HA_TERM"), 10, 64)
	if err != nil {
		return fmt.Errorf("HA_TERM=%q is not a term: demo-service is started by understudy, as its service.command", os.Getenv("HA_TERM"))
	}
	store, err := open(term)
	if err != nil {
		return err
	}
	keeper, err := openDemoCounter(ctx, store, os.Getenv("HA_NODE"), term)
	if err != nil {
		return err
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", listen)
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: keeper.handler(), ReadHeaderTimeout: 5 * time.Second}
	var serveErr, keepErr error // valid once the channel is closed
	served, kept := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(served)
		serveErr = srv.Serve(ln)
	}()
	keepCtx, stopKeeping := context.WithCancel(context.WithoutCancel(ctx))
	defer stopKeeping()
	go func() {
		defer close(kept)
		keepErr = keeper.run(keepCtx)
	}()

	fmt.Fprintf(out, "demo-service: node %s serves term %d on http://%s, counter %d\n", keeper.node, term, ln.Addr(), keeper.view().Counter)
	select {
	case <-ctx.Done():
	case <-served:
	case <-kept:
	}
	// Nothing new may come in, then what came in is saved.
	_ = srv.Close()
	<-served
	stopKeeping()
	<-kept
	if errors.Is(serveErr, http.ErrServerClosed) {
		serveErr = nil
	}
	return errors.Join(serveErr, keepErr)
}

// demoStore is where the demo's number is kept, by the service of one term.
type demoStore interface {
	// load makes what is kept this term's own and returns it. errSuperseded if
	// it is of a higher term already.
	load(ctx context.Context) (uint64, error)
	// save keeps n. nil: the next master will find it, or a higher one.
	// errSuperseded when a higher term has taken over.
	save(n uint64) error
}

// openDemoStore opens a place for the service of a term.
type openDemoStore func(term uint64) (demoStore, error)

// errSuperseded ends a service that finds a higher term than its own.
var errSuperseded = errors.New("another node has taken over; this service must not write any more")

// demoFile is the content of counter.json: what counts, and the fencing
// token of whoever wrote it last.
type demoFile struct {
	Term    uint64 `json:"term"`
	Counter uint64 `json:"counter"`
}

// demoCounter keeps the demo's number.
type demoCounter struct {
	store   demoStore
	node    string
	term    uint64
	started time.Time

	wake chan struct{} // something is to be saved

	mu      sync.Mutex
	changed *sync.Cond // saved or err has changed
	counter uint64
	saved   uint64
	err     error // of the last save; nil once one succeeded
}

// openDemoCounter reads what the last term left and makes it its own.
func openDemoCounter(ctx context.Context, store demoStore, node string, term uint64) (*demoCounter, error) {
	c := &demoCounter{store: store, node: node, term: term, started: time.Now(), wake: make(chan struct{}, 1)}
	c.changed = sync.NewCond(&c.mu)
	var err error
	if c.counter, err = store.load(ctx); err != nil {
		return nil, err
	}
	c.saved = c.counter
	return c, nil
}

// demoFiles keeps the number in a file on the shared store.
type demoFiles struct {
	dir, path string
	term      uint64
}

func demoFilesIn(dir string) openDemoStore {
	return func(term uint64) (demoStore, error) {
		return &demoFiles{dir: dir, path: filepath.Join(dir, "counter.json"), term: term}, nil
	}
}

func (c *demoFiles) load(context.Context) (uint64, error) {
	old, err := c.read()
	if err != nil {
		return 0, err
	}
	// Writing at once puts our term into the file before anybody is served, so
	// that an older service that wakes up later finds it there.
	if err := c.save(old.Counter); err != nil {
		return 0, err
	}
	return old.Counter, c.dropLeftovers()
}

// dropLeftovers removes temporary files of older terms: their owners were
// killed, or are frozen just before a rename, which then fails.
func (c *demoFiles) dropLeftovers() error {
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		s, ok := strings.CutPrefix(e.Name(), demoTmpPrefix)
		term, err := strconv.ParseUint(s, 10, 64)
		if !ok || err != nil || term >= c.term {
			continue
		}
		if err := os.Remove(filepath.Join(c.dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// demoTmpPrefix is followed by the term: no two terms share a temporary name.
const demoTmpPrefix = ".counter.json.term-"

// read refuses a file of a higher term.
func (c *demoFiles) read() (demoFile, error) {
	var f demoFile
	b, err := os.ReadFile(c.path)
	if errors.Is(err, fs.ErrNotExist) {
		return f, nil
	}
	if err != nil {
		return f, err
	}
	if err := json.Unmarshal(b, &f); err != nil {
		return f, fmt.Errorf("%s is not the demo's counter (%w); move it away to begin at 0", c.path, err)
	}
	if f.Term > c.term {
		return f, fmt.Errorf("%s was written in term %d, this is term %d: %w", c.path, f.Term, c.term, errSuperseded)
	}
	return f, nil
}

// save writes the number under this term, unless a higher term is there.
//
// What the check excludes: a service of an older term that is still running,
// or runs again, after its successor began can not go on putting its old
// number back: it sees the higher term, and ends. The file is always whole,
// and since each term has a temporary name of its own, nobody renames the
// half-written file of another.
//
// What it can not exclude: the check and the rename are two steps. A process
// frozen between them (a paused virtual machine, SIGSTOP) for longer than its
// lease may still perform that one rename when it wakes, over its successor's
// file. The successor's next save repairs it; a node that takes over before
// that begins from the old number. No file system has a rename that compares
// first. Whoever can not accept one stale write needs a resource that checks
// the token itself: a database row updated `WHERE term <= $1`, a conditional
// PUT. And a read served from a stale cache proves nothing about newer files.
func (c *demoFiles) save(n uint64) error {
	if _, err := c.read(); err != nil {
		return err
	}
	b, err := json.Marshal(demoFile{Term: c.term, Counter: n})
	if err != nil {
		return err
	}
	tmp := filepath.Join(c.dir, demoTmpPrefix+strconv.FormatUint(c.term, 10))
	if err := writeFileSynced(tmp, append(b, '\n')); err != nil {
		return err
	}
	return os.Rename(tmp, c.path)
}

func writeFileSynced(path string, b []byte) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}

// run adds one each second and saves whatever has been added, until ctx ends
// and the last number is saved. It returns early when superseded; any other
// trouble with the store is shown and tried again, for the store may recover,
// and if it does not, Understudy stops this service in time.
func (c *demoCounter) run(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for ending := false; ; {
		select {
		case <-tick.C:
			c.add()
		case <-c.wake:
		case <-ctx.Done():
			ending = true
		}
		n := c.view().Counter
		err := c.store.save(n)
		c.mu.Lock()
		c.err = err
		if err == nil {
			c.saved = n
		}
		c.changed.Broadcast()
		c.mu.Unlock()
		if ending || errors.Is(err, errSuperseded) {
			return err
		}
	}
}

func (c *demoCounter) add() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counter++
	return c.counter
}

// awaitSaved waits until n is on the store, a save fails, or ctx ends.
func (c *demoCounter) awaitSaved(ctx context.Context, n uint64) error {
	defer context.AfterFunc(ctx, func() {
		c.mu.Lock() // or the waiter could miss this between looking and waiting
		defer c.mu.Unlock()
		c.changed.Broadcast()
	})()
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.saved < n {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		c.changed.Wait()
		if c.saved < n && c.err != nil {
			return c.err
		}
	}
	return nil
}

// demoView is what GET /counter answers.
type demoView struct {
	Node    string  `json:"node"`
	Host    string  `json:"host"`
	Term    uint64  `json:"term"`
	Uptime  float64 `json:"uptimeSeconds"`
	Counter uint64  `json:"counter"`
	Saved   uint64  `json:"saved"` // what the next master will find
	Error   string  `json:"error,omitempty"`
}

func (c *demoCounter) view() demoView {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	v := demoView{
		Node: c.node, Host: host, Term: c.term, Uptime: time.Since(c.started).Seconds(),
		Counter: c.counter, Saved: c.saved,
	}
	if c.err != nil {
		v.Error = c.err.Error()
	}
	return v
}

func (c *demoCounter) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = w.Write(demoPage)
	})
	mux.HandleFunc("GET /counter", func(w http.ResponseWriter, _ *http.Request) { c.reply(w, http.StatusOK) })
	mux.HandleFunc("POST /counter", c.post)
	return mux
}

// post adds one. 200 says that the next master will find the number; 202 that
// this is not known yet.
func (c *demoCounter) post(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
	defer cancel()
	n := c.add()
	select {
	case c.wake <- struct{}{}:
	default: // the keeper will see it anyway
	}
	if err := c.awaitSaved(ctx, n); err != nil {
		c.reply(w, http.StatusAccepted)
		return
	}
	c.reply(w, http.StatusOK)
}

func (c *demoCounter) reply(w http.ResponseWriter, status int) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-HA-Term", strconv.FormatUint(c.term, 10))
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(c.view())
}
