package coordinator

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"colod/coordinator/peer"
	"colod/internal/certs"
)

// preambleSize is what a connection begins with, before TLS.
const preambleSize = 16

// issued makes the certificate of a node, with any validity.
func issued(t *testing.T, ca *certs.Authority, name string, from, to time.Time) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, NotBefore: from, NotAfter: to,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, ca.Cert, key.Public(), ca.Key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// writeTrust makes the files of a node, with a certificate of from and the authorities trust.
func (p *testPair) writeTrust(node string, from *certs.Authority, trust ...*certs.Authority) {
	p.t.Helper()
	p.writeCerts(node, node, from)
	var all []byte
	for _, a := range trust {
		all = append(all, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.Cert.Raw})...)
	}
	if err := os.WriteFile(filepath.Join(p.dir, node, "tls", "ca.pem"), all, 0o600); err != nil {
		p.t.Fatal(err)
	}
}

// TestRefusedCertificates: a node whose certificate has expired, is of another
// authority or of another node is refused, whichever of the two connects, and
// both sides have a sentence that says why.
func TestRefusedCertificates(t *testing.T) {
	foreign, err := certs.NewAuthority("foreign", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	for _, c := range []struct {
		name       string
		foreign    bool
		node       string
		from, to   time.Time
		dialed     string // what the node that is connected to logs
		dialer     string // what the refused one is told then
		dials      string // what the node that connects logs
		refusedOne string // what the refused one is told then
	}{
		{
			name: "expired", node: "b", from: now.Add(-2 * time.Hour), to: now.Add(-time.Hour),
			dialed: "certificate has expired", dialer: "refuses this node's certificate as expired",
			dials: "renew the other node's certificate", refusedOne: "refuses this node's certificate",
		},
		{
			name: "not valid yet", node: "b", from: now.Add(time.Hour), to: now.Add(2 * time.Hour),
			dialed: "certificate has expired or is not yet valid", dialer: "refuses this node's certificate as expired",
			dials: "renew the other node's certificate", refusedOne: "refuses this node's certificate",
		},
		{
			name: "another authority", foreign: true, node: "b", from: now.Add(-time.Hour), to: now.Add(time.Hour),
			dialed: "unknown authority", dialer: "does not trust the authority of this node's certificate",
			dials: "of another authority", refusedOne: "refuses this node's certificate",
		},
		{
			name: "another node", node: "z", from: now.Add(-time.Hour), to: now.Add(time.Hour),
			dialed: `is for node \"z\"`, dialer: "refuses this node's certificate",
			dials: "another node than the expected one answers", refusedOne: "refuses this node's certificate",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newTestPair(t)
			ca := p.ca
			if c.foreign {
				ca = foreign
			}
			trusted := x509.NewCertPool()
			trusted.AddCert(p.ca.Cert)
			bad := issued(t, ca, c.node, c.from, c.to)

			// Node a connects to b's address, where the bad certificate answers.
			ln, err := net.Listen("tcp", p.addr["b"])
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			told := make(chan error, 1)
			go func() {
				defer close(told)
				conn, err := ln.Accept()
				if err != nil {
					told <- err
					return
				}
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(patience))
				if _, err := io.ReadFull(conn, make([]byte, preambleSize)); err != nil {
					told <- err
					return
				}
				s := tls.Server(conn, &tls.Config{
					MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{bad}, ClientCAs: trusted, ClientAuth: tls.RequireAndVerifyClientCert,
				})
				told <- certs.Explain(s.Handshake())
			}()
			a := p.start("a")
			if err := <-told; err == nil || !strings.Contains(err.Error(), c.refusedOne) {
				t.Errorf("the one that a connected to is told %v, want %q", err, c.refusedOne)
			}
			eventually(t, "a word of the node that connects", func() bool {
				return strings.Contains(a.log.String(), "no ctl connection") && strings.Contains(a.log.String(), c.dials)
			})
			ln.Close()

			// The bad certificate connects to node a.
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			raw, err := peer.Dial(ctx, p.addr["a"], peer.ClassCtl, false)
			if err != nil {
				t.Fatal(err)
			}
			defer raw.Close()
			_ = raw.SetDeadline(time.Now().Add(patience))
			conn := tls.Client(raw, &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{bad}, RootCAs: trusted, ServerName: "a",
				GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &bad, nil }})
			if err = conn.HandshakeContext(ctx); err == nil {
				_, err = conn.Read(make([]byte, 1)) // with TLS 1.3 the refusal comes after the client's handshake
			}
			if err = certs.Explain(err); err == nil || !strings.Contains(err.Error(), c.dialer) {
				t.Errorf("the one that connected is told %v, want %q", err, c.dialer)
			}
			eventually(t, "a word of the node that was connected to", func() bool {
				return strings.Contains(a.log.String(), "connection refused") && strings.Contains(a.log.String(), c.dialed)
			})
		})
	}
}

// TestAuthorityReplaced: the authority is replaced in two steps, first the trust, then
// the certificates, and at no time do connections end or fail to be made.
func TestAuthorityReplaced(t *testing.T) {
	p := newTestPair(t)
	a := p.start("a")
	b := p.start("b")
	p.protected("a", "b")
	next, err := certs.NewAuthority("next", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	used := func() int {
		const say = "new certificates are in use"
		return min(strings.Count(a.log.String(), say), strings.Count(b.log.String(), say))
	}
	step := func(what string, from *certs.Authority, trust ...*certs.Authority) {
		t.Helper()
		before := used()
		for _, n := range []string{"a", "b"} {
			p.writeTrust(n, from, trust...)
		}
		hangUpSelf(t)
		eventually(t, what, func() bool { return used() > before })
		p.protected("a", "b")
	}
	step("trust in both", p.ca, p.ca, next)
	step("certificates of the new one", next, p.ca, next)
	step("trust in the new one alone", next, next)
	if st := p.await("a", "status", func(PairStatus) bool { return true }); st.Generation != 2 {
		t.Errorf("generation %d: the change broke something", st.Generation)
	}
	p.nodes["b"].stop(t)
	p.awaitState("a", "solo", "speaker")
	p.start("b") // over connections of the new authority
	p.protected("a", "b")
}
