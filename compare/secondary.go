package compare

import "colod/internal/frame"

// FlowDef takes the number that the secondary's node gives to a flow. Numbers come in order without gaps.
func (e *Engine) FlowDef(id uint32, key frame.FlowKey) {
	if id != e.sidOff+uint32(len(e.sids)) {
		e.diverge(0, nil, Divergence{Reason: ReasonProtocol, Key: key, Detail: "flow number out of order"})
		return
	}
	e.sids = append(e.sids, sidEntry{key: key})
}

// Descriptor takes what the secondary's guest has said. d is not kept.
func (e *Engine) Descriptor(now int64, d *Descriptor) {
	if e.solo && !e.holding {
		if int32(d.Epoch-e.epoch) > 0 {
			e.later(d)
		}
		return
	}
	switch {
	case d.Epoch == e.epoch && !e.solo:
	case d.Epoch == e.epoch+1 && e.holding:
		e.later(d)
		return
	default:
		e.stats.Stale++
		return
	}
	if d.Kind == DescribeFault {
		r := d.Reason
		if r <= reasonInvalid || r >= reasonEnd {
			r = ReasonProtocol
		}
		e.diverge(now, nil, Divergence{Reason: r, Detail: "reported by the secondary's node"})
		return
	}
	if why := d.check(); why != "" {
		e.diverge(now, nil, Divergence{Reason: ReasonProtocol, Seq: d.Seq, Len: d.Len, Detail: why})
		return
	}
	fl := e.flowOf(d)
	if fl == nil {
		return
	}
	fl.touched = true
	switch {
	case fl.key.Kind != frame.KindTCP && d.Kind == DescribeDatagram:
		e.secondaryDatagram(now, fl, d)
	case fl.key.Kind != frame.KindTCP || d.Kind == DescribeDatagram:
		e.diverge(now, fl, Divergence{Reason: ReasonProtocol, Detail: "descriptor of another kind than its flow"})
	case d.Kind == DescribeTCP:
		e.secondaryTCP(now, fl, d)
	case d.Kind == DescribeReply:
		e.reply(now, fl, d)
	case d.Kind == DescribeGone:
		e.gone(now, fl, d)
	}
	if !fl.dead {
		e.watch(now, fl)
	}
}

// later keeps a descriptor of the epoch that begins when the checkpoint ends.
func (e *Engine) later(d *Descriptor) {
	if len(e.early) >= e.cfg.MaxPieces {
		e.stats.EarlyDropped++
		return
	}
	c := *d
	c.Digests = append([][DigestLen]byte(nil), d.Digests...)
	e.early = append(e.early, c)
}

// check says what is wrong with d by itself, "" when nothing is.
func (d *Descriptor) check() string {
	if d.Kind <= descriptorInvalid || d.Kind >= descriptorEnd {
		return "descriptor of unknown kind"
	}
	if d.Len > maxSegment {
		return "described range too long"
	}
	if d.NSACK > 4 {
		return "too many SACK blocks"
	}
	want := 0
	switch d.Kind {
	case DescribeTCP:
		if d.Len > 0 {
			if d.Piece == 0 {
				return "described range without a piece length"
			}
			want = int((d.Len + d.Piece - 1) / d.Piece)
		}
	case DescribeDatagram, DescribeReply:
		want = 1
	}
	if len(d.Digests) != want {
		return "wrong number of digests"
	}
	return ""
}

// flowOf finds the flow of d by its number. At the number's first use it is tied to the connection that it
// belongs to: the present one of its key, or the one after it when the secondary is ahead.
func (e *Engine) flowOf(d *Descriptor) *flow {
	i := d.Flow - e.sidOff
	if d.Flow == 0 || i >= uint32(len(e.sids)) {
		if int32(d.Flow-e.sidOff) < 0 {
			e.stats.Stale++
			return nil
		}
		e.diverge(0, nil, Divergence{Reason: ReasonProtocol, Detail: "flow number not defined"})
		return nil
	}
	s := &e.sids[i]
	e.sidUsed = max(e.sidUsed, int(i)+1)
	if s.fl != nil {
		return s.fl
	}
	if s.stale {
		e.stats.Stale++
		return nil
	}
	fl := e.lookup(s.key, true)
	switch {
	case s.key.Kind != frame.KindTCP:
		if fl.sid != 0 {
			e.dropSaid(fl) // the secondary's node forgot the flow in between
			fl.d.next, fl.d.mask = 0, 0
			e.retire(fl)
		}
	case !belongs(&fl.t, fl, d):
		if !ahead(fl, d) {
			s.stale = true
			e.stats.Stale++
			return nil
		}
		if fl.next != nil {
			e.retire(fl.next)
		}
		if !fl.pSeen { // only the secondary has used this flow so far, and it has moved on
			e.clearFlow(fl)
		} else {
			fl.next = &flow{key: s.key, epoch: e.epoch, next: nil}
			fl = fl.next
		}
	case fl.sid != 0:
		e.retire(fl)
		fl.t.ask = span{}
	}
	fl.sid, s.fl = d.Flow, fl
	return fl
}

