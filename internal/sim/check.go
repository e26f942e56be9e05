package sim

import (
	"encoding/binary"

	"colod/internal/frame"
	"colod/proxy"
)

// released is a frame that leaves a node for the clients: by the data path, or by the kernel alone.
func (w *world) released(n *node, b []byte, byKernel bool) {
	if !n.powered {
		return
	}
	var p frame.Parsed
	frame.Parse(b, &p)
	w.stats.released++
	if w.tracing && w.verbose {
		w.logf("%s RELEASES %s", n.name, w.show(b))
	}
	alone := byKernel || !n.armed() || n.speaking
	if alone && p.Src[15] == guestHost && p.Kind != frame.KindARP {
		w.checkAuthority(n)
	}
	client := int(p.Dst[15]) - clientHost
	w.lanAt = n
	if p.Kind == frame.KindARP || client < 0 || client >= len(w.clients) {
		return
	}
	if !p.Verify(b) {
		w.fail("checksum", "%s releases a frame with a wrong checksum", n.name)
	}
	if p.Kind == frame.KindTCP {
		w.checkSegment(n, b, &p, alone)
	} else {
		w.checkDatagram(n, b, &p)
	}
	if w.plan.lossy && w.rnd(60) == 0 {
		return
	}
	c := w.clients[client]
	w.after(w.plan.lan+w.rng.Int64N(w.plan.lan+1), func() { c.receive(b) })
}

// checkAuthority: who speaks alone is named by the record, and nobody else is.
func (w *world) checkAuthority(n *node) {
	r := &w.arb.rec
	if r.Speaker != n.name || r.Standby != "" || r.Ended {
		if w.forced {
			return // an operator took that upon himself
		}
		w.fail("authority", "%s lets output out alone, but the record says: %v", n.name, *r)
	}
}

// standby is the node whose guest may take over from n, if it has one that follows.
func (w *world) standby(n *node) *node {
	r := &w.arb.rec
	if r.Speaker != n.name || r.Standby == "" {
		return nil
	}
	s := w.byName(r.Standby)
	if s == nil || s.vm == nil || !s.vm.alive || !s.vm.loaded || s.vm.peer == nil && s.vm.broken {
		return nil
	}
	if n.vm == nil || s.vm.g.incarnation != n.vm.g.incarnation {
		return nil
	}
	return s
}

func (w *world) checkSegment(n *node, b []byte, p *frame.Parsed, alone bool) {
	f := w.flows[p.DstPort]
	if f == nil || f.lost || w.forced { // what is forced may be an old copy: the operator was told
		return
	}
	if p.Flags&frame.RST != 0 {
		return // the client tells whether it minds
	}
	if p.Flags&frame.SYN != 0 {
		if f.issSet && f.iss != uint32(p.Seq) {
			w.fail("history", "%s begins the stream of port %d at %d, which began at %d", n.name, f.port, p.Seq, f.iss)
		}
		f.iss, f.issSet = uint32(p.Seq), true
	}
	if !f.issSet {
		w.fail("history", "%s sends a segment of port %d before its SYN", n.name, f.port)
		return
	}
	off := uint32(p.Seq) - f.iss - 1
	if p.Flags&frame.SYN != 0 {
		off = 0
	}
	pay := b[p.Payload:p.End]
	if len(pay) > 0 {
		if int32(off) < 0 || off > 1<<20 {
			w.fail("history", "%s sends bytes of port %d at %d", n.name, f.port, int32(off))
			return
		}
		w.checkBytes(n, f, off, pay)
	}
	if p.Flags&frame.FIN != 0 {
		at := int64(off) + int64(len(pay))
		if f.fin >= 0 && f.fin != at {
			w.fail("history", "%s ends the stream of port %d at %d, which ended at %d", n.name, f.port, at, f.fin)
		}
		f.fin = at
	}
	s := w.standby(n)
	if s == nil || alone {
		return
	}
	c := s.vm.find(f.c.i, f.port)
	if c == nil && f.c.flow != f {
		return // it is over, and the guest there has forgotten it
	}
	if len(pay) > 0 && int32(off+uint32(len(pay))-f.t.rcv) > 0 {
		var own [2048]byte
		skip := uint32(0)
		if d := f.t.rcv - off; int32(d) > 0 {
			skip = d
		}
		want := pay[skip:]
		if c == nil {
			w.fail("output commit", "%s releases bytes of port %d at %d, a connection that %s's guest does not know", n.name, f.port, off, s.name)
			return
		}
		if una := c.t.una; int32(una-off-skip) > 0 {
			k := min(una-off-skip, uint32(len(want)))
			skip, want = skip+k, want[k:]
		}
		if got := own[:len(want)]; len(want) > 0 && (!c.content(got, off+skip) || string(got) != string(want)) {
			w.fail("output commit", "%s releases bytes of port %d at %d that %s's guest has not said", n.name, f.port, off+skip, s.name)
		}
	}
	if p.Flags&frame.ACK != 0 && p.Flags&frame.SYN == 0 {
		ack := uint32(p.Ack) - f.t.iss - 1
		have := uint32(0)
		if c != nil {
			have = c.t.rcv
		}
		if have = f.reach(s.i, have); int32(ack-have) > 0 {
			w.fail("input commit", "%s acknowledges %d bytes of port %d, of which %s's node has %d", n.name, ack, f.port, s.name, have)
		}
	}
}

