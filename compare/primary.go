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

// exact releases f at once when the secondary has described just its range; end is that of f, whose start is the
// agreed position, and nothing is held. Most data takes this way. False means that f is as it was.
func (e *Engine) exact(now int64, fl *flow, f *Frame, end frame.Num) bool {
	t, p := &fl.t, &f.P
	if t.pieces.len() == 0 || p.Flags&frame.FIN != 0 || !t.s.ok || t.syn != nil || fl.broken == e.round {
		return false
	}
	pc := t.pieces.at(0)
	if pc.seq != p.Seq || pc.end() != end || *e.dig.sum(pc.flow, pc.pos, f.Buf[p.Payload:p.End]) != pc.digest {
		return false
	}
	t.v = end
	e.popPiece(t)
	e.segment(now, fl, f, p.Seq, end, true, true, WhyAgreed)
	e.swait.rest(fl)
	if t.rst != nil {
		e.tryRST(now, fl)
	}
	return true
}

// repeated handles a segment all of whose bytes are agreed: the guest sends it again.
func (e *Engine) repeated(now int64, fl *flow, f *Frame) {
	t, p := &fl.t, &f.P
	if !t.s.ok && p.Flags&frame.ACK != 0 {
		e.owe(now, fl, f) // nothing is known that the header could be limited to; the guest will repeat it again
		return
	}
	payEnd := p.Seq.Add(uint32(p.Len()))
	lo := p.Seq
	if t.unaOK && t.una.After(lo) {
		lo = t.una
	}
	end := p.SegEnd()
	switch {
	case lo.AtLeast(end): // the client has all of it
		e.headerOnly(now, fl, f, WhyAgreed)
		return
	case lo.AtLeast(payEnd): // only the FIN is left, and that is agreed
		e.segment(now, fl, f, lo, end, true, true, WhyAgreed)
		return
	case t.coverOK && payEnd.AtMost(t.covered):
		e.segment(now, fl, f, lo, end, true, true, WhyCovered)
		return
	}
	if t.again.len() >= e.cfg.MaxFlowFrames {
		e.stats.Repeated++
		e.free(f)
		return
	}
	for i := range t.again.len() {
		if g := *t.again.at(i); g.link.start == lo && g.link.end == end {
			e.stats.Repeated++
			e.free(f)
			return
		}
	}
	f.link.start, f.link.end = lo, end
	if !e.keep(now, fl, f, waitAgain) {
		return
	}
	t.again.push(f)
	if fl.sid != 0 {
		e.askAgain(fl)
	}
}

// againSpan is the part of a repeated segment that has to be compared.
func againSpan(t *tcpState, f *Frame) span {
	s, end := f.link.start, f.P.Seq.Add(uint32(f.P.Len()))
	if t.coverOK {
		s = s.Max(t.covered)
	}
	return span{s, uint32(end - s)}
}

// primarySYN handles a SYN or SYN+ACK.
func (e *Engine) primarySYN(now int64, fl *flow, f *Frame) {
	p := &f.P
	if t := &fl.t; t.issKnown && t.iss == p.Seq && !t.otherPeer(p.Flags, p.Ack) {
		e.learn(fl, f)
		switch {
		case e.solo:
			e.letOut(now, fl, f, WhySolo)
		case t.synOK:
			e.announce(fl, f)
			why := WhyCovered
			if t.sSYN {
				why = WhyAgreed
			}
			e.releaseSYN(now, fl, f, why)
		default:
			e.stats.Repeated++
			e.free(f)
		}
		return
	}
	e.newConnection(fl, f)
	t := &fl.t
	t.scaleOK, t.scale = true, uint8(max(p.WScale, 0))
	e.learn(fl, f)
	t.known = true
	t.v, t.pmax, t.rel, t.base = p.Seq, p.Seq+1, p.Seq, p.Seq+1
	t.iss, t.issKnown, t.pSYN = p.Seq, true, true
	t.pOpt = synOptions{mss: p.MSS, wscale: p.WScale, sackPerm: p.SACKPerm, hasTS: p.HasTS}
	if p.Flags&frame.ACK != 0 {
		t.synHasAck, t.synAck = true, p.Ack
	}
	if e.solo {
		t.synOK = true
		e.letOut(now, fl, f, WhySolo)
		t.v = t.pmax
		return
	}
	if !e.keep(now, fl, f, waitSYN) {
		t.issKnown = false // as if it had not been sent
		return
	}
	t.syn = f
	e.announce(fl, f)
	if !e.trySYN(now, fl) {
		e.syns = append(e.syns, fl)
	}
	e.watch(now, fl)
}

// otherPeer says that a SYN with these flags and acknowledgement answers another SYN of the client than the one that
// opened the connection.
func (t *tcpState) otherPeer(flags uint8, ack frame.Num) bool {
	return t.synHasAck && flags&frame.ACK != 0 && t.synAck != ack
}

