package pair

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"colod/coordinator/arbiter"
)

// The simulation: two machines, an arbiter, links, VMs and data paths in
// simulated time, with seeded faults. It knows of the world only what the
// contract of the actions promises.

type simTask struct {
	at  time.Duration
	seq int
	fn  func()
}

type simQueue []simTask

func (q simQueue) Len() int { return len(q) }
func (q simQueue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].seq < q[j].seq
}
func (q simQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *simQueue) Push(x any)   { *q = append(*q, x.(simTask)) }
func (q *simQueue) Pop() any {
	old := *q
	x := old[len(old)-1]
	*q = old[:len(old)-1]
	return x
}

type simVM struct {
	alive   bool
	lineage int  // which guest: a cold start makes a new one
	copied  bool // an incoming VM that has state, or a normal one
	colo    *simVM
	primary bool
	broken  bool // its COLO stream is cut
	frozen  bool
	id      uint64
	ckpt    bool
	still   bool // stopped at its monitor
}

type simPathMode int

const (
	pathMuted simPathMode = iota
	pathSolo
	pathPrimary
	pathArmed
	pathSecondary
)

type simNode struct {
	w       *simWorld
	i       int
	name    string
	m       *Machine
	boots   uint64
	up      bool // colod runs
	paused  time.Duration
	vm      *simVM
	path    simPathMode
	laneVM  time.Duration // when each lane is free
	lanePth time.Duration
	laneArb time.Duration
	run     int // of colod; results of an earlier one are dropped
	heard   time.Duration
	linked  bool // PeerUp was given and PeerDown not
	conn    int  // number of the ctl connection it has seen
	session string
	cutAll  map[string]bool
	sendAt  time.Duration // messages keep their order
	tickAt  time.Duration
	exited  bool
	held    []Event // came while paused
	maint   *Maintained
	forgot  bool
}

type simWorld struct {
	t       *testing.T
	rnd     *rand.Rand
	now     time.Duration
	seq     int
	q       simQueue
	n       [2]*simNode
	rec     arbiter.Record
	arbDown time.Duration
	cut     bool // partition
	conn    int
	lineage int
	faults  bool // operations may fail
	fencing int  // none, wanted, required
	log     []string
	steps   int
	moves   map[Transition]int
	keepLog bool
}

func newSimWorld(t *testing.T, seed uint64) *simWorld {
	w := &simWorld{t: t, rnd: rand.New(rand.NewPCG(seed, 7)), moves: map[Transition]int{}}
	for i := range w.n {
		w.n[i] = &simNode{w: w, i: i, name: string(rune('a' + i))}
	}
	return w
}

func (w *simWorld) logf(format string, a ...any) {
	if w.keepLog && !strings.Contains(fmt.Sprint(a...), "ReadRecord") && !strings.Contains(fmt.Sprint(a...), "RecordRead") {
		w.log = append(w.log, fmt.Sprintf("%10.4f ", w.now.Seconds())+fmt.Sprintf(format, a...))
	}
}

func (w *simWorld) after(d time.Duration, fn func()) {
	w.seq++
	heap.Push(&w.q, simTask{w.now + d, w.seq, fn})
}

func (w *simWorld) delay(lo, hi time.Duration) time.Duration {
	return lo + time.Duration(w.rnd.Int64N(int64(hi-lo)+1))
}

// chance is true once in n while faults are on.
func (w *simWorld) chance(n int) bool { return w.faults && w.rnd.IntN(n) == 0 }

const (
	simBeat    = 50 * time.Millisecond
	simTimeout = 250 * time.Millisecond
)

func (n *simNode) other() *simNode { return n.w.n[1-n.i] }

func (n *simNode) start() {
	n.crashColod() // if it runs
	n.boots++
	n.run++
	n.up, n.exited = true, false
	n.linked, n.conn, n.session = false, 0, ""
	n.laneVM, n.lanePth, n.laneArb = n.w.now, n.w.now, n.w.now
	n.cutAll = map[string]bool{}
	n.tickAt, n.held = 0, nil
	n.m = New(Config{
		Pair: "g", Self: n.name, Peers: []string{n.other().name}, First: n.i == 0, AutoProtect: true, Strict: true,
		Fencing: n.w.fencing > 0, FencingRequired: n.w.fencing > 1, SwitchWait: 2 * time.Second,
		IdleInterval: 2 * time.Second, CheckpointTimeout: 3 * time.Second, StepTimeout: 5 * time.Second,
		SyncTimeout: 20 * time.Second, TakeoverWait: 5 * time.Second, MaxRestarts: 1000, RetryMax: 4 * time.Second,
	})
	n.w.logf("%s starts", n.name)
	n.step(Start{Boot: uint64(n.i)<<32 | n.boots})
	if n.maint != nil {
		n.step(Ask{Op: OpMaintenance, On: n.maint.On, Why: n.maint.Why, Rev: n.maint.Rev})
	}
	n.beat(n.run)
}

