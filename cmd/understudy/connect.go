package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/term"

	"github.com/understudy-ha/understudy/api/client"
	"github.com/understudy-ha/understudy/pkg/config"
)

// defaultEndpoint is asked when nothing says which.
const defaultEndpoint = "https://127.0.0.1:8443"

// localCredentialsFile holds "user:password" in dataDir, mode 0600, so that
// whoever may read the daemon's files may also ask it. The daemon writes it
// when it has generated a password.
const localCredentialsFile = "credentials"

// connect makes the client of a command: which nodes, who asks, what is
// trusted. Flags and variables come first, then the configuration of this
// host's node, then what that node keeps in its dataDir.
func (g *globals) connect() (*client.Client, error) {
	conf, err := g.clientConfig()
	if err != nil {
		return nil, err
	}
	endpoints := g.endpoints
	local := len(endpoints) == 0
	if local {
		endpoints = []string{localEndpoint(conf)}
	}
	opt := client.Options{Insecure: g.insecure}
	if opt.Token, err = g.token(); err != nil {
		return nil, err
	}
	if opt.Certificate, err = g.certificate(); err != nil {
		return nil, err
	}
	// What dataDir holds concerns this host's node alone.
	if opt.Token == "" {
		if opt.User, opt.Password, err = g.credentials(conf, local || !slices.ContainsFunc(endpoints, isElsewhere)); err != nil {
			return nil, err
		}
	}
	if !g.insecure {
		if opt.CA, err = g.trusted(conf); err != nil {
			return nil, err
		}
	}
	c, err := client.New(endpoints, opt)
	if err != nil {
		return nil, usagef("%w", err)
	}
	return c, nil
}

func localEndpoint(conf *config.Config) string {
	if conf == nil {
		return defaultEndpoint
	}
	if conf.NodeURI != "" && conf.Server.TLS.Cert != "" {
		return conf.NodeURI // a certificate of the user's own names that host
	}
	c := *conf
	c.NodeURI = ""
	return c.URI("127.0.0.1", 0)
}

func isElsewhere(endpoint string) bool {
	if !strings.Contains(endpoint, "://") {
		endpoint = "https://" + endpoint
	}
	u, err := url.Parse(endpoint)
	if err != nil {
		return true
	}
	ip := net.ParseIP(u.Hostname())
	return u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback())
}

// token is the bearer token to be known by; empty: none was given. A user that
// was named goes before a variable.
func (g *globals) token() (string, error) {
	if g.tokenFile != "" {
		token, err := firstLine(g.tokenFile)
		if err != nil {
			return "", usagef("--token-file: %w", err)
		}
		return token, nil
	}
	if g.user != "" {
		return "", nil
	}
	return os.Getenv("UNDERSTUDY_TOKEN"), nil
}

// certificate is the one to be known by; nil: none was given.
func (g *globals) certificate() (*tls.Certificate, error) {
	if g.clientCert == "" {
		return nil, nil
	}
	cert, err := tls.LoadX509KeyPair(g.clientCert, g.clientKey)
	if err != nil {
		return nil, usagef("--client-cert and --client-key: %w", err)
	}
	return &cert, nil
}

func (g *globals) credentials(conf *config.Config, local bool) (user, password string, err error) {
	user, password = g.user, g.password
	if g.passwordFile != "" && password == "" {
		if password, err = firstLine(g.passwordFile); err != nil {
			return "", "", &exitError{exitUsage, err}
		}
	}
	if password == "" {
		password = os.Getenv("UNDERSTUDY_PASSWORD")
	}
	if user != "" {
		if password == "" {
			password, err = ask(user)
		}
		return user, password, err
	}
	if password != "" {
		return "", "", usagef("a password without a user: give --user too")
	}
	if conf == nil {
		conf = config.Default()
	}
	if a := conf.Server.Auth; a.User != "" {
		if a.PasswordFile == "" {
			return a.User, a.Password, nil
		}
		b, err := readable(a.PasswordFile)
		if err != nil || b == nil {
			return "", "", err // somebody else's: go on without, health needs none
		}
		line, _, _ := strings.Cut(string(b), "\n")
		return a.User, strings.TrimRight(line, "\r"), nil
	}
	if !local {
		return "", "", nil
	}
	b, err := readable(filepath.Join(conf.DataDir, localCredentialsFile))
	if err != nil {
		return "", "", err
	}
	user, password, _ = strings.Cut(strings.TrimSpace(string(b)), ":")
	return user, password, nil
}

// ask prompts on a terminal; elsewhere a missing password is an error.
func ask(user string) (string, error) {
	in := int(os.Stdin.Fd()) //nolint:gosec // a file descriptor is small
	if !term.IsTerminal(in) {
		return "", usagef("--user %s needs a password: give --password-file or UNDERSTUDY_PASSWORD", user)
	}
	fmt.Fprintf(os.Stderr, "Password of %s: ", user)
	b, err := term.ReadPassword(in)
	fmt.Fprintln(os.Stderr)
	return string(b), err
}

// trusted are the certificates trusted besides the system's.
func (g *globals) trusted(conf *config.Config) ([]byte, error) {
	if g.cacert != "" {
		b, err := os.ReadFile(g.cacert)
		if err != nil {
			return nil, usagef("--cacert: %w", err)
		}
		return b, nil
	}
	if conf == nil {
		conf = config.Default()
	}
	own := conf.Server.TLS.Cert
	if own == "" {
		own = filepath.Join(conf.DataDir, "tls.crt")
	}
	return readable(own)
}

// keepLocalCredentials lets client commands on this host log in: mode 0600 in
// dataDir, replaced whole. A name with a ':' can not be kept.
func keepLocalCredentials(dataDir, user, password string) error {
	if strings.ContainsAny(user, ":\n") || strings.Contains(password, "\n") {
		return errors.New("a user name holds no ':', and neither it nor a password a line break")
	}
	path := filepath.Join(dataDir, localCredentialsFile)
	tmp, err := os.CreateTemp(dataDir, "."+localCredentialsFile+".*") // mode 0600
	if err != nil {
		return fmt.Errorf("keep %s: %w", path, err)
	}
	defer func() { _ = os.Remove(tmp.Name()) }()
	_, err = tmp.WriteString(user + ":" + password + "\n")
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return fmt.Errorf("keep %s: %w", path, err)
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return fmt.Errorf("keep %s: %w", path, err)
	}
	return nil
}
