package compare

import (
	"colod/internal/frame"
)

// Describer tells what the secondary's guest says, in the primary's space, and keeps what clients may not have
// got yet. Results are collected in Out.
type Describer struct {
	cfg Config
	dig *digester
	out DescOut

	epoch   uint32
	flows   map[frame.FlowKey]*dflow
	ring    []*dflow
	hand    int
	last    *dflow
	byID    []*dflow // by number, from idOff on
	idOff   uint32
	nextID  uint32
	kept    frameList // frames not released as far as is known, in order of arrival
	early   map[frame.FlowKey]Announce
	faulted [reasonEnd]bool // in this epoch
	stats   DescStats
}

// DescStats are the describer's gauges and counters since it was made.
type DescStats struct {
	Flows       int
	KeptFrames  int
	KeptBytes   int64
	Epoch       uint32
	Described   uint64 // frames
	Descriptors uint64
	Repeated    uint64 // segments of the guest that repeat what is kept
	Refused     uint64 // frames freed undescribed because a bound was exceeded; the bound was reported
	Asked       uint64
	Faults      uint64
	Evicted     uint64
}

// dflow is a flow of the secondary's guest. Numbers are in the primary's space unless said otherwise. What every segment needs
// comes first, on few cache lines: with many flows these are what a segment costs most.
type dflow struct {
	key    frame.FlowKey
	id     uint32
	lo, hi frame.Num // [lo, hi) is described, but for holes
	una    frame.Num
	nxt    frame.Num // secondary's own

	pos    uint64    // stream position of hi
	seqOff uint32    // primary's = secondary's + seqOff
	tsOff  uint32    // the same of timestamps
	iss    frame.Num // of the SYN, the secondary's own
	ack    frame.Num
	ts     uint32 // secondary's own
	ecr    uint32
	win    uint16

	touched bool
	born    bool // its SYN was sent in this epoch
	mapped  bool // seqOff and tsOff are valid
	known   bool // hi and pos are valid
	unaOK   bool
	fine    bool
	fin     bool // the guest has closed
	cfin    bool // the client has
	rst     bool
	hasTS   bool
	hasAck  bool
	acked   bool // the guest has acknowledged something new since the last Reset
	tsSeen  bool
	relOK   bool

	nholes int
	nasks  int
	kept   queue[*Frame] // by start; ranges are disjoint
	tmpl   frame.Template

	synAck  frame.Num
	synTS   uint32
	lastTS  frame.Num // highest timestamp that clients have echoed or that was released
	rel     frame.Num // all before it is known to be released; valid with relOK
	finEnd  frame.Num
	holes   [4]span
	waiting queue[*Frame] // for the announcement
	asks    [maxPendingAsks]Ask

	count uint64        // datagrams described
	dkept queue[*Frame] // datagrams, by index
}

// NewDescriber makes a describer whose guest is a copy of the primary's at this moment.
func NewDescriber(cfg Config) *Describer {
	cfg = cfg.withDefaults()
	return &Describer{cfg: cfg, dig: newDigester(cfg.Key), flows: make(map[frame.FlowKey]*dflow), idOff: 1, nextID: 1,
		early: make(map[frame.FlowKey]Announce)}
}

// Out is what is to be done since its last Reset.
func (d *Describer) Out() *DescOut { return &d.out }

// Stats are the present figures.
func (d *Describer) Stats() DescStats {
	s := d.stats
	s.Flows, s.KeptFrames, s.KeptBytes, s.Epoch = len(d.flows), d.kept.n, d.kept.bytes, d.epoch
	return s
}

// Secondary takes a frame of the secondary's guest, in the kernel's order; f.P is parsed. The describer has f
// on loan from here.
func (d *Describer) Secondary(now int64, f *Frame) {
	f.link = heldLink{arrived: now}
	key := f.P.Key(true)
	if key.Kind == frame.KindTCP {
		d.tcp(d.lookup(key, true), f)
		return
	}
	d.datagram(d.lookup(key, true), f)
}

func (d *Describer) lookup(key frame.FlowKey, create bool) *dflow {
	fl := d.last
	if fl == nil || fl.key != key {
		fl = d.flows[key]
		if fl == nil {
			if !create {
				return nil
			}
			fl = d.create(key)
		}
		d.last = fl
	}
	fl.touched = true
	return fl
}

func (d *Describer) create(key frame.FlowKey) *dflow {
	fl := &dflow{key: key, touched: true}
	if len(d.ring) < d.cfg.MaxFlows {
		d.ring = append(d.ring, fl)
	} else if i, ok := d.evict(); ok {
		d.ring[i] = fl
	} else {
		d.fault(ReasonQueue)
		if len(d.ring) < 2*d.cfg.MaxFlows {
			d.ring = append(d.ring, fl)
		} else {
			d.forget(d.ring[d.hand])
			d.ring[d.hand] = fl
			d.hand = (d.hand + 1) % len(d.ring)
		}
	}
	d.flows[key] = fl
	return fl
}

