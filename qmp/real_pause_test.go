package qmp

import (
	"context"
	"crypto/tls"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"colod/internal/conntest"
	"colod/internal/netnstest"
	"colod/qmp/relay"
)

// pauses takes n checkpoints of an idle guest and returns how long it stood still, sorted.
func pauses(t testing.TB, p *VM, n int) []time.Duration {
	t.Helper()
	ctx := testContext(t, 120*time.Second)
	var d []time.Duration
	for range n {
		c, err := p.Checkpoint(ctx)
		if err != nil {
			t.Fatal(err)
		}
		d = append(d, c.Pause())
		time.Sleep(time.Millisecond)
	}
	slices.Sort(d)
	return d
}

func quantile(d []time.Duration, q float64) time.Duration {
	return d[min(len(d)-1, int(q*float64(len(d))))]
}

// twoNodes makes two hosts with a link between them.
func twoNodes(t testing.TB) (a, b *netnstest.NS) {
	a, b = netnstest.New(t, "a"), netnstest.New(t, "b")
	netnstest.Veth(a, "repl", b, "repl")
	a.Addr("repl", "198.51.100.1/24")
	b.Addr("repl", "198.51.100.2/24")
	return a, b
}

func launchIn(t testing.TB, ns *netnstest.NS, name string, incoming bool) *VM {
	t.Helper()
	cfg := testConfig(t, name)
	cfg.Memory = 256 << 20
	var v *VM
	if err := ns.Do(func() (err error) {
		v, err = Launch(testContext(t, 30*time.Second), cfg, incoming)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	endAtCleanup(t, v)
	return v
}

// relayPair protects a VM over a connection that dial and accept (on the listener of node b) make.
func relayPair(t testing.TB, a, b *netnstest.NS, wrap func(c net.Conn, server bool) net.Conn) (*VM, *relay.Relay) {
	t.Helper()
	ctx := testContext(t, 60*time.Second)
	p, s := launchIn(t, a, "p", false), launchIn(t, b, "s", true)
	var l net.Listener
	if err := b.Do(func() (err error) {
		l, err = net.Listen("tcp", "198.51.100.2:0")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	in, out := filepath.Join(s.RunDir(), "state.sock"), filepath.Join(p.RunDir(), "state.sock")
	if err := s.PrepareSecondary(ctx, in); err != nil {
		t.Fatal(err)
	}
	rs := make(chan *relay.Relay, 1)
	go func() {
		defer close(rs)
		c, err := l.Accept()
		l.Close()
		if err != nil {
			t.Error(err)
			return
		}
		r, err := relay.NewSecondary(ctx, wrap(c, true), in, relay.Options{})
		if err != nil {
			t.Error(err)
			return
		}
		rs <- r
	}()
	rp, err := relay.NewPrimary(out, func(ctx context.Context) (net.Conn, error) {
		c, err := a.Dial(ctx, "tcp", l.Addr().String())
		if err != nil {
			return nil, err
		}
		return wrap(c, false), nil
	}, relay.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		rp.Cut()
		if r := <-rs; r != nil {
			r.Cut()
		}
	})
	if _, err := p.StartColo(ctx, out); err != nil {
		t.Fatal(err)
	}
	return p, rp
}

// TestRealPause compares the pause of an idle guest over the relay with that over QEMU's own TCP
// channel, in the same run, TCP between two network namespaces. COLOD_LONG=1 takes 100 checkpoints
// of each instead of a few.
func TestRealPause(t *testing.T) {
	many, few := 50, 10
	if os.Getenv("COLOD_LONG") != "" {
		many, few = 100, 100
	}
	a, b := twoNodes(t)
	report := func(name string, p *VM, n int) time.Duration {
		d := pauses(t, p, n)
		t.Logf("%-16s %3d checkpoints: p50 %v p90 %v p99 %v max %v", name, n, quantile(d, 0.5), quantile(d, 0.9), quantile(d, 0.99), d[len(d)-1])
		return quantile(d, 0.5)
	}
	p, r := relayPair(t, a, b, func(c net.Conn, _ bool) net.Conn { return c })
	plain := report("relay, plain", p, many)
	s := r.Stats()
	if !s.Spliced {
		t.Error("the kernel did not splice")
	}
	if s.Checkpoints != uint64(many) {
		t.Errorf("relay counted %d checkpoints, want %d", s.Checkpoints, many)
	}
	t.Logf("%-16s last: %d bytes, stop %v transfer %v load %v", "", s.Last.Bytes, s.Last.Stop, s.Last.Transfer, s.Last.Load)

	conf := conntest.TLS(t)
	conf.DynamicRecordSizingDisabled = true
	p, r = relayPair(t, a, b, func(c net.Conn, server bool) net.Conn {
		if server {
			return tls.Server(c, conf)
		}
		return tls.Client(c, conf)
	})
	report("relay, TLS", p, many)
	if s := r.Stats(); s.Spliced || s.Checkpoints != uint64(many) {
		t.Errorf("TLS relay: %+v", s)
	}

	ctx := testContext(t, 60*time.Second)
	p = launchIn(t, a, "p", false)
	sec := launchIn(t, b, "s", true)
	if err := sec.prepareSecondary(ctx, "tcp:198.51.100.2:4444"); err != nil {
		t.Fatal(err)
	}
	if _, err := p.startColo(ctx, "tcp:198.51.100.2:4444"); err != nil {
		t.Fatal(err)
	}
	if own := report("QEMU's own TCP", p, few); own < 2*plain {
		t.Errorf("the relay's median pause %v is not clearly below that of QEMU's own TCP, %v", plain, own)
	}
}
