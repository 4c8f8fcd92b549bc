package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	v1 "github.com/understudy-ha/understudy/api/v1"
	"github.com/understudy-ha/understudy/pkg/config"
	"github.com/understudy-ha/understudy/pkg/ec2"
	"github.com/understudy-ha/understudy/pkg/fence"
	"github.com/understudy-ha/understudy/pkg/guard"
	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// fencing is how this node makes former masters harmless; nil where nothing is
// configured.
func (d *daemon) fencing() *ha.Fencing {
	c := d.cfg.Fencing
	f := &ha.Fencing{Wait: c.Required || c.IfFencingFails == "wait"}
	if len(c.Methods) == 0 {
		if !c.Required {
			return nil
		}
		return f
	}
	run := fence.Runner(guard.RunApart)
	if d.supervisor != nil {
		run = d.supervisor.RunApart
	}
	fencer := newFencer(c, serviceEnv(nil, d.secrets()), run, d.dialNode)
	f.Fencer = fencer
	if c.Early {
		f.Early, f.EarlyLimit = fencer.Provable()
	}
	return f
}

// newFencer makes the configured methods. dial is how this node proves to others
// who it is; nil for a command, which is no node.
func newFencer(c config.Fencing, env []string, run fence.Runner, dial func(lease.NodeID) *tls.Config) *fence.Fencer {
	var methods []fence.Method
	for _, m := range c.Methods {
		x := fence.Method{Name: m.Method, Timeout: m.Timeout, Proves: m.ProvesOff, NeedsHost: m.Method != "stepDown", Hosts: map[lease.NodeID]string{}}
		for _, hosts := range []map[string]string{c.Hosts, m.Hosts} {
			for node, host := range hosts {
				x.Hosts[lease.NodeID(node)] = host
			}
		}
		switch m.Method {
		case "stepDown":
			x.Act = fence.StepDown(fence.Login{User: m.User, PasswordFile: m.Password, CAFile: m.CAFile, AsNode: dial})
		case "command":
			x.Act = fence.Command(m.Command, env, run)
		case "ssh":
			x.Act = fence.SSH(m.User, m.KeyFile, m.Command, env, run)
		case "ec2Stop":
			x.Act = fence.EC2Stop(ec2.Options{Region: m.Region, Endpoint: m.Endpoint, Profile: m.Profile})
		}
		methods = append(methods, x)
	}
	return fence.New(methods)
}

func newFenceCommand(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "fence",
		Short: "How a former master that fell silent is made harmless: show, try, or confirm by hand",
		Args:  cobra.ArbitraryArgs,
		RunE:  groupOnly,
	}
	cmd.AddCommand(newFenceListCommand(g), newFenceTestCommand(g), newFenceConfirmCommand(g))
	return cmd
}

// fenceList is what `fence list` shows with -o json.
type fenceList struct {
	Required       bool          `json:"required"`
	IfFencingFails string        `json:"ifFencingFails"`
	Early          bool          `json:"early"`
	Methods        []fenceListed `json:"methods"`
}

type fenceListed struct {
	Method    string            `json:"method"`
	Timeout   string            `json:"timeout"`
	ProvesOff bool              `json:"provesOff"`
	Does      string            `json:"does"`
	Hosts     map[string]string `json:"hosts"` // by node
}

func listFencing(c config.Fencing) fenceList {
	l := fenceList{Required: c.Required, IfFencingFails: c.IfFencingFails, Early: c.Early, Methods: []fenceListed{}}
	if c.Required {
		l.IfFencingFails = "wait"
	}
	for _, m := range c.Methods {
		hosts := map[string]string{}
		maps.Copy(hosts, c.Hosts)
		maps.Copy(hosts, m.Hosts)
		l.Methods = append(l.Methods, fenceListed{m.Method, m.Timeout.String(), m.ProvesOff, fenceDoes(m), hosts})
	}
	return l
}

// fenceDoes says what a method does to a host.
func fenceDoes(m config.FenceMethod) string {
	switch m.Method {
	case "stepDown":
		return "asks its REST to step down"
	case "ssh":
		return "runs there: " + strings.Join(m.Command, " ")
	case "ec2Stop":
		return "stops the instance by force"
	}
	return "runs here: " + strings.Join(m.Command, " ")
}

