package coordinator

import (
	"context"
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"colod/coordinator/metrics"
	"colod/coordinator/pair"
	"colod/proxy"
	"colod/qmp/relay"
)

// TestPhasesAddUp: whatever the clocks say, the phases are the whole wait of the oldest output, and none is below 0.
func TestPhasesAddUp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		began := time.Unix(1000, 0)
		at := func(name string) time.Time {
			if rapid.IntRange(0, 9).Draw(t, name+" unknown") == 0 {
				return time.Time{}
			}
			return began.Add(time.Duration(rapid.Int64Range(-2e9, 2e9).Draw(t, name)))
		}
		took := time.Duration(rapid.Int64Range(0, 1e9).Draw(t, "took"))
		longest := time.Duration(rapid.Int64Range(0, 2e9).Draw(t, "longest"))
		p := cut(began, at("stopped"), at("received"), at("resumed"), took, longest)
		if p.sum() != max(took, longest) {
			t.Fatalf("%+v is %s, want the longer of %s and %s", p, p.sum(), took, longest)
		}
		for i, d := range p.list() {
			if d < 0 {
				t.Fatalf("%s is %s", metrics.PhaseNames[i], d)
			}
		}
	})
}

// TestPhasesInOrder: with clocks that agree, each phase is what its name says.
func TestPhasesInOrder(t *testing.T) {
	began := time.Unix(1000, 0)
	ms := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
	got := cut(began, began.Add(ms(1)), began.Add(ms(3)), began.Add(ms(6)), ms(10), ms(15))
	if want := (phases{ms(5), ms(1), ms(2), ms(3), ms(4)}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	// Without the relay's word the standstill is all transfer; without QEMU's, all is the request until the release.
	if got := cut(began, began.Add(ms(1)), time.Time{}, began.Add(ms(6)), ms(10), 0); got != (phases{0, ms(1), ms(5), 0, ms(4)}) {
		t.Errorf("without the relay: %+v", got)
	}
	if got := cut(began, time.Time{}, time.Time{}, time.Time{}, ms(10), 0); got != (phases{release: ms(10)}) {
		t.Errorf("without any: %+v", got)
	}
}

// TestRecordsHoldTheLast: the ring and its numbers.
func TestRecordsHoldTheLast(t *testing.T) {
	var r records
	began := time.Now()
	for i := range 1500 {
		r.begin()
		r.state = relay.Checkpoint{Begin: began, Stop: time.Millisecond, Transfer: time.Millisecond, Bytes: uint64(i)}
		r.covered = proxy.Covered{Frames: 2, Longest: 20 * time.Millisecond}
		r.add(uint64(i), []string{"timer"}, began, began.Add(time.Millisecond).Round(0), began.Add(4*time.Millisecond).Round(0), 5*time.Millisecond)
	}
	all, next := r.after(0)
	if len(all) != len(r.last) || next != 1500 || all[0].N != 1500-uint64(len(r.last)) || all[len(all)-1].Bytes != 1499 {
		t.Fatalf("%d records, first %+v, next %d", len(all), all[0], next)
	}
	if c := all[0]; c.BufferMS != 15 || c.StopMS != 3 || c.DelayMS != 20 || c.LongestMS != 20 || c.Frames != 2 {
		t.Errorf("record %+v", c)
	}
	if more, _ := r.after(1499); len(more) != 1 {
		t.Errorf("%d records after the last but one", len(more))
	}
	if st := r.status(); len(st) != metrics.Phases+1 || st["buffer"].P50 < 15 || st["delay"].Max != 20 {
		t.Errorf("status %+v", st)
	}
}

// TestCheckpointsAreRecorded: each checkpoint of a pair is told with its phases, from memory and from disk, and the phases in the
// metrics add up to the delay.
func TestCheckpointsAreRecorded(t *testing.T) {
	p := newTestPair(t)
	p.start("a")
	p.start("b")
	p.protected("a", "b")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	client := p.nodes["a"].client
	for range 3 {
		if _, err := client.Ask(ctx, "g", pair.OpCheckpoint, -1); err != nil {
			t.Fatal(err)
		}
	}
	st := p.await("a", "four checkpoints", func(s PairStatus) bool { return s.Checkpoints.Count >= 4 })
	if last := st.Checkpoints.Last; last == nil || last.DelayMS <= 0 || len(st.Checkpoints.PhasesMS) != metrics.Phases+1 {
		t.Fatalf("status %+v", st.Checkpoints)
	}
	for _, since := range []string{"", "1h", "all"} {
		var list []CheckpointRecord
		if err := client.Checkpoints(ctx, "g", since, func(c CheckpointRecord) error { list = append(list, c); return nil }); err != nil {
			t.Fatal(err)
		}
		if len(list) < 4 {
			t.Fatalf("since %q: %d records", since, len(list))
		}
		for i, c := range list {
			sum := c.BufferMS + c.RequestMS + c.TransferMS + c.LoadMS + c.ReleaseMS
			if math.Abs(sum-c.DelayMS) > 1e-3 || math.Abs(c.StopMS-c.TransferMS-c.LoadMS) > 1e-3 || len(c.Reasons) == 0 || c.DelayMS <= 0 {
				t.Errorf("since %q: record %+v: sum %g", since, c, sum)
			}
			if i > 0 && !c.Time.After(list[i-1].Time) {
				t.Errorf("since %q: record %d is not later than the one before", since, i)
			}
		}
	}
	if err := client.Checkpoints(ctx, "g", "yesterday", nil); err == nil {
		t.Error("a time that is none was taken")
	}
	d := p.nodes["a"].node.driverOf("g")
	snap := d.sample(&st)
	var sum time.Duration
	for _, h := range snap.Phase {
		if h.Total != snap.CkptDelay.Total {
			t.Errorf("%d of a phase, %d of their sum", h.Total, snap.CkptDelay.Total)
		}
		sum += h.Sum
	}
	if sum != snap.CkptDelay.Sum || sum == 0 {
		t.Errorf("the phases are %s, their sum is told as %s", sum, snap.CkptDelay.Sum)
	}
}
