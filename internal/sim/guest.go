package sim

import (
	"bytes"

	"colod/internal/frame"
)

const (
	maxConns   = 6
	maxChunks  = 12
	maxClients = 4
)

// guest is the state of a guest: what a checkpoint copies. It has no pointers.
type guest struct {
	incarnation int // which guest: a cold start or a reset makes a new one
	conns       [maxConns]conn
	udp         [maxClients]uint32 // datagrams answered
	echo        [maxClients]uint32

	tsBase uint32 // TCP's clock (ms) at tsAt
	tsAt   int64
}

// conn is the guest's end of a connection.
type conn struct {
	t     tcp
	used  bool
	peer  int8
	port  uint16
	state uint8
	last  int64 // last use

	chunks [maxChunks]chunk // of the answers, from the oldest that is not acknowledged
	nchunk int8
	served uint16 // requests answered
	reqEnd uint32 // where the request that is awaited ends
	appAt  int64  // when the application answers
}

const (
	connSYN uint8 = iota + 1 // SYN seen, SYN+ACK sent
	connOpen
)

// chunk is a piece of an answer: content begins at noise[at].
type chunk struct {
	start, n uint32
	at       uint16
}

// The application: request k of a connection has reqLen(port, k) bytes; it is answered by a number of bytes that the
// answer begins with (two bytes).
func reqLen(port uint16, k int) uint32 {
	h := mix(uint32(port), uint32(k)+7)
	if h&15 == 0 {
		return 2000 + h>>8%3000 // an upload
	}
	return 30 + h>>8%200
}

func respLen(port uint16, k int) uint32 {
	h := mix(uint32(port), uint32(k)+77)
	if h&15 == 0 {
		return 3000 + h>>8%4000 // a download
	}
	return 20 + h>>8%600
}

// clock is the guest's TCP clock, ms.
func (v *vm) clock() uint32 {
	return v.g.tsBase + uint32(v.n.local(v.n.w.now-v.g.tsAt)/ms)
}

// guestRead gives the guest the next frame that waits in its device.
func (v *vm) guestRead() {
	n := v.n
	if !v.running() || len(n.tapq) == 0 {
		return
	}
	buf := n.tapq[0]
	n.tapq = n.tapq[1:]
	var p frame.Parsed
	frame.Parse(buf, &p)
	if !p.Verify(buf) {
		n.w.fail("checksum", "%s: the guest was given a frame with a wrong checksum", n.name)
	}
	client := int(p.Src[15]) - clientHost
	if p.Kind == frame.KindARP {
		n.fromGuest(arp(n.w, int(ether(buf, 31))-clientHost, true))
		return
	}
	if client < 0 || client >= maxClients {
		return
	}
	switch p.Kind {
	case frame.KindTCP:
		v.segment(client, buf, &p)
	case frame.KindUDP:
		v.g.udp[client]++
		v.answerDatagram(frame.ProtoUDP, client, p.SrcPort, buf[p.Payload:p.End], v.g.udp[client])
	case frame.KindICMP:
		v.g.echo[client]++
		v.answerDatagram(frame.ProtoICMP, client, p.SrcPort, buf[p.Payload:p.End], 0)
	}
	v.arm()
}

// answerDatagram repeats the question, with a count behind it unless it is an echo.
func (v *vm) answerDatagram(proto uint8, client int, port uint16, q []byte, count uint32) {
	w := v.n.w
	pay := w.mem.get(len(q) + 2)
	copy(pay, q)
	pay[len(q)], pay[len(q)+1] = byte(count>>8), byte(count)
	if count == 0 {
		pay = pay[:len(q)]
	} else if w.plan.volatile && w.rnd(8) == 0 {
		pay[len(q)] ^= byte(w.rnd(256)) // the guests differ here
	}
	v.say(&packet{fromGuest: true, client: client, port: port, proto: proto, payload: pay})
}

// ether is a byte of the Ethernet frame in buf.
func ether(buf []byte, at int) byte { return buf[frame.VnetLen+at] }

func (v *vm) find(client int, port uint16) *conn {
	for i := range v.g.conns {
		if c := &v.g.conns[i]; c.used && c.port == port && int(c.peer) == client {
			return c
		}
	}
	return nil
}

