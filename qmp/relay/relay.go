package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"colod/internal/netconn"
)

// ErrCut is the reason of a relay that ended by [Relay.Cut].
var ErrCut = errors.New("cut")

// Options of a relay; the zero value is good.
type Options struct {
	// OnCheckpoint, if set, is told of each completed checkpoint, on the relay's goroutine before the
	// back channel's last message is passed on: it must not block.
	OnCheckpoint func(Checkpoint)
	// Copy moves the forward stream through our own memory although the kernel could splice it. It is what happens anyway where
	// one end is no plain socket (TLS), where splicing fails before the first byte, or where there is no descriptor for its pipe.
	Copy bool
	// OnEnd, if set, is called once when the relay has ended, with the reason.
	OnEnd func(error)
}

// Stats of a relay up to now.
type Stats struct {
	Forward     uint64     // bytes from the primary's QEMU to the secondary's, counted as they are taken
	Back        uint64     // bytes the other way
	Checkpoints uint64     // completed
	Phase       Phase      // of the present checkpoint
	Last        Checkpoint // the last completed one; zero before
	Primary     bool       // it is the relay of the primary's side
	Unread      bool       // the receiving side of this relay does not take what it is given just now
	Spliced     bool       // the kernel moves the forward bytes without copying them to us
}

// Relay is one state stream. A relay serves one COLO session: the next generation needs a new one.
type Relay struct {
	opt    Options
	sock   string
	listen *net.UnixListener // primary only
	cancel context.CancelFunc
	wg     sync.WaitGroup
	done   chan struct{}

	forward atomic.Uint64
	spliced atomic.Bool
	writing atomic.Bool
	track   tracker

	mu    sync.Mutex
	err   error
	cut   bool
	conns []net.Conn
	late  []net.Conn // shut down; closed when nobody reads them any more
}

