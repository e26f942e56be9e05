package compare

import "colod/internal/frame"

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
