package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/persistence/posix"
	"github.com/understudy-ha/understudy/pkg/doctor"
	"github.com/understudy-ha/understudy/test/faultfs"
	"github.com/understudy-ha/understudy/test/need"
)

var update = flag.Bool("update", false, "rewrite the golden files in testdata/doctor")

// patient is a machine's node as doctor meets it.
type patient struct {
	t        *testing.T
	dir      string
	store    string
	settings []string // key=value
	binary   string
	user     *syscall.Credential
}

func newPatient(t *testing.T) *patient {
	t.Helper()
	// A disk, which /tmp need not be, and open to another user.
	dir, err := os.MkdirTemp("/var/tmp", "understudy-doctor-") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // see above
		t.Fatal(err)
	}
	p := &patient{t: t, dir: dir, store: filepath.Join(dir, "store"), binary: "understudy"}
	p.mkdir(p.store, 0o755)
	p.settings = []string{
		"persistenceDir=" + p.store, "dataDir=" + filepath.Join(dir, "data"),
		"server.listen=127.0.0.1:0", "service.command=[sleep, 60]",
	}
	return p
}

func (p *patient) mkdir(path string, mode os.FileMode) {
	p.t.Helper()
	if err := errors.Join(os.Mkdir(path, mode), os.Chmod(path, mode)); err != nil {
		p.t.Fatal(err)
	}
}

func (p *patient) command(ctx context.Context, args ...string) *exec.Cmd {
	for _, kv := range p.settings {
		args = append(args, "--set", kv)
	}
	cmd := exec.CommandContext(ctx, p.binary, args...)
	cmd.Env = slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, "UNDERSTUDY_") })
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: p.user}
	return cmd
}

// examine runs doctor, which must end with the code, and returns what it says.
func (p *patient) examine(code int, args ...string) string {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), 3*time.Minute)
	defer cancel()
	out, err := p.command(ctx, append([]string{"doctor"}, args...)...).Output()
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
		if len(exit.Stderr) > 0 {
			p.t.Errorf("stderr: %s", exit.Stderr)
		}
	} else if err != nil {
		p.t.Fatal(err)
	}
	if got != code {
		p.t.Errorf("doctor ended with %d, want %d:\n%s", got, code, out)
	}
	p.until("the store without what doctor tried there", func() bool { // beside a live node there may be a write under way
		left, _ := filepath.Glob(filepath.Join(p.store, ".*"))
		return len(left) == 0
	})
	return string(out)
}

// about keeps the lines, remedies included, whose names begin with one of the
// given, and what is said at the end of those that failed.
func about(text string, names ...string) string {
	var b strings.Builder
	keep := false
	for l := range strings.Lines(text) {
		if name := strings.TrimSpace(l); !strings.HasPrefix(name, "->") {
			_, rest, _ := strings.Cut(l, " ")
			keep = slices.ContainsFunc(names, func(n string) bool {
				return strings.HasPrefix(strings.TrimSpace(rest), n+"  ") || strings.HasPrefix(strings.TrimSpace(rest), n+" ")
			})
		}
		if keep || strings.HasPrefix(l, "not fit") {
			b.WriteString(l)
		}
	}
	return b.String()
}

var (
	measuredTime = regexp.MustCompile(`\b[0-9]+(\.[0-9]+)?(ns|µs|ms|s)\b`)
	measuredSize = regexp.MustCompile(`\b[0-9]+(\.[0-9]+)? ([KMGT]i)?B\b`)
	space        = regexp.MustCompile(`(?m)^\w+ +(store free|data directory space).*\n( +->.*\n)?`)
	inodes       = regexp.MustCompile(`\b[0-9]+ of [0-9]+\b|\(at most ([^ ]+) of [0-9]+\)`)
)

