// Package inputlog keeps, on the secondary's node, the client bytes that clients were told, or are about to be told, to
// have arrived, until the guest there has them for certain. It is pure: no I/O and no clock of its own.
//
// An acknowledgement of client bytes leaves only when they are in this log (or the secondary's guest has acknowledged
// them itself), so the client may forget them while that guest does not have them yet. Three things can keep them from
// it: a checkpoint sets the guest back to where the primary's was (Replay), a queue on the way overflows (Again), or the
// primary is lost while they are on their way (Replay, and Again until Owed is 0).
package inputlog

import "colod/internal/frame"

// Limits of the log of one pair.
const (
	maxBytes = 64 << 20
	maxFlows = 65536
	// idle is how long (ns) a flow without logged bytes is remembered.
	idle = int64(600e9)
	// retry is how long (ns) the guest may take to acknowledge what only the log can give it again; it doubles with
	// each repetition, up to retry << maxTries. TCP's own least time is 200 ms (Linux, TCP_RTO_MIN).
	retry    = int64(300e6)
	maxTries = 4
	// burst bounds the frames of a flow that are given again at a time.
	burst = 16
)

// Log is the input log of one pair. It is not safe for concurrent use.
type Log struct {
	entries []entry // in the order of arrival; those before head are free
	head    int
	bytes   int
	flows   map[frame.FlowKey]*flow
	lasts   []*flow // those with a frame in last, in the order in which they got it
	epoch   uint64  // checkpoints since the log began
	spare   spare

	refused uint64
}

type entry struct {
	flow  *flow
	end   frame.Num // sequence number after the last byte, SYN and FIN counted
	epoch uint64    // in which it came
	given int64     // when it was last given to the guest
	buf   []byte
}

type flow struct {
	acked    frame.Num // acknowledged to the client
	ackedSet bool
	guestAck frame.Num // acknowledged by the guest here
	guestSet bool
	syn      frame.Num // the client's initial sequence number
	synSet   bool
	tries    uint8  // repetitions since the guest's last progress
	again    int    // frames given again in the present call of Again
	last     []byte // newest frame without payload, since the last replay
	closed   bool   // the client has sent its FIN: what it acknowledges now may be of no connection any more
	dead     bool   // the connection was reset: nobody needs its bytes
	touched  int64
	kept     int // entries in the log
}

// New makes an empty log.
func New() *Log { return &Log{flows: make(map[frame.FlowKey]*flow)} }

// Bytes is the size of the frames in the log.
func (l *Log) Bytes() int { return l.bytes }

// Refused is the number of frames that were not logged because the log was full.
func (l *Log) Refused() uint64 { return l.refused }

func (l *Log) lookup(now int64, key frame.FlowKey) *flow {
	f := l.flows[key]
	if f == nil {
		if len(l.flows) >= maxFlows {
			l.forgetIdle(now, 0)
		}
		f = &flow{}
		l.flows[key] = f
	}
	f.touched = now
	return f
}

// Add logs one client frame that is given to the guest now; p describes buf, which is copied. Only TCP is kept:
// datagrams have no sender who would be told that they arrived. False means that the log is full: clients must not be
// told by this log's authority that the frame arrived.
func (l *Log) Add(now int64, key frame.FlowKey, p *frame.Parsed, buf []byte) bool {
	if p.Kind != frame.KindTCP {
		return true
	}
	f := l.lookup(now, key)
	if p.Flags&frame.RST != 0 {
		f.dead = true
		f.last = f.last[:0]
		delete(l.flows, key)
		l.trim()
		return true
	}
	if p.SegEnd() == p.Seq {
		if !f.closed {
			if len(f.last) == 0 {
				l.lasts = append(l.lasts, f)
			}
			f.last = append(f.last[:0], buf...)
		}
		return true
	}
	if p.Flags&frame.SYN != 0 && !(f.synSet && f.syn == p.Seq) {
		if f.ackedSet || f.guestSet || f.closed || f.synSet {
			f.dead = true // a new connection on the same ports
			f = &flow{touched: now}
			l.flows[key] = f
		}
		f.syn, f.synSet = p.Seq, true
	}
	if p.Flags&frame.FIN != 0 {
		f.closed, f.last = true, f.last[:0]
	}
	if l.bytes+len(buf) > maxBytes {
		l.compact()
		if l.bytes+len(buf) > maxBytes {
			l.refused++
			return false
		}
	}
	l.entries = append(l.entries, entry{f, p.SegEnd(), l.epoch, now, l.spare.copyOf(buf)})
	l.bytes += len(buf)
	f.kept++
	return true
}

// told says that the client was told that the entry arrived.
func (e *entry) told() bool { return e.flow.ackedSet && !e.end.After(e.flow.acked) }

// has says that the guest has acknowledged the entry since it was last set back.
func (e *entry) has() bool { return e.flow.guestSet && !e.end.After(e.flow.guestAck) }

func (e *entry) needed() bool { return !e.flow.dead && !(e.told() && e.has()) }

