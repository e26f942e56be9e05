package etcd

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
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

// issue makes a member's certificate. Members are known by their address.
func (c *Cluster) issue(m *member) error {
	n, err := c.ca.IssueMember(m.Name, []net.IP{net.ParseIP(m.Address), net.IPv4(127, 0, 0, 1)}, 365*24*time.Hour)
	if err != nil {
		return err
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
