package peer

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"colod/internal/certs"
)

// LinkOptions describe the link to one other node.
type LinkOptions struct {
	Self, Peer string
	// Addrs are the peer's addresses, the one to try first in front.
	Addrs    func() []string
	Boot     uint64
	Version  string
	Identity *certs.Identity
	Interval time.Duration // between heartbeats
	Timeout  time.Duration // silence after which Down is called
	Log      zerolog.Logger

	// Steady reports whether the peer is heard in another way than over this
	// link's connection. While it is, a connection that breaks or is silent is
	// made anew, and only after SteadyTimeout the peer counts as lost. Nil means
	// that it never is.
	Steady func() bool
	// Secured gets the state of each new connection before, Greeted after the
	// nodes have greeted each other: what both sides take from it for
	// themselves is expected when Greeted comes. Both may be nil.
	Secured func(cs *tls.ConnectionState) error
	Greeted func(cs *tls.ConnectionState)

	// The callbacks come from one goroutine at a time each and must not
	// block. Up comes with every new connection, Down when the other node is
	// considered lost, Message with every message of a pair, or of NodeItself.
	Up      func()
	Down    func(reason string)
	Message func(pair, kind string, body []byte)
}

// NodeItself stands for the name of a pair in messages that are about the
// nodes. It is no pair's name.
const NodeItself = "@"

// SteadyTimeout is how long a connection may be away while the peer is heard
// in another way.
const SteadyTimeout = 2 * time.Second

// Limits of the link.
const (
	sendQueue    = 1024 // frames; more unsent ones end the connection
	helloTimeout = 5 * time.Second
	dialTimeout  = 2 * time.Second
	redialMin    = 50 * time.Millisecond
	redialMax    = time.Second
)

// Link is the ctl connection to one other node: one at a time, made anew
// whenever it breaks. The node with the smaller name dials.
type Link struct {
	o     LinkOptions
	start time.Time

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu   sync.Mutex
	conn *linkConn // the present connection, or nil
	up   bool      // Up was called and Down was not
	live *liveness

	rtt     atomic.Int64 // of the last heartbeat, ns
	version atomic.Pointer[string]
}

// linkConn is one connection.
type linkConn struct {
	tls  *tls.Conn
	out  chan *frame
	done chan struct{}
	once sync.Once
	why  error
	echo atomic.Pointer[echo] // of the last beat received
}

// echo is what is sent back of a heartbeat.
type echo struct {
	time int64         // its sender's
	at   time.Duration // when it was received
}

// end closes the connection; the first reason counts.
func (c *linkConn) end(why error) {
	c.once.Do(func() {
		c.why = why
		close(c.done)
		// The underlying connection, so that nothing waits for a close_notify.
		c.tls.NetConn().Close()
	})
}

// NewLink makes a link; nothing happens before Start. Connections of class
// ctl whose certificate names the peer are given to Accept.
func NewLink(o LinkOptions) *Link {
	ctx, cancel := context.WithCancel(context.Background())
	l := &Link{o: o, start: time.Now(), ctx: ctx, cancel: cancel}
	l.live = newLiveness(o.Interval, o.Timeout, 0)
	return l
}

// Start begins to send heartbeats and, on the node that has to, to connect.
func (l *Link) Start() {
	l.wg.Add(1)
	go l.watch()
	if l.o.Self < l.o.Peer {
		l.wg.Add(1)
		go l.dialLoop()
	}
}

// Close ends the link and waits for its goroutines. No callback comes
// afterwards.
func (l *Link) Close() {
	l.cancel()
	l.mu.Lock()
	if l.conn != nil {
		l.conn.end(errors.New("link is being closed"))
	}
	l.mu.Unlock()
	l.wg.Wait()
}

// RTT is the time of the last heartbeat to the peer and back; 0 = not known.
func (l *Link) RTT() time.Duration { return time.Duration(l.rtt.Load()) }

// PeerVersion is the software version that the peer told, or "".
func (l *Link) PeerVersion() string {
	if p := l.version.Load(); p != nil {
		return *p
	}
	return ""
}

// Send queues a message of a pair. Without a connection it is dropped: the
// machines tell each other anew where they stand at every connection.
func (l *Link) Send(pair, kind string, body any) {
	b, err := json.Marshal(body)
	if err != nil {
		l.o.Log.Error().Err(err).Str("kind", kind).Msg("cannot encode a message")
		return
	}
	l.mu.Lock()
	c := l.conn
	l.mu.Unlock()
	if c != nil {
		c.send(&frame{Pair: &note{Name: pair, Kind: kind, Body: b}})
	}
}

