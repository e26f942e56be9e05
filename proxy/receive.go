package proxy

import (
	"fmt"

	"colod/compare"
	"colod/internal/frame"
)

// readLink handles what the peer sent. It reports whether there was anything.
func (p *Proxy) readLink() bool {
	before := p.link.bytesIn
	more, err := p.link.fill()
	p.linkMore = more
	worked := more || err != nil
	for p.link != nil && !p.linkPaused {
		b, merr := p.link.next()
		if merr == nil && b == nil {
			break
		}
		if merr == nil {
			worked = true
			merr = p.message(b)
		}
		if merr != nil {
			p.loseLink(merr)
			return true
		}
	}
	if p.sec != nil && p.tapTX != nil {
		p.tapTX.flush(p) // the frames lie in the link's buffer, which the next call uses again
	}
	if p.link != nil && err != nil {
		p.loseLink(err)
		return true
	}
	return worked || p.link != nil && p.link.bytesIn != before
}

// message handles one message of the peer.
func (p *Proxy) message(b []byte) error {
	kind, body := b[0], b[1:]
	var err error
	switch p.role {
	case rolePrimary:
		err = p.pri.message(p, kind, body)
	case roleSecondary:
		err = p.sec.message(p, kind, body)
	}
	if err != nil {
		return fmt.Errorf("net link: message of kind %d and %d bytes: %w", kind, len(body), err)
	}
	return nil
}

var errKind = fmt.Errorf("unknown here: does the peer run another version of colod?")

// message of the secondary.
func (r *primary) message(p *Proxy, kind byte, body []byte) error {
	rd := reader{b: body}
	switch kind {
	case msgFlowDef:
		id, key := rd.u32(), rd.key()
		if err := rd.end(); err != nil {
			return err
		}
		r.engine.FlowDef(id, key)
	case msgDescriptor:
		if err := parseDescriptor(body, &r.desc, r.digests[:0]); err != nil {
			return err
		}
		if k := r.desc.Kind; k == compare.DescribeTCP || k == compare.DescribeDatagram {
			p.stats.Described++
		}
		r.engine.Descriptor(p.nowMono, &r.desc)
	case msgRaw:
		raw := compare.Raw{ID: rd.u32(), Flow: rd.u32(), Seq: frame.Num(rd.u32())}
		if rd.err != nil {
			return rd.err
		}
		raw.Data = rd.b
		r.engine.Raw(p.nowMono, &raw)
	case msgLogged:
		n, void := rd.u64(), rd.u8() != 0
		if err := rd.end(); err != nil {
			return err
		}
		return r.log.arrived(n, func(in *toldInput) {
			if !void {
				r.engine.Logged(p.nowMono, in.key, in.seq, in.end)
			}
		})
	case msgReceived:
		n := rd.u64()
		if err := rd.end(); err != nil {
			return err
		}
		r.engine.Received(p.nowMono, n)
	case msgCkptReady:
		n := rd.u64()
		if err := rd.end(); err != nil {
			return err
		}
		if r.ready != nil && n == r.epoch {
			r.ready(nil)
			r.ready = nil
		}
	case msgCkptDone:
		n := rd.u64()
		if err := rd.end(); err != nil {
			return err
		}
		if n != r.epoch {
			return fmt.Errorf("checkpoint %d is done, but %d is the newest begun", n, r.epoch)
		}
		r.peerDone = true
		if r.waiting != 0 {
			r.begin(p, r.waiting)
			break
		}
		if r.holding {
			// What follows belongs to the time after our RESUME, of which we do not know yet.
			p.linkPaused = true
		}
	default:
		return errKind
	}
	return nil
}

// message of the primary.
func (s *secondary) message(p *Proxy, kind byte, body []byte) error {
	rd := reader{b: body}
	switch kind {
	case msgInput, msgInputTold:
		ktime := int64(rd.u64())
		if rd.err != nil {
			return rd.err
		}
		if len(rd.b) < frame.VnetLen+14 {
			return fmt.Errorf("frame of %d bytes: an Ethernet header and a virtio-net header need %d", len(rd.b), frame.VnetLen+14)
		}
		if kind == msgInputTold {
			s.toTell++
		}
		s.input(p, ktime, rd.b)
	case msgAnnounce:
		a := compare.Announce{Key: rd.key(), Seq: frame.Num(rd.u32()), Ack: frame.Num(rd.u32()), TSVal: rd.u32()}
		bits := rd.u8()
		a.HasAck, a.HasTS = bits&1 != 0, bits&2 != 0
		if err := rd.end(); err != nil {
			return err
		}
		s.taken++
		s.confirm = true
		s.desc.Announce(a)
	case msgAsk, msgAskRaw:
		a := compare.Ask{Flow: rd.u32(), Seq: frame.Num(rd.u32()), Len: rd.u32(), Index: rd.u64(), ID: rd.u32()}
		if err := rd.end(); err != nil {
			return err
		}
		if a.Len > maxMessage {
			return fmt.Errorf("asked for %d bytes: at most %d at a time", a.Len, maxMessage)
		}
		s.taken++
		if kind == msgAsk {
			s.desc.Ask(a)
		} else {
			s.desc.AskRaw(a)
		}
	case msgWatermark:
		w := compare.Watermark{Flow: rd.u32(), Kind: frame.Kind(rd.u8())}
		if w.Kind == frame.KindTCP {
			w.Seq, w.Ack, w.TSVal, w.Known = frame.Num(rd.u32()), frame.Num(rd.u32()), rd.u32(), rd.u8() != 0
		} else {
			w.Next, w.From, w.Mask = rd.u64(), rd.u64(), rd.u64()
		}
		if err := rd.end(); err != nil {
			return err
		}
		s.taken++
		s.watermark(p, w)
	case msgBuffer:
		on := rd.u8() != 0
		if err := rd.end(); err != nil {
			return err
		}
		s.nextQuiet = on
	case msgCkptBegin:
		n := rd.u64()
		if err := rd.end(); err != nil {
			return err
		}
		if s.inCkpt {
			return fmt.Errorf("checkpoint %d begins within checkpoint %d", n, s.epoch)
		}
		s.begin(p, n)
	case msgCkptStopped:
		n, at := rd.u64(), int64(rd.u64())
		if err := rd.end(); err != nil {
			return err
		}
		if n == s.epoch {
			s.priStopped = at
			s.maybeReplay(p)
		}
	case msgCkptEnd:
		n := rd.u64()
		if err := rd.end(); err != nil {
			return err
		}
		if n == s.epoch && s.inCkpt {
			// What follows belongs to the time after our guest's RESUME, of which we do not know yet.
			p.linkPaused = true
		}
	case msgCkptAbort:
		n := rd.u64()
		if err := rd.end(); err != nil {
			return err
		}
		if n == s.epoch && s.inCkpt {
			s.abort(p)
		}
	case msgFront:
		f := compare.Front{Key: rd.key(), SeqOff: rd.u32(), TSOff: rd.u32()}
		if err := rd.end(); err != nil {
			return err
		}
		if len(s.inherited) >= maxInherited {
			return fmt.Errorf("more than %d rewritten connections", maxInherited)
		}
		s.inherited[f.Key] = f
	case msgFrontGone:
		key := rd.key()
		if err := rd.end(); err != nil {
			return err
		}
		delete(s.inherited, key)
	default:
		return errKind
	}
	return nil
}
