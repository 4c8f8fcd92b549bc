package server

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// What LoadOrCreateCertificate makes in dataDir.
const (
	CertificateFile = "tls.crt" // may be given to clients, as their CA file
	KeyFile         = "tls.key"
)

// certificateYears is how long a certificate made here is valid. It is kept
// and pinned, not renewed: an expiry would only be an outage with a date.
const certificateYears = 20

// LoadOrCreateCertificate returns the node's own certificate and its
// fingerprint as openssl prints it (SHA-256, upper-case hex, colons). On the
// first start it makes a self-signed one for the hosts (names or addresses) and
// keeps it in dataDir: tls.key (mode 0600) and tls.crt. Later calls load it as
// it is, whatever the hosts.
//
// Files that can not be used are an error that names them and the remedy. They
// are never replaced: somebody may have pinned them.
func LoadOrCreateCertificate(dataDir string, hosts []string) (tls.Certificate, string, error) {
	crtPath, keyPath := filepath.Join(dataDir, CertificateFile), filepath.Join(dataDir, KeyFile)
	cert, err := loadOrCreateCertificate(crtPath, keyPath, hosts)
	if err != nil {
		return tls.Certificate{}, "", err
	}
	return cert, fingerprint(cert.Leaf), nil
}

func loadOrCreateCertificate(crtPath, keyPath string, hosts []string) (tls.Certificate, error) {
	remedy := fmt.Sprintf("restore both files, or remove both to have a new certificate made (clients must then trust it anew): rm %s %s", crtPath, keyPath)

	crt, err := readOrNil(crtPath)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("read the certificate: %w; %s", err, remedy)
	}
	key, err := readOrNil(keyPath)
	switch {
	case err != nil:
		return tls.Certificate{}, fmt.Errorf("read the certificate's key: %w; %s", err, remedy)
	case crt != nil && key == nil:
		return tls.Certificate{}, fmt.Errorf("%s is there but its key %s is not; %s", crtPath, keyPath, remedy)
	case key == nil:
		if key, err = newKey(keyPath); err != nil {
			return tls.Certificate{}, err
		}
	}
	if crt == nil {
		// Also where an earlier start got no further than the key.
		if crt, err = newCertificate(crtPath, keyPath, key, hosts, remedy); err != nil {
			return tls.Certificate{}, err
		}
	}
	cert, err := tls.X509KeyPair(crt, key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("%s and %s are not a certificate and its key: %w; %s", crtPath, keyPath, err, remedy)
	}
	return cert, nil
}

func newKey(path string) ([]byte, error) {
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key for %s: %w", path, err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(priv)
	if err != nil {
		return nil, fmt.Errorf("make a key for %s: %w", path, err)
	}
	key := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	return keep(path, key, 0o600)
}

func newCertificate(path, keyPath string, key []byte, hosts []string, remedy string) ([]byte, error) {
	block, _ := pem.Decode(key)
	if block == nil {
		return nil, fmt.Errorf("%s holds no key in PEM; %s", keyPath, remedy)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w; %s", keyPath, err, remedy)
	}
	priv, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s holds a %T where an ECDSA key belongs; %s", keyPath, parsed, remedy)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fmt.Errorf("make a certificate for %s: %w", path, err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: "understudy"},
		NotBefore:    now.Add(-48 * time.Hour), // the clients' clocks may be behind
		NotAfter:     now.AddDate(certificateYears, 0, 0),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		// Constraints that say "not a CA": it can vouch for itself only.
		BasicConstraintsValid: true,
	}
	for i, host := range hosts {
		if i == 0 && host != "" && len(host) <= 64 {
			template.Subject.CommonName = host
		}
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else if host != "" {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &priv.PublicKey, priv)
	if err != nil {
		return nil, fmt.Errorf("make a certificate for %s: %w", path, err)
	}
	return keep(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644)
}

// keep creates the file, or returns what another process put there meanwhile.
func keep(path string, content []byte, mode fs.FileMode) ([]byte, error) {
	err := createOnce(path, content, mode)
	if errors.Is(err, fs.ErrExist) {
		return os.ReadFile(path)
	}
	if err != nil {
		return nil, fmt.Errorf("keep %s: %w; is dataDir there, writable and not full?", path, err)
	}
	return content, nil
}

// readOrNil reads a file; nil when there is none.
func readOrNil(path string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil && b == nil {
		b = []byte{}
	}
	return b, err
}

func fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	hex := make([]string, len(sum))
	for i, b := range sum {
		hex[i] = fmt.Sprintf("%02X", b)
	}
	return strings.Join(hex, ":")
}

// TLSConfig is what Serve should be given for a certificate: TLS 1.2 or later,
// HTTP/2 where the client speaks it.
func TLSConfig(cert tls.Certificate) *tls.Config {
	return &tls.Config{
		MinVersion:   tls.VersionTLS12,
		Certificates: []tls.Certificate{cert},
		NextProtos:   []string{"h2", "http/1.1"},
	}
}

// Renewable is what Serve should be given when the certificate may be renewed:
// each handshake takes what current returns at that moment.
func Renewable(current func() *tls.Config) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return current(), nil },
	}
}
