package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/understudy-ha/understudy/api/server"
	"github.com/understudy-ha/understudy/pkg/config"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// access is who may use REST, and by which certificate. It is made at start,
// and again when the configuration is reloaded or one of its files changes.
type access struct {
	mu   sync.Mutex // one change at a time
	cfg  atomic.Pointer[config.Config]
	gate atomic.Pointer[server.Gate]
	tls  atomic.Pointer[tls.Config] // nil: plain HTTP
	peer *server.Peer               // what other nodes know this one by; nil: plain HTTP
}

// prepareAccess is the first time, when what is missing is made: a certificate,
// a user. host is this machine's name.
func (d *daemon) prepareAccess(host string) error {
	c := d.cfg
	d.access.cfg.Store(c)
	if t := c.Server.TLS; t.Cert == "" && !t.Disabled {
		_, digest, err := server.LoadOrCreateCertificate(c.DataDir, []string{host, "localhost", "127.0.0.1", "::1"})
		if err != nil {
			return err
		}
		d.log.Info("certificate", zap.String("sha256", digest))
	}
	if !c.Server.TLS.Disabled {
		var err error
		if d.access.peer, err = server.LoadOrCreatePeer(c.DataDir); err != nil {
			return err
		}
	}
	if a := c.Server.Auth; a.Htpasswd == "" && a.User == "" && !a.Disabled && !d.noUsers {
		if err := d.makeUser(); err != nil {
			return err
		}
	}
	return d.loadAccess(c)
}

// makeUser makes the first user, unless there is one, and says so once.
func (d *daemon) makeUser() error {
	_, fresh, err := server.GenerateCredentials(d.cfg.DataDir)
	if err != nil || fresh == nil {
		return err
	}
	if err := keepLocalCredentials(d.cfg.DataDir, fresh.User, fresh.Password); err != nil {
		d.log.Warn("commands on this host will need --user and --password-file", zap.Error(err))
	}
	fmt.Fprintf(os.Stderr, "A user was made for REST and is shown this once: %s:%s\n", fresh.User, fresh.Password)
	return nil
}

// loadAccess reads everything the configuration names and, if all of it is
// good, lets it take effect.
func (d *daemon) loadAccess(c *config.Config) error {
	gate, err := d.loadGate(c)
	if err != nil {
		return err
	}
	t, err := loadTLS(c)
	if err != nil {
		return err
	}
	d.access.gate.Store(gate)
	d.access.tls.Store(t)
	d.access.cfg.Store(c)
	return nil
}

func (d *daemon) loadGate(c *config.Config) (*server.Gate, error) {
	a := c.Server.Auth
	g := &server.Gate{
		Allow: c.Server.AllowedNetworks(), Rate: c.Server.RateLimit,
		CloseHealth: a.Health == "closed", Disabled: a.Disabled && !d.noUsers,
	}
	if g.Disabled || d.noUsers {
		return g, nil
	}
	users, err := loadUsers(c)
	if err != nil {
		return nil, err
	}
	g.Users = users
	if g.Tokens, err = server.LoadTokens(c.TokensFile()); err != nil {
		return nil, err
	}
	if g.Roles, err = roles(a.Roles); err != nil {
		return nil, err
	}
	if g.Certificates, err = roles(a.Certificates); err != nil {
		return nil, err
	}
	for name := range g.Roles {
		if !users.Has(name) {
			d.log.Warn("server.auth.roles names a user that there is not", zap.String("user", name))
		}
	}
	return g, nil
}

func loadUsers(c *config.Config) (*server.HTPasswd, error) {
	switch a := c.Server.Auth; {
	case a.Htpasswd != "":
		return server.LoadHTPasswd(a.Htpasswd)
	case a.User != "":
		return passwordAuth(a)
	}
	return server.LoadHTPasswd(filepath.Join(c.DataDir, server.HTPasswdFile))
}

// roles reads what Validate has passed; nil stays nil, which means something.
func roles(words map[string]string) (map[string]server.Role, error) {
	if len(words) == 0 {
		return nil, nil
	}
	out := map[string]server.Role{}
	for name, word := range words {
		r, err := server.ParseRole(word)
		if err != nil {
			return nil, err
		}
		out[name] = r
	}
	return out, nil
}

// loadTLS is nil for plain HTTP.
func loadTLS(c *config.Config) (*tls.Config, error) {
	t := c.Server.TLS
	if t.Disabled {
		return nil, nil
	}
	crt, key := certificateFiles(c)
	cert, err := tls.LoadX509KeyPair(crt, key)
	if err != nil {
		return nil, fmt.Errorf("server.tls: %s and %s are not a certificate and its key: %w; name two PEM files, or neither for a certificate of this node's own", crt, key, err)
	}
	conf := server.TLSConfig(cert)
	if t.ClientCA != "" {
		b, err := os.ReadFile(t.ClientCA)
		if err != nil {
			return nil, fmt.Errorf("server.tls.clientCA: %w", err)
		}
		conf.ClientCAs = x509.NewCertPool()
		if !conf.ClientCAs.AppendCertsFromPEM(b) {
			return nil, fmt.Errorf("server.tls.clientCA: %s holds no certificate in PEM", t.ClientCA)
		}
		conf.ClientAuth = tls.VerifyClientCertIfGiven
	}
	return conf, nil
}

