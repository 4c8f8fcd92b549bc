package main

import (
	"context"
	"errors"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/understudy-ha/understudy/api/server"
	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/persistence/verify"
	"github.com/understudy-ha/understudy/pkg/address"
	"github.com/understudy-ha/understudy/pkg/clock"
	"github.com/understudy-ha/understudy/pkg/config"
	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/pkg/guard"
	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/hook"
	"github.com/understudy-ha/understudy/pkg/lease"
	"github.com/understudy-ha/understudy/pkg/supervise"
)

// daemon is one node put together: lock, memory, store, service, REST. It is
// what server, run and demo share.
type daemon struct {
	cfg    *config.Config
	log    *zap.Logger
	timing election.Timing

	run     lease.Incarnation
	lock    *os.File
	dir     *ha.Dir
	store   persistence.Store
	meter   meter
	loc     config.Location
	service ha.Service
	// artifacts is nil for a node that persists nothing.
	artifacts *artifacts
	// supervisor is what service rests on; nil with service.none.
	supervisor *supervise.Supervisor
	leaseFile  string                                                                     // empty with service.none
	hooks      *hook.Queue                                                                // nil: no hook is configured
	watch      *hook.Watch                                                                // feeds it
	mayMove    func(ctx context.Context, t lease.Term, to lease.NodeID, why string) error // nil: always
	listener   net.Listener
	agent      net.Listener // nil: none
	elastic    *elasticIP   // nil: none
	access     access
	level      zap.AtomicLevel                                 // of log
	reread     func() (*config.Config, config.Warnings, error) // nil: it can not be read again
	uri        string
	warnings   []string

	lied bool // the store was seen to break its promise; owned by verify

	force      bool // mode DISABLED although the plane is alive
	passOutput bool // the service writes to this process' stdout and stderr
	noUsers    bool // REST answers health paths only
	wrap       func(ha.Service) ha.Service
	status     func() *ha.Status // once there is a node
}

// runNode puts a node together, runs it until ctx ends or it has to, and takes
// everything down again. Whatever is wrong with the configuration or the
// machine shows before the node takes part in anything.
func runNode(ctx context.Context, d *daemon) (err error) {
	var watched sync.WaitGroup // by the service manager, until all is taken down
	watch, unwatch := context.WithCancel(context.WithoutCancel(ctx))
	defer watched.Wait()
	defer unwatch()
	if err := d.prepare(ctx); err != nil {
		return errors.Join(err, d.close())
	}
	defer func() { err = errors.Join(err, d.close()) }()
	node, err := d.node()
	if err != nil {
		return err
	}
	d.status = node.Status
	pid := filepath.Join(d.cfg.DataDir, "pid.txt")
	if err := os.WriteFile(pid, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o644); err != nil { //nolint:gosec // anybody may know it
		return dataDirError(d.cfg.DataDir, err)
	}
	defer os.Remove(pid) // best effort; a stale one names a dead process

	// The listener closes when the node has ended, not before: /master must
	// answer 503 while the service is being stopped.
	rest, stopRest := context.WithCancel(context.WithoutCancel(ctx))
	served := make(chan error, 1)
	opt := server.Options{
		Logger: d.log, Gate: d.access.gate.Load, Peer: d.access.peer, Reload: d.reload, Build: server.Build{SHA1: build().Commit},
		NonMaster:  func() server.NonMaster { return server.NonMaster(d.access.cfg.Load().Server.NonMaster) },
		Config:     func(key string) (any, bool) { return d.access.cfg.Load().Value(key) },
		Collectors: []prometheus.Collector{&d.meter}, StoreRequests: d.meter.requests, StoreLatency: d.meter.lastHour,
	}
	opt.State = node.Persisted()
	if d.supervisor != nil {
		opt.Service = d.supervisor
	}
	if d.artifacts != nil {
		d.artifacts.node = node
		opt.Artifacts, opt.Content = d.artifacts, d.artifacts
	}
	if d.hooks != nil {
		opt.Collectors = append(opt.Collectors, hookMeter{d.hooks})
	}
	handler := server.New(node, opt)
	go func() { served <- server.Serve(rest, d.listener, handler, d.tlsConfig(), d.log) }()
	var standby sync.WaitGroup
	defer standby.Wait()
	defer stopRest()
	standby.Go(func() { d.watchStandby(rest, node) })
	standby.Go(func() { d.watchAccess(rest) })
	if d.artifacts != nil {
		standby.Go(func() { d.artifacts.run(rest) })
	}
	d.sayAccess()
	manager := newNotifier(node, d.log)
	watched.Go(func() { manager.run(watch) })
	defer manager.over.Store(true)
	var told sync.WaitGroup
	d.tell(rest, node, &told)
	d.log.Info("started", zap.String("node", string(d.dir.Node())), zap.String("uri", d.uri),
		zap.String("mode", string(d.cfg.HighAvailabilityMode)), zap.String("store", d.store.Limits().URL),
		zap.Duration("heartbeatTimeout", d.timing.Timeout), zap.Int("pid", os.Getpid()), zap.String("version", build().Version))
	guard.DropBinary()
	watched.Go(func() { dropStart(watch) })
	err = node.Run(ctx)
	stopRest()
	told.Wait()
	if serr := <-served; serr != nil {
		d.log.Warn("REST", zap.Error(serr))
	}
	var exit *ha.ExitError
	if errors.As(err, &exit) {
		return &exitError{exit.Code, errors.New(exit.Reason)}
	}
	return err
}

