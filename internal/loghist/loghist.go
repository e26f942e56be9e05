// Package loghist counts durations in logarithmic buckets.
//
// A histogram is a plain value of fixed size: counting is one increment and
// allocates nothing, and a copy is a snapshot. It is not safe for use by many
// goroutines.
package loghist

import (
	"math/bits"
	"time"
)

// Buckets is the number of buckets: 1/8 octave wide (9 %) from 8 us on, 1 us
// wide below, to 70 minutes.
const Buckets = 32 * 8

// Hist is a histogram. The zero value is empty.
type Hist struct {
	Count [Buckets]uint64
	Total uint64
	Sum   time.Duration
	Max   time.Duration
}

func bucket(us uint64) int {
	if us < 8 {
		return int(us)
	}
	e := bits.Len64(us) - 4 // us>>e is in 8..15
	return min((e+1)*8+int(us>>e&7), Buckets-1)
}

// Upper is the largest duration of bucket b, in whole microseconds.
func Upper(b int) time.Duration {
	if b < 8 {
		return time.Duration(b) * time.Microsecond
	}
	e := b/8 - 1
	return time.Duration((uint64(8+b%8)+1)<<e-1) * time.Microsecond
}

// Add counts one duration; one below zero, of a clock that was stepped, counts as zero.
func (h *Hist) Add(d time.Duration) {
	d = max(d, 0)
	h.Count[bucket(uint64(d/time.Microsecond))]++
	h.Total++
	h.Sum += d
	h.Max = max(h.Max, d)
}

// Quantile returns the upper end of the bucket in which the quantile q (0..1)
// lies, at least 1 us and at most the longest duration; 0 when nothing was counted.
func (h *Hist) Quantile(q float64) time.Duration {
	if h.Total == 0 {
		return 0
	}
	rank, seen := uint64(q*float64(h.Total-1)), uint64(0)
	for b, n := range h.Count {
		if seen += n; seen > rank {
			return min(Upper(b), max(h.Max, time.Microsecond))
		}
	}
	return h.Max
}

// Since returns what was counted after the snapshot before. If before holds
// more than h anywhere, the counting began anew meanwhile and h is returned.
// The longest duration is that of the highest bucket, for only counters can
// be subtracted.
func (h *Hist) Since(before *Hist) Hist {
	d := Hist{Total: h.Total - before.Total, Sum: h.Sum - before.Sum}
	for b := range h.Count {
		if h.Count[b] < before.Count[b] {
			return *h
		}
		if d.Count[b] = h.Count[b] - before.Count[b]; d.Count[b] > 0 {
			d.Max = min(Upper(b), h.Max)
		}
	}
	return d
}

// Octaves are the bounds at which Cumulative counts: 8 us, 16 us, ... in seconds. Bucket
// borders lie on them exactly.
func Octaves() []float64 {
	bounds := make([]float64, 0, octaves)
	for i := range octaves {
		bounds = append(bounds, float64(uint64(8)<<i)/1e6)
	}
	return bounds
}

// octaves end at 67 s: what is longer is beyond every time-out of the data path.
const octaves = 24

// Cumulative returns how many durations were below each of the bounds.
func (h *Hist) Cumulative() []uint64 {
	counts := make([]uint64, octaves)
	var n uint64
	for i := range counts {
		for b := i * 8; b < (i+1)*8; b++ {
			n += h.Count[b]
		}
		counts[i] = n
	}
	return counts
}
