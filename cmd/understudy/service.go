package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/understudy-ha/understudy/pkg/address"
	"github.com/understudy-ha/understudy/pkg/config"
	"github.com/understudy-ha/understudy/pkg/guard"
	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/lease"
	"github.com/understudy-ha/understudy/pkg/supervise"
	"github.com/understudy-ha/understudy/pkg/unit"
)

// guardStartLimit bounds how long a guard may take to come up.
const guardStartLimit = 10 * time.Second

// newService starts the guard, or nothing for service.none.
func (d *daemon) newService(ctx context.Context) (ha.Service, error) {
	s := d.cfg.Service
	if s.None {
		return supervise.NewNone(), nil
	}
	sig, err := s.StopSignal.Number()
	if err != nil {
		return nil, exitf(exitUsage, "service.stopSignal: %w", err)
	}
	dir := s.WorkDir
	if dir == "" {
		dir = d.cfg.DataDir
	}
	leaseFile, warning, err := guard.LeaseFile(d.dir.Node(), d.cfg.DataDir)
	if err != nil {
		return nil, fmt.Errorf("service: %w", err)
	}
	if warning != "" {
		d.log.Warn(warning)
	}
	d.leaseFile = leaseFile
	if s, err = d.unitCommands(ctx, s); err != nil {
		return nil, err
	}
	_, delegates := s.Delegates()
	o := supervise.Options{
		Command: s.Command, Dir: dir, Env: serviceEnv(s.Env, d.secrets()),
		Ready:  supervise.Check{HTTP: s.Ready.HTTP, TCP: s.Ready.TCP, File: s.Ready.File, Exec: s.Ready.Exec},
		Checks: livenessChecks(s.Checks), DrainDelay: s.DrainDelay, StandbyCommand: s.StandbyCmd,
		StopCommand: s.Stop, Probe: s.Probe, OnUnexpected: supervise.OnUnexpected(s.OnUnexpected), Delegates: delegates,
		LogMaxSize: orNone(int64(s.Log.MaxSize)), LogKeep: orNone(s.Log.Keep),
		StartGrace: s.StartGrace, StartTimeout: s.StartTimeout,
		Restart: supervise.Policy(s.Restart), MaxRestarts: orNone(s.MaxRestarts), Window: s.Window,
		StopSignal: sig, StopTimeout: d.timing.Stop, GuardStop: d.cfg.GuardStopTimeout(d.timing.Stop),
		DataDir: d.cfg.DataDir, Lock: d.lock, Isolation: s.Isolation, Subreaper: true, Incarnation: d.run,
		ReleaseArgv: []string{selfExe, releaseCommand},
		ReleaseStdin: releaseOrder{
			Location: d.loc.String(), Operation: d.timing.Operation, Limit: d.timing.Timeout,
		}.encode(),
		ReleaseTimeout: d.timing.Timeout,
		GuardLogPath:   filepath.Join(d.cfg.DataDir, "guard.log"),
		LeaseFile:      leaseFile,
		Finals:         d.finals(),
		Watchdog:       d.watchdog(),
		Floating:       d.floating(), AddressLifetime: d.timing.Timeout,
		Log: d.log,
	}
	if a := d.artifacts; a != nil && len(a.names) > 0 {
		o.Prepare = a.command
	}
	if !d.passOutput {
		o.OutputPath = s.Output
		if o.OutputPath == "" {
			o.OutputPath = filepath.Join(d.cfg.DataDir, "service.log")
		}
	}
	if err := vacant(ctx, o); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, guardStartLimit)
	defer cancel()
	sup, err := supervise.New(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("service: %w", err)
	}
	for _, what := range sup.Lost() {
		d.warn("PROTECTION_LOST: " + what)
	}
	d.supervisor = sup
	d.log.Info("guard", zap.Int("pid", sup.Info().GuardPid), zap.String("isolation", sup.Isolation()))
	return sup, nil
}

