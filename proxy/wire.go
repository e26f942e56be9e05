package proxy

import (
	"encoding/binary"
	"errors"
	"fmt"

	"colod/compare"
	"colod/internal/frame"
)

// Kinds of message on the net link. A message is its length (4 bytes, the kind
// counted), its kind (1 byte) and fields in network byte order.
const (
	// From the primary.
	msgInput       byte = 1  // ktime, frame with virtio-net header
	msgAnnounce    byte = 2  // see appendAnnounce
	msgAsk         byte = 3  // flow, seq, len, index, id
	msgAskRaw      byte = 4  // the same
	msgWatermark   byte = 5  // see engineMessage
	msgCkptBegin   byte = 6  // n
	msgCkptStopped byte = 7  // n, time of the primary's STOP by its clock
	msgCkptEnd     byte = 8  // n: what follows is of epoch n
	msgCkptAbort   byte = 9  // n
	msgFront       byte = 10 // key, seqOff, tsOff: from the primary's guest to the client
	msgFrontGone   byte = 11 // key: that connection has ended
	msgBuffer      byte = 13 // 0 or 1: in the epochs that begin with the next checkpoints, only checkpoints release
	msgInputTold   byte = 12 // as msgInput: the sender wants to hear when it is logged
	// From the secondary.
	msgFlowDef    byte = 32 // id, key
	msgDescriptor byte = 33 // see appendDescriptor
	msgRaw        byte = 34 // id, flow, seq, data
	msgReceived   byte = 35 // n: engine messages up to number n have been taken
	msgCkptReady  byte = 36 // n
	msgCkptDone   byte = 37 // n: what follows is of epoch n
	msgLogged     byte = 38 // n: msgInputTold up to number n are in the input log; 0 or 1: some of them are not, so none counts
)

var errShort = errors.New("message too short")

// maxDigests bounds the digests of one descriptor: a 64 KiB segment in pieces of 536 bytes, the least MSS of IPv4
// (RFC 9293 section 3.7.1), rounded up.
const maxDigests = 128

func (l *Link) mark(kind byte, n uint64) {
	at := l.begin(kind)
	l.plain = binary.BigEndian.AppendUint64(l.plain, n)
	l.end(at)
}

func (l *Link) markTime(kind byte, n uint64, t int64) {
	at := l.begin(kind)
	l.plain = binary.BigEndian.AppendUint64(l.plain, n)
	l.plain = binary.BigEndian.AppendUint64(l.plain, uint64(t))
	l.end(at)
}

// logged tells how many of the msgInputTold of this link have been logged.
func (l *Link) logged(n uint64, void bool) {
	at := l.begin(msgLogged)
	l.plain = binary.BigEndian.AppendUint64(l.plain, n)
	l.plain = append(l.plain, flagBits(void))
	l.end(at)
}

// buffer tells what the next epochs are like.
func (l *Link) buffer(on bool) {
	at := l.begin(msgBuffer)
	l.plain = append(l.plain, flagBits(on))
	l.end(at)
}

func (l *Link) input(kind byte, ktime int64, buf []byte) {
	at := l.begin(kind)
	l.plain = binary.BigEndian.AppendUint64(l.plain, uint64(ktime))
	l.plain = append(l.plain, buf...)
	l.end(at)
}

func (l *Link) frontEntry(key frame.FlowKey, seqOff, tsOff uint32) {
	at := l.begin(msgFront)
	l.plain = appendKey(l.plain, &key)
	l.plain = binary.BigEndian.AppendUint32(l.plain, seqOff)
	l.plain = binary.BigEndian.AppendUint32(l.plain, tsOff)
	l.end(at)
}

func (l *Link) frontGone(key *frame.FlowKey) {
	at := l.begin(msgFrontGone)
	l.plain = appendKey(l.plain, key)
	l.end(at)
}

