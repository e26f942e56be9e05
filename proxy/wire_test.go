package proxy

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"

	"colod/compare"
	"colod/internal/frame"
	"colod/proxy/afpacket"
	"colod/proxy/front"
)

// randomDescriptor makes what a describer could send.
func randomDescriptor(r *rand.Rand) compare.Descriptor {
	d := compare.Descriptor{
		Kind: compare.DescriptorKind(1 + r.IntN(5)), Flow: r.Uint32(), Epoch: r.Uint32(), WScale: -1,
	}
	if d.Kind == compare.DescribeFault {
		d.WScale = 0
		d.Reason = compare.Reason(r.IntN(10))
		return d
	}
	d.Len, d.KTime = uint32(r.IntN(65000)), r.Int64()
	d.Seq, d.Hi = frame.Num(r.Uint32()), uint16(r.Uint32())
	if d.Kind == compare.DescribeDatagram {
		d.Index, d.Meta = r.Uint64(), r.Uint64()
	}
	if d.Kind == compare.DescribeTCP {
		d.Flags, d.Ack, d.Window = uint8(r.Uint32()), frame.Num(r.Uint32()), uint16(r.Uint32())
		d.Pure, d.Mapped, d.SACKPerm, d.HasTS = r.IntN(2) == 0, r.IntN(2) == 0, r.IntN(2) == 0, r.IntN(2) == 0
		if d.HasTS {
			d.TSVal, d.TSEcr = r.Uint32(), r.Uint32()
		}
		if d.Flags&frame.SYN != 0 {
			d.WScale, d.MSS = int8(r.IntN(15)), uint16(r.Uint32())
		}
		d.NSACK = uint8(r.IntN(5))
		for i := range int(d.NSACK) {
			d.SACK[i] = [2]frame.Num{frame.Num(r.Uint32()), frame.Num(r.Uint32())}
		}
	}
	d.Piece = d.Len
	n := r.IntN(3)
	if n == 2 && d.Len > 1500 {
		d.Piece = 1448
		n = int((d.Len + d.Piece - 1) / d.Piece)
	} else if n > 1 {
		n = 1
	}
	for range n {
		var g [compare.DigestLen]byte
		for i := range g {
			g[i] = byte(r.Uint32())
		}
		d.Digests = append(d.Digests, g)
	}
	return d
}

func TestDescriptorRoundTrip(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var mem [maxDigests][compare.DigestLen]byte
	for i := range 5000 {
		want := randomDescriptor(r)
		b := appendDescriptor(nil, &want)
		var got compare.Descriptor
		if err := parseDescriptor(b, &got, mem[:0]); err != nil {
			t.Fatalf("descriptor %d: %v: %+v", i, err, want)
		}
		if len(got.Digests) == 0 {
			got.Digests = nil
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("descriptor %d changed on the way: %s", i, diff)
		}
		for cut := range len(b) {
			if err := parseDescriptor(b[:cut], &got, mem[:0]); err == nil {
				t.Fatalf("descriptor %d cut to %d of %d bytes is taken", i, cut, len(b))
			}
		}
	}
}

func TestDescriptorBytes(t *testing.T) {
	d := compare.Descriptor{Kind: compare.DescribeTCP, Mapped: true, Flow: 1, Len: 1448, Piece: 1448, WScale: -1,
		Flags: frame.ACK, Digests: make([][compare.DigestLen]byte, 1)}
	if n := len(appendDescriptor(nil, &d)); n > 56 {
		t.Errorf("an ordinary segment takes %d bytes, 56 are said", n)
	}
}

func FuzzDescriptor(f *testing.F) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 20 {
		d := randomDescriptor(r)
		f.Add(appendDescriptor(nil, &d))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var mem [maxDigests][compare.DigestLen]byte
		var d, again compare.Descriptor
		if parseDescriptor(b, &d, mem[:0]) != nil {
			return
		}
		// What is taken says the same when it is sent again.
		var mem2 [maxDigests][compare.DigestLen]byte
		if err := parseDescriptor(appendDescriptor(nil, &d), &again, mem2[:0]); err != nil {
			t.Fatalf("%v: %+v", err, d)
		}
		if diff := cmp.Diff(d, again); diff != "" {
			t.Fatal(diff)
		}
	})
}

