package sim

import (
	"context"
	"fmt"
	"slices"
	"time"

	"colod/coordinator/pair"
	"colod/internal/frame"
	"colod/proxy"
)

// show puts an event or action into the story; what comes all the time is left out.
func (n *node) show(dir string, x any) {
	if !n.w.tracing {
		return
	}
	switch x := x.(type) {
	case pair.ReadRecord, pair.Warn:
		return
	case pair.RecordRead:
		if x.Err == "" {
			return
		}
	case pair.Send:
		if st, ok := x.Msg.(pair.Status); ok {
			if n.w.verbose {
				n.w.logf("%s -> status to %s: %v ready %t", n.name, x.To, st.State, st.Ready)
			}
			return
		}
	case pair.Received:
		if _, ok := x.Msg.(pair.Status); ok {
			return
		}
	}
	n.w.logf("%s %s %T%+v", n.name, dir, x, x)
}

// act carries out one action of the machine, as the driver does.
func (n *node) act(a pair.Action) {
	w := n.w
	n.show("->", a)
	switch a := a.(type) {
	case pair.Moved:
		w.moves[[2]uint8{uint8(a.From), uint8(a.To)}]++
		n.moved(a)
	case pair.Warn, pair.Answer:
	case pair.Maintained:
		n.kept.on, n.kept.why, n.kept.rev = a.On, a.Why, a.Rev
	case pair.Fault:
		w.fail("machine", "%s: %s", n.name, a.Text)
	case pair.Exit:
		n.exit()

	case pair.ReadRecord:
		n.readRecord(a)
	case pair.Swap:
		n.swap(a)

	case pair.FindVM:
		n.onVM(ms, 10*ms, func() pair.Event {
			v := n.vm
			if v == nil || !v.alive {
				return pair.VMFound{Op: a.Op}
			}
			v.id = a.Op
			return pair.VMFound{Op: a.Op, Found: true, Paused: v.paused}
		})
	case pair.LaunchVM:
		n.launch(a)
	case pair.EndVM:
		n.onVM(ms, 30*ms, func() pair.Event {
			if v := n.vm; v != nil {
				v.kill(false)
			}
			return pair.VMGone{Op: a.Op}
		})
	case pair.PowerDown:
		n.onVM(ms, 500*ms, func() pair.Event { n.powerOff(); return nil })
	case pair.PauseVM:
		n.onVM(100*us, 2*ms, func() pair.Event {
			v := n.vm
			if v == nil || !v.alive || v.frozen {
				return pair.VMPaused{Op: a.Op, Err: "no VM that answers"}
			}
			v.halt()
			v.paused = true
			return pair.VMPaused{Op: a.Op}
		})
	case pair.ContVM:
		n.onVM(100*us, 2*ms, func() pair.Event {
			v := n.vm
			if v == nil || !v.alive || v.frozen {
				return pair.VMContinued{Op: a.Op, Err: "no VM that answers"}
			}
			if v.ckpt == nil {
				v.resume()
			}
			return pair.VMContinued{Op: a.Op}
		})
	case pair.ResetVM:
		n.onVM(100*us, 2*ms, func() pair.Event {
			v := n.vm
			if v == nil || !v.alive || v.frozen {
				return pair.VMReset{Op: a.Op, Err: "no VM that answers"}
			}
			v.reset()
			return pair.VMReset{Op: a.Op}
		})
	case pair.Forget:
	case pair.CheckVM:
		n.onVM(100*us, ms, func() pair.Event {
			return pair.VMChecked{Op: a.Op, Err: errIf(n.vm == nil || !n.vm.alive || n.vm.frozen)}
		})
	case pair.FreeVM:
		n.free(a)
	case pair.CutSession:
		if n.sess != nil && n.sess.name == a.Session {
			n.endSession(n.sess)
		}
	case pair.Copy:
		n.copyGuest(a)
	case pair.Trigger:
		n.trigger(a)

	case pair.Mute:
		n.onPath(func(reply func(error)) {
			if w.chance(30) {
				reply(errSim)
				return
			}
			if w.opt.Mutation == DeafMute && w.rnd(2) == 0 {
				reply(nil)
				return
			}
			n.px.Do(reply, func(ctx context.Context, p *proxy.Proxy) error { return p.Mute(ctx) })
		}, func(err string) pair.Event { return pair.Muted{Op: a.Op, Err: err} })
	case pair.Speak:
		n.speak(a)
	case pair.Link:
		n.connectPath(a)
	case pair.Hold:
		n.hold(a)
	case pair.MarkStopped:
		if w.opt.Mutation == CoverEarly {
			n.px.Do(nil, func(ctx context.Context, p *proxy.Proxy) error { return p.EndCheckpoint(ctx, a.N, a.At) })
		}
		n.px.Do(nil, func(_ context.Context, p *proxy.Proxy) error { p.Stopped(a.N, a.At); return nil })
		n.turnSoon()
	case pair.Cover:
		n.onPath(func(reply func(error)) {
			if n.sess == nil || n.sess.cut {
				reply(errSim)
				return
			}
			switch w.opt.Mutation {
			case CoverEarly: // it has been covered already
				reply(nil)
				return
			case CoverLate:
				a.At = a.At.Add(20 * time.Millisecond)
			}
			n.px.Do(reply, func(ctx context.Context, p *proxy.Proxy) error { return p.EndCheckpoint(ctx, a.N, a.At) })
		}, func(err string) pair.Event {
			if err == "" {
				w.stats.checkpoints++
			}
			return pair.Covered{N: a.N, Err: err}
		})
	case pair.SecondaryStopped:
		n.tapq = n.tapq[:0] // see proxy.SecondaryStopped: the tap's queue is emptied
		n.px.SecondaryStopped(a.At)
		n.turnSoon()
	case pair.SecondaryResumed:
		if n.sess != nil && n.vm != nil {
			n.sess.told = n.vm.loads
		}
		n.px.SecondaryResumed(a.At)
		n.turnSoon()

	case pair.Choose:
		n.choose(a)
	case pair.Fence:
		n.fence(a)
	case pair.Send:
		if p, ok := a.Msg.(pair.Prepare); ok {
			n.begin(p.Session, w.byName(a.To))
		}
		n.send(a.To, a.Msg)
	default:
		w.fail("model", "unknown action %T", a)
	}
}

