package hdfs_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	lib "github.com/colinmarc/hdfs/v2"

	"github.com/understudy-ha/understudy/api/v1"
	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/persistence/hdfs"
	"github.com/understudy-ha/understudy/test/e2e/harness"
	"github.com/understudy-ha/understudy/test/e2e/intervals"
	"github.com/understudy-ha/understudy/test/hdfs/cluster"
)

// limited is a context as a node gives to one operation.
func limited(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

const opTimeout = 700 * time.Millisecond

// TestUnwrittenValue: a NameNode that has lost its JournalNodes shows a value
// that it may never be able to write. Whoever wrote it, and had no answer, must
// not take it for a success.
func TestUnwrittenValue(t *testing.T) {
	c := hdfsCluster(t)
	s := open(t, c, newDir(t, c, ""))
	defer s.Close()
	must(t, s.Init(t.Context(), []byte("u1.first")))
	first, err := s.Read(t.Context())
	must(t, err)
	root := strings.TrimPrefix(s.Limits().URL, "hdfs://"+cluster.Nameservice)

	for _, j := range c.Journals[:2] {
		must(t, j.Hang())
		defer func() { _ = j.Resume() }() // also when this fails
	}
	if _, err := s.CAS(limited(t, opTimeout), first.Version, []byte("u1.second")); !errors.Is(err, persistence.Unknown) {
		t.Fatalf("a swap without JournalNodes: %v", err)
	}
	admin(t, c, func(client *lib.Client) error {
		entries, err := client.ReadDir(root + "/lease")
		if err == nil && (len(entries) != 1 || entries[0].Name() != "u1.second") {
			t.Fatalf("the NameNode shows %v: this shows nothing", entries)
		}
		return err
	})
	kept := func() (names []string) {
		renames, err := c.Renames()
		must(t, err)
		for _, r := range renames {
			if name, ok := strings.CutPrefix(r.To, root+"/lease/"); ok {
				names = append(names, name)
				if age := time.Since(r.At); r.From != root+"/lease/"+string(first.Version) && name == "u1.second" || age < 0 || age > time.Hour {
					t.Errorf("the journal has %+v", r)
				}
			}
		}
		return names
	}
	if names := kept(); len(names) != 0 {
		t.Errorf("the JournalNodes have %q", names)
	}
	for range 3 {
		if snap, err := s.Read(limited(t, opTimeout)); err == nil {
			t.Errorf("it reads %q, which is not written", snap.Value)
		} else if !errors.Is(err, persistence.Unknown) {
			t.Errorf("read: %v", err)
		}
	}
	for _, j := range c.Journals[:2] {
		must(t, j.Resume())
	}
	var snap persistence.Snapshot
	if !harness.Poll(settle, func() bool { snap, err = s.Read(limited(t, opTimeout)); return err == nil }) {
		t.Fatal(err)
	}
	if string(snap.Value) != "u1.second" {
		t.Errorf("it reads %q in the end", snap.Value)
	}
	if _, err := s.CAS(limited(t, settle), snap.Version, []byte("u1.third")); err != nil {
		t.Error(err)
	}
	if names := kept(); !slices.Equal(names, []string{"u1.second", "u1.third"}) {
		t.Errorf("the JournalNodes have %q in the end", names)
	}
}

// trap is a NameNode that must not be asked.
func trap(t *testing.T) (port int, asked *atomic.Int32) {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "localhost:0")
	must(t, err)
	asked = new(atomic.Int32)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			asked.Add(1)
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return l.Addr().(*net.TCPAddr).Port, asked
}