// engineMessage writes a message of the comparing engine.
func (l *Link) engineMessage(m *compare.Message) {
	be := binary.BigEndian
	switch m.Kind {
	case compare.MessageAnnounce:
		at := l.begin(msgAnnounce)
		a := &m.Announce
		b := appendKey(l.plain, &a.Key)
		b = be.AppendUint32(b, uint32(a.Seq))
		b = be.AppendUint32(b, uint32(a.Ack))
		b = be.AppendUint32(b, a.TSVal)
		l.plain = append(b, flagBits(a.HasAck, a.HasTS))
		l.end(at)
	case compare.MessageAsk, compare.MessageAskRaw:
		kind := msgAsk
		if m.Kind == compare.MessageAskRaw {
			kind = msgAskRaw
		}
		at := l.begin(kind)
		b := be.AppendUint32(l.plain, m.Ask.Flow)
		b = be.AppendUint32(b, uint32(m.Ask.Seq))
		b = be.AppendUint32(b, m.Ask.Len)
		b = be.AppendUint64(b, m.Ask.Index)
		l.plain = be.AppendUint32(b, m.Ask.ID)
		l.end(at)
	case compare.MessageWatermark:
		at := l.begin(msgWatermark)
		w := &m.Watermark
		b := be.AppendUint32(l.plain, w.Flow)
		b = append(b, byte(w.Kind))
		if w.Kind == frame.KindTCP {
			b = be.AppendUint32(b, uint32(w.Seq))
			b = be.AppendUint32(b, uint32(w.Ack))
			b = be.AppendUint32(b, w.TSVal)
			l.plain = append(b, flagBits(w.Known))
			// After a loss of this node the other one counts all that it has logged as acknowledged, and repeats
			// what it does not know to be released, as TCP may.
			l.endLater(at)
			return
		}
		b = be.AppendUint64(b, w.Next)
		b = be.AppendUint64(b, w.From)
		l.plain = be.AppendUint64(b, w.Mask)
		l.end(at) // a datagram would be said twice
	}
}

// descriptions writes what the describer has to say.
func (l *Link) descriptions(out *compare.DescOut) {
	be := binary.BigEndian
	for i := range out.FlowDefs {
		d := &out.FlowDefs[i]
		at := l.begin(msgFlowDef)
		l.plain = appendKey(be.AppendUint32(l.plain, d.ID), &d.Key)
		l.end(at)
	}
	for i := range out.Descriptors {
		at := l.begin(msgDescriptor)
		l.plain = appendDescriptor(l.plain, &out.Descriptors[i])
		l.end(at)
	}
	for i := range out.Raws {
		r := &out.Raws[i]
		at := l.begin(msgRaw)
		b := be.AppendUint32(l.plain, r.ID)
		b = be.AppendUint32(b, r.Flow)
		b = be.AppendUint32(b, uint32(r.Seq))
		l.plain = append(b, r.Data...)
		l.end(at)
	}
}

func flagBits(bits ...bool) (b byte) {
	for i, on := range bits {
		if on {
			b |= 1 << i
		}
	}
	return b
}

func appendKey(b []byte, k *frame.FlowKey) []byte {
	be := binary.BigEndian
	b = append(b, k.Guest[:]...)
	b = append(b, k.Peer[:]...)
	b = be.AppendUint16(b, k.GuestPort)
	b = be.AppendUint16(b, k.PeerPort)
	b = be.AppendUint16(b, k.Ether)
	b = append(b, k.Proto, byte(k.Kind))
	return be.AppendUint32(b, k.VLAN)
}

// reader takes fields off a message. After the first that is missing, all are zero and err is set.
type reader struct {
	b   []byte
	err error
}

