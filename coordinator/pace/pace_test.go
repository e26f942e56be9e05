package pace

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

const mib = 1 << 20

// run lets a guest run for a minute of checkpoints as the controller asks for them. It changes rate bytes a second, at most set bytes.
func run(c *Controller, rate, set float64, cost time.Duration) (count int, longest time.Duration, biggest uint64) {
	const device = 200 << 10
	now := time.Second
	c.Checkpoint(now, device, cost, 0)
	for end := now + time.Minute; now < end; count++ {
		d := c.Interval()
		if d == 0 {
			return count, 0, biggest
		}
		if count > 3 {
			longest = max(longest, d)
		}
		changed := min(rate*d.Seconds(), set)
		if count > 3 {
			biggest = max(biggest, uint64(changed))
		}
		now += d + cost
		c.Checkpoint(now, device+uint64(changed), cost, 0)
	}
	return count, longest, biggest
}

// TestSteadyChange: a guest that changes memory all the time is given checkpoints before the limit is far exceeded.
func TestSteadyChange(t *testing.T) {
	c := New(Config{Idle: 10 * time.Second, Limit: 16 * mib})
	count, longest, biggest := run(c, 32*mib, 1e12, 4*time.Millisecond)
	if biggest > 17*mib || longest > 600*time.Millisecond || count < 100 {
		t.Errorf("%d checkpoints, at most %s apart, up to %d bytes", count, longest, biggest)
	}
}

// TestIdleGuest: one that changes next to nothing is left alone for the idle interval.
func TestIdleGuest(t *testing.T) {
	c := New(Config{Idle: 10 * time.Second, Limit: 16 * mib})
	if count, _, _ := run(c, 100<<10, 1e12, 4*time.Millisecond); count > 7 {
		t.Errorf("%d checkpoints in a minute", count)
	}
}

// TestSmallSet: memory that is changed again and again costs the same however often it is sent: below the limit, it is left.
func TestSmallSet(t *testing.T) {
	c := New(Config{Idle: 10 * time.Second, Limit: 16 * mib})
	if count, _, _ := run(c, 1000*mib, 8*mib, 9*time.Millisecond); count > 20 {
		t.Errorf("%d checkpoints in a minute for 8 MiB that change all the time", count)
	}
}

// TestBounds: never nearer than a hundred times their cost, never farther apart than the idle interval, whatever is measured.
func TestBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg := Config{
			Idle:  time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(t, "idle")),
			Limit: rapid.Uint64Range(0, 1<<40).Draw(t, "limit"),
		}
		c := New(cfg)
		var now, cost time.Duration
		for range rapid.IntRange(1, 20).Draw(t, "checkpoints") {
			now += time.Duration(rapid.Int64Range(0, int64(time.Minute)).Draw(t, "ran"))
			cost = time.Duration(rapid.Int64Range(0, int64(10*time.Second)).Draw(t, "cost"))
			c.Checkpoint(now, rapid.Uint64Range(0, 1<<40).Draw(t, "bytes"), cost, 0)
			d := c.Interval()
			switch {
			case d < 0, cfg.Idle != 0 && (d == 0 || d > cfg.Idle):
				t.Fatalf("interval %s with an idle interval of %s", d, cfg.Idle)
			case cfg.Limit == 0 && d != cfg.Idle:
				t.Fatalf("interval %s without a limit, idle interval %s", d, cfg.Idle)
			case d != 0 && d != cfg.Idle && d < min(share*cost, max(cfg.Idle, share*cost)):
				t.Fatalf("interval %s with checkpoints of %s", d, cost)
			}
		}
	})
}

// TestWaitsAfterCheckpoints: what output waits for the secondary after a checkpoint is a cost of it, for as long as it does.
func TestWaitsAfterCheckpoints(t *testing.T) {
	c := New(Config{Idle: 30 * time.Second, Limit: 16 * mib})
	at := func(after time.Duration) time.Duration {
		now := c.last + time.Second
		c.Checkpoint(now, 40*mib, 5*time.Millisecond, after)
		return c.Interval()
	}
	c.Checkpoint(time.Second, mib, 5*time.Millisecond, 0)
	if d := at(0); d > time.Second {
		t.Fatalf("interval %s before anything has waited", d)
	}
	if d := at(130 * time.Millisecond); d < 13*time.Second {
		t.Errorf("interval %s where output waits 130 ms after each checkpoint", d)
	}
	if d := at(0); d < 9*time.Second {
		t.Errorf("interval %s after one without output", d)
	}
	for range 20 {
		at(0)
	}
	if d := c.Interval(); d > time.Second {
		t.Errorf("interval %s when nothing has waited for long", d)
	}
}
