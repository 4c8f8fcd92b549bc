package main

import (
	"slices"

	"github.com/spf13/cobra"
)

// newServerCommand is the daemon.
func newServerCommand(g *globals) *cobra.Command {
	var (
		conf  configFlags
		force bool
		dev   bool
	)
	cmd := &cobra.Command{
		Use:   "server",
		Short: "Run this machine's node: take part in the plane, run the service while master",
		Long: `Run this machine's node. It takes part in the plane at persistenceDir, runs the
service while it is master and only then, and answers REST.

It ends at SIGTERM or SIGINT, handing the mastership over first. The pid is in
pid.txt in dataDir: kill -9 $(cat pid.txt) is a fair test of a failover.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if dev {
				conf.set = slices.Concat(developing, conf.set)
			}
			cfg, warn, err := conf.load(g.configPath())
			for _, w := range warn {
				cmd.PrintErrln("understudy: warning: " + w)
			}
			if err != nil {
				return err
			}
			log, level, err := newLogger(cfg.Log, cmd.ErrOrStderr())
			if err != nil {
				return exitf(exitUsage, "%w", err)
			}
			d := &daemon{cfg: cfg, log: log, level: level, reread: conf.again(g.configPath()), force: force}
			ctx, release := untilSignal(cmd.Context(), log, d.onHangUp)
			defer release()
			return runNode(ctx, d)
		},
	}
	conf.addTo(cmd.Flags())
	cmd.Flags().BoolVar(&dev, "dev", false, "for development: REST on 127.0.0.1:8443 as plain HTTP, without passwords, and a store on this machine's own disk will do")
	cmd.Flags().BoolVar(&force, "force", false, "with mode DISABLED: run the service although the plane is alive; two may then run at once")
	return cmd
}

// developing is what --dev sets; --set goes before it.
var developing = []string{
	"server.tls.disabled=true", "server.auth.disabled=true", "server.listen=127.0.0.1:8443", "store.allowLocal=true",
}