// TestTwoNameservices: of two in one hdfs-site.xml, the other one of which is the
// default, only the one that is named is ever spoken to: by a store, by a command
// and by nodes.
func TestTwoNameservices(t *testing.T) {
	alongside(t)
	c := hdfsCluster(t)
	dir := t.TempDir()
	must(t, os.Chmod(dir, 0o755)) //nolint:gosec // nothing secret
	port1, asked1 := trap(t)
	port2, asked2 := trap(t)
	site := cluster.Properties{
		"dfs.nameservices":                   "other," + cluster.Nameservice,
		"dfs.ha.namenodes.other":             "nn1,nn2",
		"dfs.namenode.other.port":            fmt.Sprint(port1),
		"dfs.namenode.rpc-address.other.nn1": "localhost:${dfs.namenode.other.port}",
		"dfs.namenode.rpc-address.other.nn2": fmt.Sprintf("localhost:%d", port2),
	}
	var names []string
	for _, nn := range c.NameNodes() {
		names = append(names, nn.Name)
		site["dfs.namenode.rpc-address."+cluster.Nameservice+"."+nn.Name] = fmt.Sprintf("localhost:%d", nn.RPC)
	}
	site["dfs.ha.namenodes."+cluster.Nameservice] = strings.Join(names, ",")
	must(t, cluster.Properties{"fs.defaultFS": "hdfs://other"}.Write(dir, "core"))
	must(t, site.Write(dir, "hdfs"))

	p := newPlane(t, c, harness.Options{Nodes: 1, Settings: map[string]any{"store.hdfs.confDir": dir}})
	n := p.Nodes[0]
	n.Env = []string{"HADOOP_CONF_DIR=" + dir}
	p.StartAndWait(settle)
	s, err := hdfs.Open(cluster.Nameservice, p.dir, hdfs.Options{ConfDir: dir, User: cluster.User})
	must(t, err)
	defer s.Close()
	if snap, err := s.Read(t.Context()); err != nil || string(snap.Value[:3]) != "u1." {
		t.Errorf("%+v, %v", snap, err)
	}
	must(t, s.Put(t.Context(), "artifacts/a", strings.NewReader(strings.Repeat("x", 100<<10)), -1))
	for _, f := range s.Inspect(t.Context()) {
		if f.Status == persistence.GradeFail {
			t.Errorf("%+v", f)
		}
	}
	if a, b := asked1.Load(), asked2.Load(); a+b > 0 {
		t.Errorf("the NameNodes of the other nameservice were asked %d and %d times", a, b)
	}
	// And the other way round: what is there is not taken for what was asked for.
	o, err := hdfs.Open("other", p.dir, hdfs.Options{ConfDir: dir, User: cluster.User})
	must(t, err)
	defer o.Close()
	for range 2 { // each time the next one is asked first
		if snap, err := o.Read(limited(t, opTimeout)); err == nil {
			t.Errorf("the other nameservice reads %q", snap.Value)
		}
	}
	if asked1.Load() == 0 || asked2.Load() == 0 {
		t.Error("the traps do not work: this shows nothing")
	}
}

