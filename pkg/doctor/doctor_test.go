package doctor

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// is checks grade and words of a line, and that whoever has to act is told how.
func is(t *testing.T, f persistence.Finding, g persistence.Grade, parts ...string) {
	t.Helper()
	if f.Status != g {
		t.Errorf("%s, want %s: %s -> %s", f.Status, g, f.Detail, f.Remedy)
	}
	for _, p := range parts {
		if !strings.Contains(f.Detail+" -> "+f.Remedy, p) {
			t.Errorf("%q is not in %q -> %q", p, f.Detail, f.Remedy)
		}
	}
	if f.Status != persistence.GradeOK && f.Remedy == "" {
		t.Errorf("no remedy: %s", f.Detail)
	}
	if f.Name == "" || strings.ContainsAny(f.Detail+f.Remedy, "\n") {
		t.Errorf("%+v", f)
	}
}

// one is for what makes a single line.
func one(t *testing.T, lines []persistence.Finding) persistence.Finding {
	t.Helper()
	if len(lines) != 1 {
		t.Fatalf("%d lines: %+v", len(lines), lines)
	}
	return lines[0]
}

const (
	good = persistence.GradeOK
	odd  = persistence.GradeWarn
	bad  = persistence.GradeFail
)

// machine makes a root with the given files.
func machine(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// What hangs costs one line and bounded time; the rest is said all the same.
func TestRunIsBounded(t *testing.T) {
	hang := make(chan struct{})
	defer close(hang)
	line := func(name string, g persistence.Grade) func(context.Context) []persistence.Finding {
		return func(context.Context) []persistence.Finding {
			return []persistence.Finding{{Name: name, Status: g, Detail: "detail of " + name, Remedy: "r"}}
		}
	}
	var began, shown []string
	begin := time.Now()
	r := Run(t.Context(), []Check{
		{Name: "first", Run: line("first", good)},
		{Name: "hung", Limit: 50 * time.Millisecond, Run: func(context.Context) []persistence.Finding { <-hang; return nil }},
		{Name: "slow but obedient", Limit: 50 * time.Millisecond, Run: func(ctx context.Context) []persistence.Finding {
			<-ctx.Done()
			return line("slow", odd)(ctx)
		}},
		{Name: "silent", Run: func(context.Context) []persistence.Finding { return nil }},
		{Name: "last", Run: line("last", good)},
	}, Watcher{
		Begin: func(name string) { began = append(began, name) },
		Line:  func(f persistence.Finding) { shown = append(shown, f.Name+" "+string(f.Status)) },
	})
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("it took %s", took)
	}
	if want := []string{"first ok", "hung fail", "slow warn", "last ok"}; !slices.Equal(shown, want) {
		t.Errorf("shown %q, want %q", shown, want)
	}
	if len(began) != 5 {
		t.Errorf("began %q", began)
	}
	is(t, r.Findings[1], bad, "no answer within 50ms", "state D")
	if r.OK || r.Fails != 1 || r.Warnings != 1 || r.Verdict != "not fit to run; failed: hung" {
		t.Errorf("%+v", r)
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	r := Run(ctx, []Check{
		{Name: "a", Run: func(context.Context) []persistence.Finding { cancel(); return nil }},
		{Name: "b", Run: func(context.Context) []persistence.Finding { t.Error("began after the end"); return nil }},
	}, Watcher{})
	if len(r.Findings) != 0 || r.Verdict != "fit to run" {
		t.Errorf("%+v", r)
	}
}

func TestErrorsBecomeLines(t *testing.T) {
	f := Failed("store", fmt.Errorf("%w: open /x: %w; create it,\nor mount it", persistence.Absent, unix.ENOENT))
	is(t, f, bad)
	if f.Detail != "open /x: no such file or directory" || f.Remedy != "create it, or mount it" {
		t.Errorf("%+v", f)
	}
}

func TestClockSource(t *testing.T) {
	for name, c := range map[string]struct {
		current, available string
		grade              persistence.Grade
		part               string
	}{
		"tsc":      {"tsc", "tsc hpet acpi_pm", good, "tsc"},
		"guest":    {"kvm-clock", "kvm-clock tsc acpi_pm", good, "kvm-clock"},
		"arm":      {"arch_sys_counter", "arch_sys_counter", good, "steady"},
		"demoted":  {"hpet", "tsc hpet acpi_pm", odd, "tsc, is there but not used"},
		"acpi":     {"acpi_pm", "acpi_pm", odd, "slow to read"},
		"jiffies":  {"jiffies", "jiffies", bad, "falls behind"},
		"refined":  {"refined-jiffies", "tsc refined-jiffies", bad, "tsc, is there"},
		"unheard":  {"sundial", "sundial", odd, "sundial, of which nothing is known"},
		"no sysfs": {"", "", odd, "can not be read"},
	} {
		t.Run(name, func(t *testing.T) {
			root := machine(t, map[string]string{
				clockSourceDir + "/current_clocksource": c.current + "\n", clockSourceDir + "/available_clocksource": c.available + " \n",
			})
			is(t, ClockSource(root), c.grade, c.part)
		})
	}
}

func TestPace(t *testing.T) {
	second := int64(time.Second)
	from := lease.Instant{Boot: 90 * second, Raw: 80 * second}
	for name, c := range map[string]struct {
		boot, raw int64
		grade     persistence.Grade
		part      string
	}{
		"alike":     {second, second, good, "0 ppm"},
		"steered":   {second + second/2000, second, good, "500 ppm"},
		"slewed":    {second + second/200, second, odd, "5000 ppm"},
		"at 1 %":    {second + second/100, second, odd, "10000 ppm"},
		"beyond":    {second + second/99, second, bad, "over the 1 %"},
		"suspended": {9 * second, second, bad, "a pause of the machine"},
		"stopped":   {second, 0, bad, "stood still"},
		"back":      {-1, second, bad, "went back"},
	} {
		t.Run(name, func(t *testing.T) {
			is(t, Pace(from, lease.Instant{Boot: from.Boot + c.boot, Raw: from.Raw + c.raw}), c.grade, c.part)
		})
	}
}

// The least interrupted reading is taken.
func TestSampleClocks(t *testing.T) {
	var now lease.Instant
	steps := []int64{50, 50, 900, 3, 800, 50, 50, 50, 50, 50, 50}
	i := -1
	got := SampleClocks(func() lease.Instant {
		i++
		now.Boot, now.Raw = now.Boot+steps[i], now.Raw+steps[i]
		return now
	})
	if got.Boot != 1000 {
		t.Errorf("%+v, want the reading before the step of 3", got)
	}
}

func TestWallClock(t *testing.T) {
	is(t, WallClock(Kernel{Timex: unix.Timex{Maxerror: 12345}}), good, "within 12ms")
	is(t, WallClock(Kernel{State: timeError}), odd, "not synchronised", "no decision rests on it", "chrony")
	is(t, WallClock(Kernel{Timex: unix.Timex{Status: unix.STA_UNSYNC}}), odd, "not synchronised")
	is(t, WallClock(Kernel{Err: unix.EPERM}), odd, "not permitted")
}

const limitsFile = `Limit                     Soft Limit           Hard Limit           Units     
Max core file size        %s                    unlimited            bytes     
Max processes             %s                95612                processes 
Max open files            %s                1048576              files     
Max locked memory         8388608              8388608              bytes     
`

func TestLimits(t *testing.T) {
	for name, c := range map[string]struct {
		core, processes, files string
		more                   map[string]string
		grade                  persistence.Grade
		parts                  []string
	}{
		"plenty":          {"0", "95612", "1024", nil, good, []string{"the daemon's, pid 7", "enough"}},
		"unlimited":       {"0", "unlimited", "unlimited", nil, good, nil},
		"few files":       {"0", "95612", "256", nil, odd, []string{"256 open files", "LimitNOFILE"}},
		"few processes":   {"0", "50", "1024", nil, odd, []string{"50 processes", "LimitNPROC"}},
		"core to file":    {"unlimited", "95612", "1024", map[string]string{"proc/sys/kernel/core_pattern": "core\n"}, odd, []string{"core file", "LimitCORE=0"}},
		"core to program": {"unlimited", "95612", "1024", map[string]string{"proc/sys/kernel/core_pattern": "|/lib/systemd/systemd-coredump %P\n"}, good, nil},
		"tasks, v2": {"0", "95612", "1024", map[string]string{
			"proc/7/cgroup": "0::/system.slice/u.service\n", "sys/fs/cgroup/system.slice/u.service/pids.max": "max\n", "sys/fs/cgroup/system.slice/u.service/pids.current": "9\n",
			"sys/fs/cgroup/system.slice/pids.max": "60\n", "sys/fs/cgroup/system.slice/pids.current": "50\n",
		}, odd, []string{"/system.slice has room for 10 more", "TasksMax"}},
		"tasks, v1": {"0", "95612", "1024", map[string]string{
			"proc/7/cgroup": "8:pids:/box\n0::/\n", "sys/fs/cgroup/pids/box/pids.max": "20\n", "sys/fs/cgroup/pids/box/pids.current": "5\n",
		}, odd, []string{"/box has room for 15 more"}},
	} {
		t.Run(name, func(t *testing.T) {
			files := map[string]string{"proc/7/limits": fmt.Sprintf(limitsFile, c.core, c.processes, c.files)}
			for k, v := range c.more {
				files[k] = v
			}
			is(t, one(t, Limits(machine(t, files), 7, true)), c.grade, c.parts...)
		})
	}
	is(t, one(t, Limits(t.TempDir(), 7, false)), odd, "this shell's", "can not be read")
}

func TestGuardAbilities(t *testing.T) {
	lines := GuardAbilities(Guard{Isolation: "pid-namespace", Root: true})
	is(t, lines[0], good, "pid-namespace")
	is(t, lines[1], good, "locked")
	lines = GuardAbilities(Guard{Isolation: "group", TreeLost: "what is lost", MemoryLost: "memory too"})
	is(t, lines[0], odd, "what is lost", "CAP_SYS_ADMIN")
	is(t, lines[1], odd, "memory too", "LimitMEMLOCK")
	is(t, GuardAbilities(Guard{TreeLost: "as configured", Root: true})[0], odd, "service.isolation: auto")
	is(t, one(t, GuardAbilities(Guard{Err: errors.New("isolation pid-namespace is not possible here: use isolation group")})), bad, "not possible here", "service.isolation: auto")
}

func TestWatchdog(t *testing.T) {
	const dev = "/dev/watchdog"
	none := t.TempDir()
	is(t, Watchdog(none, "off", dev), good, "none: if daemon and guard")
	is(t, Watchdog(none, "automatic", dev), odd, "there is none at /dev/watchdog", "modprobe softdog")
	is(t, Watchdog(none, "required", dev), bad, "does not start without")
	sys := func(nowayout string) string {
		return machine(t, map[string]string{
			"dev/watchdog": "", "sys/class/watchdog/watchdog0/identity": "iTCO_wdt\n",
			"sys/class/watchdog/watchdog0/state": "inactive\n", "sys/class/watchdog/watchdog0/nowayout": nowayout + "\n",
		})
	}
	is(t, Watchdog(sys("0"), "off", dev), good, "/dev/watchdog (iTCO_wdt) is there and not used")
	is(t, Watchdog(sys("0"), "required", dev), good, "resets this machine")
	is(t, Watchdog(sys("1"), "required", dev), odd, "nowayout=0")
	is(t, Watchdog(machine(t, map[string]string{"dev/watchdog": ""}), "automatic", dev), odd, "of unknown make")
}

var (
	disk     = Place{Type: "ext4", Source: "/dev/vda", Point: "/", Local: true}
	nfs      = Place{Type: "nfs4", Source: "filer:/x", Point: "/mnt/u", Shared: true}
	inMemory = Place{Type: "tmpfs", Source: "tmpfs", Point: "/run", Local: true, Memory: true}
	fuse     = Place{Type: "fuse.x", Source: "x", Point: "/mnt/x"}
)

func TestDataDir(t *testing.T) {
	dir := t.TempDir()
	me := os.Geteuid()
	look := func(mode os.FileMode, d DataDir) []persistence.Finding {
		t.Helper()
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		if d.Path == "" {
			d.Path = dir
		}
		return d.Look()
	}
	is(t, one(t, look(0o700, DataDir{Place: disk, Store: nfs, UID: me})), good, "for its owner only")
	is(t, one(t, look(0o700, DataDir{Place: disk, Store: disk, UID: me})), good)
	is(t, one(t, look(0o755, DataDir{Place: disk, Store: nfs, UID: me})), odd, "0755", "look inside", "chmod 0700")
	is(t, one(t, look(0o777, DataDir{Place: disk, Store: nfs, UID: me})), bad, "0777", "replace")
	is(t, one(t, look(0o700, DataDir{Place: nfs, Store: nfs, UID: me})), bad, "shared file system", "/var/lib/understudy")
	is(t, one(t, look(0o700, DataDir{Place: fuse, Store: fuse, UID: me})), bad, "shared file system")
	is(t, one(t, look(0o700, DataDir{Place: fuse, Store: nfs, UID: me})), odd, "not known")
	is(t, one(t, look(0o700, DataDir{Place: inMemory, Store: nfs, UID: me})), odd, "reboot")
	is(t, one(t, look(0o700, DataDir{Store: nfs, UID: me})), odd, "findmnt")
	is(t, one(t, look(0o700, DataDir{Place: disk, UID: 12345, Daemon: true})), bad, "the daemon runs as uid 12345", "chown -R")
	is(t, one(t, look(0o700, DataDir{Place: disk, UID: me, Path: filepath.Join(dir, "a/b")})), good, "does not exist yet")
	is(t, one(t, look(0o700, DataDir{Place: nfs, UID: me, Path: filepath.Join(dir, "a/b")})), bad, "shared file system")
	if me == 0 { // whoever asks as root is told that the node's user may do less
		if err := os.Chown(dir, 65534, 65534); err != nil {
			t.Fatal(err)
		}
		is(t, one(t, look(0o700, DataDir{Place: disk, UID: 0})), odd, "you are root", "sudo -u")
		is(t, one(t, look(0o700, DataDir{Place: disk, UID: 0, Daemon: true})), good)
		is(t, one(t, look(0o700, DataDir{Place: disk, UID: 65534, Daemon: true})), good)
		if err := os.Chown(dir, 0, 0); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	is(t, one(t, look(0o700, DataDir{Place: disk, UID: me, Path: file})), bad, "not a directory")
}

func TestBinary(t *testing.T) {
	is(t, Binary("/usr/bin/u", disk, nfs), good)
	is(t, Binary("/usr/bin/u", disk, disk), good)
	is(t, Binary("/mnt/u/u", nfs, nfs), bad, "hang with it", "/usr/local/bin")
	is(t, Binary("/home/u/u", Place{Type: "nfs4", Source: "other:/home", Point: "/home", Shared: true}, nfs), bad, "other:/home")
	is(t, Binary("/x", Place{}, nfs), odd, "findmnt")
}

func TestSecrets(t *testing.T) {
	dir := t.TempDir()
	file := func(name string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(path, nil, mode), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if lines := Secrets([]Secret{{filepath.Join(dir, "none"), true}}); len(lines) > 0 {
		t.Errorf("%+v", lines)
	}
	is(t, one(t, Secrets([]Secret{{file("a", 0o600), true}, {file("b", 0o640), false}})), good)
	is(t, one(t, Secrets([]Secret{{file("c", 0o640), true}})), bad, "0640", "chmod 0600")
	is(t, one(t, Secrets([]Secret{{file("d", 0o644), false}})), bad, "0644", "chmod 0640")
	is(t, one(t, Secrets([]Secret{{filepath.Join(dir, "none"), false}})), bad, "no such file")
}

func TestSpace(t *testing.T) {
	const block = 4096
	for name, c := range map[string]struct {
		free, inodes, files uint64
		grade               persistence.Grade
		part                string
	}{
		"plenty":          {lowBytes / block, lowInodes, 1e6, good, "100 MiB free, 1000 inodes"},
		"low":             {lowBytes/block - 1, 1e6, 1e6, odd, "only"},
		"none":            {0, 1e6, 1e6, bad, "0 B free"},
		"nearly none":     {noBytes/block - 1, 1e6, 1e6, bad, "can not remember"},
		"low inodes":      {1e9, lowInodes - 1, 1e6, odd, "999 inodes"},
		"no inodes":       {1e9, 0, 1e6, bad, "0 inodes"},
		"counts no inode": {1e9, 0, 0, good, "3.7 TiB free"},
	} {
		t.Run(name, func(t *testing.T) {
			is(t, space("space", "/x", unix.Statfs_t{Bsize: block, Bavail: c.free, Files: c.files, Ffree: c.inodes}), c.grade, c.part)
		})
	}
	is(t, Space(filepath.Join(t.TempDir(), "not/there")), Space(t.TempDir()).Status)
}

func TestService(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(path, []byte(text), mode), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	prog := write("prog", "#!/bin/sh\n", 0o755)
	lost := write("lost", "#! /usr/bin/nosuch -x\n", 0o755)
	plain := write("plain", "x", 0o644)
	env := []string{"HOME=/", "PATH=/nosuch:" + dir}
	find := func(path string) (Place, error) {
		if strings.HasPrefix(path, dir) {
			return disk, nil
		}
		return nfs, nil
	}
	is(t, one(t, Service{Command: []string{"prog"}, Env: env, Find: find, Store: nfs}.Look()), good, prog)
	is(t, one(t, Service{Command: []string{prog}, Env: env, Find: find, Store: nfs}.Look()), good)
	is(t, one(t, Service{Command: []string{"nosuch"}, Env: env, Find: find}.Look()), bad, "not found in the service's PATH")
	is(t, one(t, Service{Command: []string{"/nosuch"}, Env: env, Find: find}.Look()), bad, "/nosuch: no such file")
	is(t, one(t, Service{Command: []string{"plain"}, Env: env, Find: find}.Look()), bad, "permission denied")
	is(t, one(t, Service{Command: []string{plain}, Env: env, Find: find}.Look()), bad, "permission denied")
	is(t, one(t, Service{Command: []string{dir}, Env: env, Find: find}.Look()), bad, "is a directory")
	is(t, one(t, Service{Command: []string{lost}, Env: env, Find: find}.Look()), bad, "script for /usr/bin/nosuch")
	is(t, one(t, Service{Command: []string{"/bin/sh"}, Env: env, Find: find, Store: nfs}.Look()), bad, "neither started nor stopped")
	is(t, one(t, Service{Command: []string{prog}, Ready: []string{"nosuch"}, Env: env, Find: find}.Look()), bad, "service.ready.exec")
	beside := func(command ...string) []Program {
		return []Program{{Key: "service.probe", Command: command, Without: "nobody can tell"}}
	}
	is(t, one(t, Service{Command: []string{prog}, Beside: beside("nosuch"), Env: env, Find: find}.Look()), bad, "not found in the service's PATH", "service.probe", "nobody can tell")
	is(t, one(t, Service{Command: []string{prog}, Beside: beside(plain), Env: env, Find: find}.Look()), bad, "permission denied")
	is(t, one(t, Service{Command: []string{prog}, Beside: beside(lost), Env: env, Find: find}.Look()), bad, "script for /usr/bin/nosuch")
	is(t, one(t, Service{Command: []string{prog}, Beside: beside("/bin/sh"), Env: env, Find: find, Store: nfs}.Look()), bad, "shared file system")
	is(t, one(t, Service{Command: []string{prog}, Beside: append(beside(prog), beside()...), Env: env, Find: find, Store: nfs}.Look()), good)
	is(t, one(t, Service{Beside: beside("nosuch"), Env: env, Find: find}.Look()), bad, "service.probe") // of a unit
	if lines := (Service{Beside: beside(prog), Env: env, Find: find}).Look(); len(lines) > 0 {
		t.Errorf("%+v, want nothing to say", lines)
	}
	is(t, one(t, Service{Command: []string{prog}, WorkDir: filepath.Join(dir, "none"), Env: env, Find: find}.Look()), bad, "no such file")
	is(t, one(t, Service{Command: []string{prog}, WorkDir: prog, Env: env, Find: find}.Look()), bad, "not a directory")
	is(t, one(t, Service{Command: []string{prog}, Output: "/tmp/log", Env: env, Find: find, Store: nfs}.Look()), bad, "shared file system")
}

func TestFloating(t *testing.T) {
	up := net.FlagUp | net.FlagRunning
	for _, tt := range []struct {
		flags   net.Flags
		err     error
		lacking string
		grade   persistence.Grade
		words   []string
	}{
		{up | net.FlagBroadcast, nil, "", good, []string{"10.0.0.5/24 can be added to eth7"}},
		{0, &net.OpError{Op: "route", Net: "ip+net", Err: errors.New("no such network interface")}, "", bad, []string{"interface eth7: no such network interface", "floatingIP.interface"}},
		{net.FlagBroadcast, nil, "", bad, []string{"is down", "ip link set eth7 up"}},
		{net.FlagUp | net.FlagBroadcast, nil, "", odd, []string{"no carrier"}},
		{up | net.FlagLoopback, nil, "", odd, []string{"this machine's own"}},
		{up, nil, "CAP_NET_ADMIN", bad, []string{"without CAP_NET_ADMIN", "root"}},
	} {
		f := Floating{Address: "10.0.0.5/24", Interface: "eth7", Lacking: tt.lacking, Find: func(string) (*net.Interface, error) {
			return &net.Interface{Name: "eth7", Flags: tt.flags}, tt.err
		}}
		is(t, f.Look(), tt.grade, tt.words...)
	}
}

func TestStopTimes(t *testing.T) {
	timing, err := election.Derive(election.TimingRequest{}) // S 10s, KILL after 8s
	if err != nil {
		t.Fatal(err)
	}
	is(t, StopTimes(nil, timing), good, "not observed yet", "10s", "KILL comes after 8s")
	is(t, StopTimes([]Stop{{Took: time.Second}, {Took: 6 * time.Second}}, timing), good, "of 2 stops the longest took 6s")
	is(t, StopTimes([]Stop{{Took: 7 * time.Second}}, timing), odd, "7s", "8s", "raise service.stopTimeout")
	is(t, StopTimes([]Stop{{Took: time.Second}, {Took: 2 * time.Second, Killed: true}}, timing), odd, "in 1 of 2 stops", "killed")
	is(t, StopTimes([]Stop{{Took: 11 * time.Second, Killed: true}}, timing), bad, "11s", "more than service.stopTimeout, 10s")
}

func TestPort(t *testing.T) {
	nobody := func(context.Context) (string, error) { return "", errors.New("nobody answers") }
	node := func(id string) func(context.Context) (string, error) {
		return func(context.Context) (string, error) { return id, nil }
	}
	owner := func(string) func(int) string { return func(int) string { return "nginx, pid 12" } }("")
	is(t, Port{Address: "nonsense"}.Look(t.Context()), bad)
	is(t, Port{Address: ":0"}.Look(t.Context()), good)
	is(t, Port{Address: "127.0.0.1:1", Daemon: 9, Node: "n1", Answers: node("n1")}.Look(t.Context()), good, "pid 9")
	is(t, Port{Address: "127.0.0.1:1", Daemon: 9, Node: "n1", Answers: node("n2")}.Look(t.Context()), bad, "node n2")
	is(t, Port{Address: "127.0.0.1:1", Daemon: 9, Node: "n1", Answers: nobody}.Look(t.Context()), bad, "nobody answers", "restart")
	is(t, Port{Address: "192.0.2.1:8443", Answers: nobody}.Look(t.Context()), bad, "not an address of this host")

	l := listen(t)
	is(t, Port{Address: l, Answers: nobody, Owner: owner}.Look(t.Context()), bad, "taken by nginx, pid 12")
	is(t, Port{Address: l, Answers: node("n2"), Owner: owner}.Look(t.Context()), bad, "another Understudy node, n2 (nginx, pid 12)")
	is(t, Port{Address: l, Answers: nobody, Owner: func(int) string { return "" }}.Look(t.Context()), bad, "another program; root can see which")
	is(t, Port{Address: l, Answers: node("n2"), Unknown: true, Owner: owner}.Look(t.Context()), odd, "can not be told")
}

func TestPortOwner(t *testing.T) {
	l := listen(t)
	var port int
	if _, err := fmt.Sscanf(l, "127.0.0.1:%d", &port); err != nil {
		t.Fatal(err)
	}
	if got := PortOwner("/", port); !strings.HasSuffix(got, fmt.Sprintf(", pid %d", os.Getpid())) {
		t.Errorf("%q, want this process, %d", got, os.Getpid())
	}
	if got := PortOwner(t.TempDir(), port); got != "" {
		t.Errorf("%q out of nothing", got)
	}
}

func TestAddress(t *testing.T) {
	for _, c := range []struct {
		uri, listen string
		lines       int
	}{
		{"https://n1:8443/", ":8443", 0},
		{"https://n1/", ":443", 0},
		{"http://n1/", "10.0.0.1:80", 0},
		{"https://n1:8443/", "127.0.0.1:0", 0},
		{"https://n1/", ":8443", 1},
		{"https://n1:9/", ":8443", 1},
	} {
		u, err := url.Parse(c.uri)
		if err != nil {
			t.Fatal(err)
		}
		if lines := Address(u, c.listen); len(lines) != c.lines {
			t.Errorf("%s, %s: %+v", c.uri, c.listen, lines)
		}
	}
}

func TestCertificate(t *testing.T) {
	now := time.Date(2030, 1, 31, 12, 0, 0, 0, time.UTC)
	day := 24 * time.Hour
	dir := t.TempDir()
	crt, key := filepath.Join(dir, "crt"), filepath.Join(dir, "key")
	issue := func(from, to time.Duration) []byte {
		t.Helper()
		priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"n1"}, NotBefore: now.Add(from), NotAfter: now.Add(to)}
		der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &priv.PublicKey, priv)
		if err != nil {
			t.Fatal(err)
		}
		pkcs8, err := x509.MarshalPKCS8PrivateKey(priv)
		if err != nil {
			t.Fatal(err)
		}
		err = errors.Join(
			os.WriteFile(crt, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
			os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), 0o600))
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	c := Certificate{Cert: crt, Key: key, Name: "n1", Now: now}
	is(t, one(t, c.Look()), bad, "no such file")
	c.Own = true
	is(t, one(t, c.Look()), good, "none yet")
	c.Hidden = true
	if lines := c.Look(); len(lines) > 0 {
		t.Errorf("%+v", lines)
	}
	c.Own, c.Hidden = false, false

	der := issue(-10*day, 31*day)
	is(t, one(t, c.Look()), good, "n1, since 2030-01-21, until 2030-03-03")
	c.Served = der
	is(t, one(t, c.Look()), good)
	c.Served = []byte("the former one")
	is(t, one(t, c.Look()), odd, "replaced", "restart the node")
	c.Served = nil
	issue(-10*day, 29*day)
	is(t, one(t, c.Look()), odd, "in 29 days")
	issue(-10*day, -time.Minute)
	is(t, one(t, c.Look()), bad, "expired on 2030-01-31", "restart the node")
	c.Own = true
	is(t, one(t, c.Look()), bad, "remove")
	c.Own = false
	issue(day, 100*day)
	is(t, one(t, c.Look()), bad, "valid only from 2030-02-01")
	issue(-day, 100*day)
	c.Name = "n2"
	is(t, one(t, c.Look()), odd, "is for n1", "addressed as n2")
	c.Name = "n1"
	if err := os.WriteFile(key, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	is(t, one(t, c.Look()), bad, "not a certificate and its key")
	if err := os.WriteFile(crt, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	is(t, one(t, c.Look()), bad, "no certificate in PEM")
}

func TestNodeAndDaemon(t *testing.T) {
	is(t, Node{}.Look(), good, "new")
	is(t, Node{ID: "n1"}.Look(), good, "no plane")
	is(t, Node{ID: "n1", Plane: "p1", Term: 7}.Look(), good, "n1 of plane p1", "term 7")
	is(t, Node{Err: errors.New("node.json is damaged; restore it")}.Look(), bad, "damaged", "restore it")
	is(t, Node{DataDir: "/d", Err: os.ErrPermission}.Look(), bad, "/d can not be read")
	is(t, Daemon{}.Look(), good, "not running")
	is(t, Daemon{Guard: 8}.Look(), odd, "its guard, pid 8")
	is(t, Daemon{Unknown: true}.Look(), odd, "can not be told")
	is(t, Daemon{Pid: 9}.Look(), good, "pid 9")
	is(t, Daemon{Pid: 9, State: "MASTER", Term: 3}.Look(), good, "MASTER at term 3")
	is(t, Daemon{Pid: 9, State: "FAILED"}.Look(), bad, "understudy status")
	is(t, Daemon{Pid: 9, State: "STANDBY", Warnings: []string{"A", "B"}}.Look(), odd, "A, B")
}
