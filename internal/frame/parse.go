package frame

import "encoding/binary"

const (
	etherLen = 14
	ip6Len   = 40
)

var v4Mapped = [12]byte{10: 0xff, 11: 0xff}

// Parse fills p with what buf holds: a virtio-net header and an Ethernet frame. It never fails: what is
// malformed, cut short or unknown is KindOther or KindIP. p needs no preparation and keeps no reference to
// buf. A buffer too short for an Ethernet header has all its offsets at its end.
func Parse(buf []byte, p *Parsed) {
	*p = Parsed{WScale: -1}
	if len(buf) < VnetLen+etherLen {
		p.L3, p.L4, p.Payload, p.End = len(buf), len(buf), len(buf), len(buf)
		return
	}
	if t := buf[vnetGSOType]; t != GSONone {
		p.GSOType = t
		p.GSOSize = binary.LittleEndian.Uint16(buf[vnetGSOSize:])
	}
	l3 := VnetLen + etherLen
	ether := binary.BigEndian.Uint16(buf[l3-2:])
	for tags := 0; tags < 2 && (ether == EtherVLAN || ether == EtherQinQ || ether == EtherQOld); tags++ {
		if len(buf) < l3+4 {
			break
		}
		vid := uint32(binary.BigEndian.Uint16(buf[l3:])&0xfff) | 1<<12
		p.VLAN = p.VLAN<<16 | vid
		ether = binary.BigEndian.Uint16(buf[l3+2:])
		l3 += 4
	}
	p.Ether, p.L3, p.End = ether, l3, len(buf)
	ok := false
	switch ether {
	case EtherIPv4:
		ok = p.ipv4(buf)
	case EtherIPv6:
		ok = p.ipv6(buf)
	case EtherARP:
		ok = p.arp(buf)
	}
	if !ok {
		p.other(buf)
	}
}

// other makes p the description of a frame that is handled whole.
func (p *Parsed) other(buf []byte) {
	*p = Parsed{WScale: -1, Ether: p.Ether, VLAN: p.VLAN, L3: p.L3, L4: p.L3, Payload: p.L3, End: len(buf),
		GSOType: p.GSOType, GSOSize: p.GSOSize}
	copy(p.Dst[:6], buf[VnetLen:])
	copy(p.Src[:6], buf[VnetLen+6:])
}

func (p *Parsed) ipv4(buf []byte) bool {
	h := buf[p.L3:]
	if len(h) < 20 || h[0]>>4 != 4 {
		return false
	}
	ihl, total := int(h[0]&15)*4, int(binary.BigEndian.Uint16(h[2:]))
	if total == 0 && p.GSOType != GSONone {
		total = len(h) // a segment over 64 KiB has no length (Linux BIG TCP)
	}
	if ihl < 20 || total < ihl || total > len(h) {
		return false
	}
	p.TOS, p.TTL, p.Proto = h[1], h[8], h[9]
	p.L4, p.End = p.L3+ihl, p.L3+total
	p.Payload = p.L4
	copy(p.Src[:12], v4Mapped[:])
	copy(p.Src[12:], h[12:16])
	copy(p.Dst[:12], v4Mapped[:])
	copy(p.Dst[12:], h[16:20])
	if w := binary.BigEndian.Uint16(h[6:]); w&0x3fff != 0 { // MF or an offset
		p.Frag, p.Kind = w, KindFragment
		return true
	}
	return p.transport(buf)
}

func (p *Parsed) ipv6(buf []byte) bool {
	h := buf[p.L3:]
	if len(h) < ip6Len || h[0]>>4 != 6 {
		return false
	}
	n := int(binary.BigEndian.Uint16(h[4:]))
	if n == 0 && p.GSOType != GSONone {
		n = len(h) - ip6Len
	}
	if ip6Len+n > len(h) {
		return false
	}
	p.IPv6 = true
	p.TOS, p.TTL = h[0]<<4|h[1]>>4, h[7]
	p.End = p.L3 + ip6Len + n
	copy(p.Src[:], h[8:24])
	copy(p.Dst[:], h[24:40])
	next, at := h[6], p.L3+ip6Len
	for {
		p.L4, p.Payload, p.Proto = at, at, next
		switch next {
		case 0, 43, 60, 135, 139, 140: // hop-by-hop, routing, destination, mobility, HIP, shim6
			if at+8 > p.End {
				return false
			}
			next, at = buf[at], at+8+int(buf[at+1])*8
		case 51: // authentication header, in words of 4 bytes
			if at+8 > p.End {
				return false
			}
			next, at = buf[at], at+8+int(buf[at+1])*4
		case 44:
			if at+8 > p.End {
				return false
			}
			p.Proto, p.Frag, p.Kind = buf[at], binary.BigEndian.Uint16(buf[at+2:]), KindFragment
			p.L4, p.Payload = at+8, at+8
			return true
		default:
			return p.transport(buf)
		}
		if at > p.End {
			return false
		}
	}
}

