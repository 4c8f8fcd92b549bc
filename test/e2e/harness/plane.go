package harness

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/pkg/guard"
	"github.com/understudy-ha/understudy/pkg/lease"
	"github.com/understudy-ha/understudy/test/e2e/intervals"
	"github.com/understudy-ha/understudy/test/faultfs"
	"github.com/understudy-ha/understudy/test/port"
)

// Options describe a plane. The zero value is three nodes with T = 5s.
type Options struct {
	Nodes    int            // default 3
	Settings map[string]any // configuration by dotted key; of every node
	// ServiceEnv is the recorder's environment, see package recorder.
	ServiceEnv map[string]string
	UID        int  // the nodes' user; 0: ours
	FaultFS    bool // each node gets a mount of its own on the store
	NoInit     bool // leave the store empty: the nodes make the plane (R0)
	// Storage is what the nodes share; nil: a directory of the plane's own.
	Storage *Storage
}

// Storage is a shared store that is no directory.
type Storage struct {
	// Location is the store's URL as a node is given it; of "", as the test is.
	Location func(node string) string
	Env      []string               // of everything that opens the store: credentials
	Register func() ([]byte, error) // reads the register around Understudy's own code
}

// Preset is the setting ha.preset: "fast" is T = 5s, "default" is T = 30s.
func Preset(name string) map[string]any { return map[string]any{"ha.preset": name} }

// Plane is a store and its nodes.
type Plane struct {
	Dir     string // everything of this plane
	Store   string // the shared directory, or what else there is, as this process sees it
	Records string // what the services write about themselves
	Nodes   []*Node
	// KeepOnFailure leaves everything in Dir when the test has failed, for
	// faults that would take long to come by again.
	KeepOnFailure bool

	t      testing.TB
	opt    Options
	mark   string
	rand   *rand.Rand
	faulty []*faultfs.FS
}

// endLimit bounds how long processes may take to die of SIGKILL.
const endLimit = 15 * time.Second

// readLimit bounds how long reading the register may take, for the reason that
// the store's own reading does: longer is damage.
const readLimit = 5 * time.Second

// NewPlane makes store and nodes, and starts none. It ends with the test,
// which fails if the services' records show two of them at once.
func NewPlane(tb testing.TB, o Options) *Plane {
	tb.Helper()
	if o.Nodes == 0 {
		o.Nodes = 3
	}
	settings := Preset("fast")
	maps.Copy(settings, o.Settings)
	o.Settings = settings
	dir, err := os.MkdirTemp(workDir(), "understudy-e2e-") //nolint:usetesting // TempDir would be closed to the nodes' user
	if err != nil {
		tb.Fatal(err)
	}
	p := &Plane{
		Dir: dir, Store: filepath.Join(dir, "store"), Records: filepath.Join(dir, "records"),
		t: tb, opt: o, mark: filepath.Base(dir),
		rand: rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())), //nolint:gosec // pauses
	}
	tb.Cleanup(p.end)
	if err := os.Chmod(dir, 0o755); err != nil {
		tb.Fatal(err)
	}
	if o.Storage != nil {
		p.Store = o.Storage.Location("")
	} else {
		p.mkdir(p.Store)
	}
	p.mkdir(p.Records)
	for range o.Nodes {
		p.AddNode(nil)
	}
	if !o.NoInit {
		p.Init()
	}
	return p
}

// mkdir makes a directory of the nodes' user.
func (p *Plane) mkdir(path string) {
	p.t.Helper()
	err := os.Mkdir(path, 0o755)
	if err == nil && p.opt.UID != 0 {
		err = os.Chown(path, p.opt.UID, p.opt.UID)
	}
	if err != nil {
		p.t.Fatal(err)
	}
}

// AddNode adds a node with settings of its own and does not start it.
func (p *Plane) AddNode(settings map[string]any) *Node {
	p.t.Helper()
	own := map[string]any{}
	maps.Copy(own, settings)
	n := newNode(p, fmt.Sprintf("n%d", len(p.Nodes)+1), own)
	if p.opt.Storage != nil {
		n.Store = p.opt.Storage.Location(n.Name)
	}
	p.mkdir(n.DataDir)
	if p.opt.FaultFS {
		n.Store = filepath.Join(p.Dir, n.Name+".mnt")
		p.mkdir(n.Store)
		fs, err := faultfs.Mount(p.Store, n.Store)
		if err != nil {
			p.t.Fatal(err)
		}
		n.Fault = fs
		p.faulty = append(p.faulty, fs)
	}
	p.Nodes = append(p.Nodes, n)
	return n
}

