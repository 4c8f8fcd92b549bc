package config

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// Validate refuses what can not work and warns about what may surprise. It
// does no I/O. The error is an *Error with every problem found.
func (c *Config) Validate() (Warnings, error) {
	v := &validator{c: c}
	v.modes()
	v.places()
	v.server()
	v.auth()
	v.access()
	v.service()
	v.artifacts()
	v.addresses()
	v.elastic()
	v.watchdog()
	v.fencing()
	v.hooks()
	v.timings()
	v.state()
	if len(v.problems) > 0 {
		return v.warnings, &Error{v.problems}
	}
	return v.warnings, nil
}

type validator struct {
	c        *Config
	problems []Problem
	warnings Warnings
}

func (v *validator) bad(key, format string, args ...any) {
	v.problems = append(v.problems, Problem{v.where(key), key, fmt.Sprintf(format, args...)})
}

func (v *validator) warn(key, format string, args ...any) {
	v.warnings = append(v.warnings, Problem{v.where(key), key, fmt.Sprintf(format, args...)}.String())
}

func (v *validator) where(key string) string {
	if v.c.IsSet(key) {
		return v.c.Origin(key)
	}
	return ""
}

func (v *validator) modes() {
	ha, persist := v.c.HighAvailabilityMode, v.c.PersistMode
	if persist == PersistDisabled && ha != lease.ModeDisabled {
		v.bad("persistMode", "DISABLED together with highAvailabilityMode %s: nothing would be shared, and every copy of this configuration would be a master. Set persistMode: AUTO, or highAvailabilityMode: DISABLED", ha)
	}
	if follows := []lease.Mode{lease.ModeStandby, lease.ModeHotStandby, lease.ModeHotBackup}; persist == PersistClean && slices.Contains(follows, ha) {
		v.bad("persistMode", "CLEAN together with highAvailabilityMode %s: a node that follows a master has nothing to clean. Set persistMode: AUTO, or highAvailabilityMode: AUTO or MASTER", ha)
	}
}

func (v *validator) places() {
	c := v.c
	loc, err := c.Location()
	if err != nil {
		v.bad("persistenceDir", "%v", err)
	}
	if c.PersistMode == PersistDisabled && c.PersistenceDir != "" {
		v.warn("persistenceDir", "%s is not used: persistMode is DISABLED", c.PersistenceDir)
	}
	v.storeOptions(loc)
	if !filepath.IsAbs(c.DataDir) {
		v.bad("dataDir", "%q is not an absolute path; write e.g. /var/lib/understudy", c.DataDir)
		return
	}
	if loc.Scheme != "file" {
		return
	}
	if within(c.DataDir, loc.Path) {
		v.bad("dataDir", "%s lies on the shared store (persistenceDir %s): it holds this node's identity and must be on a disk of this machine, e.g. /var/lib/understudy", c.DataDir, loc.Path)
	}
	for _, f := range []struct{ key, path string }{
		{"service.workDir", c.Service.WorkDir}, {"service.output", c.Service.Output}, {"roleFile", c.RoleFile},
	} {
		if f.path != "" && within(f.path, loc.Path) {
			v.bad(f.key, "%s lies on the shared store (persistenceDir %s): when that hangs, the service could be neither started nor stopped; use a directory of this machine", f.path, loc.Path)
		}
	}
}

// storeOptions judges the options of a bucket or of HDFS together, wherever each
// is written.
func (v *validator) storeOptions(loc Location) {
	for _, o := range []options{optionsOfS3, optionsOfHDFS} {
		if loc.Scheme == o.section || loc.Scheme == "" {
			continue
		}
		for _, set := range o.settings() {
			if v.c.IsSet(set.key) {
				v.warn(set.key, "is not used: persistenceDir %s is no %s:// location", v.c.PersistenceDir, o.section)
			}
		}
	}
	var (
		err error
		e   *optionError
	)
	switch loc.Scheme {
	case "s3":
		err = loc.S3.check()
	case "hdfs":
		err = loc.HDFS.check()
	}
	if errors.As(err, &e) {
		v.bad("store."+loc.Scheme+"."+e.name, "%s", e.text)
	}
}

