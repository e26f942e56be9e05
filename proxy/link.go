package proxy

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Limits of the link between the two data paths.
const (
	// maxMessage bounds one message: a 64 KiB segment with its headers and
	// virtio-net header (66,048 bytes at most, see proxy/afpacket) and the
	// message's own fields.
	maxMessage = 70 * 1024
	// softBacklog is the unsent amount above which mirrored input is no longer
	// queued: the secondary is then said to have lost input, and a
	// checkpoint brings it up to date.
	softBacklog = 32 << 20
	// hardBacklog is the unsent amount at which the link is given up: the
	// peer has not read anything for that long.
	hardBacklog = 64 << 20
	// linkReadChunk is how much plaintext one read asks for; TLS records carry at most 16 KiB.
	linkReadChunk = 64 << 10
)

// ErrBacklog says that the peer stopped reading the link.
var ErrBacklog = errors.New("peer does not read the net link: unsent data exceeds 64 MiB")

// errWouldBlock is what the transport under TLS answers when the socket has
// nothing to read. It is a temporary net.Error, which crypto/tls passes on
// without ending the connection, keeping what it has of a record.
type errWouldBlock struct{}

func (errWouldBlock) Error() string   { return "would block" }
func (errWouldBlock) Timeout() bool   { return true }
func (errWouldBlock) Temporary() bool { return true }

// transport is the net.Conn below TLS. During the handshake it is the
// TCP connection; from then on it is a nonblocking descriptor: reads never
// wait, and writes go to a buffer which flush sends.
type transport struct {
	net.Conn // set during the handshake only

	fd      int
	drained bool   // the last read has taken all there was
	out     []byte // encrypted, not yet sent
}

func (t *transport) Read(b []byte) (int, error) {
	if t.Conn != nil {
		return t.Conn.Read(b)
	}
	if t.drained {
		return 0, errWouldBlock{} // what has come since, poll tells
	}
	for {
		n, err := unix.Read(t.fd, b)
		switch {
		case n > 0:
			t.drained = n < len(b)
			return n, nil
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return 0, errWouldBlock{}
		case err != nil:
			return 0, os.NewSyscallError("read", err)
		}
		return 0, io.EOF
	}
}

func (t *transport) Write(b []byte) (int, error) {
	if t.Conn != nil {
		return t.Conn.Write(b)
	}
	t.out = append(t.out, b...)
	return len(b), nil
}

// SetWriteDeadline and Close are called by crypto/tls when it ends a connection.
func (t *transport) SetWriteDeadline(d time.Time) error {
	if t.Conn != nil {
		return t.Conn.SetWriteDeadline(d)
	}
	return nil
}

func (t *transport) Close() error {
	if t.Conn != nil {
		return t.Conn.Close()
	}
	return nil
}

// flush sends what the socket takes.
func (t *transport) flush() error {
	sent := 0
	for sent < len(t.out) {
		n, err := unix.Write(t.fd, t.out[sent:])
		if n > 0 {
			sent += n
			continue
		}
		if err == unix.EINTR {
			continue
		}
		if err == unix.EAGAIN {
			break
		}
		return os.NewSyscallError("write", err)
	}
	switch {
	case sent == len(t.out):
		t.out = t.out[:0]
		if cap(t.out) > 4<<20 {
			t.out = nil
		}
	case sent > 0:
		t.out = t.out[:copy(t.out, t.out[sent:])]
	}
	if len(t.out) > hardBacklog {
		return ErrBacklog
	}
	return nil
}

// Link is the authenticated connection between the data paths of the two
// nodes of a pair (class "net"). It carries, in one order, mirrored input,
// descriptors, announcements, watermarks and checkpoint marks.
//
// A Link is made by Handshake and then belongs to one Proxy, whose thread
// alone uses it.
type Link struct {
	Peer string // name in the peer's certificate

	t      *transport
	direct *directLink // instead of t and tls
	tls    *tls.Conn
	in     []byte // plaintext, from inOff on not yet consumed
	inOff  int
	plain  []byte // messages written since the last flush
	urgent bool   // of them, one that must not wait
	since  int64  // when the first of those that may wait was left for later; 0: none was

	bytesIn, bytesOut uint64
}

// Hello is what the dialling side says of the link it wants.
type Hello struct {
	Pair    string // name of the pair, at most 255 bytes
	Session uint64 // number of this protection; both nodes know it from the ctl connection
}

const (
	helloMagic   = "colod-net"
	wireVersion  = 2
	helloReplyOK = 0
)

