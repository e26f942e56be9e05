package pair

import (
	"strings"
	"testing"

	"colod/coordinator/arbiter"
)

// A guest that was released may run on where that was done: only that node
// starts it without being told that it does not.
func TestStartOfReleased(t *testing.T) {
	for _, c := range []struct {
		name    string
		speaker string
		reason  string
		force   bool
		refused bool
	}{
		{"on another node", "a", ReleasedOn("a") + " by an operator", false, true},
		{"on another node, forced", "a", ReleasedOn("a") + " by an operator", true, false},
		{"here", "b", ReleasedOn("b") + " by an operator", false, false},
		{"ended", "a", "ended by an operator", false, false},
	} {
		m := New(Config{Pair: "g", Self: "b", Peers: []string{"a"}})
		m.state, m.stop.settled = Stopped, true
		m.rec = arbiter.Record{Pair: "g", Generation: 4, Speaker: c.speaker, Ended: true, Reason: c.reason}
		why := m.start(Ask{ID: 1, Op: OpStart, Force: c.force})
		if c.refused != strings.Contains(why, "--force") || !c.refused && why != "" {
			t.Errorf("released %s: %q", c.name, why)
		}
		if c.refused != (m.swapping == 0) {
			t.Errorf("released %s: the record is changed: %v", c.name, m.swapping != 0)
		}
	}
}
