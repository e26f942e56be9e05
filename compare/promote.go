package compare

import "colod/internal/frame"

// Promote ends the describer's work: this guest speaks from now on. unreleased are the frames that are not known to
// have been released, in order of arrival and in the guest's own space: stream bytes and datagrams that no watermark
// covers; and for each connection that has acknowledged client bytes a made acknowledgement (Index -1, of no
// pool), so that an upload goes on at once. They are the caller's again; what was released is in Out.Free.
//
// The host that died may have swallowed the last that it released. So where a stream ends with released bytes that its
// client has not acknowledged, the last segment of them is there too, as a tail loss probe (RFC 8985 section 7): the
// client's answer shows the guest what is missing, long before a timer does.
//
// fronts are the connections whose space differs from the clients', in the same order as
// their first frame came.
func (d *Describer) Promote(int64) (unreleased []*Frame, fronts []Front) {
	for _, fl := range d.flows {
		if !tcp(fl) || !fl.relOK {
			continue
		}
		for i := range fl.kept.len() {
			f := *fl.kept.at(i)
			f.link.agreed = f.link.end.AtMost(fl.rel) && i < fl.kept.len()-1
		}
	}
	for f := d.kept.pop(); f != nil; f = d.kept.pop() {
		if f.link.agreed {
			d.free(f)
			continue
		}
		f.link = heldLink{}
		unreleased = append(unreleased, f)
	}
	for _, fl := range d.ring {
		if !tcp(fl) || d.flows[fl.key] != fl {
			continue
		}
		if fl.mapped && (fl.seqOff != 0 || fl.tsOff != 0) {
			fronts = append(fronts, Front{Key: fl.key, SeqOff: fl.seqOff, TSOff: fl.tsOff, HasTS: fl.hasTS,
				LastTS: uint32(fl.lastTS), Closed: fl.closed()})
		}
		if fl.acked && fl.tmpl.Known() && !fl.closed() && (!fl.born || fl.mapped) {
			unreleased = append(unreleased, fl.madeAck())
		}
	}
	clear(d.flows)
	clear(d.ring)
	d.ring, d.last = d.ring[:0], nil
	return unreleased, fronts
}

// madeAck is the newest acknowledgement of the guest as a frame of its own, in the guest's space.
func (fl *dflow) madeAck() *Frame {
	f := &Frame{Buf: make([]byte, frame.MaxHead), Index: -1}
	n := fl.tmpl.Make(f.Buf, &frame.Pure{Seq: fl.nxt, Ack: fl.ack, Window: fl.win, HasTS: fl.hasTS, TSVal: fl.ts, TSEcr: fl.ecr})
	f.Buf = f.Buf[:n]
	frame.Parse(f.Buf, &f.P)
	return f
}
