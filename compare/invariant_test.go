package compare

import (
	"testing"
	"time"

	"colod/internal/frame"
	"colod/internal/frame/frametest"
	"pgregory.net/rapid"
)

// draw makes any segment of the connection c: stream bytes of data (changed at the byte changed when that lies in
// it), acknowledgements, windows, blocks, closes, resets, repeated or out of order.
func drawSegment(rt *rapid.T, c *conn, data []byte, changed int) []byte {
	t := frametest.TCP{Src: c.guest, Dst: c.client, Flags: frame.ACK, Window: uint16(rapid.SampledFrom([]int{0, 1, 500, 501, 65535}).Draw(rt, "win")),
		Partial: c.partial}
	from := rapid.IntRange(0, len(data)).Draw(rt, "from")
	n := rapid.SampledFrom([]int{0, 0, 1, 5, 20}).Draw(rt, "len")
	n = min(n, len(data)-from)
	t.Payload = append([]byte(nil), data[from:from+n]...)
	if changed >= from && changed < from+n {
		t.Payload[changed-from] ^= 1
	}
	t.Seq, t.Ack = c.iss+1+uint32(from), c.ciss+1+uint32(rapid.IntRange(0, 60).Draw(rt, "ack"))
	switch rapid.IntRange(0, 15).Draw(rt, "kind") {
	case 0:
		if from+n == len(data) {
			t.Flags |= frame.FIN
		}
	case 1:
		t.Flags, t.Payload = frame.RST, nil
	case 2:
		l := uint32(rapid.IntRange(0, 90).Draw(rt, "left"))
		t.Options = append([]byte{1, 1}, frametest.SACK([2]uint32{c.ciss + 1 + l, c.ciss + 1 + l + uint32(rapid.IntRange(1, 20).Draw(rt, "block"))})...)
	case 3:
		return c.synAck()
	}
	if c.ts != 0 {
		c.ts += uint32(rapid.IntRange(0, 3).Draw(rt, "tick"))
		t.Options = append(frametest.TS(c.ts, 77), t.Options...)
	}
	return t.Bytes()
}

// TestInvariant1OutputCommit: whatever the guests say, equal or not, in any order, with checkpoints, failed ones and
// clients in between: every released byte, FIN, SYN, reset and datagram was said by the secondary in this epoch, or is
// covered by a checkpoint. The oracle looks at each release.
func TestInvariant1OutputCommit(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) { chaos(rt, rapid.Bool().Draw(rt, "different")) })
}

// TestInvariant3InputCommit: whatever the guests acknowledge, no acknowledgement, right window edge or SACK block is
// released that the secondary does not stand for. The oracle looks at each release.
func TestInvariant3InputCommit(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) { chaos(rt, false) })
}

func chaos(rt *rapid.T, different bool) {
	w := protected(rt, Config{Hold: 5 * time.Millisecond})
	p, s := twins(rapid.Bool().Draw(rt, "v6"), rapid.Uint32().Draw(rt, "piss"), rapid.Uint32().Draw(rt, "siss"), rapid.Uint32().Draw(rt, "ciss"),
		rapid.Bool().Draw(rt, "ts"))
	w.logf = rt.Logf
	p.partial = rapid.Bool().Draw(rt, "partial")
	if rapid.Bool().Draw(rt, "inherited") {
		s.iss = p.iss
		w.oracle.flow(keyOf(p.synAck())).scale = 7 // which the engine has no way to know
	} else {
		w.open(&p, &s)
	}
	data := pattern(50)
	changed := -1
	if different {
		changed = rapid.IntRange(0, len(data)-1).Draw(rt, "changed")
	}
	holding := false
	for range rapid.IntRange(1, 80).Draw(rt, "steps") {
		switch k := rapid.IntRange(0, 19).Draw(rt, "what"); {
		case k < 6:
			w.primary(drawSegment(rt, &p, data, -1))
		case k < 12:
			w.secondary(drawSegment(rt, &s, data, changed))
		case k == 12:
			w.input(p.fromClient(p.iss, rapid.IntRange(0, 50).Draw(rt, "client seq"), []byte("x"), 0, rapid.IntRange(0, 60).Draw(rt, "client ack")))
		case k == 13:
			text := []byte(rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "text"))
			buf := frametest.UDP(frametest.Link{}, p.guest, p.client, text, false)
			if rapid.Bool().Draw(rt, "who") {
				w.primary(buf)
			} else {
				w.secondary(buf)
			}
		case k == 14:
			w.tick(time.Duration(rapid.IntRange(1, 200).Draw(rt, "ms")) * time.Millisecond)
		case k == 15 && !holding:
			w.e.BeginCheckpoint(w.now)
			holding = true
		case k == 16 && holding:
			w.e.AbortCheckpoint(w.now)
			holding = false
			w.collect()
		case k == 17:
			w.checkpoint()
			s.iss, s.ts, changed, holding = p.iss, p.ts, -1, false
		default:
			w.pumpA(rapid.IntRange(0, 5).Draw(rt, "pump A"))
			w.pumpB(rapid.IntRange(0, 5).Draw(rt, "pump B"))
		}
	}
	w.settle()
	w.checkpoint()
	w.e.Solo(w.now)
	w.collect()
	w.noLoans()
}
