package supervise

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/understudy-ha/understudy/pkg/address"
	"github.com/understudy-ha/understudy/pkg/guard"
	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// Policy says when a service that ended is started again on this node.
type Policy string

// The restart policies.
const (
	RestartOnFailure Policy = "on-failure" // unless it exited with 0; the default
	RestartAlways    Policy = "always"
	RestartNever     Policy = "never"
)

// Options configure a Supervisor. Zero values mean the defaults.
type Options struct {
	// Command is the service, exec form. Required.
	Command []string
	// Prepare returns Command as it is to be run this time, and makes sure that
	// what it names is there: it is called before each run, with the start
	// timeout as its limit, beside everything else. An error fails the start.
	// Nil: Command is run as it stands.
	Prepare func(ctx context.Context) ([]string, error)
	// Dir is the working directory; empty: that of this process.
	Dir string
	// Env is the environment that the HA_ variables are added to; nil means
	// this process'. NOTIFY_SOCKET, UNDERSTUDY_* and HideEnv never reach the
	// service.
	Env []string
	// HideEnv names further variables to withhold, such as the store's secrets.
	HideEnv []string
	// OutputPath is a local file that the service's output is appended to, by a
	// process of its own (LogMain); empty: the service writes to Stdout and
	// Stderr.
	OutputPath string
	LogMaxSize int64 // bytes of that file before it is rotated, once its last line is whole; 0: 10 MiB, negative: never
	LogKeep    int   // older files kept; 0 means 5, negative none
	// Stdout and Stderr are used when OutputPath is empty; nil: this process'.
	Stdout, Stderr *os.File

	Ready        Check         // readiness; the zero Check is "alive"
	StartGrace   time.Duration // of "alive"; 200ms
	StartTimeout time.Duration // from Start to ready; 60s

	Checks     []Check       // liveness: the service fails when one of them does
	DrainDelay time.Duration // between "not ready" and the stop, when an operator asks for it

	// StandbyCommand runs while this node is a hot standby, in the same
	// environment but for HA_STATE; see Standby. Empty: nothing does.
	StandbyCommand []string
	// StopCommand asks the service to stop before it is signalled, where time
	// allows; empty: there is none.
	StopCommand []string
	// Probe tells whether the service runs on this machine: exit code 0 it
	// does, 7 it does not, anything else is unknown. Empty: nobody asks.
	Probe        []string
	OnUnexpected OnUnexpected
	// Delegates: Command hands its work to processes that are not beneath it.
	// The guard then runs StopCommand and Probe, both required, and the service
	// is gone only when Probe says 7.
	Delegates bool

	Restart     Policy
	BackOff     time.Duration // first pause before a restart, doubling; 1s
	MaxBackOff  time.Duration // 30s
	MaxRestarts int           // within Window; 0 means 3, negative none
	Window      time.Duration // 60s

	StopSignal  syscall.Signal // TERM
	StopTimeout time.Duration  // S; the guard is told it with each deadline. 10s
	GuardStop   time.Duration  // TERM to KILL when the daemon died; min(1s, S/2)

	// The guard, see guard.Options.
	DataDir        string // required
	Lock           *os.File
	Isolation      string
	Incarnation    lease.Incarnation
	ReleaseArgv    []string
	ReleaseStdin   []byte
	ReleaseTimeout time.Duration
	GuardLogPath   string // local file; empty: stderr of this process
	Exe            string
	LeaseFile      string // see guard.LeaseFile; the service finds it as HA_LEASE_FILE
	Finals         guard.Finals

	// Floating is an address of this machine while the service is ready, and
	// until it is gone; nil: none. AddressLifetime is how long the kernel keeps
	// one that was added if the guard says nothing more: T.
	Floating        *address.Floating
	AddressLifetime time.Duration

	// Watchdog is a hardware watchdog that the guard keeps; nil: none.
	Watchdog *guard.Watchdog

	// Subreaper makes this process adopt what outlives guard and shim, so that
	// their death together can be proven harmless without a PID namespace. For
	// a daemon that starts no other children; see guard.Adopt.
	Subreaper bool

	Log *zap.Logger // nil: none

	state lease.State  // HA_STATE of what is run; empty: MASTER
	sole  *atomic.Bool // start no guard while it is set; nil: never is
}

