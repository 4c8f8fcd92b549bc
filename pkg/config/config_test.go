package config

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/deploy/config"
	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/pkg/lease"
)

func writeFile(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// minimalService is a file whose service has more settings than a command.
func minimalService(more string) string {
	return "persistenceDir: /mnt/u\nservice: {command: [a], " + more + "}\n"
}

// minimalCommand is a file with another command, and what follows it.
func minimalCommand(rest string) string {
	return "persistenceDir: /mnt/u\nservice: {command: " + rest + "}\n"
}

const minimal = "persistenceDir: /mnt/understudy\nservice: {command: [sleep, 60]}\n"

func TestMinimalFile(t *testing.T) {
	c, warn, err := Load(writeFile(t, "u.yaml", minimal), nil, nil)
	if err != nil || len(warn) != 0 {
		t.Fatalf("Load: %v, warnings %q", err, warn)
	}
	want := Default()
	want.PersistenceDir = "/mnt/understudy"
	want.Service.Command = []string{"sleep", "60"}
	c.origins = nil
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got  %+v\nwant %+v", c, want)
	}
}

// Everything a file can get wrong names the file, the line, the key, and what
// would be right.
func TestFileErrors(t *testing.T) {
	for _, tc := range []struct {
		name, text string
		want       []string // all in the message
	}{
		{"unknown key", "ha:\n  heartbeatTimout: 30s\n", []string{"u.yaml:2: ha.heartbeatTimout: unknown key; did you mean ha.heartbeatTimeout?"}},
		{"swapped letters", "presistMode: AUTO\n", []string{"u.yaml:1: presistMode: unknown key; did you mean persistMode?"}},
		{"key of another section", "heartbeatTimeout: 30s\n", []string{"u.yaml:1: heartbeatTimeout: unknown key; did you mean ha.heartbeatTimeout?"}},
		{"Brooklyn's key", "brooklyn.ha.heartbeatTimeout: 30s\n", []string{"u.yaml:1: brooklyn.ha.heartbeatTimeout: unknown key; did you mean ha.heartbeatTimeout?"}},
		{"unlike anything", "log:\n  zzzzzzzzz: 1\n", []string{"u.yaml:2: log.zzzzzzzzz: unknown key; legal in log: level, format"}},
		{"given twice", "priority: 1\n\npriority: 2\n", []string{"u.yaml:3: priority: given twice, first in line 1"}},
		{"section given twice", "ha:\n  failFast: true\nha:\n  autoInit: true\n", []string{"u.yaml:3: ha: given twice, first in line 1"}},
		{"no unit", "ha:\n  heartbeatTimeout: 30\n", []string{"u.yaml:2: ha.heartbeatTimeout: 30 has no unit; write 30s or 30ms"}},
		{"no duration", "ha:\n  takeoverTimeout: soon\n", []string{`u.yaml:2: ha.takeoverTimeout: "soon" is not a duration; must be a duration such as 500ms, 30s or 1m30s`}},
		{"negative", "ha:\n  heartbeatTimeout: -1s\n", []string{"u.yaml:2: ha.heartbeatTimeout: -1s is negative"}},
		{"zero lease", "ha:\n  heartbeatTimeout: 0s\n", []string{"u.yaml:2: ha.heartbeatTimeout: 0 is not possible"}},
		{"not derived", "service:\n  window: derived\n", []string{"u.yaml:2: service.window: is not derived from anything"}},
		{"no number", "priority: high\n", []string{`u.yaml:1: priority: must be a whole number, not "high"`}},
		{"quoted number", "priority: \"1\"\n", []string{`u.yaml:1: priority: must be a whole number`}},
		{"fraction", "priority: 1.5\n", []string{`u.yaml:1: priority: must be a whole number, not "1.5"`}},
		{"yes is no truth", "ha:\n  failFast: yes\n", []string{`u.yaml:2: ha.failFast: must be true or false, not "yes"`}},
		{"mode", "highAvailabilityMode: HOTSTANDBY\n", []string{`u.yaml:1: highAvailabilityMode: "HOTSTANDBY" is not one of AUTO, MASTER,`, "did you mean HOT_STANDBY?"}},
		{"nonMaster unknown", "server:\n  nonMaster: proxy\n", []string{`u.yaml:2: server.nonMaster: "proxy" is not one of forbid, redirect, forward`}},
		{"forward without TLS", minimal + "server: {nonMaster: forward, tls: {disabled: true}}\n", []string{"server.nonMaster: forward needs TLS"}},
		{"signal", "service:\n  stopSignal: SIGTREM\n", []string{`u.yaml:2: service.stopSignal: "SIGTREM" is not one of TERM,`}},
		{"command as text", "service:\n  command: sleep 60\n", []string{"u.yaml:2: service.command: must be a list of words such as [/usr/bin/prog, --flag]", `not "sleep 60"`}},
		{"command of maps", "service:\n  command: [{a: b}]\n", []string{"u.yaml:2: service.command: must be a list of words"}},
		{"env as list", "service:\n  env: [A=b]\n", []string{"u.yaml:2: service.env: must be a map of words"}},
		{"section as text", "ha: true\n", []string{"u.yaml:1: ha: must hold keys (preset, heartbeatTimeout,"}},
		{"text as map", "dataDir: {a: b}\n", []string{"u.yaml:1: dataDir: must be a text, not a map of keys"}},
		{"no value", "priority:\n", []string{"u.yaml:1: priority: has no value; must be a whole number"}},
		{"list at the top", "- a\n", []string{"u.yaml:1: must hold keys (highAvailabilityMode,"}},
		{"tab", "ha:\n\tpreset: fast\n", []string{"u.yaml:2: not YAML:"}},
		{"unclosed", "persistenceDir: \"/mnt\n", []string{"not YAML:", "u.yaml:"}},
		{"two documents", "priority: 1\n---\npriority: 2\n", []string{"a second YAML document begins here"}},
		{"merge key", "x: &a {preset: fast}\nha:\n  <<: *a\n", []string{"u.yaml:1: x: unknown key", "u.yaml:3: ha.<<: unknown key"}},
		{"every problem at once", "prioritty: 1\nha:\n  failFast: 2\n", []string{"u.yaml:1: prioritty: unknown key; did you mean priority?", "u.yaml:3: ha.failFast: must be true or false"}},

		// Combinations: the message prints both sides.
		{"no location", "service: {none: true}\n", []string{"persistenceDir: is not set", "store.allowLocal"}},
		{"relative location", "persistenceDir: state\nservice: {none: true}\n", []string{`u.yaml:1: persistenceDir: "state" is not an absolute path`}},
		{"unknown scheme", "persistenceDir: ftp://h/p\nservice: {none: true}\n", []string{`u.yaml:1: persistenceDir: unknown scheme "ftp": must be a path, file://, s3:// or hdfs://`}},
		{"no service", "persistenceDir: /mnt/u\n", []string{"service.command: is not set", "service.none: true"}},
		{"none and command", "persistenceDir: /mnt/u\nservice:\n  command: [a]\n  none: true\n", []string{"u.yaml:4: service.none: true although service.command is given"}},
		{"persist disabled", minimal + "persistMode: disabled\n", []string{"u.yaml:3: persistMode: DISABLED together with highAvailabilityMode AUTO"}},
		{"clean standby", minimal + "persistMode: CLEAN\nhighAvailabilityMode: hot_backup\n", []string{"u.yaml:3: persistMode: CLEAN together with highAvailabilityMode HOT_BACKUP"}},
		{"dataDir on the store", minimal + "dataDir: /mnt/understudy/data\n", []string{"u.yaml:3: dataDir: /mnt/understudy/data lies on the shared store (persistenceDir /mnt/understudy)"}},
		{"lease too short", minimal + "ha: {heartbeatTimeout: 2s}\n", []string{"u.yaml:3: ha.heartbeatTimeout: 2s is below the floor", "3s"}},
		{"timings that do not fit", minimal + "ha: {heartbeatTimeout: 10s}\nstore:\n  operationTimeout: 3s\n", []string{
			"u.yaml:5: store.operationTimeout: D >= h + 2o is broken", "4.9s", "7s", "Nearest legal values",
			"set were ha.heartbeatTimeout (", "u.yaml:3)",
		}},
		{"hook of no event", minimal + "hooks: {onFences: {command: [/h]}}\n", []string{"u.yaml:3: hooks.onFences: unknown key; did you mean hooks.onFence?"}},
		{"method that asks the machine itself and proves", minimal + "fencing:\n  methods: [{method: ssh, command: [halt], provesOff: true}]\n", []string{"u.yaml:4: fencing.methods: method 1: provesOff: ssh asks the machine itself"}},
		{"the same of stepDown", minimal + "fencing:\n  methods: [{method: stepDown, provesOff: true}]\n", []string{"method 1: provesOff: stepDown asks the machine itself"}},
		{"early without proof", minimal + "fencing:\n  early: true\n  hosts: {n63twgfn: a}\n  methods: [{method: command, command: [/f]}]\n", []string{"u.yaml:4: fencing.early: needs a method with provesOff: true"}},
		{"early without hosts", minimal + "fencing:\n  early: true\n  methods: [{method: command, command: [/f], provesOff: true}]\n", []string{"u.yaml:4: fencing.early: needs fencing.hosts"}},
		{"host of no node", minimal + "fencing:\n  hosts: {node1: a}\n", []string{"u.yaml:4: fencing.hosts:", "understudy states shows the ids"}},
		{"ec2Stop of no instance", minimal + "fencing:\n  hosts: {n63twgfn: node1.example.org}\n  methods: [{method: ec2Stop}]\n", []string{"u.yaml:5: fencing.methods: method 1: n63twgfn: \"node1.example.org\" is no instance id"}},
		{"method of none", minimal + "fencing:\n  methods: [{timeout: 1s}]\n", []string{"method 1: names no method"}},
		{"method unknown", minimal + "fencing:\n  methods: [{method: ec2stopp}]\n", []string{"method 1: method \"ec2stopp\" is not one of stepDown, command, ssh, ec2Stop; did you mean ec2Stop?"}},
		{"method with what means nothing", minimal + "fencing:\n  methods: [{method: stepDown, keyFile: /k}]\n", []string{"method 1: keyFile means nothing to stepDown"}},
		{"ssh without command", minimal + "fencing:\n  methods: [{method: ssh}]\n", []string{"method 1: needs command, what is run there"}},
		{"required that proceeds", minimal + "fencing: {required: true, ifFencingFails: proceed, methods: [{method: stepDown}]}\n", []string{"fencing.ifFencingFails: proceed contradicts fencing.required"}},
		{"watchdog of nothing", "persistenceDir: /mnt/u\nservice: {none: true}\nwatchdog: required\n", []string{"u.yaml:3: watchdog: needs a service"}},
		{"watchdog of a wrong word", minimal + "watchdog: on\n", []string{"u.yaml:3: watchdog:", "off, automatic, required"}},
		{"elastic IP of no allocation", minimal + "elasticIP: {instanceId: i-0123456789abcdef0}\n", []string{"elasticIP: needs elasticIP.allocationId"}},
		{"elastic IP of two targets", minimal + "elasticIP: {allocationId: eipalloc-0123456789abcdef0, instanceId: i-0123456789abcdef0, interfaceId: eni-0123456789abcdef0}\n", []string{"elasticIP.interfaceId: excludes elasticIP.instanceId"}},
		{"hook with a slip", minimal + "hooks: {prePromote: {comand: [/h]}}\n", []string{"u.yaml:3: hooks.prePromote.comand: unknown key; did you mean hooks.prePromote.command?"}},
		{"hook without time", minimal + "hooks: {preDemote: {command: [/h], timeout: 0s}}\n", []string{"u.yaml:3: hooks.preDemote.timeout: 0s leaves no time"}},
		{"hook from somewhere", minimal + "hooks: {onStoreLost: {command: [bin/h]}}\n", []string{`u.yaml:3: hooks.onStoreLost.command: "bin/h" is not an absolute path`}},
		{"hook of no program", minimal + "hooks: {onStoreBack: {command: ['']}}\n", []string{"u.yaml:3: hooks.onStoreBack.command: its first word"}},
		{"hook of a term without a guard", "persistenceDir: /mnt/u\nservice: {none: true}\nhooks: {postPromote: {command: [/h]}}\n", []string{"u.yaml:3: hooks.postPromote.command: needs a service"}},
		{"guard longer than S", minimal + "guard: {stopTimeout: 11s}\n", []string{"u.yaml:3: guard.stopTimeout: 11s is longer than service.stopTimeout 10s"}},
		{"start too short", "persistenceDir: /mnt/u\nservice:\n  command: [a]\n  startTimeout: 1s\n  startGrace: 2s\n", []string{"u.yaml:4: service.startTimeout: 1s is not longer than service.startGrace 2s"}},
		{"failback after no time", minimal + "ha: {failback: after, failbackAfter: 0s}\n", []string{"u.yaml:3: ha.failbackAfter: 0s is no time at all; write e.g. 10m"}},
		{"failback unknown", minimal + "ha: {failback: always}\n", []string{"ha.failback", "never", "after"}},
		{"anti-flap below 0", minimal + "ha: {antiFlap: {changes: -1}}\n", []string{"ha.antiFlap.changes: -1 is below 0; write 0 for no bound"}},
		{"anti-flap without a window", minimal + "ha: {antiFlap: {window: 0s}}\n", []string{"ha.antiFlap.window: 0s is no time at all"}},
		{"removal before timeout", minimal + "ha: {inactiveNodeRemoval: 30s}\n", []string{"u.yaml:3: ha.inactiveNodeRemoval: 30s is not longer than ha.heartbeatTimeout 30s"}},
		{"delegating command", "persistenceDir: /mnt/u\nservice: {command: [/usr/bin/docker, run, x]}\n", []string{"u.yaml:2: service.command: /usr/bin/docker asks another process", "give service.stop", "service.probe, which exits with 7"}},
		{"delegating command without a probe", minimalCommand("[ssh, b, x], stop: [ssh, b, y]"), []string{"u.yaml:2: service.command: ssh asks another process"}},
		{"delegating command without a stop", minimalCommand("[ssh, b, x], probe: [ssh, b, y]"), []string{"u.yaml:2: service.command: ssh asks another process"}},
		{"unit and a program", minimalCommand("[/p], systemd: app.service"), []string{"u.yaml:2: service.command: is given beside service.systemd: app.service; remove one of them"}},
		{"unit with a probe", "persistenceDir: /mnt/u\nservice: {systemd: app.service, probe: [/p], env: {A: b}, none: true}\n", []string{"u.yaml:2: service.probe: is given beside", "service.env: is given beside", "service.none: is given beside"}},
		{"unit of another kind", "persistenceDir: /mnt/u\nservice: {systemd: app.socket}\n", []string{`u.yaml:2: service.systemd: "app.socket" is not the name of a service's unit`}},
		{"delegating script", minimalCommand("[/p], delegates: true, stop: [/s]"), []string{"u.yaml:2: service.delegates: true: other processes run the service", "or remove service.delegates"}},
		{"delegating standby", minimalService("standbyCommand: [ssh, b, x]"), []string{"u.yaml:2: service.standbyCommand: ssh asks another process"}},
		{"stop what is unknown", minimalService("onUnexpected: stop"), []string{"u.yaml:2: service.onUnexpected: stop needs service.probe"}},
		{"stop by nothing", minimalService("onUnexpected: stop, probe: [p]"), []string{"u.yaml:2: service.onUnexpected: stop needs service.stop"}},
		{"check of nothing", minimalService("checks: [{name: x}]"), []string{"u.yaml:2: service.checks: x: 0 of http, tcp, file and exec are set; set exactly one"}},
		{"checks by one name", minimalService("checks: [{name: x, tcp: 'h:1'}, {name: x, tcp: 'h:2'}]"), []string{"service.checks: x: two checks have this name"}},
		{"check with a slip", minimalService("checks: [{tpc: 'h:1'}]"), []string{"u.yaml:2: service.checks: check 1: unknown key tpc; did you mean tcp?"}},
		{"check without a unit", minimalService("checks: [{tcp: 'h:1', interval: 5}]"), []string{"service.checks: check 1: interval 5 has no unit"}},
		{"check that never falls", minimalService("checks: [{tcp: 'h:1', fall: 0}]"), []string{"rise and fall at least 1"}},
		{"check of a relative file", minimalService("checks: [{file: up}]"), []string{`service.checks: "up" is not an absolute path`}},
		{"ready file on the store", minimalService("ready: {file: /mnt/u/up}"), []string{"service.ready.file: /mnt/u/up lies on the shared store"}},
		{"log that is too small", minimalService("log: {maxSize: 1KiB}"), []string{"service.log.maxSize: 1KiB would rotate all the time"}},
		{"log without a unit", minimalService("log: {maxSize: 1000}"), []string{`service.log.maxSize: "1000" is not a size; write e.g. 512KiB`}},
		{"address without its network", minimal + "floatingIP: {address: 10.0.0.5, interface: eth0}\n", []string{"u.yaml:3: floatingIP.address: \"10.0.0.5\" is not an address with the length of its network"}},
		{"address of many", minimal + "floatingIP: {address: 224.0.0.5/24, interface: eth0}\n", []string{"floatingIP.address: 224.0.0.5/24 can not be the address of a machine"}},
		{"address on nothing", minimal + "floatingIP: {address: 10.0.0.5/24}\n", []string{"u.yaml:3: floatingIP.address: needs floatingIP.interface"}},
		{"interface of nothing", minimal + "floatingIP: {interface: eth0}\n", []string{"u.yaml:3: floatingIP.interface: needs floatingIP.address"}},
		{"no interface's name", minimal + "floatingIP: {address: 'fd00::5/64', interface: 'eth 0'}\n", []string{"floatingIP.interface: \"eth 0\" is no name"}},
		{"address without a guard", "persistenceDir: /mnt/u\nservice: {none: true}\nfloatingIP: {address: 10.0.0.5/24, interface: eth0}\n", []string{"floatingIP.address: needs a service"}},
		{"role without a guard", "persistenceDir: /mnt/u\nservice: {none: true}\nroleFile: /run/role\n", []string{"roleFile: needs a service"}},
		{"role on the store", minimal + "roleFile: /mnt/understudy/role\n", []string{"u.yaml:3: roleFile: /mnt/understudy/role lies on the shared store"}},
		{"relative role", minimal + "roleFile: role\n", []string{"u.yaml:3: roleFile: \"role\" is not an absolute path"}},
		{"agent without a port", minimal + "server: {agentListen: here}\n", []string{"u.yaml:3: server.agentListen: \"here\" is not host:port"}},
		{"agent on REST's port", minimal + "server: {agentListen: ':8443'}\n", []string{"server.agentListen: is that of server.listen"}},
		{"reserved variable", "persistenceDir: /mnt/u\nservice: {command: [a], env: {HA_TERM: 1}}\n", []string{"u.yaml:2: service.env: HA_TERM"}},
		{"two checks", "persistenceDir: /mnt/u\nservice: {command: [a], ready: {http: 'http://h/', tcp: 'h:1'}}\n", []string{"u.yaml:2: service.ready.tcp: beside service.ready.http"}},
		{"listen", minimal + "server: {listen: 8443}\n", []string{`u.yaml:3: server.listen: "8443" is not host:port; write e.g. ":8443"`}},
		{"port", minimal + "server: {listen: ':84430'}\n", []string{`u.yaml:3: server.listen: port "84430" is not a number from 0 to 65535`}},
		{"half a certificate", minimal + "server: {tls: {cert: /a}}\n", []string{"u.yaml:3: server.tls.cert: needs server.tls.key"}},
		{"user without password", minimal + "server: {auth: {user: a}}\n", []string{"u.yaml:3: server.auth.user: needs server.auth.passwordFile"}},
		{"nodeUri", minimal + "nodeUri: node1:8443\n", []string{`u.yaml:3: nodeUri: "node1:8443" is not the address of a node`}},
		{"workDir on the store", "persistenceDir: /mnt/u\nservice: {command: [a], workDir: /mnt/u/x}\n", []string{"u.yaml:2: service.workDir: /mnt/u/x lies on the shared store"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, _, err := Load(writeFile(t, "u.yaml", tc.text), nil, nil)
			if err == nil {
				t.Fatalf("accepted:\n%s", tc.text)
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("message lacks %q:\n%s", want, err)
				}
			}
		})
	}
}

