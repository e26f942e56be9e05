package sim

import "testing"

// TestRepeatable: a seed tells the same story each time, with or without a trace.
func TestRepeatable(t *testing.T) {
	a, b := NewRunner(), NewRunner()
	for seed := uint64(1); seed <= 100; seed++ {
		x, y := a.Run(seed, Options{}), b.Run(seed, Options{Trace: seed%2 == 0})
		if x.Failed != y.Failed || x.Virtual != y.Virtual || x.Stats != y.Stats {
			t.Errorf("seed %d: two stories:\n%+v\n%+v", seed, x, y.Stats)
		}
	}
}
