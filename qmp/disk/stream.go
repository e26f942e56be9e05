package disk

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

// ErrCut is the reason of a stream that ended by [Stream.Cut].
var ErrCut = errors.New("cut")

// StreamStats of a stream up to now.
type StreamStats struct {
	Out   uint64 // bytes from the primary's QEMU to the other node's
	In    uint64 // bytes the other way
	Conns int    // NBD connections open now
}

// Stream carries the NBD connections of one session between the two QEMUs: unix sockets to QEMU, connections
// to the other node's stream between them. It is the fence of replicated writes: a QEMU that waits for a
// node that froze goes on as soon as [Stream.Cut] has closed its end; closing it is needed, as QEMU does not
// leave a full socket that was only shut down.
//
// On the primary it ends as a whole with the first connection that the other side breaks: a client of NBD
// connects again by itself, and what it could not write in between would be missing there for ever.
type Stream struct {
	onEnd    func(error)
	onRefuse func(error)       // secondary only
	listen   *net.UnixListener // primary only
	ctx      context.Context
	cancel   context.CancelFunc
	wg       sync.WaitGroup
	done     chan struct{}

	out, in atomic.Uint64

	mu    sync.Mutex
	ended bool
	err   error
	conns map[net.Conn]struct{}
}

const (
	streamBuffer = 256 << 10
	// orderlyWait is how long an end that the other node saw first may be ahead of QEMU's own close.
	orderlyWait = 500 * time.Millisecond
	streamDial  = 5 * time.Second
)

func newStream(onEnd func(error)) *Stream {
	s := &Stream{onEnd: onEnd, done: make(chan struct{}), conns: map[net.Conn]struct{}{}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.wg.Add(1) // until end
	return s
}

// NewPrimaryStream listens on the unix socket sock for the primary's QEMU. For each of its connections dial
// makes one to the other node, authenticated, plain TCP or TLS; the stream owns it. A stale socket file is
// replaced. onEnd, which may be nil, is called once when the stream has ended.
func NewPrimaryStream(sock string, dial func(context.Context) (net.Conn, error), onEnd func(error)) (*Stream, error) {
	fail := func(err error) (*Stream, error) { return nil, fmt.Errorf("listen for QEMU's disk stream: %w", err) }
	if st, err := os.Lstat(sock); err == nil {
		if st.Mode().Type() != fs.ModeSocket {
			return fail(fmt.Errorf("%s exists and is not a socket", sock))
		}
		if err := os.Remove(sock); err != nil {
			return fail(err)
		}
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: sock, Net: "unix"})
	if err != nil {
		return fail(err)
	}
	if err := os.Chmod(sock, 0o600); err != nil {
		l.Close()
		return fail(err)
	}
	s := newStream(onEnd)
	s.listen = l
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		for {
			u, err := l.Accept()
			if err != nil {
				return // closed by end
			}
			s.wg.Add(1)
			go func() {
				defer s.wg.Done()
				s.servePrimary(u, dial)
			}()
		}
	}()
	go s.reap()
	return s, nil
}

// NewSecondaryStream makes the other node's end; [Stream.Join] gives it its connections. onRefuse, which may be
// nil, is called with each request of the primary's that the images here refused, before the primary learns it:
// they lack something that its guest takes for written. It must not block.
func NewSecondaryStream(onRefuse func(error)) *Stream {
	s := newStream(nil)
	s.onRefuse = onRefuse
	go s.reap()
	return s
}

func (s *Stream) servePrimary(u net.Conn, dial func(context.Context) (net.Conn, error)) {
	if !s.own(u) {
		return
	}
	ctx, cancel := context.WithTimeout(s.ctx, streamDial)
	c, err := dial(ctx)
	cancel()
	if err != nil {
		s.end(fmt.Errorf("connect to the other node: %w", err))
		return
	}
	if !s.own(c) {
		return
	}
	quit := make(chan struct{}) // closed when QEMU closes its side
	var up sync.WaitGroup
	up.Go(func() {
		err := move(c, u, &s.out, nil)
		close(quit)
		if err != nil && !errors.Is(err, errRead) {
			s.end(fmt.Errorf("send to the other node: %w", err))
			return
		}
		_ = netconn.CloseWrite(c) // QEMU closed it, or is gone: the other side may close by itself
	})
	err = move(u, c, &s.in, nil)
	select {
	case <-quit:
		err = nil
	case <-s.ctx.Done():
	default:
		if err == nil { // closed in order: by QEMU's own wish, or by the other side alone?
			select {
			case <-quit:
			case <-s.ctx.Done():
			case <-time.After(orderlyWait):
				err = errors.New("the other node closed it")
			}
		}
	}
	if err != nil {
		s.end(fmt.Errorf("disk connection lost: %w", err))
	}
	s.drop(u)
	s.drop(c)
	up.Wait()
}

