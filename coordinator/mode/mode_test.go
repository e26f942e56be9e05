package mode

import (
	"strings"
	"testing"
	"time"
)

// play runs a controller against a load: rate says how often output would diverge a second at a time. It returns the share
// of the time spent in epochs and the changes of mode; trials of lock-step are none.
func play(c *Controller, from, to time.Duration, rate func(time.Duration) float64) (share float64, changes []string) {
	const step = time.Millisecond
	var in time.Duration
	due := 0.0
	buffered := c.Decision().Buffered // but for trials
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
		if was := buffered; !d.Trial && d.Buffered != was || d.Reason != "" {
			buffered = d.Buffered
			changes = append(changes, now.String()+": "+d.Reason)
			if d.Reason == "" || d.Buffered == was {
				changes = append(changes, "without a reason, or no change!")
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
	if len(ch) != 1 || !strings.Contains(ch[0], "epochs") {
		t.Errorf("divergent output: changes %v, want one", ch)
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
	if d := c.Decision(); d.Interval != 15*time.Millisecond {
		t.Errorf("interval %s before any checkpoint", d.Interval)
	}
	for range 400 {
		c.Checkpoint(4*time.Millisecond, false)
	}
	c.Checkpoint(9*time.Millisecond, false)
	if d := c.Look(time.Second); d.Interval.Round(time.Microsecond) != 30*time.Millisecond-9*time.Millisecond*13/10 {
		t.Errorf("interval %s after a checkpoint of 9 ms within a bound of 30 ms", d.Interval)
	}
	for range 400 {
		c.Checkpoint(4*time.Millisecond, false)
	}
	if d := c.Look(time.Second); d.Interval < 24*time.Millisecond || d.Interval > 25500*time.Microsecond {
		t.Errorf("interval %s long after the slow checkpoint", d.Interval)
	}
	c.Checkpoint(time.Second, false)
	if d := c.Look(time.Second); d.Interval != MinBoundInterval {
		t.Errorf("interval %s although the bound cannot be kept", d.Interval)
	}
	// However long a single one took, it is forgotten in the same time.
	for range 300 {
		c.Checkpoint(4*time.Millisecond, false)
	}
	if d := c.Look(time.Second); d.Interval < 20*time.Millisecond {
		t.Errorf("interval %s when the bound has long been kept again", d.Interval)
	}
}

// TestSmallBound: a bound of 5 ms leaves a checkpoint of 3 ms an interval that keeps it.
func TestSmallBound(t *testing.T) {
	c := New(Config{Kind: Epoch, LatencyBound: 5 * time.Millisecond}, 0)
	const took = 3 * time.Millisecond
	beyond, epochs := 0, 0
	for now := time.Duration(0); now < 10*time.Second; epochs++ {
		period := c.Decision().Interval + took
		if period > 5*time.Millisecond {
			beyond++
		}
		now += period
		c.Checkpoint(took, false)
		c.Look(now)
	}
	if beyond > 1 { // the first: nothing is known of checkpoints yet
		t.Errorf("%d of %d epochs beyond the bound", beyond, epochs)
	}
}

// TestLateTimers: what makes an epoch longer than interval and checkpoint shortens the interval as well.
func TestLateTimers(t *testing.T) {
	c := New(Config{Kind: Epoch, LatencyBound: 30 * time.Millisecond}, 0)
	const took, late = 4 * time.Millisecond, 3 * time.Millisecond
	beyond, epochs := 0, 0
	for now := time.Duration(0); now < 10*time.Second; epochs++ {
		period := c.Decision().Interval + took + late
		if period > 30*time.Millisecond {
			beyond++
		}
		now += period
		c.Checkpoint(took, false)
		c.Look(now)
	}
	if 50*beyond > epochs {
		t.Errorf("%d of %d epochs beyond the bound", beyond, epochs)
	}
	// A gap, as while the pair is protected anew, is no measure: the interval recovers.
	c.Look(2 * time.Minute)
	for now := 2 * time.Minute; now < 2*time.Minute+10*time.Second; {
		now += c.Decision().Interval + took
		c.Checkpoint(took, false)
		c.Look(now)
	}
	if d := c.Decision(); d.Interval < 15*time.Millisecond {
		t.Errorf("interval %s long after a gap", d.Interval)
	}
}

// TestAdaptiveIsNearTheBetterMode: over phases of equal and divergent output, what a guest gets done is near what the better
// fixed mode of each phase would give. In lock-step with equal output it is taken as 1, in epochs as the share of the time in which
// the guest runs and is heard, in lock-step with divergent output likewise, a checkpoint following an answer at once.
func TestAdaptiveIsNearTheBetterMode(t *testing.T) {
	const each, answer, heard = 10 * time.Second, time.Millisecond, 0.5
	for _, ckpt := range []time.Duration{4 * time.Millisecond, 12 * time.Millisecond} {
		c := New(Config{Kind: Adaptive}, 0)
		changes := 0
		for phase, divergent := range []bool{false, true, false, true, false} {
			var done float64
			end := time.Duration(phase+1) * each
			buffered := c.Decision().Buffered // in the epoch that begins: a decision counts from the next checkpoint on
			for now := time.Duration(phase) * each; now < end; {
				d := c.Decision()
				ran, diverged, worth := d.Interval, false, heard
				switch {
				case buffered:
				case divergent:
					ran, diverged = answer, true
				default:
					worth = 1
					if !d.Trial {
						ran = 500 * time.Millisecond // until the next one in the background
					}
				}
				now += ran + ckpt
				done += worth * ran.Seconds()
				c.Checkpoint(ckpt, diverged)
				buffered = d.Buffered
				if d := c.Look(now); d.Reason != "" {
					changes++
				}
			}
			best := each.Seconds()
			if divergent {
				best *= heard * DefaultInterval.Seconds() / (DefaultInterval + ckpt).Seconds()
			}
			if done < 0.85*best {
				t.Errorf("checkpoints of %s, phase %d (divergent: %v): %.2f of the better mode", ckpt, phase, divergent, done/best)
			}
		}
		if changes != 4 {
			t.Errorf("%d changes of mode for 4 of the load", changes)
		}
	}
}

// TestTrialsAreShort: while output diverges, trials of lock-step fail after a few checkpoints, and become rare.
func TestTrialsAreShort(t *testing.T) {
	const ckpt, answer = 10 * time.Millisecond, time.Millisecond
	c := New(Config{Kind: Adaptive}, 0)
	trials, needed, longest, count := 0, 0, 0, 0
	was := Decision{}
	for now := time.Duration(0); now < 10*time.Minute; {
		d := c.Decision()
		ran := answer
		if was.Buffered || d.Buffered {
			ran = d.Interval
		}
		now += ran + ckpt
		c.Checkpoint(ckpt, !was.Buffered)
		was = d
		switch d = c.Look(now); {
		case d.Trial && !was.Trial:
			trials, count = trials+1, 0
		case d.Trial:
			count++
			needed++
			longest = max(longest, count)
		}
	}
	if trials < 20 || trials > 60 || longest > 8 {
		t.Errorf("%d trials in 10 minutes, of up to %d checkpoints, %d in all", trials, longest, needed)
	}
}

// TestTrialsAreNotSeenAsAChange: the first trial that holds is one, and says why.
func TestTrialsAreNotSeenAsAChange(t *testing.T) {
	c := New(Config{Kind: Adaptive}, 0)
	now := time.Duration(0)
	look := func(after time.Duration, diverged bool) Decision {
		now += after
		c.Checkpoint(3*time.Millisecond, diverged)
		return c.Look(now)
	}
	d := Decision{}
	for range several {
		d = look(5*time.Millisecond, true)
	}
	if !d.Buffered || d.Reason == "" {
		t.Fatalf("after %d differences in %s: %+v", several, now, d)
	}
	for range 100 {
		if d = look(d.Interval, false); d.Trial {
			break
		}
		if d.Reason != "" || !d.Buffered {
			t.Fatalf("in epochs: %+v", d)
		}
	}
	if !d.Trial || d.Buffered || d.Reason != "" || d.Interval != DefaultInterval || now > 2*time.Second {
		t.Fatalf("the first trial, after %s: %+v", now, d)
	}
	if d = look(d.Interval, false); !d.Trial || d.Buffered || d.Interval != window {
		t.Fatalf("the trial has begun: %+v", d)
	}
	if d = look(d.Interval, false); d.Trial || d.Buffered || d.Reason == "" {
		t.Fatalf("the trial has held: %+v", d)
	}
}

// TestSlowSecondary: where the other guest is slow after each checkpoint, differing output waits for long and checkpoints are few;
// epochs are better then, trials of lock-step fail, and equal output brings it back.
func TestSlowSecondary(t *testing.T) {
	const ckpt, slow, answers = 18 * time.Millisecond, 130 * time.Millisecond, 16
	c := New(Config{Kind: Adaptive}, 0)
	play := func(from, to time.Duration, divergent bool) (share float64, changes []string) {
		buffered := c.Decision().Buffered
		var in time.Duration
		for now := from; now < to; {
			d := c.Decision()
			ran, wait := d.Interval, d.Interval/2+ckpt
			switch {
			case buffered:
				in += ran + ckpt
			case divergent:
				ran, wait = slow, slow+ckpt
			default:
				wait = time.Millisecond
				if !d.Trial {
					ran = 500 * time.Millisecond
				}
			}
			now += ran + ckpt
			c.Checkpoint(ckpt, divergent && !buffered)
			c.Waited(answers, answers*wait)
			buffered = d.Buffered
			if d := c.Look(now); d.Reason != "" {
				changes = append(changes, now.String()+": "+d.Reason)
			}
		}
		return in.Seconds() / (to - from).Seconds(), changes
	}
	if share, ch := play(0, time.Minute, false); share != 0 {
		t.Errorf("equal output: %v of the time in epochs, %v", share, ch)
	}
	share, ch := play(time.Minute, 3*time.Minute, true)
	if share < 0.9 || len(ch) != 1 || !strings.Contains(ch[0], "waited 148ms on average; in epochs of 25ms it waits 43ms at most") {
		t.Errorf("divergent output: %v of the time in epochs, %v", share, ch)
	}
	if share, ch := play(3*time.Minute, 5*time.Minute, false); share > 0.2 || len(ch) != 1 {
		t.Errorf("equal output again: %v of the time in epochs, %v", share, ch)
	}
}

// TestEqualOutputOfASlowSecondary: waits alone are no reason; nor is one hiccup.
func TestEqualOutputOfASlowSecondary(t *testing.T) {
	c := New(Config{Kind: Adaptive}, 0)
	for now := time.Duration(0); now < time.Minute; now += 500 * time.Millisecond {
		c.Checkpoint(18*time.Millisecond, now == 10*time.Second)
		c.Waited(100, 100*100*time.Millisecond)
		if d := c.Look(now); d.Buffered {
			t.Fatalf("in epochs at %s: %s", now, d.Reason)
		}
	}
}
