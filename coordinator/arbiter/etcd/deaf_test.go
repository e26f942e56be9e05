package etcd

import (
	"context"
	"net"
	"strings"
	"sync"
)

// deaf is a network that carries requests to an endpoint but none of its answers, while it is on.
type deaf struct {
	mu    sync.Mutex
	addr  string
	conns []*deafConn
}

type deafConn struct {
	net.Conn
	d      *deaf
	addr   string
	closed chan struct{}
	once   sync.Once
}

type dialFunc = func(context.Context, string) (net.Conn, error)

func (d *deaf) dialer(dial dialFunc) dialFunc {
	return func(ctx context.Context, addr string) (net.Conn, error) {
		conn, err := dial(ctx, addr)
		if err != nil {
			return nil, err
		}
		c := &deafConn{Conn: conn, d: d, addr: addr, closed: make(chan struct{})}
		d.mu.Lock()
		defer d.mu.Unlock()
		d.conns = append(d.conns, c)
		return c, nil
	}
}

func (d *deaf) on(endpoint string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, d.addr, _ = strings.Cut(endpoint, "://")
}

// off breaks the connections that have missed something.
func (d *deaf) off() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.conns {
		if c.addr == d.addr {
			c.Close()
		}
	}
	d.addr = ""
}

func (c *deafConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.d.mu.Lock()
	hear := c.d.addr != c.addr
	c.d.mu.Unlock()
	if hear {
		return n, err
	}
	<-c.closed
	return 0, net.ErrClosed
}

func (c *deafConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}
