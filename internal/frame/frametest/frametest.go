// Package frametest builds guest frames for tests, byte by byte and independently of package frame: virtio-net
// header, Ethernet, tags, IP, and TCP, UDP, ICMP or ARP, with complete or partial checksums.
package frametest

import (
	"encoding/binary"
	"net/netip"
)

// Addr is an end of a flow.
type Addr struct {
	IP   netip.Addr
	Port uint16
}

// A parses "192.0.2.1:80" or "[2001:db8::1]:80".
func A(s string) Addr {
	ap := netip.MustParseAddrPort(s)
	return Addr{ap.Addr(), ap.Port()}
}

// Link is what lies below the transport header.
type Link struct {
	SrcMAC, DstMAC [6]byte
	VLAN           []uint16 // tags, outermost first
	TTL, TOS       uint8
	ID             uint16
	IPOptions      []byte // IPv4, padded to a multiple of 4 by the caller
	Extension      []byte // IPv6 extension headers, chained by the caller; ExtFirst is the type of the first
	ExtFirst       uint8
	Pad            int // bytes of Ethernet padding behind the packet
}

// DefaultLink has the addresses that the builders use when a Link has none.
var DefaultLink = Link{SrcMAC: [6]byte{0x52, 0x54, 0, 0x12, 0x34, 0x56}, DstMAC: [6]byte{0x52, 0x54, 0, 0, 0, 1}, TTL: 64}

// TCP describes a segment. Options are raw and padded with NOPs to a multiple of 4.
type TCP struct {
	Link     Link
	Src, Dst Addr
	Seq, Ack uint32
	Flags    uint8
	Window   uint16
	Options  []byte
	Payload  []byte
	Partial  bool   // checksum holds only the pseudo-header's sum
	GSO      uint16 // segment size, sets the GSO type
}

// TS is the timestamps option with the usual two NOPs in front.
func TS(val, ecr uint32) []byte {
	b := []byte{1, 1, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0}
	binary.BigEndian.PutUint32(b[4:], val)
	binary.BigEndian.PutUint32(b[8:], ecr)
	return b
}

// SACK is a SACK option without padding.
func SACK(blocks ...[2]uint32) []byte {
	b := []byte{5, byte(2 + 8*len(blocks))}
	for _, x := range blocks {
		b = binary.BigEndian.AppendUint32(b, x[0])
		b = binary.BigEndian.AppendUint32(b, x[1])
	}
	return b
}

// SYNOptions are those that Linux sends: MSS, SACK permitted, timestamps, window scale.
func SYNOptions(mss uint16, wscale uint8, tsval, tsecr uint32) []byte {
	b := []byte{2, 4, byte(mss >> 8), byte(mss), 4, 2, 8, 10}
	b = binary.BigEndian.AppendUint32(b, tsval)
	b = binary.BigEndian.AppendUint32(b, tsecr)
	return append(b, 1, 3, 3, wscale)
}

// Bytes is the whole frame, virtio-net header first.
func (t TCP) Bytes() []byte {
	opt := append([]byte(nil), t.Options...)
	for len(opt)%4 != 0 {
		opt = append(opt, 1)
	}
	h := make([]byte, 20, 20+len(opt)+len(t.Payload))
	binary.BigEndian.PutUint16(h, t.Src.Port)
	binary.BigEndian.PutUint16(h[2:], t.Dst.Port)
	binary.BigEndian.PutUint32(h[4:], t.Seq)
	binary.BigEndian.PutUint32(h[8:], t.Ack)
	h[12] = byte(20+len(opt)) / 4 << 4
	h[13] = t.Flags
	binary.BigEndian.PutUint16(h[14:], t.Window)
	h = append(append(h, opt...), t.Payload...)
	b := wrap(t.Link, t.Src.IP, t.Dst.IP, 6, h, 16, t.Partial)
	if t.GSO > 0 {
		b[1] = 1
		if t.Src.IP.Is6() {
			b[1] = 4
		}
		binary.LittleEndian.PutUint16(b[4:], t.GSO)
		binary.LittleEndian.PutUint16(b[2:], uint16(len(b)-10-len(t.Payload)-t.Link.Pad))
	}
	return b
}

// UDP is a datagram.
func UDP(l Link, src, dst Addr, payload []byte, partial bool) []byte {
	h := make([]byte, 8, 8+len(payload))
	binary.BigEndian.PutUint16(h, src.Port)
	binary.BigEndian.PutUint16(h[2:], dst.Port)
	binary.BigEndian.PutUint16(h[4:], uint16(8+len(payload)))
	return wrap(l, src.IP, dst.IP, 17, append(h, payload...), 6, partial)
}

