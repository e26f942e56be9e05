package compare

import (
	"fmt"
	"testing"
	"time"

	"colod/internal/frame"
	"colod/internal/frame/frametest"
)

func numbered(i int) []byte {
	return frametest.UDP(frametest.Link{}, frametest.A("192.0.2.10:53"), frametest.Addr{IP: frametest.A("198.51.100.7:1").IP, Port: uint16(1000 + i)},
		[]byte(fmt.Sprint(i)), false)
}

// only checks that there is one divergence, of reason r.
func (w *world) only(r Reason) {
	w.t.Helper()
	if len(w.diverged) != 1 || w.diverged[0].Reason != r || !w.diverged[0].Final {
		w.t.Fatalf("%d divergences, want one of reason %s: %+v", len(w.diverged), r, w.diverged)
	}
}

// TestHeldFramesAreBounded: at the bound a checkpoint is asked for, at twice the bound frames are refused, and the
// checkpoint releases the rest.
func TestHeldFramesAreBounded(t *testing.T) {
	w := protected(t, Config{MaxFrames: 10})
	for i := range 10 {
		w.primary(numbered(i))
	}
	w.noDivergence()
	for i := 10; i < 25; i++ {
		w.primary(numbered(i))
	}
	w.only(ReasonQueue)
	if s := w.e.Stats(); s.HeldFrames != 20 || s.Refused != 5 {
		t.Fatalf("%d held, %d refused", s.HeldFrames, s.Refused)
	}
	w.checkpoint()
	if len(w.released) != 20 {
		t.Errorf("%d released by the checkpoint", len(w.released))
	}
	w.noLoans()
}

// TestHeldBytesAreBounded: the same for bytes, and while a checkpoint is under way.
func TestHeldBytesAreBounded(t *testing.T) {
	w := protected(t, Config{MaxBytes: int64(5 * len(numbered(0)))})
	w.e.BeginCheckpoint(w.now)
	for i := range 12 {
		w.primary(numbered(i))
	}
	if s := w.e.Stats(); s.HeldFrames != 10 || s.Refused != 2 {
		t.Fatalf("%d held, %d refused", s.HeldFrames, s.Refused)
	}
	w.e.EndCheckpoint(w.now, w.now+1)
	w.collect()
	if len(w.released) != 10 {
		t.Errorf("%d released by the checkpoint", len(w.released))
	}
	w.noLoans()
}

// TestFlowsAreBounded: idle flows make room; when all are busy a checkpoint is asked for.
func TestFlowsAreBounded(t *testing.T) {
	w := protected(t, Config{MaxFlows: 8})
	for i := range 40 {
		w.primary(numbered(i))
		w.secondary(numbered(i))
		w.settle()
	}
	w.noDivergence()
	w.noLoans()
	if s, d := w.e.Stats(), w.d.Stats(); s.Flows > 8 || d.Flows > 8 || s.Evicted == 0 || d.Evicted == 0 || len(w.released) != 40 {
		t.Fatalf("flows %d and %d, evicted %d and %d, released %d", s.Flows, d.Flows, s.Evicted, d.Evicted, len(w.released))
	}
	for i := range 30 {
		w.primary(numbered(100 + i))
	}
	w.only(ReasonQueue)
	if s := w.e.Stats(); s.Flows > 16 {
		t.Fatalf("%d flows", s.Flows)
	}
	w.checkpoint()
	w.noLoans()
}

// TestPiecesAreBounded: a secondary that runs ahead alone is stopped by a checkpoint.
func TestPiecesAreBounded(t *testing.T) {
	w := protected(t, Config{MaxPieces: 10})
	for i := range 30 {
		w.secondary(numbered(i % 3))
		w.settle()
	}
	w.only(ReasonQueue)
	if s := w.e.Stats(); s.Pieces > 20 {
		t.Fatalf("%d pieces", s.Pieces)
	}
	w.checkpoint()
	if s := w.e.Stats(); s.Pieces != 0 {
		t.Fatalf("%d pieces after the checkpoint", s.Pieces)
	}
	w.noLoans()
}

// TestKeptFramesAreBounded: the secondary's node asks for a checkpoint when it keeps too much.
func TestKeptFramesAreBounded(t *testing.T) {
	w := protected(t, Config{MaxFrames: 10, MaxPieces: 1000})
	for i := range 25 {
		w.secondary(numbered(i))
	}
	if s := w.d.Stats(); s.KeptFrames != 20 || s.Refused != 5 || s.Faults != 1 {
		t.Fatalf("%+v", s)
	}
	w.settle()
	w.only(ReasonQueue)
	w.checkpoint()
	w.noLoans()
}