// within reports whether path is dir or lies beneath it.
func within(path, dir string) bool {
	rel, err := filepath.Rel(filepath.Clean(dir), filepath.Clean(path))
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}

func (v *validator) server() {
	c := v.c
	host := v.listen("server.listen", c.Server.Listen)
	if c.Server.AgentListen != "" {
		v.listen("server.agentListen", c.Server.AgentListen)
		if c.Server.AgentListen == c.Server.Listen {
			v.bad("server.agentListen", "is that of server.listen; give it a port of its own, e.g. \":8444\"")
		}
	}
	tls := c.Server.TLS
	switch {
	case tls.Disabled && (tls.Cert != "" || tls.Key != ""):
		v.bad("server.tls.disabled", "true although a certificate is given; remove server.tls.cert and key, or server.tls.disabled")
	case tls.Cert != "" && tls.Key == "":
		v.bad("server.tls.cert", "needs server.tls.key beside it (or remove it: a self-signed certificate is made)")
	case tls.Key != "" && tls.Cert == "":
		v.bad("server.tls.key", "needs server.tls.cert beside it (or remove it: a self-signed certificate is made)")
	}
	if ip := net.ParseIP(host); tls.Disabled && host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		v.warn("server.tls.disabled", "passwords travel in clear text over %s", c.Server.Listen)
	}
	for _, f := range []struct{ key, path string }{
		{"server.tls.cert", tls.Cert},
		{"server.tls.key", tls.Key},
		{"server.tls.clientCA", tls.ClientCA},
		{"server.auth.tokens", c.Server.Auth.Tokens},
		{"server.auth.htpasswd", c.Server.Auth.Htpasswd},
		{"server.auth.passwordFile", c.Server.Auth.PasswordFile},
		{"service.workDir", c.Service.WorkDir},
		{"service.output", c.Service.Output},
	} {
		if f.path != "" && !filepath.IsAbs(f.path) {
			v.bad(f.key, "%q is not an absolute path", f.path)
		}
	}
	if c.NodeURI == "" {
		return
	}
	if u, err := url.Parse(c.NodeURI); err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		v.bad("nodeUri", "%q is not the address of a node; write e.g. https://node1:8443/", c.NodeURI)
	}
}

// listen judges an address to listen on and returns its host.
func (v *validator) listen(key, addr string) string {
	host, port, err := net.SplitHostPort(addr)
	n, perr := strconv.Atoi(port)
	switch {
	case err != nil:
		v.bad(key, "%q is not host:port; write e.g. \":8443\" for all addresses or 127.0.0.1:8443", addr)
	case perr != nil || n < 0 || n > 65535:
		v.bad(key, "port %q is not a number from 0 to 65535", port)
	}
	return host
}

// access judges who may come in, and as what.
func (v *validator) access() {
	s := v.c.Server
	for _, text := range s.Allow {
		if _, err := parseNetwork(text); err != nil {
			v.bad("server.allow", "%q is neither an address nor a network; write e.g. 127.0.0.1 or 10.0.0.0/8", text)
		}
	}
	if s.RateLimit < 0 {
		v.bad("server.rateLimit", "%d is below 0 (0: no limit)", s.RateLimit)
	}
	v.roles("server.auth.roles", s.Auth.Roles)
	v.roles("server.auth.certificates", s.Auth.Certificates)
	if s.NonMaster == "forward" && s.TLS.Disabled {
		v.bad("server.nonMaster", "forward needs TLS, by which nodes know one another; remove server.tls.disabled, or say redirect")
	}
	switch {
	case s.TLS.ClientCA != "" && s.TLS.Disabled:
		v.bad("server.tls.clientCA", "needs TLS; remove server.tls.disabled")
	case s.TLS.ClientCA == "" && len(s.Auth.Certificates) > 0:
		v.bad("server.auth.certificates", "needs server.tls.clientCA, the authority that signs them")
	case s.TLS.ClientCA != "" && len(s.Auth.Certificates) == 0:
		v.warn("server.tls.clientCA", "lets nobody in: server.auth.certificates names nobody")
	}
	if s.Auth.Disabled {
		v.open()
	}
}

