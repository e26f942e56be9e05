package frame_test

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"testing"

	"colod/internal/frame"
	"colod/internal/frame/frametest"
)

var (
	g4, c4 = frametest.A("192.0.2.10:80"), frametest.A("198.51.100.7:40000")
	g6, c6 = frametest.A("[2001:db8::10]:80"), frametest.A("[2001:db8:1::7]:40000")
)

// frag6 is an IPv6 fragment header: next header, offset and flags, identification.
func frag6(next byte, off uint16) []byte {
	return []byte{next, 0, byte(off >> 8), byte(off), 0, 0, 0, 9}
}

func fragment4(buf []byte, off uint16) []byte {
	l3 := frame.VnetLen + 14
	buf[l3+6], buf[l3+7] = byte(off>>8), byte(off)
	buf[l3+10], buf[l3+11] = 0, 0
	c := ^frametest.Sum(buf[l3:l3+20], 0)
	buf[l3+10], buf[l3+11] = byte(c>>8), byte(c)
	return buf
}

// cases are named frames beside what Parse has to make of them.
func cases() []struct {
	name string
	buf  []byte
	want frame.Parsed // Kind, IPv6, ports, offsets, TCP fields where given
} {
	hop := []byte{6, 0, 5, 2, 0, 0, 1, 0} // hop-by-hop with a router alert, then TCP
	type c = struct {
		name string
		buf  []byte
		want frame.Parsed
	}
	cut := func(b []byte, n int) []byte { return b[:n] }
	return []c{
		{"tcp4", frametest.TCP{Src: g4, Dst: c4, Seq: 1, Ack: 2, Flags: frame.ACK, Window: 3, Payload: []byte("hello")}.Bytes(),
			frame.Parsed{Kind: frame.KindTCP, Proto: 6, SrcPort: 80, DstPort: 40000, L3: 24, L4: 44, Payload: 64, End: 69, Seq: 1, Ack: 2, Window: 3, Flags: frame.ACK}},
		{"tcp4 with timestamps and padding", frametest.TCP{Link: frametest.Link{Pad: 6}, Src: g4, Dst: c4, Seq: 1, Flags: frame.SYN, Options: frametest.TS(7, 8)}.Bytes(),
			frame.Parsed{Kind: frame.KindTCP, Proto: 6, SrcPort: 80, DstPort: 40000, L3: 24, L4: 44, Payload: 76, End: 76, Seq: 1, Flags: frame.SYN, HasTS: true, TSVal: 7, TSEcr: 8, TSOff: 68}},
		{"tcp4 with IP options", frametest.TCP{Link: frametest.Link{IPOptions: []byte{148, 4, 0, 0}}, Src: g4, Dst: c4}.Bytes(),
			frame.Parsed{Kind: frame.KindTCP, Proto: 6, SrcPort: 80, DstPort: 40000, L3: 24, L4: 48, Payload: 68, End: 68}},
		{"tcp6", frametest.TCP{Src: g6, Dst: c6, Payload: []byte("x")}.Bytes(),
			frame.Parsed{Kind: frame.KindTCP, IPv6: true, Proto: 6, SrcPort: 80, DstPort: 40000, L3: 24, L4: 64, Payload: 84, End: 85}},
		{"tcp6 with hop-by-hop", frametest.TCP{Link: frametest.Link{Extension: hop}, Src: g6, Dst: c6, Payload: []byte("x")}.Bytes(),
			frame.Parsed{Kind: frame.KindTCP, IPv6: true, Proto: 6, SrcPort: 80, DstPort: 40000, L3: 24, L4: 72, Payload: 92, End: 93}},
		{"tcp4 in a VLAN", frametest.TCP{Link: frametest.Link{VLAN: []uint16{0xa005}}, Src: g4, Dst: c4}.Bytes(),
			frame.Parsed{Kind: frame.KindTCP, Proto: 6, VLAN: 0x1005, SrcPort: 80, DstPort: 40000, L3: 28, L4: 48, Payload: 68, End: 68}},
		{"tcp6 in QinQ", frametest.TCP{Link: frametest.Link{VLAN: []uint16{7, 9}}, Src: g6, Dst: c6}.Bytes(),
			frame.Parsed{Kind: frame.KindTCP, IPv6: true, Proto: 6, VLAN: 0x10071009, SrcPort: 80, DstPort: 40000, L3: 32, L4: 72, Payload: 92, End: 92}},
		{"udp4", frametest.UDP(frametest.Link{}, g4, c4, []byte("abc"), false),
			frame.Parsed{Kind: frame.KindUDP, Proto: 17, SrcPort: 80, DstPort: 40000, L3: 24, L4: 44, Payload: 52, End: 55}},
		{"udp6", frametest.UDP(frametest.Link{}, g6, c6, nil, true),
			frame.Parsed{Kind: frame.KindUDP, IPv6: true, Proto: 17, SrcPort: 80, DstPort: 40000, L3: 24, L4: 64, Payload: 72, End: 72}},
		{"ping4", frametest.ICMP(frametest.Link{}, g4.IP, c4.IP, 8, 0, []byte{1, 2, 0, 1, 'x'}),
			frame.Parsed{Kind: frame.KindICMP, Proto: 1, ICMPType: 8, SrcPort: 0x102, L3: 24, L4: 44, Payload: 52, End: 53}},
		{"unreachable4", frametest.ICMP(frametest.Link{}, g4.IP, c4.IP, 3, 3, []byte{1, 2, 0, 1, 'x'}),
			frame.Parsed{Kind: frame.KindICMP, Proto: 1, ICMPType: 3, ICMPCode: 3, L3: 24, L4: 44, Payload: 52, End: 53}},
		{"ping6", frametest.ICMP(frametest.Link{}, g6.IP, c6.IP, 129, 0, []byte{1, 2, 0, 1, 'x'}),
			frame.Parsed{Kind: frame.KindICMP, IPv6: true, Proto: 58, ICMPType: 129, SrcPort: 0x102, L3: 24, L4: 64, Payload: 68, End: 73}},
		{"neighbour solicitation", frametest.ICMP(frametest.Link{TTL: 255}, g6.IP, c6.IP, 135, 0, make([]byte, 20)),
			frame.Parsed{Kind: frame.KindND, IPv6: true, Proto: 58, ICMPType: 135, SrcPort: 135, L3: 24, L4: 64, Payload: 68, End: 88}},
		{"mld report", frametest.ICMP(frametest.Link{}, g6.IP, c6.IP, 143, 0, make([]byte, 8)),
			frame.Parsed{Kind: frame.KindGroup, IPv6: true, Proto: 58, ICMPType: 143, SrcPort: 143, L3: 24, L4: 64, Payload: 68, End: 76}},
		{"igmp", frametest.IP(frametest.Link{}, g4.IP, c4.IP, 2, []byte{0x22, 0, 0, 0, 0, 0, 0, 0}),
			frame.Parsed{Kind: frame.KindGroup, Proto: 2, ICMPType: 0x22, SrcPort: 0x22, L3: 24, L4: 44, Payload: 44, End: 52}},
		{"arp", frametest.ARP(frametest.Link{}, 1, g4.IP, c4.IP),
			frame.Parsed{Kind: frame.KindARP, SrcPort: 1, L3: 24, L4: 24, Payload: 24, End: 52}},
		{"gre", frametest.IP(frametest.Link{}, g4.IP, c4.IP, 47, []byte("grepayload")),
			frame.Parsed{Kind: frame.KindIP, Proto: 47, L3: 24, L4: 44, Payload: 44, End: 54}},
		{"first fragment4", fragment4(frametest.UDP(frametest.Link{}, g4, c4, make([]byte, 16), false), 0x2000),
			frame.Parsed{Kind: frame.KindFragment, Proto: 17, Frag: 0x2000, L3: 24, L4: 44, Payload: 44, End: 68}},
		{"later fragment4", fragment4(frametest.UDP(frametest.Link{}, g4, c4, make([]byte, 16), false), 0x0003),
			frame.Parsed{Kind: frame.KindFragment, Proto: 17, Frag: 3, L3: 24, L4: 44, Payload: 44, End: 68}},
		{"fragment6", frametest.IP(frametest.Link{Extension: frag6(17, 0x0009), ExtFirst: 44}, g6.IP, c6.IP, 17, make([]byte, 8)),
			frame.Parsed{Kind: frame.KindFragment, IPv6: true, Proto: 17, Frag: 9, L3: 24, L4: 72, Payload: 72, End: 80}},
		{"tcp data offset beyond the segment", func() []byte {
			b := frametest.TCP{Src: g4, Dst: c4}.Bytes()
			b[44+12] = 0xf0
			return b
		}(), frame.Parsed{Kind: frame.KindIP, Proto: 6, L3: 24, L4: 44, Payload: 44, End: 64}},
		{"short udp", frametest.IP(frametest.Link{}, g4.IP, c4.IP, 17, []byte{1, 2, 3}),
			frame.Parsed{Kind: frame.KindIP, Proto: 17, L3: 24, L4: 44, Payload: 44, End: 47}},
		{"cut ipv4", cut(frametest.UDP(frametest.Link{}, g4, c4, []byte("abcdef"), false), 50),
			frame.Parsed{Kind: frame.KindOther, L3: 24, L4: 24, Payload: 24, End: 50}},
		{"cut ipv6", cut(frametest.UDP(frametest.Link{}, g6, c6, []byte("abcdef"), false), 70),
			frame.Parsed{Kind: frame.KindOther, L3: 24, L4: 24, Payload: 24, End: 70}},
		{"lldp", append(make([]byte, 22), 0x88, 0xcc, 1, 2, 3), frame.Parsed{Kind: frame.KindOther, L3: 24, L4: 24, Payload: 24, End: 27}},
		{"empty", nil, frame.Parsed{Kind: frame.KindOther}},
		{"virtio-net header only", make([]byte, 10), frame.Parsed{Kind: frame.KindOther, L3: 10, L4: 10, Payload: 10, End: 10}},
	}
}

