package frame_test

import (
	"bytes"
	"net/netip"
	"testing"

	"colod/internal/frame"
	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

// FuzzParse: offsets are in order and in bounds for any bytes, edits of any TCP frame keep a right checksum right,
// and what is TCP or UDP to Parse is the same to gopacket, and the other way round.
func FuzzParse(f *testing.F) {
	for _, c := range cases() {
		f.Add(c.buf)
	}
	f.Fuzz(func(t *testing.T, buf []byte) {
		var p frame.Parsed
		frame.Parse(buf, &p)
		if p.L3 < min(frame.VnetLen, len(buf)) || p.L4 < p.L3 || p.Payload < p.L4 || p.End < p.Payload || p.End > len(buf) {
			t.Fatalf("offsets %d %d %d %d of %d", p.L3, p.L4, p.Payload, p.End, len(buf))
		}
		if p.Kind > frame.KindIP || p.Key(true).Kind != p.Kind {
			t.Fatalf("kind %d", p.Kind)
		}
		if len(buf) < frame.VnetLen+14 {
			return
		}
		if p.GSOType == frame.GSONone {
			against(t, buf, &p)
		}
		if p.Kind == frame.KindTCP {
			edit(t, buf, &p)
		}
	})
}

// against compares p with what gopacket makes of the frame.
func against(t *testing.T, buf []byte, p *frame.Parsed) {
	pkt := gopacket.NewPacket(buf[frame.VnetLen:], layers.LayerTypeEthernet, gopacket.DecodeOptions{NoCopy: true})
	tcp, _ := pkt.Layer(layers.LayerTypeTCP).(*layers.TCP)
	udp, _ := pkt.Layer(layers.LayerTypeUDP).(*layers.UDP)
	ip4, _ := pkt.Layer(layers.LayerTypeIPv4).(*layers.IPv4)
	ip6, _ := pkt.Layer(layers.LayerTypeIPv6).(*layers.IPv6)
	src, dst := netip.AddrFrom16(p.Src), netip.AddrFrom16(p.Dst)
	switch p.Kind {
	case frame.KindTCP:
		if odd(pkt) {
			return
		}
		if tcp == nil {
			t.Fatalf("not TCP to gopacket: %v", pkt)
		}
		if uint16(tcp.SrcPort) != p.SrcPort || uint16(tcp.DstPort) != p.DstPort || frame.Num(tcp.Seq) != p.Seq || frame.Num(tcp.Ack) != p.Ack || tcp.Window != p.Window {
			t.Fatalf("header %+v, gopacket %+v", p, tcp)
		}
		if len(tcp.Contents) != p.Payload-p.L4 || !bytes.Equal(tcp.Payload, buf[p.Payload:p.End]) {
			t.Fatalf("payload of %d bytes, gopacket %d", p.Len(), len(tcp.Payload))
		}
	case frame.KindUDP:
		if odd(pkt) {
			return
		}
		if udp == nil {
			t.Fatalf("not UDP to gopacket: %v", pkt)
		}
		if uint16(udp.SrcPort) != p.SrcPort || uint16(udp.DstPort) != p.DstPort {
			t.Fatalf("header %+v, gopacket %+v", p, udp)
		}
	default:
		if tcp != nil && !odd(pkt) && p.Payload <= frame.MaxHead {
			if whole := ip4 != nil && int(ip4.Length) == len(ip4.Contents)+len(ip4.Payload) || ip6 != nil && ip6.Length > 0; whole && p.Kind == frame.KindIP {
				t.Fatalf("TCP to gopacket, %v to us: %v", p.Kind, pkt)
			}
		}
		return
	}
	if ip4 != nil && (ip4.SrcIP.String() != src.Unmap().String() || ip4.DstIP.String() != dst.Unmap().String()) {
		t.Fatalf("addresses %v %v, gopacket %v %v", src, dst, ip4.SrcIP, ip4.DstIP)
	}
	if ip6 != nil && (ip6.SrcIP.String() != src.String() || ip6.DstIP.String() != dst.String()) {
		t.Fatalf("addresses %v %v, gopacket %v %v", src, dst, ip6.SrcIP, ip6.DstIP)
	}
}

// odd says that gopacket gave up somewhere (bad options, lengths, extension headers that it does not know), or that
// a packet lies in a packet.
func odd(pkt gopacket.Packet) bool {
	if pkt.ErrorLayer() != nil || pkt.Metadata().Truncated {
		return true
	}
	networks := 0
	for _, l := range pkt.Layers() {
		switch l.LayerType() {
		case layers.LayerTypeIPv4, layers.LayerTypeIPv6:
			networks++
		case layers.LayerTypeEthernet, layers.LayerTypeDot1Q, layers.LayerTypeTCP, layers.LayerTypeUDP, gopacket.LayerTypePayload:
		default:
			if networks > 0 && pkt.TransportLayer() == nil {
				return true
			}
		}
	}
	return networks != 1
}

// edit checks that edits keep the checksum as right or wrong as it was.
func edit(t *testing.T, buf []byte, p *frame.Parsed) {
	right := p.Verify(buf)
	b := append([]byte(nil), buf...)
	q := *p
	frame.Edit{SeqAdd: 0x87654321, AckAdd: 0x12345678, SACKAdd: 0x12345678, TSValAdd: 0xdeadbeef, TSEcrAdd: 1}.Rewrite(b, &q)
	q.DropSACK(b, func(l, r frame.Num) bool { return l&1 == 0 })
	q.SetHeader(b, frame.Header{Seq: 1, Ack: 2, Window: 3, TSVal: 4})
	if right && !q.Verify(b) {
		t.Fatalf("edit broke the checksum: % x", b)
	}
	var head [frame.MaxHead]byte
	half := p.Len() / 2
	n := p.Cut(head[:], buf, half, p.Len())
	part := append(head[:n:n], buf[p.Payload+half:p.End]...)
	frame.Parse(part, &q)
	if q.Kind != frame.KindTCP || q.Seq != p.Seq.Add(uint32(half)) {
		t.Fatalf("cut gives %v", q.Kind)
	}
	if right && !q.Verify(part) {
		t.Fatalf("cut has a wrong checksum: % x", part)
	}
}
