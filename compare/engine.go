package compare

import (
	"fmt"
	"time"

	"colod/internal/frame"
)

// Engine compares the output of the primary's guest with what the secondary's guest says, and releases it.
//
//	          EndCheckpoint
//	solo ------------------> comparing      BeginCheckpoint .. EndCheckpoint or AbortCheckpoint
//	  ^                          |          suspend both: every frame is queued
//	  +--------- Solo -----------+
//
// A new Engine is solo: it lets everything out at once, by the authority of whoever made it, and learns the
// flows, until the first checkpoint ends. All times are nanoseconds of one steady clock; frames carry the
// kernel's time beside it. Results are collected in Out.
type Engine struct {
	cfg  Config
	dig  *digester
	out  Out
	hold int64 // budget, ns
	// Patience with a secondary that is slow after a checkpoint: see holdFor.
	resumed int64
	slow    uint

	solo    bool // releases need no agreement
	buffer  bool // only a checkpoint releases: nothing is compared
	next    bool // buffer of the epoch that begins with the next checkpoint
	holding bool // a checkpoint is under way
	epoch   uint32
	round   uint32 // grows whenever divergences may be reported anew

	flows   map[frame.FlowKey]*flow
	ring    []*flow // all flows, for eviction
	hand    int
	last    *flow // most recent lookup
	sids    []sidEntry
	sidOff  uint32 // number of sids[0]
	sidUsed int    // sids before this index were used in this epoch

	held      frameList // frames that wait, in order of arrival
	queued    frameList // frames that wait for the end of the checkpoint
	owed      timerList // flows with an acknowledgement of the primary that the secondary has not given
	swait     timerList // flows in which the secondary said what the primary has not
	syns      []*flow   // flows with a SYN that waits
	dirty     []*flow   // flows that owe a watermark
	soft      []*flow   // flows that owe one when there is an occasion
	late      []*flow   // flows whose held data waits for the end of the batch
	lateAt    int64     // time of the newest event that was postponed so
	npieces   int
	sent      uint64 // messages put in Out since the beginning
	received  uint64 // of them known to have arrived
	early     []Descriptor
	nextID    uint32            // of a divergence
	reported  [reasonEnd]uint32 // round of the last report that concerned no flow
	reports   []report
	silentAt  int64 // when a divergence was last reported in this round, 0 when none was
	doubts    map[uint32]*flow
	tolerated []ToleranceStats
	stats     Stats
}

// sidEntry is a flow number of the secondary.
type sidEntry struct {
	key   frame.FlowKey
	fl    *flow
	stale bool
}

// Stats are the engine's gauges and counters since it was made.
type Stats struct {
	Flows        int
	HeldFrames   int
	HeldBytes    int64
	Pieces       int
	Epoch        uint32
	Released     uint64 // frames
	Bytes        uint64 // of them, virtio-net headers included
	Agreed       uint64
	Covered      uint64
	Solo         uint64
	Acks         uint64 // made or lowered by the engine
	Cut          uint64 // released in parts
	Asks         uint64
	Repeated     uint64 // frames of the primary that repeat what is held, freed
	Merged       uint64 // acknowledgements of the primary that went into later ones
	Reset        uint64 // frames freed unreleased because the client had reset their connection
	Refused      uint64 // frames freed unreleased because the bounds were exceeded; each bound was reported
	Evicted      uint64 // flows
	Stale        uint64 // descriptors of an epoch or connection that is over
	Diverged     uint64
	EarlyDropped uint64
}

// NewEngine makes an engine that is solo.
func NewEngine(cfg Config) *Engine {
	cfg = cfg.withDefaults()
	e := &Engine{cfg: cfg, dig: newDigester(cfg.Key), hold: int64(cfg.Hold), solo: true, round: 1, sidOff: 1,
		flows: make(map[frame.FlowKey]*flow)}
	e.owed.of = func(fl *flow) *timer { return &fl.owed }
	e.swait.of = func(fl *flow) *timer { return &fl.swait }
	return e
}