// NewPrimary listens on the unix socket sock for the primary's QEMU (command migrate). When it
// connects, dial gives the connection to the other node's relay: authenticated, plain TCP or TLS
// over it; the relay owns it from then on. A stale socket file is replaced.
func NewPrimary(sock string, dial func(context.Context) (net.Conn, error), opt Options) (*Relay, error) {
	if err := removeSocket(sock); err != nil {
		return nil, fmt.Errorf("listen for QEMU's state stream: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: sock, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen for QEMU's state stream: %w", err)
	}
	if err := os.Chmod(sock, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("listen for QEMU's state stream: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &Relay{opt: opt, sock: sock, listen: l, cancel: cancel, done: make(chan struct{})}
	r.wg.Add(1)
	go func() {
		defer r.wg.Done()
		r.servePrimary(ctx, dial)
	}()
	go r.reap()
	return r, nil
}

// NewSecondary joins conn, the connection from the primary's relay (which it owns from then on, also
// when it fails), with the unix socket on which the secondary's QEMU listens (command
// migrate-incoming).
func NewSecondary(ctx context.Context, conn net.Conn, sock string, opt Options) (*Relay, error) {
	u, err := (&net.Dialer{}).DialContext(ctx, "unix", sock)
	if err != nil {
		netconn.CloseHard(conn)
		return nil, fmt.Errorf("connect to QEMU's state socket: %w", err)
	}
	r := &Relay{opt: opt, sock: sock, cancel: func() {}, done: make(chan struct{})}
	r.wg.Add(1)
	go func() {
		defer r.wg.Done()
		r.join(conn, u)
	}()
	go r.reap()
	return r, nil
}

func removeSocket(path string) error {
	st, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case st.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s exists and is not a socket", path)
	}
	return os.Remove(path)
}

func (r *Relay) servePrimary(ctx context.Context, dial func(context.Context) (net.Conn, error)) {
	u, err := r.listen.Accept()
	r.listen.Close() // one session; a second connection must be refused, not queued
	if err != nil {
		r.end(fmt.Errorf("wait for QEMU: %w", err))
		return
	}
	if !r.own(u) {
		return
	}
	c, err := dial(ctx)
	if err != nil {
		r.end(fmt.Errorf("connect to the other node: %w", err))
		return
	}
	r.join(u, c)
}

// join moves bytes until both directions have ended. from is the primary's side.
func (r *Relay) join(from, to net.Conn) {
	if !r.own(from) || !r.own(to) {
		return
	}
	noDelay(from)
	noDelay(to)
	r.track.start(time.Now(), &r.forward)
	back := make(chan struct{})
	r.wg.Add(1)
	go func() {
		defer r.wg.Done()
		defer close(back)
		err := r.pumpBack(from, to)
		if err != nil {
			err = fmt.Errorf("back: %w", err)
		}
		r.end(err) // nothing can be answered any more: this ends the other direction too
	}()
	if err := r.pumpForward(to, from); err != nil {
		r.end(fmt.Errorf("forward: %w", err))
		return
	}
	// The primary's side has closed and everything was handed over. Let the other one see the end
	// behind the data, and give it a moment to close by itself.
	if netconn.CloseWrite(to) == nil {
		t := time.NewTimer(lingerTime)
		defer t.Stop()
		select {
		case <-back:
		case <-t.C:
		}
	}
	r.end(io.EOF)
}

// lingerTime is what the far side gets to close by itself after a stream that ended in order.
const lingerTime = 200 * time.Millisecond

// own makes the relay close c at its end; false, with c closed, when it has ended already.
func (r *Relay) own(c net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cut {
		netconn.CloseHard(c)
		return false
	}
	for _, o := range r.conns {
		if o == c {
			return true
		}
	}
	r.conns = append(r.conns, c)
	return true
}

// end closes everything, once; the first reason stays.
func (r *Relay) end(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cut {
		return
	}
	r.cut = true
	if err == nil {
		err = io.EOF // closed in order
	}
	r.err = err
	r.cancel()
	if r.listen != nil {
		r.listen.Close()
	}
	for _, c := range r.conns {
		u, unix := c.(*net.UnixConn)
		switch {
		case unix:
			// QEMU can neither read nor write from now on, but what it has written stays readable: whether the
			// secondary has said that it has all of a checkpoint must not depend on who was quicker.
			_ = u.CloseRead()
			_ = u.CloseWrite()
			r.late = append(r.late, c)
		case errors.Is(err, io.EOF):
			netconn.Bottom(c).Close() // what was sent may still arrive
		default:
			netconn.CloseHard(c)
		}
	}
	r.conns = nil
}

func (r *Relay) reap() {
	r.wg.Wait()
	r.end(io.EOF)
	for _, c := range r.late {
		c.Close()
	}
	close(r.done)
	if r.opt.OnEnd != nil {
		r.opt.OnEnd(r.Err())
	}
}

// Cut closes both sides and stops listening, dropping what is under way. When it returns, QEMU has
// seen the end of its stream. It does not depend on the peer being alive. It may be called more than
// once, and not from OnCheckpoint or OnEnd.
func (r *Relay) Cut() {
	r.end(ErrCut)
	<-r.done
}

// Done is closed when the relay has ended and all of it is closed.
func (r *Relay) Done() <-chan struct{} { return r.done }

// Err returns nil while the relay lives, [ErrCut] after Cut, io.EOF when one side closed in order,
// or what broke it.
func (r *Relay) Err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// Stats returns the counters.
func (r *Relay) Stats() Stats {
	s := r.track.stats()
	s.Forward = r.forward.Load()
	s.Spliced = r.spliced.Load()
	s.Primary = r.listen != nil
	s.Unread = r.writing.Load()
	return s
}

func noDelay(c net.Conn) {
	if t, ok := netconn.Bottom(c).(*net.TCPConn); ok {
		_ = t.SetNoDelay(true) // the default of Go's; harmless where it fails
	}
}
