package netconn

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"io"
	mrand "math/rand/v2"
	"net"
	"testing"
	"time"

	"colod/internal/conntest"
)

// tcpPair is a connection that does not wait for ever.
func tcpPair(t *testing.T) (a, b net.Conn) {
	t.Helper()
	a, b = conntest.Loopback(t)
	for _, c := range []net.Conn{a, b} {
		if err := c.SetDeadline(time.Now().Add(60 * time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	return a, b
}

// secured is a TLS connection over two gathered ends.
func secured(t *testing.T) (client, server *tls.Conn) {
	t.Helper()
	conf := conntest.TLS(t)
	a, b := tcpPair(t)
	client, server = tls.Client(Gather(a), conf), tls.Server(Gather(b), conf)
	done := make(chan error, 1)
	go func() { done <- server.Handshake() }()
	if err := client.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return client, server
}

// TestRecordsCarryAll: what goes through gathered writes and reads is the same, in pieces of all sizes.
func TestRecordsCarryAll(t *testing.T) {
	client, server := secured(t)
	w, r := RecordsOf(client), RecordsOf(server)
	if w == nil || r == nil || Bottom(client) != net.Conn(w.TCPConn) {
		t.Fatal("the connection below is not found")
	}
	const total = 16 << 20
	sent := make(chan [32]byte, 1)
	go func() {
		h, src := sha256.New(), mrand.NewChaCha8([32]byte{1})
		buf := make([]byte, 1<<20)
		for left := total; left > 0; {
			n := min(left, 1+mrand.IntN(len(buf)))
			src.Read(buf[:n])
			h.Write(buf[:n])
			w.Hold()
			if _, err := client.Write(buf[:n]); err != nil {
				t.Error(err)
			}
			if err := w.Flush(); err != nil {
				t.Error(err)
			}
			left -= n
		}
		sent <- [32]byte(h.Sum(nil))
	}()
	h, buf, several := sha256.New(), make([]byte, 256<<10), 0
	for got := 0; got < total; {
		n, err := server.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		for r.Whole() && len(buf)-n >= 1<<14 {
			m, err := server.Read(buf[n:])
			if err != nil {
				t.Fatal(err)
			}
			n += m
			several++
		}
		h.Write(buf[:n])
		got += n
	}
	if want := <-sent; [32]byte(h.Sum(nil)) != want {
		t.Error("the bytes differ")
	}
	if several == 0 {
		t.Error("never was more than one record read at once")
	}
}

// TestRecordsDelayNothing: a small write arrives although nothing follows it.
func TestRecordsDelayNothing(t *testing.T) {
	client, server := secured(t)
	buf := make([]byte, 100)
	for i := range 100 {
		msg := bytes.Repeat([]byte{byte(i)}, 1+i%7)
		w := RecordsOf(client)
		w.Hold()
		if _, err := client.Write(msg); err != nil {
			t.Fatal(err)
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(server, buf[:len(msg)]); err != nil || !bytes.Equal(buf[:len(msg)], msg) {
			t.Fatalf("message %d: %x, %v", i, buf[:len(msg)], err)
		}
	}
	// The end of the stream is seen behind the data.
	if err := client.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := server.Read(buf); err != io.EOF {
		t.Errorf("after the end: %v", err)
	}
}

// TestGatherLeavesOthers: what is not TCP is not changed.
func TestGatherLeavesOthers(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if Gather(a) != a || RecordsOf(a) != nil {
		t.Error("a pipe was taken for TCP")
	}
}
