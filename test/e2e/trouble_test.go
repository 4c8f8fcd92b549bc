package e2e_test

import (
	"context"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	v1 "github.com/understudy-ha/understudy/api/v1"
	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/test/e2e/harness"
	"github.com/understudy-ha/understudy/test/e2e/intervals"
	"github.com/understudy-ha/understudy/test/faultfs"
	"github.com/understudy-ha/understudy/test/need"
)

// TestRefusedStarts: whatever is wrong before a node takes part in anything
// ends the daemon with one line that names the thing and the remedy, with the
// right code, at once, and without a trace in the plane's directory.
func TestRefusedStarts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		options harness.Options
		prepare func(t *testing.T, p *harness.Plane, n *harness.Node) []string // more words
		code    int
		words   []string // of the one line
	}{
		{
			name: "unknown key", code: 2,
			prepare: func(_ *testing.T, _ *harness.Plane, n *harness.Node) []string {
				n.Set("ha.heartbeatTimout", "5s")
				return []string{n.ConfigFile() + ":"}
			},
			words: []string{"ha.heartbeatTimout", "unknown key", "did you mean ha.heartbeatTimeout?"},
		}, {
			name: "impossible timings", code: 2,
			prepare: func(_ *testing.T, _ *harness.Plane, n *harness.Node) []string {
				n.Set("ha.heartbeatInterval", "3s")
				return []string{n.ConfigFile() + ":"}
			},
			words: []string{"ha.heartbeatInterval: D >= h + 2o is broken", "h=3s", "Nearest legal values: ha.heartbeatTimeout 17.5s, or ha.heartbeatInterval 500ms"},
		}, {
			name: "directory does not exist", code: 2,
			prepare: func(_ *testing.T, p *harness.Plane, n *harness.Node) []string {
				n.Set("persistenceDir", p.Dir+"/not/there")
				return []string{p.Dir + "/not/there"}
			},
			words: []string{"persistenceDir", "does not exist", "mount the shared file system there"},
		}, {
			name: "not a directory", code: 2,
			prepare: func(t *testing.T, p *harness.Plane, n *harness.Node) []string {
				t.Helper()
				file := filepath.Join(p.Dir, "file")
				write(t, file, "not a directory\n")
				n.Set("persistenceDir", file)
				return []string{file}
			},
			words: []string{"persistenceDir", "is not a directory", "name a directory on the shared file system"},
		}, {
			name: "read-only", code: 2,
			prepare: func(t *testing.T, p *harness.Plane, _ *harness.Node) []string {
				t.Helper()
				mount(t, p.Store, p.Store, "", unix.MS_BIND, "")
				mount(t, "", p.Store, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")
				return []string{p.Store}
			},
			words: []string{"persistenceDir", "read-only file system", "mount it read-write"},
		}, {
			name: "not permitted", code: 2, options: harness.Options{UID: nobody},
			prepare: func(t *testing.T, p *harness.Plane, _ *harness.Node) []string {
				t.Helper()
				must(t, os.Chmod(p.Store, 0o500))
				t.Cleanup(func() { must(t, os.Chmod(p.Store, 0o700)) })
				return []string{p.Store}
			},
			words: []string{"persistenceDir", "permission denied", "give the user that runs understudy"},
		}, {
			name: "full", code: 2, options: harness.Options{NoInit: true},
			prepare: func(t *testing.T, p *harness.Plane, _ *harness.Node) []string {
				t.Helper()
				mount(t, "none", p.Store, "tmpfs", 0, "size=64k")
				p.Init()
				fill(t, filepath.Join(p.Store, ".fill"))
				return []string{p.Store}
			},
			words: []string{"persistenceDir", "no space left on device", "free space"},
		}, {
			name: "port in use", code: 2,
			prepare: func(t *testing.T, _ *harness.Plane, n *harness.Node) []string {
				t.Helper()
				u, err := url.Parse(n.URL("/"))
				must(t, err)
				var lc net.ListenConfig
				l, err := lc.Listen(t.Context(), "tcp", u.Host)
				must(t, err)
				t.Cleanup(func() { l.Close() })
				return []string{u.Host}
			},
			words: []string{"the port is in use", "server.listen", "ss -ltnp"},
		}, {
			name: "data directory is a file", code: 2,
			prepare: func(t *testing.T, p *harness.Plane, n *harness.Node) []string {
				t.Helper()
				file := filepath.Join(p.Dir, "file")
				write(t, file, "not a directory\n")
				n.Set("dataDir", file)
				return []string{file}
			},
			words: []string{"dataDir", "not a directory", "name a directory on a local disk"},
		}, {
			name: "data directory full", code: 2,
			prepare: func(t *testing.T, _ *harness.Plane, n *harness.Node) []string {
				t.Helper()
				mount(t, "none", n.DataDir, "tmpfs", 0, "size=64k")
				fill(t, filepath.Join(n.DataDir, "fill"))
				return []string{n.DataDir}
			},
			words: []string{"dataDir", "no space left on device", "free space"},
		}, {
			name: "damaged certificate", code: 2,
			prepare: func(t *testing.T, p *harness.Plane, n *harness.Node) []string {
				t.Helper()
				crt, key := filepath.Join(p.Dir, "a.crt"), filepath.Join(p.Dir, "a.key")
				write(t, crt, "not PEM\n")
				write(t, key, "not PEM\n")
				n.Set("server.tls.cert", crt)
				n.Set("server.tls.key", key)
				return []string{crt, key}
			},
			words: []string{"server.tls", "are not a certificate and its key", "PEM"},
		}, {
			name: "missing certificate", code: 2,
			prepare: func(_ *testing.T, p *harness.Plane, n *harness.Node) []string {
				n.Set("server.tls.cert", filepath.Join(p.Dir, "a.crt"))
				n.Set("server.tls.key", filepath.Join(p.Dir, "a.key"))
				return []string{filepath.Join(p.Dir, "a.crt")}
			},
			words: []string{"server.tls", "no such file", "PEM"},
		}, {
			name: "damaged memory", code: 2,
			prepare: func(t *testing.T, _ *harness.Plane, n *harness.Node) []string {
				t.Helper()
				write(t, filepath.Join(n.DataDir, "plane.json"), "{half a li")
				return []string{filepath.Join(n.DataDir, "plane.json")}
			},
			words: []string{"is damaged", "restore it"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.options.UID != 0 {
				need.Root(t, "mount file systems")
			}
			c.options.Nodes = 1
			p := harness.NewPlane(t, c.options)
			n := p.Nodes[0]
			words := append(c.prepare(t, p, n), c.words...)
			before := listing(t, p.Store)
			n.Start()
			if code := n.WaitExit(settle); code != c.code {
				t.Errorf("the daemon ended with %d, want %d", code, c.code)
			}
			saysOneLine(t, n.Log(), words...)
			n.WaitGone(settle) // the guard too
			if after := listing(t, p.Store); !slices.Equal(before, after) {
				t.Errorf("the plane's directory held %v and holds %v", before, after)
			}
			if rec := p.Record(); len(rec.Trees) != 0 {
				t.Errorf("the service was started: %v", rec.Trees)
			}
		})
	}
}