// Out is what is to be done since its last Reset. The call completes it (watermarks are gathered until then, and held data that
// the secondary's segments agree with), so it belongs after each batch of input, not before.
func (e *Engine) Out() *Out {
	e.completeAll(e.lateAt)
	for i, fl := range e.dirty {
		fl.dirty = false
		e.dirty[i] = nil
		if !fl.dead && fl.epoch == e.epoch && fl.sid != 0 && !e.solo {
			e.watermark(fl)
		}
	}
	e.dirty = e.dirty[:0]
	return &e.out
}

// Stats are the present figures.
func (e *Engine) Stats() Stats {
	s := e.stats
	s.Flows, s.Epoch, s.Pieces = len(e.flows), e.epoch, e.npieces
	s.HeldFrames, s.HeldBytes = e.held.n+e.queued.n, e.held.bytes+e.queued.bytes
	return s
}

// Epoch is the number of checkpoints that have ended.
func (e *Engine) Epoch() uint32 { return e.epoch }

// SetBudget sets how long a frame may wait for the secondary before that is a divergence. When one silence follows
// the other at the beginning of epochs, the budget is doubled there, up to eight times.
func (e *Engine) SetBudget(d time.Duration) {
	if d > 0 {
		e.hold = int64(d)
	}
}

// holdFor is the budget of what began to wait at since. A guest is slow after it was loaded (an emulator translates its
// code anew, caches are cold); a checkpoint for its silence would only make it slow again. So each silence in
// the first time of an epoch doubles the budget for the first time of the next ones, and an epoch without
// one ends that.
func (e *Engine) holdFor(since int64) int64 {
	if e.slow > 0 && since-e.resumed < int64(WarmUp) {
		return e.hold << e.slow
	}
	return e.hold
}

// silent notes a silence of the secondary for holdFor.
func (e *Engine) silent(now int64) {
	if now-e.resumed >= 2*int64(WarmUp) {
		e.slow = 0
		return
	}
	e.slow = min(e.slow+1, maxSlow)
}

// ackBudget is the budget of the acknowledgement that has waited longest.
func (e *Engine) ackBudget() int64 {
	if e.owed.head == nil {
		return 0
	}
	return max(e.holdFor(e.owed.head.owed.since), int64(e.cfg.AckHold))
}

func (e *Engine) silenceBudget() int64 { return max(e.hold*silenceFactor, int64(silenceLeast)) }

// Primary takes a frame of the primary's guest, in the kernel's order; f.P is parsed. The engine has f on loan
// from here.
func (e *Engine) Primary(now int64, f *Frame) {
	f.link = heldLink{arrived: now}
	if e.holding || e.buffer {
		if e.full(now, f) {
			return
		}
		f.link.wait = waitQueue
		e.queued.push(f)
		return
	}
	fl := e.lookup(f.P.Key(true), true)
	e.complete(now, fl)
	fl.pTime = f.KTime
	if f.P.Kind == frame.KindTCP {
		e.primaryTCP(now, fl, f)
		return
	}
	e.primaryDatagram(now, fl, f)
}

// Input takes the headers of a client's frame on its way to the guest.
func (e *Engine) Input(_ int64, p *frame.Parsed) {
	if p.Kind != frame.KindTCP {
		return
	}
	if fl := e.lookup(p.Key(false), false); fl != nil {
		e.complete(e.lateAt, fl)
		e.clientTCP(fl, p)
	}
}

// keep holds f for the reason w. False means that f was refused and given back.
func (e *Engine) keep(now int64, fl *flow, f *Frame, w wait) bool {
	if e.full(now, f) {
		return false
	}
	f.link.fl, f.link.wait = fl, w
	fl.held++
	e.held.push(f)
	return true
}

