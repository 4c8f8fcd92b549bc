package main

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"github.com/understudy-ha/understudy/pkg/config"
	"github.com/understudy-ha/understudy/pkg/guard"
	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/hook"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// hooksEnd bounds how long a daemon that ends waits for the hooks that are
// still to run.
const hooksEnd = time.Minute

// newHooks puts the configured hooks around the service. Without any it changes
// nothing.
func (d *daemon) newHooks(ctx context.Context) {
	o := d.cfg.Hooks
	configured := map[hook.Event]hook.Hook{}
	for _, h := range o.All() {
		if len(h.Command) > 0 && !h.Alone {
			configured[hook.Event(h.Event)] = hook.Hook{Command: h.Command, Timeout: h.Timeout}
		}
	}
	if len(configured) == 0 {
		return
	}
	opt := hook.Options{
		Hooks: configured, DataDir: d.cfg.DataDir, Env: serviceEnv(nil, d.secrets()), Dir: d.cfg.DataDir,
		Bound: noGuard, Apart: guard.RunApart, Log: d.log,
	}
	if d.supervisor != nil {
		opt.Bound, opt.Apart = d.supervisor.RunHook, d.supervisor.RunApart
	}
	d.hooks = hook.Open(ctx, opt)
	d.watch = hook.NewWatch(d.hooks, d.leaseFile, d.timing.ReadGap())
	hooked := hook.NewService(d.service, d.watch, hook.Grace(d.timing.Stop))
	d.service, d.mayMove = hooked, hooked.MayMove
}

// finals is what the guard does at the end when this daemon has died.
func (d *daemon) finals() guard.Finals {
	f := guard.Finals{RoleFile: d.cfg.RoleFile, Dir: d.cfg.DataDir}
	if h := d.cfg.Hooks.GuardStop; len(h.Command) > 0 {
		facts := hook.Facts{
			Event: hook.GuardStop, Node: string(d.dir.Node()), State: lease.StateFailed, PrevState: lease.StateMaster, Reason: "the daemon died",
		}
		f.Command, f.Timeout = h.Command, h.Timeout
		f.Env = slices.DeleteFunc(facts.Environ(serviceEnv(nil, storeSecrets(d.loc))), func(kv string) bool {
			return strings.HasPrefix(kv, "HA_TERM=") || strings.HasPrefix(kv, "HA_TOKEN=") // the guard knows it
		})
	}
	return f
}

// noGuard is how hooks that belong to a term end where nothing may run them.
func noGuard(context.Context, guard.Aux) guard.Event {
	return guard.Event{Kind: guard.AuxRefused, Why: "there is no guard process"}
}

// onStatus shows a status of the node to the hooks.
func (d *daemon) onStatus(s *ha.Status, now lease.Instant) {
	if d.watch != nil {
		d.watch.See(s, now)
	}
}

// closeHooks lets the hooks that wait have their turn.
func (d *daemon) closeHooks() {
	if d.hooks != nil {
		d.hooks.Close(hooksEnd)
	}
}

var (
	descHookRuns    = prometheus.NewDesc("understudy_hook_runs_total", "Hooks whose turn has come, by how they ended.", []string{"event", "outcome"}, nil)
	descHookSeconds = prometheus.NewDesc("understudy_hook_seconds_total", "How long hooks ran.", []string{"event"}, nil)
	descHookWaiting = prometheus.NewDesc("understudy_hooks_waiting", "Hooks that wait for their turn.", nil, nil)
)

// hookMeter shows what is counted of the hooks.
type hookMeter struct{ queue *hook.Queue }

// Describe implements prometheus.Collector.
func (hookMeter) Describe(ch chan<- *prometheus.Desc) {
	ch <- descHookRuns
	ch <- descHookSeconds
	ch <- descHookWaiting
}

// Collect implements prometheus.Collector. Ends that did not happen are there
// with 0, so that the first one shows as an increase.
func (m hookMeter) Collect(ch chan<- prometheus.Metric) {
	f := m.queue.Figures()
	for _, e := range hook.Events() {
		if !m.queue.Has(e) {
			continue
		}
		for _, o := range hook.Outcomes() {
			ch <- prometheus.MustNewConstMetric(descHookRuns, prometheus.CounterValue,
				float64(f.Ends[hook.Count{Event: e, Outcome: o}]), string(e), string(o))
		}
		ch <- prometheus.MustNewConstMetric(descHookSeconds, prometheus.CounterValue, f.Seconds[e], string(e))
	}
	ch <- prometheus.MustNewConstMetric(descHookWaiting, prometheus.GaugeValue, float64(f.Waiting))
}

func newHooksCommand(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "hooks",
		Short: "Show this host's hooks and how they ended, or try one",
		Args:  cobra.ArbitraryArgs,
		RunE:  groupOnly,
	}
	cmd.AddCommand(newHooksListCommand(g), newHooksTestCommand(g))
	return cmd
}

