package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-ha/understudy/pkg/config"
	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/pkg/watchdog"
)

func newWatchdogCommand(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "watchdog",
		Short: "The hardware watchdogs of this machine: show, or try one",
		Args:  cobra.ArbitraryArgs,
		RunE:  groupOnly,
	}
	cmd.AddCommand(newWatchdogQueryCommand(g), newWatchdogTestCommand())
	return cmd
}

// watchdogReport is what `watchdog query` shows with -o json.
type watchdogReport struct {
	Setting   string          `json:"watchdog"` // off, automatic, required; empty: there is no configuration
	Device    string          `json:"device"`
	TimeoutMs int64           `json:"timeoutMs"` // that the guard would set
	Devices   []watchdog.Info `json:"devices"`
}

func newWatchdogQueryCommand(g *globals) *cobra.Command {
	var conf configFlags
	cmd := &cobra.Command{
		Use:   "query",
		Short: "Show the watchdogs there are, and how this host's node uses them",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r := watchdogReport{Devices: append([]watchdog.Info{}, watchdog.List("/")...)}
			if g.configPath() != "" {
				cfg, _, err := conf.load(g.configPath())
				if err != nil {
					return err
				}
				t, err := election.Derive(cfg.TimingRequest(0, 0))
				if err != nil {
					return err
				}
				r.Setting, r.Device, r.TimeoutMs = cfg.Watchdog, cfg.WatchdogDevice, t.Watchdog().Milliseconds()
			}
			return g.print(cmd, r, func(s *screen) { drawWatchdogs(s, r) })
		},
	}
	conf.addTo(cmd.Flags())
	return cmd
}

func drawWatchdogs(s *screen, r watchdogReport) {
	if len(r.Devices) == 0 {
		s.printf("there is no watchdog; load the driver of the hardware, or modprobe softdog\n")
	} else {
		rows := [][]cell{plainCells("DEVICE", "IDENTITY", "TIMEOUT", "STATE", "CAN BE STOPPED")}
		for _, d := range r.Devices {
			state := "stopped"
			if d.Running {
				state = "running"
			}
			if !d.Known { // by a kernel without CONFIG_WATCHDOG_SYSFS
				rows = append(rows, plainCells(d.Device, "not known", "-", "-", "-"))
				continue
			}
			rows = append(rows, plainCells(d.Device, d.Identity, d.Timeout.String(), state, yesNo(!d.Nowayout)))
		}
		s.table(rows)
	}
	switch r.Setting {
	case "":
	case "off":
		s.printf("\nThis host's node uses none (watchdog: off).\n")
	default:
		s.printf("\nThis host's node uses %s (watchdog: %s), set to %s: it runs while a term lasts.\n", r.Device, r.Setting, words(r.TimeoutMs))
	}
}

// watchdogTestTimeout is the time to the reset in a test.
const watchdogTestTimeout = 10 * time.Second

func newWatchdogTestCommand() *cobra.Command {
	var (
		device string
		yes    bool
	)
	cmd := &cobra.Command{
		Use:   "test --yes",
		Short: "Start the watchdog and do not feed it: this machine is reset",
		Long: `Start the watchdog and do not feed it, to see that it works: this machine is
reset after about 10 seconds, as if by its reset button. Nothing is written back
first. Stop what runs on it before. Ends with 1 if the machine is still there.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !yes {
				return exitf(exitUnsafe, "watchdog test: %s would reset this machine within %s; nothing was done; with --yes it is", device, watchdogTestTimeout)
			}
			d, err := watchdog.Open(device)
			if err != nil {
				return exitf(exitPrecondition, "watchdog test: %w", err)
			}
			got, err := d.SetTimeout(watchdogTestTimeout)
			if err == nil {
				err = d.Feed()
			}
			if err != nil {
				_ = d.Stop()
				return exitf(exitFailed, "watchdog test: %s: %w", device, err)
			}
			cmd.Printf("%s resets this machine in %s; kill -9 of this command does not change that\n", device, got)
			select {
			case <-time.After(got + watchdogTestTimeout):
			case <-cmd.Context().Done():
			}
			_ = d.Stop()
			return exitf(exitFailed, "watchdog test: %s did not reset this machine in %s: do not rely on it", device, got+watchdogTestTimeout)
		},
	}
	cmd.Flags().StringVar(&device, "device", config.Default().WatchdogDevice, "the watchdog `device`")
	cmd.Flags().BoolVar(&yes, "yes", false, "do it")
	return cmd
}