// beat is heartbeats and their supervision.
func (n *simNode) beat(run int) {
	if n.run != run || !n.up {
		return
	}
	w := n.w
	o := n.other()
	if w.now >= n.paused {
		if o.up && !w.cut && w.now >= o.paused {
			n.heard = w.now
			if n.conn != w.conn || !n.linked {
				n.conn, n.linked = w.conn, true
				n.step(PeerUp{Peer: n.other().name})
			}
		}
		if n.linked && w.now-n.heard > simTimeout {
			n.linked = false
			w.conn++ // the link ends the connection
			n.step(PeerDown{Peer: n.other().name, Reason: "silent"})
		}
	}
	w.after(simBeat, func() { n.beat(run) })
}

// result gives the machine an event later, unless its colod died meanwhile.
func (n *simNode) result(d time.Duration, ev Event) {
	run := n.run
	n.w.after(d, func() {
		if n.run != run || !n.up {
			return
		}
		if n.w.now >= n.paused && len(n.held) == 0 {
			n.step(ev)
			return
		}
		if n.held = append(n.held, ev); len(n.held) == 1 {
			n.release(run)
		}
	})
}

// release delivers, in order, what came while the node was paused.
func (n *simNode) release(run int) {
	if n.run != run {
		return
	}
	if n.w.now < n.paused {
		n.w.after(n.paused-n.w.now, func() { n.release(run) })
		return
	}
	for len(n.held) > 0 {
		ev := n.held[0]
		n.held = n.held[1:]
		n.step(ev)
	}
}

// lane runs fn after what is before it on the lane, and gives its event.
func (n *simNode) lane(l *time.Duration, lo, hi time.Duration, fn func() Event) {
	run := n.run
	begin := max(*l, n.w.now)
	end := begin + n.w.delay(lo, hi)
	*l = end
	n.w.after(end-n.w.now, func() {
		if n.run != run || !n.up {
			return
		}
		if ev := fn(); ev != nil {
			n.result(0, ev)
		}
	})
}

func (n *simNode) step(ev Event) {
	if !n.up || n.exited {
		return
	}
	w := n.w
	w.steps++
	if _, ok := ev.(Tick); !ok {
		n.w.logf("%s <- %s", n.name, show(ev))
	}
	var acts []Action
	acts = append(acts, n.m.Step(Tick{Now: w.now})...)
	acts = append(acts, n.m.Step(ev)...)
	for _, a := range acts {
		n.act(a)
	}
	if d := n.m.Deadline(); d != 0 && d != n.tickAt {
		n.tickAt = d
		run := n.run
		w.after(max(d-w.now, 0), func() {
			if n.run == run && n.tickAt == d {
				n.tickAt = 0
				n.step(Tick{Now: w.now})
			}
		})
	}
	w.check()
}

// check is invariant 2, one speaker, after every step.
func (w *simWorld) check() {
	alone := ""
	for _, n := range w.n {
		if (n.path == pathSolo || n.path == pathPrimary) && n.vm != nil && n.vm.alive {
			alone += n.name
			if w.rec.Speaker != n.name || w.rec.Standby != "" {
				w.fail(n.name + " may speak alone, and the record does not say so")
			}
		}
	}
	if len(alone) > 1 {
		w.fail("two nodes may speak alone")
	}
}

func (w *simWorld) fail(why string) {
	if !w.keepLog {
		panic(simFailure(why))
	}
	tail := w.log
	if len(tail) > 200 {
		tail = tail[len(tail)-200:]
	}
	w.t.Fatalf("%s\nrecord %v\na: %s %s path %d vm %+v\nb: %s %s path %d vm %+v\n%s", why, w.rec,
		w.n[0].m.State(), w.n[0].m.Reason(), w.n[0].path, w.n[0].vm,
		w.n[1].m.State(), w.n[1].m.Reason(), w.n[1].path, w.n[1].vm, strings.Join(tail, "\n"))
}

type simFailure string

func errIf(bad bool) string {
	if bad {
		return "simulated failure"
	}
	return ""
}