// Handshake makes a Link of raw, a TCP connection on which nothing but the
// class preamble was sent. conf must demand TLS 1.3 and verify the peer. On the
// dialling side hello is sent; on the server side check decides on the one
// received, and its error is shown to the peer. Handshake takes over
// raw: it is closed when an error is returned.
func Handshake(ctx context.Context, raw net.Conn, conf *tls.Config, server bool, hello Hello, check func(Hello) error) (*Link, error) {
	l, err := handshake(ctx, raw, conf, server, hello, check)
	if err != nil {
		raw.Close()
		return nil, fmt.Errorf("net link with %s: %w", raw.RemoteAddr(), err)
	}
	return l, nil
}

func handshake(ctx context.Context, raw net.Conn, conf *tls.Config, server bool, hello Hello, check func(Hello) error) (*Link, error) {
	tcp, ok := raw.(*net.TCPConn)
	if !ok {
		return nil, fmt.Errorf("not a TCP connection but %T", raw)
	}
	stop := context.AfterFunc(ctx, func() { tcp.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := tcp.SetNoDelay(true); err != nil {
		return nil, err
	}

	conf = conf.Clone()
	// Every flush is one write; records of full size cost the least.
	conf.DynamicRecordSizingDisabled = true
	conf.SessionTicketsDisabled = true
	t := &transport{Conn: tcp}
	l := &Link{t: t}
	if server {
		l.tls = tls.Server(t, conf)
	} else {
		l.tls = tls.Client(t, conf)
	}
	if err := l.tls.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	if certs := l.tls.ConnectionState().PeerCertificates; len(certs) > 0 && len(certs[0].DNSNames) > 0 {
		l.Peer = certs[0].DNSNames[0]
	}

	if server {
		h, err := readHello(l.tls)
		if err == nil {
			err = check(h)
		}
		if rerr := writeHelloReply(l.tls, err); err == nil {
			err = rerr
		}
		if err != nil {
			return nil, err
		}
	} else {
		if err := writeHello(l.tls, hello); err != nil {
			return nil, err
		}
		if err := readHelloReply(l.tls); err != nil {
			return nil, err
		}
	}
	if !stop() {
		return nil, ctx.Err()
	}
	if err := tcp.SetDeadline(time.Time{}); err != nil {
		return nil, err
	}

	// From here the descriptor is ours; the copy in the runtime's poller goes.
	sc, err := tcp.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd := -1
	var dupErr error
	if err := sc.Control(func(f uintptr) { fd, dupErr = unix.FcntlInt(f, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
		return nil, err
	}
	if dupErr != nil {
		return nil, os.NewSyscallError("fcntl", dupErr)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	tcp.Close()
	t.fd, t.Conn = fd, nil
	return l, nil
}

func writeHello(w io.Writer, h Hello) error {
	if len(h.Pair) == 0 || len(h.Pair) > 255 {
		return fmt.Errorf("pair name of %d bytes: 1 to 255 are allowed", len(h.Pair))
	}
	b := append([]byte(helloMagic), wireVersion)
	b = binary.BigEndian.AppendUint64(b, h.Session)
	b = append(b, byte(len(h.Pair)))
	b = append(b, h.Pair...)
	_, err := w.Write(b)
	return err
}

func readHello(r io.Reader) (Hello, error) {
	var b [len(helloMagic) + 1 + 8 + 1]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return Hello{}, fmt.Errorf("read hello: %w", err)
	}
	if string(b[:len(helloMagic)]) != helloMagic {
		return Hello{}, fmt.Errorf("peer does not speak colod's net protocol: it said %q", b[:len(helloMagic)])
	}
	if v := b[len(helloMagic)]; v != wireVersion {
		return Hello{}, fmt.Errorf("peer speaks version %d of the net protocol, this node version %d: run the same colod on both", v, wireVersion)
	}
	h := Hello{Session: binary.BigEndian.Uint64(b[len(helloMagic)+1:])}
	name := make([]byte, b[len(b)-1])
	if _, err := io.ReadFull(r, name); err != nil {
		return Hello{}, fmt.Errorf("read hello: %w", err)
	}
	h.Pair = string(name)
	return h, nil
}

func writeHelloReply(w io.Writer, refusal error) error {
	b := []byte{helloReplyOK, 0}
	if refusal != nil {
		s := refusal.Error()
		if len(s) > 255 {
			s = s[:255]
		}
		b = append([]byte{1, byte(len(s))}, s...)
	}
	_, err := w.Write(b)
	return err
}

func readHelloReply(r io.Reader) error {
	var b [2]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return fmt.Errorf("read reply to hello: %w", err)
	}
	text := make([]byte, b[1])
	if _, err := io.ReadFull(r, text); err != nil {
		return fmt.Errorf("read reply to hello: %w", err)
	}
	if b[0] != helloReplyOK {
		return fmt.Errorf("peer refused: %s", text)
	}
	return nil
}

// close ends the link at once.
func (l *Link) close() {
	if l.direct != nil {
		l.direct.closed()
		return
	}
	if l.t.fd >= 0 {
		unix.Close(l.t.fd)
		l.t.fd = -1
	}
}

// Close ends a link that was not given to a Proxy.
func (l *Link) Close() error { l.close(); return nil }

// backlog is the number of bytes that wait to be sent.
func (l *Link) backlog() int { return len(l.plain) + len(l.t.out) }

// pending says that something was written since the last flush.
func (l *Link) pending() bool { return len(l.plain) > 0 }

// wantWrite says that the socket should be polled for writing.
func (l *Link) wantWrite() bool { return len(l.t.out) > 0 }

// What nothing of the client's sight depends on waits up to maxLater (ns) for company: a record of its own would cost both
// nodes a system call and the other one a wake-up, in the middle of the next answer's way. Nothing counts such messages in
// less than the input log's 300 ms (proxy/inputlog); maxLaterBytes bounds them.
const (
	maxLater      = int64(20e6)
	maxLaterBytes = 4 << 10
)

// later says whether all that was written may wait.
func (l *Link) later(now int64) bool {
	if l.urgent || len(l.plain) >= maxLaterBytes {
		return false
	}
	if l.since == 0 {
		l.since = now
	}
	return now-l.since < maxLater
}

// deadline is when flush has to be called without anything having happened; 0: never.
func (l *Link) deadline() int64 {
	if l.since == 0 {
		return 0
	}
	return l.since + maxLater
}

// flush encrypts what was written since the last flush, unless it may wait, and sends what the socket takes.
func (l *Link) flush(now int64) error {
	wait := len(l.plain) > 0 && l.later(now)
	if !wait {
		l.urgent, l.since = false, 0
	}
	if l.direct != nil {
		if wait {
			return nil
		}
		return l.directFlush()
	}
	if len(l.plain) > 0 && !wait {
		l.bytesOut += uint64(len(l.plain))
		if _, err := l.tls.Write(l.plain); err != nil {
			return fmt.Errorf("write to the net link: %w", err)
		}
		l.plain = l.plain[:0]
	}
	if err := l.t.flush(); err != nil {
		return fmt.Errorf("write to the net link: %w", err)
	}
	return nil
}

// fill reads what there is. It says whether there may be more than it read,
// in the socket or, where no poll sees it, in the TLS layer.
func (l *Link) fill() (more bool, err error) {
	if l.direct != nil {
		return l.directFill()
	}
	l.t.drained = false
	for {
		if l.inOff > 0 {
			l.in = l.in[:copy(l.in, l.in[l.inOff:])]
			l.inOff = 0
		}
		if cap(l.in)-len(l.in) < linkReadChunk {
			l.in = append(make([]byte, 0, 2*cap(l.in)+linkReadChunk), l.in...)
		}
		n, err := l.tls.Read(l.in[len(l.in):cap(l.in)])
		l.in = l.in[:len(l.in)+n]
		l.bytesIn += uint64(n)
		if err != nil {
			var wb errWouldBlock
			if errors.As(err, &wb) {
				return false, nil
			}
			return false, fmt.Errorf("read from the net link: %w", err)
		}
		if len(l.in) >= 4*maxMessage {
			return true, nil // enough for one turn
		}
	}
}

// next returns the body of the next whole message, valid until the next fill, or nil.
func (l *Link) next() ([]byte, error) {
	b := l.in[l.inOff:]
	if len(b) < 4 {
		return nil, nil
	}
	n := int(binary.BigEndian.Uint32(b))
	if n < 1 || n > maxMessage {
		return nil, fmt.Errorf("net link: message of %d bytes: 1 to %d are allowed", n, maxMessage)
	}
	if len(b) < 4+n {
		return nil, nil
	}
	l.inOff += 4 + n
	return b[4 : 4+n], nil
}

// begin starts a message in the output; end closes it.
func (l *Link) begin(kind byte) int {
	at := len(l.plain)
	l.plain = append(l.plain, 0, 0, 0, 0, kind)
	return at
}

func (l *Link) end(at int) {
	l.urgent = true
	l.endLater(at)
}

// endLater is end for a message that may wait.
func (l *Link) endLater(at int) {
	binary.BigEndian.PutUint32(l.plain[at:], uint32(len(l.plain)-at-4))
}
