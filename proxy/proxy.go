package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"colod/compare"
	"colod/internal/frame"
	"colod/internal/loghist"
	"colod/internal/pollset"
	"colod/proxy/afpacket"
	"colod/proxy/front"
)

// Mode is what the kernel does with the frames of a guest's path. The values are
// those of netfilter.Mode, which this package does not import.
type Mode uint8

const (
	// Pass: the kernel carries both directions.
	Pass Mode = iota + 1
	// Steal: the kernel passes input on; output reaches only the proxy.
	Steal
	// StealBoth: input too reaches only the proxy.
	StealBoth
	// Mute: nothing passes; the proxy gives the guest its input and takes its output.
	Mute
)

func (m Mode) String() string {
	switch m {
	case Pass:
		return "pass"
	case Steal:
		return "steal"
	case StealBoth:
		return "steal-both"
	case Mute:
		return "mute"
	}
	return fmt.Sprintf("mode %d", uint8(m))
}

// Path is the guest's way through the kernel.
type Path interface {
	SetMode(Mode) error
}

// Options of a Proxy.
type Options struct {
	Pair   string // name, for logs
	Tap    string // the guest's tap device
	Uplink string // the device towards the bridge
	MAC    net.HardwareAddr
	Path   Path

	// HoldMin and HoldMax bound the hold budget, which follows the measured
	// cost of a checkpoint. Defaults: 5 ms and 200 ms.
	HoldMin, HoldMax time.Duration
	// BusyPoll is how long the thread looks for frames before it sleeps. 0: it sleeps at once.
	BusyPoll time.Duration

	// Tolerances are the differences between the guests that are no divergences; see compare.Config.
	Tolerances []compare.Tolerance
	// Context is how many bytes of each side a divergence shows around the difference; see compare.Config.
	Context int

	// In, if set, runs what opens sockets, for example in another network namespace.
	In func(func() error) error
	// CountCPU makes the Stats tell the processor time, which takes two system calls a turn.
	CountCPU bool

	Log zerolog.Logger
	// SaveFront, if set, is given the connections that are rewritten from now on, for RestoreFront in a later process; nil
	// when none is left. It is called on the proxy's thread after a takeover and must not block.
	SaveFront func([]byte)

	// Events is called on the proxy's thread and must not block.
	Events func(Event)
}

// Event is one of Diverged, Tolerated, LinkLost, OutputLost, InputLost, FrontGone.
type Event interface{ event() }

// Diverged says that the guests' outputs differ: a checkpoint is needed.
type Diverged struct{ compare.Divergence }

// Tolerated says that a rule of Options.Tolerances hid a difference.
type Tolerated struct{ compare.Tolerated }

// LinkLost says that the connection to the other data path ended. A primary
// is silent from then on, until GoSolo or a new StartPrimary.
type LinkLost struct{ Err error }

// OutputLost says that the kernel dropped frames of the guest because the proxy was too slow: a checkpoint is needed.
type OutputLost struct{ Frames uint64 }

// InputLost says that input could not be mirrored: a checkpoint is needed.
type InputLost struct{ Frames uint64 }

// Covered says what a completed checkpoint has let out, before EndCheckpoint returns.
type Covered struct {
	N       uint64        // of the checkpoint
	Frames  uint64        // of the guest
	Bytes   uint64        // of the same
	Longest time.Duration // wait of the frame that waited longest; 0: none was held
}

// FrontGone says that no rewritten connection is left and that the kernel carries the traffic alone.
type FrontGone struct{}

func (Diverged) event()   {}
func (Tolerated) event()  {}
func (LinkLost) event()   {}
func (OutputLost) event() {}
func (InputLost) event()  {}
func (FrontGone) event()  {}
func (Covered) event()    {}

// Session is what both nodes agreed on over the ctl connection for one protection.
type Session struct {
	Key   [16]byte // of the descriptors' digests; fresh for each session
	TapFD int      // secondary: a duplicate of QEMU's descriptor of the tap, owned by the proxy from now on; -1: none
}

