package compare

import (
	"testing"

	"colod/internal/frame"
	"pgregory.net/rapid"
)

// sender is one guest's side of a stream in a property test: it sends the bytes in any cuts, repeats any range that
// it has sent, and acknowledges at points of its own.
type sender struct {
	c     *conn
	say   func([]byte)
	data  []byte
	fin   bool
	nxt   int // next byte, len(data)+1 after the FIN
	acked int // client bytes acknowledged
}

// next sends the next bytes in a cut of its own.
func (s *sender) next(rt *rapid.T, win uint16) {
	switch {
	case s.nxt < len(s.data):
		n := rapid.OneOf(rapid.IntRange(1, 30), rapid.IntRange(1, 3000), rapid.Just(1448)).Draw(rt, "n")
		n = min(n, len(s.data)-s.nxt)
		flags := uint8(0)
		if s.nxt+n == len(s.data) {
			flags = frame.PSH
			if s.fin && rapid.Bool().Draw(rt, "fin with data") {
				flags |= frame.FIN
			}
		}
		s.say(s.c.data(s.nxt, s.data[s.nxt:s.nxt+n], flags, uint32(s.acked), win))
		s.nxt += n
		if flags&frame.FIN != 0 {
			s.nxt++
		}
	case s.nxt == len(s.data) && s.fin:
		s.say(s.c.data(s.nxt, nil, frame.FIN, uint32(s.acked), win))
		s.nxt++
	}
}

// again repeats a range that was sent.
func (s *sender) again(rt *rapid.T, una int, win uint16) {
	sent := min(s.nxt, len(s.data))
	if una >= sent {
		return
	}
	from := rapid.IntRange(max(0, una-20), sent-1).Draw(rt, "from")
	to := rapid.IntRange(from+1, min(sent, from+4000)).Draw(rt, "to")
	flags := uint8(0)
	if to == len(s.data) && s.nxt > len(s.data) {
		flags = frame.FIN
	}
	s.say(s.c.data(from, s.data[from:to], flags, uint32(s.acked), win))
}

func (s *sender) done() bool { return s.nxt > len(s.data) || s.nxt == len(s.data) && !s.fin }

// client is the other end: it takes what is released.
type client struct {
	piss uint32
	got  []bool // bytes of the stream, the FIN last
	una  int    // all before it is there
	data []byte
}

func (c *client) take(t *rapid.T, x *wire) {
	p := &x.p
	if p.Kind != frame.KindTCP || p.Flags&(frame.SYN|frame.RST) != 0 {
		return
	}
	at := int(int32(uint32(p.Seq) - c.piss - 1))
	for i, b := range x.payload() {
		if at+i < 0 || at+i >= len(c.data) {
			t.Fatalf("byte released outside of the stream: at %d of %d", at+i, len(c.data))
		}
		if c.data[at+i] != b {
			t.Fatalf("byte %d is wrong", at+i)
		}
		c.got[at+i] = true
	}
	if p.Flags&frame.FIN != 0 {
		if at+p.Len() != len(c.data) {
			t.Fatalf("FIN released at %d of %d", at+p.Len(), len(c.data))
		}
		c.got[len(c.data)] = true
	}
	for c.una < len(c.got) && c.got[c.una] {
		c.una++
	}
}

// TestAnySegmentationAgrees: whatever the cuts, repetitions and order on either side, one stream never diverges
// and all of it gets to the client, unchanged.
func TestAnySegmentationAgrees(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := protected(rt, Config{})
		v6, ts := rapid.Bool().Draw(rt, "v6"), rapid.Bool().Draw(rt, "ts")
		iss := rapid.OneOf(rapid.Uint32(), rapid.Just(uint32(0xffffff00)))
		p, s := twins(v6, iss.Draw(rt, "piss"), iss.Draw(rt, "siss"), iss.Draw(rt, "ciss"), ts)
		p.partial, s.partial = rapid.Bool().Draw(rt, "partial"), rapid.Bool().Draw(rt, "partial S")
		inherited := rapid.Bool().Draw(rt, "inherited")
		if inherited {
			s.iss = p.iss
		} else {
			w.open(&p, &s)
		}
		data := pattern(rapid.IntRange(1, 20000).Draw(rt, "length"))
		fin := rapid.Bool().Draw(rt, "fin")
		cl := &client{piss: p.iss, data: data, got: make([]bool, len(data)+1)}
		if !fin {
			cl.got = cl.got[:len(data)]
		}
		w.onOut = func(x *wire) { cl.take(rt, x) }
		P := &sender{c: &p, say: w.primary, data: data, fin: fin}
		S := &sender{c: &s, say: w.secondary, data: data, fin: fin}
		sent := 0 // client bytes
		const win = 900
		for steps := 0; !P.done() || !S.done(); steps++ {
			lead := rapid.IntRange(0, 9).Draw(rt, "what")
			if p.ts != 0 {
				p.ts, s.ts = p.ts+1, s.ts+1
			}
			switch {
			case lead < 3 || steps > 300:
				P.next(rt, win)
				S.next(rt, win)
			case lead == 3:
				P.next(rt, win)
			case lead == 4:
				S.next(rt, win)
			case lead == 5:
				P.again(rt, cl.una, win)
			case lead == 6:
				S.again(rt, cl.una, win)
			case lead == 7:
				if rapid.Bool().Draw(rt, "upload") {
					w.input(p.fromClient(p.iss, sent, []byte("upload"), 0, cl.una))
					sent += 6
				} else {
					w.input(p.fromClient(p.iss, sent, nil, 0, cl.una))
				}
			case lead == 8: // acknowledgements
				if rapid.Bool().Draw(rt, "who") {
					P.acked = rapid.IntRange(P.acked, sent).Draw(rt, "acked")
					w.primary(p.data(min(P.nxt, len(data)), nil, 0, uint32(P.acked), win))
				} else {
					S.acked = rapid.IntRange(S.acked, sent).Draw(rt, "acked S")
					w.secondary(s.data(min(S.nxt, len(data)), nil, 0, uint32(S.acked), win))
				}
			default:
				w.pumpA(rapid.IntRange(0, 5).Draw(rt, "pump A"))
				w.pumpB(rapid.IntRange(0, 5).Draw(rt, "pump B"))
			}
		}
		w.settle()
		w.noDivergence()
		if cl.una != len(cl.got) {
			rt.Fatalf("the client got %d of %d", cl.una, len(cl.got))
		}
		w.input(p.fromClient(p.iss, sent, nil, 0, cl.una))
		w.settle()
		w.noLoans()
	})
}
