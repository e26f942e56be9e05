package sim

import (
	"encoding/binary"

	"colod/internal/frame"
)

// client is a host in the clients' network: it holds one TCP connection at a time, and sends datagrams and echoes.
type client struct {
	w    *world
	i    int
	flow *flow
	at   int64 // when the newest frame to the guest arrives, where the network keeps order

	timerAt int64
	served  int // answers in all
	asked   int // connections in all
	grams   int // datagrams answered
}

// flow is one connection, with its whole history.
type flow struct {
	c    *client
	port uint16
	t    tcp
	open bool // the SYN+ACK has come

	requests int // that the client will send
	sent     int
	answered int
	answerAt uint32 // where the answer that is read begins
	askAt    int64  // when the next request is written
	lost     bool   // given up: its guest is no more

	// What was released so far, decided once: bytes, the beginning and the end of the stream.
	hist   []byte
	known  []bool
	issSet bool
	iss    uint32
	fin    int64 // place, -1: none yet

	got [maxNodes][]span // client bytes that reached a node by the net link, in this session
}

const synTries = 200 * ms

// talk opens a connection.
func (c *client) talk() {
	w := c.w
	if w.quiet {
		return
	}
	w.port++
	c.asked++
	f := &flow{c: c, port: w.port, requests: 1 + w.rnd(8), fin: -1}
	f.t = tcp{iss: uint32(w.rng.Uint64()), rto: synTries, cwnd: maxFly, ts: w.plan.timestamps && w.rnd(4) != 0}
	w.flows[f.port] = f
	c.flow = f
	f.syn()
	c.arm()
}

func (f *flow) syn() {
	p := packet{client: f.c.i, port: f.port, flags: frame.SYN, seq: f.t.iss, proto: frame.ProtoTCP, win: 60000, ts: f.t.ts, tsVal: f.c.clock()}
	f.c.send(&p)
	f.t.rtoAt = f.c.w.now + f.t.rto
	f.t.rto = min(2*f.t.rto, rtoMax)
}

// clock is the client's TCP clock, ms.
func (c *client) clock() uint32 { return uint32(c.w.now/ms) + 7000*uint32(c.i) }

// arm sets the event of the client's next timer.
func (c *client) arm() {
	f := c.flow
	if f == nil {
		return
	}
	at := f.t.nextTimer()
	if f.askAt != 0 && (at == 0 || f.askAt < at) {
		at = f.askAt
	}
	if at == 0 || c.timerAt != 0 && c.timerAt <= at {
		return
	}
	c.timerAt = at
	w := c.w
	w.after(max(at-w.now, 0), func() {
		if c.timerAt == at {
			c.timerAt = 0
			c.timers()
		}
	})
}

func (c *client) timers() {
	f := c.flow
	if f == nil {
		return
	}
	w, t := c.w, &f.t
	if t.rtoAt != 0 && w.now >= t.rtoAt {
		switch {
		case !f.open:
			f.syn()
		case t.una == t.top:
			t.rtoAt = 0
		default:
			t.timeout(w.now)
			f.output()
		}
		if t.rto == rtoMax {
			c.whoHas()
		}
	}
	if f.askAt != 0 && w.now >= f.askAt {
		f.askAt = 0
		f.ask()
	}
	if t.ackAt != 0 && w.now >= t.ackAt {
		f.ack()
	}
	c.arm()
}

// ask writes the next request, or closes.
func (f *flow) ask() {
	if f.sent == f.requests {
		f.t.closed = true
	} else {
		f.t.wr += reqLen(f.port, f.sent)
		f.sent++
		if f.sent < f.requests && f.c.w.rnd(4) == 0 { // without waiting for the answer
			f.t.wr += reqLen(f.port, f.sent)
			f.sent++
		}
	}
	f.output()
}

func (f *flow) output() {
	w := f.c.w
	if !f.open {
		return
	}
	for {
		cut := uint32(mss)
		if w.rnd(8) == 0 {
			cut = 1 + uint32(w.rnd(mss))
		}
		seq, n, fin, ok := f.t.next(w.now, cut)
		if !ok {
			return
		}
		p := packet{client: f.c.i, port: f.port, seq: f.t.iss + 1 + seq}
		if n > 0 {
			p.payload = request(f.port, seq, int(n))
			p.flags = frame.PSH
		}
		if fin {
			p.flags |= frame.FIN
		}
		f.t.header(&p, f.c.clock())
		f.t.told()
		f.c.send(&p)
	}
}

func (f *flow) ack() {
	p := packet{client: f.c.i, port: f.port, seq: f.t.iss + 1 + f.t.nxt}
	f.t.header(&p, f.c.clock())
	f.t.told()
	f.c.send(&p)
}

// send gives a frame to the network.
func (c *client) send(p *packet) {
	w := c.w
	p.partial = w.plan.partial
	b := w.mem.get(p.size())
	p.build(b)
	if w.tracing && w.verbose {
		w.logf("client %d: %s", c.i, w.show(b))
	}
	c.carry(b)
	if w.plan.lossy && w.rnd(60) == 0 {
		if p.proto != frame.ProtoTCP {
			w.grams[binary.BigEndian.Uint32(p.payload)]++ // answered twice
		}
		c.carry(w.mem.copy(b))
	}
}

