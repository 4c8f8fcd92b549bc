package hook

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
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

// A node changes its role a thousand times with real hooks, of which some are
// slow, some fail and some hang until they are killed: they run one after the
// other, in the order of the changes, numbered without a gap, each within its
// bound.
func TestThousandRoleChangesForReal(t *testing.T) {
	t.Parallel()
	const (
		changes = 1000
		timeout = 250 * time.Millisecond
	)
	dir := t.TempDir()
	// Each says when it begins and, if it may live, when it ends.
	script := `out=` + dir + `/told
echo "begin $HA_SEQ $HA_REASON" >>$out
case $HA_REASON in
*-slow) sleep 0.02 ;;
*-fails) echo "end $HA_SEQ" >>$out; exit 3 ;;
*-hangs) trap "" TERM INT HUP; while :; do sleep 10; done ;;
esac
echo "end $HA_SEQ" >>$out`
	q := Open(t.Context(), Options{
		Hooks: one(timeout, "/bin/sh", "-c", script), DataDir: dir, Apart: guard.RunApart,
		Env: []string{"PATH=/usr/bin:/bin", "GORACE=atexit_sleep_ms=0"},
	})
	random := rand.New(rand.NewPCG(3, 5))
	var mu sync.Mutex
	var results []Result
	var want []string
	state := lease.StateStandby
	for i := range changes {
		fate := "quick"
		switch n := random.IntN(100); {
		case n < 1:
			fate = "hangs"
		case n < 20:
			fate = "slow"
		case n < 40:
			fate = "fails"
		}
		next := []lease.State{lease.StateMaster, lease.StateHotStandby, lease.StateStandby, lease.StateFailed}[random.IntN(4)]
		reason := fmt.Sprintf("change-%d-%s", i, fate)
		q.Put(Facts{Event: OnRoleChange, State: next, PrevState: state, Reason: reason}, func(r Result) {
			mu.Lock()
			defer mu.Unlock()
			results = append(results, r)
		})
		state = next
		want = append(want, reason)
	}
	q.Close(time.Hour)

	text, err := os.ReadFile(filepath.Join(dir, "told"))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	kinds := map[Outcome]int{}
	for i, reason := range want {
		begin, end := fmt.Sprintf("begin %d %s", i+1, reason), fmt.Sprintf("end %d", i+1)
		r := results[i]
		kinds[r.Outcome]++
		// A busy machine may not let even a quick one begin within its time.
		if len(lines) > 0 && lines[0] == begin {
			lines = lines[1:]
			if len(lines) > 0 && lines[0] == end {
				lines = lines[1:]
			} else if r.Outcome != TimedOut {
				t.Fatalf("change %d, %s: no end after the beginning, next is %q", i, r.Outcome, lines)
			}
		} else if r.Outcome != TimedOut {
			t.Fatalf("change %d, %s: want %q, next is %q", i, r.Outcome, begin, lines)
		}
		switch {
		case r.Seq != uint64(i+1):
			t.Fatalf("change %d has number %d", i, r.Seq)
		case strings.HasSuffix(reason, "-hangs") && r.Outcome != TimedOut, strings.HasSuffix(reason, "-fails") && r.Outcome == OK:
			t.Errorf("%s: %s", reason, r.Outcome)
		case r.Outcome == TimedOut && r.Took < timeout, r.Took > timeout+slack:
			t.Errorf("%s took %v with a limit of %v", reason, r.Took, timeout)
		}
	}
	if len(lines) > 0 {
		t.Errorf("told besides: %q", lines)
	}
	for _, o := range []Outcome{OK, Failed, TimedOut} {
		if kinds[o] == 0 {
			t.Errorf("none of %s", o)
		}
	}
	t.Logf("%v", kinds)
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
