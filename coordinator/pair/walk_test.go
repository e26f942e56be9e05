package pair

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"colod/coordinator/arbiter"
)

// walker answers what a machine asks for, mostly well, and disturbs it: a
// random walk that gets deep into the states, where FuzzMachine alone would
// hardly come.
type walker struct {
	m    *Machine
	rnd  *rand.Rand
	rec  arbiter.Record
	todo []Action
	now  time.Duration
	path []string
}

func (w *walker) step(ev Event) {
	w.path = append(w.path, show(ev))
	before := w.m.State()
	w.todo = append(w.todo, w.m.Step(ev)...)
	if s := w.m.State(); s != before {
		w.path = append(w.path, "-> "+s.String())
	}
}

func (w *walker) err(n int) string {
	if w.rnd.IntN(n) == 0 {
		return "failed"
	}
	return ""
}

// answer answers one of the actions that are open.
func (w *walker) answer() {
	if len(w.todo) == 0 {
		return
	}
	a := w.todo[0]
	w.todo = w.todo[1:]
	switch a := a.(type) {
	case Fault:
		panic(a.Text)
	case ReadRecord:
		w.step(RecordRead{Op: a.Op, Record: w.rec, Err: w.err(12)})
	case Swap:
		ev := Swapped{Op: a.Op, Outcome: SwapWon}
		switch {
		case w.rnd.IntN(12) == 0:
			ev.Outcome = SwapFailed
		case w.rec != a.Prev:
			ev.Outcome, ev.Record = SwapLost, w.rec
		default:
			w.rec = a.Next
			ev.Record = w.rec
			if w.rnd.IntN(12) == 0 {
				ev = Swapped{Op: a.Op, Outcome: SwapUnknown}
			}
		}
		w.step(ev)
	case FindVM:
		w.step(VMFound{Op: a.Op, Found: w.rnd.IntN(2) == 0, Paused: w.rnd.IntN(5) == 0, Left: w.rnd.IntN(20) == 0})
	case LaunchVM:
		w.step(VMLaunched{Op: a.Op, Err: w.err(12)})
	case EndVM:
		w.step(VMGone{Op: a.Op, Err: w.err(12)})
	case CheckVM:
		w.step(VMChecked{Op: a.Op, Err: w.err(4)})
	case FreeVM:
		w.step(VMFreed{Op: a.Op, Err: w.err(12)})
	case Copy:
		w.step(Copied{Session: a.Session, Err: w.err(12)})
	case Trigger:
		w.step(VMStopped{VM: w.m.vm})
		w.step(VMResumed{VM: w.m.vm})
	case PauseVM:
		w.step(VMPaused{Op: a.Op, Err: w.err(6)})
	case ContVM:
		w.step(VMContinued{Op: a.Op, Err: w.err(6)})
	case ResetVM:
		w.step(VMReset{Op: a.Op, Err: w.err(6)})
	case Mute:
		w.step(Muted{Op: a.Op, Err: w.err(12)})
	case Speak:
		w.step(Speaking{Op: a.Op, Err: w.err(12)})
	case Link:
		w.step(Linked{Session: a.Session, Err: w.err(12)})
	case Hold:
		w.step(Held{N: a.N, Err: w.err(20)})
	case Cover:
		w.step(Covered{N: a.N, Err: w.err(20)})
	case Fence:
		w.step(FencedNode{Op: a.Op, Err: w.err(3)})
	case Choose:
		ev := Chosen{Op: a.Op, Peer: "c", Err: w.err(8)}
		if len(a.Ready) > 0 {
			ev.Peer = a.Ready[0]
		}
		w.step(ev)
	case Send:
		switch msg := a.Msg.(type) {
		case Prepare:
			w.step(Received{From: a.To, Msg: Prepared{Session: msg.Session}})
		case HandOver:
			if msg.Check {
				w.step(Received{From: a.To, Msg: Prepared{Session: msg.Session}})
			} else if w.rec.Standby == a.To && w.rnd.IntN(3) != 0 {
				w.rec = arbiter.Record{Pair: "g", Generation: w.rec.Generation + 1, Speaker: a.To}
				w.step(Received{From: a.To, Msg: Status{State: Solo, Role: Speaker, HasVM: true, Generation: w.rec.Generation}})
			}
		}
	}
}