func (c *linkConn) send(f *frame) {
	select {
	case c.out <- f:
	default:
		c.end(fmt.Errorf("peer does not read: %d frames are unsent", sendQueue))
	}
}

// Cut ends the present connection, so that another is made; the peer does not
// count as lost by that.
func (l *Link) Cut(reason string) {
	l.mu.Lock()
	c := l.conn
	l.mu.Unlock()
	if c != nil {
		c.end(errors.New(reason))
	}
}

// Lost tells the link that the peer is known to be lost in another way than by
// its silence here.
func (l *Link) Lost(reason string) {
	l.mu.Lock()
	c, up := l.conn, l.up
	l.up = false
	l.mu.Unlock()
	if c != nil {
		c.end(errors.New(reason))
	}
	if up {
		l.o.Down(reason)
	}
}

// Addrs are the two ends of the present connection; nil if there is none.
func (l *Link) Addrs() (local, remote net.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn == nil {
		return nil, nil
	}
	c := l.conn.tls.NetConn()
	return c.LocalAddr(), c.RemoteAddr()
}

// limit is the silence after which the peer counts as lost.
func (l *Link) limit() time.Duration {
	if l.o.Steady != nil && l.o.Steady() {
		return max(l.o.Timeout, SteadyTimeout)
	}
	return l.o.Timeout
}

// watch counts silence and sends heartbeats.
func (l *Link) watch() {
	defer l.wg.Done()
	t := time.NewTicker(l.o.Interval / 2)
	defer t.Stop()
	var seq uint64
	for i := 0; ; i++ {
		select {
		case <-l.ctx.Done():
			return
		case <-t.C:
		}
		now, limit := time.Since(l.start), l.limit()
		l.mu.Lock()
		c := l.conn
		l.live.timeout = limit
		down := l.live.look(now) && l.up
		if down {
			l.up = false
		}
		l.mu.Unlock()
		if c != nil && i%2 == 0 {
			seq++
			b := &beat{Seq: seq, Time: int64(now)}
			if e := c.echo.Load(); e != nil {
				b.Echo, b.Held = e.time, int64(now-e.at)
			}
			c.send(&frame{Beat: b})
		}
		if down {
			if c != nil {
				c.end(fmt.Errorf("silent for %s", limit))
			}
			l.o.Down(fmt.Sprintf("nothing was heard of it for %s", limit))
		}
	}
}

func (l *Link) dialLoop() {
	defer l.wg.Done()
	wait := redialMin
	var last string
	for l.ctx.Err() == nil {
		began := time.Now()
		err := l.dial()
		if l.ctx.Err() != nil {
			return
		}
		if s := err.Error(); s != last {
			last = s
			l.o.Log.Info().Str("peer", l.o.Peer).Err(err).Msg("no ctl connection")
		}
		if time.Since(began) > 2*redialMax {
			wait = redialMin
		}
		select {
		case <-l.ctx.Done():
			return
		case <-time.After(wait):
		}
		wait = min(2*wait, redialMax)
	}
}

// dial makes one connection and serves it until it ends.
func (l *Link) dial() error {
	raw, err := DialAny(l.ctx, l.o.Addrs(), ClassCtl, false)
	if err != nil {
		return err
	}
	return l.run(raw, tls.Client(raw, l.o.Identity.Client(l.o.Peer)))
}

// Accept serves a connection that the peer made, after its TLS handshake,
// until it ends.
func (l *Link) Accept(conn *tls.Conn) {
	l.mu.Lock()
	if l.ctx.Err() != nil {
		l.mu.Unlock()
		conn.NetConn().Close()
		return
	}
	l.wg.Add(1)
	l.mu.Unlock()
	defer l.wg.Done()
	if err := l.run(conn.NetConn(), conn); l.ctx.Err() == nil {
		l.o.Log.Info().Str("peer", l.o.Peer).Err(err).Msg("ctl connection ended")
	}
}

