package certs

import (
	"crypto/tls"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// files makes an authority in dir and a certificate for each name.
func files(t *testing.T, dir string, names ...string) *Authority {
	t.Helper()
	a, err := NewAuthority("test", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Save(filepath.Join(dir, "ca.pem"), filepath.Join(dir, "ca.key")); err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		id, err := a.Issue(n, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		if err := id.Save(filepath.Join(dir, n+".pem"), filepath.Join(dir, n+".key")); err != nil {
			t.Fatal(err)
		}
	}
	return a
}

func load(t *testing.T, dir, name string) *Identity {
	t.Helper()
	id, err := Load(filepath.Join(dir, "ca.pem"), filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key"), name)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// meet connects a client with a server and returns both errors.
func meet(t *testing.T, client, server *tls.Config) (cerr, serr error) {
	t.Helper()
	// Not net.Pipe, in which both sides can wait for each other to read.
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("unix", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		conn := tls.Server(s, server)
		err := conn.Handshake()
		if err == nil {
			_, err = conn.Write([]byte("x"))
		}
		s.Close()
		done <- err
	}()
	conn := tls.Client(c, client)
	cerr = conn.Handshake()
	if cerr == nil {
		_, cerr = io.ReadFull(conn, make([]byte, 1))
	}
	c.Close()
	return cerr, <-done
}

func TestNodesMeet(t *testing.T) {
	dir := t.TempDir()
	files(t, dir, "a", "b", "c")
	a, b, c := load(t, dir, "a"), load(t, dir, "b"), load(t, dir, "c")
	if cerr, serr := meet(t, a.Client("b"), b.Server([]string{"a"})); cerr != nil || serr != nil {
		t.Errorf("a meets b: %v, %v", cerr, serr)
	}
	if _, serr := meet(t, c.Client("b"), b.Server([]string{"a"})); serr == nil || !strings.Contains(serr.Error(), `for node "c", which is not expected here`) {
		t.Errorf("c meets b, which expects a: %v", serr)
	}
	if cerr, _ := meet(t, a.Client("b"), c.Server([]string{"a"})); cerr == nil {
		t.Error("a takes c for b")
	}
	other := t.TempDir()
	files(t, other, "a")
	if cerr, serr := meet(t, load(t, other, "a").Client("b"), b.Server([]string{"a"})); cerr == nil || serr == nil {
		t.Errorf("a of another authority meets b: %v, %v", cerr, serr)
	}
	old := b.Server([]string{"a"})
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	if cerr, _ := meet(t, a.Client("b"), old); cerr == nil {
		t.Error("TLS 1.2 is accepted")
	}
}

func TestLoadRefuses(t *testing.T) {
	dir := t.TempDir()
	files(t, dir, "a", "b")
	other := t.TempDir()
	files(t, other, "a")
	at := func(d, f string) string { return filepath.Join(d, f) }
	if err := os.WriteFile(at(dir, "junk.pem"), []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, ca, cert, key, node, want string }{
		{"no authority", at(dir, "none.pem"), at(dir, "a.pem"), at(dir, "a.key"), "a", "colod cert ca makes one"},
		{"junk authority", at(dir, "junk.pem"), at(dir, "a.pem"), at(dir, "a.key"), "a", "no certificate in"},
		{"no certificate", at(dir, "ca.pem"), at(dir, "none.pem"), at(dir, "a.key"), "a", "colod cert node makes them"},
		{"other key", at(dir, "ca.pem"), at(dir, "a.pem"), at(dir, "b.key"), "a", "private key does not match"},
		{"other node", at(dir, "ca.pem"), at(dir, "b.pem"), at(dir, "b.key"), "a", `it is for ["b"], not for node "a"`},
		{"other authority", at(other, "ca.pem"), at(dir, "a.pem"), at(dir, "a.key"), "a", "unknown authority"},
	} {
		if _, err := Load(c.ca, c.cert, c.key, c.node); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", c.name, err, c.want)
		}
	}
}

// TestReload: new files count for new connections; what cannot be used
// changes nothing.
func TestReload(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	files(t, dir, "a", "b")
	files(t, other, "a", "b")
	a, b := load(t, dir, "a"), load(t, dir, "b")
	if changed, err := a.Reload(); changed || err != nil {
		t.Fatalf("the same files: %v, %v", changed, err)
	}
	move := func(names ...string) {
		t.Helper()
		for _, n := range names {
			data, err := os.ReadFile(filepath.Join(other, n))
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, n), data, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	move("a.pem") // not its key yet
	if changed, err := a.Reload(); changed || err == nil || !strings.Contains(err.Error(), "private key does not match") {
		t.Fatalf("half of the files: %v, %v", changed, err)
	}
	move("a.key") // not its authority yet
	if changed, err := a.Reload(); changed || err == nil || !strings.Contains(err.Error(), "unknown authority") {
		t.Fatalf("of another authority: %v, %v", changed, err)
	}
	if cerr, serr := meet(t, a.Client("b"), b.Server([]string{"a"})); cerr != nil || serr != nil {
		t.Fatalf("the old ones count no longer: %v, %v", cerr, serr)
	}
	move("ca.pem")
	if changed, err := a.Reload(); !changed || err != nil {
		t.Fatalf("all of the files: %v, %v", changed, err)
	}
	cerr, serr := meet(t, a.Client("b"), b.Server([]string{"a"}))
	if cerr == nil || serr == nil || !strings.Contains(Explain(cerr).Error(), "both need the same tls.ca") {
		t.Fatalf("new a meets old b: %v, %v", Explain(cerr), serr)
	}
	move("b.pem", "b.key")
	if changed, err := b.Reload(); !changed || err != nil {
		t.Fatal(changed, err)
	}
	if cerr, serr := meet(t, a.Client("b"), b.Server([]string{"a"})); cerr != nil || serr != nil {
		t.Fatalf("new a meets new b: %v, %v", cerr, serr)
	}
}

func TestNothingIsReplaced(t *testing.T) {
	dir := t.TempDir()
	a := files(t, dir, "a")
	if err := a.Save(filepath.Join(dir, "ca.pem"), filepath.Join(dir, "ca.key")); err == nil || !strings.Contains(err.Error(), "the file exists") {
		t.Errorf("second authority: %v", err)
	}
	st, err := os.Stat(filepath.Join(dir, "a.key"))
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode of the key: %v, %v", st.Mode(), err)
	}
	again, err := LoadAuthority(filepath.Join(dir, "ca.pem"), filepath.Join(dir, "ca.key"))
	if err != nil || !again.Cert.Equal(a.Cert) {
		t.Errorf("read back: %v", err)
	}
	if _, err := LoadAuthority(filepath.Join(dir, "a.pem"), filepath.Join(dir, "a.key")); err == nil || !strings.Contains(err.Error(), "not an authority's") {
		t.Errorf("node as authority: %v", err)
	}
	for name, want := range map[string]string{"": "is empty", "192.0.2.1": "by a name, not by an address"} {
		if _, err := a.Issue(name, 0); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("issue %q: %v", name, err)
		}
	}
	n, err := a.Issue("long", 100*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(n.CertPEM, n.KeyPEM)
	if err != nil || pair.Leaf.NotAfter.After(a.Cert.NotAfter) {
		t.Errorf("a certificate outlives its authority: %v, %v", pair.Leaf.NotAfter, err)
	}
}