func TestParse(t *testing.T) {
	for _, c := range cases() {
		t.Run(c.name, func(t *testing.T) {
			if c.name == "tcp6 with hop-by-hop" { // the type of the first extension header is 0
				c.buf[24+6] = 0
			}
			var p frame.Parsed
			frame.Parse(c.buf, &p)
			w := &c.want
			if p.Kind != w.Kind || p.IPv6 != w.IPv6 || p.Proto != w.Proto || p.VLAN != w.VLAN || p.Frag != w.Frag {
				t.Errorf("kind %v ipv6 %t proto %d vlan %#x frag %#x, want %v %t %d %#x %#x", p.Kind, p.IPv6, p.Proto, p.VLAN, p.Frag,
					w.Kind, w.IPv6, w.Proto, w.VLAN, w.Frag)
			}
			if p.SrcPort != w.SrcPort || p.DstPort != w.DstPort {
				t.Errorf("ports %d %d, want %d %d", p.SrcPort, p.DstPort, w.SrcPort, w.DstPort)
			}
			if p.L3 != w.L3 || p.L4 != w.L4 || p.Payload != w.Payload || p.End != w.End {
				t.Errorf("offsets %d %d %d %d, want %d %d %d %d", p.L3, p.L4, p.Payload, p.End, w.L3, w.L4, w.Payload, w.End)
			}
			if p.Seq != w.Seq || p.Ack != w.Ack || p.Window != w.Window || p.Flags != w.Flags || p.HasTS != w.HasTS || p.TSVal != w.TSVal || p.TSEcr != w.TSEcr || p.TSOff != w.TSOff {
				t.Errorf("tcp %+v, want %+v", p, *w)
			}
			if p.ICMPType != w.ICMPType || p.ICMPCode != w.ICMPCode {
				t.Errorf("icmp %d %d, want %d %d", p.ICMPType, p.ICMPCode, w.ICMPType, w.ICMPCode)
			}
		})
	}
}

