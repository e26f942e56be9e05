package compare

import "colod/internal/frame"

// maxDoubts bounds the open questions for bytes that a rule may tolerate; beyond it a difference is a divergence at once.
const maxDoubts = 64

// Tolerated tells of one use of a rule.
type Tolerated struct {
	Rule  int // index in Config.Tolerances
	Key   frame.FlowKey
	Epoch uint32
	Bytes int // that differed and were hidden; a whole datagram's when it was not compared
	// Seq is where the range began that was looked at, Again that it was a repetition.
	Seq   frame.Num
	Again bool
}

// ToleranceStats count the uses of one rule since the engine was made.
type ToleranceStats struct {
	Uses  uint64
	Bytes uint64
	// Followed counts the divergences in connections in which the rule had hidden something since the last
	// checkpoint: signs that it hides more than it should.
	Followed uint64
}

// doubt is a difference of which the rules are to decide once the secondary's bytes are here.
type doubt struct {
	id    uint32 // of the question; 0: none
	epoch uint32
	sid   uint32
	s     span   // of a stream
	index uint64 // of a datagram
	f     *Frame // the primary's datagram
}

// tolerance is what a flow has when rules are about it.
type tolerance struct {
	rules       []int
	uncompared  int // the rule that lets its datagrams out; -1: none
	data, again doubt
	refused     doubt // the pair of datagrams that was looked at last, in vain
	used        int   // the rule used last, valid with usedEpoch
	usedEpoch   uint32
	usedOK      bool
}

// rulesFor is the tolerance of a new flow, nil when no rule is about it.
func (e *Engine) rulesFor(k *frame.FlowKey) *tolerance {
	var tl *tolerance
	for i := range e.cfg.Tolerances {
		r := &e.cfg.Tolerances[i]
		if !r.matches(k) {
			continue
		}
		if tl == nil {
			tl = &tolerance{uncompared: -1}
		}
		if r.Uncompared {
			tl.uncompared = i
		} else {
			tl.rules = append(tl.rules, i)
		}
	}
	return tl
}

// SetTolerances replaces the rules, such as for a recording that is run again with others. Their counters begin at 0.
func (e *Engine) SetTolerances(rules []Tolerance) {
	e.cfg.Tolerances, e.tolerated = rules, nil
	clear(e.doubts)
	for _, fl := range e.ring {
		fl.tol = e.rulesFor(&fl.key)
	}
}

// Tolerances are the uses of Config.Tolerances, in their order.
func (e *Engine) Tolerances() []ToleranceStats { return append([]ToleranceStats(nil), e.tolerated...) }

// live says whether the answer to d still means anything.
func (e *Engine) live(fl *flow, d *doubt) bool {
	return d.id != 0 && d.epoch == e.epoch && d.sid == fl.sid && !fl.dead
}

// doubting says whether the agreed position of fl waits for a decision of the rules.
func (e *Engine) doubting(fl *flow) bool { return fl.tol != nil && e.live(fl, &fl.tol.data) }

// ask opens d. False means that too many are open.
func (e *Engine) openDoubt(fl *flow, d *doubt, a Ask) bool {
	if len(e.doubts) >= maxDoubts {
		return false
	}
	e.nextID++
	d.id, d.epoch, d.sid = e.nextID, e.epoch, fl.sid
	a.ID = d.id
	if e.doubts == nil {
		e.doubts = make(map[uint32]*flow)
	}
	e.doubts[d.id] = fl
	e.send(Message{Kind: MessageAskRaw, Ask: a})
	return true
}

// doubted asks for the secondary's bytes of the differing range s instead of declaring a divergence. False means
// that the rules do not help.
func (e *Engine) doubted(fl *flow, s span) bool {
	if len(fl.tol.rules) == 0 || fl.broken == e.round {
		return false
	}
	d := &fl.tol.data
	if s.seq != fl.t.v {
		d = &fl.tol.again
		if e.live(fl, d) {
			return true // one repetition after the other; askAgain follows
		}
	} else if e.live(fl, d) {
		return d.s == s
	}
	*d = doubt{s: s}
	return e.openDoubt(fl, d, Ask{Flow: fl.sid, Seq: s.seq, Len: s.n})
}

