package peer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/rs/zerolog"
)

// Bounds of what strangers can cost.
const (
	preambleTimeout = 5 * time.Second
	maxHandshakes   = 64 // connections whose class is not known yet
)

// Handler takes over a connection whose preamble was read. It runs on a
// goroutine of its own and owns the connection.
type Handler func(ctx context.Context, conn net.Conn, plain bool)

// Listener accepts the connections of the other nodes.
type Listener struct {
	lns      []net.Listener
	handlers map[Class]Handler
	log      zerolog.Logger

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	slots  chan struct{}
}

// Listen opens the addresses, the first of which is needed; others may be of
// networks that are not there now, which is told in the log. Handlers are
// called from Serve on.
func Listen(addrs []string, log zerolog.Logger) (*Listener, error) {
	if len(addrs) == 0 {
		return nil, errors.New("listen for other nodes: no address")
	}
	var lns []net.Listener
	for i, addr := range addrs {
		ln, err := net.Listen("tcp", addr)
		switch {
		case err == nil:
			lns = append(lns, ln)
		case i == 0:
			return nil, fmt.Errorf("listen for other nodes: %w; is the address of this host, and is no other colod running?", err)
		default:
			log.Warn().Err(err).Msg("cannot listen on this node's further path; it is of use again after the next start of colod")
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	return &Listener{
		lns: lns, handlers: map[Class]Handler{}, log: log,
		ctx: ctx, cancel: cancel, slots: make(chan struct{}, maxHandshakes),
	}, nil
}

// Addr is the address it listens on, the first one of several.
func (l *Listener) Addr() net.Addr { return l.lns[0].Addr() }

// Handle sets the handler of a class; before Serve.
func (l *Listener) Handle(c Class, h Handler) { l.handlers[c] = h }

// Serve starts accepting.
func (l *Listener) Serve() {
	for _, ln := range l.lns {
		l.wg.Go(func() { l.accept(ln) })
	}
}

// Close stops accepting, cancels the handlers' contexts and waits for them.
func (l *Listener) Close() error {
	l.cancel()
	var errs []error
	for _, ln := range l.lns {
		errs = append(errs, ln.Close())
	}
	l.wg.Wait()
	return errors.Join(errs...)
}

func (l *Listener) accept(ln net.Listener) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			if l.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			// Out of descriptors or the like: others may be closed meanwhile.
			l.log.Warn().Err(err).Msg("cannot accept a connection")
			select {
			case <-l.ctx.Done():
				return
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		select {
		case l.slots <- struct{}{}:
		default:
			l.log.Warn().Stringer("from", conn.RemoteAddr()).Msg("too many connections that have not said what they are: one is closed")
			conn.Close()
			continue
		}
		l.wg.Add(1)
		go l.serve(conn)
	}
}

func (l *Listener) serve(conn net.Conn) {
	defer l.wg.Done()
	stop := context.AfterFunc(l.ctx, func() { conn.Close() })
	tune(conn)
	_ = conn.SetReadDeadline(time.Now().Add(preambleTimeout))
	class, plain, err := readPreamble(conn)
	<-l.slots
	if err != nil {
		stop()
		conn.Close()
		l.log.Warn().Err(err).Stringer("from", conn.RemoteAddr()).Msg("connection refused")
		return
	}
	h, ok := l.handlers[class]
	if !ok || (plain && class != ClassState && class != ClassDisk) {
		stop()
		conn.Close()
		l.log.Warn().Stringer("class", class).Bool("plain", plain).Stringer("from", conn.RemoteAddr()).Msg("connection refused: such connections are not accepted")
		return
	}
	_ = conn.SetReadDeadline(time.Time{})
	stop()
	h(l.ctx, conn, plain)
}

// Dial connects to a node and says what the connection is for. TLS is up to
// the caller.
func Dial(ctx context.Context, addr string, class Class, plain bool) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("connect to %s for %s: %w", addr, class, err)
	}
	tune(conn)
	if dl, ok := ctx.Deadline(); ok {
		_ = conn.SetWriteDeadline(dl)
	}
	if err := writePreamble(conn, class, plain); err != nil {
		conn.Close()
		return nil, fmt.Errorf("connect to %s for %s: %w", addr, class, err)
	}
	_ = conn.SetWriteDeadline(time.Time{})
	return conn, nil
}

// DialAny connects to the first of a node's addresses that answers. Each is
// given dialTimeout at most; ctx ends it all.
func DialAny(ctx context.Context, addrs []string, class Class, plain bool) (net.Conn, error) {
	if len(addrs) == 0 {
		return nil, fmt.Errorf("connect for %s: no address is known", class)
	}
	var all error
	for _, addr := range addrs {
		dctx, cancel := context.WithTimeout(ctx, dialTimeout)
		conn, err := Dial(dctx, addr, class, plain)
		cancel()
		if err == nil {
			return conn, nil
		}
		if all == nil {
			all = err
		} else {
			all = fmt.Errorf("%w; %w", all, err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, all
}