// Errors that callers decide on.
var (
	ErrRole = errors.New("not possible in this role")
	ErrLink = errors.New("net link is lost")
)

type role uint8

const (
	roleIdle role = iota
	roleMuted
	roleSolo
	rolePrimary
	roleSecondary
	roleOrphan // a primary whose guest died: what clients still send here goes on to the other node
)

func (r role) String() string {
	return [...]string{"idle", "muted", "solo", "primary", "secondary", "orphan"}[r]
}

// Proxy is the data path of one pair on one node.
type Proxy struct {
	opt Options
	dev Devices
	log zerolog.Logger
	few zerolog.Logger // for what can come in floods: the first 20 lines a second
	th  *thread
	// direct, if set, takes the thread's place.
	direct *Direct

	// What follows belongs to the thread.

	role  role
	mode  Mode // 0: not set by us yet
	pool  pool
	front *front.Table
	addrs addresses

	tapRX, upRX *rx
	tapTX, upTX *outq

	pri  *primary
	sec  *secondary
	owed *owed // nil: nothing
	// wantBuffer: see SetBuffered.
	wantBuffer bool

	link       *Link
	linkMore   bool
	linkPaused bool

	stats     Stats
	hold      loghist.Hist  // of every frame of the guest that was released
	agreed    loghist.Hist  // of those that both sides had said
	waits     atomic.Uint64 // frames with data among all that were released
	waited    atomic.Int64  // what these waited in sum, ns
	warm      atomic.Int64  // see WarmUp
	houseKeep int64
	busyUntil int64
	rxBufs    [][]byte // as many as a batch had frames so far, rxMost at most
	rxMost    int
	rxMeta    []afpacket.Meta
	// Repetitions of the announcement of the guest's address: since when, 0: none; and how many were sent.
	announceFrom int64
	announced    int
	kernelAt     int64 // alone: when the kernel may carry the traffic
	orphanEnd    int64 // orphan: when to give up
	nowMono      int64
	nowReal      int64
	pathErrors   uint64
}

// Open starts the thread of a data path. It touches nothing until it is given a role.
func Open(opt Options) (*Proxy, error) {
	if opt.Tap == "" || opt.Uplink == "" || opt.Path == nil {
		return nil, errors.New("open proxy: tap, uplink and path are needed")
	}
	if opt.HoldMin <= 0 {
		opt.HoldMin = 5 * time.Millisecond
	}
	if opt.HoldMax <= 0 {
		opt.HoldMax = 200 * time.Millisecond
	}
	if opt.HoldMax < opt.HoldMin {
		return nil, fmt.Errorf("open proxy: hold budget from %v to %v: the first must not be above the second", opt.HoldMin, opt.HoldMax)
	}
	if opt.Events == nil {
		opt.Events = func(Event) {}
	}
	th, err := newThread(opt.CountCPU)
	if err != nil {
		return nil, fmt.Errorf("open proxy: %w", err)
	}
	p := &Proxy{
		opt: opt, dev: kernel{in: opt.In}, log: opt.Log, th: th, front: front.New(),
		few:    opt.Log.Sample(&zerolog.BurstSampler{Burst: 20, Period: time.Second}),
		rxMost: rxBatch,
	}
	p.moreBuffers(rxFirst)
	p.addrs.init()
	go th.run(p)
	return p, nil
}

// Close ends the thread. A speaker without a peer leaves its traffic to the kernel, unless connections are left that
// lived through a takeover: what the kernel would carry of them, their ends would not understand. Then, and in
// any other role, the kernel's filters stay as they are: the guest is mute until a later process goes on.
func (p *Proxy) Close() error {
	p.th.close()
	<-p.th.done
	return nil
}

