// Package mode decides how a pair is kept in step: by comparing output (lock-step), by buffering it until the next periodic
// checkpoint (epoch), or by whichever of the two costs less at present (adaptive). It is pure: times and measurements
// come in.
//
// What is compared is checkpoints a second, and how long output waits. Each checkpoint stops the guest for the same time in
// either mode, so the mode that needs fewer of them leaves the guest more time; and where lock-step needs fewer, it is the
// quicker one too as long as most output is equal, since that waits for no checkpoint at all. But where output differs, it waits
// until the other guest has said something else: if that guest is slow after each checkpoint (an emulated one translates all its code
// anew, 130 ms by our measurement with QEMU 7.2), few checkpoints a second mean long waits, longer than an epoch.
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
	// A window need not be over where the answer is clear: when the last several checkpoints of lock-step came clearly as fast as
	// this, as many times as fast as those of epochs would.
	several = 32
	clearly = 1.5
	// A trial of lock-step ends when it has needed slack checkpoints more than it may have: differing guests differ within
	// milliseconds, so one that fails costs a few checkpoints.
	slack = 2
	// Waits count from so many frames of data and checkpoints that divergence caused on: a single hiccup is none. Fewer end a trial.
	enoughFrames      = 32
	enoughCheckpoints = 3
	trialFrames       = 4
	// Trials are made when output has been diverging for as long as this again, in parts of the time that it has been: a load whose
	// output is equal again is then buffered for that part of its time at most, and one that never is costs ever fewer trials.
	part       = 8
	firstTrial = time.Second
	lastTrial  = 30 * time.Second
	// A trial may have taken one of so many parts of the time until the next one: where the other guest is slow it takes a while.
	costly = 16
	// decay is how much of the longest checkpoint so far is remembered at the next one; boundDecay where a LatencyBound is to be kept.
	// By the records of 800 bounded epochs of a loaded pair (bound 30 ms), of which 3.9 % held a checkpoint that alone was longer:
	// 0.98 leaves 8.5 % beyond the bound, 0.99 5.8 %, 0.995 4.7 %, 0.998 4.1 %, at intervals of 10.0, 7.1, 4.7 and 2.6 ms.
	decay      = 0.98
	boundDecay = 0.995
	// headroom is how much longer than the longest remembered a checkpoint may be without a bound being missed. By the records of 3,059
	// bounded epochs (30 ms) under ping, HTTP and redis, of which 0.7 % held a checkpoint that alone was longer: without it 3.3 % are
	// beyond the bound, with 1.1 2.0 %, 1.2 1.4 %, 1.3 1.1 %, at intervals of 11.6, 10.1, 8.9 and 8.0 ms.
	headroom = 1.3
	// smooth is the weight of the newest checkpoint in their mean.
	smooth = 0.125
)

// Decision is how the pair is kept in step from the next checkpoint on.
type Decision struct {
	Buffered bool
	// Trial says that lock-step is on trial for a while. Most trials fail at once; the pair counts as one in epochs until one has not.
	Trial    bool
	Interval time.Duration // how long the guest runs until the next checkpoint at most, when Buffered or in a Trial
	Reason   string        // why, when the mode has changed; a trial is no change
}

// Controller decides for one pair. Its zero value is not usable; see New.
type Controller struct {
	cfg Config

	buffered bool
	since    time.Duration // of the present mode, or of the window in it
	count    int           // checkpoints that divergence caused, since then
	last     ring          // when the newest of them were
	diverged bool          // the checkpoint behind which the next look is was one of them
	frames   int           // frames of data released since then
	waited   float64       // by them in sum, s
	total    float64       // decayed maximum of what a checkpoint adds to the interval, s
	mean     float64       // smoothed mean of that, s

	trying    bool          // lock-step is on trial
	starting  bool          // it begins with the next checkpoint
	diverging time.Duration // when the pair left lock-step, trials apart
	tried     time.Duration // how long the last trial took

	looked time.Duration // time of the last look in epoch mode; 0: none
	ran    time.Duration // interval that was asked for then
}

// ring holds the times of the last several checkpoints that divergence caused.
type ring struct {
	at [several]time.Duration
	n  int
}

func (r *ring) add(now time.Duration) {
	r.at[r.n%several] = now
	r.n++
}

// rate is how many there were a second.
func (r *ring) rate(now time.Duration) float64 {
	n := min(r.n, several)
	if n == 0 {
		return 0
	}
	return float64(n) / max(now-r.at[(r.n-n)%several], time.Millisecond).Seconds()
}

// fast reports whether the last several came clearly faster than one in each seconds.
func (r *ring) fast(now time.Duration, each float64) bool {
	return r.n >= several && r.rate(now)*each >= clearly
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
	// How long a checkpoint takes is not known yet: half of the bound.
	return &Controller{cfg: cfg, buffered: cfg.Kind == Epoch, since: now, total: cfg.LatencyBound.Seconds() / 2 / headroom}
}

// Decision is the present one, without a reason.
func (c *Controller) Decision() Decision {
	d := Decision{Buffered: c.buffered, Trial: c.trying, Interval: c.interval()}
	if c.trying && !c.starting {
		d.Interval = window // then it is judged
	}
	return d
}

