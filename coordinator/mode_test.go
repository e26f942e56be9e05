package coordinator

import (
	"strings"
	"testing"
	"time"

	"colod/coordinator/pair"
)

// TestAdaptiveModeGoesAndComes: differences put a pair into epochs, and a trial of lock-step in which none is found back. What
// ends the trial is a checkpoint that comes by itself, long before the idle interval is over.
func TestAdaptiveModeGoesAndComes(t *testing.T) {
	p := newTestPair(t)
	p.extra = "    mode: adaptive\n    checkpoint: {idle_interval: 1h}\n"
	p.start("a")
	p.start("b")
	p.protected("a", "b")
	d := p.nodes["a"].node.driverOf("g")
	mode := ""
	d.call(func() {
		for range 100 {
			d.lookAtMode(time.Millisecond, true)
		}
		mode = d.modeNow()
	})
	if mode != "adaptive (epoch)" {
		t.Fatalf("mode %q after a hundred differences in no time", mode)
	}
	if _, err := p.nodes["a"].client.Ask(t.Context(), "g", pair.OpCheckpoint, 0); err != nil {
		t.Fatal(err)
	}
	p.await("a", "lock-step again", func(s PairStatus) bool { return s.Mode == "adaptive (lockstep)" })
	if log := p.nodes["a"].log.String(); strings.Count(log, "epochs of 25ms need") != 2 {
		t.Errorf("want two changes of mode, each with its reason, in the log:\n%s", log)
	}
}