// watch implements the thread's loop.
func (p *Proxy) watch(set *pollset.Set) time.Duration {
	for _, r := range []*rx{p.tapRX, p.upRX} {
		if r != nil && !p.throttled() {
			set.Add(r.FD(), pollset.In, r)
		}
	}
	for _, q := range []*outq{p.tapTX, p.upTX} {
		if q != nil && q.pending() {
			set.Add(q.tx.FD(), pollset.Out, q)
		}
	}
	if p.link != nil {
		var ev uint32
		if !p.linkPaused {
			ev |= pollset.In
		}
		if p.link.wantWrite() {
			ev |= pollset.Out
		}
		if ev != 0 {
			set.Add(p.link.t.fd, ev, p.link)
		}
	}
	if p.linkMore && !p.linkPaused {
		return 0
	}
	now := p.dev.Monotonic()
	if now < p.busyUntil {
		return 0
	}
	return time.Duration(max(p.due()-now, 0))
}

// due is when there is something to do without a frame or message.
func (p *Proxy) due() int64 {
	at := p.houseKeep
	if p.pri != nil {
		if d := p.pri.engine.Deadline(); d != 0 && d < at {
			at = d
		}
	}
	if p.link != nil {
		if d := p.link.deadline(); d != 0 && d < at {
			at = d
		}
	}
	return at
}

// turn does all the work that is there.
func (p *Proxy) turn(set *pollset.Set) {
	p.nowMono, p.nowReal = p.dev.Monotonic(), p.dev.Realtime()
	// A descriptor that was not polled was opened since.
	ready := func(fd int) bool {
		return set == nil || set.Ready(fd) || !set.Has(fd)
	}
	worked := false
	if p.link != nil && !p.linkPaused && (p.linkMore || ready(p.link.t.fd)) {
		worked = p.readLink() || worked
	}
	if p.upRX != nil && ready(p.upRX.FD()) {
		worked = p.readUplink() || worked
	}
	if p.tapRX != nil && ready(p.tapRX.FD()) {
		worked = p.readTap() || worked
	}
	if p.pri != nil {
		if d := p.pri.engine.Deadline(); d != 0 && p.nowMono >= d {
			p.pri.engine.Tick(p.nowMono)
		}
		p.pri.act(p)
	}
	if p.sec != nil {
		p.sec.act(p)
	}
	if p.nowMono >= p.houseKeep {
		p.housekeeping()
	}
	p.flush()
	if worked && p.opt.BusyPoll > 0 {
		p.busyUntil = p.nowMono + int64(p.opt.BusyPoll)
	}
}

// flush sends what the turn has put into queues.
func (p *Proxy) flush() {
	if p.tapTX != nil {
		p.tapTX.flush(p)
	}
	if p.upTX != nil {
		p.upTX.flush(p)
	}
	if p.link != nil {
		if err := p.link.flush(p.nowMono); err != nil {
			p.loseLink(err)
		}
	}
}

const housekeepingEvery = int64(250e6)

// housekeeping looks for what no event tells: frames that the kernel dropped,
// connections that need no rewriting any more.
func (p *Proxy) housekeeping() {
	p.houseKeep = p.nowMono + housekeepingEvery
	if p.tapRX != nil {
		if n, err := p.tapRX.Drops(); err == nil && n > 0 {
			p.stats.OutputLost += uint64(n)
			p.opt.Events(OutputLost{Frames: uint64(n)})
		}
	}
	p.giveAgain()
	p.announceDue()
	if p.pri != nil && p.link != nil {
		p.pri.engine.Notify(p.nowMono)
		p.pri.act(p)
	}
	if p.role == roleOrphan && p.nowMono > p.orphanEnd {
		p.silence()
	}
	if p.role == roleSolo && p.mode != Pass && p.nowMono > p.kernelAt && p.owed == nil && p.front.Expire(p.nowMono) {
		was := p.mode
		if err := p.toKernel(); err != nil {
			p.log.Error().Err(err).Msg("give the traffic back to the kernel")
		} else if was == StealBoth {
			p.frontGone()
		}
	} else if p.role == rolePrimary && p.mode == StealBoth && p.front.Len() == 0 {
		if err := p.inputToKernel(); err != nil {
			p.log.Error().Err(err).Msg("give the input back to the kernel")
		} else {
			p.frontGone()
		}
	}
}

func (p *Proxy) frontGone() {
	p.saveFront()
	p.opt.Events(FrontGone{})
}

