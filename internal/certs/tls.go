package certs

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// Identity is a node's certificate together with the authority it trusts. It
// can be read again while connections are made and served: those that exist
// go on with what they were made with. Safe for use by many goroutines.
type Identity struct {
	Node string // the name in the certificate

	caPath, certPath, keyPath string

	now atomic.Pointer[material]
}

// material is what was read at one time.
type material struct {
	cert tls.Certificate
	pool *x509.CertPool
	sum  [sha256.Size]byte // of the files
}

// Load reads a node's identity and checks it as the other node will: signed
// by the authority, valid now, and made for node.
func Load(caPath, certPath, keyPath, node string) (*Identity, error) {
	id := &Identity{Node: node, caPath: caPath, certPath: certPath, keyPath: keyPath}
	m, err := id.read()
	if err != nil {
		return nil, err
	}
	id.now.Store(m)
	return id, nil
}

// Reload reads the files again. It reports whether they have changed. If what
// they hold cannot be used, or not together, such as between the replacement
// of a certificate and that of its key, the identity stays as it is.
func (id *Identity) Reload() (changed bool, err error) {
	m, err := id.read()
	if err != nil {
		return false, err
	}
	return id.now.Swap(m).sum != m.sum, nil
}

func (id *Identity) read() (*material, error) {
	ca, err := os.ReadFile(id.caPath)
	if err != nil {
		return nil, fmt.Errorf("read authority certificate: %w; colod cert ca makes one", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("read authority certificate: no certificate in %s", id.caPath)
	}
	certPEM, err := os.ReadFile(id.certPath)
	if err != nil {
		return nil, fmt.Errorf("read node certificate: %w; colod cert node makes them", err)
	}
	keyPEM, err := os.ReadFile(id.keyPath)
	if err != nil {
		return nil, fmt.Errorf("read node key: %w; colod cert node makes them", err)
	}
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("read node certificate %s with key %s: %w; colod cert node makes them", id.certPath, id.keyPath, err)
	}
	if err := verify(cert.Leaf, pool, id.Node); err != nil {
		return nil, fmt.Errorf("check certificate %s: %w", id.certPath, err)
	}
	h := sha256.New()
	for _, b := range [][]byte{ca, certPEM, keyPEM} {
		fmt.Fprintf(h, "%d ", len(b))
		h.Write(b)
	}
	return &material{cert: cert, pool: pool, sum: [sha256.Size]byte(h.Sum(nil))}, nil
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
func (id *Identity) Expires() time.Time { return id.now.Load().cert.Leaf.NotAfter }

// Client is the TLS configuration for a connection to node peer, with what
// the files held when they were last read.
func (id *Identity) Client(peer string) *tls.Config {
	m := id.now.Load()
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{m.cert},
		RootCAs:                m.pool,
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
	m := id.now.Load()
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{m.cert},
		ClientCAs:              m.pool,
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

// Explain gives an error of a handshake between nodes its cure. A refusal by
// the other side arrives as an alert, which says little.
func Explain(err error) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	for _, c := range []struct{ seen, cure string }{
		{"remote error: tls: expired certificate", "the other node refuses this node's certificate as expired: make a new one with colod cert node, or set the clocks"},
		{"remote error: tls: unknown certificate authority", "the other node does not trust the authority of this node's certificate: both need the same tls.ca"},
		{"remote error: tls: bad certificate", "the other node refuses this node's certificate; its log says why: it must be signed by the other's tls.ca, valid now, and name a node that the other one expects"},
		{"certificate has expired or is not yet valid", "renew the other node's certificate with colod cert node, or set the clocks"},
		{"certificate signed by unknown authority", "the other node's certificate is of another authority: both need the same tls.ca"},
		{"certificate is valid for", "another node than the expected one answers: check the addresses, and each node's tls.cert"},
	} {
		if strings.Contains(text, c.seen) {
			return fmt.Errorf("%w; %s", err, c.cure)
		}
	}
	return err
}
