package config

import (
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/understudy-ha/understudy/pkg/lease"
)

var (
	instanceID   = regexp.MustCompile(`^i-([0-9a-f]{8}|[0-9a-f]{17})$`)
	allocationID = regexp.MustCompile(`^eipalloc-[0-9a-f]{8,17}$`)
	interfaceID  = regexp.MustCompile(`^eni-[0-9a-f]{8,17}$`)
)

// fencing judges the section of that name.
func (v *validator) fencing() {
	f := v.c.Fencing
	v.hosts("fencing.hosts", f.Hosts)
	proves := false
	for i, m := range f.Methods {
		v.method(fmt.Sprintf("method %d: ", i+1), m)
		proves = proves || m.ProvesOff
	}
	switch {
	case f.Early && !proves:
		v.bad("fencing.early", "needs a method with provesOff: true; only a machine that is proven to be off need not be waited out")
	case f.Early && len(f.Hosts) == 0 && !slices.ContainsFunc(f.Methods, func(m FenceMethod) bool { return m.ProvesOff && len(m.Hosts) > 0 }):
		v.bad("fencing.early", "needs fencing.hosts, which says on which machine each node runs: {NODE: machine}")
	}
	switch {
	case f.Required && v.c.IsSet("fencing.ifFencingFails") && f.IfFencingFails == "proceed":
		v.bad("fencing.ifFencingFails", "proceed contradicts fencing.required: true; remove one of them")
	case f.Required && len(f.Methods) == 0:
		v.warn("fencing.required", "there is no method, so each take-over of a silent master waits for understudy fence confirm")
	case len(f.Methods) == 0 && (len(f.Hosts) > 0 || f.IfFencingFails == "wait"):
		v.warn("fencing.methods", "none: nobody is fenced")
	}
}

func (v *validator) hosts(key string, hosts map[string]string) {
	for _, node := range slices.Sorted(maps.Keys(hosts)) {
		if _, err := lease.ParseNodeID(node); err != nil {
			v.bad(key, "%v; understudy states shows the ids of the nodes", err)
		}
		if hosts[node] == "" {
			v.bad(key, "%s: names no machine", node)
		}
	}
}

// method judges one of fencing.methods.
func (v *validator) method(name string, m FenceMethod) {
	bad := func(format string, args ...any) { v.bad("fencing.methods", name+format, args...) }
	v.hosts("fencing.methods", m.Hosts)
	if m.Timeout <= 0 {
		bad("timeout %s leaves no time; write e.g. 1m", formatDuration(m.Timeout))
	}
	if m.ProvesOff && (m.Method == "stepDown" || m.Method == "ssh") {
		bad("provesOff: %s asks the machine itself, and what a machine says of itself proves nothing about it; remove provesOff, or use command or ec2Stop", m.Method)
	}
	for key, set := range map[string]bool{
		"command":      len(m.Command) > 0 && m.Method != "command" && m.Method != "ssh",
		"keyFile":      m.KeyFile != "" && m.Method != "ssh",
		"user":         m.User != "" && m.Method != "ssh" && m.Method != "stepDown",
		"passwordFile": m.Password != "" && m.Method != "stepDown",
		"caFile":       m.CAFile != "" && m.Method != "stepDown",
		"region":       m.Region != "" && m.Method != "ec2Stop",
		"endpoint":     m.Endpoint != "" && m.Method != "ec2Stop",
		"profile":      m.Profile != "" && m.Method != "ec2Stop",
	} {
		if set {
			bad("%s means nothing to %s; remove it", key, m.Method)
		}
	}
	for key, path := range map[string]string{"keyFile": m.KeyFile, "passwordFile": m.Password, "caFile": m.CAFile} {
		if path != "" && !filepath.IsAbs(path) {
			bad("%s: %q is not an absolute path", key, path)
		}
	}
	switch m.Method {
	case "":
		bad("names no method: stepDown, command, ssh or ec2Stop")
	case "command":
		switch {
		case len(m.Command) == 0 || m.Command[0] == "":
			bad("needs command, e.g. [/usr/sbin/fence_ipmilan, -a, \"{host}\", -o, off]")
		case strings.Contains(m.Command[0], "/") && !filepath.IsAbs(m.Command[0]):
			bad("command: %q is not an absolute path", m.Command[0])
		}
	case "ssh":
		if len(m.Command) == 0 {
			bad("needs command, what is run there, e.g. [systemctl, stop, understudy]")
		}
	case "ec2Stop":
		for _, node := range v.known(m) {
			if host := v.c.Fencing.Host(m, node); !instanceID.MatchString(host) {
				bad("%s: %q is no instance id such as i-0123456789abcdef0; give this method hosts of its own", node, host)
			}
		}
	}
	if (m.User == "") != (m.Password == "") && m.Method == "stepDown" {
		bad("user and passwordFile belong together")
	}
}

// known are the nodes whose machine a method knows.
func (v *validator) known(m FenceMethod) []string {
	all := maps.Clone(v.c.Fencing.Hosts)
	if all == nil {
		all = map[string]string{}
	}
	maps.Copy(all, m.Hosts)
	return slices.Sorted(maps.Keys(all))
}

func (v *validator) watchdog() {
	c := v.c
	switch {
	case !filepath.IsAbs(c.WatchdogDevice):
		v.bad("watchdogDevice", "%q is not an absolute path; write e.g. /dev/watchdog", c.WatchdogDevice)
	case c.Watchdog == "required" && c.Service.None:
		v.bad("watchdog", "needs a service: its guard feeds the watchdog, and with service.none: true there is none. Set service.command, or watchdog: off")
	}
}

func (v *validator) elastic() {
	e := v.c.ElasticIP
	if e.AllocationID == "" {
		if e != (ElasticIP{}) {
			v.bad("elasticIP", "needs elasticIP.allocationId, e.g. eipalloc-0123456789abcdef0")
		}
		return
	}
	if !allocationID.MatchString(e.AllocationID) {
		v.bad("elasticIP.allocationId", "%q is no allocation id such as eipalloc-0123456789abcdef0", e.AllocationID)
	}
	switch {
	case e.InstanceID != "" && e.InterfaceID != "":
		v.bad("elasticIP.interfaceId", "excludes elasticIP.instanceId; remove one of them")
	case e.InstanceID != "" && !instanceID.MatchString(e.InstanceID):
		v.bad("elasticIP.instanceId", "%q is no instance id such as i-0123456789abcdef0", e.InstanceID)
	case e.InterfaceID != "" && !interfaceID.MatchString(e.InterfaceID):
		v.bad("elasticIP.interfaceId", "%q is no interface id such as eni-0123456789abcdef0", e.InterfaceID)
	}
	if _, err := netip.ParseAddr(e.PrivateIP); e.PrivateIP != "" && err != nil {
		v.bad("elasticIP.privateIP", "%q is no address; write e.g. 10.0.0.9", e.PrivateIP)
	}
}
