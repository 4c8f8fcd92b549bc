package main

import (
	"context"
	"crypto/tls"
	"errors"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/understudy-ha/understudy/api/client"
	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/persistence/posix"
	"github.com/understudy-ha/understudy/pkg/address"
	"github.com/understudy-ha/understudy/pkg/clock"
	"github.com/understudy-ha/understudy/pkg/config"
	"github.com/understudy-ha/understudy/pkg/doctor"
	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/pkg/guard"
	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/lease"
	"github.com/understudy-ha/understudy/pkg/supervise"
	"github.com/understudy-ha/understudy/pkg/unit"
)

// exam gathers what the checks of package doctor judge.
type exam struct {
	file     string
	cfg      *config.Config // nil when it could not be read at all
	invalid  *config.Error
	warnings config.Warnings
	quick    bool

	store  persistence.Store // nil when there is none to look at
	timing election.Timing
	began  lease.Instant

	reached atomic.Int32        // doctor.Reached
	said    persistence.Finding // of the first look at the store
	mu      sync.Mutex          // a check that is late may still be writing
	known   known
	within  doctor.Place // where the store lies
}

// known is what the data directory and /proc tell of this machine's node.
type known struct {
	memory        ha.Remembered
	daemon, guard int  // pids
	uid           int  // of the daemon, else of this process
	hidden        bool // the data directory is closed to this process
}

func (e *exam) close() {
	if e.store != nil {
		_ = e.store.Close()
	}
}

func (e *exam) learnt() known {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.known
}

func (e *exam) storePlace() doctor.Place {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.within
}

// checks lists what is looked at, in this order: what is this machine's comes
// first, so that a store that hangs does not keep it back.
func (e *exam) checks() []doctor.Check {
	e.began = doctor.SampleClocks(clock.Now)
	checks := []doctor.Check{{Name: "configuration", Run: e.configuration}}
	if e.cfg == nil {
		return append(checks, e.machine("auto")...)
	}
	var opening []doctor.Check
	if loc, err := e.cfg.Location(); err == nil && loc.Scheme != "" {
		opening = e.open(loc)
	}
	if e.timing.Timeout == 0 {
		e.timing, _ = election.Derive(e.cfg.TimingRequest(0, 0)) // the error is among the lines of the configuration
	}
	checks = append(checks,
		doctor.Check{Name: "node", Run: e.node},
		doctor.Check{Name: "daemon", Run: e.daemon, Limit: 10 * time.Second},
	)
	checks = append(checks, e.machine(e.cfg.Service.Isolation)...)
	checks = append(checks, e.files()...)
	checks = append(checks, opening...)
	return append(checks, e.shared()...)
}

// machine are the checks that need no configuration.
func (e *exam) machine(isolation string) []doctor.Check {
	one := func(f func() persistence.Finding) func(context.Context) []persistence.Finding {
		return func(context.Context) []persistence.Finding { return []persistence.Finding{f()} }
	}
	checks := []doctor.Check{
		{Name: "clock source", Run: one(func() persistence.Finding { return doctor.ClockSource("/") })},
		{Name: "clock pace", Run: e.pace},
		{Name: "time of day", Run: one(func() persistence.Finding { return doctor.WallClock(doctor.AskKernel()) })},
		{Name: "limits", Run: func(context.Context) []persistence.Finding {
			if pid := e.learnt().daemon; pid != 0 {
				return doctor.Limits("/", pid, true)
			}
			return doctor.Limits("/", os.Getpid(), false)
		}},
		{Name: "watchdog", Run: one(func() persistence.Finding {
			c := e.cfg
			if c == nil {
				c = config.Default()
			}
			return doctor.Watchdog("/", c.Watchdog, c.WatchdogDevice)
		})},
	}
	if e.cfg != nil && e.cfg.Service.None {
		return checks
	}
	return append(checks, doctor.Check{Name: "guard", Run: func(context.Context) []persistence.Finding {
		a, err := guard.Look(isolation)
		return doctor.GuardAbilities(doctor.Guard{Isolation: a.Isolation, TreeLost: a.TreeLost, MemoryLost: a.MemoryLost, Err: err, Root: os.Geteuid() == 0})
	}})
}

