package proxy

import (
	"math/bits"
	"time"
)

// holdHist counts durations in logarithmic buckets of 1/8 octave (9 % wide),
// from 1 us to 70 minutes. It costs one increment a frame.
type holdHist struct {
	count   [32 * 8]uint64
	total   uint64
	longest time.Duration
}

func holdBucket(us uint64) int {
	if us < 8 {
		return int(us)
	}
	e := bits.Len64(us) - 4 // us>>e is in 8..15
	return min((e+1)*8+int(us>>e&7), 32*8-1)
}

func holdUpper(b int) uint64 {
	if b < 8 {
		return uint64(b)
	}
	e := b/8 - 1
	return (uint64(8+b%8)+1)<<e - 1
}

func (h *holdHist) add(d time.Duration) {
	if d < 0 {
		d = 0 // the clock was stepped
	}
	h.count[holdBucket(uint64(d/time.Microsecond))]++
	h.total++
	h.longest = max(h.longest, d)
}

// quantile returns the upper end of the bucket in which the quantile q lies; 0 when nothing was counted.
func (h *holdHist) quantile(q float64) time.Duration {
	if h.total == 0 {
		return 0
	}
	rank, seen := uint64(q*float64(h.total-1)), uint64(0)
	for b, n := range h.count {
		if seen += n; seen > rank {
			return min(time.Duration(holdUpper(b))*time.Microsecond, max(h.longest, time.Microsecond))
		}
	}
	return h.longest
}