// transport reads the header at L4. It is false only when the headers are too long to handle.
func (p *Parsed) transport(buf []byte) bool {
	h := buf[p.L4:p.End]
	p.Kind = KindIP
	switch {
	case p.Proto == ProtoTCP:
		return p.tcp(h)
	case p.Proto == ProtoUDP && len(h) >= 8:
		p.Kind = KindUDP
		p.SrcPort, p.DstPort = binary.BigEndian.Uint16(h), binary.BigEndian.Uint16(h[2:])
		p.Payload = p.L4 + 8
	case p.Proto == ProtoICMP && !p.IPv6 && len(h) >= 8:
		p.Kind, p.ICMPType, p.ICMPCode = KindICMP, h[0], h[1]
		if h[0] == 8 || h[0] == 0 {
			p.SrcPort = binary.BigEndian.Uint16(h[4:])
		}
		p.Payload = p.L4 + 8
	case p.Proto == ProtoIGMP && !p.IPv6 && len(h) >= 8:
		p.Kind, p.ICMPType = KindGroup, h[0]
		p.SrcPort = uint16(h[0])
	case p.Proto == ProtoICMPv6 && p.IPv6 && len(h) >= 4:
		p.ICMPType, p.ICMPCode = h[0], h[1]
		p.Payload = p.L4 + 4
		switch t := h[0]; {
		case t >= 133 && t <= 137:
			p.Kind, p.SrcPort = KindND, uint16(t)
		case t >= 130 && t <= 132 || t == 143:
			p.Kind, p.SrcPort = KindGroup, uint16(t)
		default:
			p.Kind = KindICMP
			if (t == 128 || t == 129) && len(h) >= 8 {
				p.SrcPort = binary.BigEndian.Uint16(h[4:])
			}
		}
	}
	return true
}

func (p *Parsed) tcp(h []byte) bool {
	if len(h) < 20 {
		return true
	}
	off := int(h[12]>>4) * 4
	if off < 20 || off > len(h) {
		return true
	}
	if p.L4+off > MaxHead {
		return false
	}
	p.Kind = KindTCP
	p.SrcPort, p.DstPort = binary.BigEndian.Uint16(h), binary.BigEndian.Uint16(h[2:])
	p.Seq, p.Ack = Num(binary.BigEndian.Uint32(h[4:])), Num(binary.BigEndian.Uint32(h[8:]))
	p.Flags, p.Window = h[13], binary.BigEndian.Uint16(h[14:])
	p.Payload = p.L4 + off
	if off == 32 && binary.BigEndian.Uint32(h[20:]) == 0x0101080a { // NOP, NOP, timestamps: nearly all segments
		p.HasTS, p.TSOff = true, p.L4+24
		p.TSVal, p.TSEcr = binary.BigEndian.Uint32(h[24:]), binary.BigEndian.Uint32(h[28:])
		return true
	}
	if off > 20 {
		p.options(h[20:off])
	}
	return true
}

// options reads the TCP options o, which start at L4+20.
func (p *Parsed) options(o []byte) {
	base := p.L4 + 20
	for i := 0; i < len(o); {
		switch o[i] {
		case 0: // end of list
			return
		case 1:
			i++
			continue
		}
		if i+1 >= len(o) || o[i+1] < 2 || i+int(o[i+1]) > len(o) {
			p.Bad = true
			return
		}
		n := int(o[i+1])
		switch kind := o[i]; {
		case kind == 2 && n == 4:
			p.MSS = binary.BigEndian.Uint16(o[i+2:])
		case kind == 3 && n == 3:
			p.WScale = int8(min(o[i+2], 14)) // RFC 7323 section 2.3
		case kind == 4 && n == 2:
			p.SACKPerm = true
		case kind == 5 && n > 2 && (n-2)%8 == 0:
			p.SACKOff, p.SACKLen = base+i+2, n-2
		case kind == 8 && n == 10:
			p.HasTS, p.TSOff = true, base+i+2
			p.TSVal, p.TSEcr = binary.BigEndian.Uint32(o[i+2:]), binary.BigEndian.Uint32(o[i+6:])
		}
		i += n
	}
}

func (p *Parsed) arp(buf []byte) bool {
	h := buf[p.L3:]
	if len(h) < 28 || binary.BigEndian.Uint16(h) != 1 || binary.BigEndian.Uint16(h[2:]) != EtherIPv4 || h[4] != 6 || h[5] != 4 {
		return false
	}
	p.Kind, p.L4, p.Payload, p.End = KindARP, p.L3, p.L3, p.L3+28
	p.SrcPort = binary.BigEndian.Uint16(h[6:])
	copy(p.Src[:12], v4Mapped[:])
	copy(p.Src[12:], h[14:18])
	copy(p.Dst[:12], v4Mapped[:])
	copy(p.Dst[12:], h[24:28])
	return true
}

// SACK is the i-th SACK block, 0 <= i < p.SACKLen/8.
func (p *Parsed) SACK(buf []byte, i int) (left, right Num) {
	o := buf[p.SACKOff+8*i:]
	return Num(binary.BigEndian.Uint32(o)), Num(binary.BigEndian.Uint32(o[4:]))
}
