package compare

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"colod/internal/frame"
	"colod/internal/frame/frametest"
)

// The simulation: two guests with a small but real TCP (congestion window, retransmission, delayed
// acknowledgements, windows), each with timing of its own, a client with another, the engine and the describer
// between them, links with delay and loss, and a coordinator that answers each divergence with a checkpoint.
// Time is in microseconds and moves in ticks.

const tickLen = 100

// tcpEnd is one end of a connection. It holds no pointers into the simulation, so that a checkpoint can copy it.
type tcpEnd struct {
	total    int // bytes that this end sends in all, -1: as many as it has received (echo)
	una, nxt int
	high     int // highest nxt
	cwnd     int
	peerWin  int
	dups     int
	recover  int
	rtoAt    int64
	rto      int64
	fin      bool // closes after total
	finDone  bool

	rcv      int // next byte expected, the peer's FIN counted
	peerFIN  int // its position, -1 unknown
	ooo      [][2]int
	pending  int // segments to be acknowledged
	delackAt int64
	read     int // bytes that the application has taken
	buf      int // receive buffer
	lastWin  int
}

type segment struct {
	seq, n, ack int // offsets in the streams; the FIN is one more
	win         int
	fin         bool
	sack        [][2]int
}

func newEnd(total, buf int, fin bool) tcpEnd {
	return tcpEnd{total: total, cwnd: 10 * 1448, peerWin: 60000, rto: 200000, peerFIN: -1, buf: buf, fin: fin, lastWin: buf}
}

func (e *tcpEnd) avail() int {
	n := e.total
	if n < 0 {
		n = e.read
	}
	return n
}

func (e *tcpEnd) window() int { return max(0, e.buf-(e.rcv-e.read)) &^ 127 }

func (e *tcpEnd) finReady() bool {
	return e.fin && (e.total >= 0 && e.nxt == e.total || e.total < 0 && e.peerFIN >= 0 && e.read == e.peerFIN && e.nxt == e.read)
}

// output is the segments that may go now, cut by cut(max).
func (e *tcpEnd) output(now int64, cut func(int) int, say func(segment)) {
	limit := e.una + min(e.cwnd, e.peerWin)
	if e.una == e.nxt && limit == e.una && e.avail() > e.nxt && e.rtoAt == 0 {
		e.rtoAt = now + e.rto // persist timer
	}
	for e.nxt < min(e.avail(), limit) {
		n := cut(min(e.avail(), limit) - e.nxt)
		e.send(now, e.nxt, n, say)
		e.nxt += n
		e.high = max(e.high, e.nxt)
	}
	if e.finReady() && e.nxt < limit+1 && !e.finDone {
		e.finDone = true
		e.send(now, e.nxt, 0, say)
		e.nxt++
		e.high = max(e.high, e.nxt)
	}
}

func (e *tcpEnd) finAt() int {
	if !e.finDone {
		return -1
	}
	if e.total >= 0 {
		return e.total
	}
	return e.read
}

func (e *tcpEnd) send(now int64, from, n int, say func(segment)) {
	s := segment{seq: from, n: n, ack: e.rcv, win: e.window(), sack: e.ooo}
	s.fin = e.finDone && from+n == e.finAt()
	e.lastWin, e.pending, e.delackAt = s.win, 0, 0
	if e.rtoAt == 0 {
		e.rtoAt = now + e.rto
	}
	say(s)
}

func (e *tcpEnd) ackNow(now int64, say func(segment)) {
	e.pending, e.delackAt, e.lastWin = 0, 0, e.window()
	say(segment{seq: e.nxt, ack: e.rcv, win: e.window(), sack: e.ooo})
}

