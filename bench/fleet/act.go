package fleet

import (
	"context"
	"time"

	"colod/coordinator/pair"
)

// act carries out what the machine asks for.
func (m *member) act(a pair.Action) {
	w := m.g.w
	switch a := a.(type) {
	case pair.Moved:
		m.moved(a)
	case pair.Fault:
		w.fail("%s on %s: %s", m.g.name, m.on.name, a.Text)
	case pair.ReadRecord:
		m.arbiter(func(ctx context.Context) func() {
			r, err := m.on.arb.Get(ctx, m.g.name)
			return func() {
				w.m.reads++
				ev := pair.RecordRead{Op: a.Op, Record: r}
				if err != nil {
					ev.Err = err.Error()
				}
				m.step(ev)
			}
		})
	case pair.Swap:
		issued := w.now
		m.arbiter(func(ctx context.Context) func() {
			began := time.Now()
			r, err := m.on.arb.Swap(ctx, a.Prev, a.Next)
			took := time.Since(began)
			return func() {
				ev := pair.SwapResult(a.Op, r, err)
				w.m.write(issued, took, ev.Outcome)
				m.step(ev)
			}
		})
	case pair.FindVM:
		m.vmLane(ms, 5*ms, func() pair.Event { return pair.VMFound{Op: a.Op} })
	case pair.LaunchVM:
		if a.Incoming {
			m.session = a.Session
			m.on.moved++
		}
		m.lane(&m.vmFree, m.on.launch(), func() pair.Event {
			if m.vm != nil {
				w.fail("%s launches a second VM of %s", m.on.name, m.g.name)
			}
			m.vm = &vm{id: a.Op, copied: !a.Incoming}
			m.on.running++
			if !a.Incoming {
				m.grow(guestMemory)
			}
			return pair.VMLaunched{Op: a.Op}
		})
	case pair.EndVM:
		m.vmLane(10*ms, 50*ms, func() pair.Event {
			m.endVM()
			return pair.VMGone{Op: a.Op}
		})
	case pair.CheckVM:
		m.vmLane(100*us, ms, func() pair.Event { return pair.VMChecked{Op: a.Op} })
	case pair.FreeVM:
		m.vmLane(5*ms, 60*ms, func() pair.Event {
			if m.vm == nil || !m.vm.copied {
				return pair.VMFreed{Op: a.Op, Err: "the VM has no guest"}
			}
			m.breakColo()
			m.grow(guestMemory - m.vm.bytes) // the copy of the checkpoint's state is no longer needed
			return pair.VMFreed{Op: a.Op}
		})
	case pair.CutSession:
		m.cut[a.Session] = true
		m.breakColo()
	case pair.Copy:
		m.copyGuest(a)
	case pair.Trigger:
		m.trigger(a)
	case pair.Mute:
		m.pathLane(500*us, 3*ms, func() pair.Event {
			m.path = pathMuted
			return pair.Muted{Op: a.Op}
		})
	case pair.Speak:
		m.pathLane(ms, 5*ms, func() pair.Event {
			m.path = pathSolo
			return pair.Speaking{Op: a.Op}
		})
	case pair.Link:
		m.link(a)
	case pair.Hold:
		m.pathLane(200*us, 2*ms, func() pair.Event {
			if o := m.partner(); o == nil || !o.on.up || m.cut[m.m.Session()] {
				return nil // no answer: the node is lost, which its heartbeats tell
			}
			return pair.Held{N: a.N}
		})
	case pair.Cover:
		m.pathLane(100*us, ms, func() pair.Event {
			if m.path == pathPrimary {
				m.path = pathArmed
			}
			return pair.Covered{N: a.N}
		})
	case pair.Choose:
		all := m.on.candidates(a.Ready, a.Only)
		began := time.Now()
		node, reason, refused := w.cfg.Choose(m.g.needs(m.on, a.Last), all)
		w.m.chose(time.Since(began), len(all))
		ev := pair.Chosen{Op: a.Op, Peer: node, Reason: reason}
		if node == "" {
			ev.Err = "no node fits"
			w.m.noNode += min(1, len(refused))
		} else {
			m.meet(node)
		}
		m.result(0, ev)
	case pair.Send:
		if _, no := a.Msg.(pair.Refused); no && m.vm == nil {
			m.kept()
		}
		m.send(a.To, a.Msg)
	case pair.Warn, pair.MarkStopped, pair.SecondaryStopped, pair.SecondaryResumed, pair.Answer, pair.Exit, pair.Maintained:
		// nothing of it is simulated
	default:
		w.fail("action %T of %s is not expected here", a, m.g.name)
	}
}