func (r *reader) take(n int) []byte {
	if r.err != nil || len(r.b) < n {
		r.err = errShort
		return nil
	}
	v := r.b[:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) u8() uint8 {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) u16() uint16 {
	if b := r.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *reader) u32() uint32 {
	if b := r.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *reader) u64() uint64 {
	if b := r.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// end returns the error of the fields taken, or complains of bytes that are left.
func (r *reader) end() error {
	if r.err == nil && len(r.b) != 0 {
		return fmt.Errorf("%d bytes too many", len(r.b))
	}
	return r.err
}

func (r *reader) key() (k frame.FlowKey) {
	copy(k.Guest[:], r.take(16))
	copy(k.Peer[:], r.take(16))
	k.GuestPort, k.PeerPort, k.Ether = r.u16(), r.u16(), r.u16()
	k.Proto, k.Kind = r.u8(), frame.Kind(r.u8())
	k.VLAN = r.u32()
	return k
}

// Bits of a descriptor's second byte.
const (
	descHasTS = 1 << iota
	descPure
	descMapped
	descSACKPerm
	descSYN // the options of a SYN follow
	descDatagram
	descReply // a reply to an Ask: ranges and digests only
)

// appendDescriptor writes d: kind, bits, flow, epoch, then what the kind and the bits say. An ordinary segment
// with one digest takes 56 bytes, an acknowledgement 36.
func appendDescriptor(b []byte, d *compare.Descriptor) []byte {
	be := binary.BigEndian
	bits := flagBits(d.HasTS, d.Pure, d.Mapped, d.SACKPerm)
	syn := d.Flags&frame.SYN != 0
	if syn {
		bits |= descSYN
	}
	b = append(b, byte(d.Kind), bits)
	b = be.AppendUint32(b, d.Flow)
	b = be.AppendUint32(b, d.Epoch)
	if d.Kind == compare.DescribeFault {
		return append(b, byte(d.Reason))
	}
	b = be.AppendUint32(b, d.Len)
	b = be.AppendUint64(b, uint64(d.KTime))
	if d.Kind == compare.DescribeDatagram || d.Index != 0 || d.Meta != 0 {
		b = append(b, 1)
		b = be.AppendUint64(b, d.Index)
		b = be.AppendUint64(b, d.Meta)
	} else {
		b = append(b, 0)
	}
	b = be.AppendUint32(b, uint32(d.Seq))
	b = be.AppendUint16(b, d.Hi)
	if d.Kind == compare.DescribeTCP {
		b = append(b, d.Flags)
		b = be.AppendUint32(b, uint32(d.Ack))
		b = be.AppendUint16(b, d.Window)
		if d.HasTS {
			b = be.AppendUint32(b, d.TSVal)
			b = be.AppendUint32(b, d.TSEcr)
		}
		if syn {
			b = append(b, byte(d.WScale))
			b = be.AppendUint16(b, d.MSS)
		}
		b = append(b, d.NSACK)
		for i := range min(int(d.NSACK), len(d.SACK)) {
			b = be.AppendUint32(b, uint32(d.SACK[i][0]))
			b = be.AppendUint32(b, uint32(d.SACK[i][1]))
		}
	}
	b = append(b, byte(len(d.Digests)))
	if len(d.Digests) > 1 {
		b = be.AppendUint32(b, d.Piece)
	}
	for i := range d.Digests {
		b = append(b, d.Digests[i][:]...)
	}
	return b
}

// parseDescriptor reads what appendDescriptor wrote. digests is memory for the digests.
func parseDescriptor(b []byte, d *compare.Descriptor, digests [][compare.DigestLen]byte) error {
	r := reader{b: b}
	*d = compare.Descriptor{Kind: compare.DescriptorKind(r.u8())}
	bits := r.u8()
	d.HasTS, d.Pure = bits&descHasTS != 0, bits&descPure != 0
	d.Mapped, d.SACKPerm = bits&descMapped != 0, bits&descSACKPerm != 0
	d.Flow, d.Epoch = r.u32(), r.u32()
	switch d.Kind {
	case compare.DescribeFault:
		d.Reason = compare.Reason(r.u8())
		return r.end()
	case compare.DescribeTCP, compare.DescribeDatagram, compare.DescribeReply, compare.DescribeGone:
	default:
		return fmt.Errorf("descriptor of unknown kind %d", d.Kind)
	}
	d.Len, d.KTime = r.u32(), int64(r.u64())
	if d.Len > maxMessage {
		return fmt.Errorf("descriptor of %d bytes: a frame has at most %d", d.Len, maxMessage)
	}
	if r.u8() != 0 {
		d.Index, d.Meta = r.u64(), r.u64()
	}
	d.Seq, d.Hi = frame.Num(r.u32()), r.u16()
	d.WScale = -1
	if d.Kind == compare.DescribeTCP {
		d.Flags = r.u8()
		d.Ack, d.Window = frame.Num(r.u32()), r.u16()
		if d.HasTS {
			d.TSVal, d.TSEcr = r.u32(), r.u32()
		}
		if bits&descSYN != 0 {
			d.WScale, d.MSS = int8(r.u8()), r.u16()
		}
		d.NSACK = r.u8()
		if int(d.NSACK) > len(d.SACK) {
			return fmt.Errorf("descriptor with %d SACK blocks: at most %d fit a segment", d.NSACK, len(d.SACK))
		}
		for i := range int(d.NSACK) {
			d.SACK[i] = [2]frame.Num{frame.Num(r.u32()), frame.Num(r.u32())}
		}
	}
	n := int(r.u8())
	if n > maxDigests {
		return fmt.Errorf("descriptor with %d digests: at most %d are allowed", n, maxDigests)
	}
	d.Piece = d.Len
	if n > 1 {
		d.Piece = r.u32()
		if d.Piece == 0 || uint64(d.Piece)*uint64(n-1) >= uint64(d.Len) || uint64(d.Piece)*uint64(n) < uint64(d.Len) {
			return fmt.Errorf("descriptor of %d bytes with %d digests of %d bytes each", d.Len, n, d.Piece)
		}
	}
	for range n {
		digests = append(digests, [compare.DigestLen]byte{})
		copy(digests[len(digests)-1][:], r.take(compare.DigestLen))
	}
	d.Digests = digests
	return r.end()
}