// other is what somebody else does: the other nodes, the world, operators.
func (w *walker) other() {
	r := w.rnd
	peer := []string{"b", "c"}[r.IntN(2)]
	switch r.IntN(12) {
	case 0, 1:
		w.step(PeerUp{Peer: peer})
	case 2, 3:
		w.step(Received{From: peer, Msg: Status{Boot: uint64(r.IntN(8) / 7), State: Standby, Ready: true, Generation: w.rec.Generation}})
	case 4:
		if w.m.State() == Standby && w.rec.Speaker != "a" {
			w.step(Received{From: w.rec.Speaker, Msg: Prepare{Session: "s-" + fmt.Sprint(len(w.path)), Generation: w.rec.Generation}})
		}
	case 5:
		if s := w.m.Session(); s != "" && w.m.Role() == Secondary && w.m.State() == Syncing && w.rec.Speaker != "a" {
			w.step(Linked{Session: s})
			w.rec = arbiter.Record{Pair: "g", Generation: w.rec.Generation + 1, Speaker: w.rec.Speaker, Standby: "a"}
			w.step(Received{From: w.rec.Speaker, Msg: Armed{Session: s, Record: w.rec}})
		}
	case 6:
		if r.IntN(4) == 0 && w.m.State() == Idle { // the standby takes over
			if w.rec.Standby != "" && w.rec.Standby != "a" {
				w.rec = arbiter.Record{Pair: "g", Generation: w.rec.Generation + 1, Speaker: w.rec.Standby}
			}
		}
	case 7:
		w.step(Ask{ID: uint64(1 + r.IntN(9)), Op: Ops[r.IntN(len(Ops))], Target: peer, Role: Role(r.IntN(3)), On: r.IntN(3) == 0})
	case 8:
		if ev := anyEvent(w.m, byte(r.IntN(256)), byte(r.IntN(256))); ev != nil {
			switch ev.(type) {
			case RecordRead, Swapped, Quit: // only true ones
			default:
				w.step(ev)
			}
		}
	default:
		w.now += time.Duration(r.IntN(300)) * time.Millisecond
		if r.IntN(20) == 0 {
			w.now += time.Duration(r.IntN(30)) * time.Second
		}
		w.todo = append(w.todo, w.m.Step(Tick{Now: w.now})...)
	}
}

// TestRandomWalk: no illegal move, and nobody is told that it may speak alone
// unless the record says so when the swap or the read that allowed it was answered.
func TestRandomWalk(t *testing.T) {
	moves := map[Transition]int{}
	for seed := uint64(1); seed <= 500; seed++ {
		w := &walker{rnd: rand.New(rand.NewPCG(seed, 3))}
		w.m = New(Config{
			Pair: "g", Self: "a", Peers: []string{"b", "c"}, First: seed%3 != 0, AutoProtect: seed%5 != 0, Strict: true,
			Outside: seed%7 == 0, Fencing: seed%4 == 0, FencingRequired: seed%8 == 0, IdleInterval: 2 * time.Second,
		})
		if seed%3 == 0 {
			w.rec = arbiter.Record{Pair: "g", Generation: 1, Speaker: "b"}
		}
		func() {
			defer func() {
				if r := recover(); r != nil {
					tail := w.path[max(0, len(w.path)-40):]
					t.Fatalf("seed %d: %v\n%q", seed, r, tail)
				}
			}()
			w.step(Start{Boot: 1})
			for range 600 {
				from := w.m.State()
				if w.rnd.IntN(3) != 0 {
					w.answer()
				} else {
					w.other()
				}
				if to := w.m.State(); to != from {
					moves[Transition{From: from, To: to}]++
				}
				for _, a := range w.todo {
					if s, ok := a.(Speak); ok && s.Op == w.m.speaking && !w.m.forced && (w.rec.Speaker != "a" || w.rec.Standby != "") && w.m.State() == Promoting {
						t.Fatalf("seed %d: speaks while the record says %v\n%q", seed, w.rec, w.path[max(0, len(w.path)-40):])
					}
				}
			}
		}()
	}
	for _, tr := range Transitions {
		if moves[Transition{From: tr.From, To: tr.To}] == 0 {
			t.Logf("never seen at the end of a step: %s -> %s", tr.From, tr.To)
		}
	}
}
