package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/spf13/cobra"

	"github.com/understudy-ha/understudy/pkg/config"
	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/pkg/guard"
	"github.com/understudy-ha/understudy/pkg/ha"
)

// Exit codes of run besides the child's own. 126 (not executable) and 127 (not
// found) are the child's in this sense too.
const (
	exitRunFailed = 125 // Understudy itself failed
	exitLeaseLost = 129 // the lease was lost and the child killed
)

// maxRunSlots is how many runs on one store one user may have on one machine.
const maxRunSlots = 100

// newRunCommand runs one command under the lease, without a file.
func newRunCommand(g *globals) *cobra.Command {
	var (
		store, dataDir, listen, timeout, preset string
		allowLocal, verbose                     bool
		conf                                    configFlags
	)
	cmd := &cobra.Command{
		Use:   "run [flags] -- COMMAND [ARG...]",
		Short: "Take part in a plane and run a command while master; ends with its exit code",
		Long: `Take part in the plane at --store, run COMMAND as its service while master, and
end with its exit code. Until this node is master it waits. Started on several
machines with the same --store, the command runs on one of them at a time.

Exit codes: the command's own; 125 Understudy failed, 126 the command can not
be executed, 127 it was not found, 129 the lease was lost and it was killed.`,
		Example: `  understudy run --store /mnt/shared/job -- ./worker --queue high`,
		Args:    cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("run: no command given; write understudy run --store PLACE -- COMMAND")
			}
			argv, err := json.Marshal(args) // which is a list in YAML too
			if err != nil {
				return usagef("run: %w", err)
			}
			add := func(key, value, flag string) {
				if value != "" {
					conf.more = append(conf.more, config.Override{Key: key, Value: value, From: "flag --" + flag})
				}
			}
			add("persistenceDir", store, "store")
			add("ha.heartbeatTimeout", timeout, "timeout")
			add("ha.preset", preset, "preset")
			add("server.listen", listen, "listen")
			add("service.command", string(argv), "")
			add("service.restart", "never", "")
			add("service.drainDelay", "0s", "")
			if allowLocal {
				add("store.allowLocal", "true", "allow-local")
			}
			if !verbose {
				add("log.level", "warn", "")
			}
			lock, err := runDataDir(&conf, dataDir, store)
			if err != nil {
				return err
			}
			cfg, warn, err := conf.load(g.config)
			for _, w := range warn {
				cmd.PrintErrln("understudy: warning: " + w)
			}
			if err != nil {
				return err
			}
			if wd, err := os.Getwd(); err == nil && cfg.Service.WorkDir == "" {
				cfg.Service.WorkDir = wd
			}
			log, level, err := newLogger(cfg.Log, cmd.ErrOrStderr())
			if err != nil {
				return usagef("%w", err)
			}
			d := &daemon{cfg: cfg, log: log, level: level, reread: conf.again(g.config), lock: lock, passOutput: true, noUsers: true}
			ctx, release := untilSignal(cmd.Context(), log, d.onHangUp)
			defer release()
			return runCommand(ctx, d)
		},
	}
	f := cmd.Flags()
	f.StringVar(&store, "store", "", "`place` that all nodes share: a path or file:///path")
	f.StringVar(&dataDir, "data-dir", "", "local `directory` for this node's identity (default: one of this user's own, per store)")
	f.StringVar(&listen, "listen", "127.0.0.1:0", "`address` of the health paths")
	f.StringVar(&timeout, "timeout", "", "heartbeatTimeout, the `duration` after which a silent master is replaced (default 30s)")
	f.StringVar(&preset, "preset", "", "timings: default, fast or wan")
	f.BoolVar(&allowLocal, "allow-local", false, "accept a store on this machine's own disk, which gives no high availability")
	f.BoolVarP(&verbose, "verbose", "v", false, "log changes of role")
	conf.addTo(f)
	return cmd
}