func (v *validator) roles(key string, roles map[string]string) {
	for _, name := range slices.Sorted(maps.Keys(roles)) {
		if role := roles[name]; !slices.Contains(roleWords, role) {
			v.bad(key, "%s: %q is not one of %s", name, role, strings.Join(roleWords, ", "))
		}
	}
}

// open judges a node that asks for no password.
func (v *validator) open() {
	s := v.c.Server
	if a := s.Auth; a.User != "" || a.Htpasswd != "" || a.Tokens != "" || len(a.Roles) > 0 || len(a.Certificates) > 0 || a.Health == "closed" {
		v.bad("server.auth.disabled", "true although users are given; remove one or the other")
	}
	host, _, _ := net.SplitHostPort(s.Listen)
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		v.warn("server.auth.disabled", "whoever reaches %s can stop this node and its service; listen on 127.0.0.1, or remove it", s.Listen)
	}
}

// roleWords are what server.auth.roles and certificates can say.
var roleWords = []string{"viewer", "operator", "admin"}

func (v *validator) auth() {
	a := v.c.Server.Auth
	switch {
	case a.Htpasswd != "" && (a.User != "" || a.Password != "" || a.PasswordFile != ""):
		v.bad("server.auth.htpasswd", "excludes server.auth.user, password and passwordFile; put that user into the file: htpasswd -B %s USER", a.Htpasswd)
	case a.Password != "" && a.PasswordFile != "":
		v.bad("server.auth.password", "excludes server.auth.passwordFile; remove one of them")
	case a.User != "" && a.Password == "" && a.PasswordFile == "":
		v.bad("server.auth.user", "needs server.auth.passwordFile (or password)")
	case a.User == "" && a.Password != "":
		v.bad("server.auth.password", "needs server.auth.user")
	case a.User == "" && a.PasswordFile != "":
		v.bad("server.auth.passwordFile", "needs server.auth.user")
	case strings.Contains(a.User, ":"):
		v.bad("server.auth.user", "%q: a user name holds no ':'", a.User)
	}
}

func (v *validator) service() {
	s := v.c.Service
	switch {
	case s.Systemd != "":
		v.systemd()
	case s.None && len(s.Command) > 0:
		v.bad("service.none", "true although service.command is given; remove one of them")
	case !s.None && len(s.Command) == 0:
		v.bad("service.command", "is not set: name the program the master runs, e.g. command: [/usr/bin/prog, --flag], or service.systemd, or set service.none: true to elect a master without one")
	case len(s.Command) > 0 && s.Command[0] == "":
		v.bad("service.command", "its first word, the program, is empty")
	default:
		v.delegates()
	}
	for name := range s.Env {
		switch {
		case name == "" || strings.ContainsAny(name, "=\x00"):
			v.bad("service.env", "%q is not the name of a variable", name)
		case strings.HasPrefix(name, "HA_"):
			v.bad("service.env", "%s: names that begin with HA_ are set by Understudy; choose another", name)
		}
	}
	v.ready()
	v.checks()
	v.commands()
	if s.MaxRestarts < 0 {
		v.bad("service.maxRestarts", "%d is below 0 (0: give the term up at the first failure)", s.MaxRestarts)
	}
	if s.Window == 0 {
		v.bad("service.window", "0s counts nothing; write e.g. 1m")
	}
	if s.StartTimeout <= s.StartGrace {
		v.bad("service.startTimeout", "%s is not longer than service.startGrace %s: no start could succeed; raise the former or lower the latter", formatDuration(s.StartTimeout), formatDuration(s.StartGrace))
	}
}

// unitName is what service.systemd may be.
var unitName = regexp.MustCompile(`^[A-Za-z0-9:_.\\@-]+\.service$`)

