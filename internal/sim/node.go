package sim

import (
	"encoding/json"
	"time"

	"colod/coordinator/pair"
	"colod/proxy"
)

// node is a host: its clocks, its kernel, the VM on it, and one run of colod after the other.
type node struct {
	w    *world
	i    int
	name string

	powered  bool
	paused   bool       // the whole host stands still
	late     []deferred // what came meanwhile
	rate     int64      // of its clock, in 1/1024
	bootAt   int64
	offset   int64 // of its wall clock
	setClock int64 // it is set by that much right after the VM goes on

	// Its kernel and the VM.
	mode     proxy.Mode
	tapq     [][]byte // frames that the guest has not read
	vm       *vm
	wallLast int64

	// colod.
	up      bool
	exited  bool // it has ended in order
	run     int  // number of its run: what belongs to an earlier one is dropped
	boots   uint64
	asleep  bool // the process stands still, the rest of the host does not
	m       *pair.Machine
	started int64 // mono
	tickAt  time.Duration
	kept    struct {
		on  bool
		why string
		rev uint64
	} // maintenance, over a restart
	px        *proxy.Direct
	dev       *devices
	turning   bool
	pathAt    int64
	frontTurn int
	vmLane    lane
	pathLane  lane
	arbLane   lane
	sess      *session
	linkSess  string
	pipe      *pipeEnd
	speaking  bool // Speak is being carried out: the record was won
	emitting  bool // Promote is sending what was not released
	freed     bool // no FreeVM is under way
	onFreed   []func()

	peers [maxNodes]peerView
	told  []bool // datagrams of whose release this node was told
}

type deferred struct {
	run int // of colod; 0: of the kernel
	fn  func()
}

// session is what colod's driver holds of one synchronisation.
type session struct {
	name  string
	with  *node
	cut   bool
	told  uint64 // checkpoints of whose end the data path was told
	onCut []func()
}

// mono is the node's monotonic clock, local brings a duration of the world into it and global one of it into the world.
func (n *node) mono() int64          { return n.local(n.w.now - n.bootAt) }
func (n *node) local(d int64) int64  { return d / 1024 * n.rate }
func (n *node) global(d int64) int64 { return d/n.rate*1024 + 1024 }

// wall is the node's wall clock, ns.
func (n *node) wall() int64 { return 1_800_000_000*sec + n.mono() + n.offset }

func (n *node) wallTime() time.Time { return time.Unix(0, n.wall()) }

// kernel does fn d ns from now, unless the node loses power; a paused node does it later.
func (n *node) kernel(d int64, fn func()) {
	n.w.after(d, func() {
		switch {
		case !n.powered:
		case n.paused:
			n.late = append(n.late, deferred{0, fn})
		default:
			fn()
		}
	})
}

// colod does fn d ns from now in the present run of colod.
func (n *node) colod(d int64, fn func()) { n.colodRun(n.run, d, fn) }

func (n *node) colodRun(run int, d int64, fn func()) {
	n.w.after(d, func() { n.gate(run, fn) })
}

func (n *node) gate(run int, fn func()) {
	switch {
	case n.run != run || !n.up || !n.powered:
	case n.paused || n.asleep:
		n.late = append(n.late, deferred{run, fn})
	default:
		fn()
	}
}

// colodOrKernel is for things that happen on the node whoever carries them.
func (n *node) colodOrKernel(d int64, fn func()) { n.kernel(d, fn) }

// catchUp does what came while the node, or colod, stood still.
func (n *node) catchUp() {
	late := n.late
	n.late = nil
	for _, d := range late {
		if d.run == 0 {
			n.kernel(n.w.rng.Int64N(50*us), d.fn)
		} else {
			n.colodRun(d.run, 50*us, d.fn)
		}
	}
	if v := n.vm; v != nil {
		v.wake()
	}
}

// lane carries out jobs one after the other; each says when it is done.
type lane struct {
	busy bool
	jobs []func(done func())
}