type simError struct{}

func (simError) Error() string { return "simulated failure" }

var errSim error = simError{}

func errIf(bad bool) string {
	if bad {
		return errSim.Error()
	}
	return ""
}

func (n *node) moved(a pair.Moved) {
	if a.To == pair.Promoting && (a.From == pair.Claiming) && a.Role == pair.Speaker {
		n.w.stats.takeovers++
	}
}

// onVM carries out a job on the VM's lane.
func (n *node) onVM(lo, hi int64, fn func() pair.Event) {
	n.vmLane.do(func(done func()) {
		n.colod(n.w.between(lo, hi), func() {
			ev := fn()
			done()
			if ev != nil {
				n.step(ev)
			}
		})
	})
}

// onPath carries out a job on the data path's lane; job has to call reply, now or later.
func (n *node) onPath(job func(reply func(error)), ev func(err string) pair.Event) {
	n.pathLane.do(func(done func()) {
		n.colod(n.w.between(20*us, 500*us), func() {
			answered := false
			job(func(err error) {
				if answered {
					return
				}
				answered = true
				text := ""
				if err != nil {
					text = err.Error()
				}
				n.colod(n.w.between(us, 50*us), func() {
					done()
					n.step(ev(text))
				})
			})
			n.turnSoon()
		})
	})
}

// launch makes a VM: a new guest, or a place for the state of another one.
func (n *node) launch(a pair.LaunchVM) {
	w := n.w
	s := n.sess
	n.onVM(30*ms, 200*ms, func() pair.Event {
		switch {
		case a.Incoming && (s == nil || s.cut || s.name != a.Session):
			return pair.VMLaunched{Op: a.Op, Err: "the session is over"}
		case w.chance(20):
			return pair.VMLaunched{Op: a.Op, Err: "no room"}
		case n.vm != nil && n.vm.alive:
			n.vm.kill(false)
		}
		n.tapq = n.tapq[:0]
		v := &vm{n: n, id: a.Op, alive: true, lag: w.between(10*us, w.plan.lag)}
		n.vm = v
		if !a.Incoming {
			w.incarnation++
			if w.incarnation > 1 {
				w.stats.lost++
				w.guestLost()
			}
			v.boot()
		}
		return pair.VMLaunched{Op: a.Op}
	})
}