// interval is how long the guest runs between two checkpoints. The longest wait of a frame is that and the checkpoint that
// follows.
func (c *Controller) interval() time.Duration {
	if c.cfg.LatencyBound == 0 {
		return c.cfg.Interval
	}
	d := c.cfg.LatencyBound - time.Duration(c.total*headroom*float64(time.Second))
	return min(max(d, MinBoundInterval), c.cfg.Interval)
}

// Checkpoint tells of a completed checkpoint: how long it held output, from the request to the release, and whether
// divergence had asked for it.
func (c *Controller) Checkpoint(total time.Duration, diverged bool) {
	c.remember(total)
	if c.mean == 0 {
		c.mean = total.Seconds()
	}
	c.mean += (total.Seconds() - c.mean) * smooth
	c.diverged = diverged
}

// remember takes what a checkpoint added to the interval. More than the bound is not told apart: the interval is the shortest then
// anyway, and one that took much longer is forgotten as soon as any other.
func (c *Controller) remember(total time.Duration) {
	left := decay
	if bound := c.cfg.LatencyBound; bound != 0 {
		left, total = boundDecay, min(total, bound)
	}
	c.total = max(c.total*left, total.Seconds())
}

// Waited tells of the frames of data that were released since it was last called, and how long they waited in sum.
func (c *Controller) Waited(frames int, sum time.Duration) {
	if c.buffered || c.starting {
		return
	}
	c.frames += frames
	c.waited += sum.Seconds()
}

// slow is how many times as long a frame of data waits in lock-step as it would in an epoch at worst; 0: too little is known.
func (c *Controller) slow() float64 {
	least, times := enoughFrames, 2
	if c.trying {
		least, times = trialFrames, 1
	}
	if c.frames < least || c.count < times {
		return 0
	}
	return c.waited / float64(c.frames) / (c.interval().Seconds() + c.mean)
}

// Look decides anew. It belongs behind each checkpoint. The decision has a reason if the mode changes.
func (c *Controller) Look(now time.Duration) Decision {
	c.late(now)
	if c.diverged && !c.buffered && !c.starting {
		c.count++
		c.last.add(now)
	}
	c.diverged = false
	if c.cfg.Kind != Adaptive {
		return c.Decision()
	}
	in, n := now-c.since, float64(c.count)
	each := c.interval().Seconds() + c.total
	epochs := in.Seconds() / each // checkpoints that epochs would have needed meanwhile
	reason := ""
	switch {
	case c.buffered:
		if in >= min(max((now-c.diverging)/part, costly*c.tried, firstTrial), lastTrial) {
			c.buffered, c.trying, c.starting = false, true, true
		}
	case c.starting:
		c.starting = false
		c.begin(now)
	case c.trying && (n >= more*epochs+slack || in >= window && n > fewer*epochs+slack || c.slow() > 1):
		c.buffered, c.trying, c.tried = true, false, in
		c.begin(now)
	case c.trying && in >= window:
		reason = fmt.Sprintf("output diverged %.0f times a second after %s; epochs of %s need %.0f checkpoints", n/in.Seconds(), round(now-c.diverging), c.interval(), 1/each)
		c.trying, c.tried = false, 0
		c.begin(now)
	case !c.trying && (c.last.fast(now, each) || in >= window && n >= max(more*epochs, 2)):
		reason = fmt.Sprintf("output diverged %.0f times a second; epochs of %s need %.0f checkpoints", c.last.rate(now), c.interval(), 1/each)
		c.buffered, c.diverging, c.tried = true, now, 0
		c.begin(now)
	case !c.trying && (c.count >= enoughCheckpoints && c.slow() >= clearly || in >= window && c.slow() >= more):
		reason = fmt.Sprintf("output diverged %.0f times a second and waited %s on average; in epochs of %s it waits %s at most", n/in.Seconds(),
			seconds(c.waited/float64(c.frames)), c.interval(), seconds(c.interval().Seconds()+c.mean))
		c.buffered, c.diverging = true, now
		c.tried = time.Duration(c.waited / float64(c.frames) * float64(time.Second)) // what a trial will take
		c.begin(now)
	case in >= window:
		c.since, c.count, c.frames, c.waited = now, 0, 0, 0
	}
	d := c.Decision()
	d.Reason = reason
	return d
}

// begin counts anew.
func (c *Controller) begin(now time.Duration) {
	c.since, c.count, c.last, c.frames, c.waited = now, 0, ring{}, 0, 0
}

// late takes what an epoch was longer than its interval: a timer and a loop that are late add to a checkpoint's own time, and a
// frame waits for all of it; at most the bound, as remember does.
func (c *Controller) late(now time.Duration) {
	if !c.buffered || c.cfg.LatencyBound == 0 {
		c.looked = 0
		return
	}
	if c.looked != 0 {
		over := min(now-c.looked-c.ran, c.cfg.LatencyBound)
		c.total = max(c.total, over.Seconds())
	}
	c.looked, c.ran = now, c.interval()
}

func round(d time.Duration) time.Duration { return d.Round(100 * time.Millisecond) }

func seconds(s float64) time.Duration {
	return time.Duration(s * float64(time.Second)).Round(100 * time.Microsecond)
}