// carry brings a frame to the port where the switch believes the guest to be.
func (c *client) carry(b []byte) {
	w := c.w
	if w.plan.lossy && w.rnd(60) == 0 {
		return
	}
	at := w.now + w.plan.lan + w.rng.Int64N(w.plan.lan+1)
	if w.plan.lossy && w.rnd(60) == 0 {
		at += w.rng.Int64N(20 * ms)
	} else {
		at = max(at, c.at)
		c.at = at
	}
	w.after(at-w.now, func() {
		if w.lanAt != nil {
			w.lanAt.port(b)
			return
		}
		for _, n := range w.nodes {
			n.port(w.mem.copy(b))
		}
	})
}

// whoHas asks all nodes for the guest's address again, as hosts do that get no answer for a while.
func (c *client) whoHas() {
	w := c.w
	for _, n := range w.nodes {
		b := arp(w, c.i, false)
		w.after(w.plan.lan, func() { n.port(b) })
	}
}

// port is where a frame reaches a node.
func (n *node) port(b []byte) {
	if n.powered && !n.paused {
		n.fromLAN(b)
		return
	}
	if n.powered {
		n.kernel(0, func() { n.fromLAN(b) })
	}
}

// receive takes a frame that was released to this client.
func (c *client) receive(b []byte) {
	w := c.w
	var p frame.Parsed
	frame.Parse(b, &p)
	if p.Kind != frame.KindTCP {
		c.grams++
		return
	}
	f := c.flow
	if f == nil || f.port != p.DstPort {
		return
	}
	t := &f.t
	if p.Flags&frame.RST != 0 {
		f.reset()
		return
	}
	if p.Flags&frame.SYN != 0 {
		if !f.open {
			f.open = true
			t.irs, t.ts = uint32(p.Seq), t.ts && p.HasTS
			t.tsRecent, t.rtoAt, t.rto = p.TSVal, 0, rtoMin
			f.askAt = w.now + w.plan.think(w)
		}
		f.ack()
		c.arm()
		return
	}
	if !f.open {
		return
	}
	if t.ts && p.HasTS {
		if int32(p.TSVal-t.tsRecent) < 0 { // RFC 7323 section 5.3
			w.stats.paws++
			f.ack()
			return
		}
		t.tsRecent = p.TSVal
	}
	t.acked(w.now, uint32(p.Ack)-t.iss-1)
	_, ackNow := t.receive(w.now, uint32(p.Seq)-t.irs-1, uint32(p.Len()), p.Flags&frame.FIN != 0)
	f.read()
	f.output()
	if ackNow {
		f.ack()
	}
	if t.done() || f.over() {
		c.finish()
	}
	c.arm()
}

// over says that nothing more is to come but repetitions.
func (f *flow) over() bool { return f.t.done() }

// read takes whole answers.
func (f *flow) read() {
	w := f.c.w
	got := f.t.rcv
	if f.t.finSeen && int32(f.t.rcv-f.t.finAt) > 0 {
		got = f.t.finAt
	}
	for got-f.answerAt >= 2 && int(got) <= len(f.hist) {
		n := uint32(f.hist[f.answerAt])<<8 | uint32(f.hist[f.answerAt+1])
		if got-f.answerAt < n {
			return
		}
		f.answerAt += n
		f.answered++
		f.c.served++
		w.stats.answers++
		if f.answered == f.sent && f.askAt == 0 && !f.t.closed {
			f.askAt = w.now + w.plan.think(w)
		}
	}
}

// reset is what a client sees of a reset connection.
func (f *flow) reset() {
	w := f.c.w
	if !f.lost && !f.t.closed && !w.forced {
		w.fail("reset", "a living connection of client %d (port %d) was reset", f.c.i, f.port)
	}
	f.c.finish()
}

// finish ends a connection; a new one begins some time later.
func (c *client) finish() {
	c.flow = nil
	c.w.stats.flows++
	c.w.after(c.w.plan.think(c.w), func() {
		if c.flow == nil {
			c.talk()
		}
	})
}

// arrived notes client bytes [seq, seq+n) that node i has got.
func (f *flow) arrived(i int, seq, n uint32) {
	if n == 0 {
		return
	}
	g := f.got[i]
	if k := len(g); k > 0 && int32(seq-g[k-1].b) <= 0 && int32(seq-g[k-1].a) >= 0 {
		if int32(seq+n-g[k-1].b) > 0 {
			g[k-1].b = seq + n
		}
		return
	}
	f.got[i] = append(g, span{seq, seq + n})
}

// reach is how far without a gap node i has client bytes, if its guest has those before from.
func (f *flow) reach(i int, from uint32) uint32 {
	for again := true; again; {
		again = false
		for _, s := range f.got[i] {
			if int32(s.a-from) <= 0 && int32(s.b-from) > 0 {
				from, again = s.b, true
			}
		}
	}
	return from
}

// datagrams lets the client ask by UDP and ICMP now and then.
func (c *client) datagrams() {
	w := c.w
	if w.quiet {
		return
	}
	w.grams = append(w.grams, 1)
	id := uint32(len(w.grams) - 1)
	for _, n := range w.nodes {
		n.told = append(n.told, false)
	}
	pay := []byte{byte(id >> 24), byte(id >> 16), byte(id >> 8), byte(id), 1, 2, 3, 4}
	p := packet{client: c.i, port: uint16(5000 + c.i), proto: frame.ProtoUDP, payload: pay}
	if id%3 == 0 {
		p.proto = frame.ProtoICMP
	}
	c.send(&p)
	w.after(w.plan.think(w), c.datagrams)
}
