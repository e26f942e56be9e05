package coordinator

import (
	"time"

	"colod/coordinator/config"
	"colod/coordinator/mode"
	"colod/coordinator/pace"
)

// modeConfig is what the configuration says of how a pair is kept in step.
func modeConfig(p *config.Pair) mode.Config {
	kinds := map[string]mode.Kind{"epoch": mode.Epoch, "adaptive": mode.Adaptive}
	return mode.Config{Kind: kinds[p.Mode], Interval: p.Epoch.Interval.D(), LatencyBound: p.Epoch.LatencyBound.D()}
}

// startMode sets the first mode; it is called before the loop begins.
func (d *driver) startMode() {
	d.pace = pace.New(pace.Config{Idle: d.cfg.Checkpoint.IdleInterval.D(), Limit: d.cfg.Checkpoint.DirtyLimit.Bytes()})
	d.mode = mode.New(modeConfig(d.cfg), 0)
	d.setMode(d.mode.Decision())
}

// lookAtMode decides how the next epochs are kept, after a checkpoint; on the loop.
func (d *driver) lookAtMode(took time.Duration, diverged bool) {
	began := d.buffered // the epoch that begins with this checkpoint
	d.mode.Checkpoint(took, diverged)
	d.pace.Checkpoint(time.Since(d.start), d.stats.lastState(), took)
	dec := d.mode.Look(time.Since(d.start))
	if dec.Reason != "" {
		to := "lockstep"
		if dec.Buffered {
			to = "epoch"
		}
		d.log.Info().Str("mode", to).Msg(dec.Reason)
	}
	d.setMode(dec)
	if began && !dec.Buffered {
		// Lock-step begins with the next checkpoint only, so that must not be far.
		d.m.SetIdleInterval(dec.Interval)
	}
}

func (d *driver) setMode(dec mode.Decision) {
	if dec.Buffered != d.buffered {
		d.buffered = dec.Buffered
		d.epochs.Store(dec.Buffered)
		d.data.SetBuffered(dec.Buffered)
	}
	if dec.Buffered {
		d.m.SetIdleInterval(dec.Interval)
	} else {
		d.m.SetIdleInterval(d.pace.Interval())
	}
}

// modeNow is the mode for the status: with adaptive, also which one it is at present.
func (d *driver) modeNow() string {
	switch {
	case d.cfg.Mode != "adaptive":
		return d.cfg.Mode
	case d.epochs.Load():
		return "adaptive (epoch)"
	}
	return "adaptive (lockstep)"
}
