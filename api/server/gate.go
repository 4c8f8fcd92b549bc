package server

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/understudy-ha/understudy/pkg/lease"
)

// Role says what somebody may do. Each role may do what those before it may.
type Role int

const (
	// Open is what everybody may do, without a password.
	Open Role = iota
	// Viewer sees, and changes nothing.
	Viewer
	// Operator moves the mastership and handles the service.
	Operator
	// Admin also stops a node and has it reload its configuration.
	Admin
)

var roleNames = []string{"open", "viewer", "operator", "admin"}

func (r Role) String() string {
	if r < Open || r > Admin {
		return fmt.Sprintf("Role(%d)", int(r))
	}
	return roleNames[r]
}

// ParseRole reads the name of a role that a user can have.
func ParseRole(s string) (Role, error) {
	if i := slices.Index(roleNames, s); i > int(Open) {
		return Role(i), nil
	}
	return Open, fmt.Errorf("unknown role %q; write viewer, operator or admin", s)
}

// Gate says who is let in and as what. It is never changed: a reload makes
// another one. The zero value lets nobody in.
type Gate struct {
	// Users knows passwords; nil: nobody has one.
	Users Auth
	// Tokens are taken as Authorization: Bearer; nil: none are.
	Tokens *Tokens
	// Roles of users by name. nil: every user is Admin. Otherwise a user it
	// does not name is Viewer.
	Roles map[string]Role
	// Certificates are the roles of clients with a certificate that the TLS
	// configuration has verified, by a name in it: a SAN or the CN. Whoever it
	// does not name needs a password like anybody.
	Certificates map[string]Role
	// Allow lists the addresses that are answered at all; empty: every one.
	Allow []netip.Prefix
	// CloseHealth has health paths ask for a Viewer, too.
	CloseHealth bool
	// Rate is how many requests per second one address may send to paths that
	// are not open; twice as many at once. 0: any number.
	Rate int
	// Disabled lets everybody do everything, for development.
	Disabled bool
}

// caller is who sent a request.
type caller struct {
	user string // empty: nobody asked, or nobody known
	role Role
	// node is the node of this plane that the request came from, for itself or
	// forwarded; empty: it came from a client.
	node lease.NodeID
}

// admits reports whether the address is answered at all.
func (g *Gate) admits(addr netip.Addr) bool {
	return len(g.Allow) == 0 || slices.ContainsFunc(g.Allow, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// needs is the role that a route asks for here.
func (g *Gate) needs(rt route) Role {
	if rt.role == Open && rt.health && g.CloseHealth {
		return Viewer
	}
	return rt.role
}

func (g *Gate) roleOf(user string) Role {
	if g.Roles == nil {
		return Admin
	}
	if r, ok := g.Roles[user]; ok {
		return r
	}
	return Viewer
}

// byCertificate is the caller that a verified certificate names.
func (g *Gate) byCertificate(r *http.Request) (caller, bool) {
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 || len(g.Certificates) == 0 {
		return caller{}, false
	}
	for _, name := range certificateNames(r.TLS.PeerCertificates[0]) {
		if role, ok := g.Certificates[name]; ok {
			return caller{user: name, role: role}, true
		}
	}
	return caller{}, false
}

// certificateNames are what a certificate calls its owner, the SANs first.
func certificateNames(c *x509.Certificate) []string {
	names := slices.Concat(c.DNSNames, c.EmailAddresses)
	for _, u := range c.URIs {
		names = append(names, u.String())
	}
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	if c.Subject.CommonName != "" {
		names = append(names, c.Subject.CommonName)
	}
	return names
}

// authenticate finds out who is asking, or returns the refusal to send. What is
// remembered of somebody is looked up first, so that whoever tries passwords
// can delay newcomers from his own address, and nobody else.
func (s *server) authenticate(g *Gate, hr *http.Request, addr netip.Addr) (caller, *response) {
	if g.Disabled {
		return caller{role: Admin}, nil
	}
	if c, ok := g.byCertificate(hr); ok {
		return c, nil
	}
	if token, ok := bearer(hr); ok {
		return s.byToken(g, hr, addr, token)
	}
	user, password, ok := hr.BasicAuth()
	if !ok {
		return caller{}, unauthorized()
	}
	return s.byPassword(g, hr, addr, user, password)
}

func (s *server) byToken(g *Gate, hr *http.Request, addr netip.Addr, token string) (caller, *response) {
	if t, ok := g.Tokens.find(token, s.opt.Wall()); ok {
		return caller{user: "token:" + t.Name, role: t.Role}, nil
	}
	const anyToken = "\x00token" // no user's name
	if refused := s.delayed(addr, anyToken); refused != nil {
		return caller{}, refused
	}
	s.loginFailed(hr, addr, anyToken, "a token that is unknown, revoked or expired")
	return caller{}, unauthorized()
}

func (s *server) byPassword(g *Gate, hr *http.Request, addr netip.Addr, user, password string) (caller, *response) {
	if g.Users == nil {
		return caller{}, unauthorized()
	}
	known := caller{user: user, role: g.roleOf(user)}
	if g.Users.Known(user, password) {
		return known, nil
	}
	if refused := s.delayed(addr, user); refused != nil {
		return caller{}, refused
	}
	err := g.Users.Check(hr.Context(), user, password)
	switch {
	case err == nil:
		s.logins.succeeded(addr, user)
		return known, nil
	case errors.Is(err, ErrBusy), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		resp := failure(http.StatusServiceUnavailable, ErrBusy.Error(), "").with("Retry-After", "1")
		return caller{}, &resp
	}
	s.loginFailed(hr, addr, user, ErrUnauthorized.Error())
	return caller{}, unauthorized()
}

func bearer(r *http.Request) (string, bool) {
	scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " ")
	return strings.TrimSpace(token), ok && strings.EqualFold(scheme, "Bearer")
}

func unauthorized() *response {
	resp := text(http.StatusUnauthorized, "Authentication is required\n").
		with("WWW-Authenticate", `BASIC realm="understudy"`)
	return &resp
}

// denied refuses somebody who is known and may not do this.
func denied(c caller, needs Role) *response {
	resp := text(http.StatusForbidden, fmt.Sprintf("%s has the role %s; this needs %s\n", c.user, c.role, needs))
	return &resp
}
