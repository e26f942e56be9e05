package sim

import (
	"encoding/binary"

	"colod/internal/frame"
)

// Addresses of the simulated network: the guest is 192.0.2.10, client i is 192.0.2.(100+i).
const (
	guestHost  = 10
	clientHost = 100
	tcpPort    = 80
	udpPort    = 53

	headLen = frame.VnetLen + 14 + 20 // up to the transport header
	mss     = 1448
)

// packet is what one frame says. It is made into bytes by build.
type packet struct {
	fromGuest bool
	client    int
	port      uint16 // of the client; the identifier of an ICMP echo
	proto     uint8
	seq, ack  uint32
	flags     uint8
	win       uint16
	ts        bool
	tsVal     uint32
	tsEcr     uint32
	payload   []byte
	partial   bool // checksum left to the device
}

// size is the length of p as a frame.
func (p *packet) size() int {
	n := headLen + len(p.payload)
	switch p.proto {
	case frame.ProtoTCP:
		n += 20
		if p.ts {
			n += 12
		}
		if p.flags&frame.SYN != 0 {
			n += 8 // MSS and window scale, padded
		}
	default:
		n += 8
	}
	return n
}

// build writes p to b, which has p.size() bytes.
func (p *packet) build(b []byte) {
	clear(b[:min(len(b), headLen+20)])
	eth, ip := b[frame.VnetLen:], b[frame.VnetLen+14:]
	src, dst := byte(clientHost+p.client), byte(guestHost)
	copy(eth, "\x52\x54\x00\x00\x00\x0a\x52\x54\x00\x00\x00\x00")
	eth[11] = src
	if p.fromGuest {
		src, dst = dst, src
		eth[5], eth[11] = eth[11], eth[5]
	}
	binary.BigEndian.PutUint16(eth[12:], frame.EtherIPv4)
	ip[0] = 0x45
	binary.BigEndian.PutUint16(ip[2:], uint16(len(b)-frame.VnetLen-14))
	ip[6], ip[8], ip[9] = 0x40, 64, p.proto
	copy(ip[12:], []byte{192, 0, 2, src, 192, 0, 2, dst})
	binary.BigEndian.PutUint16(ip[10:], ^fold(sum(ip[:20])))
	l4 := b[headLen:]
	at, hdr := 16, 20
	sport, dport := p.port, uint16(tcpPort)
	switch p.proto {
	case frame.ProtoTCP:
		binary.BigEndian.PutUint32(l4[4:], p.seq)
		binary.BigEndian.PutUint32(l4[8:], p.ack)
		l4[13] = p.flags
		binary.BigEndian.PutUint16(l4[14:], p.win)
		if p.flags&frame.SYN != 0 {
			copy(l4[hdr:], []byte{2, 4, mss >> 8, mss & 0xff, 1, 3, 3, 0})
			hdr += 8
		}
		if p.ts {
			copy(l4[hdr:], []byte{1, 1, 8, 10})
			binary.BigEndian.PutUint32(l4[hdr+4:], p.tsVal)
			binary.BigEndian.PutUint32(l4[hdr+8:], p.tsEcr)
			hdr += 12
		}
		l4[12] = byte(hdr/4) << 4
	case frame.ProtoUDP:
		at, hdr, dport = 6, 8, udpPort
		binary.BigEndian.PutUint16(l4[4:], uint16(len(l4)))
	default: // ICMP echo
		l4[0] = 8
		if p.fromGuest {
			l4[0] = 0
		}
		binary.BigEndian.PutUint16(l4[4:], p.port)
		copy(l4[8:], p.payload)
		binary.BigEndian.PutUint16(l4[2:], ^fold(sum(l4)))
		return
	}
	if p.fromGuest {
		sport, dport = dport, sport
	}
	binary.BigEndian.PutUint16(l4, sport)
	binary.BigEndian.PutUint16(l4[2:], dport)
	copy(l4[hdr:], p.payload)
	c := sum(ip[12:20]) + uint64(p.proto) + uint64(len(l4))
	if p.partial {
		b[0] = 1 // the device completes the checksum
		binary.LittleEndian.PutUint16(b[6:], headLen-frame.VnetLen)
		binary.LittleEndian.PutUint16(b[8:], uint16(at))
		binary.BigEndian.PutUint16(l4[at:], fold(c))
		return
	}
	s := ^fold(c + sum(l4))
	if s == 0 && p.proto == frame.ProtoUDP {
		s = 0xffff
	}
	binary.BigEndian.PutUint16(l4[at:], s)
}

// arp is a client's question for the guest's address, or the guest's answer.
func arp(w *world, client int, reply bool) []byte {
	b := w.mem.get(frame.VnetLen + 60)
	clear(b)
	e := b[frame.VnetLen:]
	guest, host := [6]byte{0x52, 0x54, 0, 0, 0, guestHost}, [6]byte{0x52, 0x54, 0, 0, 0, byte(clientHost + client)}
	from, to, fromIP, toIP := host, [6]byte{}, byte(clientHost+client), byte(guestHost)
	copy(e, "\xff\xff\xff\xff\xff\xff")
	if reply {
		from, to, fromIP, toIP = guest, host, toIP, fromIP
		copy(e, to[:])
	}
	copy(e[6:], from[:])
	copy(e[12:], []byte{8, 6, 0, 1, 8, 0, 6, 4, 0, 1})
	if reply {
		e[21] = 2
	}
	copy(e[22:], from[:])
	copy(e[28:], []byte{192, 0, 2, fromIP})
	copy(e[32:], to[:])
	copy(e[38:], []byte{192, 0, 2, toIP})
	return b
}

func sum(b []byte) (s uint64) {
	for len(b) >= 2 {
		s += uint64(b[0])<<8 | uint64(b[1])
		b = b[2:]
	}
	if len(b) > 0 {
		s += uint64(b[0]) << 8
	}
	return s
}

func fold(s uint64) uint16 {
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

// noise is what streams are made of.
var noise = func() (t [2 << 16]byte) {
	x := uint32(2463534242)
	for i := range 1 << 16 {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		t[i] = byte(x >> 11)
		t[i+1<<16] = t[i]
	}
	return t
}()

func mix(a, b uint32) uint32 {
	x := a*0x9e3779b1 ^ b*0x85ebca77
	x ^= x >> 15
	x *= 0xc2b2ae3d
	return x ^ x>>13
}

// request is n bytes of what a client says on a port from offset off on; n is at most 1 << 16.
func request(port uint16, off uint32, n int) []byte {
	at := (mix(uint32(port), 1) + off) & 0xffff
	return noise[at : int(at)+n]
}
