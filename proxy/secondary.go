package proxy

import (
	"context"
	"time"

	"golang.org/x/sys/unix"

	"colod/compare"
	"colod/internal/frame"
	"colod/proxy/afpacket"
	"colod/proxy/front"
	"colod/proxy/inputlog"
)

// secondary is the side whose guest runs along, unheard.
type secondary struct {
	desc *compare.Describer
	log  *inputlog.Log
	// inherited are the offsets of connections that lived through earlier
	// takeovers: from the primary's guest to the client.
	inherited map[frame.FlowKey]compare.Front

	tapFD int

	epoch   uint64
	inCkpt  bool // between CkptBegin and our guest's RESUME
	stopped bool // our guest's STOP was seen
	// Frames of before resumeAt (the kernel's time) that come until lateUntil (monotonic) are of before the checkpoint.
	resumeAt, lateUntil int64
	clock               int64            // wallOffset at CkptBegin
	queued              []*compare.Frame // output since CkptBegin

	// Input waits from CkptBegin on until both our guest's RESUME and the
	// time of the primary's STOP are known.
	inputHeld  bool
	priStopped int64 // primary's STOP of this epoch, its clock; 0: not known yet
	held       []heldInput
	heldBytes  int

	toTell uint64 // msgInputTold that came
	told   uint64 // of them, those that the peer was answered about
	void   bool   // since the last answer, input came that is not in the log

	// quiet: nobody wants to hear what the guest says in this epoch; it is kept for a promotion.
	quiet, nextQuiet bool

	taken   uint64 // engine messages of the peer
	confirm bool   // the peer waits to hear that they were

	// keys name the flows of this epoch and of the one before.
	keys, oldKeys map[uint32]frame.FlowKey
}

type heldInput struct {
	ktime int64 // of the primary's host
	buf   []byte
}

// maxInherited bounds the connections that lived through earlier takeovers.
const maxInherited = 1 << 20

// latest is how long (ns) after the guest went on a frame of before may still come, held up in the kernel between the device
// and the socket. Later ones are told by nothing but their order: their time of day may be anything.
const latest = int64(1e9)

// clockNoise is by how much (ns) two readings of wallOffset may differ although the clock was not set.
const clockNoise = int64(50e3)

// maxHeldInput bounds the input that waits for the end of a checkpoint, in bytes.
const maxHeldInput = 64 << 20

// StartSecondary makes this node the one that runs along: the guest's input comes
// from link and its output is described there. Nothing of it reaches the
// network until Promote. The link and s.TapFD belong to the proxy afterwards, also on error.
func (p *Proxy) StartSecondary(ctx context.Context, link *Link, s Session) error {
	return p.call(ctx, func(reply func(error)) { reply(p.startSecondary(link, s)) })
}

func (p *Proxy) startSecondary(link *Link, s Session) error {
	fail := func(err error) error {
		link.close()
		if s.TapFD >= 0 {
			unix.Close(s.TapFD)
		}
		return err
	}
	if p.role == roleSolo || p.role == rolePrimary {
		return fail(roleError("start as secondary", p.role))
	}
	if err := p.setMode(Mute); err != nil {
		return fail(err)
	}
	p.dropRoles()
	p.closeSockets()
	p.front = front.New()
	p.addrs.init()
	err := p.openTap(false)
	if err == nil {
		err = p.openTapTX()
	}
	if err == nil {
		err = p.openUplinkTX() // so that a promotion has nothing left that can fail
	}
	if err != nil {
		return fail(err)
	}
	if p.link != nil {
		p.link.close()
	}
	p.link, p.linkMore, p.linkPaused = link, true, false
	p.sec = newSecondary(compare.NewDescriber(compare.Config{Key: s.Key}), s.TapFD)
	p.role = roleSecondary
	return nil
}

func newSecondary(d *compare.Describer, tapFD int) *secondary {
	return &secondary{
		desc:      d,
		log:       inputlog.New(),
		inherited: make(map[frame.FlowKey]compare.Front),
		tapFD:     tapFD,
		keys:      make(map[uint32]frame.FlowKey),
	}
}

func (s *secondary) close() {
	if s.tapFD >= 0 {
		unix.Close(s.tapFD)
		s.tapFD = -1
	}
}

// output takes a frame of the secondary's guest.
func (s *secondary) output(p *Proxy, f *compare.Frame) {
	switch {
	case s.inCkpt:
		s.queued = append(s.queued, f)
	case f.KTime < s.resumeAt && p.nowMono < s.lateUntil:
		p.pool.put(f) // of the time before the checkpoint
	default:
		s.describe(p, f)
	}
}

func (s *secondary) describe(p *Proxy, f *compare.Frame) {
	if f.P.Kind == frame.KindTCP && f.P.Flags&frame.ACK != 0 {
		s.log.GuestAcked(f.P.Key(true), f.P.Ack)
	}
	if f.P.Kind == frame.KindTCP && f.P.Flags&frame.RST != 0 {
		s.log.GuestReset(f.P.Key(true))
	}
	s.desc.Secondary(p.nowMono, f)
}

