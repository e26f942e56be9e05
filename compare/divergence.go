package compare

import (
	"fmt"
	"time"

	"colod/internal/frame"
)

// excerptLen bounds the bytes of each side in a Divergence, maxReports the open questions for raw bytes.
const (
	excerptLen = 32
	maxReports = 16
)

// report is a payload divergence whose exact position was asked for.
type report struct {
	d    Divergence
	mine []byte // the primary's bytes of the range
	// frames says where in the primary's frames those bytes lay: from at[i].pos on in a frame at offset at[i].off.
	at   []place
	base uint64 // stream position of mine[0]
}

type place struct{ pos, off int }

// diverge reports d, once in a round for each flow, and for each reason where fl is nil because it concerns no flow.
func (e *Engine) diverge(now int64, fl *flow, d Divergence) {
	if e.solo {
		return
	}
	if fl != nil {
		d.Key = fl.key
		switch d.Reason {
		case ReasonPayload, ReasonLength, ReasonFlags, ReasonOptions, ReasonUnparsable:
			fl.broken = e.round
		}
		if fl.reported == e.round {
			return
		}
		fl.reported = e.round
		e.timing(now, fl, &d)
	} else {
		if e.reported[d.Reason] == e.round {
			return
		}
		e.reported[d.Reason] = e.round
	}
	e.nextID++
	d.ID, d.Epoch = e.nextID, e.epoch
	if d.Reason != ReasonPayload && d.Reason != ReasonUnparsable {
		d.Final = true
	}
	if e.silentAt == 0 {
		e.silentAt = now
	}
	if d.Reason == ReasonSilenceSecondary {
		e.silent(now)
	}
	e.stats.Diverged++
	e.out.Divergences = append(e.out.Divergences, d)
}

// overflow reports a reached bound.
func (e *Engine) overflow(now int64, what string) {
	if e.reported[ReasonQueue] == e.round {
		return
	}
	e.diverge(now, nil, Divergence{Reason: ReasonQueue, Detail: "bound on " + what + " reached"})
}

// differ reports that the range s of a stream is not the same on both sides, and asks for the secondary's bytes
// to find out where.
func (e *Engine) differ(now int64, fl *flow, s span) {
	if fl.tol != nil && e.doubted(fl, s) {
		return
	}
	if id := e.declare(now, fl, s); id != 0 {
		e.send(Message{Kind: MessageAskRaw, Ask: Ask{Flow: fl.sid, Seq: s.seq, Len: s.n, ID: id}})
	}
}

// declare reports that s differs and returns the number under which Raw makes the report exact, 0 when
// it is final already.
func (e *Engine) declare(now int64, fl *flow, s span) uint32 {
	t := &fl.t
	d := Divergence{Reason: ReasonPayload, Seq: s.seq, Len: s.n}
	if fl.reported == e.round || len(e.reports) >= maxReports {
		d.Final = len(e.reports) >= maxReports
		e.diverge(now, fl, d)
		return 0
	}
	e.diverge(now, fl, d)
	r := report{d: e.out.Divergences[len(e.out.Divergences)-1]}
	add := func(f *Frame) {
		p := &f.P
		from, to := s.seq.Max(f.link.start), s.seq.Add(s.n).Min(p.Seq.Add(uint32(p.Len())))
		if !from.Before(to) {
			return
		}
		off := p.Payload + int(from-p.Seq)
		r.at = append(r.at, place{len(r.mine), off - frame.VnetLen})
		r.mine = append(r.mine, f.Buf[off:off+int(to-from)]...)
	}
	if s.seq.AtLeast(t.v) {
		for i := range t.held.len() {
			add(*t.held.at(i))
		}
	} else {
		for i := range t.again.len() {
			if f := *t.again.at(i); againSpan(t, f) == s {
				add(f)
				break
			}
		}
	}
	r.base = uint64(s.seq - t.base)
	if t.issKnown {
		r.d.Absolute, r.base = true, uint64(s.seq-t.iss-1)
	}
	e.reports = append(e.reports, r)
	return r.d.ID
}

// timing fills in when the two sides spoke.
func (e *Engine) timing(now int64, fl *flow, d *Divergence) {
	d.PrimaryTime, d.SecondaryTime = fl.pTime, fl.sTime
	var oldest *Frame
	switch {
	case fl.t.held.len() > 0:
		oldest = *fl.t.held.at(0)
	case fl.d.held.len() > 0:
		oldest = *fl.d.held.at(0)
	case fl.t.syn != nil:
		oldest = fl.t.syn
	case fl.t.rst != nil:
		oldest = fl.t.rst
	case fl.t.again.len() > 0:
		oldest = *fl.t.again.at(0)
	}
	if oldest != nil {
		d.PrimaryTime, d.Waited = oldest.KTime, max(now-oldest.link.arrived, 0)
	}
	if fl.tol != nil {
		d.Rule = e.blame(fl)
	}
}

