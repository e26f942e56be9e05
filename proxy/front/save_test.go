package front

import (
	"errors"
	"testing"

	"colod/compare"
	"colod/internal/frame"
)

func TestSaveAndLoad(t *testing.T) {
	a := New()
	for i := range 1000 {
		a.Add(1, compare.Front{Key: frame.FlowKey{Proto: 6, Kind: frame.KindTCP, Ether: frame.EtherIPv4, PeerPort: uint16(i), VLAN: uint32(i)},
			SeqOff: uint32(i) * 77, TSOff: uint32(i) * 3, HasTS: i&1 != 0, LastTS: uint32(i), Closed: i == 7})
	}
	saved := a.Save()
	fronts, err := Load(saved)
	if err != nil || len(fronts) != 1000 {
		t.Fatalf("%d connections, %v", len(fronts), err)
	}
	b := New()
	for _, f := range fronts {
		b.Add(2, f)
	}
	for k, e := range a.flows {
		g := b.flows[k]
		if g == nil || g.seqOff != e.seqOff || g.tsOff != e.tsOff || g.hasTS != e.hasTS || (g.closedAt != 0) != (e.closedAt != 0) {
			t.Fatalf("connection %+v: %+v became %+v", k, e, g)
		}
	}
	for _, cut := range []int{0, 5, 19, 20, len(saved) - 1} {
		if _, err := Load(saved[:cut]); !errors.Is(err, ErrSaved) {
			t.Errorf("the first %d bytes: %v", cut, err)
		}
	}
	for _, at := range []int{0, 9, 13, 400, len(saved) - 1} {
		torn := append([]byte(nil), saved...)
		torn[at] ^= 1
		if _, err := Load(torn); !errors.Is(err, ErrSaved) {
			t.Errorf("byte %d changed: %v", at, err)
		}
	}
}

func FuzzLoad(f *testing.F) {
	a := New()
	a.Add(1, compare.Front{Key: frame.FlowKey{Proto: 6}, SeqOff: 1})
	f.Add(a.Save())
	f.Fuzz(func(t *testing.T, b []byte) {
		if fronts, err := Load(b); err == nil && len(b) != 20+len(fronts)*entryLen {
			t.Fatalf("%d connections of %d bytes", len(fronts), len(b))
		}
	})
}
