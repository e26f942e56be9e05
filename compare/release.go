package compare

import "colod/internal/frame"

// newRelease extends Out.Releases by one and returns it; everything but Head is zero.
func (e *Engine) newRelease(why Why) *Release {
	rs := e.out.Releases
	if len(rs) < cap(rs) {
		rs = rs[:len(rs)+1]
	} else {
		rs = append(rs, Release{})
	}
	e.out.Releases = rs
	r := &rs[len(rs)-1]
	r.F, r.Payload, r.HeadLen, r.Last, r.Reason, r.Flow, r.Held = nil, [2]int{}, 0, false, why, 0, 0
	return r
}

func (e *Engine) count(r *Release) {
	e.stats.Released++
	e.stats.Bytes += uint64(r.Len())
	switch r.Reason {
	case WhyAgreed:
		e.stats.Agreed++
	case WhyCovered:
		e.stats.Covered++
	case WhySolo:
		e.stats.Solo++
	case WhyAck:
		e.stats.Acks++
	}
}

// whole releases f as it is and ends the loan.
func (e *Engine) whole(now int64, f *Frame, why Why) {
	r := e.newRelease(why)
	r.F, r.Payload[1], r.Last, r.Held = f, len(f.Buf), true, now-f.link.arrived
	f.link = heldLink{}
	e.count(r)
}

// segment releases the stream range [from, to) of f, whose payload covers it; limited says that the header must
// say no more than both sides stand for. With last the loan ends.
func (e *Engine) segment(now int64, fl *flow, f *Frame, from, to frame.Num, last, limited bool, why Why) {
	t, p := &fl.t, &f.P
	h := frame.Header{Seq: p.Seq, Ack: p.Ack, Window: p.Window, TSVal: p.TSVal}
	if p.Flags&frame.ACK != 0 {
		if limited && t.p.ok && t.s.ok {
			h.Ack, h.Window = t.limit()
			t.limitSACK(f)
		}
		e.told(fl, h.Ack, h.Window)
	}
	e.stamp(fl, p, &h)
	p.SetHeader(f.Buf, h)
	r := e.newRelease(why)
	r.F, r.Last, r.Flow, r.Held = f, last, fl.sid, now-f.link.arrived
	fin := p.Flags & frame.FIN
	end := p.SegEnd()
	a, b := int(from-p.Seq), int(to-p.Seq)
	if fin != 0 && to == end {
		b--
	}
	switch {
	case a == 0 && to == end:
		r.Payload[1] = len(f.Buf)
	default:
		e.stats.Cut++
		r.HeadLen = p.Cut(r.Head[:], f.Buf, a, b)
		r.Payload = [2]int{p.Payload + a, p.Payload + b}
		if fin != 0 && to != end {
			r.Head[p.L4+13] &^= frame.FIN
		}
	}
	if !t.known || to.After(t.rel) {
		t.rel = to
		if !fl.soft && !e.solo {
			fl.soft = true
			e.soft = append(e.soft, fl)
		}
	}
	if last {
		f.link = heldLink{}
	}
	e.count(r)
}

// limitSACK takes the SACK blocks out of f that the secondary does not stand for.
func (t *tcpState) limitSACK(f *Frame) {
	if f.P.SACKLen > 0 {
		f.P.DropSACK(f.Buf, func(l, r frame.Num) bool { return t.s.sack.covers(t.s.ack, l, r) })
	}
}

// stamp keeps released timestamps from going back: a client drops a segment whose timestamp is older than one
// it has seen (RFC 7323 section 5).
func (e *Engine) stamp(fl *flow, p *frame.Parsed, h *frame.Header) {
	if !p.HasTS {
		return
	}
	t := &fl.t
	ts := frame.Num(h.TSVal)
	if t.relTSOK && ts.Before(t.relTS) {
		h.TSVal = uint32(t.relTS)
		return
	}
	if !t.relTSOK {
		t.markTS = ts
	}
	t.relTS, t.relTSOK = ts, true
	if ts.Diff(t.markTS) >= 64 {
		t.markTS = ts
		e.mark(fl)
	}
}

// stamped is whole for a segment, whose timestamp must not go back.
func (e *Engine) stamped(now int64, fl *flow, f *Frame, why Why) {
	p := &f.P
	h := frame.Header{Seq: p.Seq, Ack: p.Ack, Window: p.Window, TSVal: p.TSVal}
	e.stamp(fl, p, &h)
	p.SetHeader(f.Buf, h)
	e.whole(now, f, why)
	e.out.Releases[len(e.out.Releases)-1].Flow = fl.sid
}

// pure releases the acknowledgement f now, lowered to what both sides stand for, and ends the loan.
func (e *Engine) pure(now int64, fl *flow, f *Frame, ack frame.Num, win uint16, why Why) {
	t, p := &fl.t, &f.P
	h := frame.Header{Seq: p.Seq, Ack: ack, Window: win, TSVal: p.TSVal}
	if t.known && h.Seq.After(t.rel) {
		h.Seq = t.rel // data before it is still held
	}
	t.limitSACK(f)
	e.stamp(fl, p, &h)
	e.told(fl, ack, win)
	p.SetHeader(f.Buf, h)
	e.whole(now, f, why)
}

// headerOnly releases the headers of f without its payload and ends the loan: the client has the payload, and
// wants to be asked for its state.
func (e *Engine) headerOnly(now int64, fl *flow, f *Frame, why Why) {
	t, p := &fl.t, &f.P
	h := frame.Header{Seq: p.Seq, Ack: p.Ack, Window: p.Window, TSVal: p.TSVal}
	if t.p.ok && t.s.ok {
		h.Ack, h.Window = t.limit()
		t.limitSACK(f)
	}
	e.stamp(fl, p, &h)
	p.SetHeader(f.Buf, h)
	r := e.newRelease(why)
	r.HeadLen = p.Cut(r.Head[:], f.Buf, 0, 0)
	r.Head[p.L4+13] &^= frame.FIN | frame.PSH
	r.F, r.Last, r.Held = f, true, now-f.link.arrived
	f.link = heldLink{}
	e.count(r)
}

// madeAck releases an acknowledgement made from the flow's template.
func (e *Engine) madeAck(fl *flow, ack frame.Num, win uint16, sack *sackSet) {
	t := &fl.t
	if !t.tmpl.Known() {
		return
	}
	a := frame.Pure{Seq: t.hint, Ack: ack, Window: win, HasTS: t.hasTS, TSVal: uint32(t.pTS), TSEcr: t.pEcr}
	if t.known {
		a.Seq = t.rel
	}
	if t.hasTS {
		if t.relTSOK && t.pTS.Before(t.relTS) {
			a.TSVal = uint32(t.relTS)
		}
		t.relTS, t.relTSOK = frame.Num(a.TSVal), true
	}
	if sack != nil {
		for i := sack.n - 1; i >= 0 && a.NSACK < 3; i-- {
			if b := sack.b[i]; b[0].After(ack) {
				a.SACK[a.NSACK] = b
				a.NSACK++
			}
		}
	}
	r := e.newRelease(WhyAck)
	r.HeadLen = t.tmpl.Make(r.Head[:], &a)
	e.told(fl, ack, win)
	e.count(r)
}
