package proxy

import (
	"context"
	"encoding/binary"
	"time"

	"colod/compare"
	"colod/internal/frame"
)

// primary is the side whose guest's output reaches clients.
type primary struct {
	engine  *compare.Tapped
	session Session
	hold    time.Duration // the engine's first budget
	budget  time.Duration
	min     time.Duration
	max     time.Duration

	epoch      uint64  // of the newest checkpoint begun
	holding    bool    // between BeginCheckpoint and EndCheckpoint
	clock      int64   // wallOffset at BeginCheckpoint
	covered    Covered // by the checkpoint that ends
	waiting    uint64  // checkpoint that begins once the peer is done with the one before; 0: none
	peerDone   bool    // the peer has said that its side of the epoch's checkpoint is done
	ready      func(error)
	arm        func() // begins the arming checkpoint, which waits until nothing is owed to the guest
	armReply   func(error)
	armed      bool // a checkpoint has completed: output is compared
	inputLost  uint64
	lostBefore bool
	// Of buffered epochs: the present one, the one that begins with the checkpoint under way or the next, what the
	// other side was told of that, and what the coordinator wants.
	buffered, next, nextTold, wantBuffer bool

	counted uint32 // ID of the newest divergence that is counted

	log toLog // input on its way to the other side's log

	desc    compare.Descriptor // memory of the descriptor being read
	digests [maxDigests][compare.DigestLen]byte
	resumed int64 // end of the newest checkpoint
}

// StartPrimary gives the data path its peer. The guest's output is stolen from
// now on, but still released at once, by the record's authority, until
// the first EndCheckpoint. The link belongs to the proxy afterwards, also on error.
func (p *Proxy) StartPrimary(ctx context.Context, link *Link, s Session) error {
	return p.call(ctx, func(reply func(error)) { reply(p.startPrimary(link, s)) })
}

func (p *Proxy) startPrimary(link *Link, s Session) error {
	if p.role != roleSolo && p.role != rolePrimary {
		link.close()
		return roleError("start as primary", p.role)
	}
	var err error
	if p.role == roleSolo && p.mode == Pass {
		err = p.outputFromKernel()
	} else {
		err = p.openTap(true)
	}
	if err == nil {
		err = p.openUplinkTX()
	}
	if err == nil && p.front.Len() > 0 {
		err = p.openUplinkRX()
	}
	if err == nil && p.front.Len() > 0 {
		err = p.openTapTX()
	}
	if err != nil {
		link.close()
		return err
	}
	if p.link != nil {
		p.stats.addLink(p.link)
		p.link.close()
	}
	if p.pri != nil {
		p.drainTap()
		p.pri.engine.Solo(p.nowMono)
		p.pri.act(p)
		p.flush()
	}
	p.link, p.linkMore, p.linkPaused = link, true, false
	pri := &primary{min: p.opt.HoldMin, max: p.opt.HoldMax, session: s}
	pri.budget = min(max(4*p.opt.HoldMin, p.opt.HoldMin), p.opt.HoldMax)
	pri.hold = pri.budget
	pri.engine = compare.NewTapped(p.compareConfig(s, pri.budget))
	pri.wantBuffer = p.wantBuffer
	p.pri, p.role = pri, rolePrimary
	p.front.Each(link.frontEntry)
	p.front.Gone()
	return nil
}

// inputToKernel lets the kernel pass input on again, once no rewritten connection is left.
func (p *Proxy) inputToKernel() error {
	at := p.dev.Realtime()
	if err := p.setMode(Steal); err != nil {
		return err
	}
	for p.upRX != nil && p.readUplinkUntil(at) {
	}
	p.closeUplinkRX()
	return nil
}

