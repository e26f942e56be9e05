package frame_test

import (
	"bytes"
	"testing"

	"colod/internal/frame"
	"colod/internal/frame/frametest"
	"pgregory.net/rapid"
)

// segment draws a TCP frame: both IP versions, tags, options in any order with NOPs between, complete or partial
// checksum, any payload.
func segment(rt *rapid.T) []byte {
	s := frametest.TCP{Src: g4, Dst: c4, Seq: rapid.Uint32().Draw(rt, "seq"), Ack: rapid.Uint32().Draw(rt, "ack"),
		Flags: rapid.Uint8().Draw(rt, "flags"), Window: rapid.Uint16().Draw(rt, "window"), Partial: rapid.Bool().Draw(rt, "partial"),
		Payload: rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(rt, "payload")}
	if rapid.Bool().Draw(rt, "v6") {
		s.Src, s.Dst = g6, c6
	} else {
		s.Link.IPOptions = make([]byte, 4*rapid.IntRange(0, 2).Draw(rt, "ip options"))
		for i := range s.Link.IPOptions {
			s.Link.IPOptions[i] = 1
		}
	}
	s.Link.VLAN = rapid.SliceOfN(rapid.Uint16Max(4095), 0, 2).Draw(rt, "tags")
	s.Link.Pad = rapid.IntRange(0, 3).Draw(rt, "pad")
	nop := func() {
		s.Options = append(s.Options, bytes.Repeat([]byte{1}, rapid.IntRange(0, 3).Draw(rt, "nops"))...)
	}
	nop()
	if rapid.Bool().Draw(rt, "timestamps") {
		s.Options = append(s.Options, frametest.TS(rapid.Uint32().Draw(rt, "tsval"), rapid.Uint32().Draw(rt, "tsecr"))[2:]...)
		nop()
	}
	if n := rapid.IntRange(0, 2).Draw(rt, "blocks"); n > 0 {
		var blocks [][2]uint32
		for range n {
			blocks = append(blocks, [2]uint32{rapid.Uint32().Draw(rt, "left"), rapid.Uint32().Draw(rt, "right")})
		}
		s.Options = append(s.Options, frametest.SACK(blocks...)...)
	}
	return s.Bytes()
}

func parsed(buf []byte) frame.Parsed {
	var p frame.Parsed
	frame.Parse(buf, &p)
	return p
}

// same checks that p, kept up to date by an edit, is what parsing the edited buffer gives, and the checksum right.
func same(rt *rapid.T, buf []byte, p frame.Parsed) {
	if q := parsed(buf); p != q {
		rt.Fatalf("kept up to date: %+v\nparsed anew:     %+v", p, q)
	}
	if !p.Verify(buf) {
		rt.Fatalf("checksum is wrong: % x", buf)
	}
}

// TestRewrite: after any edit the numbers are as asked for and the checksum verifies from scratch.
func TestRewrite(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		buf := segment(rt)
		p := parsed(buf)
		same(rt, buf, p)
		was := p
		var before [4][2]frame.Num
		for i := range p.SACKLen / 8 {
			before[i][0], before[i][1] = p.SACK(buf, i)
		}
		e := frame.Edit{SeqAdd: rapid.Uint32().Draw(rt, "seq add"), AckAdd: rapid.Uint32().Draw(rt, "ack add"),
			SACKAdd: rapid.Uint32().Draw(rt, "sack add"), TSValAdd: rapid.Uint32().Draw(rt, "tsval add"), TSEcrAdd: rapid.Uint32().Draw(rt, "tsecr add")}
		e.Rewrite(buf, &p)
		same(rt, buf, p)
		if p.Seq != was.Seq.Add(e.SeqAdd) || p.Flags&frame.ACK != 0 && p.Ack != was.Ack.Add(e.AckAdd) || p.Flags&frame.ACK == 0 && p.Ack != was.Ack {
			rt.Fatalf("seq %d ack %d after adding %d and %d to %d and %d", p.Seq, p.Ack, e.SeqAdd, e.AckAdd, was.Seq, was.Ack)
		}
		if p.HasTS && p.TSVal != was.TSVal+e.TSValAdd {
			rt.Fatalf("timestamp %d after adding %d to %d", p.TSVal, e.TSValAdd, was.TSVal)
		}
		for i := range p.SACKLen / 8 {
			if l, r := p.SACK(buf, i); l != before[i][0].Add(e.SACKAdd) || r != before[i][1].Add(e.SACKAdd) {
				rt.Fatalf("block %d is %d %d", i, l, r)
			}
		}
		frame.Edit{SeqAdd: -e.SeqAdd, AckAdd: -e.AckAdd, SACKAdd: -e.SACKAdd, TSValAdd: -e.TSValAdd, TSEcrAdd: -e.TSEcrAdd}.Rewrite(buf, &p)
		if p != was {
			rt.Fatalf("the opposite edit does not give the first frame")
		}
	})
}

