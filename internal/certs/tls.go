package certs

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"
)

// Identity is a node's certificate together with the authority it trusts.
type Identity struct {
	Node string // the name in the certificate

	cert tls.Certificate
	pool *x509.CertPool
}

// Load reads a node's identity and checks it as the other node will: signed
// by the authority, valid now, and made for node.
func Load(caPath, certPath, keyPath, node string) (*Identity, error) {
	ca, err := os.ReadFile(caPath)
	if err != nil {
		return nil, fmt.Errorf("read authority certificate: %w; colod cert ca makes one", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("read authority certificate: no certificate in %s", caPath)
	}
	cert, err := tls.LoadX509KeyPair(certPath, keyPath)
	if err != nil {
		return nil, fmt.Errorf("read node certificate %s with key %s: %w; colod cert node makes them", certPath, keyPath, err)
	}
	if err := verify(cert.Leaf, pool, node); err != nil {
		return nil, fmt.Errorf("check certificate %s: %w", certPath, err)
	}
	return &Identity{Node: node, cert: cert, pool: pool}, nil
}

func verify(leaf *x509.Certificate, pool *x509.CertPool, node string) error {
	if !slices.Contains(leaf.DNSNames, node) {
		return fmt.Errorf("it is for %q, not for node %q; make one with colod cert node %s", leaf.DNSNames, node, node)
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
			return err
		}
	}
	return nil
}

// Expires is when the certificate ends.
func (id *Identity) Expires() time.Time { return id.cert.Leaf.NotAfter }

// Client is the TLS configuration for a connection to node peer.
func (id *Identity) Client(peer string) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{id.cert},
		RootCAs:                id.pool,
		ServerName:             peer,
		SessionTicketsDisabled: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			return checkName(cs, []string{peer})
		},
	}
}

// Server is the TLS configuration for accepting connections from the nodes
// named in peers.
func (id *Identity) Server(peers []string) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{id.cert},
		ClientCAs:              id.pool,
		ClientAuth:             tls.RequireAndVerifyClientCert,
		SessionTicketsDisabled: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			return checkName(cs, peers)
		},
	}
}

func checkName(cs tls.ConnectionState, peers []string) error {
	name, err := PeerName(cs)
	if err != nil {
		return err
	}
	if !slices.Contains(peers, name) {
		return fmt.Errorf("peer's certificate is for node %q, which is not expected here (expected: %q)", name, peers)
	}
	return nil
}

// PeerName is the node name in the peer's verified certificate: its only DNS name.
func PeerName(cs tls.ConnectionState) (string, error) {
	if len(cs.PeerCertificates) == 0 {
		return "", errors.New("peer gave no certificate")
	}
	names := cs.PeerCertificates[0].DNSNames
	if len(names) != 1 {
		return "", fmt.Errorf("peer's certificate names %d nodes %q, not one", len(names), names)
	}
	return names[0], nil
}
