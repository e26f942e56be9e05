// Package certs makes the certificates by which nodes know each other: one
// authority, and one certificate a node, whose DNS name is the node's name.
//
// It makes files and reads them; it has no opinion on how they get to the
// hosts. Keys are ECDSA on P-256, in PKCS #8, readable by their owner only.
package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

// Validity of what is made when the caller names none.
const (
	DefaultCAValidity   = 10 * 365 * 24 * time.Hour
	DefaultNodeValidity = 2 * 365 * 24 * time.Hour
	// backdate lets a certificate be used on hosts whose clock is a little slow.
	backdate = 5 * time.Minute
)

// Authority signs node certificates.
type Authority struct {
	Cert *x509.Certificate
	Key  *ecdsa.PrivateKey
}

// NewAuthority makes an authority. name is shown to people only.
func NewAuthority(name string, validity time.Duration) (*Authority, error) {
	if validity <= 0 {
		validity = DefaultCAValidity
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make authority key: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	tmpl := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(validity),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make authority certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read back authority certificate: %w", err)
	}
	return &Authority{Cert: cert, Key: key}, nil
}

// Node is the certificate and key of a node, or of a client, in PEM form.
type Node struct {
	CertPEM, KeyPEM []byte
}

// Issue makes the certificate of the node name, for both directions of a
// connection.
func (a *Authority) Issue(name string, validity time.Duration) (*Node, error) {
	if name == "" {
		return nil, errors.New("issue certificate: the node's name is empty")
	}
	if net.ParseIP(name) != nil {
		return nil, fmt.Errorf("issue certificate for %s: a node is known by a name, not by an address", name)
	}
	return a.issue(name, validity, &x509.Certificate{
		DNSNames:    []string{name},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
}

// IssueMember makes the certificate of a server that is known by its addresses
// too, such as a member of etcd. name must be no node's: where one authority
// signs both, the certificate would be good for that node.
func (a *Authority) IssueMember(name string, addrs []net.IP, validity time.Duration) (*Node, error) {
	if name == "" || len(addrs) == 0 {
		return nil, fmt.Errorf("issue certificate of member %q: a name and an address are needed", name)
	}
	return a.issue(name, validity, &x509.Certificate{
		DNSNames:    []string{name},
		IPAddresses: addrs,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
}

// IssueClient makes the certificate of a caller of the API, who is no node:
// the role is in a URI. name is shown in logs.
func (a *Authority) IssueClient(name string, role *url.URL, validity time.Duration) (*Node, error) {
	if name == "" {
		return nil, errors.New("issue certificate: the client's name is empty")
	}
	return a.issue(name, validity, &x509.Certificate{
		URIs:        []*url.URL{role},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
}

// issue completes and signs a certificate.
func (a *Authority) issue(name string, validity time.Duration, tmpl *x509.Certificate) (*Node, error) {
	if validity <= 0 {
		validity = DefaultNodeValidity
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key of %s: %w", name, err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	end := now.Add(validity)
	if end.After(a.Cert.NotAfter) {
		end = a.Cert.NotAfter
	}
	tmpl.SerialNumber = serial
	tmpl.Subject = pkix.Name{CommonName: name}
	tmpl.NotBefore, tmpl.NotAfter = now.Add(-backdate), end
	tmpl.KeyUsage = x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.Cert, key.Public(), a.Key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate of %s: %w", name, err)
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	return &Node{CertPEM: encodeCert(der), KeyPEM: keyPEM}, nil
}

func newSerial() (*big.Int, error) {
	// 127 random bits: positive, and within the 20 octets of RFC 5280 section 4.1.2.2.
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("make serial number: %w", err)
	}
	return n, nil
}

func encodeCert(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// Save writes the authority's files. Existing files are never replaced: a
// new authority under an old name would lock every node out.
func (a *Authority) Save(certPath, keyPath string) error {
	keyPEM, err := encodeKey(a.Key)
	if err != nil {
		return err
	}
	if err := create(keyPath, keyPEM, 0o600); err != nil {
		return err
	}
	return create(certPath, encodeCert(a.Cert.Raw), 0o644)
}

// Save writes the node's files; existing files are never replaced.
func (n *Node) Save(certPath, keyPath string) error {
	if err := create(keyPath, n.KeyPEM, 0o600); err != nil {
		return err
	}
	return create(certPath, n.CertPEM, 0o644)
}

func create(path string, data []byte, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("make directory of %s: %w", path, err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("write %s: the file exists; move it away first if it is no longer used", path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if _, err := f.Write(data); err != nil {
		f.Close()
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := f.Sync(); err != nil {
		f.Close()
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// LoadAuthority reads an authority back from its files.
func LoadAuthority(certPath, keyPath string) (*Authority, error) {
	pair, err := tls.LoadX509KeyPair(certPath, keyPath)
	if err != nil {
		return nil, fmt.Errorf("read authority from %s and %s: %w", certPath, keyPath, err)
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("read authority from %s: the key is a %T; colod cert ca makes ECDSA keys", keyPath, pair.PrivateKey)
	}
	if !pair.Leaf.IsCA {
		return nil, fmt.Errorf("read authority from %s: the certificate of %q is not an authority's", certPath, pair.Leaf.Subject.CommonName)
	}
	return &Authority{Cert: pair.Leaf, Key: key}, nil
}
