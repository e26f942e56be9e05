package datapath

import (
	"context"
	"crypto/tls"

	"colod/bench/rig"
	"colod/internal/netnstest"
	"colod/proxy"
)

// Link makes a net link between two data paths, whose ends have an address each: from's dials 198.51.100.2, which is to's.
func Link(ctx context.Context, t *rig.TB, from, to *netnstest.NS, conf *tls.Config) (a, b *proxy.Link) {
	ln := to.Listen("198.51.100.2:0")
	defer ln.Close()
	type result struct {
		l   *proxy.Link
		err error
	}
	ch := make(chan result, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			ch <- result{nil, err}
			return
		}
		l, err := proxy.Handshake(ctx, c, conf, true, proxy.Hello{}, func(proxy.Hello) error { return nil })
		ch <- result{l, err}
	}()
	c, err := from.Dial(ctx, "tcp", ln.Addr().String())
	t.Must(err)
	a, err = proxy.Handshake(ctx, c, conf, false, proxy.Hello{Pair: "bench", Session: 1}, nil)
	t.Must(err)
	r := <-ch
	t.Must(r.err)
	return a, r.l
}