// evict forgets a flow that needs no translation, keeps nothing, and was not used for the longest time.
func (d *Describer) evict() (int, bool) {
	for range 2 * len(d.ring) {
		i := d.hand
		d.hand = (d.hand + 1) % len(d.ring)
		fl := d.ring[i]
		switch {
		case fl.touched:
			fl.touched = false
		case fl.kept.len() == 0 && fl.dkept.len() == 0 && fl.waiting.len() == 0 && fl.nasks == 0 && (!fl.born || fl.closed()):
			d.forget(fl)
			return i, true
		}
	}
	return 0, false
}

func (d *Describer) forget(fl *dflow) {
	d.stats.Evicted++
	d.drop(fl)
	d.retire(fl)
	if d.last == fl {
		d.last = nil
	}
	delete(d.flows, fl.key)
}

// retire gives up the number of fl.
func (d *Describer) retire(fl *dflow) {
	if fl.id != 0 {
		d.byID[fl.id-d.idOff] = nil
		fl.id = 0
	}
}

// drop gives all kept frames of fl back.
func (d *Describer) drop(fl *dflow) {
	for _, q := range [3]*queue[*Frame]{&fl.kept, &fl.waiting, &fl.dkept} {
		for i := range q.len() {
			f := *q.at(i)
			d.kept.remove(f)
			d.free(f)
		}
		q.reset()
	}
}

func (d *Describer) free(f *Frame) {
	f.link = heldLink{}
	d.out.Free = append(d.out.Free, f)
}

// keep takes f into the order of arrival. False means that it was refused and given back.
func (d *Describer) keep(f *Frame) bool {
	n, b := d.kept.n+1, d.kept.bytes+int64(len(f.Buf))
	if n > d.cfg.MaxFrames || b > d.cfg.MaxBytes {
		d.fault(ReasonQueue)
		if n > 2*d.cfg.MaxFrames || b > 2*d.cfg.MaxBytes {
			d.stats.Refused++
			d.free(f)
			return false
		}
	}
	d.kept.push(f)
	return true
}

// fault tells the primary's side that only a checkpoint helps, once for a reason and epoch.
func (d *Describer) fault(r Reason) {
	if d.faulted[r] {
		return
	}
	d.faulted[r] = true
	d.stats.Faults++
	d.emit(Descriptor{Kind: DescribeFault, Reason: r, WScale: -1})
}

// number gives fl its number at the first descriptor.
func (d *Describer) number(fl *dflow) uint32 {
	if fl.id == 0 {
		fl.id = d.nextID
		d.nextID++
		d.byID = append(d.byID, fl)
		d.out.FlowDefs = append(d.out.FlowDefs, FlowDef{ID: fl.id, Key: fl.key})
	}
	return fl.id
}

func (d *Describer) flowByID(id uint32) *dflow {
	i := id - d.idOff
	if id == 0 || i >= uint32(len(d.byID)) {
		return nil
	}
	return d.byID[i]
}

func (d *Describer) emit(desc Descriptor) *Descriptor {
	desc.Epoch = d.epoch
	d.stats.Descriptors++
	d.out.Descriptors = append(d.out.Descriptors, desc)
	return &d.out.Descriptors[len(d.out.Descriptors)-1]
}

// digest appends the digest of data to the output and returns the digests from start on.
func (d *Describer) digest(start int, flow uint32, pos uint64, data []byte) [][DigestLen]byte {
	d.out.digests = append(d.out.digests, *d.dig.sum(flow, pos, data))
	return d.out.digests[start:len(d.out.digests):len(d.out.digests)]
}

// Translate is the offset between the two guests' spaces for a flow: what clients acknowledge and echo is
// lower by it in the secondary's space. known is false, and both are 0, for a flow that was not opened
// since the last checkpoint or whose announcement is not here.
func (d *Describer) Translate(key frame.FlowKey) (seqOff, tsOff uint32, known bool) {
	fl := d.lookup(key, false)
	if fl == nil || !fl.mapped {
		return 0, 0, false
	}
	return fl.seqOff, fl.tsOff, true
}

// Untold says that the engine heard nothing of this epoch: the numbers of its flows are given again in the next one. It
// belongs right before Reset.
func (d *Describer) Untold() { d.nextID = d.idOff }

// Reset says that a checkpoint was loaded: the guest is a copy of the primary's. Everything kept is freed.
func (d *Describer) Reset(int64) {
	for f := d.kept.pop(); f != nil; f = d.kept.pop() {
		d.free(f)
	}
	clear(d.flows)
	clear(d.ring)
	d.ring, d.hand, d.last = d.ring[:0], 0, nil
	d.byID = d.byID[:0]
	d.idOff = d.nextID
	clear(d.early)
	clear(d.faulted[:])
	d.epoch++
}

// Message takes a message of the engine.
func (d *Describer) Message(m *Message) {
	switch m.Kind {
	case MessageAnnounce:
		d.Announce(m.Announce)
	case MessageAsk:
		d.Ask(m.Ask)
	case MessageAskRaw:
		d.AskRaw(m.Ask)
	case MessageWatermark:
		d.Watermark(m.Watermark)
	}
}
