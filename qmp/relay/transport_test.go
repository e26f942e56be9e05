package relay

import (
	"bytes"
	"context"
	"net"
	"path/filepath"
	"testing"
	"time"

	"colod/internal/conntest"
)

// TestCopyIsAsked: with Options.Copy nothing is spliced, and the stream is the same.
func TestCopyIsAsked(t *testing.T) {
	for _, copies := range []bool{false, true} {
		x := newChainOpt(t, false, copies)
		b := bytes.Repeat([]byte("0123456789abcdef"), 64<<10)
		go x.prim.Write(b) // a failure shows at the other end
		expect(t, x.sec, b)
		for _, r := range []*Relay{x.rp, x.rs} {
			if s := r.Stats(); s.Spliced == copies || s.Forward != uint64(len(b)) {
				t.Errorf("copy %v: %+v", copies, s)
			}
		}
	}
}

// opaque is a connection that shows no descriptor, as TLS does not.
type opaque struct{ net.Conn }

// TestFallsBackToCopying: a connection that cannot be spliced is copied without being asked for it.
func TestFallsBackToCopying(t *testing.T) {
	a, b := conntest.Loopback(t)
	dir := socketDir(t)
	in := filepath.Join(dir, "s.sock")
	l, err := net.Listen("unix", in)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	out := filepath.Join(dir, "p.sock")
	rp, err := NewPrimary(out, func(context.Context) (net.Conn, error) { return opaque{a}, nil }, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer rp.Cut()
	prim, err := net.Dial("unix", out)
	if err != nil {
		t.Fatal(err)
	}
	defer prim.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	rs, err := NewSecondary(ctx, b, in, Options{}) // its two ends are plain: it splices
	if err != nil {
		t.Fatal(err)
	}
	defer rs.Cut()
	sec, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer sec.Close()
	if err := sec.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	msg := bytes.Repeat([]byte{1, 2, 3}, 100_000)
	go prim.Write(msg) // a failure shows at the other end
	expect(t, sec, msg)
	if rp.Stats().Spliced || !rs.Stats().Spliced {
		t.Errorf("primary %+v, secondary %+v", rp.Stats(), rs.Stats())
	}
}
