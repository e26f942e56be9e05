package coordinator

import (
	"testing"
	"time"

	"colod/qmp/relay"
)

// TestIdleCheckpoints: a guest that nobody speaks to is given checkpoints by itself.
func TestIdleCheckpoints(t *testing.T) {
	p := newTestPair(t)
	p.extra = "    checkpoint: {idle_interval: 100ms}\n"
	p.start("a")
	p.start("b")
	p.protected("a", "b")
	p.await("a", "five checkpoints of the timer", func(s PairStatus) bool { return s.Checkpoints.Reasons["timer"] >= 5 })
}

// TestDirtyLimitShortensTheInterval: what checkpoints have carried decides when the next one is taken in the background.
func TestDirtyLimitShortensTheInterval(t *testing.T) {
	p := newTestPair(t)
	p.extra = "    checkpoint: {idle_interval: 1h, dirty_limit: 1M}\n"
	p.start("a")
	p.start("b")
	p.protected("a", "b")
	d := p.nodes["a"].node.driverOf("g")
	interval := func() (i time.Duration) {
		d.call(func() { i = d.pace.Interval() })
		return i
	}
	if i := interval(); i != time.Hour {
		t.Fatalf("interval %s before anything was measured", i)
	}
	for n := range 3 { // as the relay and the data path tell of checkpoints of 10 MiB
		number := uint64(1000 + n)
		d.stats.begin(number, []string{"timer"})
		d.stats.relayed(relay.Checkpoint{Begin: time.Now(), Bytes: 10 << 20})
		d.stats.done(number)
		d.call(func() { d.lookAtMode(time.Millisecond, false) })
	}
	if i := interval(); i >= time.Minute {
		t.Errorf("interval %s although checkpoints carry ten times what may wait", i)
	}
}
