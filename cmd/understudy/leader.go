package main

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	v1 "github.com/understudy-ha/understudy/api/v1"
)

// leaderReport is what `leader -o json` says.
type leaderReport struct {
	MasterID  *string `json:"masterId"`
	MasterURI *string `json:"masterUri"`
	LeaderID  *string `json:"leaderId"` // holds the term; its service may not be ready
	Term      uint64  `json:"term"`
}

func leaderOf(p v1.PlaneStates) leaderReport {
	r := leaderReport{MasterID: p.MasterID, LeaderID: p.LeaderID, Term: p.Term}
	if p.MasterID != nil {
		r.MasterURI = p.Nodes[*p.MasterID].NodeURI
	}
	return r
}

// why says in words that there is no master.
func (r leaderReport) why() string {
	if r.LeaderID != nil {
		return fmt.Sprintf("no master: node %s holds term %d and its service is not ready", *r.LeaderID, r.Term)
	}
	return "no master"
}

func newLeaderCommand(g *globals) *cobra.Command {
	var (
		watch watchFlags
		store storeFlag
	)
	cmd := &cobra.Command{
		Use:   "leader",
		Short: "Print the URI of the master; exit code 1 if there is none",
		Long: `Print the URI of the master; exit code 1 if there is none.
With --watch: a line for each change, "-" while there is no master.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := store.reader(cmd, g)
			if err != nil {
				return err
			}
			defer c.Close()
			shown, first := "", true
			return watch.run(cmd, func(ctx context.Context) error {
				p, err := c.States(ctx)
				if err != nil {
					return err
				}
				r := leaderOf(p)
				line := deref(r.MasterURI)
				if watch.on && !first && line == shown {
					return nil
				}
				shown, first = line, false
				if r.MasterURI == nil && !watch.on {
					fmt.Fprintf(cmd.ErrOrStderr(), "understudy: %s\n", r.why())
					if g.output == formatTable {
						return silently(exitFailed)
					}
				}
				if err := g.print(cmd, r, func(s *screen) { s.printf("%s\n", printable(line)) }); err != nil {
					return err
				}
				if r.MasterURI == nil && !watch.on {
					return silently(exitFailed)
				}
				return nil
			})
		},
	}
	watch.addTo(cmd)
	store.addTo(cmd)
	watch.plain = true
	return cmd
}

func newIsMasterCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "is-master",
		Short: "Exit with 0 if the node is master, with 1 if it is not; needs no password",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(g.endpoints) > 1 {
				return usagef("is-master asks one node: give one --endpoint, not %d", len(g.endpoints))
			}
			c, err := g.connect()
			if err != nil {
				return err
			}
			defer c.Close()
			h, err := c.Health(cmd.Context(), "/master")
			if err != nil {
				return err
			}
			answer := struct {
				Master bool     `json:"master"`
				NodeID string   `json:"nodeId"`
				State  v1.State `json:"state"`
				Term   uint64   `json:"term"`
			}{h.OK, h.Node, h.State, h.Term}
			if err := g.print(cmd, answer, func(s *screen) {
				s.printf("%s: %s is %s, term %d\n", yesNo(h.OK), printable(h.Node), printable(string(h.State)), h.Term)
			}); err != nil {
				return err
			}
			if !h.OK {
				return silently(exitFailed)
			}
			return nil
		},
	}
}

// masterinfo is what `masterinfo -o json` says.
type masterinfo struct {
	Leader *string  `json:"leader"`
	All    []string `json:"all"`
}

func newMasterinfoCommand(g *globals) *cobra.Command {
	var store storeFlag
	cmd := &cobra.Command{
		Use:   "masterinfo",
		Short: "Print the master and all nodes that may become it, in two lines; exit code 1 if there is none",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := store.reader(cmd, g)
			if err != nil {
				return err
			}
			defer c.Close()
			p, err := c.States(cmd.Context())
			if err != nil {
				return err
			}
			m := masterinfoOf(p)
			err = g.print(cmd, m, func(s *screen) {
				if m.Leader != nil {
					s.printf("current leader master: %s\n", printable(*m.Leader))
				}
				s.printf("All masters: [%s]\n", printable(strings.Join(m.All, ", ")))
			})
			if err == nil && m.Leader == nil {
				fmt.Fprintf(cmd.ErrOrStderr(), "understudy: %s\n", leaderOf(p).why())
				return silently(exitFailed)
			}
			return err
		},
	}
	store.addTo(cmd)
	return cmd
}

// masterinfoOf leaves out nodes that are never promoted.
func masterinfoOf(p v1.PlaneStates) masterinfo {
	m := masterinfo{All: []string{}}
	for id, n := range p.Nodes {
		if n.NodeURI == nil || n.Status == v1.StateHotBackup {
			continue
		}
		at := hostPort(*n.NodeURI)
		m.All = append(m.All, at)
		if p.MasterID != nil && *p.MasterID == id {
			m.Leader = &at
		}
	}
	slices.Sort(m.All)
	return m
}

// hostPort is the host:port of a URI, with the scheme's port if it names none.
func hostPort(uri string) string {
	u, err := url.Parse(uri)
	if err != nil || u.Host == "" {
		return uri
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return net.JoinHostPort(u.Hostname(), port)
}