// TestTwoProcessesOneDataDir: the second is refused, and the first does not
// notice.
func TestTwoProcessesOneDataDir(t *testing.T) {
	t.Parallel()
	p := harness.NewPlane(t, harness.Options{Nodes: 2})
	first, second := p.Nodes[0], p.Nodes[1]
	second.Set("dataDir", first.DataDir)
	first.Start()
	p.WaitMaster(settle)
	second.Start()
	if code := second.WaitExit(settle); code != 3 {
		t.Errorf("the second daemon ended with %d, want 3", code)
	}
	saysOneLine(t, second.Log(), first.DataDir, fmt.Sprintf("in use by the daemon with pid %d", first.Pid()), "give each node a dataDir of its own")
	undisturbed(t, p, first)
}

// TestClonedNode: a machine, or its data directory, was copied while in use
// (R14). The copy ends, naming both hosts; the original goes on, be it master
// or standby.
func TestClonedNode(t *testing.T) {
	t.Parallel()
	host, err := os.Hostname()
	must(t, err)
	for _, of := range []string{"master", "standby"} {
		t.Run(of, func(t *testing.T) {
			p := harness.NewPlane(t, harness.Options{Nodes: 2})
			master := p.StartAndWait(settle)
			original := master
			if of == "standby" {
				original = p.Standby(master)
			}
			pid := original.Pid()
			clone := p.AddNode(nil)
			// A file that is listed may be replaced before it is read.
			if !harness.Poll(settle, func() bool {
				must(t, os.RemoveAll(clone.DataDir))
				err = os.CopyFS(clone.DataDir, os.DirFS(original.DataDir))
				return err == nil
			}) {
				t.Fatal(err)
			}
			from := time.Now()
			clone.Start()
			if code := clone.WaitExit(settle); code != 3 {
				t.Errorf("the clone ended with %d, want 3", code)
			}
			harness.Note(t, fmt.Sprintf("the clone of a %s ended after %v", of, time.Since(from).Round(time.Millisecond)))
			saysOneLine(t, clone.Log(), "node id "+original.ID(), "in use by another live process", "this one on host "+host, "the other on host "+host,
				"data directory of its own")
			clone.WaitGone(settle)
			undisturbed(t, p, master)
			if !original.Running() || original.Pid() != pid {
				t.Error("the original ended too")
			}
			p.WaitSettled(settle)
		})
	}
}

