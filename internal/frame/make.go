package frame

import "encoding/binary"

// Template makes pure acknowledgements of one TCP flow from the Ethernet and IP headers of one of its
// frames. The zero Template is empty.
type Template struct {
	n    int
	p    Parsed
	head [MaxHead]byte
}

// Known says that Learn has seen a frame.
func (t *Template) Known() bool { return t.n > 0 }

// Forget makes t empty.
func (t *Template) Forget() { t.n = 0 }

// Learn takes the headers of the TCP frame buf below TCP.
func (t *Template) Learn(buf []byte, p *Parsed) {
	if p.L4+60 > MaxHead {
		return // too long for every possible option list: such a flow gets no made acknowledgement
	}
	t.n = copy(t.head[:], buf[:p.L4])
	t.p = *p
}

// Pure is what a made acknowledgement says.
type Pure struct {
	Seq, Ack Num
	Window   uint16
	HasTS    bool
	TSVal    uint32
	TSEcr    uint32
	NSACK    int // of SACK; at most 3 with timestamps, 4 without
	SACK     [4][2]Num
}

// Make writes a whole frame, virtio-net header first, with a partial checksum to dst, and returns its length;
// 0 when t is empty. dst needs MaxHead bytes.
func (t *Template) Make(dst []byte, a *Pure) int {
	if t.n == 0 {
		return 0
	}
	p := &t.p
	copy(dst, t.head[:t.n])
	clear(dst[:VnetLen])
	h := dst[t.n:]
	binary.BigEndian.PutUint16(h, p.SrcPort)
	binary.BigEndian.PutUint16(h[2:], p.DstPort)
	binary.BigEndian.PutUint32(h[4:], uint32(a.Seq))
	binary.BigEndian.PutUint32(h[8:], uint32(a.Ack))
	h[13] = ACK
	binary.BigEndian.PutUint16(h[14:], a.Window)
	binary.BigEndian.PutUint32(h[16:], 0)
	o := 20
	if a.HasTS {
		binary.BigEndian.PutUint32(h[o:], 0x0101080a)
		binary.BigEndian.PutUint32(h[o+4:], a.TSVal)
		binary.BigEndian.PutUint32(h[o+8:], a.TSEcr)
		o += 12
	}
	blocks := min(a.NSACK, 4)
	if a.HasTS {
		blocks = min(blocks, 3)
	}
	if blocks > 0 {
		binary.BigEndian.PutUint32(h[o:], 0x01010500|uint32(2+8*blocks))
		o += 4
		for _, b := range a.SACK[:blocks] {
			binary.BigEndian.PutUint32(h[o:], uint32(b[0]))
			binary.BigEndian.PutUint32(h[o+4:], uint32(b[1]))
			o += 8
		}
	}
	h[12] = byte(o/4) << 4
	l3 := dst[p.L3:]
	if p.IPv6 {
		l3[1] &^= 0x30 // ECN: a pure acknowledgement is not ECN-capable (RFC 3168 section 6.1.4)
		binary.BigEndian.PutUint16(l3[4:], uint16(t.n-p.L3-ip6Len+o))
	} else {
		l3[1] &^= 0x03
		binary.BigEndian.PutUint16(l3[2:], uint16(t.n-p.L3+o))
		binary.BigEndian.PutUint16(l3[4:], 0)
		binary.BigEndian.PutUint16(l3[10:], 0)
		binary.BigEndian.PutUint16(l3[10:], ^fold(sum(l3[:p.L4-p.L3])))
	}
	dst[vnetFlags] = vnetNeedsCsum
	binary.LittleEndian.PutUint16(dst[vnetCsumStart:], uint16(p.L4-VnetLen))
	binary.LittleEndian.PutUint16(dst[vnetCsumOffset:], 16)
	binary.BigEndian.PutUint16(h[16:], fold(p.pseudo(ProtoTCP, o)))
	return t.n + o
}