// timers runs what is due.
func (e *tcpEnd) timers(now int64, cut func(int) int, say func(segment)) {
	if e.rtoAt != 0 && now >= e.rtoAt {
		e.rtoAt = 0
		switch {
		case e.una < e.nxt:
			e.cwnd, e.recover = 1448, e.high
			e.retransmit(now, cut, say)
			e.rto = min(e.rto*2, 2000000)
			e.rtoAt = now + e.rto
		case e.avail() > e.nxt && e.peerWin == 0: // zero window probe
			say(segment{seq: e.una - 1, ack: e.rcv, win: e.window()})
			e.rtoAt = now + e.rto
		}
	}
	if e.delackAt != 0 && now >= e.delackAt {
		e.ackNow(now, say)
	}
	if e.lastWin < 2*1448 && e.window() >= e.buf/2 {
		e.ackNow(now, say) // window update
	}
}

func (e *tcpEnd) retransmit(now int64, cut func(int) int, say func(segment)) {
	n := 0
	if end := min(e.nxt, e.avail()); end > e.una {
		n = min(cut(end-e.una), 1448)
	}
	e.send(now, e.una, n, say)
}

// input takes a segment of the peer.
func (e *tcpEnd) input(now int64, s segment, cut func(int) int, say func(segment)) {
	if s.ack > e.una && s.ack <= e.high {
		acked := s.ack - e.una
		e.una, e.dups = s.ack, 0
		e.nxt = max(e.nxt, e.una)
		e.cwnd = min(e.cwnd+acked, 1<<20)
		e.rto, e.rtoAt = 200000, 0
		if e.una < e.nxt {
			e.rtoAt = now + e.rto
			if e.una < e.recover {
				e.retransmit(now, cut, say)
			}
		}
	} else if s.ack == e.una && s.n == 0 && !s.fin && s.win == e.peerWin && e.una < e.nxt {
		if e.dups++; e.dups == 3 && e.una >= e.recover {
			e.recover, e.cwnd = e.high, max(e.cwnd/2, 2*1448)
			e.retransmit(now, cut, say)
		}
	}
	if s.ack >= e.una {
		if e.peerWin == 0 && s.win > 0 {
			e.rtoAt = 0
			if e.una < e.nxt {
				e.rtoAt = now + e.rto
			}
		}
		e.peerWin = s.win
	}
	if s.n == 0 && !s.fin {
		if s.seq < e.rcv-1 || s.seq == e.rcv-1 { // a probe
			if s.seq < e.rcv {
				e.ackNow(now, say)
			}
		}
		return
	}
	if s.fin {
		e.peerFIN = s.seq + s.n
	}
	end := s.seq + s.n
	if s.fin {
		end++
	}
	if end <= e.rcv {
		e.ackNow(now, say)
		return
	}
	if s.n > 0 && s.seq+s.n > e.read+e.buf+1448 {
		e.ackNow(now, say)
		return
	}
	e.ooo = addRange(e.ooo, s.seq, end)
	old := e.rcv
	for len(e.ooo) > 0 && e.ooo[0][0] <= e.rcv {
		e.rcv = max(e.rcv, e.ooo[0][1])
		e.ooo = append([][2]int(nil), e.ooo[1:]...)
	}
	e.pending++
	if e.rcv == old || len(e.ooo) > 0 || s.fin || e.pending >= 2 {
		e.ackNow(now, say)
	} else if e.delackAt == 0 {
		e.delackAt = now + 40000
	}
}

func addRange(r [][2]int, a, b int) [][2]int {
	var out [][2]int
	for _, x := range r {
		if b < x[0] || x[1] < a {
			out = append(out, x)
			continue
		}
		a, b = min(a, x[0]), max(b, x[1])
	}
	i := 0
	for i < len(out) && out[i][0] < a {
		i++
	}
	return append(out[:i:i], append([][2]int{{a, b}}, out[i:]...)...)
}

// consume lets the application take up to n received bytes.
func (e *tcpEnd) consume(n int) {
	limit := e.rcv
	if e.peerFIN >= 0 && e.rcv > e.peerFIN {
		limit = e.peerFIN
	}
	e.read = min(limit, e.read+n)
}