func (n *simNode) act(a Action) {
	w := n.w
	w.logf("%s -> %s", n.name, show(a))
	const u, m = time.Microsecond, time.Millisecond
	switch a := a.(type) {
	case Moved:
		w.moves[Transition{From: a.From, To: a.To}]++
	case Warn:
	case Fault:
		w.fail(a.Text)
	case Exit:
		n.exited = true
	case ReadRecord:
		n.lane(&n.laneArb, 100*u, 5*m, func() Event {
			if w.now < w.arbDown {
				return RecordRead{Op: a.Op, Err: "arbiter away"}
			}
			return RecordRead{Op: a.Op, Record: w.rec}
		})
	case Swap:
		lose := w.chance(10)
		if w.chance(15) { // the write comes late, when nobody waits for it any more
			w.after(w.delay(5*m, 2*time.Second), func() {
				if w.rec == a.Prev {
					w.rec = a.Next
					w.logf("record, late: %v", w.rec)
					w.check()
				}
			})
			n.lane(&n.laneArb, 500*u, 10*m, func() Event { return Swapped{Op: a.Op, Outcome: SwapUnknown} })
			break
		}
		n.lane(&n.laneArb, 500*u, 10*m, func() Event {
			ev := Swapped{Op: a.Op}
			switch {
			case w.now < w.arbDown && !lose:
				ev.Outcome = SwapFailed
				return ev
			case w.rec == a.Prev:
				w.rec = a.Next
				ev.Outcome, ev.Record = SwapWon, w.rec
				w.logf("record: %v", w.rec)
			default:
				ev.Outcome, ev.Record = SwapLost, w.rec
			}
			if lose {
				ev.Outcome, ev.Record = SwapUnknown, arbiter.Record{}
			}
			return ev
		})
	case FindVM:
		n.lane(&n.laneVM, m, 10*m, func() Event {
			found := n.vm != nil && n.vm.alive
			if found {
				n.vm.id = a.Op
			}
			return VMFound{Op: a.Op, Found: found, Paused: found && n.vm.still}
		})
	case LaunchVM:
		if a.Incoming {
			n.session = a.Session
		}
		n.lane(&n.laneVM, 50*m, 300*m, func() Event {
			if w.chance(20) {
				return VMLaunched{Op: a.Op, Err: "no room"}
			}
			if n.vm != nil && n.vm.alive {
				w.fail(n.name + " launches a second VM")
			}
			n.vm = &simVM{alive: true, id: a.Op}
			if a.Incoming && n.path != pathMuted {
				w.fail(fmt.Sprintf("%s launches a secondary in path mode %d", n.name, n.path))
			}
			if !a.Incoming {
				w.lineage++
				n.vm.lineage, n.vm.copied = w.lineage, true
			}
			return VMLaunched{Op: a.Op}
		})
	case EndVM:
		n.lane(&n.laneVM, m, 30*m, func() Event {
			n.killVM(false)
			return VMGone{Op: a.Op}
		})
	case PowerDown:
		n.lane(&n.laneVM, m, 500*m, func() Event {
			if n.vm == nil || !n.vm.alive {
				return nil
			}
			id := n.vm.id
			n.killVM(false)
			n.result(0, VMShutdown{VM: id, Planned: true, Reason: "guest-shutdown"})
			return VMDied{VM: id, Reason: "exit"}
		})
	case CheckVM:
		n.lane(&n.laneVM, 100*u, m, func() Event {
			return VMChecked{Op: a.Op, Err: errIf(n.vm == nil || !n.vm.alive || n.vm.frozen)}
		})
	case FreeVM:
		n.lane(&n.laneVM, 5*m, 60*m, func() Event {
			bad := n.vm == nil || !n.vm.alive || n.vm.frozen || !n.vm.copied
			if !bad {
				if n.vm.colo != nil {
					n.vm.still = false
				}
				n.breakColo()
			}
			return VMFreed{Op: a.Op, Err: errIf(bad)}
		})
	case CutSession:
		n.cutAll[a.Session] = true
		n.breakColo()
		if n.session == a.Session {
			n.session = ""
		}
	case Copy:
		n.lane(&n.laneVM, 200*m, time.Second, func() Event {
			o := n.other()
			bad := n.cutAll[a.Session] || w.cut || !o.up || o.session != a.Session || o.vm == nil || !o.vm.alive || o.vm.copied ||
				n.vm == nil || !n.vm.alive || n.vm.frozen || o.vm.frozen || w.chance(10)
			if bad {
				return Copied{Session: a.Session, Err: "cannot copy"}
			}
			o.vm.copied, o.vm.lineage = true, n.vm.lineage
			n.vm.colo, o.vm.colo = o.vm, n.vm
			n.vm.primary, o.vm.primary = true, false
			n.vm.broken, o.vm.broken = false, false
			return Copied{Session: a.Session}
		})
	case Trigger:
		n.trigger()
	case Mute:
		n.lane(&n.lanePth, 100*u, 5*m, func() Event {
			bad := w.chance(30)
			if !bad {
				n.path = pathMuted
			}
			return Muted{Op: a.Op, Err: errIf(bad)}
		})
	case Speak:
		n.lane(&n.lanePth, m, 20*m, func() Event {
			bad := w.chance(30)
			if !bad {
				n.path = pathSolo
				w.check()
			}
			return Speaking{Op: a.Op, Err: errIf(bad)}
		})
	case Link:
		n.lane(&n.lanePth, m, 10*m, func() Event {
			o := n.other()
			if w.cut || !o.up || o.session != a.Session || n.cutAll[a.Session] || w.chance(20) {
				return Linked{Session: a.Session, Err: "cannot connect"}
			}
			if n.path != pathSolo {
				w.fail(fmt.Sprintf("%s starts as primary in path mode %d", n.name, n.path))
			}
			n.path = pathPrimary
			o.lane(&o.lanePth, m, 10*m, func() Event {
				if o.session != a.Session {
					return Linked{Session: a.Session, Err: "over"}
				}
				o.path = pathSecondary
				return Linked{Session: a.Session}
			})
			return Linked{Session: a.Session}
		})
	case Hold:
		ses := n.m.Session()
		n.lane(&n.lanePth, 200*u, 2*m, func() Event {
			o := n.other()
			return Held{N: a.N, Err: errIf(w.cut || !o.up || o.session != ses || n.cutAll[ses])}
		})
	case MarkStopped:
	case Cover:
		n.lane(&n.lanePth, 100*u, m, func() Event {
			if n.path == pathPrimary {
				n.path = pathArmed
			}
			return Covered{N: a.N}
		})
	case SecondaryStopped, SecondaryResumed:
	case Send:
		n.send(a.Msg)
	case PauseVM, ContVM:
		_, stop := a.(PauseVM)
		var op uint64
		if p, ok := a.(PauseVM); ok {
			op = p.Op
		} else {
			op = a.(ContVM).Op
		}
		n.lane(&n.laneVM, 100*u, 2*m, func() Event {
			v := n.vm
			bad := v == nil || !v.alive || v.frozen
			done := !bad && v.still != stop
			if done {
				v.still = stop
			}
			if w.chance(20) {
				bad = true // it was done, but nobody knows
			}
			ev, res := Event(VMResumed{}), Event(VMContinued{Op: op, Err: errIf(bad)})
			if done {
				ev = VMResumed{VM: v.id}
			}
			if stop {
				res = VMPaused{Op: op, Err: errIf(bad)}
				if done {
					ev = VMStopped{VM: v.id}
				}
			}
			if done {
				n.result(w.delay(0, m), ev)
			}
			return res
		})
	case ResetVM:
		n.lane(&n.laneVM, 100*u, 2*m, func() Event {
			v := n.vm
			if v == nil || !v.alive || v.frozen {
				return VMReset{Op: a.Op, Err: "no VM"}
			}
			n.result(w.delay(0, m), GuestReset{VM: v.id, Reason: "host-qmp-system-reset"})
			return VMReset{Op: a.Op}
		})
	case Forget:
		if !w.rec.Ended {
			w.fail("a guest that was not ended is forgotten")
		}
		n.forgot = true
	case Maintained:
		n.maint = &a
	case Fence:
		bad := w.chance(3)
		n.result(w.delay(100*m, 2*time.Second), FencedNode{Op: a.Op, Err: errIf(bad)})
	case Choose:
		n.result(w.delay(0, m), Chosen{Op: a.Op, Peer: a.Ready[0]})
	case Answer:
	default:
		w.fail("unknown action " + show(a))
	}
}