// TestUnmountedMountPoint: the plane's file system is not mounted, so that its
// empty mount point shows. A node that remembers a plane refuses to believe
// it, creates nothing there, and goes on when the file system is back.
func TestUnmountedMountPoint(t *testing.T) {
	t.Parallel()
	p := harness.NewPlane(t, harness.Options{Nodes: 2})
	p.StartAndWait(settle)
	for _, n := range p.Nodes {
		n.Stop(settle)
	}
	away := p.Store + ".away"
	must(t, os.Rename(p.Store, away))
	must(t, os.Mkdir(p.Store, 0o755))
	at := intervals.Now()
	p.Start()
	neverFor(t, 7*time.Second, "something was created in the mount point", func() bool { return len(lasting(t, p.Store)) > 0 })
	for _, n := range p.Nodes {
		failedWithReason(t, n, election.ReasonVanished)
		says(t, n, "FAILED", "this node belongs to plane", p.Store, "is the right file system mounted?", "Nothing is created in its place")
	}
	if n := p.Record().StartsAfter(at); n != 0 {
		t.Errorf("%d services started without a store", n)
	}
	must(t, os.Remove(p.Store))
	must(t, os.Rename(away, p.Store))
	p.WaitSettled(settle)
}

// TestLocationThatIsNoPlane: a directory that holds something else, and one on
// a local disk where that was not allowed, get no plane from a node. It waits,
// and says what to do.
func TestLocationThatIsNoPlane(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		prepare func(p *harness.Plane, n *harness.Node)
		words   []string
	}{
		{
			"something else is in it",
			func(p *harness.Plane, _ *harness.Node) { write(t, filepath.Join(p.Store, "letter.txt"), "not ours\n") },
			[]string{"is not empty", "name an empty directory, or move away what is in it"},
		}, {
			"local disk",
			func(_ *harness.Plane, n *harness.Node) { n.Set("store.allowLocal", false) },
			[]string{"may not make one", "on a local disk", "run understudy init once"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := harness.NewPlane(t, harness.Options{Nodes: 1, NoInit: true})
			n := p.Nodes[0]
			c.prepare(p, n)
			before := listing(t, p.Store)
			n.Start()
			says(t, n, append([]string{"the location holds no register", p.Store}, c.words...)...)
			n.WaitState(settle, v1.StateInitializing)
			// A birth takes two listings 5 s apart.
			neverFor(t, 6*time.Second, "something was created there", func() bool { return !slices.Equal(before, lasting(t, p.Store)) })
			if why := whyOf(n); why != election.ReasonNoRegister {
				t.Errorf("the reason shown is %s, want %s", why, election.ReasonNoRegister)
			}
			n.Stop(settle)
		})
	}
}

