package compare

import (
	"bytes"
	"errors"
	"reflect"
	"testing"

	"colod/internal/frame"
	"colod/internal/frame/frametest"
)

// busy is a world in the middle of everything: held data, a described range ahead, a SYN that waits, datagrams, an
// open question, a checkpoint under way.
func busy(t tb) *world {
	w, p, s := tolerant(t, dateRule)
	w.primary(p.data(0, []byte("hello"), 0, 0, 1000))
	w.secondary(s.data(0, []byte("hel"), 0, 0, 1000))
	w.settle()
	w.secondary(s.data(3, []byte("lo, world"), 0, 0, 1000))
	g, c := frametest.A("192.0.2.10:53"), frametest.A("198.51.100.7:1000")
	w.primary(frametest.UDP(frametest.Link{}, g, c, []byte("mine"), false))
	w.secondary(frametest.UDP(frametest.Link{}, g, c, []byte("their"), false))
	p2, s2 := twins(true, 1, 2, 3, false)
	w.input(p2.clientSYN())
	w.primary(p2.synAck())
	w.pumpA(3)
	w.e.BeginCheckpoint(w.now)
	w.primary(p.data(5, []byte("more"), 0, 0, 1000))
	_ = s2
	return w
}

// TestSnapshotIsTheWhole: what is restored makes the same snapshot, and goes on as the original does.
func TestSnapshotIsTheWhole(t *testing.T) {
	w := busy(t)
	snap := w.e.Snapshot(nil)
	e := NewEngine(w.e.cfg)
	if err := e.Restore(snap); err != nil {
		t.Fatal(err)
	}
	if got := e.Snapshot(nil); !bytes.Equal(got, snap) {
		t.Fatalf("%d and %d bytes differ", len(snap), len(got))
	}
	outcome := func(e *Engine) (out []string) {
		e.EndCheckpoint(w.now+10, w.now+10)
		f := &Frame{Buf: frametest.UDP(frametest.Link{}, frametest.A("192.0.2.10:53"), frametest.A("198.51.100.7:1000"), []byte("after"), false), KTime: w.now + 20}
		frame.Parse(f.Buf, &f.P)
		e.Primary(w.now+20, f)
		e.Tick(w.now + 1e9)
		o := e.Out()
		for i := range o.Releases {
			r := &o.Releases[i]
			b := append([]byte(nil), r.Head[:r.HeadLen]...)
			if r.F != nil {
				b = append(b, r.F.Buf[r.Payload[0]:r.Payload[1]]...)
			}
			out = append(out, r.Reason.String()+string(b))
		}
		for i := range o.Divergences {
			out = append(out, showDivergence(&o.Divergences[i]))
		}
		return out
	}
	a, b := outcome(w.e), outcome(e)
	if len(a) < 4 || len(a) != len(b) {
		t.Fatalf("%d and %d results", len(a), len(b))
	}
	for i := range a {
		if a[i] != b[i] {
			t.Errorf("%q, restored %q", a[i], b[i])
		}
	}
}

// TestDamagedSnapshot: no damage makes Restore panic, and another build's snapshot is refused.
func TestDamagedSnapshot(t *testing.T) {
	w := busy(t)
	snap := w.e.Snapshot(nil)
	for n := 0; n < len(snap); n += 1 + len(snap)/300 {
		if err := NewEngine(Config{}).Restore(snap[:n]); !errors.Is(err, ErrSnapshot) {
			t.Fatalf("cut at %d: %v", n, err)
		}
		b := bytes.Clone(snap)
		b[n] ^= 0x80
		_ = NewEngine(Config{}).Restore(b) // an error or a wrong state, never a panic
	}
}

// TestSnapshotKnowsAllTypes: whatever the engine is made of can be written down.
func TestSnapshotKnowsAllTypes(t *testing.T) {
	seen := map[reflect.Type]bool{}
	var walk func(typ reflect.Type, where string)
	walk = func(typ reflect.Type, where string) {
		if seen[typ] {
			return
		}
		seen[typ] = true
		switch typ.Kind() {
		case reflect.Struct:
			for i := range typ.NumField() {
				f := typ.Field(i)
				if typ != reflect.TypeFor[Engine]() || !notSaved[f.Name] {
					walk(f.Type, where+"."+f.Name)
				}
			}
		case reflect.Map:
			walk(typ.Key(), where+" key")
			walk(typ.Elem(), where+" value")
		case reflect.Pointer, reflect.Slice, reflect.Array:
			walk(typ.Elem(), where)
		case reflect.Chan, reflect.Interface, reflect.UnsafePointer, reflect.Float32, reflect.Float64, reflect.Complex64, reflect.Complex128, reflect.Uintptr:
			t.Errorf("%s is a %s", where, typ.Kind())
		}
	}
	walk(reflect.TypeFor[Engine](), "Engine")
}
