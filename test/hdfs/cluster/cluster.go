package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// Settings change what a cluster is like. The zero value is two NameNodes
// without Kerberos.
type Settings struct {
	Core Properties // added to every core-site.xml
	Site Properties // added to every hdfs-site.xml
	JVM  []string   // flags of every JVM
	// Single is one NameNode without a standby and without JournalNodes.
	Single bool
}

// Cluster is a running HDFS.
type Cluster struct {
	Dir      string // everything it writes
	Names    []*Daemon
	Journals []*Daemon
	Datanode *Daemon

	settings Settings
	lib      string // Hadoop's jars
	detached bool   // it outlives this process
}

// NameNodes are those of the one nameservice, in the order of its
// configuration.
func (c *Cluster) NameNodes() []*Daemon { return c.Names }

// ConfDir holds core-site.xml and hdfs-site.xml for clients.
func (c *Cluster) ConfDir() string { return c.confDir("client") }

// Daemon finds a part of the cluster by its name: nn1, nn2, jn1, jn2, jn3, dn.
func (c *Cluster) Daemon(name string) (*Daemon, error) {
	var known []string
	for _, d := range c.daemons() {
		if d.Name == name {
			return d, nil
		}
		known = append(known, d.Name)
	}
	return nil, fmt.Errorf("no %q here: there are %s", name, strings.Join(known, ", "))
}

func (c *Cluster) daemons() []*Daemon {
	all := append(append([]*Daemon{}, c.Journals...), c.Names...)
	if c.Datanode != nil {
		all = append(all, c.Datanode)
	}
	return all
}

// Missing says what this machine lacks to run a cluster; empty: nothing.
func Missing() string {
	if _, err := os.Stat(filepath.Join(jars(), "lib")); err != nil {
		return "Hadoop is not there; run: test/hdfs/fetch " + jars()
	}
	return ""
}

// jars is where test/hdfs/fetch put Hadoop. HDFS_JARS names another place.
func jars() string {
	if dir := os.Getenv("HDFS_JARS"); dir != "" {
		return dir
	}
	_, here, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(here), "..", "..", "..", "bin", "hadoop")
}

// Start starts a cluster that keeps its files in dir, which must be there and
// be empty. Its JVMs end with this process unless detached. The first NameNode
// is active and out of safe mode, and the DataNode is known, when it returns.
func Start(ctx context.Context, dir string, s Settings, detached bool) (*Cluster, error) {
	if why := Missing(); why != "" {
		return nil, errors.New(why)
	}
	c := &Cluster{Dir: dir, settings: s, lib: filepath.Join(jars(), "lib"), detached: detached}
	if err := c.plan(ctx); err != nil {
		return nil, err
	}
	err := c.begin(ctx)
	if err != nil {
		return nil, errors.Join(err, c.Stop())
	}
	return c, nil
}

// plan names the daemons and finds their ports.
func (c *Cluster) plan(ctx context.Context) error {
	journals, names := 3, 2
	if c.settings.Single {
		journals, names = 0, 1
	}
	ports, err := freePorts(ctx, 2*(journals+names)+3)
	if err != nil {
		return err
	}
	next := func() (port int) { port, ports = ports[0], ports[1:]; return port }
	for i := range journals {
		c.Journals = append(c.Journals, &Daemon{Name: fmt.Sprintf("jn%d", i+1), Kind: journalNode, RPC: next(), HTTP: next()})
	}
	for i := range names {
		c.Names = append(c.Names, &Daemon{Name: fmt.Sprintf("nn%d", i+1), Kind: nameNode, RPC: next(), HTTP: next()})
	}
	c.Datanode = &Daemon{Name: "dn", Kind: dataNode, RPC: next(), HTTP: next(), Data: next()}
	return c.configure()
}

func (c *Cluster) begin(ctx context.Context) error {
	if err := c.format(ctx); err != nil {
		return err
	}
	for _, d := range c.daemons() {
		if err := c.launch(ctx, d); err != nil {
			return err
		}
	}
	for _, d := range c.daemons() {
		if err := c.answers(ctx, d); err != nil {
			return err
		}
	}
	if !c.settings.Single {
		if err := c.Activate(ctx, c.Names[0]); err != nil {
			return err
		}
	}
	return c.Ready(ctx)
}

