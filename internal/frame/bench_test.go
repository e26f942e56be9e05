package frame_test

import (
	"fmt"
	"testing"

	"colod/internal/frame"
	"colod/internal/frame/frametest"
)

// segmentOf is a TCP frame with that much payload.
func segmentOf(n int) []byte {
	return frametest.TCP{Src: frametest.A("192.0.2.10:80"), Dst: frametest.A("192.0.2.1:40000"), Seq: 1, Ack: 1, Flags: frame.ACK, Window: 1000,
		Payload: make([]byte, n)}.Bytes()
}

// stages are what the data path does to a frame with this package.
var stages = []struct {
	name string
	make func(n int) func()
}{
	{"parse", func(n int) func() {
		buf := segmentOf(n)
		var p frame.Parsed
		return func() { frame.Parse(buf, &p); _ = p.Key(true) }
	}},
	{"cut", func(n int) func() {
		buf, dst := segmentOf(n), make([]byte, frame.MaxHead)
		var p frame.Parsed
		frame.Parse(buf, &p)
		return func() { p.Cut(dst, buf, n/4, n/2) }
	}},
	{"verify", func(n int) func() {
		buf := segmentOf(n)
		var p frame.Parsed
		frame.Parse(buf, &p)
		return func() { p.Verify(buf) }
	}},
	{"make-ack", func(n int) func() {
		buf, dst := segmentOf(n), make([]byte, frame.MaxHead)
		var p frame.Parsed
		frame.Parse(buf, &p)
		var t frame.Template
		t.Learn(buf, &p)
		ack := frame.Pure{Seq: 1, Ack: 2, Window: 100, HasTS: true}
		return func() { t.Make(dst, &ack) }
	}},
}

func BenchmarkStage(b *testing.B) {
	for _, s := range stages {
		for _, n := range []int{64, 1448, 60000} {
			b.Run(fmt.Sprintf("%s/%dB", s.name, n), func(b *testing.B) {
				do := s.make(n)
				b.ReportAllocs()
				for b.Loop() {
					do()
				}
			})
		}
	}
}

// TestStagesAllocateNothing guards what is done to every frame.
func TestStagesAllocateNothing(t *testing.T) {
	for _, s := range stages {
		for _, n := range []int{64, 1448, 60000} {
			if a := testing.AllocsPerRun(100, s.make(n)); a != 0 {
				t.Errorf("%s of %d bytes: %v allocations", s.name, n, a)
			}
		}
	}
}
