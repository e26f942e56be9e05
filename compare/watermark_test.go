package compare

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"colod/internal/frame"
	"colod/internal/frame/frametest"
)

// TestWatermarkFar: the secondary's node hears of the release of each datagram, in whatever order they leave, also long after
// one that is never released: here the primary's guest did not get the first question.
func TestWatermarkFar(t *testing.T) {
	guest, client := frametest.A("192.0.2.10:53"), frametest.A("198.51.100.7:1000")
	say := func(id int) []byte {
		return frametest.UDP(frametest.Link{ID: uint16(id)}, guest, client, []byte(fmt.Sprintf("answer %d", id)), false)
	}
	rapid.Check(t, func(rt *rapid.T) {
		w := protected(rt, Config{})
		w.secondary(say(0))
		n := 1
		for range rapid.IntRange(1, 8).Draw(rt, "batches") {
			var ids []int
			for range rapid.IntRange(1, 60).Draw(rt, "n") {
				ids = append(ids, n)
				n++
			}
			wild := ids
			switch rapid.IntRange(0, 2).Draw(rt, "order") {
			case 1:
				wild = rapid.Permutation(ids).Draw(rt, "wild")
			case 2:
				wild = nil
				for i := range ids {
					wild = append(wild, ids[len(ids)-1-i])
				}
			}
			sides := []func([]byte){w.primary, w.secondary}
			if rapid.Bool().Draw(rt, "the secondary first") {
				sides[0], sides[1] = sides[1], sides[0]
				ids, wild = wild, ids
			}
			for _, id := range ids {
				sides[0](say(id))
			}
			if rapid.Bool().Draw(rt, "delivered") {
				w.settle()
			}
			for _, id := range wild {
				sides[1](say(id))
			}
			w.settle()
		}
		w.noDivergence()
		if got := len(w.released); got != n-1 {
			rt.Fatalf("%d datagrams released of %d", got, n-1)
		}
		again, _ := w.d.Promote(w.now)
		if len(again) != 1 || string(again[0].Buf[again[0].P.Payload:again[0].P.End]) != "answer 0" {
			rt.Errorf("%d datagrams are sent in the takeover, want the one that was not released", len(again))
		}
	})
}

// TestAckOfWhatWasNeverSent: an acknowledgement of bytes that the guest has not sent, such as of a connection that a lost
// translation has torn, moves nothing: the guests' own words count.
func TestAckOfWhatWasNeverSent(t *testing.T) {
	for _, off := range []uint32{1 << 20, 1 << 30, 1<<31 - 2, 1 << 31, 3 << 30} {
		w := newWorld(t, Config{})
		p, _ := twins(false, 1000, 1000, 500, false)
		w.primary(p.data(0, nil, frame.ACK, 501, 500)) // alone; the connection was opened long ago
		w.checkpoint()
		ack := p.fromClient(p.iss+off, 0, nil, 0, 0)
		w.input(ack)
		released := len(w.released)
		w.primary(p.data(0, nil, frame.FIN|frame.ACK, 501, 500))
		w.secondary(p.data(0, nil, frame.FIN|frame.ACK, 501, 500))
		w.settle()
		w.noDivergence()
		fin := false
		for _, r := range w.released[released:] {
			fin = fin || r.p.Flags&frame.FIN != 0
		}
		if !fin {
			t.Errorf("%d ahead: the FIN is not released", off)
		}
		again, _ := w.d.Promote(w.now)
		found := false
		for _, f := range again {
			found = found || f.P.Flags&frame.FIN != 0
		}
		if !found {
			t.Errorf("%d ahead: the FIN, which the client has not acknowledged, is not kept for a takeover", off)
		}
	}
}
