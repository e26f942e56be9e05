package metrics

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestSeries(t *testing.T) {
	s := NewSeries()
	at := time.Unix(1000, 0)
	p := Pair{Name: "g", State: "solo", Delay: hist(time.Second), Divergences: map[string]uint64{"payload": 7}}
	add := func(after time.Duration) {
		at = at.Add(after)
		s.Add(at, &Snapshot{Pairs: []Pair{p}})
	}
	add(0)
	if pts, ok := s.After("g", 0); !ok || len(pts) != 0 {
		t.Fatalf("one look makes no interval: %v", pts)
	}
	delay := *p.Delay
	delay.Add(2 * time.Millisecond)
	p = Pair{
		Name: "g", State: "protected", Role: "speaker", Delay: &delay, Stop: hist(10 * time.Millisecond), HeldFrames: 4, Checkpoints: 3,
		Released: Released{Frames: 100, Bytes: 5000}, LinkOut: 1000, Divergences: map[string]uint64{"payload": 8, "length": 1},
	}
	add(2 * time.Second)
	pts, _ := s.After("g", 0)
	if len(pts) != 1 {
		t.Fatalf("%d points", len(pts))
	}
	got := pts[0]
	if got.DelayP50 < 2000 || got.DelayP50 > 2300 || got.StopMax < 10 || got.StopMax > 11.5 {
		t.Errorf("delay of the interval %g us, stop %g ms", got.DelayP50, got.StopMax)
	}
	got.DelayP50, got.DelayP99, got.StopP50, got.StopMax = 0, 0, 0, 0
	want := Point{
		ID: 1, Time: at, State: "protected", Role: "speaker", Frames: 50, Bytes: 2500, LinkOut: 500, Held: 4, Checkpoints: 3,
		Divergences: 2, ByReason: map[string]uint64{"payload": 1, "length": 1},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	// Counters that begin anew.
	p.Released = Released{Frames: 10}
	add(time.Second)
	if pts, _ := s.After("g", 1); len(pts) != 1 || pts[0].Frames != 10 {
		t.Errorf("after a new beginning: %+v", pts)
	}
	// A clock that was stepped back makes no point.
	s.Add(at.Add(-time.Hour), &Snapshot{Pairs: []Pair{p}})
	if pts, _ := s.After("g", 2); len(pts) != 0 {
		t.Errorf("%+v", pts)
	}
}

func TestSeriesIsBounded(t *testing.T) {
	s := NewSeries()
	at := time.Unix(1000, 0)
	for i := range 2*Kept + 10 {
		s.Add(at.Add(time.Duration(i)*time.Second), &Snapshot{Pairs: []Pair{{Name: "g", HeldFrames: i}}})
	}
	pts, _ := s.After("g", 0)
	if len(pts) != Kept {
		t.Fatalf("%d points", len(pts))
	}
	for i, p := range pts {
		if p.ID != uint64(Kept+10+i) || p.Held != int(p.ID) {
			t.Fatalf("point %d has ID %d and held %d", i, p.ID, p.Held)
		}
	}
	last := pts[len(pts)-1].ID
	if pts, _ := s.After("g", last-1); len(pts) != 1 || pts[0].ID != last {
		t.Errorf("after the last but one: %d points", len(pts))
	}
	if pts, _ := s.After("g", last); len(pts) != 0 {
		t.Errorf("after the last: %d points", len(pts))
	}
	if pts, _ := s.After("g", last+5000); len(pts) != Kept {
		t.Errorf("after an ID of an earlier colod: %d points, want all", len(pts))
	}
	s.Add(at.Add(time.Hour), &Snapshot{})
	if _, ok := s.After("g", 0); ok {
		t.Error("a pair that is gone is still known")
	}
}
