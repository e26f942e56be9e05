// Package conntest makes connections for tests and benchmarks.
package conntest

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net"
	"testing"
	"time"

	"colod/internal/certs"
)

// Loopback is a TCP connection over the loopback device. Its ends are closed with t.
func Loopback(t testing.TB) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return a, b
}

// TLS is a configuration for both ends of a connection, which authenticate each other by one certificate. It is good for
// two days.
func TLS(t testing.TB) *tls.Config {
	t.Helper()
	conf, err := NewKeys(t).Config()
	if err != nil {
		t.Fatal(err)
	}
	return conf
}

// name is what the certificate names.
const name = "node"

// Keys are what TLS makes a configuration of, for another process.
type Keys struct{ CA, Cert, Key []byte } // PEM

// NewKeys makes keys.
func NewKeys(t testing.TB) Keys {
	t.Helper()
	const validity = 48 * time.Hour
	ca, err := certs.NewAuthority("test", validity)
	if err != nil {
		t.Fatal(err)
	}
	node, err := ca.Issue(name, validity)
	if err != nil {
		t.Fatal(err)
	}
	return Keys{CA: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Cert.Raw}), Cert: node.CertPEM, Key: node.KeyPEM}
}

// Config is the configuration, for either end.
func (k Keys) Config() (*tls.Config, error) {
	cert, err := tls.X509KeyPair(k.Cert, k.Key)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(k.CA) {
		return nil, errors.New("no certificate of an authority")
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13, ServerName: name, RootCAs: pool, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert,
		Certificates: []tls.Certificate{cert},
	}, nil
}
