// Package prometheus_test holds the alerts of this directory against the
// metrics there are, and has promtool try them.
package prometheus_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/understudy-ha/understudy/test/need"
)

const (
	rules = "understudy.rules.yaml"
	tests = "understudy.rules.test.yaml"
)

func TestAlertsAskForMetricsThatExist(t *testing.T) {
	b, err := os.ReadFile(rules)
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	dec := yaml.NewDecoder(strings.NewReader(string(b)))
	dec.KnownFields(true)
	if err := dec.Decode(&file); err != nil {
		t.Fatal(err)
	}
	alerts := map[string]bool{}
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			alerts[r.Alert] = true
			if r.Labels["severity"] == "" || r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
				t.Errorf("%s does not say how bad it is, what it is, and what to do", r.Alert)
			}
			names := regexp.MustCompile(`\bunderstudy_\w+`).FindAllString(r.Expr, -1)
			if len(names) == 0 {
				t.Errorf("%s asks for nothing of ours", r.Alert)
			}
			for _, name := range names {
				// A histogram is documented once for all its series.
				if base := strings.TrimSuffix(name, "_count"); !strings.Contains(string(page), "| `"+base+"` |") {
					t.Errorf("%s asks for %s, which docs/metrics.md does not have", r.Alert, name)
				}
			}
			if !strings.Contains(string(page), "`"+r.Alert+"`") {
				t.Errorf("docs/metrics.md does not have %s", r.Alert)
			}
		}
	}
	if len(alerts) != 5 {
		t.Errorf("%d alerts", len(alerts))
	}
}

// Each alert fires when it should, and none for a plane that is well.
func TestAlertsByPromtool(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		if promtool, err = filepath.Abs("../../bin/promtool"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(promtool); err != nil {
		need.Missing(t, "promtool is missing; on Debian: apt-get download prometheus, and take it out with dpkg -x")
	}
	for _, args := range [][]string{{"check", "rules", rules}, {"test", "rules", tests}} {
		out, err := exec.CommandContext(t.Context(), promtool, args...).CombinedOutput()
		if err != nil || !strings.Contains(string(out), "SUCCESS") {
			t.Errorf("promtool %v: %v\n%s", args, err, out)
		}
	}
}