func certificateFiles(c *config.Config) (crt, key string) {
	if t := c.Server.TLS; t.Cert != "" {
		return t.Cert, t.Key
	}
	return filepath.Join(c.DataDir, server.CertificateFile), filepath.Join(c.DataDir, server.KeyFile)
}

// tlsConfig is what Serve gets: nil for plain HTTP.
func (d *daemon) tlsConfig() *tls.Config {
	if d.access.tls.Load() == nil {
		return nil
	}
	return d.access.peer.Accept(server.Renewable(d.access.tls.Load))
}

// pin is what other nodes know this one by; empty with plain HTTP.
func (d *daemon) pin() string {
	if d.access.peer == nil {
		return ""
	}
	return d.access.peer.Pin()
}

// dialNode is how to prove to the node of the plane that it is this one who
// asks; nil where one of them has nothing to do that with.
func (d *daemon) dialNode(id lease.NodeID) *tls.Config {
	if d.access.peer == nil || d.status == nil {
		return nil
	}
	key := d.status().Nodes[id].Key
	if key == "" {
		return nil
	}
	return d.access.peer.Dial(key)
}

// sayAccess tells the operator, at start, who may come in.
func (d *daemon) sayAccess() {
	c := d.cfg.Server
	who := "users of " + filepath.Join(d.cfg.DataDir, server.HTPasswdFile)
	switch {
	case d.noUsers:
		who = "nobody; health paths answer"
	case c.Auth.Disabled:
		who = "EVERYBODY, without a password"
	case c.Auth.Htpasswd != "":
		who = "users of " + c.Auth.Htpasswd
	case c.Auth.User != "":
		who = "user " + c.Auth.User
	}
	log := d.log.Info
	if c.Auth.Disabled && !d.noUsers {
		log = d.log.Warn
	}
	log("REST", zap.String("listen", d.listener.Addr().String()), zap.Bool("tls", !c.TLS.Disabled),
		zap.String("open to", who), zap.String("health", c.Auth.Health))
}

// errNotAgain is of a node whose configuration can not be read a second time.
var errNotAgain = errors.New("this node's configuration is no file that could be read again; restart it")

// reload reads the configuration again and takes over what can be: either all
// of that or, with an error, nothing.
func (d *daemon) reload(context.Context) (restart []string, err error) {
	if d.reread == nil {
		return nil, errNotAgain
	}
	next, warn, err := d.reread()
	for _, w := range warn {
		d.log.Warn("reload", zap.String("warning", w))
	}
	if err != nil {
		return nil, err
	}
	d.access.mu.Lock()
	defer d.access.mu.Unlock()
	merged, changed, restart := d.access.cfg.Load().Reload(next)
	level, err := zapcore.ParseLevel(merged.Log.Level)
	if err != nil {
		return nil, err
	}
	if err := d.loadAccess(merged); err != nil {
		return nil, err
	}
	d.level.SetLevel(level)
	d.log.Info("reloaded", zap.Strings("changed", changed), zap.Strings("need a restart", restart))
	return restart, nil
}

// onHangUp is reload for SIGHUP, which nobody waits for.
func (d *daemon) onHangUp() {
	if _, err := d.reload(context.Background()); err != nil {
		d.log.Error("SIGHUP: nothing was reloaded", zap.Error(err))
	}
}

// accessPoll is how often the files of users, tokens and certificates are
// looked at. They are on a local disk.
const accessPoll = time.Second

// watchAccess takes over those files when they change: a renewed certificate, a
// new password, a revoked token.
func (d *daemon) watchAccess(ctx context.Context) {
	tick := time.NewTicker(accessPoll)
	defer tick.Stop()
	seen := stamps(d.access.cfg.Load())
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		d.access.mu.Lock()
		c := d.access.cfg.Load()
		if now := stamps(c); now != seen {
			seen = now
			if err := d.loadAccess(c); err != nil {
				d.log.Error("changed files of server.tls or server.auth are not taken over; the former ones stay in effect", zap.Error(err))
			} else {
				d.log.Info("users, tokens and certificate were read again")
			}
		}
		d.access.mu.Unlock()
	}
}

// stamps says, in a word, which files there are and when they changed.
func stamps(c *config.Config) string {
	crt, key := certificateFiles(c)
	a := c.Server.Auth
	var b strings.Builder
	for _, path := range slices.Compact([]string{crt, key, c.Server.TLS.ClientCA, a.Htpasswd, a.PasswordFile, c.TokensFile(), filepath.Join(c.DataDir, server.HTPasswdFile)}) {
		if path == "" {
			continue
		}
		fi, err := os.Stat(path)
		if err != nil {
			b.WriteString("-\n")
			continue
		}
		fmt.Fprintf(&b, "%d %d %d\n", fi.ModTime().UnixNano(), fi.Size(), inode(fi))
	}
	return b.String()
}

// inode tells a file that was replaced by one of the same time and size.
func inode(fi os.FileInfo) uint64 {
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		return st.Ino
	}
	return 0
}