// unitLimit bounds how long systemd may take to say what it knows of a unit.
const unitLimit = 10 * time.Second

// unitCommands gives a service that systemd runs its commands, short processes
// of this binary. It refuses a unit that systemd would start by itself.
func (d *daemon) unitCommands(ctx context.Context, s config.Service) (config.Service, error) {
	name := s.Systemd
	if name == "" {
		return s, nil
	}
	ctx, cancel := context.WithTimeout(ctx, unitLimit)
	defer cancel()
	if err := unit.Check(ctx, name); err != nil {
		return s, exitf(exitPrecondition, "%w", err)
	}
	// KILL early enough to be seen to have worked before that of the guard.
	kill := (d.timing.KillAfter() - d.timing.StopAfter()) * 3 / 4
	s.Command = []string{selfExe, unit.Command, unit.OpRun, name}
	s.Stop = []string{selfExe, unit.Command, unit.OpStop, name, kill.String()}
	s.Probe = []string{selfExe, unit.Command, unit.OpProbe, name}
	if r := s.Ready; r.HTTP == "" && r.TCP == "" && r.File == "" && len(r.Exec) == 0 {
		s.Ready.Exec = []string{selfExe, unit.Command, unit.OpReady, name}
	}
	return s, nil
}

// selfExe is this binary, also once another lies where it lay.
const selfExe = "/proc/self/exe"

// watchdog is the hardware watchdog that the guard is to keep, nil for none.
func (d *daemon) watchdog() *guard.Watchdog {
	if d.cfg.Watchdog == "off" {
		return nil
	}
	return &guard.Watchdog{Device: d.cfg.WatchdogDevice, Timeout: d.timing.Watchdog(), Required: d.cfg.Watchdog == "required"}
}

// floating is the address that goes with the mastership, nil if there is none.
func (d *daemon) floating() *address.Floating {
	f := d.cfg.FloatingIP
	if f.Address == "" {
		return nil
	}
	if lack := address.Lacking(); lack != "" {
		d.warn("FLOATING_IP: " + f.Address + " can not be added without " + lack + "; run the daemon as root or give it both")
	}
	return &address.Floating{Prefix: f.Prefix(), Interface: f.Interface}
}

// orNone says "none" in the supervisor's words, where 0 is the default.
func orNone[T int | int64](n T) T {
	if n == 0 {
		return -1
	}
	return n
}

func livenessChecks(configured []config.Check) []supervise.Check {
	var checks []supervise.Check
	for _, c := range configured {
		checks = append(checks, supervise.Check{
			Name: c.Name, HTTP: c.HTTP, TCP: c.TCP, File: c.File, Exec: c.Exec,
			Interval: c.Interval, Timeout: c.Timeout, Rise: c.Rise, Fall: c.Fall,
		})
	}
	return checks
}

// vacant refuses to begin where the service already runs without us.
func vacant(ctx context.Context, o supervise.Options) error {
	ctx, cancel := context.WithTimeout(ctx, o.StartTimeout)
	defer cancel()
	if err := o.Vacant(ctx); err != nil {
		return exitf(exitPrecondition, "service: %w", err)
	}
	return nil
}

// watchStandby tells the supervisor when this node is a hot standby, until ctx
// ends.
func (d *daemon) watchStandby(ctx context.Context, node *ha.Node) {
	if d.supervisor == nil || len(d.cfg.Service.StandbyCmd) == 0 {
		return
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		d.supervisor.Standby(node.State() == lease.StateHotStandby) //nolint:contextcheck // what it starts ends with the supervisor
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// serviceEnv is this process' environment without the store's secrets, and
// with the configured variables, which may be those very ones.
func serviceEnv(extra map[string]string, secrets []string) []string {
	env := slices.DeleteFunc(os.Environ(), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		_, replaced := extra[name]
		return replaced || slices.Contains(secrets, name)
	})
	for _, name := range slices.Sorted(maps.Keys(extra)) {
		env = append(env, name+"="+extra[name])
	}
	return env
}