func (l *Log) free(i int) {
	e := &l.entries[i]
	l.bytes -= len(e.buf)
	l.spare.put(e.buf)
	e.flow.kept--
	*e = entry{}
}

// trim frees what is not needed at the head.
func (l *Log) trim() {
	for l.head < len(l.entries) && !l.entries[l.head].needed() {
		l.free(l.head)
		l.head++
	}
	if l.head > 1024 && l.head > len(l.entries)/2 {
		n := copy(l.entries, l.entries[l.head:])
		clear(l.entries[n:])
		l.entries, l.head = l.entries[:n], 0
	}
}

// Released says that the client of a flow was told that all before ack arrived.
func (l *Log) Released(now int64, key frame.FlowKey, ack frame.Num) {
	f := l.flows[key]
	if f == nil || f.ackedSet && !ack.After(f.acked) {
		return
	}
	f.acked, f.ackedSet, f.touched = ack, true, now
	l.trim()
}

// GuestAcked notes what the guest here says that it has.
func (l *Log) GuestAcked(key frame.FlowKey, ack frame.Num) {
	if f := l.flows[key]; f != nil && (!f.guestSet || ack.After(f.guestAck)) {
		f.guestAck, f.guestSet, f.tries = ack, true, 0
		l.trim()
	}
}

// GuestReset notes that the guest here has reset a connection: it takes no more bytes of it.
func (l *Log) GuestReset(key frame.FlowKey) {
	if f := l.flows[key]; f != nil {
		f.dead = true
		delete(l.flows, key)
		l.trim()
	}
}

// compact drops entries that are not needed from the middle too.
func (l *Log) compact() {
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

// Checkpoint says that the guest is now a copy of the primary's. What clients were told of goes: the primary's guest has
// acknowledged it, so the copy has it. What came before the last checkpoint but one goes too: the primary's guest
// has it, and so has ours, or the client was not told that it arrived and sends it again.
func (l *Log) Checkpoint(now int64) {
	l.epoch++
	for i := l.head; i < len(l.entries); i++ {
		e := &l.entries[i]
		if e.told() || e.epoch+2 <= l.epoch {
			e.flow.kept--
			l.bytes -= len(e.buf)
			l.spare.put(e.buf)
			e.flow, e.buf = gone, nil
		}
	}
	kept := l.entries[:0]
	for i := l.head; i < len(l.entries); i++ {
		if l.entries[i].flow != gone {
			kept = append(kept, l.entries[i])
		}
	}
	clear(l.entries[len(kept):])
	l.entries, l.head = kept, 0
	for _, f := range l.flows {
		f.guestSet, f.tries = false, 0
	}
	l.forgetIdle(now, idle)
}

// gone marks entries that are taken out.
var gone = &flow{}

func (l *Log) forgetIdle(now, idle int64) {
	for k, f := range l.flows {
		if f.kept == 0 && now-f.touched > idle {
			f.last = f.last[:0]
			delete(l.flows, k)
		}
	}
}

// Replay gives out, oldest first, every frame that the guest has not acknowledged, then, once, the newest frame without
// payload of each flow. give may change buf, for good, but must not keep it.
func (l *Log) Replay(now int64, give func(buf []byte)) {
	for i := l.head; i < len(l.entries); i++ {
		e := &l.entries[i]
		if e.needed() && !e.has() {
			e.given = now
			give(e.buf)
		}
	}
	for _, f := range l.lasts {
		if len(f.last) > 0 {
			give(f.last)
			f.last = f.last[:0]
		}
	}
	clear(l.lasts)
	l.lasts = l.lasts[:0]
}

// Promoted says that the primary is lost. What its node was told to be in this log may have been acknowledged to clients
// in its last instant, so from now on all of it counts as that.
func (l *Log) Promoted() {
	for i := l.head; i < len(l.entries); i++ {
		e := &l.entries[i]
		if f := e.flow; !f.ackedSet || e.end.After(f.acked) {
			f.acked, f.ackedSet = e.end, true
		}
	}
}

// Again gives out what clients were told to have arrived and the guest still does not acknowledge: nobody else will ever
// send it. It belongs into a slow, regular tick.
func (l *Log) Again(now int64, give func(buf []byte)) {
	var first, last *flow
	for i := l.head; i < len(l.entries); i++ {
		e := &l.entries[i]
		f := e.flow
		if !e.told() || !e.needed() || f.again >= burst || now-e.given < retry<<min(f.tries, maxTries) {
			continue
		}
		if f.again == 0 {
			if first == nil {
				first = f
			}
			last = f
		}
		f.again++
		e.given = now
		give(e.buf)
	}
	if first == nil {
		return
	}
	for i := l.head; i < len(l.entries); i++ {
		if f := l.entries[i].flow; f.again > 0 {
			f.again = 0
			f.tries = min(f.tries+1, maxTries)
			if f == last {
				break
			}
		}
	}
}

// Owed is the number of frames that clients were told to have arrived and the guest has not acknowledged.
func (l *Log) Owed() (n int) {
	for i := l.head; i < len(l.entries); i++ {
		if e := &l.entries[i]; e.told() && e.needed() {
			n++
		}
	}
	return n
}