// announce tells the peer the initial numbers of a SYN, once in an epoch.
func (e *Engine) announce(fl *flow, f *Frame) {
	if fl.t.announced != 0 {
		return
	}
	p := &f.P
	fl.t.announced = e.send(Message{Kind: MessageAnnounce, Announce: Announce{Key: fl.key, Seq: p.Seq, Ack: p.Ack,
		HasAck: p.Flags&frame.ACK != 0, HasTS: p.HasTS, TSVal: p.TSVal}})
}

// newConnection makes fl the state of the connection that the SYN f opens. What was held of the connection
// before is given up: its own guest has given it up.
func (e *Engine) newConnection(fl *flow, f *Frame) {
	p := &f.P
	fits := func(t *tcpState) bool {
		return t.sSYN && (t.synHasAck == (p.Flags&frame.ACK != 0)) && (!t.synHasAck || t.synAck == p.Ack)
	}
	if !fl.pSeen && fits(&fl.t) {
		return // the secondary was first
	}
	e.dropHeld(fl)
	next := fl.next
	fl.next = nil
	e.clearFlow(fl)
	if next != nil && fits(&next.t) {
		fl.sid, fl.t = next.sid, next.t
		if fl.sid != 0 {
			e.sids[fl.sid-e.sidOff].fl = fl
		}
	} else if next != nil {
		e.retire(next)
	}
}

// clearFlow makes fl empty; its number is given up.
func (e *Engine) clearFlow(fl *flow) {
	e.owed.disarm(fl)
	e.swait.disarm(fl)
	e.retire(fl)
	t := &fl.t
	held, again, pieces := t.held, t.again, t.pieces
	held.reset()
	again.reset()
	pieces.reset()
	fl.t = tcpState{held: held, again: again, pieces: pieces}
	fl.pSeen, fl.reported = false, 0
}

// retire ends the use of the secondary's number of fl.
func (e *Engine) retire(fl *flow) {
	if fl.sid != 0 {
		if i := fl.sid - e.sidOff; i < uint32(len(e.sids)) {
			e.sids[i].fl, e.sids[i].stale = nil, true
		}
		fl.sid = 0
	}
	e.dropPieces(fl)
}

// dropPieces forgets what the secondary has described of fl.
func (e *Engine) dropPieces(fl *flow) {
	if fl.epoch == e.epoch {
		e.npieces -= fl.t.pieces.len()
	}
	fl.t.pieces.reset()
}

// dropHeld gives all held frames of fl back unreleased.
func (e *Engine) dropHeld(fl *flow) {
	t := &fl.t
	for t.held.len() > 0 {
		f := *t.held.at(0)
		t.held.drop(1)
		e.unkeep(f)
		e.free(f)
	}
	for t.again.len() > 0 {
		f := *t.again.at(0)
		t.again.drop(1)
		e.unkeep(f)
		e.free(f)
	}
	for d := &fl.d; d.held.len() > 0; {
		f := *d.held.at(0)
		d.held.drop(1)
		e.unkeep(f)
		e.free(f)
	}
	for _, f := range [2]*Frame{t.syn, t.rst} {
		if f != nil {
			e.unkeep(f)
			e.free(f)
		}
	}
	t.syn, t.rst = nil, nil
}

// trySYN releases the held SYN when the secondary has opened the same connection and its node knows the
// numbers of this one. It says whether the SYN waits no more.
func (e *Engine) trySYN(now int64, fl *flow) bool {
	t := &fl.t
	if t.syn == nil {
		return true
	}
	if !t.sSYN {
		return false
	}
	if t.pOpt != t.sOpt {
		e.diverge(now, fl, Divergence{Reason: ReasonOptions, Seq: t.iss, Detail: optionDetail(t.pOpt, t.sOpt)})
		return false
	}
	if t.announced > e.received {
		return false
	}
	f := t.syn
	t.syn, t.synOK = nil, true
	e.unkeep(f)
	e.releaseSYN(now, fl, f, WhyAgreed)
	e.advance(now, fl) // both may have sent more behind it
	return true
}

// releaseSYN releases f without the payload that it may carry: clients take the missing acknowledgement of
// it for a refused fast open (RFC 7413 section 4.2) and the guest sends it again as ordinary data.
func (e *Engine) releaseSYN(now int64, fl *flow, f *Frame, why Why) {
	t, p := &fl.t, &f.P
	h := frame.Header{Seq: p.Seq, Ack: p.Ack, Window: p.Window, TSVal: p.TSVal}
	e.stamp(fl, p, &h)
	p.SetHeader(f.Buf, h)
	t.v = t.v.Max(t.iss + 1)
	t.rel = t.rel.Max(t.iss + 1)
	if p.Flags&frame.ACK != 0 {
		e.told(fl, p.Ack, p.Window)
	}
	if p.Len() == 0 && p.Flags&frame.FIN == 0 {
		e.whole(now, f, why)
		return
	}
	r := e.newRelease(why)
	r.HeadLen = p.Cut(r.Head[:], f.Buf, 0, 0)
	r.Head[p.L4+13] &^= frame.FIN | frame.PSH
	r.F, r.Last, r.Held = f, true, now-f.link.arrived
	f.link = heldLink{}
	e.count(r)
}

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
	if t.known && p.Ack.After(t.rel) {
		return // of bytes that it cannot have
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