// send delivers in order, unless the connection is gone meanwhile.
func (n *simNode) send(msg Message) {
	w, o := n.w, n.other()
	if w.cut || !o.up {
		return
	}
	// What goes over the wire can be read again.
	if err := msg.check(); err != nil {
		w.fail(fmt.Sprintf("%s sends %s: %v", n.name, show(msg), err))
	}
	at := max(n.sendAt, w.now+w.delay(50*time.Microsecond, time.Millisecond))
	n.sendAt = at
	run, conn := o.run, w.conn
	w.after(at-w.now, func() {
		if o.run == run && o.up && !w.cut && w.conn == conn {
			o.result(0, Received{From: n.name, Msg: msg})
		}
	})
}

// trigger models a checkpoint of QEMU.
func (n *simNode) trigger() {
	w := n.w
	n.lane(&n.laneVM, 100*time.Microsecond, time.Millisecond, func() Event {
		v := n.vm
		if v == nil || !v.alive {
			return Triggered{N: n.m.n, Err: "no VM"}
		}
		if v.frozen || w.chance(40) {
			return Triggered{N: n.m.n} // swallowed
		}
		if v.colo == nil || v.broken || !v.colo.alive {
			n.result(time.Millisecond, COLOExit{VM: v.id, Reason: "error"})
			return Triggered{N: n.m.n}
		}
		if v.ckpt {
			return Triggered{N: n.m.n} // swallowed: one is under way
		}
		v.ckpt = true
		s, o := v.colo, n.other()
		vm := n.vm
		o.result(w.delay(0, time.Millisecond), VMStopped{VM: s.id})
		n.result(w.delay(0, 2*time.Millisecond), VMStopped{VM: v.id})
		w.after(w.delay(3*time.Millisecond, 50*time.Millisecond), func() {
			v.ckpt = false
			if n.vm != vm || !v.alive {
				return
			}
			if v.broken || v.colo != s || !s.alive || s.frozen {
				if !s.frozen {
					n.result(0, COLOExit{VM: v.id, Reason: "error"})
				}
				return
			}
			v.still, s.still = false, false
			o.result(0, VMResumed{VM: s.id})
			n.result(w.delay(0, time.Millisecond), VMResumed{VM: v.id})
		})
		return Triggered{N: n.m.n}
	})
}

