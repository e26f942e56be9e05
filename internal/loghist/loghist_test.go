package loghist

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestBucketsAreOrderedAndExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		us := rapid.Uint64Range(0, uint64(70*time.Minute/time.Microsecond)).Draw(t, "us")
		b := bucket(us)
		if d := time.Duration(us) * time.Microsecond; b < Buckets-1 && d > Upper(b) || b > 0 && d <= Upper(b-1) {
			t.Fatalf("%d us is in bucket %d, which ends at %s and begins after %s", us, b, Upper(b), Upper(max(b-1, 0)))
		}
	})
}

func TestQuantile(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		us := rapid.SliceOfN(rapid.Uint32(), 1, 200).Draw(t, "us")
		var h Hist
		for _, u := range us {
			h.Add(time.Duration(u) * time.Microsecond)
		}
		slices.Sort(us)
		q := rapid.Float64Range(0, 1).Draw(t, "q")
		want := time.Duration(us[int(q*float64(len(us)-1))]) * time.Microsecond
		got := h.Quantile(q)
		if got < want || got > max(want+want/8, time.Microsecond) {
			t.Fatalf("quantile %g is %s, want %s and at most an eighth more", q, got, want)
		}
	})
}

func TestQuantileOfNothing(t *testing.T) {
	var h Hist
	if d := h.Quantile(0.5); d != 0 {
		t.Fatalf("quantile of nothing is %s", d)
	}
	h.Add(-time.Second)
	if h.Count[0] != 1 || h.Sum != 0 {
		t.Fatalf("a duration below zero counts as %+v", h.Sum)
	}
}

func TestSince(t *testing.T) {
	var h Hist
	h.Add(time.Second)
	before := h
	h.Add(time.Millisecond)
	h.Add(2 * time.Millisecond)
	d := h.Since(&before)
	if d.Total != 2 || d.Sum != 3*time.Millisecond || d.Max < 2*time.Millisecond || d.Max > 3*time.Millisecond {
		t.Fatalf("got total %d, sum %s, max %s", d.Total, d.Sum, d.Max)
	}
	var fresh Hist
	fresh.Add(time.Microsecond)
	if d := fresh.Since(&before); d != fresh {
		t.Fatalf("after a new beginning got total %d", d.Total)
	}
}

func TestCumulative(t *testing.T) {
	bounds := Octaves()
	rapid.Check(t, func(t *rapid.T) {
		us := rapid.SliceOf(rapid.Uint64Range(0, 100e6)).Draw(t, "us")
		var h Hist
		for _, u := range us {
			h.Add(time.Duration(u) * time.Microsecond)
		}
		for i, n := range h.Cumulative() {
			want := uint64(0)
			for _, u := range us {
				if u < uint64(8)<<i {
					want++
				}
			}
			if n != want {
				t.Fatalf("%d durations below %g s, want %d", n, bounds[i], want)
			}
		}
	})
}

func TestAddAllocatesNothing(t *testing.T) {
	var h Hist
	if n := testing.AllocsPerRun(1000, func() { h.Add(time.Millisecond) }); n != 0 {
		t.Fatalf("%g allocations", n)
	}
}
