package compare

import (
	"testing"

	"colod/internal/frame"
	"colod/internal/frame/frametest"
)

// source draws numbers from fuzzed bytes.
type source struct{ b []byte }

func (s *source) empty() bool { return len(s.b) == 0 }

func (s *source) n(limit int) int {
	if len(s.b) == 0 {
		return 0
	}
	v := int(s.b[0])
	s.b = s.b[1:]
	return v % limit
}

// u32 is near something that matters, mostly.
func (s *source) u32() uint32 {
	base := [...]uint32{0, 1000, 1001, 1100, 5000, 0x7fffffff, 0x80000000, 0xffffff00}[s.n(8)]
	return base + uint32(s.n(256))
}

// anyFrame is a frame of one of a few flows, or garbage.
func (s *source) anyFrame() []byte {
	a, b := frametest.A("192.0.2.10:80"), frametest.A("198.51.100.7:40000")
	b.Port += uint16(s.n(3))
	switch s.n(6) {
	case 0:
		return frametest.UDP(frametest.Link{}, a, b, make([]byte, s.n(20)), s.n(2) == 0)
	case 1:
		return frametest.ARP(frametest.Link{}, uint16(s.n(3)), a.IP, b.IP)
	case 2:
		n := min(s.n(256), len(s.b))
		buf := append([]byte(nil), s.b[:n]...)
		s.b = s.b[n:]
		return buf
	}
	t := frametest.TCP{Src: a, Dst: b, Seq: s.u32(), Ack: s.u32(), Flags: uint8(s.n(256)), Window: uint16(s.n(256) * 256), Payload: make([]byte, s.n(200))}
	switch s.n(4) {
	case 0:
		t.Options = frametest.TS(s.u32(), s.u32())
	case 1:
		t.Options = frametest.SACK([2]uint32{s.u32(), s.u32()}, [2]uint32{s.u32(), s.u32()})
	case 2:
		t.Options = frametest.SYNOptions(1460, uint8(s.n(16)), s.u32(), s.u32())
	}
	return t.Bytes()
}

func (s *source) descriptor() Descriptor {
	d := Descriptor{Kind: DescriptorKind(s.n(8)), Flow: uint32(s.n(6)), Epoch: uint32(s.n(3)), Seq: frame.Num(s.u32()), Len: uint32(s.n(256)),
		Hi: uint16(s.n(256)), Flags: uint8(s.n(256)), Pure: s.n(2) == 0, Ack: frame.Num(s.u32()), Window: uint16(s.n(256) * 256), NSACK: uint8(s.n(6)),
		Index: uint64(s.n(100)), Piece: uint32(s.n(256)), Reason: Reason(s.n(20)), WScale: int8(s.n(16))}
	for i := range d.SACK {
		d.SACK[i] = [2]frame.Num{frame.Num(s.u32()), frame.Num(s.u32())}
	}
	if s.n(8) == 0 {
		d.Len = 1 << uint(s.n(32))
	}
	n := s.n(4)
	if d.Piece > 0 && s.n(3) > 0 {
		n = int((uint64(d.Len) + uint64(d.Piece) - 1) / uint64(d.Piece))
	}
	d.Digests = make([][DigestLen]byte, min(n, 300))
	return d
}

// FuzzEngine: whatever the peer and the guest say, in whatever order, the engine does not panic, gives every frame
// back exactly once, releases nothing whose checksum is wrong, and stays within its bounds.
func FuzzEngine(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09 some bytes to start from, some bytes to start from"))
	f.Fuzz(fuzzEngine)
}

func fuzzEngine(t *testing.T, b []byte) {
	s := &source{b}
	w := newWorld(t, Config{MaxFlows: 4, MaxFrames: 16, MaxPieces: 32, MaxFlowFrames: 4})
	w.oracle.off = true
	if s.n(4) > 0 {
		w.checkpoint()
	}
	for !s.empty() {
		w.now += int64(s.n(256)) << uint(s.n(24))
		switch s.n(14) {
		case 0, 1, 2, 3:
			w.primary(s.anyFrame())
		case 4:
			w.input(s.anyFrame())
		case 5:
			w.e.FlowDef(uint32(s.n(6)), keyOf(s.anyFrame()))
		case 6, 7, 8:
			d := s.descriptor()
			w.e.Descriptor(w.now, &d)
		case 9:
			w.e.Received(w.now, uint64(s.n(20)))
		case 10:
			w.e.Raw(w.now, &Raw{ID: uint32(s.n(4)), Data: make([]byte, s.n(200))})
		case 11:
			w.e.Tick(w.now)
		case 12:
			w.e.BeginCheckpoint(w.now)
		case 13:
			switch s.n(4) {
			case 0:
				w.e.AbortCheckpoint(w.now)
			case 1:
				w.e.Solo(w.now)
			default:
				w.e.EndCheckpoint(w.now, w.now-int64(s.n(256)))
			}
		}
		w.collect()
		w.toB, w.toA = w.toB[:0], w.toA[:0]
		if st := w.e.Stats(); st.HeldFrames > 32 || st.Pieces > 64+300 || st.Flows > 9 || st.Pieces < 0 {
			t.Fatalf("bounds: %+v", st)
		}
	}
	w.e.Solo(w.now)
	w.collect()
	w.d.Reset(w.now)
	w.collect()
	w.noLoans()
	if st := w.e.Stats(); st.HeldFrames != 0 || st.HeldBytes != 0 {
		t.Fatalf("left: %+v", st)
	}
}

// FuzzDescriber is the same for the other side.
func FuzzDescriber(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09 some bytes to start from, some bytes to start from"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s := &source{b}
		w := newWorld(t, Config{MaxFlows: 4, MaxFrames: 16, MaxFlowFrames: 4})
		w.oracle.off = true
		for !s.empty() {
			switch s.n(9) {
			case 0, 1, 2, 3:
				w.secondary(s.anyFrame())
			case 4, 5:
				w.input(s.anyFrame())
			case 6:
				w.d.Announce(Announce{Key: keyOf(s.anyFrame()), Seq: frame.Num(s.u32()), Ack: frame.Num(s.u32()), HasAck: s.n(2) == 0, HasTS: s.n(2) == 0, TSVal: s.u32()})
			case 7:
				w.d.Message(&Message{Kind: MessageKind(s.n(6)), Announce: Announce{Key: keyOf(s.anyFrame()), Seq: frame.Num(s.u32())},
					Ask:       Ask{Flow: uint32(s.n(6)), Seq: frame.Num(s.u32()), Len: uint32(s.n(256)), Index: uint64(s.n(9)), Fine: s.n(2) == 0},
					Watermark: Watermark{Flow: uint32(s.n(6)), Kind: frame.Kind(s.n(9)), TSVal: s.u32(), Next: uint64(s.n(20)), From: uint64(s.n(20)), Mask: uint64(s.n(256))}})
			case 8:
				if s.n(4) == 0 {
					w.d.Reset(w.now)
				}
			}
			w.collect()
			for _, u := range w.toA {
				if u.desc == nil {
					continue
				}
				if why := u.desc.check(); why != "" {
					t.Fatalf("makes a descriptor that an engine refuses: %s", why)
				}
			}
			w.toB, w.toA = w.toB[:0], w.toA[:0]
			if st := w.d.Stats(); st.KeptFrames > 32 || st.Flows > 9 {
				t.Fatalf("bounds: %+v", st)
			}
		}
		frames, _ := w.d.Promote(w.now)
		for _, f := range frames {
			if f.Index >= 0 {
				w.takeBack(f)
			}
		}
		w.noLoans()
	})
}