// simConfig is a run of the simulation.
type simConfig struct {
	seed     uint64
	v6, ts   bool
	download int // bytes of the guest, -1: echo of the upload
	upload   int

	lag, lagP    int64 // largest extra delay of each guest, us
	link         int64 // one way delay between the nodes
	net          int64 // one way delay to the client
	lossToClient float64
	lossToGuest  float64 // before the tap: both guests miss it
	lossToS      float64 // the secondary's tap drops it
	log          bool    // the secondary's node logs input and says so; else clients are told what its guest has
	slowRead     int     // bytes that guests' applications read in a tick, 0: all
	checkpointAt []int64
	differAt     int     // the guests' streams differ from here until a checkpoint, 0: never
	lossToA      float64 // the primary's tap drops it
	killAt       int64   // the primary and its node die
	maxTime      int64
}

type timed[T any] struct {
	at int64
	v  T
}

type sim struct {
	cfg  simConfig
	w    *world
	rng  *rand.Rand
	now  int64
	p, s conn
	P, S tcpEnd
	C    tcpEnd
	data []byte // of the guest
	up   []byte

	toClient []timed[[]byte]
	toGuest  []timed[segment] // at node A
	toBlink  []timed[any]     // mirrored input and messages, one order
	toAlink  []timed[upward]
	toS, toP []timed[segment]

	ckpt        int64 // begin of the running checkpoint, 0 none
	checkpoints int
	wantCkpt    bool
	skew        bool // the secondary's stream differs
	opened      bool
	promoted    bool
	front       Front
	log         []timed[segment] // input log of the secondary's node, with the time when it was last given
}

// again is how long the log waits for the secondary's guest, us.
const again = 20_000

// giveAgain gives the secondary's guest what only the log has.
func (s *sim) giveAgain(all bool) {
	kept := s.log[:0]
	for _, x := range s.log {
		g := x.v
		end := g.seq + g.n
		if g.fin {
			end++
		}
		told, has := end <= s.C.una, end <= s.S.rcv
		if told && has {
			continue
		}
		if !has && (all || told && s.now-x.at > again) {
			x.at = s.now
			s.toS = append(s.toS, timed[segment]{s.now, g})
		}
		kept = append(kept, x)
	}
	s.log = kept
}

func newSim(t tb, cfg simConfig) *sim {
	s := &sim{cfg: cfg, skew: cfg.differAt > 0, rng: rand.New(rand.NewPCG(cfg.seed, 1)), w: protected(t, Config{})}
	s.p, s.s = twins(cfg.v6, s.rng.Uint32(), s.rng.Uint32(), s.rng.Uint32(), cfg.ts)
	s.p.partial, s.s.partial = true, true
	n := cfg.download
	if n < 0 {
		n = cfg.upload
	}
	s.data, s.up = pattern(n), pattern(cfg.upload + 1)[:cfg.upload]
	s.P, s.S = newEnd(cfg.download, 65535, true), newEnd(cfg.download, 65535, true)
	s.C = newEnd(cfg.upload, 65535<<4, true)
	s.P.peerWin, s.S.peerWin, s.C.peerWin = 60000, 60000, 60000
	s.w.onOut = func(x *wire) {
		at := s.now + cfg.net
		if x.p.Kind == frame.KindTCP && s.rng.Float64() < cfg.lossToClient && s.opened {
			return
		}
		s.toClient = append(s.toClient, timed[[]byte]{at, x.buf})
	}
	return s
}

// frameOf is the frame that a guest sends for g.
func (s *sim) frameOf(c *conn, g segment, other bool) []byte {
	flags := uint8(frame.ACK)
	if g.fin {
		flags |= frame.FIN
	}
	pay := []byte(nil)
	if g.n > 0 {
		pay = append(pay, s.data[g.seq:g.seq+g.n]...)
		if d := s.cfg.differAt; other && d > 0 && g.seq <= d && d < g.seq+g.n {
			pay[d-g.seq] ^= 0x40
		}
	}
	opts := c.opts()
	var blocks [][2]uint32
	for _, b := range g.sack {
		if len(blocks) < 3 {
			blocks = append(blocks, [2]uint32{c.ciss + 1 + uint32(b[0]), c.ciss + 1 + uint32(b[1])})
		}
	}
	if len(blocks) > 0 {
		opts = append(append([]byte{}, opts...), frametest.SACK(blocks...)...)
	}
	gso := uint16(0)
	if g.n > 1448 {
		gso = 1448
	}
	return frametest.TCP{Src: c.guest, Dst: c.client, Seq: c.iss + 1 + uint32(g.seq), Ack: c.ciss + 1 + uint32(g.ack), Flags: flags,
		Window: uint16(g.win >> 7), Options: opts, Payload: pay, Partial: c.partial, GSO: gso}.Bytes()
}

