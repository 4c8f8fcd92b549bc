package harness

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"go.yaml.in/yaml/v3"
	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/api/v1"
	"github.com/understudy-ha/understudy/test/contract"
	"github.com/understudy-ha/understudy/test/e2e/intervals"
	"github.com/understudy-ha/understudy/test/faultfs"
	"github.com/understudy-ha/understudy/test/port"
)

// Node is one node of a plane. It outlives its daemons: Start after an end is
// a restart with the same data directory.
type Node struct {
	Name    string // of the test's own: n1, n2, ...
	DataDir string
	// Store is where this node sees the plane's store: the directory itself,
	// the node's own faulty mount of it, or a URL of Options.Storage.
	Store string
	// Fault injects faults into this node's view of the store; nil unless
	// Options.FaultFS.
	Fault *faultfs.FS
	// Program is the binary of later starts and commands; empty: the one under
	// test.
	Program string
	// Env is added to the environment of later starts; the service inherits it.
	Env []string
	// Via is a command line that later starts run the daemon through, by
	// appending the daemon's own; it must pass signals' effects and exit codes
	// on, and die with its parent ("unshare --time --fork --kill-child=KILL").
	// Its process counts as Service.
	Via []string

	// Dial is how the node's REST is reached; nil: from here. For nodes in a
	// network namespace.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	plane    *Plane
	settings map[string]any
	port     int
	mark     string
	http     *http.Client

	mu   sync.Mutex
	proc *daemonProcess // the latest; nil before the first start
}

// daemonProcess is one run of a daemon.
type daemonProcess struct {
	cmd   *exec.Cmd
	since intervals.Instant
	done  chan struct{} // closed when it was reaped
	code  int           // -1: by a signal; valid once done
}

func newNode(p *Plane, name string, settings map[string]any) *Node {
	n := &Node{
		Name: name, DataDir: filepath.Join(p.Dir, name), Store: p.Store,
		plane: p, settings: settings, port: port.Node.Free(p.t), mark: p.mark + "-" + name,
	}
	n.http = n.Client(&tls.Config{InsecureSkipVerify: true}) //nolint:gosec // self-signed, on loopback
	return n
}

// Client speaks to the node's REST, one connection a request, and fails the
// test for each answer that is not what api/openapi.yaml says.
func (n *Node) Client(conf *tls.Config) *http.Client {
	base := &http.Transport{
		TLSClientConfig:   conf,
		DisableKeepAlives: true, // a frozen daemon must not own our connections
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			if n.Dial != nil {
				return n.Dial(ctx, network, address)
			}
			return new(net.Dialer).DialContext(ctx, network, address)
		},
	}
	return &http.Client{
		Timeout:       answerLimit,
		Transport:     contract.Transport(base, func(err error) { n.plane.t.Errorf("%s: %v", n.Name, err) }),
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Set changes a setting ("ha.failFast") for later starts.
func (n *Node) Set(key string, value any) { n.settings[key] = value }

// ConfigFile is the path of the node's configuration.
func (n *Node) ConfigFile() string { return filepath.Join(n.plane.Dir, n.Name+".yaml") }

// WriteConfig writes the configuration, as Start does.
func (n *Node) WriteConfig() error {
	all := map[string]any{
		"persistenceDir":     n.Store,
		"dataDir":            n.DataDir,
		"server.listen":      fmt.Sprintf("127.0.0.1:%d", n.port),
		"store.allowLocal":   true,
		"service.command":    []string{Recorder()},
		"service.drainDelay": "0s",
		"log.level":          "debug",
	}
	env := map[string]string{"REC_DIR": n.plane.Records}
	maps.Copy(env, n.plane.opt.ServiceEnv)
	all["service.env"] = env
	maps.Copy(all, n.plane.opt.Settings)
	maps.Copy(all, n.settings)
	b, err := yaml.Marshal(nest(all))
	if err != nil {
		return err
	}
	return os.WriteFile(n.ConfigFile(), b, 0o644) //nolint:gosec // the node may be another user
}

// nest makes a tree of dotted keys. A nil value leaves its key out.
func nest(flat map[string]any) map[string]any {
	tree := map[string]any{}
	for _, key := range slices.Sorted(maps.Keys(flat)) {
		if flat[key] == nil {
			continue
		}
		at, path := tree, strings.Split(key, ".")
		for _, k := range path[:len(path)-1] {
			if _, ok := at[k].(map[string]any); !ok {
				at[k] = map[string]any{}
			}
			at = at[k].(map[string]any)
		}
		at[path[len(path)-1]] = flat[key]
	}
	return tree
}

// Command prepares a call of the binary under test as this node's user, marked
// as belonging to this node.
func (n *Node) Command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, cmp.Or(n.Program, Understudy()), args...)
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + n.plane.Dir, markVariable + "=" + n.mark,
		"RUNTIME_DIRECTORY=" + n.runtimeDir(),
	}
	if n.plane.opt.Storage != nil {
		cmd.Env = append(cmd.Env, n.plane.opt.Storage.Env...)
	}
	cmd.Env = append(cmd.Env, n.Env...)
	cmd.Dir = "/"
	cmd.SysProcAttr = attributes(n.plane.opt.UID)
	return cmd
}