// TestUnmountedUnderLivingPlane: the file system goes away while the plane
// lives, and its empty mount point shows. The master stops by its deadline and
// nothing is created there, not by writes that were under way either.
func TestUnmountedUnderLivingPlane(t *testing.T) {
	timing := fast(t)
	p := harness.NewPlane(t, harness.Options{})
	p.StartAndWait(settle)
	pids := pidsOf(p)
	away := p.Store + ".away"
	at := intervals.Now()
	must(t, os.Rename(p.Store, away))
	must(t, os.Mkdir(p.Store, 0o755))
	for _, n := range p.Nodes {
		failedWithReason(t, n, election.ReasonVanished)
	}
	neverFor(t, timing.ClaimAfter(0)+time.Second, "something was created in the mount point", func() bool { return len(listing(t, p.Store)) > 0 })
	last, ok := p.Record().LastAliveBefore(intervals.Now())
	if limit := timing.StopAfter() + timing.Stop; !ok || last.Sub(at) > limit {
		t.Errorf("the service lived for %v without a store, want at most D + S = %v", last.Sub(at), limit)
	}
	if n := p.Record().StartsAfter(at); n != 0 {
		t.Errorf("%d services started without a store", n)
	}
	if left := listing(t, p.Store); len(left) > 0 {
		t.Fatalf("the mount point holds %v", left)
	}
	must(t, os.Remove(p.Store))
	must(t, os.Rename(away, p.Store))
	p.WaitSettled(settle)
	if now := pidsOf(p); !slices.Equal(pids, now) {
		t.Errorf("daemons %v became %v", pids, now)
	}
}

// TestRemovedRegister: lease/ is moved away under a living plane. The master
// steps down by its deadline, nobody makes another register, all say why, and
// all is well when it is back.
func TestRemovedRegister(t *testing.T) {
	damagedRegister(t, election.ReasonVanished, []string{"holds no register"}, func(lease string) (repair func()) {
		must(t, os.Rename(lease, lease+".away"))
		return func() { must(t, os.Rename(lease+".away", lease)) }
	})
}

// TestCorruptRegister: the register's one name is no value any more. Nobody
// claims it, and putting the name back is all the repair it needs.
func TestCorruptRegister(t *testing.T) {
	damagedRegister(t, election.ReasonUnreadable, []string{"u1.broken", "nobody will claim it"}, func(lease string) (repair func()) {
		var name string
		// The master renews: by the time the name is read it may have moved.
		if !harness.Poll(5*time.Second, func() bool {
			entries, err := os.ReadDir(lease)
			must(t, err)
			if len(entries) != 1 {
				return false
			}
			name = entries[0].Name()
			return os.Rename(filepath.Join(lease, name), filepath.Join(lease, "u1.broken")) == nil
		}) {
			t.Fatal("the register could not be renamed")
		}
		return func() { must(t, os.Rename(filepath.Join(lease, "u1.broken"), filepath.Join(lease, name))) }
	})
}

func damagedRegister(t *testing.T, reason string, words []string, damage func(lease string) (repair func())) {
	t.Helper()
	timing := fast(t)
	p := harness.NewPlane(t, harness.Options{Nodes: 2})
	p.StartAndWait(settle)
	pids := pidsOf(p)
	lease := filepath.Join(p.Store, "lease")
	repair := damage(lease)
	at := intervals.Now()
	broken := listing(t, filepath.Dir(lease), "nodes", "view", "history")
	for _, n := range p.Nodes {
		failedWithReason(t, n, reason)
		says(t, n, append([]string{"FAILED", reason}, words...)...)
	}
	// Long enough for any claim that could follow.
	neverFor(t, timing.ClaimAfter(0)+2*time.Second, "a service was started", func() bool { return p.Record().StartsAfter(at) > 0 })
	last, ok := p.Record().LastAliveBefore(intervals.Now())
	if limit := timing.StopAfter() + timing.Stop; !ok || last.Sub(at) > limit {
		t.Errorf("the service lived for %v after the damage, want at most D + S = %v", last.Sub(at), limit)
	}
	if now := listing(t, filepath.Dir(lease), "nodes", "view", "history"); !slices.Equal(broken, now) {
		t.Errorf("the damaged store held %v and now holds %v", broken, now)
	}
	repair()
	p.WaitSettled(settle)
	if now := pidsOf(p); !slices.Equal(pids, now) {
		t.Errorf("daemons %v became %v", pids, now)
	}
}

