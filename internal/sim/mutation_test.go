package sim

import (
	"testing"
	"time"
)

// TestMutations: each deliberate fault is found, by the check that it belongs to and within few stories.
func TestMutations(t *testing.T) {
	const limit = 3000
	kinds := map[Mutation][]string{
		AckBeforeLog:      {"input commit"},
		PromoteUnrecorded: {"authority", "history", "machine", "panic"},
		WatermarkIgnored:  {"datagram"},
		OutputUnchecked:   {"output commit", "history"},
		NoCompare:         {"authority", "history"},
		DeafMute:          {"authority", "history", "output commit"},
		CoverEarly:        {"output commit", "history"},
		CoverLate:         {"output commit", "history"},
		LoadUntold:        {"output commit", "history", "progress"},
	}
	r := NewRunner()
	for m := None + 1; m < numMutations; m++ {
		want := kinds[m]
		if want == nil {
			continue
		}
		t.Run(m.String(), func(t *testing.T) {
			began := time.Now()
			for seed := uint64(1); seed <= limit; seed++ {
				res := r.Run(seed, Options{Mutation: m, Busy: seed%2 == 0})
				if res.Failed == "" {
					continue
				}
				for _, k := range want {
					if res.Kind == k {
						t.Logf("found by seed %d after %v: %s: %s", seed, time.Since(began).Round(time.Millisecond), res.Kind, res.Failed)
						return
					}
				}
				t.Logf("seed %d: %s: %s", seed, res.Kind, res.Failed)
			}
			t.Errorf("not found in %d stories", limit)
		})
	}
}
