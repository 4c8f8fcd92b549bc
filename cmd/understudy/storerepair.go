package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/understudy-ha/understudy/pkg/lease"
)

func newStoreRepairCommand(g *globals) *cobra.Command {
	var (
		least uint64
		plane string
		head  string
	)
	cmd := &cobra.Command{
		Use:   "repair LOCATION --min-term N",
		Short: "Put a value in the place of a register that can not be read, with every node stopped",
		Long: `Put a value in the place of a register that can not be read or is gone
(REGISTER_UNREADABLE, REGISTER_VANISHED), with every node of the plane stopped.
What was there is kept aside. The new value is at term N and held by nobody, so
that the first node to start claims it after one lease.

N must be above every term the plane has ever used, because services rely on
it: 'understudy store fsck' says which is the highest that the location speaks
of; logs and monitoring may know a higher one. It watches the location for one
lease first and refuses if any node shows a sign of life. That you type the
plane's id is the confirmation: plane.json in each node's dataDir holds it.`,
		Example: "  understudy store repair /mnt/understudy --min-term 50 --plane iuvmbymr",
		Args:    storeArg,
		RunE: func(cmd *cobra.Command, args []string) error {
			if least == 0 || lease.Term(least) >= lease.MaxTerm {
				return usagef("--min-term %d: must be above every term the plane has ever used; see 'understudy store fsck %s'", least, args[0])
			}
			h, err := parseHead(head)
			if err != nil {
				return err
			}
			p, err := g.openArg(cmd, args[0])
			if err != nil {
				return err
			}
			defer func() { _ = p.Close() }()
			what := fmt.Sprintf("This replaces the register in %s. If any node of the plane is still running, its service is stopped.", p.loc)
			d, done, err := p.disaster(cmd, plane, what)
			if err != nil {
				return err
			}
			r, err := d.Repair(cmd.Context(), p.Store, lease.Term(least), h)
			done()
			if err != nil {
				return err
			}
			cmd.Printf("plane %s is at term %d, held by nobody; start the nodes, the first claims it after %s\n", r.Value.Plane, r.Value.Term, r.Value.Lease)
			if r.Aside != "" {
				cmd.Printf("what was in the place of the register is kept in %s/%s\n", p.loc, r.Aside)
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.Uint64Var(&least, "min-term", 0, "the `term` to go on at")
	f.StringVar(&plane, "plane", "", "the plane's `id`, typed as confirmation (asked for on a terminal)")
	f.StringVar(&head, "head", "", "the newest `segment` of the persisted state, SEQUENCE-NAME, or none; only where the register no longer tells")
	return cmd
}

// parseHead reads the name of a segment as 'store dump' shows it; nil when
// there is nothing to read.
func parseHead(s string) (*lease.Head, error) {
	switch s {
	case "":
		return nil, nil
	case "none":
		return &lease.Head{}, nil
	}
	seq, name, ok := strings.Cut(s, "-")
	n, err := strconv.ParseUint(seq, 10, 48)
	if !ok || err != nil || len(name) != lease.HeadRandLen || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789") != "" {
		return nil, usagef("--head %q: must be SEQUENCE-NAME, as 'understudy store dump' shows it, or none", s)
	}
	return &lease.Head{Seq: n, Rand: name}, nil
}