func (l *lane) do(job func(done func())) {
	if l.busy {
		l.jobs = append(l.jobs, job)
		return
	}
	l.start(job)
}

func (l *lane) start(job func(done func())) {
	l.busy = true
	called := false
	job(func() {
		if called {
			return
		}
		called = true
		l.busy = false
		if len(l.jobs) > 0 {
			next := l.jobs[0]
			l.jobs = l.jobs[1:]
			l.start(next)
		}
	})
}

// start runs colod.
func (n *node) start() {
	if n.up || !n.powered {
		return
	}
	w := n.w
	n.boots++
	n.run++
	n.up, n.exited, n.asleep = true, false, false
	n.vmLane, n.pathLane, n.arbLane = lane{}, lane{}, lane{}
	n.sess, n.linkSess, n.pipe = nil, "", nil
	n.speaking, n.emitting, n.freed, n.onFreed = false, false, true, nil
	n.turning, n.pathAt, n.tickAt = false, 0, 0
	n.started = n.mono()
	n.dev = &devices{n: n}
	n.px = proxy.OpenDirect(proxy.Options{Pair: "g", Tap: tapName, Uplink: uplinkName, MAC: []byte("\x52\x54\x00\x00\x00\x0a"), Path: n.dev,
		HoldMin: 5 * time.Millisecond, HoldMax: 200 * time.Millisecond, Events: n.pathEvent, SaveFront: n.saveFront}, n.dev)
	cfg := pair.Config{
		Pair: "g", Self: n.name, First: n.i == 0, AutoProtect: true, Strict: true, Fencing: w.plan.fencing, FencingRequired: w.plan.fencing,
		IdleInterval: time.Duration(w.plan.idle), CheckpointTimeout: 3 * time.Second, StepTimeout: 5 * time.Second,
		SyncTimeout: 20 * time.Second, TakeoverWait: 5 * time.Second, MaxRestarts: 1000, RetryMax: 4 * time.Second,
	}
	for k := 1; k < len(w.nodes); k++ {
		cfg.Peers = append(cfg.Peers, w.nodes[(n.i+k)%len(w.nodes)].name)
	}
	n.m = pair.New(cfg)
	if w.plan.buffered {
		n.px.SetBuffered(true)
		n.toggle()
	}
	if w.tracing {
		w.logf("%s: colod starts", n.name)
	}
	n.step(pair.Start{Boot: uint64(n.i+1)<<32 | n.boots})
	if n.kept.on {
		n.step(pair.Ask{Op: pair.OpMaintenance, On: true, Why: n.kept.why, Rev: n.kept.rev})
	}
	w.links()
}

// die ends colod at once; what the kernel does for the guest stays.
func (n *node) die() {
	if !n.up {
		return
	}
	w := n.w
	if w.tracing {
		w.logf("%s: colod dies", n.name)
	}
	n.tear()
	if v := n.vm; v != nil && v.copies {
		v.copies = false // QEMU gives a migration up that loses its stream, and lets the guest go on
		n.kernel(n.w.between(ms, 10*ms), v.resume)
	}
	n.up = false
	n.run++
	if v := n.vm; v != nil {
		v.breakColo()
	}
	n.leave()
}

// toggle changes between compared and buffered epochs now and then.
func (n *node) toggle() {
	n.colod(n.w.between(100*ms, 3*sec), func() {
		n.px.SetBuffered(n.w.rnd(2) == 0)
		n.toggle()
	})
}

// saveFront keeps the connections that are rewritten, a little later: the disk takes its time.
func (n *node) saveFront(b []byte) {
	v := n.vm
	if v == nil {
		return
	}
	n.frontTurn++
	turn := n.frontTurn
	v.unsaved, v.saving = true, b
	n.colod(n.w.between(200*us, 10*ms), func() {
		if turn == n.frontTurn {
			v.front, v.unsaved = b, false
		}
	})
}

