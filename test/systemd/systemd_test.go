package systemd

import (
	"os"
	"testing"
)

// TestBoot: it runs units, knows what is enabled, and leaves nothing behind.
func TestBoot(t *testing.T) {
	var m *Manager
	t.Run("boot", func(t *testing.T) {
		m = Boot(t)
		m.Write("app.service", "[Service]\nExecStart=/bin/sleep 1000\n[Install]\nWantedBy=multi-user.target\n")
		m.Control("start", "app.service")
		if s := m.Property("app.service", "ActiveState"); s != "active" {
			t.Errorf("the unit is %s", s)
		}
		if _, err := os.Stat(m.Cgroup(m.Property("app.service", "ControlGroup"))); err != nil {
			t.Errorf("its cgroup: %v", err)
		}
		if s := m.Property("app.service", "UnitFileState"); s != "disabled" {
			t.Errorf("it is %s", s)
		}
		m.Control("enable", "app.service")
		if s := m.Property("app.service", "UnitFileState"); s != "enabled" {
			t.Errorf("it is %s after enable", s)
		}
	})
	if m == nil {
		t.Skip("nothing was booted, as said above")
	}
	if _, err := os.Stat(m.cgroup); !os.IsNotExist(err) {
		t.Errorf("its cgroup is left: %v", err)
	}
}
