package fleet

import (
	"testing"

	"colod/coordinator/placement"
	"colod/internal/netnstest"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

func TestMemoryFleet(t *testing.T) {
	f, s, err := Start(t.Context(), Config{Nodes: 200, Rack: 20, Pairs: 4000, Seed: 1, Reserve: true, Choose: placement.Choose, Arbiters: []Arbiter{NewMemory()}})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	t.Logf("%+v", s)
	for _, n := range []int{1, 19, 40} {
		s, err := f.Lose(n)
		t.Logf("%+v", s)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Check(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}