// tear notes that connections which were to be rewritten after a takeover end with this run of colod.
func (n *node) tear() {
	if v := n.vm; v != nil && v.alive && (n.role() == "secondary" || v.unsaved) {
		v.torn = true
	}
}

// mend lets clients give up what was torn, when the guest is to be heard.
func (n *node) mend() {
	if v := n.vm; v != nil && v.torn {
		v.torn = false
		n.w.stats.torn++
		n.w.guestLost()
	}
}

// leave ends what the process held.
func (n *node) leave() {
	if e := n.pipe; e != nil && !e.closed {
		e.closed = true
		if n.powered {
			e.hangUp()
		}
	}
	n.pipe, n.dev, n.px = nil, nil, nil
	for j := range n.peers {
		n.peers[j] = peerView{}
		n.w.ctlBreak(n.i, j)
	}
	n.w.links()
}

// crash takes the whole node away.
func (n *node) crash() {
	if n.w.tracing {
		n.w.logf("%s: the node dies", n.name)
	}
	n.powered = false
	if v := n.vm; v != nil {
		v.kill(false)
	}
	n.up = false
	n.run++
	n.leave()
	n.vm, n.tapq, n.late = nil, nil, nil
	n.mode, n.paused, n.asleep = 0, false, false
}

// boot brings it back.
func (n *node) boot() {
	if n.powered {
		return
	}
	n.powered = true
	n.bootAt = n.w.now
	n.start()
}

// post gives the machine an event a little later.
func (n *node) post(ev pair.Event) { n.colod(n.w.between(us, 100*us), func() { n.step(ev) }) }

// step gives the machine an event and carries out what it wants done.
func (n *node) step(ev pair.Event) {
	if !n.up || n.exited || n.w.failed != nil {
		return
	}
	w := n.w
	w.stats.steps++
	now := time.Duration(n.mono() - n.started)
	acts := n.m.Step(pair.Tick{Now: now})
	for _, a := range acts {
		n.act(a)
	}
	if _, tick := ev.(pair.Tick); !tick {
		if r, ok := ev.(pair.Received); ok {
			if p, ok := r.Msg.(pair.Prepare); ok && n.m.State() == pair.Standby {
				n.begin(p.Session, w.byName(r.From))
			}
		}
		n.show("<-", ev)
		for _, a := range n.m.Step(ev) {
			n.act(a)
		}
	}
	if !n.up || n.exited {
		return
	}
	if d := n.m.Deadline(); d != 0 && d != n.tickAt {
		n.tickAt = d
		n.colod(n.global(max(int64(d-now), 0)), func() {
			if n.tickAt == d {
				n.tickAt = 0
				n.step(pair.Tick{})
			}
		})
	}
}

// begin makes a session the present one.
func (n *node) begin(name string, with *node) {
	n.endSession(n.sess)
	n.sess = &session{name: name, with: with}
}

// endSession cuts its relay and ends whatever waits for the peer.
func (n *node) endSession(s *session) {
	if s == nil || s.cut {
		return
	}
	s.cut = true
	for _, fn := range s.onCut {
		fn()
	}
	s.onCut = nil
	if v := n.vm; v != nil {
		v.breakColo()
	}
}

// partnerNode is the other node of the present session.
func (n *node) partnerNode() *node {
	if n.sess == nil {
		return nil
	}
	return n.sess.with
}

// message gives what the other node says, now and then over the wire's own form.
func (n *node) message(from *node, msg pair.Message) {
	if n.w.rnd(64) == 0 {
		b, err := json.Marshal(msg)
		if err == nil {
			msg, err = pair.DecodeMessage(msg.Kind(), b)
		}
		if err != nil {
			n.w.fail("model", "%s sends what cannot be read: %v", from.name, err)
			return
		}
	}
	n.step(pair.Received{From: from.name, Msg: msg})
}

func diverged(reason string) pair.Event    { return pair.Diverged{Reason: reason} }
func linkLost(s, reason string) pair.Event { return pair.LinkLost{Session: s, Reason: reason} }