// boot lets a new guest run.
func (v *vm) boot() {
	w := v.n.w
	v.g = guest{incarnation: w.incarnation, tsBase: uint32(w.rng.Uint64()), tsAt: w.now}
	v.loaded = true
	for d := 200 * ms; d < 4*sec; d *= 2 { // it makes itself known, as guests do
		v.n.kernel(d, func() {
			if v.running() {
				v.n.fromGuest(w.mem.copy(hello))
			}
		})
	}
}

var hello = frame.GratuitousARP([]byte("\x52\x54\x00\x00\x00\x0a"), [4]byte{192, 0, 2, guestHost})

// reset restarts the guest within its VM: its connections are gone once the other guest follows.
func (v *vm) reset() {
	w := v.n.w
	w.incarnation++
	w.guestLost()
	v.boot()
	n := v.n
	n.tapq = n.tapq[:0]
	n.colod(w.between(us, ms), func() {
		if n.vm == v && v.alive {
			n.step(pair.GuestReset{VM: v.id, Reason: "host-qmp-system-reset"})
		}
	})
}

// free ends COLO here. A secondary may find that the last checkpoint arrived as a whole: its data path is told.
func (n *node) free(a pair.FreeVM) {
	w := n.w
	s := n.sess
	secondary := n.m.Role() == pair.Secondary
	n.freed = false
	n.onVM(3*ms, 40*ms, func() pair.Event {
		v := n.vm
		bad := v == nil || !v.alive || v.frozen || !v.loaded
		if !bad {
			at := n.wallTime()
			v.free()
			if secondary && s != nil && v.loads > s.told && w.opt.Mutation != LoadUntold {
				s.told = v.loads
				n.px.SecondaryStopped(at)
				n.px.SecondaryResumed(at)
			}
		}
		n.freed = true
		for _, fn := range n.onFreed {
			fn()
		}
		n.onFreed = nil
		n.turnSoon()
		return pair.VMFreed{Op: a.Op, Err: errIf(bad)}
	})
	_ = w
}

// quietCOLO says that no checkpoint is under way that this secondary could still take.
func (n *node) quietCOLO(s *session) bool {
	v := n.vm
	return v != nil && v.ckpt == nil && v.loads == s.told
}

// speak lets the guest's output out alone, in the way that the data path is ready for.
func (n *node) speak(a pair.Speak) {
	w := n.w
	s := n.sess
	n.onPath(func(reply func(error)) {
		try := func() {
			if w.chance(30) {
				reply(errSim)
				return
			}
			n.mend()
			n.emitting = n.px.RoleName() == "secondary"
			n.speaking = true
			goSolo, promote := n.now((*proxy.Proxy).GoSolo), n.now((*proxy.Proxy).Promote)
			first := n.solo
			switch a.How {
			case pair.Released:
				first = goSolo
			case pair.TakeOver:
				first = promote
			}
			err := first()
			for _, f := range []func() error{goSolo, promote, n.solo} {
				if !isRole(err) {
					break
				}
				err = f()
			}
			n.speaking, n.emitting = false, false
			reply(err)
		}
		if a.How == pair.TakeOver && s != nil && !n.freed && !n.quietCOLO(s) {
			n.onFreed = append(n.onFreed, try)
			return
		}
		try()
	}, func(err string) pair.Event { return pair.Speaking{Op: a.Op, Err: err} })
}

// now is a method of the data path that answers before it returns.
func (n *node) now(f func(*proxy.Proxy, context.Context) error) func() error {
	return func() (err error) {
		n.px.Do(func(e error) { err = e }, func(ctx context.Context, p *proxy.Proxy) error { return f(p, ctx) })
		return err
	}
}