func (m *member) moved(a pair.Moved) {
	w := m.g.w
	if a.From == pair.Syncing && a.To == pair.Solo || a.From == pair.Syncing && a.To == pair.Promoting {
		w.m.failed++
	}
	if a.To != pair.Syncing && a.From == pair.Syncing && a.Role != pair.Secondary {
		m.kept()
	}
	if a.To == pair.Solo {
		m.describe()
	}
	if a.To == pair.Standby && !m.listed() {
		w.after(restWait*second, func() {
			rec := m.m.Record()
			if m.on.up && !m.ended && m.vm == nil && m.m.State() == pair.Standby && rec.Speaker != m.on.name && rec.Standby != m.on.name {
				m.leave()
			}
		})
	}
}

// partner is the other side of the session.
func (m *member) partner() *member {
	if h := m.g.w.name[m.m.Partner()]; h != nil {
		return h.members[m.g.name]
	}
	return nil
}

// grow books memory of the VM here.
func (m *member) grow(bytes int64) {
	m.vm.bytes += bytes
	m.on.use(bytes)
}

func (m *member) endVM() {
	if m.vm == nil {
		return
	}
	m.breakColo()
	m.on.use(-m.vm.bytes)
	m.on.running--
	m.kept()
	m.vm = nil
}

// link connects the data paths.
func (m *member) link(a pair.Link) {
	m.pathLane(ms, 10*ms, func() pair.Event {
		o := m.partner()
		if o == nil || !o.on.up || o.session != a.Session || m.cut[a.Session] || o.cut[a.Session] {
			return pair.Linked{Session: a.Session, Err: "cannot connect"}
		}
		m.path = pathPrimary
		o.pathLane(ms, 5*ms, func() pair.Event {
			if o.session != a.Session || o.cut[a.Session] {
				return nil
			}
			o.path = pathSecondary
			return pair.Linked{Session: a.Session}
		})
		return pair.Linked{Session: a.Session}
	})
}

// copyGuest copies the guest to the secondary.
func (m *member) copyGuest(a pair.Copy) {
	o := m.partner()
	if o == nil {
		m.result(ms, pair.Copied{Session: a.Session, Err: "no secondary"})
		return
	}
	m.on.copyTo(o.on, func() {
		m.vmLane(20*ms, 60*ms, func() pair.Event {
			switch {
			case m.cut[a.Session]:
				return pair.Copied{Session: a.Session, Err: "cut"}
			case !o.on.up:
				return nil // heartbeats tell
			case o.vm == nil || o.vm.copied || o.session != a.Session || m.vm == nil:
				return pair.Copied{Session: a.Session, Err: "the secondary is gone"}
			}
			o.vm.copied = true
			o.grow(2 * guestMemory)
			o.kept()
			m.vm.colo, o.vm.colo = o, m
			m.vm.broken, o.vm.broken = false, false
			return pair.Copied{Session: a.Session}
		})
	})
}

// trigger takes a checkpoint.
func (m *member) trigger(a pair.Trigger) {
	w := m.g.w
	m.vmLane(100*us, ms, func() pair.Event {
		v := m.vm
		if v == nil || v.colo == nil || v.broken || v.ckpt || !v.colo.on.up {
			return pair.Triggered{N: a.N}
		}
		v.ckpt = true
		o := v.colo
		second := o.vm
		o.result(0, pair.VMStopped{VM: second.id})
		m.result(ms, pair.VMStopped{VM: v.id})
		w.after(w.delay(10*ms, 30*ms), func() {
			v.ckpt = false
			if m.vm != v || o.vm != second || v.broken || !m.on.up || !o.on.up {
				return
			}
			o.step(pair.VMResumed{VM: second.id})
			m.result(ms, pair.VMResumed{VM: v.id})
		})
		return pair.Triggered{N: a.N}
	})
}

// breakColo cuts the state stream of the VM here; the other side notices.
func (m *member) breakColo() {
	if m.vm == nil || m.vm.colo == nil || m.vm.broken {
		return
	}
	m.vm.broken = true
	o := m.vm.colo
	if o.vm == nil || o.vm.colo != m {
		return
	}
	o.vm.broken = true
	o.result(ms, pair.COLOExit{VM: o.vm.id, Reason: "error"})
}
