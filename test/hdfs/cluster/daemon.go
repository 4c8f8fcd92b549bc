package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

type kind string

const (
	nameNode    kind = "NameNode"
	journalNode kind = "JournalNode"
	dataNode    kind = "DataNode"
	kdcNode     kind = "KDC"
)

var classes = map[kind]string{
	nameNode:    "org.apache.hadoop.hdfs.server.namenode.NameNode",
	journalNode: "org.apache.hadoop.hdfs.qjournal.server.JournalNode",
	dataNode:    "org.apache.hadoop.hdfs.server.datanode.DataNode",
	kdcNode:     "org.apache.hadoop.minikdc.MiniKdc",
}

// opened are the packages of the JDK that Hadoop reaches into.
var opened = []string{
	"java.io", "java.lang", "java.lang.reflect", "java.math", "java.net", "java.text",
	"java.util", "java.util.concurrent", "java.util.zip", "sun.security.util", "sun.security.x509",
}

// Daemon is one JVM of the cluster.
type Daemon struct {
	Name string
	Kind kind
	RPC  int // ports
	HTTP int
	Data int      // DataNode only
	Args []string // of its program

	// Of the process that runs: how it is recognised later on.
	Pid   int
	Begun uint64 // in clock ticks since boot

	cmd  *exec.Cmd
	done chan struct{} // closed when it was reaped, by whoever started it
}

// command is a JVM of this cluster.
func (c *Cluster) command(ctx context.Context, conf, heap string, class string, args ...string) *exec.Cmd {
	argv := []string{"-Xmx" + heap, "-Xms32m", "-Xss512k", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.net.preferIPv4Stack=true", "-Daudit.file=" + c.auditPath(conf)}
	for _, p := range opened {
		argv = append(argv, "--add-opens=java.base/"+p+"=ALL-UNNAMED")
	}
	argv = append(argv, c.settings.JVM...)
	argv = append(argv, "-cp", c.confDir(conf)+":"+filepath.Join(c.lib, "*"), class)
	cmd := exec.CommandContext(ctx, "java", append(argv, args...)...)
	// HADOOP_USER_NAME would be taken for the servers' own user.
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + c.Dir, "LANG=C.UTF-8"}
	cmd.Dir = c.Dir
	return cmd
}

// launch starts a daemon, which outlives ctx.
func (c *Cluster) launch(ctx context.Context, d *Daemon) error {
	out, err := os.OpenFile(c.logPath(d), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644) //nolint:gosec // nothing secret
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := c.command(context.WithoutCancel(ctx), d.Name, "192m", classes[d.Kind], d.Args...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	started, done := make(chan error), make(chan struct{})
	go func() {
		if !c.detached { // it dies with this thread, hence with the test's process
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
		}
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // the state has it all
		}
		close(done)
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("start %s: %w", d.Name, err)
	}
	d.cmd, d.done, d.Pid = cmd, done, cmd.Process.Pid
	_, d.Begun = stat(d.Pid)
	return nil
}

// answers waits until the daemon's port takes connections.
func (c *Cluster) answers(ctx context.Context, d *Daemon) error {
	var dialer net.Dialer
	for {
		conn, err := dialer.DialContext(ctx, "tcp", address(d.RPC))
		if err == nil {
			return conn.Close()
		}
		if !d.Running() {
			return fmt.Errorf("%s has ended:\n%s", d.Name, c.Log(d))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s does not listen: %w\n%s", d.Name, ctx.Err(), c.Log(d))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Running reports whether the daemon's process is there.
func (d *Daemon) Running() bool {
	if d.Pid == 0 {
		return false
	}
	state, begun := stat(d.Pid)
	return begun == d.Begun && begun != 0 && state != 'Z'
}

// signal sends a signal to the daemon, and to nobody who has its pid by now.
func (d *Daemon) signal(sig syscall.Signal) error {
	if !d.Running() {
		return fmt.Errorf("%s does not run", d.Name)
	}
	fd, err := unix.PidfdOpen(d.Pid, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if !d.Running() { // it is this one that the descriptor stands for
		return fmt.Errorf("%s does not run", d.Name)
	}
	return unix.PidfdSendSignal(fd, sig, nil, 0)
}

// Hang stops the daemon's process: its port still takes connections, and
// nothing is answered.
func (d *Daemon) Hang() error { return d.signal(syscall.SIGSTOP) }

// Resume lets it go on.
func (d *Daemon) Resume() error { return d.signal(syscall.SIGCONT) }

// endWithin is how long a process may take to die of SIGKILL.
const endWithin = 15 * time.Second

// Kill ends it by SIGKILL and waits until it is gone.
func (d *Daemon) Kill() error {
	if !d.Running() {
		return nil
	}
	if err := d.signal(syscall.SIGKILL); err != nil && d.Running() {
		return err
	}
	for end := time.Now().Add(endWithin); d.Running(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			return fmt.Errorf("%s, pid %d, survives SIGKILL", d.Name, d.Pid)
		}
	}
	if d.done != nil {
		<-d.done
	}
	return nil
}

// stat is the state of a process and when it began; 0 if there is none.
func stat(pid int) (state byte, begun uint64) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0
	}
	_, rest, ok := bytes.Cut(b, []byte(") "))
	f := strings.Fields(string(rest))
	if !ok || len(f) < 20 {
		return 0, 0
	}
	begun, _ = strconv.ParseUint(f[19], 10, 64)
	return f[0][0], begun
}

// Log is the end of what a daemon has said.
func (c *Cluster) Log(d *Daemon) string {
	const most = 8 << 10
	b, err := os.ReadFile(c.logPath(d))
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-most):])
}

func (c *Cluster) logPath(d *Daemon) string { return filepath.Join(c.Dir, d.Name+".log") }

func (c *Cluster) auditPath(name string) string { return filepath.Join(c.Dir, name+".audit") }

func (c *Cluster) confDir(name string) string { return filepath.Join(c.Dir, "conf", name) }

var errNoPort = errors.New("no free port")

// freePorts finds ports beneath the range the kernel hands out, so that they
// are still free when a daemon is started again.
func freePorts(ctx context.Context, n int) ([]int, error) {
	var lc net.ListenConfig
	var ports []int
	for i := 0; i < 500 && len(ports) < n; i++ {
		port := 8000 + (os.Getpid()*53+int(time.Now().UnixNano()/1000)+i*7)%2000
		l, err := lc.Listen(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		defer l.Close() // held until all are found, so that none comes twice
		ports = append(ports, port)
	}
	if len(ports) < n {
		return nil, errNoPort
	}
	return ports, nil
}