// pace waits until a second has passed since the first sample.
func (e *exam) pace(ctx context.Context) []persistence.Finding {
	wait := time.Second - time.Duration(clock.Now().Raw-e.began.Raw)
	select {
	case <-time.After(wait):
	case <-ctx.Done():
		return nil
	}
	return []persistence.Finding{doctor.Pace(e.began, doctor.SampleClocks(clock.Now))}
}

// node learns what the data directory remembers, and who holds it.
func (e *exam) node(ctx context.Context) []persistence.Finding {
	k := known{uid: os.Geteuid()}
	var err, herr error
	k.memory, err = ha.LookInto(e.cfg.DataDir)
	k.daemon, k.guard, herr = guard.Holder(e.cfg.DataDir)
	if st, serr := os.Stat(filepath.Join("/proc", strconv.Itoa(k.daemon))); k.daemon != 0 && serr == nil {
		if sys, ok := st.Sys().(*syscall.Stat_t); ok {
			k.uid = int(sys.Uid)
		}
	}
	err = errors.Join(err, herr)
	k.hidden = errors.Is(err, fs.ErrPermission)
	if ctx.Err() == nil {
		e.mu.Lock()
		e.known = k
		e.mu.Unlock()
	}
	m := k.memory
	return []persistence.Finding{doctor.Node{DataDir: e.cfg.DataDir, ID: m.Node, Plane: m.Plane, Term: m.Term, Err: err}.Look()}
}

// daemon asks the live daemon how it is.
func (e *exam) daemon(ctx context.Context) []persistence.Finding {
	k := e.learnt()
	d := doctor.Daemon{DataDir: e.cfg.DataDir, Pid: k.daemon, Guard: k.guard, Unknown: k.hidden}
	if k.daemon != 0 {
		if h, err := e.ask(ctx); err == nil && h.Node == string(k.memory.Node) {
			d.State, d.Term, d.Warnings = string(h.State), h.Term, h.Warnings
		}
	}
	return []persistence.Finding{d.Look()}
}

// endpoint is where this machine's node listens, by its configuration.
func (e *exam) endpoint() string {
	c := *e.cfg
	c.NodeURI = ""
	return c.URI("127.0.0.1", 0)
}

// ask is a question that needs no password, to whoever listens where the node
// should.
func (e *exam) ask(ctx context.Context) (client.Health, error) {
	c, err := client.New([]string{e.endpoint()}, client.Options{Insecure: true, Timeout: 2 * time.Second})
	if err != nil {
		return client.Health{}, err
	}
	defer c.Close()
	h, err := c.Health(ctx, "/master")
	if err == nil && h.Node == "" {
		err = errors.New("what answers is no node")
	}
	return h, err
}

// served is the certificate that is shown where the node listens, if any.
func (e *exam) served(ctx context.Context) []byte {
	u, err := url.Parse(e.endpoint())
	if err != nil || e.learnt().daemon == 0 {
		return nil
	}
	d := tls.Dialer{
		NetDialer: &net.Dialer{Timeout: 2 * time.Second},
		Config:    &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}, //nolint:gosec // nothing is sent, only the certificate looked at
	}
	conn, err := d.DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return nil
	}
	defer conn.Close()
	if t, ok := conn.(*tls.Conn); ok && len(t.ConnectionState().PeerCertificates) > 0 {
		return t.ConnectionState().PeerCertificates[0].Raw
	}
	return nil
}

