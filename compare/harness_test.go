package compare

import (
	"fmt"
	"time"

	"colod/internal/frame"
	"colod/internal/frame/frametest"
)

// tb is what testing.TB and rapid.T have in common.
type tb interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
}

// world is an engine and a describer joined by two ordered links, with the pools, the oracle and a record of what
// was released. Nothing moves over a link until a test pumps it.
type world struct {
	t   tb
	e   *Engine
	d   *Describer
	now int64

	toB []Message // engine to describer
	toA []upward  // describer to engine
	got uint64    // messages that the describer's side has taken

	lent     map[*Frame]string
	released []wire
	diverged []Divergence
	oracle   oracle
	onOut    func(*wire)
	logf     func(string, ...any) // where the story goes, nil: nowhere
}

// upward is one item on the link from B to A.
type upward struct {
	def     *FlowDef
	desc    *Descriptor
	raw     *Raw
	confirm uint64
	logged  *loggedRange
}

// loggedRange are client bytes that the log of the secondary's node has.
type loggedRange struct {
	key      frame.FlowKey
	from, to frame.Num
}

// wire is a released frame as it would be sent.
type wire struct {
	buf []byte
	p   frame.Parsed
	why Why
}

func (w wire) payload() []byte { return w.buf[w.p.Payload:w.p.End] }

func newWorld(t tb, cfg Config) *world {
	cfg.Key = [16]byte{1, 2, 3}
	cfg.Local = cfg.Local || localWorlds
	w := &world{t: t, e: NewEngine(cfg), d: NewDescriber(cfg), now: int64(time.Second), lent: make(map[*Frame]string)}
	w.oracle.init(t)
	return w
}

// protected is a world after its arming checkpoint.
func protected(t tb, cfg Config) *world {
	w := newWorld(t, cfg)
	w.checkpoint()
	return w
}

func (w *world) tick(d time.Duration) {
	w.now += int64(d)
	w.e.Tick(w.now)
	w.collect()
}

func (w *world) lend(buf []byte, side string) *Frame {
	f := &Frame{Buf: append(make([]byte, 0, len(buf)), buf...), KTime: w.now}
	frame.Parse(f.Buf, &f.P)
	w.lent[f] = side
	return f
}

func (w *world) takeBack(f *Frame) {
	if _, ok := w.lent[f]; !ok {
		w.t.Fatalf("frame given back that was not lent (or twice): %v", f.P.Kind)
	}
	delete(w.lent, f)
	if localWorlds {
		for i := range f.Buf {
			f.Buf[i] ^= 0xa5 // who reads it from now on reads wrong
		}
	}
}

func (w *world) tell(format string, args ...any) {
	if w.logf != nil {
		w.logf(format, args...)
	}
}

func words(p *frame.Parsed) string {
	return fmt.Sprintf("%v flags %#x seq %d len %d ack %d win %d sack %d ts %d", p.Kind, p.Flags, p.Seq, p.Len(), p.Ack, p.Window, p.SACKLen/8, p.TSVal)
}

// primary lets the primary's guest send buf.
func (w *world) primary(buf []byte) {
	w.now++
	f := w.lend(buf, "primary")
	w.tell("primary: %s", words(&f.P))
	w.oracle.primary(f)
	w.e.Primary(w.now, f)
	w.collect()
}

// secondary lets the secondary's guest send buf.
func (w *world) secondary(buf []byte) {
	w.now++
	f := w.lend(buf, "secondary")
	w.tell("secondary: %s", words(&f.P))
	w.oracle.secondary(f)
	w.d.Secondary(w.now, f)
	w.collect()
}

// input is a client's frame: at both nodes, as the kernel and the mirror bring it.
func (w *world) input(buf []byte) {
	w.now++
	var p frame.Parsed
	frame.Parse(buf, &p)
	w.tell("client: %s", words(&p))
	w.e.Input(w.now, &p)
	w.d.Input(w.now, &p)
	w.collect()
}

