package image

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"time"
)

// keyPair is an ECDSA P-256 key in the two forms that OpenSSH reads.
type keyPair struct {
	Private    []byte // PEM, "EC PRIVATE KEY"
	Authorized string // one line of authorized_keys or known_hosts, without newline
	key        *ecdsa.PrivateKey
}

func newKey() (keyPair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return keyPair{}, fmt.Errorf("generate key: %w", err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return keyPair{}, fmt.Errorf("generate key: %w", err)
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		return keyPair{}, fmt.Errorf("generate key: %w", err)
	}
	// RFC 5656 section 3.1: three length-prefixed strings.
	var blob []byte
	for _, s := range [][]byte{[]byte("ecdsa-sha2-nistp256"), []byte("nistp256"), point} {
		blob = binary.BigEndian.AppendUint32(blob, uint32(len(s)))
		blob = append(blob, s...)
	}
	return keyPair{
		Private:    pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}),
		Authorized: "ecdsa-sha2-nistp256 " + base64.StdEncoding.EncodeToString(blob),
		key:        key,
	}, nil
}

// certificate makes the self-signed certificate of the guest's HTTPS service,
// valid for the addresses that a lab's guest can have and for its names.
func (k keyPair) certificate() ([]byte, error) {
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "colod lab guest"},
		NotBefore:             time.Now().Add(-48 * time.Hour),
		NotAfter:              time.Now().AddDate(10, 0, 0),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		IsCA:                  true,
		DNSNames:              []string{"guest", "guest.lab"},
		IPAddresses:           []net.IP{net.ParseIP(GuestIPv4), net.ParseIP(GuestIPv6)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &k.key.PublicKey, k.key)
	if err != nil {
		return nil, fmt.Errorf("make certificate: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}