// input mirrors a client's frame to the other side.
func (r *primary) input(p *Proxy, ktime int64, buf []byte, pd *frame.Parsed) {
	r.engine.Input(p.nowMono, buf, pd)
	if p.link == nil || r.epoch == 0 {
		return // the guest is not protected yet: the first checkpoint carries all
	}
	if r.buffered && (!r.holding || r.next || r.waiting != 0) {
		return // nobody compares, and nobody was told that it arrived: the next checkpoint carries it
	}
	if p.link.backlog() > softBacklog {
		p.stats.InputLost++
		r.inputLost++
		return
	}
	kind := msgInput
	if pd.Kind == frame.KindTCP && pd.SegEnd() != pd.Seq {
		kind = msgInputTold
		r.log.sent(pd)
	}
	p.link.input(kind, ktime, buf)
	p.stats.Mirrored++
	p.stats.MirroredBytes += uint64(len(buf))
}

// act carries out what the engine has decided.
func (r *primary) act(p *Proxy) {
	if p.link != nil && p.link.pending() {
		r.engine.Notify(p.nowMono) // an occasion: something goes to the other node anyway
	}
	out := r.engine.Out()
	if len(out.Releases) > 0 {
		for i := range out.Releases {
			r.release(p, &out.Releases[i])
		}
		// Log, then output, then notify: the messages below tell what has been sent.
		p.upTX.flush(p)
	}
	if p.link != nil {
		for i := range out.Messages {
			p.link.engineMessage(&out.Messages[i])
		}
	}
	gone := p.front.Gone()
	for i := range gone {
		if p.link != nil {
			p.link.frontGone(&gone[i])
		}
	}
	for i := range out.Divergences {
		d := &out.Divergences[i]
		if d.ID > r.counted { // some come again when their exact place is known
			r.counted = d.ID
			p.stats.Divergences++
			if p.stats.ByReason == nil {
				p.stats.ByReason = make(map[string]uint64)
			}
			p.stats.ByReason[d.Reason.String()]++
		}
		ev := p.few.Info().Uint32("id", d.ID).Stringer("cause", d.Reason).Stringer("flow", d.Key).Uint32("epoch", d.Epoch).
			Uint32("seq", uint32(d.Seq)).Uint32("len", d.Len)
		if d.Exact {
			ev.Uint64("position", d.Position).Int("frame_offset", d.FrameOffset).Hex("primary", d.Primary).Hex("secondary", d.Secondary)
		}
		ev.Str("detail", d.Detail).Msg("the guests differ")
		p.opt.Events(Diverged{*d})
	}
	for i := range out.Tolerated {
		p.opt.Events(Tolerated{out.Tolerated[i]})
	}
	for _, f := range out.Free {
		p.pool.put(f)
	}
	out.Reset()
	if r.inputLost > 0 && !r.lostBefore {
		r.lostBefore = true
		p.opt.Events(InputLost{Frames: r.inputLost})
	}
}

// release sends one frame, or a part of one, to the network.
func (r *primary) release(p *Proxy, rel *compare.Release) {
	head := rel.Head[:rel.HeadLen]
	var payload []byte
	n := len(head)
	if rel.F != nil {
		payload = rel.F.Buf[rel.Payload[0]:rel.Payload[1]]
		n += len(payload)
	}
	if p.front.Len() > 0 {
		p.frontOut(rel, head, payload)
	}
	switch rel.Reason {
	case compare.WhyAgreed:
		p.stats.Agreed++
	case compare.WhyCovered:
		p.stats.Covered++
		r.covered.Bytes += uint64(n)
	case compare.WhySolo:
		p.stats.Alone++
	case compare.WhyAck:
		p.stats.MadeAcks++
	}
	p.countRelease(n)
	if rel.F == nil {
		p.upTX.add(head, nil, nil)
		return
	}
	if rel.Last {
		p.hold.Add(time.Duration(rel.Held))
		if f := &rel.F.P; f.Kind != frame.KindTCP || f.SegEnd() != f.Seq {
			p.waits.Add(1)
			p.waited.Add(rel.Held)
			if rel.Reason == compare.WhyAgreed && p.nowMono-r.resumed < int64(compare.WarmUp) && rel.Held > p.warm.Load() {
				p.warm.Store(rel.Held)
			}
		}
		if rel.Reason == compare.WhyCovered {
			r.covered.Frames++
			r.covered.Longest = max(r.covered.Longest, time.Duration(rel.Held))
		}
		if rel.Reason == compare.WhyAgreed {
			p.agreed.Add(time.Duration(rel.Held))
		}
		p.upTX.add(head, payload, rel.F)
	} else {
		p.upTX.add(head, payload, nil)
	}
}