// run makes the connection the link's present one, and reads it.
func (l *Link) run(raw net.Conn, conn *tls.Conn) error {
	stop := context.AfterFunc(l.ctx, func() { raw.Close() })
	defer stop()
	defer raw.Close()
	_ = raw.SetDeadline(time.Now().Add(helloTimeout))
	if err := conn.HandshakeContext(l.ctx); err != nil {
		return fmt.Errorf("secure the connection: %w", certs.Explain(err))
	}
	state := conn.ConnectionState()
	name, err := certs.PeerName(state)
	if err != nil {
		return err
	}
	if name != l.o.Peer {
		return fmt.Errorf("the certificate is of node %q, not of %q", name, l.o.Peer)
	}
	if l.o.Secured != nil {
		if err := l.o.Secured(&state); err != nil {
			return err
		}
	}
	hi, err := appendFrame(nil, &frame{Hello: &hello{Node: l.o.Self, Boot: l.o.Boot, Version: l.o.Version}})
	if err != nil {
		return err
	}
	if _, err := conn.Write(hi); err != nil {
		return fmt.Errorf("say hello: %w", err)
	}
	r := bufio.NewReader(conn)
	f, buf, err := readFrame(r, nil)
	switch {
	case err != nil:
		return fmt.Errorf("read hello: %w", certs.Explain(err))
	case f.Hello == nil:
		return fmt.Errorf("%w: the first one is no hello", ErrFrame)
	case f.Hello.Node != l.o.Peer:
		return fmt.Errorf("%w: hello of %q over the certificate of %q", ErrFrame, f.Hello.Node, l.o.Peer)
	}
	l.version.Store(&f.Hello.Version)
	_ = raw.SetDeadline(time.Time{})

	c := &linkConn{tls: conn, out: make(chan *frame, sendQueue), done: make(chan struct{})}
	if !l.adopt(c) {
		return errors.New("link is being closed")
	}
	var wg sync.WaitGroup
	wg.Go(func() { c.write(l.o.Timeout) })
	if l.o.Greeted != nil {
		l.o.Greeted(&state)
	}
	l.o.Up()
	err = l.read(c, r, buf)
	c.end(err)
	wg.Wait()
	l.mu.Lock()
	if l.conn == c {
		l.conn = nil
	}
	l.mu.Unlock()
	return c.why
}

// adopt makes c the present connection; an older one ends.
func (l *Link) adopt(c *linkConn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ctx.Err() != nil {
		return false
	}
	if l.conn != nil {
		l.conn.end(errors.New("replaced by a newer connection"))
	}
	l.conn = c
	l.up = true
	l.live.heard()
	return true
}

func (l *Link) read(c *linkConn, r *bufio.Reader, buf []byte) error {
	for {
		f, b, err := readFrame(r, buf)
		if err != nil {
			select {
			case <-c.done:
				return c.why
			default:
			}
			return err
		}
		buf = b
		l.mu.Lock()
		if l.conn != c {
			l.mu.Unlock()
			return errors.New("replaced by a newer connection")
		}
		l.live.heard()
		back := !l.up // silent for too long on a connection that was not closed yet
		l.up = true
		l.mu.Unlock()
		if back {
			l.o.Up()
		}
		switch {
		case f.Beat != nil:
			now := time.Since(l.start)
			c.echo.Store(&echo{time: f.Beat.Time, at: now})
			if f.Beat.Echo > 0 {
				if rtt := int64(now) - f.Beat.Echo - f.Beat.Held; rtt > 0 {
					l.rtt.Store(rtt)
				}
			}
		case f.Pair != nil:
			l.o.Message(f.Pair.Name, f.Pair.Kind, f.Pair.Body)
		default:
			return fmt.Errorf("%w: a second hello", ErrFrame)
		}
	}
}

// write sends what is queued; several frames that wait go in one record.
func (c *linkConn) write(timeout time.Duration) {
	var buf []byte
	for {
		var f *frame
		select {
		case <-c.done:
			return
		case f = <-c.out:
		}
		buf = buf[:0]
		for {
			var err error
			if buf, err = appendFrame(buf, f); err != nil {
				c.end(err)
				return
			}
			if len(buf) >= MaxFrame || len(c.out) == 0 {
				break
			}
			f = <-c.out
		}
		_ = c.tls.SetWriteDeadline(time.Now().Add(max(timeout, time.Second)))
		if _, err := c.tls.Write(buf); err != nil {
			c.end(fmt.Errorf("send: %w", err))
			return
		}
	}
}
