// Package mode decides how a pair is kept in step: by comparing output (lock-step), by buffering it until the next periodic
// checkpoint (epoch), or by whichever of the two costs less at present (adaptive). It is pure: times and measurements
// come in.
//
// What is compared is checkpoints a second. Each one stops the guest for the same time in either mode, so the mode that
// needs fewer of them leaves the guest more time; and where lock-step needs fewer, it is the quicker one too, since equal
// output waits for no checkpoint at all.
package mode

import (
	"fmt"
	"time"
)

// Kind is what the configuration asks for.
type Kind uint8

// The kinds.
const (
	Lockstep Kind = iota
	Epoch
	Adaptive
)

// Config of a pair.
type Config struct {
	Kind Kind
	// Interval is how long the guest runs between two checkpoints, at least MinInterval; 0: DefaultInterval, or with a
	// LatencyBound that. With a LatencyBound it is the longest one.
	Interval time.Duration
	// LatencyBound, if not 0, is what the longest wait of a frame in epoch mode is to stay below: the interval follows
	// from it and from how long checkpoints take. It may then be shorter than MinInterval, down to MinBoundInterval.
	LatencyBound time.Duration
}

// Bounds and defaults.
const (
	MinInterval     = 5 * time.Millisecond
	DefaultInterval = 25 * time.Millisecond // Remus' default (Cully et al., NSDI 2008)
	// MinBoundInterval is the shortest interval that a LatencyBound leads to. A bound of 5 ms holds a checkpoint of 2 to 4 ms and
	// what is left: with MinInterval it could never be kept.
	MinBoundInterval = time.Millisecond

	// window is how long checkpoints are counted before lock-step is judged, and how long a trial of it lasts.
	window = 2 * time.Second
	// more is how many times as many checkpoints lock-step must need for epochs to be better, and fewer the contrary: the
	// distance between them keeps a pair from moving to and fro.
	more  = 1.25
	fewer = 0.8
	// A trial of lock-step is made after firstTrial in epoch mode; each that fails doubles the time to the next, up to
	// lastTrial. One that succeeds sets it back. A trial costs some checkpoints; a load whose output is equal again costs what
	// epochs cost until the next trial, so that must not be far.
	firstTrial = 4 * time.Second
	lastTrial  = 30 * time.Second
	// decay is how much of the longest checkpoint so far is remembered at the next one.
	decay = 0.98
)

// Decision is how the pair is kept in step from the next checkpoint on.
type Decision struct {
	Buffered bool
	Interval time.Duration // how long the guest runs until the next checkpoint, when Buffered
	Reason   string        // why, when Buffered has changed
}

// Controller decides for one pair. Its zero value is not usable; see New.
type Controller struct {
	cfg Config

	buffered bool
	since    time.Duration // of the present mode, or of the window in it
	count    int           // checkpoints that divergence caused, since then
	trial    time.Duration // time in epoch mode before the next trial of lock-step
	trying   bool          // lock-step is on trial
	total    float64       // decayed maximum of what a checkpoint adds to the interval, s
	last     time.Duration // of the last look in epoch mode; 0: none
	ran      time.Duration // interval that was asked for then
}

// New makes a controller; now is the time in which the others count.
func New(cfg Config, now time.Duration) *Controller {
	if cfg.Interval == 0 {
		cfg.Interval = DefaultInterval
		if cfg.LatencyBound > cfg.Interval {
			cfg.Interval = cfg.LatencyBound
		}
	}
	cfg.Interval = max(cfg.Interval, MinInterval)
	return &Controller{cfg: cfg, buffered: cfg.Kind == Epoch, since: now, trial: firstTrial}
}

// Decision is the present one, without a reason.
func (c *Controller) Decision() Decision {
	return Decision{Buffered: c.buffered, Interval: c.interval()}
}

// interval is how long the guest runs between two checkpoints. The longest wait of a frame is that and the checkpoint that
// follows.
func (c *Controller) interval() time.Duration {
	if c.cfg.LatencyBound == 0 {
		return c.cfg.Interval
	}
	d := c.cfg.LatencyBound - time.Duration(c.total*float64(time.Second))
	return min(max(d, MinBoundInterval), c.cfg.Interval)
}

// Checkpoint tells of a completed checkpoint: how long it held output, from the request to the release, and whether
// divergence had asked for it.
func (c *Controller) Checkpoint(total time.Duration, diverged bool) {
	c.total = max(c.total*decay, total.Seconds())
	if diverged && !c.buffered {
		c.count++
	}
}

// Look decides anew. It belongs behind each checkpoint, and into a slow tick. The decision has a reason if the mode changes.
func (c *Controller) Look(now time.Duration) Decision {
	c.late(now)
	if c.cfg.Kind != Adaptive {
		return c.Decision()
	}
	in := now - c.since
	if c.buffered {
		if in < c.trial {
			return c.Decision()
		}
		c.buffered, c.since, c.count, c.trying = false, now, 0, true
		d := c.Decision()
		d.Reason = fmt.Sprintf("lock-step is tried again after %s in epochs", round(in))
		return d
	}
	each := c.interval().Seconds() + c.total
	limit := in.Seconds() / each // checkpoints that epochs would have needed meanwhile
	switch n := float64(c.count); {
	case in < window && n < more*window.Seconds()/each:
		return c.Decision() // too early to tell, unless there were enough for the whole window already
	case n >= more*limit && n >= 2:
		rate := n / in.Seconds()
		if c.trying {
			c.trial = min(2*c.trial, lastTrial)
		}
		c.buffered, c.since, c.trying = true, now, false
		d := c.Decision()
		d.Reason = fmt.Sprintf("output diverged %.0f times a second; epochs of %s need %.0f checkpoints", rate, d.Interval, 1/each)
		return d
	case n <= fewer*limit:
		c.trial, c.trying = firstTrial, false
	}
	c.since, c.count = now, 0
	return c.Decision()
}

// late takes what an epoch was longer than its interval: a timer and a loop that are late add to a checkpoint's own time, and a
// frame waits for all of it. More than the bound is not told apart: the interval is then the shortest anyway.
func (c *Controller) late(now time.Duration) {
	if !c.buffered || c.cfg.LatencyBound == 0 {
		c.last = 0
		return
	}
	if c.last != 0 {
		over := min(now-c.last-c.ran, c.cfg.LatencyBound)
		c.total = max(c.total, over.Seconds())
	}
	c.last, c.ran = now, c.interval()
}

func round(d time.Duration) time.Duration { return d.Round(100 * time.Millisecond) }