// breakColo cuts the state stream of the VM here; the other side's QEMU
// notices at once if it is a secondary.
func (n *simNode) breakColo() {
	v := n.vm
	if v == nil || v.colo == nil || v.broken {
		return
	}
	v.broken, v.colo.broken = true, true
	o := n.other()
	if v.primary && o.vm == v.colo && o.vm.alive {
		o.result(n.w.delay(0, time.Millisecond), COLOExit{VM: o.vm.id, Reason: "error"})
	}
}

// killVM ends the VM; tell says that its colod is to notice.
func (n *simNode) killVM(tell bool) {
	v := n.vm
	if v == nil || !v.alive {
		return
	}
	n.breakColo()
	v.alive = false
	if tell && n.up {
		n.result(n.w.delay(0, 3*time.Millisecond), VMDied{VM: v.id, Reason: "killed"})
	}
	if v.primary || n.path != pathSecondary {
		return
	}
}

// crashColod ends colod and, with it, relays and the link of the data paths.
// What the kernel does for the guest stays as it is.
func (n *simNode) crashColod() {
	if !n.up {
		return
	}
	n.w.logf("%s: colod dies", n.name)
	n.breakColo()
	n.loseLink()
	n.up = false
	n.run++
	n.w.conn++
	if n.path != pathSolo {
		n.path = pathMuted
	}
}

// loseLink breaks the link of the data paths; the other side sees it.
func (n *simNode) loseLink() {
	o := n.other()
	if s := o.session; s != "" || o.path == pathArmed || o.path == pathPrimary {
		if s == "" {
			s = o.m.Session()
		}
		if o.up && s != "" {
			o.result(n.w.delay(0, time.Millisecond), LinkLost{Session: s, Reason: "EOF"})
		}
	}
}

func (n *simNode) crashNode() {
	n.w.logf("%s: node dies", n.name)
	n.killVM(false)
	n.crashColod()
	n.path = pathMuted
}

func (w *simWorld) runUntil(end time.Duration, stop func() bool) bool {
	for len(w.q) > 0 {
		if w.q[0].at > end {
			break
		}
		t := heap.Pop(&w.q).(simTask)
		w.now = max(w.now, t.at)
		t.fn()
		if stop != nil && stop() {
			return true
		}
	}
	w.now = max(w.now, end)
	return false
}

func (w *simWorld) protected() bool {
	sp, se := 0, 0
	for _, n := range w.n {
		if !n.up || n.vm == nil || !n.vm.alive || n.vm.still && n.m.Role() == Speaker {
			return false
		}
		switch {
		case n.m.Role() == Speaker && n.m.State() == Protected:
			sp++
		case n.m.Role() == Secondary && n.m.State() == Protected:
			se++
		}
	}
	return sp == 1 && se == 1
}

