package nfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/test/nfs/wire"
)

// Dir is where clients mount the server's file system.
const Dir = wire.Mount + "/nfs"

// exportPath is what the server exports, by its own name for it.
const exportPath = "/export"

const (
	bootLimit  = time.Minute // 2 s on an idle machine
	buildLimit = 10 * time.Minute
	endLimit   = 15 * time.Second
	diskSize   = 256 << 20 // bytes, of a sparse file
)

// Lab is a server and its clients.
type Lab struct {
	Server  *Guest
	Clients []*Guest

	tb      testing.TB
	dir     string // everything of this lab
	image   string
	net     *namespace
	changes changes
	mounts  int // names on the server, so far
}

// Missing says why this machine can not run a lab, or is nil.
func Missing() error {
	if os.Geteuid() != 0 {
		return errors.New("network namespaces and taps need root; run the tests as root")
	}
	if _, err := os.Stat(filepath.Join(imageDir(), ".complete")); err != nil {
		return fmt.Errorf("%w; run test/nfs/fetch bin/nfs-image", err)
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		return fmt.Errorf("%w; run modprobe tun", err)
	}
	for _, tool := range []string{"ip", "unshare"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%w; on Debian: apt-get install iproute2 util-linux", err)
		}
	}
	return nil
}

// imageDir is what test/nfs/fetch unpacked: NFS_IMAGE, or that of the Makefile.
func imageDir() string {
	if dir := os.Getenv("NFS_IMAGE"); dir != "" {
		return dir
	}
	dir, err := filepath.Abs("../../bin/nfs-image")
	if err != nil {
		panic(err) // no working directory
	}
	return dir
}

// NewLab boots a server and so many clients, all at once. Close it.
func NewLab(tb testing.TB, clients int) *Lab {
	tb.Helper()
	dir, err := os.MkdirTemp(workDir(), "understudy-nfs-") //nolint:usetesting // in memory; a disk that stands still would pause all machines
	if err != nil {
		tb.Fatal(err)
	}
	l := &Lab{tb: tb, dir: dir, image: imageDir()}
	l.Server = newGuest(l, "server", serverAddress)
	for i := range clients {
		l.Clients = append(l.Clients, newGuest(l, fmt.Sprintf("client%d", i+1), fmt.Sprintf("10.77.0.%d", 11+i)))
	}
	if err := l.up(); err != nil {
		for _, g := range l.guests() {
			tb.Logf("console of %s:\n%s", g.Name, g.Console())
		}
		l.Close()
		tb.Fatal(err)
	}
	return l
}

// workDir is memory where it can be had, as machines keep theirs in a file.
func workDir() string {
	const shm = "/dev/shm"
	var fs unix.Statfs_t
	if err := unix.Statfs(shm, &fs); err != nil || fs.Type != unix.TMPFS_MAGIC || fs.Bavail*uint64(fs.Bsize) < 2<<30 || fs.Flags&unix.ST_NOEXEC != 0 {
		return ""
	}
	return shm
}

func (l *Lab) guests() []*Guest { return append([]*Guest{l.Server}, l.Clients...) }

func (l *Lab) up() error {
	ctx, cancel := context.WithTimeout(l.tb.Context(), buildLimit)
	defer cancel()
	if err := l.layOut(ctx); err != nil {
		return err
	}
	var err error
	if l.net, err = newNamespace(); err != nil {
		return err
	}
	if err := l.net.bridge(ctx); err != nil {
		return err
	}
	for _, g := range l.guests() {
		if err := errors.Join(l.net.plug(ctx, g.tap()), g.start()); err != nil {
			return err
		}
	}
	for _, g := range l.guests() {
		if err := g.connect(bootLimit); err != nil {
			return err
		}
	}
	return l.serve(false)
}

// serve has the server export its disk, again or for the first time.
func (l *Lab) serve(again bool) error {
	return l.Server.call("Guest.Serve", wire.Exports{
		Device: "/dev/ubda", Path: exportPath, To: network, Lease: 10 * time.Second, Again: again,
	}, &wire.Nothing{}, bootLimit)
}