func newFenceListCommand(g *globals) *cobra.Command {
	var conf configFlags
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the configured methods and the machine each node runs on",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, _, err := conf.load(g.config)
			if err != nil {
				return err
			}
			l := listFencing(cfg.Fencing)
			return g.print(cmd, l, func(s *screen) { drawFencing(s, l) })
		},
	}
	conf.addTo(cmd.Flags())
	return cmd
}

func drawFencing(s *screen, l fenceList) {
	if len(l.Methods) == 0 {
		s.printf("no method is configured; see fencing: in the configuration\n")
	} else {
		rows := [][]cell{plainCells("METHOD", "TIMEOUT", "PROVES OFF", "DOES", "HOSTS")}
		for _, m := range l.Methods {
			var hosts []string
			for _, n := range slices.Sorted(maps.Keys(m.Hosts)) {
				hosts = append(hosts, n+"="+m.Hosts[n])
			}
			rows = append(rows, plainCells(m.Method, m.Timeout, yesNo(m.ProvesOff), m.Does, strings.Join(hosts, " ")))
		}
		s.table(rows)
	}
	switch {
	case l.IfFencingFails == "wait":
		s.printf("\nThe service of a new master waits until a silent one is fenced, or confirmed to be off.\n")
	case len(l.Methods) > 0:
		s.printf("\nWhere no method succeeds, the service of a new master starts anyway: the lease has ended.\n")
	}
	if l.Early {
		s.printf("A machine that a method has proven to be off need not be waited out.\n")
	}
}

func newFenceTestCommand(g *globals) *cobra.Command {
	var (
		conf configFlags
		yes  bool
	)
	cmd := &cobra.Command{
		Use:   "test NODE --yes",
		Short: "Fence a node now, for real: its machine may be powered off",
		Long: `Try the configured methods on NODE in order, as a new master would, until one
succeeds: for real. Its machine may be powered off. Without --yes it only says
what it would do.`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := oneNode(cmd, args)
			if err != nil {
				return err
			}
			cfg, _, err := conf.load(g.config)
			if err != nil {
				return err
			}
			if len(cfg.Fencing.Methods) == 0 {
				return exitf(exitPrecondition, "fence test: no method is configured; see fencing: in the configuration")
			}
			if !yes {
				tellPlan(cmd, cfg.Fencing, id)
				return exitf(exitUnsafe, "fence test: nothing was done; with --yes it is")
			}
			return testFencing(cmd, g, cfg, id)
		},
	}
	conf.addTo(cmd.Flags())
	cmd.Flags().BoolVar(&yes, "yes", false, "do it")
	return cmd
}

func oneNode(cmd *cobra.Command, args []string) (lease.NodeID, error) {
	if len(args) != 1 {
		return "", usagef("%sname one node by its id; understudy states lists them", of(cmd))
	}
	id, err := lease.ParseNodeID(args[0])
	if err != nil {
		return "", usagef("%s%w; understudy states lists the nodes", of(cmd), err)
	}
	return id, nil
}

func tellPlan(cmd *cobra.Command, c config.Fencing, id lease.NodeID) {
	cmd.Printf("This would be done to %s, until one succeeds:\n", id)
	for i, m := range c.Methods {
		host := c.Host(m, string(id))
		if host == "" {
			host = "no machine is named for it"
		}
		cmd.Printf("%d. %s (%s): %s, within %s\n", i+1, m.Method, host, fenceDoes(m), m.Timeout)
	}
}

// fenceTried is one line of `fence test` with -o json.
type fenceTried struct {
	Method string `json:"method"`
	OK     bool   `json:"ok"`
	Off    bool   `json:"off"`
	TookMs int64  `json:"tookMs"`
	Detail string `json:"detail"`
}

func testFencing(cmd *cobra.Command, g *globals, cfg *config.Config, id lease.NodeID) error {
	target := ha.FenceTarget{Node: id, Plane: "test", By: "test"}
	if c, err := g.connect(); err == nil {
		defer c.Close()
		if s, err := c.States(cmd.Context()); err == nil { // the address that stepDown asks, if a node knows it
			target.URI, target.Term = text(s.Nodes[string(id)].NodeURI), lease.Term(s.Term)
		}
	}
	loc, err := cfg.Location()
	if err != nil {
		return exitf(exitUsage, "%w", err)
	}
	tries := []fenceTried{}
	done := false
	for _, t := range newFencer(cfg.Fencing, serviceEnv(nil, secretsOf(cfg, loc)), guard.RunApart, nil).Fence(cmd.Context(), target, false) {
		tries = append(tries, fenceTried{t.Method, t.OK, t.Off, t.Took.Milliseconds(), t.Detail})
		done = done || t.OK
	}
	if err := g.print(cmd, tries, func(s *screen) {
		for _, t := range tries {
			word := "failed"
			if t.OK {
				word = "done"
			}
			if t.Off {
				word = "done, and proves that it is off"
			}
			s.printf("%s: %s after %s: %s\n", t.Method, word, words(t.TookMs), printable(t.Detail))
		}
	}); err != nil {
		return err
	}
	if !done {
		return silently(exitFailed)
	}
	return nil
}