// collect takes what both sides want done.
func (w *world) collect() {
	out := w.e.Out()
	for i := range out.Releases {
		w.release(&out.Releases[i])
	}
	w.toB = append(w.toB, out.Messages...)
	w.diverged = append(w.diverged, out.Divergences...)
	for _, f := range out.Free {
		w.takeBack(f)
	}
	out.Reset()
	o := w.d.Out()
	for _, def := range o.FlowDefs {
		w.toA = append(w.toA, upward{def: &def})
	}
	for _, d := range o.Descriptors {
		d.Digests = append([][DigestLen]byte(nil), d.Digests...)
		w.toA = append(w.toA, upward{desc: &d})
	}
	for _, r := range o.Raws {
		w.toA = append(w.toA, upward{raw: &r})
	}
	for _, f := range o.Free {
		w.takeBack(f)
	}
	o.Reset()
}

func (w *world) release(r *Release) {
	buf := append([]byte(nil), r.Head[:r.HeadLen]...)
	if r.F != nil {
		if _, ok := w.lent[r.F]; !ok {
			w.t.Fatalf("release of a frame that is not lent")
		}
		buf = append(buf, r.F.Buf[r.Payload[0]:r.Payload[1]]...)
	}
	if len(buf) != r.Len() {
		w.t.Fatalf("release of length %d says %d", len(buf), r.Len())
	}
	x := wire{buf: buf, why: r.Reason}
	frame.Parse(buf, &x.p)
	w.released = append(w.released, x)
	w.tell("release %s: %s", x.why, words(&x.p))
	w.oracle.released(&x)
	if r.Last {
		w.takeBack(r.F)
	} else if r.F != nil && r.HeadLen == 0 {
		w.t.Fatalf("part of a frame released without a head")
	}
	if w.onOut != nil {
		w.onOut(&x)
	}
}

// pumpB delivers up to n messages to the describer.
func (w *world) pumpB(n int) bool {
	moved := false
	for ; n > 0 && len(w.toB) > 0; n-- {
		m := w.toB[0]
		w.toB = w.toB[1:]
		w.got++
		w.tell("message %d: ask %d+%d", m.Kind, m.Ask.Seq, m.Ask.Len)
		w.d.Message(&m)
		w.collect()
		w.toA = append(w.toA, upward{confirm: w.got})
		moved = true
	}
	return moved
}

// pumpA delivers up to n items to the engine, as one batch.
func (w *world) pumpA(n int) bool {
	moved := false
	for ; n > 0 && len(w.toA) > 0; n-- {
		u := w.toA[0]
		w.toA = w.toA[1:]
		w.now++
		switch {
		case u.def != nil:
			w.e.FlowDef(u.def.ID, u.def.Key)
		case u.desc != nil:
			w.tell("descriptor %d epoch %d: flow %d flags %#x seq %d len %d ack %d win %d", u.desc.Kind, u.desc.Epoch, u.desc.Flow, u.desc.Flags,
				u.desc.Seq, u.desc.Len, u.desc.Ack, u.desc.Window)
			w.e.Descriptor(w.now, u.desc)
		case u.raw != nil:
			w.e.Raw(w.now, u.raw)
		case u.logged != nil:
			w.tell("logged %d to %d", u.logged.from, u.logged.to)
			w.e.Logged(w.now, u.logged.key, u.logged.from, u.logged.to)
		default:
			w.e.Received(w.now, u.confirm)
		}
		moved = true
	}
	w.collect()
	return moved
}

// logged puts client's bytes into the log of the secondary's node, and the news of it on the link.
func (w *world) logged(key frame.FlowKey, from, to frame.Num) {
	for n := from; n != to; n++ {
		w.oracle.flow(key).logged[uint32(n)] = true
	}
	w.toA = append(w.toA, upward{logged: &loggedRange{key, from, to}})
}

// settle pumps both links until they are empty.
func (w *world) settle() {
	for i := 0; w.pumpA(1000) || w.pumpB(1000); i++ {
		if i > 10000 {
			w.t.Fatal("the links never come to rest")
		}
	}
}

// checkpoint runs a whole checkpoint with both guests silent in it.
func (w *world) checkpoint() {
	w.tell("checkpoint")
	w.e.BeginCheckpoint(w.now)
	w.pumpB(1 << 20)
	w.now++
	w.d.Reset(w.now)
	w.oracle.checkpoint()
	w.collect()
	w.pumpA(1 << 20)
	w.now++
	w.e.EndCheckpoint(w.now, w.now)
	w.collect()
}