// Init makes the plane in its store, free for the first claim.
func (p *Plane) Init() {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, Understudy(), "init", "--location", p.Store)
	cmd.SysProcAttr = attributes(p.opt.UID)
	cmd.SysProcAttr.Pdeathsig = 0 // this thread may end before it
	if p.opt.Storage != nil {
		cmd.Env = append(os.Environ(), p.opt.Storage.Env...)
	}
	if b, err := cmd.CombinedOutput(); err != nil {
		p.t.Fatalf("init: %v: %s", err, b)
	}
}

// StateDamage is what `store fsck` finds wrong with the persisted state.
func (p *Plane) StateDamage() (out []string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, Understudy(), "store", "fsck", p.Store, "-o", "json")
	if p.opt.Storage != nil {
		cmd.Env = append(os.Environ(), p.opt.Storage.Env...)
	}
	b, err := cmd.Output() // its exit code is 1 for any warning
	var found struct {
		Checks []struct{ Name, Status, Detail string }
	}
	if jerr := json.Unmarshal(b, &found); jerr != nil {
		p.t.Fatalf("store fsck: %v: %v: %s", err, jerr, b)
	}
	looked := false
	for _, c := range found.Checks {
		looked = looked || c.Name == "state"
		if c.Name == "state" && c.Status != "ok" {
			out = append(out, c.Detail)
		}
	}
	if !looked {
		p.t.Errorf("store fsck says nothing of the persisted state: %s", b)
	}
	return out
}

// AnyMoment waits for a random part of a heartbeat, so that what follows meets
// the master at any point between two renewals, and not always at the same one
// after whatever the test waited for.
func (p *Plane) AnyMoment(heartbeat time.Duration) {
	time.Sleep(time.Duration(p.rand.Int64N(int64(heartbeat))))
}

// Start starts all nodes.
func (p *Plane) Start() {
	p.t.Helper()
	for _, n := range p.Nodes {
		n.Start()
	}
}

// FreePort finds a port of 127.0.0.1 that stays free over restarts.
func (p *Plane) FreePort() int { p.t.Helper(); return port.Node.Free(p.t) }

// StartAndWait starts all nodes and waits until one is master and the others
// are standbys.
func (p *Plane) StartAndWait(within time.Duration) (master *Node) {
	p.t.Helper()
	p.Start()
	return p.WaitSettled(within)
}

// WaitSettled waits until one running node is master and all others that run
// are standbys.
func (p *Plane) WaitSettled(within time.Duration) (master *Node) {
	p.t.Helper()
	end := intervals.Now().Add(within)
	master = p.WaitMaster(within)
	for _, n := range p.Nodes {
		if n != master && n.Running() {
			n.WaitStandby(end.Sub(intervals.Now()))
		}
	}
	return master
}

// WaitMaster waits until exactly one node answers 200 on /master.
func (p *Plane) WaitMaster(within time.Duration) *Node {
	p.t.Helper()
	var masters []*Node
	if !Poll(within, func() bool { masters = p.Masters(); return len(masters) == 1 }) {
		p.t.Fatalf("%d masters after %v, want 1", len(masters), within)
	}
	return masters[0]
}

// Masters lists the nodes that answer 200 on /master now. All are asked at
// once: one that is frozen must not hold up the others.
func (p *Plane) Masters() []*Node {
	is := make([]bool, len(p.Nodes))
	var wg sync.WaitGroup
	for i, n := range p.Nodes {
		if n.Running() {
			wg.Go(func() { is[i] = n.IsMaster() })
		}
	}
	wg.Wait()
	var out []*Node
	for i, n := range p.Nodes {
		if is[i] {
			out = append(out, n)
		}
	}
	return out
}

// NodeOf returns the node that ran a service.
func (p *Plane) NodeOf(tree intervals.Tree) *Node {
	p.t.Helper()
	for _, n := range p.Nodes {
		if n.ID() == tree.Node {
			return n
		}
	}
	p.t.Fatalf("no node of this plane ran %v", tree)
	return nil
}

// Register reads the register as a person would, and as often: a listing that
// a renewal falls into shows both names, or none.
func (p *Plane) Register() (v lease.Value) {
	p.t.Helper()
	read := p.name
	if p.opt.Storage != nil {
		read = p.opt.Storage.Register
	}
	var err error
	if !Poll(readLimit, func() bool {
		var b []byte
		if b, err = read(); err == nil {
			v, err = lease.ParseValue(b)
		}
		return err == nil
	}) {
		p.t.Fatal(err)
	}
	return v
}

