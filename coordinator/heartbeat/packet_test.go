package heartbeat

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"testing"
)

// testKeys are matching keys of a and b.
func testKeys(text string) (a, b Keys) {
	export := func(label string, _ []byte, n int) ([]byte, error) {
		var out []byte
		for i := byte(0); len(out) < n; i++ {
			sum := sha256.Sum256([]byte(text + label + string(rune('0'+i))))
			out = append(out, sum[:]...)
		}
		return out[:n], nil
	}
	a, errA := DeriveKeys(export, "a", "b")
	b, errB := DeriveKeys(export, "b", "a")
	if err := errors.Join(errA, errB); err != nil {
		panic(err)
	}
	return a, b
}

func TestKeys(t *testing.T) {
	a, b := testKeys("x")
	if a.ID != b.ID || a.send != b.recv || a.recv != b.send || a.send == a.recv {
		t.Errorf("%+v %+v", a, b)
	}
	if _, err := DeriveKeys(nil, "a", "a"); err == nil {
		t.Error("a node has keys with itself")
	}
	broken := errors.New("broken")
	if _, err := DeriveKeys(func(string, []byte, int) ([]byte, error) { return nil, broken }, "a", "b"); !errors.Is(err, broken) {
		t.Error(err)
	}
	if _, err := DeriveKeys(func(string, []byte, int) ([]byte, error) { return make([]byte, 3), nil }, "a", "b"); err == nil {
		t.Error("short key material is taken")
	}
}

func TestPacket(t *testing.T) {
	a, b := testKeys("x")
	want := packet{kind: kindPong, path: 3, id: a.ID, seq: 1 << 40, time: 123456789, held: 777}
	wire := newSigner(a.send).appendPacket(nil, &want)
	got, err := parsePacket(wire)
	if err != nil || got != want || len(wire) != packetLen {
		t.Fatalf("%d bytes, %+v, %v", len(wire), got, err)
	}
	if !newSigner(b.recv).check(wire) {
		t.Error("it is not authentic")
	}
	if newSigner(b.send).check(wire) {
		t.Error("it is authentic in the wrong direction")
	}
	for i := range wire { // every change of a bit is seen
		bad := bytes.Clone(wire)
		bad[i] ^= 4
		if _, err := parsePacket(bad); err == nil && newSigner(b.recv).check(bad) {
			t.Errorf("a change of byte %d is not seen", i)
		}
	}
	s := newSigner(a.send)
	buf := make([]byte, 0, packetLen)
	if n := testing.AllocsPerRun(100, func() {
		w := s.appendPacket(buf, &want)
		if !wellFormed(w) || !s.check(w) {
			t.Fatal("not authentic")
		}
	}); n > 0 {
		t.Errorf("%v allocations a packet", n)
	}
}

func wellFormed(b []byte) bool {
	_, err := parsePacket(b)
	return err == nil
}

func TestPacketRefused(t *testing.T) {
	a, _ := testKeys("x")
	good := packet{kind: kindPing, path: 1, id: 7, seq: 1, time: 5}
	s := newSigner(a.send)
	wire := s.appendPacket(nil, &good)
	for name, change := range map[string]func([]byte) []byte{
		"short":        func(b []byte) []byte { return b[:len(b)-1] },
		"long":         func(b []byte) []byte { return append(b, 0) },
		"empty":        func([]byte) []byte { return nil },
		"magic":        func(b []byte) []byte { b[0] = 'X'; return b },
		"version":      func(b []byte) []byte { b[4] = 2; return b },
		"kind":         func(b []byte) []byte { b[5] = 3; return b },
		"path":         func(b []byte) []byte { b[6] = MaxPaths; return b },
		"reserved":     func(b []byte) []byte { b[7] = 1; return b },
		"number 0":     func(b []byte) []byte { b[23] = 0; return b },
		"negative":     func(b []byte) []byte { b[24] = 0x80; return b },
		"ping waiting": func(b []byte) []byte { b[39] = 1; return b },
	} {
		if p, err := parsePacket(change(bytes.Clone(wire))); !errors.Is(err, errPacket) {
			t.Errorf("%s: %+v, %v", name, p, err)
		}
	}
}

func TestWindow(t *testing.T) {
	var w window
	for _, step := range []struct {
		seq  uint64
		want bool
	}{{1, true}, {1, false}, {3, true}, {2, true}, {2, false}, {3, false}, {100, true}, {37, true}, {36, false}, {37, false}, {101, true}, {100, false}, {1 << 50, true}, {101, false}, {1<<50 - 63, true}, {1<<50 - 64, false}} {
		if got := w.take(step.seq); got != step.want {
			t.Errorf("%d is taken: %v", step.seq, got)
		}
	}
}

// FuzzPacket: what is taken is written the same.
func FuzzPacket(f *testing.F) {
	s := newSigner([keySize]byte{1})
	f.Add(s.appendPacket(nil, &packet{kind: kindPing, id: 1, seq: 1}))
	f.Add(s.appendPacket(nil, &packet{kind: kindPong, path: 7, id: 1 << 63, seq: 1 << 63, time: 1 << 62, held: 9}))
	f.Add([]byte("CLHB"))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := parsePacket(data)
		if err != nil {
			return
		}
		if again := s.appendPacket(nil, &p); !bytes.Equal(again[:signedLen], data[:signedLen]) || s.check(data) != bytes.Equal(again, data) {
			t.Fatalf("%x became %+v, which is %x", data, p, again)
		}
	})
}