// TestForeignFileBesideRegister: it is passed over, and an operator is told.
func TestForeignFileBesideRegister(t *testing.T) {
	p := harness.NewPlane(t, harness.Options{Nodes: 2})
	master := p.StartAndWait(settle)
	file := filepath.Join(p.Store, "lease", "README.txt")
	write(t, file, "somebody's notes\n")
	says(t, p.Standby(master), "WARN", "foreign files beside the register", "README.txt", "remove them")
	neverFor(t, 2*time.Second, "the plane was disturbed", func() bool { return otherwise(p, master) })
	undisturbed(t, p, master)
	at := master.KillTree()
	next := p.WaitStart(at, 2*fastT)
	if d := next.Start.Sub(at); d > fastT+time.Second {
		t.Errorf("the take-over took %v, want at most T + 1 s", d)
	}
	must(t, os.Remove(file))
}

// TestStoreRefusesWrites: the store can be read and not written, for want of
// space, of rights or of luck. The master stops by its deadline, nobody else
// claims, the reason is named, and the plane recovers by itself.
func TestStoreRefusesWrites(t *testing.T) {
	need.Root(t, "mount file systems")
	timing := fast(t)
	for _, c := range []struct {
		name  string
		errno syscall.Errno
		words []string
	}{
		{"full", syscall.ENOSPC, []string{"no space left on device", "free space"}},
		{"read-only", syscall.EROFS, []string{"read-only file system", "mount it read-write"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := harness.NewPlane(t, harness.Options{Nodes: 2, FaultFS: true})
			master := p.StartAndWait(settle)
			at := intervals.Now()
			var faults []*faultfs.Fault
			for _, op := range []faultfs.Op{faultfs.Rename, faultfs.Create, faultfs.Write, faultfs.Mkdir} {
				faults = append(faults, hang(p.Nodes, faultfs.Rule{Op: op, Errno: c.errno})...)
			}
			failedWithReason(t, master, election.ReasonLeaseLost)
			says(t, master, append([]string{"FAILED", election.ReasonLeaseLost}, c.words...)...)
			neverFor(t, timing.ClaimAfter(0)+time.Second, "a service was started", func() bool { return p.Record().StartsAfter(at) > 0 })
			last, ok := p.Record().LastAliveBefore(intervals.Now())
			if limit := timing.StopAfter() + timing.Stop; !ok || last.Sub(at) > limit {
				t.Errorf("the service lived for %v after the last write, want at most D + S = %v", last.Sub(at), limit)
			}
			for _, f := range faults {
				f.Remove()
			}
			p.WaitSettled(settle)
		})
	}
}

// TestStoreClockOff: the times that the store gives its files jump by an hour
// in both directions. Nothing is decided by them.
func TestStoreClockOff(t *testing.T) {
	p := harness.NewPlane(t, harness.Options{})
	ctx, stop := context.WithCancel(t.Context())
	var wait sync.WaitGroup
	wait.Go(func() {
		off := time.Hour
		for ctx.Err() == nil {
			shift(p.Store, off)
			off = -off
			time.Sleep(20 * time.Millisecond)
		}
	})
	defer wait.Wait()
	defer stop()
	master := p.StartAndWait(settle)
	neverFor(t, 3*time.Second, "the plane was disturbed", func() bool { return otherwise(p, master) })
	undisturbed(t, p, master)
	s, err := p.Standby(master).States()
	must(t, err)
	for id, n := range s.Nodes {
		if n.AgeMs == nil || *n.AgeMs > 5000 {
			t.Errorf("%s is shown to be %v ms old", id, n.AgeMs)
		}
	}
	at := master.KillTree()
	next := p.WaitStart(at, 2*fastT)
	if d := next.Start.Sub(at); d < 3*time.Second || d > fastT+time.Second {
		t.Errorf("the take-over took %v, want about T", d)
	}
}