// FuzzMessages gives arbitrary messages to both roles: an error, never a panic.
func FuzzMessages(f *testing.F) {
	key := frame.FlowKey{Proto: 6, Kind: frame.KindTCP}
	l := &Link{t: &transport{fd: -1}}
	l.mark(msgCkptBegin, 1)
	l.markTime(msgCkptStopped, 1, 2)
	l.frontEntry(key, 1, 2)
	l.input(msgInput, 5, make([]byte, 80))
	l.input(msgInputTold, 6, make([]byte, 80))
	l.logged(1, false)
	l.engineMessage(&compare.Message{Kind: compare.MessageAnnounce, Announce: compare.Announce{Key: key}})
	l.engineMessage(&compare.Message{Kind: compare.MessageAsk, Ask: compare.Ask{Flow: 1, Len: 2}})
	l.engineMessage(&compare.Message{Kind: compare.MessageWatermark, Watermark: compare.Watermark{Flow: 1, Kind: frame.KindTCP}})
	l.engineMessage(&compare.Message{Kind: compare.MessageWatermark, Watermark: compare.Watermark{Flow: 1, Kind: frame.KindUDP}})
	out := compare.DescOut{
		FlowDefs:    []compare.FlowDef{{ID: 1, Key: key}},
		Descriptors: []compare.Descriptor{randomDescriptor(rand.New(rand.NewPCG(1, 1)))},
		Raws:        []compare.Raw{{ID: 1, Data: []byte("abc")}},
	}
	l.descriptions(&out)
	l.mark(msgCkptDone, 1)
	for b := l.plain; len(b) > 0; {
		n := int(binary.BigEndian.Uint32(b))
		f.Add(b[4 : 4+n])
		b = b[4+n:]
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) == 0 || len(b) > maxMessage {
			return
		}
		for _, role := range []role{rolePrimary, roleSecondary} {
			p := bareProxy(role)
			p.message(b)
			p.message(b)
			if p.pri != nil {
				p.pri.engine.Out().Reset()
			}
		}
	})
}

// sink takes every frame and keeps a copy.
type sink struct{ frames [][]byte }

func (s *sink) Send(msgs []afpacket.Msg) (int, error) {
	for _, m := range msgs {
		s.frames = append(s.frames, append(append([]byte(nil), m.A...), m.B...))
	}
	return len(msgs), nil
}
func (*sink) Refused() []int { return nil }
func (*sink) FD() int        { return -1 }
func (*sink) Close() error   { return nil }

// bareProxy is a Proxy without thread, sockets or peer.
func bareProxy(r role) *Proxy {
	p := &Proxy{dev: kernel{}, front: front.New(), role: r, link: &Link{t: &transport{fd: -1}}, tapTX: &outq{tx: &sink{}}, upTX: &outq{tx: &sink{}}}
	p.opt.Events = func(Event) {}
	p.addrs.init()
	switch r {
	case rolePrimary:
		p.pri = &primary{engine: compare.NewTapped(compare.Config{})}
	case roleSecondary:
		p.sec = newSecondary(compare.NewDescriber(compare.Config{}), -1)
	}
	return p
}

func TestHostileMessages(t *testing.T) {
	for _, c := range []struct {
		name string
		role role
		msg  []byte
	}{
		{"unknown kind", rolePrimary, []byte{200}},
		{"secondary's kind to a secondary", roleSecondary, []byte{msgDescriptor, 1, 2}},
		{"empty descriptor", rolePrimary, []byte{msgDescriptor}},
		{"short mark", roleSecondary, []byte{msgCkptBegin, 0, 0}},
		{"input without frame", roleSecondary, []byte{msgInput, 0, 0, 0, 0, 0, 0, 0, 0, 1}},
		{"done of a checkpoint never begun", rolePrimary, []byte{msgCkptDone, 0, 0, 0, 0, 0, 0, 0, 9}},
		{"greedy ask", roleSecondary, append([]byte{msgAsk, 0, 0, 0, 1, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}, make([]byte, 12)...)},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := bareProxy(c.role).message(c.msg); err == nil {
				t.Error("taken without error")
			}
		})
	}
	l := &Link{t: &transport{fd: -1}, in: []byte{0xff, 0xff, 0xff, 0xff, 1}}
	if _, err := l.next(); err == nil {
		t.Error("a message of 4 GiB is waited for")
	}
}