// Start starts the node's daemon, which must not be running. args are added
// to the command line.
func (n *Node) Start(args ...string) {
	t := n.plane.t
	t.Helper()
	if n.Running() {
		t.Fatalf("%s runs already", n.Name)
	}
	if err := n.start(args); err != nil {
		t.Fatalf("start %s: %v", n.Name, err)
	}
}

func (n *Node) start(args []string) error {
	if err := n.WriteConfig(); err != nil {
		return err
	}
	log, err := os.OpenFile(n.logPath(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	// Not the test's context: the daemon's end is the test's own business, and
	// the cleanup's.
	cmd := n.Command(context.Background(), append([]string{"server", "--config", n.ConfigFile()}, args...)...)
	cmd.Stdout, cmd.Stderr = log, log
	if len(n.Via) > 0 {
		if cmd.Path, err = exec.LookPath(n.Via[0]); err != nil {
			return err
		}
		cmd.Args = slices.Concat(n.Via, cmd.Args)
	}
	d := &daemonProcess{cmd: cmd, since: intervals.Now(), done: make(chan struct{})}
	if err := onStarter(cmd.Start); err != nil {
		return err
	}
	n.mu.Lock()
	n.proc = d
	n.mu.Unlock()
	go func() {
		defer close(d.done)
		_ = cmd.Wait() // the state has it all
		d.code = cmd.ProcessState.ExitCode()
	}()
	return nil
}

func (n *Node) latest() *daemonProcess {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.proc
}

// Running reports whether the daemon was started and has not ended.
func (n *Node) Running() bool {
	d := n.latest()
	if d == nil {
		return false
	}
	select {
	case <-d.done:
		return false
	default:
		return true
	}
}

// Pid is the pid of the latest daemon.
func (n *Node) Pid() int { return n.latest().cmd.Process.Pid }

// WaitExit waits for the daemon's end and returns its exit code, -1 for a
// signal.
func (n *Node) WaitExit(within time.Duration) int {
	n.plane.t.Helper()
	d := n.latest()
	select {
	case <-d.done:
	case <-time.After(within):
		_ = d.cmd.Process.Signal(unix.SIGQUIT) // its log shows then what it is at
		select {
		case <-d.done:
		case <-time.After(answerLimit):
		}
		n.plane.t.Fatalf("%s did not end within %v", n.Name, within)
	}
	return d.code
}

// Processes lists what lives of the node.
func (n *Node) Processes() []Process { return marked(n.mark) }

// Count says how many processes of a role live.
func (n *Node) Count(r Role) int { return len(only(n.Processes(), []Role{r})) }

// Find returns the node's only process of a role. Between its fork and its exec
// a child is what its parent is, so a second one has a moment to become another.
func (n *Node) Find(r Role) Process {
	n.plane.t.Helper()
	var ps []Process
	if !Poll(answerLimit, func() bool { ps = only(n.Processes(), []Role{r}); return len(ps) == 1 }) {
		n.plane.t.Fatalf("%s has %d processes in the role of %s, want 1", n.Name, len(ps), r)
	}
	return ps[0]
}

// KillTree kills daemon, guard, shim and service with SIGKILL, as a power cut
// would. The instant is from before the first signal.
func (n *Node) KillTree() intervals.Instant {
	n.plane.t.Helper()
	return n.Kill(Everything...)
}

// Kill kills the processes of the given roles, which must be there, with
// SIGKILL, all at once. The instant is from before the first signal.
func (n *Node) Kill(roles ...Role) intervals.Instant {
	n.plane.t.Helper()
	ps := only(n.Processes(), roles)
	if len(ps) == 0 {
		n.plane.t.Fatalf("%s has no process in the roles of %v", n.Name, roles)
	}
	return killAtOnce(ps)
}

// Signal sends a signal to the node's daemon. The instant is from before it.
func (n *Node) Signal(sig unix.Signal) intervals.Instant {
	n.plane.t.Helper()
	p := n.Find(Daemon)
	at := intervals.Now()
	p.Signal(sig)
	return at
}

// Stop asks the daemon to end in order and waits for it; it must exit with 0.
// The instant is from before the signal.
func (n *Node) Stop(within time.Duration) intervals.Instant {
	n.plane.t.Helper()
	at := n.Signal(unix.SIGTERM)
	if code := n.WaitExit(within); code != 0 {
		n.plane.t.Errorf("%s ended with %d after SIGTERM, want 0", n.Name, code)
	}
	return at
}

// WaitGone waits until nothing of the node lives.
func (n *Node) WaitGone(within time.Duration) {
	n.plane.t.Helper()
	if !Poll(within, func() bool { return len(n.Processes()) == 0 }) {
		n.plane.t.Fatalf("of %s there is still alive after %v: %v", n.Name, within, n.Processes())
	}
}

// URL is the address of a path on this node.
func (n *Node) URL(path string) string { return fmt.Sprintf("https://127.0.0.1:%d%s", n.port, path) }

// Credentials are the user and password the node generated.
func (n *Node) Credentials() (user, password string, err error) {
	b, err := os.ReadFile(filepath.Join(n.DataDir, "credentials"))
	if err != nil {
		return "", "", err
	}
	user, password, ok := strings.Cut(strings.TrimSpace(string(b)), ":")
	if !ok {
		return "", "", errors.New("credentials: no colon")
	}
	return user, password, nil
}

// Reply is an answer of a node.
type Reply struct {
	Code   int
	Header http.Header
	Body   string
}

// answerLimit is how long an answer may take that nobody measures.
const answerLimit = 10 * time.Second

// Get asks the node with its credentials. It may take a busy machine its time.
func (n *Node) Get(path string) (Reply, error) {
	user, password, err := n.Credentials()
	if err != nil {
		return Reply{}, err
	}
	return n.get(answerLimit, path, func(r *http.Request) { r.SetBasicAuth(user, password) })
}

// Probe asks a health path, without a password. It may take a busy machine its
// time.
func (n *Node) Probe(path string) (Reply, error) {
	return n.get(answerLimit, path, func(*http.Request) {})
}

// probeSoon is Probe for who asks again and again, perhaps a frozen node.
func (n *Node) probeSoon(path string) (Reply, error) {
	return n.get(time.Second, path, func(*http.Request) {})
}

func (n *Node) get(within time.Duration, path string, prepare func(*http.Request)) (Reply, error) {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, n.URL(path), http.NoBody)
	if err != nil {
		return Reply{}, err
	}
	prepare(req)
	res, err := n.http.Do(req)
	if err != nil {
		return Reply{}, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return Reply{res.StatusCode, res.Header, string(b)}, err
}

// State is what the node says it is; empty when it does not answer.
func (n *Node) State() v1.State {
	r, err := n.probeSoon("/livez")
	if err != nil {
		return ""
	}
	return v1.State(r.Header.Get(v1.HeaderState))
}

// ID is the node's id, as services record it; empty before the first start.
func (n *Node) ID() string {
	var id struct {
		Node string `json:"nodeId"`
	}
	_ = json.Unmarshal([]byte(text(filepath.Join(n.DataDir, "node.json"))), &id) // not there yet
	return id.Node
}

// LeaseFile is where the node's service finds until when it may serve
// (HA_LEASE_FILE).
func (n *Node) LeaseFile() string { return filepath.Join(n.runtimeDir(), n.ID(), "lease") }

// runtimeDir takes the place of what would be below /run.
func (n *Node) runtimeDir() string { return filepath.Join(n.plane.Dir, "runtime") }

// IsMaster reports whether the node answers 200 on /master.
func (n *Node) IsMaster() bool {
	r, err := n.probeSoon("/master")
	return err == nil && r.Code == http.StatusOK
}

// States is the plane as the node sees it.
func (n *Node) States() (v1.PlaneStates, error) {
	var s v1.PlaneStates
	r, err := n.Get("/v1/server/ha/states")
	if err != nil {
		return s, err
	}
	if r.Code != http.StatusOK {
		return s, fmt.Errorf("%d: %s", r.Code, r.Body)
	}
	return s, json.Unmarshal([]byte(r.Body), &s)
}

// WaitState waits until the node says it is one of the states.
func (n *Node) WaitState(within time.Duration, want ...v1.State) v1.State {
	n.plane.t.Helper()
	var got v1.State
	if !Poll(within, func() bool { got = n.State(); return slices.Contains(want, got) }) {
		n.plane.t.Fatalf("%s is %q after %v, want %v", n.Name, got, within, want)
	}
	return got
}

// WaitStandby waits until the node is a warm or hot standby.
func (n *Node) WaitStandby(within time.Duration) {
	n.plane.t.Helper()
	n.WaitState(within, v1.StateStandby, v1.StateHotStandby)
}

func (n *Node) logPath() string { return filepath.Join(n.plane.Dir, n.Name+".log") }

// Log is what the node's daemons have written.
func (n *Node) Log() string { return text(n.logPath()) }

// GuardLog is what the node's guards have written.
func (n *Node) GuardLog() string { return text(filepath.Join(n.DataDir, "guard.log")) }

func text(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return string(b)
}

// Poll tries until ok, every 10 ms, and reports whether that came in time.
func Poll(within time.Duration, ok func() bool) bool {
	end := intervals.Now().Add(within)
	for {
		if ok() {
			return true
		}
		if intervals.Now() > end {
			return false
		}
		time.Sleep(10 * time.Millisecond)
	}
}