// golden compares what was said with testdata/doctor/NAME.golden, leaving out
// what differs from run to run.
func (p *patient) golden(name, text string) {
	p.t.Helper()
	for _, dir := range []struct{ path, name string }{{p.store, "STORE"}, {p.dir, "DIR"}} {
		text = strings.ReplaceAll(text, dir.path, dir.name)
	}
	if here, err := posix.FindPlace(p.dir); err == nil {
		text = strings.ReplaceAll(text, doctor.Place(here).String(), "DISK")
	}
	if name != "full-disk" { // how much this machine has left is not the test's business
		text = space.ReplaceAllString(text, "")
	}
	text = measuredTime.ReplaceAllString(text, "TIME")
	text = measuredSize.ReplaceAllString(text, "SIZE")
	text = inodes.ReplaceAllString(text, "COUNT")
	file := filepath.Join("testdata", "doctor", name+".golden")
	if *update {
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o644)); err != nil {
			p.t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		p.t.Fatal(err)
	}
	if text != string(want) {
		p.t.Errorf("doctor says:\n%s\n%s has:\n%s", text, file, want)
	}
}

func (p *patient) tmpfs(options string) {
	p.t.Helper()
	need.Root(p.t, "mount file systems")
	if err := unix.Mount("scratch", p.store, "tmpfs", 0, options); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() {
		if err := unix.Unmount(p.store, 0); err != nil {
			p.t.Error(err)
		}
	})
}

// faulty puts the store behind a file system that fails on command.
func (p *patient) faulty() *faultfs.FS {
	p.t.Helper()
	need.Root(p.t, "mount file systems")
	backing := filepath.Join(p.dir, "backing")
	p.mkdir(backing, 0o755)
	fs, err := faultfs.Mount(backing, p.store)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() {
		if err := fs.Unmount(); err != nil {
			p.t.Error(err)
		}
	})
	return fs
}

const allowLocal = "store.allowLocal=true"

func TestDoctorOnLocalDisk(t *testing.T) {
	t.Parallel()
	p := newPatient(t)
	p.settings = append(p.settings, "ha.preset=wan") // whatever else this disk is busy with
	p.golden("local-disk", about(p.examine(1), "store", "plane", "nodes"))
	p.settings = append(p.settings, allowLocal)
	p.golden("local-disk-allowed", about(p.examine(0), "store", "plane", "nodes"))
}

func TestDoctorOnTmpfs(t *testing.T) {
	t.Parallel()
	p := newPatient(t)
	p.tmpfs("size=200m")
	p.settings = append(p.settings, allowLocal)
	p.golden("tmpfs", about(p.examine(0), "store", "plane", "nodes"))
}

func TestDoctorOnFullDisk(t *testing.T) {
	t.Parallel()
	p := newPatient(t)
	p.tmpfs("size=1m")
	p.settings = append(p.settings, allowLocal)
	err := os.WriteFile(filepath.Join(p.store, ".fill"), make([]byte, 2<<20), 0o600)
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("the disk did not fill up: %v", err)
	}
	defer os.Remove(filepath.Join(p.store, ".fill"))
	text := p.examineLeaving(".fill", 1)
	p.golden("full-disk", about(text, "store", "plane", "nodes"))
}

// examineLeaving is examine for a store that holds a hidden file of the test's.
func (p *patient) examineLeaving(name string, code int) string {
	p.t.Helper()
	store := p.store
	p.store = filepath.Join(p.dir, "not looked at")
	text := p.examine(code)
	p.store = store
	if left, _ := filepath.Glob(filepath.Join(store, ".*")); len(left) != 1 || filepath.Base(left[0]) != name {
		p.t.Errorf("left behind: %v", left)
	}
	return text
}