func TestParseDoesNotAllocate(t *testing.T) {
	var p frame.Parsed
	for _, c := range cases() {
		if n := testing.AllocsPerRun(100, func() { frame.Parse(c.buf, &p); _ = p.Key(true) }); n != 0 {
			t.Errorf("%s: %v allocations", c.name, n)
		}
	}
}

func TestOptions(t *testing.T) {
	buf := frametest.TCP{Src: g4, Dst: c4, Flags: frame.SYN, Options: frametest.SYNOptions(1460, 7, 11, 12)}.Bytes()
	var p frame.Parsed
	frame.Parse(buf, &p)
	if p.MSS != 1460 || p.WScale != 7 || !p.SACKPerm || !p.HasTS || p.TSVal != 11 || p.TSEcr != 12 || p.Bad {
		t.Errorf("SYN options: %+v", p)
	}
	buf = frametest.TCP{Src: g4, Dst: c4, Flags: frame.ACK, Options: append([]byte{1}, frametest.SACK([2]uint32{5, 9}, [2]uint32{20, 30})...)}.Bytes()
	frame.Parse(buf, &p)
	if l, r := p.SACK(buf, 1); p.SACKLen != 16 || l != 20 || r != 30 || p.WScale != -1 {
		t.Errorf("SACK: %d bytes, second block %d %d", p.SACKLen, l, r)
	}
	for _, bad := range [][]byte{{8, 0}, {8, 1}, {8, 40, 1, 2}, {5}} {
		frame.Parse(frametest.TCP{Src: g4, Dst: c4, Options: append(bytes.Repeat([]byte{1}, 4-len(bad)%4), bad...)}.Bytes(), &p)
		if p.Kind != frame.KindTCP {
			t.Errorf("options % x: kind %v", bad, p.Kind)
		}
	}
}

