package client

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"colod/internal/lab/pattern"
)

// patience is how long a client waits for anything before it calls it broken.
// It is far over any pause that a takeover may cause, so that a pause is
// measured and not turned into an error.
const patience = 60 * time.Second

// window bounds the bytes on their way through an echo connection.
const window = 128 << 10

// address is where the client connects to; port is the service's own.
func (l Load) address(port int) string {
	if l.Port != 0 {
		port = l.Port
	}
	return net.JoinHostPort(l.Host, strconv.Itoa(port))
}

func dial(ctx context.Context, l Load, port int) (net.Conn, error) {
	d := net.Dialer{Timeout: patience}
	c, err := d.DialContext(ctx, "tcp", l.address(port))
	if err != nil {
		return nil, err
	}
	// Ends every blocked call when the session is abandoned.
	context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	return c, nil
}

func streamNumber(l Load) uint64 {
	h := fnv.New64a()
	io.WriteString(h, l.Name)
	return h.Sum64()
}

// echo sends the bytes of a numbered stream in pieces of random length and
// checks what comes back, byte by byte.
func echo(ctx context.Context, l Load, m *meter) error {
	c, err := dial(ctx, l, 7)
	if err != nil {
		return fmt.Errorf("echo: %w", err)
	}
	defer c.Close()
	m.update(func(r *Report) { r.Open = true })
	stream := streamNumber(l)
	var sent, got atomic.Int64
	room := make(chan struct{}, 1)
	werr := make(chan error, 1)
	wctx, end := context.WithCancel(ctx)
	defer end()
	go func() { werr <- echoWrite(wctx, l, m, c, stream, &sent, &got, room) }()

	buf := make([]byte, 64<<10)
	check := checker{stream: stream}
	for {
		c.SetReadDeadline(time.Now().Add(patience))
		n, err := c.Read(buf)
		if n > 0 {
			check.feed(buf[:n])
			now := got.Add(int64(n))
			m.heard(sent.Load() > now)
			m.update(func(r *Report) {
				r.Bytes, r.Lost, r.Repeated, r.Corrupt = int64(check.pos), check.lost, check.repeated, check.corrupt
				r.Rounds++
			})
			select {
			case room <- struct{}{}:
			default:
			}
		}
		if err == nil {
			continue
		}
		if errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() == nil && got.Load() == sent.Load() && !m.stopping() {
			continue // nothing outstanding: a slow pace, not a broken connection
		}
		if err == io.EOF && m.stopping() && got.Load() == sent.Load() {
			return nil
		}
		c.Close()
		end() // a writer that waits for room gets none any more
		if w := <-werr; w != nil && !errors.Is(w, context.Canceled) {
			err = w
		}
		return fmt.Errorf("echo after %d bytes, %d outstanding: %w", got.Load(), sent.Load()-got.Load(), err)
	}
}

func echoWrite(ctx context.Context, l Load, m *meter, c net.Conn, stream uint64, sent, got *atomic.Int64, room chan struct{}) error {
	p := newPacer(l.Rate)
	rng := rand.New(rand.NewPCG(stream, 1))
	buf := make([]byte, 16<<10)
	for !m.stopping() {
		n := 1 + rng.IntN(1400)
		if rng.IntN(8) == 0 {
			n = 1 + rng.IntN(len(buf))
		}
		for sent.Load()+int64(n)-got.Load() > window {
			select {
			case <-room:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		p.wait(m.stop, n)
		pattern.Fill(buf[:n], stream, uint64(sent.Load()))
		sent.Add(int64(n))
		m.waiting()
		c.SetWriteDeadline(time.Now().Add(patience))
		if _, err := c.Write(buf[:n]); err != nil {
			return err
		}
	}
	return c.(*net.TCPConn).CloseWrite()
}

// checker compares a stream with the pattern it should be, and finds out by how
// much it slipped when it is another.
type checker struct {
	stream                  uint64
	pos                     uint64
	lost, repeated, corrupt int64
}

// reach is how far a slip is looked for, in bytes.
const reach = 512 << 10

func (k *checker) feed(b []byte) {
	for i := 0; i < len(b); i++ {
		if b[i] == pattern.At(k.stream, k.pos) {
			k.pos++
			continue
		}
		if at, ok := k.find(b[i:]); ok {
			if at > k.pos {
				k.lost += int64(at - k.pos)
			} else {
				k.repeated += int64(k.pos - at)
			}
			k.pos = at
			i--
			continue
		}
		k.corrupt++
		k.pos++
	}
}

// find looks for the position at which the bytes belong.
func (k *checker) find(b []byte) (uint64, bool) {
	const enough = 16
	if len(b) < enough {
		return 0, false
	}
	matches := func(at uint64) bool {
		for i := range enough {
			if b[i] != pattern.At(k.stream, at+uint64(i)) {
				return false
			}
		}
		return true
	}
	for d := uint64(1); d < reach; d++ {
		if matches(k.pos + d) {
			return k.pos + d, true
		}
		if d <= k.pos && matches(k.pos-d) {
			return k.pos - d, true
		}
	}
	return 0, false
}

// udpEcho sends numbered datagrams at a steady rate and checks the answers.
func udpEcho(ctx context.Context, l Load, m *meter) error {
	d := net.Dialer{}
	c, err := d.DialContext(ctx, "udp", l.address(7))
	if err != nil {
		return fmt.Errorf("udp echo: %w", err)
	}
	defer c.Close()
	context.AfterFunc(ctx, func() { c.Close() })
	if l.Size < 16 {
		l.Size = 64
	}
	if l.Rate == 0 {
		l.Rate = 100
	}
	stream := streamNumber(l)
	seen := map[uint64]bool{}
	var sent atomic.Int64
	done := make(chan struct{})
	m.update(func(r *Report) { r.Open = true })
	go func() {
		defer close(done)
		buf := make([]byte, 64<<10)
		want := make([]byte, l.Size)
		for {
			n, err := c.Read(buf)
			if err != nil {
				if errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) {
					return
				}
				continue // an ICMP error is one datagram lost
			}
			no := uint64(0)
			if n >= 8 {
				no = binary.BigEndian.Uint64(buf)
			}
			datagram(want, stream, no)
			m.heard(false)
			m.update(func(r *Report) {
				switch {
				case n != len(want) || string(buf[:n]) != string(want) || no >= uint64(sent.Load()):
					r.Corrupt++
				case seen[no]:
					r.Repeated++
				default:
					seen[no] = true
					r.Rounds++
					r.Bytes += int64(n)
				}
			})
		}
	}()
	p := newPacer(l.Rate)
	out := make([]byte, l.Size)
	for no := uint64(0); !m.stopping() && (l.Count == 0 || no < uint64(l.Count)); no++ {
		p.wait(m.stop, 1)
		datagram(out, stream, no)
		sent.Add(1)
		m.waiting()
		if _, err := c.Write(out); err != nil && errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("udp echo: %w", err)
		}
	}
	c.SetReadDeadline(time.Now().Add(2 * time.Second))
	<-done
	m.update(func(r *Report) { r.Lost = sent.Load() - r.Rounds })
	return nil
}

// datagram is the content of the datagram with the given number.
func datagram(b []byte, stream, no uint64) {
	pattern.Fill(b, stream, no*uint64(len(b)))
	binary.BigEndian.PutUint64(b, no)
}
