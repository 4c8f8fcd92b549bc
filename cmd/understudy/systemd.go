package main

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-ha/understudy/deploy/systemd"
	"github.com/understudy-ha/understudy/pkg/guard"
)

func newSystemdCommand(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "systemd",
		Short: "Print the systemd unit of a node",
		Long: `Print the systemd unit of a node, with the paths of this binary and of the
configuration:

  understudy systemd | sudo tee /etc/systemd/system/understudy.service`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return groupOnly(cmd, args)
			}
			binary, err := os.Executable()
			if err != nil {
				return exitf(exitFailed, "systemd: where this binary lies can not be found out: %w", err)
			}
			file := defaultConfig
			if g.config != "" {
				if file, err = filepath.Abs(g.config); err != nil {
					return exitf(exitFailed, "systemd: %w", err)
				}
			}
			cmd.Print(systemd.Unit(binary, file))
			return nil
		},
	}
	cmd.AddCommand(newWaitGuardCommand(g))
	return cmd
}

// guardWait bounds `systemd wait-guard`: longer than any stop takes that ends.
const guardWait = 2 * time.Minute

func newWaitGuardCommand(g *globals) *cobra.Command {
	var conf configFlags
	var limit time.Duration
	cmd := &cobra.Command{
		Use:   "wait-guard",
		Short: "Wait until the guard of a daemon that ended has finished (ExecStopPost of the unit)",
		Long: `Wait until the guard of a daemon that ended has finished: the service is stopped
and proven gone, the mastership released. Ends with 1 if that does not happen
within the time given. A daemon that lives is not waited for.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, _, err := conf.load(g.configPath())
			if err != nil {
				return err
			}
			return waitGuard(cmd.Context(), cfg.DataDir, limit)
		},
	}
	cmd.Flags().DurationVar(&limit, "timeout", guardWait, "how long to wait")
	conf.addTo(cmd.Flags())
	return cmd
}

func waitGuard(ctx context.Context, dataDir string, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		daemon, pid, err := guard.Holder(dataDir)
		switch {
		case err != nil:
			return exitf(exitFailed, "wait-guard: %w", err)
		case daemon != 0 || pid == 0:
			return nil
		}
		select {
		case <-ctx.Done():
			return exitf(exitFailed, "FENCING_FAILED: the guard, pid %d, has not finished within %v: the service is not proven gone; see %s, and stop by hand what is left",
				pid, limit, filepath.Join(dataDir, "guard.log"))
		case <-time.After(50 * time.Millisecond):
		}
	}
}
