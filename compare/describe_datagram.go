package compare

// datagram describes a frame that is not TCP, and keeps it until a watermark says that its twin was released.
func (d *Describer) datagram(fl *dflow, f *Frame) {
	from, to, meta := compared(f.Buf, &f.P)
	d.stats.Described++
	id := d.number(fl)
	index := fl.count
	fl.count++
	start := len(d.out.digests)
	digests := d.digest(start, id, index, f.Buf[from:to])
	d.emit(Descriptor{Kind: DescribeDatagram, Flow: id, Len: uint32(to - from), Index: index, Meta: meta, Piece: uint32(to - from),
		Digests: digests, WScale: -1, KTime: f.KTime})
	if quiet(fl.key.Kind) {
		d.free(f) // sent again and again anyway
		return
	}
	f.link.index = index
	if fl.dkept.len() >= 2*d.cfg.MaxFlowFrames {
		d.fault(ReasonQueue)
		d.stats.Refused++
		d.free(f)
		return
	}
	if d.keep(f) {
		fl.dkept.push(f)
	}
}

// Watermark takes how far the primary's side has released a flow.
func (d *Describer) Watermark(w Watermark) {
	fl := d.flowByID(w.Flow)
	if fl == nil {
		return
	}
	if w.Kind != fl.key.Kind {
		return
	}
	if tcp(fl) {
		fl.sawTS(w.TSVal)
		if w.Known && (!fl.relOK || w.Seq.After(fl.rel)) {
			fl.rel, fl.relOK = w.Seq, true
		}
		return
	}
	released := func(index uint64) bool {
		if index < w.Next {
			return true
		}
		off := index - w.Next
		return off >= 1 && off <= 64 && w.Mask&(1<<(off-1)) != 0
	}
	for i := 0; i < fl.dkept.len(); {
		f := *fl.dkept.at(i)
		if f.link.index > w.Next+64 {
			break
		}
		if !released(f.link.index) {
			i++
			continue
		}
		fl.dkept.remove(i)
		d.kept.remove(f)
		d.free(f)
	}
}
