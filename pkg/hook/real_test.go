package hook

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/pkg/guard"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// shell runs one hook with real processes.
func shell(t *testing.T, timeout time.Duration, script string) Result {
	t.Helper()
	q := Open(t.Context(), Options{
		Hooks: one(timeout, "/bin/sh", "-c", script), DataDir: t.TempDir(), Apart: guard.RunApart,
		Env: []string{"PATH=/usr/bin:/bin", "GORACE=atexit_sleep_ms=0"},
	})
	var got Result
	q.Put(Facts{Event: OnRoleChange}, func(r Result) { got = r })
	q.Close(time.Hour)
	return got
}

// slack is what a busy machine may take beside a hook's own time.
const slack = 20 * time.Second

// Hooks that fail, hang, flood and leave children behind.
func TestMisbehaving(t *testing.T) {
	t.Parallel()
	t.Run("fails", func(t *testing.T) {
		t.Parallel()
		r := shell(t, slack, "echo first; echo second >&2; exit 3")
		if r.Outcome != Failed || r.Exit != 3 || r.Output != "first\nsecond\n" || r.Words() != "exit code 3: first second" {
			t.Errorf("%+v", r)
		}
	})
	t.Run("is not there", func(t *testing.T) {
		t.Parallel()
		q := Open(t.Context(), Options{Hooks: one(slack, "/nonexistent/hook"), DataDir: t.TempDir(), Apart: guard.RunApart})
		var r Result
		q.Put(Facts{Event: OnRoleChange}, func(got Result) { r = got })
		q.Close(time.Hour)
		if r.Outcome != Failed || r.Exit != 127 || !strings.Contains(r.Words(), `its command "/nonexistent/hook" does not exist`) {
			t.Errorf("%+v", r)
		}
	})
	t.Run("hangs", func(t *testing.T) {
		t.Parallel()
		mark := filepath.Join(t.TempDir(), "mark")
		r := shell(t, time.Second, `trap "" TERM INT HUP; echo said; : > `+mark+`; while :; do sleep 0.05 `+mark+` 2>/dev/null || sleep 0.05; done`)
		if r.Outcome != TimedOut || r.Took < time.Second || r.Took > time.Second+slack || r.Output != "said\n" {
			t.Errorf("%+v", r)
		}
		nobody(t, mark)
	})
	t.Run("floods", func(t *testing.T) {
		t.Parallel()
		r := shell(t, time.Second, "while :; do echo 0123456789; done")
		if r.Outcome != TimedOut || len(r.Output) != 4<<10 || !strings.Contains(r.Output, "\n0123456789\n") {
			t.Errorf("%s, %d bytes", r.Outcome, len(r.Output))
		}
	})
	t.Run("leaves children", func(t *testing.T) {
		t.Parallel()
		mark := filepath.Join(t.TempDir(), "mark")
		// A daemon that left its session and its environment, and holds the pipe.
		began := time.Now()
		r := shell(t, slack, `setsid env -i /bin/sh -c 'trap "" TERM; : > `+mark+`; while :; do /bin/sleep 0.05; done' & while ! [ -e `+mark+` ]; do sleep 0.01; done; echo done`)
		if r.Outcome != OK || r.Output != "done\n" || time.Since(began) > slack {
			t.Errorf("%+v after %v", r, time.Since(began))
		}
		nobody(t, mark)
	})
}

// nobody fails if a process lives with the mark in its command line.
func nobody(t *testing.T, mark string) {
	t.Helper()
	if _, err := os.Stat(mark); err != nil {
		t.Fatal("nothing ran")
	}
	pids, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pids {
		if _, err := strconv.Atoi(p.Name()); err != nil {
			continue
		}
		if line, err := os.ReadFile(filepath.Join("/proc", p.Name(), "cmdline")); err == nil && bytes.Contains(line, []byte(mark)) {
			t.Errorf("pid %s is alive: %s", p.Name(), bytes.ReplaceAll(line, []byte{0}, []byte{' '}))
		}
	}
}

// What a hook is told, and what it is not.
func TestFacts(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	f := Facts{
		Event: OnRoleChange, Plane: "plane001", Node: "node0001", State: lease.StateMaster, PrevState: lease.StateHotStandby,
		Term: 7, Token: 7, Master: "node0001", MasterURI: "https://n1/", Reason: "held by nobody; \"quoted\"", LeaseFile: "/run/x",
	}
	q := Open(t.Context(), Options{
		Hooks: one(slack, "/bin/sh", "-c", "env > "+out+".env; cat > "+out+".json"), DataDir: t.TempDir(), Apart: guard.RunApart,
		Env: []string{"PATH=/usr/bin:/bin", "NOTIFY_SOCKET=/x", "UNDERSTUDY_PASSWORD=secret", "HA_TERM=6", "GORACE=atexit_sleep_ms=0"},
	})
	q.Put(f, nil)
	q.Close(time.Hour)
	text, err := os.ReadFile(out + ".env")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(text), "\n")
	for _, want := range []string{
		"HA_EVENT=onRoleChange", "HA_SEQ=1", "HA_PLANE=plane001", "HA_NODE=node0001", "HA_STATE=MASTER", "HA_PREV_STATE=HOT_STANDBY",
		"HA_TERM=7", "HA_TOKEN=7", "HA_MASTER=node0001", "HA_MASTER_URI=https://n1/", "HA_REASON=" + f.Reason, "HA_LEASE_FILE=/run/x",
	} {
		name, value, _ := strings.Cut(want, "=")
		if got := env(lines, name); got != value {
			t.Errorf("%s is %q, want %q", name, got, value)
		}
	}
	for _, bad := range []string{"NOTIFY_SOCKET", "UNDERSTUDY_", "HA_TERM=6"} {
		if strings.Contains(string(text), bad) {
			t.Errorf("the environment has %s", bad)
		}
	}
	if text, err = os.ReadFile(out + ".json"); err != nil {
		t.Fatal(err)
	}
	var got Facts
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	f.Seq = 1
	if got != f {
		t.Errorf("on standard input: %+v, want %+v", got, f)
	}
}