func (o Options) withDefaults() (Options, error) {
	if len(o.Command) == 0 || o.Command[0] == "" {
		return o, errors.New("service.command is empty: give a program and its arguments, or service.none: true")
	}
	if err := guard.CheckIsolation(o.Isolation); err != nil {
		return o, fmt.Errorf("service.isolation: %w", err)
	}
	if err := o.Ready.validate(); err != nil {
		return o, fmt.Errorf("service.ready: %w", err)
	}
	if err := o.validateChecks(); err != nil {
		return o, err
	}
	if o.Delegates && (len(o.StopCommand) == 0 || len(o.Probe) == 0) {
		return o, errors.New("service.command hands its work to other processes: give service.stop and service.probe")
	}
	if o.Restart == "" {
		o.Restart = RestartOnFailure
	}
	if !slices.Contains([]Policy{RestartOnFailure, RestartAlways, RestartNever}, o.Restart) {
		return o, fmt.Errorf("service.restart: unknown policy %q: must be always, on-failure or never", o.Restart)
	}
	orDefault(&o.StartGrace, 200*time.Millisecond)
	orDefault(&o.StartTimeout, time.Minute)
	orDefault(&o.BackOff, time.Second)
	orDefault(&o.MaxBackOff, 30*time.Second)
	orDefault(&o.Window, time.Minute)
	orDefault(&o.StopTimeout, 10*time.Second)
	orDefault(&o.GuardStop, min(time.Second, o.StopTimeout/2))
	orDefault(&o.MaxRestarts, 3)
	orDefault(&o.LogMaxSize, 10<<20)
	orDefault(&o.LogKeep, 5)
	orDefault(&o.StopSignal, syscall.SIGTERM)
	orDefault(&o.OnUnexpected, UnexpectedBlock)
	orDefault(&o.state, lease.StateMaster)
	o.LogMaxSize, o.LogKeep = max(o.LogMaxSize, 0), max(o.LogKeep, 0)
	if o.Dir == "" {
		var err error
		if o.Dir, err = os.Getwd(); err != nil {
			return o, fmt.Errorf("service.dir is not set and the working directory is gone: %w", err)
		}
	}
	if o.Env == nil {
		o.Env = os.Environ()
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	return o, nil
}

// validateChecks gives every liveness check its defaults, and refuses those
// that check nothing.
func (o *Options) validateChecks() error {
	o.Checks = slices.Clone(o.Checks)
	names := map[string]bool{}
	for i := range o.Checks {
		c := &o.Checks[i]
		orDefault(&c.Name, fmt.Sprintf("check-%d", i+1))
		orDefault(&c.Interval, 5*time.Second)
		orDefault(&c.Timeout, 2*time.Second)
		orDefault(&c.Rise, 1)
		orDefault(&c.Fall, 3)
		switch err := c.validate(); {
		case err != nil:
			return fmt.Errorf("service.checks: %s: %w", c.Name, err)
		case c.kinds() == 0:
			return fmt.Errorf("service.checks: %s checks nothing: set one of http, tcp, file and exec", c.Name)
		case names[c.Name]:
			return fmt.Errorf("service.checks: two are named %s: choose another name", c.Name)
		}
		names[c.Name] = true
	}
	return nil
}

func orDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

// inherited is what of our environment the service and the commands around it
// get to see.
func (o Options) inherited() []string {
	var env []string
	for _, kv := range o.Env {
		name, _, _ := strings.Cut(kv, "=")
		if name == "NOTIFY_SOCKET" || strings.HasPrefix(name, "UNDERSTUDY_") ||
			slices.Contains(o.HideEnv, name) {
			continue
		}
		env = append(env, kv)
	}
	return env
}

// environment is what the service gets to see in one term.
func (o Options) environment(s ha.StartOrder) []string {
	env := o.inherited()
	if o.LeaseFile != "" {
		env = append(env, "HA_LEASE_FILE="+o.LeaseFile)
	}
	term := strconv.FormatUint(uint64(s.Term), 10)
	return append(env,
		"HA_PLANE="+string(s.Plane),
		"HA_NODE="+string(s.Node),
		"HA_STATE="+string(o.state),
		"HA_PREV_STATE="+string(s.PrevState),
		"HA_TERM="+term,
		"HA_TOKEN="+term,
		"HA_MASTER="+string(s.Node),
		"HA_MASTER_URI="+s.NodeURI,
		"HA_REASON="+s.Reason,
	)
}
