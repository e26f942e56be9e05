package compare

import "colod/internal/frame"

// askAgain repeats the questions for repeated segments that were held before the secondary's number was known.
func (e *Engine) askAgain(fl *flow) {
	t := &fl.t
	for i := range t.again.len() {
		if f := *t.again.at(i); f.link.index != uint64(fl.sid) {
			f.link.index = uint64(fl.sid)
			e.ask(fl, againSpan(t, f), false)
		}
	}
}

// reply takes the digest of a range that was asked for.
func (e *Engine) reply(now int64, fl *flow, d *Descriptor) {
	t := &fl.t
	pos := uint64(d.Hi)<<32 | uint64(d.Seq)
	for i := range t.again.len() {
		f := *t.again.at(i)
		s := againSpan(t, f)
		if s.seq != d.Seq || s.n != d.Len {
			continue
		}
		off := f.P.Payload + int(s.seq-f.P.Seq)
		if *e.dig.sum(d.Flow, pos, f.Buf[off:off+int(s.n)]) != d.Digests[0] {
			e.differ(now, fl, s)
			return
		}
		t.again.remove(i)
		e.unkeep(f)
		e.segment(now, fl, f, f.link.start, f.link.end, true, true, WhyAgreed)
		return
	}
	if t.ask == (span{d.Seq, d.Len}) {
		t.ask = span{}
	}
	if !t.known || d.Seq != t.v || d.Len == 0 || t.reachFor(d.Seq.Add(d.Len)).Before(d.Seq.Add(d.Len)) {
		return
	}
	if *e.dig.sum(d.Flow, pos, e.bytes(t, d.Seq, d.Len)) != d.Digests[0] {
		e.differ(now, fl, span{d.Seq, d.Len})
		return
	}
	t.v = d.Seq.Add(d.Len)
	e.flush(now, fl)
	e.advance(now, fl)
	e.secondaryAck(now, fl, false)
}

// reachFor is reach, looking as far as to.
func (t *tcpState) reachFor(to frame.Num) frame.Num {
	v := t.v
	for i := range t.held.len() {
		f := *t.held.at(i)
		if f.link.start.After(v) || v.AtLeast(to) {
			break
		}
		v = v.Max(f.link.end.Min(f.P.Seq.Add(uint32(f.P.Len()))))
	}
	return v
}

// gone takes the answer that the client has acknowledged a range, so that it was freed at the secondary's
// node. The repeated segment that it was asked for is of no use any more.
func (e *Engine) gone(now int64, fl *flow, d *Descriptor) {
	t := &fl.t
	for i := range t.again.len() {
		f := *t.again.at(i)
		if s := againSpan(t, f); s.seq == d.Seq && s.n == d.Len {
			t.again.remove(i)
			e.unkeep(f)
			e.stats.Repeated++
			e.free(f)
			return
		}
	}
	if t.ask != (span{d.Seq, d.Len}) {
		return
	}
	t.ask = span{}
	if d.Seq != t.v {
		e.advance(now, fl)
		return
	}
	if t.known {
		e.diverge(now, fl, Divergence{Reason: ReasonLost, Seq: d.Seq, Len: d.Len,
			Detail: "the secondary's bytes are not kept any more"})
	}
}
