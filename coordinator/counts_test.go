package coordinator

import (
	"slices"
	"testing"

	"github.com/rs/zerolog"

	"colod/compare"
	"colod/coordinator/config"
	"colod/coordinator/watchdog"
)

func TestPartKind(t *testing.T) {
	for part, want := range map[string]string{
		"pair/g/vm": "vm", "pair/g/loop": "loop", "pair/g/proxy": "proxy", "pair/g/guest": "guest", "pair/g/output": "output",
		"node/b": "node", "node/b/path/1": "path", "arbiter": "arbiter", "heartbeats": "heartbeats",
	} {
		if got := partKind(part); got != want || !slices.Contains(partKinds, got) {
			t.Errorf("%s is of kind %s, want %s", part, got, want)
		}
	}
}

// TestSupervisionCounts: failures and actions are counted by kind, over all parts, and those that never failed are told as 0.
func TestSupervisionCounts(t *testing.T) {
	s := openSupervision(zerolog.Nop())
	defer s.close()
	for _, e := range []watchdog.Effect{
		watchdog.Changed{Part: "pair/g/vm", To: watchdog.Suspect}, watchdog.Changed{Part: "pair/g/vm", From: watchdog.Suspect, To: watchdog.Failed},
		watchdog.Changed{Part: "pair/h/vm", To: watchdog.Failed}, watchdog.Do{Part: "pair/g/vm", Action: actTell}, watchdog.Held{Part: "pair/g/vm"},
	} {
		s.told(e)
	}
	s.counts.restarted()
	got := s.sample()
	if got.Failures["vm"] != 2 || got.Actions["vm"] != 1 || got.ActionsHeld != 1 || got.HeartbeatRestarts != 1 {
		t.Errorf("%+v", got)
	}
	if n, ok := got.Failures["path"]; n != 0 || !ok || len(got.Failures) != len(partKinds) || len(got.Parts) != 4 {
		t.Errorf("%+v", got)
	}
	if n := (*supervision)(nil).sample(); len(n.Failures) != 0 {
		t.Errorf("without supervision: %+v", n)
	}
}

// TestToleranceCounts: uses are counted by rule; what names no rule of the pair is nobody's.
func TestToleranceCounts(t *testing.T) {
	var c toleranceCounts
	c.used(compare.Tolerated{}) // before the rules are known
	c.init([]config.Tolerance{{Name: "date"}, {Name: "build"}})
	for range 3 {
		c.used(compare.Tolerated{Rule: 1, Bytes: 5})
	}
	c.used(compare.Tolerated{Rule: 2, Bytes: 5})
	c.used(compare.Tolerated{Rule: -1, Bytes: 5})
	c.blamed("build")
	c.blamed("")
	want := []ToleranceUses{{Name: "date"}, {Name: "build", Uses: 3, Bytes: 15, Followed: 1}}
	if got := c.uses(); !slices.Equal(got, want) {
		t.Errorf("%+v", got)
	}
}
