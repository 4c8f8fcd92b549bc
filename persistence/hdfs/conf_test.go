package hdfs

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/understudy-ha/understudy/persistence"
)

const coreSite = `<?xml version="1.0"?>
<configuration>
  <property><name>fs.defaultFS</name><value>hdfs://other</value></property>
  <property><name>domain</name><value>${env.HDFS_TEST_DOMAIN:-example.org}</value></property>
  <property><name>kept</name><value>first</value><final>true</final></property>
  <property><name>loop</name><value>${loop2}</value></property>
  <property><name>loop2</name><value>${loop}</value></property>
</configuration>`

const hdfsSite = `<configuration>
  <property><name>kept</name><value>second</value></property>
  <property><name>dfs.nameservices</name><value> mine, other ,single,half,bare</value></property>
  <property><name>dfs.ha.namenodes.mine</name><value>a,b</value></property>
  <property><name>dfs.namenode.rpc-address.mine.a</name><value>nn1.${domain}:9000</value></property>
  <property><name>dfs.namenode.rpc-address.mine.b</name><value>nn2.${domain}</value></property>
  <property><name>dfs.ha.namenodes.other</name><value>a,b</value></property>
  <property><name>dfs.namenode.rpc-address.other.a</name><value>wrong1:8020</value></property>
  <property><name>dfs.namenode.rpc-address.other.b</name><value>wrong2:8020</value></property>
  <property><name>dfs.namenode.rpc-address.single</name><value>nn3:8020</value></property>
  <property><name>dfs.ha.namenodes.half</name><value>a,b</value></property>
  <property><name>dfs.namenode.rpc-address.half.a</name><value>nn4:8020</value></property>
</configuration>`

// conf writes a directory of configuration.
func conf(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestNameNodes(t *testing.T) {
	dir := conf(t, map[string]string{"core-site.xml": coreSite, "hdfs-site.xml": hdfsSite})
	s, err := loadSite(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got := s.get("kept"); got != "first" {
		t.Errorf("a final property became %q", got)
	}
	if got := s.get("loop"); !strings.HasPrefix(got, "${") {
		t.Errorf("a circle of references gave %q", got)
	}
	for authority, want := range map[string][]string{
		"mine":              {"nn1.example.org:9000", "nn2.example.org:8020"},
		"other":             {"wrong1:8020", "wrong2:8020"},
		"single":            {"nn3:8020"},
		"host:9000":         {"host:9000"},
		"host.example.org":  {"host.example.org:8020"},
		"[::1]:9000":        {"[::1]:9000"},
		"[::1]":             {"[::1]:8020"},
		"mine.example.org":  {"mine.example.org:8020"}, // not the nameservice
		"192.0.2.1":         {"192.0.2.1:8020"},
		"unknown-and-alone": {"unknown-and-alone:8020"},
	} {
		got, err := s.nameNodes(authority)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %v, %v; want %v", authority, got, err, want)
		}
	}
	for authority, words := range map[string]string{
		"mine:8020": "mine is a nameservice, which has no port",
		"half":      "does not set dfs.namenode.rpc-address.half.b",
		"bare":      "does not set dfs.namenode.rpc-address.bare",
	} {
		if got, err := s.nameNodes(authority); !errors.Is(err, persistence.Unsupported) || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v, %v; want %q", authority, got, err, words)
		}
	}
	if text := s.knownText(); !strings.Contains(text, "bare, half, mine, other, single") {
		t.Errorf("known: %s", text)
	}
	t.Setenv("HDFS_TEST_DOMAIN", "elsewhere")
	if got, _ := s.nameNodes("mine"); !slices.Contains(got, "nn2.elsewhere:8020") {
		t.Errorf("with the environment: %v", got)
	}
}

func TestWhereConfigurationIs(t *testing.T) {
	t.Setenv("HADOOP_CONF_DIR", "")
	t.Setenv("HADOOP_HOME", "")
	none, err := loadSite("")
	if err != nil || none.dir != "" {
		t.Errorf("without any: %+v, %v", none, err)
	}
	if got, err := none.nameNodes("nn"); err != nil || !slices.Equal(got, []string{"nn:8020"}) {
		t.Errorf("without any: %v, %v", got, err)
	}
	if _, err := loadSite(t.TempDir()); !errors.Is(err, persistence.Unsupported) || !strings.Contains(err.Error(), "store.hdfs.confDir") {
		t.Errorf("an empty directory that was named: %v", err)
	}
	home := t.TempDir()
	if err := os.MkdirAll(filepath.Join(home, "etc"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(conf(t, map[string]string{"hdfs-site.xml": hdfsSite}), filepath.Join(home, "etc", "hadoop")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("HADOOP_HOME", home)
	if s, err := loadSite(""); err != nil || len(s.nameservices()) != 5 {
		t.Errorf("HADOOP_HOME: %+v, %v", s, err)
	}
	t.Setenv("HADOOP_CONF_DIR", conf(t, map[string]string{"core-site.xml": coreSite}))
	if s, err := loadSite(""); err != nil || len(s.nameservices()) != 0 || s.get("kept") != "first" {
		t.Errorf("HADOOP_CONF_DIR: %+v, %v", s, err)
	}
	t.Setenv("HADOOP_CONF_DIR", conf(t, map[string]string{"core-site.xml": "<configuration><property>"}))
	if _, err := loadSite(""); !errors.Is(err, persistence.Unsupported) || !strings.Contains(err.Error(), "core-site.xml") {
		t.Errorf("half a file: %v", err)
	}
}

func TestOpenRefuses(t *testing.T) {
	kerberos := conf(t, map[string]string{"core-site.xml": `<configuration><property><name>hadoop.security.authentication</name><value>kerberos</value></property></configuration>`})
	for _, tt := range []struct {
		authority, dir string
		o              Options
		words          string
	}{
		{"", "/p", Options{}, "does not name a directory"},
		{"nn", "p", Options{}, "does not name a directory"},
		{"nn", "/", Options{}, "does not name a directory"},
		{"nn", "/a:b", Options{}, "does not name a directory"},
		{"nn", "/p", Options{ConfDir: "/nowhere"}, "neither core-site.xml nor hdfs-site.xml"},
		{"nn", "/p", Options{ConfDir: kerberos}, "dfs.namenode.kerberos.principal"},
	} {
		if _, err := Open(tt.authority, tt.dir, tt.o); !errors.Is(err, persistence.Unsupported) || !strings.Contains(err.Error(), tt.words) {
			t.Errorf("%s %s: %v; want %q", tt.authority, tt.dir, err, tt.words)
		}
	}
}
