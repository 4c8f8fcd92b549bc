package cluster

import (
	"encoding/xml"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const superGroup = "supergroup"

// Nameservice is the logical name of the cluster.
const Nameservice = "understudy"

// Properties are Hadoop's settings by name.
type Properties map[string]string

type xmlProperty struct {
	Name  string `xml:"name"`
	Value string `xml:"value"`
}

type xmlConfiguration struct {
	XMLName  xml.Name      `xml:"configuration"`
	Property []xmlProperty `xml:"property"`
}

// Write writes the settings as Hadoop reads them: NAME-site.xml in dir.
func (p Properties) Write(dir, name string) error {
	var c xmlConfiguration
	for _, k := range slices.Sorted(maps.Keys(p)) {
		c.Property = append(c.Property, xmlProperty{k, p[k]})
	}
	b, err := xml.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, name+"-site.xml"), b, 0o644) //nolint:gosec // nothing secret
}

const logging = `log4j.rootLogger=INFO,console
log4j.appender.console=org.apache.log4j.ConsoleAppender
log4j.appender.console.target=System.err
log4j.appender.console.layout=org.apache.log4j.PatternLayout
log4j.appender.console.layout.ConversionPattern=%d{ISO8601} %p %c{2}: %m%n
# Each request of a client, with its user: see Audit.
log4j.logger.org.apache.hadoop.hdfs.server.namenode.FSNamesystem.audit=INFO,audit
log4j.additivity.org.apache.hadoop.hdfs.server.namenode.FSNamesystem.audit=false
log4j.appender.audit=org.apache.log4j.FileAppender
log4j.appender.audit.file=${audit.file}
log4j.appender.audit.layout=org.apache.log4j.PatternLayout
log4j.appender.audit.layout.ConversionPattern=%m%n
`

// Users are those, besides User, that may do everything: a test gives each node
// its own to tell them apart.
var Users = []string{"n1", "n2", "n3"}

// address of a port on loopback. A name, because Kerberos' principals are made
// of names; Hadoop and the tests look it up in /etc/hosts.
func address(port int) string { return fmt.Sprintf("localhost:%d", port) }

// client are the settings that clients share with the servers.
func (c *Cluster) client() (core, site Properties) {
	groups := ""
	for _, u := range Users {
		groups += u + "=" + superGroup + ";"
	}
	core = Properties{"fs.defaultFS": "hdfs://" + Nameservice, "hadoop.user.group.static.mapping.overrides": groups + "dr.who="}
	site = Properties{
		"dfs.nameservices": Nameservice,
		"dfs.replication":  "1",
		"dfs.client.failover.proxy.provider." + Nameservice: "org.apache.hadoop.hdfs.server.namenode.ha.ConfiguredFailoverProxyProvider",
	}
	if c.settings.Single {
		site["dfs.namenode.rpc-address."+Nameservice] = address(c.Names[0].RPC)
		site["dfs.namenode.http-address."+Nameservice] = address(c.Names[0].HTTP)
		return core, site
	}
	var names []string
	for _, nn := range c.NameNodes() {
		names = append(names, nn.Name)
		site["dfs.namenode.rpc-address."+Nameservice+"."+nn.Name] = address(nn.RPC)
		site["dfs.namenode.http-address."+Nameservice+"."+nn.Name] = address(nn.HTTP)
	}
	site["dfs.ha.namenodes."+Nameservice] = strings.Join(names, ",")
	return core, site
}

// configure writes a directory of settings per daemon, and one for clients.
func (c *Cluster) configure() error {
	for _, d := range append(c.daemons(), &Daemon{Name: "client"}) {
		core, site := c.client()
		if d.Name != "client" {
			core["hadoop.tmp.dir"] = filepath.Join(c.Dir, d.Name, "tmp")
			maps.Copy(site, c.server(d))
		}
		maps.Copy(core, c.settings.Core)
		maps.Copy(site, c.settings.Site)
		dir := c.confDir(d.Name)
		// The daemons look on their class path for pages that Hadoop's
		// distribution brings along, and the jars do not.
		for _, pages := range []string{"hdfs", "journal", "datanode"} {
			if err := os.MkdirAll(filepath.Join(dir, "webapps", pages), 0o755); err != nil { //nolint:gosec // nodes may run as another user
				return err
			}
		}
		for name, p := range map[string]Properties{"core": core, "hdfs": site} {
			if err := p.Write(dir, name); err != nil {
				return err
			}
		}
		if err := os.WriteFile(filepath.Join(dir, "log4j.properties"), []byte(logging), 0o644); err != nil { //nolint:gosec // nothing secret
			return err
		}
	}
	return nil
}

// server are the settings of one daemon beyond those of clients.
func (c *Cluster) server(d *Daemon) Properties {
	var journals []string
	for _, j := range c.Journals {
		journals = append(journals, address(j.RPC))
	}
	data := filepath.Join(c.Dir, d.Name, "data")
	p := Properties{
		"dfs.namenode.handler.count":                           "8",
		"dfs.namenode.safemode.extension":                      "0",
		"dfs.permissions.superusergroup":                       superGroup,
		"dfs.namenode.datanode.registration.ip-hostname-check": "false",
	}
	if !c.settings.Single {
		maps.Copy(p, Properties{
			"dfs.namenode.shared.edits.dir":     "qjournal://" + strings.Join(journals, ";") + "/" + Nameservice,
			"dfs.ha.fencing.methods":            "shell(/bin/true)",
			"dfs.ha.automatic-failover.enabled": "false",
			// A standby follows what JournalNodes have at once, not after a minute.
			"dfs.ha.tail-edits.period": "1s",
			"dfs.ha.log-roll.period":   "-1",
		})
	}
	switch d.Kind {
	case kdcNode: // it has a file of its own
	case nameNode:
		if !c.settings.Single {
			p["dfs.ha.namenode.id"] = d.Name
		}
		p["dfs.nameservice.id"] = Nameservice
		p["dfs.namenode.name.dir"] = "file://" + data
	case journalNode:
		p["dfs.journalnode.rpc-address"] = address(d.RPC)
		p["dfs.journalnode.http-address"] = address(d.HTTP)
		p["dfs.journalnode.edits.dir"] = data
	case dataNode:
		p["dfs.datanode.address"] = address(d.Data)
		p["dfs.datanode.http.address"] = address(d.HTTP)
		p["dfs.datanode.ipc.address"] = address(d.RPC)
		p["dfs.datanode.data.dir"] = "file://" + data
		p["dfs.datanode.hostname"] = "localhost"
		p["dfs.heartbeat.interval"] = "1"
	}
	return p
}
