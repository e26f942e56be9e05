package netfilter_test

import (
	"bytes"
	"io"
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
	ends := connected(t, s.client, s.guest, "192.0.2.2")
	n := byte(0)
	talks := func(when string) {
		t.Helper()
		for i, from := range ends {
			to := ends[1-i]
			n++
			said, heard := bytes.Repeat([]byte{n}, 3000), make([]byte, 3000)
			from.SetDeadline(time.Now().Add(2 * patience))
			to.SetDeadline(time.Now().Add(2 * patience))
			if _, err := from.Write(said); err != nil {
				t.Fatalf("%s: %v", when, err)
			}
			if _, err := io.ReadFull(to, heard); err != nil {
				t.Fatalf("%s: %v", when, err)
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
