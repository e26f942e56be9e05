package sim

import (
	"fmt"

	"colod/coordinator/pair"
)

// fault makes one thing go wrong. What has to be mended is, some time later.
func (w *world) fault() {
	n := w.nodes[w.rnd(len(w.nodes))]
	o := w.nodes[(n.i+1+w.rnd(len(w.nodes)-1))%len(w.nodes)]
	later := w.between(5*ms, 4*sec)
	w.mendedAt = max(w.mendedAt, w.now+later)
	if w.rnd(2) == 0 { // in the middle of a checkpoint
		for _, x := range w.nodes {
			if x.up && !x.paused && !x.asleep {
				x.step(pair.Diverged{Reason: "payload"})
			}
		}
		w.run(w.now+w.between(0, 60*ms), nil)
		if w.failed != nil {
			return
		}
	}
	k := w.rnd(36)
	w.nfaults++
	say := func(format string, a ...any) {
		if w.tracing {
			w.logf("FAULT: "+format, a...)
		}
	}
	switch k {
	case 0, 1:
		say("VM of %s is killed", n.name)
		if n.vm != nil {
			n.vm.kill(n.up)
		}
	case 2, 3:
		say("colod of %s is killed", n.name)
		n.die()
		w.after(later, n.start)
	case 4, 5:
		say("%s loses power", n.name)
		n.crash()
		w.after(later, n.boot)
	case 6, 7:
		say("partition between %s and %s", n.name, o.name)
		w.part(n, o, true, true, later)
	case 8:
		say("nothing of %s reaches %s", n.name, o.name)
		w.part(n, o, true, false, later)
	case 9:
		say("%s is isolated, from the arbiter too", n.name)
		for _, x := range w.nodes {
			if x != n {
				w.part(n, x, true, true, later)
			}
		}
		w.arb.cut[n.i] = true
		w.after(later, func() { w.arb.cut[n.i] = false })
	case 10:
		say("%s is cut off from the arbiter", n.name)
		w.arb.cut[n.i] = true
		w.after(later, func() { w.arb.cut[n.i] = false })
	case 11:
		say("the arbiter is away")
		w.arb.down = w.now + later
	case 12, 13:
		say("%s stands still", n.name)
		n.pause(later)
	case 14:
		say("colod of %s stands still", n.name)
		if n.up && !n.asleep {
			n.asleep = true
			run := n.run
			w.links()
			w.after(later, func() {
				if n.run == run {
					n.wakeColod()
				}
			})
		}
	case 15:
		say("VM of %s hangs", n.name)
		if v := n.vm; v != nil && v.alive {
			v.frozen = true
			w.after(later, func() {
				v.frozen = false
				v.wake()
			})
			if w.rnd(2) == 0 {
				n.colod(2*sec, func() {
					if n.vm == v && v.alive && v.frozen {
						n.step(pair.VMHung{VM: v.id, Reason: "simulated"})
					}
				})
			}
		}
	case 16:
		say("the net connection of %s breaks", n.name)
		if e := n.pipe; e != nil {
			e.p.cut()
		}
	case 17:
		say("the state stream of %s breaks", n.name)
		if v := n.vm; v != nil {
			v.breakColo()
		}
	case 18:
		say("the ctl connection of %s and %s breaks", n.name, o.name)
		w.ctlBreak(n.i, o.i)
	case 19:
		say("the wall clock of %s is set", n.name)
		d := w.between(-3*sec, 3*sec)
		w.clockSet = w.clockSet || w.plan.steps
		switch {
		case !w.plan.steps:
		case w.rnd(2) == 0:
			n.offset += d
		default:
			n.setClock = d // right after its VM goes on the next time
		}
	case 20:
		say("%s suspects %s without a reason", n.name, o.name)
		if n.up && n.peers[o.i].up && !n.paused && !n.asleep {
			n.lose(o)
		}
	case 21:
		w.ask(n, pair.Ask{ID: 1, Op: pair.OpFailover})
	case 22:
		w.ask(n, pair.Ask{ID: 2, Op: pair.OpSwitchover})
	case 23:
		w.ask(n, pair.Ask{ID: 3, Op: pair.OpMigrate, Target: o.name, Role: pair.Role(w.rnd(3))})
	case 24:
		w.endedOnPurpose = true
		if w.rnd(2) == 0 {
			n.powerOff()
		} else {
			op := pair.OpStop
			if w.rnd(3) == 0 {
				op = pair.OpDelete
			}
			w.ask(n, pair.Ask{ID: 4, Op: op})
		}
		w.after(later, func() { w.ask(n, pair.Ask{ID: 5, Op: pair.OpStart}) })
	case 25:
		w.pausedOnPurpose = true
		w.ask(n, pair.Ask{ID: 6, Op: pair.OpPause})
		w.after(later, func() {
			for _, x := range w.nodes {
				w.ask(x, pair.Ask{ID: 7, Op: pair.OpCont})
			}
		})
	case 26:
		w.endedOnPurpose = true
		w.ask(n, pair.Ask{ID: 8, Op: pair.OpReboot})
	case 27:
		w.ask(n, pair.Ask{ID: 9, Op: pair.OpMaintenance, On: true, Why: "work"})
		w.after(later, func() { w.ask(n, pair.Ask{ID: 10, Op: pair.OpMaintenance}) })
	case 28:
		say("colod of %s is stopped in order", n.name)
		if n.up && !n.exited && !n.paused && !n.asleep {
			n.step(pair.Quit{})
			w.mendedAt = max(w.mendedAt, w.now+later+3*sec)
			w.after(later+3*sec, func() {
				n.die()
				n.start()
			})
		}
	case 29:
		w.ask(n, pair.Ask{ID: 11, Op: pair.OpProtect})
	case 30:
		w.ask(n, pair.Ask{ID: 12, Op: pair.OpCheckpoint})
	case 31:
		say("the secondary of %s is called deaf", n.name)
		if n.up && !n.exited && !n.paused && !n.asleep && n.m.Role() == pair.Speaker {
			n.step(pair.SecondaryDeaf{Reason: "simulated"})
		}
	case 32:
		say("somebody migrates the guest of %s, in vain", n.name)
		w.migration(n, later)
	case 33, 34:
		say("the arbiter and %s are away", o.name)
		w.arb.down = w.now + later
		o.crash()
		w.after(later, o.boot)
		if w.rnd(2) == 0 { // somebody who sees that it has no power lets the other one speak
			w.after(later/2, func() {
				if !o.powered && n.up && !n.paused && !n.asleep && w.off(n) && n.m.State() == pair.Claiming {
					w.forced = true
					w.ask(n, pair.Ask{ID: 13, Op: pair.OpForce})
				}
			})
		}
	case 35:
		say("%s stands still, and %s takes over", n.name, o.name)
		n.pause(later)
		w.ask(o, pair.Ask{ID: 14, Op: pair.OpFailover})
	}
	w.links()
}