// saveFront hands out the table of rewritten connections.
func (p *Proxy) saveFront() {
	if p.opt.SaveFront == nil {
		return
	}
	if p.front.Len() == 0 {
		p.opt.SaveFront(nil)
		return
	}
	p.opt.SaveFront(p.front.Save())
}

// RestoreFront takes the rewritten connections that an earlier process saved for the guest that runs here. It belongs
// before Solo.
func (p *Proxy) RestoreFront(ctx context.Context, saved []byte) error {
	fronts, err := front.Load(saved)
	if err != nil {
		return err
	}
	return p.call(ctx, func(reply func(error)) {
		if p.role != roleIdle && p.role != roleMuted {
			reply(roleError("restore connections", p.role))
			return
		}
		for _, f := range fronts {
			p.front.Add(p.nowMono, f)
		}
		reply(nil)
	})
}

func (p *Proxy) loseLink(err error) {
	if p.link == nil {
		return
	}
	p.log.Warn().Err(err).Str("role", p.role.String()).Msg("net link lost")
	p.stats.addLink(p.link)
	p.link.close()
	p.link, p.linkMore, p.linkPaused = nil, false, false
	if p.pri != nil {
		p.pri.linkLost()
	}
	if p.role == roleOrphan {
		p.silence()
	}
	p.opt.Events(LinkLost{Err: err})
}

// stop implements the thread's loop.
func (p *Proxy) stop() {
	if p.link != nil {
		p.link.close()
		p.link = nil
	}
	if p.role == roleSolo && (p.mode != StealBoth || p.front.Expire(p.dev.Monotonic())) {
		if err := p.toKernel(); err != nil {
			p.log.Error().Err(err).Msg("give the traffic back to the kernel")
		}
	}
	p.dropRoles()
	p.closeSockets()
}

// dropRoles forgets engine and describer with all that they hold.
func (p *Proxy) dropRoles() {
	if p.sec != nil {
		p.sec.close()
	}
	p.pri, p.sec = nil, nil
	// The frames that they held go with them; the pool makes new ones.
	p.pool = pool{}
}

func (p *Proxy) setMode(m Mode) error {
	if p.mode == m {
		return nil
	}
	if err := p.opt.Path.SetMode(m); err != nil {
		p.pathErrors++
		return fmt.Errorf("set path of %s to %v: %w", p.opt.Tap, m, err)
	}
	p.mode = m
	return nil
}

// throttled says that the pool is nearly used up: frames stay in the kernel.
func (p *Proxy) throttled() bool {
	return p.pool.bigMade-len(p.pool.big) > maxBig-2*rxBatch || p.pool.smallMade-len(p.pool.small) > maxSmall-2*rxBatch
}

// call runs fn on the thread.
func (p *Proxy) call(ctx context.Context, fn func(reply func(error))) error {
	call := func(fn func(reply func(error))) error { return p.th.call(ctx, fn) }
	if p.direct != nil {
		call = p.direct.call
	}
	return call(func(reply func(error)) {
		p.nowMono, p.nowReal = p.dev.Monotonic(), p.dev.Realtime()
		fn(reply)
		if p.pri != nil {
			p.pri.act(p)
		}
		if p.sec != nil {
			p.sec.act(p)
		}
		p.flush()
	})
}

// post runs fn on the thread without waiting for it. It reports whether the thread will.
func (p *Proxy) post(fn func()) bool {
	if p.direct != nil {
		fn()
		return true
	}
	return p.th.post(fn)
}

// Waits is how many frames with data were released since Open, and how long they had waited in sum. It costs nothing.
func (p *Proxy) Waits() (frames uint64, sum time.Duration) {
	return p.waits.Load(), time.Duration(p.waited.Load())
}

// WarmUp is how long, at most, data waited for the secondary's guest within compare.WarmUp of a checkpoint, since it was last
// called: an emulated guest translates its code anew then.
func (p *Proxy) WarmUp() time.Duration { return time.Duration(p.warm.Swap(0)) }

