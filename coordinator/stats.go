package coordinator

import (
	"maps"
	"slices"
	"sync"
	"time"

	"colod/compare"
	"colod/coordinator/pair"
	"colod/internal/loghist"
	"colod/proxy"
	"colod/qmp/relay"
)

// stats counts what the status tells. Safe for use by many goroutines.
type stats struct {
	mu sync.Mutex

	// Checkpoints since colod started, taken here as primary.
	count          uint64
	reasons        map[string]uint64
	bytes          uint64
	pauses         [4096]time.Duration // the last ones, a ring
	paused         int                 // how many were ever written
	longest        time.Duration
	stop, transfer loghist.Hist  // the same since colod started, and the transfer of the state
	cost           time.Duration // moving average of begin to end
	records        records

	// The one under way.
	n       uint64
	now     []string
	began   time.Time
	stopAt  time.Time // QEMU's clock
	resumeT time.Time // of the last RESUME

	divergences uint64
	byReason    map[string]uint64
	last        *compare.Divergence
	lastID      uint32 // newest number of the session's engine
}

func (s *stats) init() {
	s.reasons = map[string]uint64{}
	s.byReason = map[string]uint64{}
}

func (s *stats) begin(n uint64, reasons []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n, s.now, s.began, s.stopAt = n, reasons, time.Now(), time.Time{}
	s.records.begin()
}

func (s *stats) stopped(at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopAt = at
}

func (s *stats) resumed(at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.resumeT = at
}

func (s *stats) lastResume() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.resumeT
}

// done counts checkpoint n and returns what a checkpoint costs at present:
// the time from its request to the release of what it covers; and for this one
// alone the same, and whether divergence had asked for it.
func (s *stats) done(n uint64) (cost, took time.Duration, diverged bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n != s.n {
		return s.cost, s.cost, false
	}
	s.count++
	for _, r := range s.now {
		s.reasons[r]++
		diverged = diverged || !pair.Planned(r)
	}
	if pause := s.resumeT.Sub(s.stopAt); !s.stopAt.IsZero() && pause >= 0 {
		s.pauses[s.paused%len(s.pauses)] = pause
		s.paused++
		s.longest = max(s.longest, pause)
		s.stop.Add(pause)
	}
	took = time.Since(s.began)
	s.records.add(n, s.now, s.began, s.stopAt, s.resumeT, took)
	if s.cost == 0 {
		s.cost = took
	}
	s.cost += (took - s.cost) / 8
	return s.cost, took, diverged
}

// relayed counts a checkpoint's bytes, on the relay's goroutine.
func (s *stats) relayed(c relay.Checkpoint) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bytes += c.Bytes
	s.transfer.Add(c.Transfer)
	s.records.state = c
}

// covered takes what a checkpoint has let out, on the data path's thread.
func (s *stats) covered(c proxy.Covered) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.N == s.n {
		s.records.covered = c
	}
}

// session begins a new count of the engine's divergence numbers.
func (s *stats) session() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastID = 0
}

// diverged counts a divergence, on the data path's thread. It reports
// whether it is a new one: the exact position comes later under the same
// number.
func (s *stats) diverged(v compare.Divergence) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = &v
	if v.ID <= s.lastID {
		return false
	}
	s.lastID = v.ID
	s.divergences++
	s.byReason[v.Reason.String()]++
	return true
}

// fill writes the counters into a status.
func (s *stats) fill(st *PairStatus) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st.Checkpoints.Count = s.count
	st.Checkpoints.Reasons = maps.Clone(s.reasons)
	st.Checkpoints.Bytes = s.bytes
	st.Checkpoints.CostMS = ms(s.cost)
	st.Checkpoints.PhasesMS = s.records.status()
	if all, _ := s.records.after(s.records.n - 1); len(all) > 0 {
		st.Checkpoints.Last = &all[0]
	}
	all := slices.Clone(s.pauses[:min(s.paused, len(s.pauses))])
	slices.Sort(all)
	st.Checkpoints.PauseMS = Quantiles{P50: ms(quantile(all, 0.5)), P99: ms(quantile(all, 0.99)), Max: ms(s.longest)}
	st.Divergences.Count = s.divergences
	st.Divergences.ByReason = maps.Clone(s.byReason)
	if s.last != nil {
		st.Divergences.Last = describeDivergence(s.last)
	}
}

// quantile is the nearest-rank quantile of sorted values.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
