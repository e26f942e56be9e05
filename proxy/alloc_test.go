package proxy

import (
	"testing"

	"colod/compare"
	"colod/internal/frame"
	"colod/internal/frame/frametest"
	"colod/proxy/afpacket"
)

// counter is a device that takes every frame and keeps none.
type counter struct{ frames, bytes int }

func (c *counter) Send(msgs []afpacket.Msg) (int, error) {
	for i := range msgs {
		c.bytes += len(msgs[i].A) + len(msgs[i].B)
	}
	c.frames += len(msgs)
	return len(msgs), nil
}
func (*counter) Refused() []int { return nil }
func (*counter) FD() int        { return -1 }
func (*counter) Close() error   { return nil }

// duplex is both halves of a pair in one goroutine, without sockets: what a
// guest sends goes through pool, describer, wire format, engine and release queue.
type duplex struct {
	a, b *Proxy
	sent *counter
	tmpl []byte
	size uint32
	seq  uint32

	// For BenchmarkNotification: what becomes of what a says to b, nil: nothing; and whether a tells of releases.
	toB    func() error
	untold bool
}

func newDuplex(t testing.TB, payload int) *duplex {
	d := &duplex{a: bareProxy(rolePrimary), b: bareProxy(roleSecondary), sent: &counter{}, size: uint32(payload)}
	d.a.upTX = &outq{tx: d.sent}
	d.tmpl = frametest.TCP{Src: frametest.A("192.0.2.10:80"), Dst: frametest.A("192.0.2.1:40000"), Seq: 1, Ack: 1, Flags: frame.ACK,
		Window: 1000, Payload: make([]byte, payload)}.Bytes()
	d.a.pri.engine.EndCheckpoint(1, 1)
	d.b.sec.desc.Reset(1)
	return d
}

func (d *duplex) take(p *Proxy) *compare.Frame {
	f := p.pool.get(len(d.tmpl))
	copy(f.Buf, d.tmpl)
	for i := range 4 {
		f.Buf[frame.VnetLen+14+20+4+i] = byte(d.seq >> (24 - 8*i))
	}
	f.KTime = 10
	frame.Parse(f.Buf, &f.P)
	return f
}

// step carries one frame of each guest through, and the client's acknowledgement of it.
func (d *duplex) step() error {
	d.a.nowMono, d.b.nowMono = d.a.nowMono+1, d.b.nowMono+1
	d.b.sec.output(d.b, d.take(d.b))
	d.b.sec.act(d.b)
	d.a.link.in, d.a.link.inOff = d.b.link.plain, 0
	for {
		m, err := d.a.link.next()
		if err != nil {
			return err
		}
		if m == nil {
			break
		}
		if err := d.a.message(m); err != nil {
			return err
		}
	}
	d.b.link.plain = d.b.link.plain[:0]
	d.a.pri.engine.Primary(d.a.nowMono, d.take(d.a))
	if d.untold {
		dropNotices(d.a.pri.engine)
	} else if d.toB != nil {
		d.a.pri.engine.Notify(d.a.nowMono)
	}
	d.a.pri.act(d.a)
	if d.toB != nil {
		if err := d.toB(); err != nil {
			return err
		}
	}
	d.a.link.plain = d.a.link.plain[:0]
	d.seq += d.size
	ack := frame.Parsed{Kind: frame.KindTCP, Flags: frame.ACK, Seq: 1, Ack: frame.Num(d.seq), Window: 60000}
	ack.Src, ack.Dst = d.clientAddrs()
	ack.SrcPort, ack.DstPort = 40000, 80
	ack.Ether, ack.Proto = frame.EtherIPv4, frame.ProtoTCP
	d.a.pri.engine.Input(d.a.nowMono, nil, &ack)
	d.b.sec.desc.Input(d.b.nowMono, &ack)
	d.b.sec.act(d.b)
	return nil
}

func (d *duplex) clientAddrs() (src, dst [16]byte) {
	var p frame.Parsed
	frame.Parse(d.tmpl, &p)
	return p.Dst, p.Src
}

// TestHotPathAllocatesNothing: a frame's way from the socket to the socket, through both halves, leaves no garbage.
func TestHotPathAllocatesNothing(t *testing.T) {
	for _, n := range []int{100, 1448, 60000} {
		d := newDuplex(t, n)
		var failed error
		for range 2000 { // tables and buffers grow to their size
			if err := d.step(); err != nil {
				t.Fatal(err)
			}
		}
		before := d.sent.frames
		allocs := testing.AllocsPerRun(2000, func() {
			if err := d.step(); err != nil {
				failed = err
			}
		})
		if failed != nil {
			t.Fatal(failed)
		}
		if got := d.sent.frames - before; got < 2000 {
			t.Fatalf("payload %d: %d of 2000 frames were released", n, got)
		}
		if allocs != 0 {
			t.Errorf("payload %d: %v allocations a frame", n, allocs)
		}
	}
}

func BenchmarkHotPath(b *testing.B) {
	for _, n := range []int{64, 1448, 60000} {
		b.Run(map[int]string{64: "64B", 1448: "1448B", 60000: "60000B"}[n], func(b *testing.B) {
			d := newDuplex(b, n)
			b.ReportAllocs()
			b.SetBytes(int64(n))
			for b.Loop() {
				if err := d.step(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