// Stats returns counters; see Stats.
func (p *Proxy) Stats() Stats {
	ch := make(chan Stats, 1)
	delay, hold := new(loghist.Hist), new(loghist.Hist) // made here, so that the thread only copies
	if !p.post(func() {
		s := p.stats
		s.Role, s.Mode = p.role.String(), p.mode.String()
		*delay, *hold = p.hold, p.agreed
		s.Delay, s.Hold = delay, hold
		s.HoldP50, s.HoldP99 = p.hold.Quantile(0.5), p.hold.Quantile(0.99)
		s.Rewritten = p.front.Len()
		s.Held = p.pool.lent()
		if p.link != nil {
			s.addLink(p.link)
		}
		if p.pri != nil {
			s.Budget = p.pri.budget
			s.Tolerated = p.pri.engine.Tolerances()
		}
		if s.ByReason != nil {
			by := make(map[string]uint64, len(s.ByReason))
			for k, v := range s.ByReason {
				by[k] = v
			}
			s.ByReason = by
		}
		ch <- s
	}) {
		return Stats{}
	}
	select {
	case s := <-ch:
		s.Turns, s.CPU = p.th.turns.Load(), time.Duration(p.th.cpu.Load())
		return s
	case <-p.th.done:
		return Stats{}
	}
}

// Stats counts since Open.
type Stats struct {
	Role, Mode     string
	ReleasedFrames uint64
	ReleasedBytes  uint64 // Ethernet bytes
	Agreed         uint64 // frames released since both sides said them
	Covered        uint64 // frames released by a checkpoint
	Alone          uint64 // frames released by the record's authority
	MadeAcks       uint64 // acknowledgements made of what both sides stand for
	Mirrored       uint64 // input frames sent to, or received from, the other side
	MirroredBytes  uint64
	Described      uint64 // primary: frames of the secondary's guest of which its node has told
	Injected       uint64 // input frames given to the secondary's guest
	Replayed       uint64 // of them, given again after a checkpoint
	InputLost      uint64
	OutputLost     uint64
	SendErrors     uint64
	Refused        uint64 // frames that the kernel would not send
	Divergences    uint64
	ByReason       map[string]uint64
	LinkIn         uint64 // bytes before encryption
	LinkOut        uint64
	HoldP50        time.Duration // from the kernel's receipt to the release
	HoldP99        time.Duration
	Delay          *loghist.Hist // the same of every released frame: what clients wait for colod
	Hold           *loghist.Hist // of frames released since both sides said them: how long the wait for the other side is
	Budget         time.Duration
	Rewritten      int // connections that lived through a takeover
	Held           int // frames held now
	Turns          uint64
	CPU            time.Duration // of the turns, without falling asleep and waking; only with Options.CountCPU
	// Tolerated are the uses of Options.Tolerances, in their order, in this protection; nil before the first.
	Tolerated []compare.ToleranceStats
}

func (s *Stats) addLink(l *Link) {
	s.LinkIn += l.bytesIn
	s.LinkOut += l.bytesOut
}

// addresses of the guest, learned from what it sends; announced at a takeover.
type addresses struct {
	v4 map[[4]byte]struct{}
	v6 map[[16]byte]struct{}
}

// maxAddresses bounds what a guest that forges sources can make us announce.
const maxAddresses = 64

func (a *addresses) init() {
	a.v4, a.v6 = make(map[[4]byte]struct{}), make(map[[16]byte]struct{})
}

func (a *addresses) learn(p *frame.Parsed) {
	if p.IPv6 {
		if p.Src[0] == 0 || p.Src[0] == 0xff || len(a.v6) >= maxAddresses {
			return
		}
		if _, ok := a.v6[p.Src]; !ok {
			a.v6[p.Src] = struct{}{}
		}
		return
	}
	ip := [4]byte(p.Src[12:])
	if ip == [4]byte{} || ip[0] >= 224 || len(a.v4) >= maxAddresses {
		return
	}
	if _, ok := a.v4[ip]; !ok {
		a.v4[ip] = struct{}{}
	}
}