// noLoans checks that no frame is lent any more.
func (w *world) noLoans() {
	w.t.Helper()
	for f, side := range w.lent {
		w.t.Fatalf("frame of the %s still held: %v seq %d len %d flags %#x", side, f.P.Kind, f.P.Seq, f.P.Len(), f.P.Flags)
	}
}

func (w *world) noDivergence() {
	w.t.Helper()
	for _, d := range w.diverged {
		w.t.Fatalf("unexpected divergence: %s", showDivergence(&d))
	}
}

func showDivergence(d *Divergence) string {
	return fmt.Sprintf("%s seq %d len %d exact %t position %d frame offset %d %s", d.Reason, d.Seq, d.Len, d.Exact, d.Position,
		d.FrameOffset, d.Detail)
}

// oracle is the slow and obvious check beside the engine: it keeps every byte that each guest ever said and looks
// at every release.
type oracle struct {
	t     tb
	flows map[frame.FlowKey]*oracleFlow
	off   bool // looks at nothing but checksums
}

type oracleFlow struct {
	off     uint32          // primary's space minus secondary's
	said    map[uint32]byte // by the secondary, in its own space
	logged  map[uint32]bool // client's bytes in the log of the secondary's node
	fins    map[uint32]bool
	pFINs   map[uint32]bool
	pBlocks [][2]frame.Num
	pEnd    frame.Num // highest that the primary sent, and what of it the last checkpoint covers
	cover   frame.Num
	pSent   bool
	covers  bool
	syn     bool
	rst     bool
	ack     frame.Num // highest of the secondary
	edge    frame.Num
	acked   bool
	covered map[uint32]byte
	pAck    frame.Num
	pAcked  bool
	lastTS  frame.Num
	tsSeen  bool
	got     map[uint32]byte // released
	gotFIN  bool
	scale   uint8
	blocks  [][2]frame.Num // of the secondary, all that it ever sent
	grams   []string       // of the secondary, not yet used
	all     map[string]bool
}

func (o *oracle) init(t tb) {
	o.t, o.flows = t, make(map[frame.FlowKey]*oracleFlow)
}

func (o *oracle) flow(key frame.FlowKey) *oracleFlow {
	f := o.flows[key]
	if f == nil {
		f = &oracleFlow{said: map[uint32]byte{}, logged: map[uint32]bool{}, fins: map[uint32]bool{}, pFINs: map[uint32]bool{}, covered: map[uint32]byte{}, got: map[uint32]byte{},
			all: map[string]bool{}}
		o.flows[key] = f
	}
	return f
}

func (o *oracle) primary(f *Frame) {
	p := &f.P
	if p.Kind != frame.KindTCP {
		return
	}
	fl := o.flow(p.Key(true))
	if p.Flags&frame.ACK != 0 && (!fl.pAcked || p.Ack.After(fl.pAck)) {
		fl.pAck, fl.pAcked = p.Ack, true
	}
	for i := range p.SACKLen / 8 {
		l, r := p.SACK(f.Buf, i)
		fl.pBlocks = append(fl.pBlocks, [2]frame.Num{l, r})
	}
	if p.Flags&frame.SYN != 0 {
		fl.scale = uint8(max(p.WScale, 0))
	}
	if p.Flags&frame.FIN != 0 {
		fl.pFINs[uint32(p.SegEnd())-1] = true
	}
	if p.Flags&frame.RST == 0 && (!fl.pSent || p.SegEnd().After(fl.pEnd) || p.Flags&frame.SYN != 0) {
		fl.pEnd, fl.pSent = p.SegEnd(), true
	}
	for i, b := range f.Buf[p.Payload:p.End] {
		fl.covered[uint32(p.Seq)+uint32(i)] = b // becomes valid at a checkpoint
	}
}

