package compare

import "colod/internal/frame"

// tcp describes a segment of the secondary's guest.
func (d *Describer) tcp(fl *dflow, f *Frame) {
	p := &f.P
	if p.Flags&frame.SYN != 0 {
		d.syn(fl, f)
		return
	}
	fl.note(f)
	if fl.born && !fl.mapped {
		if fl.waiting.len() >= maxUnmapped {
			d.fault(ReasonQueue)
			d.stats.Refused++
			d.free(f)
			return
		}
		if d.keep(f) {
			fl.waiting.push(f)
		}
		return
	}
	d.segment(fl, f)
}

// note takes the numbers that an acknowledgement after a promotion is made from.
func (fl *dflow) note(f *Frame) {
	p := &f.P
	if !fl.tmpl.Known() {
		fl.tmpl.Learn(f.Buf, p)
	}
	if p.Flags&frame.ACK != 0 && p.Flags&frame.RST == 0 {
		if fl.ack != p.Ack || !fl.acked {
			fl.acked = true
		}
		fl.ack, fl.win = p.Ack, p.Window
	}
	if end := p.SegEnd(); end.After(fl.nxt) || fl.nxt == 0 {
		fl.nxt = end
	}
	if p.HasTS {
		fl.hasTS, fl.ts, fl.ecr = true, p.TSVal, p.TSEcr
	}
}

// syn handles a SYN or SYN+ACK: a new one starts a new connection with a number of its own.
func (d *Describer) syn(fl *dflow, f *Frame) {
	p := &f.P
	if !fl.born || fl.iss != p.Seq || fl.hasAck && p.Flags&frame.ACK != 0 && fl.synAck != p.Ack {
		d.drop(fl)
		d.retire(fl)
		*fl = dflow{key: fl.key, touched: true, kept: fl.kept, waiting: fl.waiting, dkept: fl.dkept}
		fl.born, fl.iss = true, p.Seq
		fl.hasTS, fl.synTS = p.HasTS, p.TSVal
		if p.Flags&frame.ACK != 0 {
			fl.hasAck, fl.synAck = true, p.Ack
		}
		if a, ok := d.early[fl.key]; ok && fl.fits(&a) {
			delete(d.early, fl.key)
			d.mapTo(fl, &a)
		}
	}
	fl.note(f)
	desc := d.header(fl, f)
	desc.MSS, desc.WScale, desc.SACKPerm = p.MSS, p.WScale, p.SACKPerm
	desc.Seq, desc.TSVal, desc.Mapped = p.Seq.Add(fl.seqOff), p.TSVal+fl.tsOff, fl.mapped
	d.stats.Described++
	f.link.start, f.link.end = p.Seq.Add(fl.seqOff), p.Seq.Add(fl.seqOff+1)
	if fl.kept.len() > 0 || fl.unaOK {
		d.stats.Repeated++
		d.free(f)
		return
	}
	if d.keep(f) {
		fl.kept.push(f)
	}
}

func (fl *dflow) fits(a *Announce) bool {
	return fl.born && !fl.mapped && a.HasAck == fl.hasAck && (!a.HasAck || a.Ack == fl.synAck)
}

// mapTo takes the primary's numbers for the connection.
func (d *Describer) mapTo(fl *dflow, a *Announce) {
	fl.mapped = true
	fl.seqOff = uint32(a.Seq - fl.iss)
	if a.HasTS && fl.hasTS {
		fl.tsOff = a.TSVal - fl.synTS
		fl.sawTS(a.TSVal)
	}
	for i := range fl.kept.len() { // the SYN
		f := *fl.kept.at(i)
		f.link.start, f.link.end = f.link.start.Add(fl.seqOff), f.link.end.Add(fl.seqOff)
	}
	for fl.waiting.len() > 0 {
		f := *fl.waiting.at(0)
		fl.waiting.drop(1)
		d.kept.remove(f)
		d.segment(fl, f)
	}
}

// Announce takes the primary's numbers of a connection.
func (d *Describer) Announce(a Announce) {
	fl := d.lookup(a.Key, false)
	if fl != nil && fl.fits(&a) {
		d.mapTo(fl, &a)
		return
	}
	if len(d.early) >= d.cfg.MaxFlows {
		d.fault(ReasonQueue)
		return
	}
	d.early[a.Key] = a
}

// header fills what every TCP descriptor has.
func (d *Describer) header(fl *dflow, f *Frame) *Descriptor {
	p := &f.P
	desc := d.emit(Descriptor{Kind: DescribeTCP, Flow: d.number(fl), Seq: p.Seq.Add(fl.seqOff), Flags: p.Flags, Ack: p.Ack,
		Window: p.Window, HasTS: p.HasTS, TSVal: p.TSVal + fl.tsOff, TSEcr: p.TSEcr, WScale: -1, KTime: f.KTime, Mapped: true})
	for i := range min(p.SACKLen/8, len(desc.SACK)) {
		l, r := p.SACK(f.Buf, i)
		desc.SACK[i] = [2]frame.Num{l, r}
		desc.NSACK++
	}
	return desc
}

