package coordinator

import (
	"context"
	"time"

	"colod/coordinator/pair"
)

// The functions here are called on the loop; their work is done on the
// arbiter's lane.

func (d *driver) readRecord(a pair.ReadRecord) {
	d.arbLane.do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), d.arbLimit)
		defer cancel()
		ev := pair.RecordRead{Op: a.Op}
		r, err := d.arb.Get(ctx, d.cfg.Name)
		if err != nil {
			ev.Err = err.Error()
		} else {
			ev.Record = r
		}
		d.post(ev)
	})
}

func (d *driver) swapRecord(a pair.Swap) {
	d.arbLane.do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), d.arbLimit)
		defer cancel()
		began := time.Now()
		r, err := d.arb.Swap(ctx, a.Prev, a.Next)
		ev := pair.SwapResult(a.Op, r, err)
		d.log.Debug().Stringer("outcome", ev.Outcome).Str("want", a.Next.String()).Str("is", r.String()).
			Dur("took_ms", time.Since(began)).Msg("record swapped")
		d.post(ev)
	})
}