func TestDoctorOnReadOnlyMount(t *testing.T) {
	t.Parallel()
	p := newPatient(t)
	p.tmpfs("size=200m")
	if err := unix.Mount("", p.store, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	p.settings = append(p.settings, allowLocal)
	p.golden("read-only", about(p.examine(1), "store", "plane", "nodes"))
}

func TestDoctorWhereRenamesAreNotExclusive(t *testing.T) {
	t.Parallel()
	p := newPatient(t)
	fault := p.faulty().Inject(faultfs.Rule{Op: faultfs.Rename, Shared: time.Minute})
	p.settings = append(p.settings, allowLocal)
	text := p.examine(1)
	if fault.Fired() == 0 {
		t.Error("the fault never fired")
	}
	text = regexp.MustCompile(`round \d+ of \d+ writers: \d+ were`).ReplaceAllString(text, "round N of N writers: N were")
	p.golden("not-exclusive", about(text, "store semantics", "plane"))
}

// Half a second per write: too slow for the first two. What doctor names as the
// remedy is the third.
func TestDoctorOnSlowStore(t *testing.T) {
	t.Parallel()
	for preset, code := range map[string]int{"fast": 1, "default": 1, "wan": 0} {
		t.Run(preset, func(t *testing.T) {
			t.Parallel()
			p := newPatient(t)
			fault := p.faulty().Inject(faultfs.Rule{Op: faultfs.Rename, Delay: 500 * time.Millisecond})
			p.settings = append(p.settings, allowLocal, "ha.preset="+preset)
			p.golden("slow-"+preset, about(p.examine(code), "store latency", "store semantics", "plane"))
			if fault.Fired() == 0 {
				t.Error("the fault never fired")
			}
		})
	}
}

func TestDoctorOnHungStore(t *testing.T) {
	t.Parallel()
	p := newPatient(t)
	fs := p.faulty()
	fault := fs.Inject(faultfs.Rule{Hang: true})
	p.settings = append(p.settings, allowLocal)
	begin := time.Now()
	store := p.store
	p.store = p.dir // or looking for what was left would hang, too
	text := p.examine(4)
	p.store = store
	if took := time.Since(begin); took > 60*time.Second {
		t.Errorf("it took %s", took)
	}
	if fault.Fired() == 0 {
		t.Error("the fault never fired")
	}
	p.golden("hung", about(text, "configuration", "data directory", "port", "certificate", "service", "store", "plane", "nodes"))
}

// A store that answers the first question and hangs in the middle of the next.
func TestDoctorOnStoreThatHangsInWrites(t *testing.T) {
	t.Parallel()
	p := newPatient(t)
	fault := p.faulty().Inject(faultfs.Rule{Op: faultfs.Rename, Hang: true})
	p.settings = append(p.settings, allowLocal)
	store := p.store
	p.store = filepath.Join(p.dir, "not looked at") // what hangs can not be removed, as is said
	text := p.examine(4)
	p.store = store
	if fault.Fired() == 0 {
		t.Error("the fault never fired")
	}
	fault.Remove()
	text = regexp.MustCompile(`\.verify-\w+`).ReplaceAllString(text, ".verify-RANDOM")
	p.golden("hung-writes", about(text, "store latency", "store semantics", "plane", "nodes"))
}

// expired writes a certificate that ended yesterday, and its key.
func expired(t *testing.T, dir string) (cert, key string) {
	t.Helper()
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"node7"},
		NotBefore: time.Now().AddDate(-1, 0, 0), NotAfter: time.Now().Add(-25 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &priv.PublicKey, priv)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(priv)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "node.crt"), filepath.Join(dir, "node.key")
	err = errors.Join(
		os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
		os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// What is wrong on the machine rather than with the store, all at once: each
// has its line, and none hides another.
func TestDoctorOnTroubledMachine(t *testing.T) {
	t.Parallel()
	p := newPatient(t)
	p.mkdir(filepath.Join(p.dir, "data"), 0o755)
	cert, key := expired(t, p.dir)
	if err := os.Chmod(key, 0o644); err != nil { //nolint:gosec // that is what is to be found
		t.Fatal(err)
	}
	stranger, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // binds and returns at once
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	script := filepath.Join(p.dir, "service")
	if err := os.WriteFile(script, []byte("#!/usr/bin/nosuch\n"), 0o700); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	p.settings = append(p.settings, allowLocal, "server.listen="+stranger.Addr().String(), "server.tls.cert="+cert, "server.tls.key="+key,
		"nodeUri=https://node8:8443/", "service.command=["+script+"]")
	text := p.examine(1, "--quick")
	text = strings.ReplaceAll(text, stranger.Addr().String(), "ADDRESS")
	text = regexp.MustCompile(`port \d+`).ReplaceAllString(text, "port N")
	text = regexp.MustCompile(`[^ ]+, pid \d+`).ReplaceAllString(text, "PROGRAM, pid N")
	text = regexp.MustCompile(`\d{4}-\d\d-\d\d`).ReplaceAllString(text, "DATE")
	p.golden("troubled-machine", about(text, "data directory", "secrets", "port", "certificate", "service"))
}

func TestDoctorWithEverythingOnTheSharedMount(t *testing.T) {
	t.Parallel()
	p := newPatient(t)
	p.faulty()
	plane := filepath.Join(p.store, "plane")
	p.mkdir(plane, 0o755)
	self, err := exec.LookPath("understudy")
	if err != nil {
		t.Fatal(err)
	}
	p.binary = filepath.Join(p.store, "understudy")
	b, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p.binary, b, 0o755); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	p.settings = append(p.settings, allowLocal, "persistenceDir="+plane, "dataDir="+filepath.Join(p.store, "data"), "service.command=["+p.binary+", version]")
	p.golden("on-the-mount", about(p.examine(1, "--quick"), "data directory", "binary", "service command"))
}

