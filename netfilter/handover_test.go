package netfilter_test

import (
	"bytes"
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"colod/netfilter"
)

// TestHandOver: a guest that runs on the bridge comes into the path and is given its network back, twice; one connection
// lives through all of it, and nothing of the path is left.
func TestHandOver(t *testing.T) {
	s := newSite(t)
	s.addTap(t)
	s.vm(t)
	s.ip(t, "ip", "link", "set", "vm0", "master", "br0", "up")
	l := s.guest.Listen("192.0.2.2:0")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := s.client.Dial(ctx, "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	srv, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	n := byte(0)
	talks := func(when string) {
		t.Helper()
		for _, w := range [][2]net.Conn{{c, srv}, {srv, c}} {
			n++
			said, heard := bytes.Repeat([]byte{n}, 3000), make([]byte, 3000)
			for _, e := range w {
				e.SetDeadline(time.Now().Add(2 * patience))
			}
			if _, err := w[0].Write(said); err != nil {
				t.Fatalf("%s: %v", when, err)
			}
			for have := 0; have < len(heard); {
				m, err := w[1].Read(heard[have:])
				if err != nil {
					t.Fatalf("%s: %v", when, err)
				}
				have += m
			}
			if !bytes.Equal(said, heard) {
				t.Fatalf("%s: other bytes than those sent", when)
			}
		}
	}
	talks("on the bridge")
	before := snapshot(t, s)

	s.config.Running = true
	refused(t, s, nil, "vm0", "port of br0")
	s.config.FromBridge = true
	for range 2 {
		var p *netfilter.Path
		s.host.Must(func() (err error) { p, err = netfilter.Open(s.config); return err })
		if p.Mode() != netfilter.Pass {
			t.Fatalf("a guest that was heard begins as %v", p.Mode())
		}
		if err := p.Verify(); err != nil {
			t.Fatal(err)
		}
		talks("in the path")
		if err := p.Detach(); err != nil {
			t.Fatal(err)
		}
		s.host.Must(func() (err error) { p, err = netfilter.Open(s.config); return err })
		setMode(t, p, netfilter.Steal)
		if err := p.HandOver(); err == nil || !strings.Contains(err.Error(), "steal") {
			t.Fatalf("a guest whose frames we carry was handed over: %v", err)
		}
		setMode(t, p, netfilter.Pass)
		if err := p.HandOver(); err != nil {
			t.Fatal(err)
		}
		talks("handed over")
		if after := snapshot(t, s); after != before {
			t.Errorf("left of the path:\n%s\nbefore it:\n%s", after, before)
		}
		if err := p.HandOver(); err == nil {
			t.Error("handed over twice")
		}
	}
}
