package nfs

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/api/v1"
	"github.com/understudy-ha/understudy/test/e2e/harness"
	"github.com/understudy-ha/understudy/test/e2e/intervals"
	"github.com/understudy-ha/understudy/test/nfs/wire"
)

const (
	configFile = wire.Data + "/understudy.yaml"
	nodeLog    = wire.Data + "/understudy.log"
)

// settle is how long a plane may take until one node serves and the other
// watches, beyond the lease that may have to be waited out.
const settle = 40 * time.Second

// Node is an understudy on a guest, with T = 5s, the plane at Dir, and the
// recorder as its service. What it keeps locally is in the guest's memory.
type Node struct {
	*Guest
	pid int
}

// NewPlane makes a plane at Dir and starts a node on each client; the first is
// master when it returns. The test fails if two services ever run at once.
func (l *Lab) NewPlane(tb testing.TB) (nodes []*Node) {
	tb.Helper()
	tb.Cleanup(func() {
		l.Judge(tb)
		for _, n := range nodes {
			n.end(tb)
		}
		if tb.Failed() {
			l.tell(tb)
		}
		l.forget(tb)
	})
	if res := l.Clients[0].Run(tb, wire.Command{Args: []string{wire.Share + "/understudy", "init", "--location", Dir}}); res.Code != 0 {
		tb.Fatalf("init: %s", res.Output)
	}
	for i, g := range l.Clients {
		n := g.StartNode(tb)
		nodes = append(nodes, n)
		if i == 0 {
			n.WaitMaster(tb)
		} else {
			n.WaitStandby(tb)
		}
	}
	return nodes
}

// StartNode starts a node on the guest.
func (g *Guest) StartNode(tb testing.TB) *Node {
	tb.Helper()
	g.configure(tb)
	pid := g.Start(tb, wire.Command{Args: []string{wire.Share + "/understudy", "server", "--config", configFile}, Log: nodeLog})
	return &Node{Guest: g, pid: pid}
}

// configure writes the configuration of the guest's node.
func (g *Guest) configure(tb testing.TB) {
	tb.Helper()
	g.WriteFile(tb, recordsDir+"/README", []byte("what services write about themselves\n"))
	g.WriteFile(tb, configFile, fmt.Appendf(nil, `
persistenceDir: %s
dataDir: %s
nodeUri: https://%s:8443/
ha: {preset: fast}
server: {listen: ":8443"}
service: {command: [%s], drainDelay: 0s, env: {REC_DIR: %s}}
log: {level: debug}
%s`, Dir, g.dataDir(), g.Address, wire.Share+"/recorder", recordsDir, g.Settings))
}

// ask runs a command of understudy that answers JSON and must succeed.
func (g *Guest) ask(tb testing.TB, answer any, args ...string) {
	tb.Helper()
	res := g.Run(tb, wire.Command{Args: append([]string{wire.Share + "/understudy", "-o", "json"}, args...), Timeout: 3 * time.Minute})
	if err := json.Unmarshal([]byte(res.Output), answer); err != nil || res.Code != 0 {
		tb.Errorf("%v: exit code %d, %v\n%s", args, res.Code, err, res.Output)
	}
}

// dataDir is where the node keeps what is local: another place for each plane.
func (g *Guest) dataDir() string { return fmt.Sprintf("%s/node%d", wire.Data, g.lab.mounts) }

// Runs reports whether the node's daemon lives.
func (n *Node) Runs(tb testing.TB) bool { tb.Helper(); return n.Running() && n.Alive(tb, n.pid) }

// Terminate asks the daemon to end in order.
func (n *Node) Terminate(tb testing.TB) { tb.Helper(); n.Signal(tb, n.pid, unix.SIGTERM) }

// end ends the node, whatever state it and its file system are in.
func (n *Node) end(tb testing.TB) {
	tb.Helper()
	if !n.Runs(tb) {
		return
	}
	n.Terminate(tb)
	if !harness.Poll(settle, func() bool { return !n.Runs(tb) }) {
		tb.Errorf("the daemon of %s survives SIGTERM for %v", n.Name, settle)
	}
}

