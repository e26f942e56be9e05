package compare

import (
	"bytes"

	"colod/internal/frame"
)

// lend puts f itself into desc instead of digests of [lo, hi). It does so only if f will be kept for the whole range, so that
// its bytes stay until the client has acknowledged them; whole is the range that f occupies.
func (d *Describer) lend(fl *dflow, f *Frame, desc *Descriptor, whole span, lo, hi frame.Num) bool {
	_, start, end := fl.place(whole.seq, whole.seq.Add(whole.n))
	if start.After(lo) || end.Before(hi) || d.kept.n+1 > d.cfg.MaxFrames || d.kept.bytes+int64(len(f.Buf)) > d.cfg.MaxBytes {
		return false
	}
	desc.Seq, desc.Len = lo, uint32(hi-lo)
	desc.Piece = desc.Len
	desc.Twin, desc.TwinAt = f, f.P.Payload+int(lo-whole.seq)
	return true
}

// stepLocal is step for a piece with the secondary's bytes: all that is held of it is compared, be it cut as it may.
func (e *Engine) stepLocal(now int64, fl *flow, pc *piece, h frame.Num) bool {
	t := &fl.t
	n := uint32(pc.end().Min(h) - t.v)
	at := int(pc.pos) + int(t.v-pc.seq)
	if !holds(t, t.v, pc.twin.Buf[at:at+int(n)]) {
		e.differ(now, fl, span{t.v, n})
		return false
	}
	t.v = t.v.Add(n)
	if t.v == pc.end() {
		e.popPiece(t)
	}
	return true
}

// same says that the secondary's bytes are here for all of b, which begins at seq, and are b; n is how many pieces end with it.
func (t *tcpState) same(seq frame.Num, b []byte) (n int, same bool) {
	for i := 0; len(b) > 0; i++ {
		if i == t.pieces.len() {
			return 0, false
		}
		pc := t.pieces.at(i)
		end := pc.end()
		if !end.AtMost(seq) {
			if pc.twin == nil || pc.seq.After(seq) {
				return 0, false
			}
			k := min(int(end-seq), len(b))
			if !bytes.Equal(b[:k], pc.twin.Buf[int(pc.pos)+int(seq-pc.seq):][:k]) {
				return 0, false
			}
			seq, b = seq.Add(uint32(k)), b[k:]
		}
		if end.AtMost(seq) {
			n = i + 1
		}
	}
	return n, true
}

// holds says that the held payload from seq on, which must be long enough, is b.
func holds(t *tcpState, seq frame.Num, b []byte) bool {
	for i := range t.held.len() {
		have := (*t.held.at(i)).from(seq)
		if have == nil {
			continue
		}
		n := min(len(have), len(b))
		if !bytes.Equal(have[:n], b[:n]) {
			return false
		}
		if b = b[n:]; len(b) == 0 {
			return true
		}
		seq = seq.Add(uint32(n))
	}
	return false
}