// startTakes is when a node has settled, as a rule.
const startTakes = 5 * time.Second

// dropStart gives back the memory that only the beginning of a node needed:
// checking the store, the certificate, joining the plane.
func dropStart(ctx context.Context) {
	select {
	case <-time.After(startTakes):
		debug.FreeOSMemory()
		guard.DropBinary()
	case <-ctx.Done():
	}
}

// tell lets other programs know whether this node is MASTER, until ctx ends.
func (d *daemon) tell(ctx context.Context, node *ha.Node, wg *sync.WaitGroup) {
	if d.agent != nil {
		wg.Go(func() { server.ServeAgent(ctx, d.agent, node, d.log) })
	}
	if d.cfg.RoleFile != "" {
		wg.Go(func() {
			address.KeepRole(ctx, d.cfg.RoleFile, func() bool { return node.Status().Serving(node.Now()) }, func(err error) {
				d.log.Error("roleFile can not be written; make its directory, or name another", zap.Error(err))
			})
		})
	}
	if d.elastic != nil {
		wg.Go(func() { d.keepElastic(ctx, node) })
	}
}

// prepare opens everything a node needs, in the order in which mistakes are
// cheapest to find.
func (d *daemon) prepare(ctx context.Context) error {
	var err error
	d.run = ha.NewIncarnation()
	if err = os.MkdirAll(d.cfg.DataDir, 0o700); err != nil {
		return dataDirError(d.cfg.DataDir, err)
	}
	if d.lock == nil {
		if d.lock, err = d.lockDir(ctx); err != nil {
			return err
		}
	}
	if d.dir, err = ha.OpenDir(d.cfg.DataDir); err != nil {
		return dataDirError(d.cfg.DataDir, err)
	}
	if err = d.openStore(ctx); err != nil {
		return err
	}
	if err = d.openArtifacts(ctx); err != nil {
		return err
	}
	l := d.store.Limits()
	if d.timing, err = election.Derive(d.cfg.TimingRequest(l.MinBeat, l.PollDivisor)); err != nil {
		return err
	}
	if err = checkPersistMode(ctx, d.store, d.cfg.PersistMode, d.dir.Node(), d.timing); err != nil {
		// A node told to REBIND never makes a plane, so it may wait for the store.
		if d.cfg.HA.FailFast || d.cfg.PersistMode != config.PersistRebind || !errors.Is(err, persistence.Unknown) {
			return err
		}
		d.log.Warn("the store does not answer; waiting for it", zap.Error(err))
	}
	if d.listener, err = server.Listen(ctx, d.cfg.Server.Listen); err != nil {
		return exitf(exitUsage, "%w", err)
	}
	if a := d.cfg.Server.AgentListen; a != "" {
		if d.agent, err = server.ListenAgent(ctx, a); err != nil {
			return exitf(exitUsage, "%w", err)
		}
	}
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	port := 0
	if a, ok := d.listener.Addr().(*net.TCPAddr); ok {
		port = a.Port
	}
	d.uri = d.cfg.URI(host, port)
	if err = d.prepareAccess(host); err != nil {
		return dataDirError(d.cfg.DataDir, err)
	}
	if d.service, err = d.newService(ctx); err != nil {
		return err
	}
	if d.wrap != nil {
		d.service = d.wrap(d.service)
	}
	if err = d.newElastic(ctx); err != nil {
		return exitf(exitUsage, "elasticIP: %w", err)
	}
	d.newHooks(ctx)
	return nil
}

