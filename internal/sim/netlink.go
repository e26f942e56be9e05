package sim

import (
	"encoding/binary"
	"errors"

	"colod/internal/frame"
	"colod/proxy"
)

// pipe is the connection between two data paths: TCP, so each direction is in order until it breaks.
type pipe struct {
	w       *world
	session string
	end     [2]*pipeEnd
}

type pipeEnd struct {
	p      *pipe
	n      *node
	run    int
	other  *pipeEnd
	link   *proxy.Link
	closed bool
	broken bool // told that the other side has gone
	out    stream
	sent   []uint32 // datagrams that were released by this side's data path
}

var errEOF = errors.New("EOF")

// newPipe connects the data paths of a (the speaker) and b.
func newPipe(a, b *node, session string) *pipe {
	p := &pipe{w: a.w, session: session}
	for i, n := range []*node{a, b} {
		p.end[i] = &pipeEnd{p: p, n: n, run: n.run}
	}
	p.end[0].other, p.end[1].other = p.end[1], p.end[0]
	for _, e := range p.end {
		e.link = proxy.NewDirectLink(e.other.n.name, e.send, e.close)
		e.out = stream{w: a.w, passes: e.passes}
	}
	return p
}

func (e *pipeEnd) alive() bool { return !e.closed && e.n.run == e.run && e.n.up }

func (e *pipeEnd) send(b []byte) {
	w := e.p.w
	told := e.toldBy(b)
	if w.opt.Mutation == WatermarkIgnored {
		b = withoutWatermarks(w, b)
	} else {
		b = w.mem.copy(b)
	}
	e.pass(b, told)
}

// pass lets a batch travel. told is how many of the released datagrams it tells of.
func (e *pipeEnd) pass(b []byte, told int) {
	o := e.other
	e.out.put(e.delay(), func() {
		o.n.colodRun(o.run, 0, func() {
			if !o.alive() || o.broken {
				return
			}
			o.link.Feed(b)
			for _, id := range e.sent[:told] {
				o.n.told[id] = true
			}
			e.p.w.reached(o.n, b)
			o.n.turnSoon()
		})
	})
}

func (e *pipeEnd) delay() int64 { return 20*us + e.p.w.rng.Int64N(e.p.w.plan.wire) }

// passes says that what this side sends reaches the other one.
func (e *pipeEnd) passes() bool {
	return !e.other.alive() || e.other.broken || e.other.n.hearsWire(e.n)
}

// close is called by the data path here.
func (e *pipeEnd) close() {
	if e.closed {
		return
	}
	e.closed = true
	e.hangUp()
}

// hangUp tells the other side that this one has gone, behind all that is on its way.
func (e *pipeEnd) hangUp() {
	o := e.other
	e.out.put(e.delay(), func() {
		o.n.colodRun(o.run, 0, func() {
			if o.alive() && !o.broken {
				o.broken = true
				o.link.Break(errEOF)
				o.n.turnSoon()
			}
		})
	})
}

// cut breaks the connection for both sides, with what is on its way.
func (p *pipe) cut() {
	for _, e := range p.end {
		if !e.broken && e.alive() {
			e.broken = true
			e.link.Break(errEOF)
			e.n.turnSoon()
		}
	}
}

// messages calls f for each whole message of a batch.
func messages(b []byte, f func(kind byte, body, whole []byte)) {
	for len(b) >= 5 {
		n := 4 + int(binary.BigEndian.Uint32(b))
		f(b[4], b[5:n], b[:n])
		b = b[n:]
	}
}

// toldBy counts which released datagrams the batch tells the other node of: a flow's watermark follows its release in
// the same turn, so a batch with one tells of all before.
func (e *pipeEnd) toldBy(b []byte) int {
	told := 0
	if len(e.sent) == 0 {
		return 0
	}
	messages(b, func(kind byte, body, _ []byte) {
		if proxy.WireWatermark(kind) && frame.Kind(body[4]) != frame.KindTCP {
			told = len(e.sent)
		}
	})
	return told
}

func withoutWatermarks(w *world, b []byte) []byte {
	out := w.mem.get(len(b))[:0]
	messages(b, func(kind byte, body, whole []byte) {
		if proxy.WireWatermark(kind) && frame.Kind(body[4]) != frame.KindTCP {
			return
		}
		out = append(out, whole...)
	})
	return out
}

// reached notes the client bytes that the node has got by a batch.
func (w *world) reached(n *node, b []byte) {
	if n.role() != "secondary" {
		return
	}
	messages(b, func(kind byte, body, _ []byte) {
		if !proxy.WireInput(kind) {
			return
		}
		var p frame.Parsed
		frame.Parse(body[8:], &p)
		if p.Kind != frame.KindTCP {
			return
		}
		if f := w.flows[p.SrcPort]; f != nil {
			f.arrived(n.i, uint32(p.Seq)-f.t.iss-1, uint32(p.SegEnd()-p.Seq))
		}
	})
}
