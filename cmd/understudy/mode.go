package main

import (
	"strconv"

	"github.com/spf13/cobra"

	v1 "github.com/understudy-ha/understudy/api/v1"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// changed is what `mode` and `priority` say with -o json.
type changed[T any] struct {
	Before T  `json:"before"`
	Asked  *T `json:"asked"` // null when nothing was asked for
}

func newModeCommand(g *globals) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "mode [MODE]",
		Short: "Show the node's state, or ask it for a mode: MASTER hands the mastership to it",
		Long: `Without an argument: print the node's state.

With one of AUTO, MASTER, STANDBY, HOT_STANDBY, HOT_BACKUP, DISABLED: ask the
node for that mode, wait until it is so, and print the state before. MASTER on
a standby is a switchover to it: the master hands over and is never robbed. A
master asked for anything but AUTO or MASTER steps down, which is refused when
nobody could take over, unless --force.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := g.connect()
			if err != nil {
				return err
			}
			defer c.Close()
			var r changed[v1.State]
			if len(args) == 0 {
				r.Before, err = c.State(cmd.Context())
			} else {
				var m lease.Mode
				if m, err = lease.ParseMode(args[0]); err != nil {
					return usagef("mode: %w", err)
				}
				asked := v1.State(m)
				r.Asked = &asked
				r.Before, err = c.SetState(cmd.Context(), v1.Mode(m), force)
			}
			if err != nil {
				return err
			}
			return g.print(cmd, r, func(s *screen) { s.printf("%s\n", r.Before) })
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "step down although no other node could take over")
	return cmd
}

func newPriorityCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "priority [NUMBER]",
		Short: "Show or set the node's election priority; higher is preferred",
		Long: `Without an argument: print the node's priority. With one: set it, for good, and
print the one before. A negative number goes after --.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := g.connect()
			if err != nil {
				return err
			}
			defer c.Close()
			var r changed[int]
			if len(args) == 0 {
				r.Before, err = c.Priority(cmd.Context())
			} else {
				var n int
				if n, err = strconv.Atoi(args[0]); err != nil {
					return usagef("priority: %q is not a whole number", args[0])
				}
				r.Asked = &n
				r.Before, err = c.SetPriority(cmd.Context(), n)
			}
			if err != nil {
				return err
			}
			return g.print(cmd, r, func(s *screen) { s.printf("%d\n", r.Before) })
		},
	}
}
