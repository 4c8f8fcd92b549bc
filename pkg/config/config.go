package config

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// Config is everything an operator can set. The yaml tag is the key, enum the
// legal words, derive marks a duration whose zero means "derived from
// others", secret a value that Show masks, live one that a running node takes
// over (in a section: all of its).
type Config struct {
	HighAvailabilityMode lease.Mode  `yaml:"highAvailabilityMode" enum:"AUTO,MASTER,STANDBY,HOT_STANDBY,HOT_BACKUP,DISABLED"`
	PersistMode          PersistMode `yaml:"persistMode" enum:"AUTO,REBIND,CLEAN,DISABLED"`
	PersistenceDir       string      `yaml:"persistenceDir"` // see ParseLocation and Config.Location
	NodeURI              string      `yaml:"nodeUri"`        // empty: see Config.URI
	DataDir              string      `yaml:"dataDir"`        // local, never on the shared store
	Priority             int         `yaml:"priority"`       // higher is preferred
	HA                   HA          `yaml:"ha"`
	Server               Server      `yaml:"server"`
	Service              Service     `yaml:"service"`
	Guard                Guard       `yaml:"guard"`
	FloatingIP           FloatingIP  `yaml:"floatingIP"`
	RoleFile             string      `yaml:"roleFile"` // says 0 on the master, 1 otherwise; empty: none
	ElasticIP            ElasticIP   `yaml:"elasticIP"`
	Watchdog             string      `yaml:"watchdog" enum:"off,automatic,required"`
	WatchdogDevice       string      `yaml:"watchdogDevice"`
	Fencing              Fencing     `yaml:"fencing"`
	Hooks                Hooks       `yaml:"hooks"`
	Artifacts            Artifacts   `yaml:"artifacts"`
	State                State       `yaml:"state"`
	Store                Store       `yaml:"store"`
	Log                  Log         `yaml:"log"`

	origins map[string]string // key -> "file:line", variable or flag; absent for defaults
}

// PersistMode says what a starting node makes of what is already persisted.
type PersistMode string

// The persist modes.
const (
	PersistAuto     PersistMode = "AUTO"     // use what is there, else start fresh
	PersistRebind   PersistMode = "REBIND"   // a plane must exist
	PersistClean    PersistMode = "CLEAN"    // start with an empty persisted state; refused while any node lives
	PersistDisabled PersistMode = "DISABLED" // nothing persisted; only with high availability DISABLED
)

// HA is the section "ha".
type HA struct {
	Preset                   string        `yaml:"preset" enum:"default,fast,wan"`
	HeartbeatTimeout         time.Duration `yaml:"heartbeatTimeout" derive:"the preset's"`          // T, the lease
	HeartbeatInterval        time.Duration `yaml:"heartbeatInterval" derive:"min(1s, T/10)"`        // h
	StandbyHeartbeatInterval time.Duration `yaml:"standbyHeartbeatInterval" derive:"h"`             // how often a standby writes its record
	PollInterval             time.Duration `yaml:"pollInterval" derive:"h/5, h/2 on hdfs, h on s3"` // how often a standby reads the register
	TakeoverTimeout          time.Duration `yaml:"takeoverTimeout" derive:"min(10s, T)"`            // how long a switchover waits for its target
	Failback                 string        `yaml:"failback" enum:"never,manual,after"`              // when a node of higher priority could take over
	FailbackAfter            time.Duration `yaml:"failbackAfter"`                                   // of failback: after
	AntiFlap                 AntiFlap      `yaml:"antiFlap"`
	HotStandby               bool          `yaml:"hotStandby"`          // AUTO nodes follow as HOT_STANDBY
	AutoInit                 bool          `yaml:"autoInit"`            // a node may make the plane (R0)
	FailFast                 bool          `yaml:"failFast"`            // exit 4 when the store can not be reached at start
	StateCompat              bool          `yaml:"stateCompat"`         // MASTER shows from the moment of the claim, as in Brooklyn
	InactiveNodeRemoval      time.Duration `yaml:"inactiveNodeRemoval"` // silent nodes are forgotten after this; 0: never
}

// AntiFlap is the section "ha.antiFlap": after so many role changes within the
// window that nobody asked for, failbacks and failovers for a failing service
// are held. Changes 0: never.
type AntiFlap struct {
	Changes int           `yaml:"changes"`
	Window  time.Duration `yaml:"window"`
}