// doubtTooLong declares the difference that f waits for, because the answer does not come.
func (e *Engine) doubtTooLong(now int64, fl *flow) bool {
	for _, d := range [2]*doubt{&fl.tol.data, &fl.tol.again} {
		if !e.live(fl, d) {
			continue
		}
		delete(e.doubts, d.id)
		s := d.s
		*d = doubt{}
		if fl.key.Kind != frame.KindTCP {
			continue
		}
		if id := e.declare(now, fl, s); id != 0 {
			e.send(Message{Kind: MessageAskRaw, Ask: Ask{Flow: fl.sid, Seq: s.seq, Len: s.n, ID: id}})
		}
		return true
	}
	return false
}

// settleDoubt takes the answer to a doubt. False means that raw is none.
func (e *Engine) settleDoubt(now int64, raw *Raw) bool {
	fl := e.doubts[raw.ID]
	if fl == nil {
		return false
	}
	delete(e.doubts, raw.ID)
	for _, slot := range [2]*doubt{&fl.tol.data, &fl.tol.again} {
		if slot.id != raw.ID {
			continue
		}
		d := *slot
		live := e.live(fl, slot)
		*slot = doubt{}
		switch {
		case !live || e.holding:
		case fl.key.Kind != frame.KindTCP:
			e.settleDatagram(now, fl, &d, raw.Data)
		case slot == &fl.tol.data:
			e.settleData(now, fl, d.s, raw)
		default:
			e.settleAgain(now, fl, d.s, raw)
		}
	}
	return true
}

// settleData decides on a range at the agreed position.
func (e *Engine) settleData(now int64, fl *flow, s span, raw *Raw) {
	t := &fl.t
	end := s.seq.Add(s.n)
	if !t.known || t.v != s.seq || t.reachFor(end).Before(end) {
		e.advance(now, fl) // it moved by another way
		return
	}
	if !e.decide(fl, e.around(t, s, raw.Data), s, false) {
		e.refuse(now, fl, s, raw)
		return
	}
	t.v = end
	e.flush(now, fl)
	e.swait.rest(fl)
	e.advance(now, fl)
	e.secondaryAck(now, fl, false)
	e.watch(now, fl)
}

// settleAgain decides on a repeated segment.
func (e *Engine) settleAgain(now int64, fl *flow, s span, raw *Raw) {
	t := &fl.t
	for i := range t.again.len() {
		f := *t.again.at(i)
		if againSpan(t, f) != s {
			continue
		}
		off := f.P.Payload + int(s.seq-f.P.Seq)
		w := widen(f.Buf[f.P.Payload:f.P.End], off-f.P.Payload, int(s.n), raw.Data)
		if w != nil {
			w.starts = append(w.starts, 0)
		}
		if !e.decide(fl, w, s, true) {
			e.refuse(now, fl, s, raw)
			return
		}
		t.again.remove(i)
		e.unkeep(f)
		e.segment(now, fl, f, f.link.start, f.link.end, true, true, WhyAgreed)
		break
	}
	for i := range t.again.len() { // those that came in between
		(*t.again.at(i)).link.index = 0
	}
	e.askAgain(fl)
}

// refuse declares the difference of s, whose bytes are here.
func (e *Engine) refuse(now int64, fl *flow, s span, raw *Raw) {
	if id := e.declare(now, fl, s); id != 0 {
		e.Raw(now, &Raw{ID: id, Flow: raw.Flow, Seq: raw.Seq, Data: raw.Data})
	}
}

// around is the window of the range s, with what the primary said before it as far as that is held.
func (e *Engine) around(t *tcpState, s span, theirs []byte) *window {
	var all []byte
	var starts []int
	var at, next frame.Num // of all[0], and behind all
	end := s.seq.Add(s.n)
	for i := range t.held.len() {
		f := *t.held.at(i)
		p := &f.P
		if p.Seq.AtLeast(end) {
			break
		}
		from := p.Payload
		switch {
		case len(all) == 0:
			at = p.Seq
			starts = append(starts, 0)
		case p.Seq.After(next):
			return nil // cannot be: the range is held as a whole
		default:
			if p.Seq == next {
				starts = append(starts, len(all))
			}
			from += int(uint32(next - p.Seq))
		}
		if from < p.End {
			all = append(all, f.Buf[from:p.End]...)
		}
		next = at.Add(uint32(len(all)))
	}
	if len(all) == 0 || s.seq.Before(at) || next.Before(end) {
		return nil
	}
	from := int(s.seq - at)
	w := widen(all[:from+int(s.n)], from, int(s.n), theirs)
	if w != nil {
		w.starts = starts
	}
	return w
}

