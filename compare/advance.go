package compare

import (
	"bytes"

	"colod/internal/frame"
)

// advance moves the agreed position as far as both sides' bytes allow and releases what it passes.
func (e *Engine) advance(now int64, fl *flow) {
	t := &fl.t
	if !t.known || !t.s.ok || t.syn != nil || fl.broken == e.round || e.doubting(fl) {
		return
	}
	was := t.v
	for e.step(now, fl) {
		e.flushWhole(now, fl)
	}
	if t.v != was {
		e.flush(now, fl)
		e.swait.rest(fl)
	}
	if t.rst != nil {
		e.tryRST(now, fl)
	}
}

// step moves the agreed position by one piece or FIN. False means that nothing more can be agreed now.
func (e *Engine) step(now int64, fl *flow) bool {
	t := &fl.t
	for t.pieces.len() > 0 && t.pieces.at(0).end().AtMost(t.v) {
		e.popPiece(t)
	}
	var pc *piece
	if t.pieces.len() > 0 {
		pc = t.pieces.at(0)
	}
	if t.pFIN && t.v == t.pFINSeq && t.held.len() > 0 {
		switch {
		case t.sFIN && t.sFINSeq == t.v:
			t.v++
			return true
		case pc != nil && pc.seq.AtMost(t.v):
			e.diverge(now, fl, Divergence{Reason: ReasonLength, Seq: t.v, Len: uint32(pc.end() - t.v),
				Detail: "the primary closes, the secondary sends more"})
		}
		return false
	}
	if closed := t.sFIN && t.sFINSeq == t.v; closed || pc == nil || pc.seq.After(t.v) {
		if closed {
			if h := t.reach(t.v); h != t.v {
				e.diverge(now, fl, Divergence{Reason: ReasonLength, Seq: t.v, Len: uint32(h - t.v),
					Detail: "the secondary closes, the primary sends more"})
			}
		}
		return false
	}
	h := t.reach(t.v)
	if h == t.v {
		return false
	}
	if pc.twin != nil {
		return e.stepLocal(now, fl, pc, h)
	}
	if pc.seq == t.v && pc.end().AtMost(h) {
		if !e.matches(pc, e.bytes(t, pc.seq, pc.n)) {
			e.differ(now, fl, pc.span)
			return false
		}
		t.v = pc.end()
		e.popPiece(t)
		return true
	}
	e.askNext(fl, span{t.v, uint32(pc.end().Min(h) - t.v)})
	return false
}

// matches says that b, as long as pc, is what the secondary's guest said there.
func (e *Engine) matches(pc *piece, b []byte) bool {
	if pc.twin != nil {
		return bytes.Equal(b, pc.twin.Buf[pc.pos:][:len(b)])
	}
	return *e.dig.sum(pc.flow, pc.pos, b) == pc.digest
}

func (e *Engine) popPiece(t *tcpState) {
	t.pieces.drop(1)
	e.npieces--
}

// reach is the end of the held payload that is contiguous from v on; it looks only as far as the first piece.
func (t *tcpState) reach(v frame.Num) frame.Num {
	for i := range t.held.len() {
		f := *t.held.at(i)
		if f.link.start.After(v) {
			break
		}
		end := f.link.end
		if pay := f.P.Seq.Add(uint32(f.P.Len())); end.After(pay) {
			end = pay
		}
		if end.After(v) {
			v = end
		}
		if t.pieces.len() > 0 && v.AtLeast(t.pieces.at(0).end()) {
			break
		}
	}
	return v
}

// bytes are the held payload bytes [seq, seq+n), which must be held. They are joined in a scratch buffer when
// they lie in several frames.
func (e *Engine) bytes(t *tcpState, seq frame.Num, n uint32) []byte {
	join := e.dig.join[:0]
	for i := range t.held.len() {
		b := (*t.held.at(i)).from(seq)
		if b == nil {
			continue
		}
		if uint32(len(b)) >= n {
			if len(join) == 0 {
				return b[:n]
			}
			e.dig.join = append(join, b[:n]...)
			return e.dig.join
		}
		join = append(join, b...)
		seq, n = seq.Add(uint32(len(b))), n-uint32(len(b))
	}
	return join
}

// from is a held frame's payload from seq on, which must not lie before it: nil if the frame ends before.
func (f *Frame) from(seq frame.Num) []byte {
	if f.link.end.AtMost(seq) {
		return nil
	}
	p := &f.P
	off := p.Payload + int(seq-p.Seq)
	return f.Buf[off:min(p.End, off+int(f.link.end-seq))]
}

// flush releases what is held before the agreed position.
func (e *Engine) flush(now int64, fl *flow) {
	e.flushWhole(now, fl)
	t := &fl.t
	if t.held.len() == 0 {
		return
	}
	if f := *t.held.at(0); f.link.start.Before(t.v) {
		e.segment(now, fl, f, f.link.start, t.v, false, true, WhyAgreed)
		f.link.start = t.v
	}
}

// flushWhole releases the frames that end before the agreed position.
func (e *Engine) flushWhole(now int64, fl *flow) {
	t := &fl.t
	for t.held.len() > 0 {
		f := *t.held.at(0)
		if f.link.end.After(t.v) {
			return
		}
		t.held.drop(1)
		e.unkeep(f)
		e.segment(now, fl, f, f.link.start, f.link.end, true, true, WhyAgreed)
	}
}

// askNext asks for a digest of s, the next range that is held, because the secondary described it together with
// bytes that the primary has not sent yet or has already released.
func (e *Engine) askNext(fl *flow, s span) {
	t := &fl.t
	if t.ask == s {
		return
	}
	t.ask = s
	e.ask(fl, s, true)
}

func (e *Engine) ask(fl *flow, s span, fine bool) {
	e.stats.Asks++
	e.send(Message{Kind: MessageAsk, Ask: Ask{Flow: fl.sid, Seq: s.seq, Len: s.n, Fine: fine}})
}