func newFenceConfirmCommand(g *globals) *cobra.Command {
	var plane string
	cmd := &cobra.Command{
		Use:   "confirm NODE",
		Short: "Say that the machine of a former master is powered off",
		Long: `Say that the machine of NODE, which was master and fell silent, is powered off
and stays off until another node is master. A new master whose service waits for
NODE to be fenced starts it then; where NODE still holds the lease, the node that
is asked takes over without waiting for its end. If the machine is not off, two
services may run at once.

That you type the plane's id is the confirmation; understudy status shows it. It
is recorded in the plane's history. With every daemon down, see understudy store
release.`,
		Example: "  understudy fence confirm n63twgfn --plane iuvmbymr",
		Args:    cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := oneNode(cmd, args)
			if err != nil {
				return err
			}
			return confirmFenced(cmd, g, id, plane)
		},
	}
	cmd.Flags().StringVar(&plane, "plane", "", "the plane's `id`, typed as confirmation (asked for on a terminal)")
	return cmd
}

func confirmFenced(cmd *cobra.Command, g *globals, id lease.NodeID, plane string) error {
	c, err := g.connect()
	if err != nil {
		return err
	}
	defer c.Close()
	s, err := c.States(cmd.Context())
	if err != nil {
		return err
	}
	if plane == "" {
		what := fmt.Sprintf("This takes %s to be powered off: another node becomes master. If its machine is not powered off, its service may still run.", id)
		if plane, err = askPlane(cmd.ErrOrStderr(), what); err != nil {
			return usagef("%s%w", of(cmd), err)
		}
	}
	if own := text(s.PlaneID); plane != own {
		return exitf(exitPrecondition, "fence confirm: the node belongs to plane %s, not %s; nothing was changed", own, plane)
	}
	// Whoever holds the term waits for it; without one the node that is asked.
	asked := s.OwnID
	if leader := text(s.LeaderID); leader != "" && leader != string(id) && leader != s.OwnID {
		uri := text(s.Nodes[leader].NodeURI)
		if uri == "" {
			return exitf(exitPrecondition, "fence confirm: %s holds the term and its address is not known; name it with --endpoint", leader)
		}
		there := *g
		there.endpoints, asked = []string{uri}, leader
		if c, err = there.connect(); err != nil {
			return err
		}
		defer c.Close()
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), 30*time.Second)
	defer cancel()
	if err := c.ConfirmFenced(ctx, string(id), operatorName()); err != nil {
		return err
	}
	cmd.Printf("%s takes it that %s is powered off; understudy status shows what comes of it\n", asked, id)
	return nil
}

// fenceWords says what was done to a former master.
func fenceWords(f v1.Fencing) string {
	what := f.Outcome
	if f.Outcome == string(ha.FenceDone) {
		what = "fenced by " + text(f.Method)
	}
	if f.Early {
		what += ", before its lease had ended"
	}
	who := ""
	if a := text(f.Actor); a != "" {
		who = ", " + a
	}
	return fmt.Sprintf("%s of term %d: %s%s after %s: %s", f.Node, f.Term, what, who, words(f.TookMs), text(f.Detail))
}

// text is what p points to; nothing for nil.
func text(p *string) string {
	if p == nil {
		return ""
	}
	return *p
}

// secretsOf names the variables that open the store or speak to AWS.
func secretsOf(c *config.Config, loc config.Location) []string {
	names := storeSecrets(loc)
	stops := slices.ContainsFunc(c.Fencing.Methods, func(m config.FenceMethod) bool { return m.Method == "ec2Stop" })
	if len(names) == 0 && (stops || c.ElasticIP.AllocationID != "") {
		names = storeSecrets(config.Location{Scheme: "s3"})
	}
	return names
}

func (d *daemon) secrets() []string { return secretsOf(d.cfg, d.loc) }