// segment describes a segment whose translation is known.
func (d *Describer) segment(fl *dflow, f *Frame) {
	p := &f.P
	d.stats.Described++
	desc := d.header(fl, f)
	if p.Flags&frame.RST != 0 {
		fl.rst = true
		if p.Seq == 0 {
			desc.Seq = 0 // the answer to a segment without acknowledgement has no sequence number
		}
		desc.Flags &^= frame.FIN
		d.free(f)
		return
	}
	n, fin := uint32(p.Len()), p.Flags&frame.FIN != 0
	s := p.Seq.Add(fl.seqOff)
	end := s.Add(n)
	if fin {
		fl.fin, fl.finEnd = true, end+1
	}
	if n == 0 {
		desc.Seq = end
		desc.Pure = !fin
		if !fin {
			d.free(f)
			return
		}
		d.retain(fl, f, s, end+1)
		return
	}
	if lo, hi, ok := d.fresh(fl, s, end); ok {
		last := end
		if fin {
			last++
		}
		if !d.cfg.Local || !d.lend(fl, f, desc, span{s, uint32(last - s)}, lo, hi) {
			d.describe(fl, f, desc, lo, hi)
		}
		if fin && hi != end {
			desc.Flags &^= frame.FIN
		}
	} else {
		desc.Seq = end
	}
	if fin {
		end++
	}
	d.retain(fl, f, s, end)
}

// fresh is the part of [s, end) that was not described yet. When there are several parts the first is taken, and
// the rest is left for the guest's next repetition.
func (d *Describer) fresh(fl *dflow, s, end frame.Num) (lo, hi frame.Num, ok bool) {
	switch {
	case !fl.known:
		fl.known, fl.lo, fl.hi, fl.pos = true, s, end, uint64(end)
		return s, end, true
	case end.After(fl.hi):
		if s.After(fl.hi) && !fl.addHole(span{fl.hi, uint32(s - fl.hi)}) {
			d.fault(ReasonLost)
		}
		lo = s.Max(fl.hi)
		fl.pos = (fl.pos + uint64(end-fl.hi)) & posMask
		fl.hi = end
		fl.follow()
		return lo, end, true
	case s.Before(fl.lo):
		hi = end.Min(fl.lo)
		if hi.Before(fl.lo) && !fl.addHole(span{hi, uint32(fl.lo - hi)}) {
			d.fault(ReasonLost)
		}
		fl.lo = s
		return s, hi, true
	}
	for i := range fl.nholes {
		h := fl.holes[i]
		lo, hi = s.Max(h.seq), end.Min(h.seq.Add(h.n))
		if !lo.Before(hi) {
			continue
		}
		fl.nholes--
		copy(fl.holes[i:fl.nholes], fl.holes[i+1:fl.nholes+1])
		if h.seq.Before(lo) {
			fl.addHole(span{h.seq, uint32(lo - h.seq)})
		}
		if e := h.seq.Add(h.n); hi.Before(e) && !fl.addHole(span{hi, uint32(e - hi)}) {
			d.fault(ReasonLost)
		}
		return lo, hi, true
	}
	return 0, 0, false
}

// follow lets the beginning of what was described follow its end: numbers that lie half of their space (2 GiB) or more apart
// have no order (RFC 9293, 3.4). Nothing is older than the largest window, 1 GiB (RFC 7323, 2.3).
func (fl *dflow) follow() {
	const window = 1 << 30
	if fl.hi.Diff(fl.lo) <= window {
		return
	}
	fl.lo = fl.hi - window
	left := 0
	for _, h := range fl.holes[:fl.nholes] {
		if end := h.seq.Add(h.n); end.After(fl.lo) {
			h.seq = h.seq.Max(fl.lo)
			h.n = uint32(end - h.seq)
			fl.holes[left] = h
			left++
		}
	}
	fl.nholes = left
}

func (fl *dflow) addHole(s span) bool {
	if fl.nholes == len(fl.holes) {
		return false
	}
	fl.holes[fl.nholes] = s
	fl.nholes++
	return true
}

// position is the stream position of seq.
func (fl *dflow) position(seq frame.Num) uint64 {
	return (fl.pos + uint64(int64(seq.Diff(fl.hi)))) & posMask
}

