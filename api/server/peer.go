package server

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"

	"github.com/understudy-ha/understudy/api/v1"
	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// What LoadOrCreatePeer makes in dataDir.
const (
	peerCertificateFile = "peer.crt"
	peerKeyFile         = "peer.key"
)

// peerProtocol is offered in the TLS handshake by a node that wants to be known
// as one. Only then does a server ask for a certificate, and shows its own as a
// node: browsers are not asked for one, and what an operator configured for
// clients plays no part.
const peerProtocol = "understudy-peer"

// Peer is what nodes of a plane know one another by: a key of each node's own.
// Its pin stands in the node's record on the shared store, which is the one
// thing that all nodes have in common and trust. So nothing is to be configured
// or handed round, whoever can only read the store learns nothing that he could
// use, and a connection between two nodes is sure at both ends whatever
// certificates clients see.
type Peer struct {
	cert tls.Certificate
	pin  string
}

// LoadOrCreatePeer returns the node's key, which it makes on the first start and
// keeps in dataDir: peer.key (mode 0600) and peer.crt. Files that can not be
// used are an error that names them and the remedy.
func LoadOrCreatePeer(dataDir string) (*Peer, error) {
	cert, err := loadOrCreateCertificate(filepath.Join(dataDir, peerCertificateFile), filepath.Join(dataDir, peerKeyFile), []string{"understudy-peer"})
	if err != nil {
		return nil, err
	}
	return &Peer{cert: cert, pin: pinOf(cert.Leaf.RawSubjectPublicKeyInfo)}, nil
}

// Pin is what others know the node's key by: its SHA-256. Public.
func (p *Peer) Pin() string { return p.pin }

func pinOf(publicKey []byte) string {
	sum := sha256.Sum256(publicKey)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// shownPin is the pin of what the other side of a connection showed; empty if
// that is nothing.
func shownPin(s *tls.ConnectionState) string {
	if s == nil || len(s.PeerCertificates) == 0 {
		return ""
	}
	return pinOf(s.PeerCertificates[0].RawSubjectPublicKeyInfo)
}

// Dial is how to reach the node that has the pin, and no other, as this one.
// With an empty pin whoever answers will do: for what carries nothing and
// grants nothing.
func (p *Peer) Dial(pin string) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		Certificates:       []tls.Certificate{p.cert},
		NextProtos:         []string{"http/1.1", peerProtocol},
		InsecureSkipVerify: true, //nolint:gosec // a pin is compared instead of names and authorities
		VerifyConnection: func(s tls.ConnectionState) error {
			if got := shownPin(&s); pin != "" && got != pin {
				return &pinError{got, pin}
			}
			return nil
		},
	}
}

// pinError is of a connection that led to somebody else. Nothing was sent.
type pinError struct{ got, want string }

func (e *pinError) Error() string {
	return fmt.Sprintf("whoever answers there is not the node that was meant (its key is %.8s…, not %.8s…): nodeUri must lead to the node itself, with nothing in between that ends TLS", e.got, e.want)
}

// Accept lets other nodes prove who they are on a listener that is otherwise as
// conf says.
func (p *Peer) Accept(conf *tls.Config) *tls.Config {
	nodes := &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{p.cert},
		NextProtos:   []string{"http/1.1"},
		ClientAuth:   tls.RequireAnyClientCert, // whose it is, the request's handler finds out
		// No ticket of such a connection is worth anything elsewhere.
		SessionTicketsDisabled: true,
	}
	out := conf.Clone()
	out.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if slices.Contains(hello.SupportedProtos, peerProtocol) {
			return nodes, nil
		}
		if conf.GetConfigForClient != nil {
			return conf.GetConfigForClient(hello)
		}
		return nil, nil //nolint:nilnil // as it is documented: conf then
	}
	return out
}

// byPeer is the caller of a connection that another node of this plane has
// opened: the node itself, which may do what it could have asked for on the
// shared store, or the user it forwards a request for. It is nobody where the
// key is that of no node this one knows.
func (s *server) byPeer(rt route, hr *http.Request) (caller, bool) {
	node := s.peerOf(hr)
	if node == "" {
		return caller{}, false
	}
	word := hr.Header.Get(v1.HeaderForwarded)
	if word == "" {
		return caller{user: "node:" + string(node), role: Operator, node: node}, true
	}
	c, ok := vouched(word)
	c.node = node
	// Nobody vouches where nothing is ever forwarded.
	return c, ok && rt.forwarded(hr.Method)
}

// peerOf is the node whose key the connection's other side has proven to hold;
// empty if that is none. What certificates an authority has signed is a matter
// of Gate.Certificates.
func (s *server) peerOf(hr *http.Request) lease.NodeID {
	if hr.TLS == nil || len(hr.TLS.VerifiedChains) > 0 {
		return ""
	}
	pin := shownPin(hr.TLS)
	if pin == "" {
		return ""
	}
	return keeperOf(pin, s.node.Status())
}

// keeperOf is the node whose record has the pin. A silent node counts: a former
// master that is asked to step down may have read no record for a while. One
// that was forgotten does not.
func keeperOf(pin string, st *ha.Status) lease.NodeID {
	for id, n := range st.Nodes {
		if id != st.Node && n.Key == pin && !n.Removed {
			return id
		}
	}
	return ""
}

// vouch says whom a request is forwarded for.
func vouch(c caller) string {
	return url.Values{"user": {c.user}, "role": {c.role.String()}}.Encode()
}

// vouched reads what vouch wrote. A node that lets everybody in vouches for
// nobody.
func vouched(word string) (caller, bool) {
	v, err := url.ParseQuery(word)
	if err != nil {
		return caller{}, false
	}
	role, err := ParseRole(v.Get("role"))
	if err != nil || v.Get("user") == "" {
		return caller{}, false
	}
	return caller{user: v.Get("user"), role: role}, true
}