// shift moves the times of everything in a directory that changes meanwhile.
func shift(dir string, by time.Duration) {
	at := time.Now().Add(by)
	_ = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err == nil {
			_ = os.Chtimes(path, at, at) // gone since
		}
		return nil
	})
}

// TestDataDirFullWhenClaiming: a standby whose data directory is full must not
// claim what it could not remember. It says so, and claims once there is room.
func TestDataDirFullWhenClaiming(t *testing.T) {
	t.Parallel()
	p := harness.NewPlane(t, harness.Options{Nodes: 2})
	master, full := p.Nodes[0], p.Nodes[1]
	mount(t, "none", full.DataDir, "tmpfs", 0, "size=256k")
	master.Start()
	p.WaitMaster(settle)
	full.Start()
	full.WaitStandby(settle)
	filler := filepath.Join(full.DataDir, "filler")
	fill(t, filler)
	at := master.KillTree()
	failedWithReason(t, full, election.ReasonForgetful)
	says(t, full, "FAILED", "data directory", "no space left on device", "free")
	neverFor(t, 5*time.Second, "a node that can not remember its term serves", func() bool { return p.Record().StartsAfter(at) > 0 })
	must(t, os.Remove(filler))
	if next := p.WaitStart(at, settle); next.Node != full.ID() {
		t.Errorf("%s serves", next.Node)
	}
	p.WaitMaster(settle)
}

// TestWrongPassword: 401 in REST; on the command line one line with the
// remedy and the code for "not allowed".
func TestWrongPassword(t *testing.T) {
	p := harness.NewPlane(t, harness.Options{Nodes: 1})
	n := p.StartAndWait(settle)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, n.URL("/v1/server/ha/state"), http.NoBody)
	must(t, err)
	req.SetBasicAuth("admin", "wrong")
	res, err := harness.Insecure().Do(req)
	must(t, err)
	res.Body.Close()
	if res.StatusCode != http.StatusUnauthorized || !strings.HasPrefix(res.Header.Get("Www-Authenticate"), "BASIC realm=") {
		t.Errorf("status %d, %s", res.StatusCode, res.Header.Get("Www-Authenticate"))
	}
	secret := filepath.Join(p.Dir, "secret")
	write(t, secret, "wrong\n")
	cmd := n.Command(t.Context(), "status", "--endpoint", n.URL(""), "--insecure", "--user", "admin", "--password-file", secret)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != 5 {
		t.Errorf("status ended with %v, want code 5", err)
	}
	saysOneLine(t, string(out), n.URL(""), "user and a password", "--password-file")
	undisturbed(t, p, n)
}

// TestServiceThatCanNotRun: a node whose service can not be started, or does
// not stay, gives the term up, says why, and the next node serves.
func TestServiceThatCanNotRun(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		command []string
		words   []string
		within  time.Duration
	}{
		{"does not exist", []string{"/no/such/program"}, []string{"/no/such/program", "does not exist", "127", "service.command"}, 10 * time.Second},
		{"not executable", []string{"/etc/hostname"}, []string{"/etc/hostname", "126", "service.command"}, 10 * time.Second},
		{"exits at once", []string{"/bin/false"}, []string{"service exited with 1", "after 3 restarts", "service.log"}, 30 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := harness.NewPlane(t, harness.Options{Nodes: 2})
			bad, good := p.Nodes[0], p.Nodes[1]
			bad.Set("service.command", c.command)
			at := intervals.Now()
			bad.Start()
			// Once it has claimed; it fails later than that.
			if !harness.Poll(settle, func() bool { s, err := bad.States(); return err == nil && s.Term > 0 }) {
				t.Fatal("the node never claimed")
			}
			good.Start()
			failedWithReason(t, bad, election.ReasonServiceFailed)
			says(t, bad, append([]string{"FAILED", election.ReasonServiceFailed}, c.words...)...)
			if next := p.WaitStart(at, c.within); next.Node != good.ID() {
				t.Errorf("%s serves", next.Node)
			}
			if p.WaitMaster(settle) != good {
				t.Error("the good node is not master")
			}
		})
	}
}