func (s *sim) cut(n int) int {
	switch s.rng.IntN(4) {
	case 0:
		return min(n, 1+s.rng.IntN(1448))
	case 1:
		return min(n, 1448)
	default:
		return min(n, 1448*(1+s.rng.IntN(40)))
	}
}

func (s *sim) fromP(g segment) {
	if s.p.ts != 0 {
		s.p.ts = 1000 + uint32(s.now/1000)
	}
	s.w.primary(s.frameOf(&s.p, g, false))
	s.flushLinks()
}

func (s *sim) fromS(g segment) {
	if s.s.ts != 0 {
		s.s.ts = 5000 + uint32(s.now/1000)
	}
	if s.ckpt != 0 {
		return // stopped describing; a copy of the primary's replaces the guest soon
	}
	s.w.secondary(s.frameOf(&s.s, g, s.skew))
	s.flushLinks()
}

// flushLinks moves what the world collected onto the delayed links.
func (s *sim) flushLinks() {
	for _, m := range s.w.toB {
		s.toBlink = append(s.toBlink, timed[any]{s.now + s.cfg.link, m})
	}
	s.w.toB = s.w.toB[:0]
	for _, u := range s.w.toA {
		s.toAlink = append(s.toAlink, timed[upward]{s.now + s.cfg.link, u})
	}
	s.w.toA = s.w.toA[:0]
	if len(s.w.diverged) > 0 {
		s.wantCkpt = true
	}
}

func due[T any](q *[]timed[T], now int64, f func(T)) {
	for len(*q) > 0 && (*q)[0].at <= now {
		v := (*q)[0].v
		*q = (*q)[1:]
		f(v)
	}
}

// say sends a client's segment.
func (s *sim) clientSays(g segment) {
	if s.rng.Float64() < s.cfg.lossToGuest {
		return
	}
	s.toGuest = append(s.toGuest, timed[segment]{s.now + s.cfg.net, g})
}

// headers is g as Input sees it.
func (s *sim) headers(g segment) *frame.Parsed {
	c := s.p
	flags := uint8(frame.ACK)
	if g.fin {
		flags |= frame.FIN
	}
	var p frame.Parsed
	frame.Parse(frametest.TCP{Src: c.client, Dst: c.guest, Seq: c.ciss + 1 + uint32(g.seq), Ack: s.p.iss + 1 + uint32(g.ack), Flags: flags,
		Window: 65000, Payload: make([]byte, g.n)}.Bytes(), &p)
	return &p
}

