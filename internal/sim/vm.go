package sim

import (
	"time"

	"colod/coordinator/pair"
)

// vm is a QEMU process with its guest.
type vm struct {
	n      *node
	id     uint64 // what colod calls it: the number of the action that launched or found it
	alive  bool
	halted bool // stands still: for a checkpoint, or since somebody stopped it
	paused bool // somebody stopped it
	copies bool // the end of the first copy is under way
	frozen bool // hangs: neither guest nor monitor does anything
	loaded bool // has a guest, not only a place for one
	g      guest

	lag     int64 // largest delay of its guest, ns
	readAt  int64 // when the guest reads the newest frame that waits
	timerAt int64

	peer    *vm // of the COLO pair
	primary bool
	broken  bool // its COLO stream is cut
	ckpt    *ckpt
	loads   uint64 // checkpoints that it has taken
	front   []byte // the connections that are rewritten, as its node keeps them on disk
	unsaved bool   // what is kept is not the newest, which is saving
	saving  []byte
	torn    bool // what joined its connections to the clients died with a run of colod
}

// ckpt is a checkpoint under way between two VMs.
type ckpt struct {
	state    guest
	stopped  bool // the primary stands still; state is set
	received bool // the secondary has all of it
	done     bool
}

func (v *vm) running() bool {
	return v.alive && v.loaded && !v.halted && !v.frozen && v.n.powered && !v.n.paused
}

// wake lets the guest go on with what waits for it.
func (v *vm) wake() {
	if !v.running() {
		return
	}
	for range v.n.tapq {
		v.expectRead()
	}
	v.timerAt = 0
	v.arm()
}

// expectRead lets the guest read a frame after a while, in the order of arrival.
func (v *vm) expectRead() {
	w := v.n.w
	at := w.now + 5*us + w.rng.Int64N(v.lag+1)
	if w.rnd(200) == 0 {
		at += w.rng.Int64N(150 * ms)
	}
	v.readAt = max(v.readAt, at)
	v.n.kernel(v.readAt-w.now, v.guestRead)
}

// kill ends the process; tell says that colod is to notice.
func (v *vm) kill(tell bool) {
	if !v.alive {
		return
	}
	n := v.n
	v.breakColo()
	v.alive = false
	n.tapq = n.tapq[:0]
	if tell {
		n.colod(n.w.between(0, 3*ms), func() { n.step(pair.VMDied{VM: v.id, Reason: "killed"}) })
	}
}

// breakColo cuts the state stream of the VM. Each side's QEMU notices if its
// own relay closes; the other node's relay closes when it hears of it.
func (v *vm) breakColo() {
	s := v.peer
	if s == nil || v.broken {
		return
	}
	v.broken = true
	v.coloError()
	s.n.colodOrKernel(s.n.w.between(50*us, ms), func() {
		if s.peer == v && !s.broken && s.n.hears(v.n) {
			s.broken = true
			s.coloError()
		}
	})
}

// coloError is what QEMU does when its stream breaks: it says so, and stays as it is until it is freed.
func (v *vm) coloError() {
	n := v.n
	if !v.alive || v.frozen {
		return
	}
	n.colod(n.w.between(0, ms), func() {
		if n.vm == v && v.alive {
			n.step(pair.COLOExit{VM: v.id, Reason: "error"})
		}
	})
}

// event gives colod an event of QEMU with its time.
func (v *vm) event(d int64, make func(id uint64, at time.Time) pair.Event) {
	n := v.n
	at := n.wallTime()
	n.colod(d, func() {
		if n.vm == v && v.alive {
			n.step(make(v.id, at))
		}
	})
}

func vmStopped(id uint64, at time.Time) pair.Event { return pair.VMStopped{VM: id, At: at} }
func vmResumed(id uint64, at time.Time) pair.Event { return pair.VMResumed{VM: id, At: at} }

func (v *vm) halt() {
	if !v.halted {
		v.halted = true
		v.event(v.n.w.between(0, ms), vmStopped)
	}
}