// dataDirError refuses a start, with the remedy where the local disk is at
// fault.
func dataDirError(dir string, err error) error {
	for _, c := range []struct {
		errno  syscall.Errno
		remedy string
	}{
		{syscall.ENOSPC, "free space or inodes there; a node that can not remember must not take part"},
		{syscall.EDQUOT, "raise the quota or delete files of its owner; a node that can not remember must not take part"},
		{syscall.EROFS, "mount it read-write, or name another local directory"},
		{syscall.ENOTDIR, "name a directory on a local disk"},
		{syscall.EACCES, "give it to the user that runs understudy, or name another local directory"},
	} {
		if errors.Is(err, c.errno) {
			return exitf(exitUsage, "dataDir %s: %w; %s", dir, err, c.remedy)
		}
	}
	return exitf(exitUsage, "%w", err)
}

// lockDir locks the data directory. The guard of a daemon that died holds it
// until the service is gone; that is waited for, and said if it lasts (R10).
func (d *daemon) lockDir(ctx context.Context) (*os.File, error) {
	began := time.Now()
	said := false
	for {
		f, err := guard.LockDir(d.cfg.DataDir)
		var held *guard.LockedError
		switch {
		case err == nil:
			return f, nil
		case !errors.As(err, &held):
			return nil, dataDirError(d.cfg.DataDir, err)
		case held.Daemon != 0:
			return nil, exitf(exitPrecondition, "%w", err)
		}
		if !said && time.Since(began) > 10*time.Second {
			said = true
			d.log.Error("FENCING_FAILED: the service of a former run does not end", zap.Error(err))
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// openStore opens the shared location and refuses what an operator has to put
// right. A store that merely does not answer is waited for by the node itself.
func (d *daemon) openStore(ctx context.Context) error {
	var err error
	if d.loc, err = d.cfg.Location(); err != nil {
		return exitf(exitUsage, "%w", err)
	}
	if d.loc.Scheme == "" { // DISABLED: nothing shared; the node keeps to itself
		d.loc = config.Location{Scheme: "file", Path: filepath.Join(d.cfg.DataDir, "store")}
	}
	warn := func(s string) { d.log.Warn("store", zap.String("warning", s)) }
	if d.store, err = openStore(d.loc, warn, d.meter.sent.Add); err != nil {
		return exitf(exitUsage, "persistenceDir: %w", err)
	}
	d.store = d.meter.wrap(d.store)
	local := d.cfg.PersistenceDir == "" || d.cfg.PersistMode == config.PersistDisabled
	if local {
		if err := os.MkdirAll(d.loc.Path, 0o700); err != nil {
			return exitf(exitUsage, "%w", err)
		}
	}
	if c, ok := d.store.(persistence.Checker); ok {
		cctx, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		err := c.Check(cctx)
		switch {
		case err == nil:
		case errors.Is(err, persistence.Unknown):
			if d.cfg.HA.FailFast {
				return exitf(exitUnreachable, "persistenceDir: %w", err)
			}
			d.log.Warn("the store does not answer; waiting for it", zap.Error(err))
		default:
			return exitf(exitUsage, "persistenceDir: %w", err)
		}
	}
	for _, w := range d.store.Limits().Warnings { // REST shows them too, see ha.New
		warn(w)
	}
	if l := d.store.Limits(); l.Local && d.cfg.PersistMode != config.PersistDisabled {
		if d.cfg.Store.AllowLocal {
			// The operator said so: shown, but not warned of at every start.
			w := "NO_HA_GUARANTEE: persistenceDir " + d.loc.String() + " is on " + l.LocalWhy + ", which no other machine shares"
			d.warnings = append(d.warnings, w)
			d.log.Info(w)
		} else {
			d.warn("LOCAL_STORE: persistenceDir " + d.loc.String() + " is on " + l.LocalWhy + ", which no other machine shares: no plane is made there by a node. Mount the shared file system, or set store.allowLocal, or run understudy init")
		}
	}
	return nil
}

func (d *daemon) warn(s string) {
	d.warnings = append(d.warnings, s)
	d.log.Warn(s)
}

// node makes the node out of the parts.
func (d *daemon) node() (*ha.Node, error) {
	former := d.former() // before the record of this run replaces it
	d.dir.Proof = func(plane lease.PlaneID, term lease.Term, run lease.Incarnation) error {
		return guard.NewProof(plane, term, run, d.service.Info().GuardPid).Save(d.cfg.DataDir)
	}
	c := d.cfg
	persist := &ha.Persist{Clean: c.PersistMode == config.PersistClean, Retention: c.State.Retention, Backups: ha.Backups(c.State.Backups)}
	if c.PersistMode == config.PersistDisabled || c.HighAvailabilityMode == lease.ModeDisabled {
		persist = nil // the register says what counts, and there is none, or it is not ours
	}
	return ha.New(d.store, ha.Options{
		Node: d.dir.Node(), Incarnation: d.run, URI: d.uri, Key: d.pin(), Version: build().Version,
		Mode: c.HighAvailabilityMode, Priority: d.dir.Priority(c.Priority), Timing: d.timing,
		HotStandby: c.HA.HotStandby, StateCompat: c.HA.StateCompat, AutoInit: c.HA.AutoInit && c.PersistMode != config.PersistRebind && (c.Store.AllowLocal || !d.store.Limits().Local),
		FailFast: c.HA.FailFast, DrainDelay: c.Service.DrainDelay, Force: d.force,
		InactiveNodeRemoval: c.HA.InactiveNodeRemoval, Persist: persist,
		Clock: clock.Now, Service: d.service, Memory: d.dir, Former: former,
		Verify: d.verify, Nudge: newNudger(d.access.peer), Warnings: d.warnings, Log: d.log,
		OnStatus: d.onStatus, PreSwitchover: d.mayMove,
		Failback: c.Failback(), AntiFlap: election.AntiFlap(c.HA.AntiFlap),
		Fencing: d.fencing(),
	})
}

// former proves, if it can, that this node's former run is over, its service
// included (R10).
func (d *daemon) former() *election.Former {
	p, ok, err := guard.LoadProof(d.cfg.DataDir)
	if !ok || err != nil {
		if err != nil {
			d.log.Warn("the record of the former run can not be read; its lease is waited out", zap.Error(err))
		}
		return nil
	}
	proven, why := p.Check(d.cfg.DataDir)
	d.log.Debug("former run", zap.Bool("provenOver", proven), zap.String("why", why), zap.Uint64("term", uint64(p.Term)))
	if !proven {
		return nil
	}
	return &election.Former{Term: p.Term, Incarnation: p.Incarnation}
}

// amends is how many checks in a row, in full, must find nothing before a store
// is believed that was once seen to break its promise: some break it by chance
// only, and a check that is repeated often enough passes by chance, too.
const amends = 3

// verify is R18 in its short form.
func (d *daemon) verify(ctx context.Context) error {
	checks := 1
	if d.lied {
		checks = amends
	}
	for range checks {
		r, err := verify.Run(ctx, d.store, verify.Options{Short: !d.lied, Heartbeat: d.timing.Heartbeat, OperationTimeout: d.timing.Operation})
		if err != nil {
			return err
		}
		if !r.OK {
			d.lied = true
			return errors.New(r.Verdict)
		}
	}
	return nil
}

// close takes down what prepare opened. The lock goes last: it says that this
// node's service may be running.
func (d *daemon) close() error {
	var errs []error
	if d.listener != nil {
		if err := d.listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	if d.agent != nil {
		if err := d.agent.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	d.closeHooks()
	if d.service != nil {
		errs = append(errs, d.service.Close())
	}
	if d.artifacts != nil {
		errs = append(errs, d.artifacts.close())
	}
	if d.store != nil {
		errs = append(errs, d.store.Close())
	}
	if d.lock != nil {
		errs = append(errs, d.lock.Close())
	}
	return errors.Join(errs...)
}

// untilSignal returns a context that ends at the first SIGTERM or SIGINT.
// At each SIGHUP, which by default would kill the daemon, it calls onHangUp.
func untilSignal(ctx context.Context, log *zap.Logger, onHangUp func()) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	ch := make(chan os.Signal, 4)
	signal.Notify(ch, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-ctx.Done():
				return
			case s := <-ch:
				if s == syscall.SIGHUP {
					tellReload(log, onHangUp)
					continue
				}
				log.Info("stopping", zap.String("signal", s.String()))
				cancel()
			}
		}
	}()
	return ctx, func() {
		signal.Stop(ch)
		cancel()
		<-done
	}
}