func (s *sim) tick() {
	s.now += tickLen
	if s.cfg.killAt != 0 && s.now >= s.cfg.killAt {
		s.soloTick()
		return
	}
	s.w.now = max(s.w.now, s.now*1000)
	w := s.w
	due(&s.toGuest, s.now, func(g segment) {
		w.e.Input(w.now, s.headers(g))
		w.e.Notify(w.now)
		w.collect()
		s.flushLinks()
		s.toBlink = append(s.toBlink, timed[any]{s.now + s.cfg.link, g})
		if s.rng.Float64() >= s.cfg.lossToA {
			s.toP = append(s.toP, timed[segment]{s.now + s.rng.Int64N(s.cfg.lagP+1), g})
		}
	})
	due(&s.toP, s.now, func(g segment) { s.P.input(s.now, g, s.cut, s.fromP) })
	due(&s.toBlink, s.now, func(v any) {
		switch v := v.(type) {
		case Message:
			w.got++
			w.d.Message(&v)
			w.collect()
			w.toA = append(w.toA, upward{confirm: w.got})
		case segment:
			h := s.headers(v)
			w.d.Input(w.now, h)
			w.collect()
			if s.cfg.log && h.SegEnd() != h.Seq {
				s.log = append(s.log, timed[segment]{s.now, v})
				w.logged(h.Key(false), h.Seq, h.SegEnd())
			}
			if s.rng.Float64() >= s.cfg.lossToS {
				s.toS = append(s.toS, timed[segment]{s.now + s.rng.Int64N(s.cfg.lag+1), v})
			}
		}
		s.flushLinks()
	})
	if s.ckpt == 0 {
		s.giveAgain(false)
		due(&s.toS, s.now, func(g segment) { s.S.input(s.now, g, s.cut, s.fromS) })
	}
	due(&s.toAlink, s.now, func(u upward) {
		w.toA = append([]upward{u}, w.toA...)
		w.pumpA(1)
		s.flushLinks()
	})
	due(&s.toClient, s.now, s.clientTakes)
	s.guest(&s.P, s.fromP)
	if s.ckpt == 0 {
		s.guest(&s.S, s.fromS)
	}
	s.client()
	w.e.Tick(w.now)
	w.collect()
	s.flushLinks()
	for len(s.cfg.checkpointAt) > 0 && s.now >= s.cfg.checkpointAt[0] {
		s.cfg.checkpointAt = s.cfg.checkpointAt[1:]
		s.wantCkpt = true
	}
	if s.wantCkpt && s.ckpt == 0 {
		s.ckpt = s.now
		w.e.BeginCheckpoint(w.now)
		w.collect()
	}
	if s.ckpt != 0 && s.now >= s.ckpt+3000 {
		s.endCheckpoint()
	}
}

// soloTick is a tick after the loss of the primary: the secondary's guest speaks, rewritten into the clients' space.
func (s *sim) soloTick() {
	w := s.w
	if !s.promoted {
		s.promoted = true
		s.toGuest, s.toP, s.toAlink = nil, nil, nil
		for _, x := range s.toBlink { // had left A before its end
			if m, ok := x.v.(Message); ok {
				w.d.Message(&m)
			} else {
				w.d.Input(w.now, s.headers(x.v.(segment)))
				s.toS = append(s.toS, timed[segment]{s.now, x.v.(segment)})
			}
		}
		w.collect()
		s.giveAgain(true)
		for f, side := range w.lent {
			if side == "primary" {
				delete(w.lent, f)
			}
		}
		frames, fronts := w.d.Promote(w.now)
		if len(fronts) > 0 {
			s.front = fronts[0]
		}
		for _, f := range frames {
			if f.Index >= 0 {
				w.takeBack(f)
			}
			s.speak(f.Buf)
		}
		w.collect()
		w.noLoans()
	}
	s.giveAgain(false)
	due(&s.toGuest, s.now, func(g segment) { s.S.input(s.now, g, s.cut, s.speakSegment) })
	due(&s.toS, s.now, func(g segment) { s.S.input(s.now, g, s.cut, s.speakSegment) })
	due(&s.toClient, s.now, s.clientTakes)
	s.guest(&s.S, s.speakSegment)
	s.client()
}

func (s *sim) client() {
	s.C.consume(1 << 20)
	s.C.timers(s.now, s.cut, s.clientSays)
	s.C.output(s.now, func(n int) int { return min(n, 1448) }, s.clientSays)
}

func (s *sim) speakSegment(g segment) {
	if s.s.ts != 0 {
		s.s.ts = 5000 + uint32(s.now/1000)
	}
	s.speak(s.frameOf(&s.s, g, s.skew))
}

// speak sends a frame of the promoted guest to the client.
func (s *sim) speak(buf []byte) {
	var p frame.Parsed
	frame.Parse(buf, &p)
	frame.Edit{SeqAdd: s.front.SeqOff, TSValAdd: s.front.TSOff}.Rewrite(buf, &p)
	if !p.Verify(buf) {
		s.w.t.Fatalf("a rewritten frame has a wrong checksum")
	}
	s.toClient = append(s.toClient, timed[[]byte]{s.now + s.cfg.net, buf})
}