func TestSetHeader(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		buf := segment(rt)
		p := parsed(buf)
		h := frame.Header{Seq: frame.Num(rapid.Uint32().Draw(rt, "new seq")), Ack: frame.Num(rapid.Uint32().Draw(rt, "new ack")),
			Window: rapid.Uint16().Draw(rt, "new window"), TSVal: rapid.Uint32().Draw(rt, "new tsval")}
		p.SetHeader(buf, h)
		same(rt, buf, p)
		if p.Seq != h.Seq || p.Window != h.Window || p.Flags&frame.ACK != 0 && p.Ack != h.Ack || p.HasTS && p.TSVal != h.TSVal {
			rt.Fatalf("%+v after setting %+v", p, h)
		}
	})
}

func TestDropSACK(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		buf := segment(rt)
		p := parsed(buf)
		var want [][2]frame.Num
		keep := rapid.Uint8().Draw(rt, "keep")
		for i := range p.SACKLen / 8 {
			if l, r := p.SACK(buf, i); keep&(1<<i) != 0 {
				want = append(want, [2]frame.Num{l, r})
			}
		}
		i := -1
		if n := p.DropSACK(buf, func(l, r frame.Num) bool { i++; return keep&(1<<i) != 0 }); n != len(want) {
			rt.Fatalf("%d blocks left, want %d", n, len(want))
		}
		same(rt, buf, p)
		for i, b := range want {
			if l, r := p.SACK(buf, i); l != b[0] || r != b[1] {
				rt.Fatalf("block %d is %d %d, want %v", i, l, r, b)
			}
		}
	})
}

// TestCut: any two parts of a segment make valid segments that join to it.
func TestCut(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		buf := segment(rt)
		p := parsed(buf)
		if p.GSOType == frame.GSONone && rapid.Bool().Draw(rt, "super frame") && p.Len() > 4 {
			buf[1], buf[4] = frame.GSOTCPv4, 4
			if p.IPv6 {
				buf[1] = frame.GSOTCPv6
			}
			p = parsed(buf)
		}
		at := rapid.IntRange(0, p.Len()).Draw(rt, "at")
		var joined []byte
		seq := p.Seq
		for i, r := range [][2]int{{0, at}, {at, p.Len()}} {
			var head [frame.MaxHead]byte
			n := p.Cut(head[:], buf, r[0], r[1])
			part := append(head[:n:n], buf[p.Payload+r[0]:p.Payload+r[1]]...)
			q := parsed(part)
			if q.Kind != frame.KindTCP || !q.Verify(part) || !q.Partial(part) {
				rt.Fatalf("part %d: kind %v, checksum right %t", i, q.Kind, q.Verify(part))
			}
			if q.Seq != seq || q.Len() != r[1]-r[0] || q.Ack != p.Ack || q.Window != p.Window || q.TSVal != p.TSVal || q.SACKLen != p.SACKLen {
				rt.Fatalf("part %d: %+v of %+v", i, q, p)
			}
			if last := r[1] == p.Len(); q.Flags&(frame.FIN|frame.PSH) != 0 && !last || last && q.Flags&(frame.FIN|frame.PSH) != p.Flags&(frame.FIN|frame.PSH) {
				rt.Fatalf("part %d has flags %#x of %#x", i, q.Flags, p.Flags)
			}
			if q.Len() > int(p.GSOSize) && p.GSOSize > 0 && q.GSOSize != p.GSOSize || q.Len() <= int(p.GSOSize) && q.GSOType != frame.GSONone {
				rt.Fatalf("part %d of %d bytes has segment size %d type %d", i, q.Len(), q.GSOSize, q.GSOType)
			}
			seq = seq.Add(uint32(q.Len()))
			joined = append(joined, part[q.Payload:q.End]...)
		}
		if !bytes.Equal(joined, buf[p.Payload:p.End]) {
			rt.Fatalf("the parts do not join")
		}
	})
}