// runDataDir settles on a data directory and locks it: the one asked for, or
// the first of this user's own for the store that no other run is using.
func runDataDir(conf *configFlags, asked, store string) (*os.File, error) {
	set := func(dir string) {
		conf.more = append(conf.more, config.Override{Key: "dataDir", Value: dir, From: "flag --data-dir"})
	}
	if asked != "" {
		set(asked)
		return nil, nil // locked like any daemon's
	}
	base, err := stateHome()
	if err != nil {
		return nil, exitf(exitUsage, "run: %w; give --data-dir", err)
	}
	sum := sha256.Sum256([]byte(store))
	for i := range maxRunSlots {
		dir := filepath.Join(base, "understudy", "run", hex.EncodeToString(sum[:6])+"-"+strconv.Itoa(i))
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, exitf(exitUsage, "run: %w; give --data-dir", err)
		}
		f, err := guard.LockDir(dir)
		if errors.Is(err, guard.ErrLocked) {
			continue
		}
		if err != nil {
			return nil, exitf(exitUsage, "run: %w", err)
		}
		set(dir)
		return f, nil
	}
	return nil, exitf(exitPrecondition, "run: %d runs on this store on this machine already", maxRunSlots)
}

// stateHome is where a user's programs keep state, by the XDG convention.
func stateHome() (string, error) {
	if d := os.Getenv("XDG_STATE_HOME"); d != "" {
		return d, nil
	}
	home, err := os.UserHomeDir()
	return filepath.Join(home, ".local", "state"), err
}

// runCommand runs the node until its command has ended once.
func runCommand(ctx context.Context, d *daemon) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var once *runOnce
	d.wrap = func(s ha.Service) ha.Service {
		once = newRunOnce(s, func() bool { return d.status != nil && d.status().Why == election.ReasonLeaseLost }, cancel)
		return once
	}
	err := runNode(ctx, d)
	if err == nil && once != nil {
		code := int(once.code.Load())
		switch why := once.why.Load(); {
		case code == 126 || code == 127:
			return exitf(code, "run: %s", *why)
		case code == exitLeaseLost:
			return exitf(code, "run: the lease was lost, so the command was killed")
		case code > 0:
			return silently(code)
		}
		return nil
	}
	if code := exitCode(err); code == exitFailed {
		return &exitError{exitRunFailed, fmt.Errorf("run: %w", err)}
	}
	return err
}

// runOnce watches the service of a run: its first end, whatever brought it
// about, is the end of the run.
type runOnce struct {
	ha.Service
	out     chan ha.ServiceEvent
	wait    sync.WaitGroup
	started atomic.Bool
	code    atomic.Int32 // exit code of the run
	why     atomic.Pointer[string]
}

func newRunOnce(s ha.Service, leaseLost func() bool, end func()) *runOnce {
	r := &runOnce{Service: s, out: make(chan ha.ServiceEvent)}
	exits, _ := s.(interface{ ExitCode() (int, bool) })
	r.wait.Go(func() {
		defer close(r.out)
		for ev := range s.Events() {
			switch ev.Kind {
			case ha.ServiceFailed:
				r.code.Store(int32(max(ev.Exit, 0)))
				r.why.Store(&ev.Why)
				end()
			case ha.ServiceStopping, ha.ServiceGuardLost:
				r.code.Store(exitLeaseLost)
				end()
			case ha.ServiceEmpty:
				if !r.started.Load() {
					break
				}
				if leaseLost() {
					r.code.Store(exitLeaseLost)
				} else if code, ok := exits.ExitCode(); ok && r.code.Load() == 0 {
					r.code.Store(int32(code))
				}
				end()
			case ha.ServiceArmed, ha.ServiceReady, ha.ServiceUnready, ha.ServiceStuck:
			}
			r.out <- ev
		}
	})
	return r
}

// Start implements ha.Service.
func (r *runOnce) Start(o ha.StartOrder) {
	r.started.Store(true)
	r.Service.Start(o)
}

// Events implements ha.Service.
func (r *runOnce) Events() <-chan ha.ServiceEvent { return r.out }

// Close implements ha.Service.
func (r *runOnce) Close() error {
	go func() {
		for range r.out { // nobody reads any more
		}
	}()
	err := r.Service.Close()
	r.wait.Wait()
	return err
}
