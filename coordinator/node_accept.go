package coordinator

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"time"

	"colod/coordinator/peer"
	"colod/internal/certs"
	"colod/internal/netconn"
	"colod/proxy"
)

// handshakeTimeout bounds TLS and greeting of an incoming connection.
const handshakeTimeout = 10 * time.Second

// secure makes TLS of an accepted connection and returns the peer's name.
func (n *Node) secure(ctx context.Context, raw net.Conn) (*tls.Conn, string, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	conn := tls.Server(raw, n.id.Server(n.peers()))
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, "", fmt.Errorf("secure the connection: %w", certs.Explain(err))
	}
	name, err := certs.PeerName(conn.ConnectionState())
	if err != nil {
		raw.Close()
		return nil, "", err
	}
	return conn, name, nil
}

// refusedAgain is how long the same refusal is not told again.
const refusedAgain = 30 * time.Second

func (n *Node) refused(class peer.Class, raw net.Conn, err error) {
	// A node that is not known yet may be in the registry.
	select {
	case n.strange <- struct{}{}:
	default:
	}
	host, _, _ := net.SplitHostPort(raw.RemoteAddr().String())
	key := fmt.Sprint(class, host, err)
	n.mu.Lock()
	last := n.told[key]
	if n.told == nil || len(n.told) > 1000 {
		n.told = map[string]time.Time{}
	}
	fresh := time.Since(last) > refusedAgain
	if fresh {
		n.told[key] = time.Now()
	}
	n.mu.Unlock()
	if !fresh {
		return
	}
	n.log.Warn().Err(err).Stringer("class", class).Stringer("from", raw.RemoteAddr()).Msg("connection refused")
}

func (n *Node) handleCtl(ctx context.Context, raw net.Conn, _ bool) {
	conn, name, err := n.secure(ctx, raw)
	if err != nil {
		n.refused(peer.ClassCtl, raw, err)
		return
	}
	o := n.otherNode(name)
	if o == nil { // forgotten between the handshake and here
		raw.Close()
		return
	}
	o.link.Accept(conn)
}

func (n *Node) handleNet(ctx context.Context, raw net.Conn, _ bool) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	var d *driver
	var number uint64
	link, err := n.opt.Platform.Link(ctx, raw, n.id.Server(n.peers()), true, proxy.Hello{}, func(h proxy.Hello) error {
		d, number = n.driverOf(h.Pair), h.Session
		if d == nil {
			return fmt.Errorf("pair %q is not known here", h.Pair)
		}
		return d.expectsLink(h)
	})
	if err != nil {
		n.refused(peer.ClassNet, raw, certs.Explain(err))
		return
	}
	if err := d.acceptLink(link, raw, number); err != nil {
		link.Close()
		n.refused(peer.ClassNet, raw, err)
	}
}

func (n *Node) handleState(ctx context.Context, raw net.Conn, plain bool) {
	if err := n.takeState(ctx, raw, plain); err != nil {
		n.refused(peer.ClassState, raw, err)
		raw.Close()
	}
}

// receiveStream secures a connection of class state or disk, unless it is plain, and reads its greeting. name is the other node's
// by its certificate, "" on a plain one.
func (n *Node) receiveStream(ctx context.Context, raw net.Conn, plain bool) (conn net.Conn, name string, g *stateGreeting, err error) {
	conn = raw
	if !plain {
		if conn, name, err = n.secure(ctx, netconn.Gather(raw)); err != nil {
			return nil, "", nil, err
		}
	}
	if err = conn.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return nil, "", nil, err
	}
	g, err = readStateGreeting(conn)
	return conn, name, g, err
}

func (n *Node) takeState(ctx context.Context, raw net.Conn, plain bool) error {
	conn, name, g, err := n.receiveStream(ctx, raw, plain)
	if err != nil {
		return err
	}
	if d := n.driverOf(g.pair); d == nil {
		err = fmt.Errorf("pair %q is not known here", g.pair)
	} else {
		err = d.acceptState(ctx, conn, raw, name, g, plain)
	}
	if err != nil {
		_ = writeStateAnswer(conn, err) // the connection ends anyway
	}
	return err
}