// fault makes one random fault, and mends what has to be mended for the pair
// to be whole again some time later.
func (w *simWorld) fault() {
	n := w.n[w.rnd.IntN(2)]
	later := w.delay(10*time.Millisecond, 4*time.Second)
	restart := func() {
		w.after(later, func() {
			if !n.up || n.exited {
				n.crashColod()
				n.start()
			}
		})
	}
	switch k := w.rnd.IntN(20); k {
	case 0:
		w.logf("fault: kill VM of %s", n.name)
		n.killVM(true)
	case 1:
		n.crashColod()
		restart()
	case 2:
		n.crashNode()
		restart()
	case 3:
		w.logf("fault: partition")
		w.cut = true
		w.conn++
		for _, x := range w.n {
			if x.vm != nil && x.vm.colo != nil && w.rnd.IntN(2) == 0 {
				x.vm.broken = true
			}
		}
		w.after(later, func() {
			w.logf("heal")
			w.cut = false
			w.conn++
			w.n[0].loseLink()
			w.n[1].loseLink()
			w.n[0].breakColo()
		})
	case 4:
		w.logf("fault: %s pauses", n.name)
		n.paused = w.now + later
	case 5:
		w.logf("fault: arbiter away")
		w.arbDown = w.now + later
	case 6:
		if v := n.vm; v != nil {
			w.logf("fault: VM of %s freezes", n.name)
			v.frozen = true
			w.after(later, func() { v.frozen = false })
		}
	case 7:
		w.logf("fault: net link breaks")
		n.loseLink()
		n.other().loseLink()
	case 8:
		w.logf("fault: state stream breaks")
		n.breakColo()
	case 10:
		n.step(Ask{ID: 1, Op: OpFailover})
	case 11:
		n.powerOff()
		w.after(later, func() { n.step(Ask{ID: 2, Op: OpStart}) })
	case 12:
		n.step(Ask{ID: 3, Op: OpStop, Grace: time.Duration(w.rnd.IntN(2)) * time.Second})
		w.after(later, func() { n.step(Ask{ID: 4, Op: OpStart}) })
	case 13, 14:
		n.step(Ask{ID: 6, Op: OpSwitchover})
		if w.rnd.IntN(2) == 0 { // and something in the middle of it
			w.runUntil(w.now+w.delay(0, 200*time.Millisecond), nil)
			w.fault()
		}
	case 15:
		n.step(Ask{ID: 7, Op: OpPause})
		w.after(later, func() { n.step(Ask{ID: 8, Op: OpCont}) })
	case 16:
		n.step(Ask{ID: 9, Op: OpReboot})
	case 17:
		n.step(Ask{ID: 10, Op: OpMaintenance, On: true})
		w.after(later, func() { n.step(Ask{ID: 11, Op: OpMaintenance}) })
	case 18:
		if v := n.vm; v != nil && v.alive && v.copied {
			n.step(VMHung{VM: v.id, Reason: "silent"})
		}
	case 19:
		n.step(SecondaryDeaf{Reason: "silent"})
	case 9:
		w.logf("quit of %s", n.name)
		if n.up && !n.exited {
			n.step(Quit{})
			run := n.run
			w.after(later+10*time.Second, func() {
				if n.run == run {
					n.crashColod()
					n.start()
				}
			})
		}
	}
}

// simulate runs one seed: faults for a while, then peace, in which the pair
// has to become whole again.
func simulate(t *testing.T, seed uint64, keepLog bool) (w *simWorld, failed string) {
	w = newSimWorld(t, seed)
	w.keepLog = keepLog
	defer func() {
		if r := recover(); r != nil {
			if f, ok := r.(simFailure); ok {
				failed = string(f)
				return
			}
			failed = fmt.Sprint(r)
			if keepLog {
				tail := w.log[max(0, len(w.log)-100):]
				t.Fatalf("%v\n%s", r, strings.Join(tail, "\n"))
			}
		}
	}()
	for _, n := range w.n {
		w.after(w.delay(0, 2*time.Second), n.start)
	}
	w.faults = seed%4 != 0
	w.fencing = int(seed/4) % 3
	w.runUntil(w.delay(0, 5*time.Second), nil)
	for range w.rnd.IntN(12) {
		w.fault()
		w.runUntil(w.now+w.delay(0, 3*time.Second), nil)
		if w.rnd.IntN(3) == 0 {
			if n := w.n[w.rnd.IntN(2)]; n.up {
				n.step(Diverged{Reason: "payload"})
			}
		}
	}
	w.peace()
	if !w.runUntil(w.now+3*time.Minute, w.protected) {
		w.fail("the pair is not protected again after three minutes of peace")
	}
	return w, ""
}

// peace ends the faults, and what they have ended is started again.
func (w *simWorld) peace() {
	w.faults = false
	w.runUntil(w.now+15*time.Second, nil) // what was to be mended is
	for _, n := range w.n {
		if !n.up || n.exited {
			n.crashColod()
			n.start()
		}
	}
	w.runUntil(w.now+15*time.Second, nil)
	for _, n := range w.n {
		n.step(Ask{ID: 12, Op: OpMaintenance})
		n.step(Ask{ID: 13, Op: OpCont})
	}
	w.runUntil(w.now+5*time.Second, nil)
	for _, n := range w.n {
		if n.m.State() == Stopped {
			n.step(Ask{ID: 5, Op: OpStart})
			w.runUntil(w.now+5*time.Second, nil)
		}
	}
}

// powerOff is the guest's own wish.
func (n *simNode) powerOff() {
	if v := n.vm; v != nil && v.alive && v.copied {
		n.w.logf("guest of %s powers off", n.name)
		n.killVM(false)
		if n.up {
			d := n.w.delay(0, 2*time.Millisecond)
			n.result(d, VMShutdown{VM: v.id, Planned: true, Reason: "guest-shutdown"})
			n.result(d+n.w.delay(0, time.Millisecond), VMDied{VM: v.id, Reason: "exit 0"})
		}
	}
}

// whole runs a fresh pair until it is protected, and a random while on.
func whole(t *testing.T, seed uint64, keepLog bool) *simWorld {
	w := newSimWorld(t, seed)
	w.keepLog = keepLog
	for _, n := range w.n {
		w.after(w.delay(0, time.Second), n.start)
	}
	if !w.runUntil(time.Minute, w.protected) {
		w.fail("a fresh pair does not get protected")
	}
	w.runUntil(w.now+w.delay(0, 3*time.Second), nil)
	return w
}

