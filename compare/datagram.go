package compare

import (
	"fmt"

	"colod/internal/frame"
)

// quiet says whether frames of the kind are housekeeping: the guests send them at times of their own choosing
// (random timers), again and again, and one more or less means nothing. What the secondary said once, or what was
// released once, stands for every later repetition by the primary: it tells the network nothing that it was not
// told before. And the secondary may say what the primary does not.
func quiet(k frame.Kind) bool {
	return k == frame.KindARP || k == frame.KindND || k == frame.KindGroup
}

// primaryDatagram handles a frame that is not TCP.
func (e *Engine) primaryDatagram(now int64, fl *flow, f *Frame) {
	fl.pSeen = true
	if e.solo {
		e.remember(fl, f)
		e.whole(now, f, WhySolo)
		return
	}
	if fl.tol != nil && e.uncompared(now, fl, f) {
		return
	}
	d := &fl.d
	from, to, meta := compared(f.Buf, &f.P)
	for i := range min(d.said.len(), maxTries) {
		s := d.said.at(i)
		if int(s.n) != to-from || s.meta != meta || *e.dig.sum(s.flow, s.index, f.Buf[from:to]) != s.digest {
			continue
		}
		f.link.index = s.index
		if !quiet(fl.key.Kind) {
			d.said.remove(i)
			e.npieces--
		}
		if d.held.len() == 0 {
			e.releaseDatagram(now, fl, f)
			e.watch(now, fl)
			return
		}
		f.link.agreed = true
		break
	}
	if d.held.len() >= e.cfg.MaxFlowFrames {
		e.overflow(now, "datagrams of a flow")
		if d.held.len() >= 2*e.cfg.MaxFlowFrames {
			e.stats.Refused++
			e.free(f)
			return
		}
	}
	if e.keep(now, fl, f, waitDatagram) {
		d.held.push(f)
	}
	if fl.tol != nil {
		e.doubtDatagram(fl)
	}
	e.watch(now, fl)
}

func (e *Engine) releaseDatagram(now int64, fl *flow, f *Frame) {
	if !quiet(fl.key.Kind) {
		e.markDatagram(fl, f.link.index)
	}
	e.whole(now, f, WhyAgreed)
}

// markDatagram puts the secondary's datagram index into the next watermark of fl. Where it does not fit beside what is
// there, that is told first: the other side hears of each, in however wild an order they leave.
func (e *Engine) markDatagram(fl *flow, index uint64) {
	if !fl.d.mark(index) {
		if fl.sid != 0 {
			e.watermark(fl)
		}
		fl.d.farMask = 0
		fl.d.mark(index)
	}
	e.mark(fl)
}

// mark notes that the secondary's datagram index is released. False: it does not fit.
func (d *dgramState) mark(index uint64) bool {
	off := index - d.next
	switch {
	case index < d.next:
	case off == 0:
		d.told = false
		d.next++
		for d.mask&1 != 0 {
			d.mask >>= 1
			d.next++
		}
		d.mask >>= 1
	case off <= 64:
		d.told = false
		d.mask |= 1 << (off - 1)
	case d.farMask == 0:
		// The first that is missing may be missing for ever: the primary's guest did not get the question.
		d.far = index - 16 // the next may be a little before
		d.farMask = 1 << 16
	case index-d.far < 64:
		d.farMask |= 1 << (index - d.far)
	default:
		return false
	}
	return true
}

// secondaryDatagram handles a datagram of the secondary's guest.
func (e *Engine) secondaryDatagram(now int64, fl *flow, desc *Descriptor) {
	d := &fl.d
	s := said{index: desc.Index, meta: desc.Meta, n: desc.Len, flow: desc.Flow, digest: desc.Digests[0]}
	if quiet(fl.key.Kind) {
		e.secondaryQuiet(now, fl, s)
		return
	}
	if fl.tol != nil && e.unheard(fl, s.index) {
		return
	}
	tries := 0
	for i := range d.held.len() {
		f := *d.held.at(i)
		if f.link.agreed {
			continue
		}
		if tries++; tries > maxTries {
			break
		}
		if !e.twin(f, &s) {
			continue
		}
		f.link.agreed, f.link.index = true, s.index
		e.flushDatagrams(now, fl)
		return
	}
	if e.npieces >= e.cfg.MaxPieces || d.said.len() >= e.cfg.MaxFlowFrames {
		e.overflow(now, "described datagrams")
		if e.npieces >= 2*e.cfg.MaxPieces || d.said.len() >= 2*e.cfg.MaxFlowFrames {
			return
		}
	}
	e.npieces++
	d.said.push(s)
	if fl.tol != nil {
		e.doubtDatagram(fl)
	}
}