func (s *sim) guest(e *tcpEnd, say func(segment)) {
	n := s.cfg.slowRead
	if n == 0 {
		n = 1 << 20
	}
	e.consume(n)
	e.timers(s.now, s.cut, say)
	e.output(s.now, s.cut, say)
}

// endCheckpoint makes the secondary a copy of the primary, its input log included.
func (s *sim) endCheckpoint() {
	w := s.w
	s.S = s.P
	s.S.ooo = append([][2]int(nil), s.P.ooo...)
	s.s.iss, s.s.ts = s.p.iss, s.p.ts
	s.skew = false
	s.toS = append([]timed[segment](nil), s.toP...)
	// What is on its way to the describer belongs to the old epoch; the input behind the mark is the new guest's.
	for _, x := range s.toBlink {
		if m, ok := x.v.(Message); ok {
			w.got++
			w.d.Message(&m)
			w.toA = append(w.toA, upward{confirm: w.got})
		} else {
			h := s.headers(x.v.(segment))
			w.d.Input(w.now, h)
			if s.cfg.log && h.SegEnd() != h.Seq {
				s.log = append(s.log, timed[segment]{s.now, x.v.(segment)})
				w.logged(h.Key(false), h.Seq, h.SegEnd())
			}
		}
	}
	s.toBlink = nil
	w.d.Reset(w.now)
	w.oracle.checkpoint()
	w.collect()
	s.flushLinks()
	w.now++
	w.e.EndCheckpoint(w.now, w.now)
	s.ckpt, s.wantCkpt = 0, false
	s.checkpoints++
	w.diverged = w.diverged[:0]
	w.collect()
	s.flushLinks()
}

// clientTakes is the arrival of a released frame at the client.
func (s *sim) clientTakes(buf []byte) {
	var p frame.Parsed
	frame.Parse(buf, &p)
	if p.Kind != frame.KindTCP {
		return
	}
	if p.Flags&frame.SYN != 0 {
		return
	}
	off := int(int32(uint32(p.Seq) - s.p.iss - 1))
	g := segment{seq: off, n: p.Len(), ack: int(int32(uint32(p.Ack) - s.p.ciss - 1)), win: int(p.Window) << 7, fin: p.Flags&frame.FIN != 0}
	for i, b := range buf[p.Payload:p.End] {
		if off+i < 0 || off+i >= len(s.data) || s.data[off+i] != b {
			s.w.t.Fatalf("client got a wrong byte at %d", off+i)
		}
	}
	s.C.input(s.now, g, s.cut, s.clientSays)
}

func (s *sim) open() {
	w := s.w
	var parsed frame.Parsed
	frame.Parse(s.p.synAck(), &parsed)
	w.oracle.flow(parsed.Key(true)).off = s.p.iss - s.s.iss
	w.input(s.p.clientSYN())
	w.primary(s.p.synAck())
	w.secondary(s.s.synAck())
	w.settle()
	w.input(s.p.fromClient(s.p.iss, 0, nil, 0, 0))
	s.toClient = nil
	s.opened = true
	if len(w.released) != 1 {
		w.t.Fatalf("the SYN+ACK was not released")
	}
}

func (s *sim) finished() bool {
	c := &s.C
	return c.una >= s.cfg.upload && c.peerFIN >= 0 && c.rcv > c.peerFIN && c.rcv >= len(s.data)
}

// run lets the simulation go until the client has everything.
func (s *sim) run() {
	s.open()
	limit := s.cfg.maxTime
	if limit == 0 {
		limit = 60_000_000
	}
	for !s.finished() {
		s.tick()
		if s.now > limit {
			s.w.t.Fatalf("no progress: client got %d of %d, %d of %d acknowledged, %d checkpoints\nP %+v\nS %+v\nC %+v\nengine %+v describer %+v", s.C.rcv, len(s.data),
				s.C.una, s.cfg.upload, s.checkpoints, s.P, s.S, s.C, s.w.e.Stats(), s.w.d.Stats())
		}
	}
}