// off says that no node but n has power.
func (w *world) off(n *node) bool {
	for _, o := range w.nodes {
		if o != n && o.powered {
			return false
		}
	}
	return true
}

// migration is one that somebody else starts over QMP, and that fails.
func (w *world) migration(n *node, d int64) {
	v := n.vm
	if v == nil || !v.alive {
		return
	}
	tell := func(status string) {
		if n.vm == v && v.alive {
			n.step(pair.VMMigration{VM: v.id, Status: status})
		}
	}
	n.colod(0, func() { tell("setup"); tell("active") })
	n.colod(d, func() { tell("failed") })
}

// ask is an operator's wish.
func (w *world) ask(n *node, a pair.Ask) {
	if w.tracing {
		w.logf("OPERATOR asks %s to %s %s", n.name, a.Op, a.Target)
	}
	if n.up && !n.exited && !n.paused && !n.asleep {
		n.step(a)
	}
}

// part cuts one or both directions between two nodes for d ns.
func (w *world) part(n, o *node, there, back bool, d int64) {
	w.cut[n.i][o.i] = w.cut[n.i][o.i] || there
	w.cut[o.i][n.i] = w.cut[o.i][n.i] || back
	w.links()
	w.after(d, func() {
		w.cut[n.i][o.i], w.cut[o.i][n.i] = false, false
		if w.tracing {
			w.logf("%s and %s reach each other again", n.name, o.name)
		}
		w.links()
	})
}

// pause stops the whole node for d ns: it goes on where it stopped.
func (n *node) pause(d int64) {
	if !n.powered || n.paused {
		return
	}
	n.paused = true
	n.w.links()
	n.w.after(d, n.unpause)
}

func (n *node) unpause() {
	if !n.paused {
		return
	}
	if n.w.tracing {
		n.w.logf("%s goes on", n.name)
	}
	n.paused = false
	n.catchUp()
	n.w.links()
}

func (n *node) wakeColod() {
	if !n.asleep {
		return
	}
	if n.w.tracing {
		n.w.logf("colod of %s goes on", n.name)
	}
	n.asleep = false
	n.catchUp()
	n.w.links()
}

// states are all nodes' states as a sentence.
func (w *world) states() string {
	s := fmt.Sprintf("record: %v", w.arb.rec)
	for _, n := range w.nodes {
		s += "; " + n.name + ": "
		switch {
		case !n.powered:
			s += "no power"
		case !n.up:
			s += "no colod"
		default:
			s += fmt.Sprintf("%v %v (%s), path %s %v", n.m.State(), n.m.Role(), n.m.Reason(), n.role(), n.mode)
			if v := n.vm; v != nil && v.alive {
				s += fmt.Sprintf(", VM halted %t frozen %t", v.halted, v.frozen)
			}
		}
	}
	return s
}

// say tells where a client stands.
func (c *client) say() string {
	f := c.flow
	if f == nil {
		return "it has no connection"
	}
	return fmt.Sprintf("port %d open %t sent %d answered %d of %d; tcp %+v", f.port, f.open, f.sent, f.answered, f.requests, f.t)
}