// secondaryQuiet remembers s and lets go what waits for it.
func (e *Engine) secondaryQuiet(now int64, fl *flow, s said) {
	d := &fl.d
	for i := range d.held.len() {
		if f := *d.held.at(i); !f.link.agreed && e.twin(f, &s) {
			f.link.agreed = true
		}
	}
	d.note(s)
	e.flushDatagrams(now, fl)
}

// dropSaid forgets the secondary's datagrams of fl that have no twin.
func (e *Engine) dropSaid(fl *flow) {
	if quiet(fl.key.Kind) {
		return
	}
	if fl.epoch == e.epoch {
		e.npieces -= fl.d.said.len()
	}
	fl.d.said.reset()
}

// note puts s among what stands for repetitions; the oldest is forgotten.
func (d *dgramState) note(s said) {
	if d.said.len() == housekeeping {
		d.said.drop(1)
	}
	d.said.push(s)
}

// remember notes a housekeeping frame that is released without the secondary's word, so that its repetitions are not
// held. Number 0 is no flow of the secondary: its digests never leave the engine.
func (e *Engine) remember(fl *flow, f *Frame) {
	if !quiet(fl.key.Kind) {
		return
	}
	d := &fl.d
	for i := range d.said.len() {
		if e.twin(f, d.said.at(i)) {
			return
		}
	}
	from, to, meta := compared(f.Buf, &f.P)
	d.note(said{meta: meta, n: uint32(to - from), digest: *e.dig.sum(0, 0, f.Buf[from:to])})
}

func (e *Engine) twin(f *Frame, s *said) bool {
	from, to, meta := compared(f.Buf, &f.P)
	return int(s.n) == to-from && s.meta == meta && *e.dig.sum(s.flow, s.index, f.Buf[from:to]) == s.digest
}

// flushDatagrams releases the agreed datagrams up to the first that is not.
func (e *Engine) flushDatagrams(now int64, fl *flow) {
	d := &fl.d
	for d.held.len() > 0 {
		f := *d.held.at(0)
		if !f.link.agreed {
			return
		}
		d.held.drop(1)
		e.unkeep(f)
		e.releaseDatagram(now, fl, f)
	}
}

// datagramTooLong reports a datagram without a twin: as different when the secondary has said something else
// in its place, as silence when not.
func (e *Engine) datagramTooLong(now int64, fl *flow, f *Frame) {
	d := &fl.d
	if f.link.agreed && d.held.len() > 0 {
		f = *d.held.at(0)
	}
	from, to, meta := compared(f.Buf, &f.P)
	if d.said.len() == 0 || quiet(fl.key.Kind) {
		e.diverge(now, fl, Divergence{Reason: ReasonSilenceSecondary, Len: uint32(to - from)})
		return
	}
	s := d.said.at(0)
	reason := ReasonPayload
	switch {
	case fl.key.Kind == frame.KindOther:
		reason = ReasonUnparsable
	case int(s.n) != to-from:
		reason = ReasonLength
	}
	if s.meta != meta {
		e.diverge(now, fl, Divergence{Reason: reason, Len: uint32(to - from), Final: true,
			Detail: fmt.Sprintf("TTL, TOS, fragment, ICMP type or options: primary %016x, secondary %016x", meta, s.meta)})
		return
	}
	if fl.reported == e.round || len(e.reports) >= maxReports {
		e.diverge(now, fl, Divergence{Reason: reason, Len: uint32(to - from), Final: true})
		return
	}
	e.diverge(now, fl, Divergence{Reason: reason, Len: uint32(to - from)})
	r := report{d: e.out.Divergences[len(e.out.Divergences)-1], mine: append([]byte(nil), f.Buf[from:to]...),
		at: []place{{0, from - frame.VnetLen}}}
	r.d.Absolute = true
	if r.d.Final {
		return
	}
	e.reports = append(e.reports, r)
	e.send(Message{Kind: MessageAskRaw, Ask: Ask{Flow: s.flow, Index: s.index, ID: r.d.ID}})
}
