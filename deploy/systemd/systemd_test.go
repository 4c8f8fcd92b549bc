package systemd

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/understudy-ha/understudy/test/need"
)

// TestUnitVerifies: systemd itself finds nothing wrong with the unit.
func TestUnitVerifies(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		need.Missing(t, "systemd-analyze is missing; on Debian: apt-get install systemd")
	}
	// It wants to see what is to be executed.
	binary := filepath.Join(t.TempDir(), "under study%")
	if err := os.WriteFile(binary, []byte("#!/bin/sh\n"), 0o755); err != nil { //nolint:gosec // it is to be executable
		t.Fatal(err)
	}
	for name, text := range map[string]string{"good": Unit(binary, "/etc/u.yaml"), "bad": Unit(binary+"x", "/etc/u.yaml")} {
		dir := filepath.Join(t.TempDir(), name)
		path := filepath.Join(dir, "understudy.service")
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), analyze, "verify", "--man=no", path).CombinedOutput()
		if good := err == nil && len(out) == 0; good != (name == "good") {
			t.Errorf("%s: systemd-analyze verify: %v: %s", name, err, out)
		}
	}
}

// TestUnitNamesWhatIsThere: the paths are replaced, all of them, and nothing in
// the unit keeps the guard from its work.
func TestUnitNamesWhatIsThere(t *testing.T) {
	text := Unit("/opt/u/understudy", "/opt/u/c.yaml")
	for _, gone := range []string{shippedBinary, shippedConfig} {
		if strings.Contains(text, gone) {
			t.Errorf("%s is still there", gone)
		}
	}
	for _, want := range []string{
		"\nType=notify\n", "\nKillMode=process\n", "\nWatchdogSec=", "\nDelegate=yes\n", "\nLimitMEMLOCK=infinity\n",
		"\nExecStart=/opt/u/understudy server --config /opt/u/c.yaml\n",
		"\nExecStopPost=/opt/u/understudy systemd wait-guard --config /opt/u/c.yaml\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the unit lacks %q", want)
		}
	}
	if Unit(shippedBinary, shippedConfig) != unit {
		t.Error("the unit is not as it is shipped")
	}
}
