package hdfs

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/understudy-ha/understudy/persistence"
)

// defaultPort is that of a NameNode's RPC.
const defaultPort = "8020"

// site is Hadoop's configuration, core-site.xml and hdfs-site.xml.
type site struct {
	dir   string // where it was read; empty: there is none
	props map[string]string
}

// loadSite reads the configuration in dir, or, if that is empty, where Hadoop's
// own tools look: HADOOP_CONF_DIR, then HADOOP_HOME/etc/hadoop. None at all is
// no error unless dir was named.
func loadSite(dir string) (site, error) {
	named := dir != ""
	if dir == "" {
		dir = os.Getenv("HADOOP_CONF_DIR")
	}
	if dir == "" && os.Getenv("HADOOP_HOME") != "" {
		dir = filepath.Join(os.Getenv("HADOOP_HOME"), "etc", "hadoop")
	}
	s := site{props: map[string]string{}}
	if dir == "" {
		return s, nil
	}
	final := map[string]bool{}
	for _, name := range []string{"core-site.xml", "hdfs-site.xml"} {
		file := filepath.Join(dir, name)
		b, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = s.add(b, final)
		}
		if err != nil {
			return site{}, fmt.Errorf("%w: Hadoop's configuration %s: %w", persistence.Unsupported, file, err)
		}
		s.dir = dir
	}
	if s.dir == "" && named {
		return site{}, fmt.Errorf("%w: %s holds neither core-site.xml nor hdfs-site.xml; correct store.hdfs.confDir", persistence.Unsupported, dir)
	}
	return s, nil
}

// add takes in one file. A property that was declared final stays.
func (s *site) add(b []byte, final map[string]bool) error {
	var doc struct {
		XMLName  xml.Name `xml:"configuration"`
		Property []struct {
			Name  string `xml:"name"`
			Value string `xml:"value"`
			Final string `xml:"final"`
		} `xml:"property"`
	}
	if err := xml.Unmarshal(b, &doc); err != nil {
		return err
	}
	for _, p := range doc.Property {
		name := strings.TrimSpace(p.Name)
		if final[name] {
			continue
		}
		s.props[name] = strings.TrimSpace(p.Value)
		final[name] = strings.TrimSpace(p.Final) == "true"
	}
	return nil
}

var reference = regexp.MustCompile(`\$\{[^}$\s]+\}`)

// get is a property with its ${…} filled in: other properties, or ${env.NAME},
// which may have a default: ${env.NAME:-x}. What can not be resolved stays.
func (s site) get(name string) string {
	const deepest = 20 // as Hadoop has it
	v := s.props[name]
	for range deepest {
		next := reference.ReplaceAllStringFunc(v, s.resolve)
		if next == v {
			break
		}
		v = next
	}
	return strings.TrimSpace(v)
}

func (s site) resolve(ref string) string {
	name := ref[2 : len(ref)-1]
	if env, ok := strings.CutPrefix(name, "env."); ok {
		env, otherwise, _ := strings.Cut(env, ":-")
		env, unset, _ := strings.Cut(env, "-")
		if v, ok := os.LookupEnv(env); ok {
			return v
		}
		if otherwise != "" || unset != "" {
			return otherwise + unset
		}
		return ref
	}
	if v, ok := s.props[name]; ok {
		return v
	}
	return ref
}

// specific is a property that may be set for one nameservice alone.
func (s site) specific(name, nameservice string) string {
	if v := s.get(name + "." + nameservice); v != "" {
		return v
	}
	return s.get(name)
}

func (s site) list(name string) []string {
	return strings.FieldsFunc(s.get(name), func(r rune) bool { return r == ',' || r == ' ' || r == '\t' || r == '\n' })
}

// nameservices lists those that the configuration knows.
func (s site) nameservices() []string {
	known := map[string]bool{}
	for _, ns := range s.list("dfs.nameservices") {
		known[ns] = true
	}
	for k := range s.props {
		if ns, ok := strings.CutPrefix(k, "dfs.ha.namenodes."); ok {
			known[ns] = true
		}
	}
	return slices.Sorted(maps.Keys(known))
}

// knownText is the list for messages.
func (s site) knownText() string {
	if s.dir == "" {
		return "there is no Hadoop configuration here to look it up in; set store.hdfs.confDir or HADOOP_CONF_DIR"
	}
	if ns := s.nameservices(); len(ns) > 0 {
		return fmt.Sprintf("%s knows the nameservices %s", s.dir, strings.Join(ns, ", "))
	}
	return s.dir + " knows no nameservice"
}

// nameNodes are the addresses of the NameNodes of one authority, which is a
// nameservice, or a host with or without a port. Nothing of any other
// nameservice is among them.
func (s site) nameNodes(authority string) ([]string, error) {
	wrong := func(format string, args ...any) ([]string, error) {
		return nil, fmt.Errorf("%w: hdfs://%s: %s", persistence.Unsupported, authority, fmt.Sprintf(format, args...))
	}
	known := s.nameservices()
	if host, _, err := net.SplitHostPort(authority); err == nil {
		if slices.Contains(known, host) {
			return wrong("%s is a nameservice, which has no port; write hdfs://%s", host, host)
		}
		return []string{authority}, nil
	}
	if !slices.Contains(known, authority) {
		return []string{net.JoinHostPort(strings.Trim(authority, "[]"), defaultPort)}, nil
	}
	const address = "dfs.namenode.rpc-address."
	suffixes := []string{authority} // of a nameservice with one NameNode
	if ids := s.list("dfs.ha.namenodes." + authority); len(ids) > 0 {
		suffixes = nil
		for _, id := range ids {
			suffixes = append(suffixes, authority+"."+id)
		}
	}
	var out []string
	for _, suffix := range suffixes {
		a := s.get(address + suffix)
		if a == "" {
			return wrong("%s does not set %s%s; complete it as it is on the NameNodes", s.dir, address, suffix)
		}
		if _, _, err := net.SplitHostPort(a); err != nil {
			a = net.JoinHostPort(strings.Trim(a, "[]"), defaultPort)
		}
		out = append(out, a)
	}
	return out, nil
}
