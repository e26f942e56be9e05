package chardev

import (
	"encoding/binary"
	"math"
	"time"

	"colod/compare"
	"colod/internal/frame"
)

const (
	headroom  = 8 // in front of each buffer: room for the longest framing
	smallSize = 2048
	bigSize   = maxFrame
)

// slot is a lent frame with its memory; Frame.Index is its place in pool.all.
type slot struct {
	compare.Frame
	mem []byte
}

// pool lends frames, last in, first out.
type pool struct {
	all        []*slot
	small, big []*slot
	arena      arena
}

func (p *pool) get(n int) *slot {
	list, size := &p.small, smallSize
	if n > smallSize {
		list, size = &p.big, bigSize
	}
	if k := len(*list); k > 0 {
		s := (*list)[k-1]
		*list = (*list)[:k-1]
		s.Buf = s.mem[headroom : headroom+n]
		return s
	}
	s := &slot{mem: p.arena.take(headroom + size)}
	s.Buf, s.Index = s.mem[headroom:headroom+n], len(p.all)
	p.all = append(p.all, s)
	return s
}

func (p *pool) put(f *compare.Frame) {
	if f.Index < 0 {
		return
	}
	if s := p.all[f.Index]; len(s.mem) > headroom+smallSize {
		p.big = append(p.big, s)
	} else {
		p.small = append(p.small, s)
	}
}

// item is a released frame on its way out: its bytes with their framing, and what goes back to the pool after them.
type item struct {
	a []byte
	f *compare.Frame
}

// kept is a released range of a stream whose twin the describer still keeps.
type kept struct {
	flow uint32 // the describer's number
	end  frame.Num
	n    int // bytes
}

// Stats counts since the start.
type Stats struct {
	Primary, Secondary uint64 // frames received
	Released           uint64 // frames
	Divergences        uint64
	Checkpoints        uint64
	Gone               uint64 // repetitions of what was not kept any more
}

// core is the comparator without its sockets.
type core struct {
	eng   *compare.Engine
	desc  *compare.Describer
	pool  pool
	vnet  int // length of the virtio-net header on the wire, 0 when none is carried
	out   []item
	sent  uint64 // messages of the engine to the describer
	keep  int
	kept  []kept
	first int // of kept
	bytes int // of kept from first on
	syns  map[frame.FlowKey]frame.Num
	early map[frame.FlowKey][]*slot

	lastID uint32 // of a divergence
	wanted bool   // a divergence asks for a checkpoint
	report func(compare.Divergence)
	stats  Stats
}

// maxEarly bounds the frames of one connection of the secondary that wait for the primary's SYN.
const maxEarly = 64

func newCore(o Options) *core {
	cfg := compare.Config{Local: true, Hold: o.Hold, MaxFlows: o.Flows, MaxFrames: o.Frames, MaxBytes: o.Bytes, MaxPieces: 4 * o.Frames, MaxFlowFrames: o.Frames}
	c := &core{eng: compare.NewEngine(cfg), desc: compare.NewDescriber(cfg), keep: o.Keep, report: o.Diverged,
		syns: make(map[frame.FlowKey]frame.Num), early: make(map[frame.FlowKey][]*slot)}
	c.checkpoint(1)
	c.stats.Checkpoints = 0
	return c
}

// frame puts a frame of the wire into a lent one.
func (c *core) frame(b []byte, vnet int, now int64) *slot {
	s := c.pool.get(len(b) - vnet + frame.VnetLen)
	copy(s.Buf, b[:min(vnet, frame.VnetLen)])
	if vnet == 0 {
		clear(s.Buf[:frame.VnetLen])
	}
	copy(s.Buf[frame.VnetLen:], b[vnet:])
	s.KTime = now
	frame.Parse(s.Buf, &s.P)
	return s
}

