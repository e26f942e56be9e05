package compare

import (
	"net/netip"
	"runtime"
	"testing"
	"time"

	"colod/internal/frame"
	"colod/internal/frame/frametest"
	"golang.org/x/sys/unix"
)

// load is a set of flows whose next frames are made in place, without allocation: a few frames of each guest and
// flow, edited and sent again and again.
type load struct {
	e      *Engine
	d      *Describer
	now    int64
	copies int
	flows  []loadFlow
	input  frame.Parsed
	n      int // rounds

	describing, comparing time.Duration
}

type loadFlow struct {
	p, s []Frame
	ack  []byte // the client's
	size int
}

func newLoad(flows, copies, payload int, udp bool) *load {
	cfg := Config{Key: [16]byte{1}, MaxFrames: 1 << 16, MaxBytes: 1 << 30}
	l := &load{e: NewEngine(cfg), d: NewDescriber(cfg), now: 1, copies: copies}
	for i := range flows {
		client := frametest.Addr{IP: netip.AddrFrom4([4]byte{198, 51, 100, byte(1 + i/250)}), Port: uint16(20000 + i)}
		guest := frametest.A("192.0.2.10:80")
		var buf []byte
		if udp {
			buf = frametest.UDP(frametest.Link{}, guest, client, pattern(payload), true)
		} else {
			gso := uint16(0)
			if payload > 1448 {
				gso = 1448
			}
			buf = frametest.TCP{Src: guest, Dst: client, Seq: 1000, Ack: 5000, Flags: frame.ACK, Window: 500, Options: frametest.TS(1, 1),
				Payload: pattern(payload), Partial: true, GSO: gso}.Bytes()
		}
		f := loadFlow{size: payload}
		for range copies {
			for _, q := range []*[]Frame{&f.p, &f.s} {
				g := Frame{Buf: append([]byte(nil), buf...)}
				frame.Parse(g.Buf, &g.P)
				*q = append(*q, g)
			}
		}
		if !udp {
			f.ack = frametest.TCP{Src: client, Dst: guest, Seq: 5000, Ack: 1000, Flags: frame.ACK, Window: 500, Options: frametest.TS(1, 1)}.Bytes()
		}
		l.flows = append(l.flows, f)
	}
	l.e.BeginCheckpoint(1)
	l.d.Reset(1)
	l.e.EndCheckpoint(2, 2)
	return l
}

// prepare gives f the sequence number of its place in the stream.
func prepare(f *Frame, i, size int) {
	if f.P.Kind == frame.KindTCP {
		f.P.SetHeader(f.Buf, frame.Header{Seq: frame.Num(1000 + i*size), Ack: f.P.Ack, Window: f.P.Window, TSVal: uint32(1 + i/100)})
	}
}

// cpuTime is the time that this thread has had a processor.
func cpuTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		panic(err)
	}
	return time.Duration(ts.Nano())
}

// round sends copies frames of every flow through both sides, lets the clients acknowledge them, and returns how
// many were released.
func (l *load) round() int {
	for c := range l.copies {
		for i := range l.flows {
			f := &l.flows[i]
			prepare(&f.s[c], l.n*l.copies+c, f.size)
			prepare(&f.p[c], l.n*l.copies+c, f.size)
		}
	}
	start := cpuTime()
	for c := range l.copies {
		for i := range l.flows {
			f := &l.flows[i]
			l.now++
			frame.Parse(f.s[c].Buf, &f.s[c].P)
			l.d.Secondary(l.now, &f.s[c])
		}
	}
	mid := cpuTime()
	l.describing += mid - start
	do := l.d.Out()
	for _, def := range do.FlowDefs {
		l.e.FlowDef(def.ID, def.Key)
	}
	for i := range do.Descriptors {
		l.e.Descriptor(l.now, &do.Descriptors[i])
	}
	do.Reset()
	for c := range l.copies {
		for i := range l.flows {
			f := &l.flows[i]
			l.now++
			frame.Parse(f.p[c].Buf, &f.p[c].P)
			l.e.Primary(l.now, &f.p[c])
		}
	}
	o := l.e.Out()
	l.comparing += cpuTime() - mid
	released := len(o.Releases)
	for i := range o.Messages {
		l.d.Message(&o.Messages[i])
	}
	o.Reset()
	l.n++
	for i := range l.flows {
		f := &l.flows[i]
		if f.ack == nil {
			continue
		}
		frame.Parse(f.ack, &l.input)
		l.input.Ack = frame.Num(1000 + l.n*l.copies*f.size)
		l.e.Input(l.now, &l.input)
		l.d.Input(l.now, &l.input)
	}
	l.d.Out().Reset()
	return released
}

var loads = []struct {
	name          string
	flows, copies int
	payload       int
	udp           bool
}{
	{"udp64/flows=1", 1, 64, 64, true},
	{"udp64/flows=1000", 1000, 1, 64, true},
	{"tcp64/flows=1", 1, 64, 64, false},
	{"tcp64/flows=1000", 1000, 1, 64, false},
	{"tcp1448/flows=1", 1, 64, 1448, false},
	{"tcp1448/flows=1000", 1000, 1, 1448, false},
	{"tcp64KiB/flows=1", 1, 64, 64<<10 - 300, false},
}

// BenchmarkFrame is the cost of a frame at each side. Secondary: parsing, lookup, digest, descriptor, keeping the
// frame. Primary: parsing, lookup, descriptor, digest, release. The rest of ns/op are the client's
// acknowledgements (one for all copies of a flow) and the watermarks. The figures by side are processor time, those of
// the testing package wall time.
func BenchmarkFrame(b *testing.B) {
	for _, c := range loads {
		b.Run(c.name, func(b *testing.B) {
			l := newLoad(c.flows, c.copies, c.payload, c.udp)
			batch := c.flows * c.copies
			for range 4 {
				if got := l.round(); got != batch {
					b.Fatalf("%d of %d frames released", got, batch)
				}
			}
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			l.describing, l.comparing = 0, 0
			b.SetBytes(int64(c.payload))
			b.ReportAllocs()
			b.ResetTimer()
			frames := 0
			for ; frames < b.N; frames += batch {
				if l.round() != batch {
					b.Fatal("a frame was not released")
				}
			}
			b.ReportMetric(float64(l.describing)/float64(frames), "secondary-ns/frame")
			b.ReportMetric(float64(l.comparing)/float64(frames), "primary-ns/frame")
		})
	}
}

// TestNoAllocations: the path of a frame allocates nothing, on either side.
func TestNoAllocations(t *testing.T) {
	for _, c := range loads {
		l := newLoad(min(c.flows, 50), 4, c.payload, c.udp)
		want := 4 * len(l.flows)
		for range 10 {
			l.round()
		}
		if a := testing.AllocsPerRun(100, func() {
			if l.round() != want {
				t.Fatal("a frame was not released")
			}
		}); a != 0 {
			t.Errorf("%s: %v allocations in a round of %d frames", c.name, a, want)
		}
	}
}