// widen is the window of mine in which [from, from+n) are theirs; nil when theirs has another length.
func widen(mine []byte, from, n int, theirs []byte) *window {
	if len(theirs) != n || from < 0 || from+n > len(mine) {
		return nil
	}
	other := append([]byte(nil), mine...)
	copy(other[from:], theirs)
	return &window{mine: mine, theirs: other, from: from, to: from + n}
}

// decide asks the rules of fl about w and notes their use.
func (e *Engine) decide(fl *flow, w *window, s span, again bool) bool {
	if w == nil {
		return false
	}
	by, ok := tolerate(e.cfg.Tolerances, fl.tol.rules, w)
	if !ok {
		return false
	}
	for i, n := range by {
		if n > 0 {
			e.use(fl, fl.tol.rules[i], n, s.seq, again)
		}
	}
	return true
}

// use notes that a rule hid n bytes.
func (e *Engine) use(fl *flow, rule, n int, seq frame.Num, again bool) {
	tl := fl.tol
	tl.used, tl.usedEpoch, tl.usedOK = rule, e.epoch, true
	if e.tolerated == nil {
		e.tolerated = make([]ToleranceStats, len(e.cfg.Tolerances))
	}
	e.tolerated[rule].Uses++
	e.tolerated[rule].Bytes += uint64(n)
	e.out.Tolerated = append(e.out.Tolerated, Tolerated{Rule: rule, Key: fl.key, Epoch: e.epoch, Bytes: n, Seq: seq, Again: again})
}

// blame is the name of the rule that hid something in fl since the last checkpoint, "" when none did: what
// differs now may follow from that.
func (e *Engine) blame(fl *flow) string {
	tl := fl.tol
	if !tl.usedOK || tl.usedEpoch != e.epoch {
		return ""
	}
	e.tolerated[tl.used].Followed++
	return e.cfg.Tolerances[tl.used].Name
}

// uncompared releases a datagram of the primary that a rule lets out.
func (e *Engine) uncompared(now int64, fl *flow, f *Frame) bool {
	if fl.tol.uncompared < 0 {
		return false
	}
	from, to, _ := compared(f.Buf, &f.P)
	e.use(fl, fl.tol.uncompared, to-from, 0, false)
	e.whole(now, f, WhyUncompared)
	return true
}

// unheard drops what the secondary says in a flow that is not compared: its node keeps nothing of it either.
func (e *Engine) unheard(fl *flow, index uint64) bool {
	if fl.tol.uncompared < 0 {
		return false
	}
	e.markDatagram(fl, index)
	return true
}

// doubtDatagram asks for the bytes of the secondary's datagram that may be the twin of the first that is held.
func (e *Engine) doubtDatagram(fl *flow) {
	d, tl := &fl.d, fl.tol
	if len(tl.rules) == 0 || e.live(fl, &tl.data) {
		return
	}
	for i := range min(d.held.len(), maxTries) {
		f := *d.held.at(i)
		if f.link.agreed {
			continue
		}
		from, to, meta := compared(f.Buf, &f.P)
		for j := range min(d.said.len(), maxTries) {
			s := d.said.at(j)
			if int(s.n) != to-from || s.meta != meta || tl.refused.f == f && tl.refused.index == s.index && tl.refused.epoch == e.epoch {
				continue
			}
			tl.data = doubt{index: s.index, f: f}
			if !e.openDoubt(fl, &tl.data, Ask{Flow: s.flow, Index: s.index}) {
				tl.data = doubt{}
			}
			return
		}
		return
	}
}

// settleDatagram decides on a pair of datagrams, both of which may have found other twins since.
func (e *Engine) settleDatagram(now int64, fl *flow, q *doubt, theirs []byte) {
	d := &fl.d
	var f *Frame
	for i := range d.held.len() {
		if g := *d.held.at(i); g == q.f && !g.link.agreed {
			f = g
		}
	}
	at := -1
	for i := range d.said.len() {
		if d.said.at(i).index == q.index {
			at = i
		}
	}
	if f == nil || at < 0 {
		e.doubtDatagram(fl)
		return
	}
	from, to, _ := compared(f.Buf, &f.P)
	w := widen(f.Buf[from:to], 0, to-from, theirs)
	if !e.decide(fl, w, span{}, false) {
		fl.tol.refused = doubt{f: f, index: q.index, epoch: e.epoch}
		return
	}
	f.link.agreed, f.link.index = true, q.index
	d.said.remove(at)
	e.npieces--
	e.flushDatagrams(now, fl)
	e.doubtDatagram(fl)
	e.watch(now, fl)
}