// Raw takes the secondary's bytes for a report: it is final then.
func (e *Engine) Raw(now int64, raw *Raw) {
	if e.settleDoubt(now, raw) {
		return
	}
	for i := range e.reports {
		r := &e.reports[i]
		if r.d.ID != raw.ID {
			continue
		}
		d := r.d
		d.Final = true
		n := min(len(r.mine), len(raw.Data))
		at := 0
		for at < n && r.mine[at] == raw.Data[at] {
			at++
		}
		switch {
		case at < n || len(r.mine) != len(raw.Data) && at == n && d.Key.Kind != frame.KindTCP:
			d.Exact, d.Position, d.Offset = true, r.base+uint64(at), at
			for _, p := range r.at {
				if p.pos <= at {
					d.FrameOffset = p.off + at - p.pos
				}
			}
			d.Primary = append([]byte(nil), r.mine[at:min(at+excerptLen, len(r.mine))]...)
			d.Secondary = append([]byte(nil), raw.Data[at:min(at+excerptLen, len(raw.Data))]...)
			from, to := max(0, at-e.cfg.Context), at+e.cfg.Context
			d.Around = at - from
			d.PrimaryAround = append([]byte(nil), r.mine[from:min(to, len(r.mine))]...)
			d.SecondaryAround = append([]byte(nil), raw.Data[from:min(to, len(raw.Data))]...)
		case len(raw.Data) < len(r.mine):
			d.Detail = fmt.Sprintf("the secondary's node keeps %d of %d bytes, and those agree", len(raw.Data), len(r.mine))
		default:
			d.Detail = "the bytes agree and their digests do not"
		}
		e.reports = append(e.reports[:i], e.reports[i+1:]...)
		e.out.Divergences = append(e.out.Divergences, d)
		return
	}
}

// closeReports makes the reports final whose answer cannot come any more.
func (e *Engine) closeReports() {
	for i := range e.reports {
		d := e.reports[i].d
		d.Final, d.Detail = true, "the secondary's bytes did not come before the checkpoint"
		e.out.Divergences = append(e.out.Divergences, d)
	}
	clear(e.reports)
	e.reports = e.reports[:0]
}

// tooLong reports the frame that has waited longest for the secondary.
func (e *Engine) tooLong(now int64, f *Frame) {
	fl, p := f.link.fl, &f.P
	if fl.t.crst {
		e.dropReset(fl)
		return
	}
	if fl.tol != nil && e.doubtTooLong(now, fl) {
		return
	}
	switch f.link.wait {
	case waitDatagram:
		e.datagramTooLong(now, fl, f)
	case waitSYN:
		detail := "the secondary does not open the connection"
		if fl.t.sSYN {
			detail = "the peer does not confirm the announcement"
		} else if fl.t.nRST > 0 {
			e.diverge(now, fl, Divergence{Reason: ReasonFlags, Seq: p.Seq, Detail: "the secondary refuses the connection"})
			return
		}
		e.diverge(now, fl, Divergence{Reason: ReasonSilenceSecondary, Seq: p.Seq, Len: 1, Detail: detail})
	case waitRST:
		e.diverge(now, fl, Divergence{Reason: ReasonFlags, Seq: p.Seq, Detail: "the primary resets, the secondary does not"})
	default:
		d := Divergence{Reason: ReasonSilenceSecondary, Seq: f.link.start, Len: uint32(f.link.end - f.link.start),
			Detail: fl.t.standing(now, f)}
		if fl.t.rstOpen {
			d.Reason, d.Detail = ReasonFlags, "the secondary resets, the primary does not"
		}
		e.diverge(now, fl, d)
	}
}

// standing says in words how far a stream has come that f waits in.
func (t *tcpState) standing(now int64, f *Frame) string {
	s := fmt.Sprintf("held %v as %d of %d frames, agreed to %d, sent to %d", time.Duration(now-f.link.arrived), f.link.wait, t.held.len(), t.v, t.pmax)
	if n := t.pieces.len(); n > 0 {
		s += fmt.Sprintf(", described from %d to %d", t.pieces.at(0).seq, t.pieces.at(n-1).end())
	}
	if t.ask.n > 0 {
		s += fmt.Sprintf(", asked for %d bytes from %d", t.ask.n, t.ask.seq)
	}
	return s + fmt.Sprintf(", acknowledged by clients to %d", t.una)
}

// watch keeps the timer for what the secondary has said and the primary has not.
func (e *Engine) watch(now int64, fl *flow) {
	t := &fl.t
	open := fl.d.said.len() > 0 && fl.d.held.len() == 0
	if fl.key.Kind == frame.KindTCP {
		open = !t.crst && (t.rstOpen && t.rst == nil || t.sSYN && !fl.pSeen || fl.next != nil ||
			t.held.len() == 0 && (t.pieces.len() > 0 && t.pieces.at(t.pieces.len()-1).end().After(t.v) ||
				t.sFIN && t.known && t.sFINSeq.AtLeast(t.v)))
	} else if quiet(fl.key.Kind) {
		return
	}
	if !open {
		e.swait.rest(fl)
		return
	}
	e.swait.arm(fl, now)
}

func optionDetail(p, s synOptions) string {
	return fmt.Sprintf("primary mss %d wscale %d sack %t timestamps %t, secondary mss %d wscale %d sack %t timestamps %t",
		p.mss, p.wscale, p.sackPerm, p.hasTS, s.mss, s.wscale, s.sackPerm, s.hasTS)
}
