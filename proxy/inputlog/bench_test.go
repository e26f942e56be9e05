package inputlog

import (
	"fmt"
	"testing"

	"colod/internal/frame"
)

// passing is one flow whose frames are logged, and acknowledged by guest and client a little later.
type passing struct {
	log *Log
	key frame.FlowKey
	p   *frame.Parsed
	buf []byte
	seq uint32
	n   int
}

func newPassing(payload int) *passing {
	x := &passing{log: New(), n: payload}
	x.key, x.p, x.buf = segment(0, payload, 0)
	return x
}

func (x *passing) step() bool {
	x.p.Seq = frame.Num(x.seq)
	ok := x.log.Add(int64(x.seq), x.key, x.p, x.buf)
	x.seq += uint32(x.n)
	if ack := frame.Num(x.seq - min(x.seq, uint32(8*x.n))); x.seq > uint32(8*x.n) {
		x.log.GuestAcked(x.key, ack)
		x.log.Released(int64(x.seq), x.key, ack)
	}
	return ok
}

// BenchmarkAdd is the price of a client's frame in the log: its copy, and that it goes once guest and client are done with it.
func BenchmarkAdd(b *testing.B) {
	for _, n := range []int{64, 1448, 60000} {
		b.Run(fmt.Sprintf("%dB", n), func(b *testing.B) {
			x := newPassing(n)
			b.ReportAllocs()
			b.SetBytes(int64(n))
			for b.Loop() {
				if !x.step() {
					b.Fatal("the log is full")
				}
			}
		})
	}
}

// TestAddAllocatesNothing: once buffers have come back, a frame that is logged leaves no garbage.
func TestAddAllocatesNothing(t *testing.T) {
	for _, n := range []int{1, 64, 1448, 60000} {
		x := newPassing(n)
		for range 5000 {
			x.step()
		}
		if a := testing.AllocsPerRun(5000, func() { x.step() }); a != 0 {
			t.Errorf("%d bytes: %v allocations a frame", n, a)
		}
		x.log.GuestAcked(x.key, frame.Num(x.seq))
		x.log.Released(int64(x.seq), x.key, frame.Num(x.seq))
		if x.log.Bytes() != 0 || x.log.spare.bytes > maxSpare {
			t.Errorf("%d bytes in the log, %d spare", x.log.Bytes(), x.log.spare.bytes)
		}
	}
}

// TestSpareKeepsBytes: buffers that are used again hold what they were given last, and no more of them are kept than
// allowed.
func TestSpareKeepsBytes(t *testing.T) {
	var s spare
	a := s.copyOf([]byte("first of all"))
	s.put(a)
	b := s.copyOf([]byte("second"))
	if string(b) != "second" || cap(b) != 128 || s.bytes != 0 {
		t.Errorf("%q, capacity %d, %d bytes spare", b, cap(b), s.bytes)
	}
	if long := make([]byte, spareSizes[len(spareSizes)-1]+1); len(s.copyOf(long)) != len(long) {
		t.Error("a long one is cut")
	}
	s.put(make([]byte, 3, 77)) // not one of ours
	for range 2 * maxSpare / 69632 {
		s.put(make([]byte, 0, 69632))
	}
	if s.bytes > maxSpare || s.bytes < maxSpare-69632 {
		t.Errorf("%d bytes spare", s.bytes)
	}
}
