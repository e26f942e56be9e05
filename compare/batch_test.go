package compare

import (
	"bytes"
	"testing"

	"colod/internal/frame"
)

// TestBatchReleasesWholeFrames: what the secondary says of held frames in several segments of one batch releases each of them as
// it is, not in as many parts; what is agreed of a frame at the end of the batch goes out.
func TestBatchReleasesWholeFrames(t *testing.T) {
	w := protected(t, Config{})
	p, s := twins(false, 1000, 9000, 500, true)
	w.open(&p, &s)
	data := pattern(3 * 1000)
	for at := 0; at < len(data); at += 1000 {
		w.primary(p.data(at, data[at:at+1000], frame.PSH, 0, 500))
	}
	w.released = nil
	say := func(from, to, cut int) {
		for ; from < to; from += cut {
			w.secondary(s.data(from, data[from:min(from+cut, to)], 0, 0, 500))
		}
		w.settle()
	}
	say(0, 2100, 300)
	want := [][]byte{data[:1000], data[1000:2000], data[2000:2100]}
	check := func() {
		t.Helper()
		if len(w.released) != len(want) {
			t.Fatalf("%d frames released, want %d", len(w.released), len(want))
		}
		for i, x := range w.released {
			if !bytes.Equal(x.payload(), want[i]) {
				t.Errorf("frame %d has %d bytes from %d on, want %d", i, x.p.Len(), x.p.Seq, len(want[i]))
			}
		}
	}
	check()
	if got := w.e.Stats().Cut; got != 1 {
		t.Errorf("%d frames released in parts, want 1: only what the batch ended in", got)
	}
	say(2100, 3000, 300)
	want = append(want, data[2100:])
	check()
	w.noDivergence()
}

// TestBatchOrder: what follows in a batch finds a flow as if its data had been compared at once.
func TestBatchOrder(t *testing.T) {
	data := pattern(2000)
	for name, next := range map[string]func(w *world, p, s *conn){
		"more of the primary": func(w *world, p, s *conn) { w.primary(p.data(1000, data[1000:], 0, 0, 500)) },
		"the client":          func(w *world, p, s *conn) { w.input(p.fromClient(p.iss, 0, nil, 0, 0)) },
		"a tick":              func(w *world, _, _ *conn) { w.tick(0) },
		"a checkpoint":        func(w *world, _, _ *conn) { w.checkpoint() },
		"solo":                func(w *world, _, _ *conn) { w.e.Solo(w.now); w.collect() },
	} {
		t.Run(name, func(t *testing.T) {
			w := protected(t, Config{})
			p, s := twins(false, 1000, 9000, 500, true)
			w.open(&p, &s)
			w.primary(p.data(0, data[:1000], 0, 0, 500))
			w.secondary(s.data(0, data[:500], 0, 0, 500))
			w.secondary(s.data(500, data[500:1000], 0, 0, 500))
			w.released = nil
			for _, u := range w.toA {
				switch {
				case u.def != nil:
					w.e.FlowDef(u.def.ID, u.def.Key)
				case u.desc != nil:
					w.e.Descriptor(w.now, u.desc)
				}
			}
			w.toA = nil
			next(w, &p, &s)
			if len(w.released) == 0 || !bytes.Equal(w.released[0].payload(), data[:1000]) || w.released[0].why != WhyAgreed {
				t.Fatalf("released %d frames, and the first is not the one that both agree on", len(w.released))
			}
			w.noDivergence()
		})
	}
}
