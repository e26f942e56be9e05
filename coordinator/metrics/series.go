package metrics

import (
	"maps"
	"sync"
	"time"

	"colod/internal/loghist"
)

// Kept is how many points of a pair are kept: at one a second, 15 minutes.
const Kept = 900

// Point is what a pair did between two snapshots. Rates are per second.
type Point struct {
	ID    uint64    `json:"id"`   // grows by one
	Time  time.Time `json:"time"` // end of the interval
	State string    `json:"state"`
	Role  string    `json:"role"`

	Frames    float64 `json:"frames"` // released, per second
	Bytes     float64 `json:"bytes"`  // released, per second
	Mirrored  float64 `json:"mirrored"`
	LinkIn    float64 `json:"link_in"`     // bytes per second
	LinkOut   float64 `json:"link_out"`    // bytes per second
	StateRate float64 `json:"state_bytes"` // of checkpoints, bytes per second

	DelayP50 float64 `json:"delay_p50_us"` // of frames released in the interval, microseconds; 0: none
	DelayP99 float64 `json:"delay_p99_us"`
	HoldP50  float64 `json:"hold_p50_us"`
	HoldP99  float64 `json:"hold_p99_us"`
	StopP50  float64 `json:"stop_p50_ms"` // of checkpoints in the interval, milliseconds; 0: none
	StopMax  float64 `json:"stop_max_ms"`

	Held        int               `json:"held"` // frames held at the end
	Checkpoints uint64            `json:"checkpoints"`
	Divergences uint64            `json:"divergences"`
	ByReason    map[string]uint64 `json:"by_reason,omitempty"` // divergences of the interval
}

// Series keeps the last points of each pair. Safe for use by many goroutines.
type Series struct {
	mu    sync.Mutex
	pairs map[string]*series
}

type series struct {
	last   Pair
	at     time.Time
	next   uint64
	points []Point // a ring once it is full
}

// NewSeries makes an empty history.
func NewSeries() *Series { return &Series{pairs: map[string]*series{}} }

// Add takes a snapshot at a time. Pairs that it does not hold are forgotten.
func (s *Series) Add(now time.Time, n *Snapshot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := map[string]bool{}
	for i := range n.Pairs {
		p := &n.Pairs[i]
		seen[p.Name] = true
		sr := s.pairs[p.Name]
		if sr == nil {
			s.pairs[p.Name] = &series{last: *p, at: now, next: 1}
			continue
		}
		if now.Sub(sr.at) > 0 {
			sr.add(now, p)
		}
	}
	maps.DeleteFunc(s.pairs, func(name string, _ *series) bool { return !seen[name] })
}

func (s *series) add(now time.Time, p *Pair) {
	sec := now.Sub(s.at).Seconds()
	was := &s.last
	rate := func(now, before uint64) float64 { return float64(grown(now, before)) / sec }
	delay, hold, stop := since(p.Delay, was.Delay), since(p.Hold, was.Hold), since(p.Stop, was.Stop)
	pt := Point{
		ID: s.next, Time: now, State: p.State, Role: p.Role,
		Frames: rate(p.Released.Frames, was.Released.Frames), Bytes: rate(p.Released.Bytes, was.Released.Bytes),
		Mirrored: rate(p.Mirrored, was.Mirrored), LinkIn: rate(p.LinkIn, was.LinkIn), LinkOut: rate(p.LinkOut, was.LinkOut),
		StateRate: rate(p.StateBytes, was.StateBytes),
		DelayP50:  us(delay.Quantile(0.5)), DelayP99: us(delay.Quantile(0.99)),
		HoldP50: us(hold.Quantile(0.5)), HoldP99: us(hold.Quantile(0.99)),
		StopP50: us(stop.Quantile(0.5)) / 1000, StopMax: us(stop.Max) / 1000,
		Held: p.HeldFrames, Checkpoints: grown(p.Checkpoints, was.Checkpoints),
	}
	for r, n := range p.Divergences {
		if d := grown(n, was.Divergences[r]); d > 0 {
			if pt.ByReason == nil {
				pt.ByReason = map[string]uint64{}
			}
			pt.ByReason[r] = d
			pt.Divergences += d
		}
	}
	if len(s.points) < Kept {
		s.points = append(s.points, pt)
	} else {
		s.points[int((s.next-1)%Kept)] = pt
	}
	s.last, s.at = *p, now
	s.next++
}

// After returns the points of a pair whose ID is above after, oldest first,
// and whether the pair is known. An ID that was never given out is of an
// earlier colod: then all points are returned.
func (s *Series) After(pair string, after uint64) ([]Point, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sr := s.pairs[pair]
	if sr == nil {
		return nil, false
	}
	if after >= sr.next {
		after = 0
	}
	points := []Point{}
	first := max(after+1, sr.next-uint64(len(sr.points)))
	for id := first; id < sr.next; id++ {
		points = append(points, sr.points[int((id-1)%Kept)])
	}
	return points, true
}

// grown is how much a counter grew; one that is smaller began anew.
func grown(now, before uint64) uint64 {
	if now < before {
		return now
	}
	return now - before
}

func since(now, before *loghist.Hist) loghist.Hist {
	switch {
	case now == nil:
		return loghist.Hist{}
	case before == nil:
		return *now
	}
	return now.Since(before)
}

func us(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }
