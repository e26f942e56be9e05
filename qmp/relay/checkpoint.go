package relay

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// Phase of a checkpoint as the back channel shows it.
type Phase uint8

// The phases follow each other in this order; after the last comes Idle again.
const (
	_            Phase = iota
	Copying            // the first copy; the secondary is not ready yet
	Idle               // no checkpoint under way, or its request has not been answered
	Transferring       // both guests stand still, the state is being sent
	Loading            // the secondary has everything and loads it
)

func (p Phase) String() string {
	switch p {
	case Copying:
		return "copying"
	case Idle:
		return "idle"
	case Transferring:
		return "transferring"
	case Loading:
		return "loading"
	}
	return fmt.Sprintf("Phase(%d)", uint8(p))
}

// Checkpoint is one completed checkpoint, measured at this relay.
type Checkpoint struct {
	N     uint64    // 1 for the first of this relay
	Begin time.Time // first byte of the request seen (relay of either side)
	Bytes uint64    // forward, all of this checkpoint
	// Stop is from the request to the secondary's answer that it has stopped, Transfer from there until
	// it has all the state, Load until it runs with it.
	Stop, Transfer, Load time.Duration
}

// Total is the whole length, a little more than the guest's pause.
func (c Checkpoint) Total() time.Duration { return c.Stop + c.Transfer + c.Load }

// Messages of the back channel (QEMU migration/colo.c, qapi/migration.json COLOMessage): 32 bits big
// endian each, one after the first copy, three per checkpoint.
const (
	msgReady    = 0
	msgReply    = 2
	msgReceived = 5
	msgLoaded   = 6
	// From here on it is the header of a return path message (QEMU migration/migration.c: 16 bits
	// type, never 0, 16 bits length, then so many bytes), which QEMU 10.2 and later send as well.
	firstReturnPath = 1 << 16
)

// tracker reads the back channel.
type tracker struct {
	mu        sync.Mutex
	back      uint64
	n         uint64
	phase     Phase
	last, now Checkpoint
	began     bool
	base      uint64         // forward bytes when the last checkpoint ended
	forward   *atomic.Uint64 // nil before start
	reply     time.Time
	received  time.Time

	word [4]byte
	have int
	skip int // bytes of a return path message still to come
}

func (t *tracker) start(now time.Time, forward *atomic.Uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.phase, t.forward = Copying, forward
	t.now.Begin = now
}

func (t *tracker) stats() Stats {
	t.mu.Lock()
	defer t.mu.Unlock()
	return Stats{Back: t.back, Checkpoints: t.n, Phase: t.phase, Last: t.last}
}

// sawForward is told of every forward movement, to learn when a checkpoint begins.
func (t *tracker) sawForward(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.phase == Idle && !t.began {
		t.began = true
		t.now = Checkpoint{Begin: now}
	}
}

// sawBack takes back channel bytes, in any pieces, and calls done for each completed checkpoint.
func (t *tracker) sawBack(now time.Time, b []byte, done func(Checkpoint)) {
	t.mu.Lock()
	t.back += uint64(len(b))
	var ended []Checkpoint
	for len(b) > 0 {
		if t.skip > 0 {
			n := min(t.skip, len(b))
			t.skip -= n
			b = b[n:]
			continue
		}
		n := copy(t.word[t.have:], b)
		t.have += n
		b = b[n:]
		if t.have < 4 {
			break
		}
		t.have = 0
		msg := uint32(t.word[0])<<24 | uint32(t.word[1])<<16 | uint32(t.word[2])<<8 | uint32(t.word[3])
		if msg >= firstReturnPath {
			t.skip = int(msg & 0xffff)
			continue
		}
		if c, ok := t.message(now, msg); ok {
			ended = append(ended, c)
		}
	}
	t.mu.Unlock()
	if done != nil {
		for _, c := range ended {
			done(c)
		}
	}
}

// message needs t.mu.
func (t *tracker) message(now time.Time, msg uint32) (Checkpoint, bool) {
	switch msg {
	case msgReady:
		t.phase, t.began = Idle, false
		t.base = t.forward.Load()
	case msgReply:
		if !t.began {
			t.now = Checkpoint{Begin: now}
		}
		t.phase, t.reply = Transferring, now
		t.now.Stop = now.Sub(t.now.Begin)
	case msgReceived:
		t.phase, t.received = Loading, now
		t.now.Transfer = now.Sub(t.reply)
	case msgLoaded:
		t.n++
		t.now.N = t.n
		t.now.Load = now.Sub(t.received)
		f := t.forward.Load()
		t.now.Bytes, t.base = f-t.base, f
		t.phase, t.began, t.last = Idle, false, t.now
		return t.last, true
	}
	return Checkpoint{}, false
}
