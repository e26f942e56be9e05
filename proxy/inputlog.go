package proxy

import "colod/internal/frame"

// Limits of the input log of one pair.
const (
	logMaxBytes = 64 << 20
	logMaxFlows = 65536
	// logIdle is how long (ns) a flow without logged bytes is remembered.
	logIdle = int64(600e9)
)

// inputLog keeps, on the secondary's node, the client bytes that have been
// given to the secondary's guest until an acknowledgement of them has been
// released to the client. After a checkpoint, which sets the guest back to
// where the primary's was, they are given to it again; what it had already is
// a repetition that its TCP drops.
type inputLog struct {
	entries []logEntry // in the order of arrival; those before head are free
	head    int
	bytes   int
	flows   map[frame.FlowKey]*logFlow
	epoch   uint64 // checkpoints since the log began

	evicted uint64 // entries given up because the log was full
}

type logEntry struct {
	flow *logFlow
	end  frame.Num // sequence number after the last byte, SYN and FIN counted
	at   uint64    // epoch in which it came
	buf  []byte
}

type logFlow struct {
	acked     frame.Num // acknowledged to the client
	ackedSet  bool
	guestAck  frame.Num // acknowledged by the guest here
	guestSet  bool
	last      []byte // newest frame without payload, since the last replay
	closed    bool   // the client has sent its FIN: what it acknowledges now may be of no connection any more
	touched   int64
	unrelease int // entries in the log
}

func newInputLog() *inputLog { return &inputLog{flows: make(map[frame.FlowKey]*logFlow)} }

func (l *inputLog) flow(now int64, key frame.FlowKey) *logFlow {
	f := l.flows[key]
	if f == nil {
		if len(l.flows) >= logMaxFlows {
			l.forgetIdle(now, 0)
		}
		f = &logFlow{}
		l.flows[key] = f
	}
	f.touched = now
	return f
}

// add logs one client frame; p describes buf. Only TCP is kept: datagrams
// have no sender who would be told that they arrived.
func (l *inputLog) add(now int64, key frame.FlowKey, p *frame.Parsed, buf []byte) {
	if p.Kind != frame.KindTCP {
		return
	}
	f := l.flow(now, key)
	if p.Flags&frame.RST != 0 {
		delete(l.flows, key) // its entries are freed when they come to the head
		f.acked, f.ackedSet = p.SegEnd(), true
		return
	}
	if p.SegEnd() == p.Seq {
		if !f.closed {
			f.last = append(f.last[:0], buf...)
		}
		return
	}
	if p.Flags&frame.SYN != 0 {
		f.ackedSet, f.guestSet, f.closed = false, false, false // a new connection may reuse the ports
	}
	if p.Flags&frame.FIN != 0 {
		f.closed, f.last = true, f.last[:0]
	}
	if l.bytes+len(buf) > logMaxBytes {
		l.compact()
		for l.bytes+len(buf) > logMaxBytes && l.head < len(l.entries) {
			l.free(l.head)
			l.head++
			l.evicted++
		}
	}
	l.entries = append(l.entries, logEntry{f, p.SegEnd(), l.epoch, append([]byte(nil), buf...)})
	l.bytes += len(buf)
	f.unrelease++
}

func (e *logEntry) needed() bool { return !e.flow.ackedSet || e.end.After(e.flow.acked) }

func (l *inputLog) free(i int) {
	e := &l.entries[i]
	l.bytes -= len(e.buf)
	e.flow.unrelease--
	*e = logEntry{}
}

// released says that clients of a flow were told that all before ack arrived.
func (l *inputLog) released(now int64, key frame.FlowKey, ack frame.Num) {
	f := l.flows[key]
	if f == nil || f.ackedSet && !ack.After(f.acked) {
		return
	}
	f.acked, f.ackedSet, f.touched = ack, true, now
	for l.head < len(l.entries) && !l.entries[l.head].needed() {
		l.free(l.head)
		l.head++
	}
	if l.head > 1024 && l.head > len(l.entries)/2 {
		l.entries = l.entries[:copy(l.entries, l.entries[l.head:])]
		l.head = 0
	}
}

// guestAcked notes what the guest here says that it has.
func (l *inputLog) guestAcked(key frame.FlowKey, ack frame.Num) {
	if f := l.flows[key]; f != nil && (!f.guestSet || ack.After(f.guestAck)) {
		f.guestAck, f.guestSet = ack, true
	}
}

// compact drops entries that are no longer needed from the middle too.
func (l *inputLog) compact() {
	kept := l.entries[:0]
	for i := l.head; i < len(l.entries); i++ {
		if e := &l.entries[i]; e.needed() {
			kept = append(kept, *e)
		} else {
			l.free(i)
		}
	}
	clear(l.entries[len(kept):])
	l.entries, l.head = kept, 0
}

// checkpoint forgets what the guest said before it was set back. What came before the last checkpoint but
// one goes too: the primary's guest has it, and so has ours as its copy, or
// the client was not told that it arrived and sends it again.
func (l *inputLog) checkpoint(now int64) {
	l.epoch++
	for l.head < len(l.entries) && l.entries[l.head].at+2 <= l.epoch {
		l.free(l.head)
		l.head++
	}
	l.compact()
	for _, f := range l.flows {
		f.guestSet = false
	}
	l.forgetIdle(now, logIdle)
}

func (l *inputLog) forgetIdle(now, idle int64) {
	for k, f := range l.flows {
		if f.unrelease == 0 && now-f.touched > idle {
			delete(l.flows, k)
		}
	}
}

// replay gives out, oldest first, every frame that the guest has not acknowledged,
// then, once, the newest frame without payload of each flow.
func (l *inputLog) replay(give func(buf []byte)) {
	for i := l.head; i < len(l.entries); i++ {
		e := &l.entries[i]
		if e.needed() && !(e.flow.guestSet && !e.end.After(e.flow.guestAck)) {
			give(e.buf)
		}
	}
	for _, f := range l.flows {
		if len(f.last) > 0 {
			give(f.last)
			f.last = f.last[:0]
		}
	}
}