// undisturbed holds that the given node is master in the plane's first term,
// and its service the only one that ever ran.
func undisturbed(t *testing.T, p *harness.Plane, master *harness.Node) {
	t.Helper()
	if !harness.Poll(settle, master.IsMaster) { // had it not been all the time, there would be a second term
		t.Errorf("%s is %s, want MASTER", master.Name, master.State())
	}
	rec := p.Record()
	if len(rec.Trees) != 1 || rec.Trees[0].Term != 1 || rec.Trees[0].Node != master.ID() {
		t.Errorf("services %v, want one of %s in term 1", rec.Trees, master.Name)
	}
}

// otherwise reports whether a node says that the given one is not master, or
// that it is itself. One that gives no answer in time says neither.
func otherwise(p *harness.Plane, master *harness.Node) bool {
	return slices.ContainsFunc(p.Nodes, func(n *harness.Node) bool {
		r, err := n.Probe("/master")
		return err == nil && (r.Code == http.StatusOK) != (n == master)
	})
}

// neverFor watches for as long as given that something does not happen.
func neverFor(t *testing.T, d time.Duration, what string, happens func() bool) {
	t.Helper()
	if harness.Poll(d, happens) {
		t.Error(what)
	}
}

// listing names everything in a directory, except what is named to be left
// out, and what nodes hide for a moment.
func listing(t *testing.T, dir string, without ...string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			if os.IsNotExist(err) {
				return nil // gone since it was listed
			}
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil || rel == "." {
			return err
		}
		if slices.Contains(without, strings.Split(rel, "/")[0]) {
			return nil
		}
		out = append(out, rel)
		return nil
	})
	must(t, err)
	return out
}

// lasting is listing without the file by which a starting node finds out, for
// a moment, whether it may write there.
func lasting(t *testing.T, dir string) []string {
	t.Helper()
	return slices.DeleteFunc(listing(t, dir), func(name string) bool { return strings.HasPrefix(name, ".check-") })
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	must(t, os.WriteFile(path, []byte(text), 0o644)) //nolint:gosec // nodes may be another user
}

// fill takes all the space there is.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	must(t, err)
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	if !strings.Contains(err.Error(), "no space left") {
		t.Fatal(err)
	}
}

// mount mounts for the rest of the test.
func mount(t *testing.T, source, target, fstype string, flags uintptr, data string) {
	t.Helper()
	need.Root(t, "mount file systems")
	must(t, unix.Mount(source, target, fstype, flags, data))
	if flags&unix.MS_REMOUNT != 0 {
		return
	}
	t.Cleanup(func() {
		// What lives there is ended by the plane's cleanup, which runs later.
		must(t, unix.Unmount(target, unix.MNT_DETACH))
	})
}

// says waits until one line of the node's log has all of the words.
func says(t *testing.T, n *harness.Node, words ...string) {
	t.Helper()
	if !harness.Poll(settle, func() bool { return lineWith(n.Log(), words...) != "" }) {
		t.Errorf("%s has no line with all of %q:\n%s", n.Name, words, n.Log())
		return
	}
	t.Logf("%s: %s", n.Name, lineWith(n.Log(), words...))
}

// lineWith returns the first line that has all of the words.
func lineWith(text string, words ...string) string {
	for line := range strings.Lines(text) {
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
			return strings.TrimSpace(line)
		}
	}
	return ""
}

// saysOneLine holds a refused command to its word: of what it printed exactly
// one line is the refusal, and that has all of the words.
func saysOneLine(t *testing.T, text string, words ...string) {
	t.Helper()
	var refusals []string
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, "understudy: "); ok && !strings.HasPrefix(rest, "warning: ") {
			refusals = append(refusals, strings.TrimSpace(line))
		}
	}
	if len(refusals) != 1 {
		t.Errorf("%d lines of refusal, want 1:\n%s", len(refusals), text)
		return
	}
	t.Log(refusals[0])
	for _, w := range words {
		if !strings.Contains(refusals[0], w) {
			t.Errorf("the refusal does not mention %q", w)
		}
	}
}
