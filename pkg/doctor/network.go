package doctor

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/understudy-ha/understudy/persistence"
)

// Port is what is judged of the listen address.
type Port struct {
	Address string // server.listen
	Daemon  int    // pid of this node's live daemon; 0: none
	Unknown bool   // whether a daemon of this node lives could not be found out
	Node    string // this node's id; empty before the first start
	// Answers asks whoever listens there for its node id; an error when it is
	// no node, or nobody.
	Answers func(ctx context.Context) (node string, err error)
	// Owner finds the process that listens on a port: empty when it can not be
	// told. See PortOwner.
	Owner func(port int) string
}

const portName = "port"

// Look tells whether the node can listen, or does. Only where no daemon of this
// node lives does it listen itself, for a moment.
func (p Port) Look(ctx context.Context) persistence.Finding {
	_, portText, err := net.SplitHostPort(p.Address)
	port, perr := strconv.Atoi(portText)
	switch {
	case err != nil || perr != nil:
		return fail(portName, "write e.g. server.listen: \":8443\"", "%q is not an address to listen on", p.Address)
	case port == 0:
		return ok(portName, "a free one is chosen at each start, because server.listen is %s", p.Address)
	case p.Daemon != 0:
		return p.held(ctx)
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", p.Address)
	switch {
	case err == nil:
		_ = l.Close()
		return ok(portName, "%s is free", p.Address)
	case errors.Is(err, syscall.EADDRINUSE):
		return p.taken(ctx, port)
	case errors.Is(err, syscall.EACCES):
		return fail(portName, "choose a port of 1024 or more in server.listen, or give the daemon CAP_NET_BIND_SERVICE", "this user may not listen on %s", p.Address)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fail(portName, "correct server.listen; \":"+portText+"\" is every address of this host", "%s is not an address of this host", p.Address)
	default:
		return fail(portName, "correct server.listen", "can not listen on %s: %v", p.Address, err)
	}
}

// held judges the port of a node whose daemon lives.
func (p Port) held(ctx context.Context) persistence.Finding {
	node, err := p.Answers(ctx)
	switch {
	case err != nil:
		return fail(portName, fmt.Sprintf("see its log; if server.listen was changed since it started, restart it. A daemon that hangs: kill -9 %d", p.Daemon),
			"the daemon runs (pid %d), but no node answers on %s: %v", p.Daemon, p.Address, err)
	case p.Node != "" && node != p.Node:
		return fail(portName, "give each node a port of its own in server.listen, and restart this one", "%s is answered by node %s, not by this one, %s", p.Address, node, p.Node)
	}
	return ok(portName, "%s is held by this node's own daemon, pid %d", p.Address, p.Daemon)
}

// taken judges a port that is in use although no daemon of this node lives.
func (p Port) taken(ctx context.Context, port int) persistence.Finding {
	who := p.Owner(port)
	if node, err := p.Answers(ctx); err == nil && node != "" {
		if p.Unknown {
			return warn(portName, "run doctor as root or as the user that runs the node", "%s is held by node %s; whether that is this machine's own can not be told by this user", p.Address, node)
		}
		if who != "" {
			who = " (" + who + ")"
		}
		return fail(portName, "give each node a port of its own in server.listen, and a dataDir", "%s is taken by another Understudy node, %s%s", p.Address, node, who)
	}
	if who == "" {
		who = "another program; root can see which: ss -ltnp 'sport = :" + strconv.Itoa(port) + "'"
	}
	return fail(portName, "stop that program, or choose another port in server.listen", "%s is taken by %s", p.Address, who)
}

// PortOwner finds which process listens on a TCP port, from /proc beneath
// root, as "nginx, pid 12"; empty when that can not be told with these rights.
func PortOwner(root string, port int) string {
	inodes := map[string]bool{}
	for _, table := range []string{"tcp", "tcp6"} {
		b, _ := os.ReadFile(filepath.Join(root, "proc/net", table))
		for l := range strings.Lines(string(b)) {
			f := strings.Fields(l)
			if len(f) > 9 && f[3] == "0A" && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", port)) {
				inodes["socket:["+f[9]+"]"] = true
			}
		}
	}
	links, _ := filepath.Glob(filepath.Join(root, "proc/[0-9]*/fd/*"))
	for _, l := range links {
		if to, err := os.Readlink(l); err == nil && inodes[to] {
			proc := filepath.Dir(filepath.Dir(l))
			return fmt.Sprintf("%s, pid %s", firstLine(filepath.Join(proc, "comm")), filepath.Base(proc))
		}
	}
	return ""
}

// Floating is what is judged of the floating address' interface.
type Floating struct {
	Address, Interface string
	Lacking            string // the rights that adding it needs and the daemon would not have; empty: none
	Find               func(name string) (*net.Interface, error)
}

// Look tells whether the address could be added to its interface, and be of use
// there.
func (f Floating) Look() persistence.Finding {
	const name = "floating address"
	i, err := f.Find(f.Interface)
	switch {
	case err != nil:
		return fail(name, "correct floatingIP.interface; ip link shows those there are", "interface %s: %v", f.Interface, opCause(err))
	case f.Lacking != "":
		return fail(name, "run the daemon as root, or give it both (AmbientCapabilities= in its unit)", "%s can not be added to %s without %s", f.Address, f.Interface, f.Lacking)
	case i.Flags&net.FlagUp == 0:
		return fail(name, "ip link set "+f.Interface+" up", "interface %s is down: nobody would reach %s", f.Interface, f.Address)
	case i.Flags&net.FlagLoopback != 0:
		return warn(name, "name the interface of the network that clients are in, in floatingIP.interface", "interface %s is this machine's own: nobody else would reach %s", f.Interface, f.Address)
	case i.Flags&net.FlagRunning == 0:
		return warn(name, "look after its cable, or the bridge or bond it belongs to", "interface %s is up and has no carrier", f.Interface)
	}
	return ok(name, "%s can be added to %s, which is up", f.Address, f.Interface)
}

