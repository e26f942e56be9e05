package etcd

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	"colod/coordinator/arbiter"
	lab "colod/internal/lab/etcd"
	"colod/internal/netnstest"
)

// TestHostVanishes: three members on hosts of their own, of which one is gone without a word: no reset, no refusal.
func TestHostVanishes(t *testing.T) {
	sw := netnstest.New(t, "sw")
	client := netnstest.New(t, "client")
	join := func(n *netnstest.NS, port, addr string) {
		t.Helper()
		netnstest.Veth(n, "eth0", sw, port)
		if _, err := n.Run("ip", "addr", "add", addr+"/24", "dev", "eth0"); err != nil {
			t.Fatal(err)
		}
	}
	var members []lab.Member
	var ports []string
	join(client, "pc", "198.51.100.1")
	ports = append(ports, "pc")
	for i := range 3 {
		n := netnstest.New(t, fmt.Sprintf("m%d", i+1))
		port, addr := fmt.Sprintf("p%d", i+1), fmt.Sprintf("198.51.100.%d", 11+i)
		join(n, port, addr)
		ports = append(ports, port)
		members = append(members, lab.Member{Name: fmt.Sprintf("m%d", i+1), Namespace: n.Name(), Address: addr})
	}
	sw.Bridge("br0", ports...)
	c := newCluster(t, 0, func(cfg *lab.Config) { cfg.Members = members })
	a := c.open(t, func(cfg *Config) {
		cfg.Dial = func(ctx context.Context, addr string) (net.Conn, error) { return client.Dial(ctx, "tcp", addr) }
	})
	cur := must(t, a, arbiter.Record{}, record("p", 1, "a", ""))
	for round := range 2 {
		gone := c.leader(t, a)
		a.preferred.Store(uint32(gone)) // the worst case: leader, and the one that would be asked first
		sw.Down(fmt.Sprintf("p%d", gone+1))
		began := time.Now()
		cur = must(t, a, cur, record("p", cur.Generation+1, "b", ""))
		first := time.Since(began)
		began = time.Now()
		cur = must(t, a, cur, record("p", cur.Generation+1, "b", "a"))
		t.Logf("round %d: the leader's host vanished: swap took %v, the next one %v", round, first.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
		sw.Up(fmt.Sprintf("p%d", gone+1))
		if err := c.WaitHealthy(t.Context(), gone); err != nil {
			t.Fatal(err)
		}
	}
	// Cut off itself, the node is told that nobody answers, and goes on when it is back.
	sw.Down("pc")
	if _, err := a.Get(within(t, time.Second), "p"); err == nil {
		t.Error("read while cut off")
	}
	sw.Up("pc")
	holds(t, a, cur)
}

// TestNothingIsLeft: opening and closing, with members alive, gone and frozen, leaves no goroutine (see open) and no
// descriptor.
func TestNothingIsLeft(t *testing.T) {
	c := newCluster(t, 3)
	if err := c.Kill(0); err != nil {
		t.Fatal(err)
	}
	if err := c.Pause(1); err != nil {
		t.Fatal(err)
	}
	round := func() {
		a, err := Open(t.Context(), c.config(t))
		if err != nil {
			t.Fatal(err)
		}
		ch, err := a.Watch(t.Context(), "p")
		if err != nil {
			t.Fatal(err)
		}
		// Without a majority these fail in all ways.
		_, _ = a.Get(within(t, 100*time.Millisecond), "p")
		_, _ = a.Swap(within(t, 100*time.Millisecond), arbiter.Record{}, record("p", 1, "a", ""))
		_ = a.Check(within(t, 100*time.Millisecond))
		if err := a.Close(); err != nil {
			t.Error(err)
		}
		for range ch {
		}
	}
	round()
	before := openFiles(t)
	for range 20 {
		round()
	}
	// The kernel's and the runtime's own may still be on their way.
	for deadline := time.Now().Add(longEnough); openFiles(t) > before; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d descriptors after 20 rounds, %d after the first", openFiles(t), before)
		}
	}
	if err := c.Continue(1); err != nil {
		t.Fatal(err)
	}
}