// TestOneFaultKeepsTheGuest: from a protected pair, no single fault loses
// the guest: it is never started anew, and is protected again.
func TestOneFaultKeepsTheGuest(t *testing.T) {
	kinds := []string{"kill vm", "kill colod", "kill node", "partition", "pause", "arbiter away", "freeze", "net link", "state stream", "failover", "switchover", "reboot", "quit"}
	run := func(kind string, seed uint64, keepLog bool) (failed string) {
		defer func() {
			if r := recover(); r != nil {
				failed = fmt.Sprint(r)
			}
		}()
		w := whole(t, seed, keepLog)
		// At any moment, also in the middle of a checkpoint.
		if w.rnd.IntN(2) == 0 {
			for _, n := range w.n {
				n.step(Diverged{Reason: "payload"})
			}
			w.runUntil(w.now+w.delay(0, 60*time.Millisecond), nil)
		}
		n := w.n[w.rnd.IntN(2)]
		again := func() { w.after(w.delay(0, 3*time.Second), n.start) }
		w.logf("fault: %s at %s", kind, n.name)
		switch kind {
		case "kill vm":
			n.killVM(true)
		case "kill colod":
			n.crashColod()
			again()
		case "kill node":
			n.crashNode()
			again()
		case "partition":
			w.cut = true
			w.conn++
			w.after(w.delay(0, 3*time.Second), func() {
				w.cut = false
				w.conn++
				w.n[0].loseLink()
				w.n[1].loseLink()
				w.n[0].breakColo()
			})
		case "pause":
			n.paused = w.now + w.delay(0, 3*time.Second)
		case "arbiter away":
			w.arbDown = w.now + w.delay(0, 3*time.Second)
		case "freeze":
			n.vm.frozen = true
			v := n.vm
			w.after(w.delay(0, 8*time.Second), func() { v.frozen = false })
		case "net link":
			w.n[0].loseLink()
			w.n[1].loseLink()
		case "state stream":
			w.n[0].breakColo()
			w.n[1].breakColo()
		case "failover":
			n.step(Ask{ID: 1, Op: OpFailover})
		case "switchover":
			n.step(Ask{ID: 1, Op: OpSwitchover})
		case "reboot":
			n.step(Ask{ID: 1, Op: OpReboot})
		case "quit":
			n.step(Quit{})
			w.after(w.delay(2*time.Second, 4*time.Second), func() {
				if !n.exited {
					w.fail("no rest after quit")
				}
				n.crashColod()
				n.start()
			})
		}
		w.runUntil(w.now+10*time.Second, nil)
		if !w.runUntil(w.now+2*time.Minute, w.protected) {
			w.fail("not protected again after " + kind)
		}
		if w.lineage != 1 {
			w.fail("the guest was lost by " + kind)
		}
		return ""
	}
	for _, kind := range kinds {
		for seed := uint64(1); seed <= 30; seed++ {
			if f := run(kind, seed, false); f != "" {
				t.Logf("%s, seed %d: %s", kind, seed, f)
				run(kind, seed, true)
				t.FailNow()
			}
		}
	}
}

// TestOneFaultInSwitchover: a single fault in the middle of a switchover never
// leaves the guest standing still, and none but the death of the VM or the
// node that is about to speak can lose it.
func TestOneFaultInSwitchover(t *testing.T) {
	kinds := []string{"none", "kill vm", "kill node", "kill colod", "partition", "pause", "arbiter away", "net link", "state stream", "quit"}
	switched := 0
	run := func(kind string, seed uint64, keepLog bool) (failed string) {
		defer func() {
			if r := recover(); r != nil {
				failed = fmt.Sprint(r)
			}
		}()
		w := whole(t, seed, keepLog)
		sp := w.n[0]
		if w.n[1].m.Role() == Speaker {
			sp = w.n[1]
		}
		w.n[w.rnd.IntN(2)].step(Ask{ID: 1, Op: OpSwitchover})
		w.runUntil(w.now+w.delay(0, 150*time.Millisecond), nil)
		n := w.n[w.rnd.IntN(2)]
		w.logf("fault: %s at %s", kind, n.name)
		switch kind {
		case "none":
		case "kill vm":
			n.killVM(true)
		case "kill colod", "kill node":
			if kind == "kill node" {
				n.killVM(false)
			}
			n.crashColod()
			w.after(w.delay(0, 3*time.Second), n.start)
		case "partition":
			w.cut = true
			w.conn++
			w.after(w.delay(0, 3*time.Second), func() {
				w.cut = false
				w.conn++
				w.n[0].loseLink()
				w.n[1].loseLink()
				w.n[0].breakColo()
			})
		case "pause":
			n.paused = w.now + w.delay(0, 3*time.Second)
		case "arbiter away":
			w.arbDown = w.now + w.delay(0, 3*time.Second)
		case "net link":
			w.n[0].loseLink()
			w.n[1].loseLink()
		case "state stream":
			w.n[0].breakColo()
			w.n[1].breakColo()
		case "quit":
			n.step(Quit{})
			w.after(w.delay(6*time.Second, 8*time.Second), func() {
				if !n.exited {
					w.fail("no rest after quit")
				}
				n.crashColod()
				n.start()
			})
		}
		w.runUntil(w.now+10*time.Second, nil)
		if !w.runUntil(w.now+2*time.Minute, w.protected) {
			w.fail("not protected again after " + kind)
		}
		if w.lineage != 1 && kind != "kill vm" && kind != "kill node" {
			w.fail("the guest was lost by " + kind)
		}
		if kind == "none" {
			if sp.m.Role() != Secondary {
				w.fail("the roles were not exchanged")
			}
			switched++
		}
		return ""
	}
	for _, kind := range kinds {
		for seed := uint64(1); seed <= 30; seed++ {
			if f := run(kind, seed, false); f != "" {
				t.Logf("%s, seed %d: %s", kind, seed, f)
				run(kind, seed, true)
				t.FailNow()
			}
		}
	}
	if switched == 0 {
		t.Error("no switchover was seen")
	}
}