func TestFileThatCannotBeRead(t *testing.T) {
	dir := t.TempDir()
	for path, want := range map[string]string{
		filepath.Join(dir, "absent.yaml"): "absent.yaml: no such file or directory",
		dir:                               dir + ": is a directory; name the file in it",
	} {
		if _, _, err := Load(path, nil, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Load(%s) = %v, want %q", path, err, want)
		}
	}
	big := writeFile(t, "big.yaml", strings.Repeat("# padding\n", maxFileSize/10+1))
	if _, _, err := Load(big, nil, nil); err == nil || !strings.Contains(err.Error(), "is larger than") {
		t.Errorf("Load of a huge file: %v", err)
	}
}

// defaults < file < Brooklyn's files < environment < flags, seen by adding one
// source after the other.
func TestPrecedence(t *testing.T) {
	src := Sources{Flags: []Override{{"persistenceDir", "/mnt/u", "t"}, {"service.none", "true", "t"}}}
	flags := len(src.Flags)
	check := func(want time.Duration, origin string) {
		t.Helper()
		c, _, err := LoadFrom(src)
		if err != nil {
			t.Fatal(err)
		}
		if c.HA.HeartbeatTimeout != want || !strings.HasSuffix(c.Origin("ha.heartbeatTimeout"), origin) {
			t.Errorf("heartbeatTimeout %v from %s, want %v from %s", c.HA.HeartbeatTimeout, c.Origin("ha.heartbeatTimeout"), want, origin)
		}
	}
	check(0, "default")
	src.File = writeFile(t, "u.yaml", "ha:\n  heartbeatTimeout: 11s\n")
	check(11*time.Second, "u.yaml:2")
	src.Brooklyn = []Override{{"ha.heartbeatTimeout", "12s", "brooklyn.cfg:1"}}
	check(12*time.Second, "brooklyn.cfg:1")
	src.Environ = []string{"HOME=/", "UNDERSTUDY_HA_HEARTBEAT_TIMEOUT=13s"}
	check(13*time.Second, "environment UNDERSTUDY_HA_HEARTBEAT_TIMEOUT")
	src.Flags = append(src.Flags[:flags:flags], Override{"ha.heartbeatTimeout", "14s", "flag --timeout"})
	check(14*time.Second, "flag --timeout")
}