// frontOut rewrites a release of a connection that lived through a takeover.
func (p *Proxy) frontOut(rel *compare.Release, head, payload []byte) {
	switch {
	case rel.F == nil:
		var pd frame.Parsed
		frame.Parse(head, &pd)
		p.front.Out(p.nowMono, head, &pd, pd.Len())
	case len(head) == 0:
		p.front.Out(p.nowMono, payload, &rel.F.P, rel.F.P.Len())
	case rel.F.P.Kind == frame.KindTCP:
		// The head of a part: the geometry is the frame's, the numbers are its own.
		pd := rel.F.P
		be := binary.BigEndian
		pd.Seq, pd.Ack = frame.Num(be.Uint32(head[pd.L4+4:])), frame.Num(be.Uint32(head[pd.L4+8:]))
		pd.Flags = head[pd.L4+13]
		if pd.HasTS {
			pd.TSVal, pd.TSEcr = be.Uint32(head[pd.TSOff:]), be.Uint32(head[pd.TSOff+4:])
		}
		p.front.Out(p.nowMono, head, &pd, len(payload))
	}
}

// BeginCheckpoint holds all output from now on, tells the peer that checkpoint
// n comes and waits until the peer has stopped describing.
func (p *Proxy) BeginCheckpoint(ctx context.Context, n uint64) error {
	return p.call(ctx, func(reply func(error)) {
		r := p.pri
		switch {
		case p.role != rolePrimary:
			reply(roleError("begin a checkpoint", p.role))
		case p.link == nil:
			reply(ErrLink)
		case r.epoch == 0 && p.owed != nil:
			// Clients were told that this input arrived, and neither guest has it: once the pair is armed, the other
			// node may be the one that goes on, and nobody there could give it to its guest.
			r.arm = func() { r.suspend(p, n, reply) }
			r.armReply = reply
		default:
			r.suspend(p, n, reply)
		}
	})
}

// suspend holds all output for checkpoint n.
func (r *primary) suspend(p *Proxy, n uint64, reply func(error)) {
	p.drainTap()
	r.engine.BeginCheckpoint(p.nowMono)
	r.holding, r.ready = true, reply
	r.clock = p.wallOffset()
	if r.epoch != 0 && !r.peerDone {
		r.waiting = n // the peer's side of the one before is not done yet
		return
	}
	r.begin(p, n)
}

// mayArm lets the arming checkpoint begin that waits for what the guest is owed.
func (r *primary) mayArm() {
	if arm := r.arm; arm != nil {
		r.arm, r.armReply = nil, nil
		arm()
	}
}

// wallOffset is by how much, in ns, the wall clock is ahead of the monotonic one. Only setting it changes that. Of three
// readings the one counts that was interrupted least between the two clocks.
func (p *Proxy) wallOffset() int64 {
	off := p.dev.Realtime() - p.dev.Monotonic()
	for range 2 {
		off = max(off, p.dev.Realtime()-p.dev.Monotonic())
	}
	return off
}

// begin tells the peer that checkpoint n comes.
func (r *primary) begin(p *Proxy, n uint64) {
	r.epoch, r.peerDone, r.waiting = n, false, 0
	r.next = r.wantBuffer
	r.engine.SetBuffer(r.next)
	if r.next != r.nextTold {
		p.link.buffer(r.next)
		r.nextTold = r.next
	}
	p.link.mark(msgCkptBegin, n)
}

// Stopped tells the peer when, by the primary's clock, its guest was stopped for checkpoint n.
func (p *Proxy) Stopped(n uint64, at time.Time) {
	p.post(func() {
		if p.role == rolePrimary && p.link != nil {
			p.link.markTime(msgCkptStopped, n, at.UnixNano())
		}
	})
}