// format makes the file system. It takes two JVMs ten seconds, so the result
// is kept beside the jars and copied from then on.
func (c *Cluster) format(ctx context.Context) error {
	template := filepath.Join(jars(), "formatted")
	if c.settings.Single {
		template += "-single"
	}
	if _, err := os.Stat(template); err != nil {
		if err := c.makeTemplate(ctx, template); err != nil {
			return fmt.Errorf("format: %w", err)
		}
	}
	for _, d := range append(append([]*Daemon{}, c.Journals...), c.Names...) {
		from := filepath.Join(template, d.Name)
		if d.Kind == nameNode {
			from = filepath.Join(template, "nn1") // a standby begins with a copy
		}
		if err := os.CopyFS(filepath.Join(c.Dir, d.Name, "data"), os.DirFS(from)); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) makeTemplate(ctx context.Context, template string) error {
	for _, d := range c.Journals {
		if err := c.launch(ctx, d); err != nil {
			return err
		}
	}
	for _, d := range c.Journals {
		if err := c.answers(ctx, d); err != nil {
			return err
		}
	}
	out, err := c.command(ctx, "nn1", "256m", classes[nameNode], "-format", "-nonInteractive", "-force").CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	work, err := os.MkdirTemp(jars(), "formatting-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	for _, d := range append([]*Daemon{c.Names[0]}, c.Journals...) {
		if err := d.Kill(); err != nil {
			return err
		}
		data := filepath.Join(c.Dir, d.Name, "data")
		if err := os.CopyFS(filepath.Join(work, d.Name), os.DirFS(data)); err != nil {
			return err
		}
		if err := os.RemoveAll(data); err != nil {
			return err
		}
	}
	if err := os.Rename(work, template); err != nil && !errors.Is(err, os.ErrExist) {
		return err // somebody else may have been first
	}
	return nil
}

// Stop kills every process of the cluster. Its files stay.
func (c *Cluster) Stop() error {
	var errs []error
	for _, d := range c.daemons() {
		errs = append(errs, d.Kill())
	}
	return errors.Join(errs...)
}

// Restart starts a part that has ended, and waits until it listens. A NameNode
// comes back as standby.
func (c *Cluster) Restart(ctx context.Context, d *Daemon) error {
	if d.Running() {
		return fmt.Errorf("%s runs", d.Name)
	}
	if err := c.launch(ctx, d); err != nil {
		return err
	}
	return c.answers(ctx, d)
}

// Active is the NameNode that says that it is active.
func (c *Cluster) Active(ctx context.Context) (*Daemon, error) {
	var said []string
	for _, d := range c.Names {
		state := "is not running"
		if d.Running() {
			got, err := c.State(ctx, d)
			if err == nil && got == "active" {
				return d, nil
			}
			if state = got; err != nil {
				state = err.Error()
			}
		}
		said = append(said, d.Name+": "+state)
	}
	return nil, fmt.Errorf("no NameNode is active: %s", strings.Join(said, "; "))
}

// Other is the NameNode that is not d.
func (c *Cluster) Other(d *Daemon) *Daemon {
	if d == c.Names[0] {
		return c.Names[1]
	}
	return c.Names[0]
}

// Ready waits until the active NameNode has left safe mode and has a DataNode.
func (c *Cluster) Ready(ctx context.Context) error {
	var why string
	for {
		nn, err := c.Active(ctx)
		if err == nil {
			var safe string
			if safe, why, err = c.readiness(ctx, nn); err == nil && safe == "" && why == "" {
				return nil
			}
			if safe != "" {
				why = "safe mode: " + safe
			}
		}
		if err != nil {
			why = err.Error()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the cluster does not get ready: %s: %w", why, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (c *Cluster) readiness(ctx context.Context, nn *Daemon) (safe, why string, err error) {
	var info struct{ Safemode string }
	if err := c.JMX(ctx, nn, "Hadoop:service=NameNode,name=NameNodeInfo", &info); err != nil {
		return "", "", err
	}
	var state struct{ NumLiveDataNodes int }
	if err := c.JMX(ctx, nn, "Hadoop:service=NameNode,name=FSNamesystemState", &state); err != nil {
		return "", "", err
	}
	if state.NumLiveDataNodes == 0 {
		why = "no DataNode yet"
	}
	return info.Safemode, why, nil
}

// state is what a detached cluster leaves in its directory.
type state struct {
	Names, Journals []*Daemon
	Datanode        *Daemon
	Settings        Settings
}

func stateFile(dir string) string { return filepath.Join(dir, "cluster.json") }

// Save notes in the directory what runs, for Attach.
func (c *Cluster) Save() error {
	b, err := json.MarshalIndent(state{c.Names, c.Journals, c.Datanode, c.settings}, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(stateFile(c.Dir), b, 0o644) //nolint:gosec // nothing secret
}

// Attach finds a detached cluster again.
func Attach(dir string) (*Cluster, error) {
	b, err := os.ReadFile(stateFile(dir))
	if err != nil {
		return nil, fmt.Errorf("no cluster in %s: %w", dir, err)
	}
	var s state
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, err
	}
	return &Cluster{
		Dir: dir, Names: s.Names, Journals: s.Journals, Datanode: s.Datanode,
		settings: s.Settings, lib: filepath.Join(jars(), "lib"), detached: true,
	}, nil
}