func TestEnvironment(t *testing.T) {
	c, warn, err := Load("", []string{
		"UNDERSTUDY_PERSISTENCE_DIR=/mnt/u",
		"UNDERSTUDY_SERVICE_COMMAND=[sleep, 60]",
		"UNDERSTUDY_SERVICE_ENV={A: b, C: 1}",
		"UNDERSTUDY_NODE_URI=http://n:1/",
		"UNDERSTUDY_SERVER_TLS_DISABLED=true",
		"UNDERSTUDY_SERVER_LISTEN=127.0.0.1:8443",
		"UNDERSTUDY_HA_STANDBY_HEARTBEAT_INTERVAL=2s",
		"UNDERSTUDY_PRIORITY=-3",
		"UNDERSTUDY_LOG_LEVEL=", // left out by a wrapper
		"UNDERSTUDY_SERVER_AUTH_USER=123",
		"UNDERSTUDY_SERVER_AUTH_PASSWORD=0123",
		"UNDERSTUDY_HA_HEARTBEAT_TIMOUT=5s",                 // a slip
		"UNDERSTUDY_SERVICE_PORT_8443_TCP_ADDR=10.96.0.1",   // Kubernetes
		"UNDERSTUDY_SERVICE_HOST=10.96.0.1",                 // Kubernetes
		"UNDERSTUDY_PORT=tcp://10.96.0.1:8443",              // Kubernetes
		"UNDERSTUDY_ENDPOINT=https://n:1", "UNDERSTUDY_X=1", // somebody else's
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.PersistenceDir, want.NodeURI, want.Priority = "/mnt/u", "http://n:1/", -3
	want.Service.Command, want.Service.Env = []string{"sleep", "60"}, map[string]string{"A": "b", "C": "1"}
	want.Server.TLS.Disabled, want.Server.Listen = true, "127.0.0.1:8443"
	want.HA.StandbyHeartbeatInterval = 2 * time.Second
	want.Server.Auth.User, want.Server.Auth.Password = "123", "0123"
	c.origins = nil
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got  %+v\nwant %+v", c, want)
	}
	if len(warn) != 1 || !strings.Contains(warn[0], "did you mean UNDERSTUDY_HA_HEARTBEAT_TIMEOUT?") {
		t.Errorf("warnings %q", warn)
	}
	_, _, err = Load("", []string{"UNDERSTUDY_PRIORITY=high"}, nil)
	if err == nil || !strings.Contains(err.Error(), `environment UNDERSTUDY_PRIORITY: priority: must be a whole number, not "high"`) {
		t.Errorf("bad variable: %v", err)
	}
	_, _, err = Load("", nil, []Override{{"ha.heartbeattimeou", "1s", "flag --set"}})
	if err == nil || !strings.Contains(err.Error(), "flag --set: ha.heartbeattimeou: unknown key; did you mean ha.heartbeatTimeout?") {
		t.Errorf("bad flag: %v", err)
	}
}

func TestEnvNamesAreUnique(t *testing.T) {
	seen := map[string]string{}
	for _, key := range Keys() {
		if other, dup := seen[EnvName(key)]; dup {
			t.Errorf("%s and %s are both set by %s", key, other, EnvName(key))
		}
		seen[EnvName(key)] = key
	}
	if got := EnvName("ha.heartbeatTimeout"); got != "UNDERSTUDY_HA_HEARTBEAT_TIMEOUT" {
		t.Error(got)
	}
}

var commentedKey = regexp.MustCompile(`(?m)^#([^#\n].*)$`)

// The shipped file holds every key, and uncommenting them all changes nothing.
func TestShippedFileIsTheDefault(t *testing.T) {
	shipped := config.YAML
	for _, text := range [][]byte{shipped, commentedKey.ReplaceAll(shipped, []byte("$1"))} {
		c, _, err := Read(Sources{File: writeFile(t, "understudy.yaml", string(text))})
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Equal(text, shipped) {
			if len(c.origins) != 0 {
				t.Errorf("the shipped file sets %v", c.origins)
			}
		} else if unset := slices.DeleteFunc(Keys(), c.IsSet); len(unset) > 0 {
			t.Errorf("the shipped file lacks %q", unset)
		}
		if diff := difference(c, Default()); diff != "" {
			t.Error(diff)
		}
	}
}

func TestShow(t *testing.T) {
	path := writeFile(t, "u.yaml", minimal+"server: {auth: {user: op, password: hunter2}}\nha: {preset: fast}\nguard: {stopTimeout: 700ms}\n")
	c, _, err := Load(path, []string{"UNDERSTUDY_SERVICE_ENV={TOKEN: hunter3}"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	timing, err := election.Derive(c.TimingRequest(0, 5))
	if err != nil {
		t.Fatal(err)
	}
	out := string(c.Show(&timing, "node1", false))
	for _, want := range []string{
		"persistenceDir: /mnt/understudy  # " + path + ":1\n",
		"nodeUri: https://node1:8443/\n",
		"  heartbeatTimeout: 5s\n", "  heartbeatInterval: 500ms\n", "  pollInterval: 100ms\n", "  operationTimeout: 500ms\n",
		"  stopTimeout: 2s\n", "  stopTimeout: 700ms  # ",
		"    password: '*****'", "{TOKEN: '*****'}  # environment UNDERSTUDY_SERVICE_ENV",
		"  command: [sleep, \"60\"]", "  inactiveNodeRemoval: 48h\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("lacks %q:\n%s", want, out)
		}
	}
	if strings.Contains(out, "hunter") {
		t.Errorf("prints a secret:\n%s", out)
	}

	// What is shown can be read back and means the same.
	again, _, err := Load(writeFile(t, "again.yaml", string(c.Show(nil, "", true))), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := difference(c, again); diff != "" {
		t.Error(diff)
	}
}

// difference compares what was configured: origins and nil against empty do
// not matter.
func difference(a, b *Config) string {
	x, y := string(a.plain()), string(b.plain())
	if x == y {
		return ""
	}
	return "one:\n" + x + "\nother:\n" + y
}

func (c *Config) plain() []byte {
	copied := *c
	copied.origins = nil
	return copied.Show(nil, "", true)
}

func TestLocations(t *testing.T) {
	for in, want := range map[string]Location{
		"/mnt/u":            {Scheme: "file", Host: "", Path: "/mnt/u"},
		"/mnt/u/":           {Scheme: "file", Host: "", Path: "/mnt/u"},
		"/mnt/with blank":   {Scheme: "file", Host: "", Path: "/mnt/with blank"},
		"file:///mnt/u":     {Scheme: "file", Host: "", Path: "/mnt/u"},
		"file:///mnt/a%20b": {Scheme: "file", Host: "", Path: "/mnt/a b"},
		"s3://bucket/a/b/":  {Scheme: "s3", Host: "bucket", Path: "a/b"},
		"s3://bucket":       {Scheme: "s3", Host: "bucket", Path: ""},
		"s3://b/p?region=eu-west-1&endpoint=http%3A%2F%2F127.0.0.1%3A9000&pathStyle=TRUE": {
			Scheme: "s3", Host: "b", Path: "p", S3: S3{Region: "eu-west-1", Endpoint: "http://127.0.0.1:9000", PathStyle: "true"},
		},
		"s3://b/p?endpoint=http://127.0.0.1:9000": {Scheme: "s3", Host: "b", Path: "p", S3: S3{Endpoint: "http://127.0.0.1:9000"}},
		"s3://b?sse=aws:kms&kmsKeyId=arn:aws:kms:eu-west-1:1:key/2&profile=p%26q&caFile=/etc/ca.pem": {
			Scheme: "s3", Host: "b", S3: S3{SSE: "aws:kms", KMSKeyID: "arn:aws:kms:eu-west-1:1:key/2", Profile: "p&q", CAFile: "/etc/ca.pem"},
		},
		"s3://b/why%3F%23%25": {Scheme: "s3", Host: "b", Path: "why?#%"},
		"hdfs://nn:8020/u":    {Scheme: "hdfs", Host: "nn:8020", Path: "/u"},
		"hdfs://ns/u/":        {Scheme: "hdfs", Host: "ns", Path: "/u"},
		"HDFS://ns/u/../v//":  {Scheme: "hdfs", Host: "ns", Path: "/v"},
		"hdfs://ns/u?confDir=/etc/hadoop&user=web&kerberos.principal=web%2F_HOST%40R&kerberos.keytab=/etc/web.keytab": {
			Scheme: "hdfs", Host: "ns", Path: "/u", HDFS: HDFS{ConfDir: "/etc/hadoop", User: "web", Kerberos: Kerberos{Principal: "web/_HOST@R", Keytab: "/etc/web.keytab"}},
		},
	} {
		got, err := ParseLocation(in)
		if err != nil || got != want {
			t.Errorf("ParseLocation(%q) = %+v, %v; want %+v", in, got, err, want)
			continue
		}
		if back, err := ParseLocation(got.String()); err != nil || back != got {
			t.Errorf("%q does not come back: %q is %+v, %v", in, got.String(), back, err)
		}
	}
	for _, in := range []string{
		"", "/", "mnt", "./mnt", "file://mnt/u", "s3:///x", "s3://", "hdfs://", "hdfs://nn:8020", "hdfs:///x", "ftp://x/y", "s3://k:hunter2@b/p", "s3://b/p?versionId=1", "/a\nb", "s3://[x",
		"s3://b/p?secretKey=hunter2", "s3://b/p?region=a&region=hunter2", "s3://b/p?sse=hunter2", "s3://b/p?pathStyle=maybe", "s3://b/p?x=hunter2#y", "s3:///p?x=hunter2",
		"s3://b/p?endpoint=http://k:hunter2@h", "s3://b/p?endpoint=minio:9000", "s3://b/p?kmsKeyId=k", "s3://b/p?caFile=ca.pem", "s3://b/p?%zz=hunter2", "hdfs://h/p?x=hunter2",
		"hdfs://h/a:b?user=hunter2", "hdfs://h/p?confDir=conf", "hdfs://h/p?kerberos.keytab=/k", "hdfs://h/p?kerberos.keytab=/k&kerberos.principal=p&kerberos.ccache=/c", "/p?q=1\n",
	} {
		if got, err := ParseLocation(in); err == nil {
			t.Errorf("ParseLocation(%q) = %+v, want an error", in, got)
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("prints a secret: %v", err)
		}
	}
}

// The query comes before store.s3, and both are judged together.
func TestS3Options(t *testing.T) {
	const file = "service: {none: true}\npersistenceDir: s3://b/p%s\nstore:\n  s3:\n    region: eu-west-1\n    kmsKeyId: k\n"
	c, _, err := Load(writeFile(t, "u.yaml", fmt.Sprintf(file, "?region=us-east-2&sse=aws:kms")), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	loc, err := c.Location()
	if want := (S3{Region: "us-east-2", PathStyle: "auto", SSE: "aws:kms", KMSKeyID: "k"}); err != nil || loc.S3 != want {
		t.Errorf("%+v, %v; want %+v", loc.S3, err, want)
	}
	if got, want := loc.String(), "s3://b/p?kmsKeyId=k&region=us-east-2&sse=aws%3Akms"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	_, _, err = Load(writeFile(t, "u.yaml", fmt.Sprintf(file, "")), nil, nil)
	if err == nil || !strings.Contains(err.Error(), "u.yaml:6: store.s3.kmsKeyId: needs sse: aws:kms") {
		t.Errorf("a key without aws:kms: %v", err)
	}
	_, warn, err := Load("", []string{"UNDERSTUDY_PERSISTENCE_DIR=/mnt/u", "UNDERSTUDY_SERVICE_NONE=true", "UNDERSTUDY_STORE_S3_REGION=eu-west-1"}, nil)
	if want := "environment UNDERSTUDY_STORE_S3_REGION: store.s3.region: is not used: persistenceDir /mnt/u is no s3:// location"; err != nil || !slices.Contains(warn, want) {
		t.Errorf("warnings %q, %v; want %q", warn, err, want)
	}
	c, _, err = Load("", []string{"UNDERSTUDY_PERSISTENCE_DIR=s3://b/p", "UNDERSTUDY_SERVICE_NONE=true", "UNDERSTUDY_STORE_S3_PATH_STYLE=true"}, nil)
	if err != nil || c.Store.S3.PathStyle != "true" {
		t.Errorf("from the environment: %+v, %v", c, err)
	}
}

func TestLocationOfConfig(t *testing.T) {
	c := Default()
	if _, err := c.Location(); err == nil {
		t.Error("no location, no error")
	}
	c.Store.AllowLocal = true
	if loc, err := c.Location(); err != nil || loc.Path != "/var/lib/understudy/store" {
		t.Errorf("allowLocal: %+v, %v", loc, err)
	}
	c.PersistMode, c.HighAvailabilityMode = PersistDisabled, lease.ModeDisabled
	if loc, err := c.Location(); err != nil || loc.Scheme != "" {
		t.Errorf("disabled: %+v, %v", loc, err)
	}
}

func TestURI(t *testing.T) {
	for _, tc := range []struct {
		listen, uri string
		plain       bool
		bound       int
		want        string
	}{
		{listen: ":8443", want: "https://node1:8443/"},
		{listen: "0.0.0.0:8443", want: "https://node1:8443/"},
		{listen: "[::]:80", plain: true, want: "http://node1:80/"},
		{listen: "127.0.0.1:0", bound: 4711, want: "https://127.0.0.1:4711/"},
		{listen: "[::1]:8443", want: "https://[::1]:8443/"},
		{listen: ":8443", uri: "https://vip/", bound: 1, want: "https://vip/"},
	} {
		c := Default()
		c.Server.Listen, c.NodeURI, c.Server.TLS.Disabled = tc.listen, tc.uri, tc.plain
		if got := c.URI("node1", tc.bound); got != tc.want {
			t.Errorf("%+v: %s", tc, got)
		}
	}
}

func TestSignals(t *testing.T) {
	s, ok := findSetting("service.stopSignal")
	if !ok {
		t.Fatal("no service.stopSignal")
	}
	for _, word := range s.enum {
		if n, err := Signal(word).Number(); err != nil || n == 0 {
			t.Errorf("%s: %v, %v", word, n, err)
		}
	}
	c, _, err := Load(writeFile(t, "u.yaml", "persistenceDir: /m\nservice: {command: [a], stopSignal: sigint}\n"), nil, nil)
	if err != nil || c.Service.StopSignal != "INT" {
		t.Errorf("%v, %v", c, err)
	}
}

func TestPasswordInReadableFileDrawsAWarning(t *testing.T) {
	path := writeFile(t, "u.yaml", minimal+"server: {auth: {user: a, password: b}}\n")
	if _, warn, err := Load(path, nil, nil); err != nil || len(warn) != 0 {
		t.Errorf("mode 0600: %q, %v", warn, err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, warn, err := Load(path, nil, nil); err != nil || len(warn) != 1 || !strings.Contains(warn[0], "chmod 600") {
		t.Errorf("mode 0644: %q, %v", warn, err)
	}
}

// Whatever the file says, loading neither panics nor accepts what it can not
// show and read back unchanged.
func FuzzLoad(f *testing.F) {
	f.Add([]byte(minimal))
	f.Add(commentedKey.ReplaceAll(config.YAML, []byte("$1")))
	f.Add([]byte("a: &a [*a]\nha: *a\n"))
	f.Add([]byte("persistenceDir: |\n  /mnt\nservice: {env: {A: \"x\\ny\"}, none: true}\n"))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text []byte) {
		path := filepath.Join(dir, "fuzz.yaml")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		c, _, err := Load(path, nil, nil)
		if err != nil {
			if !strings.Contains(err.Error(), "fuzz.yaml") && !strings.Contains(err.Error(), ": ") {
				t.Errorf("an error that names nothing: %v", err)
			}
			return
		}
		if err := os.WriteFile(path, c.Show(nil, "", true), 0o600); err != nil {
			t.Fatal(err)
		}
		again, _, err := Load(path, nil, nil)
		if err != nil {
			t.Fatalf("shown, then refused: %v\n%s", err, c.Show(nil, "", true))
		}
		if diff := difference(c, again); diff != "" {
			t.Error(diff)
		}
	})
}

// A check says what differs from the defaults; every kind of value is read.
func TestServiceChecks(t *testing.T) {
	text := minimalService(`checks: [{name: web, http: "http://127.0.0.1:80/"}, {exec: [/bin/true, 1], interval: 1s, timeout: 500ms, rise: 2, fall: 5}], log: {maxSize: 3MiB, keep: 0}`)
	c, _, err := Load(writeFile(t, "u.yaml", text), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := []Check{
		{Name: "web", HTTP: "http://127.0.0.1:80/", Interval: 5 * time.Second, Timeout: 2 * time.Second, Rise: 1, Fall: 3},
		{Exec: []string{"/bin/true", "1"}, Interval: time.Second, Timeout: 500 * time.Millisecond, Rise: 2, Fall: 5},
	}
	if !reflect.DeepEqual(c.Service.Checks, want) || c.Service.Log != (ServiceLog{MaxSize: 3 << 20}) {
		t.Errorf("%+v", c.Service)
	}
	// What Show prints is read back as the same.
	again, _, err := Load(writeFile(t, "again.yaml", string(c.Show(nil, "h", true))), nil, nil)
	if err != nil || !reflect.DeepEqual(again.Service.Checks, want) || again.Service.Log != c.Service.Log {
		t.Errorf("%v\n%s", err, c.Show(nil, "h", true))
	}
}

// A running node takes over what it can, names the rest, and shows no secret.
func TestReload(t *testing.T) {
	load := func(text string) *Config {
		t.Helper()
		path := filepath.Join(t.TempDir(), "u.yaml")
		if err := os.WriteFile(path, []byte("persistenceDir: /mnt/u\nservice: {none: true}\n"+text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, _, err := Load(path, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	old := load("priority: 1\n")
	next := load("priority: 2\nha: {preset: fast}\nlog: {level: debug}\nserver: {allow: [10.0.0.0/8], auth: {user: ann, password: hush, roles: {ann: viewer}}}\n")
	merged, changed, restart := old.Reload(next)
	wantLive := []string{"server.allow", "server.auth.user", "server.auth.password", "server.auth.roles", "log.level"}
	if !slices.Equal(changed, wantLive) || !slices.Equal(restart, []string{"priority", "ha.preset"}) {
		t.Errorf("changed %v, restart %v", changed, restart)
	}
	if merged.Log.Level != "debug" || merged.Server.Auth.User != "ann" || merged.Priority != 1 || merged.HA.Preset != "default" {
		t.Errorf("%+v", merged)
	}
	if old.Log.Level != "info" || !strings.Contains(merged.Origin("log.level"), "u.yaml:5") || merged.Origin("ha.preset") != "default" {
		t.Errorf("%s, %s, %s", old.Log.Level, merged.Origin("log.level"), merged.Origin("ha.preset"))
	}
	for key, want := range map[string]any{
		"log.level": "debug", "priority": 1, "server.auth.password": masked, "ha.failbackAfter": "10m", "ha.heartbeatTimeout": derivedWord,
		"service.log.maxSize": "10MiB", "service.none": true, "server.tls.disabled": false, "server.auth.htpasswd": nil, "service.env": nil, "nothing": nil,
	} {
		if got, ok := merged.Value(key); ok != (want != nil) || got != want {
			t.Errorf("%s: %v %v, want %v", key, got, ok, want)
		}
	}
	merged.Service.Env = map[string]string{"TOKEN": "hush"}
	if got, _ := merged.Value("service.env"); got != masked {
		t.Errorf("service.env: %v", got)
	}
}

func TestAccessIsValidated(t *testing.T) {
	for _, c := range []struct{ set, want string }{
		{"server.allow=[10.0.0.0/33]", "server.allow: \"10.0.0.0/33\" is neither an address nor a network"},
		{"server.allow=[fe80::1%eth0]", "neither an address nor a network"},
		{"server.rateLimit=-1", "server.rateLimit: -1 is below 0"},
		{"server.auth.roles={ann: root}", "server.auth.roles: ann: \"root\" is not one of viewer, operator, admin"},
		{"server.auth.certificates={ann: admin}", "needs server.tls.clientCA"},
		{"server.tls.clientCA=ca.pem", "is not an absolute path"},
		{"server.auth.tokens=tokens", "is not an absolute path"},
		{"server.auth.health=shut", "is not one of open, closed"},
	} {
		key, value, _ := strings.Cut(c.set, "=")
		_, _, err := Load("", nil, []Override{{Key: "persistenceDir", Value: "/mnt/u"}, {Key: "service.none", Value: "true"}, {Key: key, Value: value, From: "--set"}})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.set, err, c.want)
		}
	}
	both := []Override{
		{Key: "persistenceDir", Value: "/mnt/u"}, {Key: "service.none", Value: "true"}, {Key: "server.auth.disabled", Value: "true"},
	}
	_, warn, err := Load("", nil, both)
	if err != nil || len(warn) != 1 || !strings.Contains(warn[0], "can stop this node") {
		t.Errorf("%v %v", warn, err)
	}
	if _, warn, err = Load("", nil, append(both, Override{Key: "server.listen", Value: "127.0.0.1:8443"})); err != nil || len(warn) != 0 {
		t.Errorf("on loopback: %v %v", warn, err)
	}
	if _, _, err = Load("", nil, append(both, Override{Key: "server.auth.health", Value: "closed"})); err == nil || !strings.Contains(err.Error(), "remove one or the other") {
		t.Errorf("%v", err)
	}
	c := Default()
	c.Server.Allow = []string{"10.1.2.3/8", "::ffff:127.0.0.1", "::1"}
	if got := fmt.Sprint(c.Server.AllowedNetworks()); got != "[10.0.0.0/8 127.0.0.1/32 ::1/128]" {
		t.Errorf("%s", got)
	}
}