// InsertVLAN puts the tag (tpid, tci) between the MAC addresses and the type of the frame in buf[:n], moves
// the checksum start of the virtio-net header along and returns the new length. buf needs n+4 bytes. A frame
// too short for an Ethernet header is left alone.
func InsertVLAN(buf []byte, n int, tpid, tci uint16) int {
	const at = VnetLen + 12
	if n < at+2 || len(buf) < n+4 {
		return n
	}
	copy(buf[at+4:n+4], buf[at:n])
	binary.BigEndian.PutUint16(buf[at:], tpid)
	binary.BigEndian.PutUint16(buf[at+2:], tci)
	if buf[vnetFlags]&vnetNeedsCsum != 0 {
		s := binary.LittleEndian.Uint16(buf[vnetCsumStart:])
		binary.LittleEndian.PutUint16(buf[vnetCsumStart:], s+4)
	}
	if l := binary.LittleEndian.Uint16(buf[vnetHdrLen:]); l != 0 {
		binary.LittleEndian.PutUint16(buf[vnetHdrLen:], l+4)
	}
	return n + 4
}

// GratuitousARP is the ARP announcement (RFC 5227 section 2.3) that ip is at mac: a broadcast request for the
// sender's own address, behind an empty virtio-net header. mac has 6 bytes.
func GratuitousARP(mac []byte, ip [4]byte) []byte { return arpFrame(mac, ip, 1) }

// GratuitousARPReply is the same as a broadcast reply, for hosts that listen only to those.
func GratuitousARPReply(mac []byte, ip [4]byte) []byte { return arpFrame(mac, ip, 2) }

func arpFrame(mac []byte, ip [4]byte, op byte) []byte {
	b := make([]byte, VnetLen+60)
	e := b[VnetLen:]
	copy(e, "\xff\xff\xff\xff\xff\xff")
	copy(e[6:12], mac)
	a := e[etherLen:]
	binary.BigEndian.PutUint16(e[12:], EtherARP)
	copy(a, []byte{0, 1, 8, 0, 6, 4, 0, op})
	copy(a[8:14], mac)
	copy(a[14:], ip[:])
	if op == 2 {
		copy(a[18:24], mac)
	}
	copy(a[24:], ip[:])
	return b
}

// ReverseARP is a broadcast reverse ARP request (RFC 903) of mac for its own address, behind an empty virtio-net header.
// It tells switches where mac is without naming an IP address. mac has 6 bytes.
func ReverseARP(mac []byte) []byte {
	b := arpFrame(mac, [4]byte{}, 3)
	e := b[VnetLen:]
	binary.BigEndian.PutUint16(e[12:], EtherRARP)
	copy(e[etherLen+18:etherLen+24], mac)
	return b
}

// UnsolicitedNA is the neighbour advertisement (RFC 4861 section 7.2.6) that ip is at mac, to all nodes,
// with the override flag, behind an empty virtio-net header. mac has 6 bytes.
func UnsolicitedNA(mac []byte, ip [16]byte) []byte {
	const icmp = 32
	b := make([]byte, VnetLen+etherLen+ip6Len+icmp)
	e := b[VnetLen:]
	copy(e, "\x33\x33\x00\x00\x00\x01")
	copy(e[6:12], mac)
	binary.BigEndian.PutUint16(e[12:], EtherIPv6)
	h := e[etherLen:]
	h[0], h[5], h[6], h[7] = 0x60, icmp, ProtoICMPv6, 255
	copy(h[8:24], ip[:])
	copy(h[24:40], "\xff\x02\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01")
	m := h[ip6Len:]
	m[0], m[4] = 136, 0x20 // neighbour advertisement, override
	copy(m[8:24], ip[:])
	m[24], m[25] = 2, 1 // target link-layer address, 8 bytes
	copy(m[26:32], mac)
	s := uint64(ProtoICMPv6) + icmp + sum(h[8:40]) + sum(m)
	binary.BigEndian.PutUint16(m[2:], ^fold(s))
	return b
}
