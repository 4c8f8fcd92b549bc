package address

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The duplicate check: RFC 5227 takes up to 7 s over it, which nobody wants to
// wait for at a failover; on one network segment answers come within
// milliseconds. A machine that is slower is found by the announcements of both.
const (
	probes     = 3
	probeEvery = 60 * time.Millisecond
)

// wire sends and receives whole frames on one interface.
type wire struct {
	fd  int
	mac net.HardwareAddr
	to  unix.SockaddrLinklayer
}

// openWire opens the interface for frames of the address' family; nil for an
// interface without a MAC, such as lo or a tunnel: there is nobody to ask.
func openWire(link netlink.Link, of netip.Addr) (*wire, error) {
	mac := link.Attrs().HardwareAddr
	if len(mac) != 6 || link.Attrs().Flags&net.FlagLoopback != 0 {
		return nil, nil //nolint:nilnil // documented
	}
	kind := uint16(unix.ETH_P_ARP)
	if of.Is6() {
		kind = unix.ETH_P_IPV6
	}
	kind = kind<<8 | kind>>8 // network order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(kind))
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w; CAP_NET_RAW is needed", link.Attrs().Name, err)
	}
	w := &wire{fd: fd, mac: mac, to: unix.SockaddrLinklayer{Protocol: kind, Ifindex: link.Attrs().Index}}
	if err := unix.Bind(fd, &w.to); err != nil {
		w.close()
		return nil, fmt.Errorf("listen on %s: %w", link.Attrs().Name, err)
	}
	return w, nil
}

func (w *wire) close() { unix.Close(w.fd) }

func (w *wire) send(frame []byte) error { return unix.Sendto(w.fd, frame, 0, &w.to) }

// receive hands on each frame that arrives until the time is over or f is
// content.
func (w *wire) receive(until time.Time, f func(frame []byte) bool) error {
	buf := make([]byte, 2048)
	for {
		left := time.Until(until)
		if left <= 0 {
			return nil
		}
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(w.fd), Events: unix.POLLIN}}, int(left/time.Millisecond)+1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		n, _, err := unix.Recvfrom(w.fd, buf, 0)
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		case err != nil:
			return err
		case f(buf[:n]):
			return nil
		}
	}
}

// probe asks the network who has the address.
func (f Floating) probe(ctx context.Context, link netlink.Link) error {
	ip := f.Prefix.Addr()
	w, err := openWire(link, ip)
	if w == nil || err != nil {
		return err
	}
	defer w.close()
	question, answer := arp(arpRequest, w.mac, netip.IPv4Unspecified(), ip), arpSender
	if ip.Is6() {
		question, answer = solicit(w.mac, ip), advertiser
	}
	var owner net.HardwareAddr
	for range probes {
		if err := w.send(question); err != nil {
			return fmt.Errorf("ask %s for %s: %w", f.Interface, ip, err)
		}
		err := w.receive(time.Now().Add(probeEvery), func(frame []byte) bool {
			if mac := answer(frame, ip); mac != nil && mac.String() != w.mac.String() {
				owner = mac
			}
			return owner != nil
		})
		switch {
		case err != nil:
			return fmt.Errorf("listen on %s: %w", f.Interface, err)
		case owner != nil:
			return &ConflictError{Address: ip, MAC: append(net.HardwareAddr{}, owner...), Where: f.Interface}
		case ctx.Err() != nil:
			return ctx.Err()
		}
	}
	return nil
}

// announce tells the network once where the address is: gratuitous ARP in both
// forms, for there are devices that heed only one, or an unsolicited
// neighbour advertisement.
func (f Floating) announce(link netlink.Link) error {
	ip := f.Prefix.Addr()
	w, err := openWire(link, ip)
	if w == nil || err != nil {
		return err
	}
	defer w.close()
	frames := [][]byte{arp(arpRequest, w.mac, ip, ip), arp(arpReply, w.mac, ip, ip)}
	if ip.Is6() {
		frames = [][]byte{advertise(w.mac, ip)}
	}
	for _, frame := range frames {
		if err := w.send(frame); err != nil {
			return fmt.Errorf("announce %s: %w", f, err)
		}
	}
	return nil
}