// ICMP is an ICMP or, between IPv6 addresses, ICMPv6 message; body follows the checksum.
func ICMP(l Link, src, dst netip.Addr, typ, code uint8, body []byte) []byte {
	h := append([]byte{typ, code, 0, 0}, body...)
	if src.Is6() {
		return wrap(l, src, dst, 58, h, 2, false)
	}
	binary.BigEndian.PutUint16(h[2:], ^Sum(h, 0))
	return wrap(l, src, dst, 1, h, -1, false)
}

// IP is a packet of any protocol; its payload is left as it is.
func IP(l Link, src, dst netip.Addr, proto uint8, payload []byte) []byte {
	return wrap(l, src, dst, proto, payload, -1, false)
}

// ARP is a packet of the given operation.
func ARP(l Link, op uint16, sender, target netip.Addr) []byte {
	l = l.filled()
	a := []byte{0, 1, 8, 0, 6, 4, byte(op >> 8), byte(op)}
	a = append(a, l.SrcMAC[:]...)
	s, t := sender.As4(), target.As4()
	a = append(a, s[:]...)
	a = append(a, 0, 0, 0, 0, 0, 0)
	a = append(a, t[:]...)
	return append(ether(l, 0x0806), a...)
}

// Sum is the ones' complement sum of b and initial, folded (RFC 1071), computed the slow way.
func Sum(b []byte, initial uint32) uint16 {
	s := initial
	for i, c := range b {
		if i%2 == 0 {
			s += uint32(c) << 8
		} else {
			s += uint32(c)
		}
		s = s>>16 + s&0xffff
	}
	return uint16(s>>16 + s&0xffff)
}

func (l Link) filled() Link {
	if l.SrcMAC == [6]byte{} {
		l.SrcMAC, l.DstMAC = DefaultLink.SrcMAC, DefaultLink.DstMAC
	}
	if l.TTL == 0 {
		l.TTL = 64
	}
	return l
}

func ether(l Link, typ uint16) []byte {
	b := make([]byte, 10, 256)
	b = append(b, l.DstMAC[:]...)
	b = append(b, l.SrcMAC[:]...)
	for i, tci := range l.VLAN {
		tpid := uint16(0x8100)
		if len(l.VLAN) == 2 && i == 0 {
			tpid = 0x88a8
		}
		b = binary.BigEndian.AppendUint16(b, tpid)
		b = binary.BigEndian.AppendUint16(b, tci)
	}
	return binary.BigEndian.AppendUint16(b, typ)
}

// wrap puts h, a transport header with payload whose checksum lies at csum (-1 for none), into IP and Ethernet.
func wrap(l Link, src, dst netip.Addr, proto uint8, h []byte, csum int, partial bool) []byte {
	l = l.filled()
	h = append([]byte(nil), h...)
	if csum >= 0 {
		h[csum], h[csum+1] = 0, 0
		ps := Sum(append(src.AsSlice(), dst.AsSlice()...), uint32(proto))
		ps = Sum([]byte{byte(len(h) >> 8), byte(len(h))}, uint32(ps))
		c := ps
		if !partial {
			if c = ^Sum(h, uint32(ps)); c == 0 && proto == 17 {
				c = 0xffff
			}
		}
		binary.BigEndian.PutUint16(h[csum:], c)
	}
	var b []byte
	if src.Is4() {
		b = ether(l, 0x0800)
		start := len(b)
		b = append(b, byte(0x45+len(l.IPOptions)/4), l.TOS)
		b = binary.BigEndian.AppendUint16(b, uint16(20+len(l.IPOptions)+len(h)))
		b = binary.BigEndian.AppendUint16(b, l.ID)
		b = append(b, 0x40, 0, l.TTL, proto, 0, 0)
		b = append(append(b, src.AsSlice()...), dst.AsSlice()...)
		b = append(b, l.IPOptions...)
		binary.BigEndian.PutUint16(b[start+10:], ^Sum(b[start:], 0))
	} else {
		b = ether(l, 0x86dd)
		b = append(b, 0x60|l.TOS>>4, l.TOS<<4, 0, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(len(l.Extension)+len(h)))
		next := proto
		if len(l.Extension) > 0 {
			next = l.ExtFirst
		}
		b = append(b, next, l.TTL)
		b = append(append(b, src.AsSlice()...), dst.AsSlice()...)
		b = append(b, l.Extension...)
	}
	if partial && csum >= 0 {
		b[0] = 1
		binary.LittleEndian.PutUint16(b[6:], uint16(len(b)-10))
		binary.LittleEndian.PutUint16(b[8:], uint16(csum))
	}
	b = append(b, h...)
	return append(b, make([]byte, l.Pad)...)
}