func (v *vm) resume() {
	if v.halted {
		v.halted, v.paused = false, false
		v.event(v.n.w.between(0, ms), vmResumed)
		if w := v.n.w; w.opt.Clocks {
			v.n.setClock, w.clockSet = w.between(-2*sec, 2*sec), true
		}
		if v.n.setClock != 0 {
			v.n.offset += v.n.setClock
			v.n.setClock = 0
		}
		v.wake()
	}
}

// take makes the guest of v a copy of g.
func (v *vm) take(g *guest) {
	v.g = *g
	v.g.tsBase += uint32((v.n.w.now - g.tsAt) / ms)
	v.g.tsAt = v.n.w.now
	v.loaded, v.torn, v.front, v.unsaved = true, false, nil, false
	v.timerAt = 0
}

// join makes primary and secondary of two VMs: the end of the first copy.
func join(p, s *vm) {
	s.take(&p.g)
	p.peer, s.peer = s, p
	p.primary, s.primary = true, false
	p.broken, s.broken = false, false
	p.ckpt, s.ckpt = nil, nil
	s.loads = 0
}

// checkpoint is QEMU's COLO checkpoint, once it was asked for. The secondary stops first; when it has received all
// it takes the state and runs on; only then the primary does.
func (v *vm) checkpoint() {
	w := v.n.w
	s := v.peer
	if v.ckpt != nil {
		return // one is under way: QEMU swallows the request
	}
	c := &ckpt{}
	v.ckpt, s.ckpt = c, c
	valid := func() bool { return v.ckpt == c && v.alive && !v.broken && v.peer == s }
	reach := func() bool {
		return s.alive && !s.broken && s.peer == v && s.ckpt == c && v.n.hears(s.n) && s.n.hears(v.n)
	}
	w.after(w.between(100*us, ms), func() {
		v.step(s, valid, reach, func() {
			s.halt()
			w.after(w.between(50*us, ms), func() {
				v.step(s, valid, reach, func() {
					v.halt()
					c.state, c.stopped = v.g, true
					w.after(w.between(2*ms, 40*ms), func() {
						v.step(s, valid, reach, func() {
							c.received = true
							s.n.kernel(w.between(100*us, 20*ms), func() { s.load(v, c) })
						})
					})
				})
			})
		})
	})
}

// step goes on with a checkpoint if both sides still can; a frozen or paused one lets it wait.
func (v *vm) step(s *vm, valid, reach func() bool, next func()) {
	w := v.n.w
	switch {
	case !valid():
	case v.frozen || v.n.paused || s.frozen || s.n.paused || !s.alive || !s.n.powered || !reach():
		// The stream stands still until it is cut, or what hinders it is over.
		w.after(20*ms, func() { v.step(s, valid, reach, next) })
	default:
		next()
	}
}

// load is the secondary's last step: it takes what it has received, whatever became of the primary.
func (v *vm) load(p *vm, c *ckpt) {
	if !v.alive || v.ckpt != c || c.done {
		return
	}
	if v.frozen {
		v.n.kernel(20*ms, func() { v.load(p, c) })
		return
	}
	c.done = true
	v.take(&c.state)
	v.loads++
	v.ckpt = nil
	v.resume()
	w := v.n.w
	w.after(w.between(100*us, 2*ms), func() { p.peerLoaded(v, c) })
}

// peerLoaded lets the primary go on when it hears that the secondary has loaded.
func (v *vm) peerLoaded(s *vm, c *ckpt) {
	if !v.alive || v.ckpt != c || v.broken {
		return
	}
	if v.frozen || v.n.paused || !v.n.hears(s.n) {
		v.n.w.after(20*ms, func() { v.peerLoaded(s, c) })
		return
	}
	v.ckpt = nil
	v.resume()
}

// free ends COLO on this side: the guest goes on from its own state, or from a checkpoint that it has received whole.
func (v *vm) free() {
	if c := v.ckpt; c != nil && !v.primary && c.received && !c.done {
		c.done = true
		v.take(&c.state)
		v.loads++
	}
	v.ckpt = nil
	if v.peer != nil {
		v.breakColo()
		v.peer = nil
	}
	v.resume()
}