// hookList is what `hooks list` shows with -o json.
type hookList struct {
	Hooks []hookListed  `json:"hooks"`
	Seq   uint64        `json:"seq"`  // the last number drawn
	Runs  []hook.Result `json:"runs"` // the latest, oldest first
}

type hookListed struct {
	Event   string   `json:"event"`
	Command []string `json:"command"`
	Timeout string   `json:"timeout"`
}

func newHooksListCommand(g *globals) *cobra.Command {
	var conf configFlags
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the configured hooks and how the latest of them ended on this host",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, _, err := conf.load(g.config)
			if err != nil {
				return err
			}
			rec, err := hook.Load(cfg.DataDir)
			if err != nil {
				return exitf(exitFailed, "hooks list: %w", err)
			}
			l := hookList{Hooks: []hookListed{}, Seq: rec.Seq, Runs: append([]hook.Result{}, rec.Runs...)}
			for _, h := range cfg.Hooks.All() {
				if len(h.Command) > 0 {
					l.Hooks = append(l.Hooks, hookListed{h.Event, h.Command, h.Timeout.String()})
				}
			}
			return g.print(cmd, l, func(s *screen) { drawHooks(s, l) })
		},
	}
	conf.addTo(cmd.Flags())
	return cmd
}

func drawHooks(s *screen, l hookList) {
	if len(l.Hooks) == 0 {
		s.printf("no hook is configured; see hooks: in the configuration\n")
	} else {
		rows := [][]cell{plainCells("EVENT", "TIMEOUT", "COMMAND")}
		for _, h := range l.Hooks {
			rows = append(rows, plainCells(h.Event, h.Timeout, strings.Join(h.Command, " ")))
		}
		s.table(rows)
	}
	if len(l.Runs) == 0 {
		return
	}
	s.printf("\n")
	rows := [][]cell{plainCells("SEQ", "EVENT", "TERM", "AT", "TOOK", "RESULT")}
	for _, r := range l.Runs {
		rows = append(rows, plainCells(strconv.FormatUint(r.Seq, 10), string(r.Event), strconv.FormatUint(uint64(r.Term), 10),
			r.At.Local().Format(time.DateTime), r.Took.Round(time.Millisecond).String(), r.Words()))
	}
	s.table(rows)
}

func newHooksTestCommand(g *globals) *cobra.Command {
	var conf configFlags
	cmd := &cobra.Command{
		Use:   "test EVENT",
		Short: "Run the hook of an event now, as if it had happened",
		Long: `Run the command configured for EVENT as the daemon would, with its timeout and
with facts made up for a node of term 1. HA_REASON is "test", HA_SEQ is 0, and
the JSON on its standard input says "test": true. Ends with 0 if the hook did.`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef("hooks test: name one event: %s", hookEvents())
			}
			cfg, _, err := conf.load(g.config)
			if err != nil {
				return err
			}
			h, err := findHook(cfg, args[0])
			if err != nil {
				return err
			}
			r, err := testHook(cmd.Context(), cfg, h)
			if err != nil {
				return err
			}
			if err := g.print(cmd, r, func(s *screen) {
				s.printf("%s%s: %s after %v\n", r.Output, r.Event, r.Words(), r.Took.Round(time.Millisecond))
			}); err != nil {
				return err
			}
			if r.Outcome != hook.OK {
				return silently(exitFailed)
			}
			return nil
		},
	}
	conf.addTo(cmd.Flags())
	return cmd
}

func hookEvents() string {
	var names []string
	for _, e := range hook.Events() {
		names = append(names, string(e))
	}
	names = append(names, string(hook.GuardStop))
	return strings.Join(names, ", ")
}

func findHook(cfg *config.Config, event string) (config.NamedHook, error) {
	for _, h := range cfg.Hooks.All() {
		if h.Event != event {
			continue
		}
		if len(h.Command) == 0 {
			return h, exitf(exitPrecondition, "hooks test: there is no hook for %s; set hooks.%s.command", event, event)
		}
		return h, nil
	}
	return config.NamedHook{}, usagef("hooks test: unknown event %q; the events are %s", event, hookEvents())
}

// testHook runs a hook with made-up facts.
func testHook(ctx context.Context, cfg *config.Config, h config.NamedHook) (hook.Result, error) {
	loc, err := cfg.Location()
	if err != nil {
		return hook.Result{}, exitf(exitUsage, "%w", err)
	}
	dir, err := filepath.Abs(cfg.DataDir)
	if err != nil {
		return hook.Result{}, fmt.Errorf("hooks test: %w", err)
	}
	f := hook.Facts{
		Event: hook.Event(h.Event), Plane: "test", Node: "test0000", State: lease.StateHotStandby, PrevState: lease.StateHotStandby,
		Term: 1, Token: 1, Master: "test0000", MasterURI: "https://test:8443/", Reason: "test", At: time.Now(), Test: true,
	}
	return hook.Try(ctx, hook.Hook{Command: h.Command, Timeout: h.Timeout}, f, serviceEnv(nil, storeSecrets(loc)), dir), nil
}