// solo is Solo of the data path, with the connections that an earlier run of colod has kept for this VM.
func (n *node) solo() error {
	if v := n.vm; v != nil && v.front != nil && n.role() == "idle" {
		err := n.now(func(p *proxy.Proxy, ctx context.Context) error {
			if err := p.RestoreFront(ctx, v.front); err != nil {
				n.w.fail("model", "%s: restore connections: %v", n.name, err)
			}
			return nil
		})()
		if err != nil {
			n.w.fail("model", "%s: restore connections: %v", n.name, err)
		}
	}
	return n.now((*proxy.Proxy).Solo)()
}

// connectPath joins the data paths of both nodes.
func (n *node) connectPath(a pair.Link) {
	w := n.w
	s := n.sess
	n.onPath(func(reply func(error)) {
		n.colod(w.between(200*us, 4*ms), func() {
			o := n.partnerNode()
			if s == nil || s.cut || s.name != a.Session || o == nil || !n.reachable(o) || o.sess == nil || o.sess.name != a.Session || o.sess.cut ||
				w.chance(20) {
				reply(errSim)
				return
			}
			p := newPipe(n, o, a.Session)
			n.linkSess, n.pipe = a.Session, p.end[0]
			os := o.sess
			o.onPath(func(reply func(error)) {
				if o.vm == nil || !o.vm.alive || os.cut || o.sess != os {
					p.end[1].link.Close()
					reply(errSim)
					return
				}
				for _, f := range w.flows {
					f.got[o.i] = f.got[o.i][:0]
				}
				o.linkSess, o.pipe = a.Session, p.end[1]
				o.px.Do(reply, func(ctx context.Context, px *proxy.Proxy) error {
					return px.StartSecondary(ctx, p.end[1].link, proxy.Session{Key: key(a.Session), TapFD: -1})
				})
			}, func(err string) pair.Event { return pair.Linked{Session: a.Session, Err: err} })
			n.px.Do(reply, func(ctx context.Context, px *proxy.Proxy) error {
				return px.StartPrimary(ctx, p.end[0].link, proxy.Session{Key: key(a.Session), TapFD: -1})
			})
		})
	}, func(err string) pair.Event { return pair.Linked{Session: a.Session, Err: err} })
}

func key(session string) (k [16]byte) {
	copy(k[:], session)
	return k
}

// hold makes both data paths hold everything, for as long as the session lives.
func (n *node) hold(a pair.Hold) {
	s := n.sess
	n.onPath(func(reply func(error)) {
		if s == nil || s.cut {
			reply(errSim)
			return
		}
		s.onCut = append(s.onCut, func() { reply(errSim) })
		n.colod(3*sec, func() { reply(errSim) })
		n.px.Do(reply, func(ctx context.Context, p *proxy.Proxy) error { return p.BeginCheckpoint(ctx, a.N) })
	}, func(err string) pair.Event { return pair.Held{N: a.N, Err: err} })
}

// copyGuest makes the other node's VM a copy of this one, which runs on.
func (n *node) copyGuest(a pair.Copy) {
	w := n.w
	s := n.sess
	n.vmLane.do(func(done func()) {
		finish := func(err string) {
			done()
			n.step(pair.Copied{Session: a.Session, Err: err})
		}
		ready := func() *vm {
			if s == nil || s.cut || s.name != a.Session || s.with == nil {
				return nil
			}
			o := s.with
			if !n.reachable(o) || o.sess == nil || o.sess.name != s.name || o.sess.cut || o.vm == nil || !o.vm.alive || o.vm.loaded || o.vm.frozen ||
				n.vm == nil || !n.vm.alive || n.vm.frozen || w.chance(20) {
				return nil
			}
			return o.vm
		}
		n.colod(w.between(100*ms, 800*ms), func() {
			sec := ready()
			if sec == nil {
				finish("cannot copy")
				return
			}
			v := n.vm
			was := v.halted
			v.halt()
			v.copies = true
			n.colod(w.between(ms, 30*ms), func() {
				v.copies = false
				if ready() != sec || n.vm != v {
					if !was && v.alive {
						v.resume()
					}
					finish("cannot copy")
					return
				}
				if c := s.with.sess; c != nil {
					c.told = 0
				}
				join(v, sec)
				sec.event(0, vmResumed)
				sec.wake()
				v.resume()
				n.colod(w.between(ms, 2*ms), func() { finish("") }) // behind the VM's RESUME
			})
		})
	})
}