// EndCheckpoint says that the primary's guest went on, at resume, after the
// completed checkpoint n: what it had sent before is released, what it sends
// from then on is compared.
func (p *Proxy) EndCheckpoint(ctx context.Context, n uint64, resume time.Time) error {
	return p.call(ctx, func(reply func(error)) {
		r := p.pri
		if p.role != rolePrimary || !r.holding || r.epoch != n {
			reply(roleError("end a checkpoint", p.role))
			return
		}
		p.drainTap()
		// A wall clock that was set back since QEMU took the time would make output of after the checkpoint look like
		// what it covers. Whenever in the checkpoint that was, by as much the line is moved; if it was before the guest
		// went on, less counts as covered, and another checkpoint follows.
		line := resume.UnixNano() + min(p.wallOffset()-r.clock, 0)
		r.covered = Covered{N: n}
		r.engine.EndCheckpoint(p.nowMono, line)
		r.holding, r.armed, r.buffered = false, true, r.next
		r.resumed = p.nowMono
		r.inputLost, r.lostBefore = 0, false
		if p.link != nil {
			p.link.mark(msgCkptEnd, n)
		}
		if p.linkPaused && r.peerDone {
			p.linkPaused, p.linkMore = false, true
		}
		r.act(p)
		p.flush()
		p.opt.Events(r.covered)
		reply(nil)
	})
}

// AbortCheckpoint takes BeginCheckpoint back: the trigger failed, and both guests ran on.
func (p *Proxy) AbortCheckpoint(ctx context.Context, n uint64) error {
	return p.call(ctx, func(reply func(error)) {
		r := p.pri
		if p.role != rolePrimary || !r.holding || r.epoch != n && r.waiting != n {
			reply(roleError("abort a checkpoint", p.role))
			return
		}
		r.engine.AbortCheckpoint(p.nowMono)
		r.holding = false
		if r.waiting == n {
			r.waiting = 0 // the peer was not told
		} else if p.link != nil {
			p.link.mark(msgCkptAbort, n)
			r.peerDone = true // nothing more is to come of it
		}
		reply(nil)
	})
}

// SetCheckpointCost tells what a checkpoint costs the guest now. A frame is held
// no longer than about that: then a checkpoint is cheaper than waiting.
func (p *Proxy) SetCheckpointCost(d time.Duration) {
	p.post(func() {
		if p.pri != nil {
			p.pri.budget = min(max(2*d, p.pri.min), p.pri.max)
			p.pri.engine.SetBudget(p.pri.budget)
		}
	})
}

// SetBuffered says whether the epochs that begin with the next checkpoints are buffered ones: output is not compared but
// waits for the checkpoint that covers it.
func (p *Proxy) SetBuffered(on bool) {
	p.post(func() {
		p.wantBuffer = on
		if p.pri != nil {
			p.pri.wantBuffer = on
		}
	})
}

// linkLost: whoever waits for the peer does so in vain.
func (r *primary) linkLost() {
	if r.armReply != nil {
		r.armReply(ErrLink)
		r.arm, r.armReply = nil, nil
	}
	if r.ready != nil {
		r.ready(ErrLink)
		r.ready = nil
	}
}

// GoSolo releases all that is held: the caller has won the record, and this
// node speaks alone.
func (p *Proxy) GoSolo(ctx context.Context) error {
	return p.call(ctx, func(reply func(error)) {
		if p.role != rolePrimary {
			reply(roleError("go solo", p.role))
			return
		}
		if p.link != nil {
			p.stats.addLink(p.link)
			p.link.close()
			p.link = nil
		}
		p.pri.linkLost()
		p.drainTap()
		p.pri.engine.Solo(p.nowMono)
		p.pri.act(p)
		p.flush()
		p.dropRoles()
		p.role = roleSolo
		reply(p.carry())
	})
}
