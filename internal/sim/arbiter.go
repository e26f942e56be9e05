package sim

import (
	"colod/coordinator/arbiter"
	"colod/coordinator/pair"
)

// arbiterModel is the arbiter: one record, changed by compare-and-swap, somewhere behind a network.
type arbiterModel struct {
	rec  arbiter.Record
	down int64          // away until then, for everybody
	cut  [maxNodes]bool // for one node
}

const arbiterTimeout = 3 * sec

func (w *world) arbiterReaches(n *node) bool { return w.now >= w.arb.down && !w.arb.cut[n.i] }

func (n *node) readRecord(a pair.ReadRecord) {
	w := n.w
	n.arbLane.do(func(done func()) {
		n.colod(w.between(100*us, 4*ms), func() {
			if !w.arbiterReaches(n) {
				n.colod(w.between(ms, 300*ms), func() {
					done()
					n.step(pair.RecordRead{Op: a.Op, Err: "the arbiter does not answer"})
				})
				return
			}
			rec := w.arb.rec
			n.colod(w.between(50*us, 2*ms), func() {
				done()
				n.step(pair.RecordRead{Op: a.Op, Record: rec})
			})
		})
	})
}

// swap is a write: it may be applied at once, late or never, and its answer may be lost; but it is applied at most once.
func (n *node) swap(a pair.Swap) {
	w := n.w
	if a.Next.Generation != a.Prev.Generation+1 {
		w.fail("model", "%s asks for a swap from generation %d to %d", n.name, a.Prev.Generation, a.Next.Generation)
	}
	if err := a.Next.Check("g"); err != nil {
		w.fail("model", "%s asks for a swap to a bad record: %v", n.name, err)
	}
	apply := func() bool {
		if w.arb.rec != a.Prev && w.opt.Mutation != NoCompare {
			return false
		}
		w.arb.rec = a.Next
		if w.tracing {
			w.logf("record: %v (%s)", a.Next, a.Next.Reason)
		}
		return true
	}
	n.arbLane.do(func(done func()) {
		answer := func(d int64, ev pair.Swapped) {
			n.colod(d, func() {
				done()
				if w.opt.Mutation == PromoteUnrecorded && ev.Outcome != pair.SwapWon && a.Next.Standby == "" && !a.Next.Ended {
					ev.Outcome, ev.Record = pair.SwapWon, a.Next
				}
				n.step(ev)
			})
		}
		unknown := pair.Swapped{Op: a.Op, Outcome: pair.SwapUnknown, Err: "no answer in time"}
		w.after(w.between(200*us, 5*ms), func() {
			switch {
			case !w.arbiterReaches(n):
				if w.rnd(3) == 0 {
					// On its way while the arbiter is away: it arrives, or it does not.
					w.after(w.between(ms, 6*sec), func() {
						if w.rnd(2) == 0 {
							apply()
						}
					})
					answer(arbiterTimeout, unknown)
					return
				}
				answer(w.between(ms, 500*ms), pair.Swapped{Op: a.Op, Outcome: pair.SwapFailed, Err: "the arbiter does not answer"})
			case w.chance(12):
				switch w.rnd(3) {
				case 0: // the answer is lost
					apply()
				case 1: // it is late
					w.after(w.between(ms, 2*arbiterTimeout), func() { apply() })
				}
				answer(w.between(100*ms, arbiterTimeout), unknown)
			case apply():
				answer(w.between(100*us, 4*ms), pair.Swapped{Op: a.Op, Outcome: pair.SwapWon, Record: a.Next})
			default:
				answer(w.between(100*us, 4*ms), pair.Swapped{Op: a.Op, Outcome: pair.SwapLost, Record: w.arb.rec})
			}
		})
	})
}
