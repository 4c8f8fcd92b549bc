package client

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"slices"
)

func tlsConfig(opt Options) (*tls.Config, error) {
	if opt.TLS != nil {
		return opt.TLS, nil
	}
	conf := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		InsecureSkipVerify: opt.Insecure, //nolint:gosec // asked for, and documented
	}
	if opt.Certificate != nil {
		conf.Certificates = []tls.Certificate{*opt.Certificate}
	}
	if len(opt.CA) == 0 || opt.Insecure {
		return conf, nil
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if !roots.AppendCertsFromPEM(opt.CA) {
		return nil, errors.New("the CA file holds no certificate in PEM; give the one of an authority, or a node's tls.crt")
	}
	pins := certificates(opt.CA)
	// What the library would do is done below, after a look at the pins.
	conf.InsecureSkipVerify = true //nolint:gosec // see VerifyConnection
	conf.VerifyConnection = func(s tls.ConnectionState) error {
		leaf := s.PeerCertificates[0] // TLS servers always show one
		if slices.ContainsFunc(pins, func(der []byte) bool { return bytes.Equal(der, leaf.Raw) }) {
			return nil
		}
		rest := x509.NewCertPool()
		for _, c := range s.PeerCertificates[1:] {
			rest.AddCert(c)
		}
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: rest, DNSName: s.ServerName}); err != nil {
			return &tls.CertificateVerificationError{UnverifiedCertificates: s.PeerCertificates, Err: err}
		}
		return nil
	}
	return conf, nil
}

// certificates are those of a PEM file, in DER.
func certificates(text []byte) [][]byte {
	var out [][]byte
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return out
		}
		if block.Type == "CERTIFICATE" {
			out = append(out, block.Bytes)
		}
	}
}
