package sim

import "colod/internal/frame"

// tcp is one end of a connection: small but real. It has no pointers, so that a checkpoint copies it. Numbers are
// offsets in the two streams; the SYN is before offset 0 and a FIN counts as one.
type tcp struct {
	iss, irs uint32
	una      uint32 // acknowledged by the peer
	nxt      uint32 // to be sent next
	top      uint32 // highest nxt
	wr       uint32 // written by the application
	cwnd     uint32
	closed   bool // the application has closed: a FIN follows wr

	rcv     uint32 // expected next
	ooo     [4]span
	nooo    int8
	finAt   uint32 // place of the peer's FIN
	finSeen bool
	pending uint8 // segments not acknowledged yet

	rto, rtoAt, ackAt int64
	ts                bool
	tsRecent          uint32
}

type span struct{ a, b uint32 }

const (
	rtoMin   = 200 * ms
	rtoMax   = 1600 * ms
	delayAck = 40 * ms
	maxFly   = 10 * mss
)

// end is the sequence offset after all that the application wants sent.
func (t *tcp) end() uint32 {
	if t.closed {
		return t.wr + 1
	}
	return t.wr
}

// done says that all was sent and acknowledged, and that the peer has closed.
func (t *tcp) done() bool { return t.closed && t.una == t.wr+1 && t.finSeen && t.rcv > t.finAt }

// acked takes an acknowledgement. It says whether it was news.
func (t *tcp) acked(now int64, ack uint32) bool {
	if int32(ack-t.una) <= 0 || int32(ack-t.top) > 0 {
		return false
	}
	t.una = ack
	if int32(t.nxt-t.una) < 0 {
		t.nxt = t.una
	}
	t.cwnd = min(t.cwnd+mss, maxFly)
	t.rto, t.rtoAt = rtoMin, 0
	if t.una != t.top {
		t.rtoAt = now + t.rto
	}
	return true
}

// receive takes the range [seq, seq+n) and a FIN behind it. It reports what is new and whether an acknowledgement has to
// go at once.
func (t *tcp) receive(now int64, seq, n uint32, fin bool) (fresh, ackNow bool) {
	if fin {
		t.finAt, t.finSeen = seq+n, true
		n++
	}
	if n == 0 {
		return false, int32(seq-t.rcv) < 0
	}
	if int32(seq+n-t.rcv) <= 0 {
		return false, true
	}
	before := t.rcv
	if int32(seq-t.rcv) > 0 {
		if int(t.nooo) < len(t.ooo) {
			t.ooo[t.nooo] = span{seq, seq + n}
			t.nooo++
		}
		return false, true
	}
	t.rcv = seq + n
	for i := 0; i < int(t.nooo); {
		s := t.ooo[i]
		if int32(s.a-t.rcv) > 0 {
			i++
			continue
		}
		if int32(s.b-t.rcv) > 0 {
			t.rcv = s.b
		}
		t.nooo--
		t.ooo[i] = t.ooo[t.nooo]
		i = 0
	}
	t.pending++
	if fin || t.nooo > 0 || t.pending >= 2 {
		ackNow = true
	} else if t.ackAt == 0 {
		t.ackAt = now + delayAck
	}
	return t.rcv != before, ackNow
}

// next is the next segment that may go: [seq, seq+n), with a FIN behind it. cut is the most that it may have.
func (t *tcp) next(now int64, cut uint32) (seq, n uint32, fin, ok bool) {
	fly := t.nxt - t.una
	if t.nxt == t.end() || fly >= t.cwnd {
		return 0, 0, false, false
	}
	seq = t.nxt
	if int32(t.wr-t.nxt) > 0 {
		n = min(t.wr-t.nxt, t.cwnd-fly, cut)
	}
	fin = t.closed && seq+n == t.wr
	t.nxt += n
	if fin {
		t.nxt++
	}
	if int32(t.nxt-t.top) > 0 {
		t.top = t.nxt
	}
	if t.rtoAt == 0 {
		t.rtoAt = now + t.rto
	}
	return seq, n, fin, true
}

// timeout goes back to what is not acknowledged.
func (t *tcp) timeout(now int64) {
	t.nxt, t.cwnd = t.una, mss
	t.rto = min(2*t.rto, rtoMax)
	t.rtoAt = now + t.rto
}

// told notes that an acknowledgement has gone.
func (t *tcp) told() { t.pending, t.ackAt = 0, 0 }

// header fills what every segment has.
func (t *tcp) header(p *packet, clock uint32) {
	p.proto, p.win = frame.ProtoTCP, 60000
	p.ack, p.flags = t.irs+1+t.rcv, p.flags|frame.ACK
	p.ts, p.tsVal, p.tsEcr = t.ts, clock, t.tsRecent
}

func (t *tcp) nextTimer() int64 {
	at := t.rtoAt
	if t.ackAt != 0 && (at == 0 || t.ackAt < at) {
		at = t.ackAt
	}
	return at
}