func (o *oracle) secondary(f *Frame) {
	p := &f.P
	fl := o.flow(p.Key(true))
	if p.Kind != frame.KindTCP {
		s := gram(f.Buf, p)
		fl.grams = append(fl.grams, s)
		fl.all[s] = true
		return
	}
	if p.Flags&frame.ACK != 0 {
		scale := fl.scale
		if p.Flags&frame.SYN != 0 {
			scale = 0
		}
		if !fl.acked || p.Ack.AtLeast(fl.ack) {
			fl.ack = p.Ack
		}
		if e := p.Ack.Add(uint32(p.Window) << scale); !fl.acked || e.After(fl.edge) {
			fl.edge = e
		}
		fl.acked = true
		for i := range p.SACKLen / 8 {
			l, r := p.SACK(f.Buf, i)
			fl.blocks = append(fl.blocks, [2]frame.Num{l, r})
		}
	}
	if p.Flags&frame.SYN != 0 {
		fl.syn = true
	}
	if p.Flags&frame.RST != 0 {
		fl.rst = true
	}
	for i, b := range f.Buf[p.Payload:p.End] {
		fl.said[uint32(p.Seq)+uint32(i)] = b
	}
	if p.Flags&frame.FIN != 0 {
		fl.fins[uint32(p.SegEnd())-1] = true
	}
}

// checkpoint makes all that the primary said the secondary's too.
func (o *oracle) checkpoint() {
	for _, fl := range o.flows {
		fl.said, fl.fins = map[uint32]byte{}, map[uint32]bool{}
		for k, v := range fl.covered {
			fl.said[k] = v
		}
		fl.cover, fl.covers = fl.pEnd, fl.pSent
		fl.blocks = append([][2]frame.Num(nil), fl.pBlocks...)
		for k := range fl.pFINs {
			fl.fins[k] = true
		}
		fl.off = 0
		if fl.pAcked {
			fl.ack, fl.acked = fl.pAck, true
		}
		fl.edge = fl.ack.Add(1 << 29)
	}
}

func gram(buf []byte, p *frame.Parsed) string {
	from, to, meta := compared(buf, p)
	return fmt.Sprintf("%x:%s", meta, buf[from:to])
}

func (o *oracle) released(x *wire) {
	p := &x.p
	if !p.Verify(x.buf) && !o.off {
		o.t.Fatalf("released a %v frame has a wrong checksum: % x", p.Kind, x.buf)
	}
	if o.off {
		return
	}
	fl := o.flow(p.Key(true))
	if p.Kind != frame.KindTCP {
		s := gram(x.buf, p)
		if x.why == WhyAgreed && !fl.all[s] {
			o.t.Fatalf("released a %v frame that the secondary did not send", p.Kind)
		}
		if quiet(p.Kind) {
			fl.all[s] = true // its repetitions tell nothing new
		}
		return
	}
	if p.HasTS {
		if ts := frame.Num(p.TSVal); fl.tsSeen && ts.Before(fl.lastTS) {
			o.t.Fatalf("released timestamp %d after %d", ts, fl.lastTS)
		} else {
			fl.lastTS, fl.tsSeen = ts, true
		}
	}
	for i, b := range x.payload() {
		seq := uint32(p.Seq) + uint32(i)
		fl.got[seq] = b
		if x.why == WhySolo || x.why == WhyCovered {
			continue
		}
		if fl.covers && frame.Num(seq).Before(fl.cover) {
			continue // in the state that was copied, whether or not it was ever seen here
		}
		if s, ok := fl.said[seq-fl.off]; !ok || s != b {
			o.t.Fatalf("invariant 1: byte at %d released, said by the secondary: %t %#x, released %#x", seq, ok, s, b)
		}
	}
	if p.Flags&frame.FIN != 0 {
		fl.gotFIN = true
	}
	if x.why == WhySolo || x.why == WhyCovered {
		return
	}
	if p.Flags&frame.FIN != 0 && !fl.fins[uint32(p.SegEnd())-1-fl.off] {
		o.t.Fatalf("invariant 1: FIN at %d released, not sent by the secondary", p.SegEnd()-1)
	}
	if p.Flags&frame.SYN != 0 && !fl.syn {
		o.t.Fatalf("invariant 1: SYN released, not sent by the secondary")
	}
	if p.Flags&frame.RST != 0 {
		if !fl.rst {
			o.t.Fatalf("invariant 1: RST released, not sent by the secondary")
		}
		return
	}
	if p.Flags&frame.ACK != 0 {
		has := fl.ack
		for fl.acked && fl.logged[uint32(has)] {
			has++
		}
		if !fl.acked || p.Ack.After(has) {
			o.t.Fatalf("invariant 3: ack %d released, the secondary has acknowledged %d (%t) and its node has logged up to %d", p.Ack, fl.ack, fl.acked, has)
		}
		for i := range p.SACKLen / 8 {
			for l, r := p.SACK(x.buf, i); l != r; l++ {
				if !fl.has(l) {
					o.t.Fatalf("invariant 3: block up to %d released, the secondary does not have %d", r, l)
				}
			}
		}
		scale := fl.scale
		if p.Flags&frame.SYN != 0 {
			scale = 0
		}
		if e := p.Ack.Add(uint32(p.Window) << scale); e.After(fl.edge) && p.Window > 0 {
			o.t.Fatalf("right edge %d released, the secondary offers %d", e, fl.edge)
		}
	}
}