// files are the checks of what the node has on this machine.
func (e *exam) files() []doctor.Check {
	c := e.cfg
	checks := []doctor.Check{
		// Says nothing itself: what follows is held against it.
		{Name: "store", Run: e.findStore},
		{Name: "data directory", Run: func(context.Context) []persistence.Finding {
			k := e.learnt()
			return doctor.DataDir{Path: c.DataDir, Place: place(c.DataDir), Store: e.storePlace(), UID: k.uid, Daemon: k.daemon != 0}.Look()
		}},
		{Name: "data directory space", Run: func(context.Context) []persistence.Finding {
			return []persistence.Finding{doctor.Space(c.DataDir)}
		}},
		{Name: "secrets", Run: func(context.Context) []persistence.Finding { return doctor.Secrets(e.secrets()) }},
		{Name: "binary", Run: func(context.Context) []persistence.Finding {
			path, err := os.Executable()
			if pid := e.learnt().daemon; pid != 0 { // what runs counts
				if p, lerr := os.Readlink(filepath.Join("/proc", strconv.Itoa(pid), "exe")); lerr == nil {
					path, err = p, nil
				}
			}
			if err != nil {
				return []persistence.Finding{doctor.Failed("binary", err)}
			}
			return []persistence.Finding{doctor.Binary(path, place(path), e.storePlace())}
		}},
		{Name: "port", Limit: 10 * time.Second, Run: e.port},
	}
	if !c.Server.TLS.Disabled {
		checks = append(checks, doctor.Check{Name: "certificate", Run: e.certificate})
	}
	if c.Service.Systemd != "" {
		checks = append(checks, doctor.Check{Name: "service unit", Run: e.unit, Limit: unitLimit})
	}
	if !c.Service.None {
		checks = append(checks,
			doctor.Check{Name: "service command", Run: e.service},
			doctor.Check{Name: "stop time", Run: e.stops},
		)
	}
	if f := c.FloatingIP; f.Address != "" {
		checks = append(checks, doctor.Check{Name: "floating address", Run: func(context.Context) []persistence.Finding {
			lacking := ""
			if e.learnt().daemon == 0 { // or its own word is in REST
				lacking = address.Lacking()
			}
			return []persistence.Finding{doctor.Floating{Address: f.Address, Interface: f.Interface, Lacking: lacking, Find: net.InterfaceByName}.Look()}
		}})
	}
	return checks
}

// unit asks systemd whether the unit can be the service.
func (e *exam) unit(ctx context.Context) []persistence.Finding {
	const name = "service unit"
	unitName := e.cfg.Service.Systemd
	if err := unit.Check(ctx, unitName); err != nil {
		return []persistence.Finding{doctor.Failed(name, err)}
	}
	return []persistence.Finding{{Name: name, Status: persistence.GradeOK, Detail: unitName + " is there, disabled, and left alone by systemd"}}
}

// programs are the commands beside the service's own.
func (e *exam) programs() []doctor.Program {
	s := e.cfg.Service
	all := []doctor.Program{
		{Key: "service.stop", Command: s.Stop, Without: "the service is not asked to stop, and one that others run never stops"},
		{Key: "service.probe", Command: s.Probe, Without: "nobody can tell whether the service runs: nothing starts, and one that others run is never released"},
		{Key: "service.standbyCommand", Command: s.StandbyCmd, Without: "a hot standby does not keep warm"},
	}
	for _, c := range s.Checks {
		all = append(all, doctor.Program{Key: "service.checks", Command: c.Exec, Without: "the service fails its check " + c.Name + " again and again"})
	}
	for _, h := range e.cfg.Hooks.All() {
		all = append(all, doctor.Program{Key: "hooks." + h.Event, Command: h.Command, Without: "that hook fails; prePromote is a veto then"})
	}
	return all
}

