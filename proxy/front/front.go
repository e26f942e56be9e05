// Package front rewrites the connections that lived through a takeover. It is
// pure: no I/O, no clock.
package front

import (
	"colod/compare"
	"colod/internal/frame"
)

// Limits of the front table.
const (
	// idleTime is how long (ns) a rewritten connection may be silent before it is
	// forgotten: 24 h, beyond the keepalive interval (2 h) of the usual stacks.
	idleTime = int64(24 * 3600e9)
	// linger is how long (ns) a closed connection is still rewritten for
	// repetitions of its last segments: 2 MSL, RFC 9293 section 3.4.2.
	linger = int64(240e9)
	// clocks is how long (ns) the clock of a new speaker's guest may be behind the former one's: they run
	// apart since the last checkpoint only.
	clocks = int64(10e9)
	// tsSlack is added to the newest timestamp that the former speaker was
	// known to have sent: what it sent in its last instant may not have been told.
	// In ticks of the guest's TCP clock (Linux: 1 ms).
	tsSlack = 4
)

// Table rewrites the connections that lived through a takeover. Clients
// count in the sequence space of the guest that opened a connection; the guest that
// speaks now has another one. The difference stays for the connection's life.
type Table struct {
	flows map[frame.FlowKey]*flow
	gone  []frame.FlowKey // forgotten since the last Gone
}

type flow struct {
	seqOff uint32 // client's sequence number - guest's
	tsOff  uint32 // client's timestamp value - guest's

	// The client's PAWS check (RFC 7323 section 5) drops what has an older timestamp
	// than it saw, so none before lastTS leaves.
	lastTS uint32
	hasTS  bool
	floor  bool // lastTS came from the former speaker and has not been passed yet

	since, touched  int64
	finOut, finIn   bool
	finSeq, finPeer frame.Num
	ackOut, ackIn   bool // the other side acknowledged the FIN
	closedAt        int64
}

// New makes an empty table.
func New() *Table { return &Table{flows: make(map[frame.FlowKey]*flow)} }

// Len is the number of connections that are rewritten.
func (t *Table) Len() int { return len(t.flows) }

// Each calls f for every connection, in no order.
func (t *Table) Each(f func(key frame.FlowKey, seqOff, tsOff uint32)) {
	for key, e := range t.flows {
		f(key, e.seqOff, e.tsOff)
	}
}

// Gone are the connections that were forgotten since the last call. The slice
// is valid until the table is used again.
func (t *Table) Gone() []frame.FlowKey {
	g := t.gone
	t.gone = t.gone[:0]
	return g
}

// Add enters a connection at a takeover.
func (t *Table) Add(now int64, f compare.Front) {
	e := t.flows[f.Key]
	if e == nil {
		e = &flow{}
		t.flows[f.Key] = e
	}
	// Offsets add up over takeovers: what this guest's space differs from
	// that of the former speaker, and that one's from the client's.
	e.seqOff += f.SeqOff
	e.tsOff += f.TSOff
	if f.HasTS {
		ts := f.LastTS + tsSlack
		if !e.hasTS || int32(ts-e.lastTS) > 0 {
			e.lastTS, e.hasTS, e.floor = ts, true, true
		}
	}
	if f.Closed && e.closedAt == 0 {
		e.closedAt = now
	}
	e.since, e.touched = now, now
}

// plain says that a connection needs no rewriting any more: it has no offset, and the guest's clock has passed
// the former speaker's, whether or not it has said so.
func (e *flow) plain(now int64) bool {
	return e.seqOff == 0 && e.tsOff == 0 && (!e.floor || now-e.since > clocks)
}

func (t *Table) forget(key frame.FlowKey) {
	delete(t.flows, key)
	t.gone = append(t.gone, key)
}

// Out rewrites a frame of the guest, or the head of one, for the clients. buf
// begins with the virtio-net header, p describes it, n is the length of the payload that goes with it.
func (t *Table) Out(now int64, buf []byte, p *frame.Parsed, n int) {
	if p.Kind != frame.KindTCP {
		return
	}
	key := p.Key(true)
	e := t.flows[key]
	if e == nil {
		return
	}
	e.touched = now
	if p.Flags&frame.SYN != 0 && p.Flags&frame.ACK == 0 {
		t.forget(key) // the guest reuses the ports for a new connection
		return
	}
	var ed frame.Edit
	ed.SeqAdd = e.seqOff
	if p.HasTS {
		ts := p.TSVal + e.tsOff
		if e.hasTS && int32(ts-e.lastTS) < 0 {
			ts = e.lastTS
		} else {
			e.lastTS, e.hasTS, e.floor = ts, true, false
		}
		ed.TSValAdd = ts - p.TSVal
	}
	if p.Flags&frame.FIN != 0 {
		e.finOut, e.finSeq = true, p.Seq.Add(uint32(n)+1)
	}
	if e.finIn && p.Flags&frame.ACK != 0 && p.Ack.AtLeast(e.finPeer) {
		e.ackOut = true
	}
	e.closing(now, p)
	ed.Rewrite(buf, p)
}

// In rewrites a client's frame for the guest.
func (t *Table) In(now int64, buf []byte, p *frame.Parsed) {
	if p.Kind != frame.KindTCP {
		return
	}
	key := p.Key(false)
	e := t.flows[key]
	if e == nil {
		return
	}
	e.touched = now
	if p.Flags&frame.SYN != 0 && p.Flags&frame.ACK == 0 {
		// A client that opens anew on the same ports. The guest may still
		// have the old connection and answers for it; its SYN-ACK opens the new one.
		if e.closedAt != 0 {
			t.forget(key)
		}
		return
	}
	ed := ToGuest(e.seqOff, e.tsOff)
	if p.Flags&frame.FIN != 0 {
		e.finIn, e.finPeer = true, p.SegEnd()
	}
	if e.finOut && p.Flags&frame.ACK != 0 && p.Ack.Add(-e.seqOff).AtLeast(e.finSeq) {
		e.ackIn = true
	}
	e.closing(now, p)
	ed.Rewrite(buf, p)
}

// ToGuest is the edit that brings a client's frame into the space of a guest
// which is seqOff and tsOff behind the space that the client knows.
func ToGuest(seqOff, tsOff uint32) frame.Edit {
	return frame.Edit{AckAdd: -seqOff, SACKAdd: -seqOff, TSEcrAdd: -tsOff}
}

func (e *flow) closing(now int64, p *frame.Parsed) {
	if e.closedAt == 0 && (p.Flags&frame.RST != 0 || e.ackIn && e.ackOut) {
		e.closedAt = now
	}
}

// Expire forgets connections that ended or need no rewriting. It reports
// whether none is left.
func (t *Table) Expire(now int64) (empty bool) {
	for k, e := range t.flows {
		if e.plain(now) || now-e.touched > idleTime || e.closedAt != 0 && now-e.closedAt > linger {
			t.forget(k)
		}
	}
	return len(t.flows) == 0
}