// IsMaster reports whether the node answers 200 on /master.
func (n *Node) IsMaster() bool {
	code, _, err := n.Get("/master", "", nil)
	return err == nil && code == 200
}

// WaitLeader waits until the node answers 200 on /leader: it holds the term,
// and starts the service. The instant is from after the answer.
func (n *Node) WaitLeader(tb testing.TB) intervals.Instant {
	tb.Helper()
	if !harness.Poll(settle, func() bool {
		code, _, err := n.Get("/leader", "", nil)
		return err == nil && code == 200
	}) {
		n.lab.tell(tb)
		tb.Fatalf("%s does not lead after %v", n.Name, settle)
	}
	return intervals.Now()
}

// WaitMaster waits until the node answers 200 on /master.
func (n *Node) WaitMaster(tb testing.TB) {
	tb.Helper()
	n.wait(tb, v1.StateMaster)
}

// WaitStandby waits until the node says that it is a standby, and has verified
// the store, without which it may not claim (R18).
func (n *Node) WaitStandby(tb testing.TB) {
	tb.Helper()
	n.wait(tb, v1.StateStandby, v1.StateHotStandby)
	user := n.user(tb)
	var m v1.Metrics
	if !harness.Poll(settle, func() bool {
		_, _, err := n.Get("/v1/server/ha/metrics", user, &m)
		return err == nil && m.Persist.VerifiedCAS
	}) {
		n.lab.tell(tb)
		tb.Fatalf("%s has not verified the store within %v", n.Name, settle)
	}
}

// WaitShows waits until the node shows a node in a state.
func (n *Node) WaitShows(tb testing.TB, id string, want v1.State) {
	tb.Helper()
	user := n.user(tb)
	var s v1.PlaneStates
	if !harness.Poll(settle, func() bool {
		_, _, err := n.Get("/v1/server/ha/states", user, &s)
		return err == nil && s.Nodes[id].Status == want
	}) {
		tb.Errorf("%s shows %s as %q after %v, want %s", n.Name, id, s.Nodes[id].Status, settle, want)
	}
}

// user is the name and password the node has made up.
func (n *Node) user(tb testing.TB) string {
	tb.Helper()
	return strings.TrimSpace(n.Run(tb, wire.Command{Args: []string{"busybox", "cat", n.dataDir() + "/credentials"}}).Output)
}

func (n *Node) wait(tb testing.TB, want ...v1.State) {
	tb.Helper()
	var code int
	var state v1.State
	var err error
	if !harness.Poll(settle, func() bool {
		code, state, err = n.Get("/master", "", nil)
		for _, w := range want {
			if err == nil && state == w && (code == 200) == (w == v1.StateMaster) {
				return true
			}
		}
		return false
	}) {
		n.lab.tell(tb)
		tb.Fatalf("%s is %q (%d, %v) after %v, want %v", n.Name, state, code, err, settle, want)
	}
}

// log is the end of a file of the guest.
func (g *Guest) log(tb testing.TB, path string) string {
	tb.Helper()
	var res wire.Result
	if err := g.call("Guest.Run", wire.Command{Args: []string{"busybox", "tail", "-n", "60", path}}, &res, endLimit); err != nil {
		return err.Error()
	}
	return res.Output
}

// tell logs the ends of all logs.
func (l *Lab) tell(tb testing.TB) {
	tb.Helper()
	for _, g := range l.guests() {
		if console := strings.TrimSpace(g.Console()); console != "" {
			tb.Logf("%s, console:\n%s", g.Name, console)
		}
	}
	for _, g := range l.Clients {
		if g.Running() {
			tb.Logf("%s, daemon:\n%s\nguard:\n%s", g.Name, g.log(tb, nodeLog), g.log(tb, g.dataDir()+"/guard.log"))
		}
	}
	for _, tree := range l.Record(tb).Trees {
		tb.Logf("service: %v", tree)
	}
}
