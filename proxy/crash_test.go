package proxy

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"colod/internal/frame"
	"colod/netfilter"
	"colod/proxy/afpacket"
)

// crashPoint is where on the way "log, then output, then notify" the primary's node dies.
type crashPoint int

const (
	beforeLog    crashPoint = iota // the request never reached the other node
	beforeLogAck                   // the other node has it, and has answered, but this one does not know
	beforeOutput                   // both have said the answer; it has not left
	beforeNotice                   // it has left; the other node was not told
	afterNotice                    // the other node was told
)

func (c crashPoint) String() string {
	return [...]string{"before the log", "before the log is acknowledged", "after it, before output", "after output, before notification",
		"after notification"}[c]
}

// outcome of a crash, as the rules want it.
type outcome struct {
	emitted bool // the survivor sends the answer by itself, in the takeover
	// Copies of a datagram that the client gets in all. For TCP it is always exactly the stream.
	copies int
}

// TestInvariant4CrashPoints kills the primary's node at each point of the way of one answer, for each protocol. What the
// survivor sends follows from what it was told: all that it was not told to have been released, at once, and nothing else.
func TestInvariant4CrashPoints(t *testing.T) {
	want := map[crashPoint]outcome{
		beforeLog:    {emitted: false, copies: 0}, // TCP: the client sends its request again
		beforeLogAck: {emitted: true, copies: 1},
		beforeOutput: {emitted: true, copies: 1},
		beforeNotice: {emitted: true, copies: 2}, // invariant 4: only in this window may a datagram come twice
		afterNotice:  {emitted: false, copies: 1},
	}
	for _, proto := range []frame.Kind{frame.KindTCP, frame.KindUDP, frame.KindICMP} {
		for point := beforeLog; point <= afterNotice; point++ {
			t.Run(fmt.Sprintf("%v %s", proto, point), func(t *testing.T) {
				t.Parallel()
				crash(t, proto, point, want[point])
			})
		}
	}
}

// watched is the sender of an uplink that sees what leaves and can die.
type watched struct {
	Sender
	kind frame.Kind
	// before and after are called around the sending of the first answer.
	before, after func()

	mu   sync.Mutex
	dead bool
	seen int // answers sent
}

func (w *watched) Send(msgs []afpacket.Msg) (int, error) {
	answer := false
	for _, m := range msgs {
		var p frame.Parsed
		frame.Parse(bytes.Join([][]byte{m.A, m.B}, nil), &p)
		answer = answer || p.Kind == w.kind && (p.Kind != frame.KindTCP || p.Len() > 0)
	}
	if answer && w.before != nil {
		w.before()
	}
	w.mu.Lock()
	dead := w.dead
	if answer && !dead {
		w.seen++
	}
	w.mu.Unlock()
	if dead {
		return len(msgs), nil
	}
	n, err := w.Sender.Send(msgs)
	if answer && w.after != nil {
		w.after()
	}
	return n, err
}

func (w *watched) kill() {
	w.mu.Lock()
	w.dead = true
	w.mu.Unlock()
}

func (w *watched) answers() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.seen
}

// on runs fn on the thread of p.
func (p *pair) on(side int, fn func(*Proxy)) {
	p.t.Helper()
	px := p.proxy[side]
	p.must(px.call(p.ctx(), func(reply func(error)) { fn(px); reply(nil) }))
}

