package compare

import "colod/internal/frame"

// primaryRST handles a reset: it waits for the data before it and for the secondary's.
func (e *Engine) primaryRST(now int64, fl *flow, f *Frame) {
	t := &fl.t
	if t.rst != nil {
		e.stats.Repeated++
		e.free(f)
		return
	}
	if !e.keep(now, fl, f, waitRST) {
		return
	}
	t.rst = f
	e.tryRST(now, fl)
}

// tryRST releases the held reset if the secondary has sent the same.
func (e *Engine) tryRST(now int64, fl *flow) {
	t := &fl.t
	f := t.rst
	if f == nil || t.held.len() > 0 && f.P.Seq.After(t.v) {
		return
	}
	for i := range t.nRST {
		m := t.sRST[i]
		if m.seq != f.P.Seq || m.seq == 0 && m.ack != f.P.Ack {
			continue
		}
		t.rst, t.rstOpen = nil, false
		e.unkeep(f)
		e.stamped(now, fl, f, WhyAgreed)
		return
	}
}

// clientTCP handles a segment from the client.
func (e *Engine) clientTCP(fl *flow, p *frame.Parsed) {
	t := &fl.t
	if p.Flags&frame.SYN != 0 && p.Flags&frame.ACK != 0 && t.issKnown && p.Ack == t.iss+1 && p.WScale < 0 {
		t.scale = 0 // the client does not scale, so neither side does (RFC 7323 section 2.2)
	}
	if p.Flags&frame.RST != 0 {
		// Guests take it only inside of the window; what if they do not, see Engine.dropReset.
		if off := p.Seq.Diff(t.relAck); t.relOK && off >= 0 && off < 1<<20 {
			t.crst = true
			e.swait.disarm(fl)
		}
		return
	}
	t.crst = false
	if p.Flags&frame.ACK == 0 {
		return
	}
	if t.known && p.Ack.After(t.rel) || !t.known && (!t.hintOK || p.Ack.After(t.hint+1)) {
		return // of bytes that it cannot have; the 1 is a keepalive probe's
	}
	if t.unaOK && p.Ack.AtMost(t.una) {
		return
	}
	t.una, t.unaOK = p.Ack, true
	for i := 0; i < t.again.len(); {
		f := *t.again.at(i)
		if f.link.end.After(t.una) {
			i++
			continue
		}
		t.again.remove(i)
		e.unkeep(f)
		e.stats.Repeated++
		e.free(f)
	}
}

// dropReset gives up what is held of a connection that the client has reset: the guests have learned of that at
// different moments, which is no divergence. Should the reset have been out of the window, the guests
// go on, and repeat what is dropped here as they repeat a lost segment.
func (e *Engine) dropReset(fl *flow) {
	e.stats.Reset += uint64(fl.held)
	t := &fl.t
	e.dropHeld(fl)
	e.dropPieces(fl)
	t.ask = span{}
	e.owed.disarm(fl)
	e.swait.disarm(fl)
}