// TestInWords: what an operator is told, by kind of trouble.
func TestInWords(t *testing.T) {
	c := hdfsCluster(t)
	nn := active(t, c)
	as := func(user, dir string) *hdfs.Store {
		s, err := hdfs.Open(cluster.Nameservice, dir, hdfs.Options{ConfDir: c.ConfDir(), User: user})
		must(t, err)
		t.Cleanup(func() { _ = s.Close() })
		return s
	}
	at := func(authority string) *hdfs.Store {
		s, err := hdfs.Open(authority, "/tests", hdfs.Options{ConfDir: c.ConfDir(), User: cluster.User})
		must(t, err)
		t.Cleanup(func() { _ = s.Close() })
		return s
	}
	for _, tt := range []struct {
		name  string
		do    func(ctx context.Context) error
		kind  error
		words []string
	}{
		{"directory missing", as("alice", "/nowhere/at/all").Check, persistence.Absent, []string{"hdfs://understudy/nowhere/at/all does not exist", "hdfs dfs -mkdir -p /nowhere/at/all", "alice"}},
		{"somebody else's", as("alice", newDir(t, c, "bob")).Check, persistence.Denied, []string{"user alice", "/tests/TestInWords-", "bob:supergroup", "drwxr-xr-x", "hdfs dfs -chown"}},
		{"beneath what is closed", as("alice", closed(t, c)).Check, persistence.Denied, []string{"user alice", "drwx------"}},
		{"a file", as(cluster.User, file(t, c)).Check, persistence.Unsupported, []string{"it is a file"}},
		{"no such nameservice", at("nosuchservice.invalid").Check, persistence.Unknown, []string{"neither a host that can be resolved nor a nameservice", "knows the nameservices understudy"}},
		{"a DataNode's port", at(fmt.Sprintf("localhost:%d", c.Datanode.RPC)).Check, persistence.Unsupported, []string{"another part of Hadoop than a NameNode"}},
		{"a web page", at(fmt.Sprintf("localhost:%d", nn.HTTP)).Check, persistence.Unsupported, []string{"not the RPC port of a NameNode"}},
		{"the standby alone", at(fmt.Sprintf("localhost:%d", c.Other(nn).RPC)).Check, persistence.Unknown, []string{"standby", "hdfs haadmin -failover"}},
		{"nobody there", at("localhost:1").Check, persistence.Unknown, []string{"connection refused", "look whether the NameNode runs"}},
		{"names used up", quota(t, c, nn, as), persistence.Full, []string{"quota", "hdfs dfsadmin -setQuota"}},
		{"safe mode", safeMode(t, c, nn, as), persistence.ReadOnly, []string{"safe mode", "hdfs dfsadmin -safemode leave"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.do(limited(t, settle))
			if !errors.Is(err, tt.kind) {
				t.Errorf("%v; want %v", err, tt.kind)
			}
			for _, w := range tt.words {
				if err == nil || !strings.Contains(strings.ToLower(err.Error()), strings.ToLower(w)) {
					t.Errorf("it does not say %q: %v", w, err)
				}
			}
			t.Log(err)
		})
	}
}

// closed is a directory beneath one that others may not search.
func closed(t *testing.T, c *cluster.Cluster) string {
	t.Helper()
	dir := newDir(t, c, "")
	admin(t, c, func(client *lib.Client) error {
		return errors.Join(client.Mkdir(dir+"/in", 0o777), client.Chmod(dir, 0o700))
	})
	return dir + "/in"
}

func file(t *testing.T, c *cluster.Cluster) string {
	t.Helper()
	name := newDir(t, c, "") + "/file"
	admin(t, c, func(client *lib.Client) error { return client.CreateEmptyFile(name) })
	return name
}

func quota(t *testing.T, c *cluster.Cluster, nn *cluster.Daemon, as func(user, dir string) *hdfs.Store) func(context.Context) error {
	t.Helper()
	dir := newDir(t, c, "")
	must(t, c.Quota(t.Context(), nn, dir, 1))
	return as(cluster.User, dir).Check
}

func safeMode(t *testing.T, c *cluster.Cluster, nn *cluster.Daemon, as func(user, dir string) *hdfs.Store) func(context.Context) error {
	t.Helper()
	s := as(cluster.User, newDir(t, c, ""))
	return func(ctx context.Context) error {
		must(t, c.SafeMode(ctx, nn, true))
		defer func() { must(t, c.SafeMode(ctx, nn, false)) }()
		return s.Check(ctx)
	}
}

