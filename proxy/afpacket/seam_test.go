package afpacket_test

import (
	"testing"
	"time"

	"colod/internal/netnstest"
	"colod/proxy/afpacket"
)

// TestSeam checks that only what leaves is noted, with times between those of what came before and after.
func TestSeam(t *testing.T) {
	a, b := netnstest.New(t, "a"), netnstest.New(t, "b")
	netnstest.Veth(a, "va", b, "vb")
	in, out := openTX(t, b, "vb"), openTX(t, a, "va")
	var s *afpacket.Seam
	a.Must(func() (err error) { s, err = afpacket.OpenSeam("va"); return err })
	defer s.Close()
	rx := openRX(t, a, "va", afpacket.Options{})
	poll := func() {
		t.Helper()
		if err := s.Poll(); err != nil {
			t.Fatal(err)
		}
	}
	send := func(x *afpacket.TX, n int) (times []int64) {
		for range n {
			if n, err := x.Send([]afpacket.Msg{{A: frame("x")}}); n != 1 || err != nil {
				t.Fatal(n, err)
			}
		}
		bufs, meta := pool(64, 2048)
		for len(times) < n {
			k := recv(t, rx, bufs, meta)
			for _, m := range meta[:k] {
				times = append(times, m.KTime)
			}
		}
		return times
	}
	// The kernel begins to stamp frames some time after the first socket has asked for it; until then each socket makes
	// do with the time of reading.
	stamped(t, in, rx)
	send(in, 10)
	poll()
	if s.First() != 0 || s.Last() != 0 || s.Frames() != 0 {
		t.Errorf("incoming frames were noted: %d, %d, %d", s.First(), s.Last(), s.Frames())
	}
	first := send(out, 100)
	send(in, 5)
	second := send(out, 100)
	poll()
	// The kernel stamps a frame once for all sockets.
	if s.First() != first[0] || s.Last() != second[99] || s.Frames() != 200 || s.Lost() != 0 {
		t.Errorf("noted %d..%d, %d frames, lost %d; want %d..%d, 200", s.First(), s.Last(), s.Frames(), s.Lost(), first[0], second[99])
	}
}

// stamped sends frames until what rx sees bears a time of before it was read.
func stamped(t *testing.T, tx *afpacket.TX, rx *afpacket.RX) {
	t.Helper()
	bufs, meta := pool(64, 2048)
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if n, err := tx.Send([]afpacket.Msg{{A: frame("x")}}); n != 1 || err != nil {
			t.Fatal(n, err)
		}
		sent := time.Now().UnixNano()
		time.Sleep(time.Millisecond)
		if n := recv(t, rx, bufs, meta); meta[n-1].KTime <= sent {
			return
		}
	}
	t.Fatal("the kernel does not note when a frame was seen")
}

func TestProbe(t *testing.T) {
	netnstest.New(t, "a").Must(afpacket.Probe)
}

func BenchmarkSettle(b *testing.B) {
	for b.Loop() {
		afpacket.Settle()
	}
}
