package compare

import (
	"testing"

	"colod/internal/frame"
	"pgregory.net/rapid"
)

// TestConnectionsFollowEachOther: one client uses the same ports again and again. The guests go through the
// connections at their own pace, the secondary up to one connection behind or a SYN ahead; nothing is mixed up.
func TestConnectionsFollowEachOther(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := protected(rt, Config{})
		w.logf = rt.Logf
		w.oracle.off = true // it knows one connection a key; the client below checks every byte
		n := rapid.IntRange(1, 5).Draw(rt, "connections")
		var p, s []conn
		var opsP, opsS [][][]byte
		for i := range n {
			a, b := twins(false, rapid.Uint32().Draw(rt, "piss"), rapid.Uint32().Draw(rt, "siss"), uint32(1000000*(i+1)), rapid.Bool().Draw(rt, "ts"))
			data := pattern(rapid.IntRange(1, 300).Draw(rt, "length"))
			script := func(c *conn, cut int) (ops [][]byte) {
				ops = append(ops, c.synAck())
				for at := 0; at < len(data); at += cut {
					ops = append(ops, c.data(at, data[at:min(at+cut, len(data))], 0, 0, 500))
				}
				return append(ops, c.data(len(data), nil, frame.FIN, 0, 500), c.data(len(data)+1, nil, 0, 1, 500))
			}
			p, s = append(p, a), append(s, b)
			opsP = append(opsP, script(&p[i], rapid.IntRange(20, 300).Draw(rt, "cut")))
			opsS = append(opsS, script(&s[i], rapid.IntRange(20, 300).Draw(rt, "cut S")))
		}
		cur := -1   // the connection that the client is in
		client := 0 // bytes that it has, the FIN counted
		total := 0  // bytes of the connection, the FIN counted
		sAt, sOp := 0, 0
		pOp := 0
		opened := false
		w.onOut = func(x *wire) {
			if x.p.Len() == 0 && x.p.Flags&(frame.SYN|frame.FIN) == 0 {
				return // a late acknowledgement may be of the connection before
			}
			if x.p.Flags&frame.SYN != 0 {
				if uint32(x.p.Seq) != p[cur].iss {
					rt.Fatalf("SYN of another connection")
				}
				opened = true
				return
			}
			if off := int(uint32(x.p.Seq) - p[cur].iss - 1); off != client {
				rt.Fatalf("released at %d, the client has %d", off, client)
			}
			client += x.p.Len()
			if x.p.Flags&frame.FIN != 0 {
				client++
			}
		}
		next := func() {
			cur, pOp, client, opened = cur+1, 0, 0, false
			var q frame.Parsed
			last := opsP[cur][len(opsP[cur])-2]
			frame.Parse(last, &q)
			total = int(uint32(q.Seq)-p[cur].iss-1) + 1
			w.input(p[cur].clientSYN())
		}
		next()
		for steps := 0; ; steps++ {
			if steps > 20000 {
				rt.Fatalf("stuck in connection %d: the client has %d of %d", cur, client, total)
			}
			done := client == total && pOp == len(opsP[cur])
			if done && cur == n-1 && sAt == n {
				break
			}
			what := steps % 6
			if steps < 400 {
				what = rapid.IntRange(0, 5).Draw(rt, "what")
			}
			switch what {
			case 0, 1:
				if pOp == 0 || opened && pOp < len(opsP[cur]) {
					w.primary(opsP[cur][pOp])
					pOp++
				}
			case 2, 3:
				if sAt < n && sAt <= cur && (sOp == 0 || sAt < cur || opened) {
					w.secondary(opsS[sAt][sOp])
					if sOp++; sOp == len(opsS[sAt]) {
						sAt, sOp = sAt+1, 0
					}
				}
			case 4:
				w.pumpA(1 + steps%4)
				w.pumpB(1 + steps%3)
			case 5:
				if opened {
					w.input(p[cur].fromClient(p[cur].iss, 0, nil, 0, client))
				}
				if done && cur < n-1 && sAt >= cur { // at most one behind
					w.input(p[cur].fromClient(p[cur].iss, 0, nil, frame.FIN, client))
					next()
				}
			}
		}
		w.settle()
		w.noDivergence()
	})
}