// TestForeignFiles in the register's directory: beside the value they are warned
// of, in its place nobody claims.
func TestForeignFiles(t *testing.T) {
	alongside(t)
	c := hdfsCluster(t)
	dir := newDir(t, c, "")
	s := open(t, c, dir)
	defer s.Close()
	must(t, s.Init(t.Context(), []byte("u1.value")))
	admin(t, c, func(client *lib.Client) error { return client.CreateEmptyFile(dir + "/lease/README") })
	if snap, err := s.Read(t.Context()); err != nil || string(snap.Value) != "u1.value" {
		t.Errorf("%+v, %v", snap, err)
	}
	if w := s.Limits().Warnings; len(w) != 1 || !strings.Contains(w[0], `"README"`) {
		t.Errorf("warnings: %q", w)
	}
	torn := func(words string) {
		t.Helper()
		if snap, err := s.Read(t.Context()); !errors.Is(err, persistence.Torn) || !strings.Contains(err.Error(), words) || !strings.Contains(err.Error(), "store repair") {
			t.Errorf("%+v, %v; want %q", snap, err, words)
		}
	}
	admin(t, c, func(client *lib.Client) error { return client.Remove(dir + "/lease/u1.value") })
	torn("no value this version can read")
	admin(t, c, func(client *lib.Client) error { return client.Remove(dir + "/lease/README") })
	torn("is empty")
	for _, v := range []string{"u1.one", "u1.two"} {
		admin(t, c, func(client *lib.Client) error { return client.CreateEmptyFile(dir + "/lease/" + v) })
	}
	torn("2 values")
	if parts, err := s.Parts(t.Context()); err != nil || len(parts) != 2 {
		t.Errorf("%q, %v", parts, err)
	}
	aside, err := s.Replace(t.Context(), []byte("u1.repaired"))
	must(t, err)
	if snap, err := s.Read(t.Context()); err != nil || string(snap.Value) != "u1.repaired" {
		t.Errorf("repaired: %+v, %v", snap, err)
	}
	admin(t, c, func(client *lib.Client) error {
		kept, err := client.ReadDir(dir + "/" + aside)
		if len(kept) != 2 {
			t.Errorf("kept aside: %v", kept)
		}
		return err
	})
	entries, err := s.Survey(t.Context())
	must(t, err)
	if !slices.ContainsFunc(entries, func(e persistence.Entry) bool { return e.Name == aside && !e.Modified.IsZero() }) {
		t.Errorf("survey: %+v", entries)
	}
	admin(t, c, func(client *lib.Client) error {
		return errors.Join(client.RemoveAll(dir+"/lease"), client.CreateEmptyFile(dir+"/lease"))
	})
	torn("is a file")
	if _, err := s.Replace(t.Context(), []byte("u1.again")); err != nil {
		t.Error(err)
	}
	if snap, err := s.Read(t.Context()); err != nil || string(snap.Value) != "u1.again" {
		t.Errorf("repaired again: %+v, %v", snap, err)
	}
}

// TestOutages: the store is gone for every node of a plane. REST answers as if
// nothing had happened, the service has ended by its deadline, nobody claims, and
// when the store is back so is the plane.
func TestOutages(t *testing.T) {
	outages := []outage{{name: "hung", requests: rounds(500, 3000), begin: hang, end: resume, words: "no answer from the NameNode"}}
	if full() {
		outages = append(outages,
			outage{name: "hung for a minute", lasts: time.Minute, requests: 1500, begin: hang, end: resume, words: "no answer from the NameNode"},
			outage{name: "both killed", requests: 1500, begin: killBoth, end: startBoth, words: "connection refused"},
			outage{name: "safe mode", requests: 1500, begin: enterSafeMode, end: leaveSafeMode, words: "safe mode", reads: true},
		)
	}
	c := hdfsCluster(t)
	for _, o := range outages {
		t.Run(o.name, func(t *testing.T) { o.run(t, c) })
	}
}

// outage is one way for the store to be gone.
type outage struct {
	name       string
	lasts      time.Duration // at least as long as a lease
	requests   int           // of REST meanwhile
	begin, end func(*testing.T, *cluster.Cluster)
	words      string // of some node's log
	reads      bool   // it can still be read
}