// TestDeadline: the engine says when it wants to be called, and nothing is reported before.
func TestDeadline(t *testing.T) {
	w := protected(t, Config{Hold: 10 * time.Millisecond})
	if w.e.Deadline() != 0 {
		t.Fatal("a deadline with nothing held")
	}
	w.primary(numbered(1))
	start := w.now
	if d := w.e.Deadline(); d != start+int64(10*time.Millisecond) {
		t.Fatalf("deadline after %v", time.Duration(d-start))
	}
	w.e.SetBudget(30 * time.Millisecond)
	if d := w.e.Deadline(); d != start+int64(30*time.Millisecond) {
		t.Fatalf("deadline after %v with the new budget", time.Duration(d-start))
	}
	w.tick(29 * time.Millisecond)
	w.noDivergence()
	w.tick(time.Millisecond)
	w.only(ReasonSilenceSecondary)
	if d := w.e.Deadline(); d < w.now+int64(reportAgain)-1000 {
		t.Fatalf("reported again after %v", time.Duration(d-w.now))
	}
	w.secondary(numbered(1))
	w.settle()
	if len(w.released) != 1 || w.e.Deadline() != 0 {
		t.Fatal("a late answer does not release")
	}
	// The secondary ahead: nobody waits, so the budget is long; an answer ends it.
	w.secondary(numbered(2))
	w.settle()
	if d := w.e.Deadline(); d < w.now+int64(silenceLeast)-1000 {
		t.Fatalf("deadline after %v for the secondary ahead", time.Duration(d-w.now))
	}
	w.primary(numbered(2))
	w.tick(2 * time.Second)
	if len(w.diverged) != 1 {
		t.Fatal("a silence reported after it ended")
	}
	if w.e.Deadline() != 0 {
		t.Fatal("a deadline with nothing held")
	}
}

// TestSlowAfterCheckpoint: each silence at the beginning of an epoch doubles the budget there, up to eight times, and
// the budget is the old one later in an epoch and after a quiet one.
func TestSlowAfterCheckpoint(t *testing.T) {
	const hold = 10 * time.Millisecond
	w := protected(t, Config{Hold: hold})
	for i, want := range []time.Duration{hold, 2 * hold, 4 * hold, 8 * hold, 8 * hold} {
		w.primary(numbered(1))
		if d := time.Duration(w.e.Deadline() - w.now); d != want {
			t.Fatalf("silence %d is reported after %v, want %v", i+1, d, want)
		}
		w.tick(want)
		if len(w.diverged) != i+1 {
			t.Fatalf("%d divergences after %d silences", len(w.diverged), i+1)
		}
		w.checkpoint()
	}
	w.now += int64(WarmUp)
	w.primary(numbered(1))
	if d := time.Duration(w.e.Deadline() - w.now); d != hold {
		t.Fatalf("later in the epoch a silence is reported after %v", d)
	}
	w.now += 2 * int64(WarmUp)
	w.tick(hold)
	w.checkpoint()
	w.primary(numbered(1))
	if d := time.Duration(w.e.Deadline() - w.now); d != hold {
		t.Fatalf("after a quiet epoch a silence is reported after %v", d)
	}
}

