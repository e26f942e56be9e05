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
	d.mode.Checkpoint(took, diverged)
	d.pace.Checkpoint(time.Since(d.start), d.stats.lastState(), took, d.data.WarmUp())
	frames, waited := d.data.Waits()
	if n := frames - d.waits; n < 1<<31 { // a data path that was opened anew counts from 0
		d.mode.Waited(int(n), waited-d.waited)
	}
	d.waits, d.waited = frames, waited
	dec := d.mode.Look(time.Since(d.start))
	if dec.Reason != "" {
		to := "lockstep"
		if dec.Buffered {
			to = "epoch"
		}
		d.log.Info().Str("mode", to).Msg(dec.Reason)
	}
	d.setMode(dec)
}

func (d *driver) setMode(dec mode.Decision) {
	if dec.Buffered != d.buffered {
		d.buffered = dec.Buffered
		d.data.SetBuffered(dec.Buffered)
	}
	d.epochs.Store(dec.Buffered || dec.Trial)
	interval := d.pace.Interval()
	if dec.Buffered || dec.Trial && (interval == 0 || dec.Interval < interval) {
		interval = dec.Interval
	}
	d.m.SetIdleInterval(interval)
}

// modeNow is the mode for the status: with adaptive, also which one it is at present. A short trial of lock-step is no change of it.
func (d *driver) modeNow() string {
	switch {
	case d.cfg.Mode != "adaptive":
		return d.cfg.Mode
	case d.epochs.Load():
		return "adaptive (epoch)"
	}
	return "adaptive (lockstep)"
}
