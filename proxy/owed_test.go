package proxy

import (
	"bytes"
	"io"
	"net"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"colod/internal/frame"
	"colod/proxy/afpacket"
)

// leaky is a tap that swallows segments with payload while lose is above 0.
type leaky struct {
	Sender
	lose    atomic.Int32
	swallow atomic.Int32
}

func (l *leaky) Send(msgs []afpacket.Msg) (int, error) {
	for i := range msgs {
		var p frame.Parsed
		frame.Parse(bytes.Join([][]byte{msgs[i].A, msgs[i].B}, nil), &p)
		if p.Kind == frame.KindTCP && p.Len() > 0 && l.lose.Load() > 0 {
			l.lose.Add(-1)
			l.swallow.Add(1)
			continue
		}
		if n, err := l.Sender.Send(msgs[i : i+1]); n != 1 || err != nil {
			return i, err
		}
	}
	return len(msgs), nil
}

// unacknowledged is how many bytes of c its peer has not acknowledged.
func unacknowledged(t *testing.T, c net.Conn) (n int) {
	t.Helper()
	sc, err := c.(*net.TCPConn).SyscallConn()
	if err == nil {
		cerr := sc.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.TIOCOUTQ) })
		if cerr != nil {
			err = cerr
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestInvariant3OwedInput: a client is told that its bytes arrived when they are in the other node's log, although the guest
// there has lost them; the node gives them to that guest, in lock-step and after a takeover, when no client would.
func TestInvariant3OwedInput(t *testing.T) {
	for name, lost := range map[string]int32{"lock-step": 1, "takeover": 1 << 20, "takeover, lost again": 1 << 20} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPair(t)
			p.serve(7, echo)
			p.protect(0, 1)
			c := p.dial(guestIP, 7)
			echoed := func(b byte) {
				t.Helper()
				var got [1]byte
				if _, err := io.ReadFull(c, got[:]); err != nil || got[0] != b {
					t.Fatalf("echo %d: %v %v\nA %+v\nB %+v", b, got, err, p.proxy[0].Stats(), p.proxy[1].Stats())
				}
			}
			c.Write([]byte{1})
			echoed(1)
			tap := &leaky{}
			p.on(1, func(px *Proxy) {
				tap.Sender = px.tapTX.tx
				px.tapTX.tx = tap
			})
			tap.lose.Store(lost)
			c.Write([]byte{2})
			waitFor(t, "the acknowledgement", func() bool { return unacknowledged(t, c) == 0 })
			if tap.swallow.Load() == 0 {
				t.Fatal("the secondary's guest has lost nothing")
			}
			if name == "lock-step" {
				echoed(2)
				return
			}
			if name == "takeover" {
				tap.lose.Store(0)
			} else {
				tap.lose.Store(2)
			}
			p.must(p.proxy[0].Mute(p.ctx()))
			p.must(p.proxy[1].Promote(p.ctx()))
			echoed(2)
			c.Write([]byte{3})
			echoed(3)
			waitFor(t, "the end of what is owed", func() bool {
				var left bool
				p.on(1, func(px *Proxy) { left = px.owed != nil })
				return !left
			})
		})
	}
}

// TestOwedInputBeforeArming: a new speaker is not protected before its guest has what only its node can give it: else
// the next takeover, by a node that never saw those bytes, would lose them.
func TestOwedInputBeforeArming(t *testing.T) {
	p := newPair(t)
	p.serve(7, echo)
	p.protect(0, 1)
	c := p.dial(guestIP, 7)
	c.Write([]byte{1})
	var got [1]byte
	if _, err := io.ReadFull(c, got[:]); err != nil {
		t.Fatal(err)
	}
	tap := &leaky{}
	p.on(1, func(px *Proxy) {
		tap.Sender = px.tapTX.tx
		px.tapTX.tx = tap
	})
	tap.lose.Store(1 << 20)
	c.Write([]byte{2})
	waitFor(t, "the acknowledgement", func() bool { return unacknowledged(t, c) == 0 })
	p.must(p.proxy[0].Mute(p.ctx()))
	p.must(p.proxy[1].Promote(p.ctx()))
	p.must(p.proxy[0].Mute(p.ctx())) // no orphan any more
	la, lb := p.links()
	var key [16]byte
	p.must(p.proxy[0].StartSecondary(p.ctx(), lb, Session{Key: key, TapFD: -1}))
	p.must(p.proxy[1].StartPrimary(p.ctx(), la, Session{Key: key, TapFD: -1}))
	begun := make(chan error, 1)
	go func() { begun <- p.proxy[1].BeginCheckpoint(p.ctx(), 1) }()
	waitFor(t, "the waiting checkpoint", func() bool {
		var waits bool
		p.on(1, func(px *Proxy) { waits = px.pri.arm != nil })
		return waits
	})
	select {
	case err := <-begun:
		t.Fatalf("armed while the guest is owed input: %v", err)
	default:
	}
	tap.lose.Store(0)
	if err := <-begun; err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, got[:]); err != nil || got[0] != 2 {
		t.Fatalf("echo %v, %v", got, err)
	}
}
