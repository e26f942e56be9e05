package compare

import "colod/internal/frame"

func tcp(fl *dflow) bool { return fl.key.Kind == frame.KindTCP }

// Ask answers for a range of a stream: at once when all of it is kept, when the guest has sent it otherwise.
func (d *Describer) Ask(a Ask) {
	fl := d.flowByID(a.Flow)
	if fl == nil || !tcp(fl) || a.Len == 0 || a.Len > maxSegment {
		return // of an epoch or connection that is over
	}
	d.stats.Asked++
	if a.Fine {
		fl.fine = true
	}
	if d.answer(fl, &a) {
		return
	}
	if fl.nasks == len(fl.asks) {
		copy(fl.asks[:], fl.asks[1:])
		fl.nasks--
	}
	fl.asks[fl.nasks] = a
	fl.nasks++
}

// pending answers the questions that can be answered now.
func (d *Describer) pending(fl *dflow) {
	left := 0
	for i := range fl.nasks {
		if a := fl.asks[i]; !d.answer(fl, &a) {
			fl.asks[left] = a
			left++
		}
	}
	fl.nasks = left
}

// answer emits the answer to a. False means that the bytes are not there yet.
func (d *Describer) answer(fl *dflow, a *Ask) bool {
	if fl.unaOK && a.Seq.Before(fl.una) {
		d.emit(Descriptor{Kind: DescribeGone, Flow: fl.id, Seq: a.Seq, Len: a.Len, WScale: -1})
		return true
	}
	data := d.collect(fl, a.Seq, a.Len)
	if uint32(len(data)) < a.Len {
		return false
	}
	pos := fl.position(a.Seq)
	if !fl.known {
		return false
	}
	start := len(d.out.digests)
	digests := d.digest(start, fl.id, pos, data)
	d.emit(Descriptor{Kind: DescribeReply, Flow: fl.id, Seq: a.Seq, Len: a.Len, Hi: uint16(pos >> 32), Piece: a.Len, Digests: digests,
		WScale: -1})
	return true
}

// collect is the kept bytes from seq on, at most n and contiguous. They are joined in a scratch buffer when they
// lie in several frames.
func (d *Describer) collect(fl *dflow, seq frame.Num, n uint32) []byte {
	join := d.dig.join[:0]
	for i := range fl.kept.len() {
		f := *fl.kept.at(i)
		if f.link.end.AtMost(seq) {
			continue
		}
		if f.link.start.After(seq) {
			break
		}
		p := &f.P
		if p.Flags&frame.SYN != 0 {
			break
		}
		off := p.Payload + int(seq-p.Seq.Add(fl.seqOff))
		avail := min(uint32(p.End-off), uint32(f.link.end-seq))
		if avail >= n {
			if len(join) == 0 {
				return f.Buf[off : off+int(n)]
			}
			d.dig.join = append(join, f.Buf[off:off+int(n)]...)
			return d.dig.join
		}
		join = append(join, f.Buf[off:off+int(avail)]...)
		seq, n = seq.Add(avail), n-avail
	}
	return join
}

// AskRaw answers with the bytes themselves, as many as are kept, for a report.
func (d *Describer) AskRaw(a Ask) {
	fl := d.flowByID(a.Flow)
	r := Raw{ID: a.ID, Flow: a.Flow, Seq: a.Seq}
	switch {
	case fl == nil || a.Len > maxSegment:
	case tcp(fl):
		r.Data = append([]byte(nil), d.collect(fl, a.Seq, a.Len)...)
	default:
		for i := range fl.dkept.len() {
			if f := *fl.dkept.at(i); f.link.index == a.Index {
				from, to, _ := compared(f.Buf, &f.P)
				r.Data = append([]byte(nil), f.Buf[from:to]...)
				break
			}
		}
	}
	d.out.Raws = append(d.out.Raws, r)
}