func (v *vm) segment(client int, buf []byte, p *frame.Parsed) {
	w := v.n.w
	c := v.find(client, p.SrcPort)
	syn := p.Flags&(frame.SYN|frame.ACK) == frame.SYN
	switch {
	case p.Flags&frame.RST != 0:
		if c != nil {
			c.used = false
		}
		return
	case c == nil && syn || c != nil && syn && uint32(p.Seq) != c.t.irs:
		if c == nil {
			c = v.slot()
		}
		*c = conn{used: true, peer: int8(client), port: p.SrcPort, state: connSYN}
		c.t = tcp{iss: uint32(w.rng.Uint64()), irs: uint32(p.Seq), rto: rtoMin, cwnd: maxFly, ts: p.HasTS, tsRecent: p.TSVal}
		c.reqEnd = reqLen(c.port, 0)
		c.last = w.now
		v.synAck(c)
		return
	case c == nil:
		if p.Flags&frame.ACK != 0 {
			v.say(&packet{fromGuest: true, client: client, port: p.SrcPort, proto: frame.ProtoTCP, seq: uint32(p.Ack), flags: frame.RST})
		}
		return
	}
	c.last = w.now
	if syn {
		v.synAck(c)
		return
	}
	t := &c.t
	if p.HasTS && int32(p.TSVal-t.tsRecent) >= 0 {
		t.tsRecent = p.TSVal
	}
	if c.state == connSYN {
		if uint32(p.Ack) != t.iss+1 {
			return
		}
		c.state, t.rtoAt = connOpen, 0
	}
	if t.acked(w.now, uint32(p.Ack)-t.iss-1) {
		c.forget()
	}
	seq, n := uint32(p.Seq)-t.irs-1, uint32(p.Len())
	if int32(seq-t.rcv) <= 0 && n > 0 && !bytes.Equal(buf[p.Payload:p.End], request(c.port, seq, int(n))) {
		w.fail("input", "%s: the guest got wrong bytes of client %d at %d", v.n.name, client, seq)
	}
	_, ackNow := t.receive(w.now, seq, n, p.Flags&frame.FIN != 0)
	v.application(c)
	v.output(c)
	if ackNow && (t.pending > 0 || n > 0 || p.Flags&frame.FIN != 0 || int32(seq-t.rcv) < 0) {
		v.ack(c)
	}
}

// slot is room for a new connection.
func (v *vm) slot() *conn {
	best := &v.g.conns[0]
	for i := range v.g.conns {
		c := &v.g.conns[i]
		if !c.used {
			return c
		}
		if c.t.done() != best.t.done() {
			if c.t.done() {
				best = c
			}
		} else if c.last < best.last {
			best = c
		}
	}
	return best
}

// forget drops chunks that are acknowledged.
func (c *conn) forget() {
	k := 0
	for k < int(c.nchunk) && int32(c.chunks[k].start+c.chunks[k].n-c.t.una) <= 0 {
		k++
	}
	if k > 0 {
		copy(c.chunks[:], c.chunks[k:c.nchunk])
		c.nchunk -= int8(k)
	}
}

// application reads requests and answers them.
func (v *vm) application(c *conn) {
	w := v.n.w
	t := &c.t
	got := t.rcv
	if t.finSeen && int32(t.rcv-t.finAt) > 0 {
		got = t.finAt
	}
	for int32(got-c.reqEnd) >= 0 && c.nchunk < maxChunks {
		if c.appAt == 0 {
			c.appAt = w.now + v.think()
		}
		if w.now < c.appAt {
			return
		}
		c.appAt = 0
		k := int(c.served)
		n := respLen(c.port, k)
		at := uint16(mix(uint32(c.port), uint32(k)+777))
		if w.plan.volatile && mix(uint32(c.port), uint32(k))&7 == 0 {
			at = uint16(w.rng.Uint64()) // such as a time of day
			if w.rnd(3) == 0 {
				n += uint32(w.rnd(50))
			}
		}
		c.chunks[c.nchunk] = chunk{t.wr, n, at}
		c.nchunk++
		t.wr += n
		c.served++
		c.reqEnd += reqLen(c.port, int(c.served))
	}
	if t.finSeen && int32(t.rcv-t.finAt) > 0 && c.appAt == 0 && !t.closed && int32(got-c.reqEnd) < 0 {
		t.closed = true
	}
}