func TestDoctorWithoutRoot(t *testing.T) {
	t.Parallel()
	need.Root(t, "mount file systems")
	const nobody = 65534
	p := newPatient(t)
	data := filepath.Join(p.dir, "data")
	p.mkdir(data, 0o700)
	p.mkdir(filepath.Join(p.dir, "bin"), 0o755)
	self, err := exec.LookPath("understudy")
	if err != nil {
		t.Fatal(err)
	}
	p.binary = filepath.Join(p.dir, "bin", "understudy")
	if err := os.Link(self, p.binary); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chmod(p.binary, 0o755), os.Chown(p.store, nobody, nobody), os.Chown(data, nobody, nobody)); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	p.user = &syscall.Credential{Uid: nobody, Gid: nobody}
	p.settings = append(p.settings, allowLocal)
	p.golden("no-root", about(p.examine(0, "--quick"), "guard", "guard's memory", "data directory", "binary", "port"))

	// Somebody else's data directory: nothing can be said of the node, but the
	// rest is.
	if err := os.Chown(data, 0, 0); err != nil {
		t.Fatal(err)
	}
	p.golden("no-root-no-rights", about(p.examine(1, "--quick"), "node", "daemon", "data directory", "secrets", "port", "certificate"))
}

// Beside a live node: nothing is disturbed, the port is known to be its own,
// and the lock stays where it is. Not in parallel: its service's mount namespace
// would keep the other tests' file systems busy.
func TestDoctorBesideTheLiveNode(t *testing.T) {
	p := newPatient(t)
	address, err := freeAddress()
	if err != nil {
		t.Fatal(err)
	}
	p.settings = append(p.settings, allowLocal, "ha.preset=fast", "server.listen="+address, "service.drainDelay=0s")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	create := exec.CommandContext(ctx, p.binary, "init", "--location", p.store)
	if out, err := create.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var log bytes.Buffer
	node := p.command(ctx, "server")
	node.Stdout, node.Stderr = &log, &log
	node.Cancel = func() error { return node.Process.Signal(syscall.SIGTERM) }
	if err := node.Start(); err != nil {
		t.Fatal(err)
	}
	stop := func() error { cancel(); return node.Wait() }
	p.until("MASTER", func() bool {
		out, _ := p.command(ctx, "doctor", "--quick").Output()
		return regexp.MustCompile(`running, pid \d+, MASTER at term 1, with`).Match(out)
	})

	text := p.examine(0)
	for _, want := range []string{
		fmt.Sprintf("port                  %s is held by this node's own daemon, pid %d", address, node.Process.Pid),
		"plane ", "at term 1, held by",
		fmt.Sprintf("the daemon's, pid %d: enough files", node.Process.Pid),
		"not observed yet on this node",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("doctor does not say %q:\n%s", want, text)
		}
	}
	if err := stop(); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("the node ended: %v\n%s", err, &log)
	}
	if strings.Contains(log.String(), "ERROR") {
		t.Errorf("the node was disturbed:\n%s", &log)
	}

	// The stop was observed, and the port is free again.
	out := p.examine(0, "-o", "json")
	var report doctor.Report
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	said := map[string]string{}
	for _, f := range report.Findings {
		said[f.Name] = f.Detail
	}
	for name, want := range map[string]string{"stop time": "of 1 stops", "port": address + " is free", "daemon": "not running", "plane": "at term 1, released"} {
		if !strings.Contains(said[name], want) {
			t.Errorf("%s: %q, want %q", name, said[name], want)
		}
	}
	if !report.OK || report.Fails != 0 {
		t.Errorf("%+v", report)
	}
}

// until polls for an outcome.
func (p *patient) until(what string, done func() bool) {
	p.t.Helper()
	for end := time.Now().Add(time.Minute); !done(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			p.t.Fatalf("not within a minute: %s", what)
		}
	}
}