// checkBytes: a byte at a place of a stream is decided once.
func (w *world) checkBytes(n *node, f *flow, off uint32, pay []byte) {
	if end := int(off) + len(pay); end > len(f.hist) {
		f.hist = append(f.hist, make([]byte, end-len(f.hist))...)
		f.known = append(f.known, make([]bool, end-len(f.known))...)
	}
	h, k := f.hist[off:], f.known[off:]
	for i, x := range pay {
		if !k[i] {
			h[i], k[i] = x, true
		} else if h[i] != x {
			w.fail("history", "%s says %#02x at %d of port %d, where clients have been told %#02x", n.name, x, int(off)+i, f.port, h[i])
			return
		}
	}
}

// checkDatagram: what a node was told of it does not send again.
func (w *world) checkDatagram(n *node, b []byte, p *frame.Parsed) {
	if len(b) < headLen+12 {
		return
	}
	id := binary.BigEndian.Uint32(b[headLen+8:]) // behind the header of UDP, and of an echo
	if id == 0 || int(id) >= len(n.told) {
		return
	}
	// A clock that is set may let a guest be asked twice; no worse than a network that repeats.
	if n.emitting && n.told[id] && w.grams[id] == 1 && !w.clockSet {
		w.fail("datagram", "%s sends datagram %d again, of whose release it was told", n.name, id)
	}
	if e := n.pipe; e != nil && n.role() == "primary" {
		e.sent = append(e.sent, id)
	}
}

// ackAtOnce is the mutation that releases an acknowledgement before the input log has the bytes.
func (w *world) ackAtOnce(n *node, b []byte) {
	var p frame.Parsed
	frame.Parse(b, &p)
	f := w.flows[p.DstPort]
	if p.Kind != frame.KindTCP || p.Flags&(frame.SYN|frame.RST) != 0 || f == nil || !f.issSet {
		return
	}
	q := packet{fromGuest: true, client: f.c.i, port: f.port, proto: frame.ProtoTCP, seq: f.iss + 1 + f.t.rcv, ack: uint32(p.Ack),
		flags: frame.ACK, win: 60000, partial: w.plan.partial}
	a := w.mem.get(q.size())
	q.build(a)
	w.released(n, a, false)
}

func (n *node) role() string {
	if !n.up || n.px == nil {
		return "down"
	}
	return n.px.RoleName()
}

// armed says that the data path lets out only what both guests say.
func (n *node) armed() bool { return n.mode != proxy.Pass && n.role() == "primary" && n.px.Armed() }
