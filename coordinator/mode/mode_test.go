package mode

import (
	"strings"
	"testing"
	"time"
)

// play runs a controller against a load: rate says how often output would diverge a second at a time. It returns the share
// of the time spent in epochs and the changes of mode.
func play(c *Controller, from, to time.Duration, rate func(time.Duration) float64) (share float64, changes []string) {
	const step = time.Millisecond
	var in time.Duration
	due := 0.0
	buffered := c.Decision().Buffered
	next := from
	for now := from; now < to; now += step {
		d := c.Decision()
		if d.Buffered {
			in += step
			if now >= next {
				next = now + d.Interval
				c.Checkpoint(3*time.Millisecond, false)
				d = c.Look(now)
			}
		} else {
			due += rate(now) * step.Seconds()
			if due >= 1 {
				due--
				c.Checkpoint(3*time.Millisecond, true)
			}
			d = c.Look(now)
		}
		if d.Buffered != buffered {
			buffered = d.Buffered
			changes = append(changes, now.String()+": "+d.Reason)
			if d.Reason == "" {
				changes = append(changes, "no reason!")
			}
		}
	}
	return float64(in) / float64(to-from), changes
}

func constant(r float64) func(time.Duration) float64 { return func(time.Duration) float64 { return r } }

func TestFixedModesStay(t *testing.T) {
	for _, k := range []Kind{Lockstep, Epoch} {
		for _, r := range []float64{0, 1, 1000} {
			share, ch := play(New(Config{Kind: k}, 0), 0, time.Minute, constant(r))
			if len(ch) > 0 || (share > 0) != (k == Epoch) {
				t.Errorf("kind %d with %v divergences/s: share of epochs %v, changes %v", k, r, share, ch)
			}
		}
	}
}

// TestAdaptiveFollowsTheLoad: equal output is compared, divergent output buffered, in both cases for nearly all the time.
func TestAdaptiveFollowsTheLoad(t *testing.T) {
	if share, ch := play(New(Config{Kind: Adaptive}, 0), 0, 10*time.Minute, constant(2)); share != 0 {
		t.Errorf("equal output: %v of the time in epochs, %v", share, ch)
	}
	share, ch := play(New(Config{Kind: Adaptive}, 0), 0, 10*time.Minute, constant(400))
	if share < 0.95 {
		t.Errorf("divergent output: only %v of the time in epochs, %v", share, ch)
	}
	if len(ch) > 30 {
		t.Errorf("divergent output: %d changes in 10 minutes", len(ch))
	}
	for _, c := range ch {
		if !strings.Contains(c, "epochs") {
			t.Errorf("change without a reason: %s", c)
		}
	}
}

// TestAdaptiveDoesNotOscillate: near the break-even the mode does not matter, so it stays.
func TestAdaptiveDoesNotOscillate(t *testing.T) {
	even := 1 / (DefaultInterval + 3*time.Millisecond).Seconds()
	for _, f := range []float64{0.8, 0.9, 1, 1.1, 1.2} {
		_, ch := play(New(Config{Kind: Adaptive}, 0), 0, 10*time.Minute, constant(f*even))
		if len(ch) > 2 {
			t.Errorf("%v of the break-even: %d changes: %v", f, len(ch), ch)
		}
	}
}

// TestAdaptiveComesBack: a load that changes from equal to divergent and back is followed within seconds.
func TestAdaptiveComesBack(t *testing.T) {
	c := New(Config{Kind: Adaptive}, 0)
	phase := func(now time.Duration) float64 {
		if now >= time.Minute && now < 90*time.Second {
			return 500
		}
		return 0
	}
	if share, ch := play(c, 0, time.Minute, phase); share != 0 {
		t.Errorf("before: %v of the time in epochs, %v", share, ch)
	}
	if share, ch := play(c, time.Minute, 90*time.Second, phase); share < 0.8 {
		t.Errorf("while divergent: %v of the time in epochs, %v", share, ch)
	}
	if share, ch := play(c, 90*time.Second, 5*time.Minute, phase); share > 0.2 {
		t.Errorf("afterwards: %v of the time in epochs, %v", share, ch)
	}
}

func TestLatencyBound(t *testing.T) {
	c := New(Config{Kind: Epoch, LatencyBound: 30 * time.Millisecond}, 0)
	if d := c.Decision(); d.Interval != 30*time.Millisecond {
		t.Errorf("interval %s before any checkpoint", d.Interval)
	}
	for range 100 {
		c.Checkpoint(4*time.Millisecond, false)
	}
	c.Checkpoint(9*time.Millisecond, false)
	if d := c.Look(time.Second); d.Interval != 21*time.Millisecond {
		t.Errorf("interval %s after a checkpoint of 9 ms within a bound of 30 ms", d.Interval)
	}
	for range 100 {
		c.Checkpoint(4*time.Millisecond, false)
	}
	if d := c.Look(time.Second); d.Interval < 24*time.Millisecond || d.Interval > 26*time.Millisecond {
		t.Errorf("interval %s long after the slow checkpoint", d.Interval)
	}
	c.Checkpoint(time.Second, false)
	if d := c.Look(time.Second); d.Interval != MinInterval {
		t.Errorf("interval %s although the bound cannot be kept", d.Interval)
	}
}