// Server is the section "server".
type Server struct {
	Listen      string `yaml:"listen"`
	AgentListen string `yaml:"agentListen"` // for HAProxy's agent-check; empty: none
	NonMaster   string `yaml:"nonMaster" enum:"forbid,redirect,forward" live:"true"`
	// Allow lists the addresses and networks that REST answers; empty: all.
	Allow []string `yaml:"allow" live:"true"`
	// RateLimit is how many requests per second one address may send to paths
	// that need a password; 0: any number.
	RateLimit int  `yaml:"rateLimit" live:"true"`
	TLS       TLS  `yaml:"tls"`
	Auth      Auth `yaml:"auth" live:"true"`
}

// AllowedNetworks is Allow, once Validate has passed it.
func (s Server) AllowedNetworks() []netip.Prefix {
	var out []netip.Prefix
	for _, text := range s.Allow {
		if p, err := parseNetwork(text); err == nil {
			out = append(out, p)
		}
	}
	return out
}

// parseNetwork reads an address or a network.
func parseNetwork(text string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	return p.Masked(), err
}

// TLS is the section "server.tls". Without cert and key a self-signed
// certificate is made on first start and kept in DataDir.
type TLS struct {
	Disabled bool   `yaml:"disabled"`
	Cert     string `yaml:"cert" live:"true"`
	Key      string `yaml:"key" live:"true"`
	ClientCA string `yaml:"clientCA" live:"true"` // PEM file; see Auth.Certificates
}

// Auth is the section "server.auth". Without any of it a user and a password
// are generated once and kept in DataDir.
type Auth struct {
	Htpasswd     string `yaml:"htpasswd"` // file of user:bcrypt lines
	User         string `yaml:"user"`
	Password     string `yaml:"password" secret:"true"`
	PasswordFile string `yaml:"passwordFile"`
	// Roles are those of users by name: viewer, operator or admin. Empty: every
	// user is admin. A user it does not name is viewer.
	Roles map[string]string `yaml:"roles"`
	// Certificates are the roles of clients with a certificate of TLS.ClientCA,
	// by a name in it: a SAN or the CN.
	Certificates map[string]string `yaml:"certificates"`
	Tokens       string            `yaml:"tokens"` // file of bearer tokens; empty: DataDir/tokens
	Health       string            `yaml:"health" enum:"open,closed"`
	Disabled     bool              `yaml:"disabled"` // everybody may do everything
}

// TokensFile is where bearer tokens are kept.
func (c *Config) TokensFile() string {
	if c.Server.Auth.Tokens != "" {
		return c.Server.Auth.Tokens
	}
	return filepath.Join(c.DataDir, "tokens")
}

// Service is the section "service": what the master runs.
type Service struct {
	Command      []string          `yaml:"command"`
	Systemd      string            `yaml:"systemd"` // a unit that systemd runs, instead of Command
	WorkDir      string            `yaml:"workDir"` // empty: DataDir
	Env          map[string]string `yaml:"env" secret:"true"`
	None         bool              `yaml:"none"`
	Isolation    string            `yaml:"isolation" enum:"auto,pid-namespace,cgroup,group"`
	Ready        Ready             `yaml:"ready"`
	Checks       []Check           `yaml:"checks"`
	Restart      string            `yaml:"restart" enum:"always,on-failure,never"`
	MaxRestarts  int               `yaml:"maxRestarts"`
	Window       time.Duration     `yaml:"window"`
	StartTimeout time.Duration     `yaml:"startTimeout"`
	StartGrace   time.Duration     `yaml:"startGrace"`
	DrainDelay   time.Duration     `yaml:"drainDelay"`
	Stop         []string          `yaml:"stop"`  // asks the service to stop, before stopSignal
	Probe        []string          `yaml:"probe"` // exit code 0: it runs here, 7: it does not
	OnUnexpected string            `yaml:"onUnexpected" enum:"block,stop"`
	HandsOn      bool              `yaml:"delegates"`      // command has others do the work, though its name does not show it; see Delegates
	StandbyCmd   []string          `yaml:"standbyCommand"` // runs while the node is HOT_STANDBY
	StopSignal   Signal            `yaml:"stopSignal" enum:"TERM,INT,QUIT,HUP,USR1,USR2,WINCH,KILL"`
	StopTimeout  time.Duration     `yaml:"stopTimeout" derive:"min(10s, 2T/5)"` // S
	Output       string            `yaml:"output"`                              // empty: DataDir/service.log
	Log          ServiceLog        `yaml:"log"`
}