func (c *core) primary(now int64, b []byte, vnet int) {
	c.stats.Primary++
	c.vnet = vnet
	s := c.frame(b, vnet, now)
	if s.P.Kind == frame.KindTCP && s.P.Flags&frame.SYN != 0 {
		key := s.P.Key(true)
		seq := s.P.Seq
		c.eng.Primary(now, &s.Frame)
		if len(c.syns) > 1<<16 {
			clear(c.syns)
		}
		c.syns[key] = seq
		if wait := c.early[key]; wait != nil {
			delete(c.early, key)
			for _, w := range wait {
				c.describe(now, key, w)
			}
		}
		return
	}
	c.eng.Primary(now, &s.Frame)
}

func (c *core) secondary(now int64, b []byte, vnet int) {
	c.stats.Secondary++
	s := c.frame(b, vnet, now)
	if s.P.Kind == frame.KindTCP && (s.P.Flags&frame.SYN != 0 || len(c.early) > 0) {
		key := s.P.Key(true)
		if wait, ok := c.early[key]; ok || s.P.Flags&frame.SYN != 0 && !c.knows(key) {
			if len(wait) >= maxEarly || len(c.early) > 1<<14 {
				c.pool.put(&s.Frame)
				c.wanted = true
				return
			}
			c.early[key] = append(wait, s)
			return
		}
		c.describe(now, key, s)
		return
	}
	c.desc.Secondary(now, &s.Frame)
}

func (c *core) knows(key frame.FlowKey) bool { _, ok := c.syns[key]; return ok }

// describe gives the describer a frame of the secondary. QEMU's filter-rewriter has put all but the SYN into the
// primary's sequence space; the SYN gets there here.
func (c *core) describe(now int64, key frame.FlowKey, s *slot) {
	if s.P.Flags&frame.SYN != 0 {
		if seq, ok := c.syns[key]; ok && seq != s.P.Seq {
			p := &s.P
			p.SetHeader(s.Buf, frame.Header{Seq: seq, Ack: p.Ack, Window: p.Window, TSVal: p.TSVal})
			frame.Parse(s.Buf, p)
		}
	}
	c.desc.Secondary(now, &s.Frame)
}

// settle carries what both halves have said to the other until neither has more to say.
func (c *core) settle(now int64) {
	for {
		do := c.desc.Out()
		for i := range do.FlowDefs {
			c.eng.FlowDef(do.FlowDefs[i].ID, do.FlowDefs[i].Key)
		}
		for i := range do.Descriptors {
			d := &do.Descriptors[i]
			if d.Kind == compare.DescribeGone {
				c.stats.Gone++
				c.wanted = true
			}
			c.eng.Descriptor(now, d)
		}
		for i := range do.Raws {
			c.eng.Raw(now, &do.Raws[i])
		}
		for _, f := range do.Free {
			c.pool.put(f)
		}
		do.Reset()

		eo := c.eng.Out()
		for i := range eo.Releases {
			c.release(&eo.Releases[i])
		}
		for _, f := range eo.Free {
			c.pool.put(f)
		}
		for i := range eo.Divergences {
			if d := &eo.Divergences[i]; d.ID > c.lastID { // some come again when their exact place is known
				c.lastID = d.ID
				c.stats.Divergences++
				c.wanted = true
			}
			if c.report != nil {
				c.report(eo.Divergences[i])
			}
		}
		more := len(eo.Messages) > 0
		for i := range eo.Messages {
			c.desc.Message(&eo.Messages[i])
		}
		c.sent += uint64(len(eo.Messages))
		eo.Reset()
		if !more {
			break
		}
		c.eng.Received(now, c.sent)
	}
	c.forget()
}

