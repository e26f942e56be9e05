package compare

import "colod/internal/frame"

// BeginCheckpoint suspends comparison: frames of the primary are queued from here on. What was held before may
// still be released by what the secondary said before.
func (e *Engine) BeginCheckpoint(now int64) {
	e.completeAll(now)
	e.holding = true
}

// EndCheckpoint takes the completed checkpoint into account. resume is the kernel's time at which the primary's
// guest went on: queued frames received before it, and all that was held before BeginCheckpoint, are
// covered and released; the rest is compared, in a new epoch, against a secondary that is now a copy.
//
// A clock that was set back in between must not make new output look old, so the first queued frame that is
// not covered ends the covered part.
func (e *Engine) EndCheckpoint(now, resume int64) {
	e.completeAll(now)
	e.cover(now, WhyCovered)
	for f := e.queued.head; f != nil && f.KTime < resume; f = e.queued.head {
		e.queued.remove(f)
		e.pass(now, f, WhyCovered)
	}
	e.settleAll(now)
	e.epoch++
	e.restart()
	e.dropNumbers()
	e.npieces = 0
	e.solo, e.holding, e.resumed, e.buffer = false, false, now, e.next
	if e.buffer {
		e.early = nil
		return // what is queued waits for the next one
	}
	e.drain(now)
	early := e.early
	e.early = nil
	for i := range early {
		e.Descriptor(now, &early[i])
	}
}

// SetBuffer says what the epochs are like that begin with the next checkpoints. In a buffered one nothing is compared:
// output waits until a checkpoint covers it (Remus, Kemari and Cuju work so).
func (e *Engine) SetBuffer(on bool) { e.next = on }

// Buffered reports whether the present epoch is a buffered one.
func (e *Engine) Buffered() bool { return e.buffer && !e.solo }

// AbortCheckpoint ends the suspension without a checkpoint: comparison goes on with what was queued.
func (e *Engine) AbortCheckpoint(now int64) {
	e.completeAll(now)
	e.holding = false
	for f := e.held.head; f != nil; f = f.link.next {
		f.link.arrived = now
	}
	for _, l := range []*timerList{&e.owed, &e.swait} {
		for fl := l.head; fl != nil; fl = l.of(fl).next {
			l.of(fl).since, l.of(fl).place = now, now
		}
	}
	e.round++
	e.silentAt = 0
	e.early = nil
	if !e.buffer {
		e.drain(now)
	}
}

// Solo releases all that is held, and all that comes, by the authority of the arbiter's record.
func (e *Engine) Solo(now int64) {
	e.completeAll(now)
	e.cover(now, WhySolo)
	e.solo, e.holding, e.buffer = true, false, false
	e.settleAll(now)
	e.restart()
	e.early = nil
	for f := e.queued.pop(); f != nil; f = e.queued.pop() {
		e.pass(now, f, WhySolo)
	}
}

// dropNumbers forgets the flow numbers of the epoch that ends. Those after the last that was used stay: the
// secondary's guest goes on first, so flows of the new epoch may be defined already.
func (e *Engine) dropNumbers() {
	n := copy(e.sids, e.sids[e.sidUsed:])
	clear(e.sids[n:])
	e.sids = e.sids[:n]
	e.sidOff += uint32(e.sidUsed)
	e.sidUsed = 0
}

// restart forgets what belongs to the epoch that ends: timers, reports of divergences.
func (e *Engine) restart() {
	e.owed.clear()
	e.swait.clear()
	e.round++
	e.silentAt = 0
	e.closeReports()
	clear(e.doubts)
	clear(e.syns)
	e.syns = e.syns[:0]
	for i, fl := range e.dirty {
		fl.dirty = false
		e.dirty[i] = nil
	}
	e.dirty = e.dirty[:0]
	for i, fl := range e.soft {
		fl.soft = false
		e.soft[i] = nil
	}
	e.soft = e.soft[:0]
}

func (e *Engine) drain(now int64) {
	for f := e.queued.pop(); f != nil; f = e.queued.pop() {
		e.Primary(now, f)
	}
}

// cover releases every held frame, in order of arrival.
func (e *Engine) cover(now int64, why Why) {
	for f := e.held.head; f != nil; f = e.held.head {
		fl, w := f.link.fl, f.link.wait
		from, to := f.link.start, f.link.end
		e.unkeep(f)
		t := &fl.t
		switch w {
		case waitData:
			e.segment(now, fl, f, from, to, true, false, why)
		case waitAgain:
			e.segment(now, fl, f, f.P.Seq, f.P.SegEnd(), true, false, why)
		case waitSYN:
			t.synOK = true
			e.releaseSYN(now, fl, f, why)
		case waitRST:
			t.rst = nil
			e.stamped(now, fl, f, why)
		default:
			e.remember(fl, f)
			e.whole(now, f, why)
		}
		t.held.reset()
		t.again.reset()
		fl.d.held.reset()
		t.syn = nil
	}
}

// pass releases a queued frame that needs no agreement.
func (e *Engine) pass(now int64, f *Frame, why Why) {
	f.link.wait = waitNone
	fl := e.lookup(f.P.Key(true), true)
	p := &f.P
	if p.Kind != frame.KindTCP {
		fl.pSeen = true
		e.remember(fl, f)
		e.whole(now, f, why)
		return
	}
	if p.Flags&frame.SYN != 0 && (!fl.t.issKnown || fl.t.iss != p.Seq || fl.t.otherPeer(p.Flags, p.Ack)) {
		e.newConnection(fl, f)
		t := &fl.t
		t.known = true
		t.v, t.pmax, t.rel, t.base = p.Seq, p.Seq, p.Seq, p.Seq+1
		t.iss, t.issKnown, t.synOK = p.Seq, true, true
		t.synHasAck, t.synAck = p.Flags&frame.ACK != 0, p.Ack
		t.scaleOK, t.scale = true, uint8(max(p.WScale, 0))
	}
	e.learn(fl, f)
	e.letOut(now, fl, f, why)
}

// settleAll tells clients the acknowledgements that waited for the secondary: all state that the primary had
// is common now.
func (e *Engine) settleAll(int64) {
	for fl := e.owed.head; fl != nil; fl = e.owed.head {
		e.owed.disarm(fl)
		if t := &fl.t; t.behind() {
			e.madeAck(fl, t.p.ack, t.p.win, nil)
		}
	}
}

// rebase brings fl into epoch: the secondary is a copy of the primary, so all that the primary said is common.
func (fl *flow) rebase(epoch uint32) {
	t := &fl.t
	fl.epoch, fl.sid, fl.next, fl.reported, fl.broken = epoch, 0, nil, 0, 0
	t.v, t.covered, t.coverOK = t.pmax, t.pmax, t.known
	t.pSYN, t.sSYN, t.announced = false, false, 0
	t.synOK = t.issKnown
	t.pieces.reset()
	t.ask = span{}
	t.sFIN, t.sFINSeq = t.pFIN, t.pFINSeq
	t.nRST, t.rstOpen = 0, false
	t.s = t.p
	t.logOK = false // counts anew from what both have now
	if !quiet(fl.key.Kind) {
		fl.d.said.reset()
	}
	fl.d.next, fl.d.mask, fl.d.farMask = 0, 0, 0
}
