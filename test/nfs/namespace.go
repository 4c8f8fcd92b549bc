package nfs

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// The lab's network: this machine is .1, the server .2, client n is .10+n.
const (
	network       = "10.77.0.0/24"
	hostAddress   = "10.77.0.1/24"
	serverAddress = "10.77.0.2"
)

// namespace is a network namespace and the one thread that lives in it. What
// that thread starts lives in it too, and is killed when the thread ends,
// which is with this process at the latest; then the namespace is gone.
type namespace struct{ calls chan func() }

func newNamespace() (*namespace, error) {
	ns := &namespace{calls: make(chan func())}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		ready <- unix.Unshare(unix.CLONE_NEWNET)
		for f := range ns.calls {
			f()
		}
	}()
	if err := <-ready; err != nil {
		ns.close()
		return nil, fmt.Errorf("make a network namespace: %w", err)
	}
	return ns, nil
}

func (ns *namespace) close() { close(ns.calls) }

// do runs f on the namespace's thread.
func (ns *namespace) do(f func() error) error {
	done := make(chan error)
	ns.calls <- func() { done <- f() }
	return <-done
}

// ip runs ip(8) in the namespace.
func (ns *namespace) ip(ctx context.Context, line string) error {
	return ns.do(func() error {
		if b, err := exec.CommandContext(ctx, "ip", strings.Fields(line)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", line, err, b)
		}
		return nil
	})
}

// bridge makes the switch that the machines' network devices join.
func (ns *namespace) bridge(ctx context.Context) error {
	for _, line := range []string{
		"link set lo up",
		"link add br0 type bridge",
		"addr add " + hostAddress + " dev br0",
		"link set br0 up",
	} {
		if err := ns.ip(ctx, line); err != nil {
			return err
		}
	}
	return nil
}

// plug makes the network device of a machine.
func (ns *namespace) plug(ctx context.Context, tap string) error {
	for _, line := range []string{
		"tuntap add dev " + tap + " mode tap",
		"link set " + tap + " master br0 up",
	} {
		if err := ns.ip(ctx, line); err != nil {
			return err
		}
	}
	return nil
}

// dial connects to an address of the namespace. A socket belongs for ever to
// the namespace of the thread that made it, so the connection can be used
// anywhere.
func (ns *namespace) dial(ctx context.Context, network, address string) (c net.Conn, err error) {
	err = ns.do(func() error {
		var d net.Dialer
		c, err = d.DialContext(ctx, network, address)
		return err
	})
	return c, err
}
