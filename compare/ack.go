package compare

import "colod/internal/frame"

// take notes what one guest says with a segment, and whether that is nothing new. The window of a SYN is not scaled
// (RFC 7323 section 2.2).
func (a *ackState) take(ack frame.Num, win uint16, scale uint8, syn bool) {
	edge := ack.Add(uint32(win) << scale)
	if syn {
		edge, win = ack.Add(uint32(win)), win>>scale
	}
	if a.ok && ack.Before(a.ack) {
		a.same = true
		return // overtaken by a newer one
	}
	a.same = a.ok && ack == a.ack && win == a.win
	a.ok, a.ack, a.win, a.edge = true, ack, win, edge
	if a.sack.n > 0 {
		a.sack.prune(ack)
	}
}

// limit is the acknowledgement and raw window that both sides stand for: the lower of each, the window by its
// right edge. The secondary's side stands for what its guest has acknowledged, and for what its node has logged and
// will give that guest as often as it takes. Where the scale is not known the smaller raw value is used: its edge is
// below both edges, since it counts from the lower acknowledgement.
func (t *tcpState) limit() (frame.Num, uint16) {
	if !t.scaleOK {
		return t.p.ack.Min(t.s.ack), min(t.p.win, t.s.win)
	}
	ack := t.s.ack
	if t.logOK && t.log.After(ack) {
		ack = t.log
	}
	ack = t.p.ack.Min(ack)
	if ack == t.p.ack && t.p.edge.AtMost(t.s.edge) {
		return ack, t.p.win
	}
	room := t.p.edge.Min(t.s.edge).Diff(ack)
	if room < 0 {
		return ack, 0
	}
	return ack, uint16(min(uint32(room)>>t.scale, 0xffff))
}

// told notes what clients have been told. Progress goes to the secondary's node, which keeps the client's bytes
// until then.
func (e *Engine) told(fl *flow, ack frame.Num, win uint16) {
	t := &fl.t
	if t.relOK && ack.Before(t.relAck) {
		return
	}
	if !t.relOK || ack != t.relAck {
		e.mark(fl)
	}
	t.relOK, t.relAck, t.relWin = true, ack, uint32(win)
}

// behind says that clients know less than the primary has said, in a way that can stop them: of the acknowledgement, or
// of a window that is closed or too small to be used for them and open at the primary.
func (t *tcpState) behind() bool {
	if !t.p.ok {
		return false
	}
	small := t.relWin == 0 || t.scaleOK && t.relWin<<t.scale < smallWindow
	return !t.relOK || t.p.ack.After(t.relAck) || small && uint32(t.p.win) > 2*t.relWin
}

// primaryAck handles the acknowledgement in a segment of the primary that carries nothing else. f is the
// engine's to release or free.
func (e *Engine) primaryAck(now int64, fl *flow, f *Frame) {
	t, p := &fl.t, &f.P
	if p.Flags&frame.ACK == 0 {
		e.whole(now, f, WhyAgreed) // says nothing at all
		return
	}
	if !t.s.ok {
		e.owe(now, fl, f)
		return
	}
	ack, win := t.limit()
	progress := !t.relOK || ack.After(t.relAck) || ack == t.relAck && t.relWin == 0 && win > 0
	switch {
	case p.Ack.After(ack) && !progress:
		e.owe(now, fl, f)
		return
	case p.Ack.After(ack):
		e.pure(now, fl, f, ack, win, WhyAck)
	case !progress && !t.p.same && p.SACKLen == 0 && ack == t.relAck && uint32(win) == t.relWin:
		// A window update that the secondary does not stand for yet. Sent lowered it would be a repetition, and
		// clients count those.
		t.winOwed = true
		e.stats.Merged++
		e.free(f)
	default:
		// Both stand for it, old or new. A repeated one is passed on.
		if p.Ack.Before(ack) {
			ack, win = p.Ack, min(win, p.Window)
		}
		why := WhyAgreed
		if win != p.Window {
			why, t.winOwed = WhyAck, true
		}
		e.pure(now, fl, f, ack, win, why)
	}
	e.settleOwed(now, fl)
}

// owe notes that the primary's newest acknowledgement waits for the secondary's and gives f back: its content
// is in the flow's state.
func (e *Engine) owe(now int64, fl *flow, f *Frame) {
	fl.t.tmpl.Learn(f.Buf, &f.P)
	e.stats.Merged++
	e.owed.arm(fl, now)
	e.free(f)
}

// Logged says that the client's bytes [seq, end) of a flow are in the input log of the secondary's node, which will give
// them to its guest until that has them. Clients may then be told that they arrived, once the primary has said so.
// Calls come in the order in which the bytes were mirrored.
func (e *Engine) Logged(now int64, key frame.FlowKey, seq, end frame.Num) {
	if e.solo || e.buffer {
		return // nobody is asked; after the next checkpoint the secondary has what the primary has
	}
	fl := e.lookup(key, false)
	if fl == nil || !fl.t.s.ok {
		return
	}
	e.complete(now, fl)
	t := &fl.t
	from := t.s.ack
	if t.logOK && t.log.After(from) {
		from = t.log
	}
	if seq.After(from) || !end.After(from) {
		return // not joined to what is there: clients may have sent it out of order, or the log lacks what is before
	}
	t.log, t.logOK = end, true
	e.secondaryAck(now, fl, false)
	e.watch(now, fl)
}

// lags says that the secondary's guest has not acknowledged what the primary's has.
func (t *tcpState) lags() bool { return t.p.ok && t.s.ok && t.p.ack.After(t.s.ack) }

// settleOwed brings the owed timer in line with the state.
func (e *Engine) settleOwed(now int64, fl *flow) {
	if !fl.t.behind() && !fl.t.lags() {
		if fl.owed.in {
			e.owed.disarm(fl)
		}
		return
	}
	e.owed.arm(fl, now)
}

// secondaryAck handles the acknowledgement in a segment of the secondary: clients are told what has become
// common ground by it.
func (e *Engine) secondaryAck(now int64, fl *flow, repeated bool) {
	t := &fl.t
	if !t.p.ok || !t.s.ok {
		return
	}
	ack, win := t.limit()
	switch {
	case !t.relOK, ack.After(t.relAck),
		ack == t.relAck && uint32(win) > t.relWin && (uint32(win) >= 2*t.relWin || t.winOwed && win == t.p.win):
		t.winOwed = t.winOwed && win != t.p.win
		if t.tmpl.Known() && (t.relOK || fl.owed.in) {
			e.madeAck(fl, ack, win, nil)
			if !t.lags() {
				e.owed.disarm(fl)
			}
		}
	case repeated && ack == t.relAck && t.s.ack == ack && t.p.ack.After(t.s.ack):
		// The secondary misses what the primary has, and so does its node's log: let the client send it again.
		var common sackSet
		for _, b := range t.s.sack.b[:t.s.sack.n] {
			if t.p.sack.covers(t.p.ack, b[0], b[1]) {
				common.add(b[0], b[1])
			}
		}
		e.madeAck(fl, ack, win, &common)
	}
	e.settleOwed(now, fl)
}