// Join joins conn, from the primary's stream (which it owns from then on, also when it fails), with the unix
// socket of the secondary's NBD server. It returns when both are connected.
func (s *Stream) Join(ctx context.Context, conn net.Conn, sock string) error {
	u, err := (&net.Dialer{}).DialContext(ctx, "unix", sock)
	if err != nil {
		netconn.CloseHard(conn)
		return fmt.Errorf("connect to QEMU's disk export: %w", err)
	}
	if !s.own(conn) {
		u.Close()
		return fmt.Errorf("join disk connection: %w", s.Err())
	}
	if !s.own(u) {
		return fmt.Errorf("join disk connection: %w", s.Err())
	}
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return fmt.Errorf("join disk connection: %w", ErrCut)
	}
	s.wg.Add(1)
	s.mu.Unlock()
	go func() {
		defer s.wg.Done()
		var up sync.WaitGroup
		up.Go(func() {
			_ = move(u, conn, &s.out, nil)
			_ = netconn.CloseWrite(u)
		})
		var answers replies
		_ = move(conn, u, &s.in, func(b []byte) {
			if err := answers.saw(b); err != nil && s.onRefuse != nil {
				s.onRefuse(err)
			}
		})
		_ = netconn.CloseWrite(conn)
		t := time.AfterFunc(orderlyWait, func() { s.drop(conn); s.drop(u) })
		up.Wait()
		t.Stop()
		s.drop(conn)
		s.drop(u)
	}()
	return nil
}

// own makes the stream close c at its end; false, with c closed, when it has ended already.
func (s *Stream) own(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		netconn.CloseHard(c)
		return false
	}
	s.conns[c] = struct{}{}
	return true
}

// drop closes a connection that has done its work.
func (s *Stream) drop(c net.Conn) {
	s.mu.Lock()
	_, there := s.conns[c]
	delete(s.conns, c)
	s.mu.Unlock()
	if there {
		netconn.Bottom(c).Close()
	}
}

// end closes everything, once; the first reason stays.
func (s *Stream) end(err error) {
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return
	}
	s.ended, s.err = true, err
	s.cancel()
	if s.listen != nil {
		s.listen.Close()
	}
	for c := range s.conns {
		netconn.CloseHard(c)
	}
	clear(s.conns)
	s.mu.Unlock()
	s.wg.Done()
}

func (s *Stream) reap() {
	s.wg.Wait()
	close(s.done)
	if s.onEnd != nil {
		s.onEnd(s.Err())
	}
}

// Cut closes everything and stops listening, dropping what is under way. It does not depend on the other node
// being alive, and may be called more than once, but not from onEnd.
func (s *Stream) Cut() {
	s.end(ErrCut)
	<-s.done
}

// Done is closed when the stream has ended and all of it is closed.
func (s *Stream) Done() <-chan struct{} { return s.done }

// Err returns nil while the stream lives, [ErrCut] after Cut, or what broke it.
func (s *Stream) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Stats returns the counters.
func (s *Stream) Stats() StreamStats {
	s.mu.Lock()
	n := len(s.conns)
	s.mu.Unlock()
	return StreamStats{Out: s.out.Load(), In: s.in.Load(), Conns: n / 2}
}

var errRead = errors.New("read")

// move copies until the end of from (nil), showing each piece to see, if that is set, before it is passed on. The
// error wraps errRead if reading failed, not writing.
func move(to io.Writer, from io.Reader, count *atomic.Uint64, see func([]byte)) error {
	buf := make([]byte, streamBuffer)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			count.Add(uint64(n))
			if see != nil {
				see(buf[:n])
			}
			if _, err := to.Write(buf[:n]); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("%w: %w", errRead, err)
		}
	}
}