// Ready is the section "service.ready": at most one of the four; with none
// the service is ready when it has been alive for StartGrace.
type Ready struct {
	HTTP string   `yaml:"http"` // URL that answers below 400
	TCP  string   `yaml:"tcp"`  // host:port that accepts
	File string   `yaml:"file"` // path that exists
	Exec []string `yaml:"exec"` // command that exits 0
}

// Check is one of "service.checks": exactly one of http, tcp, file and exec.
type Check struct {
	Name     string        `yaml:"name,omitempty"`
	HTTP     string        `yaml:"http,omitempty"`
	TCP      string        `yaml:"tcp,omitempty"`
	File     string        `yaml:"file,omitempty"`
	Exec     []string      `yaml:"exec,omitempty"`
	Interval time.Duration `yaml:"interval"` // between two tries
	Timeout  time.Duration `yaml:"timeout"`  // of one try
	Rise     int           `yaml:"rise"`     // passes in a row that make up for fewer than fall failures
	Fall     int           `yaml:"fall"`     // failures that make the service a failed one
}

// defaultCheck is what a check does not say itself.
func defaultCheck() Check {
	return Check{Interval: 5 * time.Second, Timeout: 2 * time.Second, Rise: 1, Fall: 3}
}

// ServiceLog is the section "service.log": the file that output names.
type ServiceLog struct {
	MaxSize Size `yaml:"maxSize"` // before it is rotated; 0: never
	Keep    int  `yaml:"keep"`    // older files
}

// Size is a number of bytes.
type Size int64

// Guard is the section "guard".
type Guard struct {
	StopTimeout time.Duration `yaml:"stopTimeout" derive:"min(1s, S/2)"` // from TERM to KILL once the daemon is dead
}

// FloatingIP is the section "floatingIP": an address that the master's machine
// alone has. Both keys or none.
type FloatingIP struct {
	Address   string `yaml:"address"` // with the length of its network: 10.0.0.5/24
	Interface string `yaml:"interface"`
}

// Prefix is the address, once Validate has passed it.
func (f FloatingIP) Prefix() netip.Prefix {
	p, _ := netip.ParsePrefix(f.Address) // Validate has passed it
	return p
}

// ElasticIP is the section "elasticIP": an address of Amazon EC2 that leads to
// the master.
type ElasticIP struct {
	AllocationID string `yaml:"allocationId"` // eipalloc-…; empty: none
	InstanceID   string `yaml:"instanceId"`   // empty: this instance, as its metadata tells
	InterfaceID  string `yaml:"interfaceId"`  // eni-…, instead of an instance
	PrivateIP    string `yaml:"privateIP"`    // of several on the interface
	Release      bool   `yaml:"release"`      // let go of it when this node is no longer master
	Region       string `yaml:"region"`
	Endpoint     string `yaml:"endpoint"`
	Profile      string `yaml:"profile"`
}

// Fencing is the section "fencing": how a former master that fell silent is
// made harmless from outside.
type Fencing struct {
	Required       bool              `yaml:"required"`                           // the service waits for it, for ever
	IfFencingFails string            `yaml:"ifFencingFails" enum:"proceed,wait"` // after the lease has ended
	Early          bool              `yaml:"early"`                              // a proven power-off ends the wait for the lease (R6b)
	Hosts          map[string]string `yaml:"hosts"`                              // node id -> its machine, as the methods know it
	Methods        []FenceMethod     `yaml:"methods"`                            // tried in order, until one succeeds
}

// FenceMethod is one of "fencing.methods".
type FenceMethod struct {
	Method    string            `yaml:"method" enum:"stepDown,command,ssh,ec2Stop"`
	Timeout   time.Duration     `yaml:"timeout"`
	ProvesOff bool              `yaml:"provesOff,omitempty"` // its success means that the machine is off
	Hosts     map[string]string `yaml:"hosts,omitempty"`     // beside fencing.hosts, for this method
	Command   []string          `yaml:"command,omitempty"`   // of command; of ssh: what is run there
	User      string            `yaml:"user,omitempty"`      // of ssh and stepDown
	KeyFile   string            `yaml:"keyFile,omitempty"`   // of ssh
	Password  string            `yaml:"passwordFile,omitempty"`
	CAFile    string            `yaml:"caFile,omitempty"` // of stepDown: trusted beside the system's
	Region    string            `yaml:"region,omitempty"` // of ec2Stop, as the next two
	Endpoint  string            `yaml:"endpoint,omitempty"`
	Profile   string            `yaml:"profile,omitempty"`
}

