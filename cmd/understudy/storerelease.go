package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/user"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/understudy-ha/understudy/api/client"
	"github.com/understudy-ha/understudy/pkg/clock"
	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/lease"
)

func newStoreReleaseCommand(g *globals) *cobra.Command {
	var (
		at    uint64
		node  string
		plane string
	)
	cmd := &cobra.Command{
		Use:   "release LOCATION --term N --powered-off NODE",
		Short: "Release a dead master's hold, on your word that its machine is powered off",
		Long: `Release a dead master's hold on the plane, on your word that its machine is
powered off and stays off until another node is master. You need this where
nodes may not take over by themselves; as a rule they do, one lease after the
master fell silent.

It watches the location for one lease first and refuses if the node shows any
sign of life. That you type the plane's id is the confirmation; 'understudy
store dump' shows it, with the term and the holder. It is recorded in the
plane's history.`,
		Example: "  understudy store release /mnt/understudy --term 41 --powered-off n63twgfn --plane iuvmbymr",
		Args:    storeArg,
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := lease.ParseNodeID(node)
			if err != nil {
				return usagef("--powered-off: %w", err)
			}
			if at == 0 {
				return usagef("--term is missing: give the term that the node holds, as 'understudy store dump %s' shows it", args[0])
			}
			p, err := g.openArg(cmd, args[0])
			if err != nil {
				return err
			}
			defer func() { _ = p.Close() }()
			what := fmt.Sprintf("This releases term %d of %s: another node becomes master. If the machine of %s is not powered off, its service may still run.", at, p.loc, id)
			d, done, err := p.disaster(cmd, plane, what)
			if err != nil {
				return err
			}
			v, err := d.Release(cmd.Context(), p.Store, lease.Term(at), id)
			done()
			if err != nil {
				return err
			}
			cmd.Printf("term %d of plane %s is released; any node may claim it now\n", v.Term, v.Plane)
			return nil
		},
	}
	f := cmd.Flags()
	f.Uint64Var(&at, "term", 0, "the `term` that is released")
	f.StringVar(&node, "powered-off", "", "the `node` that holds it, whose machine is powered off")
	f.StringVar(&plane, "plane", "", "the plane's `id`, typed as confirmation (asked for on a terminal)")
	return cmd
}

// disaster prepares an operation that only an operator may ask for: done takes
// its progress bar away.
func (p *openPlace) disaster(cmd *cobra.Command, plane, what string) (d ha.Disaster, done func(), err error) {
	if plane == "" {
		if plane, err = askPlane(cmd.ErrOrStderr(), what); err != nil {
			return d, nil, usagef("%s%w", of(cmd), err)
		}
	}
	id, err := lease.ParsePlaneID(plane)
	if err != nil {
		return d, nil, usagef("--plane: %w", err)
	}
	t, err := p.timing()
	if err != nil {
		return d, nil, err
	}
	bar := newProgress(cmd.ErrOrStderr())
	return ha.Disaster{
		Plane: id, Actor: operatorName(), Lease: t.Timeout, Operation: readLimit, Clock: clock.Now, Answers: answers,
		Watching: func(done, total time.Duration) {
			bar.at("watching for signs of life", int(done/time.Millisecond), int(total/time.Millisecond))
		},
	}, bar.end, nil
}

// answerLimit is how long a node may take to show that it is alive.
const answerLimit = 3 * time.Second

// answers asks a node for a sign of life, whatever it says and whoever has
// signed its certificate.
func answers(ctx context.Context, rec lease.NodeRecord) bool {
	c, err := client.New([]string{rec.URI}, client.Options{Insecure: true})
	if err != nil {
		return false
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	h, err := c.Health(ctx, "/master")
	return err == nil && h.Node == string(rec.Node)
}

// askPlane has the operator type the id of the plane, on a terminal.
func askPlane(w io.Writer, what string) (string, error) {
	if !term.IsTerminal(int(os.Stdin.Fd())) { //nolint:gosec // a file descriptor is small
		return "", fmt.Errorf("wants the plane's id as confirmation: --plane ID")
	}
	fmt.Fprintf(w, "%s\nType the plane's id to go on: ", what)
	line, err := bufio.NewReader(os.Stdin).ReadString('\n')
	if err != nil && line == "" {
		return "", fmt.Errorf("nothing was typed, nothing was changed")
	}
	return strings.TrimSpace(line), nil
}

// operatorName is who runs the command, for the history.
func operatorName() string {
	name := fmt.Sprintf("uid %d", os.Getuid())
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	return name + "@" + hostname()
}
