package compare

import "colod/internal/frame"

// primaryTCP handles a segment of the primary's guest.
func (e *Engine) primaryTCP(now int64, fl *flow, f *Frame) {
	p := &f.P
	if p.Flags&frame.SYN != 0 {
		e.primarySYN(now, fl, f)
		return
	}
	e.learn(fl, f)
	if e.solo {
		e.letOut(now, fl, f, WhySolo)
		return
	}
	switch {
	case p.Flags&frame.RST != 0:
		e.primaryRST(now, fl, f)
	case p.Len() == 0 && p.Flags&frame.FIN == 0:
		e.primaryAck(now, fl, f)
	default:
		e.primaryData(now, fl, f)
	}
	e.watch(now, fl)
}

// learn takes the header numbers of a segment of the primary that is not a SYN into the flow's state.
func (e *Engine) learn(fl *flow, f *Frame) {
	t, p := &fl.t, &f.P
	if !fl.pSeen {
		fl.pSeen = true
		t.tmpl.Learn(f.Buf, p)
	}
	if !t.hintOK || p.Seq.After(t.hint) { // a keepalive probe has a lower one
		t.hint, t.hintOK = p.Seq, true
	}
	if p.HasTS {
		t.hasTS, t.pTS, t.pEcr = true, frame.Num(p.TSVal), p.TSEcr
	}
	if p.Flags&frame.ACK != 0 && p.Flags&frame.RST == 0 {
		t.p.take(p.Ack, p.Window, t.scale, p.Flags&frame.SYN != 0)
		for i := range p.SACKLen / 8 {
			l, r := p.SACK(f.Buf, i)
			t.p.sack.add(l, r)
		}
	}
}

// letOut releases a frame of the primary that needs no agreement, and notes what it says as released.
func (e *Engine) letOut(now int64, fl *flow, f *Frame, why Why) {
	t, p := &fl.t, &f.P
	if p.Flags&frame.RST == 0 {
		end := p.SegEnd()
		if p.Flags&frame.SYN != 0 || end != p.Seq {
			t.span(p.Seq, end)
			if p.Flags&frame.FIN != 0 {
				t.pFIN, t.pFINSeq = true, end-1
			}
			t.v = t.pmax
			if end.After(t.rel) {
				t.rel = end
			}
		}
		if p.Flags&frame.ACK != 0 {
			e.told(fl, p.Ack, p.Window)
		}
	}
	e.stamped(now, fl, f, why)
}

// span notes that the primary sent stream bytes [s, end).
func (t *tcpState) span(s, end frame.Num) {
	if !t.known {
		t.known = true
		t.v = s
		if t.unaOK && t.una.After(s) {
			t.v = t.una
		}
		t.pmax, t.rel, t.base = t.v, t.v, t.v
	}
	if end.After(t.pmax) {
		t.pmax = end
	}
}

// primaryData handles a segment with payload or FIN.
func (e *Engine) primaryData(now int64, fl *flow, f *Frame) {
	t, p := &fl.t, &f.P
	s, end := p.Seq, p.SegEnd()
	t.span(s, end)
	if p.Flags&frame.FIN != 0 && !t.pFIN {
		t.pFIN, t.pFINSeq = true, end-1
	}
	if end.AtMost(t.v) {
		e.repeated(now, fl, f)
		return
	}
	// What is neither agreed nor held already is new; it is one range, or the first of several: the guest
	// will repeat the rest.
	i := t.held.len()
	if i == 0 && s == t.v && e.exact(now, fl, f, end) {
		return
	}
	if s.Before(t.v) {
		s = t.v
	}
	for i > 0 {
		h := *t.held.at(i - 1)
		if h.link.start.AtMost(s) {
			if h.link.end.After(s) {
				s = h.link.end
			}
			break
		}
		i--
	}
	if i < t.held.len() {
		end = end.Min((*t.held.at(i)).link.start)
	}
	if s.AtLeast(end) {
		e.stats.Repeated++
		e.free(f)
		return
	}
	f.link.start, f.link.end = s, end
	if !e.keep(now, fl, f, waitData) {
		return
	}
	if i == t.held.len() {
		t.held.push(f)
	} else {
		t.held.insert(i, f)
	}
	e.advance(now, fl)
}

// exact releases f at once when the secondary has described just its range or, where its bytes are here, all of it; end is
// that of f, whose start is the agreed position, and nothing is held. Most data takes this way. False means that f is as it
// was.
func (e *Engine) exact(now int64, fl *flow, f *Frame, end frame.Num) bool {
	t, p := &fl.t, &f.P
	if t.pieces.len() == 0 || p.Flags&frame.FIN != 0 || !t.s.ok || t.syn != nil || fl.broken == e.round {
		return false
	}
	if pc := t.pieces.at(0); pc.twin != nil {
		n, same := t.same(p.Seq, f.Buf[p.Payload:p.End])
		if !same {
			return false
		}
		t.pieces.drop(n)
		e.npieces -= n
	} else {
		if pc.seq != p.Seq || pc.end() != end || !e.matches(pc, f.Buf[p.Payload:p.End]) {
			return false
		}
		e.popPiece(t)
	}
	t.v = end
	e.segment(now, fl, f, p.Seq, end, true, true, WhyAgreed)
	e.swait.rest(fl)
	if t.rst != nil {
		e.tryRST(now, fl)
	}
	return true
}
