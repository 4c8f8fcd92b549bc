package address

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/test/netns"
)

// Two machines on one segment want the same address: the second is told who has
// it, gets it once the first has let go, and both announcements are heard.
func TestTwoWantOneAddress(t *testing.T) {
	t.Parallel()
	netns.Need(t)
	for _, prefix := range []string{"10.77.0.100/24", "fd00:77::100/64"} {
		t.Run(prefix, func(t *testing.T) {
			t.Parallel()
			first, second := netns.New(t), netns.New(t)
			netns.Segment(t, first, second)
			f := Floating{Prefix: netip.MustParsePrefix(prefix), Interface: "eth0"}
			add := func(n *netns.Namespace) error {
				return n.Do(func() error { return f.Add(t.Context(), time.Minute) })
			}
			var mac, own net.HardwareAddr
			look := func(mac *net.HardwareAddr) func() error {
				return func() error {
					eth0, err := net.InterfaceByName("eth0")
					*mac = eth0.HardwareAddr
					return err
				}
			}
			if err := errors.Join(first.Do(look(&mac)), second.Do(look(&own))); err != nil {
				t.Fatal(err)
			}
			heard := hear(t, second, f)
			if err := add(first); err != nil {
				t.Fatal(err)
			}
			if got := heard(); !bytes.Equal(got, mac) {
				t.Errorf("the second machine heard an announcement of %s, want %s", got, mac)
			}
			err := add(second)
			var conflict *ConflictError
			if !errors.As(err, &conflict) || !bytes.Equal(conflict.MAC, mac) {
				t.Fatalf("the second machine: %v, want a conflict with %s", err, mac)
			}
			if out := second.IP("-o addr show dev eth0"); strings.Contains(out, f.Prefix.Addr().String()) {
				t.Errorf("it has the address nevertheless: %s", out)
			}
			if err := first.Do(f.Remove); err != nil {
				t.Fatal(err)
			}
			if err := first.Do(f.Remove); err != nil {
				t.Errorf("removed twice: %v", err)
			}
			if err := add(second); err != nil {
				t.Errorf("after the first let go: %v", err)
			}
			if err := add(second); err != nil {
				t.Errorf("added twice: %v", err)
			}
		})
	}
}

// hear listens on the namespace's eth0 for the next frame that says who has the
// address.
func hear(t *testing.T, n *netns.Namespace, f Floating) func() net.HardwareAddr {
	t.Helper()
	var w *wire
	err := n.Do(func() error {
		link, err := f.link()
		if err == nil {
			w, err = openWire(link, f.Prefix.Addr())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.close)
	answer := arpSender
	if f.Prefix.Addr().Is6() {
		answer = advertiser
	}
	return func() (from net.HardwareAddr) {
		if err := w.receive(time.Now().Add(10*time.Second), func(frame []byte) bool {
			from = bytes.Clone(answer(frame, f.Prefix.Addr()))
			return from != nil
		}); err != nil {
			t.Error(err)
		}
		return from
	}
}

// The kernel ends what nobody prolongs, and what is prolonged it keeps. What
// was removed does not come back by it.
func TestLifetime(t *testing.T) {
	t.Parallel()
	netns.Need(t)
	n, peer := netns.New(t), netns.New(t)
	netns.Segment(t, n, peer)
	f := Floating{Prefix: netip.MustParsePrefix("10.77.0.100/24"), Interface: "eth0"}
	there := func() bool { return strings.Contains(n.IP("-o addr show dev eth0"), "10.77.0.100/") }
	if err := n.Do(func() error { return f.Add(t.Context(), time.Second) }); err != nil {
		t.Fatal(err)
	}
	if err := n.Do(func() error { return f.Extend(3500 * time.Millisecond) }); err != nil {
		t.Fatal(err)
	}
	extended := time.Now()
	for there() {
		if time.Since(extended) > 20*time.Second {
			t.Fatal("the address outlives its lifetime")
		}
		time.Sleep(20 * time.Millisecond)
	}
	lasted := time.Since(extended)
	t.Logf("a lifetime of 3.5s, rounded up, ended after %v", lasted.Round(10*time.Millisecond))
	if lasted < 3*time.Second {
		t.Errorf("it ended after %v already", lasted)
	}
	if err := n.Do(func() error { return f.Extend(time.Minute) }); err != nil || there() {
		t.Errorf("prolonged when it was gone: %v, there: %t", err, there())
	}
}

func TestMissingInterface(t *testing.T) {
	t.Parallel()
	f := Floating{Prefix: netip.MustParsePrefix("10.77.0.100/24"), Interface: "nonesuch0"}
	if err := f.Remove(); err != nil {
		t.Errorf("Remove: %v, want nil: it is not there", err)
	}
	if err := f.Add(t.Context(), time.Second); err == nil || !strings.Contains(err.Error(), "ip link") {
		t.Errorf("Add: %v, want a remedy", err)
	}
}

// Frames of others, cut off frames and nonsense say nothing about the address.
func FuzzFrames(f *testing.F) {
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	v4, v6 := netip.MustParseAddr("10.0.0.5"), netip.MustParseAddr("fd00::5")
	f.Add(arp(arpReply, mac, v4, v4))
	f.Add(advertise(mac, v6))
	f.Add(solicit(mac, v6))
	f.Fuzz(func(t *testing.T, frame []byte) {
		if m := arpSender(frame, v4); m != nil && (len(m) != 6 || !bytes.Contains(frame, v4.AsSlice())) {
			t.Errorf("%x: %s", frame, m)
		}
		if m := advertiser(frame, v6); m != nil && (len(m) != 6 || !bytes.Contains(frame, v6.AsSlice())) {
			t.Errorf("%x: %s", frame, m)
		}
	})
}

func TestMainWords(t *testing.T) {
	t.Parallel()
	f := Floating{Prefix: netip.MustParsePrefix("10.77.0.100/24"), Interface: "nonesuch0"}
	argv := f.Argv(OpAdd, time.Second)
	var out bytes.Buffer
	if code := Main(argv[2:], &out); code != ExitFailed || !strings.Contains(out.String(), "nonesuch0") {
		t.Errorf("%v: %d, %q", argv, code, &out)
	}
	if code := Main(nil, &out); code != ExitUsage {
		t.Errorf("no arguments: %d", code)
	}
}