// act sends what the describer has to say.
func (s *secondary) act(p *Proxy) {
	out := s.desc.Out()
	if p.link != nil && p.role == roleSecondary {
		if !s.quiet {
			p.link.descriptions(out)
			for i := range out.FlowDefs {
				s.keys[out.FlowDefs[i].ID] = out.FlowDefs[i].Key
			}
		}
		if s.toTell != s.told && !s.inputHeld {
			p.link.logged(s.toTell, s.void)
			s.told, s.void = s.toTell, false
		}
		if s.confirm {
			p.link.mark(msgReceived, s.taken)
			s.confirm = false
		}
	}
	for _, f := range out.Free {
		p.pool.put(f)
	}
	out.Reset()
}

// watermark: the primary has released output of a flow.
func (s *secondary) watermark(p *Proxy, w compare.Watermark) {
	s.desc.Watermark(w)
	if w.Kind != frame.KindTCP {
		return
	}
	key, ok := s.keys[w.Flow]
	if !ok {
		key, ok = s.oldKeys[w.Flow]
	}
	if ok {
		s.log.Released(p.nowMono, key, w.Ack)
	}
}

// input takes a client's frame from the primary.
func (s *secondary) input(p *Proxy, ktime int64, buf []byte) {
	p.stats.Mirrored++
	p.stats.MirroredBytes += uint64(len(buf))
	if !s.inputHeld {
		s.deliver(p, buf)
		return
	}
	if s.heldBytes+len(buf) > maxHeldInput {
		s.void = true
		p.stats.InputLost++ // what was not delivered is seen by comparison: the guests' answers differ
		return
	}
	s.held = append(s.held, heldInput{ktime, append([]byte(nil), buf...)})
	s.heldBytes += len(buf)
}

// deliver gives a client's frame to the guest, in the guest's own sequence space.
func (s *secondary) deliver(p *Proxy, buf []byte) {
	var pd frame.Parsed
	frame.Parse(buf, &pd)
	s.desc.Input(p.nowMono, &pd)
	key := pd.Key(false)
	if !s.log.Add(p.nowMono, key, &pd, buf) {
		s.void = true
	}
	s.inject(p, key, &pd, buf)
}

// inject rewrites buf in place and queues it for the tap: it must stay as it is until tapTX is flushed.
func (s *secondary) inject(p *Proxy, key frame.FlowKey, pd *frame.Parsed, buf []byte) {
	if pd.Kind == frame.KindTCP {
		if seqOff, tsOff, ok := s.desc.Translate(key); ok && (seqOff|tsOff) != 0 {
			front.ToGuest(seqOff, tsOff).Rewrite(buf, pd)
		}
	}
	p.stats.Injected++
	p.tapTX.add(nil, buf, nil)
}

// replay gives the guest again what it may not have.
func (s *secondary) replay(p *Proxy) {
	var pd frame.Parsed
	s.log.Replay(p.nowMono, func(buf []byte) {
		f := p.pool.get(len(buf))
		if f == nil {
			return
		}
		copy(f.Buf, buf) // the log keeps the client's space
		frame.Parse(f.Buf, &pd)
		s.inject(p, pd.Key(false), &pd, f.Buf)
		p.tapTX.flush(p)
		p.stats.Replayed++
		p.pool.put(f)
	})
}

// begin answers CkptBegin.
func (s *secondary) begin(p *Proxy, n uint64) {
	p.drainTap()
	s.act(p)
	s.epoch, s.inCkpt, s.stopped, s.inputHeld, s.priStopped = n, true, false, true, 0
	s.clock = p.wallOffset()
	p.link.mark(msgCkptReady, n)
}

// abort takes begin back.
func (s *secondary) abort(p *Proxy) {
	s.inCkpt = false
	for _, f := range s.queued {
		s.describe(p, f)
	}
	s.queued = s.queued[:0]
	s.releaseInput(p, 0)
}

// releaseInput ends the waiting of input. Datagrams that the primary's guest had
// before its STOP are part of the state that ours was given.
func (s *secondary) releaseInput(p *Proxy, since int64) {
	s.inputHeld = false
	held := s.held
	s.held, s.heldBytes = nil, 0
	var pd frame.Parsed
	for _, h := range held {
		frame.Parse(h.buf, &pd)
		if pd.Kind != frame.KindTCP && h.ktime < since {
			continue
		}
		s.deliver(p, h.buf)
	}
	p.tapTX.flush(p)
}