// opCause is what the kernel said, without the words that package net adds.
func opCause(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}

// Address holds the port of a node's URI, as others are told it, against the
// one it listens on; no line when they agree.
func Address(uri *url.URL, listen string) []persistence.Finding {
	_, port, err := net.SplitHostPort(listen)
	told := uri.Port()
	if told == "" {
		told = map[string]string{"http": "80", "https": "443"}[uri.Scheme]
	}
	if err != nil || port == "0" || port == told {
		return nil
	}
	return []persistence.Finding{warn(portName, "correct nodeUri or server.listen, unless something forwards the one to the other",
		"others are told to reach this node at %s, but it listens on %s", uri, listen)}
}

// Certificate is what is judged of the certificate the node shows.
type Certificate struct {
	Cert, Key string // PEM files
	Own       bool   // made by the node itself on its first start
	Name      string // the host by which others address the node, from its URI
	Now       time.Time
	Hidden    bool   // the data directory is closed to this user, as is said elsewhere
	Served    []byte // DER of the certificate the live daemon shows; nil: not known
}

const (
	certName     = "certificate"
	expiryNotice = 30 * 24 * time.Hour
)

// Look judges the certificate: it is there and whole, valid today and for a
// while, names the node, and is the one that is served.
func (c Certificate) Look() []persistence.Finding {
	leaf, missing, f := c.read()
	if missing && c.Hidden {
		return nil
	}
	if missing {
		return []persistence.Finding{ok(certName, "none yet; the first start makes one, which clients must be told to trust")}
	}
	if leaf == nil {
		return []persistence.Finding{f}
	}
	var lines []persistence.Finding
	date := func(t time.Time) string { return t.UTC().Format("2006-01-02") }
	renew := "replace " + c.Cert + " and " + c.Key + " with renewed ones, and restart the node"
	if c.Own {
		renew = "remove " + c.Cert + " and " + c.Key + " and restart the node: it makes new ones, which clients must be told to trust"
	}
	switch left := leaf.NotAfter.Sub(c.Now); {
	case left <= 0:
		lines = append(lines, fail(certName, renew, "%s expired on %s: clients, proxies and other nodes refuse this one", c.Cert, date(leaf.NotAfter)))
	case c.Now.Before(leaf.NotBefore):
		lines = append(lines, fail(certName, "see whether this machine's time of day is right; otherwise wait, or use another certificate", "%s is valid only from %s", c.Cert, date(leaf.NotBefore)))
	case left < expiryNotice:
		lines = append(lines, warn(certName, renew, "%s expires on %s, in %d days", c.Cert, date(leaf.NotAfter), int(left.Hours()/24)))
	}
	if err := leaf.VerifyHostname(c.Name); err != nil && c.Name != "" {
		lines = append(lines, warn(certName, "use one of these names in nodeUri, or a certificate for "+c.Name+" in server.tls.cert and key",
			"%s is for %s, but the node is addressed as %s: clients that check names refuse it", c.Cert, names(leaf), c.Name))
	}
	if c.Served != nil && !bytes.Equal(c.Served, leaf.Raw) {
		lines = append(lines, warn(certName, "restart the node at a good moment: it reads the file at its start only", "%s was replaced, but the running daemon still shows the former one", c.Cert))
	}
	if len(lines) == 0 {
		lines = append(lines, ok(certName, "for %s, since %s, until %s", names(leaf), date(leaf.NotBefore), date(leaf.NotAfter)))
	}
	return lines
}

// read loads the leaf and holds it against its key.
func (c Certificate) read() (leaf *x509.Certificate, missing bool, f persistence.Finding) {
	restore := "restore both files, or name others in server.tls.cert and key"
	if c.Own {
		restore = "restore both files, or remove both to have new ones made, which clients must be told to trust"
	}
	b, err := os.ReadFile(c.Cert)
	if c.Own && (errors.Is(err, fs.ErrNotExist) || (c.Hidden && errors.Is(err, fs.ErrPermission))) {
		return nil, true, f
	}
	if err != nil {
		return nil, false, fail(certName, restore, "%s: %v", c.Cert, cause(err))
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, false, fail(certName, restore, "%s holds no certificate in PEM", c.Cert)
	}
	if leaf, err = x509.ParseCertificate(block.Bytes); err != nil {
		return nil, false, fail(certName, restore, "%s: %v", c.Cert, err)
	}
	if _, err := tls.LoadX509KeyPair(c.Cert, c.Key); err != nil && !errors.Is(err, fs.ErrPermission) {
		return nil, false, fail(certName, restore, "%s and %s are not a certificate and its key: %v", c.Cert, c.Key, cause(err))
	}
	return leaf, false, f
}

func names(c *x509.Certificate) string {
	n := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		n = append(n, ip.String())
	}
	if len(n) == 0 {
		return "no host"
	}
	return strings.Join(n, ", ")
}
