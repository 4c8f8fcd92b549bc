// Package netns gives tests network namespaces of their own, which need root
// and vanish with the test's process at the latest.
package netns

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/test/need"
)

// Namespace is a network namespace and the one thread that lives in it.
type Namespace struct {
	tb    testing.TB
	tid   int
	calls chan func()
}

// New makes a namespace with nothing in it but lo, which is up.
func New(tb testing.TB) *Namespace {
	tb.Helper()
	n := &Namespace{tb: tb, calls: make(chan func())}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		n.tid = unix.Gettid()
		ready <- unix.Unshare(unix.CLONE_NEWNET)
		for f := range n.calls {
			f()
		}
	}()
	tb.Cleanup(func() { close(n.calls) })
	if err := <-ready; err != nil {
		tb.Fatalf("make a network namespace: %v", err)
	}
	n.IP("link set lo up")
	return n
}

// Need skips a test that may make no namespaces, unless CI is to run all.
func Need(tb testing.TB) {
	tb.Helper()
	need.Root(tb, "make network namespaces")
}

// Path is the namespace as a file, for nsenter(1) and ip(8).
func (n *Namespace) Path() string {
	return fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), n.tid)
}

// Do runs f on the namespace's thread. What f opens and starts belongs to the
// namespace wherever it is used.
func (n *Namespace) Do(f func() error) error {
	done := make(chan error)
	n.calls <- func() { done <- f() }
	return <-done
}

// IP runs ip(8) in the namespace and returns its output.
func (n *Namespace) IP(line string) string {
	n.tb.Helper()
	var out []byte
	err := n.Do(func() (err error) {
		out, err = exec.CommandContext(context.Background(), "ip", strings.Fields(line)...).CombinedOutput()
		return err
	})
	if err != nil {
		n.tb.Fatalf("ip %s: %v: %s", line, err, out)
	}
	return string(out)
}

// Dial connects from within the namespace.
func (n *Namespace) Dial(ctx context.Context, network, address string) (c net.Conn, err error) {
	err = n.Do(func() error {
		var d net.Dialer
		c, err = d.DialContext(ctx, network, address)
		return err
	})
	return c, err
}

// Segment joins namespaces by a bridge in another: each gets eth0 with the
// address 10.77.0.i/24, i counting from 1, and no IPv6 address of its own.
func Segment(tb testing.TB, members ...*Namespace) {
	tb.Helper()
	hub := New(tb)
	hub.IP("link add br0 type bridge")
	hub.IP("link set br0 up")
	for i, m := range members {
		hub.IP(fmt.Sprintf("link add port%d type veth peer name eth0 netns %s", i, m.Path()))
		hub.IP(fmt.Sprintf("link set port%d master br0 up", i))
		m.IP(fmt.Sprintf("addr add 10.77.0.%d/24 dev eth0", i+1))
		m.IP("link set eth0 up")
	}
}
