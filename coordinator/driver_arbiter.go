package coordinator

import (
	"context"
	"errors"
	"time"

	"colod/coordinator/arbiter"
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
		ev := pair.Swapped{Op: a.Op, Record: r}
		switch {
		case err == nil:
			ev.Outcome = pair.SwapWon
		case errors.Is(err, arbiter.ErrLost):
			ev.Outcome = pair.SwapLost
		case errors.Is(err, arbiter.ErrUnknown), errors.Is(err, context.DeadlineExceeded):
			ev.Outcome, ev.Err = pair.SwapUnknown, err.Error()
		default:
			ev.Outcome, ev.Err = pair.SwapFailed, err.Error()
		}
		d.log.Debug().Stringer("outcome", ev.Outcome).Str("want", a.Next.String()).Str("is", r.String()).
			Dur("took_ms", time.Since(began)).Msg("record swapped")
		d.post(ev)
	})
}