// describe puts the digests of [lo, hi) into desc.
func (d *Describer) describe(fl *dflow, f *Frame, desc *Descriptor, lo, hi frame.Num) {
	p := &f.P
	off := p.Payload + int(lo-p.Seq.Add(fl.seqOff))
	pos := fl.position(lo)
	desc.Seq, desc.Len, desc.Hi = lo, uint32(hi-lo), uint16(pos>>32)
	desc.Piece = desc.Len
	if fl.fine {
		size := uint32(p.GSOSize)
		if size == 0 {
			size = 1448
		}
		desc.Piece = min(desc.Piece, max(size, minPiece))
	}
	start := len(d.out.digests)
	for at := uint32(0); at < desc.Len; at += desc.Piece {
		n := min(desc.Piece, desc.Len-at)
		desc.Digests = d.digest(start, desc.Flow, (pos+uint64(at))&posMask, f.Buf[off+int(at):off+int(at+n)])
	}
}

// retain keeps f for questions and for a promotion, if it has bytes that no kept frame has and that the client
// has not acknowledged.
func (d *Describer) retain(fl *dflow, f *Frame, s, end frame.Num) {
	i, s, end := fl.place(s, end)
	if s.AtLeast(end) {
		d.stats.Repeated++
		d.free(f)
		return
	}
	f.link.start, f.link.end = s, end
	if !d.keep(f) {
		return
	}
	if i == fl.kept.len() {
		fl.kept.push(f)
	} else {
		fl.kept.insert(i, f)
	}
	if fl.nasks > 0 {
		d.pending(fl)
	}
}

// place is what of [s, end) no kept frame has and the client has not acknowledged, and its place in kept.
func (fl *dflow) place(s, end frame.Num) (int, frame.Num, frame.Num) {
	if fl.unaOK && s.Before(fl.una) {
		s = fl.una
	}
	i := fl.kept.len()
	for i > 0 {
		g := *fl.kept.at(i - 1)
		if g.link.start.AtMost(s) {
			s = s.Max(g.link.end)
			break
		}
		i--
	}
	if i < fl.kept.len() {
		end = end.Min((*fl.kept.at(i)).link.start)
	}
	return i, s, end
}

// Input takes the headers of a client's frame on its way to the guest, in the clients' space, before it is
// rewritten.
func (d *Describer) Input(_ int64, p *frame.Parsed) {
	if p.Kind != frame.KindTCP {
		return
	}
	fl := d.lookup(p.Key(false), false)
	if fl == nil {
		return
	}
	if p.Flags&frame.FIN != 0 {
		fl.cfin = true
	}
	if p.Flags&frame.RST != 0 {
		fl.rst = true
		return
	}
	if p.Flags&frame.ACK == 0 {
		return
	}
	if p.HasTS {
		fl.sawTS(p.TSEcr)
	}
	if fl.born && !fl.mapped && p.Ack == fl.iss+1 {
		// The client knows the number, so it was released, and not by way of an announcement: a checkpoint
		// covered it, and the guests have the same.
		d.mapTo(fl, &Announce{Seq: fl.iss, HasTS: fl.hasTS, TSVal: fl.synTS})
	}
	d.acknowledged(fl, p.Ack)
}

// Forget says that nothing before end will be asked for of the stream with this number of the describer's (Release.Flow).
func (d *Describer) Forget(flow uint32, end frame.Num) {
	if fl := d.flowByID(flow); fl != nil {
		d.acknowledged(fl, end)
	}
}

// acknowledged frees what lies before una.
func (d *Describer) acknowledged(fl *dflow, una frame.Num) {
	if fl.born && !fl.mapped || fl.unaOK && una.AtMost(fl.una) {
		return
	}
	if fl.known && una.After(fl.hi+1) || fl.mapped && !fl.known && una.After(fl.iss.Add(fl.seqOff+1)) ||
		!fl.known && !fl.mapped && una.After(fl.nxt+1) {
		return // of bytes that it cannot have; the 1 is the FIN's, or a keepalive probe's
	}
	fl.una, fl.unaOK = una, true
	for fl.kept.len() > 0 {
		f := *fl.kept.at(0)
		if f.link.end.After(fl.una) {
			break
		}
		fl.kept.drop(1)
		d.kept.remove(f)
		d.free(f)
	}
	if fl.nasks > 0 {
		d.pending(fl)
	}
}

func (fl *dflow) sawTS(ts uint32) {
	if !fl.tsSeen || frame.Num(ts).After(fl.lastTS) {
		fl.lastTS, fl.tsSeen = frame.Num(ts), true
	}
}

// closed says that both sides have closed the connection and all is acknowledged, or that it was reset.
func (fl *dflow) closed() bool {
	return fl.rst || fl.fin && fl.cfin && fl.unaOK && fl.una.AtLeast(fl.finEnd)
}
