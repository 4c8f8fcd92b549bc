package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-ha/understudy/api/v1"
)

// newServiceCommand looks at and acts on the managed service of one node.
func newServiceCommand(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "service",
		Short: "The managed service of a node: how it is, its output, stop and start",
		Long: `The managed service of the node asked: this host's, or the one at --endpoint.

stop and restart concern the master and leave it master: no other node takes
over. A service that was stopped stays down until it is started again, or until
the term ends; the next master starts it.`,
		Args: cobra.ArbitraryArgs,
		RunE: groupOnly,
	}
	cmd.AddCommand(
		newServiceStatusCommand(g),
		newServiceActionCommand(g, "start", "Start the service that was stopped, and wait until it is ready"),
		newServiceActionCommand(g, "stop", "Stop the master's service and keep the mastership"),
		newServiceActionCommand(g, "restart", "Stop and start the master's service in the same term"),
		newServiceActionCommand(g, "reset-failures", "Forget the service's failures; a node that gave it up can be elected again"),
		newServiceLogsCommand(g),
	)
	return cmd
}

func newServiceStatusCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show phase, process, failures and checks of the service",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := g.connect()
			if err != nil {
				return err
			}
			defer c.Close()
			s, err := c.Service(cmd.Context())
			if err != nil {
				return err
			}
			return g.print(cmd, s, func(out *screen) { showService(out, s) })
		},
	}
}

func newServiceActionCommand(g *globals, action, short string) *cobra.Command {
	var limit time.Duration
	cmd := &cobra.Command{
		Use:   action,
		Short: short,
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := g.connect()
			if err != nil {
				return err
			}
			defer c.Close()
			ctx := cmd.Context()
			if limit > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, limit)
				defer cancel()
			}
			s, err := c.ControlService(ctx, action)
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return exitf(exitTimeout, "service %s: not done within %v and still under way; see understudy service status", action, limit)
			}
			if err != nil {
				return err
			}
			return g.print(cmd, s, func(out *screen) { showService(out, s) })
		},
	}
	cmd.Flags().DurationVar(&limit, "timeout", 0, "how `long` to wait for the outcome; it goes on without us (default: as long as it takes)")
	return cmd
}

func newServiceLogsCommand(g *globals) *cobra.Command {
	var (
		lines  int
		follow bool
	)
	cmd := &cobra.Command{
		Use:   "logs",
		Short: "Print the last lines of the service's output; -f goes on",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if lines < 0 {
				return usagef("service logs: --lines must not be negative")
			}
			c, err := g.connect()
			if err != nil {
				return err
			}
			defer c.Close()
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			return c.ServiceLogs(ctx, cmd.OutOrStdout(), lines, follow)
		},
	}
	cmd.Flags().IntVarP(&lines, "lines", "n", 100, "so many of the last `lines`, at most 10000")
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what comes, until interrupted")
	return cmd
}

func showService(out *screen, s v1.Service) {
	out.printf("phase     %s since %s\n", s.Phase, s.Since.Local().Format(time.DateTime))
	if s.Detail != nil {
		out.printf("          %s\n", *s.Detail)
	}
	if s.Pid != 0 {
		out.printf("pid       %d\n", s.Pid)
	}
	out.printf("restarts  %d in this term\n", s.Restarts)
	out.printf("failures  %d\n", s.Failures)
	if e := s.LastExit; e != nil {
		out.printf("last exit %s at %s\n", e.Reason, e.At.Local().Format(time.DateTime))
	}
	for _, c := range s.Checks {
		switch {
		case c.At == nil:
			out.printf("check     %s (%s): not tried yet\n", c.Name, c.Kind)
		case c.Error == nil:
			out.printf("check     %s (%s): ok\n", c.Name, c.Kind)
		default:
			out.printf("check     %s (%s): failed %d of %d: %s\n", c.Name, c.Kind, c.Fails, c.Fall, *c.Error)
		}
	}
	if s.Standby != nil {
		out.printf("standby   %s\n", *s.Standby)
	}
}
