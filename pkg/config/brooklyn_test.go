package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/pkg/lease"
)

func TestBrooklynFiles(t *testing.T) {
	cfg := writeFile(t, "org.apache.brooklyn.osgilauncher.cfg", `# Licensed to the Apache Software Foundation
! another comment
persistMode = AUTO
highAvailabilityMode:standby
persistenceDir=/mnt/brook\
    lyn
ignoreWebErrors=true
`)
	props := writeFile(t, "brooklyn.cfg", "brooklyn.webconsole.security.users=admin\r\n"+
		"brooklyn.ha.heartbeatTimeout = 45000\r\n"+
		"brooklyn.ha.pollPeriod   2s\r\n"+
		"brooklyn.persistence.dir=/elsewhere\r\n"+
		"persistMode=REBIND\r\n")
	over, warn, err := LoadBrooklyn(cfg, props)
	if err != nil {
		t.Fatal(err)
	}
	c, _, err := LoadFrom(Sources{Brooklyn: over, Flags: []Override{{"service.none", "true", "t"}}})
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.PersistMode, want.HighAvailabilityMode, want.PersistenceDir = PersistAuto, lease.ModeStandby, "/mnt/brooklyn"
	want.HA.HeartbeatTimeout, want.HA.HeartbeatInterval = 45*time.Second, 2*time.Second
	want.Service.None = true
	if diff := difference(c, want); diff != "" {
		t.Error(diff)
	}
	if got := c.Origin("ha.heartbeatTimeout"); got != props+":2: brooklyn.ha.heartbeatTimeout" {
		t.Errorf("origin %s", got)
	}
	for _, w := range []string{
		cfg + ":7: ignoreWebErrors is not used by Understudy",
		props + ":1: brooklyn.webconsole.security.users is not used by Understudy",
		props + ":4: brooklyn.persistence.dir is not used: persistenceDir at " + cfg + ":5 comes first",
		props + ":5: persistMode is not used: " + cfg + ":3 sets it already",
	} {
		if !slices.Contains(warn, w) {
			t.Errorf("no warning %q in %q", w, warn)
		}
	}
	if len(warn) != 4 {
		t.Errorf("warnings %q", warn)
	}
}

func TestBrooklynErrors(t *testing.T) {
	bad := writeFile(t, "brooklyn.cfg", "a=1\nbrooklyn.ha.heartbeatTimeout=soon\nbrooklyn.ha.pollPeriod=-5\n")
	_, _, err := LoadBrooklyn(filepath.Join(t.TempDir(), "absent.cfg"), bad)
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{
		"absent.cfg: no such file or directory",
		bad + `:2: brooklyn.ha.heartbeatTimeout: "soon" is not a duration; must be milliseconds (30000) or a number with a unit`,
		bad + `:3: brooklyn.ha.pollPeriod: "-5" is not a duration`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("message lacks %q:\n%s", want, err)
		}
	}
	esc := writeFile(t, "esc.cfg", "x=1\n\nkey=\\u12\n")
	if _, _, err := LoadBrooklyn(esc, ""); err == nil || !strings.Contains(err.Error(), esc+":3: malformed") {
		t.Errorf("bad escape: %v", err)
	}

	// A value that was understood but is not legal is traced to its line.
	mode := writeFile(t, "mode.cfg", "\nhighAvailabilityMode=HOT\n")
	over, _, err := LoadBrooklyn(mode, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := LoadFrom(Sources{Brooklyn: over}); err == nil || !strings.Contains(err.Error(), mode+`:2: highAvailabilityMode: "HOT" is not one of`) {
		t.Errorf("bad mode: %v", err)
	}
}

func TestBrooklynDirectories(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	for given, want := range map[string]string{
		"/abs":        "/abs",
		"~/state":     home + "/state",
		"state/x":     home + "/.brooklyn/state/x",
		"file:///abs": "file:///abs",
	} {
		over, warn, err := LoadBrooklyn(writeFile(t, "b.cfg", "persistenceDir="+given+"\n"), "")
		if err != nil || len(over) != 1 || over[0].Value != want {
			t.Errorf("%s: %+v, %v; want %s", given, over, err, want)
		}
		if said := len(warn) > 0; said != (given != want) {
			t.Errorf("%s: warnings %q", given, warn)
		}
	}
}

func TestBrooklynDurations(t *testing.T) {
	for in, want := range map[string]time.Duration{
		"30000": 30 * time.Second, "30s": 30 * time.Second, "30 seconds": 30 * time.Second, "1m30s": 90 * time.Second,
		"1 min, 30 sec": 90 * time.Second, "500ms": 500 * time.Millisecond, "1.5h": 90 * time.Minute, "2 Days": 48 * time.Hour,
		"0": 0, "": 0, "-1s": 0, "s": 0, "5 parsecs": 0, "1e9": 0, "99999999999999999": 0, "9999999999d": 0, "1s x": 0,
	} {
		got, err := parseBrooklynDuration(in)
		if got != want || (err == nil) != (want != 0) {
			t.Errorf("%q: %v, %v; want %v", in, got, err, want)
		}
	}
}

func TestProperties(t *testing.T) {
	text := "  # comment\n! comment \\\nafter=comment\n\na b\nc:d\n e = f = g \nh\\ i\\=j: k\nl = m\\\n   n\\\\\no=\\u00e4\\ud83d\\ude00\\t.\\q\np\nq=\nlast=x\\"
	got, err := parseProperties("f", text)
	if err != nil {
		t.Fatal(err)
	}
	want := []property{
		{"after", "comment", "f:3"},
		{"a", "b", "f:5"},
		{"c", "d", "f:6"},
		{"e", "f = g", "f:7"},
		{"h i=j", "k", "f:8"},
		{"l", "mn\\", "f:9"},
		{"o", "ä😀\t.q", "f:11"},
		{"p", "", "f:12"},
		{"q", "", "f:13"},
		{"last", "x", "f:14"},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func FuzzBrooklyn(f *testing.F) {
	f.Add([]byte("persistMode=AUTO\nbrooklyn.ha.heartbeatTimeout=30 s\n"))
	f.Add([]byte("a\\\n\\u12"))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text []byte) {
		path := filepath.Join(dir, "b.cfg")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := LoadBrooklyn(path, ""); err != nil && !strings.Contains(err.Error(), "b.cfg") {
			t.Errorf("an error that names no file: %v", err)
		}
	})
}
