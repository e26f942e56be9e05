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
			fl.d.next, fl.d.mask, fl.d.farMask = 0, 0, 0
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