// release queues one frame, or a part of one.
func (c *core) release(r *compare.Release) {
	c.stats.Released++
	if f := r.F; r.Flow != 0 && f.P.SegEnd() != f.P.Seq {
		end := f.P.SegEnd()
		if r.HeadLen > 0 && !r.Last {
			end = f.P.Seq.Add(uint32(r.Payload[1] - f.P.Payload)) // a part
		}
		c.kept = append(c.kept, kept{r.Flow, end, r.Len()})
		c.bytes += r.Len()
	}
	if r.HeadLen == 0 && r.Last && r.F.Index >= 0 && c.vnet == 0 {
		b := r.F.Buf[frame.VnetLen-4:]
		binary.BigEndian.PutUint32(b, uint32(len(b)-4))
		c.out = append(c.out, item{a: b, f: r.F})
		return
	}
	if r.HeadLen == 0 && r.Last && r.F.Index >= 0 && c.vnet == frame.VnetLen {
		b := c.pool.all[r.F.Index].mem[:headroom+len(r.F.Buf)]
		binary.BigEndian.PutUint32(b, uint32(len(r.F.Buf)))
		binary.BigEndian.PutUint32(b[4:], frame.VnetLen)
		c.out = append(c.out, item{a: b, f: r.F})
		return
	}
	// The parts lie in memory that is used again: the frame is put together in one of our own.
	s := c.pool.get(headroom + 12 + r.Len())
	b := s.Buf[:0]
	n := r.Len() - frame.VnetLen + c.vnet
	b = binary.BigEndian.AppendUint32(b, uint32(n))
	head, payload := r.Head[:r.HeadLen], []byte(nil)
	if r.F != nil {
		payload = r.F.Buf[r.Payload[0]:r.Payload[1]]
	}
	if len(head) == 0 {
		head, payload = payload[:frame.VnetLen], payload[frame.VnetLen:]
	}
	if c.vnet > 0 {
		b = binary.BigEndian.AppendUint32(b, uint32(c.vnet))
		b = append(b, head[:frame.VnetLen]...)
		b = append(b, make([]byte, c.vnet-frame.VnetLen)...)
	}
	b = append(b, head[frame.VnetLen:]...)
	b = append(b, payload...)
	if r.Last && r.F != nil {
		c.pool.put(r.F)
	}
	c.out = append(c.out, item{a: b, f: &s.Frame})
}

// forget lets the describer drop what was released longest ago. What the secondary is ahead with does not count: a
// repetition goes as far back however long the other side takes.
func (c *core) forget() {
	n := len(c.kept) - c.first
	if n > c.keep || c.bytes > c.keep*smallSize {
		for ; n > c.keep || c.bytes > c.keep*smallSize; n-- {
			e := &c.kept[c.first]
			c.first++
			c.bytes -= e.n
			c.desc.Forget(e.flow, e.end)
		}
		do := c.desc.Out()
		for _, f := range do.Free {
			c.pool.put(f)
		}
		clear(do.Free)
		do.Free = do.Free[:0]
	}
	switch {
	case n == 0:
		c.kept, c.first = c.kept[:0], 0
	case c.first > 1<<12 && c.first > n:
		c.kept, c.first = c.kept[:copy(c.kept, c.kept[c.first:])], 0
	}
}

// checkpoint says that both guests are one: the primary's frames are released, the secondary's dropped.
func (c *core) checkpoint(now int64) {
	c.stats.Checkpoints++
	c.wanted = false
	c.eng.BeginCheckpoint(now)
	c.desc.Reset(now)
	clear(c.syns)
	for key, wait := range c.early {
		for _, s := range wait {
			c.pool.put(&s.Frame)
		}
		delete(c.early, key)
	}
	c.kept, c.first, c.bytes = c.kept[:0], 0, 0
	c.eng.EndCheckpoint(now, math.MaxInt64)
	c.settle(now)
}

func (c *core) tick(now int64) {
	if d := c.eng.Deadline(); d != 0 && now >= d {
		c.eng.Tick(now)
		c.settle(now)
	}
}

// wait is the time until tick has something to do, below 0 when nothing waits.
func (c *core) wait(now int64) time.Duration {
	if d := c.eng.Deadline(); d != 0 {
		return time.Duration(max(d-now, 0))
	}
	return -1
}
