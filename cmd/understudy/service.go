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

	"github.com/understudy-ha/understudy/pkg/config"
	"github.com/understudy-ha/understudy/pkg/guard"
	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/supervise"
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
	o := supervise.Options{
		Command: s.Command, Dir: dir, Env: serviceEnv(s.Env, storeSecrets(d.loc)),
		Ready:      supervise.Check{HTTP: s.Ready.HTTP, TCP: s.Ready.TCP, Exec: s.Ready.Exec},
		StartGrace: s.StartGrace, StartTimeout: s.StartTimeout,
		Restart: supervise.Policy(s.Restart), MaxRestarts: maxRestarts(s), Window: s.Window,
		StopSignal: sig, StopTimeout: d.timing.Stop, GuardStop: d.cfg.GuardStopTimeout(d.timing.Stop),
		DataDir: d.cfg.DataDir, Lock: d.lock, Isolation: s.Isolation, Subreaper: true, Incarnation: d.run,
		ReleaseArgv: []string{"/proc/self/exe", releaseCommand},
		ReleaseStdin: releaseOrder{
			Location: d.loc.String(), Operation: d.timing.Operation, Limit: d.timing.Timeout,
		}.encode(),
		ReleaseTimeout: d.timing.Timeout,
		GuardLogPath:   filepath.Join(d.cfg.DataDir, "guard.log"),
		LeaseFile:      leaseFile,
		Log:            d.log,
	}
	if !d.passOutput {
		o.OutputPath = s.Output
		if o.OutputPath == "" {
			o.OutputPath = filepath.Join(d.cfg.DataDir, "service.log")
		}
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
	d.log.Info("guard", zap.Int("pid", sup.Info().GuardPid), zap.String("isolation", sup.Isolation()))
	return sup, nil
}

// maxRestarts says "none" in the supervisor's words.
func maxRestarts(s config.Service) int {
	if s.MaxRestarts == 0 {
		return -1
	}
	return s.MaxRestarts
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
