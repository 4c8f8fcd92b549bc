package e2e_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/test/e2e/harness"
	"github.com/understudy-ha/understudy/test/netns"
)

// The floating address of these tests, and how much longer than the failover
// itself it may take to move: the question whether somebody has it, 0.18 s, two
// processes, and their share of a busy machine.
const (
	floatingIP   = "10.77.0.100"
	addressSlack = 500 * time.Millisecond
)

// segment is a plane whose nodes live in namespaces of their own, and a third
// machine that uses the address.
type segment struct {
	*harness.Plane
	t      *testing.T
	spaces map[*harness.Node]*netns.Namespace
	peer   *netns.Namespace
	macs   map[string]*harness.Node
	roles  map[*harness.Node]string // paths of the role files
	agents map[*harness.Node]string // addresses of the agent ports
}

func newSegment(t *testing.T) *segment {
	t.Helper()
	netns.Need(t)
	s := &segment{
		Plane: harness.NewPlane(t, harness.Options{Nodes: 2, Settings: harness.Preset("fast")}), t: t,
		spaces: map[*harness.Node]*netns.Namespace{}, macs: map[string]*harness.Node{},
		roles: map[*harness.Node]string{}, agents: map[*harness.Node]string{},
	}
	s.peer = netns.New(t)
	all := []*netns.Namespace{s.peer}
	for _, n := range s.Nodes {
		space := netns.New(t)
		all = append(all, space)
		s.spaces[n] = space
		n.Via = []string{"nsenter", "--net=" + space.Path(), "--"}
		n.Dial = space.Dial
		s.roles[n] = filepath.Join(s.Dir, n.Name+".role")
		s.agents[n] = fmt.Sprintf("127.0.0.1:%d", s.FreePort())
		n.Set("floatingIP.address", floatingIP+"/24")
		n.Set("floatingIP.interface", "eth0")
		n.Set("roleFile", s.roles[n])
		n.Set("server.agentListen", s.agents[n])
	}
	netns.Segment(t, all...)
	for n, space := range s.spaces {
		s.macs[mac(space)] = n
	}
	return s
}

func mac(n *netns.Namespace) string {
	f := strings.Fields(n.IP("-o link show eth0"))
	return f[slices.Index(f, "link/ether")+1]
}

func (s *segment) has(n *harness.Node) bool {
	return strings.Contains(s.spaces[n].IP("-o addr show dev eth0"), " "+floatingIP+"/")
}

func (s *segment) agent(n *harness.Node) string {
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Second)
	defer cancel()
	c, err := n.Dial(ctx, "tcp", s.agents[n])
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	b, _ := io.ReadAll(c)
	return string(b)
}

// waitTold waits until the address, the role files and the agent ports all say
// that the node is master and the other is not.
func (s *segment) waitTold(master, other *harness.Node, otherRuns bool) {
	s.t.Helper()
	said := func() string {
		role := func(n *harness.Node) string { b, _ := os.ReadFile(s.roles[n]); return strings.TrimSpace(string(b)) }
		line := fmt.Sprintf("address %t %t, role %s %s, agent %q", s.has(master), s.has(other), role(master), role(other), s.agent(master))
		if otherRuns {
			line += fmt.Sprintf(" %q", s.agent(other))
		}
		return line
	}
	want := `address true false, role 0 1, agent "up ready\n"`
	if otherRuns {
		want += ` "down\n"`
	}
	var got string
	if !harness.Poll(10*time.Second, func() bool { got = said(); return got == want }) {
		s.t.Fatalf("%s is master, but: %s", master.Name, got)
	}
}

