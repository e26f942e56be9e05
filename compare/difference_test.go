package compare

import (
	"fmt"
	"testing"
	"time"

	"colod/internal/frame"
	"colod/internal/frame/frametest"
	"pgregory.net/rapid"
)

// final is the one divergence that has to be there, made final by the secondary's bytes.
func (w *world) final() *Divergence {
	w.t.Helper()
	var d *Divergence
	for i := range w.diverged {
		if w.diverged[i].Final {
			if d != nil {
				w.t.Fatalf("two final divergences: %s; %s", showDivergence(d), showDivergence(&w.diverged[i]))
			}
			d = &w.diverged[i]
		}
	}
	if d == nil {
		w.t.Fatalf("no final divergence among %d", len(w.diverged))
	}
	return d
}

// TestAnyChangedByteDiverges: whatever the cuts and repetitions, one changed byte is found, at its position and
// at its place in the primary's frame, and no byte from there on is released.
func TestAnyChangedByteDiverges(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := protected(rt, Config{})
		p, s := twins(rapid.Bool().Draw(rt, "v6"), rapid.Uint32().Draw(rt, "piss"), rapid.Uint32().Draw(rt, "siss"), rapid.Uint32().Draw(rt, "ciss"),
			rapid.Bool().Draw(rt, "ts"))
		inherited := rapid.Bool().Draw(rt, "inherited")
		if inherited {
			s.iss = p.iss
		} else {
			w.open(&p, &s)
		}
		data := pattern(rapid.IntRange(1, 12000).Draw(rt, "length"))
		at := rapid.IntRange(0, len(data)-1).Draw(rt, "changed at")
		other := append([]byte(nil), data...)
		other[at] ^= byte(rapid.IntRange(1, 255).Draw(rt, "change"))
		P := &sender{c: &p, say: w.primary, data: data}
		S := &sender{c: &s, say: w.secondary, data: other}
		frames := map[int][2]int{} // start of each frame of the primary: payload offset in it, length
		P.say = func(buf []byte) {
			var q frame.Parsed
			frame.Parse(buf, &q)
			frames[int(uint32(q.Seq)-p.iss-1)] = [2]int{q.Payload - frame.VnetLen, q.Len()}
			w.primary(buf)
		}
		w.onOut = func(x *wire) {
			if end := int(int32(uint32(x.p.Seq)-p.iss-1)) + x.p.Len(); x.p.Len() > 0 && end > at {
				rt.Fatalf("released up to %d, and byte %d differs", end, at)
			}
		}
		for !P.done() || !S.done() {
			switch rapid.IntRange(0, 5).Draw(rt, "what") {
			case 0, 1:
				P.next(rt, 900)
			case 2, 3:
				S.next(rt, 900)
			case 4:
				w.pumpA(3)
				w.pumpB(3)
			case 5:
				S.again(rt, 0, 900)
			}
		}
		w.settle()
		d := w.final()
		if d.Reason != ReasonPayload || !d.Exact {
			rt.Fatalf("divergence %s", showDivergence(d))
		}
		if d.Absolute == inherited || int(d.Position) != at {
			rt.Fatalf("position %d (absolute %t), changed at %d", d.Position, d.Absolute, at)
		}
		if d.Primary[0] != data[at] || d.Secondary[0] != other[at] {
			rt.Fatalf("excerpts %x and %x, want %x and %x", d.Primary[0], d.Secondary[0], data[at], other[at])
		}
		found := false
		for start, f := range frames {
			found = found || start <= at && at < start+f[1] && d.FrameOffset == f[0]+at-start
		}
		if !found {
			rt.Fatalf("frame offset %d is no place of byte %d", d.FrameOffset, at)
		}
		w.onOut = nil
		w.checkpoint()
		P.nxt, S.c, S.data, S.nxt = len(data), &p, append(data, "after"...), len(data)
		P.data = S.data
		n := len(w.released)
		P.next(rt, 900)
		S.next(rt, 900)
		for !P.done() || !S.done() {
			P.next(rt, 900)
			S.next(rt, 900)
		}
		w.settle()
		if len(w.released) == n {
			rt.Fatal("nothing is released after the checkpoint")
		}
	})
}