// defaultFenceMethod is what a method does not say itself.
func defaultFenceMethod() FenceMethod { return FenceMethod{Timeout: time.Minute} }

// Host is the machine of a node as a method knows it, "" if nothing names it.
func (f Fencing) Host(m FenceMethod, node string) string {
	if h, ok := m.Hosts[node]; ok {
		return h
	}
	return f.Hosts[node]
}

// Hooks is the section "hooks": commands at the turning points of a node.
type Hooks struct {
	PreSwitchover   Hook `yaml:"preSwitchover"` // before the mastership is moved on request; may veto
	PrePromote      Hook `yaml:"prePromote"`    // before the service starts; may veto
	PostPromote     Hook `yaml:"postPromote"`
	PreDemote       Hook `yaml:"preDemote"`
	PostDemote      Hook `yaml:"postDemote"`
	OnRoleChange    Hook `yaml:"onRoleChange"`
	OnFence         Hook `yaml:"onFence"`
	OnFencingFailed Hook `yaml:"onFencingFailed"`
	OnAddressFailed Hook `yaml:"onAddressFailed"`
	OnStoreLost     Hook `yaml:"onStoreLost"`
	OnStoreBack     Hook `yaml:"onStoreBack"`
	GuardStop       Hook `yaml:"guardStop"` // the daemon has died; before the release
}

// Hook is one command; without one nothing runs.
type Hook struct {
	Command []string      `yaml:"command"`
	Timeout time.Duration `yaml:"timeout"` // then it is killed
}

// NamedHook is a hook with the name of its event.
type NamedHook struct {
	Event string
	Hook
	Bound bool // to a term: the guard runs it
	Alone bool // the guard runs it without the daemon, which is dead
}

// All lists the hooks, set or not, in the order of the file.
func (h Hooks) All() []NamedHook {
	return []NamedHook{
		{"preSwitchover", h.PreSwitchover, true, false},
		{"prePromote", h.PrePromote, true, false},
		{"postPromote", h.PostPromote, true, false},
		{"preDemote", h.PreDemote, true, false},
		{"postDemote", h.PostDemote, false, false},
		{"onRoleChange", h.OnRoleChange, false, false},
		{"onFence", h.OnFence, false, false},
		{"onFencingFailed", h.OnFencingFailed, false, false},
		{"onAddressFailed", h.OnAddressFailed, false, false},
		{"onStoreLost", h.OnStoreLost, false, false},
		{"onStoreBack", h.OnStoreBack, false, false},
		{"guardStop", h.GuardStop, true, true},
	}
}

// Store is the section "store".
type Store struct {
	AllowLocal       bool          `yaml:"allowLocal"`
	OperationTimeout time.Duration `yaml:"operationTimeout" derive:"min(3s, T/10, T/5-h)"` // o
	S3               S3            `yaml:"s3"`
	HDFS             HDFS          `yaml:"hdfs"`
}

// S3 is the section "store.s3": how to reach the bucket of an s3:// location,
// whose own query, s3://bucket/prefix?region=…, comes before it. There are no
// credentials here: they come from where the AWS tools take them.
type S3 struct {
	Region    string `yaml:"region"`
	Endpoint  string `yaml:"endpoint"` // URL of another service than AWS
	PathStyle string `yaml:"pathStyle" enum:"auto,true,false"`
	SSE       string `yaml:"sse" enum:"none,AES256,aws:kms,aws:kms:dsse"`
	KMSKeyID  string `yaml:"kmsKeyId"`
	Profile   string `yaml:"profile"`
	CAFile    string `yaml:"caFile"`
}

// Artifacts is the section "artifacts": large files for the service.
type Artifacts struct {
	Root      string `yaml:"root"`      // as persistenceDir; empty: beside the persisted state
	CacheDir  string `yaml:"cacheDir"`  // local; empty: DataDir/artifacts
	CacheSize Size   `yaml:"cacheSize"` // of the local copies
}