// watcher is what the third machine sees of the address.
type watcher struct {
	mu     sync.Mutex
	pongs  []time.Time
	heard  []claim
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// claim is an ARP frame that says who has the address.
type claim struct {
	at        time.Time
	mac       string
	announced bool // to all, unasked
}

const watchEvery = 20 * time.Millisecond

// watch pings the address, and asks by ARP who has it, all the time.
func (s *segment) watch() *watcher {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.t.Context())
	w := &watcher{cancel: cancel}
	var ping net.PacketConn
	fd, index := -1, 0
	err := s.peer.Do(func() (err error) {
		var lc net.ListenConfig
		if ping, err = lc.ListenPacket(ctx, "ip4:icmp", "0.0.0.0"); err != nil {
			return err
		}
		eth0, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		index = eth0.Index
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(arpProtocol))
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	raw := &unix.SockaddrLinklayer{Protocol: arpProtocol, Ifindex: index}
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50000})
	if err := unix.Bind(fd, raw); err != nil {
		s.t.Fatal(err)
	}
	request := whoHas(mac(s.peer))
	w.wg.Go(func() {
		for n := uint16(1); ctx.Err() == nil; n++ {
			_, _ = ping.WriteTo(echo(n), &net.IPAddr{IP: net.ParseIP(floatingIP)}) // nobody there is what we look for
			_ = unix.Sendto(fd, request, 0, raw)
			time.Sleep(watchEvery)
		}
	})
	w.wg.Go(func() { w.readPings(ctx, ping) })
	w.wg.Go(func() { w.readARP(ctx, fd) })
	s.t.Cleanup(func() {
		w.cancel()
		w.wg.Wait()
		ping.Close()
		unix.Close(fd)
	})
	return w
}

func (w *watcher) readPings(ctx context.Context, ping net.PacketConn) {
	buf := make([]byte, 1500)
	for ctx.Err() == nil {
		_ = ping.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		n, from, err := ping.ReadFrom(buf)
		if err == nil && n >= 8 && buf[0] == 0 && from.String() == floatingIP {
			w.mu.Lock()
			w.pongs = append(w.pongs, time.Now())
			w.mu.Unlock()
		}
	}
}

func (w *watcher) readARP(ctx context.Context, fd int) {
	ip := net.ParseIP(floatingIP).To4()
	buf := make([]byte, 1500)
	for ctx.Err() == nil {
		n, from, err := unix.Recvfrom(fd, buf, 0)
		if l, ok := from.(*unix.SockaddrLinklayer); err != nil || n < 42 || !ok || l.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		if p := buf[14:n]; bytes.Equal(p[14:18], ip) {
			w.mu.Lock()
			w.heard = append(w.heard, claim{
				at: time.Now(), mac: net.HardwareAddr(p[8:14]).String(),
				announced: bytes.Equal(p[24:28], ip) && buf[0] == 0xff,
			})
			w.mu.Unlock()
		}
	}
}

// interruption is the longest time without an answer between at and the first
// answer after until.
func (w *watcher) interruption(at, until time.Time) (longest time.Duration, whole bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	last := at
	for _, p := range w.pongs {
		if p.Before(at) {
			continue
		}
		longest = max(longest, p.Sub(last))
		if last = p; p.After(until) {
			return longest, true
		}
	}
	return longest, false
}

// claims are when a machine first and last claimed the address since at.
func (w *watcher) claims(at time.Time, mac string) (first, last time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.heard {
		if c.mac != mac || c.at.Before(at) {
			continue
		}
		if first.IsZero() {
			first = c.at
		}
		last = c.at
	}
	return first, last
}

// owners are the machines that claimed the address since at, each named once
// for each time it followed another.
func (w *watcher) owners(at time.Time) (macs []string, announced map[string]int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	announced = map[string]int{}
	for _, c := range w.heard {
		if c.at.Before(at) {
			continue
		}
		if len(macs) == 0 || macs[len(macs)-1] != c.mac {
			macs = append(macs, c.mac)
		}
		if c.announced {
			announced[c.mac]++
		}
	}
	return macs, announced
}

const arpProtocol = uint16(unix.ETH_P_ARP>>8 | unix.ETH_P_ARP&0xff<<8)

// whoHas is the peer's question for the address.
func whoHas(self string) []byte {
	src, _ := net.ParseMAC(self)
	f := append(bytes.Repeat([]byte{0xff}, 6), src...)
	f = append(f, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1)
	f = append(f, src...)
	f = append(f, 10, 77, 0, 1, 0, 0, 0, 0, 0, 0)
	return append(f, net.ParseIP(floatingIP).To4()...)
}

func echo(n uint16) []byte {
	b := []byte{8, 0, 0, 0, 0x75, 0x73, 0, 0}
	binary.BigEndian.PutUint16(b[6:], n)
	binary.BigEndian.PutUint16(b[2:], ^(0x0800 + 0x7573 + n)) // never carries for small n
	return b
}

