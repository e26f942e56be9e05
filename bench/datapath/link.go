package datapath

import (
	"context"
	"crypto/tls"
	"net"

	"colod/bench/rig"
	"colod/internal/netnstest"
	"colod/proxy"
)

// linkAddr is where the link's far end listens.
const linkAddr = "198.51.100.2:0"

// connect makes a connection over the devices of the link: from dials 198.51.100.2, which is to's.
func connect(ctx context.Context, t *rig.TB, from, to *netnstest.NS) (near, far net.Conn) {
	ln := to.Listen(linkAddr)
	defer ln.Close()
	near, err := from.Dial(ctx, "tcp", ln.Addr().String())
	t.Must(err)
	far, err = ln.Accept()
	t.Must(err)
	return near, far
}

// shake makes a link of a connection.
func shake(ctx context.Context, raw net.Conn, conf *tls.Config, server bool) (*proxy.Link, error) {
	if server {
		return proxy.Handshake(ctx, raw, conf, true, proxy.Hello{}, func(proxy.Hello) error { return nil })
	}
	return proxy.Handshake(ctx, raw, conf, false, proxy.Hello{Pair: "bench", Session: 1}, nil)
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
		l, err := shake(ctx, far, conf, true)
		ch <- result{l, err}
	}()
	a, err := shake(ctx, near, conf, false)
	t.Must(err)
	r := <-ch
	t.Must(r.err)
	return a, r.l
}