// State is the section "state": of the persisted state.
type State struct {
	Retention time.Duration `yaml:"retention"` // what nobody needs is kept for so long
	Backups   Backups       `yaml:"backups"`
}

// Backups is the section "state.backups": whole states that are put by.
type Backups struct {
	Promotion bool `yaml:"promotion"` // what a reign begins with
	Demotion  bool `yaml:"demotion"`  // what it ends with
	Keep      int  `yaml:"keep"`      // how many the plane keeps; 0: none
}

// HDFS is the section "store.hdfs": how to reach the file system of an hdfs://
// location, whose own query, hdfs://nameservice/path?user=…, comes before it.
type HDFS struct {
	ConfDir  string   `yaml:"confDir"`
	User     string   `yaml:"user"`
	Kerberos Kerberos `yaml:"kerberos"`
}

// Kerberos is the section "store.hdfs.kerberos": how to log in.
type Kerberos struct {
	Principal string `yaml:"principal"`
	Keytab    string `yaml:"keytab"`
	CCache    string `yaml:"ccache"`
	Config    string `yaml:"config"`
}

// Log is the section "log".
type Log struct {
	Level  string `yaml:"level" enum:"debug,info,warn,error" live:"true"`
	Format string `yaml:"format" enum:"console,json"`
}

// Signal is the name of a signal without SIG.
type Signal string

// Default is the configuration of an empty file. It does not pass Validate:
// where the shared store is and what to run has no default.
func Default() *Config {
	return &Config{
		HighAvailabilityMode: lease.ModeAuto,
		PersistMode:          PersistAuto,
		DataDir:              "/var/lib/understudy",
		HA: HA{
			Preset:              "default",
			Failback:            "never",
			FailbackAfter:       10 * time.Minute,
			AntiFlap:            AntiFlap{Changes: 5, Window: 10 * time.Minute},
			HotStandby:          true,
			AutoInit:            true,
			InactiveNodeRemoval: 48 * time.Hour,
		},
		Server: Server{Listen: ":8443", NonMaster: "forbid", RateLimit: 500, Auth: Auth{Health: "open"}},
		Service: Service{
			Isolation:    "auto",
			OnUnexpected: "block",
			Log:          ServiceLog{MaxSize: 10 << 20, Keep: 5},
			Restart:      "on-failure",
			MaxRestarts:  3,
			Window:       time.Minute,
			StartTimeout: time.Minute,
			StartGrace:   200 * time.Millisecond,
			DrainDelay:   2 * time.Second,
			StopSignal:   "TERM",
		},
		Watchdog: "off", WatchdogDevice: "/dev/watchdog",
		Fencing: Fencing{IfFencingFails: "proceed"},
		Hooks: Hooks{
			PreSwitchover:   Hook{Timeout: 10 * time.Second},
			PrePromote:      Hook{Timeout: 10 * time.Second},
			PostPromote:     Hook{Timeout: 10 * time.Second},
			PreDemote:       Hook{Timeout: 10 * time.Second},
			PostDemote:      Hook{Timeout: 10 * time.Second},
			OnRoleChange:    Hook{Timeout: 10 * time.Second},
			OnFence:         Hook{Timeout: 10 * time.Second},
			OnFencingFailed: Hook{Timeout: 10 * time.Second},
			OnAddressFailed: Hook{Timeout: 10 * time.Second},
			OnStoreLost:     Hook{Timeout: 10 * time.Second},
			OnStoreBack:     Hook{Timeout: 10 * time.Second},
			GuardStop:       Hook{Timeout: 10 * time.Second},
		},
		Artifacts: Artifacts{CacheSize: 10 << 30},
		State:     State{Retention: 24 * time.Hour, Backups: Backups{Promotion: true, Keep: 10}},
		Store:     Store{S3: S3{PathStyle: "auto", SSE: "none"}},
		Log:       Log{Level: "info", Format: "console"},
	}
}

// TimingRequest is what was asked for of the protocol's durations, for
// election.Derive: minBeat and pollDivisor are the store's persistence.Limits
// (0 when it is not open yet).
func (c *Config) TimingRequest(minBeat time.Duration, pollDivisor int) election.TimingRequest {
	return election.TimingRequest{
		Preset:           c.HA.Preset,
		Timeout:          c.HA.HeartbeatTimeout,
		Heartbeat:        c.HA.HeartbeatInterval,
		Operation:        c.Store.OperationTimeout,
		Stop:             c.Service.StopTimeout,
		StandbyHeartbeat: c.HA.StandbyHeartbeatInterval,
		Poll:             c.HA.PollInterval,
		Takeover:         c.HA.TakeoverTimeout,
		MinBeat:          minBeat,
		PollDivisor:      pollDivisor,
	}
}