// The address goes where the service goes, is never answered for by two, and
// moves hardly later than the mastership; so do role file and agent port.
func TestFloatingAddress(t *testing.T) {
	s := newSegment(t) // not in parallel: it measures
	// A stranger has it: the master must not take it, and must say who.
	s.peer.IP("addr add " + floatingIP + "/24 dev eth0")
	s.Start()
	master := s.WaitSettled(30 * time.Second)
	stranger := mac(s.peer) + " answers for it"
	if !harness.Poll(10*time.Second, func() bool { return strings.Contains(master.Log(), stranger) }) {
		t.Fatalf("%s does not say that %s; its log:\n%s", master.Name, stranger, master.Log())
	}
	if s.has(master) {
		t.Errorf("%s has the address although another machine answers for it", master.Name)
	}
	s.peer.IP("addr del " + floatingIP + "/24 dev eth0")
	other := s.Standby(master)
	s.waitTold(master, other, true)

	w := s.watch()
	if !harness.Poll(10*time.Second, func() bool {
		_, ok := w.interruption(time.Now().Add(-time.Second), time.Now().Add(-time.Second))
		return ok
	}) {
		t.Fatal("nobody answers the ping")
	}
	// The daemon dies, its guard removes the address.
	s.move(w, "kill -9 of the daemon", master, other, 0, func() { master.Kill(harness.Daemon) })
	master.WaitGone(10 * time.Second)
	s.waitTold(other, master, false)
	master.Start()
	master.WaitStandby(20 * time.Second)
	// An orderly stop.
	s.move(w, "SIGTERM", other, master, 0, func() { other.Stop(20 * time.Second) })
	s.waitTold(master, other, false)
	other.Start()
	other.WaitStandby(20 * time.Second)
	// Nobody is left to remove it: the kernel does.
	s.move(w, "kill -9 of daemon and guard", master, other, 2*time.Second, func() { master.KillTree() })
	if s.has(master) {
		t.Errorf("%s has the address still", master.Name)
	}
	// What was left over from a dead run, for whatever reason, is removed when
	// the node is started.
	s.peer.IP("link set eth0 down") // it would hear both
	s.spaces[master].IP("addr add " + floatingIP + "/24 dev eth0")
	master.Start()
	master.WaitStandby(20 * time.Second)
	s.waitTold(other, master, true)
	rss := rssOf(t, other.Find(harness.Guard).Pid)
	harness.Note(t, fmt.Sprintf("the guard of a floating address: %.1f MiB RSS", float64(rss)/(1<<20)))
	if rss > footprintGuard {
		t.Errorf("the guard takes %d bytes of memory, want at most %d", rss, footprintGuard)
	}
}

// move makes the address move and judges how. From must let go of it before to
// is master, or so much later.
func (s *segment) move(w *watcher, what string, from, to *harness.Node, late time.Duration, how func()) {
	s.t.Helper()
	at := time.Now()
	done := make(chan time.Time, 1)
	go func() {
		if harness.Poll(30*time.Second, to.IsMaster) {
			done <- time.Now()
		}
		close(done)
	}()
	how()
	moved, ok := <-done
	if !ok {
		s.t.Fatalf("%s: %s is not master", what, to.Name)
	}
	macOf := func(n *harness.Node) string { return mac(s.spaces[n]) }
	var announced map[string]int
	var owners []string
	if !harness.Poll(20*time.Second, func() bool {
		owners, announced = w.owners(at)
		return announced[macOf(to)] >= 2*(1+5+5) // in two forms: once, five times, and five times after five seconds
	}) {
		s.t.Fatalf("%s: %s announced the address %d times", what, to.Name, announced[macOf(to)])
	}
	_, left := w.claims(at, macOf(from))
	taken, _ := w.claims(at, macOf(to))
	gap, whole := w.interruption(at, taken)
	failover := moved.Sub(at)
	s.t.Logf("%s: failover %v, interruption %v, %d announcements", what, failover.Round(time.Millisecond), gap.Round(time.Millisecond), announced[macOf(to)])
	if want := []string{macOf(from), macOf(to)}; !slices.Equal(owners, want) && !slices.Equal(owners, want[1:]) {
		s.t.Errorf("%s: the address was claimed by %v in turn, want %v", what, owners, want)
	}
	if held := left.Sub(moved); held > late {
		s.t.Errorf("%s: %s has the address for %v when %s is master already", what, from.Name, held, to.Name)
	}
	if !whole || gap > failover+addressSlack {
		s.t.Errorf("%s: no answer for %v, failover took %v", what, gap, failover)
	}
}