// systemd judges a service that systemd runs: what else there is to say about
// it stands in its unit.
func (v *validator) systemd() {
	s := v.c.Service
	if !unitName.MatchString(s.Systemd) || len(s.Systemd) > 255 {
		v.bad("service.systemd", "%q is not the name of a service's unit; write e.g. app.service", s.Systemd)
	}
	for _, set := range []struct {
		key, remedy string
		is          bool
	}{
		{"service.command", "remove one of them", len(s.Command) > 0},
		{"service.none", "remove one of them", s.None},
		{"service.stop", "systemd stops the unit: put it into ExecStop= there", len(s.Stop) > 0},
		{"service.probe", "systemd and the unit's control group are asked: remove it", len(s.Probe) > 0},
		{"service.delegates", "that goes without saying: remove it", s.HandsOn},
		{"service.workDir", "put it into WorkingDirectory= of the unit", s.WorkDir != ""},
		{"service.env", "put it into Environment= of the unit", len(s.Env) > 0},
		{"service.stopSignal", "put it into KillSignal= of the unit", v.c.IsSet("service.stopSignal")},
	} {
		if set.is {
			v.bad(set.key, "is given beside service.systemd: %s; %s", s.Systemd, set.remedy)
		}
	}
}

// addresses judges what tells others where the master is.
func (v *validator) addresses() {
	f, none := v.c.FloatingIP, v.c.Service.None
	p, err := netip.ParsePrefix(f.Address)
	ip := p.Addr()
	switch {
	case f.Address == "" && f.Interface == "":
	case f.Address == "":
		v.bad("floatingIP.interface", "needs floatingIP.address beside it, e.g. 10.0.0.5/24")
	case f.Interface == "":
		v.bad("floatingIP.address", "needs floatingIP.interface beside it, e.g. eth0")
	case err != nil:
		v.bad("floatingIP.address", "%q is not an address with the length of its network; write e.g. 10.0.0.5/24", f.Address)
	case ip.IsUnspecified() || ip.IsMulticast() || ip.Is4In6() || ip.Zone() != "":
		v.bad("floatingIP.address", "%s can not be the address of a machine; write e.g. 10.0.0.5/24", f.Address)
	case len(f.Interface) > 15 || strings.ContainsAny(f.Interface, "/ \t\n"):
		v.bad("floatingIP.interface", "%q is no name of an interface; ip link shows those there are", f.Interface)
	case none:
		v.bad("floatingIP.address", "needs a service: its guard removes the address when the daemon is dead. Set service.command, or remove floatingIP")
	}
	switch {
	case v.c.RoleFile == "":
	case !filepath.IsAbs(v.c.RoleFile):
		v.bad("roleFile", "%q is not an absolute path; write e.g. /run/understudy/role", v.c.RoleFile)
	case none:
		v.bad("roleFile", "needs a service: its guard turns the file when the daemon is dead. Set service.command, or remove roleFile")
	}
}

func (v *validator) ready() {
	r := v.c.Service.Ready
	var kinds []string
	if r.HTTP != "" {
		kinds = append(kinds, "http")
		if u, err := url.Parse(r.HTTP); err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" {
			v.bad("service.ready.http", "%q is not a URL; write e.g. http://127.0.0.1:8080/health", r.HTTP)
		}
	}
	if r.TCP != "" {
		kinds = append(kinds, "tcp")
		if host, port, err := net.SplitHostPort(r.TCP); err != nil || host == "" || port == "" {
			v.bad("service.ready.tcp", "%q is not host:port; write e.g. 127.0.0.1:8080", r.TCP)
		}
	}
	if r.File != "" {
		kinds = append(kinds, "file")
		v.local("service.ready.file", r.File)
	}
	if len(r.Exec) > 0 {
		kinds = append(kinds, "exec")
	}
	if len(kinds) > 1 {
		v.bad("service.ready."+kinds[1], "beside %s: one readiness check decides; remove one of them", "service.ready."+kinds[0])
	}
	if v.c.Service.None && len(kinds) > 0 {
		v.bad("service.ready."+kinds[0], "checks nothing: service.none is true")
	}
}

// delegates judges a command whose process is not the service.
func (v *validator) delegates() {
	s := v.c.Service
	word, yes := s.Delegates()
	if !yes || (len(s.Stop) > 0 && len(s.Probe) > 0) { // of a unit both are known
		return
	}
	if s.HandsOn {
		v.bad("service.delegates", "true: other processes run the service, so killing its command proves nothing; give service.stop, which stops them, and service.probe, which exits with 7 once they have stopped, or remove service.delegates")
		return
	}
	v.bad("service.command", "%s asks another process to run the service, so killing it proves nothing; name the service's own program, or give service.stop, which stops the service, and service.probe, which exits with 7 once it has stopped", word)
}