func (o outage) run(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	p := newPlane(t, c, harness.Options{})
	p.StartAndWait(settle)
	before := p.Register()
	healthy := harness.Load(t, p.Nodes, rounds(150, 500))
	began := intervals.Now()
	o.begin(t, c)
	over := false
	defer func() {
		if !over { // the next test wants it back
			o.end(t, c)
		}
	}()
	during := harness.Load(t, p.Nodes, o.requests)
	p.down(t, began, max(fast(t).ClaimAfter(0)+2*time.Second, o.lasts))
	if !o.reads {
		for _, n := range p.Nodes {
			n.WaitState(settle, v1.StateFailed)
		}
	}
	says(t, p.Nodes[0], o.words)
	over = true
	o.end(t, c)
	healed := intervals.Now()
	next := p.WaitStart(began, 2*settle)
	harness.Note(t, fmt.Sprintf("%s: a service runs %v after it is over", o.name, max(next.Start.Sub(healed), 0).Round(time.Millisecond)))
	p.WaitSettled(settle)
	judgeLoad(t, p, healthy, during)
	if now := p.Register(); now.Term <= before.Term || now.Plane != before.Plane {
		t.Errorf("the register went from %+v to %+v", before, now)
	}
}

// judgeLoad holds what REST took meanwhile against what it promises, in the full
// form. In the short one, beside whatever else a machine does, it must not have
// waited for the store.
func judgeLoad(t *testing.T, p *plane, healthy, during []time.Duration) {
	t.Helper()
	if full() {
		// What else the machine does may begin at any time: before and after count.
		healthy = slices.Sorted(slices.Values(append(healthy, harness.Load(t, p.Nodes, 500)...)))
		harness.JudgeLoad(t, healthy, during)
		return
	}
	if p99, most := during[len(during)*99/100], fast(t).Operation; p99 >= most {
		t.Errorf("p99 of REST is %v, want less than an operation on the store may take, %v", p99, most)
	}
}

func hang(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	must(t, active(t, c).Hang())
}

func resume(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	for _, nn := range c.NameNodes() {
		must(t, nn.Resume())
	}
}

func killBoth(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	for _, nn := range c.NameNodes() {
		must(t, nn.Kill())
	}
}

func startBoth(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), startWithin)
	defer cancel()
	for _, nn := range c.NameNodes() {
		must(t, c.Restart(ctx, nn))
	}
	must(t, c.Activate(ctx, c.NameNodes()[0]))
	must(t, c.Ready(ctx))
}

func enterSafeMode(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	must(t, c.SafeMode(t.Context(), active(t, c), true))
}

func leaveSafeMode(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	must(t, c.SafeMode(t.Context(), active(t, c), false))
}

// TestRefusedStarts: what only an operator can put right ends the start with one
// line that says what to do.
func TestRefusedStarts(t *testing.T) {
	alongside(t)
	c := hdfsCluster(t)
	for _, tt := range []struct {
		name    string
		prepare func(p *plane, n *harness.Node)
		words   []string
	}{
		{"directory missing", func(_ *plane, n *harness.Node) { n.Store += "/nowhere" }, []string{"does not exist", "hdfs dfs -mkdir -p /tests/"}},
		{"somebody else's", func(_ *plane, n *harness.Node) { n.Env = []string{"HADOOP_USER_NAME=alice"} }, []string{"permission denied", "user alice", "hdfs dfs -chown"}},
		{"no configuration", func(_ *plane, n *harness.Node) {
			n.Env = []string{"HADOOP_CONF_DIR=" + filepath.Join(t.TempDir(), "none")}
			n.Set("store.hdfs.confDir", "/nowhere")
		}, []string{"neither core-site.xml nor hdfs-site.xml", "store.hdfs.confDir"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newPlane(t, c, harness.Options{Nodes: 1, NoInit: true})
			n := p.Nodes[0]
			tt.prepare(p, n)
			n.Start()
			if code := n.WaitExit(settle); code != 2 {
				t.Errorf("it ended with %d, want 2", code)
			}
			says(t, n, append([]string{"understudy: "}, tt.words...)...)
			n.WaitGone(settle)
		})
	}
}
