package frame

import "encoding/binary"

// fold reduces a ones' complement sum to 16 bits.
func fold(s uint64) uint16 {
	s = s>>32 + s&0xffffffff
	s = s>>16 + s&0xffff
	s = s>>16 + s&0xffff
	s = s>>16 + s&0xffff
	return uint16(s)
}

// sum is the ones' complement sum of b as 16-bit big endian words, an odd last byte padded with zero (RFC 1071).
func sum(b []byte) uint64 {
	var s uint64
	for len(b) >= 8 {
		v := binary.BigEndian.Uint64(b)
		s += v>>32 + v&0xffffffff
		b = b[8:]
	}
	for len(b) >= 2 {
		s += uint64(binary.BigEndian.Uint16(b))
		b = b[2:]
	}
	if len(b) == 1 {
		s += uint64(b[0]) << 8
	}
	return s
}

// delta collects the changes of one checksum (RFC 1624 section 3, equation 3).
type delta uint64

// put32 writes v at buf[off:] and notes the change. base is where the summed area starts: fields at an odd
// distance from it enter the sum with their bytes swapped.
func (d *delta) put32(buf []byte, base, off int, v uint32) {
	old := binary.BigEndian.Uint32(buf[off:])
	binary.BigEndian.PutUint32(buf[off:], v)
	s := uint64(^old>>16) + uint64(^old&0xffff) + uint64(v>>16) + uint64(v&0xffff)
	if (off-base)&1 != 0 {
		f := fold(s)
		s = uint64(f<<8 | f>>8)
	}
	*d += delta(s)
}

// put16 is put32 for two bytes.
func (d *delta) put16(buf []byte, base, off int, v uint16) {
	old := binary.BigEndian.Uint16(buf[off:])
	binary.BigEndian.PutUint16(buf[off:], v)
	s := uint64(^old) + uint64(v)
	if (off-base)&1 != 0 {
		f := fold(s)
		s = uint64(f<<8 | f>>8)
	}
	*d += delta(s)
}

// put8 is put32 for one byte.
func (d *delta) put8(buf []byte, base, off int, v byte) {
	old := buf[off]
	buf[off] = v
	s := uint64(^uint16(old)) + uint64(v)
	if (off-base)&1 == 0 {
		s = uint64(^(uint16(old) << 8)) + uint64(v)<<8
	}
	*d += delta(s)
}

// apply brings the complete checksum at buf[at:] up to date.
func (d delta) apply(buf []byte, at int) {
	old := binary.BigEndian.Uint16(buf[at:])
	binary.BigEndian.PutUint16(buf[at:], ^fold(uint64(^old)+uint64(d)))
}

// applyPartial brings an uncomplemented sum at buf[at:] up to date.
func (d delta) applyPartial(buf []byte, at int) {
	old := binary.BigEndian.Uint16(buf[at:])
	binary.BigEndian.PutUint16(buf[at:], fold(uint64(old)+uint64(d)))
}

// pseudo is the sum of the pseudo-header of n transport bytes (RFC 9293 section 3.1, RFC 8200 section 8.1).
func (p *Parsed) pseudo(proto uint8, n int) uint64 {
	s := uint64(proto) + uint64(n>>16) + uint64(n&0xffff)
	if p.IPv6 {
		return s + sum(p.Src[:]) + sum(p.Dst[:])
	}
	return s + sum(p.Src[12:]) + sum(p.Dst[12:])
}

// csumOffset is where the transport checksum of p lies in its header, -1 when it has none.
func (p *Parsed) csumOffset() int {
	switch p.Proto {
	case ProtoTCP:
		return 16
	case ProtoUDP:
		return 6
	case ProtoICMPv6:
		return 2
	}
	return -1
}

// Partial says whether the transport checksum holds only the pseudo-header's sum and is to be completed by
// whoever puts the frame on a wire.
func (p *Parsed) Partial(buf []byte) bool {
	return buf[vnetFlags]&vnetNeedsCsum != 0 &&
		int(binary.LittleEndian.Uint16(buf[vnetCsumStart:])) == p.L4-VnetLen &&
		int(binary.LittleEndian.Uint16(buf[vnetCsumOffset:])) == p.csumOffset()
}

// Verify says whether the checksums of a TCP, UDP or ICMPv6 frame are right, calculated from scratch: the IPv4
// header's, and the transport's, complete or partial. A UDP checksum of zero over IPv4 is right (RFC 768).
func (p *Parsed) Verify(buf []byte) bool {
	if p.Ether == EtherIPv4 {
		if ihl := int(buf[p.L3]&15) * 4; fold(sum(buf[p.L3:p.L3+ihl])) != 0xffff {
			return false
		}
	}
	off := p.csumOffset()
	if off < 0 || p.Kind == KindFragment || p.Kind == KindOther || p.L4+off+2 > p.End {
		return true
	}
	ps := p.pseudo(p.Proto, p.End-p.L4)
	field := binary.BigEndian.Uint16(buf[p.L4+off:])
	if p.Partial(buf) {
		return field == fold(ps) || field == 0xffff && fold(ps) == 0
	}
	if p.Proto == ProtoUDP && field == 0 && !p.IPv6 {
		return true
	}
	return fold(ps+sum(buf[p.L4:p.End])) == 0xffff
}

// Complete calculates a partial transport checksum and clears the virtio-net header's request for it. It
// must not be used on a frame with a GSO type: each of its segments gets its own checksum.
func (p *Parsed) Complete(buf []byte) {
	if !p.Partial(buf) || p.GSOType != GSONone {
		return
	}
	at := p.L4 + p.csumOffset()
	c := ^fold(sum(buf[p.L4:p.End]))
	if c == 0 && p.Proto == ProtoUDP {
		c = 0xffff
	}
	binary.BigEndian.PutUint16(buf[at:], c)
	clear(buf[:VnetLen])
}
