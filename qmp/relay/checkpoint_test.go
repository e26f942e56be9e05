package relay

import (
	"sync/atomic"
	"testing"
	"time"
)

// session is a back channel with n checkpoints; with the messages that a QEMU with return path sends
// before (type 2, 4 bytes; type 1, 4 bytes).
func session(n int, returnPath bool) []byte {
	var b []byte
	if returnPath {
		b = append(b, 0, 2, 0, 4, 9, 9, 9, 9, 0, 1, 0, 4, 0, 0, 0, 0)
	}
	b = append(b, word(msgReady)...)
	for range n {
		b = append(b, word(msgReply)...)
		b = append(b, word(msgReceived)...)
		b = append(b, word(msgLoaded)...)
	}
	return b
}

func TestTrackerTakesAnyPieces(t *testing.T) {
	for _, rp := range []bool{false, true} {
		b := session(3, rp)
		for size := 1; size <= len(b); size++ {
			var f atomic.Uint64
			var tr tracker
			var got []uint64
			now := time.Unix(100, 0)
			tr.start(now, &f)
			for at := 0; at < len(b); at += size {
				now = now.Add(time.Millisecond)
				f.Add(10)
				tr.sawBack(now, b[at:min(at+size, len(b))], func(c Checkpoint) { got = append(got, c.N) })
			}
			if s := tr.stats(); s.Checkpoints != 3 || s.Phase != Idle || s.Back != uint64(len(b)) || len(got) != 3 || got[2] != 3 {
				t.Fatalf("pieces of %d, return path %v: %+v, %v", size, rp, s, got)
			}
		}
	}
}

func TestTrackerTimes(t *testing.T) {
	var f atomic.Uint64
	var tr tracker
	at := func(ms int) time.Time { return time.Unix(0, int64(ms)*1e6) }
	tr.start(at(0), &f)
	f.Store(1000)
	tr.sawBack(at(1), word(msgReady), nil)
	tr.sawForward(at(10))
	f.Store(1004)
	tr.sawBack(at(12), word(msgReply), nil)
	tr.sawForward(at(13))
	f.Store(3004)
	tr.sawBack(at(17), word(msgReceived), nil)
	tr.sawBack(at(18), word(msgLoaded), nil)
	want := Checkpoint{N: 1, Begin: at(10), Bytes: 2004, Stop: 2e6, Transfer: 5e6, Load: 1e6}
	if got := tr.stats().Last; got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if want.Total() != 8*time.Millisecond {
		t.Errorf("total %v", want.Total())
	}
}

// FuzzTracker: any back channel, cut anywhere, gives the same records as in one piece.
func FuzzTracker(f *testing.F) {
	f.Add(session(2, false), uint8(3))
	f.Add(session(2, true), uint8(5))
	f.Fuzz(func(t *testing.T, b []byte, cut uint8) {
		run := func(pieces ...[]byte) Stats {
			var f atomic.Uint64
			var tr tracker
			tr.start(time.Unix(1, 0), &f)
			for _, p := range pieces {
				tr.sawBack(time.Unix(2, 0), p, func(Checkpoint) {})
			}
			return tr.stats()
		}
		n := min(int(cut), len(b))
		if one, two := run(b), run(b[:n], b[n:]); one != two {
			t.Errorf("%+v in one piece, %+v cut at %d", one, two, n)
		}
	})
}
