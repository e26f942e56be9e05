package compare

import "colod/internal/frame"

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
		e.out.Releases[len(e.out.Releases)-1].Flow = fl.sid
		return
	}
	r := e.newRelease(why)
	r.Flow = fl.sid
	r.HeadLen = p.Cut(r.Head[:], f.Buf, 0, 0)
	r.Head[p.L4+13] &^= frame.FIN | frame.PSH
	r.F, r.Last, r.Held = f, true, now-f.link.arrived
	f.link = heldLink{}
	e.count(r)
}