// commands judges the commands beside the service's own.
func (v *validator) commands() {
	s := v.c.Service
	for _, f := range []struct {
		key  string
		argv []string
	}{{"service.stop", s.Stop}, {"service.probe", s.Probe}, {"service.standbyCommand", s.StandbyCmd}} {
		switch {
		case len(f.argv) == 0:
		case f.argv[0] == "":
			v.bad(f.key, "its first word, the program, is empty")
		case s.None:
			v.bad(f.key, "is for a service, and service.none is true; remove one of them")
		}
	}
	if word := delegate(s.StandbyCmd); word != "" {
		v.bad("service.standbyCommand", "%s asks another process to run something, so nothing here could prove that it has stopped before the service starts; name the program itself", word)
	}
	if s.None && s.HandsOn {
		v.bad("service.delegates", "is for a service, and service.none is true; remove one of them")
	}
	switch {
	case s.Systemd != "": // it has both
	case s.OnUnexpected == "stop" && len(s.Probe) == 0:
		v.bad("service.onUnexpected", "stop needs service.probe, which tells whether the service runs")
	case s.OnUnexpected == "stop" && len(s.Stop) == 0:
		v.bad("service.onUnexpected", "stop needs service.stop, the command that stops it")
	}
	if s.Log.Keep < 0 {
		v.bad("service.log.keep", "%d is below 0 (0: older output is dropped)", s.Log.Keep)
	}
	if m := s.Log.MaxSize; m != 0 && m < 64<<10 {
		v.bad("service.log.maxSize", "%s would rotate all the time; write at least 64KiB, or 0 for a file that is never rotated", m)
	}
}

// checks judges service.checks.
func (v *validator) checks() {
	names := map[string]bool{}
	for i, c := range v.c.Service.Checks {
		name := c.Name
		if name == "" {
			name = fmt.Sprintf("check-%d", i+1)
		}
		bad := func(format string, args ...any) { v.bad("service.checks", name+": "+format, args...) }
		if names[name] {
			bad("two checks have this name; choose another")
		}
		names[name] = true
		kinds := 0
		for _, set := range []bool{c.HTTP != "", c.TCP != "", c.File != "", len(c.Exec) > 0} {
			if set {
				kinds++
			}
		}
		if kinds != 1 {
			bad("%d of http, tcp, file and exec are set; set exactly one", kinds)
		}
		if u, err := url.Parse(c.HTTP); c.HTTP != "" && (err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "") {
			bad("http: %q is not a URL; write e.g. http://127.0.0.1:8080/health", c.HTTP)
		}
		if host, port, err := net.SplitHostPort(c.TCP); c.TCP != "" && (err != nil || host == "" || port == "") {
			bad("tcp: %q is not host:port; write e.g. 127.0.0.1:8080", c.TCP)
		}
		if c.File != "" {
			v.local("service.checks", c.File)
		}
		if c.Interval <= 0 || c.Timeout <= 0 || c.Rise < 1 || c.Fall < 1 {
			bad("interval and timeout must be above 0, rise and fall at least 1")
		}
	}
	if v.c.Service.None && len(names) > 0 {
		v.bad("service.checks", "check nothing: service.none is true")
	}
}

// local refuses a path that is not absolute or lies on the shared store.
func (v *validator) local(key, path string) {
	if !filepath.IsAbs(path) {
		v.bad(key, "%q is not an absolute path", path)
		return
	}
	if loc, err := v.c.Location(); err == nil && loc.Scheme == "file" && within(path, loc.Path) {
		v.bad(key, "%s lies on the shared store (persistenceDir %s): when that hangs, so does the check; use a directory of this machine", path, loc.Path)
	}
}

