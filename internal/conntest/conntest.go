// Package conntest makes connections for tests and benchmarks.
package conntest

import (
	"crypto/tls"
	"crypto/x509"
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
	const name, validity = "node", 48 * time.Hour
	ca, err := certs.NewAuthority("test", validity)
	if err != nil {
		t.Fatal(err)
	}
	node, err := ca.Issue(name, validity)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.X509KeyPair(node.CertPEM, node.KeyPEM)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca.Cert)
	return &tls.Config{
		MinVersion: tls.VersionTLS13, ServerName: name, RootCAs: pool, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert,
		Certificates: []tls.Certificate{cert},
	}
}