// full reports a reached bound. Up to twice the bound frames are still taken: the checkpoint that the report
// asks for needs time. Beyond that f is given back unreleased, which to the guest is a lost frame.
func (e *Engine) full(now int64, f *Frame) bool {
	n, b := e.held.n+e.queued.n+1, e.held.bytes+e.queued.bytes+int64(len(f.Buf))
	if n <= e.cfg.MaxFrames && b <= e.cfg.MaxBytes {
		return false
	}
	e.overflow(now, "held frames")
	if n <= 2*e.cfg.MaxFrames && b <= 2*e.cfg.MaxBytes {
		return false
	}
	e.stats.Refused++
	e.free(f)
	return true
}

// unkeep ends the wait of f without giving it back.
func (e *Engine) unkeep(f *Frame) {
	e.held.remove(f)
	f.link.fl.held--
}

func (e *Engine) free(f *Frame) {
	f.link = heldLink{}
	e.out.Free = append(e.out.Free, f)
}

// lookup finds a flow or makes it. The result belongs to the present epoch.
func (e *Engine) lookup(key frame.FlowKey, create bool) *flow {
	fl := e.last
	if fl == nil || fl.key != key {
		fl = e.flows[key]
		if fl == nil {
			if !create {
				return nil
			}
			fl = e.create(key)
		}
		e.last = fl
	}
	fl.touched = true
	if fl.epoch != e.epoch {
		fl.rebase(e.epoch)
	}
	return fl
}

func (e *Engine) create(key frame.FlowKey) *flow {
	fl := &flow{key: key, epoch: e.epoch, touched: true}
	if len(e.cfg.Tolerances) > 0 {
		fl.tol = e.rulesFor(&key)
	}
	switch {
	case len(e.ring) < e.cfg.MaxFlows:
		e.ring = append(e.ring, fl)
	default:
		i, ok := e.evict()
		if !ok {
			e.overflow(0, "flow table")
			if len(e.ring) < 2*e.cfg.MaxFlows {
				e.ring = append(e.ring, fl)
				break
			}
			i = e.hand
			e.abandon(e.ring[i])
		}
		e.ring[i] = fl
	}
	e.flows[key] = fl
	return fl
}

// evict forgets an idle flow that was not used for the longest time (second chance) and returns its place.
func (e *Engine) evict() (int, bool) {
	for range 2 * len(e.ring) {
		i := e.hand
		e.hand = (e.hand + 1) % len(e.ring)
		fl := e.ring[i]
		switch {
		case fl.touched:
			fl.touched = false
		case fl.idle():
			e.forget(fl)
			e.stats.Evicted++
			return i, true
		}
	}
	return 0, false
}

// abandon forgets a flow that is not idle: the bound was reported and exceeded by far. Its guest takes the
// frames held for lost ones.
func (e *Engine) abandon(fl *flow) {
	e.stats.Refused += uint64(fl.held)
	e.stats.Evicted++
	e.dropHeld(fl)
	e.dropSaid(fl)
	e.forget(fl)
	e.clearFlow(fl)
}

// forget takes fl out of the table; its place in the ring is the caller's business.
func (e *Engine) forget(fl *flow) {
	fl.dead = true
	e.swait.disarm(fl)
	e.owed.disarm(fl)
	if e.last == fl {
		e.last = nil
	}
	if i := fl.sid - e.sidOff; fl.sid != 0 && fl.epoch == e.epoch && i < uint32(len(e.sids)) {
		e.sids[i].fl = nil
	}
	delete(e.flows, fl.key)
}

func (e *Engine) mark(fl *flow) {
	if !fl.dirty {
		fl.dirty = true
		e.dirty = append(e.dirty, fl)
	}
}

// Notify tells the secondary's node how far the released streams go, in Out. It is not done with each release, since a
// client's acknowledgement, which is mirrored anyway, says the same a round trip later: it belongs where something goes to
// that node anyway, and into a slow tick. Like Out it completes a batch.
func (e *Engine) Notify(now int64) {
	e.completeAll(now)
	for i, fl := range e.soft {
		e.soft[i] = nil
		if fl.soft && !fl.dead && fl.epoch == e.epoch && fl.sid != 0 && !e.solo {
			e.watermark(fl)
		}
		fl.soft = false
	}
	e.soft = e.soft[:0]
}