// trigger asks QEMU for a checkpoint.
func (n *node) trigger(a pair.Trigger) {
	w := n.w
	n.onVM(100*us, ms, func() pair.Event {
		v := n.vm
		switch {
		case v == nil || !v.alive:
			return pair.Triggered{N: a.N, Err: "no VM"}
		case v.frozen || w.chance(40): // swallowed
		case v.peer == nil || v.broken:
			v.coloError()
		default:
			v.checkpoint()
		}
		return pair.Triggered{N: a.N}
	})
}

// choose takes the first node that is ready; those that failed lately come last.
func (n *node) choose(a pair.Choose) {
	w := n.w
	n.colod(w.between(us, 5*ms), func() {
		ev := pair.Chosen{Op: a.Op}
		for _, p := range append(slices.DeleteFunc(slices.Clone(a.Ready), func(s string) bool { return slices.Contains(a.Last, s) }), a.Last...) {
			if slices.Contains(a.Ready, p) {
				ev.Peer, ev.Reason = p, "first of the pair's list that fits"
				break
			}
		}
		if ev.Peer == "" || w.chance(15) {
			ev.Peer, ev.Err = "", "no node fits"
		}
		n.step(ev)
	})
}

// fence switches a node off.
func (n *node) fence(a pair.Fence) {
	w := n.w
	n.colod(w.between(10*ms, sec), func() {
		o := w.byName(a.Node)
		if o == nil || o == n {
			w.fail("model", "%s fences %q", n.name, a.Node)
			return
		}
		if w.chance(4) {
			n.step(pair.FencedNode{Op: a.Op, Err: "no answer from the power switch"})
			return
		}
		o.crash()
		w.after(w.between(sec, 3*sec), o.boot)
		n.step(pair.FencedNode{Op: a.Op})
	})
}

// exit ends colod in order: a lone speaker leaves its traffic to the kernel, unless connections are left that lived through
// a takeover; their table is on disk then.
func (n *node) exit() {
	n.exited = true
	if v := n.vm; v != nil && v.unsaved {
		v.front, v.unsaved = v.saving, false
	}
	if n.m.State() == pair.Solo {
		n.tear()
		n.mend()
		n.px.Do(nil, func(ctx context.Context, p *proxy.Proxy) error { return p.Solo(ctx) })
		if n.px.Rewritten() == 0 {
			_ = n.dev.SetMode(proxy.Pass)
		}
	}
	n.colod(ms, func() {
		if n.exited {
			n.die()
		}
	})
}

// powerOff is the guest's own end.
func (n *node) powerOff() {
	v := n.vm
	if v == nil || !v.running() {
		return
	}
	if n.w.tracing {
		n.w.logf("%s: the guest powers off", n.name)
	}
	id := v.id
	v.kill(false)
	d := n.w.between(0, 2*ms)
	n.colod(d, func() { n.step(pair.VMShutdown{VM: id, Planned: true, Reason: "guest-shutdown"}) })
	n.colod(d+n.w.between(0, ms), func() { n.step(pair.VMDied{VM: id, Reason: "exit 0"}) })
}

// guestLost lets clients give their connections up: the guest they knew is no more, and nobody has a copy.
func (w *world) guestLost() {
	for _, f := range w.flows {
		f.lost = true
	}
	for _, c := range w.clients {
		f := c.flow
		if f == nil {
			continue
		}
		w.after(w.between(ms, 2*sec), func() {
			if c.flow == f {
				c.finish()
			}
		})
	}
	if w.tracing {
		w.logf("a new guest: number %d", w.incarnation)
	}
}

func (w *world) show(b []byte) string { return fmt.Sprint(describe(b)) }
