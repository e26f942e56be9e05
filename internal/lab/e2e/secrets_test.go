package e2e

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"colod/coordinator/peer"
	"colod/internal/certs"
	"colod/internal/lab"
	"colod/internal/lab/client"
	"colod/internal/lab/image"
)

// TestSecrets: with the default encryption nothing that the guest has in memory or on disk, or says, can be read on the
// wire between the nodes; asked for "plain", it can, which shows that the test would see it (in full only; that the
// capture records what is said is also seen by the preambles, which are in clear). Nobody gets in without a
// certificate of the authority, on any class of connection.
func TestSecrets(t *testing.T) {
	encryptions := []string{"tls"}
	if long {
		encryptions = append(encryptions, "plain")
	}
	for _, encryption := range encryptions {
		t.Run(encryption, func(t *testing.T) {
			l := up(t, "sec-"+encryption, lab.Options{Disk: "64M", Encryption: encryption})
			if encryption == "tls" {
				strangers(t, l, status(t, l))
			}
			// In memory, on disk and on the network.
			secret := fmt.Sprintf("secret-%x-of-the-guest", time.Now().UnixNano())
			wire := captureAt(t, l, lab.NodeA, "tcp port 7420")
			script := "i=0; while [ $i -lt 2000 ]; do echo " + secret + "; i=$((i+1)); done > /data/secret; sync; cat /data/secret"
			argv := append(append([]string{"ssh"}, client.SSHArgs(l.SSHKey(), l.KnownHosts())...), "root@"+image.GuestIPv4, script)
			out, err := l.Command(t.Context(), lab.Client, argv...).Output()
			if err != nil || strings.Count(string(out), secret) != 2000 {
				t.Fatalf("write in the guest: %d bytes came back: %v", len(out), err)
			}
			before := status(t, l)
			fault(t, l, lab.KillVM, other(before.Speaker)) // all of the memory is copied again
			awaitSpeaker(t, l, before)
			if err := l.AwaitState(t.Context(), "protected"); err != nil {
				t.Fatal(err)
			}
			if err := l.Checkpoint(t.Context()); err != nil {
				t.Fatal(err)
			}
			wire.end()
			classes := map[peer.Class]int{}
			for _, c := range []peer.Class{peer.ClassState, peer.ClassDisk} {
				classes[c] = len(wire.ports(c))
			}
			data := []byte(readFile(wire.file))
			found := bytes.Count(data, []byte(secret))
			t.Logf("%d bytes on the wire, %d connections of state, %d of disks; the secret is in them %d times", len(data), classes[peer.ClassState], classes[peer.ClassDisk], found)
			if len(data) < 1<<20 || classes[peer.ClassState] == 0 || classes[peer.ClassDisk] == 0 {
				t.Error("the capture has too little in it")
			}
			if (found > 0) != (encryption == "plain") {
				t.Errorf("the secret is on the wire %d times with encryption %s", found, encryption)
			}
		})
	}
}

// strangers tries every class of connection without a certificate, with one of another authority, and in clear.
func strangers(t *testing.T, l *lab.Lab, before *lab.Status) {
	t.Helper()
	var addr string
	for line := range strings.Lines(readFile(filepath.Join(l.Dir(), lab.NodeA, "colod.yaml"))) {
		if rest, ok := strings.CutPrefix(line, "listen: "); ok {
			addr = strings.TrimSpace(rest)
		}
	}
	foreign, err := certs.NewAuthority("foreign", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	id, err := foreign.Issue(lab.NodeB, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "b.pem"), filepath.Join(dir, "b.key")
	if err := id.Save(cert, key); err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	ca, err := os.ReadFile(filepath.Join(l.Dir(), "ca.pem"))
	if err != nil || !pool.AppendCertsFromPEM(ca) {
		t.Fatalf("read the authority: %v", err)
	}
	for _, class := range []peer.Class{peer.ClassCtl, peer.ClassNet, peer.ClassState, peer.ClassDisk} {
		for _, who := range []string{"no certificate", "another authority's", "in clear"} {
			var answer []byte
			err := l.In(lab.NodeB, func() error {
				c, err := net.DialTimeout("tcp", addr, 10*time.Second)
				if err != nil {
					return err
				}
				defer c.Close()
				c.SetDeadline(time.Now().Add(60 * time.Second))
				flags := byte(0)
				if who == "in clear" {
					flags = 1
				}
				if _, err := c.Write(append([]byte("COLOD\x01"), append([]byte{byte(class), flags}, make([]byte, 8)...)...)); err != nil {
					return err
				}
				if who != "in clear" {
					cfg := &tls.Config{RootCAs: pool, ServerName: lab.NodeA, MinVersion: tls.VersionTLS13}
					if who == "another authority's" {
						// Also where the server has said that it does not take it.
						cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
					}
					c = tls.Client(c, cfg)
				}
				// With TLS 1.3 the refusal comes after the client's handshake.
				if _, err := c.Write(make([]byte, 256)); err != nil {
					return err
				}
				answer, err = io.ReadAll(c)
				return err
			})
			said := fmt.Sprint(err)
			switch {
			case who == "in clear":
				if errors.Is(err, os.ErrDeadlineExceeded) || len(answer) > 512 {
					t.Errorf("class %d in clear: not refused: %q, %v", class, answer, err)
				}
			case err == nil || !strings.Contains(said, "certificate") && !strings.Contains(said, "reset"):
				t.Errorf("class %d with %s: answered %q, %v", class, who, answer, err)
			}
			t.Logf("class %d, %s: %d bytes of answer, %v", class, who, len(answer), err)
		}
	}
	if now := status(t, l); now.State != "protected" || now.Generation != before.Generation {
		t.Errorf("strangers changed the pair: %+v", now)
	}
}