func (e *Engine) send(m Message) uint64 {
	e.out.Messages = append(e.out.Messages, m)
	e.sent++
	return e.sent
}

func (e *Engine) watermark(fl *flow) {
	t := &fl.t
	w := Watermark{Flow: fl.sid, Kind: fl.key.Kind}
	if fl.key.Kind == frame.KindTCP {
		w.Seq, w.Known, w.Ack, w.TSVal = t.rel, t.known, t.relAck, uint32(t.relTS)
		fl.soft = false
	} else if d := &fl.d; d.farMask != 0 {
		w.Next, w.From, w.Mask = d.next, d.far, d.farMask
		d.farMask = 0
		if !d.told {
			e.send(Message{Kind: MessageWatermark, Watermark: w})
			w.From, w.Mask, d.told = d.next+1, d.mask, true
		}
	} else {
		w.Next, w.From, w.Mask, d.told = d.next, d.next+1, d.mask, true
	}
	e.send(Message{Kind: MessageWatermark, Watermark: w})
}

// Received says that the peer has the first n messages of all that were ever put in Out.
func (e *Engine) Received(now int64, n uint64) {
	if n <= e.received {
		return
	}
	e.received = n
	if len(e.syns) == 0 {
		return
	}
	wait := e.syns[:0]
	for _, fl := range e.syns {
		if fl.t.syn != nil && !e.trySYN(now, fl) {
			wait = append(wait, fl)
		}
	}
	clear(e.syns[len(wait):])
	e.syns = wait
}

// Deadline is the time at which Tick may have something to do, 0 when nothing waits.
func (e *Engine) Deadline() int64 {
	if e.solo || e.holding || e.buffer {
		return 0
	}
	var d int64
	if e.held.head != nil {
		d = e.held.head.link.arrived + e.holdFor(e.held.head.link.arrived)
	}
	for _, t := range [2]int64{e.owed.deadline(e.ackBudget()), e.swait.deadline(e.silenceBudget())} {
		if t != 0 && (d == 0 || t < d) {
			d = t
		}
	}
	if d != 0 && e.silentAt != 0 {
		d = max(d, e.silentAt+int64(reportAgain))
	}
	return d
}

// Tick reports what has waited too long.
func (e *Engine) Tick(now int64) {
	e.completeAll(now)
	if d := e.Deadline(); d == 0 || now < d {
		return
	}
	if f := e.held.head; f != nil && now >= f.link.arrived+e.holdFor(f.link.arrived) {
		e.newRound()
		e.tooLong(now, f)
		return
	}
	if fl := e.owed.due(now, e.ackBudget()); fl != nil {
		e.newRound()
		e.owedTooLong(now, fl)
		return
	}
	if fl := e.swait.due(now, e.silenceBudget()); fl != nil {
		e.newRound()
		d := Divergence{Reason: ReasonSilencePrimary, Seq: fl.t.v}
		if fl.t.pieces.len() > 0 {
			d.Len = fl.t.pieces.at(0).n
		}
		e.diverge(now, fl, d)
	}
}

// newRound lets divergences be reported anew: no checkpoint followed the last report.
func (e *Engine) newRound() {
	if e.silentAt != 0 {
		e.round++
		e.silentAt = 0
	}
}

// owedTooLong reports an acknowledgement or window of the primary that the secondary does not give.
func (e *Engine) owedTooLong(now int64, fl *flow) {
	t := &fl.t
	if t.crst {
		e.dropReset(fl)
		return
	}
	e.diverge(now, fl, Divergence{Reason: ReasonSilenceSecondary, Seq: t.v,
		Detail: fmt.Sprintf("the primary acknowledges %d with window %d, the secondary %d with %d", t.p.ack, t.p.win, t.s.ack, t.s.win)})
}
