package sim

import (
	"math/rand/v2"

	"colod/coordinator/pair"
	"colod/proxy"
)

// plan is what a story's world is like; it follows from the seed.
type plan struct {
	nodes      int
	clients    int
	volatile   bool // the guests' answers differ now and then
	cuts       bool // they cut their segments differently
	timestamps bool
	partial    bool // checksums are left to devices
	lossy      bool // the clients' network loses, repeats and reorders
	grams      bool
	pingPong   bool // a heartbeat counts only if its answer comes
	cutsPipe   bool // a lost peer's net connection is cut
	fencing    bool
	buffered   bool // epochs in which only checkpoints release come and go
	steps      bool // wall clocks are set now and then
	lan        int64
	wire       int64
	lag        int64
	idle       int64
	pause      int64 // largest time that a client thinks
	faults     int
	single     bool // one fault only: the guest must live
}

func makePlan(r *rand.Rand, busy bool) plan {
	b := r.Uint64()
	bit := func() bool { b >>= 1; return b&1 != 0 }
	p := plan{nodes: 2, clients: 1 + r.IntN(2)*r.IntN(3), volatile: bit(), cuts: bit(), timestamps: bit(), partial: bit(), lossy: bit(), grams: bit(),
		pingPong: bit(), cutsPipe: bit(), steps: bit()}
	if r.IntN(3) == 0 {
		p.nodes = 3
	}
	p.fencing = r.IntN(12) == 0
	if p.buffered = r.IntN(6) == 0; p.buffered {
		p.idle = 50*ms + r.Int64N(300*ms)
	} else {
		p.idle = sec + r.Int64N(4*sec)
	}
	p.lan = 20*us + r.Int64N(2*ms)
	p.wire = 20*us + r.Int64N(ms)
	p.lag = 50*us + r.Int64N(2*ms)
	p.pause = 5*ms + r.Int64N(80*ms)
	if r.IntN(16) != 0 && !busy {
		p.pause = 200*ms + r.Int64N(1500*ms)
	}
	p.single = r.IntN(4) == 0
	p.faults = r.IntN(9)
	if p.single {
		p.faults = 1
	}
	return p
}

// think is how long a client waits before it says something.
func (p *plan) think(w *world) int64 { return ms + w.rng.Int64N(p.pause) }

// tell is a whole story: the nodes start, clients talk, faults come; then peace, in which all has to become whole.
func (w *world) tell() {
	defer func() {
		if r := recover(); r != nil {
			if w.failed == nil && !debugPanics {
				w.fail("panic", "%v", r)
				return
			}
			if debugPanics {
				panic(r)
			}
		}
	}()
	w.plan = makePlan(w.rng, w.opt.Busy)
	for i := range w.plan.nodes {
		w.nodes = append(w.nodes, &node{w: w, i: i, name: string(rune('a' + i)), powered: true, rate: 1024 + w.rng.Int64N(21) - 10, mode: proxy.Mute, told: make([]bool, 1)})
	}
	for _, n := range w.nodes {
		w.after(w.between(0, sec), n.start)
	}
	for i := range w.plan.clients {
		c := &client{w: w, i: i}
		w.clients = append(w.clients, c)
		w.after(w.between(0, 2*sec), c.talk)
		if w.plan.grams {
			w.after(w.between(0, 2*sec), c.datagrams)
		}
	}
	if w.plan.single {
		if !w.run(60*sec, w.whole) {
			w.fail("progress", "a fresh pair is not protected within a minute")
			return
		}
		w.run(w.now+w.between(0, 2*sec), nil)
	} else {
		w.faults = w.rnd(4) != 0
		w.run(w.between(0, 4*sec), nil)
	}
	for i := range w.plan.faults {
		if w.failed != nil {
			return
		}
		if w.opt.Skip>>i&1 == 0 {
			w.fault()
		} else {
			// The same draws, so that the rest of the story stays alike.
			w.rnd(2)
		}
		gap := 2500 * ms
		if w.rnd(3) == 0 {
			gap = 60 * ms // in the middle of what the fault has begun
		}
		w.run(w.now+w.between(0, gap), nil)
	}
	w.peace()
}

const debugPanics = false

// whole says that exactly one node is a protected speaker and another one its secondary.
func (w *world) whole() bool {
	sp, se := 0, 0
	for _, n := range w.nodes {
		if !n.up || n.exited || n.m.Paused() {
			return false
		}
		switch {
		case n.m.State() != pair.Protected:
			if n.m.State() != pair.Standby {
				return false
			}
		case n.m.Role() == pair.Speaker:
			sp++
		case n.m.Role() == pair.Secondary:
			se++
		}
	}
	return sp == 1 && se == 1
}

// peace ends all faults. What they have ended is started again, and within bounded time all is well.
func (w *world) peace() {
	w.faults = false
	w.run(max(w.now, w.mendedAt)+100*ms, nil)
	if w.failed != nil {
		return
	}
	if w.tracing {
		w.logf("peace")
	}
	for i := range w.cut {
		w.cut[i] = [maxNodes]bool{}
	}
	w.arb.down, w.arb.cut = 0, [maxNodes]bool{}
	for _, n := range w.nodes {
		if v := n.vm; v != nil && v.frozen {
			v.frozen = false
			v.wake()
		}
		n.unpause()
		n.wakeColod()
		if n.exited {
			n.die()
		}
		n.boot()
		n.start()
	}
	w.links()
	// An operator starts what was ended on purpose, and lets go on what was stopped.
	done := 0
	end := w.now + 180*sec
	next := w.now + 2*sec
	ok := w.run(end, func() bool {
		if w.now >= next {
			next = w.now + 2*sec
			w.after(0, w.operator)
		}
		if w.whole() {
			done++
			return true
		}
		return false
	})
	if w.failed != nil {
		return
	}
	if !ok {
		w.fail("progress", "not protected again three minutes after the last fault: %s", w.states())
		return
	}
	if w.plan.single && w.stats.lost+w.stats.torn > 0 && !w.endedOnPurpose {
		w.fail("guest lost", "one fault was enough to lose the guest")
		return
	}
	if w.forced {
		w.forced = false
		w.guestLost()
	}
	// Every client gets an answer.
	want := make([]int, len(w.clients))
	for i, c := range w.clients {
		want[i] = c.served + 1
	}
	for _, c := range w.clients {
		if c.flow == nil {
			c.talk()
		}
	}
	served := func() bool {
		for i, c := range w.clients {
			if c.served < want[i] {
				return false
			}
		}
		return true
	}
	if !w.run(w.now+120*sec, served) && w.failed == nil {
		for i, c := range w.clients {
			if c.served < want[i] {
				w.fail("progress", "client %d is not served two minutes after the last fault: %s; %s", i, c.say(), w.states())
			}
		}
	}
}

// operator does by hand what nothing does by itself.
func (w *world) operator() {
	for _, n := range w.nodes {
		if !n.up || n.exited {
			continue
		}
		if on, _ := n.m.Maintenance(); on {
			n.step(pair.Ask{ID: 98, Op: pair.OpMaintenance})
		}
		if n.m.Paused() && w.pausedOnPurpose {
			n.step(pair.Ask{ID: 97, Op: pair.OpCont})
		}
		if n.m.State() == pair.Stopped {
			n.step(pair.Ask{ID: 99, Op: pair.OpStart, On: true})
			return
		}
	}
}