// name is that of the file that is the register in a directory.
func (p *Plane) name() ([]byte, error) {
	entries, err := os.ReadDir(filepath.Join(p.Store, "lease"))
	if err != nil {
		return nil, err
	}
	if len(entries) != 1 {
		return nil, fmt.Errorf("the register has %d names, want 1", len(entries))
	}
	return []byte(entries[0].Name()), nil
}

// Latest returns the service that started last.
func (p *Plane) Latest() intervals.Tree {
	p.t.Helper()
	tree, ok := p.Record().Latest()
	if !ok {
		p.t.Fatal("no service has started")
	}
	return tree
}

// Tree reads a service's record again.
func (p *Plane) Tree(id string) intervals.Tree {
	p.t.Helper()
	for _, tree := range p.Record().Trees {
		if tree.ID == id {
			return tree
		}
	}
	p.t.Fatalf("no record of service %s", id)
	return intervals.Tree{}
}

// Standby returns a running node that is not the given one.
func (p *Plane) Standby(master *Node) *Node {
	p.t.Helper()
	for _, n := range p.Nodes {
		if n != master && n.Running() {
			return n
		}
	}
	p.t.Fatal("no other node runs")
	return nil
}

// Record is what the services have written so far.
func (p *Plane) Record() *intervals.Record {
	p.t.Helper()
	rec, err := intervals.Read(p.Records)
	if err != nil {
		p.t.Fatal(err)
	}
	return rec
}

// WaitStart waits for the first service that started after at.
func (p *Plane) WaitStart(at intervals.Instant, within time.Duration) intervals.Tree {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), within)
	defer cancel()
	rec, err := intervals.Wait(ctx, p.Records, func(r *intervals.Record) bool { return r.StartsAfter(at) > 0 })
	if err != nil {
		p.t.Fatalf("no service started within %v: %v", within, err)
	}
	tree, _ := rec.NextStartAfter(at)
	return tree
}

// Judge fails the test if the services' records show two of them at once, or
// terms that fell.
func (p *Plane) Judge() {
	p.t.Helper()
	rec, err := intervals.Read(p.Records)
	if err != nil {
		p.t.Errorf("the services' records: %v", err)
		return
	}
	for _, o := range rec.Overlaps() {
		p.t.Errorf("%v", o)
	}
	for _, r := range rec.Regressions() {
		p.t.Error(r)
	}
}

// end takes the plane down and judges it. E2E_KEEP=1 keeps the files.
func (p *Plane) end() {
	for _, fs := range p.faulty {
		fs.Clear() // what hangs in it could not die
	}
	var left []Process
	if !Poll(endLimit, func() bool {
		left = nil
		for _, n := range p.Nodes {
			left = append(left, n.Processes()...)
		}
		for _, q := range left {
			q.Signal(unix.SIGKILL)
		}
		return len(left) == 0
	}) {
		p.t.Errorf("these survive SIGKILL: %v", left)
	}
	for _, n := range p.Nodes {
		if d := n.latest(); d != nil {
			select {
			case <-d.done:
			case <-time.After(endLimit):
				p.t.Errorf("%s was not reaped", n.Name)
			}
		}
		if left := guard.ClearCgroups(n.DataDir); len(left) > 0 { // of hooks, no next guard will
			p.t.Errorf("cgroups of %s can not be removed: %v", n.Name, left)
		}
	}
	p.Judge()
	if p.t.Failed() {
		p.tell()
	}
	for _, fs := range p.faulty {
		if err := fs.Unmount(); err != nil {
			p.t.Error(err)
		}
	}
	if os.Getenv("E2E_KEEP") == "1" || (p.KeepOnFailure && p.t.Failed()) {
		p.t.Logf("kept: %s", p.Dir)
		return
	}
	if err := os.RemoveAll(p.Dir); err != nil {
		p.t.Error(err)
	}
}

// tell logs the ends of all logs of a plane that failed.
func (p *Plane) tell() {
	for _, n := range p.Nodes {
		p.t.Logf("%s, daemon:\n%s", n.Name, tail(n.Log(), 40))
		p.t.Logf("%s, guard:\n%s", n.Name, tail(n.GuardLog(), 15))
	}
	if rec, err := intervals.Read(p.Records); err == nil {
		for _, tree := range rec.Trees[max(0, len(rec.Trees)-6):] {
			p.t.Logf("service: %v", tree)
		}
	}
}

func tail(s string, lines int) string {
	l := strings.Split(strings.TrimRight(s, "\n"), "\n")
	return strings.Join(l[max(0, len(l)-lines):], "\n")
}