func (s *sim) String() string {
	return fmt.Sprintf("%d ms, %d checkpoints, %+v", s.now/1000, s.checkpoints, s.w.e.Stats())
}

// TestProgress: with both nodes well, the client gets everything in bounded time, whatever the cuts, delays and
// losses, and the guests' congestion windows are driven by nothing but released frames.
func TestProgress(t *testing.T) {
	runs := map[string]simConfig{
		"download":               {download: 200000, upload: 100, lag: 500, link: 100, net: 1000},
		"download, no delay":     {download: 200000, upload: 100},
		"download, far client":   {download: 160000, upload: 100, lag: 500, link: 100, net: 20000},
		"download, slow link":    {download: 160000, upload: 100, lag: 500, link: 5000, net: 1000},
		"download, lossy":        {download: 160000, upload: 100, lag: 500, link: 100, net: 1000, lossToClient: 0.03, lossToGuest: 0.03},
		"upload":                 {download: 32, upload: 200000, lag: 500, link: 100, net: 1000},
		"upload, secondary late": {download: 32, upload: 200000, lag: 8000, link: 100, net: 1000},
		"upload, lossy":          {download: 32, upload: 200000, lag: 500, link: 100, net: 1000, lossToClient: 0.03, lossToGuest: 0.03},
		"upload, S loses input":  {download: 32, upload: 200000, lag: 500, link: 100, net: 1000, lossToS: 0.02},
		"upload, slow reader":    {download: 32, upload: 200000, lag: 500, link: 100, net: 1000, slowRead: 300},
		"echo":                   {download: -1, upload: 200000, lag: 500, link: 100, net: 1000},
		"echo, lossy":            {download: -1, upload: 100000, lag: 500, link: 100, net: 1000, lossToClient: 0.03, lossToGuest: 0.03, lossToS: 0.01},
		"primary late, lossy":    {download: 160000, upload: 1000, lagP: 3000, lag: 300, link: 100, net: 1000, lossToClient: 0.02, lossToGuest: 0.02},
		"primary loses input":    {download: 32, upload: 200000, lag: 500, lagP: 500, link: 100, net: 1000, lossToA: 0.02},
		"primary late":           {download: 200000, upload: 100, lagP: 3000, lag: 300, link: 100, net: 1000},
		"primary late, echo":     {download: -1, upload: 200000, lagP: 3000, lag: 300, link: 100, net: 1000},
		"both ways":              {download: 150000, upload: 150000, lag: 1000, link: 200, net: 2000, lossToClient: 0.01},
	}
	for name, cfg := range runs {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(4) {
				cfg.seed, cfg.v6, cfg.ts, cfg.log = seed+1, seed&1 != 0, seed&2 == 0, (seed^seed>>1^seed>>2)&1 != 0
				s := newSim(t, cfg)
				s.run()
				t.Log(s)
			}
		})
	}
}

// TestInvariant6CheckpointHealsEverything: checkpoints at any time, and streams that differ, change nothing for the
// client.
func TestInvariant6CheckpointHealsEverything(t *testing.T) {
	runs := map[string]simConfig{
		"download, periodic": {download: 160000, upload: 100, lag: 500, link: 100, net: 1000,
			checkpointAt: []int64{1000, 6000, 9000, 9500, 14000, 20000, 30000}},
		"upload, periodic": {download: 32, upload: 200000, lag: 500, lagP: 500, link: 100, net: 1000,
			checkpointAt: []int64{1000, 6000, 9000, 9500, 14000, 20000, 30000}},
		"echo, lossy, periodic": {download: -1, upload: 100000, lag: 500, lagP: 500, link: 100, net: 1000, lossToClient: 0.02, lossToGuest: 0.02,
			lossToS: 0.01, checkpointAt: []int64{1000, 6000, 12000, 50000, 100000, 300000}},
		"streams differ": {download: 160000, upload: 100, lag: 500, lagP: 500, link: 100, net: 1000, differAt: 123456},
		"streams differ, lossy": {download: 160000, upload: 100, lag: 500, lagP: 500, link: 100, net: 1000, differAt: 123456,
			lossToClient: 0.02, lossToGuest: 0.02},
	}
	for name, cfg := range runs {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(8) {
				cfg.seed, cfg.v6, cfg.ts, cfg.log = seed+1, seed&1 != 0, seed&2 == 0, (seed^seed>>1^seed>>2)&1 != 0
				cfg.checkpointAt = append([]int64(nil), cfg.checkpointAt...)
				s := newSim(t, cfg)
				s.run()
				if s.checkpoints == 0 {
					t.Fatal("there was no checkpoint")
				}
				t.Log(s)
			}
		})
	}
}

