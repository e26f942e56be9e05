package systems

import (
	"math"
	"testing"
	"time"

	"colod/bench/load"
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

func TestUnder(t *testing.T) {
	at := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	s := func(n int) time.Time { return at.Add(time.Duration(n) * time.Second) }
	all := []epochTimes{{released: s(0)}, {released: s(1)}, {released: s(2)}, {released: s(3)}, {released: s(4)}}
	under(all, []window{{"ping", s(1), s(2)}, {"redis", s(3), s(5)}})
	for i, want := range []string{"", "ping", "", "redis", "redis"} {
		if got := all[i].under; got != want {
			t.Errorf("epoch of second %d is under %q, want %q", i, got, want)
		}
	}
}

func TestStood(t *testing.T) {
	r := &run{samples: map[string]map[string][]*load.Outcome{"wget": {
		peer:   {{Bytes: 80e6, Seconds: 1}, {Bytes: 5e4, Seconds: 1}, nil, {Bytes: 4e4, Seconds: 1}},
		native: {{Bytes: 90e6, Seconds: 1}, {Bytes: 10e6, Seconds: 1}},
	}}}
	for system, want := range map[string]int{peer: 2, native: 0, lockstep: 0} {
		if got := r.stood(system, "wget"); got != want {
			t.Errorf("%s stood still in %d rounds, want %d", system, got, want)
		}
	}
}
