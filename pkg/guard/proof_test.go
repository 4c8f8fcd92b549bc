package guard

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// deadProcess returns the name of a process that existed and is gone.
func deadProcess(t *testing.T) Process {
	t.Helper()
	p, err := os.StartProcess("/bin/sleep", []string{"sleep", "60"}, &os.ProcAttr{})
	if err != nil {
		t.Fatal(err)
	}
	d := Process{p.Pid, startTime(p.Pid)}
	_ = p.Kill()
	if _, err := p.Wait(); err != nil || d.Start == 0 {
		t.Fatalf("%+v %v", d, err)
	}
	return d
}

func TestProof(t *testing.T) {
	t.Parallel()
	dead := deadProcess(t)
	self := Process{os.Getpid(), startTime(os.Getpid())}
	reused := Process{os.Getpid(), startTime(os.Getpid()) - 1} // our pid, an earlier process
	here := machine{machineID: "m1", productUUID: "u1", bootID: bootID(), pidNS: 1}
	myNS := pidNamespace("self")
	for _, c := range []struct {
		name   string
		proof  func(p *Proof)
		m      func(m *machine)
		tree   *Tree
		broken bool // the tree record is garbage
		ok     bool
		why    string
	}{
		{name: "same boot, all gone, service never started", ok: true},
		{name: "an earlier term's tree", tree: &Tree{Term: 8}, ok: true},
		{name: "a later term's tree", tree: &Tree{Term: 10, Empty: true}, why: "term 10"},
		{name: "tree was proven empty", tree: &Tree{Term: 9, Isolation: IsolationGroup, Empty: true}, ok: true},
		{name: "group, not seen empty", tree: &Tree{Term: 9, Isolation: IsolationGroup, BootID: bootID(), Shim: dead.Pid, ShimStart: dead.Start}, why: "without a PID namespace or cgroup"},
		{name: "namespace gone", tree: &Tree{Term: 9, Isolation: IsolationPidNamespace, BootID: bootID(), Shim: dead.Pid, ShimStart: dead.Start, PidNS: 12345}, ok: true},
		{name: "namespace in use", tree: &Tree{Term: 9, Isolation: IsolationPidNamespace, BootID: bootID(), Shim: dead.Pid, ShimStart: dead.Start, PidNS: myNS}, why: "lives in the service's PID namespace"},
		{name: "namespace not recorded", tree: &Tree{Term: 9, Isolation: IsolationPidNamespace, BootID: bootID(), Shim: dead.Pid, ShimStart: dead.Start}, why: "PID namespace"},
		{name: "shim alive", tree: &Tree{Term: 9, Isolation: IsolationPidNamespace, BootID: bootID(), Shim: self.Pid, ShimStart: self.Start, PidNS: 12345}, why: "is alive"},
		{name: "tree of another boot", tree: &Tree{Term: 9, Isolation: IsolationPidNamespace, BootID: "b0", PidNS: 12345}, why: "reboot"},
		{name: "tree record broken", broken: true, why: "tree record"},
		{name: "daemon alive", proof: func(p *Proof) { p.Daemon = self }, why: "daemon"},
		{name: "daemon's pid reused", proof: func(p *Proof) { p.Daemon = reused }, ok: true},
		{name: "daemon not recorded", proof: func(p *Proof) { p.Daemon = Process{} }, why: "names no daemon"},
		{name: "guard alive", proof: func(p *Proof) { p.Guard = self }, why: "guard"},
		{name: "no guard", proof: func(p *Proof) { p.Guard = Process{} }, ok: true},
		{name: "other PID namespace", m: func(m *machine) { m.pidNS = 2 }, why: "another PID namespace"},
		{name: "PID namespace unknown", proof: func(p *Proof) { p.PidNS = 0 }, m: func(m *machine) { m.pidNS = 0 }, why: "PID namespace"},
		{name: "in a container, same namespace", proof: func(p *Proof) { p.InContainer = true }, m: func(m *machine) { m.container = true }, ok: true},
		{name: "other machine id", m: func(m *machine) { m.machineID = "m2" }, why: "another machine"},
		{name: "other product uuid", m: func(m *machine) { m.productUUID = "u2" }, why: "another machine"},
		{name: "product uuid became unreadable", m: func(m *machine) { m.productUUID = "" }, why: "another machine"},
		{
			name: "neither readable", proof: func(p *Proof) { p.MachineID, p.ProductUUID = "", "" },
			m: func(m *machine) { m.machineID, m.productUUID = "", "" }, why: "neither",
		},
		{name: "only the machine id", proof: func(p *Proof) { p.ProductUUID = "" }, m: func(m *machine) { m.productUUID = "" }, ok: true},
		{
			name: "rebooted, all else lost", m: func(m *machine) { m.bootID, m.pidNS = "b2", 7 }, proof: func(p *Proof) { p.Daemon = self },
			tree: &Tree{Term: 9, Isolation: IsolationGroup, BootID: bootID()}, ok: true,
		},
		{name: "another boot in a container", m: func(m *machine) { m.bootID, m.container = "b2", true }, why: "container"},
		{name: "was in a container", proof: func(p *Proof) { p.InContainer = true }, m: func(m *machine) { m.bootID = "b2" }, why: "container"},
		{name: "boot id unreadable", m: func(m *machine) { m.bootID = "" }, why: "boot id"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			p := Proof{
				Plane: "plane001", Term: 9, Incarnation: "x", MachineID: "m1", ProductUUID: "u1",
				BootID: bootID(), PidNS: 1, Daemon: dead, Guard: dead,
			}
			m := here
			if c.proof != nil {
				c.proof(&p)
			}
			if c.m != nil {
				c.m(&m)
			}
			if c.tree != nil {
				b, _ := json.Marshal(c.tree)
				if err := os.WriteFile(filepath.Join(dir, treeFile), b, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if c.broken {
				if err := os.WriteFile(filepath.Join(dir, treeFile), []byte("{"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			ok, why := p.check(dir, m)
			if ok != c.ok || !strings.Contains(why, c.why) || ok == (why != "") {
				t.Errorf("%v %q, want %v %q", ok, why, c.ok, c.why)
			}
		})
	}
}

func TestProofIsKept(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, ok, err := LoadProof(dir); ok || err != nil {
		t.Errorf("nothing there: %v %v", ok, err)
	}
	p := NewProof("plane001", 4, "inc", os.Getpid())
	for range 2 { // the second replaces the first
		if err := p.Save(dir); err != nil {
			t.Fatal(err)
		}
	}
	q, ok, err := LoadProof(dir)
	if !ok || err != nil || q != p {
		t.Errorf("%+v %v %v, want %+v", q, ok, err, p)
	}
	if p.BootID == "" || p.PidNS == 0 || p.Daemon.Start == 0 || p.Guard.Start == 0 {
		t.Errorf("incomplete: %+v", p)
	}
	if ok, why := p.Check(dir); ok || why == "" {
		t.Error("we are proven gone")
	}
	if err := os.WriteFile(filepath.Join(dir, proofFile), []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := LoadProof(dir); err == nil {
		t.Error("garbage was read")
	}
	if err := p.Save(filepath.Join(dir, "nowhere")); err == nil {
		t.Error("saved nowhere")
	}
}

// The proof a node would use after a crash of its own, with real processes.
func TestProofAfterCrash(t *testing.T) {
	t.Parallel()
	each(t, func(d *daemon) {
		t := d.t
		prove := func() (bool, string) {
			p, m := NewProof("plane001", 3, "inc", 0), thisMachine()
			p.MachineID, m.machineID = "m1", "m1" // containers often have none
			p.Daemon, p.Guard = Process{d.proc.Pid, d.started}, Process{d.guard, d.guardStarted}
			return p.check(d.dir, m)
		}
		d.serve(3, stubborn())
		if ok, _ := prove(); ok {
			t.Error("proven gone while alive")
		}
		d.kill9(d.proc.Pid)
		d.kill9(d.guard)
		if !within(wait, func() bool { ok, _ := prove(); return ok }) {
			_, why := prove()
			t.Fatalf("not proven: %s", why)
		}
		d.dead(0, stubbornNames...)
	})
}

func TestMarkEmptyTouchesNothingElse(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "x", `{"empty":true }` + "\n", "false}x", `{"empty":maybe}` + "\n"} {
		path := filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		markEmpty(f)
		f.Close()
		if got := readAll(path); got != text {
			t.Errorf("%q became %q", text, got)
		}
	}
}