func TestKey(t *testing.T) {
	out := frametest.TCP{Src: g4, Dst: c4}.Bytes()
	in := frametest.TCP{Src: c4, Dst: g4}.Bytes()
	var p, q frame.Parsed
	frame.Parse(out, &p)
	frame.Parse(in, &q)
	if p.Key(true) != q.Key(false) {
		t.Error("the two directions of a connection have different keys")
	}
	if k := p.Key(true); k.GuestPort != 80 || netip.AddrFrom16(k.Guest).Unmap() != g4.IP {
		t.Errorf("key %+v", k)
	}
	frame.Parse(frametest.TCP{Link: frametest.Link{VLAN: []uint16{5}}, Src: g4, Dst: c4}.Bytes(), &q)
	if p.Key(true) == q.Key(true) {
		t.Error("a VLAN does not change the key")
	}
	frame.Parse(frametest.ICMP(frametest.Link{}, g4.IP, c4.IP, 0, 0, []byte{0, 7, 0, 1}), &p)
	frame.Parse(frametest.ICMP(frametest.Link{}, c4.IP, g4.IP, 8, 0, []byte{0, 7, 0, 1}), &q)
	if p.Key(true) != q.Key(false) || p.Key(true).GuestPort != 7 {
		t.Errorf("ping keys %+v and %+v", p.Key(true), q.Key(false))
	}
}

func TestKeyString(t *testing.T) {
	for _, c := range []struct {
		buf  []byte
		want string
	}{
		{frametest.TCP{Src: g4, Dst: c4}.Bytes(), "tcp 192.0.2.10:80 -> 198.51.100.7:40000"},
		{frametest.TCP{Src: g6, Dst: c6}.Bytes(), "tcp [2001:db8::10]:80 -> [2001:db8:1::7]:40000"},
		{frametest.IP(frametest.Link{}, g4.IP, c4.IP, 47, []byte("gre")), "ip 192.0.2.10 -> 198.51.100.7"},
		{append(frametest.ARP(frametest.Link{}, 1, g4.IP, c4.IP)[:22], 0x88, 0xcc, 1), "other 52:54:00:12:34:56 -> 52:54:00:00:00:01 type 0x88cc"},
	} {
		var p frame.Parsed
		frame.Parse(c.buf, &p)
		if got := p.Key(true).String(); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
	if s := (frame.FlowKey{}).String(); s != "" {
		t.Errorf("the zero key is %q", s)
	}
}

func TestNum(t *testing.T) {
	const top = frame.Num(0xffffffff)
	if !top.Before(0) || !frame.Num(0).After(top) || top.Add(2) != 1 || frame.Num(1).Diff(top) != 2 || top.Diff(1) != -2 {
		t.Error("order around zero is wrong")
	}
	if !top.In(top-1, 3) || frame.Num(3).In(top, 3) || !frame.Num(2).In(top, 3) {
		t.Error("In around zero is wrong")
	}
	if top.Min(0) != top || top.Max(0) != 0 || !top.AtMost(top) || !top.AtLeast(top) {
		t.Error("Min or Max around zero is wrong")
	}
}

// TestReverseARP: the frame that moves a MAC address in switches.
func TestReverseARP(t *testing.T) {
	mac := []byte{0x52, 0x54, 0, 1, 2, 3}
	b := frame.ReverseARP(mac)
	want := "ffffffffffff525400010203803500010800060400035254000102030000000052540001020300000000"
	if got := hex.EncodeToString(b[frame.VnetLen:]); got[:len(want)] != want || len(b) != frame.VnetLen+60 {
		t.Errorf("%s, want %s and padding up to 60 bytes", got, want)
	}
}