// Failback is what a master does about a better candidate.
func (c *Config) Failback() election.Failback {
	f := election.Failback{After: c.HA.FailbackAfter}
	switch c.HA.Failback {
	case "manual":
		f.Policy = election.FailbackManual
	case "after":
		f.Policy = election.FailbackAfter
	}
	return f
}

// GuardStopTimeout is how long the guard waits between TERM and KILL once the
// daemon is dead: guard.stopTimeout, or min(1s, S/2).
func (c *Config) GuardStopTimeout(stop time.Duration) time.Duration {
	if c.Guard.StopTimeout != 0 {
		return c.Guard.StopTimeout
	}
	return min(time.Second, stop/2)
}

// Location is where the plane's shared state lies: persistenceDir, or, when
// that is not set and store.allowLocal is, a directory beneath dataDir; with
// what store.s3 or store.hdfs adds to it. It is the zero Location when nothing is persisted.
func (c *Config) Location() (Location, error) {
	if c.PersistMode == PersistDisabled {
		return Location{}, nil
	}
	if c.PersistenceDir == "" && c.Store.AllowLocal {
		return ParseLocation(filepath.Join(c.DataDir, "store"))
	}
	loc, err := ParseLocation(c.PersistenceDir)
	switch {
	case err != nil:
	case loc.Scheme == "s3":
		optionsOfS3.fill(&loc.S3, &c.Store.S3)
	case loc.Scheme == "hdfs":
		optionsOfHDFS.fill(&loc.HDFS, &c.Store.HDFS)
	}
	return loc, err
}

// ArtifactsLocation is where the bytes of artifacts lie, beneath "artifacts/":
// artifacts.root, or Location. own says that it is the former.
func (c *Config) ArtifactsLocation() (loc Location, own bool, err error) {
	if c.Artifacts.Root == "" {
		loc, err = c.Location()
		return loc, false, err
	}
	other := *c
	other.PersistMode, other.PersistenceDir = PersistAuto, c.Artifacts.Root
	loc, err = other.Location()
	return loc, true, err
}

// ArtifactsCache is the directory of this machine's copies of artifacts.
func (c *Config) ArtifactsCache() string {
	if c.Artifacts.CacheDir != "" {
		return c.Artifacts.CacheDir
	}
	return filepath.Join(c.DataDir, "artifacts")
}

// URI is the address under which others reach this node: nodeUri, or made of
// the listen address, with hostname where that names no host. A boundPort
// other than 0 replaces the port (for a listen address with port 0).
func (c *Config) URI(hostname string, boundPort int) string {
	if c.NodeURI != "" {
		return c.NodeURI
	}
	host, port, err := net.SplitHostPort(c.Server.Listen)
	if err != nil { // Validate has refused it
		host, port = "", "8443"
	}
	if ip := net.ParseIP(host); host == "" || (ip != nil && ip.IsUnspecified()) {
		host = hostname
	}
	if boundPort != 0 {
		port = strconv.Itoa(boundPort)
	}
	scheme := "https"
	if c.Server.TLS.Disabled {
		scheme = "http"
	}
	return (&url.URL{Scheme: scheme, Host: net.JoinHostPort(host, port), Path: "/"}).String()
}

// Number is the signal for the kernel.
func (s Signal) Number() (syscall.Signal, error) {
	n := unix.SignalNum("SIG" + strings.TrimPrefix(strings.ToUpper(string(s)), "SIG"))
	if n == 0 {
		return 0, fmt.Errorf("unknown signal %q", string(s))
	}
	return n, nil
}

// Origin says where the value of a key ("ha.heartbeatTimeout") comes from:
// "file:line", a variable, a flag, or "default".
func (c *Config) Origin(key string) string {
	if o, ok := c.origins[key]; ok {
		return o
	}
	return "default"
}

// IsSet reports whether the key was set by anything but the defaults.
func (c *Config) IsSet(key string) bool {
	_, ok := c.origins[key]
	return ok
}