func crash(t *testing.T, proto frame.Kind, point crashPoint, want outcome) {
	p := newPair(t)
	p.serve(7, echo)
	for _, g := range p.guest {
		pc := g.ListenPacket(guestIP + ":7")
		go func() {
			buf := make([]byte, 2048)
			for {
				n, from, err := pc.ReadFrom(buf)
				if err != nil {
					return
				}
				pc.WriteTo(buf[:n], from)
			}
		}()
	}
	p.protect(0, 1)
	say, got, copies := p.talk(proto)
	say() // the first one makes the flow known to all
	waitFor(t, "the first answer", func() bool { return got() == 1 })
	p.rest()

	die := func(px *Proxy) { // nothing leaves any more, to anybody
		px.upTX.tx.(*watched).kill()
		if px.link != nil {
			px.link.close()
			px.link = nil
		}
	}
	p.on(0, func(px *Proxy) {
		w := &watched{Sender: px.upTX.tx, kind: proto}
		switch point {
		case beforeOutput:
			w.before = func() { die(px) }
		case beforeNotice:
			w.after = func() { die(px) }
		}
		px.upTX.tx = w
		switch point {
		case beforeLog:
			die(px)
		case beforeLogAck:
			px.linkPaused = true
		}
	})
	survivor, kept := &watched{kind: proto}, 0
	p.on(1, func(px *Proxy) {
		survivor.Sender = px.upTX.tx
		px.upTX.tx = survivor
		kept = px.pool.lent()
	})

	injected, held := p.proxy[1].Stats().Injected, p.proxy[0].Stats().Held
	say()
	switch point {
	case beforeLog:
		waitFor(t, "the primary's guest's answer", func() bool { return p.proxy[0].Stats().Held > held })
	case beforeLogAck:
		waitFor(t, "the request at the other node", func() bool { return p.proxy[1].Stats().Injected > injected })
		waitFor(t, "its description", func() bool {
			var now int
			p.on(1, func(px *Proxy) { now = px.pool.lent() })
			return now > kept
		})
	case beforeOutput, beforeNotice:
		waitFor(t, "the crash", func() bool {
			var dead bool
			p.on(0, func(px *Proxy) { dead = px.link == nil })
			return dead
		})
	case afterNotice:
		waitFor(t, "the answer", func() bool { return got() == 2 })
		p.rest()
	}
	p.on(0, die)
	p.must(p.path[0].SetMode(netfilter.Mute)) // the host is gone
	p.must(p.proxy[1].Promote(p.ctx()))
	// Of a stream, what was released is kept until the client has acknowledged it, and then sent again: the host that dies
	// may have swallowed it, and a repetition costs a client nothing.
	either := proto == frame.KindTCP && point == afterNotice
	if n := survivor.answers(); (n > 0) != want.emitted && !either {
		t.Errorf("the survivor sent %d answers in the takeover, want some: %t", n, want.emitted)
	}
	if proto == frame.KindTCP {
		waitFor(t, "the answer", func() bool { return got() == 2 })
		say()
		waitFor(t, "the next answer", func() bool { return got() == 3 })
		return
	}
	// Another request shows that the way is free, and what would have come has come.
	for n := got(); got() == n; {
		say()
		time.Sleep(20 * time.Millisecond)
	}
	if c := copies(2); c != want.copies {
		t.Errorf("the client got the answer %d times, want %d", c, want.copies)
	}
}

// talk is a client that asks: say sends the next question, got counts those that were answered, copies the answers to
// one of them.
func (p *pair) talk(proto frame.Kind) (say func(), got func() int, copies func(n int) int) {
	var mu sync.Mutex
	answers := map[byte]int{}
	asked := byte(0)
	note := func(n byte) {
		mu.Lock()
		answers[n]++
		mu.Unlock()
	}
	got = func() int { mu.Lock(); defer mu.Unlock(); return len(answers) }
	copies = func(n int) int { mu.Lock(); defer mu.Unlock(); return answers[byte(n)] }
	switch proto {
	case frame.KindTCP:
		c := p.dial(guestIP, 7)
		go func() {
			for n := byte(1); ; n++ {
				var b [1]byte
				if _, err := io.ReadFull(c, b[:]); err != nil {
					return
				}
				if b[0] != n {
					p.t.Errorf("answer %d is %d", n, b[0])
				}
				note(n)
			}
		}()
		say = func() {
			asked++
			if _, err := c.Write([]byte{asked}); err != nil {
				p.t.Error(err)
			}
		}
	case frame.KindUDP:
		pc := p.client.ListenPacket("192.0.2.1:0")
		go func() {
			var b [16]byte
			for {
				n, _, err := pc.ReadFrom(b[:])
				if err != nil {
					return
				}
				if n == 1 {
					note(b[0])
				}
			}
		}()
		to := &net.UDPAddr{IP: net.ParseIP(guestIP), Port: 7}
		say = func() {
			asked++
			if _, err := pc.WriteTo([]byte{asked}, to); err != nil {
				p.t.Error(err)
			}
		}
	case frame.KindICMP:
		var pc net.PacketConn
		p.client.Must(func() (err error) {
			pc, err = net.ListenPacket("ip4:icmp", "192.0.2.1")
			return err
		})
		p.t.Cleanup(func() { pc.Close() })
		go func() {
			var b [128]byte
			for {
				n, _, err := pc.ReadFrom(b[:])
				if err != nil {
					return
				}
				if n == 8 && b[0] == 0 {
					note(b[7])
				}
			}
		}()
		to := &net.IPAddr{IP: net.ParseIP(guestIP)}
		say = func() {
			asked++
			// Echo request, identifier 0x1234 (RFC 792).
			m := []byte{8, 0, 0, 0, 0x12, 0x34, 0, asked}
			sum := ^uint16(0x0800 + 0x1234 + uint16(asked))
			m[2], m[3] = byte(sum>>8), byte(sum)
			if _, err := pc.WriteTo(m, to); err != nil {
				p.t.Error(err)
			}
		}
	}
	return say, got, copies
}

// rest waits until all that was said on the link has arrived on both sides.
func (p *pair) rest() {
	p.t.Helper()
	waitFor(p.t, "rest on the link", func() bool {
		a, b := p.proxy[0].Stats(), p.proxy[1].Stats()
		return a.LinkOut == b.LinkIn && b.LinkOut == a.LinkIn
	})
}
