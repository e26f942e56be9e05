package compare

import "colod/internal/frame"

// Descriptor takes what the secondary's guest has said. d is not kept.
func (e *Engine) Descriptor(now int64, d *Descriptor) {
	if e.solo && !e.holding {
		if int32(d.Epoch-e.epoch) > 0 {
			e.later(d)
		}
		return
	}
	switch {
	case d.Epoch == e.epoch && !e.solo && !e.buffer:
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
	if d.Kind != DescribeTCP {
		e.complete(now, fl)
	}
	if d.KTime != 0 {
		fl.sTime = d.KTime
	}
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
	if d.Twin != nil && d.Kind == DescribeTCP && d.Len > 0 && d.TwinAt >= 0 && d.TwinAt+int(d.Len) <= len(d.Twin.Buf) {
		want = 0
	}
	if len(d.Digests) != want {
		return "wrong number of digests"
	}
	return ""
}

// secondaryTCP handles a segment of the secondary's guest.
func (e *Engine) secondaryTCP(now int64, fl *flow, d *Descriptor) {
	t := &fl.t
	if d.Flags&(frame.SYN|frame.FIN|frame.RST) != 0 {
		e.complete(now, fl)
	}
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
		before := t.s.ack
		t.s.take(d.Ack, d.Window, t.scale, false)
		if fl.owed.in && t.s.ack.After(before) {
			e.owed.disarm(fl) // it follows: the wait begins anew
			e.owed.arm(fl, now)
		}
	}
	if d.Flags&frame.FIN != 0 && !t.sFIN {
		t.sFIN, t.sFINSeq = true, d.Seq.Add(d.Len)
	}
	if d.Len > 0 {
		e.addPieces(now, fl, d)
	}
	if (d.Len > 0 || fl.late) && t.held.len() > 0 && d.Flags&frame.FIN == 0 && !repeated {
		e.postpone(now, fl)
		return
	}
	e.complete(now, fl)
	if d.Len > 0 || d.Flags&frame.FIN != 0 {
		e.advance(now, fl)
	}
	e.consider(now, fl, repeated)
}

// consider looks at what a segment of the secondary allows beside the release of data.
func (e *Engine) consider(now int64, fl *flow, repeated bool) {
	if fl.t.p.ok {
		e.secondaryAck(now, fl, repeated)
	}
	if fl.t.again.len() > 0 {
		e.askAgain(fl)
	}
}

// postpone leaves what is held of fl until the end of the batch, or until something else happens in fl: what the secondary said
// in several segments may release one frame of the primary, which would else go out in as many parts.
func (e *Engine) postpone(now int64, fl *flow) {
	e.lateAt = now
	if !fl.late {
		fl.late = true
		e.late = append(e.late, fl)
	}
}

// complete makes up for what was postponed of fl.
func (e *Engine) complete(now int64, fl *flow) {
	if !fl.late {
		return
	}
	fl.late = false
	e.advance(now, fl)
	e.consider(now, fl, false)
	e.watch(now, fl)
}

// completeAll makes up for all that was postponed.
func (e *Engine) completeAll(now int64) {
	for i := 0; i < len(e.late); i++ {
		if fl := e.late[i]; !fl.dead {
			e.complete(now, fl)
		}
	}
	clear(e.late)
	e.late = e.late[:0]
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
	if d.Twin != nil {
		e.addPiece(t, piece{span: span{d.Seq, d.Len}, flow: d.Flow, pos: uint64(d.TwinAt), twin: d.Twin})
		return
	}
	base := uint64(d.Hi)<<32 | uint64(d.Seq)
	for i := range d.Digests {
		at := uint32(i) * d.Piece
		e.addPiece(t, piece{span: span{d.Seq.Add(at), min(d.Piece, d.Len-at)}, flow: d.Flow, pos: (base + uint64(at)) & posMask,
			digest: d.Digests[i]})
	}
}

func (e *Engine) addPiece(t *tcpState, pc piece) {
	if t.known && pc.end().AtMost(t.v) {
		return
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
