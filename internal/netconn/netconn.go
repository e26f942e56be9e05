// Package netconn closes connections in ways that net.Conn does not offer. TLS over TCP counts as the TCP connection below.
package netconn

import (
	"errors"
	"net"
)

// Bottom returns the connection under TLS, or c itself.
func Bottom(c net.Conn) net.Conn {
	for {
		u, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			return c
		}
		c = u.NetConn()
	}
}

// CloseHard closes a connection without the courtesies that could block on a frozen peer: TLS's closing alert, unsent
// data.
func CloseHard(c net.Conn) {
	b := Bottom(c)
	if t, ok := b.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	b.Close()
}

// ErrNoHalfClose is returned by CloseWrite for a connection that can only be closed as a whole.
var ErrNoHalfClose = errors.New("no half close")

// CloseWrite ends the stream towards the peer behind the data already written.
func CloseWrite(c net.Conn) error {
	if w, ok := c.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return ErrNoHalfClose
}