// resumed: our guest has loaded the checkpoint and runs as a copy of the primary's.
func (s *secondary) resumed(p *Proxy, at int64) {
	p.drainTap()
	s.inCkpt, s.resumeAt, s.lateUntil = false, at, p.nowMono+latest
	s.act(p)
	if s.quiet {
		s.desc.Untold()
	}
	s.quiet = s.nextQuiet
	s.desc.Reset(p.nowMono)
	s.log.Checkpoint(p.nowMono)
	s.oldKeys, s.keys = s.keys, make(map[uint32]frame.FlowKey)
	if p.link != nil {
		p.link.mark(msgCkptDone, s.epoch)
	}
	// Where the clock was set back in the checkpoint, nothing tells frames of before it from those of after. All of them
	// are dropped then: one of before is of a guest that is no more, and one of after is missed, which another checkpoint heals.
	set := p.wallOffset()-s.clock < -clockNoise
	for _, f := range s.queued {
		if f.KTime < at || set { // of before the checkpoint
			p.pool.put(f)
		} else {
			s.describe(p, f)
		}
	}
	clear(s.queued)
	s.queued = s.queued[:0]
	if p.linkPaused {
		p.linkPaused, p.linkMore = false, true
	}
	s.maybeReplay(p)
}

// maybeReplay lets input flow again when both sides of the checkpoint are known.
func (s *secondary) maybeReplay(p *Proxy) {
	if !s.inputHeld || s.inCkpt || s.priStopped == 0 {
		return
	}
	s.replay(p)
	s.releaseInput(p, s.priStopped)
}

// SecondaryStopped says that the secondary's guest was stopped, at the time of
// QEMU's STOP event, for the checkpoint that the primary has begun.
func (p *Proxy) SecondaryStopped(at time.Time) {
	p.post(func() {
		s := p.sec
		if p.role != roleSecondary || !s.inCkpt {
			return
		}
		s.stopped = true
		if s.tapFD >= 0 {
			// Nothing in the tap's queue may reach the guest after the checkpoint:
			// it is rewritten for what the guest was before. The log has it.
			if _, err := afpacket.DrainTap(s.tapFD); err != nil {
				p.log.Warn().Err(err).Msg("empty the tap's queue")
			}
		}
	})
}

// SecondaryResumed says that the secondary's guest has loaded the checkpoint and
// runs on, at the time of QEMU's RESUME event.
func (p *Proxy) SecondaryResumed(at time.Time) {
	p.post(func() {
		s := p.sec
		if p.role != roleSecondary || !s.inCkpt || !s.stopped {
			return
		}
		p.nowMono, p.nowReal = p.dev.Monotonic(), p.dev.Realtime()
		s.resumed(p, at.UnixNano())
		s.act(p)
		p.flush()
	})
}

// Promote makes the secondary the speaker. The caller has won the record and
// the guest runs on by itself. What the former speaker is not known to have
// released is sent at once, connections are rewritten from here on to what
// clients know, and the guest's addresses are announced.
func (p *Proxy) Promote(ctx context.Context) error {
	return p.call(ctx, func(reply func(error)) {
		if p.role != roleSecondary {
			reply(roleError("promote", p.role))
			return
		}
		reply(p.promote())
	})
}

func (p *Proxy) promote() error {
	s := p.sec
	// What the former primary's node has sent until now counts; what it may send for ever does not.
	for i := 0; i < 64 && p.link != nil && !p.linkPaused && p.readLink(); i++ {
	}
	if p.link != nil {
		p.stats.addLink(p.link)
		p.link.close()
		p.link, p.linkMore, p.linkPaused = nil, false, false
	}
	p.drainTap()
	if s.inCkpt {
		// The checkpoint did not reach this guest: it goes on from its own state.
		s.inCkpt = false
		for _, f := range s.queued {
			s.describe(p, f)
		}
		s.queued = nil
	}
	if s.inputHeld {
		s.inputHeld = false
		held := s.held
		s.held, s.heldBytes = nil, 0
		for _, h := range held {
			s.deliver(p, h.buf)
		}
		p.tapTX.flush(p)
	}
	// Input that the guest has not acknowledged goes to it again: the client may have been told that it arrived. Our
	// log is in the former primary's space, and the describer knows the way from there only until it is promoted.
	s.owe(p)
	unreleased, flows := s.desc.Promote(p.nowMono)
	p.front = front.New()
	for _, f := range s.inherited {
		p.front.Add(p.nowMono, f)
	}
	for _, f := range flows {
		p.front.Add(p.nowMono, f)
	}
	// The way in is open before the first word goes out: a client may answer at once.
	if err := p.carry(); err != nil {
		return err
	}
	p.announce()
	for _, f := range unreleased {
		p.releaseAlone(f)
	}
	p.upTX.flush(p)
	out := s.desc.Out()
	for _, f := range out.Free {
		p.pool.put(f)
	}
	out.Reset()
	s.close()
	p.dropRoles()
	p.role = roleSolo
	p.upTX.flush(p)
	p.saveFront()
	return nil
}