// TestTemplate: a made acknowledgement is a valid segment that says what was asked for.
func TestTemplate(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		buf := segment(rt)
		p := parsed(buf)
		var tm frame.Template
		var dst [frame.MaxHead]byte
		if tm.Known() || tm.Make(dst[:], &frame.Pure{}) != 0 {
			rt.Fatal("an empty template makes something")
		}
		tm.Learn(buf, &p)
		a := frame.Pure{Seq: 5, Ack: frame.Num(rapid.Uint32().Draw(rt, "ack")), Window: 77, HasTS: rapid.Bool().Draw(rt, "ts"), TSVal: 8, TSEcr: 9,
			NSACK: rapid.IntRange(0, 4).Draw(rt, "blocks"), SACK: [4][2]frame.Num{{1, 2}, {3, 4}, {5, 6}, {7, 8}}}
		out := dst[:tm.Make(dst[:], &a)]
		q := parsed(out)
		if q.Kind != frame.KindTCP || !q.Verify(out) || q.Flags != frame.ACK || q.Seq != 5 || q.Ack != a.Ack || q.Window != 77 || q.Len() != 0 || q.HasTS != a.HasTS {
			rt.Fatalf("made %+v", q)
		}
		if q.Key(true) != p.Key(true) || q.TOS&3 != 0 {
			rt.Fatalf("made for another flow, or ECN capable")
		}
		want := a.NSACK
		if a.HasTS {
			want = min(want, 3)
		}
		if q.SACKLen != 8*want {
			rt.Fatalf("%d bytes of blocks, want %d blocks", q.SACKLen, want)
		}
	})
}

func TestComplete(t *testing.T) {
	for _, partial := range [][]byte{
		frametest.TCP{Src: g4, Dst: c4, Payload: []byte("odd"), Partial: true}.Bytes(),
		frametest.TCP{Src: g6, Dst: c6, Payload: []byte("even"), Partial: true}.Bytes(),
		frametest.UDP(frametest.Link{}, g4, c4, []byte("datagram"), true),
	} {
		p := parsed(partial)
		if !p.Partial(partial) || !p.Verify(partial) {
			t.Fatal("not a right partial checksum to start with")
		}
		p.Complete(partial)
		if p.Partial(partial) || !p.Verify(partial) {
			t.Errorf("%v: not a right complete checksum", p.Kind)
		}
	}
	wrong := frametest.TCP{Src: g4, Dst: c4, Payload: []byte("x")}.Bytes()
	wrong[len(wrong)-1] ^= 1
	if p := parsed(wrong); p.Verify(wrong) {
		t.Error("a changed byte is not noticed")
	}
}

func TestInsertVLAN(t *testing.T) {
	for _, partial := range []bool{false, true} {
		want := frametest.TCP{Link: frametest.Link{VLAN: []uint16{0x2005}}, Src: g4, Dst: c4, Payload: []byte("abc"), Partial: partial}.Bytes()
		buf := frametest.TCP{Src: g4, Dst: c4, Payload: []byte("abc"), Partial: partial}.Bytes()
		n := len(buf)
		buf = append(buf, make([]byte, 8)...)
		n = frame.InsertVLAN(buf, n, frame.EtherVLAN, 0x2005)
		if !bytes.Equal(buf[:n], want) {
			t.Errorf("partial %t:\ngot  % x\nwant % x", partial, buf[:n], want)
		}
	}
	if n := frame.InsertVLAN(make([]byte, 20), 12, frame.EtherVLAN, 1); n != 12 {
		t.Errorf("a short frame became %d bytes", n)
	}
}

func TestAnnouncements(t *testing.T) {
	mac := []byte{0x52, 0x54, 0, 0x12, 0x34, 0x56}
	for i, buf := range [][]byte{frame.GratuitousARP(mac, [4]byte{192, 0, 2, 10}), frame.GratuitousARPReply(mac, [4]byte{192, 0, 2, 10})} {
		p := parsed(buf)
		if p.Kind != frame.KindARP || p.SrcPort != uint16(i+1) || p.Src != p.Dst || len(buf) != frame.VnetLen+60 {
			t.Errorf("arp %d: %+v", i, p)
		}
	}
	buf := frame.UnsolicitedNA(mac, g6.IP.As16())
	p := parsed(buf)
	if p.Kind != frame.KindND || p.ICMPType != 136 || p.TTL != 255 || !p.Verify(buf) {
		t.Errorf("neighbour advertisement: %+v, checksum right %t", p, p.Verify(buf))
	}
}