// TestInvariant4TakeoverKeepsTheStream: the primary dies at any time, a checkpoint perhaps before or under way, and
// the client gets its stream to the end from the secondary.
func TestInvariant4TakeoverKeepsTheStream(t *testing.T) {
	runs := map[string]simConfig{
		"download":        {download: 160000, upload: 100, lag: 500, lagP: 300, link: 100, net: 1000},
		"upload":          {download: 32, upload: 200000, lag: 500, lagP: 300, link: 100, net: 1000},
		"echo":            {download: -1, upload: 200000, lag: 500, lagP: 300, link: 100, net: 1000},
		"echo, lossy":     {download: -1, upload: 100000, lag: 500, link: 100, net: 1000, lossToClient: 0.02, lossToGuest: 0.02, lossToS: 0.01},
		"with checkpoint": {download: 160000, upload: 1000, lag: 500, lagP: 300, link: 100, net: 1000, checkpointAt: []int64{4000}},
	}
	for name, cfg := range runs {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(24) {
				cfg.seed, cfg.v6, cfg.ts, cfg.log = seed+1, seed&1 != 0, seed&2 == 0, (seed^seed>>1^seed>>2)&1 != 0
				cfg.killAt = 500 + int64(seed)*700
				cfg.checkpointAt = append([]int64(nil), cfg.checkpointAt...)
				newSim(t, cfg).run()
			}
		})
	}
}

// TestSimulatedPairs draws whole runs: traffic, delays, losses, checkpoints, differences, the loss of the primary. The
// seed of a failing run is in its name.
func TestSimulatedPairs(t *testing.T) {
	runs := uint64(200)
	if testing.Short() {
		runs = 10
	}
	for seed := range runs {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { newSim(t, randomRun(seed)).run() })
	}
}

func randomRun(seed uint64) simConfig {
	r := rand.New(rand.NewPCG(seed, 7))
	maybe := func(p float64) float64 {
		if r.IntN(2) == 0 {
			return 0
		}
		return r.Float64() * p
	}
	cfg := simConfig{seed: seed, log: seed&1 != 0, v6: r.IntN(2) == 0, ts: r.IntN(3) > 0, lag: r.Int64N(4000), lagP: r.Int64N(4000), link: 50 + r.Int64N(1000), net: 200 + r.Int64N(5000),
		lossToClient: maybe(0.03), lossToGuest: maybe(0.03), lossToS: maybe(0.02), lossToA: maybe(0.02)}
	switch r.IntN(3) {
	case 0:
		cfg.download, cfg.upload = r.IntN(120000), 100
	case 1:
		cfg.download, cfg.upload = 32, r.IntN(120000)+1
	default:
		cfg.download, cfg.upload = -1, r.IntN(60000)+1
	}
	if r.IntN(2) == 0 {
		for at := r.Int64N(10000); at < 200000; at += 1000 + r.Int64N(40000) {
			cfg.checkpointAt = append(cfg.checkpointAt, at)
		}
	}
	if r.IntN(3) == 0 && cfg.download > 10 {
		cfg.differAt = 1 + r.IntN(cfg.download-1)
	}
	if r.IntN(2) == 0 && cfg.differAt == 0 {
		cfg.killAt = r.Int64N(60000)
	}
	if r.IntN(4) == 0 {
		cfg.slowRead = 100 + r.IntN(2000)
	}
	return cfg
}