func (v *validator) hooks() {
	for _, h := range v.c.Hooks.All() {
		key := "hooks." + h.Event
		if h.Timeout <= 0 {
			v.bad(key+".timeout", "%s leaves no time; write e.g. 10s", formatDuration(h.Timeout))
		}
		switch {
		case len(h.Command) == 0:
		case h.Command[0] == "":
			v.bad(key+".command", "its first word, the program, is empty")
		case strings.Contains(h.Command[0], "/") && !filepath.IsAbs(h.Command[0]):
			v.bad(key+".command", "%q is not an absolute path", h.Command[0])
		case h.Bound && v.c.Service.None:
			v.bad(key+".command", "needs a service: only a guard process may run what belongs to a term, and with service.none: true there is none; use onRoleChange, or set service.command")
		}
	}
}

// timingKeys are the keys TimingRequest passes on.
var timingKeys = []string{
	"ha.preset", "ha.heartbeatTimeout", "ha.heartbeatInterval", "ha.standbyHeartbeatInterval", "ha.pollInterval",
	"ha.takeoverTimeout", "store.operationTimeout", "service.stopTimeout",
}

// timings asks the protocol, with what the kind of store is known to need; the
// server asks again once the store is open.
func (v *validator) timings() {
	c := v.c
	loc, err := c.Location()
	if err != nil {
		loc = Location{}
	}
	t, err := election.Derive(c.TimingRequest(0, loc.PollDivisor()))
	if err != nil {
		key, text := "ha.heartbeatTimeout", err.Error()
		var te *election.TimingError
		if errors.As(err, &te) {
			key, text = te.Key, te.Reason
		}
		// The key to blame may be a derived one; name one that was written
		// instead, and what else was asked for.
		for _, k := range []string{"ha.heartbeatInterval", "store.operationTimeout", "service.stopTimeout", "ha.heartbeatTimeout"} {
			if !c.IsSet(key) && c.IsSet(k) {
				key = k
			}
		}
		var asked []string
		for _, k := range timingKeys {
			if c.IsSet(k) && k != key {
				asked = append(asked, fmt.Sprintf("%s (%s)", k, c.Origin(k)))
			}
		}
		if len(asked) > 0 {
			text += "; set were " + strings.Join(asked, ", ")
		}
		v.bad(key, "%s", text)
		return
	}
	if g := c.Guard.StopTimeout; g > t.Stop {
		v.bad("guard.stopTimeout", "%s is longer than service.stopTimeout %s, the whole time there is to stop; the nearest legal value is %s", formatDuration(g), formatDuration(t.Stop), formatDuration(t.Stop))
	}
	if r := c.HA.InactiveNodeRemoval; r != 0 && r <= t.Timeout {
		v.bad("ha.inactiveNodeRemoval", "%s is not longer than ha.heartbeatTimeout %s: nodes would be forgotten before they are missed; write 0s to never forget", formatDuration(r), formatDuration(t.Timeout))
	}
	v.moves()
	if g := c.Service.DrainDelay; g > 10*time.Minute {
		v.warn("service.drainDelay", "every planned hand-over waits %s first", formatDuration(g))
	}
}

// moves looks at when the mastership moves by itself.
func (v *validator) moves() {
	h := v.c.HA
	if h.Failback == "after" && h.FailbackAfter <= 0 {
		v.bad("ha.failbackAfter", "%s is no time at all; write e.g. 10m", formatDuration(h.FailbackAfter))
	}
	if h.AntiFlap.Changes < 0 {
		v.bad("ha.antiFlap.changes", "%d is below 0; write 0 for no bound", h.AntiFlap.Changes)
	}
	if h.AntiFlap.Changes > 0 && h.AntiFlap.Window <= 0 {
		v.bad("ha.antiFlap.window", "%s is no time at all; write e.g. 10m, or antiFlap.changes: 0 for no bound", formatDuration(h.AntiFlap.Window))
	}
}

// mostBackups is as many as a plane may be told to keep: whoever makes one lists
// them all.
const mostBackups = 1000

func (v *validator) state() {
	if n := v.c.State.Backups.Keep; n < 0 || n > mostBackups {
		v.bad("state.backups.keep", "%d is not from 0 to %d; write 0 for no backups", n, mostBackups)
	}
}

// formatDuration writes a duration as people do: 1m, not 1m0s.
func formatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}