// belongs says whether d, the first descriptor of its number, is of the connection that fl is in.
func belongs(t *tcpState, fl *flow, d *Descriptor) bool {
	syn, ack := d.Flags&frame.SYN != 0, d.Flags&frame.ACK != 0
	switch {
	case !t.pSYN && !t.sSYN: // a connection older than the epoch, or nothing yet
		return !syn || !fl.pSeen || t.issKnown && d.Seq == t.iss && !t.otherPeer(d.Flags, d.Ack)
	case syn:
		return fl.sid == 0 && (!t.synHasAck || !ack || t.synAck == d.Ack)
	case d.Flags&frame.RST != 0:
		return fl.sid == 0 && (!t.synHasAck || t.synAck == d.Ack)
	default:
		return false
	}
}

// ahead says whether d may open a connection that the primary's guest has not got to yet.
func ahead(fl *flow, d *Descriptor) bool {
	return d.Flags&frame.SYN != 0 && fl.key.Kind == frame.KindTCP
}

// secondaryTCP handles a segment of the secondary's guest.
func (e *Engine) secondaryTCP(now int64, fl *flow, d *Descriptor) {
	t := &fl.t
	if d.Flags&frame.SYN != 0 {
		e.secondarySYN(now, fl, d)
		return
	}
	if t.known && d.Flags&frame.RST == 0 {
		if off := d.Seq.Diff(t.v); off > maxOffset || off < -maxOffset {
			e.diverge(now, fl, Divergence{Reason: ReasonProtocol, Seq: d.Seq, Len: d.Len,
				Detail: "descriptor far from the agreed position"})
			return
		}
	}
	if d.Flags&frame.RST != 0 {
		if t.nRST == len(t.sRST) {
			copy(t.sRST[:], t.sRST[1:])
			t.nRST--
		}
		t.sRST[t.nRST] = rstMark{d.Seq, d.Ack}
		t.nRST++
		t.rstOpen = true
		e.tryRST(now, fl)
		return
	}
	repeated := false
	if d.Flags&frame.ACK != 0 {
		repeated = d.Pure && t.s.ok && d.Ack == t.s.ack && d.Window == t.s.win
		for _, b := range d.SACK[:d.NSACK] {
			t.s.sack.add(b[0], b[1])
		}
		t.s.take(d.Ack, d.Window, t.scale, false)
	}
	if d.Flags&frame.FIN != 0 && !t.sFIN {
		t.sFIN, t.sFINSeq = true, d.Seq.Add(d.Len)
	}
	if d.Len > 0 {
		e.addPieces(now, fl, d)
	}
	if d.Len > 0 || d.Flags&frame.FIN != 0 {
		e.advance(now, fl)
	}
	if t.p.ok {
		e.secondaryAck(now, fl, repeated)
	}
	if t.again.len() > 0 {
		e.askAgain(fl)
	}
}

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

// addPieces puts the described ranges of d among the pieces, by position.
func (e *Engine) addPieces(now int64, fl *flow, d *Descriptor) {
	t := &fl.t
	if e.npieces+len(d.Digests) > e.cfg.MaxPieces {
		e.overflow(now, "described ranges")
		if e.npieces+len(d.Digests) > 2*e.cfg.MaxPieces {
			return
		}
	}
	base := uint64(d.Hi)<<32 | uint64(d.Seq)
	for i := range d.Digests {
		at := uint32(i) * d.Piece
		pc := piece{span: span{d.Seq.Add(at), min(d.Piece, d.Len-at)}, flow: d.Flow, pos: (base + uint64(at)) & posMask,
			digest: d.Digests[i]}
		if t.known && pc.end().AtMost(t.v) {
			continue
		}
		e.npieces++
		j := t.pieces.len()
		for j > 0 && t.pieces.at(j-1).seq.After(pc.seq) {
			j--
		}
		if j == t.pieces.len() {
			t.pieces.push(pc)
		} else {
			t.pieces.insert(j, pc)
		}
	}
}

// secondarySYN handles a SYN of the secondary's guest.
func (e *Engine) secondarySYN(now int64, fl *flow, d *Descriptor) {
	t := &fl.t
	if !t.pSYN && fl.pSeen {
		return // repeated from before the checkpoint
	}
	if d.Flags&frame.ACK != 0 {
		if !t.pSYN {
			t.synHasAck, t.synAck = true, d.Ack
		}
		t.s.take(d.Ack, d.Window, uint8(min(max(d.WScale, 0), 14)), true)
	}
	if !t.sSYN {
		t.sSYN = true
		t.sOpt = synOptions{mss: d.MSS, wscale: d.WScale, sackPerm: d.SACKPerm, hasTS: d.HasTS}
	}
	if t.syn != nil {
		e.trySYN(now, fl)
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