// content writes what the guest says at [off, off+len(b)); false where it has nothing to say.
func (c *conn) content(b []byte, off uint32) bool {
	for len(b) > 0 {
		ok := false
		for i := range c.nchunk {
			k := &c.chunks[i]
			d := off - k.start
			if d >= k.n {
				continue
			}
			n := copy(b, noise[uint32(k.at)+d:][:min(k.n-d, uint32(len(b)))])
			for j := d; j < 2 && j-d < uint32(n); j++ {
				b[j-d] = byte(k.n >> (8 - 8*j))
			}
			b, off, ok = b[n:], off+uint32(n), true
			break
		}
		if !ok {
			return false
		}
	}
	return true
}

// output sends what may go.
func (v *vm) output(c *conn) {
	w := v.n.w
	if c.state != connOpen {
		return
	}
	for {
		cut := uint32(mss)
		if w.plan.cuts && w.rnd(4) == 0 {
			cut = 1 + uint32(w.rnd(mss))
		}
		seq, n, fin, ok := c.t.next(w.now, cut)
		if !ok {
			return
		}
		p := packet{fromGuest: true, client: int(c.peer), port: c.port, seq: c.t.iss + 1 + seq}
		if n > 0 {
			p.payload = w.mem.get(int(n))
			if !c.content(p.payload, seq) {
				w.fail("model", "%s: the guest has no content at %d+%d", v.n.name, seq, n)
			}
			p.flags = frame.PSH
		}
		if fin {
			p.flags |= frame.FIN
		}
		c.t.header(&p, v.clock())
		c.t.told()
		v.say(&p)
	}
}

func (v *vm) ack(c *conn) {
	p := packet{fromGuest: true, client: int(c.peer), port: c.port, seq: c.t.iss + 1 + c.t.nxt}
	c.t.header(&p, v.clock())
	c.t.told()
	v.say(&p)
}

func (v *vm) synAck(c *conn) {
	t := &c.t
	p := packet{fromGuest: true, client: int(c.peer), port: c.port, seq: t.iss, flags: frame.SYN}
	t.header(&p, v.clock())
	p.ack = t.irs + 1
	t.rtoAt = v.n.w.now + t.rto
	v.say(&p)
}

// arm sets the event of the guest's next timer.
func (v *vm) arm() {
	var at int64
	for i := range v.g.conns {
		c := &v.g.conns[i]
		if !c.used {
			continue
		}
		if t := c.t.nextTimer(); t != 0 && (at == 0 || t < at) {
			at = t
		}
		if c.appAt != 0 && (at == 0 || c.appAt < at) {
			at = c.appAt
		}
	}
	if at == 0 || v.timerAt != 0 && v.timerAt <= at {
		return
	}
	v.timerAt = at
	w := v.n.w
	v.n.kernel(max(at-w.now, 0), func() {
		if v.timerAt != at {
			return
		}
		v.timerAt = 0
		if v.running() {
			v.timers()
		}
	})
}

// timers runs what is due.
func (v *vm) timers() {
	w := v.n.w
	for i := range v.g.conns {
		c := &v.g.conns[i]
		if !c.used {
			continue
		}
		t := &c.t
		if c.appAt != 0 && w.now >= c.appAt {
			v.application(c)
			v.output(c)
		}
		if t.rtoAt != 0 && w.now >= t.rtoAt {
			if c.state == connSYN {
				t.rto = min(2*t.rto, rtoMax)
				v.synAck(c)
				continue
			}
			if t.una == t.top {
				t.rtoAt = 0
			} else {
				t.timeout(w.now)
				v.output(c)
			}
		}
		if t.ackAt != 0 && w.now >= t.ackAt {
			v.ack(c)
		}
	}
	v.arm()
}

// think is how long the guest's application takes.
func (v *vm) think() int64 {
	w := v.n.w
	d := w.rng.Int64N(v.lag + 1)
	if w.rnd(64) == 0 {
		d += w.rng.Int64N(100 * ms) // it was not scheduled
	}
	return d
}

// say sends a frame out of the guest's device.
func (v *vm) say(p *packet) {
	w := v.n.w
	p.partial = w.plan.partial
	b := w.mem.get(p.size())
	p.build(b)
	v.n.fromGuest(b)
}
