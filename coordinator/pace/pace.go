// Package pace decides how long a guest in lock-step may run before a checkpoint is taken in the background, so that changed memory
// does not pile up: the checkpoint that a divergence asks for stops the guest for as long as it takes to send what has changed. It
// is pure: times and measurements come in.
package pace

import "time"

// Config of a pair.
type Config struct {
	// Idle is the longest time without a checkpoint; 0: none.
	Idle time.Duration
	// Limit is how much changed memory may wait for a checkpoint, bytes; 0: any amount.
	Limit uint64
}

const (
	// share bounds what background checkpoints may cost: they are at least so many times their own length apart (1 %).
	share = 100
	// shortest is the least time between two of them.
	shortest = 200 * time.Millisecond
	// most is what an interval that no bound asks for counts as, so that it can be compared.
	most = 24 * time.Hour
)

// Controller decides for one pair; its zero value has no bounds. See New.
type Controller struct {
	cfg   Config
	last  time.Duration // end of the newest checkpoint
	known bool          // last and base are
	base  uint64        // least state of a checkpoint so far: what one carries however little has changed
	after time.Duration // what output waited for the secondary after checkpoints, lately
	next  time.Duration
}

// New makes a controller.
func New(cfg Config) *Controller { return &Controller{cfg: cfg, next: cfg.Idle} }

// Checkpoint tells of a checkpoint that ended at now and carried so many bytes of state; cost is what checkpoints cost at present,
// from the request to the release, and after how long output waited for the secondary after the one before: an emulated guest
// translates all its code anew when it was loaded, which costs its client more than the stop does.
func (c *Controller) Checkpoint(now time.Duration, bytes uint64, cost, after time.Duration) {
	c.after = max(after, c.after*3/4)
	ran := now - c.last - cost
	first := !c.known
	c.last, c.known = now, true
	if first || bytes < c.base {
		c.base = bytes
	}
	if first || c.cfg.Limit == 0 {
		return
	}
	idle := c.cfg.Idle
	if idle == 0 {
		idle = most
	}
	// A guest that changes the same memory again and again changes less in a longer time than in proportion: then the next
	// checkpoint is smaller than expected, and the interval grows by itself.
	d := idle
	if changed := bytes - c.base; changed > 0 {
		if want := max(ran, time.Millisecond).Seconds() * float64(c.cfg.Limit) / float64(changed); want < idle.Seconds() {
			d = time.Duration(want * float64(time.Second))
		}
	}
	d = min(max(d, share*(cost+c.after), shortest), idle)
	if d == most {
		d = 0
	}
	c.next = d
}

// Interval is how long the guest may run from the newest checkpoint on; 0: without bound.
func (c *Controller) Interval() time.Duration { return c.next }
