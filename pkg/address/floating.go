package address

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Floating is an address that moves from machine to machine: only the master's
// has it. Its methods speak with the kernel of the calling thread's network
// namespace, which may make them wait; they may be called twice.
type Floating struct {
	Prefix    netip.Prefix // the address itself and the length of its network
	Interface string
}

// ConflictError says that another machine answers for the address.
type ConflictError struct {
	Address netip.Addr
	MAC     net.HardwareAddr // who answered
	Where   string           // on which interface it was heard
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("%s is in use: %s answers for it on %s; it is not added here until that machine lets go of it (its own Understudy removes it at the end of its lease), so look there if this lasts",
		e.Address, e.MAC, e.Where)
}

func (f Floating) String() string { return f.Prefix.String() + " on " + f.Interface }

// Add sets the address for the given time unless it is there already, having
// asked the network whether anybody else has it, and announces it once. It
// fails with a *ConflictError when somebody has.
func (f Floating) Add(ctx context.Context, lifetime time.Duration) error {
	link, err := f.link()
	if err != nil {
		return err
	}
	if link.Attrs().Flags&net.FlagUp == 0 {
		return fmt.Errorf("floating address %s: the interface is down; bring it up: ip link set %s up", f, f.Interface)
	}
	there, err := f.on(link)
	if err != nil {
		return err
	}
	if !there {
		if err := f.probe(ctx, link); err != nil {
			return err
		}
	}
	if err := f.set(link, lifetime); err != nil {
		return err
	}
	return f.announce(link)
}

// Extend gives the address so much time from now, if it is there: it never
// brings back an address that was removed.
func (f Floating) Extend(lifetime time.Duration) error {
	link, err := f.link()
	if err != nil {
		return err
	}
	if there, err := f.on(link); err != nil || !there {
		return err
	}
	return f.set(link, lifetime)
}

// Remove takes the address away. That it is not there, or its interface is not,
// is what was wanted.
func (f Floating) Remove() error {
	link, err := f.link()
	if missing := (netlink.LinkNotFoundError{}); errors.As(err, &missing) {
		return nil
	}
	if err != nil {
		return err
	}
	err = netlink.AddrDel(link, f.addr(0))
	if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove the floating address %s: %w", f, err)
	}
	return nil
}

// The rhythm of announcements.
const (
	announcements = 5
	announceEvery = 200 * time.Millisecond
	announceAgain = 5 * time.Second
)

// Announce tells the network where the address is now, five times, and after
// five seconds five times again, for caches that missed it. It ends with ctx or
// when the address is no longer there.
func (f Floating) Announce(ctx context.Context) error {
	for i := range 2 * announcements {
		if i > 0 {
			wait := announceEvery
			if i == announcements {
				wait = announceAgain
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(wait):
			}
		}
		link, err := f.link()
		if err != nil {
			return err
		}
		if there, err := f.on(link); err != nil || !there {
			return err
		}
		if err := f.announce(link); err != nil {
			return err
		}
	}
	return nil
}

// Lacking says what of the rights to do all this the process is without, ""
// if it has them.
func Lacking() string {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&head, &data[0]); err != nil {
		return ""
	}
	var lack []string
	for _, c := range []struct {
		bit  uint
		name string
	}{{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN"}, {unix.CAP_NET_RAW, "CAP_NET_RAW"}} {
		if data[0].Effective&(1<<c.bit) == 0 {
			lack = append(lack, c.name)
		}
	}
	return strings.Join(lack, " and ")
}

func (f Floating) link() (netlink.Link, error) {
	link, err := netlink.LinkByName(f.Interface)
	if err != nil {
		return nil, fmt.Errorf("floating address %s: interface %s: %w; ip link shows those there are", f, f.Interface, err)
	}
	return link, nil
}

// on reports whether the interface has the address.
func (f Floating) on(link netlink.Link) (bool, error) {
	family := netlink.FAMILY_V4
	if f.Prefix.Addr().Is6() {
		family = netlink.FAMILY_V6
	}
	list, err := netlink.AddrList(link, family)
	if err != nil {
		return false, fmt.Errorf("addresses of %s: %w", f.Interface, err)
	}
	for _, a := range list {
		ones, _ := a.Mask.Size()
		if ip, ok := netip.AddrFromSlice(a.IP); ok && ip.Unmap() == f.Prefix.Addr() && ones == f.Prefix.Bits() {
			return true, nil
		}
	}
	return false, nil
}

// set adds the address or changes its lifetime.
func (f Floating) set(link netlink.Link, lifetime time.Duration) error {
	err := netlink.AddrReplace(link, f.addr(lifetime))
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("add the floating address %s: %w; run the daemon as root or give it CAP_NET_ADMIN and CAP_NET_RAW", f, err)
	case err != nil:
		return fmt.Errorf("add the floating address %s: %w", f, err)
	}
	return nil
}

// addr is the address for the kernel. Lifetimes are whole seconds there; they
// are rounded up, for the end of the right to serve is the guard's to keep.
func (f Floating) addr(lifetime time.Duration) *netlink.Addr {
	ip := f.Prefix.Addr()
	seconds := int(math.Ceil(lifetime.Seconds()))
	a := &netlink.Addr{
		IPNet:    &net.IPNet{IP: ip.AsSlice(), Mask: net.CIDRMask(f.Prefix.Bits(), ip.BitLen())},
		ValidLft: seconds, PreferedLft: seconds,
	}
	if ip.Is6() {
		a.Flags = unix.IFA_F_NODAD // the question was asked already, and quicker
	}
	return a
}