// has says whether the secondary has the client's byte at n.
func (fl *oracleFlow) has(n frame.Num) bool {
	if n.Before(fl.ack) {
		return true
	}
	for _, b := range fl.blocks {
		if n.In(b[0], b[1]) {
			return true
		}
	}
	return false
}

// conn builds the frames of one connection as one guest sends them.
type conn struct {
	guest, client frametest.Addr
	iss           uint32 // of this guest
	ciss          uint32 // of the client
	ts            uint32 // 0: no timestamps
	partial       bool
}

func (c *conn) opts() []byte {
	if c.ts == 0 {
		return nil
	}
	return frametest.TS(c.ts, 77)
}

// data is payload at stream offset off (0 is the first byte after the SYN).
func (c *conn) data(off int, payload []byte, flags uint8, ack uint32, win uint16) []byte {
	return frametest.TCP{Src: c.guest, Dst: c.client, Seq: c.iss + 1 + uint32(off), Ack: c.ciss + 1 + ack, Flags: flags | frame.ACK,
		Window: win, Options: c.opts(), Payload: payload, Partial: c.partial}.Bytes()
}

func (c *conn) synAck() []byte {
	o := []byte{2, 4, 5, 0xb4, 1, 3, 3, 7}
	if c.ts != 0 {
		o = frametest.SYNOptions(1460, 7, c.ts, 77)
	}
	return frametest.TCP{Src: c.guest, Dst: c.client, Seq: c.iss, Ack: c.ciss + 1, Flags: frame.SYN | frame.ACK, Window: 65000, Options: o,
		Partial: c.partial}.Bytes()
}

// fromClient is a client's segment; off is how many of the guest's bytes it acknowledges, piss the initial number
// that clients see.
func (c *conn) fromClient(piss uint32, seq int, payload []byte, flags uint8, off int) []byte {
	return frametest.TCP{Src: c.client, Dst: c.guest, Seq: c.ciss + 1 + uint32(seq), Ack: piss + 1 + uint32(off), Flags: flags | frame.ACK,
		Window: 65000, Payload: payload}.Bytes()
}

func (c *conn) clientSYN() []byte {
	return frametest.TCP{Src: c.client, Dst: c.guest, Seq: c.ciss, Flags: frame.SYN, Window: 65000,
		Options: frametest.SYNOptions(1460, 7, 99, 0)}.Bytes()
}

// twins are the same connection at both guests.
func twins(v6 bool, piss, siss, ciss uint32, ts bool) (p, s conn) {
	p = conn{guest: frametest.A("192.0.2.10:80"), client: frametest.A("198.51.100.7:40000"), iss: piss, ciss: ciss}
	if v6 {
		p.guest, p.client = frametest.A("[2001:db8::10]:80"), frametest.A("[2001:db8:1::7]:40000")
	}
	s = p
	s.iss = siss
	if ts {
		p.ts, s.ts = 1000, 5000
	}
	return p, s
}

// open opens the connection on both sides up to the client's third segment.
func (w *world) open(p, s *conn) {
	var parsed frame.Parsed
	frame.Parse(p.synAck(), &parsed)
	w.oracle.flow(parsed.Key(true)).off = p.iss - s.iss
	w.input(p.clientSYN())
	w.secondary(s.synAck())
	w.primary(p.synAck())
	w.settle()
	w.input(p.fromClient(p.iss, 0, nil, 0, 0))
}

func pattern(n int) []byte {
	b := make([]byte, n)
	x := uint32(n)*2654435761 + 12345
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	return b
}