// layOut builds the programs and makes the machines' root and the server's
// disk.
func (l *Lab) layOut(ctx context.Context) error {
	for _, dir := range []string{"proc", "sys", "dev", "tmp", "run", wire.Image, wire.Share, wire.Data, wire.Mount} {
		if err := os.MkdirAll(filepath.Join(l.root(), dir), 0o755); err != nil {
			return err
		}
	}
	if err := errors.Join(os.Mkdir(l.share(), 0o755), os.Mkdir(l.records(), 0o755)); err != nil {
		return err
	}
	const module = "github.com/understudy-ha/understudy"
	for pkg, out := range map[string]string{
		"/test/nfs/guest":     filepath.Join(l.root(), "init"),
		"/test/nfs/renewers":  filepath.Join(l.share(), "renewers"),
		"/test/e2e/recorder":  filepath.Join(l.share(), "recorder"),
		"/cmd/understudy":     filepath.Join(l.share(), "understudy"),
		"/persistence/posix.": filepath.Join(l.share(), "posix.test"),
	} {
		args := []string{"build", "-trimpath", "-o", out, module + pkg}
		if pkg == "/persistence/posix." {
			args = []string{"test", "-c", "-trimpath", "-o", out, module + "/persistence/posix"}
		}
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // as it is shipped; machines have no libraries
		if b, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("go %v: %w\n%s", args, err, b)
		}
	}
	disk, err := os.Create(l.disk())
	if err != nil {
		return err
	}
	return errors.Join(disk.Truncate(diskSize), disk.Close())
}

func (l *Lab) root() string  { return filepath.Join(l.dir, "root") }
func (l *Lab) share() string { return filepath.Join(l.dir, "share") }
func (l *Lab) disk() string  { return filepath.Join(l.dir, "disk") }

// Close ends all machines and removes everything. The test fails if it can
// not.
func (l *Lab) Close() {
	for _, g := range l.guests() {
		if g.Running() {
			g.Kill()
		}
	}
	if l.net != nil {
		l.net.close()
	}
	if os.Getenv("NFS_KEEP") == "1" {
		l.tb.Logf("kept: %s", l.dir)
		return
	}
	if err := os.RemoveAll(l.dir); err != nil {
		l.tb.Error(err)
	}
}

// Mount makes an empty directory on the server and mounts it at Dir on each
// client, hard, by version "3", "4.1" or "4.2", with further options or "".
// Clients that were killed are booted for it. It is unmounted at the end of
// the test. The name of the directory is returned.
func (l *Lab) Mount(tb testing.TB, version, options string) (name string) {
	tb.Helper()
	name = l.mkdir(tb)
	for _, g := range l.Clients {
		if !g.Running() {
			g.Boot(tb)
		}
		g.Mount(tb, name, version, options)
	}
	tb.Cleanup(func() {
		for _, g := range l.Clients {
			if g.Running() {
				g.Unmount(tb, unix.MNT_DETACH)
			}
		}
	})
	return name
}

// mkdir makes an empty directory on the server.
func (l *Lab) mkdir(tb testing.TB) (name string) {
	tb.Helper()
	l.mounts++
	name = fmt.Sprintf("dir%d", l.mounts)
	if res := l.Server.Run(tb, wire.Command{Args: []string{"busybox", "mkdir", wire.Image + exportPath + "/" + name}}); res.Code != 0 {
		tb.Fatal(res.Output)
	}
	return name
}

// Unplug takes the server's network cable out, at the switch's end; the
// returned function puts it back. (A tap that is down gives User Mode Linux
// errors that it never recovers from, and no cable does that.)
func (l *Lab) Unplug(tb testing.TB) (plug func()) {
	tb.Helper()
	set := func(to string) {
		if err := l.net.ip(context.Background(), "link set "+l.Server.tap()+" "+to); err != nil {
			tb.Error(err)
		}
	}
	set("nomaster")
	return func() { set("master br0") }
}