// TestPlannedEnd: a guest that is ended on purpose stays ended on both
// nodes, and the record says so.
func TestPlannedEnd(t *testing.T) {
	run := func(seed uint64, keepLog bool) (failed string) {
		defer func() {
			if r := recover(); r != nil {
				failed = fmt.Sprint(r)
			}
		}()
		w := whole(t, seed, keepLog)
		sp := w.n[0]
		if w.n[1].m.Role() == Speaker {
			sp = w.n[1]
		}
		if w.rnd.IntN(2) == 0 {
			sp.step(Diverged{Reason: "payload"})
			w.runUntil(w.now+w.delay(0, 60*time.Millisecond), nil)
		}
		deleted := false
		switch w.rnd.IntN(4) {
		case 3:
			deleted = true
			w.n[w.rnd.IntN(2)].step(Ask{ID: 1, Op: OpDelete, Grace: time.Duration(w.rnd.IntN(2)) * time.Second})
		case 0:
			sp.powerOff()
		case 1:
			sp.step(Ask{ID: 1, Op: OpStop})
		case 2:
			w.n[w.rnd.IntN(2)].step(Ask{ID: 1, Op: OpStop, Grace: time.Second})
		}
		w.runUntil(w.now+30*time.Second, nil)
		for _, n := range w.n {
			if n.m.State() != Stopped || n.vm != nil && n.vm.alive {
				w.fail(n.name + " is not stopped")
			}
		}
		if !w.rec.Ended || w.lineage != 1 {
			w.fail("the record does not say that the guest was ended, or it was started again")
		}
		if deleted {
			for _, n := range w.n {
				if !n.m.Deleted() || !n.forgot {
					w.fail(n.name + " does not know that the guest was deleted")
				}
			}
		}
		w.n[w.rnd.IntN(2)].step(Ask{ID: 2, Op: OpStart, On: deleted})
		if !w.runUntil(w.now+time.Minute, w.protected) {
			w.fail("not protected after a start")
		}
		return ""
	}
	for seed := uint64(1); seed <= 80; seed++ {
		if f := run(seed, false); f != "" {
			t.Logf("seed %d: %s", seed, f)
			run(seed, true)
			t.FailNow()
		}
	}
}

// TestSimulation: never two speakers, and progress once faults stop. A
// failing seed is run again with COLOD_SIM_SEED; COLOD_SIM_SEEDS sets how many.
func TestSimulation(t *testing.T) {
	if s := os.Getenv("COLOD_SIM_SEED"); s != "" {
		seed, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		simulate(t, seed, true)
		return
	}
	seeds := uint64(500)
	if s := os.Getenv("COLOD_SIM_SEEDS"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seeds = n
	}
	moves := map[Transition]int{}
	steps := 0
	for seed := uint64(1); seed <= seeds; seed++ {
		w, failed := simulate(t, seed, false)
		if failed != "" {
			t.Logf("seed %d: %s", seed, failed)
			simulate(t, seed, true)
			t.Fatalf("seed %d failed the first time only", seed)
		}
		steps += w.steps
		for k, v := range w.moves {
			moves[k] += v
		}
	}
	t.Logf("%d seeds, %d steps", seeds, steps)
	for _, tr := range Transitions {
		if moves[Transition{From: tr.From, To: tr.To}] == 0 {
			t.Logf("never taken: %s -> %s", tr.From, tr.To)
		}
	}
}
