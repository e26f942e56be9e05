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
	i := 0
	for i < fl.dkept.len() && (*fl.dkept.at(i)).link.index < w.Next {
		d.kept.remove(*fl.dkept.at(i))
		d.free(*fl.dkept.at(i))
		i++
	}
	fl.dkept.drop(i)
	i = 0
	for to := fl.dkept.len(); i < to; { // the first from w.From on
		if mid := (i + to) / 2; (*fl.dkept.at(mid)).link.index < w.From {
			i = mid + 1
		} else {
			to = mid
		}
	}
	for w.Mask != 0 && i < fl.dkept.len() {
		f := *fl.dkept.at(i)
		off := f.link.index - w.From
		if off > 63 {
			break
		}
		if w.Mask&(1<<off) == 0 {
			i++
			continue
		}
		fl.dkept.remove(i)
		d.kept.remove(f)
		d.free(f)
	}
}
