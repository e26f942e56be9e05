package etcd

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"colod/internal/certs"
)

// ClientFiles are what a client of the cluster needs.
type ClientFiles struct {
	CA, Cert, Key string // paths
}

func (c *Cluster) caPath() string { return filepath.Join(c.cfg.Dir, "ca.pem") }

// Client makes the certificate of a client, or returns the paths of one that was made before.
func (c *Cluster) Client(name string) (ClientFiles, error) {
	base := filepath.Join(c.cfg.Dir, "client-"+name)
	f := ClientFiles{CA: c.caPath(), Cert: base + ".pem", Key: base + ".key"}
	if _, err := os.Stat(f.Cert); err == nil {
		return f, nil
	}
	if c.ca == nil {
		return f, fmt.Errorf("make certificate of client %s: the cluster has no TLS, or its authority is not known here", name)
	}
	n, err := c.ca.Issue(name, time.Hour*24)
	if err != nil {
		return f, err
	}
	return f, n.Save(f.Cert, f.Key)
}

// makeCertificates writes the authority's certificate and one for each member.
func (c *Cluster) makeCertificates() error {
	if c.ca == nil {
		ca, err := certs.NewAuthority("etcd in the lab", 0)
		if err != nil {
			return err
		}
		c.ca = ca
	}
	caPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.ca.Cert.Raw})
	if err := os.WriteFile(c.caPath(), caPEM, 0o644); err != nil {
		return fmt.Errorf("write authority: %w", err)
	}
	for _, m := range c.members {
		if err := c.issue(m); err != nil {
			return fmt.Errorf("make certificate of member %s: %w", m.Name, err)
		}
	}
	return nil
}

// issue makes a member's certificate. Members are known by their address, which certs.Authority.Issue does not make.
func (c *Cluster) issue(m *member) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return err
	}
	now := time.Now()
	tmpl := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: m.Name},
		DNSNames:     []string{m.Name, "localhost"},
		IPAddresses:  []net.IP{net.ParseIP(m.Address), net.IPv4(127, 0, 0, 1)},
		NotBefore:    now.Add(-5 * time.Minute),
		NotAfter:     now.Add(365 * 24 * time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, c.ca.Cert, key.Public(), c.ca.Key)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	n := certs.Node{
		CertPEM: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		KeyPEM:  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}),
	}
	return n.Save(filepath.Join(m.dir, "cert.pem"), filepath.Join(m.dir, "key.pem"))
}

// healthTLS is the configuration with which the helper itself asks members.
func (c *Cluster) healthTLS() (*tls.Config, error) {
	if c.cfg.Plain {
		return nil, nil
	}
	f, err := c.Client("lab-health")
	if err != nil {
		return nil, err
	}
	cert, err := tls.LoadX509KeyPair(f.Cert, f.Key)
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(f.CA)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("read authority %s: no certificate in it", f.CA)
	}
	return &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13}, nil
}
