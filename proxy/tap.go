package proxy

import (
	"context"
	"time"

	"colod/compare"
)

// compareConfig is the configuration of a session's engine.
func (p *Proxy) compareConfig(s Session, hold time.Duration) compare.Config {
	return compare.Config{Key: s.Key, Hold: hold, Tolerances: p.opt.Tolerances, Context: p.opt.Context}
}

// Listen lets a tap see all that the comparing engine is told and says from now on. start makes it, on the
// proxy's thread, from the engine's configuration but for the key, its state, and the time by the engine's and by
// the kernel's clock. The tap is called on the proxy's thread and must not block.
func (p *Proxy) Listen(ctx context.Context, start func(cfg compare.Config, state []byte, mono, real int64) compare.Tap) error {
	return p.call(ctx, func(reply func(error)) {
		if p.role != rolePrimary {
			reply(roleError("record", p.role))
			return
		}
		p.pri.act(p) // the state is taken between two batches
		cfg := p.compareConfig(p.pri.session, p.pri.hold)
		p.pri.engine.SetTap(start(cfg, p.pri.engine.Snapshot(nil), p.nowMono, p.nowReal))
		reply(nil)
	})
}

// Unlisten ends what Listen began. It reports whether the tap has seen everything up to now: the engine that it
// listened to is still the present one.
func (p *Proxy) Unlisten(ctx context.Context, tap compare.Tap) (whole bool, err error) {
	err = p.call(ctx, func(reply func(error)) {
		if p.pri != nil {
			if was := p.pri.engine.SetTap(nil); was == tap {
				whole = true
			} else {
				p.pri.engine.SetTap(was)
			}
		}
		reply(nil)
	})
	return whole, err
}