// TestPeerFaults: what a peer must not say is one divergence of reason protocol a round, and changes nothing else.
func TestPeerFaults(t *testing.T) {
	key := keyOf(numbered(1))
	for name, say := range map[string]func(e *Engine){
		"flow number out of order": func(e *Engine) { e.FlowDef(7, key) },
		"flow not defined":         func(e *Engine) { e.Descriptor(1, &Descriptor{Kind: DescribeTCP, Flow: 3, Epoch: 1}) },
		"kind":                     func(e *Engine) { e.Descriptor(1, &Descriptor{Kind: 77, Flow: 1, Epoch: 1}) },
		"too long": func(e *Engine) {
			e.Descriptor(1, &Descriptor{Kind: DescribeTCP, Flow: 1, Epoch: 1, Len: maxSegment + 1, Piece: 1})
		},
		"no piece": func(e *Engine) { e.Descriptor(1, &Descriptor{Kind: DescribeTCP, Flow: 1, Epoch: 1, Len: 5}) },
		"digests": func(e *Engine) {
			e.Descriptor(1, &Descriptor{Kind: DescribeTCP, Flow: 1, Epoch: 1, Len: 5, Piece: 2, Digests: make([][DigestLen]byte, 2)})
		},
		"blocks":      func(e *Engine) { e.Descriptor(1, &Descriptor{Kind: DescribeTCP, Flow: 1, Epoch: 1, NSACK: 5}) },
		"fault":       func(e *Engine) { e.Descriptor(1, &Descriptor{Kind: DescribeFault, Epoch: 1, Reason: 200}) },
		"other kind":  func(e *Engine) { e.Descriptor(1, &Descriptor{Kind: DescribeTCP, Flow: 1, Epoch: 1}) },
		"raw unasked": func(e *Engine) { e.Raw(1, &Raw{ID: 9}); e.FlowDef(9, key) },
	} {
		t.Run(name, func(t *testing.T) {
			w := protected(t, Config{})
			if name == "other kind" {
				w.e.FlowDef(1, key)
			}
			for range 3 {
				say(w.e)
			}
			w.collect()
			w.only(ReasonProtocol)
		})
	}
	// An old or a foreign epoch is not a fault.
	w := protected(t, Config{})
	w.e.Descriptor(1, &Descriptor{Kind: DescribeTCP, Flow: 1, Epoch: 0})
	w.e.Descriptor(1, &Descriptor{Kind: DescribeTCP, Flow: 1, Epoch: 9})
	w.collect()
	w.noDivergence()
	if w.e.Stats().Stale != 2 {
		t.Error("not counted")
	}
}

// TestReportWithoutAnswer: a report whose question is not answered becomes final with the checkpoint.
func TestReportWithoutAnswer(t *testing.T) {
	w := protected(t, Config{})
	p, s := twins(false, 1, 2, 3, false)
	w.open(&p, &s)
	w.primary(p.data(0, []byte("one"), 0, 0, 500))
	w.secondary(s.data(0, []byte("two"), 0, 0, 500))
	w.pumpA(100)
	w.toB = nil
	w.checkpoint()
	if d := w.final(); d.Reason != ReasonPayload || d.Exact {
		t.Errorf("divergence %s", showDivergence(d))
	}
}

func TestWords(t *testing.T) {
	for _, r := range Reasons() {
		if r.String() == "invalid" || r.String() == "" {
			t.Errorf("reason %d has no word", r)
		}
	}
	if len(Reasons()) != int(reasonEnd)-1 || Reason(99).String() != "invalid" || Why(99).String() != "invalid" || WhyAck.String() != "ack" {
		t.Error("words")
	}
	if frame.KindGroup.String() != "group" || frame.Kind(99).String() != "unknown" {
		t.Error("kinds")
	}
}

// TestRepetitionsAfterGigabytes: a connection that has carried more than half of the space of sequence numbers still tells what
// it has described from what is new.
func TestRepetitionsAfterGigabytes(t *testing.T) {
	const size = 1 << 16
	d, fl := NewDescriber(Config{}), dflow{}
	at := frame.Num(1000)
	for i := range 5 << 30 / size {
		end := at.Add(size)
		switch lo, hi, ok := d.fresh(&fl, at, end); {
		case !ok || lo != at || hi != end:
			t.Fatalf("after %d MiB: new bytes [%d, %d) are taken for [%d, %d), %v", i*size>>20, at, end, lo, hi, ok)
		case i == 0:
		case i%1000 == 0: // one is lost, and comes later
			d.fresh(&fl, end.Add(size), end.Add(2*size))
			if lo, hi, ok := d.fresh(&fl, end, end.Add(size)); !ok || lo != end || hi != end.Add(size) {
				t.Fatalf("after %d MiB: a hole is taken for [%d, %d), %v", i*size>>20, lo, hi, ok)
			}
			end = end.Add(2 * size)
		case i%100 == 0:
			if lo, hi, ok := d.fresh(&fl, at-size, at); ok {
				t.Fatalf("after %d MiB: a repetition is new from %d to %d", i*size>>20, lo, hi)
			}
		}
		if fl.nholes > 0 {
			t.Fatalf("after %d MiB: %d holes", i*size>>20, fl.nholes)
		}
		at = end
	}
}
