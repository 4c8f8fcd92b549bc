package nfs

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/rpc"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/api/v1"
	"github.com/understudy-ha/understudy/test/e2e/intervals"
	"github.com/understudy-ha/understudy/test/nfs/wire"
)

// Guest is one machine. It outlives its boots: its disk, if it has one, stays.
type Guest struct {
	Name, Address string
	// Settings are further lines of the configuration of nodes that are started.
	Settings string

	lab *Lab

	http *http.Client

	mu        sync.Mutex // over what is of the latest boot
	cmd       *exec.Cmd
	done      chan struct{} // closed when it was reaped
	machine   *os.File      // a pidfd of the machine itself, which is cmd's child; nil until it is up
	rpc       *rpc.Client
	clock     offset
	collected chan error // the end of collect
}

func newGuest(l *Lab, name, address string) *Guest {
	g := &Guest{Name: name, Address: address, lab: l}
	g.http = &http.Client{
		Timeout: time.Second,
		Transport: &http.Transport{
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // self-signed, in a namespace of our own
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				return l.net.dial(ctx, network, address)
			},
		},
	}
	return g
}

func (g *Guest) tap() string     { return "tap-" + g.Name }
func (g *Guest) console() string { return filepath.Join(g.lab.dir, g.Name+".console") }

// Console is what the machine's kernel and first program have said.
func (g *Guest) Console() string {
	b, err := os.ReadFile(g.console())
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// start boots the machine and does not wait for it. It is the first process of
// its PID namespace: whatever it leaves behind the kernel kills with it. A
// process of a guest is a process of this machine between two system calls,
// and has been seen to go on as one, with our rights, after its kernel had
// ended.
func (g *Guest) start() error {
	out, err := os.OpenFile(g.console(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	args := []string{
		"-n", niceness, "unshare", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc",
		filepath.Join(g.lab.image, "usr/bin/linux.uml"),
		"mem=192M", "root=/dev/root", "rootfstype=hostfs", "rootflags=" + g.lab.root(), "ro", "init=/init",
		"con=null", "con0=null,fd:1", "quiet", "loglevel=3", "panic=-1",
		"umid=" + g.Name, "uml_dir=" + g.lab.dir + "/",
		"vec0:transport=tap,ifname=" + g.tap() + ",depth=64,gro=1",
		wire.EnvName + "=" + g.Name, wire.EnvAddress + "=" + g.Address + "/24",
		wire.EnvImage + "=" + g.lab.image, wire.EnvShare + "=" + g.lab.share(),
	}
	if g == g.lab.Server {
		args = append(args, "ubda="+g.lab.disk())
	}
	cmd := exec.Command("nice", args...) //nolint:noctx // Kill ends it
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + g.lab.dir, "TMPDIR=" + g.lab.dir}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := g.lab.net.do(cmd.Start); err != nil {
		return err
	}
	done := make(chan struct{})
	go func() {
		_ = cmd.Wait() // Running tells
		close(done)
	}()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.cmd, g.done = cmd, done
	return nil
}

// niceness is that of the machines. A page fault in there is a dozen switches
// between two processes here. Where each has to wait for its turn, starting a
// program takes seconds, and that would be all that the tests measure.
const niceness = "-10"

// connect waits until the machine's first program answers, and learns its
// clock.
func (g *Guest) connect(within time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	for {
		dctx, dcancel := context.WithTimeout(ctx, time.Second)
		c, err := g.lab.net.dial(dctx, "tcp", fmt.Sprintf("%s:%d", g.Address, wire.Port))
		dcancel()
		if err == nil {
			g.mu.Lock()
			g.rpc, g.clock = rpc.NewClient(c), offset{}
			g.mu.Unlock()
			break
		}
		if !g.Running() {
			return fmt.Errorf("%s ended instead of booting", g.Name)
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("%s did not boot within %v: %w", g.Name, within, err)
		}
	}
	for range 50 {
		if err := g.lookAtClock(); err != nil {
			return err
		}
	}
	g.mu.Lock()
	client, shift, collected := g.rpc, g.clock.ahead(), make(chan error, 1)
	g.collected = collected
	g.mu.Unlock()
	go func() { collected <- collect(client, shift, g.lab.records()) }()
	return g.find()
}

// find finds the machine among unshare's children, of which it is the only
// one.
func (g *Guest) find() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	parent, pid := g.cmd.Process.Pid, 0
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", parent, parent))
	if err != nil {
		return err
	}
	if n, err := fmt.Sscan(string(b), &pid); n != 1 {
		return fmt.Errorf("the process of %s: %w", g.Name, err)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("the process of %s: %w", g.Name, err)
	}
	g.machine = os.NewFile(uintptr(fd), "pidfd") //nolint:gosec // not negative
	// Where the kernel shares out time among sessions first, of which the
	// machine has made one of its own, it is that one's niceness that counts.
	err = os.WriteFile(fmt.Sprintf("/proc/%d/autogroup", pid), []byte(niceness), 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// Running reports whether the machine was started and has not ended.
func (g *Guest) Running() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.cmd == nil {
		return false
	}
	select {
	case <-g.done:
		return false
	default:
		return true
	}
}

// Boot starts a machine that was killed, with nothing in its memory.
func (g *Guest) Boot(tb testing.TB) {
	tb.Helper()
	if g.Running() {
		tb.Fatalf("%s runs already", g.Name)
	}
	if err := errors.Join(g.start(), g.connect(bootLimit)); err != nil {
		tb.Fatalf("%v\n%s", err, g.Console())
	}
}

// Kill ends the machine in the middle of whatever it does, as a power cut
// would. The instant is from before.
func (g *Guest) Kill() intervals.Instant {
	g.mu.Lock()
	cmd, done, machine, client, collected := g.cmd, g.done, g.machine, g.rpc, g.collected
	g.machine, g.rpc, g.collected = nil, nil, nil
	g.mu.Unlock()
	defer g.http.CloseIdleConnections()
	at := intervals.Now()
	_ = cmd.Process.Kill() // its child, the machine, gets the same from the kernel
	<-done
	if machine != nil {
		if err := gone(machine, endLimit); err != nil {
			g.lab.tb.Errorf("%s survives SIGKILL: %v", g.Name, err)
		}
	}
	if client != nil {
		_ = client.Close()
	}
	if collected != nil {
		if err := <-collected; err != nil {
			g.lab.tb.Errorf("the records of %s: %v", g.Name, err)
		}
	}
	return at
}

// gone waits for the end of the process of a pidfd, and closes that.
func gone(pidfd *os.File, within time.Duration) error {
	defer pidfd.Close()
	fds := []unix.PollFd{{Fd: int32(pidfd.Fd()), Events: unix.POLLIN}} //nolint:gosec // a small number
	for end := time.Now().Add(within); ; {
		n, err := unix.Poll(fds, int(time.Until(end).Milliseconds()))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return err
		case n == 0:
			return fmt.Errorf("it lives after %v", within)
		default:
			return nil
		}
	}
}

// Freeze stops the machine, its clock running on; the returned function
// continues it.
func (g *Guest) Freeze(tb testing.TB) (thaw func()) {
	tb.Helper()
	send := func(sig unix.Signal) {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.machine == nil {
			return // it was killed meanwhile
		}
		if err := unix.PidfdSendSignal(int(g.machine.Fd()), sig, nil, 0); err != nil {
			tb.Errorf("%v to %s: %v", sig, g.Name, err)
		}
	}
	send(unix.SIGSTOP)
	return func() { send(unix.SIGCONT) }
}

// call asks the machine's first program.
func (g *Guest) call(method string, args, reply any, within time.Duration) error {
	g.mu.Lock()
	client := g.rpc
	g.mu.Unlock()
	if client == nil {
		return fmt.Errorf("%s is not up", g.Name)
	}
	c := client.Go(method, args, reply, make(chan *rpc.Call, 1))
	select {
	case <-c.Done:
		if c.Error != nil {
			return fmt.Errorf("%s, %s: %w", g.Name, method, c.Error)
		}
		return nil
	case <-time.After(within):
		return fmt.Errorf("%s, %s: no answer within %v", g.Name, method, within)
	}
}

func (g *Guest) must(tb testing.TB, method string, args, reply any) {
	tb.Helper()
	if err := g.call(method, args, reply, time.Minute); err != nil {
		tb.Fatal(err)
	}
}

// Run runs a command on the machine, which takes at most c.Timeout.
func (g *Guest) Run(tb testing.TB, c wire.Command) wire.Result {
	tb.Helper()
	res, err := g.run(c)
	if err != nil {
		tb.Fatal(err)
	}
	return res
}

func (g *Guest) run(c wire.Command) (res wire.Result, err error) {
	err = g.call("Guest.Run", c, &res, max(c.Timeout, time.Minute)+endLimit)
	return res, err
}

// Start starts a command on the machine and returns its pid there.
func (g *Guest) Start(tb testing.TB, c wire.Command) (pid int) {
	tb.Helper()
	g.must(tb, "Guest.Start", c, &pid)
	return pid
}

// Signal signals a process of Start.
func (g *Guest) Signal(tb testing.TB, pid int, sig unix.Signal) {
	tb.Helper()
	g.must(tb, "Guest.Signal", wire.Signal{Pid: pid, Signal: int(sig)}, &wire.Nothing{})
}

// Alive reports whether a process of Start has not ended.
func (g *Guest) Alive(tb testing.TB, pid int) (alive bool) {
	tb.Helper()
	g.must(tb, "Guest.Alive", pid, &alive)
	return alive
}

// WriteFile writes a file in the machine's memory.
func (g *Guest) WriteFile(tb testing.TB, path string, content []byte) {
	tb.Helper()
	g.must(tb, "Guest.Write", wire.TailResult{News: map[string][]byte{path: content}}, &wire.Nothing{})
}

// Load inserts a kernel module of the machine.
func (g *Guest) Load(tb testing.TB, module string) {
	tb.Helper()
	g.must(tb, "Guest.Load", module, &wire.Nothing{})
}

// resetLine is what softdog says last.
const resetLine = "softdog: Initiating system reboot"

// Resets counts how often softdog has reset the machine, by its console.
func (g *Guest) Resets() int { return strings.Count(g.Console(), resetLine) }

// Mount mounts the server's directory name at Dir, see Lab.Mount.
func (g *Guest) Mount(tb testing.TB, name, version, options string) {
	tb.Helper()
	m := wire.MountArgs{Source: serverAddress + ":" + exportPath + "/" + name, Target: Dir, Type: "nfs"}
	o := []string{"vers=" + version, "addr=" + serverAddress, "proto=tcp", "hard"}
	if strings.HasPrefix(version, "4") {
		m.Type, m.Source = "nfs4", serverAddress+":/"+name // the export is the root of what version 4 shows
		o = append(o, "clientaddr="+g.Address)
	} else {
		o = append(o, "nolock", "mountaddr="+serverAddress, "mountport=20048", "mountproto=tcp")
	}
	if options != "" {
		o = append(o, options)
	}
	m.Options = strings.Join(o, ",")
	g.must(tb, "Guest.Mount", m, &wire.Nothing{})
}

// Unmount unmounts Dir; flags are those of umount2(2).
func (g *Guest) Unmount(tb testing.TB, flags int) {
	tb.Helper()
	g.must(tb, "Guest.Unmount", wire.MountArgs{Target: Dir, Flags: flags}, &wire.Nothing{})
}

// Get asks a node of this machine for a path, as its user ("user:password"), or
// nobody. The body is for v, unless that is nil.
func (g *Guest) Get(path, as string, v any) (code int, state v1.State, err error) {
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "https://"+net.JoinHostPort(g.Address, "8443")+path, http.NoBody)
	if err != nil {
		return 0, "", err
	}
	if user, password, ok := strings.Cut(as, ":"); ok {
		req.SetBasicAuth(user, password)
	}
	res, err := g.http.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	if v != nil && res.StatusCode == http.StatusOK {
		err = json.NewDecoder(res.Body).Decode(v)
	}
	return res.StatusCode, v1.State(res.Header.Get(v1.HeaderState)), err
}
