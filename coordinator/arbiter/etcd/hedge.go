package etcd

import (
	"context"
	"time"
)

// hedgeMax is the longest time between two attempts of one operation: how long a majority that has just come together
// again, such as after an election, may wait to be asked.
const hedgeMax = 250 * time.Millisecond

// outcome of one attempt at one endpoint.
type outcome[T any] struct {
	e    *endpoint
	v    T
	left bool // the request may have reached the endpoint
	err  error
}

// ask puts one question to the endpoints until one answers or ctx ends: first to the one that answered last, then,
// after each silence or failure, to the next one, without giving up those before. The question must therefore be one
// that may be answered, and carried out, several times. An answer that would be the same elsewhere ends it (final).
//
// The error is an *Error. left reports whether a request that has no good answer may have been, or may still be,
// carried out.
func ask[T any](ctx context.Context, a *Arbiter, question func(context.Context, *endpoint) (T, error)) (v T, left bool, err error) {
	if !a.begin() {
		return v, false, errClosed
	}
	defer a.work.Done()
	ctx, cancel := a.bounded(ctx)
	results := make(chan outcome[T])
	running := 0
	failures := make([]error, len(a.endpoints))
	take := func(o outcome[T]) {
		running--
		left = left || (o.left && !harmless(o.err))
		// Silence, such as of an attempt that ends with the operation, says less than what was told before.
		if o.err != nil && (failures[o.e.index] == nil || !silent(o.err)) {
			failures[o.e.index] = o.err
		}
	}
	defer func() { // whatever the outcome, no attempt is left behind
		cancel()
		for running > 0 {
			o := <-results
			if take(o); o.err == nil && err != nil {
				v, err = o.v, nil // an answer that came with the end
			}
		}
		if err != nil {
			err = a.failure(failures, err)
		}
	}()

	next := int(a.preferred.Load())
	attempt := func() {
		e := a.endpoints[next%len(a.endpoints)]
		next++
		running++
		go func() {
			actx, acancel := context.WithTimeout(ctx, a.cfg.Attempt)
			defer acancel()
			actx, departed := withDeparture(actx)
			e.wake()
			o := outcome[T]{e: e}
			o.v, o.err = question(actx, e)
			o.left = departed.Load()
			results <- o
		}()
	}
	attempt()
	pause, failed := a.cfg.Hedge, 0 // failed counts since the last pause
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		select {
		case o := <-results:
			take(o)
			if o.err == nil {
				a.preferred.Store(uint32(o.e.index))
				return o.v, left, nil
			}
			if final(o.err) {
				return v, left, o.err
			}
			if failed++; failed < len(a.endpoints) {
				attempt()
			}
		case <-timer.C:
			failed = 0
			attempt()
			pause = min(2*pause, max(hedgeMax, a.cfg.Hedge))
			timer.Reset(pause)
		case <-ctx.Done():
			return v, left, context.Cause(ctx)
		}
	}
}