func (e *exam) findStore(context.Context) []persistence.Finding {
	loc, err := e.cfg.Location()
	if err != nil || loc.Scheme != "file" {
		return nil
	}
	found := make(chan doctor.Place, 1)
	go func() { found <- place(loc.Path) }()
	within := doctor.Place(posix.PlaceByName(loc.Path))
	select {
	case within = <-found:
	case <-time.After(time.Second): // it hangs, which will be said in time
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.within = within
	return nil
}

// place is where a path lies; zero when that can not be found out.
func place(path string) doctor.Place {
	p, err := posix.FindPlace(path)
	if err != nil {
		return doctor.Place{}
	}
	return doctor.Place(p)
}

func (e *exam) secrets() []doctor.Secret {
	c := e.cfg
	var files []doctor.Secret
	for _, own := range []string{"tls.key", "peer.key", "htpasswd", localCredentialsFile} {
		files = append(files, doctor.Secret{Path: filepath.Join(c.DataDir, own), Own: true})
	}
	for _, given := range []string{c.Server.TLS.Key, c.Server.Auth.Htpasswd, c.Server.Auth.PasswordFile} {
		if given != "" {
			files = append(files, doctor.Secret{Path: given})
		}
	}
	return files
}

func (e *exam) port(ctx context.Context) []persistence.Finding {
	k := e.learnt()
	f := doctor.Port{
		Address: e.cfg.Server.Listen, Daemon: k.daemon, Unknown: k.hidden, Node: string(k.memory.Node),
		Answers: func(ctx context.Context) (string, error) {
			h, err := e.ask(ctx)
			return h.Node, err
		},
		Owner: func(port int) string { return doctor.PortOwner("/", port) },
	}.Look(ctx)
	lines := []persistence.Finding{f}
	if uri := e.uri(); uri != nil {
		lines = append(lines, doctor.Address(uri, e.cfg.Server.Listen)...)
	}
	return lines
}

// uri is how others address this node; nil when that can not be told.
func (e *exam) uri() *url.URL {
	host, err := os.Hostname()
	if err != nil {
		return nil
	}
	u, err := url.Parse(e.cfg.URI(host, 0))
	if err != nil {
		return nil
	}
	return u
}

func (e *exam) certificate(ctx context.Context) []persistence.Finding {
	t := e.cfg.Server.TLS
	c := doctor.Certificate{Cert: t.Cert, Key: t.Key, Now: time.Now(), Served: e.served(ctx), Hidden: e.learnt().hidden}
	if t.Cert == "" {
		c.Cert, c.Key, c.Own = filepath.Join(e.cfg.DataDir, "tls.crt"), filepath.Join(e.cfg.DataDir, "tls.key"), true
	}
	if u := e.uri(); u != nil {
		c.Name = u.Hostname()
	}
	return c.Look()
}

func (e *exam) service(context.Context) []persistence.Finding {
	s := e.cfg.Service
	return doctor.Service{
		Command: s.Command, Ready: s.Ready.Exec, Beside: e.programs(), Env: serviceEnv(s.Env, nil), WorkDir: s.WorkDir, Output: s.Output,
		Store: e.storePlace(),
		Find: func(path string) (doctor.Place, error) {
			p, err := posix.FindPlace(path)
			return doctor.Place(p), err
		},
	}.Look()
}

func (e *exam) stops(context.Context) []persistence.Finding {
	recorded, err := supervise.Stops(e.cfg.DataDir)
	if err != nil {
		return []persistence.Finding{doctor.Warning("stop time", err.Error())}
	}
	var stops []doctor.Stop
	for _, s := range recorded {
		stops = append(stops, doctor.Stop{Took: s.Took, Killed: s.Killed})
	}
	return []persistence.Finding{doctor.StopTimes(stops, e.timing)}
}

// open opens the store; what stands against that is a check of its own.
func (e *exam) open(loc config.Location) []doctor.Check {
	var err error
	if e.store, err = openStore(loc, nil); err != nil {
		return []doctor.Check{{Name: "store", Run: func(context.Context) []persistence.Finding {
			return []persistence.Finding{doctor.Failed("store", err)}
		}}}
	}
	l := e.store.Limits()
	e.timing, err = election.Derive(e.cfg.TimingRequest(l.MinBeat, l.PollDivisor))
	if err == nil || e.invalid != nil {
		return nil
	}
	return []doctor.Check{{Name: "timings", Run: func(context.Context) []persistence.Finding {
		return []persistence.Finding{doctor.Failed("timings", err)}
	}}}
}

// shared are the checks of the store and the plane on it.
func (e *exam) shared() []doctor.Check {
	if e.store == nil {
		return nil
	}
	if _, err := os.Stat(filepath.Join(e.cfg.DataDir, "store")); e.cfg.PersistenceDir == "" && errors.Is(err, os.ErrNotExist) {
		return []doctor.Check{{Name: "store", Run: func(context.Context) []persistence.Finding {
			return []persistence.Finding{{Name: "store", Status: persistence.GradeOK, Detail: "a directory in dataDir, on this machine alone; the first start makes it"}}
		}}}
	}
	// Each is left out when there is no point in asking.
	when := func(able func() bool, f func(context.Context) []persistence.Finding) func(context.Context) []persistence.Finding {
		return func(ctx context.Context) []persistence.Finding {
			if !able() {
				return nil
			}
			return f(ctx)
		}
	}
	readable := func() bool { return e.reach() <= doctor.Unwritable }
	writable := func() bool { return e.reach() == doctor.Usable }
	checks := []doctor.Check{
		{Name: "store", Limit: doctor.ReachLimit, Late: doctor.StoreLate, Run: e.tryStore},
		{Name: "store location", Limit: doctor.ReachLimit, Late: doctor.StoreLate, Run: when(readable, e.location)},
		{Name: "store latency", Limit: doctor.LatencyLimit, Late: doctor.StoreLate, Run: when(writable, e.latency)},
	}
	if !e.quick {
		checks = append(checks, doctor.Check{Name: "store semantics", Limit: doctor.SemanticsLimit, Late: doctor.StoreLate, Run: when(writable, func(ctx context.Context) []persistence.Finding {
			return doctor.Semantics(ctx, e.store, e.timing)
		})})
	}
	return append(checks,
		doctor.Check{Name: "plane", Limit: doctor.ReachLimit, Late: doctor.StoreLate, Run: when(readable, func(ctx context.Context) []persistence.Finding {
			return []persistence.Finding{e.plane().Register(ctx, e.store)}
		})},
		doctor.Check{Name: "nodes", Limit: doctor.ReachLimit, Late: doctor.StoreLate, Run: when(readable, func(ctx context.Context) []persistence.Finding {
			return e.plane().Nodes(ctx, e.store)
		})},
	)
}

func (e *exam) reach() doctor.Reached { return doctor.Reached(e.reached.Load()) }

func (e *exam) tryStore(ctx context.Context) []persistence.Finding {
	f, reached := doctor.Reach(ctx, e.store)
	e.mu.Lock()
	e.said = f
	e.mu.Unlock()
	e.reached.Store(int32(reached))
	return []persistence.Finding{f}
}

func (e *exam) location(ctx context.Context) []persistence.Finding {
	e.mu.Lock()
	said := e.said
	e.mu.Unlock()
	return doctor.Location(ctx, e.store, said)
}

func (e *exam) latency(ctx context.Context) []persistence.Finding {
	f, reached := doctor.Latency(ctx, e.store, e.timing)
	e.reached.Store(int32(reached))
	return []persistence.Finding{f}
}

func (e *exam) plane() doctor.Plane {
	k := e.learnt()
	l := e.store.Limits()
	return doctor.Plane{
		URL: l.URL, Node: k.memory.Node, Known: k.memory.Plane, Term: k.memory.Term,
		AutoInit: e.cfg.HA.AutoInit && e.cfg.PersistMode != config.PersistRebind,
		Local:    l.Local && !e.cfg.Store.AllowLocal,
		ReadOnly: e.reach() != doctor.Usable,
		Timeout:  e.timing.Timeout, Version: build().Version, Running: k.daemon != 0, Now: time.Now(),
	}
}
