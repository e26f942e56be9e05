package systems

import (
	"math"
	"testing"
	"time"

	"colod/coordinator"
)

func TestCutEpochs(t *testing.T) {
	at := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	rec := func(n uint64, ms int, stop float64) coordinator.CheckpointRecord {
		return coordinator.CheckpointRecord{N: n, Time: at.Add(time.Duration(ms) * time.Millisecond), RequestMS: 1, TransferMS: stop, LoadMS: 1, ReleaseMS: 0.5, LongestMS: float64(n)}
	}
	got := cutEpochs([]coordinator.CheckpointRecord{rec(1, 0, 2), rec(2, 30, 4), rec(3, 60, 2), rec(7, 500, 2), rec(8, 530, 2)})
	want := []epochTimes{{period: 32, longest: 2}, {period: 28, longest: 3}, {period: 30, longest: 8}}
	if len(got) != len(want) {
		t.Fatalf("%d epochs of records with one gap, want %d: %+v", len(got), len(want), got)
	}
	for i, w := range want {
		if math.Abs(got[i].period-w.period) > 1e-6 || got[i].longest != w.longest {
			t.Errorf("epoch %d: %+v, want %+v", i, got[i], w)
		}
	}
	if c := got[0].checkpoint(); math.Abs(c-6.5) > 1e-6 {
		t.Errorf("the first epoch's checkpoint takes %v ms, want 6.5", c)
	}
	if cutEpochs(nil) != nil {
		t.Error("epochs of nothing")
	}
}
