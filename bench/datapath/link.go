package datapath

import (
	"context"
	"crypto/tls"
	"net"

	"colod/bench/rig"
	"colod/internal/netnstest"
	"colod/proxy"
)

// connect makes a connection over the devices of the link: from dials 198.51.100.2, which is to's.
func connect(ctx context.Context, t *rig.TB, from, to *netnstest.NS) (near, far net.Conn) {
	ln := to.Listen("198.51.100.2:0")
	defer ln.Close()
	near, err := from.Dial(ctx, "tcp", ln.Addr().String())
	t.Must(err)
	far, err = ln.Accept()
	t.Must(err)
	return near, far
}

// Link makes a net link between two data paths, whose ends have an address each.
func Link(ctx context.Context, t *rig.TB, from, to *netnstest.NS, conf *tls.Config) (a, b *proxy.Link) {
	near, far := connect(ctx, t, from, to)
	type result struct {
		l   *proxy.Link
		err error
	}
	ch := make(chan result, 1)
	go func() {
		l, err := proxy.Handshake(ctx, far, conf, true, proxy.Hello{}, func(proxy.Hello) error { return nil })
		ch <- result{l, err}
	}()
	a, err := proxy.Handshake(ctx, near, conf, false, proxy.Hello{Pair: "bench", Session: 1}, nil)
	t.Must(err)
	r := <-ch
	t.Must(r.err)
	return a, r.l
}