// TestDatagrams: equal datagrams in any order within a flow never diverge, each is released once and in the primary's
// order, and after the loss of the primary the secondary's node has exactly those that were not released.
func TestDatagrams(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := protected(rt, Config{})
		guest, clients := frametest.A("192.0.2.10:53"), []frametest.Addr{frametest.A("198.51.100.7:1000"), frametest.A("198.51.100.7:1001")}
		var all [][]byte
		n := rapid.IntRange(1, 40).Draw(rt, "n")
		for i := range n {
			c := clients[rapid.IntRange(0, 1).Draw(rt, "flow")]
			text := fmt.Sprintf("datagram %d", rapid.IntRange(0, i).Draw(rt, "text"))
			all = append(all, frametest.UDP(frametest.Link{ID: uint16(i)}, guest, c, []byte(text), rapid.Bool().Draw(rt, "partial")))
		}
		order := rapid.Permutation(all).Draw(rt, "order")
		if rapid.Bool().Draw(rt, "in order") {
			order = all
		}
		var sent []string
		pi, si := 0, 0
		stop := rapid.IntRange(0, 2*n).Draw(rt, "stop")
		for steps := 0; pi < n || si < n; steps++ {
			if steps == stop && rapid.Bool().Draw(rt, "loss") {
				break
			}
			switch k := rapid.IntRange(0, 4).Draw(rt, "what"); {
			case k < 2 && pi < n:
				var q frame.Parsed
				frame.Parse(all[pi], &q)
				sent = append(sent, string(all[pi][q.Payload:])+fmt.Sprint(q.DstPort))
				w.primary(all[pi])
				pi++
			case k < 4 && si < n:
				w.secondary(order[si])
				si++
			default:
				w.pumpA(3)
				w.pumpB(3)
			}
		}
		w.settle()
		w.noDivergence()
		count := map[string]int{}
		for _, x := range w.released {
			count[string(x.payload())+fmt.Sprint(x.p.DstPort)]++
		}
		if pi == n && si == n {
			w.noLoans()
			for i, x := range releasedOf(w, 1000) {
				if want := sentTo(sent, 1000)[i]; string(x.payload())+"1000" != want {
					rt.Fatalf("release %d is %s, want %s", i, x.payload(), want)
				}
			}
		}
		frames, _ := w.d.Promote(w.now)
		for _, f := range frames {
			count[string(f.Buf[f.P.Payload:f.P.End])+fmt.Sprint(f.P.DstPort)]++
		}
		for i := range si {
			var q frame.Parsed
			frame.Parse(order[i], &q)
			count[string(order[i][q.Payload:])+fmt.Sprint(q.DstPort)]--
		}
		for text, c := range count {
			if c != 0 {
				rt.Fatalf("%q: released and kept %+d times more than sent by the secondary", text, c)
			}
		}
	})
}

func releasedOf(w *world, port uint16) (out []wire) {
	for _, x := range w.released {
		if x.p.DstPort == port {
			out = append(out, x)
		}
	}
	return out
}

func sentTo(sent []string, port int) (out []string) {
	for _, s := range sent {
		if s[len(s)-4:] == fmt.Sprint(port) {
			out = append(out, s)
		}
	}
	return out
}

// TestChangedDatagramDiverges: one changed byte in a datagram of any kind is found at its place.
func TestChangedDatagramDiverges(t *testing.T) {
	g, c := frametest.A("192.0.2.10:53"), frametest.A("198.51.100.7:1000")
	g6, c6 := frametest.A("[2001:db8::10]:53"), frametest.A("[2001:db8:1::7]:1000")
	body := []byte("\x00\x07\x00\x01the quick brown fox")
	for name, buf := range map[string][]byte{
		"udp4":  frametest.UDP(frametest.Link{}, g, c, body, false),
		"udp6":  frametest.UDP(frametest.Link{}, g6, c6, body, true),
		"icmp4": frametest.ICMP(frametest.Link{}, g.IP, c.IP, 3, 1, body),
		"icmp6": frametest.ICMP(frametest.Link{VLAN: []uint16{5}}, g6.IP, c6.IP, 1, 4, body),
		"gre":   frametest.IP(frametest.Link{}, g.IP, c.IP, 47, body),
		"other": append(append(make([]byte, 22), 0x88, 0xcc), body...),
	} {
		t.Run(name, func(t *testing.T) {
			var p frame.Parsed
			frame.Parse(buf, &p)
			from, _, _ := compared(buf, &p)
			w := protected(t, Config{Hold: 5 * time.Millisecond})
			w.primary(buf)
			changed := append([]byte(nil), buf...)
			changed[len(changed)-3] ^= 4
			w.secondary(changed)
			w.settle()
			if len(w.released) > 0 {
				t.Fatal("released")
			}
			w.tick(6 * time.Millisecond)
			w.settle()
			d := w.final()
			if !d.Exact || d.FrameOffset != len(buf)-3-frame.VnetLen || int(d.Position) != len(buf)-3-from {
				t.Errorf("divergence %s", showDivergence(d))
			}
			w.checkpoint()
			if len(w.released) != 1 || w.released[0].why != WhyCovered {
				t.Error("not released by the checkpoint")
			}
			w.noLoans()
		})
	}
}
