package e2e

import (
	"net"
	"testing"
	"time"

	"colod/internal/lab"
)

// TestWires cuts and mends the wires of a lab's hosts: a cut is silent, and an
// open connection goes on where it was once the wire is mended.
func TestWires(t *testing.T) {
	l := up(t, "wires", lab.Options{Bare: true})
	var ln net.Listener
	if err := l.In(lab.NodeB, func() (err error) {
		ln, err = net.Listen("tcp", lab.NodeBIPv4+":7420")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var c net.Conn
	if err := l.In(lab.NodeA, func() (err error) {
		c, err = net.Dial("tcp", ln.Addr().String())
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()

	passes := func(limit time.Duration) bool {
		t.Helper()
		if _, err := c.Write([]byte{1}); err != nil {
			t.Fatalf("the wire is not silent: %v", err)
		}
		s.SetReadDeadline(time.Now().Add(limit))
		n, err := s.Read(make([]byte, 16))
		if err != nil && !err.(net.Error).Timeout() {
			t.Fatalf("the wire is not silent: %v", err)
		}
		return n > 0
	}
	if !passes(time.Minute) {
		t.Fatal("nothing passes at first")
	}
	for _, node := range []string{"", lab.NodeA, lab.NodeB} {
		fault(t, l, lab.Partition, node)
		if passes(500 * time.Millisecond) {
			t.Errorf("partition of %q: a byte passed", node)
		}
		for _, n := range lab.Nodes {
			if err := l.Rejoin(t.Context(), n); err != nil {
				t.Fatal(err)
			}
		}
		if !passes(time.Minute) {
			t.Errorf("partition of %q: nothing passes after mending", node)
		}
	}
}
