package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/understudy-ha/understudy/api/client"
	"github.com/understudy-ha/understudy/pkg/config"
)

const (
	demoNodes     = 3
	demoUser      = "demo"
	demoPassword  = "demo"
	demoRevival   = 12 * time.Second // a killed node stays down this long, so that its absence shows
	demoRefresh   = 250 * time.Millisecond
	demoEvents    = 8 // lines of history on the screen
	demoStopLimit = 15 * time.Second
)

// newDemoCommand shows the main job on one machine.
func newDemoCommand() *cobra.Command {
	var length time.Duration
	var dir string
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Three nodes and a sample service on this machine, to watch and to break",
		Long: `Start three nodes on a temporary directory with a small web service that counts,
show the plane live, and say what to kill. A node that was killed is started
again after a while. Ctrl-C ends everything and removes the directory.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, _, err := newLogger(config.Log{Level: "error"}, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			ctx, release := untilSignal(cmd.Context(), log, func() {})
			defer release()
			if length > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, length)
				defer cancel()
			}
			return runDemo(ctx, cmd.OutOrStdout(), dir)
		},
	}
	cmd.Flags().DurationVar(&length, "for", 0, "end by itself after this `duration`")
	cmd.Flags().StringVar(&dir, "dir", "", "`directory` to work in, which must not exist yet (default: a temporary one)")
	return cmd
}

// demoNode is one daemon of the demo.
type demoNode struct {
	name    string
	dir     string
	listen  string
	client  *client.Client
	process *exec.Cmd
	exited  chan struct{}
	diedAt  time.Time

	health client.Health
	up     bool
}

// demo is the whole of it.
type demo struct {
	out    io.Writer
	live   bool // out is a terminal: redraw; otherwise print changes only
	dir    string
	exe    string
	page   string // host:port of the service
	nodes  []*demoNode
	events []string
	last   map[string]string
	began  time.Time
	count  demoAnswer
	countO bool
}

// demoAnswer is what the sample service says.
type demoAnswer struct {
	Node    string `json:"node"`
	Term    uint64 `json:"term"`
	Counter uint64 `json:"counter"`
}

func runDemo(ctx context.Context, out io.Writer, dir string) (err error) {
	d := &demo{out: out, last: map[string]string{}, began: time.Now()}
	if f, ok := out.(*os.File); ok {
		d.live = term.IsTerminal(int(f.Fd())) //nolint:gosec // a file descriptor
	}
	if d.exe, err = os.Executable(); err != nil {
		return err
	}
	if dir == "" {
		if dir, err = os.MkdirTemp("", "understudy-demo-"); err != nil {
			return err
		}
	} else if err := os.Mkdir(dir, 0o700); err != nil {
		return usagef("demo: --dir: %w", err)
	}
	if d.dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.end()) }()
	if err := d.begin(ctx); err != nil {
		return err
	}
	d.introduce()
	tick := time.NewTicker(demoRefresh)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		d.look(ctx)
		if err := d.revive(ctx); err != nil {
			return err
		}
		d.draw()
	}
}

// begin makes the plane and starts the nodes.
func (d *demo) begin(ctx context.Context) error {
	store := filepath.Join(d.dir, "shared")
	if err := os.Mkdir(store, 0o700); err != nil {
		return err
	}
	loc, err := config.ParseLocation(store)
	if err != nil {
		return err
	}
	if _, err := initPlane(ctx, io.Discard, loc, 5*time.Second); err != nil {
		return err
	}
	ports, err := freePorts(demoNodes + 1)
	if err != nil {
		return err
	}
	d.page = "127.0.0.1:" + strconv.Itoa(ports[demoNodes])
	for i := range demoNodes {
		n := &demoNode{name: "node" + strconv.Itoa(i+1), listen: "127.0.0.1:" + strconv.Itoa(ports[i])}
		n.dir = filepath.Join(d.dir, n.name)
		if err := os.Mkdir(n.dir, 0o700); err != nil {
			return err
		}
		c, err := client.New([]string{"https://" + n.listen}, client.Options{Insecure: true, Timeout: time.Second})
		if err != nil {
			return err
		}
		n.client = c
		d.nodes = append(d.nodes, n)
		if err := d.configure(n, store); err != nil {
			return err
		}
		if err := d.start(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) configure(n *demoNode, store string) error {
	command, err := json.Marshal([]string{d.exe, "demo-service", "--listen", d.page})
	if err != nil {
		return err
	}
	text := fmt.Sprintf(`# One node of the demo. See 'understudy config print-default' for all there is.
persistenceDir: %s
dataDir: %s
ha: {heartbeatTimeout: 5s}
server: {listen: %q, auth: {user: %s, password: %s}}
service:
  command: %s
  ready: {tcp: %q}
  drainDelay: 500ms
  env:                       # the service keeps its number in the persisted state
    DEMO_NODE: https://%s
    DEMO_USER: %s
    DEMO_PASSWORD: %s
    DEMO_CACERT: %s
store: {allowLocal: true}   # three nodes of one machine share its disk
`, store, n.dir, n.listen, demoUser, demoPassword, command, d.page, n.listen, demoUser, demoPassword, filepath.Join(n.dir, "tls.crt"))
	return os.WriteFile(filepath.Join(n.dir, "understudy.yaml"), []byte(text), 0o600)
}

// start runs the node's daemon. It gets a process group of its own, so that
// Ctrl-C reaches the demo alone, and a TERM should the demo itself be killed.
func (d *demo) start(ctx context.Context, n *demoNode) error {
	log, err := os.OpenFile(filepath.Join(n.dir, "understudy.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600) //nolint:gosec // our own directory
	if err != nil {
		return err
	}
	defer log.Close()                                                                                                            // the child has its own descriptor
	cmd := exec.CommandContext(context.WithoutCancel(ctx), d.exe, "server", "--config", filepath.Join(n.dir, "understudy.yaml")) //nolint:gosec // this very program
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	exited := make(chan struct{})
	started := make(chan error)
	go func() {
		// The death signal follows the thread that forked, so it stays until
		// the child has ended.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(exited)
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ended shows in its log
		}
	}()
	if err := <-started; err != nil {
		return err
	}
	n.process, n.exited, n.diedAt = cmd, exited, time.Time{}
	return nil
}

// look asks every node and the service, all at once.
func (d *demo) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for _, n := range d.nodes {
		wg.Go(func() {
			h, err := n.client.Health(ctx, "/livez")
			n.health, n.up = h, err == nil
		})
	}
	wg.Go(func() {
		d.countO = false
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+d.page+"/counter", http.NoBody)
		if err != nil {
			return
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return
		}
		defer resp.Body.Close() // read only
		var a demoAnswer
		if json.NewDecoder(io.LimitReader(resp.Body, 1<<16)).Decode(&a) == nil {
			d.count, d.countO = a, true
		}
	})
	wg.Wait()
	for _, n := range d.nodes {
		d.event(n.name, n.state())
	}
	service := "the service does not answer"
	if d.countO {
		service = fmt.Sprintf("the service runs in term %d on %s", d.count.Term, d.nameOf(d.count.Node))
	}
	d.event("", service)
}

func (n *demoNode) state() string {
	switch {
	case !n.diedAt.IsZero():
		return "DOWN"
	case !n.up:
		return "no answer"
	}
	return string(n.health.State)
}

func (d *demo) nameOf(id string) string {
	for _, n := range d.nodes {
		if n.health.Node == id {
			return n.name
		}
	}
	return id
}

// event notes a change.
func (d *demo) event(who, what string) {
	if d.last[who] == what {
		return
	}
	first := d.last[who] == ""
	d.last[who] = what
	if first && who != "" && what == "no answer" {
		return // it is only just starting
	}
	line := fmt.Sprintf("%7.2fs  %s", time.Since(d.began).Seconds(), strings.TrimSpace(who+" "+what))
	d.events = append(d.events, line)
	d.events = d.events[max(0, len(d.events)-demoEvents):]
	if !d.live {
		fmt.Fprintln(d.out, line)
	}
}

// revive starts nodes again that were killed a while ago.
func (d *demo) revive(ctx context.Context) error {
	for _, n := range d.nodes {
		select {
		case <-n.exited:
		default:
			continue
		}
		if n.diedAt.IsZero() {
			n.diedAt = time.Now()
		}
		if time.Since(n.diedAt) >= demoRevival {
			d.event(n.name, "is started again")
			if err := d.start(ctx, n); err != nil {
				return err
			}
		}
	}
	return nil
}

func (d *demo) introduce() {
	if !d.live {
		fmt.Fprint(d.out, d.hints())
	}
}

// hints say what there is to see and to break.
func (d *demo) hints() string {
	var b strings.Builder
	fmt.Fprintf(&b, "The service, wherever it runs:   http://%s/\n", d.page)
	fmt.Fprintf(&b, "Ask a node:   curl -k -u %s:%s https://%s/v1/server/ha/state\n", demoUser, demoPassword, d.nodes[0].listen)
	fmt.Fprintf(&b, "              curl -k -u %s:%s https://%s/v1/server/ha/states\n", demoUser, demoPassword, d.nodes[0].listen)
	fmt.Fprintf(&b, "              curl -ki https://%s/master         (200 on the master, 503 elsewhere)\n", d.nodes[0].listen)
	fmt.Fprintf(&b, "Break it, with M = the master's directory under %s:\n", d.dir)
	fmt.Fprint(&b, "  kill -9 $(cat M/pid.txt)       the daemon dies: its guard stops the service and hands over at once\n")
	fmt.Fprint(&b, "  kill -STOP $(cat M/pid.txt)    it freezes: its guard stops the service, another takes over in 5.5 s\n")
	fmt.Fprint(&b, "                                 (kill -CONT thaws it: it finds its term over and stands by)\n")
	fmt.Fprint(&b, "  kill $(cat M/pid.txt)          it leaves cleanly: another takes over at once\n")
	fmt.Fprintf(&b, "A dead node is started again after %v. Ctrl-C ends everything.\n", demoRevival)
	return b.String()
}

// draw redraws the screen on a terminal.
func (d *demo) draw() {
	if !d.live {
		return
	}
	w := bufio.NewWriter(d.out)
	fmt.Fprint(w, "\x1b[H\x1b[2J")
	fmt.Fprint(w, d.hints())
	fmt.Fprintf(w, "\n%-7s %-9s %-13s %5s  %-9s %8s  %s\n", "NODE", "ID", "STATE", "TERM", "LEASE", "PID", "REST")
	for _, n := range d.nodes {
		left := "-"
		if n.up && n.health.LeaseRemaining > 0 {
			left = n.health.LeaseRemaining.Truncate(10 * time.Millisecond).String()
		}
		id, t := "-", "-"
		if n.health.Node != "" {
			id, t = n.health.Node, strconv.FormatUint(n.health.Term, 10)
		}
		mark, reset := "", ""
		switch n.state() {
		case "MASTER":
			mark, reset = "\x1b[1;32m", "\x1b[0m"
		case "DOWN", "no answer", "FAILED":
			mark, reset = "\x1b[31m", "\x1b[0m"
		}
		fmt.Fprintf(w, "%-7s %-9s %s%-13s%s %5s  %-9s %8d  https://%s/\n", n.name, id, mark, n.state(), reset, t, left, n.process.Process.Pid, n.listen)
	}
	if d.countO {
		fmt.Fprintf(w, "\nThe service counts %d, in term %d on %s\n\n", d.count.Counter, d.count.Term, d.nameOf(d.count.Node))
	} else {
		fmt.Fprint(w, "\nThe service does not answer\n\n")
	}
	for _, e := range slices.Backward(d.events) {
		fmt.Fprintln(w, e)
	}
	_ = w.Flush() // a terminal that went away ends the demo otherwise
}

// end stops every node, standbys first so that none takes over in vain, and
// removes the directory.
func (d *demo) end() error {
	fmt.Fprintln(d.out, "\nStopping the nodes ...")
	slices.SortStableFunc(d.nodes, func(a, b *demoNode) int {
		return strings.Compare(rankOf(a), rankOf(b))
	})
	var errs []error
	for _, n := range d.nodes {
		if n.process == nil {
			continue
		}
		// A frozen daemon takes no signal until it runs again.
		_ = n.process.Process.Signal(syscall.SIGCONT) // it may be gone
		_ = n.process.Process.Signal(syscall.SIGTERM) // it may be gone
		select {
		case <-n.exited:
		case <-time.After(demoStopLimit):
			errs = append(errs, fmt.Errorf("%s did not stop within %v and was killed; see its guard", n.name, demoStopLimit))
			_ = n.process.Process.Kill() // see above
			<-n.exited
		}
		n.client.Close()
	}
	if err := os.RemoveAll(d.dir); err != nil {
		errs = append(errs, err)
	}
	fmt.Fprintln(d.out, "Done; nothing is left.")
	return errors.Join(errs...)
}

func rankOf(n *demoNode) string {
	if n.state() == "MASTER" {
		return "z"
	}
	return "a"
}

// freePorts finds ports nobody listens on right now.
func freePorts(count int) ([]int, error) {
	var ports []int
	var held []net.Listener
	defer func() {
		for _, l := range held {
			l.Close() // only held the port
		}
	}()
	for range count {
		l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // loopback, returns at once
		if err != nil {
			return nil, err
		}
		held = append(held, l)
		if a, ok := l.Addr().(*net.TCPAddr); ok {
			ports = append(ports, a.Port)
		}
	}
	return ports, nil
}
